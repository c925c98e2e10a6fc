/* The end of direct I/O: the position is the one after what was written. */

TRACEPOINT_PROBE(iomap, iomap_dio_complete)
{
    struct watched_file *file = watched_at(args->dev, args->ino);
    struct direct_key key = {.inode = args->ino, .device = args->dev};
    u32 *under_way;

    key.start = args->ret > 0 ? args->pos - args->ret : args->pos;
    under_way = direct.lookup(&key);
    if (!under_way)
        return 0;
    __sync_fetch_and_add(under_way, -1);
    if (!*under_way)
        direct.delete(&key);
    if (!file)
        return 0;
    if (args->ret > 0)
        mark_range(file, args->dev, args->ino, key.start, args->ret, DONE);
    else
        mark_file(file, args->dev, args->ino, DONE);
    return 0;
}
