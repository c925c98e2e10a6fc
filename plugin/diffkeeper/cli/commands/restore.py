"""`diffkeeper restore`: a snapshot's tree written into a directory of the caller's choice."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

from diffkeeper import clock
from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.reference import add_snapshot, query, resolve, split_reference
from diffkeeper.cli.target import check_target, opened, opened_in
from diffkeeper.errors import (
    DiffKeeperError,
    IncompleteError,
    InvalidInputError,
    NoSpaceError,
)
from diffkeeper.format.ids import Root
from diffkeeper.volumes.options import check_name
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from diffkeeper.cli.client import Client
    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The snapshot, what of it, and where to."""
    add_snapshot(parser)
    which = "file or directory below the volume's top directory; everything by default"
    parser.add_argument("paths", metavar="PATH", nargs="*", help=which)
    parser.add_argument("--to", metavar="DIR", required=True, help="new or empty directory")
    group = "all volumes that were captured with it, as they were at the same instant"
    parser.add_argument("--group", action="store_true", help=group)
    for flag, what in (("owner", "owners and groups"), ("xattrs", "extended attributes")):
        parser.add_argument(f"--no-{flag}", action="store_true", help=f"without {what}")


def run(arguments: argparse.Namespace) -> int:
    """Restore a snapshot, or all volumes of its group, into a directory.

    Raises IncompleteError, after all is shown, when the target refused some of it.
    """
    check_name(split_reference(arguments.volume)[0])
    wanted = Wanted(
        owner=not arguments.no_owner,
        xattrs=not arguments.no_xattrs,
        # As a shell completes the name of a directory.
        paths=tuple(check_path(path.rstrip("/")) for path in arguments.paths),
    )
    client = connect(arguments)
    try:
        act = restore_group if arguments.group else restore
        result = act(client, arguments.volume, arguments.to, wanted)
    finally:
        client.close()
    if arguments.json:
        output.print_json(result)
    else:
        _show(result)
    _judge(result)
    return 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to restore of a snapshot."""

    owner: bool = True
    xattrs: bool = True
    paths: tuple[bytes, ...] = ()  # below the top directory, as `check_path` gives them; or all


def restore(client: Client, volume: str, path: str, wanted: Wanted) -> Json:
    """Restore VOL or VOL@SNAP below `path`; returns what was restored, for --json."""
    name, reference = split_reference(volume)
    target = check_target(path)
    snapshot = resolve(client, name, reference)
    began = clock.monotonic()
    _require(client.path, snapshot, wanted)
    with opened(target) as directory:
        done = _restore(client, name, snapshot, target, directory, wanted)
    seconds = round(clock.monotonic() - began, 3)
    return {"volume": name, "snapshot": snapshot, "to": target, "seconds": seconds, **done}


def restore_group(client: Client, volume: str, path: str, wanted: Wanted) -> Json:
    """Restore all volumes of VOL's or VOL@SEQ's group as they were at its instant.

    Each into a directory of its volume's name below `path`; returns what was restored.
    """
    name, reference = split_reference(volume)
    if wanted.paths:
        raise InvalidInputError("paths are those of one volume; restore them without --group")
    target = check_target(path)
    found = cast("list[Json]", client.get(volume_path(name, "group") + query(reference)))
    began = clock.monotonic()
    members: list[Json] = []
    with opened(target) as directory:
        for each in found:
            member = check_name(cast("str", each["volume"]))
            snapshot = cast("Json", each["snapshot"])
            below = os.path.join(target, member)
            with opened_in(directory, below) as inner:
                done = _restore(client, member, snapshot, below, inner, wanted)
            members.append({"volume": member, "snapshot": snapshot, "to": below, **done})
    group = cast("Json", found[0]["snapshot"])["group"] if found else ""
    seconds = round(clock.monotonic() - began, 3)
    return {"volume": name, "group": group, "to": target, "seconds": seconds, "members": members}


def _require(socket: str, snapshot: Json, wanted: Wanted) -> None:
    """NotFoundError, before anything is created, unless all wanted paths are in the snapshot."""
    if not wanted.paths:
        return
    from diffkeeper.cli.remote import RemoteObjects  # no other command needs the engine
    from diffkeeper.format.root import decode_root
    from diffkeeper.replay import selection

    objects = RemoteObjects(socket)

    def get(digest: bytes) -> bytes:
        return objects.nodes([digest])[0]

    try:
        top, _ = decode_root(get(_root(snapshot)))
        selection.require(wanted.paths, top.content, get)
    finally:
        objects.close()


def _root(snapshot: Json) -> Root:
    return Root.fromhex(cast("str", snapshot["root"]))


def _restore(
    client: Client, name: str, snapshot: Json, target: str, directory: int, wanted: Wanted
) -> Json:
    """Write one snapshot into an open directory; returns what was written, and what was refused."""
    label = f"restoring {name}@{snapshot['seq']}"
    total = 0 if wanted.paths else cast("int", snapshot["bytes"])
    with output.progress_bar(label, total) as show_bytes:
        try:
            return _replay(client.path, _root(snapshot), directory, wanted, show_bytes)
        except OSError as error:
            kind = NoSpaceError if error.errno == errno.ENOSPC else DiffKeeperError
            raise kind(f"{target} is incomplete: {error.strerror or error}") from error


def _replay(
    socket: str, root: Root, directory: int, wanted: Wanted, show_bytes: Callable[[int], None]
) -> Json:
    from diffkeeper.cli.remote import RemoteObjects
    from diffkeeper.replay.refusals import Refusals
    from diffkeeper.replay.replay import Replay
    from diffkeeper.replay.selection import Selection

    objects = RemoteObjects(socket)
    refusals = Refusals(owner=wanted.owner, xattrs=wanted.xattrs)
    only = Selection.of(wanted.paths) if wanted.paths else None

    def show(_files: int, done: int) -> None:
        show_bytes(done)

    try:
        replay = Replay(objects, directory, progress=show, refusals=refusals, only=only)
        done = replay.run(root)
    finally:
        objects.close()
    refused = {
        "counts": dict(refusals.counts),
        "first": [asdict(each) for each in refusals.first],
    }
    return {"files": done.files, "bytes": done.bytes, "refused": refused}


def _judge(result: Json) -> None:
    """IncompleteError when the target refused something."""
    counts: Counter[str] = Counter()
    for each in cast("list[Json]", result.get("members", [result])):
        counts.update(cast("dict[str, int]", cast("Json", each["refused"])["counts"]))
    if counts:
        what = ", ".join(f"{what}: {counts[what]}" for what in sorted(counts))
        raise IncompleteError(f"restored, but {result['to']} refused some of it ({what})")


def _show(result: Json) -> None:
    """Say in one line for each volume what was restored."""
    if "members" in result:
        for member in cast("list[Json]", result["members"]):
            _show({**member, "seconds": result["seconds"]})
        return
    snapshot = cast("Json", result["snapshot"])
    note = "; it is fuzzy: not one instant" if snapshot["consistency"] == "fuzzy" else ""
    output.print_line(
        f"restored {result['volume']}@{snapshot['seq']} of {snapshot['time']}"
        f" ({result['files']} files, {result['bytes']} bytes) to {result['to']}"
        f" in {result['seconds']} s{note}"
    )
    refused = cast("list[Json]", cast("Json", result["refused"])["first"])
    if refused:
        output.print_table(
            ("refused", "path", "why"),
            [[each["what"], each["path"], each["problem"]] for each in refused],
        )


COMMAND = Command("restore", "write a snapshot's files into a directory", run, add_arguments)
