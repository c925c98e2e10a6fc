#!/bin/sh
# Shows the count that never goes back: verify.sh [--watch].
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
PYTHONPATH=$here exec "$root/scripts/with-docker" "$root/.venv/bin/python" -m survive verify "$@"
