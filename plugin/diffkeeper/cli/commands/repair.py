"""`diffkeeper repair`: show what is damaged, ask, put recorded bytes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command, add_volume
from diffkeeper.cli.confirmation import add_yes, confirm
from diffkeeper.cli.connection import ask
from diffkeeper.errors import VerificationError
from diffkeeper.volumes.options import check_name, format_size
from diffkeeper.volumes.path_arguments import check_path

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


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
    files = cast("list[Json]", report["files"])
    if files and not arguments.dry_run:
        size = format_size(sum(cast("int", each["bytes"]) for each in files))
        what = f"{size} in {len(files)} files of {name} would be overwritten"
        confirm(arguments, f"Overwrite {size} in {len(files)} files of {name}", what)
        # What was shown, and nothing else.
        paths = [path for each in files for path in _paths(each)]
        done = _ask(arguments, name, paths, dry_run=False)
        report = {**done, "complete": report["complete"], "refused": report["refused"]}
        report["whole"] = [*cast("list[str]", report["whole"]), *cast("list[str]", done["whole"])]
        if not arguments.json:
            _show_done(report)
    if arguments.json:
        output.print_json(report)
    _judge(name, report)
    return 0


def _ask(arguments: argparse.Namespace, name: str, paths: object, *, dry_run: bool) -> Json:
    message = {"paths": paths, "dry_run": dry_run}
    doing = "looking for damage in" if dry_run else "repairing"
    with output.waiting(f"{doing} {name}"):
        return cast("Json", ask(arguments, "POST", volume_path(name, "repair"), message))


def _show(report: Json) -> None:
    files, refused = (cast("list[Json]", report[name]) for name in ("files", "refused"))
    for path in cast("list[str]", report["whole"]):
        output.print_line(f"{path} is whole")
    if files:
        heads = ("damaged file", "bytes", "unreadable", "where")
        rows = [[_names(f), f["bytes"], f["unreadable_bytes"], _ranges(f)] for f in files]
        output.print_table(heads, rows)
    if refused:
        rows = [[each["path"], each["problem"]] for each in refused]
        output.print_table(("not to be repaired", "why"), rows)
    if not (files or refused or report["whole"]):
        output.print_line(f"{report['volume']} is whole: it is as {_source(report)} records it")


def _paths(file: Json) -> list[str]:
    return [str(file["path"]), *cast("list[str]", file["other_names"])]


def _names(file: Json) -> str:
    return ", ".join(_paths(file))


def _ranges(file: Json) -> str:
    ranges = cast("list[list[int]]", file["ranges"])
    text = ", ".join(f"{start}-{end - 1}" for start, end in ranges)
    left = file["ranges_left_out"]
    return f"{text}, and {left} more" if left else text


def _source(report: Json) -> str:
    return f"{report['volume']}@{report['seq']}"


def _show_done(report: Json) -> None:
    for each in cast("list[Json]", report["files"]):
        why = f": {each['problem']}" if each["problem"] else f" from {_source(report)}"
        output.print_line(f"{each['outcome']} {_names(each)}{why}")
    kept = cast("Json | None", report["kept"])
    if kept is not None:
        volume = report["volume"]
        output.print_line(
            f"what was on disk is {volume}@{kept['tag']};"
            f" to let it go: diffkeeper untag {volume} {kept['tag']}"
        )


def _judge(name: str, report: Json) -> None:
    files, refused = (cast("list[Json]", report[key]) for key in ("files", "refused"))
    left = len(refused) + sum(each["outcome"] == "failed" for each in files)
    if left:
        raise VerificationError(f"{left} paths of {name} differ and were not repaired")
    if not report["complete"]:
        raise VerificationError(f"there may be more in {name}: repair again")


COMMAND = Command(
    "repair",
    "put recorded bytes back into damaged files of a volume that nothing has mounted",
    run,
    add_arguments,
)
