"""Clones of volumes that are in use, through the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import docker_volumes as volumes
from tests.support import docker_writers as writers
from tests.support.postgres_bench import PostgresContainer, wait_transactions

if TYPE_CHECKING:
    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin

SCALE = 3
LOAD_SECONDS = 30


def test_clones_of_a_volume_that_is_written_to(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    source = new_volume(interval="200ms")
    container = writers.start(engine, base_image, source)
    live = volumes.live(engine, plugin, source)
    writers.wait_progress(live)
    chosen = plugin.snapshot(source)
    writers.wait_progress(live)
    clone = new_volume(**{"from": f"{source}@{chosen['seq']}"})
    (first,) = plugin.snapshots(clone)
    assert (first["root"], first["reason"]) == (chosen["root"], "clone")
    engine.shell(base_image, clone, "tail -n 1 /data/a > /data/seen")
    cloned = volumes.live(engine, plugin, clone)
    newest = writers.check(cloned)
    assert newest == writers.numbers(cloned / "seen")[0]
    assert volumes.status(engine, clone)["last_recovery"]["kind"] == "replay"
    assert 0 < newest < writers.wait_progress(live)
    engine.docker("rm", "--force", container)
    engine.docker("volume", "rm", source)
    engine.shell(base_image, clone, "echo more > /data/more")
    volumes.check_verified(plugin, clone)


def test_a_clone_of_a_busy_postgres(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, postgres_image: str
) -> None:
    servers = [PostgresContainer(engine, postgres_image, new_volume(interval="500ms"))]
    try:
        servers[0].start()
        servers[0].initialise(SCALE)
        load = servers[0].load(LOAD_SECONDS)
        before = wait_transactions(servers[0], 200)
        seen = plugin.snapshot(servers[0].source)["seq"]
        servers.append(
            PostgresContainer(engine, postgres_image, new_volume(**{"from": servers[0].source}))
        )
        assert load.poll() is None, "the source is in use all the time"
        assert plugin.snapshots(servers[0].source)[-1]["seq"] >= seen
        servers[1].start()
        assert servers[1].check() >= before
        load.communicate(timeout=90)
        assert servers[0].check() > before
    finally:
        for server in servers:
            server.remove()
    for server in servers:
        volumes.check_verified(plugin, server.source)
