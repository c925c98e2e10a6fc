#!/bin/sh
# usage: kernel.sh ROOT FOLDER...
#
# Unpacks Debian's stock kernel below ROOT: the image, and the modules in these of its folders.
set -eu
root=$1
shift
architecture=$(dpkg --print-architecture)
# The package of a metapackage's name carries the kernel's version in its own.
package=$(apt-cache depends "linux-image-$architecture" |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
[ -n "$package" ] || { echo "apt has no linux-image-$architecture here" >&2; exit 1; }
release=${package#linux-image-}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package")
set -- $(printf "./lib/modules/$release/kernel/%s " "$@")
dpkg-deb --fsys-tarfile "$work/$package"_*.deb |
    tar -C "$root" --keep-directory-symlink -x "./boot/vmlinuz-$release" \
        "./lib/modules/$release/modules.order" "./lib/modules/$release/modules.builtin" \
        "./lib/modules/$release/modules.builtin.modinfo" "$@"
chroot "$root" depmod "$release"
