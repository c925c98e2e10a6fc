"""`diffkeeper prune`: shows and forgets what retention does not keep."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import ranges
from diffkeeper.messages.snapshots import PRUNE, PruneRequest
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.cli.client import Answer
    from diffkeeper.messages.snapshots import Pruning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One volume, or all, and whether to show it only."""
    parser.add_argument("volume", metavar="VOLUME", nargs="?")
    parser.add_argument("--dry-run", action="store_true", help="show it only")


def run(arguments: argparse.Namespace) -> int:
    """Print which snapshots retention does not keep, then forget them, unless it is a dry run."""
    answer = _prune(arguments, dry_run=True)
    plan = answer.value
    if not arguments.json:
        _show(plan)
    note = next((each.note for each in plan if each.note), "")
    if note:
        sys.stderr.write(f"diffkeeper: warning: all of it counts for this command: {note}\n")
    if not arguments.dry_run:
        answer = _prune(arguments, dry_run=False)
    if arguments.json:
        output.print_json(answer.plain)
    elif not arguments.dry_run:
        count = sum(len(each.forgotten) for each in answer.value)
        output.print_line(f"forgot {count} snapshots")
    return 0


def _prune(arguments: argparse.Namespace, *, dry_run: bool) -> Answer[list[Pruning]]:
    volume = None if arguments.volume is None else check_name(arguments.volume)
    return ask(arguments, PRUNE, PruneRequest(volume, dry_run))


def _show(plan: list[Pruning]) -> None:
    rows = [
        [each.volume, each.retention, each.left, len(each.forgotten), ranges(each.forgotten)]
        for each in plan
    ]
    output.print_table(("volume", "retention", "keep", "forget", "snapshots"), rows)


COMMAND = Command("prune", "show what retention lets go now, and forget it", run, add_arguments)
