"""The thread for maintenance in the background, within its share of a core."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from diffkeeper import clock, limits
from diffkeeper.errors import BusyError, DiffKeeperError
from diffkeeper.memory import trim_heap

if TYPE_CHECKING:
    from diffkeeper.integrity.scrub import Scrubber
    from diffkeeper.service.idle_share import IdleShare
    from diffkeeper.space.maintenance import Maintenance

log = logging.getLogger(__name__)

MAINTENANCE_DEBT_CPU_FRACTION = 0.4  # more, for a store that has doubled since it was collected
MAINTENANCE_DEBT_CPU_FRACTION_MAX = 0.25
MAINTENANCE_URGENT_CPU_FRACTION_MAX = 0.5  # while space is short
MAINTENANCE_SLICE_SECONDS = 0.02
MAINTENANCE_TURN_SECONDS = 5.0
TRIM_SECONDS = 60.0


class MaintenanceThread:
    """Runs slices from `start` to `stop`."""

    def __init__(self, maintenance: Maintenance, scrubber: Scrubber, spare: IdleShare) -> None:
        self._maintenance = maintenance
        self._scrubber = scrubber
        self._spare = spare
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="maintenance", daemon=True)
        self._trouble = ""
        self._trimmed = 0.0

    @property
    def maintenance(self) -> Maintenance:
        """Whose slices it runs first."""
        return self._maintenance

    @property
    def scrubber(self) -> Scrubber:
        """Whose slices it runs while no maintenance is due."""
        return self._scrubber

    @property
    def trouble(self) -> str:
        """Why the last slice failed, or what maintenance found damaged; or ""."""
        return self._trouble

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; waits for the slice under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._maintenance.stop()
        self._scrubber.stop()

    def _run(self) -> None:
        # Not at a lower priority than captures: they would wait for it when it has the
        # interpreter's lock, or the store's, while other processes have the processor.
        pause = MAINTENANCE_TURN_SECONDS
        while not self._stop.wait(pause):
            pause = self._slice()
            if clock.monotonic() - self._trimmed >= TRIM_SECONDS:
                # Chunks are allocated and freed by the thousand, between others that stay.
                trim_heap()
                self._trimmed = clock.monotonic()

    def _slice(self) -> float:
        """Run one slice; returns the seconds to wait after it."""
        cpu, share = clock.thread_cpu(), limits.CPU_FRACTION_MAX
        try:
            more = self._maintenance.run_slice(MAINTENANCE_SLICE_SECONDS)
            if more:
                share = self.share()
            else:
                more = self._scrubber.run_slice()
            self._trouble = "; ".join(self._maintenance.damage)
        except BusyError:
            return limits.MAINTENANCE_RETRY_SECONDS  # the store is closed
        except (DiffKeeperError, OSError) as error:
            self._trouble = f"maintenance failed: {error}"
            log.error("maintenance_failed", extra={"error": str(error)})
            return limits.MAINTENANCE_RETRY_SECONDS
        except Exception as error:
            # A defect must not end all maintenance: it is reported, and tried again.
            self._trouble = f"maintenance failed: {error!r}"
            log.exception("maintenance_failed", extra={"error": str(error)})
            return limits.MAINTENANCE_RETRY_SECONDS
        rest = (clock.thread_cpu() - cpu) / share
        return rest if more else max(rest, MAINTENANCE_TURN_SECONDS)

    def share(self) -> float:
        """Seconds of CPU that maintenance, but for scrubbing, may take in a second."""
        if self._maintenance.urgent:
            return MAINTENANCE_URGENT_CPU_FRACTION_MAX
        owed = limits.CPU_FRACTION_MAX + MAINTENANCE_DEBT_CPU_FRACTION * self._maintenance.debt()
        return max(self._spare.share(), min(owed, MAINTENANCE_DEBT_CPU_FRACTION_MAX))
