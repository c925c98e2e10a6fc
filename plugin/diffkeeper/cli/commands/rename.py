"""`diffkeeper rename`: another name for a volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The volume and its new name."""
    add_volume(parser)
    parser.add_argument("to", metavar="NAME")


def run(arguments: argparse.Namespace) -> int:
    """Give a volume another name."""
    name, target = check_name(arguments.volume), check_name(arguments.to)
    found = cast("Json", ask(arguments, "POST", volume_path(name, "rename"), {"as": target}))
    if arguments.json:
        output.print_json(found)
    else:
        output.print_line(f"{name} is {found['name']} now")
    return 0


COMMAND = Command(
    "rename", "give a volume that nothing has mounted another name", run, add_arguments
)
