#!/bin/sh
# usage: kernel.sh ROOT FOLDER...
#
# Unpacks Debian's stock kernel below ROOT: the image as boot/vmlinuz, and the modules in these of its
# folders. APT_CONFIG tells the release whose kernel it is.
set -eu
root=$1
shift
architecture=$(dpkg --print-architecture)

# What a package depends on and the name of which matches.
depends() { apt-cache depends "$1" | sed -n "s/^ *Depends: \($2\)$/\1/p"; }

# The package of a metapackage's name carries the kernel's version in its own.
package=$(depends "linux-image-$architecture" 'linux-image-[0-9].*' | head -n 1)
[ -n "$package" ] || { echo "apt has no linux-image-$architecture here" >&2; exit 1; }
release=${package#linux-image-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Newer releases have image and modules in packages of their own, and the image beside the modules.
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package" \
    $(depends "$package" "linux-\(base\|binary\|modules\)-$release"))
for archive in "$work"/*.deb; do
    dpkg-deb --extract "$archive" "$work/files"
done
found=$(ls -d "$work/files/lib/modules/$release" "$work/files/usr/lib/modules/$release" 2>/dev/null | head -n 1)
[ -n "$found" ] || { echo "$package has no modules" >&2; exit 1; }
mkdir -p "$root/boot" "$root/lib/modules/$release/kernel"
ls "$work/files/boot/vmlinuz-$release" "$found/vmlinuz" 2>/dev/null | head -n 1 |
    xargs -I{} cp {} "$root/boot/vmlinuz"
cp "$found"/modules.order "$found"/modules.builtin "$found"/modules.builtin.modinfo "$root/lib/modules/$release"
for folder in "$@"; do
    mkdir -p "$root/lib/modules/$release/kernel/$folder"
    cp -R "$found/kernel/$folder/." "$root/lib/modules/$release/kernel/$folder"
done
# The first program of the machine loads them as they are.
find "$root/lib/modules/$release" -name '*.ko.xz' -exec xz -d {} +
chroot "$root" depmod "$release"
