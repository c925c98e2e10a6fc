/* The start of direct I/O, with the whole range; iomap.c tells whether it is a write. */

TRACEPOINT_PROBE(iomap, iomap_dio_rw_begin)
{
    /* Whether it is watched matters when it ends: it may be watched from now on. */
    write_begins(args->dev, args->ino, args->pos, args->count, 1);
    return 0;
}
