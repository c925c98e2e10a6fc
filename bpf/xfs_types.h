/* Names of types in XFS's event formats; that the format gives these sizes is checked before. */

typedef u64 xfs_ino_t;
typedef s64 xfs_fsize_t;

/* Of pages, until Linux 6.6; nothing looks at it. */
enum page_entry_size { PE_SIZE_PTE };
