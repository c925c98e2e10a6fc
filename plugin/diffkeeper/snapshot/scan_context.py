"""What all rounds of scanning of one capture share, and the bounds of a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from diffkeeper.snapshot.chunker import Chunker, Content
    from diffkeeper.snapshot.held_back import HeldBack
    from diffkeeper.snapshot.mapped_files import MappedFiles
    from diffkeeper.snapshot.observation import SeenName
    from diffkeeper.snapshot.stat_cache import StatCache
    from diffkeeper.snapshot.worktree import Worktree
    from diffkeeper.sources.base import Changed, Source


class Bounds(Protocol):
    """Bounds of one round of scanning: of memory in pre-copy, of time and memory in a freeze."""

    def check(self) -> None:
        """Called for each name, and while a file is read; may raise to end the round."""

    def spill(self, content: Content) -> None:
        """Called while a large file is read: may take its data, or raise to end the round."""


@dataclass(slots=True)
class ScanContext:
    """What all rounds of one capture share.

    tree, root_fd: the recorded tree, and the live directory. source: of hints.
    index: signatures. reader, chunk_bits: how files are read. mapped: files that are mapped.
    held: names that could not be read or recorded.
    nameless: inodes for which no name was found, with their timestamps at that time.
    seen_names: where files were seen, until their signatures are recorded: newer than those.
    already_read: what was read of each file since then, which another scan of it reads again.
    """

    tree: Worktree
    root_fd: int
    source: Source
    index: StatCache
    reader: Chunker
    chunk_bits: int
    mapped: MappedFiles
    held: HeldBack
    nameless: dict[int, int]
    seen_names: dict[int, SeenName] = field(default_factory=dict)
    already_read: dict[int, Changed] = field(default_factory=dict)

    def signed(self) -> None:
        """All that was seen so far has its signatures in `index`."""
        self.seen_names.clear()
        self.already_read.clear()
