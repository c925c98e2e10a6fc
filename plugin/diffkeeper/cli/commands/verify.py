"""`diffkeeper verify`: compares a volume, or one of its snapshots, with its Merkle root."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffkeeper.cli import output
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import ask
from diffkeeper.cli.reference import add_snapshot, split_reference
from diffkeeper.errors import VerificationError
from diffkeeper.messages.integrity import VERIFY, VerifyRequest
from diffkeeper.volumes.names import check_name
from diffkeeper.volumes.units import format_size

if TYPE_CHECKING:
    import argparse

    from diffkeeper.messages.integrity import VerifyReport


def run(arguments: argparse.Namespace) -> int:
    """Verify a volume against its snapshot; raises VerificationError when it differs."""
    name, reference = split_reference(arguments.volume)
    check_name(name)
    with output.waiting(f"verifying {arguments.volume}"):
        answer = ask(arguments, VERIFY, VerifyRequest(reference), name=name)
    output.give(arguments, answer, _show)
    report = answer.value
    if not report.ok:
        raise VerificationError(
            f"volume {name} differs from snapshot {report.seq} in {len(report.faults)} places"
        )
    return 0


def _show(report: VerifyReport) -> None:
    verdict = "whole" if report.ok else "damaged"
    extent = "" if report.complete else " (only in part: the time ran out)"
    output.print_line(
        f"{report.volume}@{report.seq} is {verdict}{extent}: {report.files} files,"
        f" {format_size(report.bytes)} in {report.milliseconds:.0f} ms"
    )
    if report.faults:
        rows = [[fault.path, fault.problem] for fault in report.faults]
        output.print_table(("path", "problem"), rows)
    if report.repair:
        count = sum(fault.damaged for fault in report.faults)
        output.print_line(
            f"{count} of these nobody wrote to; when nothing has the volume mounted, put the"
            f" recorded bytes back: {report.repair}"
        )


COMMAND = Command(
    "verify",
    "check a volume, or one of its snapshots, against the Merkle root",
    run,
    add_snapshot,
)
