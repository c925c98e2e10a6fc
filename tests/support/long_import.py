"""An import of a long history. As a program it stores one, or removes one that a killed program has
left, and is to be killed on the way: `python -m tests.support.long_import store|remove STORE
FAILPOINT`.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from diffkeeper import failpoint
from diffkeeper.service.import_commit import IMPORT_RECORDS_MAX, Adoption, remove_unfinished
from diffkeeper.store.store import Store
from diffkeeper.transfer.archive_read import Imported

COUNT = 2 * IMPORT_RECORDS_MAX + 40  # snapshots: three transactions


def archive(store: Store) -> Imported:
    """A long history of what the store's own volume has."""
    (volume,) = (v for v in store.volumes() if v.id == 1)
    seen = list(store.snapshots(1))
    records = [replace(seen[n % len(seen)], seq=n + 1, parent=n or None) for n in range(COUNT)]
    last = replace(volume, name="old", head=COUNT, next_seq=COUNT + 1)
    return Imported(last, records, 0, {"good": 7, "newest": COUNT})


def main(act: str, path: str, armed: str) -> None:
    """Do one of the two with the store at this path, with the failpoint armed."""
    store = Store.open(path, reserve_bytes=0)
    if act == "remove":
        failpoint.arm(armed)
        remove_unfinished(store)
    else:
        remove_unfinished(store)
        failpoint.arm(armed)
        adoption = Adoption(store, "new", archive(store))
        adoption.store()
        adoption.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
