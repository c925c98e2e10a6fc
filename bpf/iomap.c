/* The loop of iomap over the extents of one operation: XFS's buffered writes, and direct I/O of
 * ext4 and XFS.
 *
 * The loop is told before each extent and once more after the last, so what is told of a thread
 * marks the whole range of its buffered write again and again. It is also what tells a direct write
 * (direct.c) from a read. The bits of its flags come from the format. */

TRACEPOINT_PROBE(iomap, iomap_iter)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct write_under_way *write;
    struct watched_file *file;

    if (!(args->flags & IOMAP_WRITE))
        return 0;
#if !DIRECT_END
    if (args->flags & IOMAP_DIRECT) {
        range_changed(args->dev, args->ino, args->pos, args->length, STARTED);
        return 0;
    }
#endif
    write = writes.lookup(&thread);
    if (!write || write->inode != args->ino || write->device != args->dev)
        return 0;
#if DIRECT_END
    if (write->direct) {
        direct_begins(write);
        writes.delete(&thread);
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
