"""`diffkeeper volumes`: all volumes in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """List the volumes."""
    found = cast("list[Json]", ask(arguments, "GET", "/v1/volumes"))
    if arguments.json:
        output.print_json(found)
        return 0
    rows = [[v["name"], v["mounts"], v["created_at"], v["mountpoint"] or "-"] for v in found]
    output.print_table(("volume", "mounts", "created", "mountpoint"), rows)
    return 0


COMMAND = Command("volumes", "list the volumes", run)
