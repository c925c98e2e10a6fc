"""`diffkeeper inspect`: everything about one volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import to_builtins

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import flatten
from diffkeeper.messages.volumes import INSPECT
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.volumes import VolumeView


def run(arguments: argparse.Namespace) -> int:
    """Show one volume with its status."""
    answer = ask(arguments, INSPECT, name=check_name(arguments.volume))
    return output.give(arguments, answer, _show)


def _show(found: VolumeView) -> None:
    output.print_table(("field", "value"), flatten(to_builtins(found)))


COMMAND = Command("inspect", "show one volume with its status", run, add_volume)
