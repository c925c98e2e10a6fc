"""Calls and messages of verification, repair and scrub."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct, field

from diffkeeper.messages.endpoint import VOLUME, Endpoint, NoArguments

REPAIR_PATHS_MAX: Final = 100  # in one request; as many as a verification finds


class Fault(Struct, frozen=True):
    """One path that failed verification, and why."""

    path: str
    problem: str
    damaged: bool = False  # nobody wrote to it, so that `repair` is offered


class VerifyReport(Struct, frozen=True):
    """Outcome of a verification; `ok` is false if there is any fault."""

    volume: str
    seq: int | None  # the snapshot that was verified against; None when there is none yet
    root: str
    ok: bool
    complete: bool  # false when the time budget ended it early
    files: int
    bytes: int
    milliseconds: float
    faults: tuple[Fault, ...] = ()
    repair: str = ""  # the command that puts back what is damaged; "" where nothing is


class RepairedFile(Struct, frozen=True):
    """One damaged file. Bytes of a path that are no UTF-8 are lone surrogates."""

    path: str
    other_names: list[str]  # hard links to the same file that were found or named, too
    outcome: str  # "damaged" (a dry run), "repaired" or "failed"
    bytes: int  # of the chunks that differ
    unreadable_bytes: int  # those of them that the disk does not give
    ranges: list[tuple[int, int]]  # [start, end) of the first of them
    ranges_left_out: int
    problem: str = ""  # why it failed


class Kept(Struct, frozen=True):
    """The snapshot of what was on disk before a repair, and its tag."""

    seq: int
    tag: str


class RepairReport(Struct, frozen=True):
    """What a repair found and did."""

    volume: str
    seq: int  # the snapshot whose bytes were put back
    root: str
    dry_run: bool
    complete: bool  # false when there was too much for one verification: repair again
    files: list[RepairedFile]
    whole: list[str]  # named, and not damaged
    refused: list[Fault]  # they differ, and cannot be repaired
    kept: Kept | None


class LostFile(Struct, frozen=True):
    """A file that a snapshot cannot restore any more."""

    volume: str
    seq: int
    path: str


class ScrubReport(Struct):
    """What one scrub did. `lost`: a bounded list; `lost_objects` counts objects, `lost_snapshots`
    snapshots.
    """

    started: str = ""
    seconds: float = 0.0
    packs: int = 0
    objects: int = 0
    bytes: int = 0
    damaged_objects: int = 0
    healed_objects: int = 0
    lost_objects: int = 0
    lost_snapshots: int = 0
    lost: list[LostFile] = field(default_factory=list)


class ScrubProgress(Struct, frozen=True):
    """Progress of a scrub."""

    packs: int
    of_packs: int
    objects: int


class ScrubStatus(Struct, frozen=True):
    """The scrub under way and the last one, if there are any."""

    under_way: ScrubProgress | None
    last: ScrubReport | None


class VerifyRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """The snapshot; null for the live directory against the newest one."""

    snapshot: str | None = None


class RepairRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Damaged files, null for all; whether to only list them."""

    paths: Annotated[list[str], Meta(min_length=1, max_length=REPAIR_PATHS_MAX)] | None = None
    dry_run: bool = False


VERIFY: Final = Endpoint(
    "POST",
    f"{VOLUME}/verify",
    VerifyRequest,
    VerifyReport,
    "Verify the store's copy of a snapshot, or the live directory against the newest.",
)
REPAIR: Final = Endpoint(
    "POST",
    f"{VOLUME}/repair",
    RepairRequest,
    RepairReport,
    "Repair damaged files, or only list them; answers a report.",
)
SCRUB: Final = Endpoint(
    "POST",
    "/v1/scrub",
    NoArguments,
    ScrubReport,
    "Read every stored object again, heal what is damaged; answers when that is done.",
)
