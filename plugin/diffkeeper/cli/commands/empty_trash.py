"""`diffkeeper empty-trash`: deletes removed volumes for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.confirmation import add_yes, confirm
from diffkeeper.cli.connection import ask
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One removed volume, or all."""
    parser.add_argument("volume", metavar="VOLUME|ID", nargs="?")
    add_yes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete one removed volume for good, or all of them, once that is confirmed."""
    path = "/v1/trash"
    what = "all volumes in the trash"
    if arguments.volume is not None:
        path, what = f"{path}/{check_name(arguments.volume)}", f"the removed {arguments.volume}"
    confirm(arguments, f"Delete {what} for good", f"{what} would be deleted for good")
    gone = cast("list[Json]", ask(arguments, "DELETE", path))
    if arguments.json:
        output.print_json(gone)
    else:
        names = ", ".join(f"{v['name']} ({v['id']})" for v in gone)
        output.print_line(f"deleted for good: {names}" if gone else "the trash is empty")
    return 0


COMMAND = Command("empty-trash", "delete removed volumes for good", run, add_arguments)
