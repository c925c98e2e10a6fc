/* XFS: direct I/O is about to end, where iomap doesn't tell that it has ended: what was written becomes
 * visible right after, however long it took since its start. */

TRACEPOINT_PROBE(xfs, xfs_end_io_direct_write)
{
    range_changed(args->dev, args->ino, args->offset, args->count, UNDER_WAY);
    return 0;
}
