#!/bin/sh
# Loads the running demo and kills it at random: chaos.sh [HOW MANY TIMES].
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
PYTHONPATH=$here exec "$root/scripts/with-docker" "$root/.venv/bin/python" -m survive chaos "$@"
