"""The doctor's checks, on directories that look like machines with and without each feature."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from diffkeeper.api import checks
from diffkeeper.messages.machine import FeatureView
from diffkeeper.messages.volumes import VolumeView
from tests.support import messages

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def paths(tmp_path: Path) -> checks.CheckedPaths:
    """A machine that has nothing at all."""
    names = ("state", "cgroup", "proc")
    for name in names:
        (tmp_path / name).mkdir()
    return checks.CheckedPaths(*(str(tmp_path / name) for name in names))


def write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def inotify_limits(paths: checks.CheckedPaths, watches: int) -> None:
    base = f"{paths.proc_root}/sys/fs/inotify"
    write(f"{base}/max_user_watches", f"{watches}\n")
    write(f"{base}/max_user_instances", "8192\n")
    write(f"{base}/max_queued_events", "16384\n")


def test_a_bare_machine_gets_costs_and_mends(paths: checks.CheckedPaths) -> None:
    found = {check.name: check for check in checks.run(paths)}
    bad = {name for name, check in found.items() if check.result != "ok"}
    assert {"privileges", "freezer", "inotify"} <= bad
    for check in found.values():
        assert bool(check.cost) == bool(check.mend) == (check.result not in ("ok", "unknown"))


@pytest.mark.parametrize(("capabilities", "result"), [(1 << 21, "ok"), ((1 << 21) - 1, "fail")])
def test_privileges(paths: checks.CheckedPaths, capabilities: int, result: str) -> None:
    write(f"{paths.proc_root}/self/status", f"Name:\tx\nCapEff:\t{capabilities:016x}\n")
    assert checks.privileges(paths).result == result


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("freezer/tasks", "v1"),
        ("cgroup.controllers", "v2 at"),
        ("unified/cgroup.controllers", "hybrid"),
    ],
)
def test_freezers(paths: checks.CheckedPaths, mark: str, kind: str) -> None:
    write(f"{paths.cgroup_root}/{mark}", "")
    check = checks.freezer(paths)
    assert check.result == "ok"
    assert kind in check.found


def test_low_inotify_limits_name_the_sysctl(paths: checks.CheckedPaths) -> None:
    inotify_limits(paths, 8192)
    check = checks.inotify(paths)
    assert check.result == "warn"
    assert check.mend == "sysctl -w fs.inotify.max_user_watches=65536"
    inotify_limits(paths, 1 << 20)
    assert checks.inotify(paths).result == "ok"


@pytest.mark.parametrize("what", ["watches", "instances"])
def test_the_lower_of_two_inotify_limits_is_named(paths: checks.CheckedPaths, what: str) -> None:
    """The user namespace has limits of its own beside those of the whole machine."""
    inotify_limits(paths, 1 << 20)
    path = f"{paths.proc_root}/sys/user/max_inotify_{what}"
    write(path, "20\n")
    check = checks.inotify(paths)
    assert check.result == "warn"
    wanted = checks.INOTIFY_WANTED[f"user.max_inotify_{what}"]
    assert check.mend == f"sysctl -w user.max_inotify_{what}={wanted}"
    assert f"user.max_inotify_{what} 20" in check.found
    write(path, f"{wanted}\n")
    assert checks.inotify(paths).result == "ok"


def test_ebpf_has_a_check_for_each_feature() -> None:
    features = [
        FeatureView("headers", "supported", "found"),
        FeatureView("programs", "unsupported", "too many cooks"),
        FeatureView("xfs", "unsupported", "no tracepoint"),
        FeatureView("bcc", "unknown", "not tried"),
    ]
    found = checks.ebpf(features)
    assert [check.name for check in found] == [f"ebpf-{each.name}" for each in features]
    assert [check.found for check in found] == [each.reason for each in features]
    assert [check.result for check in found] == ["ok", "warn", "warn", "unknown"]
    for check in found:
        assert bool(check.cost) == bool(check.mend) == (check.result == "warn")


def volume(name: str, asked: str, source: str) -> VolumeView:
    status = messages.status(capture=messages.capture(source=source, reason=f"why {source}"))
    return VolumeView(name, "", "", "", {"capture": asked}, 1, status)


def test_which_source_each_volume_has_and_why() -> None:
    fine = [volume(f"v{number}", "auto", "inotify") for number in range(30)]
    check = checks.sources([*fine, volume("idle", "ebpf", "none")])
    assert check.result == "ok"
    assert "v0: inotify, why inotify" in check.found
    assert "idle" not in check.found
    assert check.found.endswith("and 10 more")
    capture = messages.capture(source="ebpf", reason="why ebpf", scanned_directories=7)
    partly = VolumeView("partly", "", "", "", {}, 1, messages.status(capture=capture))
    check = checks.sources([*fine, partly])
    assert (check.result, check.found.startswith("partly: ebpf, why ebpf")) == ("warn", True)
    for asked, source in (("ebpf", "inotify"), ("auto", "scan")):
        check = checks.sources([*fine, volume("fallen", asked, source)])
        assert check.result == "warn"
        assert check.found.startswith(f"fallen: {source}, why {source}; ")
    assert checks.sources([volume("asked", "scan", "scan")]).result == "ok"
    assert checks.sources([]).result == "ok"


def sized(name: str, size: int | None, used: int | None, mounts: int = 1) -> VolumeView:
    return VolumeView(name, "", "", "", {}, mounts, messages.status(size=size, size_used=used))


def test_which_sizes_are_nearly_reached_or_not_enforced() -> None:
    fine = [sized("none", None, None), sized("half", 1 << 30, 1 << 29), sized("idle", 9, None, 0)]
    assert checks.sizes([]).found == checks.sizes(fine[:1]).found == "no volume has a size"
    check = checks.sizes(fine)
    assert (check.result, check.found) == ("ok", "2 volumes have a size, none is nearly full")
    check = checks.sizes([*fine, sized("full", 1 << 30, 1 << 30), sized("free", 1 << 20, None)])
    assert check.result == "warn"
    assert check.found == "full: 1GiB of 1GiB used; free: 1MiB is not enforced"
    check = checks.sizes([sized(f"v{number}", 10, 9) for number in range(30)])
    assert check.found.endswith("and 10 more")


def test_space_looks_at_the_nearest_existing_parent(paths: checks.CheckedPaths) -> None:
    missing = checks.CheckedPaths(f"{paths.state_dir}/a/b", "", "")
    assert checks.space(missing).found == checks.space(paths).found


def test_health() -> None:
    assert checks.health([]).result == "ok"
    check = checks.health(["disk full", "port taken"])
    assert (check.result, check.found) == ("fail", "disk full; port taken")
