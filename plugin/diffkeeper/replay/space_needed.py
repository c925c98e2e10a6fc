"""The space that a replay certainly needs, computed before it begins.

A snapshot's record has logical bytes, which include holes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from diffkeeper.format import dirtree, filetree, root
from diffkeeper.format.entry import Entry, Kind, chunk_count
from diffkeeper.format.merkle import is_implied
from diffkeeper.fsio import durable, linux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffkeeper.format.ids import Root
    from diffkeeper.format.node import Get

_BLOCK: Final = 4096  # in which replays leave zeros out
# Of others, such as compressing ones, nothing is certain.
_PLAIN: Final = frozenset((0xEF53, 0x58465342, 0x01021994))


def shortage(snapshot_root: Root, logical_bytes: int, get: Get, directory: str) -> tuple[int, int]:
    """Bytes that a replay into the directory needs at least, and those that are free; zeros if it
    may fit.

    logical_bytes: of all files of the snapshot. Reads nodes only if those do not fit. OSError, and
    what `get` raises.
    """
    free = durable.free_bytes_of_root(directory)
    if logical_bytes <= free or linux.file_system_type(directory) not in _PLAIN:
        return 0, 0
    least = 0
    for size in _sizes(snapshot_root, get):
        least += size
        if least > free:
            return least, free
    return 0, 0


def _sizes(snapshot_root: Root, get: Get) -> Iterator[int]:
    top, links_root = root.decode_root(get(snapshot_root))
    pending = [links_root, top.content]
    while pending:
        for _, entry in dirtree.entries(pending.pop(), get):
            if entry.kind is Kind.DIRECTORY:
                pending.append(entry.content)
            elif entry.kind is Kind.FILE:
                yield _size(entry, get)


def _size(entry: Entry, get: Get) -> int:
    """Bytes of whole blocks; less than a block may be stored in the inode."""
    if not entry.sparse:
        return entry.size // _BLOCK * _BLOCK
    count, step = chunk_count(entry.size, entry.chunk_bits), 1 << entry.chunk_bits
    # Zeros of a chunk that was no hole are written; of other chunks some block is no hole.
    return sum(
        (step if is_implied(digest, step) else min(step, _BLOCK))
        for number, digest in filetree.runs(entry.content, count, get)
        if number < count - 1
    )
