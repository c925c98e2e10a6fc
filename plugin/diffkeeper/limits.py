"""Every bound of the program in one place. Names carry their unit."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Objects
CHUNK_BYTES_DEFAULT = 16 * KIB
CHUNK_BYTES_MIN = 4 * KIB
CHUNK_BYTES_MAX = 1 * MIB
ZERO_DIGESTS_MAX = 4_096  # lengths, up to a chunk's, whose zeros have their digest remembered
FILE_NODE_FANOUT = 256
DIRECTORY_LEAF_ENTRIES_MAX = 64
DIRECTORY_FANOUT = 16
DIRECTORY_DEPTH_MAX = 64
DECODED_NODES_MAX = 1_024
NODE_BYTES_MAX = 1 * MIB
NAME_BYTES_MAX = 255
LINK_TARGET_BYTES_MAX = 4096
XATTR_VALUE_BYTES_MAX = 64 * KIB
XATTR_TOTAL_BYTES_MAX = 512 * KIB

# Store
STORE_MAP_BYTES_MIN = 1 * GIB
STORE_READERS_MAX = 126
STORE_RESERVE_BYTES_MAX = 4 * GIB  # for live data, whatever the size of the disk
STORE_RESERVE_FRACTION = 0.05  # of the disk, and of live data once more
STORE_MAX_FRACTION_DEFAULT = 0.5  # of the disk for history: the other half is live data's
STORE_MAX_BYTES_MIN = 8 * MIB
STORE_PRESSURE_FRACTION = 0.9  # of its bound, from which history is thinned early
STORE_EASE_FRACTION = 0.8  # down to which
STORE_SPARE_BYTES = 1 * MIB
STORE_BALLAST_BYTES_MAX = 16 * MIB  # given up for records when the disk is full
STORE_BALLAST_FRACTION = 1 / 64  # of the file system, if that is less
STORE_PUNCH_PAGES_MIN = 16  # shorter runs of free pages stay where they are
BATCH_BYTES_MAX = 32 * MIB
NODE_CACHE_ENTRIES_MAX = 4096
NODE_CACHE_BYTES_MAX = 32 * MIB
STORE_MAP_BYTES_MAX = 1 << 46  # half of a process's address space
STORE_PAGE_RECORDS_MAX = 512
STORE_LOCK_FILE_BYTES = 32 * KIB
STORE_PAGE_BYTES_MIN = 4 * KIB
STORE_PAGE_BYTES_MAX = 64 * KIB
RECORD_BYTES_MAX = 4 * MIB

# Packs
FRAME_BYTES = 256 * KIB  # plain content of a frame, before it is closed
FRAME_BYTES_MAX = FRAME_BYTES + CHUNK_BYTES_MAX
PACK_BYTES = 256 * KIB
PACK_OBJECTS_MAX = 16_384
PACK_FRAMES_MAX = 4_096
FRAME_CACHE_BYTES_MAX = 24 * MIB
DIRECTORY_CACHE_OBJECTS_MAX = 131_072
RECENT_OBJECTS_MAX = 65_536
BASES_MAX = 65_536  # from a delta to a whole object

# Maintenance
UPKEEP_LEVEL = 3  # zstd
MERGE_OBJECTS = 1_024  # in one transaction
CARRY_OBJECTS = 64  # in one transaction
PACK_DEAD_FRACTION_MAX = 0.15
PACK_SMALL_BYTES = 64 * KIB
MARK_NODES = 16  # in one step
MARK_REMEMBERED_MAX = 65_536
DELTA_LINKS_MAX = 16
DELTA_ROUNDS_MAX = 16
DELTA_SAME_FRACTION_MIN = 0.8  # of a chunk's bytes, for a delta to pay
DELTA_SAME_FRACTION_NODE_MIN = 0.2
DELTA_VERSIONS_MAX = 65_536  # in one round
DELTA_SNAPSHOTS_MAX = 60
DELTA_SECONDS_MAX = 60.0
COLLECT_SECONDS_MIN = 60.0
SIGNATURES_SECONDS = 600.0  # between counts of those that are stored
SIGNATURES_STALE_MIN = 10_000  # that may be of no use, in each volume
COLLECT_WAIT_SECONDS = 1.0  # for who relies on what is not committed, before it is given up
MAINTENANCE_CPU_FRACTION_MAX = 0.05
MAINTENANCE_URGENT_CPU_FRACTION_MAX = 0.5  # while room is short
MAINTENANCE_SLICE_SECONDS = 0.02
MAINTENANCE_TURN_SECONDS = 5.0
MAINTENANCE_RETRY_SECONDS = 60.0
TRIM_SECONDS = 60.0
BACKGROUND_RETRY_SECONDS = 30.0
SCRUB_SECONDS = 7 * 86_400.0  # from the end of a pass to the next one
SCRUB_FIRST_SECONDS = 600.0  # from the start of the daemon to the first one
SCRUB_ROUNDS_MAX = 8  # of healing in one pass
SCRUB_LOSSES_MAX = 1_000  # paths that are named, of a snapshot and of a report
DAMAGED_PATHS_SHOWN_MAX = 10
DAMAGED_SNAPSHOTS_SHOWN_MAX = 100

# Capture
INTERVAL_SECONDS_MIN = 0.1
INTERVAL_SECONDS_MAX = 30 * 86400.0
INTERVAL_SECONDS_DEFAULT = 1.0
FREEZE_SECONDS_DEFAULT = 0.050
FREEZE_SECONDS_MIN = 0.001
FREEZE_SECONDS_MAX = 5.0
FROZEN_COPY_BYTES_MAX = 64 * MIB
FREEZE_FRACTION_MAX = 0.05  # of the time, that captures may keep writers frozen
FREEZE_ATTEMPTS_MAX = 3  # in one capture, and in a row before a cgroup is let alone
FREEZE_RETRY_SECONDS_MAX = 60.0  # for which one that does not freeze is let alone
QUOTA_LOOK_SECONDS = 0.000_5
QUOTA_EARLY_SECONDS = 0.003  # around the moment at which a period is expected to begin
QUOTA_BEAT_SECONDS = 10.0  # for which the beat of periods is remembered
QUOTA_WAIT_SECONDS_MAX = 0.3  # for the beginning of a period of CPU quota: most last 0.1 s
STUCK_LOOK_SECONDS = 0.002
STUCK_LOOKS_MAX = 10
STUCK_TASKS_LOOKED_MAX = 1024
STUCK_TASKS_SHOWN_MAX = 3
FREEZE_POLL_SECONDS = 0.000_05
FREEZE_CGROUPS_MAX = 1024
SURVEY_TRUST_SECONDS = 10.0
FREEZE_CGROUPS_IDLE_SECONDS_MAX = 60.0
FREEZE_JOURNAL_BYTES_MAX = 1 * MIB
GUARD_START_SECONDS_MAX = 10.0
GUARD_SEND_SECONDS_MAX = 0.1
GUARD_RETRY_SECONDS = 1.0
GUARD_STOP_SECONDS_MAX = 2.0
PRECOPY_ROUNDS_MAX = 3
CPU_FRACTION_MAX = 0.05
COMPARE_SECONDS = 600.0
COMPARE_SHARE = 200
ALIASED_MAX = 5_000
OVERLAID_MAX = 500  # files mapped through overlays that are looked for, of one volume at a time
OVERLAY_WITNESSES_MAX = 8
OUTSIDE_SECONDS = 30.0  # between two looks at what all processes have mapped
OUTSIDE_FILES_MAX = 100_000
FROZEN_LOOKS_MAX = 500
COMPARE_SOON_SECONDS = 30.0
HELD_BACK_MAX = 1_000  # names of a volume that could not be read or recorded as a whole
HELD_BACK_SHOWN_MAX = 10
HELD_BACK_PATH_CHARACTERS_MAX = 200
HELD_BACK_SECONDS_MIN = 5.0  # until such names are tried again; longer each time
HELD_BACK_SECONDS_MAX = 300.0
PACE_CAPTURES = 8
STRETCH_SECONDS_MAX = 60.0  # for one expensive capture
CAPTURE_RETRY_SECONDS_MAX = 30.0
CAPTURE_RETRY_REST = 4  # times as long as the capture that failed
GROUP_VOLUMES_MAX = 16
SURVEY_SECONDS_MAX = 0.25  # for which a survey holds that costs little
SURVEY_SECONDS_LONGEST = 5.0  # the same for one that costs much, and while no process begins
QUIET_LOOK_SECONDS = 5.0
SCHEDULE_RETRY_SECONDS = 1.0  # after a defect of what serves all volumes
QUIET_STEP_SECONDS = 1.0
WATCHED_DIRECTORIES_MAX = 500_000
DIRECTORIES_MAX = 2_000_000  # of one volume, at some 600 bytes of memory each
DIRTY_NAMES_MAX = 200_000
INOTIFY_READ_BYTES = 1 * MIB
INOTIFY_PAUSE_SECONDS = 0.02
INOTIFY_REMOVED_AT_ONCE = 1024  # watches; each leaves an event in a queue of 16,384 by default
INOTIFY_INSTANCES_MAX = 8  # of the 128 that root has by default
WATCHES_SHARE = 4  # at most one of so many of root's watches is ours
WATCHES_UNKNOWN = 8192  # what kernels begin with
EBPF_CHUNKS_MAX = 131_072
EBPF_FILES_MAX = 32_768
EBPF_WATCHED_MAX = 1 << 20
EBPF_VOLUME_SLOTS = 4_096
EBPF_WRITES_MAX = 16_384
EBPF_DIRECT_POLL_SECONDS = 0.000_1
DIRECT_LOOK_SECONDS = 0.001
DIRECT_PAUSE_SECONDS = 0.02  # for which a freeze waits for a moment without direct I/O
DIRECT_WAIT_SECONDS = 1.0  # the same after one that it outlasted
EBPF_RANGE_CHUNKS_MAX = 64
EBPF_DISK_PLACES_MAX = 8
ARMED_SECONDS = 60.0
MARKS_PENDING_MAX = 500_000
MAP_BATCH_ENTRIES = 4_096
STARTED_SECONDS = 30.0  # until what has started has surely ended
STARTED_LOOKS_SECONDS = (2.0, STARTED_SECONDS)  # when it is looked at again, from its drain on
HEARTBEAT_SECONDS = 5.0
HEARTBEAT_SILENT_SECONDS_MAX = 60.0
HEARTBEAT_STOP_SECONDS_MAX = 2.0
EBPF_LOADS_MAX = 3
DESCENT_STEP = 64  # directories between two that stay open
DESCENT_OPEN_MAX = 32
REASON_CHARACTERS_MAX = 200
MMAP_HORIZON_CENTISECONDS_MAX = 60_000
TIMESTAMP_GRANULE_NS = 20_000_000
SEGMENT_BYTES = 1 * MIB
OBSERVE_BYTES_MAX = 32 * MIB
OBSERVE_NAMES_MAX = 2_000
# A removal that more than so many names resist ends there; of each path so much is told.
REMOVAL_LEFT_MAX = 1_000
TOLD_PATH_BYTES_MAX = 4_096
REFUSALS_TOLD_MAX = 100  # of what a target refused, the first so many are listed
SIGNATURES_PENDING_MAX = 500_000
SIGNATURES_EARLY = 20_000  # of a first capture, which are stored before its end
SIGNATURES_WINDOW_MAX = 8_192
CONTENT_CHANGES_MAX = 65_536
LINKED_MAX = 10_000  # files with several names of which one look remembers the content
HASH_THREADS = 2

# Replay
REPLAY_THREADS = 2
REPLAY_GROUP_FILES = 64
REPLAY_GROUP_BYTES = 4 * MIB

# Export and import
WALK_WINDOW_MAX = 131_072  # digests that a walk remembers of chunks, and of nodes
WALK_BATCH_NODES = 32
TRANSFER_CHUNKS = 32  # asked for at once
TRANSFER_PIECE_BYTES = 1 * MIB
IMPORT_BATCH_BYTES = 4 * MIB
IMPORT_SNAPSHOTS_MAX = 100_000
IMPORT_NAMES_MAX = 100_000_000  # in one snapshot, those of shared nodes each time
IMPORT_RECORDS_BYTES_MAX = 128 * MIB  # of all snapshots' records, which wait in memory
IMPORT_RECORDS_MAX = 128  # in one transaction
IMPORT_SILENT_SECONDS_MAX = 600.0
RECORDS_PER_REQUEST = 512

# Accounting
ACCOUNT_SAMPLE_MAX = 65_536
ACCOUNT_WINDOW_MAX = 32_768
ACCOUNT_WAIT_SECONDS_MAX = 30.0
ACCOUNT_SECONDS = 600.0
ACCOUNT_SLICE_SECONDS = 0.02
GROWTH_SECONDS_MIN = 60.0

# Lifecycle: dockerd gives up on any call after 30 s (`docker plugin enable` default).
STEP_THREADS = 8
REPLAYS_MAX = 4  # at once; further ones wait, and no other step does
LAST_LOOKS_MAX = 4  # of Unmounts and Removes, at once
CAPTURE_THREADS = 4
QUERY_THREADS = 4
LONG_THREADS = 4  # for verifications, scrubs, maintenance and compacting by command
SEQ_DIGITS_MAX = 18
ROOT_PREFIX_MIN = 8
REFERENCE_CHARACTERS_MAX = 64
TAG_CHARACTERS_MAX = 63
TAGS_MAX = 1_000  # of one volume
MOUNT_SECONDS_MAX = 25.0
UNMOUNT_SECONDS_MAX = 20.0
REMOVE_SECONDS_MAX = 25.0
VERIFY_UNMOUNT_SECONDS_MAX = 5.0
VERIFY_FAULTS_MAX = 100
REPAIR_PATHS_MAX = 100  # in one request; as many as a verification finds
REPAIR_RANGES_SHOWN_MAX = 20  # of one file
REPAIR_JOURNAL_BYTES_MAX = 4 * MIB

# History
RETENTION_TIERS_MAX = 8
RETENTION_SECONDS_MIN = 1.0  # of an age or a step
RETENTION_SECONDS_MAX = 36_500 * 86_400.0
RETENTION_TURN_SECONDS = 5.0  # between two looks at what is due
RETENTION_RHYTHM_SECONDS_MAX = 60.0  # between two plans for one volume
RETENTION_READ_MAX = 50_000  # snapshots between two plans for one volume
FORGET_BATCH_MAX = 256  # snapshots in one transaction
TRASH_SECONDS_DEFAULT = 7 * 86_400.0
TRASH_SECONDS_MAX = 3_650 * 86_400.0
TRASH_YIELD_SECONDS = 3_600.0  # what was removed later goes only after histories are thinned
YIELD_STEPS_MAX = 256  # volumes that are thinned in one turn for want of room
TRASH_VOLUMES_MAX = 10_000
TRASH_TURN_SECONDS = 60.0

# The clock that histories age by
CLOCK_STEP_SECONDS_MAX = 60.0  # that the wall clock may gain at once
CLOCK_DRIFT_ONE_IN = 1_000  # of the time that passes, which it may gain besides: twice a fast slew
CLOCK_AWAY_SECONDS_MAX = 3_600.0  # without a daemon, that count as if they had been seen
CLOCK_WAIT_SECONDS = 86_400.0  # until unseen time counts
CLOCK_SAVE_SECONDS = 600.0  # between two looks that are stored

# Interfaces
REQUEST_BYTES_MAX = 1 * MIB
VOLUME_NAME_BYTES_MAX = 255
VOLUME_OPTIONS_MAX = 64
MOUNT_SETTLE_SECONDS = 300.0  # from a mount to its container's start, at most
MOUNT_LOOKS_SECONDS = (1.0, 5.0, 20.0, 60.0)  # waits before each look for its container
MOUNT_IDS_MAX = 4096
MOUNT_ID_BYTES_MAX = 256
VOLUMES_MAX = 10_000
OBJECTS_PER_REQUEST_MAX = 256
FORGET_PER_REQUEST_MAX = 1_000
