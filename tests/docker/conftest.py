"""Fixtures of the Docker tests: everything is private to the run, and gone after it."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docker.engine import BUILD, REPOSITORY, DockerEngine, import_image
from tests.docker.makers import ImageRegistry, PluginMaker, VolumeMaker, free_port
from tests.docker.managed import ManagedPlugin
from tests.support import engine_root, processes

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("dockerd", "docker", "mmdebstrap", "docker-registry")
TEST_SECONDS_MAX = 900
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks all tests of this folder; where they cannot run, they say why at the end."""
    path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    missing = [program for program in NEEDED if shutil.which(program, path=path) is None]
    reason = "needs root" if os.geteuid() != 0 else f"needs {', '.join(missing)}"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("docker")
            # The first test to ask for an image or the plugin waits until it is built.
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_SECONDS_MAX))
            if os.geteuid() != 0 or missing:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs on the chosen engine, those marked `engines` on all that there are."""
    if "engine" in metafunc.fixturenames:
        everywhere = metafunc.definition.get_closest_marker("engines") is not None
        releases = engine_root.RELEASES if everywhere else engine_root.chosen()
        metafunc.parametrize("release", releases, indirect=True, scope="session")


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> str:
    """The Debian release whose engine the test runs on."""
    return str(request.param)


@pytest.fixture(scope="session")
def engine(release: str) -> Iterator[DockerEngine]:
    """A running private Docker Engine of that release, for all its tests."""
    made = DockerEngine(release)
    try:
        made.start()
        yield made
    finally:
        made.clean()


@pytest.fixture(autouse=True)
def _engine_runs(request: pytest.FixtureRequest) -> None:
    """An engine that a failed test has left dead fails that test alone."""
    if "engine" in request.fixturenames:
        engine: DockerEngine = request.getfixturevalue("engine")
        if not engine.running:
            engine.start()


@pytest.fixture(scope="session")
def base_image(engine: DockerEngine) -> str:
    """A small Debian with a shell, coreutils, and the tools for attributes and ACLs."""
    return import_image(engine, "dk-base:test", "acl,attr")


@pytest.fixture(scope="session")
def postgres_image(engine: DockerEngine) -> str:
    """Debian's PostgreSQL with contrib, started by the variables of the official image."""
    build = REPOSITORY / "demo" / "postgres-survive-kill9" / "standin" / "build.sh"
    command = [str(build), "dk-postgres:test", str(BUILD)]
    done = subprocess.run(
        command, env=engine.environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return "dk-postgres:test"


@pytest.fixture(scope="session")
def plugin_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `docker plugin create` takes, built from this tree."""
    out = tmp_path_factory.mktemp("plugin-build")
    command = [str(REPOSITORY / "rootfs-build" / "build-rootfs.sh"), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def new_plugin(engine: DockerEngine, plugin_build: Path) -> Iterator[PluginMaker]:
    """Makes plugins that are not created yet, each with a state and a port of its own."""
    sources: list[Path] = []

    def make(name: str, build: Path = plugin_build) -> ManagedPlugin:
        sources.append(Path(tempfile.mkdtemp(prefix="dk-state-", dir="/var/lib")))
        return ManagedPlugin(engine, name, build, sources[-1], free_port())

    yield make
    for source in sources:
        processes.unmount_below(source)
        shutil.rmtree(source)


@pytest.fixture(scope="session")
def shared_plugin(new_plugin: PluginMaker) -> Iterator[ManagedPlugin]:
    """One plugin for all tests; use `plugin`."""
    made = new_plugin("diffkeeper")
    made.create()
    made.enable()
    yield made
    made.remove()


@pytest.fixture
def plugin(shared_plugin: ManagedPlugin) -> ManagedPlugin:
    """The managed plugin, enabled and ready, whatever the test before this one did to it."""
    shared_plugin.wait_ready()
    return shared_plugin


_numbers = itertools.count(1)


@pytest.fixture
def new_volume(engine: DockerEngine, plugin: ManagedPlugin) -> Iterator[VolumeMaker]:
    """Makes volumes of the plugin: `new_volume(interval="1h")`; removed after the test."""
    made: list[str] = []

    def make(**options: str) -> str:
        name = f"v{next(_numbers)}"
        given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        engine.docker("volume", "create", "-d", plugin.name, *given, name)
        made.append(name)
        return name

    yield make
    plugin.wait_ready()
    for name in made:
        for container in engine.docker("ps", "-aq", "--filter", f"volume={name}").split():
            engine.docker("rm", "--force", container)
        engine.attempt("volume", "rm", name)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageRegistry]:
    """A running registry with nothing in it."""
    base = tmp_path_factory.mktemp("registry")
    port = free_port()
    (base / "config.yml").write_text(
        "version: 0.1\n"
        "log: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {base}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with open(base / "log", "wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(base / "config.yml")], stdout=log, stderr=log
        )

    def listens() -> bool:
        assert process.poll() is None, (base / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        processes.wait_for(listens, "the registry listens")
        yield ImageRegistry(f"127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)
