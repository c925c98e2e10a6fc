"""`diffkeeper restore`: a snapshot's tree written into a directory of the caller's choice."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from diffkeeper import clock
from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.target import check_target, opened, opened_in
from diffkeeper.errors import DiffKeeperError, InvalidInputError, NoSpaceError
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffkeeper.cli.client import Client

Json = dict[str, object]


def split_reference(text: str) -> tuple[str, str | None]:
    """Volume and snapshot of `VOL` or `VOL@SNAP`; the latter None when absent."""
    name, at, reference = text.partition("@")
    if at and not reference:
        raise InvalidInputError(f"{text!r} names no snapshot after @")
    return name, reference if at else None


def resolve(client: Client, name: str, reference: str | None) -> Json:
    """The snapshot that the reference names; the newest `crash` one without it."""
    query = "" if reference is None else f"?snapshot={quote(reference, safe='')}"
    return cast("Json", client.get(volume_path(name, "resolve") + query))


def restore(client: Client, volume: str, path: str) -> Json:
    """Restore VOL or VOL@SNAP below `path`; returns what was restored, for --json."""
    name, reference = split_reference(volume)
    target = check_target(path)
    snapshot = resolve(client, name, reference)
    began = clock.monotonic()
    with opened(target) as directory:
        _restore(client, name, snapshot, target, directory)
    seconds = round(clock.monotonic() - began, 3)
    return {"volume": name, "snapshot": snapshot, "to": target, "seconds": seconds}


def restore_group(client: Client, volume: str, path: str) -> Json:
    """Restore all volumes of VOL's or VOL@SEQ's group as they were at its instant.

    Each into a directory of its volume's name below `path`; returns what was restored.
    """
    name, reference = split_reference(volume)
    target = check_target(path)
    query = "" if reference is None else f"?snapshot={quote(reference, safe='')}"
    found = cast("list[Json]", client.get(volume_path(name, "group") + query))
    began = clock.monotonic()
    members: list[Json] = []
    with opened(target) as directory:
        for each in found:
            member = check_name(cast("str", each["volume"]))
            snapshot = cast("Json", each["snapshot"])
            below = os.path.join(target, member)
            with opened_in(directory, below) as inner:
                _restore(client, member, snapshot, below, inner)
            members.append({"volume": member, "snapshot": snapshot, "to": below})
    group = cast("Json", found[0]["snapshot"])["group"] if found else ""
    seconds = round(clock.monotonic() - began, 3)
    return {"volume": name, "group": group, "to": target, "seconds": seconds, "members": members}


def _restore(client: Client, name: str, snapshot: Json, target: str, directory: int) -> None:
    label = f"restoring {name}@{snapshot['seq']}"
    root = bytes.fromhex(cast("str", snapshot["root"]))
    with output.progress_bar(label, cast("int", snapshot["bytes"])) as show_bytes:
        try:
            _replay(client.path, root, directory, show_bytes)
        except OSError as error:
            kind = NoSpaceError if error.errno == errno.ENOSPC else DiffKeeperError
            raise kind(f"{target} is incomplete: {error.strerror or error}") from error


def _replay(socket: str, root: bytes, directory: int, show_bytes: Callable[[int], None]) -> None:
    from diffkeeper.cli.remote import RemoteObjects  # no other command needs the engine
    from diffkeeper.engine.replay import Replay

    objects = RemoteObjects(socket)
    try:
        Replay(objects, directory, progress=lambda _files, done: show_bytes(done)).run(root)
    finally:
        objects.close()


def show(result: Json) -> None:
    """Say in one line for each volume what was restored."""
    if "members" in result:
        for member in cast("list[Json]", result["members"]):
            show({**member, "seconds": result["seconds"]})
        return
    snapshot = cast("Json", result["snapshot"])
    note = "; it is fuzzy: not one instant" if snapshot["consistency"] == "fuzzy" else ""
    output.print_line(
        f"restored {result['volume']}@{snapshot['seq']} of {snapshot['time']}"
        f" ({snapshot['files']} files, {snapshot['bytes']} bytes) to {result['to']}"
        f" in {result['seconds']} s{note}"
    )
