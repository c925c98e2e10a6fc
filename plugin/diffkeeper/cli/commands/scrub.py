"""`diffkeeper scrub`: every stored object read again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import figure
from diffkeeper.errors import CorruptionError

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """Read every stored object again; raises CorruptionError when some of it is lost."""
    with output.waiting("scrubbing the store"):
        found = cast("Json", ask(arguments, "POST", "/v1/scrub", {}))
    if arguments.json:
        output.print_json(found)
    else:
        _show(found)
    if found["lost"]:
        raise CorruptionError(
            f"{found['lost_objects']} objects are damaged and could not be healed;"
            f" {found['lost_snapshots']} snapshots lose the files above"
        )
    return 0


def _show(found: Json) -> None:
    lost = cast("list[Json]", found["lost"])
    rows = [figure(*item) for item in found.items() if item[0] != "lost"]
    output.print_table(("figure", "value"), rows)
    if lost:
        output.print_line("")
        heads = ("volume", "seq", "path")
        output.print_table(heads, [[each[head] for head in heads] for each in lost])


COMMAND = Command(
    "scrub", "read every stored object again, heal what is damaged, name what is lost", run
)
