/* An opened run folder from the inside. */
#ifndef RK_CKPT_RUN_H
#define RK_CKPT_RUN_H

#include "ckpt/snap.h"
#include "ckpt/snapshot.h"

#include <pthread.h>

/* Who owns the folder. */
typedef struct rk__lock {
    int fd;       /* LOCK, flocked; -1: not held */
    int lease_fd; /* lease.json */
    uint64_t epoch;
    uint64_t beats;
} rk__lock;

/* Takes LOCK under run_dir and writes the lease. RK_ELOCKED names the holder. */
rk_status rk__lock_take(rk__lock *l, const rk__io_ops *io, int run_dir, const char *path, rk__fault *f);
/* RK_OK as long as nobody has taken the folder over. */
rk_status rk__lock_check(const rk__lock *l, int run_dir, rk__fault *f);
void rk__lock_beat(rk__lock *l); /* tells other hosts that we live: every RK__BEAT_S seconds */
void rk__lock_drop(rk__lock *l, const rk__io_ops *io, int run_dir);

enum { RK__BEAT_S = 2 };

/* One file of a snapshot, laid out once and filled at every save. */
typedef struct rk__shard {
    char name[32];
    unsigned kinds;
    rk__slab *slabs;
    int *entry; /* of the sorted state, one a slab */
    int n;
    rk__image image;
} rk__shard;

enum { RK__SHARDS = 2 }; /* weights, buffers and averages; optimiser state */

typedef struct rk__outcome {
    rk_status st;
    int64_t step;
    char msg[900];
} rk__outcome;

struct rk_run {
    rk_ctx *ctx;
    char *path;
    int dir, snap_dir;
    bool read_only, compress, sync_write;
    int keep;
    int64_t keep_every, best_step;
    const rk__io_ops *io;
    rk__lock lock;
    int64_t *bad; /* steps that a load found bad: pruned after the next commit */
    int n_bad;

    rk__shard shard[RK__SHARDS];
    rk__manifest job; /* of the save in flight: owned by the writer while busy */

    pthread_t writer;
    bool has_writer;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool busy, quit; /* guarded by mutex, as is all below */
    bool ended;      /* outcome not yet told */
    rk__outcome outcome;
    int64_t saved_step; /* newest durable, -1: none yet */
    size_t cost_bytes;
    double cost_seconds, cost_stall;
};

double rk__now(void); /* seconds, monotonic */
/* Folder names of committed snapshots, ascending by step; *steps malloc'ed. */
rk_status rk__steps_in(int snap_dir, int64_t **steps, int *n, rk__fault *f);
/* Opens the folder `path` without a lock and its snap/ (-1 if there is none). */
rk_status rk__open_read_only(const char *path, int *dir, int *snap_dir, rk__fault *f);
/* Keeps the newest `keep`, every keep_every-th and the best; `bad` ones go. */
void rk__prune(rk_run *run);
/* The newest good snapshot, or step; passed-over ones are told to warn and noted in run->bad. */
rk_status rk__open_good(rk_ctx *ctx, int snap_dir, const char *path, int64_t step, rk__snap *out,
                        rk_warn_fn *warn, void *user, rk_run *run);
rk_status rk__writer_start(rk_run *run);
void rk__writer_stop(rk_run *run);

#endif
