"""The eBPF programs in the kernel, and their maps: watched files, and marks.

One set of programs serves all volumes. A volume has a number that is never reused, so that marks
left in the kernel by a closed volume are no other volume's.
"""

from __future__ import annotations

import logging
import os
import struct
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from diffkeeper import clock, counters, limits, memory
from diffkeeper.errors import UnsupportedError
from diffkeeper.fsio import mountinfo
from diffkeeper.sources.ebpf import loading, plan, tracing
from diffkeeper.sources.ebpf.attached import Attached
from diffkeeper.sources.ebpf.counters_sum import CounterSums
from diffkeeper.sources.ebpf.features import Attempt
from diffkeeper.sources.ebpf.maps import KernelMap, Shares
from diffkeeper.sources.ebpf.marks import UNDER_WAY, ChangeMarks
from diffkeeper.sources.ebpf.plan import EBPF_DISK_PLACES_MAX, EBPF_VOLUME_SLOTS

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

# Each time everything is compared: a volume is better off without eBPF where that happens so often.
EBPF_LEFT_OUT_MAX = 20
EBPF_LEFT_OUT_SECONDS = 600.0
_FILE_KEY: Final = struct.Struct("=QII")
_CHUNK_KEY: Final = struct.Struct("=QIIQ")
_VOLUME: Final = struct.Struct("=I")
_WATCHED: Final = struct.Struct("=IHH")
_PLACE: Final = struct.Struct("=II")
_DIRECT_KEY: Final = struct.Struct("=QQII")
_DIRECT_WRITES: Final = struct.Struct("=QQ")
_SINCE: Final = struct.Struct("=Q")
_TAKEN: Final = struct.Struct("=Q")
_STATE: Final = struct.Struct("=QQ")
_COUNTS: Final = ("marks", "full_files", "full_volumes", "long_ranges", "full_writes")


class Program:
    """The loaded programs. Methods may be called from any thread."""

    def __init__(
        self,
        bcc: Any,
        loaded: Any,
        file_systems: dict[str, str],
        direct_end: bool,
        faults: bool,
        wider: str,
        how: loading.Loading,
        attempt: Attempt,
    ) -> None:
        """Use `load`. file_systems: name to why it is not supported, or "".

        direct_end: the end of direct I/O is reported, so that there are no UNDER_WAY marks.
        faults: page faults are reported, so that no file is mapped without a mark.
        wider: what is read more widely on this kernel than on others, and why; for a person.
        how, attempt: how they were loaded, and what was found on the way.
        """
        library = bcc.libbcc.lib
        self._loaded = loaded
        self.file_systems = file_systems
        self.direct_end = direct_end
        self.faults = faults
        self.wider = wider
        self.window_bits = plan.mapped_bits()
        self._lock = threading.Lock()
        self._marks: dict[int, ChangeMarks] = {}
        self._watched = KernelMap(library, loaded[b"watched"].map_fd, _FILE_KEY, _WATCHED)
        self._shares = Shares(self._watched, _FILE_KEY, _WATCHED, self._marks.__contains__)
        self._chunks = KernelMap(library, loaded[b"chunks"].map_fd, _CHUNK_KEY, _VOLUME)
        self._files = KernelMap(library, loaded[b"files"].map_fd, _FILE_KEY, _VOLUME)
        self._states = KernelMap(library, loaded[b"volumes"].map_fd, _VOLUME, _STATE)
        self._direct_lock = threading.Lock()
        self._direct: KernelMap | None = None
        if direct_end:
            self._direct = KernelMap(library, loaded[b"direct"].map_fd, _DIRECT_KEY, _DIRECT_WRITES)
        self._direct_files: KernelMap | None = None
        if not direct_end:
            self._direct_files = KernelMap(
                library, loaded[b"direct_files"].map_fd, _FILE_KEY, _SINCE
            )
        self._taken = KernelMap(library, loaded[b"shares"].map_fd, _VOLUME, _TAKEN)
        self._places = KernelMap(library, loaded[b"places"].map_fd, _PLACE, _VOLUME)
        self._devices: dict[int, int] = {}
        self._seen: dict[int, tuple[int, ...]] = {}
        self._next = 1
        self._overflown = 0
        self._sums = CounterSums(library, loaded[b"counts"])
        self._attached = Attached(library, loaded)
        self.loading, self.attempt = how, attempt
        self.lost = ""  # why the programs miss changes
        self.lost_at = float("inf")  # since when, on the monotonic clock
        _, self._left_out = self._attached.inspect()
        self._left_out_at: deque[float] = deque(maxlen=EBPF_LEFT_OUT_MAX)

    @classmethod
    def load(cls, headers: str = "", attempt: Attempt | None = None) -> Program:
        """Compile and attach what this kernel supports; `headers`: a folder of kernel headers.

        Raises UnsupportedError with the reason; `attempt` records what was found on the way.
        """
        attempt = attempt or Attempt()
        sources, file_systems, flags = plan.plan(attempt)
        with attempt.trying("headers", "found"):
            sets = tracing.header_sets(headers)
        before = memory.resident_bytes()
        with attempt.trying("bcc", "imported"):
            bcc = loading.import_bcc()
        with attempt.trying("programs", "compiled, verified, attached"):
            text = "\n".join((tracing.programs() / name).read_text() for name in sources)
            loaded, how = loading.load(bcc, sets, text, flags, before)
        attempt.record("headers", "supported", f"{how.headers}, {how.headers_bytes} bytes")
        attempt.attached()
        direct_end, faults = "direct.c" in sources, "faults.c" in sources
        wider = plan.wider(direct_end, faults)
        return cls(bcc, loaded, file_systems, direct_end, faults, wider, how, attempt)

    @property
    def in_use(self) -> bool:
        """Whether a volume, or the proof for a device, has a number."""
        return bool(self._marks)

    def close(self) -> None:
        """Detach the programs; their maps end with them."""
        self._attached.release()
        self._loaded.cleanup()

    def check(self) -> str:
        """Why the marks of these programs cannot be relied on any more, or "".

        If the kernel has skipped runs meanwhile, the marks of all volumes are lost (`missed`).
        """
        if not self.lost:
            # Not under the lock: a drain in a freeze waits for it.
            broken, left_out = self._attached.inspect()
            broken = broken or self._record_left_out(left_out)
            if broken:
                self.lose(broken)
        return self.lost

    def _record_left_out(self, left_out: dict[str, int]) -> str:
        """Why the programs are of no use, since runs are skipped too often; or "".

        Each time everything is compared.
        """
        with self._lock:
            # Another thread may have noted what was counted after this look.
            news = [name for name, count in left_out.items() if count > self._left_out[name]]
            if not news:
                return ""
            self._left_out.update({name: left_out[name] for name in news})
            for marks in self._marks.values():
                marks.lose()
            # The missed end may be that of one of these, which would be waited for in vain.
            self._direct_writes(remove=True)
            since = clock.monotonic() - EBPF_LEFT_OUT_SECONDS
            self._left_out_at.append(clock.monotonic())
            often = len(self._left_out_at) == EBPF_LEFT_OUT_MAX
        counters.add("ebpf_left_out_total")
        log.warning("ebpf_left_out", extra={"tracepoints": ", ".join(news)})
        if often and self._left_out_at[0] > since:
            minutes = EBPF_LEFT_OUT_SECONDS / 60
            times = f"{EBPF_LEFT_OUT_MAX} times within {minutes:.0f} minutes"
            return f"the kernel left runs of {news[0]} out, {times}"
        return ""

    def missed(self, number: int) -> bool:
        """Whether marks of a volume were lost since its last drain."""
        marks = self._marks.get(number)
        return marks is not None and marks.lost

    def lose(self, reason: str) -> None:
        """Record that the programs miss changes, and why."""
        with self._lock:
            if self.lost:
                return
            self.lost_at = clock.monotonic()
            self.lost = f"the eBPF programs were lost: {reason}"
        counters.add("ebpf_programs_lost_total")
        log.error("ebpf_lost", extra={"reason": reason})

    def open_volume(self, device: int) -> int:
        """A number for a volume whose files are on `device` (as in st_dev).

        Raises UnsupportedError when its disk has too many file systems with volumes.
        """
        with self._lock:
            self._place(device)
            number = self._next
            self._next += 1
            self._marks[number] = ChangeMarks()
            self._devices[number] = _kernel_device(device)
            self._seen[number] = self._state(number)
            return number

    def _place(self, device: int) -> None:
        """Tell the programs on which disk a file system is."""
        disk, wanted = _kernel_device(mountinfo.disk_of(device)), _kernel_device(device)
        for slot in range(EBPF_DISK_PLACES_MAX):
            key = _PLACE.pack(disk, slot)
            found = self._places.get(key)
            if found is None:
                self._places.put_many([key], _VOLUME.pack(wanted))
            if found is None or found[0] == wanted:
                return
        raise UnsupportedError(
            f"more than {EBPF_DISK_PLACES_MAX} file systems of one disk hold volumes"
        )

    def close_volume(self, number: int, *, forget: bool) -> None:
        """Close a number; `forget`: also remove its files from the map, which visits all."""
        with self._lock:
            self._marks.pop(number, None)
            self._seen.pop(number, None)
            self._devices.pop(number, None)
        self._shares.end(number, forget=forget)

    def refused(self, number: int) -> str:
        """Why the volume was evicted from the map of watched files, or ""."""
        return self._shares.refused(number)

    def watch(self, number: int, chunk_bits: int, inodes: Iterable[int], *, held: bool) -> None:
        """Mark changes of these files from now on.

        Raises UnsupportedError if there is no room for them, or if the volume was evicted.
        """
        device = self._devices[number]
        keys = [_FILE_KEY.pack(inode, device, 0) for inode in inodes]
        self._shares.put(number, keys, _WATCHED.pack(number, chunk_bits, held))
        if self._direct_files is not None and not held:
            with self._lock:
                self._mark_under_way(self._direct_files, number, set(keys))

    def _mark_under_way(self, recent: KernelMap, number: int, keys: set[bytes]) -> None:
        """Direct writes that began before have no mark of this number, and may be in flight.

        Those that have certainly ended are removed: the map has room for recent ones.
        """
        ended_ns = (clock.monotonic() - limits.STARTED_SECONDS) * 1e9
        # Removed and put back, since one that was deleted might have become recent meanwhile.
        for key, (since_ns,) in list(recent.items(remove=True)):
            if since_ns < ended_ns:
                continue
            packed = _FILE_KEY.pack(*key)
            recent.put_many([packed], _SINCE.pack(since_ns))
            if packed in keys:
                self._marks[number].add_file(UNDER_WAY, key[0])

    def watched_as(self, number: int, inode: int) -> bool | None:
        """The `held` that `watch` was called with; None when the file is not watched."""
        found = self._watched.get(_FILE_KEY.pack(inode, self._devices[number], 0))
        if found is None or found[0] != number:
            return None
        return bool(found[2])

    def unwatch(self, number: int, inodes: Iterable[int]) -> None:
        """Stop marking changes of these files."""
        for inode in inodes:
            if self.watched_as(number, inode) is not None:
                self._watched.delete(_FILE_KEY.pack(inode, self._devices[number], 0))

    def pending(self, number: int) -> bool:
        """Whether a drain may return anything; True for a number that a thread has just closed."""
        marks, seen = self._marks.get(number), self._seen.get(number)
        if marks is None or marks or self.refused(number):
            return True
        return self._state(number) != seen

    def drain(self, number: int) -> ChangeMarks:
        """Take all marks of a volume; those of others wait for their own drain."""
        with self._lock:
            overflown = self._count(_COUNTS.index("full_writes"))
            if overflown != self._overflown:
                self._overflown = overflown
                for marks in self._marks.values():
                    marks.lose()
            # Reset before the marks are taken: one that is set meanwhile is noticed again.
            state = self._state(number)
            if state[1] != self._seen[number][1]:
                self._marks[number].lose()
            if state != self._seen[number]:
                self._seen[number] = state
                self._gather()
            taken, self._marks[number] = self._marks[number], ChangeMarks()
            return taken

    def direct_under_way(self, number: int) -> bool:
        """Whether direct I/O is writing to a file that this number watches; False if unknown.

        One whose end was missed is not waited for for ever.
        """
        device = self._devices[number]
        oldest = (clock.monotonic() - limits.STARTED_SECONDS) * 1e9
        return any(
            at == device and since > oldest and self.watched_as(number, inode) is not None
            for (inode, _, at, _), (_, since) in self._direct_writes()
        )

    def _direct_writes(
        self, *, remove: bool = False
    ) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Direct writes in flight, from bpf/direct.c; none where ends are not reported."""
        if self._direct is None:
            return []
        with self._direct_lock:  # captures in a freeze ask, several at a time
            return list(self._direct.items(remove=remove))

    def counts(self) -> dict[str, int]:
        """The programs' counters, summed over all processors."""
        return {name: self._count(i) for i, name in enumerate(_COUNTS)}

    def _count(self, which: int) -> int:
        return self._sums.read(which)

    def _state(self, number: int) -> tuple[int, ...]:
        slot = _VOLUME.pack(number % EBPF_VOLUME_SLOTS)
        return self._states.get(slot) or (0, 0)

    def _gather(self) -> None:
        try:
            for (inode, _, kind, chunk), (number,) in self._chunks.items(remove=True):
                if number in self._marks:
                    self._marks[number].add_chunk(kind, inode, chunk)
            for (inode, _, kind), (number,) in self._files.items(remove=True):
                if number in self._marks:
                    self._marks[number].add_file(kind, inode)
            slots = {number % EBPF_VOLUME_SLOTS for number in self._marks}
            self._taken.put_many([_VOLUME.pack(slot) for slot in slots], _TAKEN.pack(0))
        except OSError:
            # What was removed from the map and not handed out is missing.
            for marks in self._marks.values():
                marks.lose()


def _kernel_device(device: int) -> int:
    """A device number in the form of tracepoints."""
    return os.major(device) << 20 | os.minor(device)
