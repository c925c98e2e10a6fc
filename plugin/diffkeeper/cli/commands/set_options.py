"""`diffkeeper set`: changes options of an existing volume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.connection import ask
from diffkeeper.errors import InvalidInputError
from diffkeeper.messages.volumes import SET, SetRequest
from diffkeeper.volumes.names import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.volumes import VolumeView


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The volume and its options."""
    add_volume(parser)
    form = "such as interval=5s; without a value the default"
    parser.add_argument("options", metavar="OPTION=VALUE", nargs="+", help=form)


def run(arguments: argparse.Namespace) -> int:
    """Set options of a volume; an empty value is the default."""
    name = check_name(arguments.volume)
    given: dict[str, str | None] = {}
    for text in arguments.options:
        option, equals, value = text.partition("=")
        if not equals:
            raise InvalidInputError(f"{text!r} is not OPTION=VALUE such as interval=5s")
        given[option] = value or None
    answer = ask(arguments, SET, SetRequest(given), name=name)

    def show(found: VolumeView) -> None:
        options = found.options
        shown = " ".join(f"{option}={options[option]}" for option in sorted(options))
        output.print_line(f"{name} has {shown or 'all options at their defaults'}")

    return output.give(arguments, answer, show)


COMMAND = Command("set", "change options of a volume", run, add_arguments)
