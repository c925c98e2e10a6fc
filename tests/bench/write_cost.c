/* usage: write_cost FILE BYTES COUNT: overwrites the start of FILE, nanoseconds of CPU per pwrite.
 *
 * CPU time, because whatever else runs on the machine is in the time by the clock. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    static char page[65536];
    struct timespec from, to;
    long bytes, count;
    int file;

    if (argc != 4)
        return 2;
    bytes = atol(argv[2]);
    count = atol(argv[3]);
    file = open(argv[1], O_WRONLY);
    if (file < 0 || bytes < 1 || bytes > (long)sizeof page || count < 1)
        return 2;
    memset(page, 7, sizeof page);
    for (long i = 0; i < 1000; i++)
        if (pwrite(file, page, bytes, 0) != bytes)
            return 1;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    for (long i = 0; i < count; i++)
        if (pwrite(file, page, bytes, 0) != bytes)
            return 1;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    printf("%.1f\n", ((to.tv_sec - from.tv_sec) * 1e9 + (to.tv_nsec - from.tv_nsec)) / count);
    return 0;
}
