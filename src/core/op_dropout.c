/* Dropout: the mask is never stored; Philox makes it again in the backward pass. */
#include "core/cut.h"
#include "core/philox.h"

#include <string.h>

typedef struct dropout_attr {
    double p;
    rk_rng rng;
    uint64_t first_sample;
    int64_t whole; /* of the last axis, of which x is this rank's box; 0: x is all of it */
} dropout_attr;

/* The box is put where it stands in the whole, whose mask it gets. */
static rk_status mask_box(const rk_kernels *k, const dropout_attr *a, rk_tensor *from, rk_tensor *to)
{
    rk_ctx *ctx = from->ctx;
    rk_shape s = from->shape;
    const int last = s.ndim - 1;
    int64_t lo, hi;
    rk__cut_box(ctx, a->whole, &lo, &hi);
    s.dim[last] = a->whole;
    rk_tensor *all = rk__out(ctx, from->dtype, s);
    void *p = rk__data(all);
    if (!p)
        return rk_failed(ctx);
    rk_tensor *box = rk__view(all, from->shape, all->stride, all->offset + lo);
    if (rk__is_inert(box))
        return rk_failed(ctx);
    const int64_t n = rk__size(all), rows = s.dim[0];
    RK_TRY(k->fill(ctx->dev, n, 0, p));
    RK_TRY(rk__copy_over(box, from));
    RK_TRY(k->dropout(ctx->dev, rows, rows ? n / rows : 0, a->first_sample, a->p, a->rng, p, p));
    RK_TRY(rk__copy_over(to, box));
    rk__drop(box);
    rk__drop(all);
    return RK_OK;
}

static rk_status mask(const rk_kernels *k, const dropout_attr *a, rk_tensor *from, rk_tensor *to)
{
    rk_ctx *ctx = from->ctx;
    const void *x = rk__data(from);
    void *y = rk__data(to);
    int64_t rows = from->shape.ndim ? from->shape.dim[0] : 1;
    if (!x || !y)
        return rk_failed(ctx);
    if (a->whole)
        return mask_box(k, a, from, to);
    return k->dropout(ctx->dev, rows, rows ? rk__size(from) / rows : 0, a->first_sample, a->p, a->rng, x, y);
}

static rk_status dropout_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    dropout_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *dx = rk__grad_room(node, dy);
    if (rk__is_inert(dx))
        return rk_failed(ctx);
    rk_status st = mask(rk__kernels(ctx, dy->dtype), &a, dy, dx);
    return st ? rk__grad_failed(ctx, "dropout", st) : rk__grad_give(node->in[0], dx);
}

static const rk__op op_dropout = { "dropout", dropout_backward };

static rk_tensor *dropout(rk_tensor *x, double p, uint64_t layer, int64_t whole)
{
    rk__call c;
    rk_tensor *given = x;
    if (!rk__call_begin(&c, "dropout", &x, 1))
        return rk__inert(c.ctx);
    if (!(p >= 0 && p < 1)) {
        rk_fail(c.ctx, RK_EUSAGE, "dropout: probability %g is not in [0, 1)", p);
        return rk__inert(c.ctx);
    }
    if (!c.ctx->training || p == 0)
        return given;
    dropout_attr a = { p, rk_rng_make(c.ctx->seed, RK_RNG_DROPOUT, layer, c.ctx->step),
                       (uint64_t)c.ctx->first_sample, whole };
    rk_tensor *dense = rk__dense(x), *y = rk__out(c.ctx, c.type, x->shape);
    rk_status st = rk__is_inert(y) || rk__is_inert(dense) ? rk_failed(c.ctx) : mask(c.k, &a, dense, y);
    rk__drop_temp(dense, x);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    return rk__call_end(&c, rk__record(y, &op_dropout, &x, 1, NULL, 0, &a, sizeof a));
}

rk_tensor *rk_dropout_op(rk_tensor *x, double p, uint64_t layer)
{
    return dropout(x, p, layer, 0);
}

rk_tensor *rk__dropout_cut(rk_tensor *x, double p, uint64_t layer, int64_t whole)
{
    rk_ctx *ctx = rk_tensor_ctx(x);
    return dropout(x, p, layer, ctx && rk__cut_meets(ctx) ? whole : 0);
}
