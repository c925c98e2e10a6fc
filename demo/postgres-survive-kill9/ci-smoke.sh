#!/bin/sh
# One kill of Postgres, of one of its processes and of the plugin, and one wipe, with every check.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
PYTHONPATH=$here exec "$root/scripts/with-docker" "$root/.venv/bin/python" -m survive smoke
