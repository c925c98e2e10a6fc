/* XFS: truncation, the kinds of fallocate(2) that change what a reader sees, shared extents. */

TRACEPOINT_PROBE(xfs, xfs_itruncate_extents_start)
{
    /* The size is changed and the pages are dropped before. */
    file_changed(args->dev, args->ino, DONE);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_free_file_space)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_zero_file_space)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_collapse_file_space)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_insert_file_space)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_reflink_remap_range)
{
    file_changed(args->dev, args->dest_ino, STARTED);
    return 0;
}
