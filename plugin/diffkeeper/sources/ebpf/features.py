"""What eBPF captures need and use, feature by feature, as far as it was really tried.

`supported`: it was used and worked. `unsupported`: it was tried, and the reason says what came of
it. `unknown`: nobody has tried, and the reason says what is known all the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from diffkeeper.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Support = Literal["supported", "unsupported", "unknown"]

# Each needs those before it. `programs`: compiled, accepted by the kernel's verifier, attached.
STEPS: Final = ("tracefs", "tracepoints", "headers", "bcc", "programs")
DIRECT_ENDS: Final = "direct-io-ends"
FAULTS: Final = "page-faults"
MAPPED: Final = "mapped-stores"
NOT_LOADED: Final = "its tracepoints are there; the programs are not loaded"


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature; `reason` says why, or what was found."""

    name: str
    support: Support
    reason: str


@dataclass(slots=True)
class Attempt:
    """What one attempt to have eBPF has shown so far, in the order of the steps."""

    why_not_tried: str = "no volume has asked for eBPF"
    found: dict[str, Feature] = field(default_factory=dict)

    def record(self, name: str, support: Support, reason: str) -> None:
        """Record what was found."""
        self.found[name] = Feature(name, support, reason)

    @contextmanager
    def trying(self, name: str, works: str) -> Iterator[None]:
        """Record how the step that runs inside comes out; an UnsupportedError goes on its way."""
        try:
            yield
        except UnsupportedError as error:
            self.record(name, "unsupported", str(error))
            raise
        self.record(name, "supported", works)

    def planned(self, parts: Mapping[str, str]) -> None:
        """The tracepoints were read; name of each part to why it is not supported, or empty."""
        for name, why_not in parts.items():
            self.record(name, "unsupported" if why_not else "unknown", why_not or NOT_LOADED)

    def attached(self) -> None:
        """The programs run: whatever was planned is in use."""
        for name, feature in list(self.found.items()):
            if feature.support == "unknown":
                self.record(name, "supported", "attached to its tracepoints")

    def lost(self, reason: str) -> None:
        """The programs were lost while running, and with them what they did."""
        for name, feature in list(self.found.items()):
            if name == "programs" or (name not in STEPS and feature.support == "supported"):
                self.record(name, "unsupported", reason)

    def report(self) -> tuple[Feature, ...]:
        """Every step, and what else was found."""
        failed = next((f.name for f in self.found.values() if f.support == "unsupported"), "")
        why = f"not tried for want of {failed}" if failed in STEPS else self.why_not_tried
        steps = [self.found.get(name, Feature(name, "unknown", why)) for name in STEPS]
        return (*steps, *(f for name, f in self.found.items() if name not in STEPS))
