/* Page faults of mappings: that a file was mapped, even by a process that has ended by now.
 *
 * The reader then takes into account that a store to a page which a write has dirtied makes no event
 * of its own. Told before the store; who has the file mapped still is found in /proc. */

TRACEPOINT_PROBE(filemap, mm_filemap_fault)
{
    file_changed(args->s_dev, args->i_ino, MAPPED);
    return 0;
}

TRACEPOINT_PROBE(filemap, mm_filemap_map_pages)
{
    file_changed(args->s_dev, args->i_ino, MAPPED);
    return 0;
}
