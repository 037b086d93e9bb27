#include "parallel/average.h"

#include "core/tape.h"
#include "parallel/scatter.h"
#include "parallel/tree.h"

#include <stdlib.h>

enum { ALIGN = 16 }; /* floats of a cache line: pieces begin at one */

struct rk__average {
    rk__job *job;
    rk__average_cfg cfg;
    rk_subtree *part; /* of all ranks, in order of the workers */
    int *first;       /* (ranks + 1) rank r has part[first[r]] to part[first[r + 1] - 1] */
    int own;          /* parts of this rank */
    rk__scatter scatter;
    rk__span *piece;      /* (ranks) of the vector */
    float *sum;           /* (own, n) over this rank's subtrees */
    float *mean;          /* this rank's piece of it */
    float *outer;         /* (n) */
    float *momentum;      /* of this rank's piece */
    float *room;          /* of rk__scatter */
    rk_leg *send;         /* (ranks) */
    rk_leg *recv;         /* (trips, ranks) of rk__scatter */
    rk_request **request; /* (trips) */
    const float **from;   /* (workers of a subtree) */
    rk_subtree *leaf;     /* (workers) */
};

static void average_free(void *arg)
{
    rk__average *a = arg;
    rk__scatter_free(&a->scatter);
    free(a->part);
    free(a->first);
    free(a->piece);
    free(a->send);
    free(a->recv);
    free(a->request);
    free(a->from);
    free(a->leaf);
    free(a);
}

int rk__average_first(const rk__job *j, int workers, int rank)
{
    return (int)((int64_t)workers * rank / j->ranks);
}

/* ---- making ---- */

static rk_status share_out(rk__average *a)
{
    const rk__job *j = a->job;
    const int64_t n = a->cfg.n;
    rk__share_leaves(a->cfg.workers, j->ranks, a->part, a->first);
    for (int i = 0; i < j->ranks; i++)
        a->piece[j->nodes.whose[i]] =
            (rk__span){ n * i / j->ranks / ALIGN * ALIGN,
                        i + 1 < j->ranks ? n * (i + 1) / j->ranks / ALIGN * ALIGN : n };
    a->own = a->first[j->rank + 1] - a->first[j->rank];
    for (int k = 0; k < a->cfg.workers; k++)
        a->leaf[k] = (rk_subtree){ k, 1 };
    RK_TRY(rk__scatter_init(&a->scatter, a->job, a->part, a->first));
    a->recv = rk__calloc(j->ctx, (size_t)a->scatter.trips * (size_t)j->ranks, sizeof *a->recv);
    a->request = rk__calloc(j->ctx, (size_t)a->scatter.trips, sizeof(rk_request *));
    return rk_failed(j->ctx);
}

/* Zeroed; shared: other ranks read it in place. NULL: recorded. */
static float *take(const rk__average *a, int64_t n, bool shared)
{
    rk__job *j = a->job;
    if (shared && j->ranks > 1)
        return j->tensors->table->alloc(j->tensors, (size_t)n * sizeof(float));
    return rk__data(rk_tensor_make(j->ctx, RK_F32, RK_SHAPE(n > 0 ? n : 1)));
}

static rk_status take_memory(rk__average *a)
{
    const rk__job *j = a->job;
    const int64_t piece = rk__span_size(a->piece[j->rank]), room = rk__scatter_room(&a->scatter, a->piece);
    a->sum = take(a, a->cfg.n * a->own, true);
    a->outer = take(a, a->cfg.n, true);
    a->mean = j->ranks > 1 ? take(a, piece, false) : a->sum;
    a->momentum = a->cfg.nesterov ? take(a, piece, false) : NULL;
    a->room = room ? take(a, room, false) : NULL;
    return rk_failed(j->ctx);
}

rk_status rk__average_make(rk__job *j, const rk__average_cfg *cfg, rk__average **out)
{
    rk_ctx *ctx = j->ctx;
    *out = NULL;
    RK_TRY(rk_failed(ctx));
    RK_ASSERT(cfg->workers >= j->ranks && !(cfg->workers & (cfg->workers - 1)));
    rk__average *a = rk__calloc(ctx, 1, sizeof *a);
    if (!a || rk__at_close(ctx, average_free, a)) {
        free(a);
        return RK_ENOMEM;
    }
    *a = (rk__average){ .job = j, .cfg = *cfg };
    a->part = rk__calloc(ctx, (size_t)cfg->workers, sizeof *a->part);
    a->first = rk__calloc(ctx, (size_t)j->ranks + 1, sizeof *a->first);
    a->piece = rk__calloc(ctx, (size_t)j->ranks, sizeof *a->piece);
    a->send = rk__calloc(ctx, (size_t)j->ranks, sizeof *a->send);
    a->from = rk__calloc(ctx, (size_t)cfg->workers, sizeof *a->from);
    a->leaf = rk__calloc(ctx, (size_t)cfg->workers, sizeof *a->leaf);
    RK_TRY(rk_failed(ctx));
    RK_TRY(share_out(a));
    RK_TRY(take_memory(a));
    *out = a;
    return RK_OK;
}

/* ---- the mean ---- */

rk_status rk__average_put(rk__average *a, int64_t at, int64_t n, const float *value)
{
    const rk__job *j = a->job;
    const int first = rk__average_first(j, a->cfg.workers, j->rank);
    for (int p = 0; p < a->own; p++) {
        const rk_subtree *part = &a->part[a->first[j->rank] + p];
        for (int i = 0; i < part->leaves; i++)
            a->from[i] = value + (part->first + i - first) * n;
        RK_TRY(rk__tree_add(j->ctx, n, part->leaves, a->leaf + part->first, a->from,
                            a->sum + p * a->cfg.n + at));
    }
    return RK_OK;
}

/* [C] a->mean becomes the sum over all workers of this rank's piece. */
static rk_status add_all(rk__average *a)
{
    const rk__job *j = a->job;
    if (j->ranks == 1)
        return RK_OK; /* it is: one subtree, all of the tree */
    const rk__scattered sum = { .flat = a->sum,
                                .stride = a->cfg.n,
                                .piece = a->piece,
                                .recv = a->recv,
                                .request = a->request,
                                .room = a->room };
    RK_TRY(rk__scatter_start(&a->scatter, "workers' weights", &sum));
    RK_TRY(rk__scatter_pass_on(&a->scatter, "workers' weights by node", &sum));
    return rk__scatter_add(&a->scatter, &sum, a->mean);
}

/* ---- the step ---- */

/* This rank's piece of the outer vector moves; the mean is used up. */
static rk_status move_piece(rk__average *a)
{
    const rk__job *j = a->job;
    rk_ctx *ctx = j->ctx;
    const rk_kernels *k = rk__kernels(ctx, RK_F32);
    const int64_t lo = a->piece[j->rank].from, n = a->piece[j->rank].to - lo;
    int64_t moved = a->cfg.nesterov ? a->cfg.moved - lo : 0;
    moved = moved < 0 ? 0 : moved > n ? n : moved;
    float *w = a->outer + lo;
    if (moved > 0) {
        const rk_optim_args step = {
            .lr = a->cfg.lr, .grad_scale = 1, .momentum = a->cfg.momentum, .nesterov = true
        };
        const rk_optim_piece piece = { .n = moved, .w = w, .g = a->mean, .m = a->momentum };
        RK_TRY(k->sub(ctx->dev, moved, w, a->mean, 0, a->mean));
        RK_TRY(k->sgd(ctx->dev, &step, 1, &piece));
    }
    return rk__device_copy(ctx, (size_t)(n - moved) * sizeof *w, a->mean + moved, w + moved);
}

/* [C] Everyone's pieces of the outer vector to everyone. */
static rk_status gather(rk__average *a)
{
    const rk__job *j = a->job;
    if (j->ranks == 1)
        return RK_OK;
    for (int r = 0; r < j->ranks; r++)
        a->send[r] =
            (rk_leg){ a->outer + a->piece[r].from, (size_t)rk__span_size(a->piece[r]) * sizeof(float) };
    return rk__comm_all_gather(j->tensors, "averaged weights", a->send);
}

rk_status rk__average_meet(rk__average *a)
{
    const rk__job *j = a->job;
    rk_ctx *ctx = j->ctx;
    const int64_t n = rk__span_size(a->piece[j->rank]);
    RK_TRY(rk_failed(ctx));
    RK_TRY(add_all(a));
    rk_status st =
        n ? rk__kernels(ctx, RK_F32)->mul_scalar(ctx->dev, n, a->mean, 1.0 / a->cfg.workers, a->mean) : RK_OK;
    if (!st && n)
        st = move_piece(a);
    if (st)
        return rk_fail(ctx, st, "the workers' weights cannot be averaged");
    return gather(a);
}

/* ---- what there is ---- */

float *rk__average_outer(const rk__average *a)
{
    return a->outer;
}

float *rk__average_momentum(const rk__average *a, int64_t *from, int64_t *to)
{
    *from = a->piece[a->job->rank].from;
    *to = a->piece[a->job->rank].to;
    return a->momentum;
}

size_t rk__average_bytes(const rk__average *a)
{
    const rk__job *j = a->job;
    int64_t far;
    return (size_t)(rk__scatter_bytes(&a->scatter, a->piece, &far) +
                    rk__span_size(a->piece[j->rank]) * (j->ranks - 1) * (int64_t)sizeof(float));
}
