"""`diffkeeper prune`: shows and forgets what retention does not keep."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import ranges
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One volume, or all, and whether to show it only."""
    parser.add_argument("volume", metavar="VOLUME", nargs="?")
    parser.add_argument("--dry-run", action="store_true", help="show it only")


def run(arguments: argparse.Namespace) -> int:
    """Print which snapshots retention does not keep, then forget them, unless it is a dry run."""
    plan = _prune(arguments, dry_run=True)
    if not arguments.json:
        _show(plan)
    note = next((each["note"] for each in plan if each["note"]), "")
    if note:
        sys.stderr.write(f"diffkeeper: warning: all of it counts for this command: {note}\n")
    if not arguments.dry_run:
        plan = _prune(arguments, dry_run=False)
    if arguments.json:
        output.print_json(plan)
    elif not arguments.dry_run:
        count = sum(len(cast("list[int]", each["forgotten"])) for each in plan)
        output.print_line(f"forgot {count} snapshots")
    return 0


def _prune(arguments: argparse.Namespace, *, dry_run: bool) -> list[Json]:
    volume = None if arguments.volume is None else check_name(arguments.volume)
    message = {"volume": volume, "dry_run": dry_run}
    return cast("list[Json]", ask(arguments, "POST", "/v1/prune", message))


def _show(plan: list[Json]) -> None:
    rows = []
    for each in plan:
        seqs = cast("list[int]", each["forgotten"])
        rows.append([each["volume"], each["retention"], each["left"], len(seqs), ranges(seqs)])
    output.print_table(("volume", "retention", "keep", "forget", "snapshots"), rows)


COMMAND = Command("prune", "show what retention lets go now, and forget it", run, add_arguments)
