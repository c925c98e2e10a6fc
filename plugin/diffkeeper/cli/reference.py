"""The argument `VOLUME@SNAPSHOT` of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from diffkeeper.cli.client import volume_path
from diffkeeper.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse

    from diffkeeper.cli.client import Client
    from diffkeeper.volumes.views import Json


def split_reference(text: str) -> tuple[str, str | None]:
    """Volume and snapshot of `VOL` or `VOL@SNAP`; the latter None when absent."""
    name, at, reference = text.partition("@")
    if at and not reference:
        raise InvalidInputError(f"{text!r} names no snapshot after @")
    return name, reference if at else None


def query(reference: str | None) -> str:
    """The query part of a path that names one snapshot; None is the newest."""
    return "" if reference is None else f"?snapshot={quote(reference, safe='')}"


def resolve(client: Client, name: str, reference: str | None) -> Json:
    """The snapshot that the reference names; the newest `crash` one without it."""
    return cast("Json", client.get(volume_path(name, "resolve") + query(reference)))


def add_snapshot(parser: argparse.ArgumentParser) -> None:
    """The argument of a command for one snapshot, by default the newest one."""
    parser.add_argument("volume", metavar="VOLUME[@SNAPSHOT]")
