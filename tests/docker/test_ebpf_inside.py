"""The managed plugin has what eBPF captures need: bcc, kernel headers, tracefs, capabilities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import limits

if TYPE_CHECKING:
    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin

SIZE = 256 * limits.MIB
WRITE = "dd if=/dev/zero of=/data/large bs=4096 count=1 seek=30000 conv=notrunc,fsync status=none"


def bytes_read(plugin: ManagedPlugin) -> int:
    """What all threads of the daemon have read since it started, from whatever."""
    lines = Path(f"/proc/{plugin.pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def capture_of(plugin: ManagedPlugin, volume: str) -> dict[str, Any]:
    found: dict[str, Any] = plugin.request("GET", f"/v1/volumes/{volume}")["status"]["capture"]
    return found


@pytest.mark.parametrize("source", ["ebpf", "inotify"])
def test_one_changed_page_of_a_large_file(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    source: str,
) -> None:
    """eBPF reads and stores the page's chunk; inotify, to compare with, reads the whole file."""
    volume = new_volume(interval="1h", capture=source)
    container = engine.start_container(base_image, volume, "sleep", "1000")
    capture = capture_of(plugin, volume)
    assert capture["source"] == source, capture
    fill = f"head -c {SIZE} /dev/urandom > /data/large && sync /data/large"
    engine.docker("exec", container, "sh", "-c", fill)
    plugin.snapshot(volume)
    # Until nothing of the file is looked at once more for having been written just before.
    plugin.snapshot(volume)
    before = bytes_read(plugin)
    engine.docker("exec", container, "sh", "-c", WRITE)
    snapshot = plugin.snapshot(volume)
    read = bytes_read(plugin) - before
    assert snapshot["new_bytes"] <= limits.CHUNK_BYTES_DEFAULT
    assert snapshot["consistency"] == "crash"
    print(f"{source}: {read} bytes read, {snapshot['new_bytes']} new")
    if source == "ebpf":
        assert read < SIZE / 16
        assert {"programs", "ext4"} <= set(capture["ebpf"])
        assert capture["ebpf"]["programs"].startswith("supported: ")
    else:
        assert read >= SIZE
    assert plugin.cli("verify", volume).returncode == 0


def test_what_it_says_of_ebpf(plugin: ManagedPlugin, new_volume: VolumeMaker) -> None:
    """Everything that eBPF needs is inside, whatever the host has."""
    volume = new_volume(interval="1h", capture="ebpf")
    plugin.request("POST", "/VolumeDriver.Mount", {"Name": volume, "ID": "test"})
    try:
        checks = {found["name"]: found for found in plugin.request("GET", "/v1/doctor")}
        steps = ("tracefs", "tracepoints", "headers", "bcc", "programs")
        assert {checks[f"ebpf-{name}"]["result"] for name in steps} == {"ok"}
        assert "/usr/share/diffkeeper/headers" in checks["ebpf-headers"]["found"]
        assert f"{volume}: ebpf" in checks["capture"]["found"]
    finally:
        plugin.request("POST", "/VolumeDriver.Unmount", {"Name": volume, "ID": "test"})
    (loaded,) = [line for line in plugin.log if " ebpf_loaded " in line][-1:]
    assert "resident_after_bytes=" in loaded
    print(loaded)
