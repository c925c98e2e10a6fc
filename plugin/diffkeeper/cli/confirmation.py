"""Confirmation of what cannot be undone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from diffkeeper.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--yes`, which confirms."""
    parser.add_argument("--yes", action="store_true", help="do not ask")


def confirm(arguments: argparse.Namespace, question: str, what: str) -> None:
    """Ask on a terminal unless `--yes`; InvalidInputError for a no, and without a terminal."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError(f"{what}: say --yes")
    sys.stderr.write(f"{question}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInputError("nothing was done")
