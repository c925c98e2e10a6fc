"""Who could write to several volumes, and writes to none, makes no group of them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import diffkeeper
from diffkeeper.freeze import observers
from diffkeeper.freeze.writers import Survey, Target, Writers
from diffkeeper.fsio import mountinfo
from tests.support.containers import Container

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("a", "b")
# Waits to be told, and says when it is done.
ASKED = "while [ ! -e {0}/go ]; do sleep .01; done; {1}; : > {0}/done; exec sleep 1000"
ANY_PLUGIN = (
    "audit_write chown dac_override fowner fsetid kill mknod net_bind_service net_raw setfcap"
    " setgid setpcap setuid sys_chroot"
)
LOOK = """
import sys
from diffkeeper.freeze import observers
from diffkeeper.freeze.writers import Survey, Target
from diffkeeper.fsio import mountinfo
observers.OBSERVER_SECONDS = 0.0
targets = [Target(*mountinfo.locate(path)[:2]) for path in sys.argv[1:]]
survey = Survey()
survey.find(targets)
print([found.observed for found in survey.find(targets).values()])
"""
MAPPED = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.truncate(fd, 4096)
memory = mmap.mmap(fd, 4096)
os.close(fd)
open(sys.argv[2] + "/done", "w").close()
time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "OBSERVER_SECONDS", 0.0)


@pytest.fixture
def container() -> Iterator[Container]:
    with Container() as made:
        yield made


class Seen:
    """What a survey tells of volumes that one container has."""

    def __init__(self, base: Path, container: Container, script: str, many: int = 2) -> None:
        self.base = base
        self.live = {name: base / name for name in NAMES[:many]}
        for each in self.live.values():
            each.mkdir()
        self.targets = [Target(*mountinfo.locate(str(each))[:2]) for each in self.live.values()]
        self.survey = Survey()
        container.start({live: base / "seen" / n for n, live in self.live.items()}, script)

    def ask(self) -> None:
        (self.base / "go").touch()
        self.until_done()

    def until_done(self) -> None:
        deadline = time.monotonic() + 20
        while not (self.base / "done").exists():
            assert time.monotonic() < deadline, "the container does nothing"
            time.sleep(0.01)

    def look(self) -> list[Writers]:
        found = self.survey.find(self.targets)
        return [found[target] for target in self.targets]

    def recent(self) -> list[Writers]:
        found = self.survey.recent(self.targets)
        return [found[target] for target in self.targets]


def groups_of(pid: int = os.getpid()) -> int:
    """Descriptors of fanotify that are open here."""
    links = [os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return sum("fanotify" in link for link in links)


def is_observer(found: list[Writers]) -> bool:
    seen = {(bool(w.pids), bool(w.readers), bool(w.cgroups), w.observed) for w in found}
    assert seen in ({(False, True, False, True)}, {(True, False, True, False)})
    return seen == {(False, True, False, True)}


def test_who_only_reads_counts_as_a_reader_until_it_writes(
    tmp_path: Path, container: Container
) -> None:
    script = ASKED.format(tmp_path, f"cat {tmp_path}/seen/*/*; echo x > {tmp_path}/seen/b/new")
    seen = Seen(tmp_path, container, script)
    assert not is_observer(seen.look()), "it was not watched yet"
    assert is_observer(seen.look())
    (seen.live["a"] / "file").write_text("written by the host")
    assert is_observer(seen.look())
    assert is_observer(seen.recent())
    seen.ask()
    assert not is_observer(seen.recent()), "what was told before it wrote holds no more"
    assert not is_observer(seen.look()), "it is trusted again"


def test_for_a_while_it_is_a_writer(
    tmp_path: Path, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "OBSERVER_SECONDS", 60.0)
    seen = Seen(tmp_path, container, "exec sleep 1000")
    for _ in range(3):
        assert not is_observer(seen.look())


def test_of_one_volume_it_stays_a_writer(tmp_path: Path, container: Container) -> None:
    seen = Seen(tmp_path, container, "exec sleep 1000", many=1)
    for _ in range(3):
        assert not is_observer(seen.look())


def test_a_look_for_one_of_its_volumes_tells_the_same(tmp_path: Path, container: Container) -> None:
    seen = Seen(tmp_path, container, "exec sleep 1000")
    seen.look()
    first = seen.targets[0]
    assert is_observer([seen.survey.find([first])[first]])
    assert is_observer(seen.look())


@pytest.mark.parametrize("how", ["open", "mapped"])
def test_what_may_be_written_unseen_counts(how: str, tmp_path: Path, container: Container) -> None:
    """A file that was opened for writing, or mapped, before anybody looked."""
    if how == "open":
        script = f"exec 3> {tmp_path}/seen/a/file; : > {tmp_path}/done; exec sleep 1000"
    else:
        (tmp_path / "mapped.py").write_text(MAPPED)
        paths = f"{tmp_path}/seen/a/file {tmp_path}"
        script = f"exec {sys.executable} {tmp_path}/mapped.py {paths}"
    seen = Seen(tmp_path, container, script)
    seen.until_done()
    for _ in range(3):
        assert not is_observer(seen.look())


def test_nothing_is_kept_of_one_that_ended(tmp_path: Path, container: Container) -> None:
    gc.collect()  # what surveys of other tests held
    before = groups_of()
    seen = Seen(tmp_path, container, "exec sleep 1000")
    seen.look()
    assert groups_of() == before + 1
    container.stop()
    seen.look()
    assert groups_of() == before


def test_the_managed_plugin_may_see_it(tmp_path: Path, container: Container) -> None:
    """With what an engine gives to any plugin, and what ours asks for."""
    seen = Seen(tmp_path, container, "exec sleep 1000")
    asked = json.loads((Path(__file__).parents[2] / "config.json").read_text())["linux"]
    ours = [name.lower().removeprefix("cap_") for name in asked["capabilities"]]
    allowed = ",".join(f"+{name}" for name in [*ANY_PLUGIN.split(), *ours])
    done = subprocess.run(
        ["setpriv", "--inh-caps=-all", f"--bounding-set=-all,{allowed}"]
        + [sys.executable, "-c", LOOK, *map(str, seen.live.values())],
        env={**os.environ, "PYTHONPATH": str(Path(diffkeeper.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[True, True]\n"), done.stderr


def test_they_are_bounded(
    tmp_path: Path, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.freeze.observers.OBSERVERS_MAX", 0)
    seen = Seen(tmp_path, container, "exec sleep 1000")
    seen.look()
    assert not is_observer(seen.look())
