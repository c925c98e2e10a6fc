"""`diffkeeper doctor`: the engine, this machine and, if one runs, the daemon's own findings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.cli import discover, output
from diffkeeper.cli.client import Client
from diffkeeper.cli.command import Command
from diffkeeper.cli.connection import socket_path
from diffkeeper.daemon import config
from diffkeeper.errors import ConflictError, DiffKeeperError, UnavailableError
from diffkeeper.messages.machine import DOCTOR, Check

if TYPE_CHECKING:
    import argparse


def run(arguments: argparse.Namespace) -> int:
    """Check the machine; exit code 1 when something fails."""
    findings = examine(arguments, config.load({"socket": arguments.socket}, os.environ))
    if arguments.json:
        output.print_json(findings)
    else:
        _show(findings)
    failed = any(finding.result == "fail" for finding in findings)
    return DiffKeeperError.exit_code if failed else 0


def examine(arguments: argparse.Namespace, loaded: config.Config) -> list[Check]:
    """All findings. With a daemon, what it sees from where it runs; else what is seen from here."""
    # No other command looks at the machine, or asks the engine.
    from diffkeeper.api import checks
    from diffkeeper.cli import engine_checks
    from diffkeeper.service.ebpf_features import of_machine

    findings = engine_checks.run()
    try:
        path = _live(socket_path(arguments))
        found = _ask(path)
    except DiffKeeperError as error:
        places = checks.CheckedPaths(loaded.state_dir, loaded.cgroup_root, loaded.proc_root)
        here = [*checks.run(places), *checks.ebpf(of_machine(loaded.kernel_headers))]
        return [*findings, no_daemon(error), *here]
    return [*findings, Check("daemon", "ok", f"answers on {path}"), *found]


def _live(path: str) -> str:
    problem = discover.probe(path)
    if problem:
        raise UnavailableError(problem)
    return path


def _ask(path: str) -> list[Check]:
    client = Client(path)
    try:
        return client.ask(DOCTOR).value
    finally:
        client.close()


def no_daemon(error: DiffKeeperError) -> Check:
    """The finding where no daemon was asked: none answers, or several do (ConflictError)."""
    several = isinstance(error, ConflictError)
    cost = "which daemon is meant is not known" if several else "no volume can be used"
    start = "docker plugin enable diffkeeper, or run `diffkeeper serve`"
    return Check(
        "daemon",
        "warn",
        str(error),
        f"{cost}; what follows is what this machine offers to a daemon",
        "name one: diffkeeper --socket PATH doctor" if several else start,
    )


def _show(findings: list[Check]) -> None:
    """Print the findings, and below them the cost and remedy of each that has one."""
    headers = ("check", "result", "found")
    output.print_table(headers, [[each.name, each.result, each.found] for each in findings])
    for finding in findings:
        if finding.cost:
            output.print_line("")
            output.print_line(f"{finding.result} {finding.name}: {finding.cost}")
            output.print_line(f"  mend: {finding.mend}")


COMMAND = Command(
    "doctor", "say what is missing on this machine, what it costs and how to mend it", run
)
