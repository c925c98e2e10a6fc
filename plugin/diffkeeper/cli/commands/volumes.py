"""`diffkeeper volumes`: all volumes in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.messages.volumes import VOLUMES

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.volumes import VolumeView


def run(arguments: argparse.Namespace) -> int:
    """List the volumes."""
    return output.give(arguments, ask(arguments, VOLUMES), _show)


def _show(found: list[VolumeView]) -> None:
    rows = [[each.name, each.mounts, each.created_at, each.mountpoint or "-"] for each in found]
    output.print_table(("volume", "mounts", "created", "mountpoint"), rows)


COMMAND = Command("volumes", "list the volumes", run)
