"""`diffkeeper compact`: free room of the store given back to the file system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli.command import Command
from diffkeeper.cli.figures import run_and_show

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Give free room in the store's file back to the file system."""
    return run_and_show(arguments, "/v1/compact", "compacting the store")


COMMAND = Command("compact", "give free room in the store's file back to the file system", run)
