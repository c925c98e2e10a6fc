"""One directory while it is compared with its recorded state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper.format.entry import Kind
from diffkeeper.snapshot.file_reader import is_at, unmoved

if TYPE_CHECKING:
    import os

    from diffkeeper.format.records import IndexRecord
    from diffkeeper.snapshot.observation import Trust
    from diffkeeper.snapshot.worktree import Directory, Worktree


@dataclass(slots=True)
class Listing:
    """`recorded`: the directory's tree when the listing began."""

    directory: Directory
    recorded: bytes
    on_disk: set[bytes] = field(default_factory=set)
    window: list[tuple[bytes, os.stat_result | None]] = field(default_factory=list)
    found: int = 0

    def unchanged(
        self,
        tree: Worktree,
        trust: Trust,
        name: bytes,
        status: os.stat_result,
        record: IndexRecord,
    ) -> bool:
        """Whether the file's signature proves that it is the one recorded at this name."""
        unsure_ns = trust.granule_ns
        if record.kind == Kind.FILE:
            unsure_ns = max(unsure_ns, trust.horizon_ns)
        same = unmoved(record, status, unsure_ns)
        if not same or not record.link_id:
            return same and is_at(record, self.directory, name) and status.st_nlink == 1
        entry = tree.lookup_in(self.recorded, name)
        if entry is None or entry.link_id != record.link_id:
            return False
        tree.add_link_name(record.link_id, self.directory, name)
        return True
