"""Bounds that several modules share; others stand where they hold. Names carry their unit."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Objects
CHUNK_BYTES_DEFAULT = 16 * KIB
CHUNK_BYTES_MIN = 4 * KIB
CHUNK_BYTES_MAX = 1 * MIB
FILE_NODE_FANOUT = 256
DIRECTORY_LEAF_ENTRIES_MAX = 64
DIRECTORY_FANOUT = 16
DIRECTORY_DEPTH_MAX = 64
NODE_BYTES_MAX = 1 * MIB
NAME_BYTES_MAX = 255
LINK_TARGET_BYTES_MAX = 4096
XATTR_VALUE_BYTES_MAX = 64 * KIB
XATTR_TOTAL_BYTES_MAX = 512 * KIB

# Store
STORE_MAP_BYTES_MIN = 1 * GIB
STORE_MAX_FRACTION_DEFAULT = 0.5  # of the disk for history: the other half is live data's
STORE_SPARE_BYTES = 1 * MIB
BATCH_BYTES_MAX = 32 * MIB
NODE_CACHE_ENTRIES_MAX = 4096
STORE_MAP_BYTES_MAX = 1 << 46  # half of a process's address space
STORE_PAGE_RECORDS_MAX = 512
RECORD_BYTES_MAX = 4 * MIB

# Packs
FRAME_BYTES = 256 * KIB  # plain content of a frame, before it is closed
FRAME_BYTES_MAX = FRAME_BYTES + CHUNK_BYTES_MAX
PACK_BYTES = 256 * KIB
PACK_OBJECTS_MAX = 16_384
PACK_FRAMES_MAX = 4_096

# Maintenance
UPKEEP_LEVEL = 3  # zstd
MERGE_OBJECTS = 1_024  # in one transaction
PACK_DEAD_FRACTION_MAX = 0.15
PACK_SMALL_BYTES = 64 * KIB
MARK_REMEMBERED_MAX = 65_536
DELTA_SNAPSHOTS_MAX = 60
DELTA_SECONDS_MAX = 60.0
COLLECT_SECONDS_MIN = 60.0
MAINTENANCE_RETRY_SECONDS = 60.0
FUZZY_SECONDS_MAX = 10.0  # for which all snapshots may be fuzzy before that is a trouble
FUZZY_INTERVALS_MAX = 2  # and at least so many intervals of the volume
DAMAGED_SNAPSHOTS_SHOWN_MAX = 100

# Capture
FREEZE_SECONDS_DEFAULT = 0.050
FREEZE_SECONDS_MAX = 5.0
FREEZE_FRACTION_MAX = 0.05  # of the time, that captures may keep writers frozen
FREEZE_ATTEMPTS_MAX = 3  # in one capture, and in a row before a cgroup is let alone
OBSERVER_SECONDS = 60.0  # without a write, until who could write counts as a reader
FREEZE_CGROUPS_MAX = 1024
SURVEY_TRUST_SECONDS = 10.0
CPU_FRACTION_MAX = 0.05
COMPARE_SHARE = 200
GROUP_VOLUMES_MAX = 16
DIRTY_NAMES_MAX = 200_000
INOTIFY_REMOVED_AT_ONCE = 1024  # watches; each leaves an event in a queue of 16,384 by default
WATCHES_SHARE = 4  # at most one of so many of root's watches is ours
EBPF_CHUNKS_MAX = 131_072
EBPF_FILES_MAX = 32_768
EBPF_WATCHED_MAX = 1 << 20  # of all volumes; the one that has the most gives way
EBPF_WRITES_MAX = 16_384
MARKS_PENDING_MAX = 500_000
STARTED_SECONDS = 30.0  # until what has started has surely ended
HEARTBEAT_SECONDS = 5.0
TIMESTAMP_GRANULE_NS = 20_000_000
OBSERVE_BYTES_MAX = 32 * MIB
OBSERVE_NAMES_MAX = 2_000
TOLD_PATH_BYTES_MAX = 4_096
CONTENT_CHANGES_MAX = 65_536

# Replay
REPLAY_GROUP_BYTES = 4 * MIB

# Export and import
WALK_WINDOW_MAX = 131_072  # digests that a walk remembers of chunks, and of nodes
TRANSFER_PIECE_BYTES = 1 * MIB
IMPORT_NAMES_MAX = 100_000_000  # in one snapshot, those of shared nodes each time
IMPORT_CHUNKS_MAX = 1 << 30  # in one snapshot, likewise, without holes: 16 TiB by default
IMPORT_RECORDS_BYTES_MAX = 128 * MIB  # of all snapshots' records, which wait in memory

# Lifecycle: dockerd gives up on a Mount or Create after 120 s, on other calls after 60; on any call
# after 30 where the plugin was enabled by `docker plugin enable` since dockerd has started.
REPLAYS_MAX = 4  # at once; further ones wait, and no other step does
CAPTURES_MAX = 4  # at once, but for those that take long
LONG_CAPTURES_MAX = 4  # that run beside
SEQ_DIGITS_MAX = 18
ROOT_PREFIX_MIN = 8
TAG_CHARACTERS_MAX = 63
TAGS_MAX = 1_000  # of one volume
MOUNT_SECONDS_MAX = 110.0
REMOVE_SECONDS_MAX = 25.0

# History
FORGET_BATCH_MAX = 256  # snapshots in one transaction
TRASH_MAX_FRACTION_DEFAULT = 0.1  # of the disk, for what removed volumes alone have

# Interfaces
REQUEST_BYTES_MAX = 1 * MIB
MOUNT_IDS_MAX = 4096
