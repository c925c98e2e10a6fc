"""Every command, one file each: its arguments, its call, its output, its help."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from diffkeeper.cli.commands import (
    compact,
    diff,
    doctor,
    empty_trash,
    export,
    forget,
    import_volume,
    inspect,
    maintain,
    prune,
    rename,
    repair,
    restore,
    scrub,
    serve,
    set_options,
    snapshot,
    snapshots,
    stats,
    tag,
    trash,
    undelete,
    verify,
    version,
    volumes,
)

if TYPE_CHECKING:
    from diffkeeper.cli.command import Command

# In the order of `diffkeeper --help`.
COMMANDS: Final[tuple[Command, ...]] = (
    serve.COMMAND,
    volumes.COMMAND,
    inspect.COMMAND,
    set_options.COMMAND,
    rename.COMMAND,
    snapshots.COMMAND,
    snapshot.COMMAND,
    diff.COMMAND,
    verify.COMMAND,
    repair.COMMAND,
    restore.COMMAND,
    export.COMMAND,
    import_volume.COMMAND,
    tag.TAG,
    tag.UNTAG,
    forget.COMMAND,
    prune.COMMAND,
    trash.COMMAND,
    undelete.COMMAND,
    empty_trash.COMMAND,
    maintain.COMMAND,
    scrub.COMMAND,
    compact.COMMAND,
    stats.COMMAND,
    doctor.COMMAND,
    version.COMMAND,
)
