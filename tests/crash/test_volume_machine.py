"""Random lives of volumes, with kill -9 of the daemon at random and at its failpoints."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests.support.killed import LIVED, REPAIR
from tests.support.rotting_world import RottingWorld
from tests.support.volume_world import DaemonDied

if TYPE_CHECKING:
    from collections.abc import Iterator

# An example starts many daemons, a second each.
EXAMPLES = max(1, settings().max_examples // 20)
STEPS = 20

KILLED_ONCE = [point for point in REPAIR if point.endswith("=kill")]  # one chunk is written
volumes = st.sampled_from(("v", "w"))
mount_ids = st.sampled_from(("m", "n"))
files = st.sampled_from(("a", "b", "c"))
sizes = st.sampled_from((1, 5_000, 100_000, 300_000))


class Volumes(RuleBasedStateMachine):
    """Each rule does one operation; one that the daemon died of is settled by the model."""

    world: RottingWorld

    @initialize()
    def begin(self) -> None:
        self.world = RottingWorld()
        self.world.create("v")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self.world.kill()
            self.world.verify()
            self.world.remove_all()
        finally:
            self.world.close()

    @contextlib.contextmanager
    def step(self, name: str = "v") -> Iterator[RottingWorld]:
        """One operation on a volume, which is made if need be; then everything holds."""
        world = self.world
        try:
            if name not in world.books:
                world.create(name)
            yield world
            world.check()
        except DaemonDied:
            if world.died():
                world.revive()

    @rule(name=volumes)
    def create(self, name: str) -> None:
        """Also of one that exists, which changes nothing."""
        with self.step(name) as world:
            world.create(name)

    @rule(name=volumes, mount_id=mount_ids)
    def mount(self, name: str, mount_id: str) -> None:
        with self.step(name) as world:
            world.mount(name, mount_id)

    @rule(name=volumes, mount_id=mount_ids)
    def unmount(self, name: str, mount_id: str) -> None:
        """Also of an ID that is not counted."""
        with self.step(name) as world:
            world.unmount(name, mount_id)

    @rule(name=volumes, file=files, size=sizes)
    def write(self, name: str, file: str, size: int) -> None:
        with self.step(name) as world:
            world.write(name, file, size)

    @rule(name=volumes, file=files, size=sizes)
    def write_and_snapshot(self, name: str, file: str, size: int) -> None:
        with self.step(name) as world:
            world.write(name, file, size)
            world.snapshot(name)

    @rule(name=volumes)
    def snapshot(self, name: str) -> None:
        with self.step(name) as world:
            world.snapshot(name)

    @rule(name=volumes)
    def wipe(self, name: str) -> None:
        with self.step(name) as world:
            world.wipe(name)

    @rule(name=volumes, mount_id=mount_ids)
    def wipe_and_mount(self, name: str, mount_id: str) -> None:
        with self.step(name) as world:
            for counted in list(world.books[name].mounts):
                world.unmount(name, counted)
            world.wipe(name)
            world.mount(name, mount_id)

    @rule(name=volumes, other=volumes)
    def rename(self, name: str, other: str) -> None:
        """Also to a name that is taken, its own among them."""
        with self.step(name) as world:
            world.rename(name, other)

    @rule(name=volumes)
    def remove(self, name: str) -> None:
        with self.step(name) as world:
            world.remove(name)

    @rule(name=volumes)
    def remove_and_undelete(self, name: str) -> None:
        with self.step(name) as world:
            for mount_id, count in list(world.books[name].mounts.items()):
                for _ in range(count):
                    world.unmount(name, mount_id)
            world.remove(name)
            world.undelete(name)

    @rule()
    def empty_trash(self) -> None:
        try:
            self.world.empty_trash()
        except DaemonDied:
            if self.world.died():
                self.world.revive()

    @rule(name=volumes, file=files)
    def kill(self, name: str, file: str) -> None:
        """What is written while there is no daemon is there afterwards."""
        if name in self.world.books:
            self.world.write(name, file, 1000)
        self.world.kill()

    @rule(name=volumes, point=st.sampled_from(("", *KILLED_ONCE)), mount_first=st.booleans())
    def rot_and_repair(self, name: str, point: str, *, mount_first: bool) -> None:
        """Also killed in the middle, and with a mount before another one does the rest."""
        with self.step(name) as world:
            for counted, count in list(world.books[name].mounts.items()):
                for _ in range(count):
                    world.unmount(name, counted)
            world.rot_and_repair(name, point, mount_first=mount_first)

    @rule(damaged=st.booleans())
    def reboot(self, *, damaged: bool) -> None:
        self.world.reboot(damaged=damaged)

    @rule(point=st.sampled_from(LIVED), count=st.integers(1, 4))
    def killed_at(self, point: str, count: int) -> None:
        self.world.arm(f"{point}=kill:{count}")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.timeout(max(300, 20 * EXAMPLES))
def test_any_life_keeps_the_promises() -> None:
    chosen = settings(max_examples=EXAMPLES, stateful_step_count=STEPS)
    run_state_machine_as_test(Volumes, settings=chosen)
