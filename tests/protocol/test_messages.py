"""What a real daemon answers is what the structures say, field by field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from diffkeeper.messages import driver, integrity, machine, snapshots, store, trash, volumes
from diffkeeper.messages.codec import converted, to_json
from diffkeeper.messages.endpoint import NoArguments
from diffkeeper.messages.machine import ErrorAnswer

if TYPE_CHECKING:
    from msgspec import Struct

    from diffkeeper.messages.endpoint import Endpoint
    from tests.support.daemon import Daemon, HttpAnswer


def same(answer: HttpAnswer, kind: Any) -> Any:
    """The structure, once it gave the very bytes of the answer."""
    found = converted(answer.json, kind)
    assert to_json(found) == answer.body
    return found


def ask(
    daemon: Daemon,
    endpoint: Endpoint[Any, Any],
    message: Struct | None = None,
    query: str | None = None,
    **names: str,
) -> Any:
    body = None if message is None else to_json(message)
    answer = daemon.request(endpoint.method, endpoint.at(query, **names), body, 60)
    assert answer.status == endpoint.status, answer.body
    return same(answer, endpoint.answer)


def test_answers_of_a_volume(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"alpha" * 10_000})
    taken = ask(daemon, snapshots.SNAPSHOT, NoArguments(), name="v")
    assert ask(daemon, snapshots.SNAPSHOTS, name="v")[-1] == taken
    assert ask(daemon, snapshots.RESOLVE, query=str(taken.seq), name="v") == taken
    tagged = ask(daemon, snapshots.TAG, snapshots.TagRequest("kept", str(taken.seq)), name="v")
    assert tagged.tags == ["kept"]
    assert ask(daemon, snapshots.UNTAG, name="v", tag="kept").seq == taken.seq
    changed = ask(daemon, volumes.SET, volumes.SetRequest({"interval": "2h"}), name="v")
    assert changed.options == {"interval": "2h"}
    assert ask(daemon, integrity.VERIFY, integrity.VerifyRequest(), name="v").ok
    page = ask(daemon, snapshots.RECORDS, query="0", name="v")
    assert len(page.snapshots) == len(ask(daemon, snapshots.SNAPSHOTS, name="v"))
    (volume,) = ask(daemon, volumes.VOLUMES)
    assert volume.status.last_verification.ok
    assert ask(daemon, volumes.INSPECT, name="v").status.snapshots == volume.status.snapshots
    got = same(daemon.call("Get", Name="v"), driver.VolumeAnswer)
    assert got.volume.status.id == volume.status.id
    assert same(daemon.call("List"), driver.VolumesAnswer).volumes[0].name == "v"
    same(daemon.call("Path", Name="v"), driver.MountpointAnswer)
    same(daemon.call("Capabilities"), driver.CapabilitiesAnswer)
    same(daemon.request("POST", "/Plugin.Activate"), driver.ActivateAnswer)
    assert same(daemon.call("Get", Name="nobody"), ErrorAnswer).error == "NotFoundError"


def test_answers_of_the_store_and_the_trash(daemon: Daemon) -> None:
    daemon.ok("Create", Name="v", Opts={"interval": "1h"})
    daemon.live("v", {"a": b"alpha" * 10_000})
    first = ask(daemon, snapshots.SNAPSHOT, NoArguments(), name="v")
    daemon.ok("Unmount", Name="v", ID="w")
    daemon.live("v", {"a": b"beta" * 10_000})
    ask(daemon, snapshots.SNAPSHOT, NoArguments(), name="v")
    daemon.ok("Unmount", Name="v", ID="w")
    gone = ask(daemon, snapshots.FORGET, snapshots.ForgetRequest([str(first.seq)]), name="v")
    assert gone.forgotten == [first.seq]
    assert ask(daemon, snapshots.PRUNE, snapshots.PruneRequest(None, True))[0].volume == "v"
    nothing = NoArguments()
    assert ask(daemon, store.STATISTICS).volumes == 1
    assert ask(daemon, store.COUNT, nothing).accounting.volumes["v"].snapshots > 0
    for endpoint in (store.MAINTAIN, integrity.SCRUB, store.COMPACT):
        ask(daemon, endpoint, nothing)
    assert ask(daemon, store.STATISTICS).scrub.last.lost == []
    assert ask(daemon, integrity.REPAIR, integrity.RepairRequest(None, True), name="v").files == []
    assert ask(daemon, volumes.RENAME, volumes.RenameRequest("x"), name="v").name == "x"
    daemon.ok("Remove", Name="x")
    (removed,) = ask(daemon, trash.TRASH)
    back = ask(daemon, trash.UNDELETE, trash.UndeleteRequest("y"), name=removed.name)
    daemon.ok("Remove", Name=back.name)
    assert ask(daemon, trash.PURGE, name="y")[0].id == removed.id
    assert ask(daemon, trash.EMPTY_TRASH, nothing) == []
    assert ask(daemon, machine.VERSION).loading is False
    names = {check.name for check in ask(daemon, machine.DOCTOR)}
    assert "kernel" in names
    assert json.loads(daemon.request("GET", "/v1/nothing").body)["code"] == 2
