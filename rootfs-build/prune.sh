#!/bin/sh
# usage: prune.sh ROOT
#
# Removes from the root file system ROOT what the daemon never reads, and lays out what the engine
# mounts over. Shared by build-rootfs.sh and the Dockerfile.
set -eu
root=${1%/}
# An empty argument would mean the machine's own root.
[ -n "$root" ] && [ -d "$root/usr/lib/python3.11" ] || { echo "not a root: $root/" >&2; exit 1; }

rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale \
    "$root"/usr/share/lintian "$root"/usr/share/bash-completion "$root"/usr/share/common-licenses \
    "$root"/usr/share/perl5 "$root"/usr/share/zoneinfo "$root"/usr/share/gcc \
    "$root"/usr/share/gdb "$root"/usr/share/binfmts "$root"/usr/lib/*/gconv "$root"/usr/lib/*/perl-base \
    "$root"/usr/share/polkit-1 "$root"/usr/share/initramfs-tools "$root"/usr/share/bug "$root"/usr/share/dpkg \
    "$root"/usr/share/applications "$root"/usr/share/doc-base "$root"/usr/share/pixmaps "$root"/usr/share/python3 \
    "$root"/usr/lib/valgrind "$root"/usr/lib/python3/dist-packages/*.egg-info \
    "$root"/usr/libexec "$root"/usr/sbin/* \
    "$root"/usr/lib/systemd "$root"/etc/cron.daily "$root"/etc/logrotate.d "$root"/etc/dpkg "$root"/etc/hostname \
    "$root"/etc/resolv.conf "$root"/etc/fstab \
    "$root"/var/lib/apt "$root"/var/cache "$root"/var/log "$root"/var/lib/dpkg "$root"/etc/apt

# Parts of the standard library that need a display, a compiler or a person at the keyboard.
lib=$root/usr/lib/python3.11
rm -rf "$lib"/idlelib "$lib"/tkinter "$lib"/turtledemo "$lib"/lib2to3 "$lib"/ensurepip "$lib"/pydoc_data \
    "$lib"/distutils "$lib"/test "$lib"/unittest/test "$lib"/config-3.11-*

site=$root/usr/lib/diffkeeper
rm -rf "$site"/bin "$site"/pip "$site"/setuptools "$site"/*/tests "$site"/*/test
# The spare backend of zstandard: only another interpreter than CPython loads it.
rm -f "$site"/zstandard/_cffi*.so
if command -v strip >/dev/null; then
    find "$site" -name '*.so' -type f -exec strip --strip-unneeded {} +
fi
find "$root/usr/lib" -name __pycache__ -type d -prune -exec rm -rf {} +
find "$site" \( -name '*.pyi' -o -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \) -type f -delete

mkdir -p "$root"/proc "$root"/sys "$root"/dev "$root"/tmp "$root"/run/docker/plugins \
    "$root"/mnt/diffkeeper "$root"/host/lib "$root"/host/cgroup "$root"/usr/bin "$root"/root
# Of programs, the interpreter stays, the `rm` that keeps to one file system, and busybox for the rest.
find "$root/usr/bin" -mindepth 1 ! -name python3.11 ! -name rm ! -name busybox -delete
ln -s python3.11 "$root"/usr/bin/python3
for tool in sh cat cp df du find grep head ls mount mv ps stat tail tar umount; do
    ln -s busybox "$root/usr/bin/$tool"
done
cat >"$root"/usr/bin/diffkeeper <<'END'
#!/usr/bin/python3
import sys

from diffkeeper.cli.main import entry

sys.exit(entry())
END
chmod 755 "$root"/usr/bin/diffkeeper
# The interpreter finds the wheels by this line, with no variable in the environment.
mkdir -p "$root"/usr/local/lib/python3.11/dist-packages
echo /usr/lib/diffkeeper >"$root"/usr/local/lib/python3.11/dist-packages/diffkeeper.pth
