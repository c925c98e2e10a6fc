"""What the daemon says of eBPF: in Status, in its log, in its metrics, by its doctor."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from diffkeeper import counters, limits
from diffkeeper.api import checks
from diffkeeper.service.service import VolumeService
from tests.support.service import status_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.support.daemon import Daemon

HEADERS = Path(__file__).parents[2] / "build" / "headers"
NOTICE_SECONDS_MAX = 20.0
STEPS = ("tracefs", "tracepoints", "headers", "bcc", "programs")


@pytest.fixture
def daemon(new_daemon: Callable[..., Daemon]) -> Daemon:
    """A running daemon that loads eBPF."""
    made = new_daemon(DIFFKEEPER_EBPF="start")
    made.start()
    return made


def mounted(daemon: Daemon) -> dict[str, Any]:
    """`Status.capture` of a volume that asks for eBPF and is mounted."""
    daemon.ok("Create", Name="v", Opts={"interval": "1h", "capture": "ebpf"})
    daemon.live("v", {"a": b"x" * 100_000})
    return dict(daemon.admin("GET", "/v1/volumes/v")["status"]["capture"])


def with_ebpf(daemon: Daemon) -> dict[str, Any]:
    """The same; skips where this machine has none."""
    capture = mounted(daemon)
    if capture["source"] != "ebpf":
        pytest.skip(capture["reason"])
    return capture


def findings(daemon: Daemon) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in daemon.admin("GET", "/v1/doctor")}


def metrics(daemon: Daemon) -> str:
    address = daemon.admin("GET", "/v1/version")["listen"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as page:
        return str(page.read().decode())


def event(log: str, name: str) -> dict[str, str]:
    """The fields of the only event of this name in the log."""
    (line,) = [line for line in log.splitlines() if line.split()[1] == name]
    return dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))


def test_what_is_said_of_ebpf(daemon: Daemon) -> None:
    before = findings(daemon)
    assert before["ebpf-programs"]["result"] == "unknown"
    assert 'diffkeeper_ebpf_feature{feature="programs",support="unknown"} 1.0' in metrics(daemon)
    capture = with_ebpf(daemon)
    assert capture["reason"] == "asked for by the volume's option capture=ebpf"
    assert {"programs", "direct-io-ends", "mapped-stores"} < set(capture["ebpf"])
    assert capture["ebpf"]["programs"].startswith("supported: ")
    after = findings(daemon)
    assert {after[f"ebpf-{name}"]["result"] for name in STEPS} == {"ok"}
    assert after["capture"]["result"] == "ok"
    assert f"v: ebpf, {capture['reason']}" in after["capture"]["found"]
    daemon.admin("POST", "/v1/volumes/v/snapshots", {}, 201)
    Path(daemon.ok("Path", Name="v")["Mountpoint"], "a").write_bytes(b"y")
    page = metrics(daemon)
    assert 'diffkeeper_ebpf_feature{feature="programs",support="supported"} 1.0' in page
    reason = f'reason="{capture["reason"]}"'
    assert f'diffkeeper_capture_source{{{reason},source="ebpf",volume="v"}} 1.0' in page
    marks = re.search(r"^diffkeeper_ebpf_marks_total (\S+)$", page, re.MULTILINE)
    assert marks is not None
    assert float(marks[1]) > 0
    assert "diffkeeper_ebpf_full_writes_total 0.0" in page
    assert "diffkeeper_ebpf_programs_lost_total" in page


def test_the_compilers_memory_is_given_back(daemon: Daemon) -> None:
    with_ebpf(daemon)
    told = event(daemon.log, "ebpf_loaded")
    before, compiled, after = (
        int(told[f"resident_{when}_bytes"]) for when in ("before", "compiled", "after")
    )
    print(f"resident: {before} before, {compiled} compiled, {after} after")
    assert compiled - before > 50 * limits.MIB
    assert after - before < (compiled - before) / 2
    assert int(told["headers_bytes"]) > 0
    assert Path(told["headers"]).is_dir()


def test_headers_by_the_setting(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    if not HEADERS.is_dir():
        pytest.skip("no kernel headers in build/headers")
    own = tmp_path / "own"
    shutil.copytree(HEADERS, own)
    daemon = new_daemon(DIFFKEEPER_EBPF="mount", DIFFKEEPER_KERNEL_HEADERS=str(own))
    daemon.start()
    with_ebpf(daemon)
    assert event(daemon.log, "ebpf_loaded")["headers"] == str(own)
    assert str(own) in findings(daemon)["ebpf-headers"]["found"]


def falls_back(daemon: Daemon, feature: str) -> str:
    """The reason of a volume that gets no eBPF for want of a feature; told everywhere."""
    capture = mounted(daemon)
    assert capture["source"] == "inotify"
    reason = str(capture["reason"]).removeprefix("no eBPF: ")
    assert capture["ebpf"][feature] == f"unsupported: {reason}"
    found = findings(daemon)
    assert (found[f"ebpf-{feature}"]["result"], found["capture"]["result"]) == ("warn", "warn")
    assert found[f"ebpf-{feature}"]["found"] == reason
    assert reason in found["capture"]["found"]
    assert f'feature="{feature}",support="unsupported"' in metrics(daemon)
    assert reason in daemon.log.replace('\\"', '"')
    event(daemon.log, "ebpf_unavailable")
    return reason


def test_no_headers_in_the_folder_of_the_setting(new_daemon: Callable[..., Daemon]) -> None:
    daemon = new_daemon("--kernel-headers", "/nonexistent", "--ebpf", "start")
    daemon.start()
    reason = falls_back(daemon, "headers")
    assert "/nonexistent" in reason
    assert "include/linux/kconfig.h is missing" in reason


def test_headers_that_do_not_fit(new_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    if not HEADERS.is_dir():
        pytest.skip("no kernel headers in build/headers")
    own = tmp_path / "own"
    shutil.copytree(HEADERS, own)
    (own / "include" / "linux" / "types.h").write_text("#error another kernel\n")
    daemon = new_daemon("--kernel-headers", str(own), "--ebpf", "mount")
    daemon.start()
    reason = falls_back(daemon, "programs")
    assert f"cannot be loaded with the kernel headers in {own}" in reason
    assert "another kernel" in reason


def test_turned_off(new_daemon: Callable[..., Daemon]) -> None:
    """Nothing is loaded, whatever a volume asks for, and the reason is told."""
    daemon = new_daemon(DIFFKEEPER_EBPF="off")
    daemon.start()
    capture = mounted(daemon)
    assert capture["source"] == "inotify"
    assert "the daemon's setting ebpf=off" in capture["reason"]
    assert "ebpf_loaded" not in daemon.log
    assert "ebpf=off" in findings(daemon)["ebpf-programs"]["found"]


@pytest.fixture
async def service() -> AsyncIterator[VolumeService]:
    """The daemon's volumes in this process, so that a test can harm what it has loaded."""
    with tempfile.TemporaryDirectory(prefix="dk-") as base:
        made = VolumeService(
            f"{base}/state", f"{base}/mounts", cgroup_root="/sys/fs/cgroup", proc_root="/proc"
        )
        await made.start()
        yield made
        for view in made.views():
            await made.unmount(view.name, "w")
        await made.stop()


async def test_programs_that_are_lost_while_it_runs(
    service: VolumeService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detached behind its back while the volume is written to: it notices alone, and says so."""
    caplog.set_level(logging.INFO)
    await service.provision.create("v", {"capture": "ebpf", "interval": "200ms"})
    root = Path(await service.mount("v", "w"))
    capture: dict[str, Any] = msgspec.to_builtins(status_of(service).capture)
    if capture["source"] != "ebpf":
        pytest.skip(capture["reason"])
    file = os.open(root / "file", os.O_RDWR | os.O_CREAT, 0o600)
    os.pwrite(file, bytes(64 * 65536), 0)
    await service.snapshot("v")
    lost = counters.counts().get(("ebpf_programs_lost_total", ()), 0)
    loaded: Any = service._sources._program
    for name in list(loaded._loaded.tracepoint_fds):
        loaded._loaded.detach_tracepoint(name)
    began, turn = time.monotonic(), 0
    while capture["source"] == "ebpf":
        assert time.monotonic() - began < NOTICE_SECONDS_MAX, "the loss is not noticed"
        turn += 1
        os.pwrite(file, b"%d" % turn, turn % 64 * 65536)
        await asyncio.sleep(0.02)
        capture = msgspec.to_builtins(status_of(service).capture)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    assert capture["source"] == "inotify"
    assert "the eBPF programs were lost" in capture["reason"]
    assert capture["ebpf"]["programs"].startswith("unsupported: the eBPF programs were lost")
    events = [record.getMessage() for record in caplog.records]
    assert "ebpf_lost" in events
    assert "fell_back" in events
    assert counters.counts()["ebpf_programs_lost_total", ()] > lost
    programs = {each.name: each for each in service.features(look=True)}["programs"]
    assert programs.support == "unsupported"
    assert checks.ebpf([programs])[0].result == "warn"
    assert checks.sources([service.view("v")]).result == "warn"
    os.close(file)
    await service.snapshot("v")
    report = await service.verify("v", None)
    assert (report.ok, report.faults) == (True, ())
    await service.unmount("v", "w")
    # Whoever mounts from now on gets programs that were loaded anew.
    await service.mount("v", "w")
    capture = msgspec.to_builtins(status_of(service).capture)
    assert capture["source"] == "ebpf"
