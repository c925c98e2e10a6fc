#!/bin/sh
# Stops Postgres, deletes the live directory of its volume, starts it again, and compares.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
PYTHONPATH=$here exec "$root/scripts/with-docker" "$root/.venv/bin/python" -m survive wipe "$@"
