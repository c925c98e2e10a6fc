"""Which counted mounts stand where nobody has the volume mounted."""

from __future__ import annotations

from diffkeeper.volumes.mount_ledger import MOUNT_SETTLE_SECONDS, MountLedger

LATER = MOUNT_SETTLE_SECONDS + 1


def test_a_mount_stands_until_its_container_was_seen() -> None:
    ledger = MountLedger()
    ledger.add("one", 10.0)
    counts = {"one": 1}
    assert ledger.standing(counts, 11.0) == counts, "its container is about to start"
    ledger.see(counts, 0, 12.0)
    assert ledger.standing(counts, 12.0) == counts
    ledger.see(counts, 1, 13.0)
    assert ledger.standing(counts, 14.0) == {}


def test_a_container_that_never_started_is_not_waited_for_for_ever() -> None:
    ledger = MountLedger()
    ledger.add("one", 10.0)
    assert ledger.standing({"one": 1}, 10.0 + LATER) == {}


def test_what_was_seen_before_a_mount_tells_nothing_of_it() -> None:
    ledger = MountLedger()
    ledger.add("new", 10.0)
    ledger.see({"new": 1}, 1, 9.0)
    assert ledger.standing({"new": 1}, 11.0) == {"new": 1}
    ledger.see({"new": 1}, 1, 11.0)
    ledger.add("new", 12.0)
    assert ledger.standing({"new": 2}, 13.0) == {"new": 2}, "mounted anew under the same id"


def test_each_mount_is_judged_by_itself() -> None:
    """A container that is about to start keeps no mount of one that is gone."""
    ledger = MountLedger()
    ledger.add("gone", 10.0)
    ledger.see({"gone": 1}, 1, 11.0)
    ledger.add("new", 12.0)
    assert ledger.standing({"gone": 1, "new": 1}, 13.0) == {"new": 1}


def test_fewer_containers_than_mounts_settle_nothing() -> None:
    ledger = MountLedger()
    counts = {"one": 1, "two": 1}
    for mount_id in counts:
        ledger.add(mount_id, 10.0)
    ledger.see(counts, 1, 11.0)
    assert ledger.standing(counts, 12.0) == counts


def test_mounts_from_before_are_open_to_doubt_and_newer_ones_of_the_id_are_not() -> None:
    ledger = MountLedger()
    ledger.inherit({"old": 1, "other": 1})
    assert ledger.standing({"old": 1, "other": 1}, 1.0) == {}
    ledger.add("old", 2.0)
    assert ledger.standing({"old": 2, "other": 1}, 3.0) == {"old": 1}
    ledger.retain({"old": 1}, nobody=True)
    assert ledger.standing({"old": 1}, 3.0) == {"old": 1}, "what was inherited is gone already"


def test_an_unmount_ends_the_newer_of_two_mounts() -> None:
    """`docker cp` mounts and unmounts under the id of the running container."""
    ledger = MountLedger()
    ledger.inherit({"old": 1})
    ledger.add("old", 2.0)
    ledger.retain({"old": 1})
    assert ledger.standing({"old": 1}, 2.0 + LATER) == {}
