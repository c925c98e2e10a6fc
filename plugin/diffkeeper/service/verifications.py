"""Verifications of live directories, after the last Unmount and by command.

They do not hold the step's lock: a container starts beside them.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from diffkeeper.errors import ConflictError, DiffKeeperError
from diffkeeper.volumes.status import verify_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.messages.integrity import VerifyReport
    from diffkeeper.volumes.volume import Volume

log = logging.getLogger(__name__)

VERIFY_UNMOUNT_SECONDS_MAX = 5.0


class Verifying:
    """Methods block. `capture` takes a snapshot of a volume, with a reason, without a freeze."""

    def __init__(self, capture: Callable[[Volume, str], object]) -> None:
        self._capture = capture

    def begin(self, volume: Volume) -> None:
        """Watch the volume for its final capture, if possible; an error is logged."""
        with _failure_reported(volume):
            volume.open()

    def final_capture(self, volume: Volume) -> None:
        """Final capture and verification. Errors are reported; the unmount continues."""
        with _failure_reported(volume):
            self._capture(volume, "unmount")
            if volume.options.verify == "unmount":
                volume.verify_live(
                    VERIFY_UNMOUNT_SECONDS_MAX,
                    lambda: self._capture(volume, "verify"),
                    since_verified=True,
                )

    def report(
        self, volume: Volume, head: SnapshotRecord, cancelled: Callable[[], bool]
    ) -> VerifyReport:
        """Verification of the live directory, if there is one, and of the newest snapshot's
        objects.

        ConflictError when the live directory was removed meanwhile, as `cancelled` says.
        """
        if not volume.present:
            return verify_report(volume.name, head.seq, head.root, volume.verify_stored(head))
        try:
            found = volume.verify_live(
                None,
                lambda: self._capture(volume, "verify"),
                since_verified=False,
                cancelled=cancelled,
            )
        except (DiffKeeperError, OSError):
            if not cancelled():
                raise
            found = None
        if found is None or cancelled():
            raise ConflictError(
                f"the verification of {volume.name} was given up: the volume was removed, repaired"
                " or replayed meanwhile"
            )
        stored = volume.verify_stored(head)
        live = found.result
        live.mismatches.extend(stored.mismatches)
        live.seconds += stored.seconds
        return verify_report(volume.name, found.seq, found.root, live)


@contextlib.contextmanager
def _failure_reported(volume: Volume) -> Iterator[None]:
    """An error inside becomes the volume's trouble, and success clears it."""
    try:
        yield
    except (DiffKeeperError, OSError) as error:
        text = f"the last capture or verification failed: {error}"
        volume.status.troubles.begin("unmount", text)
        log.error("unmount_capture_failed", extra={"volume": volume.name, "error": str(error)})
    else:
        volume.status.troubles.end("unmount")
