#!/bin/sh
# Brings the ONNX Runtime library (CPU) out of the `onnxruntime` wheel of PyPI into a folder.
#
#   fetch-onnxruntime.sh [FOLDER]      default: .runtime in the root of the repository
#
# Afterwards FOLDER/libonnxruntime.so is there, with its licence beside it. Where it already is, nothing is done and
# nothing is downloaded. Wheel and library are pinned by SHA-256; a run that fails or is interrupted leaves no library.
#
# DKT_ARCH=aarch64 (or x86_64) brings the library for a machine of another kind than this one.
#
# Needs Linux, python3 and its pip. Runs on glibc 2.27 and later.
set -eu

# 1.28.0: versions from 1.29 on send telemetry on Linux unless told otherwise (docs/decisions/0001-packages.md).
# To pin another version, change the version and the two hashes of both machines.
version=1.28.0
x86_64_wheel=0a83bdb70d143cede762b677789bf2a7acca54b3fb82565601d5c30695aa933c
x86_64_library=aa4079d18f4ea7a5f3a94d80cd4bbe0f2740436626622d64d793803a20381083
aarch64_wheel=4e81a23df16e7acb9d51b06d30cc098e49315ef9180f97bc2221d167b4b04d9c
aarch64_library=23a37c2994bc273e1d59a4f49af6cba5bf1cfbc29f04907ec27df375aba50a7d

fail() {
    echo "fetch-onnxruntime.sh: $*" >&2
    exit 1
}

case $# in
    0) folder=$(dirname -- "$0")/../.runtime ;;
    1) folder=$1 ;;
    *) fail "expected at most one folder; usage: fetch-onnxruntime.sh [FOLDER]" ;;
esac
case $folder in
    '') fail "expected a folder, found an empty name" ;;
    # So that a name that begins with a hyphen is not taken for an option.
    /*) ;;
    *) folder=./$folder ;;
esac

[ -n "${DKT_ARCH:-}" ] || [ "$(uname -s)" = Linux ] || fail "expected Linux, found $(uname -s)"
machine=${DKT_ARCH:-$(uname -m)}
case $machine in
    x86_64 | amd64)
        machine=x86_64
        wheel_hash=$x86_64_wheel
        library_hash=$x86_64_library
        ;;
    aarch64 | arm64)
        machine=aarch64
        wheel_hash=$aarch64_wheel
        library_hash=$aarch64_library
        ;;
    *)
        fail "expected a machine of the kind x86_64 or aarch64, found $machine; build ONNX Runtime for it and set" \
            "ORT_DYLIB_PATH to its libonnxruntime.so"
        ;;
esac

# hash_of FILE
hash_of() {
    sha256sum < "$1" | cut -d ' ' -f 1
}

library=$folder/libonnxruntime.so
if [ -f "$library" ] && [ "$(hash_of "$library")" = "$library_hash" ]; then
    echo "ONNX Runtime $version for $machine is already in $library"
    exit 0
fi

command -v python3 > /dev/null || fail "python3 is needed; on Debian: apt-get install python3 python3-pip"
python3 -m pip --version > /dev/null 2>&1 || fail "python3 has no pip; on Debian: apt-get install python3-pip"

made_folder=no
if [ ! -d "$folder" ]; then
    mkdir -p -- "$folder"
    made_folder=yes
fi
# In the same folder, so that the last step is a rename.
work=$(mktemp -d "$folder/.fetch.XXXXXX")
clean_up() {
    rm -rf -- "$work"
    if [ "$made_folder" = yes ]; then
        rmdir -- "$folder" 2> /dev/null || true
    fi
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

echo "fetching ONNX Runtime $version for $machine"
# One fixed wheel, whatever the version of this python3: the library in it does not depend on Python.
if ! python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --implementation cp --python-version 3.12 --abi cp312 --platform "manylinux_2_28_$machine" \
    --dest "$work" "onnxruntime==$version" > "$work/log" 2>&1; then
    tail -n 5 "$work/log" >&2
    fail "cannot download the wheel onnxruntime $version for $machine; is this machine online? Where it is not, run" \
        "DKT_ARCH=$machine fetch-onnxruntime.sh FOLDER on one that is, and bring $library from there"
fi

set -- "$work"/*.whl
if [ $# -ne 1 ] || [ ! -f "$1" ]; then
    fail "expected one wheel from pip, found: $*"
fi
found=$(hash_of "$1")
[ "$found" = "$wheel_hash" ] || fail "wheel onnxruntime $version for $machine: expected SHA-256 $wheel_hash," \
    "found $found; nothing was kept"

python3 -c '
import sys, zipfile
wheel, work, version = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for member, name in [
        ("onnxruntime/capi/libonnxruntime.so." + version, "library"),
        ("onnxruntime/LICENSE", "licence"),
        ("onnxruntime/ThirdPartyNotices.txt", "notices"),
    ]:
        with open(work + "/" + name, "wb") as file:
            file.write(archive.read(member))
' "$1" "$work" "$version" || fail "cannot unpack the wheel onnxruntime $version"
found=$(hash_of "$work/library")
[ "$found" = "$library_hash" ] || fail "libonnxruntime.so.$version for $machine: expected SHA-256 $library_hash," \
    "found $found; nothing was kept"

chmod 644 "$work/library" "$work/licence" "$work/notices"
mv -f -- "$work/licence" "$folder/onnxruntime-LICENSE.txt"
mv -f -- "$work/notices" "$folder/onnxruntime-ThirdPartyNotices.txt"
# Last: where the library is, everything is.
mv -f -- "$work/library" "$library"
echo "ONNX Runtime $version for $machine is in $library"
