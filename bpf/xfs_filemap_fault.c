/* XFS before Linux 6.12, where page faults are not told: a page of a mapping is about to be stored to. A
 * large page that a write has dirtied makes no other event then. */

TRACEPOINT_PROBE(xfs, xfs_filemap_fault)
{
    if (args->write_fault)
        file_changed(args->dev, args->ino, MAPPED);
    return 0;
}
