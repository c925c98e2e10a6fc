"""What the captures of all volumes share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffkeeper.freeze.outside import Outside
from diffkeeper.freeze.writers import Survey
from diffkeeper.sources.ebpf import probe

if TYPE_CHECKING:
    from diffkeeper.freeze.freezer import Freezer
    from diffkeeper.snapshot.chunker import Chunker
    from diffkeeper.store.store import Store


@dataclass(slots=True)
class CaptureContext:
    """What the captures of all volumes share."""

    store: Store
    freezer: Freezer
    reader: Chunker  # its threads are shared by all captures and verifications
    cgroup_root: str
    proc_root: str  # a /proc that shows the host's processes
    sources: probe.Sources = field(default_factory=probe.Sources)
    survey: Survey = field(init=False)  # who has volumes mounted; the only one of the daemon
    outside: Outside = field(init=False)  # what processes outside of containers have mapped

    def __post_init__(self) -> None:
        self.survey = Survey(self.proc_root, self.cgroup_root)
        self.outside = Outside(self.proc_root)
