#!/bin/sh
# Makes sure that programs which the tests run are there: ensure-programs.sh PROGRAM...
# Debian's packages have the same names; what is missing is installed with apt where that is allowed.
set -eu

# Debian puts brokers where an ordinary user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin"

# Those of the programs that are not there.
missing() {
    for program in "$@"; do
        command -v "$program" >/dev/null 2>&1 || echo "$program"
    done
}

packages=$(missing "$@" | tr '\n' ' ')
packages=${packages% }
[ -n "$packages" ] || exit 0

fail() {
    echo "the tests need $packages: $1" >&2
    echo "Install (Debian, Ubuntu: apt-get install $packages; other systems have packages of like names)" >&2
    echo "and run make again." >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || fail "not installed, and there is no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    fail "not installed, and installing needs root"
fi

echo "installing $packages with apt-get"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || fail "apt-get update failed"
# The names are several packages, not one.
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null || fail "apt-get install failed"
[ -z "$(missing "$@")" ] || fail "installed, but not on the PATH"
