"""A container that is being started is let alone: runtimes refuse to start what is frozen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.cgroups import Cgroup, Hierarchy
from tests.support import cgroups

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.freeze.freezer import Freezer

ROOT = "/sys/fs/cgroup"
FROZEN_SECONDS = 0.3
SYSTEM = ("usr", "bin", "lib", "lib64")


class Created:
    """A container that its runtime has created, and not started."""

    def __init__(self, base: Path, above: str = "", within: str = "") -> None:
        """above: name of the cgroup that its own is made below; within: directory of the one that
        its runtime runs in.
        """
        self.name = f"diffkeeper-starts-{os.getpid()}"
        self._join = within and f"echo $$ > {within}/cgroup.procs; "
        self._command = ["runc", "--root", str(base / "state")]
        bundle = base / "bundle"
        for name in (*SYSTEM, "proc"):
            (bundle / "rootfs" / name).mkdir(parents=True)
        subprocess.run(["runc", "spec"], cwd=bundle, check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/bin/sleep", "300"]}
        config["linux"]["cgroupsPath"] = f"{above}/{self.name}"
        config["mounts"] = [each for each in config["mounts"] if each["destination"] == "/proc"] + [
            {"destination": f"/{name}", "source": f"/{name}", "options": ["rbind", "ro"]}
            for name in SYSTEM
        ]
        (bundle / "config.json").write_text(json.dumps(config))
        # What it inherits it would keep: nobody must wait for the end of a pipe of ours.
        with open(base / "log", "wb") as log:
            subprocess.run(
                self._runtime("create", "--bundle", str(bundle), self.name),
                check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60,
            )  # fmt: skip
        state = self._run("state", self.name).stdout
        self.pid = int(json.loads(state)["pid"])
        raw = Path(f"/proc/{self.pid}/cgroup").read_bytes()
        self.cgroup, reason = Hierarchy(ROOT).directory(raw)
        assert not reason, reason

    def _runtime(self, *arguments: str) -> list[str]:
        return ["sh", "-c", f'{self._join}exec "$@"', "sh", *self._command, *arguments]

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._runtime(*arguments), capture_output=True, text=True, timeout=60, check=False
        )

    def start(self) -> str:
        """What the runtime says of an attempt; nothing when the program runs."""
        done = self._run("start", self.name)
        return done.stderr if done.returncode else ""

    def stands(self) -> bool:
        """Whether its cgroup is told to be frozen."""
        v1, v2 = Path(self.cgroup, "freezer.state"), Path(self.cgroup, "cgroup.freeze")
        return v1.read_text() != "THAWED\n" if v1.exists() else v2.read_text() == "1\n"

    def runs(self) -> bool:
        """Whether its program does, once it had time to begin."""
        deadline = time.monotonic() + 20
        while not os.readlink(f"/proc/{self.pid}/exe").endswith("/sleep"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

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
    assert created.runs()
    with freezer.frozen([created.cgroup], 5):
        assert created.stands()
    assert not created.stands()


@pytest.fixture
def outer() -> Iterator[Path]:
    """A cgroup with a program in it, such as that of a container which has containers itself."""
    directory = Path(cgroups.fresh("v1", "outer"))
    program = subprocess.Popen(["/bin/sleep", "300"])
    (directory / "cgroup.procs").write_text(str(program.pid))
    yield directory
    program.kill()
    program.wait()
    for made in Path(ROOT).glob(f"*/{directory.name}"):
        cgroups.remove(made)


@pytest.mark.parametrize("inside", [False, True], ids=["runtime of the host", "runtime within"])
def test_a_nested_container_starts_across_freezes(
    outer: Path, tmp_path: Path, freezer: Freezer, inside: bool
) -> None:
    """It waits for the end of the freeze, is not refused, and is not left frozen."""
    if shutil.which("runc") is None:
        pytest.skip("a container takes runc")
    directory = str(outer)
    with ThreadPoolExecutor(1) as runtime:
        made = runtime.submit(Created, tmp_path, f"/{outer.name}", directory if inside else "")
        while not made.done():
            with freezer.frozen([directory], 5):
                time.sleep(FROZEN_SECONDS)
            time.sleep(0.01)
        nested = made.result()
        try:
            assert nested.cgroup.startswith(f"{directory}/")
            with freezer.frozen([directory], 5) as frozen:
                told = runtime.submit(nested.start)
                time.sleep(FROZEN_SECONDS)
                assert nested.stands()
            assert not frozen.expired
            assert told.result() == ""
            assert nested.runs()
            assert not nested.stands()
        finally:
            nested.delete()


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


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_cgroup_that_is_made_below_a_frozen_one(version: str, freezer: Freezer) -> None:
    """It is frozen with it, and thawed with it."""
    above = cgroups.fresh(version, "above")
    programs = [subprocess.Popen(["/bin/sleep", "300"])]
    Path(above, "cgroup.procs").write_text(str(programs[0].pid))
    below = Path(above, "below")
    try:
        with freezer.frozen([above], 5) as frozen:
            below.mkdir()
            programs.append(subprocess.Popen(["/bin/sleep", "300"]))
            (below / "cgroup.procs").write_text(str(programs[1].pid))
            reached(below, frozen=True)
        assert not frozen.expired
        reached(below, frozen=False)
    finally:
        for program in programs:
            program.kill()
            program.wait()
        below.rmdir()
        os.rmdir(above)


def reached(directory: Path, *, frozen: bool) -> None:
    cgroup = Cgroup.open(str(directory))
    assert cgroup is not None
    deadline = time.monotonic() + 20
    while cgroup.frozen() != frozen:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    cgroup.close()
