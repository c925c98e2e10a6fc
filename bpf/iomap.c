/* The loop of iomap over the extents of one operation: XFS's buffered writes, and direct I/O of
 * ext4 and XFS, through read(2)'s relatives, AIO and io_uring.
 *
 * The loop is told before each extent and once more after the last, so what is told of a thread
 * marks the whole range of its write again and again. IOMAP_WRITE comes from the format.
 *
 * Direct I/O ends by itself, maybe long after the thread went on. Its end tells where, but not
 * whether it was a write, hence `direct`: how many writes are under way from one position. */

struct direct_key {
    u64 inode;
    u64 start;
    u32 device;
    u32 pad;
};

BPF_F_TABLE("hash", struct direct_key, u32, direct, WRITES_MAX, BPF_F_NO_PREALLOC);

TRACEPOINT_PROBE(iomap, iomap_dio_rw_begin)
{
    /* Whether it is watched matters when it ends: it may be watched from now on. */
    write_begins(args->dev, args->ino, args->pos, args->count, 1);
    return 0;
}

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

TRACEPOINT_PROBE(iomap, iomap_iter)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct write_under_way *write = writes.lookup(&thread);
    struct watched_file *file;

    if (!write || write->inode != args->ino || write->device != args->dev)
        return 0;
    file = watched_at(write->device, write->inode);
    if (!(args->flags & IOMAP_WRITE) || !(file || write->direct)) {
        writes.delete(&thread);
        return 0;
    }
    if (write->direct) {
#if DIRECT_END
        direct_begins(write);
#endif
        if (file)
            mark_range(file, write->device, write->inode, write->start, write->bytes, STARTED);
        writes.delete(&thread);
        return 0;
    }
    written(file, write->device, write->inode, write->start, write->bytes);
    if (args->pos >= (loff_t)(write->start + write->bytes))
        writes.delete(&thread);
    return 0;
}
