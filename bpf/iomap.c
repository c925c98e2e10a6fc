/* The loop of iomap over the extents of one operation: XFS's buffered writes, and direct I/O of
 * ext4 and XFS, through read(2)'s relatives, AIO and io_uring.
 *
 * The loop is told before each extent and once more after the last, so what is told of a thread
 * marks the whole range of its write again and again. IOMAP_WRITE comes from the format.
 *
 * Direct I/O ends by itself, maybe long after the thread went on. Its end tells where, but not
 * whether it was a write, hence `direct`: how many writes are under way from one position.
 *
 * Where the kernel tells neither start nor end of direct I/O (DIRECT_TOLD is 0) the loop tells the start,
 * before the first extent and again after each; of a write to the beginning of a file it tells no
 * length the first time. `direct_files` keeps when it did so of a file last, watched or not: such a
 * write may end after somebody has begun to watch. */

struct direct_key {
    u64 inode;
    u64 start;
    u32 device;
    u32 pad;
};

BPF_F_TABLE("hash", struct direct_key, u32, direct, WRITES_MAX, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct file_key, u64, direct_files, WRITES_MAX, BPF_F_NO_PREALLOC);

#if DIRECT_TOLD
static void direct_begins(struct write_under_way *write)
{
    struct direct_key key = {
        .inode = write->inode, .start = write->start, .device = write->device};
    u32 one = 1, *under_way = direct.lookup(&key);
    if (under_way)
        __sync_fetch_and_add(under_way, 1);
    else if (direct.update(&key, &one))
        count(COUNT_WRITES_FULL);
}
#else
static void direct_step(u32 device, u64 inode, u64 start, u64 bytes)
{
    struct file_key key = {.inode = inode, .device = device};
    u64 now = bpf_ktime_get_ns(); /* CLOCK_MONOTONIC */

    /* First this: the reader watches a file before it looks here. */
    if (direct_files.update(&key, &now))
        count(COUNT_WRITES_FULL);
    range_changed(device, inode, start, bytes, STARTED);
}
#endif

TRACEPOINT_PROBE(iomap, iomap_iter)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct write_under_way *write = writes.lookup(&thread);
    struct watched_file *file;

#if !DIRECT_TOLD
    if ((args->flags & IOMAP_WRITE) && (args->flags & IOMAP_DIRECT)) {
        direct_step(args->dev, args->ino, args->pos, args->length);
        return 0;
    }
#endif
    if (!write || write->inode != args->ino || write->device != args->dev)
        return 0;
    file = watched_at(write->device, write->inode);
#if DIRECT_TOLD
    if (write->direct && (args->flags & IOMAP_WRITE)) {
        direct_begins(write);
        if (file)
            mark_range(file, write->device, write->inode, write->start, write->bytes, STARTED);
        writes.delete(&thread);
        return 0;
    }
#endif
    if (!file || !(args->flags & IOMAP_WRITE)) {
        writes.delete(&thread);
        return 0;
    }
    written(file, write->device, write->inode, write->start, write->bytes);
    if (args->pos >= (loff_t)(write->start + write->bytes))
        writes.delete(&thread);
    return 0;
}
