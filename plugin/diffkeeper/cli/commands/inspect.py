"""`diffkeeper inspect`: everything about one volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import flatten
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """Show one volume with its status."""
    path = volume_path(check_name(arguments.volume))
    found = cast("Json", ask(arguments, "GET", path))
    if arguments.json:
        output.print_json(found)
    else:
        output.print_table(("field", "value"), list(flatten(found)))
    return 0


COMMAND = Command("inspect", "show one volume with its status", run, add_volume)
