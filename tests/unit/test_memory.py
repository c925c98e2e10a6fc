"""The process's memory goes back to the kernel."""

from __future__ import annotations

from diffkeeper import memory
from diffkeeper.limits import MIB

BLOCK = 16 * 1024
COUNT = 100 * MIB // BLOCK


def test_free_blocks_between_others_go_back() -> None:
    """As chunks do: most are freed, and some of those around them stay."""
    blocks = [bytes([n % 255 + 1]) * BLOCK for n in range(COUNT)]
    kept = blocks[::50]
    full = memory.resident_bytes()
    blocks.clear()
    memory.trim_heap()
    assert full - memory.resident_bytes() > 70 * MIB
    assert len(kept) == COUNT // 50
