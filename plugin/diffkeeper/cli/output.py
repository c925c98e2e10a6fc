"""Output of commands: tables on a terminal, plain columns in a pipe, JSON on request."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from diffkeeper.messages.codec import plain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from diffkeeper.cli.client import Answer

A = TypeVar("A")

STYLES = {
    "ok": "green",
    "crash": "green",
    "warn": "yellow",
    "fuzzy": "yellow",
    "fail": "bold red",
    "damaged": "bold red",
}


def printable(value: object) -> str:
    """Text without control characters, since names come from inside containers."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_json(value: object) -> None:
    """`value`, which may hold structures, as indented JSON."""
    sys.stdout.write(json.dumps(plain(value), indent=2) + "\n")


def give(arguments: argparse.Namespace, answer: Answer[A], show: Callable[[A], None]) -> int:
    """The daemon's answer as it came for `--json`, else as `show` prints it; exit code 0."""
    if arguments.json:
        print_json(answer.plain)
    else:
        show(answer.value)
    return 0


def print_line(text: str) -> None:
    """One line."""
    sys.stdout.write(printable(text) + "\n")


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on a terminal; aligned columns without frames or cuts anywhere else."""
    texts = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*headers, header_style="bold", box=None, pad_edge=False)
        for row in texts:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        Console(highlight=False).print(table)
        return
    lines = [[header.upper() for header in headers], *texts]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner on standard error while something without progress runs."""
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(printable(text))):
        yield


@contextmanager
def progress_bar(text: str, total_bytes: int) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error if that is a terminal; yields a function for the bytes done
    so far, and the objects if those are counted. A total of 0 means unknown.
    """
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(binary_units=True),
        bars.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with bars.Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(printable(text), total=total_bytes or None)

        def show(done: int, objects: int | None = None) -> None:
            counted = "" if objects is None else f", {objects} objects"
            progress.update(task, completed=done, description=printable(text) + counted)

        yield show


def discard_output() -> None:
    """Discard what is still buffered: the reader of the pipe has gone."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
