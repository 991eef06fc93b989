#!/bin/sh
# Makes a small certificate authority for a lab, the broker's certificate, and one certificate for each agent.
#
#   make-certs.sh [-d FOLDER] [-s SERVER]... NAME...
#   make-certs.sh [-d FOLDER] -s SERVER | -b SITE
#
#   -d FOLDER   where everything is written; default: `certs` beside this script
#   -s SERVER   a DNS name or an IP address under which agents reach the broker; may be given several times.
#               localhost, 127.0.0.1, ::1 and this machine's host name are always in the certificate
#   -b SITE     a certificate for the bridge of another site, bridge.SITE.pem; see README.md, "Two sites"
#   NAME        an agent, as in `agent = "NAME"` of its configuration
#
# Running it again keeps the authority and all keys, and every certificate that is still good. It issues a new
# certificate, for the same key, where one is missing, ends within 30 days, is of another authority, or lacks a SERVER.
set -eu

# Ten years: nobody replaces the authority within a study. It outlives what it signs, which lasts two years and a bit.
ca_days=3650
leaf_days=825
# A run within this time of a certificate's end renews it.
renew_seconds=$((30 * 24 * 3600))

fail() {
    echo "make-certs.sh: $*" >&2
    exit 1
}

usage() {
    sed -n '4,5s/^# *//p' "$0" >&2
    exit 2
}

# The names that dkt takes: they are topic levels, MQTT client ids and common names at once.
check_name() {
    case $1 in
        '' | *[!abcdefghijklmnopqrstuvwxyz0123456789_-]*)
            fail "expected a name of 1 to 64 characters out of a-z, 0-9, _ and -, found \`$1\`" ;;
    esac
    [ "${#1}" -le 64 ] || fail "expected a name of 1 to 64 characters out of a-z, 0-9, _ and -, found \`$1\`"
}

command -v openssl > /dev/null || fail "openssl is needed; on Debian: apt-get install openssl"

folder=$(dirname -- "$0")/certs
servers=
site=
while getopts d:s:b: option; do
    case $option in
        d) folder=$OPTARG ;;
        s)
            case $OPTARG in
                '' | *[!A-Za-z0-9.:-]*) fail "expected a DNS name or an IP address, found \`$OPTARG\`" ;;
            esac
            servers="$servers $OPTARG"
            ;;
        b)
            check_name "$OPTARG"
            # `bridge.` and the site are one common name, which X.509 bounds at 64 characters.
            [ "${#OPTARG}" -le 57 ] || fail "expected a site of at most 57 characters, found \`$OPTARG\`"
            site=$OPTARG
            ;;
        *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || [ -n "$servers$site" ] || usage
for name in "$@"; do
    check_name "$name"
    case $name in
        ca | server) fail "\`$name\` would overwrite $name.pem; give that agent another name" ;;
    esac
done

# Keys are made unreadable for others, and moved into place only when whole.
umask 077
mkdir -p -- "$folder"
folder=$(CDPATH='' cd -- "$folder" && pwd)
# The broker's user must be able to pass through; each key has its own mode 0600.
chmod 755 "$folder"
work=$(mktemp -d "$folder/.make-certs.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
trap 'exit 1' HUP INT TERM

# Runs openssl quietly; what it says is shown only if it fails.
quietly() {
    "$@" > "$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "\`$1 $2\` failed"
    }
}

# make_key NAME: P-256, which every board signs quickly and TLS 1.2 and 1.3 both know; PKCS #8.
make_key() {
    [ -s "$folder/$1.key" ] && return
    quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/key"
    chmod 600 "$work/key"
    mv -- "$work/key" "$folder/$1.key"
}

# put_certificate NAME: moves what was just made into place, readable for all.
put_certificate() {
    chmod 644 "$work/pem"
    mv -- "$work/pem" "$folder/$1.pem"
    echo "made $folder/$1.pem"
}

# is_good NAME: whether its certificate is of this authority, for its key, and has time left.
is_good() {
    [ -s "$folder/$1.pem" ] || return 1
    openssl x509 -in "$folder/$1.pem" -noout -checkend "$renew_seconds" > /dev/null 2>&1 || return 1
    openssl verify -CAfile "$folder/ca.pem" "$folder/$1.pem" > /dev/null 2>&1 || return 1
    [ "$(openssl x509 -in "$folder/$1.pem" -noout -pubkey)" = "$(openssl pkey -in "$folder/$1.key" -pubout)" ]
}

# issue NAME COMMON_NAME PURPOSE [SUBJECT_ALT_NAMES]
issue() {
    cat > "$work/conf" << END
[req]
distinguished_name = subject
prompt = no
[subject]
CN = $2
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = $3
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
${4:+subjectAltName = $4}
END
    quietly openssl req -new -config "$work/conf" -key "$folder/$1.key" -out "$work/request"
    # A random serial number, positive as X.509 wants it, needs no file that counts.
    quietly openssl x509 -req -in "$work/request" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
        -set_serial "0x01$(openssl rand -hex 15)" -days "$leaf_days" -sha256 \
        -extfile "$work/conf" -extensions leaf -out "$work/pem"
    put_certificate "$1"
}

if [ -s "$folder/ca.pem" ] && [ ! -s "$folder/ca.key" ]; then
    fail "$folder has ca.pem but not ca.key; run this where the authority's key is kept"
fi
make_key ca
if [ ! -s "$folder/ca.pem" ]; then
    # The random part tells two labs' authorities apart.
    cat > "$work/conf" << END
[req]
distinguished_name = subject
x509_extensions = authority
prompt = no
[subject]
CN = dkt lab $(openssl rand -hex 4)
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
    quietly openssl req -x509 -new -config "$work/conf" -key "$folder/ca.key" -sha256 -days "$ca_days" -out "$work/pem"
    put_certificate ca
elif ! openssl x509 -in "$folder/ca.pem" -noout -checkend "$renew_seconds" > /dev/null; then
    fail "the authority $folder/ca.pem ends within 30 days; move ca.pem and ca.key away, then all is made anew"
fi

# entry SERVER: how a subject alternative name is written.
entry() {
    case $1 in
        *:*) echo "IP:$1" ;;
        *[!0-9.]*) echo "DNS:$1" ;;
        *) echo "IP:$1" ;;
    esac
}

# Whether the broker's certificate holds for SERVER.
holds_for() {
    case $(entry "$1") in
        IP:*) openssl x509 -in "$folder/server.pem" -noout -checkip "$1" | grep -q 'does match' ;;
        DNS:*) openssl x509 -in "$folder/server.pem" -noout -checkhost "$1" | grep -q 'does match' ;;
    esac
}

make_key server
names=
complete=no
if is_good server; then
    complete=yes
fi
if [ -s "$folder/server.pem" ]; then
    # Names asked for earlier stay.
    names=$(openssl x509 -in "$folder/server.pem" -noout -ext subjectAltName \
        | sed -n 's/IP Address:/IP:/g; s/^ *\(DNS:.*\)/\1/p')
fi
for server in localhost 127.0.0.1 ::1 $(uname -n) $servers; do
    if [ ! -s "$folder/server.pem" ] || ! holds_for "$server"; then
        names="${names:+$names, }$(entry "$server")"
        complete=no
    fi
done
[ "$complete" = yes ] || issue server "dkt broker" serverAuth "$names"

for name in "$@"; do
    make_key "$name"
    is_good "$name" || issue "$name" "$name" clientAuth
done
if [ -n "$site" ]; then
    make_key "bridge.$site"
    is_good "bridge.$site" || issue "bridge.$site" "bridge.$site" clientAuth
fi
echo "certificates are in $folder"
