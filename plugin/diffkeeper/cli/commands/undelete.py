"""`diffkeeper undelete`: a removed volume brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The removed volume, and a name for it."""
    parser.add_argument("volume", metavar="VOLUME|ID")
    parser.add_argument("--as", dest="to", metavar="NAME", help="under another name")


def run(arguments: argparse.Namespace) -> int:
    """Bring a removed volume back with its history."""
    path = f"/v1/trash/{check_name(arguments.volume)}/undelete"
    found = cast("Json", ask(arguments, "POST", path, {"as": arguments.to}))
    if arguments.json:
        output.print_json(found)
    else:
        status = cast("Json", found["status"])
        output.print_line(f"{found['name']} is back, with {status['snapshots']} snapshots")
    return 0


COMMAND = Command("undelete", "bring a removed volume back with its history", run, add_arguments)
