/* Normalisation of rows: layer norm, RMS norm. */
#include "core/op.h"

#include <string.h>

/* A part of the gradient of gamma (which 0) or beta (1). */
static rk_status row_parameter(rk__node *node, const rk_kernels *k, rk_tensor *dy, int which, int64_t unit,
                               const rk__part *part)
{
    rk_ctx *ctx = dy->ctx;
    rk_tensor *x = node->save[0];
    const int64_t cols = x->shape.dim[x->shape.ndim - 1], lo = part->lo * unit, rows = part->n * unit;
    void *to = rk__data(part->sum);
    if (rows == 0)
        return part->order.acc == RK_ACC_SET ? k->fill(ctx->dev, rk__size(part->sum), 0, to) : RK_OK;
    return k->layer_norm_dparam(ctx->dev, rows, cols, part->order, rk__at(x, lo * cols),
                                node->nsave > 2 ? rk__at(node->save[2], lo) : NULL, rk__at(node->save[1], lo),
                                rk__at(dy, lo * cols), which == 0 ? to : NULL, which == 1 ? to : NULL);
}

/* save: x, rstd, and the mean where there is one; in: x, gamma, beta. */
static rk_status row_parameters(rk__node *node, const rk_kernels *k, rk_tensor *dy)
{
    rk_ctx *ctx = dy->ctx;
    rk_tensor *x = node->save[0], *gamma = node->in[1], *beta = node->nin > 2 ? node->in[2] : NULL;
    int64_t rows = rk__rows(x), samples = x->shape.ndim > 1 ? x->shape.dim[0] : 1,
            unit = samples ? rows / samples : 1;
    rk_tensor *to[2] = { gamma, beta };
    for (int i = 0; i < 2; i++) { /* one at a time: their gradients may add up in different ways */
        if (!rk_requires_grad(to[i]))
            continue;
        for (int p = 0; p < rk__parts(ctx); p++) {
            rk__part part;
            RK_TRY(rk__grad_part(to[i], p, samples, unit, &part));
            RK_TRY(row_parameter(node, k, dy, i, unit, &part));
        }
    }
    return RK_OK;
}

static rk_status row_norm_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *x = node->save[0], *rstd = node->save[1], *mean = node->nsave > 2 ? node->save[2] : NULL;
    rk_status st = row_parameters(node, k, dy);
    if (!st && rk_requires_grad(node->in[0])) {
        rk_tensor *dx = rk__out(ctx, dy->dtype, dy->shape), *g = node->in[1] ? rk__dense(node->in[1]) : NULL;
        int64_t cols = x->shape.dim[x->shape.ndim - 1];
        const void *from = rk__data(x), *inv = rk__data(rstd), *gamma = rk__data_or_null(g),
                   *gy = rk__data(dy);
        void *to = rk__data(dx);
        if (!from || !inv || !gy || !to)
            return rk_failed(ctx);
        st = mean ? k->layer_norm_dx(ctx->dev, rk__rows(x), cols, from, gamma, rk__data(mean), inv, gy, to)
                  : k->rms_norm_dx(ctx->dev, rk__rows(x), cols, from, gamma, inv, gy, to);
        if (!st)
            st = rk__grad_give(node->in[0], dx);
    }
    return st ? rk__grad_failed(ctx, node->op->name, st) : RK_OK;
}

static const rk__op op_layer_norm = { "layer_norm", row_norm_backward };
static const rk__op op_rms_norm = { "rms_norm", row_norm_backward };

static rk_tensor *row_norm(const rk__op *op, rk_tensor **in, int nin, double eps)
{
    rk__call c;
    char text[160];
    if (!rk__call_begin(&c, op->name, in, nin))
        return rk__inert(c.ctx);
    rk_tensor *x = in[0];
    int64_t cols = x->shape.ndim ? x->shape.dim[x->shape.ndim - 1] : 0;
    if (cols < 1) {
        rk_fail(c.ctx, RK_ESHAPE, "%s: nothing to normalise in shape %s", c.name,
                rk__shape_str(&x->shape, text, sizeof text));
        return rk__inert(c.ctx);
    }
    if (!rk__one_of_each(&c, in[1], cols, "gamma") || (nin > 2 && !rk__one_of_each(&c, in[2], cols, "beta")))
        return rk__inert(c.ctx);
    bool centred = op == &op_layer_norm;
    rk_shape stats = { 1, { rk__rows(x) } };
    rk_tensor *dense[3] = { rk__dense(x), in[1] ? rk__dense(in[1]) : NULL,
                            nin > 2 && in[2] ? rk__dense(in[2]) : NULL };
    rk_tensor *y = rk__out(c.ctx, c.type, x->shape), *rstd = rk__out(c.ctx, c.type, stats);
    rk_tensor *mean = centred ? rk__out(c.ctx, c.type, stats) : NULL;
    if (rk_failed(c.ctx))
        return rk__inert(c.ctx);
    const void *from = rk__data(dense[0]), *gamma = rk__data_or_null(dense[1]),
               *beta = rk__data_or_null(dense[2]);
    rk_dev *dev = c.ctx->dev;
    rk_status st = centred
                       ? c.k->layer_norm(dev, rk__rows(x), cols, from, gamma, beta, eps, rk__data(y),
                                         rk__data(mean), rk__data(rstd))
                       : c.k->rms_norm(dev, rk__rows(x), cols, from, gamma, eps, rk__data(y), rk__data(rstd));
    for (int i = 1; i < nin; i++)
        rk__drop_temp(dense[i], in[i]);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    rk_tensor *save[] = { dense[0], rstd, mean };
    return rk__call_end(&c, rk__record(y, op, in, nin, save, centred ? 3 : 2, NULL, 0));
}

rk_tensor *rk_layer_norm_op(rk_tensor *x, rk_tensor *gamma, rk_tensor *beta, double eps)
{
    return row_norm(&op_layer_norm, (rk_tensor *[]){ x, gamma, beta }, 3, eps);
}

rk_tensor *rk_rms_norm_op(rk_tensor *x, rk_tensor *gamma, double eps)
{
    return row_norm(&op_rms_norm, (rk_tensor *[]){ x, gamma }, 2, eps);
}
