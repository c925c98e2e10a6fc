"""`diffkeeper stats`: what the store and each volume take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import structs, to_builtins

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import figure, flatten
from diffkeeper.errors import BusyError
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.store import COUNT
from diffkeeper.messages.volumes import INSPECT
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.codec import Json
    from diffkeeper.messages.store import StoreStatistics, VolumeUsage

ACCOUNT_HEADS: Final = (
    *("volume", "files", "unique", "shared", "stored", "alone", "ratio", "a day", "age"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One volume, or the store."""
    parser.add_argument("volume", metavar="VOLUME", nargs="?")


def run(arguments: argparse.Namespace) -> int:
    """Totals of the store and what each volume takes, counted now; or one volume's figures."""
    with output.waiting("counting"):
        answer = ask(arguments, COUNT, NoArguments())
    if arguments.volume is None:
        return output.give(arguments, answer, _show)
    name = check_name(arguments.volume)
    accounting = answer.value.accounting
    if accounting is None or name not in accounting.volumes:
        raise _not_counted(arguments, name)
    found = {"volume": name, **structs.asdict(accounting.volumes[name])}
    if arguments.json:
        output.print_json(found)
    else:
        _show_totals(found)
    return 0


def _not_counted(arguments: argparse.Namespace, name: str) -> BusyError:
    """Why there are no figures of a volume; raises NotFoundError when there is no volume."""
    ask(arguments, INSPECT, name=name)
    return BusyError(f"volume {name} is still being counted; ask again")


def _show(found: StoreStatistics) -> None:
    totals = to_builtins(found)
    del totals["accounting"]
    # The list of paths is shown by `scrub`.
    last = totals["scrub"]["last"] or {}
    totals["scrub"] = {name: value for name, value in last.items() if name != "lost"}
    _show_totals(totals)
    each = found.accounting.volumes if found.accounting is not None else {}
    if each:
        output.print_line("")
        output.print_table(ACCOUNT_HEADS, [_row(name, each[name]) for name in sorted(each)])


def _show_totals(totals: Json) -> None:
    output.print_table(("total", "value"), [figure(*item) for item in flatten(totals)])


def _row(name: str, usage: VolumeUsage) -> list[object]:
    sizes = (usage.logical_bytes, usage.unique_bytes, usage.shared_bytes, usage.stored_bytes)
    alone, growth = usage.unique_stored_bytes, usage.growth_bytes_per_day
    daily = "-" if growth is None else format_size(growth)
    age = f"{usage.age_seconds:.0f}s"
    return [name, *map(format_size, (*sizes, alone)), usage.ratio or "-", daily, age]


COMMAND = Command("stats", "show what the store and each volume take", run, add_arguments)
