"""`diffkeeper verify`: compares a volume, or one of its snapshots, with its Merkle root."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from diffkeeper.cli import output
from diffkeeper.cli.client import volume_path
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.reference import add_snapshot, split_reference
from diffkeeper.errors import VerificationError
from diffkeeper.volumes.options import check_name, format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.volumes.views import Json


def run(arguments: argparse.Namespace) -> int:
    """Verify a volume against its snapshot; raises VerificationError when it differs."""
    name, reference = split_reference(arguments.volume)
    path = volume_path(check_name(name), "verify")
    with output.waiting(f"verifying {arguments.volume}"):
        report = cast("Json", ask(arguments, "POST", path, {"snapshot": reference}))
    if arguments.json:
        output.print_json(report)
    else:
        _show(report)
    if not report["ok"]:
        faults = cast("list[Json]", report["faults"])
        raise VerificationError(
            f"volume {name} differs from snapshot {report['seq']} in {len(faults)} places"
        )
    return 0


def _show(report: Json) -> None:
    verdict = "whole" if report["ok"] else "damaged"
    extent = "" if report["complete"] else " (only in part: the time ran out)"
    output.print_line(
        f"{report['volume']}@{report['seq']} is {verdict}{extent}: {report['files']} files,"
        f" {format_size(cast('int', report['bytes']))}"
        f" in {cast('float', report['milliseconds']):.0f} ms"
    )
    faults = cast("list[Json]", report["faults"])
    if faults:
        output.print_table(("path", "problem"), [[f["path"], f["problem"]] for f in faults])
    if report["repair"]:
        count = sum(bool(fault["damaged"]) for fault in faults)
        output.print_line(
            f"{count} of these nobody wrote to; when nothing has the volume mounted, put the"
            f" recorded bytes back: {report['repair']}"
        )


COMMAND = Command(
    "verify",
    "check a volume, or one of its snapshots, against the Merkle root",
    run,
    add_snapshot,
)
