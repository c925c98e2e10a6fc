"""Compares the live directory of a volume with its newest snapshot, and shows what was found."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from diffkeeper import clock, counters
from diffkeeper.errors import NotFoundError
from diffkeeper.integrity import bit_rot
from diffkeeper.integrity.verify import Result, Verifier, entry_at
from diffkeeper.volumes.volume_status import Verification, VolumeStatus
from diffkeeper.volumes.wording import repair_command

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from diffkeeper.format.ids import Root
    from diffkeeper.format.records import SnapshotRecord
    from diffkeeper.snapshot.context import CaptureContext
    from diffkeeper.snapshot.volume_state import VolumeState

log = logging.getLogger(__name__)


class LiveVerification:
    """The verifications of one volume; `live`: its live directory. Methods block."""

    def __init__(
        self, context: CaptureContext, state: VolumeState, status: VolumeStatus, live: str
    ) -> None:
        self._context = context
        self._state = state
        self._status = status
        self._live = live

    def run(
        self,
        exclude: tuple[str, ...],
        seconds: float | None,
        recapture: Callable[[], bool],
        *,
        since_verified: bool,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Verification | None:
        """Compare the live directory with the newest snapshot; None without one, or if `cancelled`.

        `exclude`: globs that are left out; `seconds`: bounds it. With `since_verified`, only what
        changed since the last successful verification. A path that was changed meanwhile is no
        mismatch: `recapture` records the change first; false where nothing watches.
        """
        head = self._state.head
        if head is None:
            return None
        root = head.root
        unless: Root | None = None
        verified = self._state.record.verified_seq
        if since_verified and verified is not None and verified != head.seq:
            # That snapshot was forgotten: everything is verified again.
            with contextlib.suppress(NotFoundError):
                record = self._context.store.snapshot(self._state.record.id, verified)
                unless = record.root
        context = self._context
        verifier = Verifier(context.store, context.reader, seconds=seconds, cancelled=cancelled)
        result = verifier.live(self._live, root, unless, exclude)
        if cancelled():
            return None
        if result.mismatches and recapture():
            store, later = self._context.store, (self._state.head or head).root
            result.mismatches = [
                m
                for m in result.mismatches
                if entry_at(store, root, m.path) == entry_at(store, later, m.path)
            ]
        return self._concluded(head, result)

    def unused(self, head: SnapshotRecord, exclude: tuple[str, ...]) -> Result:
        """Compare all of the live directory, which nobody writes to, with its newest snapshot."""
        verifier = Verifier(self._context.store, self._context.reader)
        result = verifier.live(self._live, head.root, None, exclude)
        return self._concluded(head, result).result

    def _concluded(self, head: SnapshotRecord, result: Result) -> Verification:
        number, found = self._state.record.id, result.mismatches
        result.mismatches = bit_rot.judged(
            self._context.store, number, self._live, head.root, found
        )
        verification = Verification(result, head.seq, head.root, clock.now_ns())
        self._status.verified(verification)
        self._show(head, result)
        return verification

    def _show(self, head: SnapshotRecord, result: Result) -> None:
        ok = not result.mismatches
        outcome = ("ok" if result.complete else "incomplete") if ok else "mismatch"
        name = self._state.record.name
        counters.add("verification_total", volume=name, result=outcome)
        fields = {"volume": name, "seq": head.seq, "files": result.files, "result": outcome}
        if ok:
            self._status.troubles.end("verification")
            log.info("verified", extra=fields)
            if result.complete:
                self._state.update(verified_seq=head.seq)
            return
        named = "; ".join(f"{os.fsdecode(m.path)!r} {m.problem}" for m in result.mismatches[:10])
        offer = repair_command(name, result)
        self._status.troubles.begin(
            "verification",
            f"{len(result.mismatches)} paths differ from snapshot {head.seq}: {named}"
            + (f"; put back what is damaged: {offer}" if offer else ""),
        )
        log.error("verification_failed", extra={**fields, "faults": named, "repair": offer})

    def repaired(self, names: Collection[bytes]) -> None:
        """Drop repaired files from the last verification."""
        found, head = self._status.verification, self._state.head
        if found is None or head is None:
            return
        left = [m for m in found.result.mismatches if m.path not in names]
        if len(left) < len(found.result.mismatches):
            result = replace(found.result, mismatches=left)
            self._status.verified(Verification(result, head.seq, head.root, clock.now_ns()))
            self._show(head, result)
