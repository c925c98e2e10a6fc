"""`diffkeeper serve`: the daemon itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.cli.command import Command
from diffkeeper.daemon import config

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon until it is told to stop."""
    flags = {setting: getattr(arguments, setting.replace("-", "_")) for setting in config.SETTINGS}
    loaded = config.load(flags, os.environ)
    from diffkeeper.daemon.serve import serve  # the daemon's imports are not the CLI's

    return serve(loaded)


COMMAND = Command("serve", "run the daemon", run, config.add_arguments)
