#!/bin/sh
# Checks onnx-grad's derivative rules on ONNX's own node tests and writes models/onnx-grad/NODE_TESTS.md.
#
#   node_tests.sh [PYTHON]      a Python that has `onnx`; default: python3
#
# ORT_DYLIB_PATH names the ONNX Runtime library; default: the one that `make runtime` brings. Exits with 1 where a
# gradient or a value is wrong; the table says which.
set -eu

python=${1:-python3}
root=$(cd "$(dirname -- "$0")/../.." && pwd)
export ORT_DYLIB_PATH="${ORT_DYLIB_PATH:-$root/.runtime/libonnxruntime.so}"

tests=$(mktemp -d)
trap 'rm -rf "$tests"' EXIT
"$python" "$root/models/export/node_tests.py" "$tests/tests"
cd "$root"
status=0
cargo run -p onnx-grad --release --locked --quiet --example node_tests -- "$tests/tests" >"$tests/table.md" || status=$?
test -s "$tests/table.md" || exit "$status"
mv "$tests/table.md" models/onnx-grad/NODE_TESTS.md
exit "$status"
