"""`diffkeeper snapshot`: one snapshot now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.commands import snapshots
from diffkeeper.cli.connection import ask
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.snapshots import SNAPSHOT
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Take a snapshot now; returns when it is durable."""
    name = check_name(arguments.volume)
    with output.waiting(f"taking a snapshot of {arguments.volume}"):
        answer = ask(arguments, SNAPSHOT, NoArguments(), name=name)
    return output.give(arguments, answer, lambda taken: snapshots.show([taken]))


COMMAND = Command("snapshot", "take a snapshot now and wait until it is durable", run, add_volume)
