/* The loader from the inside.
 *
 * Everything about a batch is a function of the cursor (samples served since the start): the epoch, the
 * order, the sample numbers, the augmentation. So threads fill batches in any order, and a loader that is set
 * to a cursor goes on as if it had come from there. */
#ifndef RK_IO_LOADER_H
#define RK_IO_LOADER_H

#include <pthread.h>

#include "core/ctx.h"
#include "core/philox.h"
#include "io/ds.h"

/* One global batch and the part of it that this rank serves. */
typedef struct rk__plan {
    int64_t cursor, next; /* before and after it */
    int64_t epoch, pos;   /* first sample of the global batch in the order of the epoch */
    int64_t global;       /* its samples */
    int64_t lo, n;        /* local part: [lo, lo + n) of them */
    int64_t index;
    bool epoch_end;
} rk__plan;

typedef enum rk__slot_state {
    RK__SLOT_EMPTY,
    RK__SLOT_FILLING,
    RK__SLOT_READY,
    RK__SLOT_HELD
} rk__slot_state;

typedef struct rk__slot {
    rk__slot_state state;
    rk__plan plan;
    rk_ctx err; /* a worker's own place for a failure */
    rk_tensor *tx,
        *ty; /* persistent; a batch's tensors are views of them. NULL: the device has its own memory */
    float *x;
    void *y;
    int64_t *id;
} rk__slot;

/* What samples are and how they are changed: constant while workers run. */
typedef struct rk__recipe {
    rk__ds *ds;
    rk__ds_info in;
    int64_t all, held_out; /* samples in the split; of them for validation */
    int64_t part;          /* samples of the part that is served */
    bool validation, shuffle, split;
    uint64_t seed, shuffle_key, split_key;
    int64_t elems;      /* of one x */
    int64_t c, h, w;    /* image; 0: none */
    double *mean, *std; /* (groups): x = (raw - mean) / std */
    float *scale;       /* (groups, 2) for bytes: x = raw * first + second */
    int shift, crop_pad;
    bool flip;
    double noise;
} rk__recipe;

struct rk_loader {
    rk_ctx *ctx;
    bool dead; /* inert */
    rk__recipe r;
    int64_t batch, usable; /* samples of a global batch; of an epoch that are served */
    int64_t epochs;
    int shards, first_shard, own_shards; /* of each global batch */
    int n_threads, prefetch;
    bool drop_last, reconstruction;
    rk_data_cfg cfg; /* as it was asked for, with strings of our own; schema and share are NULL */
    int64_t cursor;
    /* ---- prefetch ---- */
    bool started, locks;
    rk__slot *slot;
    int n_slots;
    int64_t *ids; /* of the batch handed out */
    pthread_mutex_t lock;
    pthread_cond_t work, ready;
    pthread_t *thread;
    int running;
    bool stop, at_end;   /* at_end: nothing more to fill */
    int64_t fill_cursor; /* where the next batch to be filled begins */
};

/* loader_order.c */
int64_t rk__loader_sample(const rk__recipe *r, int64_t epoch, int64_t pos);
bool rk__loader_plan(const rk_loader *l, int64_t cursor, rk__plan *p); /* false: past the last epoch */
/* loader_stats.c: fills r->mean and r->std by the mode ("none", "scale", "standard") from the training part.
 */
rk_status rk__loader_measure(rk_ctx *ctx, rk__recipe *r, const char *mode);
rk_status rk__loader_scales(rk_ctx *ctx, rk__recipe *r); /* what follows from mean and std */
/* loader_fill.c: the local part of a batch. scratch: 8 * elems bytes. */
rk_status rk__loader_fill(const rk__recipe *r, const rk__plan *p, void *scratch, float *x, void *y,
                          int64_t *id, rk_ctx *err);
/* loader_prefetch.c */
rk_status rk__prefetch_start(rk_loader *l);
void rk__prefetch_stop(rk_loader *l);
rk_status rk__prefetch_restart(rk_loader *l); /* after a stop; drops what was filled ahead */
void rk__prefetch_reset(rk_loader *l);        /* drops what was filled ahead; goes on from l->cursor */
/* Waits for the batch at l->cursor. NULL: the end. The slot is HELD. */
rk__slot *rk__prefetch_take(rk_loader *l);
void rk__prefetch_release(rk_loader *l, rk__slot *s);
int rk__prefetch_reclaim(
    rk_loader *l); /* releases what no tensor uses any more; returns how many are still held */

#endif
