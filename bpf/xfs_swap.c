/* XFS: the content of two files is exchanged, as defragmentation does. */

TRACEPOINT_PROBE(xfs, xfs_swap_extent_before)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}
