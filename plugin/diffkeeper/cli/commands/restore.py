"""`diffkeeper restore`: a snapshot's tree written into a directory of the caller's choice."""

from __future__ import annotations

import errno
import os
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from diffkeeper import clock
from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.reference import add_snapshot, resolve, split_reference
from diffkeeper.cli.target import check_target, opened, opened_in
from diffkeeper.errors import (
    DiffKeeperError,
    IncompleteError,
    InvalidInputError,
    NoSpaceError,
)
from diffkeeper.format.ids import Root
from diffkeeper.messages.snapshots import GROUP
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from diffkeeper.cli.client import Client
    from diffkeeper.messages.snapshots import SnapshotView
    from diffkeeper.replay.refusals import Refusal, Refusals
    from diffkeeper.replay.replay import Replayed


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
        act: Callable[..., Restored | RestoredGroup]
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


@dataclass(frozen=True, slots=True)
class RefusedPart:
    """What the target refused; how often by kind, and the first ones."""

    counts: dict[str, int]
    first: list[Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """One snapshot that was restored, as --json prints it. `seconds`: unset within a group."""

    volume: str
    snapshot: SnapshotView
    to: str
    seconds: float | UnsetType = UNSET
    files: int
    bytes: int
    refused: RefusedPart


@dataclass(frozen=True, slots=True)
class RestoredGroup:
    """All volumes of a group that were restored, as --json prints it."""

    volume: str
    group: str
    to: str
    seconds: float
    members: list[Restored]


def restore(client: Client, volume: str, path: str, wanted: Wanted) -> Restored:
    """Restore VOL or VOL@SNAP below `path`."""
    name, reference = split_reference(volume)
    target = check_target(path)
    snapshot = resolve(client, name, reference)
    began = clock.monotonic()
    _require(client.path, snapshot, wanted)
    with opened(target) as directory:
        done = _restore(client, name, snapshot, target, directory, wanted)
    return replace(done, seconds=round(clock.monotonic() - began, 3))


def restore_group(client: Client, volume: str, path: str, wanted: Wanted) -> RestoredGroup:
    """Restore all volumes of VOL's or VOL@SEQ's group as they were at its instant.

    Each into a directory of its volume's name below `path`.
    """
    name, reference = split_reference(volume)
    if wanted.paths:
        raise InvalidInputError("paths are those of one volume; restore them without --group")
    target = check_target(path)
    found = client.ask(GROUP, query=reference, name=name).value
    began = clock.monotonic()
    members: list[Restored] = []
    with opened(target) as directory:
        for each in found:
            member = check_name(each.volume)
            below = os.path.join(target, member)
            with opened_in(directory, below) as inner:
                members.append(_restore(client, member, each.snapshot, below, inner, wanted))
    group = found[0].snapshot.group if found else ""
    return RestoredGroup(name, group, target, round(clock.monotonic() - began, 3), members)


def _require(socket: str, snapshot: SnapshotView, wanted: Wanted) -> None:
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
        top, _ = decode_root(get(Root.fromhex(snapshot.root)))
        selection.require(wanted.paths, top.content, get)
    finally:
        objects.close()


def _restore(
    client: Client, name: str, snapshot: SnapshotView, target: str, directory: int, wanted: Wanted
) -> Restored:
    """Write one snapshot into an open directory; what was written, and what was refused."""
    from diffkeeper.replay.refusals import Refusals

    refusals = Refusals(owner=wanted.owner, xattrs=wanted.xattrs)
    label = f"restoring {name}@{snapshot.seq}"
    total = 0 if wanted.paths else snapshot.bytes
    with output.progress_bar(label, total) as show_bytes:
        try:
            done = _replay(client.path, snapshot, directory, wanted, refusals, show_bytes)
        except OSError as error:
            kind = NoSpaceError if error.errno == errno.ENOSPC else DiffKeeperError
            raise kind(f"{target} is incomplete: {error.strerror or error}") from error
    return Restored(
        volume=name,
        snapshot=snapshot,
        to=target,
        files=done.files,
        bytes=done.bytes,
        refused=RefusedPart(dict(refusals.counts), list(refusals.first)),
    )


def _replay(
    socket: str,
    snapshot: SnapshotView,
    directory: int,
    wanted: Wanted,
    refusals: Refusals,
    show_bytes: Callable[[int], None],
) -> Replayed:
    from diffkeeper.cli.remote import RemoteObjects
    from diffkeeper.replay.replay import Replay
    from diffkeeper.replay.selection import Selection

    objects = RemoteObjects(socket)
    only = Selection.of(wanted.paths) if wanted.paths else None

    def show(_files: int, done: int) -> None:
        show_bytes(done)

    try:
        replay = Replay(objects, directory, progress=show, refusals=refusals, only=only)
        return replay.run(Root.fromhex(snapshot.root))
    finally:
        objects.close()


def _judge(result: Restored | RestoredGroup) -> None:
    """IncompleteError when the target refused something."""
    counts: Counter[str] = Counter()
    for each in result.members if isinstance(result, RestoredGroup) else [result]:
        counts.update(each.refused.counts)
    if counts:
        what = ", ".join(f"{what}: {counts[what]}" for what in sorted(counts))
        raise IncompleteError(f"restored, but {result.to} refused some of it ({what})")


def _show(result: Restored | RestoredGroup) -> None:
    """Say in one line for each volume what was restored."""
    for each in result.members if isinstance(result, RestoredGroup) else [result]:
        _show_one(each, result.seconds)


def _show_one(each: Restored, seconds: float | UnsetType) -> None:
    note = "; it is fuzzy: not one instant" if each.snapshot.consistency == "fuzzy" else ""
    output.print_line(
        f"restored {each.volume}@{each.snapshot.seq} of {each.snapshot.time}"
        f" ({each.files} files, {each.bytes} bytes) to {each.to}"
        f" in {seconds} s{note}"
    )
    refused = each.refused.first
    if refused:
        rows = [[refusal.what, refusal.path, refusal.problem] for refusal in refused]
        output.print_table(("refused", "path", "why"), rows)


COMMAND = Command("restore", "write a snapshot's files into a directory", run, add_arguments)
