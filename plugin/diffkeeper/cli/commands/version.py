"""`diffkeeper version`: of this program, and of the daemon if one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import diffkeeper
from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.errors import UnavailableError

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """This program's version and the running daemon's, if there is one."""
    daemon: Json | None = None
    problem = ""
    try:
        daemon = cast("Json", ask(arguments, "GET", "/v1/version"))
    except UnavailableError as error:
        problem = str(error)
    if arguments.json:
        output.print_json({"version": diffkeeper.__version__, "daemon": daemon})
        return 0
    output.print_line(f"diffkeeper {diffkeeper.__version__}")
    running = f"{daemon['version']} (pid {daemon['pid']})" if daemon else f"none: {problem}"
    output.print_line(f"daemon {running}")
    return 0


COMMAND = Command("version", "show the versions of this program and of the daemon", run)
