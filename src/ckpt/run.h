/* An opened run folder from the inside. */
#ifndef RK_CKPT_RUN_H
#define RK_CKPT_RUN_H

#include "ckpt/plan.h"
#include "ckpt/snap.h"
#include "ckpt/snapshot.h"
#include "core/clock.h"
#include "parallel/comm.h"

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
    rk__slab *slabs;
    int *part; /* of the plan, one a slab */
    int n;
    rk__image image;
} rk__shard;

/* One rank alone: weights, buffers and averages; optimiser state. Several: one file a writer. */
enum { RK__SHARDS = 2 };

/* What the writer's thread is given to do. */
typedef enum rk__work {
    RK__WRITE_ALL,   /* one rank alone: the whole save */
    RK__WRITE_FILES, /* this rank's file */
    RK__WRITE_NAME   /* the first rank: the manifest, and the snapshot's name */
} rk__work;

/* A save of several ranks in flight; the context's thread alone looks at it. The same on all ranks. */
typedef enum rk__phase { RK__IDLE, RK__FILES, RK__NAMING } rk__phase;

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

    rk_comm *comm; /* NULL: one rank alone */
    int writers;
    rk__plan plan;
    uint64_t key; /* of the state that plan and shards are for */
    rk__shard shard[RK__SHARDS];
    rk__manifest job;           /* of the save in flight: owned by the writer while busy */
    int first_file[RK__SHARDS]; /* of job, that the shards are; -1: an empty shard */
    rk__phase phase;
    int attempt;
    rk__fault first; /* why the first attempt failed */
    double begun;

    pthread_t writer;
    bool has_writer;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool busy, quit; /* guarded by mutex, as is all below */
    rk__work work;
    rk__fault work_fault; /* of RK__WRITE_FILES and RK__WRITE_NAME */
    bool ended;           /* outcome not yet told */
    rk__outcome outcome;
    int64_t saved_step; /* newest durable, -1: none yet */
    size_t cost_bytes;
    double cost_seconds, cost_stall;
};

/* Folder names of committed snapshots, ascending by step; *steps malloc'ed. */
rk_status rk__steps_in(int snap_dir, int64_t **steps, int *n, rk__fault *f);
/* Opens the folder `path` without a lock and its snap/ (-1 if there is none). */
rk_status rk__open_read_only(const char *path, int *dir, int *snap_dir, rk__fault *f);
/* Keeps the newest `keep`, every keep_every-th and the best; `bad` ones go. */
void rk__prune(rk_run *run);
/* [C] The steps that the first rank sees in the folder, so that all go by one list; *steps malloc'ed. c NULL:
 * one rank alone. */
rk_status rk__list_steps(rk_ctx *ctx, rk_comm *c, int snap_dir, const char *path, int64_t **steps, int *n);
/* The newest good snapshot, or step; passed-over ones are told to warn and noted in run->bad. */
rk_status rk__open_good(rk_ctx *ctx, int snap_dir, const char *path, int64_t step, rk__snap *out,
                        rk_warn_fn *warn, void *user, rk_run *run);
/* ---- stage.c ---- */
/* A copy of the list's table in the order of names; the names are shared. */
rk_status rk__sorted(const rk_state *st, rk_state *out);
uint64_t rk__state_key(const rk_state *sorted, bool pieces); /* of names, kinds, types and shapes */
/* [C] Plan and files for this state. */
rk_status rk__lay_out(rk_run *run, const rk_state *sorted, rk__fault *f);
rk_status rk__stage_manifest(rk_run *run, const rk_state *sorted, const rk_snap_info *info);
/* [C] The values into the files' images; ranks that do not write send theirs. */
rk_status rk__copy_values(rk_run *run, const rk_state *sorted);
void rk__free_shards(rk_run *run);

/* ---- together.c: saves of several ranks; all [C] ---- */
rk_status rk__together_save(rk_run *run, const rk_state *st, const rk_snap_info *info);
/* What can be done without waiting for files, or all of it. */
rk_status rk__together_advance(rk_run *run, bool wait);
/* The same fault on every rank: that of the first rank that has one, which its message then names (bad data
 * are nobody's). */
rk_status rk__together_agree(rk_comm *c, const char *name, rk__fault *f);

/* ---- save.c ---- */
void rk__work_begin(rk_run *run, rk__work work); /* in the writer's thread, or here if there is none */
bool rk__work_ended(rk_run *run, bool wait, rk__fault *f);
void rk__note(rk_run *run, const rk__outcome *out, size_t bytes, double seconds);
/* The commit at hand. */
rk__commit rk__commit_of(rk_run *run);
rk_status rk__writer_start(rk_run *run);
void rk__writer_stop(rk_run *run);

#endif
