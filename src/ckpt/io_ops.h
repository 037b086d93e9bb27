/* What a save does to the disk, as a table: tests put faults, recorders and lying disks here. All return -1
 * and set errno on failure, like the calls they stand for.
 *
 * Also rk__fault: a failure that belongs to one save or one file, not to the context (the writer's thread
 * must not touch that). */
#ifndef RK_CKPT_IO_OPS_H
#define RK_CKPT_IO_OPS_H

#include <rankine/base.h>

#include <sys/types.h>

typedef struct rk__io_ops {
    void *user;
    int (*open_at)(void *user, int dir, const char *name, int flags, mode_t mode);
    ssize_t (*write)(void *user, int fd, const void *p, size_t n);
    int (*sync)(void *user, int fd);
    int (*close)(void *user, int fd);
    int (*make_dir)(void *user, int dir, const char *name, mode_t mode);
    int (*rename)(void *user, int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
    int (*unlink)(void *user, int dir, const char *name, int flags);
    int (*free_bytes)(void *user, int fd, uint64_t *bytes);
    /* A hint that these bytes may go to the disk now; may be NULL. */
    void (*push)(void *user, int fd, off_t at, off_t n);
} rk__io_ops;

extern const rk__io_ops rk__io_system;

typedef struct rk__fault {
    rk_status st;
    bool newer; /* a snapshot of a newer format: not bad, so never passed over */
    char msg[900];
} rk__fault;

/* Keeps the first message; returns its status. */
rk_status rk__fault_set(rk__fault *f, rk_status st, const char *fmt, ...) RK_PRINTF(3, 4);
/* "WHAT NAME: reason of errno" as RK_EIO. */
rk_status rk__fault_errno(rk__fault *f, const char *what, const char *name);

/* ---- the same with EINTR and short writes taken care of ---- */
int rk__io_open(const rk__io_ops *io, int dir, const char *name, int flags, mode_t mode, rk__fault *f);
int rk__io_make_dir(const rk__io_ops *io, int dir, const char *name, mode_t mode); /* -1 and errno */
rk_status rk__io_write_all(const rk__io_ops *io, int fd, const void *p, size_t n, const char *name,
                           rk__fault *f);
/* fsync, once: after a failed one the kernel may have dropped the pages, so trying again proves nothing. */
rk_status rk__io_sync(const rk__io_ops *io, int fd, const char *name, rk__fault *f);
rk_status rk__io_close(const rk__io_ops *io, int fd, const char *name, rk__fault *f);
/* fsync of a folder given by name under dir. */
rk_status rk__io_sync_dir(const rk__io_ops *io, int dir, const char *name, rk__fault *f);
/* Renames only if `to` does not exist (errno EEXIST otherwise), also where the file system lacks
 * RENAME_NOREPLACE. */
int rk__io_rename_new(const rk__io_ops *io, int dir, const char *from, const char *to);
/* Removes a folder of files. Best effort: what cannot be removed is left for the next sweep. */
void rk__io_remove_tree(const rk__io_ops *io, int dir, const char *name);

/* Reads a whole file of at most `max` bytes under dir, never through a link. *p is malloc'ed. */
rk_status rk__read_small(int dir, const char *name, size_t max, unsigned char **p, size_t *n, rk__fault *f);

#endif
