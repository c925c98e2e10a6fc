"""Whether a volume is in use is answered without watching it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from diffkeeper.errors import ConflictError
from diffkeeper.service.repairs import refuse_mounted
from diffkeeper.volumes.layout import VolumePaths
from diffkeeper.volumes.volume import Volume
from tests.support.capture_rig import CaptureRig
from tests.support.namespaces import holding

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    """One whose live directory is there, and that nobody has mounted."""
    with CaptureRig(tmp_path) as rig:
        paths = VolumePaths(str(tmp_path), str(tmp_path / "mountpoint"), "")
        made = Volume(rig.context, rig.state, paths)
        yield made
        made.close()


def test_users_are_named_without_a_watch(volume: Volume) -> None:
    assert volume.users() == frozenset()
    with holding(volume.live, "ro") as reader:
        assert reader in volume.users()
        assert volume.watched is None
        volume.open()
        watched = volume.users()
        volume.close()
        assert volume.users() == watched
    assert volume.watched is None


def test_a_refused_repair_leaves_a_watch_alone(volume: Volume) -> None:
    watched = volume.open()
    with holding(volume.live) as writer:
        with pytest.raises(ConflictError, match=str(writer)):
            refuse_mounted(volume)
        assert volume.watched is watched
