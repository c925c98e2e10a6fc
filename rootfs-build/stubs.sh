#!/bin/sh
# usage: stubs.sh ROOT
#
# LLVM is linked with a theorem prover, an XML parser with all of Unicode's tables, and a line editor:
# 58 MB that bcc never calls. Each is replaced by a library of the same name that has the symbols LLVM
# asks of it and nothing behind them. A call would end the process at once, at address zero or in data.
# Needs binutils; without, everything stays as it is.
set -eu
root=${1%/}
[ -n "$root" ] && [ -d "$root/usr/lib/python3.11" ] || { echo "not a root: $root/" >&2; exit 1; }
for tool in as ld nm; do
    command -v "$tool" >/dev/null || { echo "no $tool: LLVM keeps all its libraries" >&2; exit 0; }
done
llvm=$(find "$root"/usr/lib/*-linux-gnu -maxdepth 1 -name 'libLLVM-*.so.1' -type f)
[ -n "$llvm" ] || exit 0
libraries=$(dirname "$llvm")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What LLVM asks of a library, one "NAME" or "NAME@VERSION" a line.
asked() {
    nm -D --defined-only --with-symbol-versions "$1" | awk '{ sub("@@", "@", $3); print $3 }' | sort >"$work/has"
    nm -D --undefined-only --with-symbol-versions "$llvm" | awk '{ print $2 }' | sort >"$work/wants"
    comm -12 "$work/has" "$work/wants"
}

for name in libz3.so.4 libxml2.so.2 libedit.so.2; do
    whole=$(readlink -f "$libraries/$name")
    asked "$whole" >"$work/asked"
    awk -F@ 'BEGIN { print ".data" } { print ".globl " $1 "\n.type " $1 ", %object\n" $1 ": .quad 0" }' \
        "$work/asked" >"$work/stub.s"
    awk -F@ '{ of[$2] = of[$2] " " $1 ";" }
        END { for (v in of) if (v != "") print v " { global:" of[v] " };"; else print "{ global:" of[v] " };" }' \
        "$work/asked" >"$work/stub.versions"
    as -o "$work/stub.o" "$work/stub.s"
    ld -shared -soname "$name" --version-script "$work/stub.versions" -z noexecstack -s \
        -o "$work/$name" "$work/stub.o"
    rm -f "$libraries/${name%.so*}".so*
    cp "$work/$name" "$libraries/$name"
done
# Only those three asked for these.
for name in libicudata libicuuc libicui18n libicuio libicutu libicutest libbsd libmd; do
    rm -f "$libraries/$name".so*
done
