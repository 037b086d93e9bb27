/* One snapshot on disk: written by rk__snap_commit, opened by rk__snap_open once every byte of it has been
 * checked. */
#ifndef RK_CKPT_SNAP_H
#define RK_CKPT_SNAP_H

#include "ckpt/h5image.h"
#include "ckpt/manifest.h"

enum { RK__SNAP_NAME = 64 };

/* "step-000000000120" */
void rk__snap_name(int64_t step, char name[RK__SNAP_NAME]);
/* The step of such a name, -1 if it is none. */
int64_t rk__snap_step(const char *name);

/* ---- writing; any thread ---- */

typedef struct rk__commit {
    const rk__io_ops *io;
    int snap_dir;            /* RUN/snap */
    rk__manifest *m;         /* complete but for sizes and sums of the files */
    const rk__image *images; /* of files first .. first + n - 1 of m, which are written here */
    int first, n;
    /* Asked right before the rename: RK_OK if the run folder is still ours. May be NULL. */
    rk_status (*still_ours)(void *user, rk__fault *f);
    void *user;
} rk__commit;

/* The commit protocol of docs/snapshots.md. RK_OK: the snapshot is durable under its name. Otherwise nothing
 * of it is left under that name (an older snapshot of the same step stays). */
rk_status rk__snap_commit(const rk__commit *c, rk__fault *f);

/* The same in steps, for several ranks: one makes the temporary folder, each writes its files, then one
 * writes the manifest and gives the snapshot its name. */
rk_status rk__snap_begin(const rk__commit *c, rk__fault *f);
rk_status rk__snap_write(const rk__commit *c, rk__fault *f);
rk_status rk__snap_finish(const rk__commit *c, rk__fault *f);
void rk__snap_drop(const rk__commit *c); /* gives it up */

/* ---- reading ---- */

typedef struct rk__snap {
    rk__manifest m;
    int dir;          /* -1: not open */
    int *fd;          /* one a file, -1: not open */
    rk__h5_file **h5; /* one a file, NULL: not open */
    char name[RK__SNAP_NAME];
} rk__snap;

/* Opens the snapshot in folder `name` under `snap_dir`. Sizes and sums of every file are checked before HDF5
 * sees it, and then that each piece is where the manifest says. The context must not have failed, and has not
 * afterwards. */
rk_status rk__snap_open(rk_ctx *ctx, int snap_dir, const char *name, rk__snap *out, rk__fault *f);
/* The same by several readers: this one, number `share` of `shares`, checks its share of the files' bytes, in
 * up to `threads` threads, and of the pieces. It may be read when all of them have found nothing wrong. */
rk_status rk__snap_open_share(rk_ctx *ctx, int snap_dir, const char *name, int share, int shares, int threads,
                              rk__snap *out, rk__fault *f);
/* Its manifest alone. */
rk_status rk__snap_manifest(rk_ctx *ctx, int snap_dir, const char *name, rk__manifest *m, rk__fault *f);
void rk__snap_close(rk__snap *s);
/* Elements at .. at + n - 1 of a piece of a logical tensor (at 0: its first), from wherever they lie. */
rk_status rk__snap_read_piece(rk__snap *s, const rk__m_tensor *t, const rk_piece *piece, int64_t at,
                              int64_t n, void *host, rk__fault *f);
/* A whole logical tensor, row-major, into rk__m_tensor_bytes(t) bytes. */
rk_status rk__snap_read(rk__snap *s, const rk__m_tensor *t, void *host, rk__fault *f);

#endif
