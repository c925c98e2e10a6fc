"""The managed plugin has what eBPF programs need: bcc, kernel headers, tracefs, capabilities."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.docker.engine import REPOSITORY

if TYPE_CHECKING:
    from tests.docker.managed import ManagedPlugin

TRIAL = REPOSITORY / "tests" / "support" / "bpf_trial.py"
SHIPPED = "/usr/share/diffkeeper"


def inside(plugin: ManagedPlugin, *command: str, stdin: str = "") -> str:
    """Output of a command in the plugin's container, with the plugin's capabilities and no more."""
    (runtime,) = plugin.engine.run_dir.glob("exec/runtime-*/plugins.moby")
    done = subprocess.run(
        ["runc", "--root", str(runtime), "exec", plugin.id, *command],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_write_is_seen_by_the_shipped_programs(plugin: ManagedPlugin) -> None:
    path = "/host/lib/diffkeeper/trial"
    command = ["python3", "-", f"{SHIPPED}/headers", f"{SHIPPED}/bpf", path]
    told = inside(plugin, *command, stdin=TRIAL.read_text())
    (plugin.state_dir / "trial").unlink()
    lines = dict(line.split(" ", 1) for line in told.splitlines())
    assert "ext4/ext4_da_write_end" in lines["events"].split()
    assert lines["chunks"] == "1"
