"""`diffkeeper snapshots`: the history of one volume."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.volumes.options import check_name, format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """List the snapshots of a volume, oldest first."""
    path = volume_path(check_name(arguments.volume), "snapshots")
    found = cast("list[Json]", ask(arguments, "GET", path))
    if arguments.json:
        output.print_json(found)
    else:
        show(found)
    return 0


def show(found: list[Json]) -> None:
    """Snapshots as a table."""
    headers = ["seq", "time", "consistency", "reason", "files", "size", "new", "freeze", "root"]
    more = [name for name in ("group", "tags") if any(each[name] for each in found)]
    rows = [_row(each) + [_extra(each[name]) for name in more] for each in found]
    output.print_table(headers + more, rows)


def _extra(value: object) -> object:
    return (", ".join(value) if isinstance(value, list) else value) or "-"


def _row(each: Json) -> list[object]:
    size, new = cast("int", each["bytes"]), cast("int", each["new_bytes"])
    freeze = f"{cast('float', each['freeze_ms']):.1f}ms"
    described = [each["seq"], each["time"], each["consistency"], each["reason"], each["files"]]
    root = str(each["root"])[:12]
    return [*described, format_size(size), format_size(new), freeze, root]


COMMAND = Command("snapshots", "list the snapshots of a volume, oldest first", run, add_volume)
