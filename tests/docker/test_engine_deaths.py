"""What of an engine dies, alone or together, while a container writes; and services of a swarm."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from diffkeeper.service import restart
from tests.docker.engine import RESTART_SECONDS
from tests.support import docker_volumes as volumes
from tests.support import docker_writers as writers
from tests.support import processes
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin

pytestmark = pytest.mark.engines

# No capture looks at the processes meanwhile: the plugin has to see by itself who comes and goes.
SELDOM = "1h"
BRIDGE = "docker_gwbridge"


def check_and_remove(
    engine: DockerEngine, plugin: ManagedPlugin, name: str, live: Path, copy: Path
) -> None:
    """The volume has no user any more: its history is whole, and it can be removed at once."""
    wait_for(lambda: volumes.mounts(engine, name) == 0, f"{name} is unmounted", 60)
    writers.check(live)
    volumes.check_newest(engine, plugin, name, copy)
    engine.docker("volume", "rm", name)


def test_the_engine_killed_and_the_container_started_again(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """Newer engines mount under another ID then, and never end the mount of before."""
    name = new_volume(interval=SELDOM)
    container = writers.start(engine, base_image, name)
    live = volumes.live(engine, plugin, name)
    writers.wait_progress(live)
    engine.kill()
    engine.start()
    plugin.wait_ready()
    engine.docker("start", container)
    writers.wait_progress(live)
    assert volumes.mounts(engine, name) == 1
    engine.docker("rm", "--force", container)
    check_and_remove(engine, plugin, name, live, tmp_path / "copy")


def test_the_live_directory_is_lost_while_the_engine_is_stopped(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    """Its container comes up by itself, as always, on what was replayed from the very start on."""
    name = new_volume(interval=SELDOM)
    command = ("sh", "-c", "cat /data/file || echo first > /data/file; exec sleep 600")
    container = engine.start_container(base_image, name, *command, options="--restart always")
    live = volumes.live(engine, plugin, name)
    wait_for((live / "file").exists, "the file is written")
    engine.stop()
    shutil.rmtree(live)
    engine.start()
    plugin.wait_ready()
    running = ("inspect", "-f", "{{.State.Running}}", container)
    wait_for(lambda: engine.docker(*running) == "true", "the container runs")
    assert volumes.status(engine, name)["last_recovery"]["kind"] == "replay"
    assert any("replay_foreseen" in line for line in plugin.log)
    assert engine.docker("logs", container) == "first"
    engine.docker("rm", "--force", container)


def test_containerd_killed(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """Container and plugin live on, and the engine finds them again."""
    name = new_volume(interval="200ms")
    container = writers.start(engine, base_image, name)
    live = volumes.live(engine, plugin, name)
    writers.wait_progress(live)
    pid_file = engine.run_dir / "exec" / "containerd" / "containerd.pid"
    before = int(pid_file.read_text())
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: int(pid_file.read_text() or before) != before, "containerd is back", 60)
    plugin.wait_ready(60)
    taken = len(plugin.snapshots(name))
    writers.wait_progress(live)
    wait_for(lambda: len(plugin.snapshots(name)) > taken, "snapshots go on")
    wait_for(
        lambda: engine.attempt("rm", "--force", container).returncode == 0,
        "the engine removes the container",
        60,
    )
    check_and_remove(engine, plugin, name, live, tmp_path / "copy")


def test_everything_killed_at_once(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """Container, plugin, containerd and dockerd."""
    name = new_volume(interval="200ms")
    container = writers.start(engine, base_image, name)
    live = volumes.live(engine, plugin, name)
    writers.wait_progress(live)
    victim = int(engine.docker("inspect", "--format", "{{.State.Pid}}", container))
    engine_pid = engine.process.pid if engine.process is not None else 0
    containerd = int((engine.run_dir / "exec" / "containerd" / "containerd.pid").read_text())
    for pid in (engine_pid, containerd, plugin.pid, victim):
        os.kill(pid, signal.SIGKILL)
    engine.kill()
    wait_for(lambda: not processes.alive(victim), "the container is gone")
    time.sleep(RESTART_SECONDS)
    engine.start()
    plugin.wait_ready(60)
    written = writers.check(live)
    engine.docker("start", container)
    assert writers.wait_progress(live) >= written
    assert volumes.mounts(engine, name) == 1
    engine.docker("rm", "--force", container)
    check_and_remove(engine, plugin, name, live, tmp_path / "copy")


@pytest.fixture
def swarm(engine: DockerEngine) -> Iterator[None]:
    """The engine is a swarm of one node."""
    there = Path("/sys/class/net", BRIDGE).exists()
    engine.docker("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1")
    yield
    engine.docker("swarm", "leave", "--force")
    # The engine leaves its bridge in the network namespace of this machine.
    if not there:
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)


@pytest.mark.usefixtures("swarm")
def test_a_service_of_a_swarm(
    engine: DockerEngine, plugin: ManagedPlugin, base_image: str, tmp_path: Path
) -> None:
    """Its volume is made with its first task, and outlives a task that is killed."""
    name, service = "of-a-swarm", "writer"
    driver = f"volume-driver={plugin.name}:latest,volume-opt=interval=200ms"
    create = ["service", "create", "--detach", "--no-resolve-image", "--network", "host"]
    create += ["--restart-delay", "100ms", "--name", service]
    create += ["--mount", f"type=volume,source={name},target=/data,{driver}"]
    engine.docker(*create, base_image, "sh", "-c", writers.SCRIPT)
    of_service = ["ps", "-q", "--filter", f"label=com.docker.swarm.service.name={service}"]

    def task() -> str:
        return engine.docker(*of_service)

    try:
        wait_for(lambda: task() != "", "the service runs", 60)
        live = volumes.live(engine, plugin, name)
        writers.wait_progress(live)
        first = task()
        engine.docker("kill", first)
        wait_for(lambda: task() not in {"", first}, "the service has another task", 60)
        writers.wait_progress(live)
        assert volumes.mounts(engine, name) == 1
    finally:
        engine.docker("service", "rm", service)
        wait_for(lambda: task() == "", "the task is gone", 60)
    for container in engine.docker(*of_service, "--all").split():
        engine.attempt("rm", "--force", container)
    check_and_remove(engine, plugin, name, live, tmp_path / "copy")


# In the mount namespace of a process: the mount directory loses its peers, and is shared again.
PART = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
namespace = os.open(f"/proc/{sys.argv[1]}/ns/mnt", os.O_RDONLY)
MS_PRIVATE, MS_SHARED, CLONE_NEWNS = 1 << 18, 1 << 20, 0x20000
assert not libc.setns(namespace, CLONE_NEWNS), os.strerror(ctypes.get_errno())
for flag in (MS_PRIVATE, MS_SHARED):
    assert not libc.mount(None, b"/mnt/diffkeeper", None, flag, None)
"""


def part(plugin: ManagedPlugin) -> None:
    """As an engine leaves the plugin's mounts that unmounts its own side of them too late."""
    subprocess.run([sys.executable, "-c", PART, str(plugin.pid)], check=True, timeout=60)


def test_mounts_that_do_not_reach_the_host(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    """An engine that starts after its death may take its side of the shared mounts away, late.

    No container sees the empty directory that is beneath then; the plugin has the engine start it
    again, which shares the mounts anew.
    """
    name = new_volume(interval="1h")
    engine.shell(base_image, name, "echo kept > /data/file")
    # An engine that was killed by a test before may have done it for real a minute ago.
    (plugin.state_dir / restart.NOTE).unlink(missing_ok=True)
    pid = plugin.pid
    part(plugin)
    run = ["run", "--rm", "--network", "none", "-v", f"{name}:/data", base_image]
    refused = engine.attempt(*run, "ls", "/data")
    assert refused.returncode != 0, refused.stdout
    assert "the host does not see" in refused.stderr
    wait_for(lambda: not processes.alive(pid), "the plugin ends")
    plugin.wait_ready(60)
    assert plugin.pid != pid
    assert engine.shell(base_image, name, "cat /data/file") == "kept"
    # Once more at once: it is told, and the plugin goes on.
    pid = plugin.pid
    part(plugin)
    refused = engine.attempt(*run, "ls", "/data")
    assert "the host does not see" in refused.stderr
    assert plugin.pid == pid
    plugin.disable()
    plugin.enable()
    assert engine.shell(base_image, name, "cat /data/file") == "kept"
