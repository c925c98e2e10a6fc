"""PostgreSQL on a volume of the managed plugin: captured, killed, wiped and replayed under load."""

from __future__ import annotations

import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import docker_volumes as volumes
from tests.support.postgres_bench import PostgresContainer, wait_transactions
from tests.support.processes import wait_for

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin

SCALE = 5
LOAD_SECONDS = 20
RESTORED = 5


@pytest.fixture
def server(
    engine: DockerEngine, new_volume: VolumeMaker, postgres_image: str
) -> Iterator[PostgresContainer]:
    """PostgreSQL with the tables of pgbench, captured about every half second."""
    made = PostgresContainer(engine, postgres_image, new_volume(interval="500ms"))
    try:
        made.start()
        made.initialise(SCALE)
        yield made
    finally:
        made.remove()


def unmounted(engine: DockerEngine, volume: str) -> None:
    wait_for(lambda: volumes.mounts(engine, volume) == 0, f"{volume} is unmounted")


def test_killed_under_load(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer, tmp_path: Path
) -> None:
    """What was acknowledged is there after kill -9, every time, and the sums are equal."""
    for _ in range(2):
        load = server.load(60)
        acknowledged = wait_transactions(server, 300)
        server.kill()
        load.communicate(timeout=30)
        unmounted(engine, server.source)
        server.start()
        assert server.check() >= acknowledged
    server.kill()
    unmounted(engine, server.source)
    volumes.check_newest(engine, plugin, server.source, tmp_path / "copy")


def test_plugin_killed_under_load(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer
) -> None:
    """Clients see no error while the plugin dies and comes back."""
    load = server.load(LOAD_SECONDS // 2)
    wait_transactions(server, 200)
    plugin.kill()
    wait_transactions(server, 200)
    output, _ = load.communicate(timeout=60)
    assert load.returncode == 0, output
    assert "failed transactions: 0" in output
    server.check()
    server.kill()
    unmounted(engine, server.source)
    volumes.check_verified(plugin, server.source)


def test_wiped_and_replayed(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer
) -> None:
    """The live directory is deleted after a crash; what was last captured comes back whole."""
    load = server.load(60)
    acknowledged = wait_transactions(server, 300)
    server.kill()
    load.communicate(timeout=30)
    unmounted(engine, server.source)
    shutil.rmtree(volumes.live(engine, plugin, server.source))
    server.start()
    recovery = volumes.status(engine, server.source)["last_recovery"]
    assert recovery["kind"] == "replay"
    print(f"replayed {recovery['files']} files, {recovery['bytes']} bytes in {recovery['ms']} ms")
    # The last capture came after the kill, so that not one transaction is missing.
    assert server.check() >= acknowledged


def test_removed_with_its_volume_and_brought_back(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer
) -> None:
    """`docker rm -f` and `docker volume rm` of a running server are taken back by `undelete`."""
    load = server.load(60)
    acknowledged = wait_transactions(server, 300)
    server.remove()
    load.communicate(timeout=30)
    engine.docker("volume", "rm", server.source)
    assert server.source not in engine.docker("volume", "ls", "-q").split()
    listed = plugin.cli("trash")
    assert server.source in listed.stdout, listed.stderr
    back = plugin.cli("undelete", server.source)
    assert back.returncode == 0, back.stderr
    print(listed.stdout + back.stdout)
    server.start()
    mounted = [line for line in plugin.log if f"mounted volume={server.source} " in line]
    assert any("recovery=replay" in line for line in mounted[-2:]), mounted
    assert server.check() >= acknowledged


def figures(shots: list[dict[str, Any]]) -> str:
    """How often and how long the writers stood still."""
    crash = [shot for shot in shots if shot["consistency"] == "crash"]
    text = f"{len(crash)} of {len(shots)} snapshots crash-consistent"
    for key in ("freeze_ms", "capture_ms"):
        values = sorted(shot[key] for shot in crash)
        if values:
            text += f"; {key} median {statistics.median(values):.1f} max {values[-1]:.1f}"
    return text


def snapshots_under(
    load: subprocess.Popen[str], plugin: ManagedPlugin, volume: str
) -> list[dict[str, Any]]:
    """Snapshots taken one after the other until the load ends; not the one that met its end."""
    taken: list[dict[str, Any]] = []
    while load.poll() is None:
        taken.append(plugin.snapshot(volume))
        time.sleep(0.5)
    return taken[:-1]


def test_snapshots_taken_under_load_start_as_servers(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer, tmp_path: Path
) -> None:
    before = server.transactions()
    load = server.load(LOAD_SECONDS)
    taken = snapshots_under(load, plugin, server.source)
    output, _ = load.communicate(timeout=60)
    assert load.returncode == 0, output
    after = server.transactions()
    causes = "\n".join(line for line in plugin.log if "consistency=fuzzy" in line)
    print(f"{after - before} transactions; {figures(taken)}\n{causes}")
    server.kill()
    promised = [shot for shot in taken if shot["consistency"] == "crash"]
    assert len(promised) >= RESTORED, causes
    assert len(promised) >= len(taken) / 2, causes
    counts = []
    step = len(promised) // RESTORED
    for shot in promised[: step * RESTORED : step]:
        copy = volumes.restore(
            plugin, f"{server.source}@{shot['seq']}", tmp_path / str(shot["seq"])
        )
        restored = PostgresContainer(engine, server.image, str(copy))
        try:
            restored.start()
            counts.append(restored.check())
        finally:
            restored.remove()
            shutil.rmtree(copy)
    print(f"transactions in {len(counts)} restored snapshots: {counts}")
    assert counts == sorted(counts)
    assert before <= counts[0] < counts[-1] <= after
