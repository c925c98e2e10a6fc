"""Features that eBPF captures need and use, as far as each was tried.

`supported`: it was used and worked. `unsupported`: it was tried, and the reason is the result.
`unknown`: it was not tried, and the reason is what is known without.
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
    """What one attempt to use eBPF has shown so far, in the order of the steps."""

    why_not_tried: str = "no volume has asked for eBPF"
    found: dict[str, Feature] = field(default_factory=dict)

    def record(self, name: str, support: Support, reason: str) -> None:
        """Record a result."""
        self.found[name] = Feature(name, support, reason)

    @contextmanager
    def trying(self, name: str, works: str) -> Iterator[None]:
        """Record the result of the step inside the block; an UnsupportedError is raised on."""
        try:
            yield
        except UnsupportedError as error:
            self.record(name, "unsupported", str(error))
            raise
        self.record(name, "supported", works)

    def planned(self, parts: Mapping[str, str]) -> None:
        """The tracepoints were read; name of each part to why it is not supported, or ""."""
        for name, why_not in parts.items():
            self.record(name, "unsupported" if why_not else "unknown", why_not or NOT_LOADED)

    def attached(self) -> None:
        """The programs run: everything that was planned is in use."""
        for name, feature in list(self.found.items()):
            if feature.support == "unknown":
                self.record(name, "supported", "attached to its tracepoints")

    def lost(self, reason: str) -> None:
        """The programs were lost while running, and everything that they did."""
        for name, feature in list(self.found.items()):
            if name == "programs" or (name not in STEPS and feature.support == "supported"):
                self.record(name, "unsupported", reason)

    def report(self) -> tuple[Feature, ...]:
        """Every step, and what else was found."""
        failed = next((f.name for f in self.found.values() if f.support == "unsupported"), "")
        why = f"not tried for want of {failed}" if failed in STEPS else self.why_not_tried
        steps = [self.found.get(name, Feature(name, "unknown", why)) for name in STEPS]
        return (*steps, *(f for name, f in self.found.items() if name not in STEPS))
