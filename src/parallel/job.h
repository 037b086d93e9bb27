/* This rank's place in the job: which shards of the grid are its own, and how sums over a batch meet. */
#ifndef RK_PARALLEL_JOB_H
#define RK_PARALLEL_JOB_H

#include "parallel/comm.h"

typedef struct rk__job {
    rk_ctx *ctx;
    rk_comm *comm;
    int rank, ranks;
    rk_subtree *part; /* of all ranks, in order of the leaves */
    int parts;
    int *first;          /* (ranks + 1) rank r has part[first[r]] to part[first[r + 1] - 1] */
    float *gather;       /* (parts, n) of the sum at hand */
    int64_t gather_size; /* floats */
} rk__job;

/* [C] Joins the ranks of ctx->comm over the ctx->data_shards of the grid and makes ctx->meet theirs; *out
 * lives as long as ctx. One rank alone: fine, nothing meets. Errors: RK_ECONFIG if there are more ranks than
 * shards. */
rk_status rk__job_open(rk_ctx *ctx, rk__job **out);

/* Subtrees of this rank, and the first of them. */
int rk__job_parts(const rk__job *j);
const rk_subtree *rk__job_part(const rk__job *j, int p);
/* Sets ctx->grid for a pass over this rank's part of a batch of `samples`. */
void rk__job_grid(const rk__job *j, int64_t samples);

/* [C] x (n) becomes the sum over all ranks, in order of rank: counts, which have no rounding. */
rk_status rk__job_add_counts(rk__job *j, const char *name, int64_t n, int64_t *x);

#endif
