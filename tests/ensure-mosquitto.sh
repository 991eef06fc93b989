#!/bin/sh
# Makes sure that mosquitto is there for the tests, and installs it with apt where that is allowed.
set -eu

# Debian puts brokers where an ordinary user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin"

if command -v mosquitto >/dev/null 2>&1; then
    exit 0
fi

fail() {
    echo "make test needs the MQTT broker mosquitto: $1" >&2
    echo "Install it (Debian, Ubuntu: apt-get install mosquitto; Fedora: dnf install mosquitto;" >&2
    echo "macOS: brew install mosquitto) and run 'make test' again." >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || fail "it is not installed, and there is no apt-get here"
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    fail "it is not installed, and installing it needs root"
fi

echo "installing mosquitto with apt-get"
export DEBIAN_FRONTEND=noninteractive
$as_root apt-get update -qq || fail "apt-get update failed"
$as_root apt-get install -y -qq --no-install-recommends mosquitto >/dev/null || fail "apt-get install failed"
command -v mosquitto >/dev/null 2>&1 || fail "it was installed but is not on the PATH"
