"""`diffkeeper compact`: free room of the store given back to the file system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import figures, output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.store import COMPACT

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Give free room in the store's file back to the file system."""
    with output.waiting("compacting the store"):
        answer = ask(arguments, COMPACT, NoArguments())
    return output.give(arguments, answer, figures.show)


COMMAND = Command("compact", "give free room in the store's file back to the file system", run)
