/* ext4: an inode was freed, so that its number may come back as another file. */

TRACEPOINT_PROBE(ext4, ext4_free_inode)
{
    file_changed(args->dev, args->ino, REUSED);
    return 0;
}
