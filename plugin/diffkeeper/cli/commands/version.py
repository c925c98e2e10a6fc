"""`diffkeeper version`: of this program, and of the daemon if one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import diffkeeper
from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.errors import UnavailableError
from diffkeeper.messages.machine import VERSION

if TYPE_CHECKING:
    import argparse

    from diffkeeper.cli.client import Answer
    from diffkeeper.messages.machine import DaemonVersion


def run(arguments: argparse.Namespace) -> int:
    """This program's version and the running daemon's, if there is one."""
    answer: Answer[DaemonVersion] | None = None
    problem = ""
    try:
        answer = ask(arguments, VERSION)
    except UnavailableError as error:
        problem = str(error)
    if arguments.json:
        daemon = answer.plain if answer is not None else None
        output.print_json({"version": diffkeeper.__version__, "daemon": daemon})
        return 0
    output.print_line(f"diffkeeper {diffkeeper.__version__}")
    output.print_line(f"daemon {_running(answer.value) if answer else f'none: {problem}'}")
    return 0


def _running(daemon: DaemonVersion) -> str:
    return f"{daemon.version} (pid {daemon.pid})"


COMMAND = Command("version", "show the versions of this program and of the daemon", run)
