/* ext4: truncation, and the kinds of fallocate(2) that change what a reader sees. */

TRACEPOINT_PROBE(ext4, ext4_truncate_enter)
{
    /* The size is changed and the pages are dropped before. */
    file_changed(args->dev, args->ino, DONE);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_punch_hole)
{
    range_changed(args->dev, args->ino, args->offset, args->len, STARTED);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_zero_range)
{
    range_changed(args->dev, args->ino, args->offset, args->len, STARTED);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_collapse_range)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}

TRACEPOINT_PROBE(ext4, ext4_insert_range)
{
    file_changed(args->dev, args->ino, STARTED);
    return 0;
}
