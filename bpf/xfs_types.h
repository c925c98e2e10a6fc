/* Names of types in XFS's event formats; that the format gives these sizes is checked before. */

typedef u64 xfs_ino_t;
typedef s64 xfs_fsize_t;
typedef u64 xfs_extnum_t;
