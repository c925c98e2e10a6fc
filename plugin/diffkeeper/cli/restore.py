"""`diffkeeper restore`: a snapshot's tree written into a directory of the caller's choice."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from diffkeeper import clock
from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.errors import ConflictError, InvalidInputError

if TYPE_CHECKING:
    from diffkeeper.cli.client import Client

Json = dict[str, object]


def split_reference(text: str) -> tuple[str, str | None]:
    """Volume and snapshot of `VOL` or `VOL@SNAP`; the latter None when absent."""
    name, at, reference = text.partition("@")
    if at and not reference:
        raise InvalidInputError(f"{text!r} names no snapshot after @")
    return name, reference if at else None


def check_target(path: str) -> str:
    """The absolute path of a target that doesn't exist or is an empty directory; its parent must
    exist. Raises ConflictError, InvalidInputError.
    """
    target = os.path.abspath(path)
    try:
        mode = os.lstat(target).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(target)):
            raise InvalidInputError(f"{os.path.dirname(target)} is not a directory") from None
        return target
    except OSError as error:
        raise InvalidInputError(f"{target}: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise ConflictError(f"{target} exists and is not a directory")
    with os.scandir(target) as entries:
        if next(entries, None) is not None:
            raise ConflictError(f"{target} is not empty; nothing was restored")
    return target


def resolve(client: Client, name: str, reference: str | None) -> Json:
    """The snapshot that the reference names; the newest `crash` one without it."""
    query = "" if reference is None else f"?snapshot={quote(reference, safe='')}"
    return cast("Json", client.get(volume_path(name, "resolve") + query))


def restore(client: Client, volume: str, path: str) -> Json:
    """Restore VOL or VOL@SNAP below `path`; returns what was restored, for --json."""
    from diffkeeper.cli.remote import RemoteObjects  # no other command needs the engine
    from diffkeeper.engine import replay

    name, reference = split_reference(volume)
    target = check_target(path)
    snapshot = resolve(client, name, reference)
    began = clock.monotonic()
    total = cast("int", snapshot["bytes"])
    with output.progress_bar(f"restoring {name}@{snapshot['seq']}", total) as advance:
        root = bytes.fromhex(cast("str", snapshot["root"]))
        replay.restore(root, RemoteObjects(client), target, progress=advance)
    seconds = round(clock.monotonic() - began, 3)
    return {"volume": name, "snapshot": snapshot, "to": target, "seconds": seconds}


def show(result: Json) -> None:
    """Say in one line what was restored."""
    snapshot = cast("Json", result["snapshot"])
    note = "; it is fuzzy: not one instant" if snapshot["consistency"] == "fuzzy" else ""
    output.print_line(
        f"restored {result['volume']}@{snapshot['seq']} of {snapshot['time']}"
        f" ({snapshot['files']} files, {snapshot['bytes']} bytes) to {result['to']}"
        f" in {result['seconds']} s{note}"
    )
