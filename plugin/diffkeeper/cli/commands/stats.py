"""`diffkeeper stats`: what the store and each volume take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.figures import figure, flatten
from diffkeeper.errors import BusyError
from diffkeeper.volumes.options import check_name, format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json

ACCOUNT_FIELDS: Final = ("logical", "unique", "shared", "stored", "unique_stored")
ACCOUNT_HEADS: Final = ("volume", "files", *ACCOUNT_FIELDS[1:4], "alone", "ratio", "a day", "age")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One volume, or the store."""
    parser.add_argument("volume", metavar="VOLUME", nargs="?")


def run(arguments: argparse.Namespace) -> int:
    """Totals of the store and what each volume takes, counted now; or one volume's figures."""
    with output.waiting("counting"):
        found = cast("Json", ask(arguments, "POST", "/v1/stats", {}))
    accounting = cast("Json", found.pop("accounting") or {})
    each = cast("dict[str, Json]", accounting.get("volumes", {}))
    if arguments.volume is not None:
        name = check_name(arguments.volume)
        if name not in each:
            raise _not_counted(arguments, name)
        found, each = {"volume": name, **each[name]}, {}
    else:
        found |= {"accounting": accounting or None} if arguments.json else {}
    if arguments.json:
        output.print_json(found)
        return 0
    totals = flatten({**found, "scrub": _last_scrub(found)} if "scrub" in found else found)
    output.print_table(("total", "value"), [figure(*item) for item in totals])
    if each:
        output.print_line("")
        output.print_table(ACCOUNT_HEADS, [_account_row(n, each[n]) for n in sorted(each)])
    return 0


def _last_scrub(found: Json) -> Json:
    """Figures of the last scrub without its list of paths, which `scrub` shows."""
    last = cast("Json", found["scrub"])["last"]
    return {k: v for k, v in last.items() if k != "lost"} if isinstance(last, dict) else {}


def _not_counted(arguments: argparse.Namespace, name: str) -> BusyError:
    """The error where a volume has no figures; raises NotFoundError when there is no volume."""
    ask(arguments, "GET", volume_path(name))
    return BusyError(f"volume {name} is still being counted; ask again")


def _account_row(name: str, account: Json) -> list[object]:
    sizes = [format_size(cast("int", account[f"{field}_bytes"])) for field in ACCOUNT_FIELDS]
    growth = account["growth_bytes_per_day"]
    daily = "-" if growth is None else format_size(cast("int", growth))
    age = f"{cast('float', account['age_seconds']):.0f}s"
    return [name, *sizes, account["ratio"] or "-", daily, age]


COMMAND = Command("stats", "show what the store and each volume take", run, add_arguments)
