/* ext4, buffered writes: write(2), append, splice, sendfile, copy_file_range, io_uring, AIO.
 *
 * The end of each step is traced, after the data was copied to the page cache. */

static void ext4_wrote(u32 device, u64 inode, u64 start, u64 bytes)
{
    struct watched_file *file = watched_at(device, inode);
    if (file)
        written(file, device, inode, start, bytes);
}

TRACEPOINT_PROBE(ext4, ext4_da_write_end)
{
    ext4_wrote(args->dev, args->ino, args->pos, args->len);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_write_end)
{
    ext4_wrote(args->dev, args->ino, args->pos, args->len);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_journalled_write_end)
{
    ext4_wrote(args->dev, args->ino, args->pos, args->len);
    return 0;
}
