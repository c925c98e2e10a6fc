#!/bin/sh
# Starts PostgreSQL as process 1, after creating the cluster where there is none. It understands
# the variables of the official image that the demo uses: POSTGRES_PASSWORD, POSTGRES_USER,
# POSTGRES_DB, POSTGRES_INITDB_ARGS, POSTGRES_HOST_AUTH_METHOD and PGDATA.
set -eu

: "${PGDATA:=/var/lib/postgresql/data}"
: "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
: "${POSTGRES_HOST_AUTH_METHOD:=scram-sha-256}"
: "${POSTGRES_PASSWORD:=}"
: "${POSTGRES_INITDB_ARGS:=}"
export PGDATA

# "-c name=value" alone means the server; a command that is not the server runs as it is.
case "${1:-postgres}" in
    -*) set -- postgres "$@" ;;
    postgres) [ $# -gt 0 ] || set -- postgres ;;
    *) exec "$@" ;;
esac

if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chmod 0700 "$PGDATA"
    chmod 3775 /run/postgresql
    chown postgres:postgres "$PGDATA" /run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
fi

# The name of the database is quoted as SQL asks: a quote inside it is doubled.
create_database() {
    quoted=$(printf '%s' "$POSTGRES_DB" | sed 's/"/""/g')
    printf 'CREATE DATABASE "%s"\n' "$quoted" | postgres --single -D "$PGDATA" -j postgres
}

create_cluster() {
    if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
        echo "POSTGRES_PASSWORD must be set for a new cluster" >&2
        exit 1
    fi
    password_file=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-unused}" >"$password_file"
    # The arguments are a list of words in one variable, as in the official image.
    # shellcheck disable=SC2086
    initdb --username="$POSTGRES_USER" --pwfile="$password_file" $POSTGRES_INITDB_ARGS
    rm -f "$password_file"
    printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
    printf "\nlisten_addresses = '*'\n" >>"$PGDATA/postgresql.conf"
    [ "$POSTGRES_DB" = postgres ] || create_database
}

[ -s "$PGDATA/PG_VERSION" ] || create_cluster
exec "$@"
