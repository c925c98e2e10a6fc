"""`diffkeeper empty-trash`: deletes removed volumes for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.confirmation import add_yes, confirm
from diffkeeper.cli.connection import ask
from diffkeeper.messages.trash import EMPTY_TRASH, PURGE
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.trash import TrashView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One removed volume, or all."""
    parser.add_argument("volume", metavar="VOLUME|ID", nargs="?")
    add_yes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete one removed volume for good, or all of them, once that is confirmed."""
    names: dict[str, str] = {}
    what = "all volumes in the trash"
    if arguments.volume is not None:
        names["name"] = check_name(arguments.volume)
        what = f"the removed {arguments.volume}"
    confirm(arguments, f"Delete {what} for good", f"{what} would be deleted for good")
    endpoint = PURGE if names else EMPTY_TRASH
    return output.give(arguments, ask(arguments, endpoint, None, **names), _show)


def _show(gone: list[TrashView]) -> None:
    names = ", ".join(f"{each.name} ({each.id})" for each in gone)
    output.print_line(f"deleted for good: {names}" if gone else "the trash is empty")


COMMAND = Command("empty-trash", "delete removed volumes for good", run, add_arguments)
