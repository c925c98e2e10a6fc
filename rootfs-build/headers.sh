#!/bin/sh
# usage: headers.sh TREE
#
# Fetches Debian's current kernel headers with apt, and lays the files of their two packages together
# at TREE, as bcc wants them. They are whole here, with some 50 MB; headers.py takes what is read.
set -eu
tree=$1
architecture=$(dpkg --print-architecture)
case "$architecture" in
    amd64) arch=x86 ;;
    arm64) arch=arm64 ;;
    *) echo "no kernel headers are known for $architecture" >&2; exit 1 ;;
esac

# The packages of a metapackage's name carry the kernel's version in theirs.
depends() {
    apt-cache depends "$1" 2>/dev/null | sed -n 's/^ *Depends: \(linux-headers-.*\)$/\1/p' | head -n 1
}
own=$(depends "linux-headers-$architecture")
common=${own:+$(depends "$own")}
[ -n "$common" ] || { echo "apt has no linux-headers-$architecture here" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$common" "$own")
for package in "$common" "$own"; do
    dpkg-deb --fsys-tarfile "$work/$package"_*.deb |
        tar -C "$work" -x "./usr/src/$package/include" "./usr/src/$package/arch/$arch"
done
mkdir -p "$tree"
cp -a "$work/usr/src/$common/." "$work/usr/src/$own/." "$tree"
