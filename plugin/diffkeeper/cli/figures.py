"""Numbers and nested objects in a form for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct, structs

from diffkeeper.cli import output
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    from diffkeeper.messages.codec import Json

RANGES_SHOWN_MAX: Final = 20


def show(found: Struct) -> None:
    """The fields as a table of figures."""
    rows = [figure(*item) for item in structs.asdict(found).items()]
    output.print_table(("figure", "value"), rows)


def figure(name: str, value: object) -> tuple[str, str]:
    """One figure as a row; a number of bytes with its unit."""
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes"), format_size(value)
    return name, str(value)


def flatten(value: Json, prefix: str = "") -> list[tuple[str, object]]:
    """Nested objects as `outer.inner` rows."""
    rows: list[tuple[str, object]] = []
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            rows += flatten(inner, f"{prefix}{key}.")
        else:
            rows.append((prefix + key, "-" if inner in ("", None, {}, []) else inner))
    return rows


def ranges(numbers: list[int]) -> str:
    """Ascending numbers as `1-3,5`, cut short after some."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in found[:RANGES_SHOWN_MAX]]
    return ",".join(texts + ["…"] * (len(found) > RANGES_SHOWN_MAX)) or "-"
