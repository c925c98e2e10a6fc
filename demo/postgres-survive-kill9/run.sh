#!/bin/sh
# The demo: about a minute of kills, a wipe, a table. KILLS=50, SECONDS=300 or RESTORES=20 make it
# longer; `./run.sh up` and `./run.sh down` keep it up for the other scripts.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
PYTHONPATH=$here exec "$root/scripts/with-docker" "$root/.venv/bin/python" -m survive "${@:-run}"
