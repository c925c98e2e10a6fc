/* What the programs share: which inodes are watched, and the marks they leave.
 *
 * A mark is an entry of a map whose key says everything, so that a drain can take entries away
 * while programs add others: an entry is either taken by a drain, whose reader then sees all data
 * that was visible when the entry was found, or it is there for the next one.
 *
 * DONE marks are set when the change is visible to a reader. STARTED marks are set before, where
 * the kernel tells nothing after; the reader has to come back until the operation has surely ended.
 * UNDER_WAY marks are the same of what doesn't end in a freeze: direct I/O whose end is not told.
 *
 * A full map widens: a chunk that has no room marks its file, and a file that has no room marks its
 * volume, in an array that cannot be full.
 *
 * STORED marks come from page faults: pages of a shared mapping that may be stored to. The page
 * cache tells the first page of a unit of up to MAPPED_BITS, so the mark is for all of that.
 *
 * The macros in capitals that are defined nowhere here come from the loader (limits.py).
 */

#define DONE 0
#define STARTED 1
#define STORED 2
#define REUSED 3 /* of files only: the inode was freed, its number may come back as another file */
#define LOOK 4   /* of files only: size or attributes are about to change */
#define MAPPED 5 /* of files only: a process that has it mapped touched a page for the first time */
#define UNDER_WAY 6 /* as STARTED, and it may go on when its thread has gone on or is frozen */

struct file_key {
    u64 inode;
    u32 device; /* major << 20 | minor */
    u32 kind;   /* 0 in `watched` */
};

struct chunk_key {
    u64 inode;
    u32 device;
    u32 kind;
    u64 chunk; /* position >> chunk_bits of the file; of STORED marks, position >> MAPPED_BITS */
};

struct watched_file {
    u32 volume;
    u16 chunk_bits;
    u16 held; /* the reader's own note: it has read the content since it watches the file */
};

/* Of all volumes whose number has the same remainder; the reader compares with what it saw last. */
struct volume_state {
    u64 marked; /* marks that were set */
    u64 lost;   /* marks that had no room */
};

/* One entry per thread inside a write of which the kernel tells start and steps. */
struct write_under_way {
    u64 inode;
    u64 start;
    u64 bytes;
    u32 device;
    u32 direct;
};

BPF_F_TABLE("hash", struct file_key, struct watched_file, watched, WATCHED_MAX, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct chunk_key, u32, chunks, CHUNKS_MAX, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct file_key, u32, files, FILES_MAX, BPF_F_NO_PREALLOC);
BPF_TABLE("array", u32, struct volume_state, volumes, VOLUMES_MAX);
BPF_TABLE("hash", u64, struct write_under_way, writes, WRITES_MAX);

/* How many of `files` the volumes of a slot have taken since the reader last emptied it, which sets
 * it back. One that has its share loses its own marks, and leaves the others theirs. */
BPF_TABLE("array", u32, u64, shares, VOLUMES_MAX);


/* What was last written on a processor, to tell pages that a write dirties from those of a fault. */
struct last_write {
    u64 thread;
    u64 inode;
    u64 start;
    u64 bytes;
    u32 device;
    u32 pad;
};
BPF_TABLE("percpu_array", u32, struct last_write, last_writes, 1);

/* Counters, per processor: marks set, files and volumes marked for lack of room, ranges too long,
 * writes under way that had no room, so that their end may not be recognised. The reader takes a
 * change of that one for the loss of every volume's marks. */
#define COUNT_MARKS 0
#define COUNT_FILES_FULL 1
#define COUNT_VOLUMES_FULL 2
#define COUNT_LONG_RANGES 3
#define COUNT_WRITES_FULL 4
BPF_TABLE("percpu_array", u32, u64, counts, 5);

static void count(u32 which)
{
    u64 *value = counts.lookup(&which);
    if (value)
        (*value)++;
}

static void mark_volume(u32 number, int lost)
{
    u32 slot = number % VOLUMES_MAX;
    struct volume_state *state = volumes.lookup(&slot);
    if (!state)
        return;
    __sync_fetch_and_add(&state->marked, 1);
    if (lost) {
        __sync_fetch_and_add(&state->lost, 1);
        count(COUNT_VOLUMES_FULL);
    }
}

static int has_share(u32 number)
{
    u32 slot = number % VOLUMES_MAX;
    u64 *taken = shares.lookup(&slot);
    if (!taken || *taken >= FILES_SHARE_MAX)
        return 0;
    __sync_fetch_and_add(taken, 1);
    return 1;
}

static struct watched_file *watched_at(u32 device, u64 inode)
{
    struct file_key key = {.inode = inode, .device = device};
    return watched.lookup(&key);
}

static void mark_file(struct watched_file *file, u32 device, u64 inode, u32 kind)
{
    struct file_key key = {.inode = inode, .device = device, .kind = kind};
    u32 volume = file->volume, *marked = files.lookup(&key);
    /* A mark of a volume's number that was given up is nobody's. */
    if (marked && *marked == volume)
        return;
    count(COUNT_MARKS);
    mark_volume(volume, !has_share(volume) || files.update(&key, &volume) != 0);
}

static void mark_range(struct watched_file *file, u32 device, u64 inode, u64 start, u64 bytes,
                       u32 kind)
{
    struct chunk_key key = {.inode = inode, .device = device, .kind = kind};
    u32 bits = kind == STORED ? MAPPED_BITS : file->chunk_bits & 31;
    u64 first = start >> bits;
    u64 more = ((start + (bytes ? bytes - 1 : 0)) >> bits) - first;
    u32 volume = file->volume, set = 0, *marked;
    long full = 0;

    if (more >= RANGE_CHUNKS_MAX) {
        count(COUNT_LONG_RANGES);
        mark_file(file, device, inode, kind);
        return;
    }
    /* The verifier follows every way through this loop, hence so little in it. */
    for (u32 i = 0; i < RANGE_CHUNKS_MAX; i++) {
        if (i > more)
            break;
        key.chunk = first + i;
        marked = chunks.lookup(&key);
        if (!marked || *marked != volume) {
            full |= chunks.update(&key, &volume);
            set = 1;
        }
    }
    if (!set)
        return;
    count(COUNT_MARKS);
    mark_volume(volume, 0);
    if (full) {
        count(COUNT_FILES_FULL);
        mark_file(file, device, inode, kind);
    }
}

static void range_changed(u32 device, u64 inode, u64 start, u64 bytes, u32 kind)
{
    struct watched_file *file = watched_at(device, inode);
    if (file)
        mark_range(file, device, inode, start, bytes, kind);
}

/* Data that a write has copied, or is about to copy and tells again after. */
static void written(struct watched_file *file, u32 device, u64 inode, u64 start, u64 bytes)
{
    u32 zero = 0;
    struct last_write *last = last_writes.lookup(&zero);
    mark_range(file, device, inode, start, bytes, DONE);
    if (last) {
        last->thread = bpf_get_current_pid_tgid();
        last->inode = inode;
        last->start = start;
        last->bytes = bytes;
        last->device = device;
    }
}

static void file_changed(u32 device, u64 inode, u32 kind)
{
    struct watched_file *file = watched_at(device, inode);
    if (file)
        mark_file(file, device, inode, kind);
}

/* Remembers what this thread writes, until its steps or its end are told. */
static void write_begins(u32 device, u64 inode, u64 start, u64 bytes, u32 direct)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct write_under_way write = {
        .inode = inode, .start = start, .bytes = bytes, .device = device, .direct = direct};
    if (writes.update(&thread, &write))
        count(COUNT_WRITES_FULL);
}
