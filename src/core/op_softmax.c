/* Softmax and its logarithm over any axis. */
#include "core/op.h"

#include <stddef.h>
#include <string.h>

typedef rk_status rows_fn(rk_dev *, int64_t rows, int64_t cols, const void *, void *);
typedef rk_status rows_grad_fn(rk_dev *, int64_t rows, int64_t cols, const void *, const void *, void *);

static int64_t columns(const rk_tensor *x)
{
    return x->shape.ndim ? x->shape.dim[x->shape.ndim - 1] : 1;
}

static rk_status row_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy, rows_grad_fn *f)
{
    rk_tensor *dx = rk__out(ctx, dy->dtype, dy->shape);
    const void *y = rk__data(node->out), *from = rk__data(dy);
    void *to = rk__data(dx);
    if (!y || !from || !to)
        return rk_failed(ctx);
    rk_status st = f(ctx->dev, rk__rows(dy), columns(dy), y, from, to);
    return st ? rk__grad_failed(ctx, node->op->name, st) : rk__grad_give(node->in[0], dx);
}

static rk_status softmax_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    return row_backward(ctx, node, dy, rk__kernels(ctx, dy->dtype)->softmax_grad);
}

static rk_status log_softmax_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    return row_backward(ctx, node, dy, rk__kernels(ctx, dy->dtype)->log_softmax_grad);
}

static const rk__op op_softmax = { "softmax", softmax_backward };
static const rk__op op_log_softmax = { "log_softmax", log_softmax_backward };

static rk_tensor *over_rows(const rk__op *op, rk_tensor *x)
{
    rk__call c;
    if (!rk__call_begin(&c, op->name, &x, 1))
        return rk__inert(c.ctx);
    rk_tensor *dense = rk__dense(x), *y = rk__out(c.ctx, c.type, x->shape);
    const void *from = rk__data(dense);
    void *to = rk__data(y);
    if (!from || !to)
        return rk__inert(c.ctx);
    rows_fn *f = op == &op_softmax ? c.k->softmax : c.k->log_softmax;
    rk_status st = f(c.ctx->dev, rk__rows(x), columns(x), from, to);
    rk__drop_temp(dense, x);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    return rk__call_end(&c, rk__record(y, op, &x, 1, NULL, 0, NULL, 0));
}

/* The kernels know rows; another axis is brought to the back and taken home again. */
static rk_tensor *over_axis(const rk__op *op, rk_tensor *x, int axis)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx || !rk__axis(ctx, op->name, x, &axis))
        return rk__inert(x ? x->ctx : NULL);
    int last = x->shape.ndim - 1;
    return axis == last ? over_rows(op, x)
                        : rk_transpose(over_rows(op, rk_transpose(x, axis, last)), axis, last);
}

rk_tensor *rk_softmax(rk_tensor *x, int axis)
{
    return over_axis(&op_softmax, x, axis);
}

rk_tensor *rk_log_softmax(rk_tensor *x, int axis)
{
    return over_axis(&op_log_softmax, x, axis);
}
