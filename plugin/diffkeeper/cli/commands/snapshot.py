"""`diffkeeper snapshot`: one snapshot now."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.commands import snapshots
from diffkeeper.cli.connection import ask
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """Take a snapshot now; returns when it is durable."""
    path = volume_path(check_name(arguments.volume), "snapshots")
    with output.waiting(f"taking a snapshot of {arguments.volume}"):
        taken = cast("Json", ask(arguments, "POST", path, {}))
    if arguments.json:
        output.print_json(taken)
    else:
        snapshots.show([taken])
    return 0


COMMAND = Command("snapshot", "take a snapshot now and wait until it is durable", run, add_volume)
