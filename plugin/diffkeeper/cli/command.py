"""What a command is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command only has the arguments that all commands have."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command; everything about it is in its module in `commands`.

    `run` returns the exit code; it raises DiffKeeperError for those that have a class.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = no_arguments


def add_volume(parser: argparse.ArgumentParser) -> None:
    """The argument of a command for one volume."""
    parser.add_argument("volume", metavar="VOLUME")
