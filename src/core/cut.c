#include "core/cut.h"

#include <math.h>
#include <string.h>

static int shards_of(const rk_ctx *ctx)
{
    return ctx->shards.count > 0 ? ctx->shards.count : 1;
}

static int ranks_of(const rk_ctx *ctx)
{
    return ctx->shards.ranks > 0 ? ctx->shards.ranks : 1;
}

int rk__cut_chains(const rk_ctx *ctx)
{
    return ctx->exact ? shards_of(ctx) / ranks_of(ctx) : 1;
}

bool rk__cut_meets(const rk_ctx *ctx)
{
    return ctx->shards.ranks > 1;
}

void rk__cut_box(const rk_ctx *ctx, int64_t n, int64_t *lo, int64_t *hi)
{
    rk_order_leaf(n, ranks_of(ctx), ctx->shards.rank, lo, hi);
}

rk_status rk__cut_sum(const char *name, rk_tensor *t)
{
    rk_ctx *ctx = t->ctx;
    void *at = rk__data(t);
    if (!at)
        return rk_failed(ctx);
    if (!rk__cut_meets(ctx))
        return RK_OK;
    if (t->dtype != RK_F32)
        return rk_fail(ctx, RK_EDTYPE, "%s: ranks add f32 only", name);
    return ctx->shards.sum(ctx->shards.arg, name, rk__size(t), at, at);
}

/* ---- gathering boxes ---- */

typedef struct gather_attr {
    int axis;
} gather_attr;

static rk_status gather_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    gather_attr a;
    int64_t lo, hi;
    memcpy(&a, node->attr, sizeof a);
    rk__cut_box(ctx, dy->shape.dim[a.axis], &lo, &hi);
    return rk__grad_give(node->in[0], rk__dense(rk_slice(dy, a.axis, lo, hi)));
}

static const rk__op op_gather = { "gather shards", gather_backward };

/* The boxes as they arrived, each dense, to their places in y. */
static rk_status put_boxes(rk_tensor *y, rk_tensor *all, const rk_shape *box, int axis)
{
    rk_ctx *ctx = y->ctx;
    const int ranks = ranks_of(ctx);
    int64_t at = 0;
    for (int r = 0; r < ranks; r++) {
        rk_shape s = *box;
        int64_t lo, hi;
        rk_order_leaf(y->shape.dim[axis], ranks, r, &lo, &hi);
        s.dim[axis] = hi - lo;
        rk_tensor *from = rk__view(all, s, NULL, all->offset + at);
        rk_tensor *to = rk__view(y, s, y->stride, y->offset + lo * y->stride[axis]);
        if (rk__is_inert(from) || rk__is_inert(to))
            return rk_failed(ctx);
        RK_TRY(rk__copy_over(to, from));
        at += rk__size(from);
        rk__drop(from);
        rk__drop(to);
    }
    return RK_OK;
}

rk_tensor *rk__cut_gather(rk_tensor *x, int axis, int64_t whole)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx || !rk__cut_meets(ctx))
        return ctx ? x : rk__inert(x ? x->ctx : NULL);
    const int ranks = ranks_of(ctx);
    rk_shape shape = x->shape;
    int64_t *count = rk__step_record(ctx, (size_t)ranks * sizeof *count);
    shape.dim[axis] = whole;
    rk_tensor *dense = rk__dense(x), *y = rk__out(ctx, x->dtype, shape), *all = rk__out(ctx, x->dtype, shape);
    const void *mine = rk__data(dense);
    void *to = rk__data(all);
    if (!count || !mine || !to || !rk__data(y))
        return rk__inert(ctx);
    if (x->dtype != RK_F32) {
        rk_fail(ctx, RK_EDTYPE, "ranks gather f32 only");
        return rk__inert(ctx);
    }
    for (int r = 0; r < ranks; r++) {
        int64_t lo, hi;
        rk_order_leaf(whole, ranks, r, &lo, &hi);
        count[r] = rk__size(y) / whole * (hi - lo);
    }
    if (ctx->shards.gather(ctx->shards.arg, op_gather.name, count, mine, to) ||
        put_boxes(y, all, &x->shape, axis))
        return rk__inert(ctx);
    rk__drop(all);
    rk__drop_temp(dense, x);
    gather_attr a = { axis };
    return rk__record(y, &op_gather, &x, 1, NULL, 0, &a, sizeof a);
}

static rk_status slice_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    gather_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *dx = rk__cut_gather(dy, a.axis, node->in[0]->shape.dim[a.axis]);
    return rk__is_inert(dx) ? rk_failed(ctx) : rk__grad_give(node->in[0], dx);
}

static const rk__op op_slice = { "slice of shards", slice_backward };

rk_tensor *rk__cut_slice(rk_tensor *x, int axis)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx || !rk__cut_meets(ctx))
        return ctx ? x : rk__inert(x ? x->ctx : NULL);
    int64_t lo, hi;
    rk_shape s = x->shape;
    rk__cut_box(ctx, s.dim[axis], &lo, &hi);
    s.dim[axis] = hi - lo;
    rk_tensor *y = rk__view(x, s, x->stride, x->offset + lo * x->stride[axis]);
    gather_attr a = { axis };
    return rk__record(y, &op_slice, &x, 1, NULL, 0, &a, sizeof a);
}

/* ---- boxes of parameters ---- */

rk_status rk__cut_share(rk_tensor *t, rk__cut *cut)
{
    rk_ctx *ctx = t->ctx;
    int64_t lo, hi;
    rk_shape s = t->shape;
    RK_ASSERT(t->persistent && t->cut == cut);
    if (!rk__cut_meets(ctx))
        return RK_OK;
    rk__cut_box(ctx, cut->whole, &lo, &hi);
    s.dim[cut->axis] = hi - lo;
    rk_tensor *view = rk__view(t, s, t->stride, t->offset + lo * t->stride[cut->axis]);
    rk_tensor *box = rk_tensor_make(ctx, t->dtype, s);
    if (rk__is_inert(view) || rk__is_inert(box))
        return rk_failed(ctx);
    RK_TRY(rk__copy_over(box, view));
    rk__drop(view);
    cut->lo = lo;
    return rk__tensor_swap(t, box);
}

rk_piece rk__cut_piece(const rk_tensor *t)
{
    rk_piece p = rk__piece_whole(&t->shape);
    if (t->cut) {
        p.whole.dim[t->cut->axis] = t->cut->whole;
        p.lo[t->cut->axis] = t->cut->lo;
    }
    return p;
}

/* ---- cross entropy over cut classes ---- */

/* [C] Of the n values of each rank the largest, in place. */
static rk_status largest_of_ranks(rk_ctx *ctx, int64_t n, rk_tensor *top)
{
    const int ranks = ranks_of(ctx);
    rk_tensor *all = rk__out(ctx, RK_F32, RK_SHAPE(ranks, n));
    int64_t *count = rk__step_record(ctx, (size_t)ranks * sizeof *count);
    float *to = rk__data(all), *best = rk__data(top);
    if (!to || !count)
        return rk_failed(ctx);
    for (int r = 0; r < ranks; r++)
        count[r] = n;
    RK_TRY(ctx->shards.gather(ctx->shards.arg, "cross entropy, largest", count, best, to));
    rk_status st = rk__kernels(ctx, RK_F32)->reduce_max(ctx->dev, 1, ranks, n, to, best, NULL);
    rk__drop(all);
    return st;
}

rk_status rk__cross_entropy_rows(const rk__call *c, const rk_cross_entropy_cfg *cfg, const rk__cut *cut,
                                 rk_tensor *logits, rk_tensor *target, rk_tensor *loss, rk_tensor *lse)
{
    rk_ctx *ctx = c->ctx;
    const int64_t rows = logits->shape.dim[0], cols = logits->shape.dim[1];
    const int64_t *at = rk__data(target);
    const bool smooth = cfg->label_smoothing > 0;
    rk_tensor *top = rk__out(ctx, c->type, RK_SHAPE(rows));
    rk_tensor *sums = rk__out(ctx, c->type, RK_SHAPE(3, rows)); /* of exponentials, of logits, the target's */
    const void *x = rk__data(logits);
    void *largest = rk__data(top);
    if (!x || !at || !largest || !rk__data(sums))
        return rk_failed(ctx);
    RK_TRY(c->k->row_max(ctx->dev, rows, cols, x, largest));
    if (rk__cut_meets(ctx))
        RK_TRY(largest_of_ranks(ctx, rows, top));
    void *sum = rk__at(sums, 0), *plain = rk__at(sums, rows), *hit = rk__at(sums, 2 * rows);
    if (!smooth)
        RK_TRY(c->k->fill(ctx->dev, rows, 0, plain));
    RK_TRY(c->k->cross_entropy_part(ctx->dev, rows, cols, rk__cut_chains(ctx), cut->lo, x, at, largest, sum,
                                    smooth ? plain : NULL, hit));
    /* the target's logit stands beside zeros, which change nothing but the sign of a zero */
    RK_TRY(rk__cut_sum("cross entropy", sums));
    rk_status st = c->k->cross_entropy_join(ctx->dev, rows, cut->whole, at, cfg->label_smoothing,
                                            cfg->use_ignore, cfg->ignore_index, largest, sum,
                                            smooth ? plain : NULL, hit, rk__data(loss), rk__data(lse));
    rk__drop(top);
    rk__drop(sums);
    return st;
}

/* ---- norms ---- */

int64_t rk__cut_row_sums(const rk_ctx *ctx, int axis)
{
    return axis ? rk__cut_chains(ctx) : 1;
}
