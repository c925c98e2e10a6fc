"""What dockerd asks of a volume plugin, over the real socket of the real daemon."""

from __future__ import annotations

import http.client
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@pytest.mark.parametrize("body", [b"", b"{}", None])
def test_activate_and_capabilities(shared: Daemon, body: bytes | None) -> None:
    answer = shared.request("POST", "/Plugin.Activate", body)
    assert (answer.status, answer.json) == (200, {"Implements": ["VolumeDriver"]})
    answer = shared.request("POST", "/VolumeDriver.Capabilities", body)
    assert answer.status == 200
    assert answer.json["Capabilities"] == {"Scope": "local"}


def test_a_volume_from_create_to_remove(daemon: Daemon) -> None:
    assert daemon.ok("List")["Volumes"] == []
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    volume = daemon.ok("Get", Name="v")["Volume"]
    assert volume["Name"] == "v"
    live = volume["Mountpoint"]
    assert live == volume["Status"]["live"], "as the host names it: here, the same"
    assert RFC3339.fullmatch(volume["CreatedAt"])
    assert isinstance(volume["Status"], dict)
    mountpoint = daemon.ok("Mount", Name="v", ID="1")["Mountpoint"]
    assert daemon.mounted(mountpoint)
    assert daemon.ok("Path", Name="v")["Mountpoint"] == mountpoint
    listed = daemon.ok("List")["Volumes"]
    assert [(v["Name"], v["Mountpoint"]) for v in listed] == [("v", live)]
    Path(mountpoint, "file").write_text("content")
    assert Path(live, "file").read_text() == "content"
    daemon.ok("Unmount", Name="v", ID="1")
    assert not daemon.mounted(mountpoint)
    again = daemon.ok("Mount", Name="v", ID="2")["Mountpoint"]
    assert Path(again, "file").read_text() == "content"
    daemon.ok("Unmount", Name="v", ID="2")
    daemon.ok("Remove", Name="v")
    assert daemon.ok("List")["Volumes"] == []
    assert "v" in daemon.call("Get", Name="v").err


def test_a_name_used_again_is_another_volume(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v")
    daemon.live("v", {"old": b"old"})
    daemon.ok("Unmount", Name="v", ID="w")
    daemon.ok("Remove", Name="v")
    daemon.ok("Create", Name="v")
    mountpoint = daemon.ok("Mount", Name="v", ID="1")["Mountpoint"]
    assert list(Path(mountpoint).iterdir()) == []


def test_mounts_are_counted_per_id(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts=None)
    mountpoint = daemon.ok("Mount", Name="v", ID="a")["Mountpoint"]
    for mount_id in ("a", "b"):
        assert daemon.ok("Mount", Name="v", ID=mount_id)["Mountpoint"] == mountpoint
    daemon.ok("Unmount", Name="v", ID="a")
    daemon.ok("Unmount", Name="v", ID="unknown")
    daemon.ok("Unmount", Name="v", ID="b")
    daemon.ok("Unmount", Name="v", ID="b")
    assert daemon.mounted(mountpoint), "ID a is still mounted once"
    refused = daemon.call("Remove", Name="v")
    assert refused.status == 500
    assert refused.err
    assert daemon.mounted(mountpoint)
    daemon.ok("Unmount", Name="v", ID="a")
    assert not daemon.mounted(mountpoint)
    daemon.ok("Remove", Name="v")


def test_unmount_of_an_unknown_volume_succeeds(shared: Daemon) -> None:
    shared.ok("Unmount", Name="nobody", ID="1")


@pytest.mark.parametrize("call", ["Get", "Path", "Mount", "Remove"])
def test_an_unknown_volume_is_an_error(shared: Daemon, call: str) -> None:
    answer = shared.call(call, Name="nobody", ID="1")
    assert answer.status == 500
    assert "nobody" in answer.err


def test_create_again_is_no_harm(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={})
    daemon.live("v", {"f": b"x"})
    daemon.call("Create", Name="v", Opts={})
    assert Path(daemon.ok("Path", Name="v")["Mountpoint"], "f").read_bytes() == b"x"


@pytest.mark.parametrize(
    "options",
    [{"intervall": "1s"}, {"interval": "soon"}, {"capture": ""}, {"chunk-size": "3KiB"}, {"": ""}],
)
def test_bad_options_name_what_is_allowed(shared: Daemon, options: dict[str, str]) -> None:
    answer = shared.call("Create", Name="bad-options", Opts=options)
    assert answer.status == 500
    assert f"{next(iter(options))}" in answer.err
    assert "<" in answer.err
    assert shared.call("Get", Name="bad-options").status == 500


def test_calls_at_once(daemon: Daemon) -> None:
    """Volumes and one shared volume, from many threads: every count must come out right."""
    daemon.ok("Create", Name="common")
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        barrier.wait(10)
        name = f"v{number % 4}"
        daemon.call("Create", Name=name)
        for turn in range(3):
            daemon.ok("Mount", Name=name, ID=f"{number}-{turn}")
            daemon.ok("Mount", Name="common", ID="same")
            assert daemon.ok("Get", Name=name)["Volume"]["Name"] == name
            daemon.ok("Unmount", Name="common", ID="same")
            daemon.ok("Unmount", Name=name, ID=f"{number}-{turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    names = [v["Name"] for v in daemon.ok("List")["Volumes"]]
    assert sorted(names) == ["common", "v0", "v1", "v2", "v3"]
    assert str(daemon.base) + "/mounts/" not in Path("/proc/self/mountinfo").read_text()
    for name in names:
        daemon.ok("Remove", Name=name)


@pytest.mark.parametrize("body", [b"", b" \n", None])
def test_a_get_without_a_body_is_left_without_an_answer(shared: Daemon, body: bytes | None) -> None:
    """dockerd repeats a request whose connection was dropped without its body, and forgets the
    volume when the answer is an error.
    """
    with pytest.raises(http.client.RemoteDisconnected):
        shared.request("POST", "/VolumeDriver.Get", body)
    assert shared.call("Get", Name="nothing").status == 500, "it goes on to answer"
