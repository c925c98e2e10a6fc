"""`diffkeeper export`: a snapshot as a tar, or a volume with its history, in one file.

A file gets its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from diffkeeper import clock
from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.reference import add_snapshot, resolve, split_reference
from diffkeeper.cli.target import STANDARD, failed, parent
from diffkeeper.errors import ConflictError, InvalidInputError, NotFoundError
from diffkeeper.format.ids import Root
from diffkeeper.format.records import SnapshotRecord, VolumeRecord
from diffkeeper.fsio import durable
from diffkeeper.fsio.tree import held
from diffkeeper.messages.snapshots import RECORDS
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from diffkeeper.cli.client import Client
    from diffkeeper.messages.snapshots import RecordsPage, SnapshotView
    from diffkeeper.transfer.archive_write import Exporter


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


@dataclass(frozen=True, slots=True)
class TarExport:
    """One snapshot that was exported, as --json prints it."""

    volume: str
    to: str
    format: str
    snapshot: SnapshotView
    entries: int
    bytes: int
    sockets_left_out: int
    seconds: float


@dataclass(frozen=True, slots=True)
class HistoryExport:
    """One volume that was exported with its history, as --json prints it."""

    volume: str
    to: str
    format: str
    snapshots: int
    forgotten_meanwhile: int
    objects: int
    bytes: int
    seconds: float


def export(client: Client, volume: str, path: str, *, history: bool) -> TarExport | HistoryExport:
    """Export VOL@SNAP as a tar, or with `history` VOL as an archive; returns what was written."""
    name, reference = split_reference(volume)
    check_name(name)
    if not history:
        return _tar(client, name, reference, path)
    if reference is not None:
        raise InvalidInputError(
            f"--history takes the whole volume: give {name} without @{reference}"
        )
    return _history(client, name, path)


def _tar(client: Client, name: str, reference: str | None, path: str) -> TarExport:
    from diffkeeper.cli.remote import RemoteObjects  # few commands need the engine
    from diffkeeper.replay.tarball import Tarball

    began = clock.monotonic()
    snapshot = resolve(client, name, reference)
    label = f"exporting {name}@{snapshot.seq}"
    objects = RemoteObjects(client.path)
    try:
        with _target(path) as target, output.progress_bar(label, snapshot.bytes) as show:
            tarball = Tarball(objects, target, lambda entries, done: show(done, entries))
            tarball.write(Root.fromhex(snapshot.root))
    finally:
        objects.close()
    return TarExport(
        volume=name,
        to=path,
        format="tar",
        snapshot=snapshot,
        entries=tarball.entries,
        bytes=tarball.bytes,
        sockets_left_out=tarball.sockets,
        seconds=round(clock.monotonic() - began, 3),
    )


def _history(client: Client, name: str, path: str) -> HistoryExport:
    from diffkeeper.cli.remote import RemoteObjects
    from diffkeeper.transfer.archive_write import Exporter

    began = clock.monotonic()
    objects = RemoteObjects(client.path)
    try:
        with _target(path) as target, output.progress_bar(f"exporting {name}", 0) as show:
            exporter = Exporter(objects, target.write, show)
            skipped = _snapshots(client, name, exporter)
    finally:
        objects.close()
    return HistoryExport(
        volume=name,
        to=path,
        format="history",
        snapshots=exporter.snapshots,
        forgotten_meanwhile=skipped,
        objects=exporter.objects,
        bytes=exporter.bytes,
        seconds=round(clock.monotonic() - began, 3),
    )


def _snapshots(client: Client, name: str, exporter: Exporter) -> int:
    """Export all snapshots, from the oldest to the one that is the newest now; returns how many
    were forgotten before they were reached. NotFoundError when there is none."""
    page = _page(client, name, 0)
    volume = VolumeRecord.decode(page.volume.encode())
    exporter.begin(volume, page.format)
    tags = page.tags
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


def _page(client: Client, name: str, after: int) -> RecordsPage:
    return client.ask(RECORDS, query=str(after), name=name).value


def _records(page: RecordsPage) -> list[SnapshotRecord]:
    return [SnapshotRecord.decode(text.encode()) for text in page.snapshots]


def _is_there(client: Client, name: str, seq: int) -> bool:
    try:
        resolve(client, name, str(seq))
    except NotFoundError:
        return False
    return True


def _show(result: TarExport | HistoryExport) -> None:
    """Print what was exported; on standard error if the archive went to standard output."""
    what = _tar_line(result) if isinstance(result, TarExport) else _history_line(result)
    line = f"exported {what} to {result.to} in {result.seconds} s"
    if result.to == STANDARD:
        sys.stderr.write(output.printable(line) + "\n")
    else:
        output.print_line(line)


def _tar_line(result: TarExport) -> str:
    size, left_out = format_size(result.bytes), result.sockets_left_out
    what = f"{result.volume}@{result.snapshot.seq} as tar: {result.entries} entries"
    more = f"; {left_out} sockets left out: a tar has none" if left_out else ""
    return f"{what}, {size} of content{more}"


def _history_line(result: HistoryExport) -> str:
    size, forgotten = format_size(result.bytes), result.forgotten_meanwhile
    what = f"{result.volume} with {result.snapshots} snapshots: {result.objects} objects, {size}"
    return what + (f"; {forgotten} were forgotten meanwhile" if forgotten else "")


COMMAND = Command(
    "export",
    "write a snapshot as a tar, or a volume with its history, into one file",
    run,
    add_arguments,
)
