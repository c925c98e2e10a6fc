"""`diffkeeper tag` and `untag`: adds or removes a name of a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.cli.reference import add_snapshot, split_reference
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def add_tag_arguments(parser: argparse.ArgumentParser) -> None:
    """The snapshot and its new tag."""
    add_snapshot(parser)
    parser.add_argument("tag", metavar="TAG")


def tag(arguments: argparse.Namespace) -> int:
    """Give a snapshot a name, under which it is kept."""
    name, reference = split_reference(arguments.volume)
    message = {"tag": arguments.tag, "snapshot": reference}
    path = volume_path(check_name(name), "tags")
    snapshot = cast("Json", ask(arguments, "POST", path, message))
    if arguments.json:
        output.print_json(snapshot)
    else:
        output.print_line(f"{name}@{snapshot['seq']} of {snapshot['time']} is {arguments.tag}")
    return 0


def add_untag_arguments(parser: argparse.ArgumentParser) -> None:
    """The volume and the tag."""
    add_volume(parser)
    parser.add_argument("tag", metavar="TAG")


def untag(arguments: argparse.Namespace) -> int:
    """Remove a tag; its snapshot is thinned like any other then."""
    path = volume_path(check_name(arguments.volume), "tags", quote(arguments.tag, safe=""))
    done = cast("Json", ask(arguments, "DELETE", path))
    if arguments.json:
        output.print_json(done)
    else:
        output.print_line(f"{arguments.volume}@{done['seq']} is not {arguments.tag} any more")
    return 0


TAG = Command("tag", "give a snapshot a name, under which it is kept", tag, add_tag_arguments)
UNTAG = Command("untag", "take such a name away", untag, add_untag_arguments)
