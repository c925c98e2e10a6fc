/* ext4: an inode was freed, so that its number may come back as another file; or it changes in any
 * way, such as in its size. */

TRACEPOINT_PROBE(ext4, ext4_free_inode)
{
    file_changed(args->dev, args->ino, REUSED);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_mark_inode_dirty)
{
    file_changed(args->dev, args->ino, LOOK);
    return 0;
}
