#!/bin/sh
# Brings the Python packages that the tests run (tests/python/requirements.txt, pinned by hash) into .python in the
# root of the repository. DKT_TEST_PYTHONPATH names a folder that has them already.
set -eu

[ -z "${DKT_TEST_PYTHONPATH:-}" ] || exit 0

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
requirements=$root/tests/python/requirements.txt
folder=$root/.python

fail() {
    echo "make test needs the Python packages of tests/python/requirements.txt: $1" >&2
    exit 1
}

command -v python3 >/dev/null 2>&1 || fail "python3 is not installed (Debian: apt-get install python3 python3-pip)"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "python3 of 3.11 or later is needed"
python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (Debian: apt-get install python3-pip)"

# Which packages, for which Python: the folder holds compiled code.
wanted=$(python3 -VV; sha256sum < "$requirements")
[ "$(cat "$folder/installed" 2>/dev/null)" != "$wanted" ] || exit 0

echo "installing the Python packages of the tests into .python"
rm -rf -- "$folder"
python3 -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: --no-deps \
    --target "$folder" --requirement "$requirements" || fail "pip could not install them; is this machine online?"
echo "$wanted" > "$folder/installed"
