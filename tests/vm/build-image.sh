#!/usr/bin/env bash
# usage: tests/vm/build-image.sh OUT RELEASE
#
# Builds what the virtual machine boots: OUT/kernel and OUT/initramfs, and OUT/root.ext4 with Debian
# bookworm, bcc and the locked Python packages, as the plugin has them, and modules and headers of the
# stock kernel of RELEASE (bookworm, trixie, sid). All of it comes through this machine's apt and pip.
# OUT appears whole, or not at all.
#   DIFFKEEPER_MIRROR=ADDRESS   the Debian mirror; by default the one this machine's apt uses
set -euo pipefail
cd "$(dirname "$0")/../.."

out=$1
kernel_of=$2
work=$out.new
root=$work/root
image_megabytes=2048
python=.venv/bin/python
# Folders of the kernel's modules that the guest has a use for.
modules=(fs lib crypto arch drivers/block drivers/virtio)

mirror() {
    apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)' \
        'Created-By: Packages' | awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }'
}

packages() { sed 's/#.*//' tests/vm/packages.txt | awk 'NF { printf "%s%s", sep, $1; sep = "," }'; }

build_root() {
    local source=${DIFFKEEPER_MIRROR:-$(mirror)} tree=usr/src/linux-headers
    [ -n "$source" ] || { echo "apt knows no Debian mirror here (set DIFFKEEPER_MIRROR)" >&2; return 1; }
    mmdebstrap --quiet --variant=essential --include="$(packages)" bookworm "$root" "$source"
    # Nothing but the settings with which apt gets what that release has.
    mmdebstrap --quiet --variant=custom --format=null --aptopt='Acquire::Check-Valid-Until "false"' \
        --customize-hook="APT_CONFIG=\"\$MMDEBSTRAP_APT_CONFIG\" '$PWD/tests/vm/kernel.sh' '$PWD/$root' ${modules[*]}" \
        --customize-hook="APT_CONFIG=\"\$MMDEBSTRAP_APT_CONFIG\" '$PWD/rootfs-build/headers.sh' '$PWD/$root/$tree'" \
        "$kernel_of" - "$source"
    ln -s "/$tree" "$root/lib/modules/$(release)/build"
}

release() { basename "$(echo "$root"/lib/modules/*)"; }

# For the interpreter of the guest rather than this machine's, as rootfs-build/ does it.
build_wheels() {
    local platform platforms=()
    for platform in manylinux_2_36 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_17 manylinux2014; do
        platforms+=(--platform "${platform}_$(uname -m)")
    done
    "$python" -m pip --disable-pip-version-check -qq install --target "$root/usr/lib/diffkeeper" \
        --no-deps --no-compile --only-binary=:all: --implementation cp --python-version 3.11 \
        --abi cp311 --abi abi3 --abi none "${platforms[@]}" --require-hashes -r requirements/dev.txt
}

# A static busybox, and the modules that the root file system lies behind, in order.
build_initramfs() {
    local small=$work/initramfs.d module number=10
    mkdir -p "$small"/{bin,modules,proc,sys,dev,root}
    cp "$root/bin/busybox" "$small/bin/"
    cp tests/vm/initramfs-init "$small/init"
    chroot "$root" modprobe --set-version "$(release)" --show-depends --all virtio_pci virtio_blk ext4 |
        awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
        cp "$root/$module" "$small/modules/$number-$(basename "$module")"
        number=$((number + 1))
    done
    # Of the names that `find` gives, relative to where it runs.
    (cd "$small" && find . | bin/busybox cpio -o -H newc 2>/dev/null) >"$work/initramfs"
    rm -rf "$small"
}

[ "$(id -u)" -eq 0 ] || { echo "the virtual machine's root is built by root" >&2; exit 1; }
rm -rf --one-file-system "$work" "$out"
mkdir -p "$work"
build_root
build_wheels
build_initramfs
mkdir -p "$root/srv/checkout" "$root/disks/ext4" "$root/disks/xfs"
mv "$root/boot/vmlinuz" "$work/kernel"
truncate -s "${image_megabytes}M" "$work/root.ext4"
mkfs.ext4 -q -d "$root" "$work/root.ext4"
rm -rf --one-file-system "$root"
mv "$work" "$out"
