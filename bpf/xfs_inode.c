/* XFS: an inode is inactivated, after which its number may come back as another file; or its size,
 * attributes or timestamps change. */

TRACEPOINT_PROBE(xfs, xfs_inode_inactivating)
{
    file_changed(args->dev, args->ino, REUSED);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_setattr)
{
    file_changed(args->dev, args->ino, LOOK);
    return 0;
}

TRACEPOINT_PROBE(xfs, xfs_update_time)
{
    file_changed(args->dev, args->ino, LOOK);
    return 0;
}
