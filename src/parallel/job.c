#include "parallel/job.h"

#include <rankine/parallel.h>

#include "core/tape.h"
#include "parallel/comm_tables.h"
#include "parallel/grads.h"
#include "parallel/tree.h"

#include <stdlib.h>
#include <string.h>

/* Fewer floats than this are not worth a second collective. */
enum { LEAST_PIECES = 4096 };

static void job_free(void *arg)
{
    rk__job *j = arg;
    free(j->part);
    free(j->first);
    rk__nodes_free(&j->nodes);
    if (j->gather)
        j->ctx->device->release(j->ctx->dev, j->gather, (size_t)j->gather_size * sizeof(float));
    free(j);
}

int rk__share_leaves(int leaves, int ranks, rk_subtree *part, int *first)
{
    first[0] = 0;
    for (int r = 0; r < ranks; r++)
        first[r + 1] = first[r] + rk_order_parts(leaves, ranks, r, part + first[r]);
    return first[ranks];
}

static rk_status share_out(rk__job *j)
{
    const int shards = j->ctx->data_shards;
    if (j->ranks > shards)
        return rk_fail(
            j->ctx, RK_ECONFIG,
            "%d ranks, but grid.data is %d: a rank needs a shard of the batch. Start at most %d ranks, or a "
            "new run with a larger grid.data",
            j->ctx->ranks, shards, shards * (j->ctx->ranks / j->ranks));
    j->first = rk__calloc(j->ctx, (size_t)j->ranks + 1, sizeof *j->first);
    j->part = rk__calloc(j->ctx, (size_t)shards, sizeof *j->part);
    if (!j->first || !j->part)
        return RK_ENOMEM;
    j->parts = rk__share_leaves(shards, j->ranks, j->part, j->first);
    return RK_OK;
}

static rk_status make_gather(rk__job *j, int64_t n)
{
    rk_ctx *ctx = j->ctx;
    void *p;
    if (n <= j->gather_size)
        return RK_OK;
    RK_TRY(rk__device_alloc(ctx, (size_t)n * sizeof(float), "what ranks add up", &p));
    if (j->gather)
        ctx->device->release(ctx->dev, j->gather, (size_t)j->gather_size * sizeof(float));
    j->gather = p;
    j->gather_size = n;
    return RK_OK;
}

/* Everyone gets all parts of the sum and adds them up: for what is small. */
static rk_status meet_sum(void *arg, const char *name, int64_t n, const void *parts, void *out)
{
    rk__job *j = arg;
    rk_leg *leg;
    const float **from;
    rk_status st;
    RK_TRY(make_gather(j, j->parts * n));
    leg = rk__step_record(j->ctx, (size_t)j->ranks * sizeof *leg);
    from = rk__step_record(j->ctx, (size_t)j->parts * sizeof *from);
    if (!leg || !from)
        return RK_ENOMEM;
    for (int r = 0; r < j->ranks; r++)
        leg[r] = (rk_leg){ j->gather + j->first[r] * n,
                           (size_t)((j->first[r + 1] - j->first[r]) * n) * sizeof(float) };
    RK_TRY(rk__device_copy(j->ctx, leg[j->rank].bytes, parts, leg[j->rank].data));
    st = rk__comm_all_gather(j->tensors, name, leg);
    for (int p = 0; p < j->parts; p++)
        from[p] = j->gather + p * n;
    return st ? st : rk__tree_add(j->ctx, n, j->parts, j->part, from, out);
}

/* ---- tensor shards ---- */

/* [C] */
static rk_status make_room(rk__job *j, int64_t n)
{
    rk_comm *c = j->beside_tensors;
    if (n <= j->shared_size)
        return RK_OK;
    j->shared_size = 0;
    for (int i = 0; i < 2; i++) {
        if (j->shared[i])
            c->table->release(c, j->shared[i]);
        j->shared[i] = c->table->alloc(c, (size_t)n * sizeof(float));
        if (!j->shared[i])
            return rk_failed(j->ctx);
    }
    j->shared_size = n;
    return RK_OK;
}

/* Everyone reads everyone's subtree in full and adds: for two ranks that is as little as can be sent. More
 * share the work out, each adds a piece, and the pieces are gathered. */
static rk_status shards_sum(void *arg, const char *name, int64_t n, const void *part, void *out)
{
    rk__job *j = arg;
    rk_comm *c = j->beside_tensors;
    const int ranks = c->size;
    const bool pieces = ranks > 2 && n >= LEAST_PIECES;
    rk_leg *send = rk__step_record(j->ctx, (size_t)ranks * sizeof *send);
    rk_leg *recv = rk__step_record(j->ctx, (size_t)ranks * sizeof *recv);
    const float **from = rk__step_record(j->ctx, (size_t)ranks * sizeof *from);
    rk_subtree *leaf = rk__step_record(j->ctx, (size_t)ranks * sizeof *leaf);
    if (!send || !recv || !from || !leaf)
        return RK_ENOMEM;
    RK_TRY(make_room(j, n));
    float *mine = j->shared[j->turn ^= 1], *to = out;
    RK_TRY(rk__device_copy(j->ctx, (size_t)n * sizeof *mine, part, mine));
    int64_t lo = pieces ? n * c->rank / ranks : 0, hi = pieces ? n * (c->rank + 1) / ranks : n;
    for (int r = 0; r < ranks; r++) {
        int64_t a = pieces ? n * r / ranks : 0, b = pieces ? n * (r + 1) / ranks : n;
        send[r] = (rk_leg){ mine + a, (size_t)(b - a) * sizeof(float) };
        recv[r] = (rk_leg){ NULL, (size_t)(hi - lo) * sizeof(float) };
        leaf[r] = (rk_subtree){ r, 1 };
    }
    RK_TRY(rk__comm_exchange(c, name, send, recv));
    for (int r = 0; r < ranks; r++)
        from[r] = recv[r].data;
    RK_TRY(rk__tree_add(j->ctx, hi - lo, ranks, leaf, from, to + lo));
    for (int r = 0; r < ranks && pieces; r++)
        send[r] =
            (rk_leg){ to + n * r / ranks, (size_t)(n * (r + 1) / ranks - n * r / ranks) * sizeof(float) };
    return pieces ? rk__comm_all_gather(c, name, send) : RK_OK;
}

static rk_status shards_gather(void *arg, const char *name, const int64_t *count, const void *mine, void *all)
{
    rk__job *j = arg;
    rk_comm *c = j->beside_tensors;
    rk_leg *leg = rk__step_record(j->ctx, (size_t)c->size * sizeof *leg);
    float *at = all;
    if (!leg)
        return RK_ENOMEM;
    for (int r = 0; r < c->size; at += count[r++])
        leg[r] = (rk_leg){ at, (size_t)count[r] * sizeof *at };
    RK_TRY(rk__device_copy(j->ctx, leg[c->rank].bytes, mine, leg[c->rank].data));
    return rk__comm_all_gather(c, name, leg);
}

/* ---- the mesh ---- */

/* [C] Neighbours hold tensor shards side by side: they exchange most. */
static rk_status split(rk__job *j, int tensor)
{
    rk_ctx *ctx = j->ctx;
    rk_comm *all = ctx->comm;
    const int rank = ctx->rank, ranks = ctx->ranks;
    if (tensor > ctx->shards.count)
        return rk_fail(ctx, RK_ECONFIG, "parallel.tensor %d is more than the %d tensor shards of grid.tensor",
                       tensor, ctx->shards.count);
    if (ranks % tensor)
        return rk_fail(
            ctx, RK_ECONFIG,
            "parallel.tensor %d does not divide the %d ranks: start a multiple of %d, or use another "
            "parallel.tensor",
            tensor, ranks, tensor);
    RK_TRY(all->table->split(all, rank / tensor, rank, &j->beside));
    RK_TRY(all->table->split(all, rank % tensor, rank, &j->comm));
    j->rank = rank / tensor;
    j->ranks = ranks / tensor;
    ctx->shards.rank = rank % tensor;
    ctx->shards.ranks = tensor;
    ctx->shards.arg = j;
    ctx->shards.sum = shards_sum;
    ctx->shards.gather = shards_gather;
    return RK_OK;
}

/* The host sees the memory of the CPU; what other devices hold goes over it, or past it. */
static rk_status reach_tensors(rk__job *j)
{
    j->tensors = j->comm;
    j->beside_tensors = j->beside;
    if (!rk__on_host(j->ctx) && !j->comm)
        return rk__nccl_asked(j->ctx);
    if (rk__on_host(j->ctx) || j->comm->of_device)
        return RK_OK;
    if (j->beside)
        RK_TRY(rk__comm_of_device(j->beside, &j->beside_tensors));
    return rk__comm_of_device(j->comm, &j->tensors);
}

static void batch_begins(void *arg, int64_t global)
{
    rk__job *j = arg;
    rk__job_grid(j, global);
    if (j->grads)
        rk__grads_begin(j->grads, false);
}

static rk__job *make(rk_ctx *ctx)
{
    if (rk_failed(ctx))
        return NULL;
    rk__job *j = rk__calloc(ctx, 1, sizeof *j);
    if (j && rk__at_close(ctx, job_free, j)) {
        free(j);
        return NULL;
    }
    return j;
}

rk_status rk__job_open(rk_ctx *ctx, int tensor, rk__job **out)
{
    *out = NULL;
    rk__job *j = make(ctx);
    if (!j)
        return rk_failed(ctx);
    *j = (rk__job){ .ctx = ctx, .comm = ctx->comm, .rank = ctx->rank, .ranks = ctx->ranks };
    ctx->shards = (rk__shards){ .count = ctx->shards.count };
    ctx->meet = (rk__meet){ 0 };
    ctx->on_batch = (rk__on_batch){ 0 };
    if (tensor > 1)
        RK_TRY(split(j, tensor));
    RK_TRY(reach_tensors(j));
    RK_TRY(share_out(j));
    RK_TRY(rk__nodes_find(ctx, j->comm, j->ranks, &j->nodes));
    if (j->ranks > 1) {
        ctx->meet = (rk__meet){ j, meet_sum };
        ctx->on_batch = (rk__on_batch){ j, batch_begins };
    }
    ctx->job = j;
    *out = j;
    return RK_OK;
}

rk_status rk__job_alone(rk_ctx *ctx, rk__job **out)
{
    *out = make(ctx);
    if (!*out)
        return rk_failed(ctx);
    **out = (rk__job){ .ctx = ctx, .ranks = 1, .trace = ctx->job ? ctx->job->trace : NULL };
    RK_TRY(share_out(*out));
    return rk__nodes_find(ctx, NULL, 1, &(*out)->nodes);
}

bool rk__job_any_order(const rk__job *j)
{
    return !j->ctx->exact && j->tensors && j->tensors->table->sum;
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

static rk_status add_counts(rk_comm *c, const char *name, int64_t n, int64_t *x)
{
    int64_t *all = rk__calloc(c->ctx, (size_t)(n * c->size), sizeof *all);
    if (!all)
        return RK_ENOMEM;
    rk_status st = rk__comm_all_values(c, name, x, (size_t)n * sizeof *x, all);
    for (int64_t i = 0; i < n && !st; i++) {
        x[i] = 0;
        for (int r = 0; r < c->size; r++)
            x[i] += all[r * n + i];
    }
    free(all);
    return st;
}

rk_status rk__job_add_counts(rk__job *j, const char *name, int64_t n, int64_t *x)
{
    return j->ranks == 1 ? rk_failed(j->ctx) : add_counts(j->comm, name, n, x);
}

rk_status rk__job_add_all(rk__job *j, const char *name, int64_t n, int64_t *x)
{
    return j->ctx->ranks == 1 ? rk_failed(j->ctx) : add_counts(j->ctx->comm, name, n, x);
}

rk_status rk_sum_counts(rk_ctx *ctx, int64_t n, int64_t *x)
{
    if (!ctx || n < 0 || (n > 0 && !x))
        return RK_EUSAGE;
    RK_TRY(rk_failed(ctx));
    return ctx->job ? rk__job_add_counts(ctx->job, "counts", n, x) : RK_OK;
}
