"""`diffkeeper trash`: the removed volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.volumes.options import format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """List the removed volumes."""
    found = cast("list[Json]", ask(arguments, "GET", "/v1/trash"))
    if arguments.json:
        output.print_json(found)
    else:
        _show(found)
    return 0


def _show(found: list[Json]) -> None:
    headers = ("volume", "id", "removed", "deleted for good", "size", "snapshots", "live directory")
    rows = [
        [v["name"], v["id"], v["removed"], v["purge"], format_size(cast("int", v["bytes"])),
         v["snapshots"], "kept: not captured whole" if v["live"] else "-"]
        for v in found
    ]  # fmt: skip
    output.print_table(headers, rows)


COMMAND = Command("trash", "list the removed volumes", run)
