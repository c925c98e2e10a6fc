"""The eBPF programs are lost behind our back: noticed, fallen back from, nothing missed."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from diffkeeper import clock, counters, limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.snapshot.policy import CapturePolicy
from diffkeeper.snapshot.volume_capture import VolumeCapture
from diffkeeper.sources.ebpf import loading, tracing
from diffkeeper.sources.ebpf.attached import Attached
from diffkeeper.sources.ebpf.heartbeat import Heartbeat
from diffkeeper.sources.ebpf.probe import Sources
from diffkeeper.sources.ebpf.program import EBPF_LEFT_OUT_MAX, Program
from diffkeeper.sources.ebpf.reloads import (
    EBPF_LOADS_MAX,
    EBPF_RELOAD_SECONDS,
    EBPF_RELOAD_SECONDS_MAX,
    Reloads,
)
from diffkeeper.sources.ladder import VolumePlace
from tests.support.capture_rig import CaptureRig
from tests.support.trees import describe, difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BEAT_SECONDS = 0.5
NOTICE_SECONDS_MAX = 5.0
CHUNK = 64 * limits.KIB


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Programs of the test's own, to be harmed."""
    try:
        made = Program.load()
    except UnsupportedError as error:
        pytest.skip(f"no eBPF: {error}")
    yield made
    made.close()


@pytest.fixture
def rig(request: pytest.FixtureRequest, program: Program, tmp_path: Path) -> Iterator[CaptureRig]:
    """A volume with eBPF, on the disk of the tests; its parameter are seconds between beats."""
    sources = Sources.of(program, heartbeat=getattr(request, "param", BEAT_SECONDS))
    with CaptureRig(tmp_path, CapturePolicy(source="ebpf"), sources) as made:
        if made.watched.watcher.source.name != "ebpf":
            pytest.skip(made.watched.watcher.reason)
        yield made


def loaded_of(program: Program) -> Any:
    """What bcc has loaded."""
    return program._loaded


def detach_all(program: Program) -> None:
    for event in list(loaded_of(program).tracepoint_fds):
        loaded_of(program).detach_tracepoint(event)


def detach_one(program: Program) -> None:
    loaded_of(program).detach_tracepoint(b"ext4:ext4_punch_hole")


def take_over(fd: int) -> None:
    """The descriptor is another file's from now on, as after a close behind its owner's back."""
    other = os.open("/dev/null", os.O_RDONLY)
    os.dup2(other, fd)
    os.close(other)


def take_event(program: Program) -> None:
    take_over(loaded_of(program).tracepoint_fds[b"ext4:ext4_da_write_end"])


def take_program(program: Program) -> None:
    take_over(loaded_of(program).funcs[b"tracepoint__ext4__ext4_da_write_end"].fd)


def take_map(name: bytes) -> Callable[[Program], None]:
    return lambda program: take_over(loaded_of(program)[name].map_fd)


def empty_watched(program: Program) -> None:
    """All is loaded and attached, and yet nothing is marked any more."""
    loaded_of(program)[b"watched"].clear()


SEEN_AT_ONCE = {
    "all detached": detach_all,
    "one detached": detach_one,
    "an event's descriptor": take_event,
    "a program's descriptor": take_program,
    "the map of what is watched": take_map(b"watched"),
    "the map of chunks": take_map(b"chunks"),
    "the map of volumes": take_map(b"volumes"),
}
LOSSES = {**SEEN_AT_ONCE, "nothing is watched": empty_watched}


def test_whole_programs_are_not_called_broken(program: Program, tmp_path: Path) -> None:
    file = tmp_path / "file"
    for turn in range(20):
        file.write_bytes(b"x" * turn * CHUNK)
        assert program.check() == ""


def test_the_heart_beats_for_open_volumes_only(program: Program, tmp_path: Path) -> None:
    sources = Sources.of(program, heartbeat=0.05)
    place = VolumePlace(tmp_path.stat().st_dev, "ext4", 16, str(tmp_path))
    chosen = [sources.choose("ebpf", place).source for _ in range(2)]
    if chosen[0].name != "ebpf":
        pytest.skip("the disk of the tests is not ext4")
    assert beating() == 1
    chosen[0].stop()
    before = program.counts()["marks"]
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    while program.counts()["marks"] < before + 3:
        assert time.monotonic() < deadline, "no heartbeat"
    chosen[1].stop()
    assert beating() == 0
    assert list(tmp_path.iterdir()) == [], "its file has no name"


def beating() -> int:
    return sum(thread.name == "heartbeat" for thread in threading.enumerate())


@pytest.mark.parametrize("lose", SEEN_AT_ONCE.values(), ids=SEEN_AT_ONCE.keys())
def test_the_kernel_is_asked(program: Program, lose: Callable[[Program], None]) -> None:
    before = lost_count()
    lose(program)
    assert program.check().startswith("the eBPF programs were lost: ")
    assert program.check() == program.lost
    assert lost_count() == before + 1


NESTED = b"""
int sampled(void *context) { bpf_trace_printk("x"); return 0; }
TRACEPOINT_PROBE(bpf_trace, bpf_trace_printk) { return 0; }
"""
CLOCK = {"ev_type": 1, "ev_config": 0, "sample_freq": 500}  # the software event of the CPU's clock


def test_runs_that_the_kernel_left_out_are_seen() -> None:
    """A program whose tracepoint is met inside another eBPF program does not run."""
    try:
        bcc = loading.import_bcc()
        os.putenv("BCC_KERNEL_SOURCE", str(tracing.header_sets()[0]))
        loaded = bcc.BPF(text=NESTED)
        attached = Attached(bcc.libbcc.lib, loaded)
        _, before = attached.inspect()
        loaded.attach_perf_event(fn_name=b"sampled", **CLOCK)
    except Exception as error:  # bcc raises nothing finer
        pytest.skip(f"no eBPF, or no sampling of the clock: {error}")
    assert before == {"bpf_trace:bpf_trace_printk": 0}
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    while not attached.inspect()[1]["bpf_trace:bpf_trace_printk"]:
        assert time.monotonic() < deadline, "what was left out is not seen"
    assert attached.inspect()[0] == ""
    loaded.cleanup()
    assert attached.inspect()[0]


def leave_out(program: Program) -> None:
    """As if the kernel had left out one run of a program since it was asked last."""
    program._left_out[next(iter(program._left_out))] -= 1


def test_runs_left_out_before_a_capture(rig: CaptureRig, program: Program) -> None:
    """All is compared once, and eBPF goes on."""
    write(rig, 0)
    rig.capture()
    # A change whose mark was not set: it shows by its time stamp alone.
    empty_watched(program)
    write(rig, 1)
    leave_out(program)
    assert_holds_live(rig)
    assert rig.watched.watcher.source.name == "ebpf"
    for turn in (2, 3):
        write(rig, turn)
        assert_holds_live(rig)
    assert not program.lost


def test_runs_left_out_within_a_capture(
    rig: CaptureRig, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of that capture is kept: what it saw has no sign of what it did not see."""
    write(rig, 0)
    rig.capture()
    write(rig, 1)
    once = VolumeCapture._round

    def write_unseen(*arguments: Any) -> None:
        monkeypatch.undo()
        once(*arguments)
        empty_watched(program)
        write(rig, 2)
        (rig.live / "after").write_bytes(b"after")
        leave_out(program)

    monkeypatch.setattr(VolumeCapture, "_round", write_unseen)
    before = rig.state.record.next_seq
    assert_holds_live(rig)
    assert rig.state.record.next_seq == before + 1
    assert rig.watched.watcher.source.name == "ebpf"
    write(rig, 3)
    assert_holds_live(rig)


def test_another_volume_is_told_of_it(rig: CaptureRig, program: Program, tmp_path: Path) -> None:
    """Whoever asks first: the marks of all are lost."""
    sources = Sources.of(program, heartbeat=60.0)
    other = sources.choose("ebpf", VolumePlace(tmp_path.stat().st_dev, "ext4", 16)).source
    other.drain()
    assert not other.missed()
    leave_out(program)
    assert program.check() == ""
    assert other.missed()
    assert other.pending()
    assert other.drain().everything
    assert not other.missed()
    other.stop()


def test_runs_left_out_time_and_again(program: Program) -> None:
    for _ in range(EBPF_LEFT_OUT_MAX - 1):
        leave_out(program)
        assert program.check() == ""
    leave_out(program)
    assert "20 times within 10 minutes" in program.check()


def lost_count() -> float:
    return counters.counts().get(("ebpf_programs_lost_total", ()), 0)


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_it_falls_back_in_time(
    rig: CaptureRig, program: Program, lose: Callable[[Program], None]
) -> None:
    """Noticed with nobody asking for a snapshot, while the volume is written to."""
    write(rig, 0)
    rig.capture()
    lose(program)
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    turn = 1
    while rig.watched.watcher.source.name == "ebpf":
        assert time.monotonic() < deadline, "the loss is not noticed"
        write(rig, turn)
        if rig.watched.pending(rig.writers()) and program.lost:
            rig.capture()
        turn += 1
        time.sleep(0.01)
    assert rig.watched.watcher.source.name == "inotify"
    assert "the eBPF programs were lost" in rig.watched.watcher.reason
    support = {feature.name: feature for feature in rig.watched.watcher.features}
    assert support["programs"].support == "unsupported"
    assert "were lost" in support["programs"].reason
    for more in range(2):
        write(rig, turn + more)
        assert_holds_live(rig)


@pytest.mark.parametrize("lose", [detach_all, take_event, take_map(b"chunks")])
def test_no_snapshot_is_taken_from_what_lost_programs_told(
    rig: CaptureRig, program: Program, lose: Callable[[Program], None]
) -> None:
    """Lost just before what is written, and captured before any heartbeat."""
    write(rig, 0)
    rig.capture()
    lose(program)
    write(rig, 1)
    assert_holds_live(rig)
    assert rig.watched.watcher.source.name == "inotify"
    write(rig, 2)
    assert_holds_live(rig)


def test_what_is_lost_within_a_capture(
    rig: CaptureRig, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees a file that was made after writes it does not see: not the state of any instant."""
    write(rig, 0)
    rig.capture()
    write(rig, 1)
    once = VolumeCapture._round

    def lose_and_write(*arguments: Any) -> None:
        monkeypatch.undo()
        detach_all(program)
        write(rig, 2)
        (rig.live / "after").write_bytes(b"after")
        once(*arguments)

    monkeypatch.setattr(VolumeCapture, "_round", lose_and_write)
    assert_holds_live(rig)
    assert rig.watched.watcher.source.name == "inotify"
    assert_holds_live(rig)


@pytest.mark.parametrize("rig", [4.0], indirect=True)
def test_only_the_heartbeat_notices(
    rig: CaptureRig, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the kernel says that all is as it was, and yet no mark is set.

    What was captured until it was noticed has new timestamps with old content: it is read again.
    """
    # Else, what changed within half a minute would be read again for its possible mappings.
    rig.watched.horizon_ns = 0
    write(rig, 0)
    rig.capture()
    ask = Attached.inspect
    monkeypatch.setattr(Attached, "inspect", lambda attached: ("", ask(attached)[1]))
    detach_all(program)
    write(rig, 1)
    time.sleep(0.1)  # until the timestamps are old enough to be relied on
    rig.capture()
    assert rig.watched.watcher.source.name == "ebpf", "the heartbeat was too fast for this test"
    deadline = time.monotonic() + NOTICE_SECONDS_MAX
    while not program.lost:
        assert time.monotonic() < deadline, "the loss is not noticed"
        time.sleep(0.01)
    assert_holds_live(rig)
    assert rig.watched.watcher.source.name == "inotify"


def write(rig: CaptureRig, turn: int) -> None:
    """One page in each of a few files, without closing them, so that no name is hinted."""
    for number in range(4):
        path = rig.live / f"f{number}"
        if not turn:
            path.write_bytes(os.urandom(8 * CHUNK))
        file = os.open(path, os.O_RDWR)
        os.pwrite(file, b"%d" % turn, (turn % 8) * CHUNK + number)
        os.close(file)


def assert_holds_live(rig: CaptureRig) -> None:
    snapshot = rig.capture()
    replayed = rig.replay(snapshot, f"r{snapshot.seq}-{time.monotonic_ns()}")
    assert difference(describe(rig.live), describe(replayed)) == []


def test_a_device_without_marks_is_refused(program: Program, tmp_path: Path) -> None:
    """A place where a write leaves no mark is not one for eBPF, whatever its name."""
    sources = Sources.of(program)
    device = os.stat("/dev/shm").st_dev
    choice = sources.choose("ebpf", VolumePlace(device, "ext4", 16, "/dev/shm"))
    choice.source.stop()
    assert choice.source.name == "inotify"
    assert "a write left no mark" in choice.reason
    assert not program.lost, "others have theirs"


def test_without_proof_for_long_it_is_not_relied_on(
    rig: CaptureRig, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that hangs: neither a mark, nor its absence, proves anything."""
    write(rig, 0)
    rig.capture()
    monkeypatch.setattr(Heartbeat, "_run", lambda _: None)
    monkeypatch.setattr("diffkeeper.sources.ebpf.heartbeat.HEARTBEAT_SILENT_SECONDS_MAX", 0.0)
    assert rig.watched.pending(rig.writers())
    assert_holds_live(rig)
    assert rig.watched.watcher.source.name == "inotify"
    assert "no proof" in rig.watched.watcher.reason
    assert not program.lost


def test_lost_programs_are_loaded_anew_a_few_times(tmp_path: Path) -> None:
    """For the volumes that ask from then on; those that fell back stay so."""
    sources = Sources()
    place = VolumePlace(tmp_path.stat().st_dev, "ext4", 16, str(tmp_path))
    if sources.load():
        pytest.skip(sources.load())
    for _ in range(EBPF_LOADS_MAX):
        choice = sources.choose("ebpf", place)
        if choice.source.name != "ebpf":
            pytest.skip(choice.reason)
        choice.source.stop()
        loaded = sources._program
        assert loaded is not None
        loaded.lose("by the test")
    choice = sources.choose("ebpf", place)
    choice.source.stop()
    assert choice.source.name == "inotify"
    assert "by the test" in choice.reason
    sources.close()


def test_lost_programs_are_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was loaded before is not kept in the kernel for ever."""
    sources = Sources()
    place = VolumePlace(tmp_path.stat().st_dev, "ext4", 16, str(tmp_path))
    if sources.load():
        pytest.skip(sources.load())
    moment = time.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: moment)
    for _ in range(EBPF_LOADS_MAX):
        mounted = sources.choose("ebpf", place).source
        mounted.stop()
        lose_loaded(sources)
    assert "by the test" in sources.load()
    assert {f.name: f.support for f in sources.features()}["programs"] == "unsupported"
    moment += EBPF_RELOAD_SECONDS - 1
    assert "tried again for volumes that are mounted" in sources.load()
    moment += 2
    running = sources.choose("ebpf", place).source
    if running.name != "ebpf":
        pytest.skip("the disk of the tests is not ext4")
    lose_loaded(sources)
    moment += EBPF_RELOAD_SECONDS + 1
    assert sources.load(), "the second wait is longer"
    moment += EBPF_RELOAD_SECONDS
    assert sources.load() == ""
    lose_loaded(sources)
    assert sources.load()
    assert len(sources._lost) == 2, "one that is in use, and the last one"
    running.stop()
    sources.close()


def lose_loaded(sources: Sources) -> None:
    loaded = sources._program
    assert loaded is not None
    loaded.lose("by the test")


def test_what_could_not_be_loaded_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when there was no memory at that moment, or the headers were installed since."""
    monkeypatch.setattr(tracing, "_SHIPPED", tmp_path)
    monkeypatch.setattr(tracing, "_CHECKOUT", tmp_path)
    sources = Sources()
    assert "no kernel headers" in sources.load()
    monkeypatch.undo()
    assert sources.load(), "not at every mount"
    later = time.monotonic() + EBPF_RELOAD_SECONDS
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    if sources.load():
        pytest.skip(sources.load())
    sources.close()


def test_the_wait_grows_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    moment, waits, reloads = 0.0, [], Reloads()
    monkeypatch.setattr(clock, "monotonic", lambda: moment)
    for _ in range(40):
        reloads.loaded()
        reloads.lost("by the test", moment)
        began = moment
        while reloads.why_not:
            moment += 60.0
        waits.append(moment - began)
    assert waits[:5] == [0, 0, 600, 1200, 2400]
    assert waits == sorted(waits)
    assert waits[-1] == EBPF_RELOAD_SECONDS_MAX
    reloads.loaded()
    moment += EBPF_RELOAD_SECONDS_MAX
    reloads.lost("by the test", moment)
    assert reloads.why_not == "", "they were good for long"
