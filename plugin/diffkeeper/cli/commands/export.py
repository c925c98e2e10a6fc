"""`diffkeeper export`: a snapshot as a tar, or a volume with its history, in one file.

A file gets its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING, cast

from diffkeeper import clock
from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.reference import add_snapshot, resolve, split_reference
from diffkeeper.cli.target import STANDARD, failed, parent
from diffkeeper.errors import ConflictError, InvalidInputError, NotFoundError
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.fsio import durable
from diffkeeper.fsio.tree import held
from diffkeeper.volumes.options import check_name, format_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from diffkeeper.cli.client import Client
    from diffkeeper.transfer.archive_write import Exporter
    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The snapshot or volume, and the file."""
    add_snapshot(parser)
    parser.add_argument("--to", metavar="FILE", required=True, help="new file, or - to pipe")
    whole = "the whole volume with all its snapshots, for `diffkeeper import`"
    parser.add_argument("--history", action="store_true", help=whole)


def run(arguments: argparse.Namespace) -> int:
    """Export one snapshot as a tar, or a volume with its history as an archive."""
    client = connect(arguments)
    try:
        result = export(client, arguments.volume, arguments.to, history=arguments.history)
    finally:
        client.close()
    if arguments.json and arguments.to != STANDARD:
        output.print_json(result)
    else:
        _show(result)
    return 0


@contextlib.contextmanager
def _target(path: str) -> Iterator[IO[bytes]]:
    """Where to export to: standard output, or a new file that is complete or absent.

    ConflictError for a file that exists, InvalidInputError for a terminal or a path without a
    directory, NoSpaceError when it is full.
    """
    if path == STANDARD:
        if sys.stdout.isatty():
            raise InvalidInputError("an archive is not written to a terminal; use --to FILE")
        yield sys.stdout.buffer
        return
    target = os.path.abspath(path)
    if os.path.lexists(target):
        raise ConflictError(f"{target} exists; nothing was exported")
    with parent(target) as above:
        published = os.path.join(held(above), os.path.basename(target))
        partial = f"{published}.partial"
        try:
            # Another user may have put a link there: the name is removed, and not written through.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            with open(partial, "xb") as file:
                try:
                    yield file
                    file.flush()
                    durable.publish_file(file.fileno(), partial, published)
                except BaseException:
                    os.unlink(partial)
                    raise
        except BrokenPipeError:
            raise
        except OSError as error:
            raise failed(target, error) from error


def export(client: Client, volume: str, path: str, *, history: bool) -> Json:
    """Export VOL@SNAP as a tar, or with `history` VOL as an archive; returns what was written."""
    name, reference = split_reference(volume)
    check_name(name)
    if history and reference is not None:
        raise InvalidInputError(
            f"--history takes the whole volume: give {name} without @{reference}"
        )
    began = clock.monotonic()
    act = _history if history else _tar
    result = act(client, name, reference, path)
    seconds = round(clock.monotonic() - began, 3)
    return {"volume": name, "to": path, **result, "seconds": seconds}


def _tar(client: Client, name: str, reference: str | None, path: str) -> Json:
    from diffkeeper.cli.remote import RemoteObjects  # few commands need the engine
    from diffkeeper.replay.tarball import Tarball

    snapshot = resolve(client, name, reference)
    label = f"exporting {name}@{snapshot['seq']}"
    objects = RemoteObjects(client.path)
    total = cast("int", snapshot["bytes"])
    try:
        with _target(path) as target, output.progress_bar(label, total) as show:
            tarball = Tarball(objects, target, lambda entries, done: show(done, entries))
            tarball.write(Root.fromhex(cast("str", snapshot["root"])))
    finally:
        objects.close()
    return {
        "format": "tar",
        "snapshot": snapshot,
        "entries": tarball.entries,
        "bytes": tarball.bytes,
        "sockets_left_out": tarball.sockets,
    }


def _history(client: Client, name: str, _reference: str | None, path: str) -> Json:
    from diffkeeper.cli.remote import RemoteObjects
    from diffkeeper.transfer.archive_write import Exporter

    objects = RemoteObjects(client.path)
    try:
        with _target(path) as target, output.progress_bar(f"exporting {name}", 0) as show:
            exporter = Exporter(objects, target.write, show)
            skipped = _snapshots(client, name, exporter)
    finally:
        objects.close()
    return {
        "format": "history",
        "snapshots": exporter.snapshots,
        "forgotten_meanwhile": skipped,
        "objects": exporter.objects,
        "bytes": exporter.bytes,
    }


def _snapshots(client: Client, name: str, exporter: Exporter) -> int:
    """Export all snapshots, from the oldest to the one that is the newest now; returns how many
    were forgotten before they were reached. NotFoundError when there is none."""
    page = _page(client, name, 0)
    volume = VolumeRecord.decode(cast("str", page["volume"]).encode())
    exporter.begin(volume, cast("int", page["format"]))
    tags = cast("dict[str, int]", page["tags"])
    skipped: set[int] = set()
    last, head = 0, volume.head or 0
    while records := [r for r in _records(page) if r.seq <= head]:
        for record in records:
            try:
                exporter.snapshot(record)
            except NotFoundError:
                if record.seq == head or _is_there(client, name, record.seq):
                    raise
                skipped.add(record.seq)
            last = record.seq
        page = _page(client, name, last)
    if not exporter.snapshots:
        raise NotFoundError(f"volume {name} has no snapshot")
    for tag in sorted(tags):
        if tags[tag] not in skipped and tags[tag] <= head:
            exporter.tag(tag, tags[tag])
    exporter.end()
    return len(skipped)


def _page(client: Client, name: str, after: int) -> Json:
    return cast("Json", client.get(volume_path(name, "records") + f"?after={after}"))


def _records(page: Json) -> list[SnapshotRecord]:
    return [SnapshotRecord.decode(text.encode()) for text in cast("list[str]", page["snapshots"])]


def _is_there(client: Client, name: str, seq: int) -> bool:
    try:
        resolve(client, name, str(seq))
    except NotFoundError:
        return False
    return True


def _show(result: Json) -> None:
    """Print what was exported; on standard error if the archive went to standard output."""
    size = format_size(cast("int", result["bytes"]))
    if result["format"] == "tar":
        seq = cast("Json", result["snapshot"])["seq"]
        what = f"{result['volume']}@{seq} as tar: {result['entries']} entries, {size} of content"
        if result["sockets_left_out"]:
            what += f"; {result['sockets_left_out']} sockets left out: a tar has none"
    else:
        what = (
            f"{result['volume']} with {result['snapshots']} snapshots:"
            f" {result['objects']} objects, {size}"
        )
        if result["forgotten_meanwhile"]:
            what += f"; {result['forgotten_meanwhile']} were forgotten meanwhile"
    line = f"exported {what} to {result['to']} in {result['seconds']} s"
    if result["to"] == STANDARD:
        sys.stderr.write(output.printable(line) + "\n")
    else:
        output.print_line(line)


COMMAND = Command(
    "export",
    "write a snapshot as a tar, or a volume with its history, into one file",
    run,
    add_arguments,
)
