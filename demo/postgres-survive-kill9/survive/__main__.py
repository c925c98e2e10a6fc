"""Runs the demo's commands: `python -m survive --help`."""

from __future__ import annotations

import sys

from survive.main import main

sys.exit(main(sys.argv[1:]))
