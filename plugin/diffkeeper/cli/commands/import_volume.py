"""`diffkeeper import`: a new volume from an archive, which the daemon checks."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO, TYPE_CHECKING, cast

from diffkeeper import clock, limits
from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import connect
from diffkeeper.cli.target import STANDARD
from diffkeeper.errors import DiffKeeperError, InvalidInputError
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from diffkeeper.cli.client import Client
    from diffkeeper.volumes.views import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and the volume's name."""
    parser.add_argument("file", metavar="FILE", help="what was exported, or - to pipe")
    new = "name of the new volume"
    parser.add_argument("--as", dest="name", metavar="NAME", required=True, help=new)


def run(arguments: argparse.Namespace) -> int:
    """Import an archive as a new volume."""
    client = connect(arguments)
    try:
        result = import_volume(client, arguments.file, arguments.name)
    finally:
        client.close()
    if arguments.json:
        output.print_json(result)
    else:
        _show(result)
    return 0


def import_volume(client: Client, path: str, name: str) -> Json:
    """Import an archive as the new volume `name`; returns the daemon's answer."""
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

        result = cast("Json", client.upload(volume_path(name, "import"), pieces()))
    return {**result, "seconds": round(clock.monotonic() - began, 3)}


def _read(source: IO[bytes], path: str) -> bytes:
    try:
        return source.read(limits.TRANSFER_PIECE_BYTES)
    except OSError as error:
        raise DiffKeeperError(f"{path} cannot be read: {error.strerror or error}") from error


def _show(result: Json) -> None:
    """Say in one line what was imported."""
    output.print_line(
        f"imported {result['volume']}: {result['snapshots']} snapshots, {result['objects']} objects"
        f" in {result['seconds']} s; the newest is {result['volume']}@{result['head']}"
    )


COMMAND = Command(
    "import", "make a new volume from a file that export --history wrote", run, add_arguments
)
