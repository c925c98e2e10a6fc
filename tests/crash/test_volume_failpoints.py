"""kill -9 of the daemon at each of its failpoints, in one life of a volume that passes them all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper import limits
from tests.support.containers import Container
from tests.support.killed import LIVED, OF_LIFE
from tests.support.volume_world import DaemonDied, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
LARGE_BYTES = limits.BATCH_BYTES_MAX + (8 << 20)  # more than a capture keeps in memory


class Life:
    """All that a volume goes through, in steps that can each be tried again."""

    def __init__(self, world: World, container: Container, large_bytes: int) -> None:
        self.world = world
        self.container = container
        self.large_bytes = large_bytes
        self.died = False

    def run(self) -> None:
        """The whole life; a step in which the daemon dies is done again by the next one."""
        for step in (
            self.create,
            self.mount,
            self.use,
            self.write_and_snapshot,
            self.write_much_and_snapshot,
            self.end_use,
            self.unmount,
            self.wipe,
            self.mount,
            self.unmount,
            self.remove,
            self.undelete,
            self.mount,
            self.unmount,
            self.remove,
            self.empty_trash,
        ):
            self.step(step)

    def step(self, step: Callable[[], None]) -> None:
        world = self.world
        try:
            step()
            world.check()
        except DaemonDied:
            if world.died():
                world.revive()
            assert not self.died, "it dies only once"
            self.died = True
            step()
            world.check()

    def create(self) -> None:
        if "v" not in self.world.books:
            self.world.create("v")

    def mount(self) -> None:
        self.world.mount("v", "m")

    def use(self) -> None:
        if self.container.process is None:
            mountpoint = self.world.view("v")["mountpoint"]
            inside = self.world.daemon.base / "inside"
            self.container.start({Path(mountpoint): inside}, "exec sleep 300")
        self.world.books["v"].used = True

    def end_use(self) -> None:
        self.container.stop()
        self.world.books["v"].used = False

    def write_and_snapshot(self) -> None:
        self.world.write("v", "a", 100_000)
        self.world.snapshot("v")
        self.world.write("v", "b", 10)

    def write_much_and_snapshot(self) -> None:
        """Data that does not compress."""
        book = self.world.books["v"]
        data = os.urandom(self.large_bytes)
        (book.live / "large").write_bytes(data)
        book.states.append({**book.states[-1], "large": data})
        self.world.snapshot("v")
        self.world.write("v", "large", 10)

    def unmount(self) -> None:
        for mount_id, count in list(self.world.books["v"].mounts.items()):
            for _ in range(count):
                self.world.unmount("v", mount_id)

    def wipe(self) -> None:
        self.world.wipe("v")

    def remove(self) -> None:
        if "v" in self.world.books:
            self.world.remove("v")

    def undelete(self) -> None:
        if "v" not in self.world.books:
            self.world.undelete("v")

    def empty_trash(self) -> None:
        self.world.empty_trash()


@pytest.fixture
def container() -> Iterator[Container]:
    made = Container()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One daemon for all tests: each leaves it running, with the volume `kept` in it."""
    made = World()
    made.create("kept")
    made.mount("kept", "m")
    made.write("kept", "a", 10_000)
    made.snapshot("kept")
    made.write("kept", "b", 10_000)
    made.unmount("kept", "m")
    made.write("kept", "c", 10_000)
    yield made
    made.close()


@pytest.mark.parametrize("name", LIVED)
def test_killed_at(name: str, world: World, container: Container) -> None:
    kills = world.kills
    world.events.clear()
    world.arm(f"{name}=kill")
    large = LARGE_BYTES if name == "store.objects_flushed" else 100_000
    Life(world, container, large).run()
    assert world.kills == kills + 1, f"{name} was never passed"
    assert set(world.books) == {"kept"}
    assert world.events >= set(OF_LIFE)
    world.verify()


@pytest.mark.parametrize("name", ["volume.before_create", "volume.after_create"])
def test_a_create_that_fails_leaves_nothing(name: str, world: World) -> None:
    """What is answered as failed does not show up later."""
    world.arm(f"{name}=error")
    assert world.call("Create", Name="v") != ""
    world.check()
    world.create("v")
    world.remove("v")
    world.kill()
    assert set(world.books) == {"kept"}
