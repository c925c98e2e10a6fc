"""The sources of this machine: eBPF programs, loaded once, and what was found out about them."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from diffkeeper import limits
from diffkeeper.errors import UnsupportedError
from diffkeeper.sources import ladder
from diffkeeper.sources.ebpf import loading, plan, tracing
from diffkeeper.sources.ebpf.features import DIRECT_ENDS, FAULTS, MAPPED, STEPS, Attempt, Feature
from diffkeeper.sources.ebpf.heartbeat import Heartbeat
from diffkeeper.sources.ebpf.program import Program
from diffkeeper.sources.ebpf.reloads import Reloads

if TYPE_CHECKING:
    from diffkeeper.sources.ladder import Choice, VolumePlace

log = logging.getLogger(__name__)

TURNED_OFF: Final = "turned off by the daemon's setting ebpf=off"


class Sources:
    """The sources of this machine. Methods may be called from any thread."""

    def __init__(
        self, headers: str = "", heartbeat: float = limits.HEARTBEAT_SECONDS, *, off: bool = False
    ) -> None:
        """`headers`: kernel headers to compile with; "" to search for them. `heartbeat`: seconds.
        off: no eBPF, whatever a volume asks for.
        """
        self._headers = headers
        self._seconds = heartbeat
        self._lock = threading.Lock()
        self._program: Program | None = None
        self._heart: Heartbeat | None = None
        self._attempt: Attempt | None = Attempt(TURNED_OFF) if off else None
        self._lost: list[Program] = []
        self._off = TURNED_OFF if off else ""
        self._reloads = Reloads()

    @classmethod
    def of(cls, program: Program, heartbeat: float = limits.HEARTBEAT_SECONDS) -> Sources:
        """With programs that are loaded, and that the caller unloads."""
        made = cls("", heartbeat)
        made._program, made._attempt = program, program.attempt
        made._heart = Heartbeat(program, heartbeat)
        return made

    def load(self) -> str:
        """Load the eBPF programs unless they are loaded; returns why there are none, or "".

        After losses, or where that was impossible, it is tried again now and then, see `reloads`.
        """
        with self._lock:
            if self._program is not None and self._program.lost:
                self._put_aside(self._program)
            if self._off or self._program is not None:
                return self._off
            return self._reloads.why_not or self._load()

    def loaded(self) -> tuple[Program, Heartbeat | None]:
        """The eBPF programs, loaded now if need be; raises UnsupportedError."""
        why_not = self.load()
        loaded, heart = self._program, self._heart
        if why_not or loaded is None:
            raise UnsupportedError(why_not)
        return loaded, heart

    def _load(self) -> str:
        """Load them; returns why that is impossible, or ""."""
        self._attempt = Attempt()
        try:
            self._program = Program.load(self._headers, self._attempt)
        except UnsupportedError as error:
            if self._reloads.failed(str(error)):
                log.warning("ebpf_unavailable", extra={"reason": str(error)})
            return str(error)
        self._reloads.loaded()
        self._heart = Heartbeat(self._program, self._seconds)
        log.info("ebpf_loaded", extra=self._program.loading.fields())
        return ""

    def _put_aside(self, lost: Program) -> None:
        """Volumes may still use lost programs: they are unloaded once no volume does.

        Those that were just lost stay, as another thread may be about to use them.
        """
        for earlier in [each for each in self._lost if not each.in_use]:
            self._lost.remove(earlier)
            earlier.close()
        self._lost.append(lost)
        self._program = self._heart = None
        if self._attempt is not None:
            self._attempt.lost(lost.lost)
        self._reloads.lost(lost.lost, lost.lost_at)

    def close(self) -> None:
        """Unload the programs; after every source was stopped."""
        with self._lock:
            for loaded in [*self._lost, *([self._program] if self._program else [])]:
                loaded.close()
            self._lost.clear()
            self._program, self._heart, self._off = None, None, "the daemon stops"

    def features(self) -> tuple[Feature, ...]:
        """Features of eBPF on this machine, as far as they were tried."""
        attempt, loaded = self._attempt or Attempt(), self._program
        if loaded is not None and loaded.lost:
            attempt.lost(loaded.lost)
        return attempt.report()

    def preview(self) -> tuple[Feature, ...]:
        """As `features`; if nothing was tried, what is known without loading anything."""
        return self.features() if self._attempt is not None else inspect(self._headers)

    def counts(self) -> dict[str, int]:
        """Counters of the loaded programs; empty while there are none."""
        loaded = self._program
        if loaded is None or loaded.lost:
            return {}
        try:
            return loaded.counts()
        except OSError as error:
            loaded.lose(f"their counters cannot be read: {error.strerror}")
            return {}

    def choose(self, wanted: str, place: VolumePlace) -> Choice:
        """Start the source of a volume; see `ladder.choose`."""
        return ladder.choose(wanted, place, self)

    def matter(self, fs_type: str) -> tuple[Feature, ...]:
        """The features that a volume on this type of file system uses, or would use."""
        wanted = ("programs", fs_type, DIRECT_ENDS, FAULTS, MAPPED)
        return tuple(
            feature
            for feature in self.features()
            if feature.name in wanted
            or (feature.name in STEPS and feature.support == "unsupported")
        )


def inspect(headers: str = "", *, own_process: bool = False) -> tuple[Feature, ...]:
    """What is known without loading or mounting anything; `own_process`: bcc may be imported."""
    attempt = Attempt("nothing was loaded")
    if not tracing.mounted():
        attempt.record("tracefs", "unknown", "not mounted; the daemon mounts it for itself")
    else:
        with suppress(UnsupportedError):  # the attempt has recorded it
            plan.plan(attempt)
    try:
        found = tracing.header_sets(headers)
        attempt.record("headers", "unknown", f"{found[0]} is there; nothing was compiled with it")
    except UnsupportedError as error:
        attempt.record("headers", "unsupported", str(error))
    if own_process:
        with suppress(UnsupportedError), attempt.trying("bcc", "imported"):
            loading.import_bcc()
    return attempt.report()
