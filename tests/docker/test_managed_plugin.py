"""The managed plugin's own life: created, set, disabled, pushed, installed, upgraded, removed."""

from __future__ import annotations

import glob
import json
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.engine import STARTS_MAX
from tests.support import disks, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker.engine import DockerEngine
    from tests.docker.makers import ImageRegistry, PluginMaker
    from tests.docker.managed import ManagedPlugin

VOLUMES = ("first", "second")


def fill(engine: DockerEngine, plugin: ManagedPlugin, image: str) -> dict[str, list[str]]:
    """Two volumes with two snapshots each; returns the roots of their histories."""
    for name in VOLUMES:
        engine.docker("volume", "create", "-d", plugin.name, "-o", "interval=1h", name)
        engine.shell(image, name, f"echo {name} one > /data/file")
        engine.shell(image, name, f"echo {name} two >> /data/file; mkdir -p /data/d/e")
    return histories(plugin)


def histories(plugin: ManagedPlugin) -> dict[str, list[str]]:
    """Root hashes of all snapshots, by volume."""
    return {name: [shot["root"] for shot in plugin.snapshots(name)] for name in VOLUMES}


def check(
    engine: DockerEngine, plugin: ManagedPlugin, image: str, before: dict[str, list[str]]
) -> None:
    """Every volume is there, with its content and with every snapshot it had."""
    listed = engine.docker("volume", "ls", "-q", "--filter", f"driver={plugin.name}:latest")
    assert set(VOLUMES) <= set(listed.split())
    for name, roots in histories(plugin).items():
        assert len(roots) >= 2
        assert roots[: len(before[name])] == before[name]
        assert engine.shell(image, name, "cat /data/file") == f"{name} one\n{name} two"


@pytest.fixture(scope="module")
def kept_plugin(engine: DockerEngine, new_plugin: PluginMaker) -> Iterator[ManagedPlugin]:
    """A plugin of this file's own, created and enabled; an engine needs seconds for that."""
    made = new_plugin("dk-own")
    made.create()
    made.enable()
    yield made
    made.discard()


@pytest.fixture
def own_plugin(engine: DockerEngine, kept_plugin: ManagedPlugin) -> Iterator[ManagedPlugin]:
    """The same without volumes, which the test may make, set, disable and replace."""
    kept_plugin.wait_ready()
    yield kept_plugin
    discard_volumes(engine)


def discard_volumes(engine: DockerEngine) -> None:
    """Removes the volumes, with the containers that a failed test has left on them."""
    for name in VOLUMES:
        for container in engine.docker("ps", "-aq", "--filter", f"volume={name}").split():
            engine.docker("rm", "--force", container)
        engine.attempt("volume", "rm", name)


def test_disabled_set_and_enabled_again(
    engine: DockerEngine, own_plugin: ManagedPlugin, base_image: str
) -> None:
    before = fill(engine, own_plugin, base_image)
    own_plugin.disable()
    engine.docker("plugin", "set", own_plugin.name, "DIFFKEEPER_LOG_LEVEL=debug")
    own_plugin.enable()
    check(engine, own_plugin, base_image, before)
    settings = json.loads(engine.docker("plugin", "inspect", own_plugin.name))[0]["Settings"]
    assert "DIFFKEEPER_LOG_LEVEL=debug" in settings["Env"]


def test_removed_and_created_again(
    engine: DockerEngine, own_plugin: ManagedPlugin, base_image: str
) -> None:
    before = fill(engine, own_plugin, base_image)
    first = own_plugin.id
    own_plugin.disable()
    own_plugin.remove()
    assert not (engine.data_dir / "plugins" / first / "rootfs").exists()
    own_plugin.create()
    own_plugin.enable()
    assert own_plugin.id != first
    check(engine, own_plugin, base_image, before)


def test_disabled_by_force_while_a_container_writes(
    engine: DockerEngine, own_plugin: ManagedPlugin, base_image: str
) -> None:
    """The container keeps its mount; the plugin takes the volume over again and misses nothing."""
    before = fill(engine, own_plugin, base_image)
    container = engine.start_container(base_image, "first", "sleep", "600")
    own_plugin.disable()
    engine.docker("exec", container, "sh", "-c", "echo three > /data/other")
    own_plugin.enable()
    engine.docker("exec", container, "sh", "-c", "echo four >> /data/other")
    taken = own_plugin.snapshot("first")
    assert taken["consistency"] == "crash"
    assert taken["files"] == 2
    engine.docker("rm", "--force", container)
    check(engine, own_plugin, base_image, before)
    assert engine.shell(base_image, "first", "cat /data/other") == "three\nfour"


def test_its_log_is_one_line_per_event(
    engine: DockerEngine, own_plugin: ManagedPlugin, base_image: str
) -> None:
    fill(engine, own_plugin, base_image)
    lines = own_plugin.log
    assert any("first" in line for line in lines)
    assert any("second" in line for line in lines)
    for line in lines:
        assert "level=error" not in line, line
        assert "Traceback" not in line, line


def test_metrics_on_the_loopback_address(own_plugin: ManagedPlugin) -> None:
    address = f"http://127.0.0.1:{own_plugin.port}/metrics"
    with urllib.request.urlopen(address, timeout=10) as answer:
        text = answer.read().decode()
    assert "diffkeeper_recovery_total" in text
    assert "diffkeeper_delta_count" in text


def test_its_capabilities_are_the_declared_ones(own_plugin: ManagedPlugin) -> None:
    """SYS_ADMIN, SYS_PTRACE, SYS_NICE and IPC_LOCK beside the engine's default; nothing more."""
    status = Path(f"/proc/{own_plugin.pid}/status").read_text()
    effective = int(next(x for x in status.splitlines() if x.startswith("CapEff:")).split()[1], 16)
    default = 0xA80425FB
    assert effective == default | 1 << 21 | 1 << 19 | 1 << 23 | 1 << 14


def test_its_guard_is_not_swapped_out(own_plugin: ManagedPlugin) -> None:
    found = [Path(path).parent for path in glob.glob("/proc/[0-9]*/exe") if _is_guard(path)]
    parent = f"PPid:\t{own_plugin.pid}\n"
    (guard,) = (each for each in found if parent in _status(each))
    assert "VmSwap:\t       0 kB" in _status(guard)
    assert "VmLck:\t       0 kB" not in _status(guard)
    assert not [line for line in own_plugin.log if "guard_may_be_swapped" in line]


def _status(process: Path) -> str:
    return (process / "status").read_text()


def _is_guard(path: str) -> bool:
    try:
        return b"guard_main.py" in Path(path).with_name("cmdline").read_bytes()
    except OSError:
        return False


def test_the_host_below_the_state_is_not_mounted_into_it(own_plugin: ManagedPlugin) -> None:
    """Other mounts below the bound directory would be pinned by the plugin's namespace."""
    table = Path(f"/proc/{own_plugin.pid}/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in table]
    assert [point for point in points if point.startswith("/host/lib")] == ["/host/lib"]


def push(engine: DockerEngine, build: Path, reference: str, target: Path) -> None:
    """Pushes the build as a release of its own: its root file system names it."""
    subprocess.run(["cp", "-al", str(build), str(target)], check=True)
    (target / "rootfs" / "etc" / "release-of-the-test").write_text(reference)
    engine.docker("plugin", "create", reference, str(target))
    engine.docker("plugin", "push", reference, seconds_max=300)
    engine.docker("plugin", "rm", reference)


@pytest.mark.engines
def test_pushed_installed_upgraded_removed_installed(
    engine: DockerEngine,
    new_plugin: PluginMaker,
    plugin_build: Path,
    registry: ImageRegistry,
    base_image: str,
    tmp_path: Path,
) -> None:
    plugin = new_plugin("dk-installed")
    for tag in ("1", "2"):
        push(engine, plugin_build, registry.reference(tag), tmp_path / tag)
    try:
        install(engine, plugin, registry.reference("1"))
        before = fill(engine, plugin, base_image)
        first = plugin.id
        running = engine.start_container(base_image, "first", "sleep", "600")
        plugin.disable()
        upgrade = ["upgrade", "--grant-all-permissions", "--skip-remote-check", plugin.name]
        engine.docker("plugin", *upgrade, registry.reference("2"), seconds_max=300)
        # An upgrade takes the source of a mount back to its default, though `inspect` still shows
        # what was set: it has to be set again.
        engine.docker("plugin", "set", plugin.name, *plugin.settings)
        plugin.enable()
        assert plugin.id == first
        rootfs = Path(f"/proc/{plugin.pid}/root")
        assert (rootfs / "etc" / "release-of-the-test").read_text() == registry.reference("2")
        # A container lives through the upgrade, and what it writes is seen by the new release.
        engine.docker("exec", running, "sh", "-c", "echo three > /data/other")
        assert plugin.snapshot("first")["consistency"] == "crash"
        engine.docker("rm", "--force", running)
        assert engine.shell(base_image, "first", "cat /data/other; rm /data/other") == "three"
        check(engine, plugin, base_image, before)
        plugin.disable()
        plugin.remove()
        install(engine, plugin, registry.reference("2"))
        check(engine, plugin, base_image, before)
    finally:
        discard_volumes(engine)
        plugin.discard()


def install(engine: DockerEngine, plugin: ManagedPlugin, reference: str) -> None:
    """As a user does it, under an alias; the settings come with the command."""
    command = ["install", "--grant-all-permissions", "--alias", plugin.name, reference]
    engine.docker("plugin", *command, *plugin.settings, seconds_max=300)
    plugin.wait_ready()


def test_the_disk_of_the_state_is_not_mounted(
    engine: DockerEngine, new_plugin: PluginMaker, base_image: str, tmp_path: Path
) -> None:
    """No empty store begins beneath it, the engine keeps its volumes, and doctor says why."""
    plugin = new_plugin("dk-disk")
    # Where the engine has mounts of its own, this is theirs, too.
    base = Path(tempfile.mkdtemp(dir=engine.root.shared)) if engine.root.shared else tmp_path
    with disks.file_system("ext4", base) as disk:
        plugin.state_source = disk
        plugin.create()
        plugin.enable()
        engine.docker("volume", "create", "-d", plugin.name, "on-disk")
        engine.shell(base_image, "on-disk", "echo kept > /data/file")
        plugin.disable()
        subprocess.run(["umount", str(disk)], check=True)
        try:
            plugin.enable(ready=False)
            told = missing_store(plugin)
            assert "is its disk mounted, and state.source or --state-dir as it was?" in told
            note = plugin.mount_dir / ".diffkeeper-store"
            assert f"({note} on the host)" in told
            assert list(disk.iterdir()) == []
        finally:
            image = str(base / "image")
            subprocess.run(["mount", "-o", "loop", image, str(disk)], check=True)
        plugin.disable()
        plugin.enable()
        assert engine.shell(base_image, "on-disk", "cat /data/file") == "kept"
        engine.docker("volume", "rm", "on-disk")
        plugin.discard()


def test_an_engine_whose_plugin_cannot_be_started(
    engine: DockerEngine, new_plugin: PluginMaker
) -> None:
    """With volumes of it the engine panics at each start; disabled by hand, it starts."""
    plugin = new_plugin("dk-gone")
    plugin.create()
    plugin.enable()
    engine.docker("volume", "create", "-d", plugin.name, "of-the-gone")
    config = engine.data_dir / "plugins" / plugin.id / "config.json"
    engine.stop()
    away = plugin.state_source.with_name(f"{plugin.state_source.name}-away")
    plugin.state_source.rename(away)
    try:
        with pytest.raises(AssertionError, match=f"dockerd ended {STARTS_MAX} times"):
            engine.start()
        told = json.loads(config.read_text())
        told["plugin"]["Enabled"] = False
        config.write_text(json.dumps(told))
        engine.start()
    finally:
        away.rename(plugin.state_source)
    plugin.enable()
    assert plugin.name in engine.docker("volume", "inspect", "of-the-gone")
    engine.docker("volume", "rm", "of-the-gone")
    plugin.discard()


def test_a_disk_of_the_host_on_the_state(
    engine: DockerEngine, new_plugin: PluginMaker, base_image: str
) -> None:
    """A disk that was mounted on it beforehand is not in the plugin: nothing goes beneath it."""
    plugin = new_plugin("dk-beneath")
    source = plugin.state_source
    with disks.file_system("ext4", source) as disk:
        plugin.create()
        engine.docker("plugin", "set", plugin.name, f"DIFFKEEPER_STATE_DIR=/host/lib/{disk.name}")
        plugin.enable(ready=False)
        told = missing_store(plugin)
        assert f"the host has another disk on {disk}" in told
        plugin.discard()


def missing_store(plugin: ManagedPlugin) -> str:
    """What doctor says of a plugin that has refused to begin a store."""
    processes.wait_for(
        lambda: any("store_refused" in line for line in plugin.log), "the store is refused"
    )
    found = json.loads(plugin.cli("doctor", "--json").stdout)
    (health,) = [finding for finding in found if finding["name"] == "health"]
    assert health["result"] == "fail"
    return str(health["found"])
