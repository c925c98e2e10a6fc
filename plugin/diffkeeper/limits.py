"""Bounds that several modules share, and those of the format; each with its reason.

Other bounds are in the module that uses them; a test holds that. Names carry their unit.
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# Objects. These are part of the format: see FORMAT.md.
CHUNK_BYTES_DEFAULT = 16 * KIB  # two database pages; measured in docs/decisions/0001
CHUNK_BYTES_MIN = 4 * KIB  # the kernel's page: it reads and writes no less
CHUNK_BYTES_MAX = 1 * MIB  # a chunk is read, hashed and compressed as one piece of memory
FILE_NODE_FANOUT = 256  # 8 KiB a node, and two levels for 1 GiB of default chunks
DIRECTORY_LEAF_ENTRIES_MAX = 64  # a changed name writes one leaf of at most so many anew
DIRECTORY_FANOUT = 16  # one hexadecimal digit of a name's hash for each level
DIRECTORY_DEPTH_MAX = 64  # hexadecimal digits of a hash
NODE_BYTES_MAX = 1 * MIB  # a reader allocates no more for what an archive or the store declares
NAME_BYTES_MAX = 255  # NAME_MAX of Linux
LINK_TARGET_BYTES_MAX = 4096  # PATH_MAX of Linux
XATTR_VALUE_BYTES_MAX = 64 * KIB  # XATTR_SIZE_MAX of Linux
XATTR_TOTAL_BYTES_MAX = 512 * KIB  # all attributes of a file are one node, see NODE_BYTES_MAX

# Store
STORE_MAP_BYTES_MIN = 1 * GIB  # the map grows by itself, and each growth waits for all readers
STORE_MAP_BYTES_MAX = 1 << 46  # half of a process's address space
STORE_MAX_FRACTION_DEFAULT = 0.5  # of the disk for history: the other half is live data's
STORE_SPARE_BYTES = 1 * MIB  # past the last page: records can be written to a full disk
BATCH_BYTES_MAX = 32 * MIB  # plain objects that wait in memory for one transaction
NODE_CACHE_ENTRIES_MAX = 4096  # bounds memory beside the bound on bytes: nodes may be tiny
STORE_PAGE_RECORDS_MAX = 512  # read in one transaction: a longer one keeps pages from reuse
RECORD_BYTES_MAX = 4 * MIB  # a volume's record with all mount ids that it may have

# Packs. The limits of one pack bound the memory that reading its directory takes.
FRAME_BYTES = 256 * KIB  # plain content of a frame; measured in docs/decisions/0011
FRAME_BYTES_MAX = FRAME_BYTES + CHUNK_BYTES_MAX  # a frame is closed once it is full
PACK_BYTES = 256 * KIB  # what a commit appends, and what repacking copies, at once
PACK_OBJECTS_MAX = 16_384  # the slot of a delta's base has 16 bits
PACK_FRAMES_MAX = 4_096  # bounds the table that a reader decompresses

# Maintenance. A commit waits for one step at most, so a step is one short transaction.
REPACK_LEVEL = 3  # zstd: nobody waits, and it stores less than the level of captures
MERGE_OBJECTS = 1_024  # in one transaction
MARK_REMEMBERED_MAX = 65_536  # digests: bounds memory; what is forgotten is looked up again
MAINTENANCE_RETRY_SECONDS = 60.0  # after an error

# Capture
FREEZE_SECONDS_MAX = 5.0  # the largest that the option takes, and the guard is armed with
FREEZE_FRACTION_MAX = 0.05  # of the time, that captures may keep writers frozen
FREEZE_ATTEMPTS_MAX = 3  # in one capture, and in a row before a cgroup is left alone
FREEZE_CGROUPS_MAX = 1024  # two or three descriptors each
SURVEY_TRUST_SECONDS = 10.0  # a process younger than that may still change its namespace
CPU_FRACTION_MAX = 0.05  # of one core: what a volume's captures may take of a busy machine
COMPARE_SHARE = 200  # one part of the time in so many goes into comparisons
GROUP_VOLUMES_MAX = 16  # they share the time of one freeze, and BATCH_BYTES_MAX
DIRTY_NAMES_MAX = 200_000  # bounds memory; with more the whole volume is compared
INOTIFY_REMOVED_AT_ONCE = 1024  # watches; each leaves an event in a queue of 16,384 by default
WATCHES_SHARE = 4  # at most one of so many of root's watches is ours
STARTED_SECONDS = 30.0  # until an operation that is only seen to start has surely ended
HEARTBEAT_SECONDS = 5.0  # between two proofs that eBPF still sees writes
TIMESTAMP_GRANULE_NS = 20_000_000  # file timestamps step with the kernel's tick: 10 ms, doubled
OBSERVE_BYTES_MAX = 32 * MIB  # content in memory before it goes to the stage
OBSERVE_NAMES_MAX = 2_000  # names in memory before they are worked through
TOLD_PATH_BYTES_MAX = 4_096  # of a path in a message; paths can be longer than PATH_MAX
CONTENT_CHANGES_MAX = 65_536  # chunks of one file in memory before they go into its tree

# Replay
REPLAY_GROUP_BYTES = 4 * MIB  # content that one thread has in memory at once

# Export and import
WALK_WINDOW_MAX = 131_072  # digests that a walk remembers of chunks, and of nodes
TRANSFER_PIECE_BYTES = 1 * MIB  # in memory at once, at both ends of the socket

# Lifecycle: dockerd gives up on a Mount or Create after 120 s, on other calls after 60; on any call
# after 30 where the plugin was enabled by `docker plugin enable` since dockerd has started.
MOUNT_SECONDS_MAX = 110.0  # less than the 120 of dockerd
REMOVE_SECONDS_MAX = 25.0  # less than the 30 of dockerd
REPLAYS_MAX = 4  # at once; further ones wait, and no other step does
CAPTURES_MAX = 4  # at once, but for those that take long
LONG_CAPTURES_MAX = 4  # that run beside
SEQ_DIGITS_MAX = 18  # the largest such number fits 64 bits, signed
ROOT_PREFIX_MIN = 8  # hexadecimal digits: 32 bits seldom name two snapshots
TAG_CHARACTERS_MAX = 63  # part of the format: tags are keys, and go into archives
TAGS_MAX = 1_000  # of one volume: all of them are in memory and in Status

# History
FORGET_BATCH_MAX = 256  # snapshots in one transaction, which takes some 2 ms
TRASH_MAX_FRACTION_DEFAULT = 0.1  # of the disk, for what removed volumes alone have

# Interfaces
REQUEST_BYTES_MAX = 1 * MIB  # a request is in memory before it is parsed
