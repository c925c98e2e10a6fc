/* Pages of a shared mapping that become storable: the fault marks the page dirty before the store.
 *
 * No later store is seen until the page was written out; the reader writes out what is marked
 * before it reads it.
 *
 * The event names the disk, of which a watched file's file system may be one of several partitions.
 *
 * Pages that a write dirties are not of interest, since the write is traced itself. A large page that
 * starts before the write is taken for the write's own while the write's mark waits for the reader. */

/* File systems that hold volumes, by the disk that they lie on, in slots from 0 on. */
struct place {
    u32 disk; /* major << 20 | minor */
    u32 slot;
};
BPF_TABLE("hash", struct place, u32, places, PLACES_MAX);

static u32 disk_named(const char *name)
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

/* Where a page that a write dirties may start. Without page faults, which tell of any mapping, a store
 * beside a write must be told from it; there are no large pages then on file systems that are watched. */
static u64 first_of_write(struct last_write *last)
{
    u32 bits = FAULTS ? MAPPED_BITS : PAGE_BITS;
    return last->start >> bits << bits;
}

static int dirtied_by_write(u32 device, u64 inode, u64 position)
{
    u32 zero = 0, *marked;
    struct last_write *last = last_writes.lookup(&zero);
    struct watched_file *file;
    struct chunk_key key = {.inode = inode, .device = device, .kind = DONE};

    if (!last || last->thread != bpf_get_current_pid_tgid() || last->inode != inode ||
        last->device != device)
        return 0;
    if (position < first_of_write(last) || position >= last->start + last->bytes)
        return 0;
    file = watched_at(device, inode);
    if (!file)
        return 0;
    key.chunk = last->start >> (file->chunk_bits & 31);
    marked = chunks.lookup(&key);
    return marked && *marked == file->volume;
}

TRACEPOINT_PROBE(writeback, writeback_dirty_folio)
{
    u64 position = (u64)args->index << PAGE_BITS;
    struct place place = {};
    char name[16] = {};
    u32 *device;

    bpf_probe_read_kernel(name, 12, (void *)args->name);
    place.disk = disk_named(name);
    for (u32 i = 0; i < DISK_PLACES_MAX; i++) {
        place.slot = i;
        device = places.lookup(&place);
        if (!device)
            break;
        if (!dirtied_by_write(*device, args->ino, position))
            range_changed(*device, args->ino, position, 1 << PAGE_BITS, STORED);
    }
    return 0;
}
