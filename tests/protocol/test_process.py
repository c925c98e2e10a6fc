"""The daemon as a process: its socket, its store, its end, and its next start."""

from __future__ import annotations

import shutil
import socket
import stat
import statistics
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon

# Far below a replay's duration; the largest leaves room for a machine that is busy otherwise.
ANSWER_SECONDS_TYPICAL = 0.1
ANSWER_SECONDS_MAX = 3.0


def test_the_socket_is_for_its_owner_and_goes_with_the_daemon(daemon: Daemon) -> None:
    assert stat.S_IMODE(Path(daemon.path).stat().st_mode) == 0o600
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 9
    assert not Path(daemon.path).exists()
    assert "Traceback" not in daemon.log


def test_an_interrupt_ends_it_too(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v")
    daemon.live("v", {"a": b"x"})
    assert daemon.stop(2) == 0
    assert "Traceback" not in daemon.log


def test_a_second_daemon_on_the_socket_is_refused(daemon: Daemon) -> None:
    second = daemon.spawn()
    assert second.wait(60) == 4
    assert "another daemon answers" in daemon.log
    assert daemon.ok("List")["Volumes"] == []


def test_a_second_daemon_on_the_store_is_refused(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v")
    second = daemon.spawn("--socket", f"{daemon.base}/other.sock")
    assert second.wait(60) == 9
    assert [v["Name"] for v in daemon.ok("List")["Volumes"]] == ["v"]


def test_a_dead_daemons_socket_is_taken_over(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v")
    daemon.stop(9)
    assert Path(daemon.path).exists()
    daemon.start()
    assert [v["Name"] for v in daemon.ok("List")["Volumes"]] == ["v"]


def test_a_taken_port_does_not_stop_the_volumes(new_daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = new_daemon("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
        daemon.start()
        daemon.ok("Create", Name="v")
        findings = {finding["name"]: finding for finding in daemon.admin("GET", "/v1/doctor")}
        assert findings["health"]["result"] == "fail"
        assert "metrics are not served" in findings["health"]["found"]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--listen", "nowhere"], {}),
        (["--log-level", "loud"], {}),
        ([], {"DIFFKEEPER_FAILPOINTS": "no.such=kill"}),
        ([], {"DIFFKEEPER_PROC_ROOT": "relative"}),
    ],
)
def test_bad_configuration_ends_at_once(
    new_daemon: Callable[..., Daemon], arguments: list[str], environment: dict[str, str]
) -> None:
    daemon = new_daemon(**environment)
    assert daemon.spawn(*arguments).wait(60) == 2
    assert "Traceback" not in daemon.log


def test_log_lines_are_one_event_each(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v")
    daemon.live("v", {"a": b"x"})
    daemon.ok("Unmount", Name="v", ID="w")
    daemon.stop()
    lines = daemon.log.splitlines()
    assert any(line.startswith("info listening version=") for line in lines)
    assert any(line.startswith("info ready volumes=0") for line in lines)
    for line in lines:
        assert line.split(" ", 1)[0] in ("debug", "info", "warning", "error"), line


def test_mounts_and_counts_survive_kill_9(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "200ms"})
    mountpoint = daemon.ok("Mount", Name="v", ID="a")["Mountpoint"]
    daemon.ok("Mount", Name="v", ID="b")
    Path(mountpoint, "before").write_text("1")
    daemon.stop(9)
    Path(mountpoint, "between").write_text("2")
    daemon.start()
    assert daemon.mounted(mountpoint), "what was mounted stays mounted"
    assert daemon.ok("Path", Name="v")["Mountpoint"] == mountpoint
    assert daemon.ok("Mount", Name="v", ID="a")["Mountpoint"] == mountpoint
    taken = daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    assert taken["files"] == 2, "what was written while nobody watched is in the next snapshot"
    for mount_id in ("a", "a", "b"):
        daemon.ok("Unmount", Name="v", ID=mount_id)
    assert not daemon.mounted(mountpoint)
    daemon.ok("Remove", Name="v")


def test_get_and_list_are_fast_while_a_mount_is_slow(daemon: Daemon) -> None:
    """A replay of many files runs in one Mount; everything else must answer as if it didn't."""
    daemon.ok("Create", Name="big", Opts={"interval": "1h"})
    daemon.live("big", {f"file{i}": b"%d" % i * 50 for i in range(4000)})
    daemon.ok("Unmount", Name="big", ID="w")
    daemon.stop()
    for live in daemon.state_dir.glob("volumes/*/live"):
        shutil.rmtree(live)
    daemon.start()
    found: list[str] = []
    slow = threading.Thread(
        target=lambda: found.append(daemon.ok("Mount", Name="big", ID="1")["Mountpoint"])
    )
    slow.start()
    waits: list[float] = []
    while slow.is_alive():
        for call in ("List", "Capabilities", "Get"):
            began = time.monotonic()
            daemon.ok(call, Name="big")
            waits.append(time.monotonic() - began)
        time.sleep(0.02)
    slow.join()
    assert len(waits) >= 12, "calls have waited for the mount, or it was not slow"
    assert statistics.median(waits) < ANSWER_SECONDS_TYPICAL
    assert max(waits) < ANSWER_SECONDS_MAX
    assert sum(1 for _ in Path(found[0]).iterdir()) == 4000


def test_a_mount_whose_caller_has_gone_is_given_back(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {f"file{i}": b"%d" % i for i in range(1500)})
    daemon.ok("Unmount", Name="v", ID="w")
    daemon.stop()
    for live in daemon.state_dir.glob("volumes/*/live"):
        shutil.rmtree(live)
    daemon.start()
    body = b'{"Name": "v", "ID": "gone"}'
    with daemon.connect() as caller:
        head = b"POST /VolumeDriver.Mount HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n"
        caller.sendall(head % len(body) + body)
        time.sleep(0.05)
    deadline = time.monotonic() + 60
    while "late_mount_given_back" not in daemon.log:
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.05)
    assert daemon.admin("GET", "/v1/volumes/v")["mounts"] == 0
    daemon.ok("Remove", Name="v")
