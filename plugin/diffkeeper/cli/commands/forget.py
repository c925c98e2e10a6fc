"""`diffkeeper forget`: removes snapshots of one volume, all that are named or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import ranges
from diffkeeper.cli.reference import split_reference
from diffkeeper.errors import InvalidInputError
from diffkeeper.messages.snapshots import FORGET, ForgetRequest
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.snapshots import Forgotten


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The snapshots."""
    parser.add_argument("snapshots", metavar="VOLUME@SNAPSHOT", nargs="+")


def run(arguments: argparse.Namespace) -> int:
    """Forget snapshots of one volume, all of them or none."""
    chosen = [split_reference(text) for text in arguments.snapshots]
    names = {name for name, _ in chosen}
    if len(names) > 1:
        raise InvalidInputError("name snapshots of one volume; nothing was forgotten")
    references = [reference for _, reference in chosen if reference is not None]
    if len(references) < len(chosen):
        raise InvalidInputError("say which snapshots: VOLUME@SNAPSHOT; nothing was forgotten")
    name = check_name(names.pop())
    answer = ask(arguments, FORGET, ForgetRequest(references), name=name)

    def show(done: Forgotten) -> None:
        seqs = done.forgotten
        output.print_line(f"forgot {len(seqs)} snapshots of {name}: {ranges(seqs)}")

    return output.give(arguments, answer, show)


COMMAND = Command("forget", "forget snapshots, all that are named or none", run, add_arguments)
