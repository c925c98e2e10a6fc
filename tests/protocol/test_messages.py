"""What a real daemon answers is what the structures say, field by field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from diffkeeper.messages import driver, endpoints, requests
from diffkeeper.messages.codec import converted, to_json
from diffkeeper.messages.machine import ErrorAnswer

if TYPE_CHECKING:
    from msgspec import Struct

    from diffkeeper.messages.endpoints import Endpoint
    from tests.support.daemon import Answer, Daemon


def same(answer: Answer, kind: Any) -> Any:
    """The structure, once it gave the very bytes of the answer."""
    found = converted(answer.json, kind)
    assert to_json(found) == answer.body
    return found


def ask(
    daemon: Daemon,
    endpoint: Endpoint[Any],
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
    taken = ask(daemon, endpoints.SNAPSHOT, requests.NoArguments(), name="v")
    assert ask(daemon, endpoints.SNAPSHOTS, name="v")[-1] == taken
    assert ask(daemon, endpoints.RESOLVE, query=str(taken.seq), name="v") == taken
    tagged = ask(daemon, endpoints.TAG, requests.TagRequest("kept", str(taken.seq)), name="v")
    assert tagged.tags == ["kept"]
    assert ask(daemon, endpoints.UNTAG, name="v", tag="kept").seq == taken.seq
    changed = ask(daemon, endpoints.SET, requests.SetRequest({"interval": "2h"}), name="v")
    assert changed.options == {"interval": "2h"}
    assert ask(daemon, endpoints.VERIFY, requests.VerifyRequest(), name="v").ok
    page = ask(daemon, endpoints.RECORDS, query="0", name="v")
    assert len(page.snapshots) == len(ask(daemon, endpoints.SNAPSHOTS, name="v"))
    (volume,) = ask(daemon, endpoints.VOLUMES)
    assert volume.status.last_verification.ok
    assert ask(daemon, endpoints.INSPECT, name="v").status.snapshots == volume.status.snapshots
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
    first = ask(daemon, endpoints.SNAPSHOT, requests.NoArguments(), name="v")
    daemon.ok("Unmount", Name="v", ID="w")
    daemon.live("v", {"a": b"beta" * 10_000})
    ask(daemon, endpoints.SNAPSHOT, requests.NoArguments(), name="v")
    daemon.ok("Unmount", Name="v", ID="w")
    gone = ask(daemon, endpoints.FORGET, requests.ForgetRequest([str(first.seq)]), name="v")
    assert gone.forgotten == [first.seq]
    assert ask(daemon, endpoints.PRUNE, requests.PruneRequest(None, True))[0].volume == "v"
    nothing = requests.NoArguments()
    assert ask(daemon, endpoints.STATISTICS).volumes == 1
    assert ask(daemon, endpoints.COUNT, nothing).accounting.volumes["v"].snapshots > 0
    for endpoint in (endpoints.MAINTAIN, endpoints.SCRUB, endpoints.COMPACT):
        ask(daemon, endpoint, nothing)
    assert ask(daemon, endpoints.STATISTICS).scrub.last.lost == []
    assert ask(daemon, endpoints.REPAIR, requests.RepairRequest(None, True), name="v").files == []
    assert ask(daemon, endpoints.RENAME, requests.RenameRequest("x"), name="v").name == "x"
    daemon.ok("Remove", Name="x")
    (removed,) = ask(daemon, endpoints.TRASH)
    back = ask(daemon, endpoints.UNDELETE, requests.UndeleteRequest("y"), name=removed.name)
    daemon.ok("Remove", Name=back.name)
    assert ask(daemon, endpoints.PURGE, name="y")[0].id == removed.id
    assert ask(daemon, endpoints.EMPTY_TRASH, nothing) == []
    assert ask(daemon, endpoints.VERSION).loading is False
    names = {check.name for check in ask(daemon, endpoints.DOCTOR)}
    assert "kernel" in names
    assert json.loads(daemon.request("GET", "/v1/nothing").body)["code"] == 2
