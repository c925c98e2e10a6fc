/* XFS, buffered writes.
 *
 * XFS itself tells only that a write begins, and when a shared mapping is about to be stored to.
 * iomap's loop (iomap.c) tells the steps of a write. */

TRACEPOINT_PROBE(xfs, xfs_file_buffered_write)
{
    struct watched_file *file = watched_at(args->dev, args->ino);
    if (file)
        write_begins(args->dev, args->ino, args->offset, args->count, 0);
    return 0;
}
