"""The ladder of sources: their order, which one a volume gets, and what replaces one that fails.

A source is a file with a class that implements `base.Source`, and a rung here. Each is chosen by
trying it, never by version, and the choice has a reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from diffkeeper.errors import UnsupportedError
from diffkeeper.sources.ebpf.ebpf_source import EbpfSource
from diffkeeper.sources.inotify import InotifySource
from diffkeeper.sources.scan import ScanSource

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from diffkeeper.sources.base import Source
    from diffkeeper.sources.ebpf.heartbeat import Heartbeat
    from diffkeeper.sources.ebpf.program import Program

AUTO: Final = "auto"  # the option's value for "the finest source that works here"


@dataclass(frozen=True, slots=True)
class VolumePlace:
    """Where a volume is: device (as in st_dev), type of the file system; bits of its chunks.

    directory: one of ours on that device, for a file whose writes prove that eBPF sees them; "" for
    no such proof.
    """

    device: int
    fs_type: str
    chunk_bits: int
    directory: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A started source and the reason for it, as shown in Status and in the log."""

    source: Source
    reason: str


class Programs(Protocol):
    """The eBPF programs of this machine."""

    def loaded(self) -> tuple[Program, Heartbeat | None]:
        """Load them unless they are loaded; raises UnsupportedError, which says why that is
        impossible.
        """


@dataclass(frozen=True, slots=True)
class Rung:
    """A source by its name, which is a value of the option `capture`, too.

    start: returns the started source and a remark, or ""; raises UnsupportedError when it does not
    work here. programs: it needs eBPF programs, so a volume whose source broke does not try it.
    """

    name: str
    start: Callable[[Programs, VolumePlace], tuple[Source, str]]
    programs: bool = False


def _ebpf(programs: Programs, place: VolumePlace) -> tuple[Source, str]:
    try:
        loaded, heart = programs.loaded()
        unsupported = loaded.file_systems.get(
            place.fs_type, f"{place.fs_type} tells no ranges of what is written"
        )
        if unsupported:
            raise UnsupportedError(unsupported)
        pulse = heart if place.directory else None
        source = EbpfSource(loaded, place.device, place.chunk_bits, pulse, place.directory)
        source.start()
    except UnsupportedError as error:
        raise UnsupportedError(f"no eBPF: {error}") from error
    return source, loaded.wider


def _inotify(programs: Programs, place: VolumePlace) -> tuple[Source, str]:
    source = InotifySource()
    source.start()
    return source, ""


def _scan(programs: Programs, place: VolumePlace) -> tuple[Source, str]:
    return ScanSource(), ""


# The finest first; the last one always works.
LADDER: Final = (Rung("ebpf", _ebpf, programs=True), Rung("inotify", _inotify), Rung("scan", _scan))
NAMES: Final = (AUTO, *(rung.name for rung in LADDER))


def choose(
    wanted: str, place: VolumePlace, programs: Programs, rungs: Sequence[Rung] = ()
) -> Choice:
    """Start the source of a volume, `auto` or by name; `rungs`: in place of the ladder.

    If one does not work, the next coarser one is tried; the reason says so. Raises UnsupportedError
    when none works, which cannot happen with the ladder itself.
    """
    asked = f"asked for by the volume's option capture={wanted}"
    if wanted == AUTO:
        asked = "the finest source, and it works here"
    refused: list[str] = []
    for rung in _from(wanted, rungs or LADDER):
        try:
            source, remark = rung.start(programs, place)
        except UnsupportedError as error:
            refused.append(str(error))
        else:
            return Choice(source, "; ".join(filter(None, [*(refused or [asked]), remark])))
    raise UnsupportedError("; ".join(refused))


def replacement(rungs: Sequence[Rung] = ()) -> str:
    """Name of the source that replaces one that broke: the finest without programs."""
    return next(rung.name for rung in rungs or LADDER if not rung.programs)


def considers_ebpf(wanted: str) -> bool:
    """Whether a volume's option `capture` lets eBPF be tried."""
    return any(rung.programs for rung in _from(wanted, LADDER))


def fell_back(wanted: str, used: str) -> bool:
    """Whether a volume has another source than it asked for, or with `auto` the coarsest."""
    return used == LADDER[-1].name if wanted == AUTO else used != wanted


def _from(wanted: str, rungs: Sequence[Rung]) -> Sequence[Rung]:
    """The rungs to try, in their order."""
    if wanted == AUTO:
        return rungs
    at = [rung.name for rung in rungs].index(wanted)
    return rungs[at:]
