"""The survey on real processes in mount namespaces of their own, and what they hold open."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from diffkeeper import limits
from diffkeeper.errors import NotFoundError
from diffkeeper.freeze import processes
from diffkeeper.freeze.cgroups import Hierarchy
from diffkeeper.freeze.mappings import MappingScanner
from diffkeeper.freeze.writers import Survey, Target, Writers
from diffkeeper.fsio import mountinfo
from tests.support import cgroups
from tests.support.namespaces import in_namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = "/sys/fs/cgroup"
# argv: commands that set up the namespace; the process ends with its standard input.
SETUP = 'eval "$1"; echo ready; read -r end'


class Start(Protocol):
    def __call__(self, setup: str, cgroup: str = "", propagation: str = "private") -> int: ...


@pytest.fixture(params=["v1", "v2"])
def cgroup(request: pytest.FixtureRequest) -> Iterator[str]:
    directory = cgroups.fresh(request.param, "survey")
    yield directory
    cgroups.remove(directory)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process in a new mount namespace, and in a cgroup."""
    processes: list[subprocess.Popen[str]] = []

    def run(setup: str, cgroup: str = "", propagation: str = "private") -> int:
        process = subprocess.Popen(
            in_namespace(SETUP, setup, propagation=propagation),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if cgroup:
            os.makedirs(cgroup, exist_ok=True)
            Path(cgroup, "cgroup.procs").write_text(str(process.pid))
        return process.pid

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    live = tmp_path / "volumes" / "one" / "live"
    live.mkdir(parents=True)
    (tmp_path / "mount").mkdir()
    return live


def target_of(path: str) -> Target:
    return Target(*mountinfo.locate(path)[:2])


def bind(volume: Path, options: str = "") -> str:
    """Commands that mount a directory in a new namespace."""
    return f"mount --bind {volume} /mnt{options and f' && mount -o {options} /mnt'}"


def test_writers_of_each_target(cgroup: str, start: Start, volume: Path, tmp_path: Path) -> None:
    other, idle = tmp_path / "other", tmp_path / "idle"
    other.mkdir()
    idle.mkdir()
    first = start(bind(volume), f"{cgroup}/a")
    second = start(bind(volume), f"{cgroup}/a/nested")
    both = start(
        f"{bind(volume)}; mkdir -p /tmp; mount --bind {other} {tmp_path}/volumes", f"{cgroup}/b"
    )
    start("true", f"{cgroup}/c")
    survey = Survey()
    one, two, three = map(target_of, (str(volume), str(other), str(idle)))
    found = survey.find([one, two, three])
    everybody = tuple(sorted((first, second, both)))
    assert found[one] == Writers((f"{cgroup}/a", f"{cgroup}/b"), everybody)
    assert found[two] == Writers((f"{cgroup}/b",), (both,))
    assert found[three] == Writers()
    assert survey.find([one, two, three]) == found, "from what is remembered"
    assert survey.recent([one, two, three]) is survey.recent([one, two, three])
    assert survey.find([]) == {}


def test_comings_and_goings(cgroup: str, start: Start, volume: Path) -> None:
    survey = Survey()
    target = target_of(str(volume))
    assert survey.find([target])[target] == Writers()
    first = start(bind(volume), cgroup)
    assert survey.find([target])[target].pids == (first,)
    second = start(bind(volume), cgroup)
    assert survey.find([target])[target].pids == tuple(sorted((first, second)))
    os.kill(first, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while survey.find([target])[target].pids != (second,):
        assert time.monotonic() < deadline


def test_a_copy_that_outlasts_its_original_makes_no_writer(
    cgroup: str, start: Start, volume: Path, tmp_path: Path
) -> None:
    """Whoever copied all mounts while ours was there, and follows none of their ends."""
    point = tmp_path / "points" / "1"
    point.mkdir(parents=True)
    survey, target = Survey(), target_of(str(volume))
    subprocess.run(["mount", "--bind", str(volume), str(point)], check=True)
    pid = start("true", cgroup)
    subprocess.run(["umount", str(point)], check=True)
    assert str(point).encode() in Path(f"/proc/{pid}/mountinfo").read_bytes()
    survey.mounts_in = mountinfo.locate(str(tmp_path / "points"))[:2]
    assert survey.find([target])[target] == Writers()
    writer = start(bind(volume), cgroup)
    assert survey.find([target])[target].pids == (writer,)


def test_captures_share_a_pass(
    start: Start, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ask: one pass over all processes, for as long as it holds."""
    survey, targets = Survey(), [target_of(str(volume)), target_of(str(tmp_path / "mount"))]
    monkeypatch.setattr("diffkeeper.freeze.writers.SURVEY_SECONDS_LONGEST", 300.0)
    monkeypatch.setattr("diffkeeper.freeze.writers.SURVEY_SECONDS_MAX", 300.0)
    first = survey.recent(targets)
    start(bind(volume))
    assert [survey.recent(targets) for _ in range(10)] == [first] * 10
    assert survey.recent(targets[:1]) == {targets[0]: Writers()}
    assert survey.passes == 1
    assert survey.recent(targets, written=targets[0])[targets[0]].pids
    assert survey.recent(targets, written=targets[0])[targets[0]].pids
    assert survey.passes == 2, "somebody wrote to it, so that somebody has it mounted"
    survey.find(targets)
    assert survey.passes == 3, "who needs to know it now is told"
    other = Target(targets[0].dev, "/never/asked/for")
    assert survey.recent([other]) == {other: Writers()}
    assert survey.passes == 4


def test_what_costs_much_holds_longer(
    start: Start, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffkeeper.freeze.writers.SURVEY_SECONDS_LONGEST", 300.0)
    monkeypatch.setattr("diffkeeper.freeze.writers.SURVEY_SECONDS_MAX", 0.0)
    monkeypatch.setattr(limits, "CPU_FRACTION_MAX", 1e-9)
    survey, target = Survey(), target_of(str(volume))
    survey.recent([target])
    first = start(bind(volume))
    assert survey.recent([target])[target] == Writers()
    assert survey.passes == 1
    monkeypatch.setattr(limits, "CPU_FRACTION_MAX", 1e9)
    survey.find([target])
    second = start(bind(volume))
    assert survey.recent([target])[target].pids == tuple(sorted((first, second)))
    assert survey.passes == 3


def test_one_asked_for_alone_makes_no_others_new(volume: Path, tmp_path: Path) -> None:
    """Who asks for a single volume does not have all mount tables read again."""
    survey, targets = Survey(), [target_of(str(volume)), target_of(str(tmp_path / "mount"))]
    assert survey._asks_anew(targets, 100.0)
    assert not survey._asks_anew(targets[:1], 101.0)
    assert not survey._asks_anew(targets, 102.0)
    assert survey._asks_anew(targets, 102.0 + limits.SURVEY_TRUST_SECONDS), "it may be mounted anew"


def test_a_look_in_a_freeze_waits_for_no_survey(
    holder: tuple[int, dict[str, int]], tmp_path: Path
) -> None:
    survey, dev = Survey(), target_of(str(tmp_path)).dev
    found: list[set[int]] = []
    look = threading.Thread(
        target=lambda: found.append(survey.unseen_writes([holder[0]], dev).inodes), daemon=True
    )
    with survey._lock:
        look.start()
        look.join(20)
    assert found == [{holder[1]["shared"], holder[1]["deleted"]}]


def test_old_processes_are_asked_again(
    cgroup: str, start: Start, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that changes its namespace, or its mounts, long after it was first seen."""
    monkeypatch.setattr(limits, "SURVEY_TRUST_SECONDS", 0.2)
    late_mount = start(f"(sleep 1; {bind(volume)}) >/dev/null &", cgroup)
    late_namespace = subprocess.Popen(
        ["sh", "-c", f'sleep 1; exec unshare -m sh -c "{bind(volume)}; exec sleep 60"']
    )
    try:
        Path(cgroup, "cgroup.procs").write_text(str(late_namespace.pid))
        survey, target = Survey(), target_of(str(volume))
        assert survey.find([target])[target] == Writers()
        deadline = time.monotonic() + 10
        wanted = {late_mount, late_namespace.pid}
        while not wanted <= set(survey.find([target])[target].pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        late_namespace.kill()
        late_namespace.wait()


def test_what_makes_no_writer(cgroup: str, start: Start, volume: Path) -> None:
    (volume / "inside").mkdir()
    target, inside = target_of(str(volume)), target_of(str(volume / "inside"))
    survey = Survey()
    reader = start(bind(volume, "remount,bind,ro"), cgroup)
    only_read = survey.find([target])[target]
    assert only_read == Writers(readers=(reader,)), "a read-only mount"
    assert only_read.users == {reader}
    below = start(bind(volume / "inside"), cgroup)
    found = survey.find([target, inside])
    assert found[target].pids == (below,), "a directory of the volume is a part of it"
    assert found[inside].pids == (below,)
    beside = Target(target.dev, f"{target.root}-beside")
    assert survey.find([beside])[beside] == Writers()
    elsewhere = Target("0:9999", target.root)
    assert survey.find([elsewhere])[elsewhere] == Writers()


@pytest.fixture
def hosts(volume: Path, tmp_path: Path) -> Iterator[Path]:
    """Where the host has the volume mounted, as containers get it from there."""
    point = tmp_path / "host"
    point.mkdir()
    subprocess.run(["mount", "--bind", str(volume), str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_copy_of_the_hosts_mount_makes_no_writer(
    cgroup: str, start: Start, volume: Path, hosts: Path
) -> None:
    survey, target = Survey(), target_of(str(hosts))
    assert target == target_of(str(volume))
    start("true", cgroup)
    assert survey.find([target])[target] == Writers(), "a service with a private namespace"
    writer = start(bind(volume), cgroup)
    assert survey.find([target])[target].pids == (writer,)


def watching(tree: str, point: Path, options: str = "ro") -> str:
    """What a monitor of the whole host gets: the tree with all mounts below it."""
    return (
        f"mount --rbind {tree} {point} && mount --make-rslave {point}"
        f" && mount -o remount,bind,{options} {point}"
    )


@pytest.mark.parametrize("options", ["ro", "rw"])
@pytest.mark.parametrize("jailed", [False, True])
def test_who_sees_the_whole_host_is_no_writer(
    cgroup: str, start: Start, volume: Path, hosts: Path, tmp_path: Path, options: str, jailed: bool
) -> None:
    """Neither with the host's root, nor with a directory of it, wherever it has them mounted."""
    (tmp_path / "seen").mkdir()
    survey, target = Survey(), target_of(str(volume))
    end = f"; cd {tmp_path}/seen && exec chroot . sh -c 'echo ready; read -r end'"
    for tree in ("/", str(tmp_path)):
        setup = watching(tree, tmp_path / "seen" if tree == "/" else Path("/mnt"), options)
        start(setup + (end if jailed and tree == "/" else ""), cgroup)
    found = survey.find([target])[target]
    assert found == Writers(), "what it sees is the host's own mount"
    writer = start(f"{watching('/', tmp_path / 'seen', options)} && {bind(hosts)}", cgroup)
    found = survey.find([target])[target]
    assert found.pids == (writer,), "it was given the volume, too"
    assert found.users == {writer}


def test_a_copy_that_comes_later_makes_no_writer(
    cgroup: str, start: Start, volume: Path, tmp_path: Path
) -> None:
    """A mount that reaches a namespace from the host, because it follows the host's."""
    tree = tmp_path / "shared"
    (tree / "point").mkdir(parents=True)
    survey, target = Survey(), target_of(str(volume))
    commands = (["--bind", str(tree), str(tree)], ["--make-shared", str(tree)])
    for command in commands:
        subprocess.run(["mount", *command], check=True)
    try:
        pid = start(f"mount --rbind {tree} /mnt", cgroup, "slave")
        assert str(volume).encode() not in Path(f"/proc/{pid}/mountinfo").read_bytes()
        subprocess.run(["mount", "--bind", str(volume), str(tree / "point")], check=True)
        try:
            assert b" /mnt/point " in Path(f"/proc/{pid}/mountinfo").read_bytes()
            assert survey.find([target])[target] == Writers()
        finally:
            subprocess.run(["umount", str(tree / "point")], check=True)
    finally:
        subprocess.run(["umount", str(tree)], check=True)


@pytest.mark.parametrize(
    "name",
    [
        *("with space", "line\nbreak", "back\\slash", "t\tab", b"\xff\xfe"),
        *("form\ffeed", "v\vtab", "return\r", "f\x1cs", "nel\x85", "line\u2028separator"),
    ],
)
def test_hostile_names(start: Start, tmp_path: Path, name: str | bytes) -> None:
    volume = tmp_path / os.fsdecode(name)
    volume.mkdir()
    (tmp_path / "mount").mkdir()
    target = target_of(str(volume))
    assert target.root.endswith(f"/{os.fsdecode(name)}")
    os.environ["DKTEST_VOLUME"] = str(volume)
    try:
        pid = start(f'mount --bind "$DKTEST_VOLUME" {tmp_path}/mount')
    finally:
        del os.environ["DKTEST_VOLUME"]
    assert Survey().find([target])[target].pids == (pid,)


@pytest.mark.parametrize("name", ["\f", "\v", "\r", "\x1c", "\x85", "\u2028", " ", "\n"])
def test_a_mount_point_of_any_name(start: Start, volume: Path, tmp_path: Path, name: str) -> None:
    """Whatever breaks lines elsewhere is a part of a name here; anybody may mount so."""
    point = tmp_path / f"a{name}b"
    point.mkdir()
    subprocess.run(["mount", "--bind", str(volume), str(point)], check=True)
    try:
        assert mountinfo.is_mounted(str(point))
        assert mountinfo.locate(str(point)) == mountinfo.locate(str(volume))
        mountinfo.bind(str(volume), str(tmp_path / "mount"))
        mountinfo.unbind(str(tmp_path / "mount"))
    finally:
        subprocess.run(["umount", str(point)], check=True)
    os.environ["DKTEST_POINT"] = str(point)
    try:
        pid = start(f'mount --bind {volume} "$DKTEST_POINT"')
    finally:
        del os.environ["DKTEST_POINT"]
    target = target_of(str(volume))
    assert Survey().find([target])[target].pids == (pid,)


def test_changed_roots(cgroup: str, start: Start, volume: Path, tmp_path: Path) -> None:
    """One process of the namespace sees nothing, another only the volume; both are writers."""
    pid = start(f"{bind(volume)}; mount --bind {volume} {tmp_path}/mount", cgroup)
    jailed = subprocess.Popen(
        ["nsenter", f"--mount=/proc/{pid}/ns/mnt", sys.executable, "-c", JAILED, str(tmp_path)],
        stdout=subprocess.PIPE,
    )
    try:
        assert jailed.stdout is not None
        jailed.stdout.readline()
        Path(cgroup, "cgroup.procs").write_text(str(jailed.pid))
        survey, target = Survey(), target_of(str(volume))
        wanted = tuple(sorted((pid, jailed.pid)))
        assert survey.find([target])[target] == Writers((cgroup,), wanted)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while survey.find([target])[target].pids != (jailed.pid,):
            assert time.monotonic() < deadline, "it sees the mount below its own root"
    finally:
        jailed.kill()
        jailed.communicate()


JAILED = """
import os, sys, time
os.chroot(sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


def test_unfreezable(start: Start, volume: Path) -> None:
    hierarchy = Hierarchy(ROOT)
    if hierarchy.directory(Path("/proc/self/cgroup").read_bytes())[0]:
        pytest.skip("the tests themselves run in a cgroup that is not the root")
    pid = start(bind(volume))
    target = target_of(str(volume))
    writers = Survey().find([target])[target]
    assert writers == Writers((), (pid,), (f"process {pid} (sh): it is in the root cgroup",))


def test_own_cgroup_is_unfreezable(cgroup: str, start: Start, volume: Path) -> None:
    pid = start(bind(volume), cgroup)
    script = """
import os, sys
from diffkeeper.freeze.writers import Survey, Target
from diffkeeper.fsio import mountinfo
target = Target(*mountinfo.locate(sys.argv[2])[:2])
open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
print(Survey().find([target])[target])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, cgroup, str(volume)],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert f"process {pid} (sh): its cgroup holds DiffKeeper itself" in done.stdout
    assert "cgroups=()" in done.stdout


def test_where_a_directory_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    parent, child = target_of(str(tmp_path)), target_of(str(tmp_path / "a" / ".." / "a"))
    assert child == Target(parent.dev, f"{parent.root.rstrip('/')}/a")
    with pytest.raises(NotFoundError):
        target_of(str(tmp_path / "missing"))


def test_a_covered_mount_holds_nothing(tmp_path: Path) -> None:
    """The mount with the longest point that fits is not always the one that is seen."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "other" / "b").mkdir(parents=True)
    real = target_of(str(tmp_path / "other" / "b"))
    points = [str(tmp_path / "a" / "b"), str(tmp_path / "a")]
    subprocess.run(["mount", "-t", "tmpfs", "none", points[0]], check=True)
    subprocess.run(["mount", "--bind", str(tmp_path / "other"), points[1]], check=True)
    try:
        assert target_of(points[0]) == real
    finally:
        for point in reversed(points):
            subprocess.run(["umount", point], check=True)


def test_parse_mountinfo() -> None:
    text = (
        b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        b"37 36 0:45 /@/live\\012x / ro,relatime - btrfs /dev/sda ro\n"
    )
    first, second = mountinfo.parse(text)
    assert first == mountinfo.Mount(36, 35, "98:0", "/mnt1", "/mnt 2", True, "ext3")
    assert second == mountinfo.Mount(37, 36, "0:45", "/@/live\nx", "/", False, "btrfs")


HOLDER = """
import mmap, os, sys, time
directory = sys.argv[1]
def mapped(name, access, **how):
    descriptor = os.open(os.path.join(directory, name), os.O_RDWR)
    memory = mmap.mmap(descriptor, 4096, access=access, **how)
    os.close(descriptor)
    return memory
kept = [
    mapped("shared", mmap.ACCESS_WRITE),
    mapped("deleted", mmap.ACCESS_WRITE),
    mapped("read-only", mmap.ACCESS_READ),
    mapped("private", mmap.ACCESS_COPY),
]
os.unlink(os.path.join(directory, "deleted"))
opened = [
    os.open(os.path.join(directory, "written"), os.O_WRONLY),
    os.open(os.path.join(directory, "appended"), os.O_WRONLY | os.O_APPEND),
    os.open(os.path.join(directory, "read"), os.O_RDONLY),
    os.open(os.path.join(directory, "line\\nbreak"), os.O_RDWR),
    os.open("/dev/null", os.O_RDWR),
]
print("ready", flush=True)
time.sleep(60)
"""
NAMES = (
    *("shared", "deleted", "read-only", "private", "written", "appended", "read"),
    "line\nbreak",
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[tuple[int, dict[str, int]]]:
    """A process that maps and opens files in every way, and the files' inodes."""
    for name in NAMES:
        (tmp_path / name).write_bytes(bytes(4096))
    inodes = {name: (tmp_path / name).stat().st_ino for name in NAMES}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid, inodes
    process.kill()
    process.communicate()


@pytest.mark.parametrize("by_query", [True, False])
def test_mapped_writable(
    holder: tuple[int, dict[str, int]], tmp_path: Path, by_query: bool
) -> None:
    pid, inodes = holder
    dev = target_of(str(tmp_path)).dev
    scanner = MappingScanner("/proc")
    scanner.by_query = by_query
    expected = {inodes["shared"], inodes["deleted"]}
    assert scanner.scan([pid, 2**22 - 1], dev).inodes == expected
    assert scanner.scan([pid], "0:9999").inodes == set()
    assert Survey().unseen_writes([pid], dev).inodes == expected
    if by_query and not scanner.by_query:
        pytest.skip("this kernel has no PROCMAP_QUERY: maps are read as text")


def test_mapping_of_a_very_long_path(tmp_path: Path) -> None:
    """Longer than any name that the kernel can tell."""
    program = """
import mmap, os, sys, time
os.chdir(sys.argv[1])
for _ in range(25):
    os.mkdir("n" * 250)
    os.chdir("n" * 250)
with open("file", "w+b") as file:
    file.truncate(4096)
    memory = mmap.mmap(file.fileno(), 4096)
    print(os.fstat(file.fileno()).st_ino, flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        inode = int(process.stdout.readline())
        dev = target_of(str(tmp_path)).dev
        text = MappingScanner("/proc")
        text.by_query = False
        assert Survey().unseen_writes([process.pid], dev).inodes == {inode}
        assert text.scan([process.pid], dev).inodes == {inode}
    finally:
        process.kill()
        process.communicate()
        subprocess.run(["rm", "-rf", str(tmp_path / ("n" * 250))], check=True)


def test_open_for_write(holder: tuple[int, dict[str, int]], tmp_path: Path) -> None:
    pid, inodes = holder
    dev = target_of(str(tmp_path)).dev
    found = Survey().open_for_write([pid, 2**22 - 1], dev)
    # Python's mmap keeps a descriptor of its own, opened as the one it was given.
    # What has no name left is not told: nothing could be recorded of it.
    assert found == {inode for name, inode in inodes.items() if name not in {"read", "deleted"}}
    assert Survey().open_for_write([pid], "0:9999") == set()


def test_asynchronous_io(holder: tuple[int, dict[str, int]]) -> None:
    survey, dev = Survey(), "0:9999"
    pid = os.getpid()
    assert survey.unseen_writes([pid, holder[0], 2**22 - 1], dev).rings == set()
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {"x86_64": (206, 207), "aarch64": (0, 1)}.get(os.uname().machine)
    if numbers is None:
        pytest.skip("io_setup has another number on this machine")
    context = ctypes.c_ulong(0)
    if libc.syscall(numbers[0], 8, ctypes.byref(context)) != 0:
        pytest.skip(f"io_setup: {os.strerror(ctypes.get_errno())}")
    try:
        assert survey.unseen_writes([pid, holder[0]], dev).rings == {pid}
        text = MappingScanner("/proc")
        text.by_query = False
        assert text.scan([pid, holder[0]], dev).rings == {pid}
    finally:
        libc.syscall(numbers[1], context)
    assert survey.unseen_writes([pid], dev).rings == set()
    ring = libc.syscall(425, 4, (ctypes.c_char * 120)())
    if ring < 0:
        pytest.skip(f"io_uring_setup: {os.strerror(ctypes.get_errno())}")
    try:
        with mmap.mmap(ring, 4096):
            assert survey.unseen_writes([pid, holder[0]], dev).rings == {pid}
    finally:
        os.close(ring)


def test_no_descriptor_is_kept(tmp_path: Path) -> None:
    survey, target = Survey(), target_of(str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    survey.find([target])
    with mmap.mmap(-1, 4096):
        survey.unseen_writes([os.getpid()], target.dev)
    survey.open_for_write([os.getpid()], target.dev)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("import time; time.sleep(60)", False),
        ("pass", True),
        (
            "import ctypes, threading, time\n"
            "threading.Thread(target=time.sleep, args=[60]).start()\n"
            "ctypes.CDLL(None).pthread_exit(None)",
            False,
        ),
    ],
    ids=["runs", "has ended", "its first thread has ended"],
)
def test_a_process_that_ends(script: str, ending: bool) -> None:
    """Nobody has asked for its exit code yet."""
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        state = Path(f"/proc/{child.pid}/stat")
        if script.count("exit") or ending:
            deadline = time.monotonic() + 20
            while b") Z " not in state.read_bytes():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        assert processes.exiting("/proc", child.pid) is ending
    finally:
        child.kill()
        child.wait()
