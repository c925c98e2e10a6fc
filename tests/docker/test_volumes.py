"""Volumes of the managed plugin, as `docker` and a hostile neighbour use them."""

from __future__ import annotations

import datetime
import shutil
from typing import TYPE_CHECKING

import pytest

from diffkeeper.fsio import project_quota
from diffkeeper.volumes.options import OPTIONS
from tests.support import docker_volumes as volumes
from tests.support.processes import wait_for
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from pathlib import Path

    from tests.docker.engine import DockerEngine
    from tests.docker.makers import VolumeMaker
    from tests.docker.managed import ManagedPlugin

HOSTILE_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "../../../../etc",
    "a/b",
    "/etc",
    "-rf",
    "_x",
    "a b",
    "a\nb",
    "a\0b",
    "é",
    "\ud800",
    "a" * 256,
    "a" * 4096,
    "%2e%2e",
]
# Everything that a copy keeps of a tree; sizes of directories depend on the file system.
LIST_TREE = r"""
cd "$1"
{
    find . -mindepth 1 ! -type d -printf '%P %y %m %U %G %s %T@ %l\n'
    find . -mindepth 1 -type d -printf '%P %y %m %U %G\n'
} | sort
find . -type f -print0 | sort -z | xargs -0 sha256sum
"""
MAKE_TREE = """
mkdir -p /data/d/e /data/empty
echo content > /data/d/file; ln /data/d/file /data/d/e/hard; ln -s ../d/file /data/d/soft
chmod 4751 /data/d/file; chown 1234:4321 /data/d/file; touch -d @1.000000007 /data/d/file
mkfifo -m 0604 /data/fifo
truncate -s 8M /data/sparse; echo tail >> /data/sparse
dd if=/dev/urandom of=/data/big bs=64k count=20 status=none
setfattr -n user.colour -v blue /data/d; setfacl -m u:55:rwx /data/d/file
touch -d @2.000000009 /data/d /data
"""


def test_created_listed_inspected_removed(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker
) -> None:
    name = new_volume(interval="2s", mode="0750", uid="7", gid="8")
    listed = engine.docker("volume", "ls", "--format", "{{.Name}} {{.Driver}}").splitlines()
    assert f"{name} {plugin.name}:latest" in listed
    found = volumes.inspect(engine, name)
    assert found["Driver"] == f"{plugin.name}:latest"
    assert found["Options"] == {"interval": "2s", "mode": "0750", "uid": "7", "gid": "8"}
    created = datetime.datetime.fromisoformat(found["CreatedAt"])
    assert abs(datetime.datetime.now(datetime.UTC) - created).total_seconds() < 60
    directory = volumes.live(engine, plugin, name)
    status = directory.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o750, 7, 8)
    engine.docker("volume", "rm", name)
    assert name not in engine.docker("volume", "ls", "-q").split()
    assert engine.attempt("volume", "inspect", name).returncode != 0
    wait_for(lambda: not list(directory.parent.iterdir()), "the live directory is deleted")


def test_status_tells_how_a_volume_is(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    name = new_volume(interval="200ms")
    assert volumes.status(engine, name)["last_snapshot"] is None
    script = "echo one > /data/file; exec sleep 600"
    container = engine.start_container(base_image, name, "sh", "-c", script)
    wait_for(lambda: bool(volumes.status(engine, name)["files"]), "a snapshot with the file in it")
    running = volumes.status(engine, name)
    assert running["mounts"] == 1
    assert running["capture"]["source"] in {"ebpf", "inotify"}
    assert running["capture"]["reason"]
    assert running["capture"]["interval"] == "200ms"
    assert running["last_recovery"]["kind"] == "live"
    assert running["last_snapshot"]["consistency"] == "crash"
    assert running["last_snapshot"]["age_seconds"] < 60
    assert datetime.datetime.fromisoformat(running["last_snapshot"]["time"]).tzinfo is not None
    assert running["logical_bytes"] == len("one\n")
    assert running["stored_bytes"] > 0
    assert len(running["root"]) == 64
    assert running["trouble"] == []
    engine.docker("rm", "--force", container)
    ended = volumes.status(engine, name)
    assert ended["mounts"] == 0
    assert ended["last_verification"]["ok"] is True
    assert ended["last_verification"]["root"] == ended["root"]
    assert ended["root"] == plugin.snapshots(name)[-1]["root"]
    assert ended["snapshots"] == len(plugin.snapshots(name))


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("color=blue", "color"),
        ("interval=soon", "interval"),
        ("interval=1ms", "interval"),
        ("chunk-size=65537", "chunk-size"),
        ("compression=lz4", "compression"),
        ("capture=magic", "capture"),
        ("mode=9999", "mode"),
        ("uid=root", "uid"),
        ("Interval=1s", "Interval"),
    ],
)
def test_bad_option_tells_what_is_allowed(
    engine: DockerEngine, plugin: ManagedPlugin, option: str, wrong: str
) -> None:
    before = sorted((plugin.state_dir / "volumes").iterdir())
    refused = engine.attempt("volume", "create", "-d", plugin.name, "-o", option, "bad")
    assert refused.returncode != 0
    assert wrong in refused.stderr
    if wrong in OPTIONS:
        assert OPTIONS[wrong].form in refused.stderr
    else:
        assert all(name in refused.stderr for name in OPTIONS)
    assert "bad" not in engine.docker("volume", "ls", "-q").split()
    assert sorted((plugin.state_dir / "volumes").iterdir()) == before


def test_hostile_names_change_nothing(plugin: ManagedPlugin, new_volume: VolumeMaker) -> None:
    new_volume()
    listed = volumes.call(plugin.socket, "List", {})
    before = sorted(plugin.state_dir.rglob("*"))
    for name in HOSTILE_NAMES:
        for operation in ("Create", "Get", "Path", "Mount", "Remove"):
            message = {"Name": name, "ID": "1" * 64, "Opts": {}}
            _, answer = volumes.call(plugin.socket, operation, message)
            assert answer["Err"], (operation, name)
            assert len(answer["Err"]) < 1000
        _, answer = volumes.call(plugin.socket, "Unmount", {"Name": name, "ID": "1" * 64})
        assert "Err" in answer
    assert volumes.call(plugin.socket, "List", {}) == listed
    assert sorted(plugin.state_dir.rglob("*")) == before


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"Name": 7}', b'{"Name": "v", "Opts": "x"}', b"\xff"]
)
def test_malformed_bodies_get_a_clear_error(plugin: ManagedPlugin, body: bytes) -> None:
    for operation in ("Create", "Mount"):
        status, answer = volumes.call(plugin.socket, operation, body)
        assert status >= 400
        assert answer["Err"]
        assert "Traceback" not in answer["Err"]
    assert volumes.call(plugin.socket, "List", {})[0] == 200


def test_two_containers_on_one_volume(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    name = new_volume(interval="300ms")
    number = volumes.status(engine, name)["id"]
    first = engine.start_container(base_image, name, "sleep", "600")
    second = engine.start_container(base_image, name, "sleep", "600")
    assert volumes.mounts(engine, name) == 2
    engine.docker("exec", first, "sh", "-c", "echo from first > /data/one")
    assert engine.docker("exec", second, "cat", "/data/one") == "from first"
    engine.docker("rm", "--force", first)
    assert volumes.mounts(engine, name) == 1
    assert volumes.mounted(plugin, number)
    engine.docker("exec", second, "sh", "-c", "echo from second > /data/two")
    refused = volumes.call(plugin.socket, "Remove", {"Name": name})
    assert "in use" in refused[1]["Err"]
    taken = plugin.snapshot(name)
    copy = volumes.restore(plugin, f"{name}@{taken['seq']}", tmp_path / "copy")
    assert {path.name: path.read_text() for path in copy.iterdir()} == {
        "one": "from first\n",
        "two": "from second\n",
    }
    engine.docker("rm", "--force", second)
    assert volumes.mounts(engine, name) == 0
    assert not volumes.mounted(plugin, number)


@pytest.mark.engines
def test_copies_to_and_from_a_running_container(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    tmp_path: Path,
) -> None:
    """dockerd mounts and unmounts for it under the ID of the running mount.

    What `docker volume inspect` says of the place is for people: dockerd mounts none of it.
    """
    name = new_volume(interval="300ms")
    live = volumes.live(engine, plugin, name)
    place = ("volume", "inspect", "-f", "{{.Mountpoint}}", name)
    assert engine.docker(*place) == str(live)
    container = engine.start_container(base_image, name, "sleep", "600")
    (tmp_path / "in").write_text("copied in")
    for turn in range(3):
        engine.docker("cp", str(tmp_path / "in"), f"{container}:/data/in{turn}")
        engine.docker("cp", f"{container}:/data/in{turn}", str(tmp_path / "out"))
        assert (tmp_path / "out").read_text() == "copied in"
        assert volumes.mounts(engine, name) == 1
    assert volumes.mounted(plugin, volumes.status(engine, name)["id"])
    assert engine.docker(*place) == str(live)
    engine.docker("exec", container, "sh", "-c", "echo still > /data/here")
    plugin.snapshot(name)
    volumes.check_newest(engine, plugin, name, tmp_path / "copy")
    assert (tmp_path / "copy" / "in2").read_text() == "copied in"
    assert (tmp_path / "copy" / "here").read_text() == "still\n"
    engine.docker("stop", "--time", "0", container)
    engine.docker("cp", str(tmp_path / "in"), f"{container}:/data/stopped")
    assert volumes.mounts(engine, name) == 0
    assert engine.docker(*place) == str(live)
    assert (live / "stopped").read_text() == "copied in"


@pytest.mark.parametrize("command", ["create", "run"])
def test_content_of_the_image_is_copied_up(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    command: str,
) -> None:
    name = new_volume(interval="1h")
    place = "/var/lib/dpkg"
    options = ["--network", "none", "--volume", f"{name}:{place}"]
    container = engine.docker(command, *options, base_image, "true")
    if command == "run":
        container = engine.docker("ps", "-lq")
    engine.docker("rm", container)
    assert volumes.mounts(engine, name) == 0
    listing = ["run", "--rm", "--network", "none"]
    script = ["sh", "-euc", LIST_TREE, "sh"]
    expected = engine.docker(*listing, base_image, *script, place)
    found = engine.docker(*listing, "-v", f"{name}:/data", base_image, *script, "/data")
    assert len(expected.splitlines()) > 100
    assert found == expected
    volumes.check_verified(plugin, name)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (":/var/lib/dpkg", (0o755, 0, 0)),
        (":/var/lib/dpkg:nocopy", (0o750, 7, 8)),
        (":/no", (0o750, 7, 8)),
    ],
)
def test_owner_and_mode_are_the_options_unless_the_engine_copies_an_images_directory(
    engine: DockerEngine,
    plugin: ManagedPlugin,
    new_volume: VolumeMaker,
    base_image: str,
    how: str,
    expected: tuple[int, int, int],
) -> None:
    name = new_volume(interval="1h", mode="0750", uid="7", gid="8")
    engine.docker("run", "--rm", "--network", "none", "-v", f"{name}{how}", base_image, "true")
    status = volumes.live(engine, plugin, name).stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == expected


def test_read_only(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    name = new_volume(interval="1h")
    engine.shell(base_image, name, "echo kept > /data/file")
    root = plugin.snapshots(name)[-1]["root"]
    command = ["run", "--rm", "--network", "none", "--volume", f"{name}:/data:ro", base_image]
    assert engine.docker(*command, "cat", "/data/file") == "kept"
    refused = engine.attempt(*command, "sh", "-c", "echo lost > /data/file")
    assert refused.returncode != 0
    assert "Read-only" in refused.stderr
    assert engine.shell(base_image, name, "cat /data/file") == "kept"
    assert plugin.snapshots(name)[-1]["root"] == root


def test_a_monitor_of_the_host_is_no_user(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    """A container that has the host's whole tree mounted sees each volume, and uses none."""
    names = [new_volume(interval="200ms") for _ in range(2)]
    writers = [
        engine.start_container(
            base_image, name, "sh", "-c", "while :; do date > /data/now; sleep 0.05; done"
        )
        for name in names
    ]
    options = ["run", "-d", "--network", "none", "-v", "/:/host:ro"]
    monitor = engine.docker(*options, base_image, "sleep", "1000")
    mounted = engine.docker("exec", monitor, "cat", "/proc/self/mountinfo")
    assert all(f"/{volumes.status(engine, name)['id']}/live " in mounted for name in names)
    seen = len(plugin.snapshots(names[0]))
    wait_for(lambda: len(plugin.snapshots(names[0])) > seen + 3, "captures go on")
    for name in names:
        assert volumes.status(engine, name)["capture"]["group"] == []
        assert plugin.snapshots(name)[-1]["group"] in ("", None)
    engine.docker("rm", "-f", *writers)
    for name in names:
        engine.docker("volume", "rm", name)
    engine.docker("rm", "-f", monitor)


@pytest.mark.engines
def test_a_prune_leaves_it_alone(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker
) -> None:
    name = new_volume()
    engine.docker("volume", "prune", "--force")
    everything = engine.attempt("volume", "prune", "--force", "--all")
    assert everything.returncode == 0 or "requires API version" in everything.stderr
    assert volumes.inspect(engine, name)["Driver"] == f"{plugin.name}:latest"


def test_removed_and_created_again_it_is_empty(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    name = new_volume()
    number = volumes.status(engine, name)["id"]
    engine.shell(base_image, name, "echo secret > /data/file")
    container = engine.docker("create", "--volume", f"{name}:/data", base_image, "true")
    assert "in use" in engine.attempt("volume", "rm", name).stderr
    engine.docker("rm", container)
    engine.docker("volume", "rm", name)
    engine.docker("volume", "create", "-d", plugin.name, name)
    assert volumes.status(engine, name)["id"] != number
    assert plugin.snapshots(name) == []
    assert engine.shell(base_image, name, "ls -A /data") == ""


def test_deleted_while_stopped_it_is_replayed(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    name = new_volume(interval="1h")
    engine.shell(base_image, name, MAKE_TREE)
    directory = volumes.live(engine, plugin, name)
    before = describe(directory, holes=True)
    assert len(before) == 10
    shutil.rmtree(directory)
    assert engine.shell(base_image, name, "cat /data/d/e/hard; tail -c 5 /data/sparse") == (
        "content\ntail"
    )
    assert difference(before, describe(directory, holes=True)) == []
    recovery = volumes.status(engine, name)["last_recovery"]
    assert recovery["kind"] == "replay"
    assert recovery["files"] > 0
    assert recovery["bytes"] > 8 << 20
    volumes.check_verified(plugin, name)


def test_a_size_is_refused_where_nothing_holds_to_it(
    engine: DockerEngine, plugin: ManagedPlugin
) -> None:
    """For what the kernel says to anybody, not for want of a privilege of the plugin."""
    directory = plugin.state_dir / "volumes"
    why = project_quota.lack(str(directory))
    if not why:
        pytest.skip(f"the file system of {directory} has project quotas")
    there = list(directory.iterdir())
    done = engine.attempt("volume", "create", "-d", plugin.name, "-o", "size=10G", "sized")
    assert done.returncode != 0
    assert f"the file system of {directory} (" in done.stderr
    assert f"limits no directory: {why}; it takes " in done.stderr
    assert list(directory.iterdir()) == there
    assert "sized" not in engine.docker("volume", "ls", "-q").split()


def test_incomplete_replay_is_never_used(
    engine: DockerEngine, plugin: ManagedPlugin, new_volume: VolumeMaker, base_image: str
) -> None:
    """What a killed replay leaves behind is thrown away, and the data comes whole."""
    name = new_volume(interval="1h")
    engine.shell(base_image, name, "echo whole > /data/file")
    directory = volumes.live(engine, plugin, name)
    shutil.rmtree(directory)
    (directory.parent / "incoming").mkdir()
    (directory.parent / "incoming" / "file").write_text("ha")
    assert engine.shell(base_image, name, "cat /data/file") == "whole"
    assert not (directory.parent / "incoming").exists()
