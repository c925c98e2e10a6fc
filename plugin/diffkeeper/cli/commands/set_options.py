"""`diffkeeper set` and `rename`: what is changed of a volume that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.connection import ask
from diffkeeper.errors import InvalidInputError
from diffkeeper.volumes.options import check_name

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def set_options(arguments: argparse.Namespace) -> int:
    """Set options of a volume; an empty value is the default."""
    name = check_name(arguments.volume)
    given: dict[str, str | None] = {}
    for text in arguments.options:
        option, equals, value = text.partition("=")
        if not equals:
            raise InvalidInputError(f"{text!r} is not OPTION=VALUE such as interval=5s")
        given[option] = value or None
    path = volume_path(name, "options")
    found = cast("Json", ask(arguments, "POST", path, {"options": given}))
    if arguments.json:
        output.print_json(found)
    else:
        options = cast("dict[str, str]", found["options"])
        shown = " ".join(f"{option}={options[option]}" for option in sorted(options))
        output.print_line(f"{name} has {shown or 'all options at their defaults'}")
    return 0


def rename(arguments: argparse.Namespace) -> int:
    """Give a volume another name."""
    name, target = check_name(arguments.volume), check_name(arguments.to)
    found = cast("Json", ask(arguments, "POST", volume_path(name, "rename"), {"as": target}))
    if arguments.json:
        output.print_json(found)
    else:
        output.print_line(f"{name} is {found['name']} now")
    return 0
