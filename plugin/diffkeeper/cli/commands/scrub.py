"""`diffkeeper scrub`: every stored object read again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import figure
from diffkeeper.errors import CorruptionError
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.integrity import SCRUB

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.integrity import ScrubReport


def run(arguments: argparse.Namespace) -> int:
    """Read every stored object again; raises CorruptionError when some of it is lost."""
    with output.waiting("scrubbing the store"):
        answer = ask(arguments, SCRUB, NoArguments())
    output.give(arguments, answer, _show)
    found = answer.value
    if found.lost:
        raise CorruptionError(
            f"{found.lost_objects} objects are damaged and could not be healed;"
            f" {found.lost_snapshots} snapshots lose the files above"
        )
    return 0


def _show(found: ScrubReport) -> None:
    rows = [figure(*item) for item in structs.asdict(found).items() if item[0] != "lost"]
    output.print_table(("figure", "value"), rows)
    if found.lost:
        output.print_line("")
        lost = [[each.volume, each.seq, each.path] for each in found.lost]
        output.print_table(("volume", "seq", "path"), lost)


COMMAND = Command(
    "scrub", "read every stored object again, heal what is damaged, name what is lost", run
)
