/* The same as xfs_filemap_fault.c, by the name that it has in later kernels. */

TRACEPOINT_PROBE(xfs, xfs_write_fault)
{
    file_changed(args->dev, args->ino, MAPPED);
    return 0;
}
