"""`diffkeeper diff`: which paths differ between two snapshots."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import structs

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.reference import split_reference
from diffkeeper.errors import InvalidInputError
from diffkeeper.messages.codec import converted
from diffkeeper.messages.snapshots import DIFF, DiffPage, DiffRequest, PathDifference, PathState
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from diffkeeper.cli.client import Answer, Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both snapshots, and how much of their differences to show."""
    parser.add_argument("old", metavar="VOLUME@SNAPSHOT")
    newest = "the newest crash-consistent one of the first VOLUME by default"
    parser.add_argument("new", metavar="VOLUME[@SNAPSHOT]", nargs="?", help=newest)
    parser.add_argument("--stat", action="store_true", help="only how many paths and bytes")


def run(arguments: argparse.Namespace) -> int:
    """Compare two snapshots; exit code 0 whether they differ or not."""
    name, old = split_reference(arguments.old)
    check_name(name)
    if old is None and arguments.new is None:
        raise InvalidInputError(
            f"{name} is its newest snapshot, and nothing to compare with it is named:"
            f" give {name}@SNAPSHOT, or two of VOLUME[@SNAPSHOT]"
        )
    other, new = (name, None) if arguments.new is None else split_reference(arguments.new)
    request = DiffRequest(old, new, check_name(other))
    client = connect(arguments)
    try:
        pages = _pages(client, name, request)
        if arguments.json and not arguments.stat:
            _print_json(pages)
        else:
            _show(pages, Statistics(name, other), arguments)
    finally:
        client.close()
    return 0


@dataclass(slots=True)
class Total:
    """Paths of one kind of change. Bytes of a file with several names count for each."""

    paths: int = 0
    bytes_before: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Statistics:
    """How two snapshots differ, as --json --stat prints it. The snapshots: VOLUME@NUMBER."""

    old: str
    new: str
    added: Total = field(default_factory=Total)
    removed: Total = field(default_factory=Total)
    changed: Total = field(default_factory=Total)

    def count(self, each: PathDifference) -> None:
        """Add one path."""
        total: Total = getattr(self, each.change)
        total.paths += 1
        total.bytes_before += 0 if each.before is None else each.before.bytes
        total.bytes += 0 if each.after is None else each.after.bytes


def _pages(client: Client, name: str, request: DiffRequest) -> Iterator[Answer[DiffPage]]:
    """All pages, of the snapshots that the first one is of: `latest` may be another one soon."""
    after: str | None = None
    while True:
        answer = client.ask(DIFF, structs.replace(request, after=after), name=name)
        yield answer
        page = answer.value
        if (after := page.next) is None:
            return
        request = structs.replace(request, old=str(page.old), new=str(page.new))


def _print_json(pages: Iterator[Answer[DiffPage]]) -> None:
    """A list with one difference in each line, as they came."""
    separator = "["
    for answer in pages:
        for each in converted(answer.plain, dict[str, Any])["differences"]:
            sys.stdout.write(f"{separator}\n{json.dumps(each)}")
            separator = ","
    sys.stdout.write("[]\n" if separator == "[" else "\n]\n")


def _show(
    pages: Iterator[Answer[DiffPage]], found: Statistics, arguments: argparse.Namespace
) -> None:
    """The paths unless only their number is asked for, and how many there are."""
    volumes = found.old, found.new
    for answer in pages:
        page = answer.value
        found.old, found.new = f"{volumes[0]}@{page.old}", f"{volumes[1]}@{page.new}"
        for each in page.differences:
            found.count(each)
        if page.differences and not arguments.stat:
            rows = [_row(each) for each in page.differences]
            output.print_table(("change", "path", "what", "bytes"), rows)
    if arguments.json:
        output.print_json(found)
    else:
        output.print_line(_summary(found))


def _row(each: PathDifference) -> list[str]:
    if each.before is None or each.after is None:
        there = each.before or each.after
        described = ("", "") if there is None else (there.type, _size(there))
        return [each.change, each.path, *described]
    before, after = each.before, each.after
    what = ", ".join(_part(part, before, after) for part in each.parts)
    same = (before.type, before.bytes) == (after.type, after.bytes)
    sizes = [_size(after)] if same else [_size(before) or "-", _size(after) or "-"]
    return [each.change, each.path, what, " to ".join(sizes)]


def _part(part: str, before: PathState, after: PathState) -> str:
    match part:
        case "type":
            return f"type {before.type} to {after.type}"
        case "mode":
            return f"mode {before.mode} to {after.mode}"
        case "owner":
            return f"owner {before.uid}:{before.gid} to {after.uid}:{after.gid}"
    return part


def _size(state: PathState) -> str:
    return format_size(state.bytes) if state.type == "file" else ""


def _summary(found: Statistics) -> str:
    added, removed, changed = found.added, found.removed, found.changed
    return (
        f"{found.old} to {found.new}: {added.paths} added ({format_size(added.bytes)}),"
        f" {removed.paths} removed ({format_size(removed.bytes_before)}), {changed.paths} changed"
        f" ({format_size(changed.bytes_before)} to {format_size(changed.bytes)})"
    )


COMMAND = Command("diff", "show which paths differ between two snapshots", run, add_arguments)
