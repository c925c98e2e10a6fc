"""Checks the pages of an LMDB file before LMDB follows them.

LMDB trusts its pages: a damaged one could end the process by a signal, or make it write into pages
that are in use. So the B-trees are walked here first, with plain reads: every page number, length,
count and the order of keys. Values are checked by their readers, against digests.

A long value begins with a page header that LMDB follows when it removes or copies the value, but
not to read it. In a table of long values these are most of a store, and far apart: they are checked
before a removal or copy.
"""

from __future__ import annotations

import os
import struct
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffkeeper.errors import CorruptionError
from diffkeeper.limits import KIB

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE_PAGE_BYTES_MIN = 4 * KIB
STORE_PAGE_BYTES_MAX = 64 * KIB

_HEADER = struct.Struct("<QHHHH")  # page number, pad, flags, lower, upper
_PAGES = struct.Struct("<I")  # of an overflow page, in place of lower and upper
_PAGES_OFFSET = 12
_META = struct.Struct("<IIQQ48s48sQQ")  # magic, version, address, map, free, main, last page, txn
_TREE = struct.Struct("<IHHQQQQQ")  # pad, flags, depth, branches, leaves, overflow, entries, root
_NODE = struct.Struct("<HHHH")  # low and high half of a size, flags, key bytes
_PLACE = struct.Struct("<Q")
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG, _SUB = 1, 2  # flags of a leaf's node: value in overflow pages; a tree
_INTEGER_KEY = 8
_NO_PAGE = (1 << 64) - 1
_KEY_BYTES_MAX = 511
_DEPTH_MAX = 32


class _Damage(Exception):
    """Describes the damage; never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """One B-tree as its parent describes it."""

    name: str
    flags: int
    depth: int
    counts: tuple[int, int, int, int]  # branch, leaf and overflow pages, entries
    root: int


@dataclass(frozen=True, slots=True)
class _Visit:
    """A page to check, and the keys that may be on it: low <= key < high."""

    number: int
    depth: int
    low: bytes | None = None
    high: bytes | None = None


def check(path: str, *, but_values_of: str = "", but_leaves_of: str = "") -> int:
    """Walk all trees of the LMDB file `path`; returns the number of pages in use.

    `but_values_of`: a table of which no long value may be removed or copied before `check_value`,
    or this function without it. `but_leaves_of`: a table that nobody may write to before
    `check_leaves`. CorruptionError, naming the page, for anything that LMDB must not follow.
    """
    with _checker(path, but_values_of, but_leaves_of) as checker:
        return checker.run()


def transaction(path: str) -> int:
    """Number of the newest transaction; CorruptionError."""
    with _checker(path) as checker:
        return checker.transaction()


def check_leaves(path: str, table: str, low: bytes | None, leaves_max: int) -> bytes | None:
    """Check at most so many leaves of a table that may have keys from `low` on.

    Returns a lower bound of the next key; None at the end. The newest transaction's pages must stay
    meanwhile: the caller has a transaction open. CorruptionError.
    """
    with _checker(path) as checker:
        return checker.check_leaves(table, low, leaves_max)


def check_value(path: str, table: str, key: bytes) -> None:
    """CorruptionError where LMDB must not remove the long value of a key.

    As of the newest transaction; nobody may commit meanwhile.
    """
    with _checker(path) as checker:
        checker.check_value(table, key)


def free_runs(path: str, pages_min: int) -> tuple[int, list[tuple[int, int]]]:
    """(bytes of a page, runs of at least `pages_min` free pages as (first page, count)).

    Only pages that no transaction from the newest but one on can see: those that LMDB would reuse
    next. Nobody may write meanwhile, or have an older transaction open. CorruptionError.
    """
    with _checker(path) as checker:
        return checker.free_runs(pages_min)


@contextmanager
def _checker(path: str, but_values_of: str = "", but_leaves_of: str = "") -> Iterator[_Checker]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _Checker(fd, but_values_of, but_leaves_of)
    except (_Damage, OSError) as error:
        raise CorruptionError(f"{path} is damaged: {error}") from None
    finally:
        os.close(fd)


class _Checker:
    def __init__(self, fd: int, but_values_of: str, but_leaves_of: str) -> None:
        self._fd = fd
        self._but_values_of = but_values_of
        self._but_leaves_of = but_leaves_of
        self._page_bytes = STORE_PAGE_BYTES_MIN
        self._claiming = True  # each page may be used once
        self._used = bytearray()  # a byte for each page
        self._last = 1
        self._absent_free = 0  # free pages past the end of the file, which need not exist

    def run(self) -> int:
        free, main, txn = self._begin()
        freed = sum(self._freed(key, value, txn) for key, value in self._items(free))
        for key, value in self._items(main):
            tree = self._tree(value, key.decode("ascii", "replace"), 0)
            for _ in self._items(tree):
                pass
        in_use = sum(self._used) - freed
        if self._absent_free != self._last + 1 - len(self._used):
            raise _Damage(f"it ends before its page {self._last}")
        return in_use

    def check_value(self, table: str, key: bytes) -> None:
        tree = self._table(table)
        visit: _Visit | None = _Visit(tree.root, 1) if tree.depth else None
        while visit is not None and visit.depth < tree.depth:
            raw = self._read(visit.number)
            below = list(self._children(tree, visit, raw))
            visit = next((v for v in reversed(below) if v.low is None or v.low <= key), None)
        if visit is not None:
            for _ in self._leaf(tree, visit, self._read(visit.number), only=key):
                pass

    def transaction(self) -> int:
        return self._meta()[2]

    def check_leaves(self, table: str, low: bytes | None, leaves_max: int) -> bytes | None:
        tree = self._table(table)
        stack = [_Visit(tree.root, 1)] if tree.depth else []
        while stack:
            visit = stack.pop()
            if low is not None and visit.high is not None and visit.high <= low:
                continue
            raw = self._read(visit.number)
            if visit.depth < tree.depth:
                stack.extend(reversed(list(self._children(tree, visit, raw))))
                continue
            for _, _, overflow in self._leaf(tree, visit, raw):
                # Which pages are used is not known here: it would be those of another table.
                if overflow and not tree.counts[2]:
                    raise _Damage(f"page {visit.number} has a long value, unlike {tree.name}")
            leaves_max -= 1
            if not leaves_max:
                return visit.high
        return None

    def _table(self, table: str) -> _Tree:
        """The newest description of a table, whose pages are counted already."""
        self._claiming = False
        _, main, _ = self._meta()
        found = next((v for k, v in self._items(main) if k == table.encode()), None)
        if found is None:
            raise _Damage(f"it has no table {table}")
        return self._tree(found, table, 0)

    def free_runs(self, pages_min: int) -> tuple[int, list[tuple[int, int]]]:
        free, _, txn = self._begin()
        unused = bytearray(len(self._used))
        for key, value in self._items(free):
            self._freed(key, value, txn)
            if int.from_bytes(key, "big") < txn:
                count = _PLACE.unpack_from(value)[0]
                for page in struct.unpack_from(f"<{count}Q", value, _PLACE.size):
                    if page < len(unused):
                        unused[page] = 1
        runs, end = [], 0
        while (start := unused.find(1, end)) >= 0:
            end = unused.find(0, start)
            end = len(unused) if end < 0 else end
            if end - start >= pages_min:
                runs.append((start, end - start))
        return self._page_bytes, runs

    def _begin(self) -> tuple[_Tree, _Tree, int]:
        """As `_meta`, and count the two meta pages as used."""
        found = self._meta()
        held = -(-os.fstat(self._fd).st_size // self._page_bytes)
        self._used = bytearray(min(self._last + 1, held))
        self._claim(0, 2, "a meta page")
        return found

    # Pages

    def _read(self, number: int, count: int = 1) -> bytes:
        raw = os.pread(self._fd, count * self._page_bytes, number * self._page_bytes)
        if len(raw) < count * self._page_bytes:
            raise _Damage(f"it ends before its page {number + count - 1}")
        return raw

    def _claim(self, number: int, count: int, what: str) -> None:
        """Count pages as used; CorruptionError if something else uses them."""
        end = number + count
        if count < 1 or end > self._last + 1:
            raise _Damage(f"{what} lies outside of the file, in page {number}")
        if not self._claiming:
            return
        if end > len(self._used):
            raise _Damage(f"it ends before its page {end - 1}")
        if self._used.find(1, number, end) >= 0:
            raise _Damage(f"{what} shares page {number} with something else")
        self._used[number:end] = b"\1" * count

    def _meta(self) -> tuple[_Tree, _Tree, int]:
        """The trees of the newest transaction, and its number."""
        first = os.pread(self._fd, _HEADER.size + _META.size, 0)
        if len(first) < _HEADER.size + _META.size:
            raise _Damage("it is too short to be an LMDB file")
        self._page_bytes = _TREE.unpack_from(_META.unpack_from(first, _HEADER.size)[4])[0]
        size = self._page_bytes
        if not STORE_PAGE_BYTES_MIN <= size <= STORE_PAGE_BYTES_MAX or size & (size - 1):
            raise _Damage("its first page is no meta page of LMDB")
        # In one read: others may commit meanwhile, and each commit writes one of them.
        raw = self._read(0, 2)
        metas = [self._one_meta(number, raw[number * size :]) for number in (0, 1)]
        transactions = [meta[3] for meta in metas]
        if transactions != [0, 0] and abs(transactions[0] - transactions[1]) != 1:
            raise _Damage(f"its meta pages are of the transactions {transactions}")
        newest = max(metas, key=lambda meta: meta[3])
        self._last = newest[2]
        return newest[0], newest[1], newest[3]

    def _one_meta(self, number: int, raw: bytes) -> tuple[_Tree, _Tree, int, int]:
        found, _, flags, _, _ = _HEADER.unpack_from(raw)
        magic, version, address, _, free, main, last, txn = _META.unpack_from(raw, _HEADER.size)
        if (found, flags, magic, version) != (number, _META_PAGE, _MAGIC, _VERSION):
            raise _Damage(f"page {number} is no meta page of LMDB")
        if address or _TREE.unpack_from(free)[0] != self._page_bytes or (txn and txn & 1 != number):
            raise _Damage(f"meta page {number} contradicts itself")
        trees = self._tree(free, "of free pages", _INTEGER_KEY), self._tree(main, "of tables", 0)
        return *trees, last, txn

    def _tree(self, raw: bytes, name: str, flags_wanted: int) -> _Tree:
        if len(raw) != _TREE.size:
            raise _Damage(f"{name!r} is no tree")
        _, flags, depth, *counts, root = _TREE.unpack(raw)
        if flags != flags_wanted or depth > _DEPTH_MAX or (root == _NO_PAGE) != (depth == 0):
            raise _Damage(f"the description of the tree {name} makes no sense")
        branches, leaves, overflow, entries = counts
        return _Tree(name, flags, depth, (branches, leaves, overflow, entries), root)

    # Trees

    def _items(self, tree: _Tree) -> Iterator[tuple[bytes, bytes]]:
        """Keys in order; with values for the trees of free pages and of tables, otherwise empty
        ones.
        """
        counts = [0, 0, 0, 0]
        # A long value's pages would have to be counted.
        spared = tree.name == self._but_leaves_of and not tree.counts[2]
        stack = [_Visit(tree.root, 1)] if tree.depth else []
        while stack:
            visit = stack.pop()
            self._claim(visit.number, 1, f"the tree {tree.name}")
            if visit.depth < tree.depth:
                counts[0] += 1
                raw = self._read(visit.number)
                stack.extend(reversed(list(self._children(tree, visit, raw))))
                continue
            counts[1] += 1
            if spared:
                continue
            raw = self._read(visit.number)
            for key, value, overflow in self._leaf(tree, visit, raw):
                counts[2] += overflow
                counts[3] += 1
                yield key, value
        if spared:
            counts[3] = tree.counts[3]
        if tuple(counts) != tree.counts:
            raise _Damage(f"the tree {tree.name} has {counts} pages and entries, not {tree.counts}")

    def _nodes(self, visit: _Visit, raw: bytes, kind: int) -> list[tuple[int, int, int, int, int]]:
        """(offset, low, high, flags, key bytes) of the nodes of a page that is well formed."""
        number, _, flags, lower, upper = _HEADER.unpack_from(raw)
        if number != visit.number or flags != kind:
            raise _Damage(f"page {visit.number} is not the page that belongs there")
        size = self._page_bytes
        if not _HEADER.size < lower <= upper <= size or lower & 1:
            raise _Damage(f"page {visit.number} has impossible bounds")
        nodes = []
        total = 0
        for offset in struct.unpack_from(f"<{(lower - _HEADER.size) // 2}H", raw, _HEADER.size):
            if not upper <= offset <= size - _NODE.size:
                raise _Damage(f"page {visit.number} has an entry outside of its bounds")
            low, high, node_flags, key_bytes = _NODE.unpack_from(raw, offset)
            length = _NODE.size + key_bytes
            if kind == _LEAF:
                length += _PLACE.size if node_flags & _BIG else low | high << 16
            if key_bytes > _KEY_BYTES_MAX or offset + length > size:
                raise _Damage(f"page {visit.number} has an entry that is too long")
            total += length + (length & 1)
            nodes.append((offset, low, high, node_flags, key_bytes))
        if total != size - upper:
            raise _Damage(f"page {visit.number} has entries that overlap")
        return nodes

    def _children(self, tree: _Tree, visit: _Visit, raw: bytes) -> Iterator[_Visit]:
        nodes = self._nodes(visit, raw, _BRANCH)
        if len(nodes) < 2 and tree.flags != _INTEGER_KEY:
            raise _Damage(f"page {visit.number} is a branch with one child")
        keys: list[bytes | None] = [self._key(tree, raw, node) for node in nodes[1:]]
        self._in_order(tree, visit, [key for key in keys if key is not None])
        bounds = [visit.low, *keys, visit.high]
        for index, (_, low, high, flags, _) in enumerate(nodes):
            number = low | high << 16 | flags << 32
            yield _Visit(number, visit.depth + 1, bounds[index], bounds[index + 1])

    def _leaf(
        self, tree: _Tree, visit: _Visit, raw: bytes, only: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes, int]]:
        """(key, value, overflow pages) of each entry, or only of the key `only`."""
        nodes = self._nodes(visit, raw, _LEAF)
        keys = [self._key(tree, raw, node) for node in nodes]
        self._in_order(tree, visit, keys)
        wanted = _SUB if tree.name == "of tables" else 0
        for (offset, low, high, flags, key_bytes), key in zip(nodes, keys, strict=True):
            if only not in (None, key):
                continue
            if wanted and flags != _SUB:
                raise _Damage(f"{key[:32]!r} is no table of a store; is it another program's?")
            if flags & ~_BIG != wanted:
                raise _Damage(f"page {visit.number} has an entry of an unknown kind")
            length, start = low | high << 16, offset + _NODE.size + key_bytes
            if flags & _BIG:
                place = _PLACE.unpack_from(raw, start)[0]
                count = self._overflow(place, length, tree.name != self._but_values_of)
                value = self._value(place, count, length) if tree.flags else b""
                yield key, value, count
            else:
                yield key, raw[start : start + length] if tree.flags or wanted else b"", 0

    def _overflow(self, number: int, length: int, check_header: bool) -> int:
        """Number of pages of a long value; `check_header`: its first page says the same."""
        count = (_HEADER.size - 1 + length) // self._page_bytes + 1
        self._claim(number, count, "a value")
        if not check_header:
            return count
        raw = os.pread(self._fd, _HEADER.size, number * self._page_bytes)
        if len(raw) < _HEADER.size:
            raise _Damage(f"it ends before its page {number}")
        found, _, flags, _, _ = _HEADER.unpack(raw)
        if (found, flags, _PAGES.unpack_from(raw, _PAGES_OFFSET)[0]) != (number, _OVERFLOW, count):
            raise _Damage(f"page {number} is not the value that belongs there")
        return count

    def _value(self, number: int, count: int, length: int) -> bytes:
        return self._read(number, count)[_HEADER.size : _HEADER.size + length]

    def _key(self, tree: _Tree, raw: bytes, node: tuple[int, int, int, int, int]) -> bytes:
        start = node[0] + _NODE.size
        key = raw[start : start + node[4]]
        if tree.flags != _INTEGER_KEY:
            return key
        if len(key) != _PLACE.size:
            raise _Damage(f"a key of the tree {tree.name} has {len(key)} bytes")
        return key[::-1]  # so that the order of bytes is that of the numbers

    def _in_order(self, tree: _Tree, visit: _Visit, keys: list[bytes]) -> None:
        bounded = keys if visit.low is None or not keys else [visit.low, *keys]
        ordered = all(a < b for a, b in zip(keys, keys[1:], strict=False))
        if not ordered or (visit.low is not None and keys and keys[0] < visit.low):
            raise _Damage(f"the keys on page {visit.number}, {tree.name}, are out of order")
        if visit.high is not None and bounded and bounded[-1] >= visit.high:
            raise _Damage(f"the keys on page {visit.number}, {tree.name}, are out of order")

    def _freed(self, key: bytes, value: bytes, txn: int) -> int:
        """Number of pages that one transaction freed; nothing else may use them."""
        if len(value) < _PLACE.size or len(value) % _PLACE.size:
            raise _Damage("a list of free pages is cut")
        count, *pages = struct.unpack(f"<{len(value) // _PLACE.size}Q", value)
        pages = pages[:count]
        if count != len(pages) or not 0 < int.from_bytes(key, "big") <= txn:
            raise _Damage("a list of free pages is cut")
        if any(a <= b for a, b in zip(pages, pages[1:], strict=False)):
            raise _Damage("a list of free pages is out of order")
        held = 0
        for page in pages:
            if page < len(self._used):
                self._claim(page, 1, "the list of free pages")
                held += 1
            elif page > self._last:
                raise _Damage(f"page {page} is called free and lies outside of the file")
            else:
                self._absent_free += 1
        return held
