"""A hash map in the kernel, and the shares of volumes in the map of watched files.

The map of watched files is shared by all volumes. When it is full, the volume with most files in it
is evicted, and falls back to a coarser source: a small volume keeps eBPF beside a large one.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable, Iterator, Sequence

EBPF_CHUNKS_MAX = 131_072  # kernel memory; a chunk without room marks its file
EBPF_FILES_MAX = 32_768  # kernel memory; a file without room marks its volume
EBPF_WATCHED_MAX = 1 << 20  # of all volumes; the one that has the most gives way
EBPF_WRITES_MAX = 16_384  # direct writes under way, of the whole machine
EBPF_ROOM_ATTEMPTS_MAX = 16  # volumes that are evicted for one call
EBPF_ROOM_FILES = 65_536  # that are removed at once to make room
MAP_BATCH_ENTRIES = 4_096


class KernelMap:
    """One hash map in the kernel, read and written in batches. Raises OSError."""

    def __init__(self, library: Any, fd: int, key: struct.Struct, value: struct.Struct) -> None:
        self._library, self._fd = library, fd
        self._key, self._value = key, value
        self._room = ctypes.c_char * value.size
        self._batch = MAP_BATCH_ENTRIES
        self._keys = ctypes.create_string_buffer(self._batch * key.size)
        self._values = ctypes.create_string_buffer(self._batch * value.size)

    def get(self, key: bytes) -> tuple[int, ...] | None:
        """The value of a key, None if it is absent."""
        value = self._room()
        if self._library.bpf_lookup_elem(self._fd, key, value) < 0:
            error = ctypes.get_errno()
            if error != errno.ENOENT:
                raise OSError(error, os.strerror(error))
            return None
        return self._value.unpack(value.raw)

    def put_many(self, keys: Sequence[bytes], value: bytes) -> None:
        """Set one value for many keys; if the map is full (E2BIG), some may have been set."""
        for at in range(0, len(keys), self._batch):
            part = keys[at : at + self._batch]
            count = ctypes.c_uint32(len(part))
            args = (b"".join(part), value * len(part), ctypes.byref(count))
            if self._library.bpf_update_batch(self._fd, *args) < 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))

    def delete(self, key: bytes) -> None:
        """Remove a key; an absent one is no error."""
        self._library.bpf_delete_elem(self._fd, key)

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove many keys; one by one where the batch call stops."""
        for at in range(0, len(keys), self._batch):
            part = keys[at : at + self._batch]
            count = ctypes.c_uint32(len(part))
            if self._library.bpf_delete_batch(self._fd, b"".join(part), ctypes.byref(count)) < 0:
                for key in part:
                    self.delete(key)

    def items(self, *, remove: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Everything in the map; `remove`: each entry is removed at the moment it is read."""
        for keys, values in self.batches(remove=remove):
            unpacked = self._key.iter_unpack(keys), self._value.iter_unpack(values)
            yield from zip(*unpacked, strict=True)

    def batches(self, *, remove: bool) -> Iterator[tuple[bytes, bytes]]:
        """As `items`, as packed keys and values, each batch read when it is asked for.

        Only one thread at a time can iterate over a map.
        """
        name = "bpf_lookup_and_delete_batch" if remove else "bpf_lookup_batch"
        call = getattr(self._library, name)
        position = ctypes.c_uint32()
        start = None
        while True:
            count = ctypes.c_uint32(self._batch)
            refs = (ctypes.byref(position), self._keys, self._values, ctypes.byref(count))
            result = call(self._fd, start, *refs)
            error = ctypes.get_errno() if result < 0 else 0
            if error not in (0, errno.ENOENT):
                raise OSError(error, os.strerror(error))
            # Copies: the buffers serve the next call, of any thread.
            keys = ctypes.string_at(self._keys, count.value * self._key.size)
            values = ctypes.string_at(self._values, count.value * self._value.size)
            yield keys, values
            if error:
                return
            start = ctypes.byref(position)


class Shares:
    """Shares of volumes in the map of watched files. Methods may be called from any thread.

    Volumes are identified by number. One in `refused` is not watched any more, and never will be.
    """

    def __init__(
        self,
        watched: KernelMap,
        key: struct.Struct,
        value: struct.Struct,
        is_open: Callable[[int], bool],
    ) -> None:
        """key, value: layouts of that map; a value begins with the number.

        is_open: whether a number is in use; a closed one never is again.
        """
        self._watched, self._key, self._value, self._is_open = watched, key, value, is_open
        self._walking = threading.Lock()
        # An entry that an iteration removes is the one that it has read, and no newer one.
        self._changing = threading.Lock()
        self._refused: dict[int, str] = {}

    def refused(self, number: int) -> str:
        """Why a volume was evicted, or ""."""
        return self._refused.get(number, "")

    def put(self, number: int, keys: Sequence[bytes], value: bytes) -> None:
        """Watch files of a volume. Raises UnsupportedError if it is evicted itself."""
        for _ in range(EBPF_ROOM_ATTEMPTS_MAX):
            if number in self._refused:
                raise UnsupportedError(self._refused[number])
            try:
                with self._changing:
                    self._watched.put_many(keys, value)
            except OSError as error:
                if error.errno != errno.E2BIG:
                    raise
                self._make_room(number)
            else:
                return
        raise UnsupportedError(f"{_full()}, again and again")

    def end(self, number: int, *, forget: bool) -> None:
        """A number was closed; `forget`: remove its files from the map, which visits all of
        them.
        """
        if forget:
            with self._walking:
                self._remove(lambda found: found == number, EBPF_WATCHED_MAX)
        self._refused.pop(number, None)

    def _make_room(self, asking: int) -> None:
        """Remove entries of closed numbers, or else the files of the volume that has most of
        them.
        """
        with self._walking:
            counts = collections.Counter[int]()
            for _, values in self._watched.batches(remove=False):
                counts.update(self._numbers(values))
            if all(self._is_wanted(number) for number in counts):
                largest = max(counts, key=lambda number: counts[number], default=asking)
                if counts[largest] <= counts[asking]:
                    raise UnsupportedError(f"{_full()}, and no other volume has more of them")
                self._refused[largest] = f"{_full()} of all volumes, and this one has the most"
            # The rest is removed when the refused source stops, or more room is needed.
            self._remove(lambda number: not self._is_wanted(number), EBPF_ROOM_FILES)

    def _is_wanted(self, number: int) -> bool:
        return number not in self._refused and self._is_open(number)

    def _numbers(self, values: bytes) -> Iterator[int]:
        return (number for number, *_ in self._value.iter_unpack(values))

    def _remove(self, is_unwanted: Callable[[int], bool], enough: int) -> None:
        batches, size = self._watched.batches(remove=False), self._key.size
        while enough > 0:
            with self._changing:
                keys, values = next(batches, (b"", b""))
                if not keys:
                    return
                unwanted = [
                    keys[at * size : (at + 1) * size]
                    for at, number in enumerate(self._numbers(values))
                    if is_unwanted(number)
                ]
                self._watched.delete_many(unwanted)
                enough -= len(unwanted)


def _full() -> str:
    return f"more than {EBPF_WATCHED_MAX} files to watch with eBPF"
