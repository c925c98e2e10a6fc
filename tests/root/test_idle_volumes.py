"""What idle volumes cost does not grow with their number, and hides no silent write."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from diffkeeper.freeze.writers import Survey, Target
from diffkeeper.fsio import mountinfo
from tests.support.capture_rig import CaptureRig
from tests.support.containers import Container

if TYPE_CHECKING:
    from pathlib import Path

    from diffkeeper.freeze.writers import Writers

SECONDS_MAX = 10.0
MANY = 40
# Maps a file that is there and stores to it. What it opened it keeps open, which hints at nothing.
STORER = """
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(fd, 4096)
memory[:5] = b"store"
open(sys.argv[2] + "/stored", "w").close()
while not os.path.exists(sys.argv[2] + "/end"):
    time.sleep(0.01)
"""
opened: list[str] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        opened.append(str(arguments[0]))


def count(targets: list[Target], survey: Survey) -> int:
    """Files that one look at the processes opens, for these volumes and who has them."""
    opened.clear()
    found = survey.find(targets)
    with survey.one_survey():
        for target in targets:
            writers = found[target]
            assert writers.pids
            pids = {*writers.pids, *survey.members(writers.cgroups)}
            survey.overlaid(survey.unseen_writes(pids, target.dev), writers.pids, 0)
    return len([path for path in opened if path.startswith(("/proc/", "/sys/"))])


def until(path: Path) -> None:
    """Wait for a file that a program makes."""
    deadline = time.monotonic() + SECONDS_MAX
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not come"
        time.sleep(0.002)


def until_quiet(rig: CaptureRig, writers: Writers) -> None:
    """Take the captures that are due: what was new is looked at once more."""
    for _ in range(4):
        if rig.watched.quiet():
            return
        rig.capture_of("interval", writers)
    raise AssertionError("the volume does not become quiet")


@pytest.mark.parametrize("freezable", [True, False])
def test_a_look_at_one_container_costs_the_same_for_any_number_of_its_volumes(
    freezable: bool, tmp_path: Path
) -> None:
    places = {tmp_path / f"v{number}": tmp_path / f"seen{number}" for number in range(MANY)}
    for each in places:
        each.mkdir()
    with Container() as container:
        container.start(places, "sleep 1000 & exec sleep 1000")
        sys.addaudithook(_note)
        pids = (container.cgroup / "cgroup.procs").read_text().split()
        if not freezable:
            for pid in pids:
                (container.cgroup.parent / "cgroup.procs").write_text(pid)
        targets = [Target(*mountinfo.locate(str(each))[:2]) for each in places]
        survey = Survey()
        count(targets, survey)  # all namespaces are seen for the first time
        one = count(targets[:1], survey)
        many = count(targets, survey)
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
    # Processes begin and end meanwhile: for each volume it would be some more.
    assert many <= one + MANY


def test_within_a_look_the_same_is_told_and_after_it_what_is_new(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    program, path = tmp_path / "storer.py", tmp_path / "live" / "data"
    program.write_text(STORER)
    path.write_bytes(bytes(4096))
    survey, target = Survey(), Target(*mountinfo.locate(str(tmp_path / "live"))[:2])
    with Container() as container:
        run = f"{sys.executable} {program} {tmp_path}/seen/data {tmp_path}"
        go = f"while [ ! -e {tmp_path}/go ]; do sleep .01; done"
        container.start({tmp_path / "live": tmp_path / "seen"}, f"{go}; {run}; exec sleep 1000")
        cgroups = survey.find([target])[target].cgroups
        with survey.one_survey():
            before = survey.members(cgroups)
            assert before
            (tmp_path / "go").touch()
            until(tmp_path / "stored")
            assert survey.members(cgroups) == before
            assert not survey.unseen_writes(before, target.dev).inodes
        with survey.one_survey():
            members = survey.members(cgroups)
            assert survey.unseen_writes(members, target.dev).inodes == {path.stat().st_ino}
            (tmp_path / "end").touch()


def test_a_store_of_a_process_younger_than_the_survey_is_found_at_the_next_look(
    tmp_path: Path,
) -> None:
    """Its volume was quiet, and nothing hints at it."""
    program = tmp_path / "storer.py"
    program.write_text(STORER)
    with CaptureRig(tmp_path) as rig, Container() as container:
        (rig.live / "data").write_bytes(bytes(4096))
        run = f"{sys.executable} {program} {tmp_path}/seen/data {tmp_path}"
        go = f"while [ ! -e {tmp_path}/go ]; do sleep .01; done"
        container.start({rig.live: tmp_path / "seen"}, f"{go}; {run}; exec sleep 1000")
        writers = rig.writers()
        until_quiet(rig, writers)
        assert not rig.watched.pending(writers)
        (tmp_path / "go").touch()
        until(tmp_path / "stored")
        assert rig.watched.quiet()
        assert rig.watched.pending(writers)
        # From now on it is known, and no look is needed to tell.
        assert not rig.watched.quiet()
        rig.capture_of("interval", writers)
        assert rig.state.head is not None
        replayed = rig.replay(rig.state.head, "replayed")
        assert (replayed / "data").read_bytes()[:5] == b"store"
        assert not rig.watched.quiet(), "it is mapped, and may be stored to again"
        (tmp_path / "end").touch()


def test_a_renamed_file_is_no_quiet_one_until_nobody_writes_to_it(tmp_path: Path) -> None:
    with CaptureRig(tmp_path) as rig, Container() as container:
        path = rig.live / "data"
        path.write_bytes(b"old")
        container.start({rig.live: tmp_path / "seen"}, "exec sleep 1000")
        until_quiet(rig, rig.writers())
        path.rename(rig.live / "other")
        rig.capture("interval")
        assert not rig.watched.quiet()
        until_quiet(rig, rig.writers())
