"""Whatever happens to the bytes of a store: it is refused, or what is read is what it was.

`DIFFKEEPER_DAMAGE_COPIES` sets how many damaged copies are looked at.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from diffkeeper.store import page_check
from tests.support import damage

if TYPE_CHECKING:
    from pathlib import Path

COPIES = int(os.environ.get("DIFFKEEPER_DAMAGE_COPIES", "60"))


def test_random_damage(tmp_path: Path) -> None:
    truth = damage.build(tmp_path / "store")
    outcomes = damage.run(tmp_path / "store", truth, range(COPIES))
    found = damage.figures(outcomes)
    assert not [outcome for outcome in outcomes if outcome.bad], found
    assert found["snapshots read whole"], found
    assert found["refused with an error"], found


def test_a_whole_store_is_found_whole(tmp_path: Path) -> None:
    damage.build(tmp_path / "store")
    assert page_check.check(str(tmp_path / "store" / "data.mdb")) > 0
