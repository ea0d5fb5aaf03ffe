#!/bin/sh
# Makes the Debian package, with dpkg-deb and nothing else of Debian's tools.
#
#   build.sh BINARY OUTPUT_FOLDER
#
# BINARY is a built `castellum`; its verbs print the man pages and the completions. The same binary gives the
# same package, byte for byte. Prints the package's path.
set -eu

if [ $# != 2 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
binary=$(realpath "$1")
mkdir -p "$2"
output=$(realpath "$2")
cd "$(dirname "$0")/.."

version=$("$binary" --version | sed 's/^castellum //')
architecture=$(dpkg --print-architecture)
# The time in the archive: that of the last release, not that of this build.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
umask 022
chmod 0755 "$root"

install -D -m 0755 "$binary" "$root/usr/bin/castellum"
strip --strip-debug "$root/usr/bin/castellum"
install -D -m 0644 ../conf/castellum.toml "$root/etc/castellum/castellum.toml"
for unit in systemd/*.service; do
    install -D -m 0644 "$unit" "$root/lib/systemd/system/$(basename "$unit")"
done
for example in systemd/examples/*.conf; do
    install -D -m 0644 "$example" "$root/usr/share/doc/castellum/examples/$(basename "$example")"
done
install -D -m 0644 systemd/sysusers.conf "$root/usr/lib/sysusers.d/castellum.conf"
install -D -m 0644 systemd/tmpfiles.conf "$root/usr/lib/tmpfiles.d/castellum.conf"

shared=$root/usr/share
mkdir -p "$shared/man/man1" "$shared/bash-completion/completions" "$shared/zsh/vendor-completions" \
    "$shared/fish/vendor_completions.d" "$shared/doc/castellum"
"$binary" man --dir "$shared/man/man1"
gzip -9n "$shared"/man/man1/*
"$binary" completions bash >"$shared/bash-completion/completions/castellum"
"$binary" completions zsh >"$shared/zsh/vendor-completions/_castellum"
"$binary" completions fish >"$shared/fish/vendor_completions.d/castellum.fish"
install -m 0644 deb/copyright "$shared/doc/castellum/copyright"
gzip -9n <../CHANGELOG.md >"$shared/doc/castellum/changelog.gz"

# What the binary asks of the C library, read from the binary.
glibc=$(readelf --version-info "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -Vu | tail -n 1 | sed 's/GLIBC_//')

install -d "$root/DEBIAN"
for script in postinst prerm postrm; do
    install -m 0755 "deb/$script" "$root/DEBIAN/$script"
done
echo /etc/castellum/castellum.toml >"$root/DEBIAN/conffiles"
# In KiB, reckoned as Debian does (deb-substvars(5), Installed-Size): what a file system really uses is its own affair.
size=$(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%s\n' -o -printf '1\n' |
    awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@GLIBC@/$glibc/" \
    -e "s/@SIZE@/$size/" deb/control.in >"$root/DEBIAN/control"
(cd "$root" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

# dpkg-deb lowers times that are later; none may be earlier either, whatever the clock of this machine says.
find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

package=$output/castellum_${version}_$architecture.deb
dpkg-deb --build --root-owner-group -Z"${DPKG_DEB_COMPRESSOR_TYPE:-xz}" "$root" "$package" >/dev/null
echo "$package"
