#!/bin/sh
# Makes the container image from scratch, with buildah.
#
#   build.sh BINARY TAG
#
# BINARY is a static `castellum` (`make image` builds it). The same binary gives the same layer, byte for byte.
# Prints the image's id. Registries are not asked for anything.
set -eu

if [ $# != 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
binary=$(realpath "$1")
tag=$2
cd "$(dirname "$0")/../.."

# A static PIE has a PT_DYNAMIC of its own; what betrays a dynamic one is an interpreter.
if readelf --program-headers "$binary" | grep -q INTERP; then
    echo "$binary is not static: nothing in the image could load it" >&2
    exit 1
fi

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
rootfs=$context/rootfs
install -D -m 0755 "$binary" "$rootfs/usr/bin/castellum"
strip --strip-debug "$rootfs/usr/bin/castellum"
install -D -m 0644 conf/castellum.toml "$rootfs/etc/castellum/castellum.toml"
# Root's, so that only the folders in them are the user's.
mkdir -p "$rootfs/run" "$rootfs/srv/castellum" "$rootfs/var/lib" "$rootfs/var/cache" "$context/empty"

# vfs and chroot need neither a kernel driver nor a user namespace, so the image can be made in a container too.
# HEALTHCHECK is of Docker's image format, not of OCI's.
buildah --storage-driver vfs build --isolation chroot --format docker --timestamp 0 --quiet \
    --build-arg "VERSION=$("$binary" --version | sed 's/^castellum //')" \
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    --tag "$tag" --file packaging/container/Containerfile "$context"
