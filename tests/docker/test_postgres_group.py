"""PostgreSQL with its write-ahead log on a volume of its own: both volumes are one instant."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import docker_volumes as volumes
from tests.support.postgres_bench import PostgresContainer, wait_transactions
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin

SCALE = 5
LOAD_SECONDS = 25
RESTORED = 4


@pytest.fixture
def server(
    engine: DockerEngine, new_volume: VolumeMaker, postgres_image: str
) -> Iterator[PostgresContainer]:
    """PostgreSQL on two volumes, with the tables of pgbench."""
    data = new_volume(interval="500ms")
    wal = new_volume(interval="10s", mode="0777")
    made = PostgresContainer(engine, postgres_image, data, wal=wal)
    try:
        made.start()
        made.initialise(SCALE)
        yield made
    finally:
        made.remove()


def unmounted(engine: DockerEngine, volume: str) -> None:
    wait_for(lambda: volumes.mounts(engine, volume) == 0, f"{volume} is unmounted")


def instants(plugin: ManagedPlugin, volume: str) -> list[dict[str, Any]]:
    """The crash-consistent snapshots of a group."""
    found = plugin.snapshots(volume)
    return [shot for shot in found if shot["group"] and shot["consistency"] == "crash"]


def restored(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer, reference: str, to: Path
) -> int:
    """Starts a server on what `restore --group` makes of it; how many transactions it has."""
    done = plugin.cli("restore", reference, "--to", str(to), "--group", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    places = {member["volume"]: member["to"] for member in json.loads(done.stdout)["members"]}
    assert places.keys() == {server.source, server.wal}
    copy = PostgresContainer(engine, server.image, places[server.source], wal=places[server.wal])
    try:
        copy.start()
        return copy.check()
    finally:
        copy.remove()
        shutil.rmtree(to)


def test_heap_and_log_are_one_instant(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    server: PostgresContainer,
    base_image: str,
    tmp_path: Path,
) -> None:
    """Under load, beside a container that has the log's volume alone, and `docker cp`."""
    mount = f"{server.wal}:/wal"
    loop = "while :; do date > /wal/beside; sleep 0.05; done"
    other = engine.docker("run", "--detach", "--volume", mount, base_image, "sh", "-c", loop)
    before = server.transactions()
    first = len(instants(plugin, server.source))
    load = server.load(LOAD_SECONDS)
    wait_transactions(server, 100)
    engine.docker("cp", f"{server.container}:/var/lib/postgresql/wal/beside", str(tmp_path))
    group = volumes.status(engine, server.wal)["capture"]["group"]
    assert group == sorted([server.source, server.wal])
    output, _ = load.communicate(timeout=LOAD_SECONDS + 60)
    assert load.returncode == 0, output
    after = server.transactions()
    taken = instants(plugin, server.source)[first:]
    engine.docker("rm", "--force", other)
    server.kill()
    freezes = sorted(shot["freeze_ms"] for shot in taken)
    status = volumes.status(engine, server.source)["capture"]
    print(
        f"{after - before} transactions, {len(taken)} instants of both; freeze_ms median"
        f" {freezes[len(freezes) // 2]:.1f} max {freezes[-1]:.1f}; {status}"
    )
    assert len(taken) >= RESTORED
    step = len(taken) // RESTORED
    counts = []
    for shot in taken[: step * RESTORED : step]:
        assert shot["members"].keys() == {server.source, server.wal}
        reference = f"{server.source}@{shot['seq']}"
        counts.append(restored(engine, plugin, server, reference, tmp_path / str(shot["seq"])))
    print(f"transactions in {len(counts)} restored instants: {counts}")
    assert counts == sorted(counts)
    assert counts[-1] <= after


def test_both_volumes_wiped_and_replayed(
    engine: DockerEngine, plugin: ManagedPlugin, server: PostgresContainer
) -> None:
    """Both live directories are deleted after a crash; what comes back is a whole database."""
    load = server.load(60)
    acknowledged = wait_transactions(server, 300)
    server.kill()
    load.communicate(timeout=30)
    both = (server.source, server.wal)
    for volume in both:
        unmounted(engine, volume)
    for volume in both:
        shutil.rmtree(volumes.live(engine, plugin, volume))
    server.start()
    kinds = {volumes.status(engine, volume)["last_recovery"]["kind"] for volume in both}
    assert kinds == {"replay"}
    # The last capture came after the kill, so that not one transaction is missing.
    assert server.check() >= acknowledged
