"""What a power cut means for a volume that was mounted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from diffkeeper import clock, limits

if TYPE_CHECKING:
    from diffkeeper.format.records import VolumeRecord
    from diffkeeper.store.store import Store


def power_cut_tag(store: Store, record: VolumeRecord) -> dict[tuple[int, str], int]:
    """A tag for the newest snapshot from before, as what is captured next may be older than it."""
    tags = store.tags(record.id)
    if record.head is None or record.head in tags.values() or len(tags) >= limits.TAGS_MAX:
        return {}
    when = re.sub(r"[-:]|\..*", "", clock.rfc3339(clock.now_ns()))
    return {(record.id, f"power-cut-{when}"): record.head}
