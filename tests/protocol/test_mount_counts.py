"""Engines that end without an Unmount: who has the volume mounted tells which mounts count."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.namespaces import holding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.daemon import Daemon

# No capture looks at the processes: the daemon has to see by itself who comes.
SELDOM = {"interval": "1h"}
SEEN_SECONDS = 2.5


@contextlib.contextmanager
def container(daemon: Daemon, mount_id: str, options: str = "rw") -> Iterator[None]:
    """A container of that mount, which has started; killed at the end, without an Unmount."""
    point = daemon.ok("Mount", Name="volume", ID=mount_id)["Mountpoint"]
    with holding(point, options):
        yield


def counted(daemon: Daemon) -> int:
    return int(daemon.ok("Get", Name="volume")["Volume"]["Status"]["mounts"])


@pytest.fixture(autouse=True)
def volume(daemon: Daemon) -> None:
    daemon.ok("Create", Name="volume", Opts=SELDOM)


@pytest.mark.parametrize("options", ["rw", "ro"])
def test_the_engine_comes_back_with_another_id(daemon: Daemon, options: str) -> None:
    with container(daemon, "before", options):
        time.sleep(SEEN_SECONDS)
        assert "is in use" in daemon.call("Remove", Name="volume").err
    with container(daemon, "after", options):
        assert counted(daemon) == 1
    daemon.ok("Unmount", Name="volume", ID="after")
    assert counted(daemon) == 0
    daemon.ok("Remove", Name="volume")


def test_a_container_that_ends_unseen_is_not_in_use_for_ever(daemon: Daemon) -> None:
    with container(daemon, "before"):
        time.sleep(SEEN_SECONDS)
    daemon.ok("Remove", Name="volume")


def test_a_mount_whose_container_is_about_to_start_stands(daemon: Daemon) -> None:
    with container(daemon, "before"):
        time.sleep(SEEN_SECONDS)
    point = daemon.ok("Mount", Name="volume", ID="after")["Mountpoint"]
    assert counted(daemon) == 1
    for unknown in ("before", "never"):
        daemon.ok("Unmount", Name="volume", ID=unknown)
    assert "is in use" in daemon.call("Remove", Name="volume").err
    assert daemon.mounted(point)
    daemon.ok("Unmount", Name="volume", ID="after")
    assert not daemon.mounted(point)


def test_what_a_container_has_mounted_is_never_let_go_of(daemon: Daemon) -> None:
    """Also where its own mount was taken for ended, by an Unmount that was not its own."""
    with container(daemon, "one"), container(daemon, "two"):
        time.sleep(SEEN_SECONDS)
        daemon.ok("Unmount", Name="volume", ID="one")
        assert counted(daemon) == 1
        for unknown in ("one", "never"):
            daemon.ok("Unmount", Name="volume", ID=unknown)
        assert counted(daemon) == 1
        assert "is in use" in daemon.call("Remove", Name="volume").err
    daemon.ok("Unmount", Name="volume", ID="two")
    assert counted(daemon) == 0


def test_the_daemon_is_killed_with_the_engine(daemon: Daemon) -> None:
    with container(daemon, "before"):
        daemon.stop(signal.SIGKILL)
        daemon.start()
        assert "is in use" in daemon.call("Remove", Name="volume").err
    with container(daemon, "after"):
        assert counted(daemon) == 1
    daemon.ok("Unmount", Name="volume", ID="after")
    daemon.ok("Remove", Name="volume")
