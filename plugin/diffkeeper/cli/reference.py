"""The argument `VOLUME@SNAPSHOT` of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.errors import InvalidInputError
from diffkeeper.messages.snapshots import RESOLVE

if TYPE_CHECKING:
    import argparse

    from diffkeeper.cli.client import Client
    from diffkeeper.messages.snapshots import SnapshotView


def split_reference(text: str) -> tuple[str, str | None]:
    """Volume and snapshot of `VOL` or `VOL@SNAP`; the latter None when absent."""
    name, at, reference = text.partition("@")
    if at and not reference:
        raise InvalidInputError(f"{text!r} names no snapshot after @")
    return name, reference if at else None


def resolve(client: Client, name: str, reference: str | None) -> SnapshotView:
    """The snapshot that the reference names; the newest `crash` one without it."""
    return client.ask(RESOLVE, query=reference, name=name).value


def add_snapshot(parser: argparse.ArgumentParser) -> None:
    """The argument of a command for one snapshot, by default the newest one."""
    parser.add_argument("volume", metavar="VOLUME[@SNAPSHOT]")
