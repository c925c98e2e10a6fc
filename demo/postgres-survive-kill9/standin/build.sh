#!/bin/sh
# Builds the stand-in for the official PostgreSQL image from Debian's own packages, and imports it
# into the engine that DOCKER_HOST names: build.sh TAG CACHE_DIRECTORY.
#
# The packages come from wherever this machine's apt takes them. The tarball stays in the cache
# under a name made of everything that shapes it, so that a second engine imports it in seconds.
set -eu

tag=$1
cache=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

for program in mmdebstrap apt-get sha256sum docker; do
    command -v "$program" >/dev/null || {
        echo "the stand-in image needs $program, which this machine lacks; on Debian: apt-get" \
            "install mmdebstrap. Elsewhere set POSTGRES_IMAGE to an image that can be pulled" >&2
        exit 1
    }
done

fingerprint=$(cat "$here/build.sh" "$here/entrypoint.sh" | sha256sum | cut -c1-16)
tarball=$cache/postgres-standin-$(dpkg --print-architecture)-$fingerprint.tar

# The suite with the PostgreSQL of the official image that the demo names.
suite=trixie

# The mirror that apt takes Debian from, whichever suite that is.
mirror() {
    # The words with a dollar sign are apt's own placeholders.
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' 'Origin: Debian' 'Component: main' |
        awk '$2 !~ /-/ { print $1; exit }'
}

build() {
    uri=$(mirror)
    [ -n "$uri" ] || {
        echo "apt knows no Debian suite on this machine (run apt-get update first)" >&2
        exit 1
    }
    settings=$(mktemp)
    apt-config dump 'Acquire::http' >"$settings"
    apt-config dump 'Acquire::https' >>"$settings"
    # shellcheck disable=SC2016
    mmdebstrap --quiet --mode=auto --format=tar --variant=minbase --include=postgresql \
        --aptopt="$settings" --aptopt='Acquire::Check-Valid-Until "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        --essential-hook='mkdir -p "$1/etc/postgresql-common"' \
        --essential-hook='echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
        --customize-hook="copy-in '$here/entrypoint.sh' /usr/local/bin" \
        --customize-hook='chmod 0755 "$1/usr/local/bin/entrypoint.sh"' \
        --customize-hook='chroot "$1" sh -c "ln -s /usr/lib/postgresql/*/bin /usr/local/pgsql-bin"' \
        --customize-hook='rm -rf "$1"/usr/lib/postgresql/*/lib/llvmjit* "$1"/usr/lib/postgresql/*/lib/bitcode "$1"/usr/lib/*/libLLVM*' \
        --customize-hook='install -d -m 0700 -o 0 -g 0 "$1/var/lib/postgresql/data"' \
        --customize-hook='chroot "$1" chown -R postgres:postgres /var/lib/postgresql /run/postgresql' \
        "$suite" "$tarball.part" "deb $uri $suite main"
    rm -f "$settings"
    mv "$tarball.part" "$tarball"
}

mkdir -p "$cache"
[ -s "$tarball" ] || build
docker import \
    --change 'ENTRYPOINT ["/usr/local/bin/entrypoint.sh"]' \
    --change 'CMD ["postgres"]' \
    --change 'ENV PATH=/usr/local/pgsql-bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV PGDATA=/var/lib/postgresql/data' \
    --change 'ENV LANG=C.UTF-8' \
    --change 'VOLUME ["/var/lib/postgresql/data"]' \
    "$tarball" "$tag"
