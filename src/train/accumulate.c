#include "train/accumulate.h"

#include "core/order.h"
#include "nn/module.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_LEVELS = 30 };

static void free_lists(void *arg)
{
    free(arg);
}

static void *list_make(rk_ctx *ctx, size_t n, size_t size)
{
    void *p = rk__calloc(ctx, n ? n : 1, size);
    if (p && rk__at_close(ctx, free_lists, p)) {
        free(p);
        return NULL;
    }
    return p;
}

/* The running statistics of a batch norm are summed up over micro-batches as gradients are. */
static void add_running(rk__accumulator *a, const rk_module *m)
{
    if (rk__moves_running(m)) {
        a->trained[a->n_trained++] = m->mean;
        a->trained[a->n_trained++] = m->var;
    }
    for (const rk_module *c = m->first; c; c = c->next)
        add_running(a, c);
}

static rk_status finish_running(const rk__accumulator *a, const rk_module *m, int64_t shards)
{
    if (rk__moves_running(m)) {
        RK_TRY(rk__running_finish(m->mean, m->a.batch_norm.cfg.momentum, shards));
        RK_TRY(rk__running_finish(m->var, m->a.batch_norm.cfg.momentum, shards));
    }
    for (const rk_module *c = m->first; c; c = c->next)
        RK_TRY(finish_running(a, c, shards));
    return RK_OK;
}

rk_status rk__accumulator_init(rk__accumulator *a, rk_ctx *ctx, rk_module *net, rk__loss_fn *loss, void *arg,
                               int64_t micro)
{
    *a = (rk__accumulator){ .ctx = ctx, .net = net, .loss = loss, .loss_arg = arg, .micro = micro };
    int n = rk_param_count(net);
    a->trained = list_make(ctx, (size_t)n, sizeof *a->trained);
    a->sums = list_make(ctx, (size_t)n * MAX_LEVELS, sizeof *a->sums);
    if (!a->trained || !a->sums)
        return rk_failed(ctx);
    for (int i = 0; i < n; i++) {
        rk_param p = rk_param_at(net, i);
        if (!p.buffer && !p.frozen)
            a->trained[a->n_trained++] = p.tensor;
    }
    if (net)
        add_running(a, net->root);
    return RK_OK;
}

/* ---- the whole batch at once ---- */

static rk_status whole(rk__accumulator *a, const rk_batch *b, double *loss_value)
{
    rk_tensor *loss = a->loss(a->loss_arg, rk_forward(a->net, b->x), b->y);
    *loss_value = rk_item(loss);
    RK_TRY(rk_failed(a->ctx));
    return isfinite(*loss_value) ? rk_backward(loss) : RK_OK;
}

/* ---- in pieces ---- */

/* The least power of two of pieces such that none has more than `micro` samples. */
static int64_t pieces_of(int64_t n, int64_t micro)
{
    int64_t pieces = 1;
    while (n > micro * pieces) /* halving leaves at most ceil(n / pieces) samples */
        pieces *= 2;
    return pieces;
}

static void bounds(int64_t n, int64_t pieces, int64_t p, int64_t *lo, int64_t *hi)
{
    rk_order_leaf(n, (int)pieces, (int)p, lo, hi);
}

static rk_status make_level(rk__accumulator *a, int level)
{
    if (level < a->levels)
        return RK_OK;
    for (int i = 0; i < a->n_trained; i++)
        a->sums[level * a->n_trained + i] = rk_tensor_make(a->ctx, RK_F32, rk_tensor_shape(a->trained[i]));
    a->levels = level + 1;
    return rk_failed(a->ctx);
}

/* The gradient a parameter got in the subtree at hand; one that got none is a sum of nothing: +0. */
static rk_status working_gradient(rk_tensor *t, rk_tensor **g)
{
    *g = rk_grad(t);
    if (*g)
        return RK_OK;
    rk_order order;
    *g = rk__grad_begin(t, 1, &order);
    if (!*g)
        return rk_failed(t->ctx);
    rk_status st = rk__kernels(t->ctx, t->dtype)->fill(t->ctx->dev, rk__size(*g), 0, rk__data(*g));
    return st ? rk_fail(t->ctx, st, "a gradient cannot be cleared") : RK_OK;
}

/* Adds the left sibling's sums of `level` to the working gradients. */
static rk_status add_level(rk__accumulator *a, int level)
{
    const rk_kernels *k = rk__kernels(a->ctx, RK_F32);
    for (int i = 0; i < a->n_trained; i++) {
        rk_tensor *g, *left = a->sums[level * a->n_trained + i];
        RK_TRY(working_gradient(a->trained[i], &g));
        rk_status st = k->add(a->ctx->dev, rk__size(g), rk__data(left), rk__data(g), 0, rk__data(g));
        if (st)
            return rk_fail(a->ctx, st, "gradients cannot be added");
    }
    return RK_OK;
}

/* Puts the working gradients aside as the sums of `level`: memory changes hands, nothing is copied. */
static rk_status put_aside(rk__accumulator *a, int level)
{
    RK_TRY(make_level(a, level));
    for (int i = 0; i < a->n_trained; i++) {
        rk_tensor *g, *to = a->sums[level * a->n_trained + i];
        RK_TRY(working_gradient(a->trained[i], &g));
        rk__storage *s = g->storage;
        g->storage = to->storage;
        to->storage = s;
        rk_grad_zero(a->trained[i]);
    }
    return RK_OK;
}

/* Subtree number `done` (from 0) of `subtrees` is complete: climbs as far as its right edges go. */
static rk_status climb(rk__accumulator *a, int64_t done, int64_t subtrees)
{
    int level = 0;
    for (int64_t d = done; d & 1; d >>= 1)
        RK_TRY(add_level(a, level++));
    return done + 1 < subtrees ? put_aside(a, level) : RK_OK;
}

static rk_status one_piece(rk__accumulator *a, const rk_batch *b, int64_t lo, int64_t hi, rk_tensor **out)
{
    rk_tensor *x = rk_slice(b->x, 0, lo, hi), *y = b->y == b->x ? x : rk_slice(b->y, 0, lo, hi);
    rk_tensor *z = rk_forward(a->net, x);
    *out = rk_detach(z); /* holds the values when the walk has passed */
    return rk_backward(a->loss(a->loss_arg, z, y));
}

/* The loss as the whole batch has it: from all outputs at once, in the order of the whole. */
static rk_status whole_loss(rk__accumulator *a, const rk_batch *b, rk_tensor **outs, int n, double *value)
{
    rk_no_grad_begin(a->ctx);
    *value = rk_item(a->loss(a->loss_arg, rk_concat(outs, n, 0), b->y));
    rk_no_grad_end(a->ctx);
    return rk_failed(a->ctx);
}

/* Once: batches of a run do not grow. */
static rk_status make_outs(rk__accumulator *a, int64_t pieces)
{
    if (pieces <= a->outs_cap)
        return RK_OK;
    a->outs = list_make(a->ctx, (size_t)pieces, sizeof *a->outs);
    a->outs_cap = a->outs ? pieces : 0;
    return a->outs ? RK_OK : RK_ENOMEM;
}

static rk_status in_pieces(rk__accumulator *a, const rk_batch *b, uint64_t step, int64_t pieces,
                           double *loss_value)
{
    rk_ctx *ctx = a->ctx;
    const rk__grid grid = ctx->grid;
    int64_t shards = ctx->data_shards, per_shard = pieces > shards ? pieces / shards : 1;
    int64_t subtrees = pieces / per_shard;
    int n_outs = 0;
    rk_status st = make_outs(a, pieces);
    ctx->grid = (rk__grid){ .segments = pieces > shards ? 1 : (int)(shards / pieces),
                            .chain = per_shard > 1,
                            .shards = pieces > shards ? 1 : (int)(shards / pieces),
                            .part = true,
                            .batch_samples = b->n };
    for (int64_t p = 0; p < pieces && !st; p++) {
        int64_t lo, hi;
        bounds(b->n, pieces, p, &lo, &hi);
        rk_set_step(ctx, step, b->first + lo);
        if (hi > lo)
            st = one_piece(a, b, lo, hi, &a->outs[n_outs++]);
        if (!st && (p + 1) % per_shard == 0)
            st = climb(a, p / per_shard, subtrees);
    }
    ctx->grid = grid;
    rk_set_step(ctx, step, b->first);
    if (!st)
        st = finish_running(a, a->net->root, b->n < shards ? b->n : shards);
    if (!st)
        st = whole_loss(a, b, a->outs, n_outs, loss_value);
    return st ? st : rk_failed(ctx);
}

rk_status rk__accumulate(rk__accumulator *a, const rk_batch *b, uint64_t step, double *loss_value)
{
    *loss_value = 0;
    RK_TRY(rk_failed(a->ctx));
    rk_set_step(a->ctx, step, b->first);
    int64_t pieces = a->micro > 0 ? pieces_of(b->n, a->micro) : 1;
    return pieces > 1 ? in_pieces(a, b, step, pieces, loss_value) : whole(a, b, loss_value);
}
