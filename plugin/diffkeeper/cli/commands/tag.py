"""`diffkeeper tag` and `untag`: adds or removes a name of a snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.cli.reference import add_snapshot, split_reference
from diffkeeper.messages import snapshots
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.snapshots import SnapshotView, Untagged


def add_tag_arguments(parser: argparse.ArgumentParser) -> None:
    """The snapshot and its new tag."""
    add_snapshot(parser)
    parser.add_argument("tag", metavar="TAG")


def tag(arguments: argparse.Namespace) -> int:
    """Give a snapshot a name, under which it is kept."""
    name, reference = split_reference(arguments.volume)
    message = snapshots.TagRequest(arguments.tag, reference)
    answer = ask(arguments, snapshots.TAG, message, name=check_name(name))

    def show(found: SnapshotView) -> None:
        output.print_line(f"{name}@{found.seq} of {found.time} is {arguments.tag}")

    return output.give(arguments, answer, show)


def add_untag_arguments(parser: argparse.ArgumentParser) -> None:
    """The volume and the tag."""
    add_volume(parser)
    parser.add_argument("tag", metavar="TAG")


def untag(arguments: argparse.Namespace) -> int:
    """Remove a tag; its snapshot is thinned like any other then."""
    name = check_name(arguments.volume)
    answer = ask(arguments, snapshots.UNTAG, name=name, tag=arguments.tag)

    def show(done: Untagged) -> None:
        output.print_line(f"{name}@{done.seq} is not {arguments.tag} any more")

    return output.give(arguments, answer, show)


TAG = Command("tag", "give a snapshot a name, under which it is kept", tag, add_tag_arguments)
UNTAG = Command("untag", "take such a name away", untag, add_untag_arguments)
