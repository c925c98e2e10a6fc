"""`diffkeeper import`: a new volume from an archive, which the daemon checks."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING

from msgspec import structs

from diffkeeper import clock, limits
from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.target import STANDARD
from diffkeeper.errors import DiffKeeperError, InvalidInputError
from diffkeeper.messages.volumes import IMPORT
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from diffkeeper.cli.client import Answer, Client
    from diffkeeper.messages.volumes import ImportReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and the volume's name."""
    parser.add_argument("file", metavar="FILE", help="what was exported, or - to pipe")
    new = "name of the new volume"
    parser.add_argument("--as", dest="name", metavar="NAME", required=True, help=new)


def run(arguments: argparse.Namespace) -> int:
    """Import an archive as a new volume."""
    client = connect(arguments)
    try:
        answer, seconds = import_volume(client, arguments.file, arguments.name)
    finally:
        client.close()
    if arguments.json:
        output.print_json({**structs.asdict(answer.value), "seconds": seconds})
    else:
        _show(answer.value, seconds)
    return 0


def import_volume(client: Client, path: str, name: str) -> tuple[Answer[ImportReport], float]:
    """Import an archive as the new volume `name`; the daemon\'s answer, and seconds it took."""
    check_name(name)
    began = clock.monotonic()
    with contextlib.ExitStack() as stack:
        if path == STANDARD:
            source, total = sys.stdin.buffer, 0
        else:
            try:
                source = stack.enter_context(open(path, "rb"))
            except OSError as error:
                raise InvalidInputError(f"{path}: {error.strerror}") from error
            total = os.fstat(source.fileno()).st_size
        show = stack.enter_context(output.progress_bar(f"importing {name}", total))

        def pieces() -> Iterator[bytes]:
            done = 0
            while piece := _read(source, path):
                yield piece
                done += len(piece)
                show(done)

        answer = client.upload(IMPORT, pieces(), name=name)
    return answer, round(clock.monotonic() - began, 3)


def _read(source: IO[bytes], path: str) -> bytes:
    try:
        return source.read(limits.TRANSFER_PIECE_BYTES)
    except OSError as error:
        raise DiffKeeperError(f"{path} cannot be read: {error.strerror or error}") from error


def _show(report: ImportReport, seconds: float) -> None:
    output.print_line(
        f"imported {report.volume}: {report.snapshots} snapshots, {report.objects} objects"
        f" in {seconds} s; the newest is {report.volume}@{report.head}"
    )


COMMAND = Command(
    "import", "make a new volume from a file that export --history wrote", run, add_arguments
)
