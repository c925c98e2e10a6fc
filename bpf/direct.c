/* Direct I/O, through write(2)'s relatives, AIO and io_uring: it ends by itself, maybe long after its
 * thread went on or was frozen. Its end is what marks; it tells where, but not whether it was a write,
 * hence `direct`: how many writes are under way from one position. The reader waits for them in a
 * freeze. Files are counted watched or not, since one may be watched from now on. */

struct direct_key {
    u64 inode;
    u64 start;
    u32 device;
    u32 pad;
};

struct direct_writes {
    u64 under_way;
    u64 since; /* monotonic, ns */
};

BPF_F_TABLE("hash", struct direct_key, struct direct_writes, direct, WRITES_MAX, BPF_F_NO_PREALLOC);

TRACEPOINT_PROBE(iomap, iomap_dio_rw_begin)
{
    write_begins(args->dev, args->ino, args->pos, args->count, 1);
    return 0;
}

static void direct_begins(struct write_under_way *write)
{
    struct direct_key key = {
        .inode = write->inode, .start = write->start, .device = write->device};
    struct direct_writes none = {.since = bpf_ktime_get_ns()}, *writes_of;

    writes_of = direct.lookup_or_try_init(&key, &none);
    if (writes_of)
        __sync_fetch_and_add(&writes_of->under_way, 1);
    else
        count(COUNT_WRITES_FULL);
}

TRACEPOINT_PROBE(iomap, iomap_dio_complete)
{
    struct direct_key key = {.inode = args->ino, .device = args->dev};
    struct direct_writes *writes_of;
    struct watched_file *file;

    /* The position is the one after what was written. */
    key.start = args->ret > 0 ? args->pos - args->ret : args->pos;
    writes_of = direct.lookup(&key);
    if (!writes_of)
        return 0;
    file = watched_at(args->dev, args->ino);
    if (file && args->ret > 0)
        mark_range(file, args->dev, args->ino, key.start, args->ret, DONE);
    else if (file)
        mark_file(file, args->dev, args->ino, DONE);
    /* After the mark: who sees that nothing is under way finds the mark. */
    __sync_fetch_and_add(&writes_of->under_way, -1);
    if (!writes_of->under_way)
        direct.delete(&key);
    return 0;
}
