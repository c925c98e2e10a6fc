/* Pages of a shared mapping that become storable: the fault marks the page dirty before the store.
 *
 * No later store is seen until the page was written out; the reader writes out what is marked
 * before it reads it.
 *
 * Pages that a write dirties are not of interest, since the write is traced itself. A large page that
 * starts before the write is taken for the write's own while the write's mark waits for the reader. */

static u32 device_named(const char *name)
{
    u32 major = 0, minor = 0, colon = 0;
    for (u32 i = 0; i < 12; i++) {
        char c = name[i];
        if (c == ':' && !colon)
            colon = 1;
        else if (c < '0' || c > '9')
            return c == 0 && colon ? major << 20 | minor : 0;
        else if (colon)
            minor = minor * 10 + (c - '0');
        else
            major = major * 10 + (c - '0');
    }
    return 0;
}

static int dirtied_by_write(u64 inode, u64 position)
{
    u32 zero = 0;
    struct last_write *last = last_writes.lookup(&zero);
    struct watched_file *file;
    struct chunk_key key = {.inode = inode, .kind = DONE};

    if (!last || last->thread != bpf_get_current_pid_tgid() || last->inode != inode)
        return 0;
    if (position < (last->start >> MAPPED_BITS << MAPPED_BITS) ||
        position >= last->start + last->bytes)
        return 0;
    file = watched_at(last->device, inode);
    if (!file)
        return 0;
    key.device = last->device;
    key.chunk = last->start >> (file->chunk_bits & 31);
    return chunks.lookup(&key) != 0;
}

TRACEPOINT_PROBE(writeback, writeback_dirty_folio)
{
    u64 position = (u64)args->index << PAGE_BITS;
    char name[16] = {};

    if (dirtied_by_write(args->ino, position))
        return 0;
    bpf_probe_read_kernel(name, 12, (void *)args->name);
    range_changed(device_named(name), args->ino, position, 1 << PAGE_BITS, STORED);
    return 0;
}
