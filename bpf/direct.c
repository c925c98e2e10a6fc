/* Direct I/O, through write(2)'s relatives, AIO and io_uring. Its end is what marks, and tells where.
 *
 * What is waited for by its own thread ends there, before that thread can be frozen; `writes` has it.
 * The rest ends by itself, maybe long after its thread went on or was frozen: `direct` counts how many
 * such writes are under way from one position, and the reader waits for them in a freeze. Files are
 * counted watched or not, since one may be watched from now on.
 *
 * KI_WRITE comes from the format: only asynchronous I/O has it in all kernels. */

#define BEGUN 1 /* in `writes`: a read or a write, iomap's loop will tell */
#define WAITED_FOR 2
#define GOES_ON 3 /* asynchronous, likewise */

struct direct_key {
    u64 inode;
    u64 start;
    u32 device;
    u32 pad;
};

struct direct_writes {
    u64 under_way;
    u64 since; /* monotonic, ns */
};

BPF_F_TABLE("hash", struct direct_key, struct direct_writes, direct, WRITES_MAX, BPF_F_NO_PREALLOC);

TRACEPOINT_PROBE(iomap, iomap_dio_rw_begin)
{
    write_begins(args->dev, args->ino, args->pos, args->count, args->aio ? GOES_ON : BEGUN);
    return 0;
}

static void direct_begins(u64 thread, struct write_under_way *write)
{
    struct direct_key key = {
        .inode = write->inode, .start = write->start, .device = write->device};
    struct direct_writes none = {.since = bpf_ktime_get_ns()}, *writes_of;

    if (write->direct != GOES_ON) {
        write->direct = WAITED_FOR;
        return;
    }
    writes_of = direct.lookup_or_try_init(&key, &none);
    if (writes_of)
        __sync_fetch_and_add(&writes_of->under_way, 1);
    else
        count(COUNT_WRITES_FULL);
    writes.delete(&thread);
}

static void direct_ended(u32 device, u64 inode, u64 start, s64 bytes)
{
    struct watched_file *file = watched_at(device, inode);
    if (file && bytes > 0)
        mark_range(file, device, inode, start, bytes, DONE);
    else if (file)
        mark_file(file, device, inode, DONE);
}

TRACEPOINT_PROBE(iomap, iomap_dio_complete)
{
    u64 thread = bpf_get_current_pid_tgid();
    struct direct_key key = {.inode = args->ino, .device = args->dev};
    struct direct_writes *writes_of;
    struct write_under_way *write;

    /* The position is the one after what was written. */
    key.start = args->ret > 0 ? args->pos - args->ret : args->pos;
    if (!args->aio) {
        write = writes.lookup(&thread);
        if (write && write->direct == WAITED_FOR && write->inode == args->ino) {
            direct_ended(args->dev, args->ino, key.start, args->ret);
            writes.delete(&thread);
        }
        return 0;
    }
    writes_of = direct.lookup(&key);
    if (!writes_of && !(args->ki_flags & KI_WRITE))
        return 0;
    direct_ended(args->dev, args->ino, key.start, args->ret);
    /* After the mark: who sees that nothing is under way finds the mark. A read takes nothing. */
    if (writes_of && (args->ki_flags & KI_WRITE)) {
        __sync_fetch_and_add(&writes_of->under_way, -1);
        if (!writes_of->under_way)
            direct.delete(&key);
    }
    return 0;
}
