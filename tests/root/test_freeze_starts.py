"""A container that is being started is let alone: runtimes refuse to start what is frozen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.cgroups import Hierarchy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.freeze.freezer import Freezer

ROOT = "/sys/fs/cgroup"
SYSTEM = ("usr", "bin", "lib", "lib64")


class Created:
    """A container that its runtime has created, and not started."""

    def __init__(self, base: Path) -> None:
        self.name = f"diffkeeper-starts-{os.getpid()}"
        self._command = ["runc", "--root", str(base / "state")]
        bundle = base / "bundle"
        for name in (*SYSTEM, "proc"):
            (bundle / "rootfs" / name).mkdir(parents=True)
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/bin/sleep", "300"]}
        config["linux"]["cgroupsPath"] = f"/{self.name}"
        config["mounts"] = [each for each in config["mounts"] if each["destination"] == "/proc"] + [
            {"destination": f"/{name}", "source": f"/{name}", "options": ["rbind", "ro"]}
            for name in SYSTEM
        ]
        (bundle / "config.json").write_text(json.dumps(config))
        # What it inherits it would keep: nobody must wait for the end of a pipe of ours.
        with open(base / "log", "wb") as log:
            subprocess.run(
                [*self._command, "create", "--bundle", str(bundle), self.name],
                check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60,
            )  # fmt: skip
        state = self._run("state", self.name).stdout
        self.pid = int(json.loads(state)["pid"])
        raw = Path(f"/proc/{self.pid}/cgroup").read_bytes()
        self.cgroup, reason = Hierarchy(ROOT).directory(raw)
        assert not reason, reason

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    def start(self) -> str:
        """What the runtime says of an attempt; nothing when the program runs."""
        done = self._run("start", self.name)
        return done.stderr if done.returncode else ""

    def stands(self) -> bool:
        """Whether its cgroup is told to be frozen."""
        v1, v2 = Path(self.cgroup, "freezer.state"), Path(self.cgroup, "cgroup.freeze")
        return v1.read_text() != "THAWED\n" if v1.exists() else v2.read_text() == "1\n"

    def delete(self) -> None:
        self._run("delete", "--force", self.name)


@pytest.fixture
def created(tmp_path: Path) -> Iterator[Created]:
    if shutil.which("runc") is None:
        pytest.skip("a container takes runc")
    made = Created(tmp_path)
    yield made
    made.delete()


def test_a_container_starts_within_a_freeze(created: Created, freezer: Freezer) -> None:
    with freezer.frozen([created.cgroup], 5) as frozen:
        assert not created.stands()
        assert created.start() == ""
    assert not frozen.expired
    deadline = time.monotonic() + 20
    while not os.readlink(f"/proc/{created.pid}/exe").endswith("/sleep"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with freezer.frozen([created.cgroup], 5):
        assert created.stands()
    assert not created.stands()


def test_an_empty_cgroup_is_let_alone(created: Created, freezer: Freezer) -> None:
    """Runtimes make the cgroup first, and go into it then."""
    above = Path(created.cgroup).parent / f"{created.name}-empty"
    above.mkdir()
    try:
        with freezer.frozen([str(above)], 5):
            state = above / "freezer.state"
            assert not state.exists() or state.read_text() == "THAWED\n"
    finally:
        above.rmdir()
