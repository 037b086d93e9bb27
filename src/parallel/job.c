#include "parallel/job.h"

#include "parallel/tree.h"

#include <stdlib.h>
#include <string.h>

static void job_free(void *arg)
{
    rk__job *j = arg;
    free(j->part);
    free(j->first);
    free(j->gather);
    free(j);
}

static rk_status share_out(rk__job *j)
{
    const int shards = j->ctx->data_shards;
    if (j->ranks > shards)
        return rk_fail(
            j->ctx, RK_ECONFIG,
            "%d ranks, but grid.data is %d: a rank needs a shard of the batch. Start at most %d ranks, or a "
            "new run with a larger grid.data",
            j->ranks, shards, shards);
    j->first = rk__calloc(j->ctx, (size_t)j->ranks + 1, sizeof *j->first);
    j->part = rk__calloc(j->ctx, (size_t)shards, sizeof *j->part);
    if (!j->first || !j->part)
        return RK_ENOMEM;
    for (int r = 0; r < j->ranks; r++) {
        j->first[r] = j->parts;
        j->parts += rk_order_parts(shards, j->ranks, r, j->part + j->parts);
    }
    j->first[j->ranks] = j->parts;
    return RK_OK;
}

/* Everyone gets all parts of the sum and adds them up: for what is small. */
static rk_status meet_sum(void *arg, const char *name, int64_t n, const void *parts, void *out)
{
    rk__job *j = arg;
    rk_leg *leg;
    const float **from;
    rk_status st;
    if (j->parts * n > j->gather_size) {
        free(j->gather);
        j->gather = rk__calloc(j->ctx, (size_t)(j->parts * n), sizeof *j->gather);
        j->gather_size = j->gather ? j->parts * n : 0;
        if (!j->gather)
            return RK_ENOMEM;
    }
    leg = rk__step_record(j->ctx, (size_t)j->ranks * sizeof *leg);
    from = rk__step_record(j->ctx, (size_t)j->parts * sizeof *from);
    if (!leg || !from)
        return RK_ENOMEM;
    for (int r = 0; r < j->ranks; r++)
        leg[r] = (rk_leg){ j->gather + j->first[r] * n,
                           (size_t)((j->first[r + 1] - j->first[r]) * n) * sizeof(float) };
    memcpy(leg[j->rank].data, parts, leg[j->rank].bytes);
    st = rk__comm_all_gather(j->comm, name, leg);
    for (int p = 0; p < j->parts; p++)
        from[p] = j->gather + p * n;
    return st ? st : rk__tree_add(j->ctx, n, j->parts, j->part, from, out);
}

rk_status rk__job_open(rk_ctx *ctx, rk__job **out)
{
    *out = NULL;
    RK_TRY(rk_failed(ctx));
    rk__job *j = rk__calloc(ctx, 1, sizeof *j);
    if (!j || rk__at_close(ctx, job_free, j)) {
        free(j);
        return RK_ENOMEM;
    }
    *j = (rk__job){ .ctx = ctx, .comm = ctx->comm, .rank = ctx->rank, .ranks = ctx->ranks };
    RK_TRY(share_out(j));
    if (j->ranks > 1)
        ctx->meet = (rk__meet){ j, meet_sum };
    *out = j;
    return RK_OK;
}

int rk__job_parts(const rk__job *j)
{
    return j->first[j->rank + 1] - j->first[j->rank];
}

const rk_subtree *rk__job_part(const rk__job *j, int p)
{
    return &j->part[j->first[j->rank] + p];
}

void rk__job_grid(const rk__job *j, int64_t samples)
{
    rk__grid *g = &j->ctx->grid;
    const int shards = j->ctx->data_shards, parts = rk__job_parts(j);
    int64_t begin = 0, end = 0;
    *g = (rk__grid){ .batch_samples = j->ranks > 1 ? samples : 0, .parts = parts > 1 ? parts : 0 };
    for (int p = 0; p < parts; p++) {
        const rk_subtree *part = rk__job_part(j, p);
        int64_t lo;
        rk_order_samples(samples, shards, *part, &lo, &end);
        if (p == 0)
            begin = lo;
        g->end[p] = end - begin;
        g->leaves[p] = j->ctx->exact ? part->leaves : 1;
        g->shards += part->leaves;
    }
    g->segments = g->leaves[0];
}

rk_status rk__job_add_counts(rk__job *j, const char *name, int64_t n, int64_t *x)
{
    if (j->ranks == 1)
        return rk_failed(j->ctx);
    int64_t *all = rk__calloc(j->ctx, (size_t)(n * j->ranks), sizeof *all);
    if (!all)
        return RK_ENOMEM;
    rk_status st = rk__comm_all_values(j->comm, name, x, (size_t)n * sizeof *x, all);
    for (int64_t i = 0; i < n && !st; i++) {
        x[i] = 0;
        for (int r = 0; r < j->ranks; r++)
            x[i] += all[r * n + i];
    }
    free(all);
    return st;
}
