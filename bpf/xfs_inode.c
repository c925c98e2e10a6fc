/* XFS: an inode is inactivated, after which its number may come back as another file. */

TRACEPOINT_PROBE(xfs, xfs_inode_inactivating)
{
    file_changed(args->dev, args->ino, REUSED);
    return 0;
}
