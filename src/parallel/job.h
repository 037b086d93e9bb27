/* This rank's place in the job: which shards of the grid are its own, and how sums over a batch meet. */
#ifndef RK_PARALLEL_JOB_H
#define RK_PARALLEL_JOB_H

#include "parallel/nodes.h"

typedef struct rk__span {
    int64_t from, to; /* elements [from, to) */
} rk__span;

static inline int64_t rk__span_size(rk__span x)
{
    return x.to - x.from;
}

typedef struct rk__job {
    rk_ctx *ctx;
    rk_comm *comm;           /* of the ranks that have the same boxes of cut parameters */
    rk_comm *tensors;        /* the same ranks, for the device's memory */
    int rank, ranks;         /* among them */
    rk__nodes nodes;         /* theirs */
    rk_comm *beside;         /* of those that hold cut parameters side by side; NULL: nobody else */
    rk_comm *beside_tensors; /* the same ranks, for the device's memory */
    float *shared[2];        /* taken in turn: what was read last is not written yet */
    int64_t shared_size;
    int turn;
    rk_subtree *part; /* of all ranks, in order of the leaves */
    int parts;
    int *first;              /* (ranks + 1) rank r has part[first[r]] to part[first[r + 1] - 1] */
    struct rk__grads *grads; /* of an optimiser that was made without a training loop of ours; or NULL */
    float *gather;           /* (parts, n) of the sum at hand; the device's memory */
    int64_t gather_size;     /* floats */
    struct rk__trace *trace; /* parallel/trace.h; NULL: none */
} rk__job;

/* [C] Joins the ranks of ctx->comm over the grid, ctx->data_shards and ctx->shards.count: neighbours in
 * groups of `tensor` hold cut parameters side by side, the groups share the batch. Makes ctx->meet and
 * ctx->shards theirs; *out lives as long as ctx, and is ctx->job;
 * batches that loaders hand out set ctx->grid from now on. One rank alone: fine, nothing meets. Errors:
 * RK_ECONFIG if tensor does not divide the ranks or is more than the tensor shards, or there are more groups
 * than data shards. */
rk_status rk__job_open(rk_ctx *ctx, int tensor, rk__job **out);

/* A job of this rank by itself beside the real one: its passes have all shards of the grid and meet nobody's.
 * *out lives as long as ctx. */
rk_status rk__job_alone(rk_ctx *ctx, rk__job **out);

/* Are sums over the ranks the communicator's own, whose pieces stand in order of rank? */
bool rk__job_any_order(const rk__job *j);

/* Shares the leaves of a tree out over ranks: rank r gets part[first[r]] to part[first[r + 1] - 1], in order
 * of the leaves. part (leaves), first (ranks + 1); returns the number of parts. */
int rk__share_leaves(int leaves, int ranks, rk_subtree *part, int *first);

/* Subtrees of this rank, and the first of them. */
int rk__job_parts(const rk__job *j);
const rk_subtree *rk__job_part(const rk__job *j, int p);
/* Sets ctx->grid for a pass over this rank's part of a batch of `samples`. */
void rk__job_grid(const rk__job *j, int64_t samples);

/* [C] x (n) becomes the sum over the ranks that share the batch, in order of rank: counts, which have no
 * rounding. */
rk_status rk__job_add_counts(rk__job *j, const char *name, int64_t n, int64_t *x);
/* [C] The same over all ranks of the job. */
rk_status rk__job_add_all(rk__job *j, const char *name, int64_t n, int64_t *x);

#endif
