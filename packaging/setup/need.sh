#!/bin/sh
# Sees to the programs that `make demo`, `make test`, `make bench` and the like call.
#
#   need.sh bench|demo|deb|image|test
#
# As root on Debian, what lacks is installed. Otherwise it is named, with the command that installs it.
set -eu

missing=

# need PACKAGE TEST...: PACKAGE lacks unless the command TEST succeeds.
need() {
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}

on_path() {
    command -v "$1"
}

if ! on_path cargo >/dev/null; then
    echo "Rust is missing (cargo): install the version that Cargo.toml names as rust-version, with rustup." >&2
    exit 1
fi
need build-essential on_path cc
need nodejs on_path node
need npm on_path npm

if [ "${1:-}" = bench ]; then
    need ffmpeg on_path ffmpeg
    need fio on_path fio
    # Where root alone looks for programs.
    need nginx test -x /usr/sbin/nginx
fi
# dpkg-deb is part of any Debian; readelf and strip come with build-essential.
if [ "${1:-}" = image ]; then
    need buildah on_path buildah
fi
if [ "${1:-}" = test ]; then
    need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
    need chromium on_path chromium
    need curl on_path curl
    need ffmpeg on_path ffmpeg
    # It decodes H.264 with the libavcodec that comes with ffmpeg.
    need firefox-esr on_path firefox-esr
    need fonts-dejavu-core test -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
    need libnss3-tools on_path certutil
    need postgresql ls /usr/lib/postgresql/*/bin/initdb
    need python3-venv python3 -c 'import ensurepip, venv'
    need softhsm2 test -e /usr/lib/softhsm/libsofthsm2.so
    need strace on_path strace
    # What the package and the image are tried on; without root those tests are skipped.
    if [ "$(id -u)" = 0 ]; then
        need buildah on_path buildah
        need iproute2 on_path ip
        need procps on_path ps
        need systemd test -x /lib/systemd/systemd
    fi
fi

if [ -z "$missing" ]; then
    exit 0
fi
install="apt-get install --no-install-recommends$missing"
if [ "$(id -u)" != 0 ] || ! on_path apt-get >/dev/null; then
    echo "Missing:$missing" >&2
    echo "On Debian, as root:  $install" >&2
    exit 1
fi

# Of PostgreSQL the tests want the programs alone: Debian makes a cluster and starts it, unless told before.
clusters=/etc/postgresql-common/createcluster.conf
case $missing in
*postgresql*)
    if ! [ -e "$clusters" ]; then
        mkdir -p "${clusters%/*}"
        echo "create_main_cluster = false" >"$clusters"
    fi
    ;;
esac

echo "Installing:$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # the names are meant to be split
if ! { apt-get update && apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    echo "Could not run: $install" >&2
    exit 1
fi
