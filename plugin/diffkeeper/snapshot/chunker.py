"""Reads a file and finds out which of its chunks differ from the recorded ones.

Only data extents are read, in segments of SEGMENT_BYTES, on a few threads: reading and hashing both
release the GIL. Memory stays at a few segments plus the chunks that differ.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue

from diffkeeper import clock, limits
from diffkeeper.format import filetree
from diffkeeper.format.chunk import HOLE
from diffkeeper.format.entry import EMPTY, Entry, chunk_count
from diffkeeper.format.merkle import is_implied
from diffkeeper.fsio import inode
from diffkeeper.hashing import chunk_digest, node_digest
from diffkeeper.limits import MIB

SEGMENT_BYTES = 1 * MIB
HASH_THREADS = 2


def _go_on() -> None:
    """A check that never ends the reading."""


Get = Callable[[bytes], bytes]
Put = Callable[[bytes], bytes]


@dataclass(slots=True)
class Content:
    """What a file holds, as differences from the tree `root` over `count` chunks.

    changes: chunk number to digest (HOLE for a hole); data: digest to plain bytes, for those
    changes that are neither holes nor all zero.
    """

    size: int
    chunk_bits: int
    root: bytes = EMPTY
    count: int = 0
    sparse: bool = False
    changes: dict[int, bytes] = field(default_factory=dict)
    data: dict[bytes, bytes] = field(default_factory=dict)
    data_bytes: int = 0
    read_bytes: int = 0  # what had to be read to find the changes

    @property
    def is_large(self) -> bool:
        """Whether it holds as much data as should be in memory."""
        return (
            self.data_bytes >= limits.OBSERVE_BYTES_MAX
            or len(self.changes) >= limits.CONTENT_CHANGES_MAX
        )

    def digest(self, get: Get) -> bytes:
        """The root that the content would have, whichever tree its changes refer to."""
        nodes: dict[bytes, bytes] = {}

        def put(encoded: bytes) -> bytes:
            digest = node_digest(encoded)
            nodes[digest] = encoded
            return digest

        count = chunk_count(self.size, self.chunk_bits)
        ways = (lambda digest: nodes.get(digest) or get(digest)), put
        return filetree.update(self.root, self.count, count, self.changes, *ways)

    def fold(self, get: Get, put: Put) -> bytes:
        """Apply the changes to the tree; returns its root."""
        count = chunk_count(self.size, self.chunk_bits)
        if self.changes or count != self.count:
            self.root = filetree.update(self.root, self.count, count, self.changes, get, put)
            self.count = count
            self.changes = {}
        return self.root


@dataclass(slots=True)
class _Segment:
    first: int
    digests: list[bytes]
    buffer: bytearray
    length: int
    cpu_seconds: float = 0.0


class _ComparedChunks:
    """The content of a file, while its chunks are compared with the recorded ones."""

    def __init__(
        self,
        content: Content,
        recorded: Iterator[tuple[int, bytes]],
        spill: Callable[[Content], None],
    ) -> None:
        self._content = content
        self._recorded = recorded
        self._spill = spill
        self._next = next(recorded, None)  # number and digest

    def compare(self, segment: _Segment) -> None:
        """Compare the chunks of a segment; recorded chunks before it that were skipped are holes
        now.
        """
        content = self._content
        content.read_bytes += segment.length
        view = memoryview(segment.buffer)
        for position, digest in enumerate(segment.digests):
            number = segment.first + position
            self.holes_before(number)
            known = b""
            if self._next is not None and self._next[0] == number:
                known = self._next[1]
                self._next = next(self._recorded, None)
            if known != digest:
                start = position << content.chunk_bits
                end = min(start + (1 << content.chunk_bits), segment.length)
                _change(content, number, digest, view[start:end])
        self._relieve()

    def holes_before(self, number: int) -> None:
        """Record holes in place of the recorded chunks before `number` that the file does not
        have.
        """
        while self._next is not None and self._next[0] < number:
            self._content.changes[self._next[0]] = HOLE
            self._next = next(self._recorded, None)
            self._relieve()

    def _relieve(self) -> None:
        if self._content.is_large:
            # Folding changes the tree that `recorded` iterates over, but never chunks ahead of it.
            self._spill(self._content)


class Chunker:
    """Reads and hashes files on a pool of threads shared by all volumes."""

    def __init__(self, threads: int = HASH_THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="hash")
        self._in_flight_max = 2 * threads
        self._buffers: SimpleQueue[bytearray] = SimpleQueue()
        self.cpu_seconds = 0.0

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def read(
        self,
        fd: int,
        size: int,
        chunk_bits: int,
        old: Entry | None,
        get: Get,
        spill: Callable[[Content], None],
        check: Callable[[], None] = _go_on,
    ) -> Content:
        """Compare the first `size` bytes of `fd` with the recorded entry (or with nothing).

        `spill` is called whenever there is much data; it may take the data and fold the changes, or
        raise to end the reading. So may `check`, which is called for each segment. Bytes past the
        end of a file that was cut meanwhile read as zeros.
        """
        content = Content(size, chunk_bits)
        if old is not None and old.chunk_bits == chunk_bits:
            content.root, content.count = old.content, chunk_count(old.size, chunk_bits)
        if size <= 1 << chunk_bits and content.count <= 1:
            return _read_small(fd, content)
        found = _ComparedChunks(content, filetree.runs(content.root, content.count, get), spill)
        for segment in self._segments(
            fd, size, chunk_bits, _chunk_ranges(fd, size, chunk_bits, content)
        ):
            check()
            found.compare(segment)
            self._buffers.put(segment.buffer)
        found.holes_before(chunk_count(size, chunk_bits))
        return content

    def read_parts(
        self,
        fd: int,
        size: int,
        old: Entry,
        parts: Iterable[int],
        get: Get,
        spill: Callable[[Content], None],
        check: Callable[[], None] = _go_on,
    ) -> Content:
        """As `read`, but only for the chunks `parts` and those that a change of size affects.

        All other chunks must be as `old` records them. The cost does not depend on `size`.
        """
        bits = old.chunk_bits
        content = Content(size, bits, old.content, chunk_count(old.size, bits))
        new_count = chunk_count(size, bits)
        if size <= 1 << bits and content.count <= 1:
            return _read_small(fd, content)
        content.sparse = inode.has_hole(fd, size)
        numbers = {number for number in parts if number < new_count}
        kept = min(content.count, new_count)
        if size != old.size and kept:
            numbers.add(kept - 1)
        ranges = list(_grouped(sorted(n for n in numbers if n < content.count), bits))
        before = filetree.Lookup(content.root, content.count, get)
        if content.sparse:
            ranges = list(_without_holes(fd, size, content, ranges, before))
        if new_count > content.count:
            ranges += _chunk_ranges(fd, size, bits, content, content.count)
        for segment in self._segments(fd, size, bits, iter(ranges)):
            check()
            content.read_bytes += segment.length
            view = memoryview(segment.buffer)
            for position, digest in enumerate(segment.digests):
                number = segment.first + position
                if before.at(number) != digest:
                    start = position << bits
                    end = min(start + (1 << bits), segment.length)
                    _change(content, number, digest, view[start:end])
            del view
            self._buffers.put(segment.buffer)
            if content.is_large:
                spill(content)
        return content

    def _segments(
        self, fd: int, size: int, chunk_bits: int, ranges: Iterator[tuple[int, int]]
    ) -> Iterator[_Segment]:
        """Hashed segments of the chunk ranges [first, last), in their order."""
        flying: deque[Future[_Segment]] = deque()
        try:
            for first, last in ranges:
                if not flying and (last - first) << chunk_bits < SEGMENT_BYTES:
                    # For so little, handing it to a thread costs more than hashing it.
                    yield self._hash(fd, size, chunk_bits, first, last)
                    continue
                flying.append(self._pool.submit(self._timed, fd, size, chunk_bits, first, last))
                if len(flying) >= self._in_flight_max:
                    yield self._landed(flying.popleft())
            while flying:
                yield self._landed(flying.popleft())
        finally:
            # The descriptor must stay open until all threads have finished reading.
            for future in flying:
                future.result()

    def _landed(self, future: Future[_Segment]) -> _Segment:
        segment = future.result()
        self.cpu_seconds += segment.cpu_seconds
        return segment

    def _timed(self, fd: int, size: int, chunk_bits: int, first: int, last: int) -> _Segment:
        """Read one segment, on a thread of the pool, whose CPU time the caller's clock does not
        see.
        """
        started = clock.thread_cpu()
        segment = self._hash(fd, size, chunk_bits, first, last)
        segment.cpu_seconds = clock.thread_cpu() - started
        return segment

    def _hash(self, fd: int, size: int, chunk_bits: int, first: int, last: int) -> _Segment:
        buffer = self._buffer()
        start = first << chunk_bits
        length = min(last << chunk_bits, size) - start
        view = memoryview(buffer)
        done = inode.read_exactly(fd, view[:length], start)
        if done < length:
            view[done:length] = bytes(length - done)
        step = 1 << chunk_bits
        digests = [chunk_digest(view[at : min(at + step, length)]) for at in range(0, length, step)]
        del view
        return _Segment(first, digests, buffer, length)

    def _buffer(self) -> bytearray:
        if self._buffers.empty():
            return bytearray(SEGMENT_BYTES)
        return self._buffers.get()


def _read_small(fd: int, content: Content) -> Content:
    """Read a file of at most one chunk, as most files are: no segments, no threads."""
    size = content.size
    if size == 0:
        return content
    content.sparse = inode.has_hole(fd, size)
    if content.sparse and not any(inode.data_extents(fd, size)):
        digest, plain = HOLE, b""
    else:
        plain = os.pread(fd, size, 0).ljust(size, b"\0")
        content.read_bytes += size
        digest = chunk_digest(plain)
    if digest != content.root or content.count == 0:
        _change(content, 0, digest, memoryview(plain))
    return content


def _change(content: Content, number: int, digest: bytes, plain: memoryview) -> None:
    content.changes[number] = digest
    if digest not in content.data and not is_implied(digest, len(plain)):
        content.data[digest] = bytes(plain)
        content.data_bytes += len(plain)


def _grouped(numbers: list[int], chunk_bits: int) -> Iterator[tuple[int, int]]:
    """Sorted chunk numbers as ranges [first, last), each at most one segment."""
    step = max(1, SEGMENT_BYTES >> chunk_bits)
    at = 0
    while at < len(numbers):
        first = last = numbers[at]
        while at < len(numbers) and numbers[at] == last and last < first + step:
            at, last = at + 1, last + 1
        yield first, last


def _without_holes(
    fd: int,
    size: int,
    content: Content,
    ranges: list[tuple[int, int]],
    before: filetree.Lookup,
) -> Iterator[tuple[int, int]]:
    """The ranges of chunks that contain data; chunks that became holes are recorded as changes."""
    for first, last in ranges:
        for number in range(first, last):
            start = number << content.chunk_bits
            end = min(start + (1 << content.chunk_bits), size)
            if any(inode.data_extents(fd, end, start)):
                yield number, number + 1
            elif before.at(number) != HOLE:
                content.changes[number] = HOLE


def _chunk_ranges(
    fd: int, size: int, chunk_bits: int, content: Content, begin: int = 0
) -> Iterator[tuple[int, int]]:
    """Chunk ranges [first, last) from `begin` that contain data, each at most one segment.

    Holes are recorded as changes.
    """
    step = max(1, SEGMENT_BYTES >> chunk_bits)
    done = begin
    end = begin << chunk_bits
    for start, stop in inode.data_extents(fd, size, end):
        content.sparse = content.sparse or start > end
        end = stop
        first = max(start >> chunk_bits, done)
        last = -(-stop >> chunk_bits)
        while first < last:
            yield first, min(first + step, last)
            first = min(first + step, last)
        done = max(done, last)
    content.sparse = content.sparse or end < size
