"""A hash map of the kernel's, and whose files fill the one of watched files.

The map of watched files is shared by all volumes. When it is full the volume that holds most of it
gives way, and falls back to a coarser source: a small one keeps eBPF beside a large one.
"""

from __future__ import annotations

import collections
import ctypes
import errno
import os
import threading
from typing import TYPE_CHECKING, Any

from diffkeeper import limits
from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable, Iterator, Sequence

EBPF_ROOM_ATTEMPTS_MAX = 16  # volumes that give way to the files of one look
EBPF_ROOM_FILES = 65_536  # that are taken out at once for others
MAP_BATCH_ENTRIES = 4_096


class KernelMap:
    """One hash map of the kernel's, read and written in batches. Raises OSError."""

    def __init__(self, library: Any, fd: int, key: struct.Struct, value: struct.Struct) -> None:
        self._library, self._fd = library, fd
        self._key, self._value = key, value
        self._room = ctypes.c_char * value.size
        self._batch = MAP_BATCH_ENTRIES
        self._keys = ctypes.create_string_buffer(self._batch * key.size)
        self._values = ctypes.create_string_buffer(self._batch * value.size)

    def get(self, key: bytes) -> tuple[int, ...] | None:
        """The value of a key, None if it has none."""
        value = self._room()
        if self._library.bpf_lookup_elem(self._fd, key, value) < 0:
            error = ctypes.get_errno()
            if error != errno.ENOENT:
                raise OSError(error, os.strerror(error))
            return None
        return self._value.unpack(value.raw)

    def put_many(self, keys: Sequence[bytes], value: bytes) -> None:
        """The same value for many keys; of a map that is full (E2BIG) some may be there."""
        for at in range(0, len(keys), self._batch):
            part = keys[at : at + self._batch]
            count = ctypes.c_uint32(len(part))
            args = (b"".join(part), value * len(part), ctypes.byref(count))
            if self._library.bpf_update_batch(self._fd, *args) < 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))

    def delete(self, key: bytes) -> None:
        """One that is not there is no error."""
        self._library.bpf_delete_elem(self._fd, key)

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """The same for many; where the batch call stops, one by one."""
        for at in range(0, len(keys), self._batch):
            part = keys[at : at + self._batch]
            count = ctypes.c_uint32(len(part))
            if self._library.bpf_delete_batch(self._fd, b"".join(part), ctypes.byref(count)) < 0:
                for key in part:
                    self.delete(key)

    def items(self, *, take: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Everything in the map; `take`: each entry is removed in the moment it is read."""
        for keys, values in self.batches(take=take):
            unpacked = self._key.iter_unpack(keys), self._value.iter_unpack(values)
            yield from zip(*unpacked, strict=True)

    def batches(self, *, take: bool) -> Iterator[tuple[bytes, bytes]]:
        """The same as packed keys and values, each batch read in the moment it is asked for.

        A map can be walked by one thread at a time.
        """
        name = "bpf_lookup_and_delete_batch" if take else "bpf_lookup_batch"
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
            # Copies of what was filled in: the buffers serve the next call, whoever makes it.
            keys = ctypes.string_at(self._keys, count.value * self._key.size)
            values = ctypes.string_at(self._values, count.value * self._value.size)
            yield keys, values
            if error:
                return
            start = ctypes.byref(position)


class Shares:
    """Who has how much of the map of watched files. Methods may be called from any thread.

    Numbers are those of volumes. One that was `refused` is watched no more, and never again.
    """

    def __init__(
        self,
        watched: KernelMap,
        key: struct.Struct,
        value: struct.Struct,
        is_open: Callable[[int], bool],
    ) -> None:
        """key, value: of that map; a value begins with the number.

        is_open: whether a number is in use; one that was given up never is again.
        """
        self._watched, self._key, self._value, self._is_open = watched, key, value, is_open
        self._walking = threading.Lock()
        # An entry that a walk takes out is the one that it has read, and no newer one.
        self._changing = threading.Lock()
        self._refused: dict[int, str] = {}

    def refused(self, number: int) -> str:
        """Why a volume had to give way, or nothing."""
        return self._refused.get(number, "")

    def put(self, number: int, keys: Sequence[bytes], value: bytes) -> None:
        """Watch files of a volume. Raises UnsupportedError if it has to give way itself."""
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
        """A number was given up; `forget`: take its files out of the map, which visits them all."""
        if forget:
            with self._walking:
                self._take_out(lambda found: found == number, limits.EBPF_WATCHED_MAX)
        self._refused.pop(number, None)

    def _make_room(self, asking: int) -> None:
        """Take out what is nobody's, or else the files of the volume that has most of them."""
        with self._walking:
            counts = collections.Counter[int]()
            for _, values in self._watched.batches(take=False):
                counts.update(self._numbers(values))
            if all(self._is_wanted(number) for number in counts):
                largest = max(counts, key=lambda number: counts[number], default=asking)
                if counts[largest] <= counts[asking]:
                    raise UnsupportedError(f"{_full()}, and no other volume has more of them")
                self._refused[largest] = f"{_full()} of all volumes, and this one has the most"
            # The rest goes when the source that was refused stops, or more room is asked for.
            self._take_out(lambda number: not self._is_wanted(number), EBPF_ROOM_FILES)

    def _is_wanted(self, number: int) -> bool:
        return number not in self._refused and self._is_open(number)

    def _numbers(self, values: bytes) -> Iterator[int]:
        return (number for number, *_ in self._value.iter_unpack(values))

    def _take_out(self, is_unwanted: Callable[[int], bool], enough: int) -> None:
        batches, size = self._watched.batches(take=False), self._key.size
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
    return f"more than {limits.EBPF_WATCHED_MAX} files to watch with eBPF"
