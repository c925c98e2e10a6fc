"""kill -9 of containers, of the plugin and of dockerd, and reboots, while containers write."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import docker_volumes as volumes
from tests.support import docker_writers as writers
from tests.support import processes
from tests.support.docker_legacy import LegacyPlugin
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin


SOCKET_LOOK_SECONDS = 3.5


def running(engine: DockerEngine, container: str) -> bool:
    return state(engine, container)["Running"] is True


def state(engine: DockerEngine, container: str) -> dict[str, object]:
    found: list[dict[str, dict[str, object]]] = json.loads(engine.docker("inspect", container))
    return found[0]["State"]


def wait_snapshots(plugin: ManagedPlugin, volume: str, before: int) -> None:
    wait_for(lambda: len(plugin.snapshots(volume)) > before, "snapshots go on")


def unmounted(engine: DockerEngine, volume: str) -> None:
    wait_for(lambda: volumes.mounts(engine, volume) == 0, f"{volume} is unmounted", 60)


def kill(plugin: ManagedPlugin) -> None:
    """kill -9 of the plugin's daemon, and the time that dockerd needs to take the next one in.

    dockerd looks for the socket at once, and then every 3 s; a daemon that is dead by then is not
    started again, and its plugin is disabled.
    """
    plugin.kill()
    time.sleep(SOCKET_LOOK_SECONDS)


@pytest.mark.engines
def test_container_killed_again_and_again(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    name = new_volume(interval="200ms")
    directory = volumes.live(engine, plugin, name)
    container = writers.start(engine, base_image, name)
    for turn in range(3):
        writers.wait_progress(directory)
        engine.docker("kill", container)
        unmounted(engine, name)
        written = writers.check(directory)
        volumes.check_newest(engine, plugin, name, tmp_path / f"copy{turn}")
        engine.docker("start", container)
        assert writers.wait_progress(directory) >= written
    engine.docker("kill", container)
    unmounted(engine, name)
    volumes.check_verified(plugin, name)


def test_snapshots_of_a_writing_container_are_instants(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    name = new_volume(interval="100ms")
    directory = volumes.live(engine, plugin, name)
    container = writers.start(engine, base_image, name)
    writers.wait_progress(directory)
    wait_for(lambda: len(plugin.snapshots(name)) >= 20, "twenty snapshots", 60)
    engine.docker("kill", container)
    taken = [shot for shot in plugin.snapshots(name) if shot["reason"] == "interval"]
    promised = [shot for shot in taken if shot["consistency"] == "crash"]
    freezes = sorted(shot["freeze_ms"] for shot in promised)
    print(f"{len(promised)} of {len(taken)} crash-consistent, freeze_ms {freezes}")
    assert len(promised) >= len(taken) / 2, [shot for shot in taken if shot not in promised]
    newest = [
        writers.check(volumes.restore(plugin, f"{name}@{s['seq']}", tmp_path / str(s["seq"])))
        for s in promised[:: max(1, len(promised) // 8)]
    ]
    assert newest == sorted(newest)
    assert newest[-1] > newest[0]


@pytest.mark.engines
def test_plugin_killed_while_a_container_writes(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """The container goes on, also when the kill comes inside a freeze; nothing is missed."""
    name = new_volume(interval="100ms")
    directory = volumes.live(engine, plugin, name)
    container = writers.start(engine, base_image, name)
    for turn in range(3):
        writers.wait_progress(directory)
        before = len(plugin.snapshots(name))
        time.sleep(0.03 * turn)
        kill(plugin)
        writers.wait_progress(directory, seconds_max=5)
        assert running(engine, container)
        assert volumes.mounts(engine, name) == 1
        wait_snapshots(plugin, name, before)
    assert volumes.status(engine, name)["last_recovery"]["kind"] == "takeover"
    assert volumes.status(engine, name)["capture"]["source"] in {"ebpf", "inotify"}
    # The same ID as the mount that the new daemon took over.
    (tmp_path / "other").write_text("after\n")
    engine.docker("cp", str(tmp_path / "other"), f"{container}:/data/other")
    assert volumes.mounts(engine, name) == 1
    assert volumes.mounted(plugin, volumes.status(engine, name)["id"])
    before = len(plugin.snapshots(name))
    wait_snapshots(plugin, name, before)
    engine.docker("kill", container)
    unmounted(engine, name)
    writers.check(directory)
    volumes.check_newest(engine, plugin, name, tmp_path / "copy")
    assert (tmp_path / "copy" / "other").read_text() == "after\n"
    engine.docker("rm", container)
    engine.docker("volume", "rm", name)


def test_plugin_killed_with_everything_stopped_meanwhile(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """Written to between two kills and never seen by any source: it is in the next snapshot."""
    name = new_volume(interval="1h")
    engine.shell(base_image, name, "echo 11 > /data/file; touch -d @5 /data/file")
    directory = volumes.live(engine, plugin, name)
    kill(plugin)
    status = (directory / "file").stat()
    (directory / "file").write_text("22\n")
    os.utime(directory / "file", ns=(status.st_atime_ns, status.st_mtime_ns))
    kill(plugin)
    assert engine.shell(base_image, name, "cat /data/file") == "22"
    volumes.check_newest(engine, plugin, name, tmp_path / "copy")
    assert (tmp_path / "copy" / "file").read_text() == "22\n"


def test_dockerd_killed(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """Containers start again on their volumes, under whatever mount IDs; the counts fit."""
    kept, left = new_volume(interval="200ms"), new_volume(interval="200ms")
    restarted = writers.start(engine, base_image, kept, "--restart always")
    ended = writers.start(engine, base_image, left)
    kept_live = volumes.live(engine, plugin, kept)
    left_live = volumes.live(engine, plugin, left)
    writers.wait_progress(kept_live)
    writers.wait_progress(left_live)
    engine.kill()
    engine.start()
    plugin.wait_ready()
    wait_for(lambda: running(engine, restarted), "the container is started again")
    writers.wait_progress(kept_live)
    assert volumes.mounts(engine, kept) == 1
    assert not running(engine, ended)
    written = writers.check(left_live)
    engine.docker("start", ended)
    assert writers.wait_progress(left_live) >= written
    assert volumes.mounts(engine, left) == 1
    for turn, (container, name, live) in enumerate(
        [(restarted, kept, kept_live), (ended, left, left_live)]
    ):
        engine.docker("rm", "--force", container)
        unmounted(engine, name)
        writers.check(live)
        volumes.check_newest(engine, plugin, name, tmp_path / str(turn))
        engine.docker("volume", "rm", name)


def test_dockerd_killed_and_the_container_never_started_again(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    """No Unmount is ever sent for its mount, and the volume can be removed nevertheless."""
    name = new_volume()
    container = writers.start(engine, base_image, name)
    writers.wait_progress(volumes.live(engine, plugin, name))
    engine.kill()
    engine.start()
    plugin.wait_ready()
    engine.docker("rm", "--force", container)
    engine.docker("volume", "rm", name)


@pytest.fixture
def live_restore(engine: DockerEngine, plugin: ManagedPlugin) -> Iterator[None]:
    """The engine keeps containers alive while it is away."""
    engine.stop()
    engine.start("--live-restore")
    plugin.wait_ready()
    yield
    engine.stop()
    engine.start()
    plugin.wait_ready()


@pytest.mark.engines
@pytest.mark.usefixtures("live_restore")
def test_dockerd_killed_with_live_restore(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """One container lives on, one dies while nobody looks; both volumes stay usable."""
    kept, left = new_volume(interval="200ms"), new_volume(interval="200ms")
    living = writers.start(engine, base_image, kept)
    dying = writers.start(engine, base_image, left)
    kept_live = volumes.live(engine, plugin, kept)
    left_live = volumes.live(engine, plugin, left)
    pid, victim = (int(str(state(engine, c)["Pid"])) for c in (living, dying))
    engine.kill()
    os.kill(victim, signal.SIGKILL)
    writers.wait_progress(kept_live)
    assert processes.alive(pid)
    engine.start("--live-restore")
    plugin.wait_ready()
    assert state(engine, living)["Pid"] == pid
    writers.wait_progress(kept_live)
    assert volumes.mounts(engine, kept) == 1
    wait_for(lambda: not running(engine, dying), "dockerd sees that the container ended")
    engine.docker("start", dying)
    writers.wait_progress(left_live)
    for turn, (container, name, live) in enumerate(
        [(living, kept, kept_live), (dying, left, left_live)]
    ):
        engine.docker("rm", "--force", container)
        unmounted(engine, name)
        writers.check(live)
        volumes.check_newest(engine, plugin, name, tmp_path / str(turn))
        engine.docker("volume", "rm", name)


@pytest.mark.engines
@pytest.mark.usefixtures("live_restore")
def test_container_gone_while_dockerd_was_with_live_restore(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    """No Unmount is ever sent for its mount to a plugin that lived on; a remove succeeds."""
    name = new_volume(interval="200ms")
    container = writers.start(engine, base_image, name)
    wait_snapshots(plugin, name, 2)
    victim = int(str(state(engine, container)["Pid"]))
    engine.kill()
    os.kill(victim, signal.SIGKILL)
    engine.start("--live-restore")
    plugin.wait_ready()
    wait_for(lambda: not running(engine, container), "dockerd sees that the container ended")
    engine.docker("rm", "--force", container)
    engine.docker("volume", "rm", name)


@pytest.fixture(scope="module")
def one_legacy(engine: DockerEngine) -> Iterator[LegacyPlugin]:
    """The daemon on the host, without the managed plugin's root file system.

    One for all tests: dockerd never forgets a legacy plugin while it runs, and asks one that is
    gone for 15 s and more whenever it looks for a volume, hence the restart at the end.
    """
    made = LegacyPlugin(engine.root.shared)
    try:
        yield made
    finally:
        made.clean()
        engine.stop()
        engine.start()


@pytest.fixture
def legacy(engine: DockerEngine, one_legacy: LegacyPlugin) -> Iterator[LegacyPlugin]:
    """The daemon on the host, running."""
    one_legacy.deaths = 0
    if not one_legacy.running:
        one_legacy.start()
    yield one_legacy
    if not one_legacy.running:
        one_legacy.start()
    driver = f"driver={one_legacy.name}"
    for name in engine.attempt("volume", "ls", "-qf", driver).stdout.split():
        for container in engine.docker("ps", "-aqf", f"volume={name}").split():
            engine.attempt("rm", "--force", container)
        engine.attempt("volume", "rm", name)


def test_reboot(engine: DockerEngine, legacy: LegacyPlugin, base_image: str) -> None:
    """Everything dies at once, nothing is mounted afterwards, and the boot id is another."""
    engine.docker("volume", "create", "-d", legacy.name, "-o", "interval=200ms", "rebooted")
    container = writers.start(engine, base_image, "rebooted", "--restart always")
    directory = legacy.state_dir / "volumes" / str(volumes.status(engine, "rebooted")["id"])
    writers.wait_progress(directory / "live")
    victim = int(str(state(engine, container)["Pid"]))
    legacy.kill()
    engine.kill()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not processes.alive(victim), "the container is gone")
    legacy.new_boot()
    written = writers.check(directory / "live")
    # As after a power cut, the file has lost what its timestamps promise.
    (directory / "live" / "b").write_text("".join(f"{i}\n" for i in range(1, written)))
    legacy.start()
    assert (
        volumes.call(legacy.socket, "Get", {"Name": "rebooted"})[1]["Volume"]["Status"]["mounts"]
        == 0
    )
    engine.start()
    wait_for(lambda: running(engine, container), "the container is started again")
    assert writers.wait_progress(directory / "live") >= written
    assert volumes.mounts(engine, "rebooted") == 1
    engine.docker("rm", "--force", container)
    unmounted(engine, "rebooted")
    _, answer = volumes.call(legacy.socket, "Get", {"Name": "rebooted"})
    assert answer["Volume"]["Status"]["last_verification"]["ok"] is True
    (tag,) = answer["Volume"]["Status"]["tags"]
    assert tag.startswith("power-cut-"), "the state of before stays within reach"
    engine.docker("volume", "rm", "rebooted")
    wait_for(lambda: not list(directory.iterdir()), "the live directory is deleted")


def patiently(engine: DockerEngine, *command: str) -> str:
    """Output of a docker command that may be given again where a kill of the daemon met it."""
    done = engine.attempt(*command)
    return done.stdout.strip() if done.returncode == 0 else engine.docker(*command)


@pytest.mark.parametrize(
    "failpoint",
    [
        "mount.after_bind=kill",
        "capture.frozen=kill:2",
        "capture.before_commit=kill:3",
        "unmount.after_unbind=kill",
        "volume.after_remove=kill",
    ],
)
def test_daemon_killed_at(
    engine: DockerEngine, legacy: LegacyPlugin, base_image: str, failpoint: str
) -> None:
    """Wherever the daemon dies, the container goes on and the next daemon takes over."""
    legacy.kill()
    legacy.start(failpoint)
    name = f"at-{failpoint.partition('=')[0]}"
    with legacy.supervised():
        patiently(engine, "volume", "create", "-d", legacy.name, "-o", "interval=100ms", name)
        create = ["create", "--network", "none", "-v", f"{name}:/data", base_image]
        container = patiently(engine, *create, "sh", "-c", writers.SCRIPT)
        patiently(engine, "start", container)
        number = volumes.status(engine, name)["id"]
        directory = legacy.state_dir / "volumes" / str(number) / "live"
        for _ in range(3):
            writers.wait_progress(directory)
        patiently(engine, "rm", "--force", container)
        # dockerd repeats an Unmount that met the kill without its body, and so without effect;
        # the next use of the volume puts the count right.
        engine.shell(base_image, name, "test -s /data/a")
        unmounted(engine, name)
        writers.check(directory)
        assert volumes.status(engine, name)["last_verification"]["ok"] is True
        engine.attempt("volume", "rm", name)
        wait_for(lambda: not directory.exists(), "the live directory is deleted")
    assert legacy.deaths == 1
    assert name not in engine.docker("volume", "ls", "-q").split()
