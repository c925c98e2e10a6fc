/* XFS: a range of two files is exchanged; since 6.10. */

TRACEPOINT_PROBE(xfs, xfs_exchrange_mappings)
{
    file_changed(args->dev, args->ip1_ino, STARTED);
    file_changed(args->dev, args->ip2_ino, STARTED);
    return 0;
}
