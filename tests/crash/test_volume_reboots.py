"""Reboots and killed repairs in one short life each, which random lives seldom put together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper.volumes.lifecycle import Event
from tests.support.rotting_world import RottingWorld
from tests.support.volume_world import DaemonDied

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def world() -> Iterator[RottingWorld]:
    made = RottingWorld()
    try:
        made.create("v")
        yield made
        made.verify()
    finally:
        made.close()


@pytest.mark.parametrize("damaged", [False, True])
def test_what_is_there_after_a_reboot_is_the_truth(world: RottingWorld, damaged: bool) -> None:
    """The files were replayed, so that signatures are trusted: but not over a power cut."""
    world.write("v", "a", 20_000)
    world.snapshot("v")
    world.wipe("v")
    world.mount("v", "m")
    world.reboot(damaged=damaged)
    assert len(world.books["v"].states) == 1 + damaged
    world.mount("v", "m")
    world.unmount("v", "m")
    world.wipe("v")
    world.mount("v", "m")
    world.unmount("v", "m")
    assert world.events >= {Event.REBOOT, Event.LOST, Event.REPLAYED}


@pytest.mark.parametrize("mount_first", [False, True])
@pytest.mark.parametrize("point", ["repair.journaled", "repair.written"])
def test_a_repair_that_was_killed(world: RottingWorld, point: str, mount_first: bool) -> None:
    with pytest.raises(DaemonDied):
        world.rot_and_repair("v", f"{point}=kill", mount_first=mount_first)
    world.reboot(damaged=False)
    world.rot_and_repair("v")
    assert world.events >= {Event.REPAIR, Event.SETTLED, Event.DAEMON_KILLED}
