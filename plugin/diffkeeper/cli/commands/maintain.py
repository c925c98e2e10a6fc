"""`diffkeeper maintain`: all maintenance of the store that is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import figures, output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.store import MAINTAIN

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--now`, which is the default."""
    parser.add_argument("--now", action="store_true", help="at once, which is the default")


def run(arguments: argparse.Namespace) -> int:
    """Do all maintenance that is due; returns when it is done."""
    with output.waiting("maintaining the store"):
        answer = ask(arguments, MAINTAIN, NoArguments())
    return output.give(arguments, answer, figures.show)


COMMAND = Command(
    "maintain",
    "do all maintenance of the store that is due, and say what was done",
    run,
    add_arguments,
)
