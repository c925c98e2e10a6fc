"""`diffkeeper repair`: show what is damaged, ask, put recorded bytes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import structs

from diffkeeper.cli import output
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.confirmation import add_yes, confirm
from diffkeeper.cli.connection import ask
from diffkeeper.errors import VerificationError
from diffkeeper.messages.integrity import REPAIR, RepairRequest
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.path_arguments import check_path
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.integrity import RepairedFile, RepairReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The volume, and some of its files."""
    add_volume(parser)
    which = "file below the volume's top directory; all that are damaged by default"
    parser.add_argument("paths", metavar="PATH", nargs="*", help=which)
    parser.add_argument("--dry-run", action="store_true", help="show what is damaged only")
    add_yes(parser)


def run(arguments: argparse.Namespace) -> int:
    """Repair damaged files; raises VerificationError when some stay damaged."""
    name = check_name(arguments.volume)
    for path in arguments.paths:
        check_path(path)
    report = _ask(arguments, name, arguments.paths or None, dry_run=True)
    if not arguments.json:
        _show(report)
    files = report.files
    if files and not arguments.dry_run:
        size = format_size(sum(each.bytes for each in files))
        what = f"{size} in {len(files)} files of {name} would be overwritten"
        confirm(arguments, f"Overwrite {size} in {len(files)} files of {name}", what)
        # What was shown, and nothing else.
        paths = [path for each in files for path in (each.path, *each.other_names)]
        done = _ask(arguments, name, paths, dry_run=False)
        report = structs.replace(
            done,
            complete=report.complete,
            refused=report.refused,
            whole=[*report.whole, *done.whole],
        )
        if not arguments.json:
            _show_done(report)
    if arguments.json:
        output.print_json(report)
    _judge(name, report)
    return 0


def _ask(
    arguments: argparse.Namespace, name: str, paths: list[str] | None, *, dry_run: bool
) -> RepairReport:
    doing = "looking for damage in" if dry_run else "repairing"
    with output.waiting(f"{doing} {name}"):
        return ask(arguments, REPAIR, RepairRequest(paths, dry_run), name=name).value


def _show(report: RepairReport) -> None:
    for path in report.whole:
        output.print_line(f"{path} is whole")
    if report.files:
        heads = ("damaged file", "bytes", "unreadable", "where")
        rows = [[_names(f), f.bytes, f.unreadable_bytes, _ranges(f)] for f in report.files]
        output.print_table(heads, rows)
    if report.refused:
        rows = [[each.path, each.problem] for each in report.refused]
        output.print_table(("not to be repaired", "why"), rows)
    if not (report.files or report.refused or report.whole):
        output.print_line(f"{report.volume} is whole: it is as {_source(report)} records it")


def _names(file: RepairedFile) -> str:
    return ", ".join((file.path, *file.other_names))


def _ranges(file: RepairedFile) -> str:
    text = ", ".join(f"{start}-{end - 1}" for start, end in file.ranges)
    left = file.ranges_left_out
    return f"{text}, and {left} more" if left else text


def _source(report: RepairReport) -> str:
    return f"{report.volume}@{report.seq}"


def _show_done(report: RepairReport) -> None:
    for each in report.files:
        why = f": {each.problem}" if each.problem else f" from {_source(report)}"
        output.print_line(f"{each.outcome} {_names(each)}{why}")
    if report.kept is not None:
        volume, tag = report.volume, report.kept.tag
        output.print_line(
            f"what was on disk is {volume}@{tag}; to let it go: diffkeeper untag {volume} {tag}"
        )


def _judge(name: str, report: RepairReport) -> None:
    left = len(report.refused) + sum(each.outcome == "failed" for each in report.files)
    if left:
        raise VerificationError(f"{left} paths of {name} differ and were not repaired")
    if not report.complete:
        raise VerificationError(f"there may be more in {name}: repair again")


COMMAND = Command(
    "repair",
    "put recorded bytes back into damaged files of a volume that nothing has mounted",
    run,
    add_arguments,
)
