#!/usr/bin/env bash
# usage: rootfs-build/build-rootfs.sh [OUT]
#
# Builds OUT/rootfs and OUT/config.json (OUT is build/plugin unless given), the two things that
# `docker plugin create` takes, from Debian packages and wheels that are fetched on this machine.
#   DIFFKEEPER_MIRROR=ADDRESS   the Debian mirror; by default the one this machine's apt uses
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-build/plugin}
suite=bookworm
architecture=$(dpkg --print-architecture)
python=.venv/bin/python
[ -x "$python" ] || { echo "run 'make setup' first" >&2; exit 1; }
# Where the whole kernel headers lie while a root file system is made.
whole=usr/src/headers
mkdir -p build
# Two builds at a time would take each other's half-made directories away.
exec 9>build/.rootfs.lock
flock 9

packages() { sed 's/#.*//' rootfs-build/packages.txt | awk 'NF { printf "%s%s", sep, $1; sep = "," }'; }
key() { { cat "$@"; echo "$suite $architecture"; } | sha256sum | cut -c1-16; }

mirror() {
    if [ -n "${DIFFKEEPER_MIRROR:-}" ]; then
        echo "$DIFFKEEPER_MIRROR"
        return
    fi
    local found
    found=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)' \
        'Created-By: Packages' | awk '$1 == "Debian" && $2 == "main" && $3 !~ /-/ { print $4; exit }')
    if [ -z "$found" ]; then
        echo "apt knows no Debian mirror here (run 'apt-get update', or set DIFFKEEPER_MIRROR)" >&2
        return 1
    fi
    echo "$found"
}

# The packages, unpacked and not configured: none of their maintainer scripts does anything that the
# daemon needs, and no package manager or set of essential tools has to come along. debootstrap knows
# no such thing: its result works as well, and is larger.
build_base() {
    local tarball=$1 source log=build/base.log status=0
    source=$(mirror)
    echo "base system: $(packages) from this machine's Debian mirror"
    if command -v mmdebstrap >/dev/null; then
        mmdebstrap --quiet --variant=extract --include="$(packages)" --architectures="$architecture" \
            --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
            --extract-hook="APT_CONFIG=\"\$MMDEBSTRAP_APT_CONFIG\" '$PWD/rootfs-build/headers.sh' \"\$1/$whole\"" \
            "$suite" "${tarball%.tar}.new.tar" "$source" >"$log" 2>&1 || status=$?
    else
        local work
        work=$(mktemp -d)
        debootstrap --variant=minbase --include="$(packages)" --arch="$architecture" \
            "$suite" "$work" "$source" >"$log" 2>&1 &&
            rootfs-build/headers.sh "$work/$whole" >>"$log" 2>&1 &&
            tar -C "$work" -cf "${tarball%.tar}.new.tar" . || status=$?
        rm -rf "$work"
    fi
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$log" >&2
        return "$status"
    fi
    mv "${tarball%.tar}.new.tar" "$tarball"
}

# The wheels of the lock, for the interpreter of the root file system rather than this machine's.
build_wheels() {
    local target=$1 platform machine
    machine=$(uname -m)
    local platforms=()
    for platform in manylinux_2_36 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_17 manylinux2014; do
        platforms+=(--platform "${platform}_$machine")
    done
    rm -rf "$target" "$target.new"
    "$python" -m pip --disable-pip-version-check -qq install --target "$target.new" --no-deps --no-compile \
        --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 --abi abi3 --abi none \
        "${platforms[@]}" --require-hashes -r requirements/runtime.txt
    mv "$target.new" "$target"
}

# Everything but diffkeeper itself, pruned and compiled: it changes seldom, so it is kept.
build_stage() {
    local stage=$1 base=$2 wheels=$3
    rm -rf "$stage" "$stage.new"
    mkdir -p "$stage.new"
    tar -C "$stage.new" --exclude='./dev/*' -xf "$base"
    cp -a "$wheels" "$stage.new/usr/lib/diffkeeper"
    rootfs-build/stubs.sh "$stage.new"
    rootfs-build/prune.sh "$stage.new"
    compile "$stage.new" /usr/lib/python3.11 /usr/lib/python3 /usr/lib/diffkeeper
    prune_headers "$stage.new"
    mv "$stage.new" "$stage"
}

# The compiler inside tells which headers it reads. So this is also the proof that it works, after all
# that was taken away.
prune_headers() {
    local root=$1
    mkdir -p "$root/build" "$root/usr/share/diffkeeper"
    cp rootfs-build/headers.py bpf/* "$root/build/"
    inside "$root" /usr/bin/python3 /build/headers.py "/$whole" /usr/share/diffkeeper/headers $(cd bpf && printf '/build/%s ' *)
    rm -rf "$root/build" "$root/usr/src"
}

# Byte code that is not checked against time stamps stays valid whatever the engine does to them. The
# interpreter inside compiles it, so this machine's Python may be another one.
compile() {
    inside "$1" /usr/bin/python3 -m compileall -qq --invalidation-mode unchecked-hash "${@:2}"
}

inside() {
    local enter=(chroot)
    [ "$(id -u)" -eq 0 ] || enter=(unshare --map-root-user chroot)
    "${enter[@]}" "$@"
}

megabytes() { du -cm --apparent-size "$@" | tail -n 1 | cut -f1; }

base_key=$(key rootfs-build/packages.txt rootfs-build/headers.sh rootfs-build/build-rootfs.sh)
wheels_key=$(key requirements/runtime.txt rootfs-build/build-rootfs.sh)
stage=build/stage-$(key rootfs-build/* requirements/runtime.txt <(grep -h '^#include' bpf/*))
base=build/base-$base_key.tar
wheels=build/wheels-$wheels_key
if [ ! -d "$stage" ]; then
    [ -e "$base" ] || build_base "$base"
    [ -d "$wheels" ] || build_wheels "$wheels"
    build_stage "$stage" "$base" "$wheels"
    for stale in build/base-*.tar build/wheels-* build/stage-*; do
        case "$stale" in "$base" | "$wheels" | "$stage") ;; *) rm -rf "$stale" ;; esac
    done
fi

rootfs=$out/rootfs
package=$rootfs/usr/lib/diffkeeper/diffkeeper
rm -rf "$out"
mkdir -p "$out"
cp -a "$stage" "$rootfs"
cp -a plugin/diffkeeper "$package"
cp -a bpf "$rootfs/usr/share/diffkeeper/bpf"
find "$package" -name __pycache__ -type d -prune -exec rm -rf {} +
compile "$rootfs" /usr/lib/diffkeeper/diffkeeper
cp config.json "$out/config.json"
llvm=("$rootfs"/usr/lib/*-linux-gnu/libLLVM-*.so.1 "$rootfs"/usr/lib/llvm-*/lib/libclang-cpp.so.*)
headers=$rootfs/usr/share/diffkeeper/headers
echo "$rootfs: $(megabytes "$rootfs") MB, of which LLVM $(megabytes "${llvm[@]}") MB, kernel headers $(megabytes "$headers") MB"
