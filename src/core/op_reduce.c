/* Reductions over any axes, and the sums that gradients of broadcast tensors need. */
#include "core/op.h"

#include <string.h>

/* x as the kernels see it: (outer, n, inner), reduced over n. */
typedef struct layout {
    rk_tensor *x; /* dense; a copy in another order of axes if `moved` */
    bool moved;
    int order[RK_MAX_DIMS]; /* axis i of x is axis order[i] of the tensor that was given */
    int64_t outer, n, inner;
} layout;

/* True if the reduced axes are neighbours, those of one element aside: no copy is needed. */
static bool neighbours(const rk_shape *s, unsigned axes, layout *l)
{
    int phase = 0; /* before, within, after the reduced ones */
    l->outer = l->n = l->inner = 1;
    for (int i = 0; i < s->ndim; i++) {
        bool reduced = axes >> i & 1;
        if (s->dim[i] == 1)
            continue;
        if (reduced && phase == 2)
            return false;
        phase = reduced ? 1 : phase == 0 ? 0 : 2;
        *(phase == 0 ? &l->outer : phase == 1 ? &l->n : &l->inner) *= s->dim[i];
    }
    return true;
}

/* Otherwise the reduced axes go to the front if the samples are among them (columns, in the order of
 * samples), to the back if not (rows). */
static rk_status lay_out(rk_tensor *x, unsigned axes, layout *l)
{
    l->moved = !neighbours(&x->shape, axes, l);
    if (!l->moved) {
        l->x = rk__dense(x);
        return rk__is_inert(l->x) ? rk_failed(x->ctx) : RK_OK;
    }
    bool front = axes & 1;
    int64_t n = 1, kept = 1;
    int at = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < x->shape.ndim; i++)
            if ((axes >> i & 1) == (unsigned)(front ? !pass : pass))
                l->order[at++] = i;
    for (int i = 0; i < x->shape.ndim; i++)
        *(axes >> i & 1 ? &n : &kept) *= x->shape.dim[i];
    l->n = n;
    l->outer = front ? 1 : kept;
    l->inner = front ? kept : 1;
    rk_tensor *view = rk__permuted(x, l->order);
    if (rk__is_inert(view))
        return rk_failed(x->ctx);
    l->x = rk__dense(view);
    rk__drop_temp(view, l->x);
    return rk__is_inert(l->x) ? rk_failed(x->ctx) : RK_OK;
}

static void drop_layout(layout *l, rk_tensor *x)
{
    rk__drop_temp(l->x, x);
}

static int64_t reduced_size(const rk_shape *s, unsigned axes)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        n *= axes >> i & 1 ? s->dim[i] : 1;
    return n;
}

/* ---- sums ---- */

/* Axis 0 is reduced and what is kept lies together: (n, c, s) with s reduced too. */
static bool channels(const rk_shape *s, unsigned axes, int64_t *c, int64_t *tail)
{
    int phase = 0;
    *c = *tail = 1;
    for (int i = 1; i < s->ndim; i++) {
        bool reduced = axes >> i & 1;
        if (s->dim[i] == 1)
            continue;
        if (!reduced && phase == 1)
            return false;
        phase = reduced;
        *(reduced ? tail : c) *= s->dim[i];
    }
    return true;
}

/* Sums over the samples never take the rows' order (lanes): a part of a grid with one segment must do what
 * the whole grid's segments do. */
static rk_status sum_over_samples(const rk_kernels *k, rk_tensor *x, unsigned axes, rk_order order, void *y)
{
    rk_dev *dev = x->ctx->dev;
    int64_t n = x->shape.dim[0], c, s;
    order.unit = 1;
    if (channels(&x->shape, axes, &c, &s)) {
        rk_tensor *dense = rk__dense(x);
        const void *from = rk__data(dense);
        if (!from)
            return rk_failed(x->ctx);
        bool columns = s == 1 && c > 1;
        rk_status st = columns ? k->reduce_sum(dev, 1, n, c, order, from, y)
                               : k->sum_channels(dev, n, c, s, order, from, y);
        rk__drop_temp(dense, x);
        return st;
    }
    layout l;
    RK_TRY(lay_out(x, axes, &l));
    order.unit = l.n / n;
    rk_status st = k->reduce_sum(dev, l.outer, l.n, l.inner, order, rk__data(l.x), y);
    drop_layout(&l, x);
    return st;
}

rk_status rk__sum_axes(const rk_kernels *k, rk_tensor *x, unsigned axes, rk_order order, void *y)
{
    bool samples = x->shape.ndim > 0 && (axes & 1);
    if (rk__size(x) == 0) {
        rk_shape kept = rk__drop_axes(&x->shape, axes, false);
        int64_t n = 1;
        for (int i = 0; i < kept.ndim; i++)
            n *= kept.dim[i];
        return samples && order.acc != RK_ACC_SET ? RK_OK : k->fill(x->ctx->dev, n, 0, y);
    }
    if (samples)
        return sum_over_samples(k, x, axes, order, y);
    layout l;
    RK_TRY(lay_out(x, axes, &l));
    rk_order rows = { .segments = 1, .unit = 1, .acc = RK_ACC_SET };
    rk_status st = k->reduce_sum(x->ctx->dev, l.outer, l.n, l.inner, rows, rk__data(l.x), y);
    drop_layout(&l, x);
    return st;
}

/* The axes of `wide` along which a tensor of shape `small` was repeated. */
static unsigned repeated_axes(const rk_shape *small, const rk_shape *wide)
{
    unsigned mask = 0;
    int lead = wide->ndim - small->ndim;
    for (int i = 0; i < wide->ndim; i++)
        if (i < lead || (small->dim[i - lead] == 1 && wide->dim[i] != 1))
            mask |= 1u << i;
    return mask;
}

/* Axis 0, the samples, is among those along which t was repeated. */
static rk_status give_sum_of_samples(const rk_kernels *k, rk_tensor *t, rk_tensor *g, unsigned axes)
{
    rk_ctx *ctx = t->ctx;
    for (int p = 0; p < rk__parts(ctx); p++) {
        rk__part part;
        RK_TRY(rk__grad_part(t, p, g->shape.dim[0], 1, &part));
        rk_shape s = g->shape;
        s.dim[0] = part.n;
        rk_tensor *rows = rk__view(g, s, g->stride, g->offset + part.lo * g->stride[0]);
        void *to = rk__data(part.sum);
        if (rk__is_inert(rows) || !to)
            return rk_failed(ctx);
        rk_status st = rk__sum_axes(k, rows, axes, part.order, to);
        if (st)
            return rk_fail(ctx, st, "cannot sum the gradient of a broadcast tensor");
    }
    return RK_OK;
}

rk_status rk__grad_give_sum(rk_tensor *t, rk_tensor *g)
{
    rk_ctx *ctx = t->ctx;
    if (rk__shape_eq(&t->shape, &g->shape))
        return rk__grad_give(t, g);
    unsigned axes = repeated_axes(&t->shape, &g->shape);
    const rk_kernels *k = rk__kernels(ctx, g->dtype);
    if (!k) /* a stored type: summed in f32, rounded once */
        return rk__grad_give(t, rk_reshape(rk_sum(g, axes, true), t->shape));
    if (axes & 1)
        return give_sum_of_samples(k, t, g, axes);
    rk_order order = { .segments = 1, .unit = 1, .acc = RK_ACC_SET };
    rk_tensor *sum = rk__out(ctx, t->dtype, t->shape);
    void *to = rk__data(sum);
    if (!to)
        return rk_failed(ctx);
    rk_status st = rk__sum_axes(k, g, axes, order, to);
    return st ? rk_fail(ctx, st, "cannot sum the gradient of a broadcast tensor") : rk__grad_give(t, sum);
}

typedef struct sum_attr {
    unsigned axes;
    double scale; /* 1: sum; 1/n: mean */
} sum_attr;

/* dy, repeated along the reduced axes. */
static rk_status sum_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    sum_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *x = node->in[0];
    if (a.scale != 1) {
        rk_tensor *scaled = rk__out(ctx, dy->dtype, dy->shape);
        const void *from = rk__data(dy);
        void *to = rk__data(scaled);
        if (!from || !to)
            return rk_failed(ctx);
        rk_status st = rk__kernels(ctx, dy->dtype)->mul_scalar(ctx->dev, rk__size(dy), from, a.scale, to);
        if (st)
            return rk__grad_failed(ctx, "mean", st);
        dy = scaled;
    }
    rk_shape kept = rk__drop_axes(&x->shape, a.axes, true);
    rk_tensor *view = rk__view(dy, kept, NULL, dy->offset);
    if (rk__is_inert(view))
        return rk_failed(ctx);
    return rk__grad_give(x, rk__spread(view, &x->shape));
}

static const rk__op op_sum = { "sum", sum_backward };
static const rk__op op_mean = { "mean", sum_backward };

static bool check_axes(const rk__call *c, const rk_tensor *x, unsigned *axes)
{
    unsigned all = (1u << x->shape.ndim) - 1;
    if (*axes & ~all) {
        rk_fail(c->ctx, RK_ESHAPE, "%s: axes 0x%x of a tensor with %d axes", c->name, *axes, x->shape.ndim);
        return false;
    }
    if (!*axes)
        *axes = all;
    return true;
}

static rk_tensor *sum_or_mean(const rk__op *op, rk_tensor *x, unsigned axes, bool keep)
{
    rk__call c;
    if (!rk__call_begin(&c, op->name, &x, 1) || !check_axes(&c, x, &axes))
        return rk__inert(c.ctx);
    rk_tensor *y = rk__out(c.ctx, c.type, rk__drop_axes(&x->shape, axes, keep));
    void *to = rk__data(y);
    if (!to)
        return rk__inert(c.ctx);
    sum_attr a = { axes, op == &op_mean ? 1.0 / (double)reduced_size(&x->shape, axes) : 1 };
    rk_status st = rk__sum_axes(c.k, x, axes, rk__order(c.ctx, 1), to);
    if (!st && a.scale != 1)
        st = c.k->mul_scalar(c.ctx->dev, rk__size(y), to, a.scale, to);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    return rk__call_end(&c, rk__record(y, op, &x, 1, NULL, 0, &a, sizeof a));
}

rk_tensor *rk_sum(rk_tensor *x, unsigned axes, bool keep)
{
    return sum_or_mean(&op_sum, x, axes, keep);
}

rk_tensor *rk_mean(rk_tensor *x, unsigned axes, bool keep)
{
    return sum_or_mean(&op_mean, x, axes, keep);
}

/* ---- extremes ---- */

typedef struct extreme_attr {
    unsigned axes;
} extreme_attr;

/* Zeros but where the index of the extreme points. */
static rk_status extreme_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    extreme_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *x = node->in[0], *index = node->save[0];
    layout l = { 0 };
    rk_shape shape = x->shape;
    if (!neighbours(&x->shape, a.axes, &l)) {
        RK_TRY(lay_out(x, a.axes, &l));
        shape = l.x->shape;
    }
    rk_tensor *dx = rk__out(ctx, dy->dtype, shape);
    const void *g = rk__data(dy), *at = rk__data(index);
    void *to = rk__data(dx);
    if (!g || !at || !to)
        return rk_failed(ctx);
    rk_status st = rk__kernels(ctx, dy->dtype)->gather_grad(ctx->dev, l.outer, l.n, 1, l.inner, g, at, to);
    if (st)
        return rk__grad_failed(ctx, node->op->name, st);
    if (l.moved) {
        int back[RK_MAX_DIMS];
        for (int i = 0; i < shape.ndim; i++)
            back[l.order[i]] = i;
        dx = rk__permuted(dx, back);
    }
    return rk__grad_give(x, dx);
}

static const rk__op op_max = { "max", extreme_backward };
static const rk__op op_min = { "min", extreme_backward };
static const rk__op op_argmax = { "argmax", NULL };

/* Values into y, positions along the reduced axes into index. */
static rk_status find_extremes(const rk__call *c, bool least, rk_tensor *x, unsigned axes, rk_tensor *y,
                               rk_tensor *index)
{
    char text[160];
    if (reduced_size(&x->shape, axes) == 0)
        return rk_fail(c->ctx, RK_ESHAPE, "%s: there is no element to choose from in shape %s", c->name,
                       rk__shape_str(&x->shape, text, sizeof text));
    layout l;
    RK_TRY(lay_out(x, axes, &l));
    void *values = rk__data(y);
    int64_t *at = rk__data(index);
    if (!values || !at)
        return rk_failed(c->ctx);
    rk_status st = (least ? c->k->reduce_min : c->k->reduce_max)(c->ctx->dev, l.outer, l.n, l.inner,
                                                                 rk__data(l.x), values, at);
    drop_layout(&l, x);
    return rk__call_check(c, st);
}

static rk_tensor *extreme(const rk__op *op, rk_tensor *x, unsigned axes, bool keep)
{
    rk__call c;
    if (!rk__call_begin(&c, op->name, &x, 1) || !check_axes(&c, x, &axes))
        return rk__inert(c.ctx);
    rk_shape shape = rk__drop_axes(&x->shape, axes, keep);
    rk_tensor *y = rk__out(c.ctx, c.type, shape), *index = rk__out(c.ctx, RK_I64, shape);
    if (find_extremes(&c, op == &op_min, x, axes, y, index))
        return rk__inert(c.ctx);
    extreme_attr a = { axes };
    return rk__call_end(&c, rk__record(y, op, &x, 1, &index, 1, &a, sizeof a));
}

rk_tensor *rk_max(rk_tensor *x, unsigned axes, bool keep)
{
    return extreme(&op_max, x, axes, keep);
}

rk_tensor *rk_min(rk_tensor *x, unsigned axes, bool keep)
{
    return extreme(&op_min, x, axes, keep);
}

rk_tensor *rk_argmax(rk_tensor *x, int axis)
{
    rk__call c;
    if (!rk__call_begin(&c, op_argmax.name, &x, 1) || !rk__axis(c.ctx, c.name, x, &axis))
        return rk__inert(c.ctx);
    rk_shape shape = rk__drop_axes(&x->shape, 1u << axis, false);
    rk_tensor *y = rk__out(c.ctx, c.type, shape), *index = rk__out(c.ctx, RK_I64, shape);
    rk_status st = find_extremes(&c, false, x, 1u << axis, y, index);
    rk__drop(y);
    c.store = c.type; /* positions are no rounded values */
    return st ? rk__inert(c.ctx) : rk__call_end(&c, index);
}
