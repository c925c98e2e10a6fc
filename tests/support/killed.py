"""The failpoints at which tests kill a process."""

from __future__ import annotations

from diffkeeper import failpoint
from diffkeeper.volumes.lifecycle import Event

# Events of a volume's life that have failpoints.
OF_REPAIRS = (Event.REPAIR, Event.SETTLED)
OF_LIFE = tuple(e for e in Event if e.value in failpoint.POINTS and e not in OF_REPAIRS)

# Of maintenance, as they are armed.
MAINTENANCE = [
    *(f"sweep.{side}_commit=kill:{n}" for side in ("before", "after") for n in (1, 4)),
    *(
        f"{name}.{side}_commit=kill"
        for name in ("replace", "merge", "places", "collected")
        for side in ("before", "after")
    ),
    *(f"purge.{side}_commit=kill:{n}" for side in ("before", "after") for n in (1, 2)),
    "compact.copied=kill",
    "compact.renamed=kill",
]
# Of a store of format 2: the first and a later step of chunks, and the last one, of nodes.
CARRIES = [f"carry.{side}_commit=kill:{n}" for side in ("before", "after") for n in (1, 4, 6)]
HEALING = sorted(failpoint.POINTS["scrub"])
REPAIR = [
    *sorted(f"{name}=kill" for e in OF_REPAIRS for name in failpoint.POINTS[e.value]),
    "repair.writing=kill:2",
    "repair.writing=kill:4",
    "repair.written=kill:2",
]
# At which an import is killed, and leaves nothing; or leaves the whole volume.
IMPORT_UNDONE = (
    "import.objects_stored",
    "adopt.before_commit",
    "adopt.after_commit",
    "import.records_stored",
    "import.before_commit",
)
IMPORT_DONE = ("import.after_commit",)
# Of a volume's life, its captures, and the clock beside it. tests/protocol/test_moving.py kills
# imports, and tests/crash/test_repair_kill.py repairs, which a life has none of; maintenance and
# scrubs, which go by their own time, are killed by tests/crash/test_maintenance_kill.py and
# test_heal_kill.py.
LIVED = sorted(
    name
    for work in (*(event.value for event in OF_LIFE), "capture", "clock")
    for name in failpoint.POINTS[work]
)
