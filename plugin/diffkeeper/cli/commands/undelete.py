"""`diffkeeper undelete`: a removed volume brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.messages.trash import UNDELETE, UndeleteRequest
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.volumes import VolumeView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The removed volume, and a name for it."""
    parser.add_argument("volume", metavar="VOLUME|ID")
    parser.add_argument("--as", dest="to", metavar="NAME", help="under another name")


def run(arguments: argparse.Namespace) -> int:
    """Bring a removed volume back with its history."""
    name = check_name(arguments.volume)
    answer = ask(arguments, UNDELETE, UndeleteRequest(arguments.to), name=name)
    return output.give(arguments, answer, _show)


def _show(found: VolumeView) -> None:
    count = found.status.snapshots if found.status is not None else 0
    output.print_line(f"{found.name} is back, with {count} snapshots")


COMMAND = Command("undelete", "bring a removed volume back with its history", run, add_arguments)
