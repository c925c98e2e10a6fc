/* The loop of iomap over the extents of one operation: XFS's buffered writes, and direct I/O of
 * ext4 and XFS.
 *
 * The loop is told before each extent and once more after the last, so what is told of a thread
 * marks the whole range of its buffered write again and again. It is also what tells a direct write
 * (direct.c) from a read. The bits of its flags come from the format.
 *
 * Where the kernel tells no end of direct I/O (DIRECT_END is 0) the loop tells its start, before the
 * first extent and again after each; of a write to the beginning of a file it tells no length the
 * first time. `direct_files` keeps when it did so of a file last, watched or not: such a write may end
 * after somebody has begun to watch. */

#if !DIRECT_END
BPF_F_TABLE("hash", struct file_key, u64, direct_files, WRITES_MAX, BPF_F_NO_PREALLOC);

static void direct_step(u32 device, u64 inode, u64 start, u64 bytes)
{
    struct file_key key = {.inode = inode, .device = device};
    u64 now = bpf_ktime_get_ns(); /* CLOCK_MONOTONIC */

    /* First this: the reader watches a file before it looks here. */
    if (direct_files.update(&key, &now))
        count(COUNT_WRITES_FULL);
    range_changed(device, inode, start, bytes, UNDER_WAY);
}
#endif

TRACEPOINT_PROBE(iomap, iomap_iter)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct write_under_way *write;
    struct watched_file *file;

    if (!(args->flags & IOMAP_WRITE)) {
#if DIRECT_END
        if (args->flags & IOMAP_DIRECT)
            writes.delete(&thread); /* What was begun is a read. */
#endif
        return 0;
    }
#if !DIRECT_END
    if (args->flags & IOMAP_DIRECT) {
        direct_step(args->dev, args->ino, args->pos, args->length);
        return 0;
    }
#endif
    write = writes.lookup(&thread);
    if (!write || write->inode != args->ino || write->device != args->dev)
        return 0;
#if DIRECT_END
    if (write->direct) {
        /* A fault, or zeroing, of the same thread and file may come in between. */
        if (args->flags & IOMAP_DIRECT)
            direct_begins(thread, write);
        return 0;
    }
#endif
    file = watched_at(write->device, write->inode);
    if (file)
        written(file, write->device, write->inode, write->start, write->bytes);
    if (!file || args->pos >= (loff_t)(write->start + write->bytes))
        writes.delete(&thread);
    return 0;
}
