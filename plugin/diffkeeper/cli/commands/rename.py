"""`diffkeeper rename`: another name for a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.messages.volumes import RENAME, RenameRequest
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.volumes import VolumeView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The volume and its new name."""
    add_volume(parser)
    parser.add_argument("to", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    """Give a volume another name."""
    name, target = check_name(arguments.volume), check_name(arguments.to)
    answer = ask(arguments, RENAME, RenameRequest(target), name=name)

    def show(found: VolumeView) -> None:
        output.print_line(f"{name} is {found.name} now")

    return output.give(arguments, answer, show)


COMMAND = Command(
    "rename", "give a volume that nothing has mounted another name", run, add_arguments
)
