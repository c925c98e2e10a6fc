"""The commands for tags, retention and the trash."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from diffkeeper.cli import output, restore
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.connection import ask
from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes.options import check_name, format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json

SHOWN_MAX = 20


def tag(arguments: argparse.Namespace) -> int:
    """Give a snapshot a name, under which it is kept."""
    name, reference = restore.split_reference(arguments.volume)
    message = {"tag": arguments.tag, "snapshot": reference}
    path = volume_path(check_name(name), "tags")
    snapshot = cast("Json", ask(arguments, "POST", path, message))
    if arguments.json:
        output.print_json(snapshot)
    else:
        output.print_line(f"{name}@{snapshot['seq']} of {snapshot['time']} is {arguments.tag}")
    return 0


def untag(arguments: argparse.Namespace) -> int:
    """Take a tag away; its snapshot is thinned as any other then."""
    path = volume_path(check_name(arguments.volume), "tags", quote(arguments.tag, safe=""))
    done = cast("Json", ask(arguments, "DELETE", path))
    if arguments.json:
        output.print_json(done)
    else:
        output.print_line(f"{arguments.volume}@{done['seq']} is not {arguments.tag} any more")
    return 0


def forget(arguments: argparse.Namespace) -> int:
    """Forget snapshots of one volume, all of them or none."""
    chosen = [restore.split_reference(text) for text in arguments.snapshots]
    names = {name for name, _ in chosen}
    if len(names) > 1:
        raise InvalidInputError("name snapshots of one volume; nothing was forgotten")
    references = [reference for _, reference in chosen if reference is not None]
    if len(references) < len(chosen):
        raise InvalidInputError("say which snapshots: VOLUME@SNAPSHOT; nothing was forgotten")
    name = check_name(names.pop())
    message = {"snapshots": references}
    done = cast("Json", ask(arguments, "POST", volume_path(name, "forget"), message))
    if arguments.json:
        output.print_json(done)
    else:
        output.print_line(f"forgot {_numbers(name, cast('list[int]', done['forgotten']))}")
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Print which snapshots retention lets go, then forget them, unless it is a dry run."""
    volume = None if arguments.volume is None else check_name(arguments.volume)
    message = {"volume": volume, "dry_run": True}
    plan = cast("list[Json]", ask(arguments, "POST", "/v1/prune", message))
    if not arguments.json:
        _show_plan(plan)
    note = next((each["note"] for each in plan if each["note"]), "")
    if note:
        sys.stderr.write(f"diffkeeper: warning: all of it counts for this command: {note}\n")
    if not arguments.dry_run:
        message = {"volume": volume, "dry_run": False}
        plan = cast("list[Json]", ask(arguments, "POST", "/v1/prune", message))
    if arguments.json:
        output.print_json(plan)
    elif not arguments.dry_run:
        count = sum(len(cast("list[int]", each["forgotten"])) for each in plan)
        output.print_line(f"forgot {count} snapshots")
    return 0


def _show_plan(plan: list[Json]) -> None:
    rows = []
    for each in plan:
        seqs = cast("list[int]", each["forgotten"])
        rows.append([each["volume"], each["retention"], each["left"], len(seqs), ranges(seqs)])
    output.print_table(("volume", "retention", "keep", "forget", "snapshots"), rows)


def ranges(seqs: list[int]) -> str:
    """Rising numbers as `1-3,5`, cut short after some."""
    found: list[list[int]] = []
    for seq in seqs:
        if found and found[-1][1] == seq - 1:
            found[-1][1] = seq
        else:
            found.append([seq, seq])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in found[:SHOWN_MAX]]
    return ",".join(texts + ["…"] * (len(found) > SHOWN_MAX)) or "-"


def _numbers(name: str, seqs: list[int]) -> str:
    return f"{len(seqs)} snapshots of {name}: {ranges(seqs)}"


def trash(arguments: argparse.Namespace) -> int:
    """List the removed volumes."""
    found = cast("list[Json]", ask(arguments, "GET", "/v1/trash"))
    if arguments.json:
        output.print_json(found)
    else:
        _show_trash(found)
    return 0


def _show_trash(found: list[Json]) -> None:
    headers = ("volume", "id", "removed", "deleted for good", "size", "snapshots", "live directory")
    rows = [
        [v["name"], v["id"], v["removed"], v["purge"], format_size(cast("int", v["bytes"])),
         v["snapshots"], "kept: not captured whole" if v["live"] else "-"]
        for v in found
    ]  # fmt: skip
    output.print_table(headers, rows)


def undelete(arguments: argparse.Namespace) -> int:
    """Bring a removed volume back with its history."""
    path = f"/v1/trash/{check_name(arguments.volume)}/undelete"
    found = cast("Json", ask(arguments, "POST", path, {"as": arguments.to}))
    if arguments.json:
        output.print_json(found)
    else:
        status = cast("Json", found["status"])
        output.print_line(f"{found['name']} is back, with {status['snapshots']} snapshots")
    return 0


def empty_trash(arguments: argparse.Namespace) -> int:
    """Delete one removed volume for good, or all of them, once that is confirmed."""
    path = "/v1/trash"
    what = "all volumes in the trash"
    if arguments.volume is not None:
        path, what = f"{path}/{check_name(arguments.volume)}", f"the removed {arguments.volume}"
    confirm(arguments, f"Delete {what} for good", f"{what} would be deleted for good")
    gone = cast("list[Json]", ask(arguments, "DELETE", path))
    if arguments.json:
        output.print_json(gone)
    else:
        names = ", ".join(f"{v['name']} ({v['id']})" for v in gone)
        output.print_line(f"deleted for good: {names}" if gone else "the trash is empty")
    return 0


def confirm(arguments: argparse.Namespace, question: str, what: str) -> None:
    """Ask on a terminal unless `--yes`; InvalidInputError for a no, and where nobody is there."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError(f"{what}: say --yes")
    sys.stderr.write(f"{question}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InvalidInputError("nothing was done")
