/* Normalisation: over rows (layer, RMS) and over channels (batch). */
#include "core/op.h"
#include "core/order.h"

#include <string.h>

static bool one_of_each(const rk__call *c, const rk_tensor *t, int64_t n, const char *what)
{
    char text[160];
    if (!t || (t->shape.ndim == 1 && t->shape.dim[0] == n))
        return true;
    rk_fail(c->ctx, RK_ESHAPE, "%s: %s is %s; (%lld) is wanted", c->name, what,
            rk__shape_str(&t->shape, text, sizeof text), (long long)n);
    return false;
}

static const void *data_or_null(rk_tensor *t)
{
    return t ? rk__data(t) : NULL;
}

/* ---- rows ---- */

/* save: x, rstd, and the mean where there is one; in: x, gamma, beta. */
static rk_status row_parameters(rk__node *node, const rk_kernels *k, rk_tensor *dy)
{
    rk_ctx *ctx = dy->ctx;
    rk_tensor *x = node->save[0], *gamma = node->in[1], *beta = node->nin > 2 ? node->in[2] : NULL;
    int64_t rows = rk__rows(x), samples = x->shape.ndim > 1 ? x->shape.dim[0] : 1,
            unit = samples ? rows / samples : 1;
    const void *mean = node->nsave > 2 ? rk__data(node->save[2]) : NULL;
    rk_tensor *to[2] = { gamma, beta };
    for (int i = 0; i < 2; i++) { /* one at a time: their gradients may add up in different ways */
        if (!rk_requires_grad(to[i]))
            continue;
        rk_order order;
        rk_tensor *g = rk__grad_begin(to[i], unit, &order);
        if (!g)
            return rk_failed(ctx);
        if (rows == 0) {
            if (order.acc == RK_ACC_SET)
                RK_TRY(k->fill(ctx->dev, rk__size(g), 0, rk__data(g)));
            continue;
        }
        RK_TRY(k->layer_norm_dparam(ctx->dev, rows, x->shape.dim[x->shape.ndim - 1], order, rk__data(x), mean,
                                    rk__data(node->save[1]), rk__data(dy), i == 0 ? rk__data(g) : NULL,
                                    i == 1 ? rk__data(g) : NULL));
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
        const void *from = rk__data(x), *inv = rk__data(rstd), *gamma = data_or_null(g), *gy = rk__data(dy);
        void *to = rk__data(dx);
        if (!from || !inv || !gy || !to)
            return rk_failed(ctx);
        st = mean ? k->layer_norm_dx(ctx->dev, rk__rows(x), cols, from, gamma, rk__data(mean), inv, gy, to)
                  : k->rms_norm_dx(ctx->dev, rk__rows(x), cols, from, gamma, inv, gy, to);
        if (!st)
            st = rk__grad_give(node->in[0], dx);
    }
    return st ? rk_fail(ctx, st, "%s: the gradient's kernel failed", node->op->name) : RK_OK;
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
    if (!one_of_each(&c, in[1], cols, "gamma") || (nin > 2 && !one_of_each(&c, in[2], cols, "beta")))
        return rk__inert(c.ctx);
    bool centred = op == &op_layer_norm;
    rk_shape stats = { 1, { rk__rows(x) } };
    rk_tensor *dense[3] = { rk__dense(x), in[1] ? rk__dense(in[1]) : NULL,
                            nin > 2 && in[2] ? rk__dense(in[2]) : NULL };
    rk_tensor *y = rk__out(c.ctx, c.type, x->shape), *rstd = rk__out(c.ctx, c.type, stats);
    rk_tensor *mean = centred ? rk__out(c.ctx, c.type, stats) : NULL;
    if (rk_failed(c.ctx))
        return rk__inert(c.ctx);
    const void *from = rk__data(dense[0]), *gamma = data_or_null(dense[1]), *beta = data_or_null(dense[2]);
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

/* ---- channels: batch norm ---- */

/* Statistics are taken over pieces of the batch: all of it, or each data shard by itself. */
typedef struct batch_attr {
    int64_t n, c, s;
    int pieces; /* power of two */
    bool training;
    double eps;
} batch_attr;

/* Piece p: its samples, and the order of sums within it. */
typedef struct piece {
    int64_t lo, n;
    rk_order order;
} piece;

static piece piece_of(const rk_ctx *ctx, const batch_attr *a, int p)
{
    int64_t hi;
    piece out = { .order = rk__order(ctx, 1) };
    rk_order_leaf(a->n, a->pieces, p, &out.lo, &hi);
    out.n = hi - out.lo;
    if (a->pieces > 1)
        out.order.segments = 1;
    return out;
}

/* Element i of t. */
static void *at(const rk_tensor *t, int64_t i)
{
    return (char *)rk__data(t) + (size_t)i * rk_dtype_size(t->dtype);
}

/* dgamma, dbeta (pieces, c) of each piece, and dx from them. dx may be NULL. */
static rk_status batch_pieces_backward(rk__node *node, const batch_attr *a, rk_tensor *dy, rk_tensor *dgamma,
                                       rk_tensor *dbeta, rk_tensor *dx)
{
    rk_ctx *ctx = dy->ctx;
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *x = node->save[0], *mean = node->save[1], *rstd = node->save[2];
    rk_tensor *gamma = node->in[1] ? rk__dense(node->in[1]) : NULL;
    for (int p = 0; p < a->pieces; p++) {
        piece part = piece_of(ctx, a, p);
        int64_t x0 = part.lo * a->c * a->s, c0 = p * a->c;
        if (part.n * a->s == 0)
            continue;
        RK_TRY(k->batch_norm_dparam(ctx->dev, part.n, a->c, a->s, part.order, at(x, x0), at(mean, c0),
                                    at(rstd, c0), at(dy, x0), at(dgamma, c0), at(dbeta, c0)));
        if (dx && a->training)
            RK_TRY(k->batch_norm_dx(ctx->dev, part.n, a->c, a->s, part.n * a->s, at(x, x0), at(mean, c0),
                                    at(rstd, c0), data_or_null(gamma), at(dgamma, c0), at(dbeta, c0),
                                    at(dy, x0), at(dx, x0)));
    }
    return RK_OK;
}

/* Fixed statistics: dx = dy * gamma * rstd, which is batch_norm itself with mean 0 and no shift. */
static rk_status batch_fixed_dx(rk__node *node, const batch_attr *a, rk_tensor *dy, rk_tensor *dx)
{
    rk_ctx *ctx = dy->ctx;
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *zero = rk_zeros(ctx, dy->dtype, RK_SHAPE(a->c));
    rk_tensor *gamma = node->in[1] ? rk__dense(node->in[1]) : NULL;
    RK_TRY(rk_failed(ctx));
    return k->batch_norm(ctx->dev, a->n, a->c, a->s, rk__data(dy), rk__data(zero), rk__data(node->save[3]),
                         data_or_null(gamma), rk__data(zero), a->eps, rk__data(dx), NULL);
}

static rk_status batch_parameter(const rk_kernels *k, const batch_attr *a, rk_tensor *t, rk_tensor *parts)
{
    rk_ctx *ctx = parts->ctx;
    if (!rk_requires_grad(t))
        return RK_OK;
    rk_order order;
    rk_tensor *g = rk__grad_begin(t, 1, &order);
    if (!g)
        return rk_failed(ctx);
    order.segments = a->pieces;
    return k->reduce_sum(ctx->dev, 1, a->pieces, a->c, order, rk__data(parts), rk__data(g));
}

static rk_status batch_norm_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    batch_attr a;
    memcpy(&a, node->attr, sizeof a);
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_shape parts = RK_SHAPE(a.pieces, a.c);
    rk_tensor *dgamma = rk_zeros(ctx, dy->dtype, parts), *dbeta = rk_zeros(ctx, dy->dtype, parts);
    rk_tensor *dx = rk_requires_grad(node->in[0]) ? rk__out(ctx, dy->dtype, dy->shape) : NULL;
    RK_TRY(rk_failed(ctx));
    rk_status st = batch_pieces_backward(node, &a, dy, dgamma, dbeta, dx);
    if (!st && dx && !a.training)
        st = batch_fixed_dx(node, &a, dy, dx);
    if (!st)
        st = batch_parameter(k, &a, node->in[1], dgamma);
    if (!st)
        st = batch_parameter(k, &a, node->in[2], dbeta);
    if (!st && dx)
        st = rk__grad_give(node->in[0], dx);
    return st ? rk_fail(ctx, st, "batch_norm: the gradient's kernel failed") : RK_OK;
}

static const rk__op op_batch_norm = { "batch_norm", batch_norm_backward };

/* running = (1 - momentum) * running + momentum * sum / shards; the sum is used up. */
static rk_status move_running(rk_tensor *running, double momentum, rk_tensor *sum, int64_t shards)
{
    rk_ctx *ctx = running->ctx;
    const rk_kernels *k = rk__kernels(ctx, running->dtype);
    int64_t n = rk__size(running);
    if (shards > 1)
        RK_TRY(k->mul_scalar(ctx->dev, n, rk__data(sum), 1.0 / (double)shards, rk__data(sum)));
    return shards > 0 ? k->ema(ctx->dev, n, 1 - momentum, rk__data(sum), rk__data(running)) : RK_OK;
}

rk_status rk__running_finish(rk_tensor *running, double momentum, int64_t shards)
{
    rk_tensor *sum = rk_grad(running);
    RK_TRY(rk_failed(running->ctx));
    rk_status st = sum ? move_running(running, momentum, sum, shards) : RK_OK;
    rk_grad_zero(running);
    return st ? rk_fail(running->ctx, st, "batch_norm: running statistics cannot be updated") : RK_OK;
}

/* Where the sum over the pieces goes: to a micro-batch's place in the tree over all of them, or into `own`.
 */
static rk_tensor *running_sum(const rk__call *c, rk_tensor *running, rk_tensor *own)
{
    rk_order order;
    if (!c->ctx->grid.part)
        return own;
    if (rk_grad(running)) {
        rk_fail(c->ctx, RK_ECONFIG,
                "a batch norm that is used twice needs the whole batch at once: leave batch.micro out");
        return NULL;
    }
    return rk__grad_begin(running, 1, &order);
}

/* The mean over the pieces of stat * factor of the piece moves the running one. Factors are n / (n - 1) for
 * variances, as other frameworks keep them. */
static rk_status update_running(const rk__call *c, const batch_attr *a, double momentum, rk_tensor *stat,
                                bool variance, rk_tensor *running)
{
    rk_dev *dev = c->ctx->dev;
    rk_tensor *scaled = rk__out(c->ctx, c->type, RK_SHAPE(a->pieces, a->c));
    rk_tensor *own = rk__out(c->ctx, c->type, RK_SHAPE(a->c)), *sum = running_sum(c, running, own);
    int used = 0;
    RK_TRY(rk_failed(c->ctx));
    for (int p = 0; p < a->pieces; p++) {
        int64_t count = piece_of(c->ctx, a, p).n * a->s;
        double factor = count == 0 ? 0 : variance && count > 1 ? (double)count / (double)(count - 1) : 1;
        used += count > 0;
        RK_TRY(count ? c->k->mul_scalar(dev, a->c, at(stat, p * a->c), factor, at(scaled, p * a->c))
                     : c->k->fill(dev, a->c, 0, at(scaled, p * a->c)));
    }
    rk_order tree = { a->pieces, 1, RK_ACC_SET };
    RK_TRY(c->k->reduce_sum(dev, 1, a->pieces, a->c, tree, rk__data(scaled), rk__data(sum)));
    if (sum == own)
        RK_TRY(move_running(running, momentum, sum, used));
    rk__drop(scaled);
    rk__drop(own);
    return RK_OK;
}

/* y, and mean, var, rstd (pieces, c). */
static rk_status batch_forward(const rk__call *c, const batch_attr *a, rk_tensor *const *dense,
                               rk_tensor *mean, rk_tensor *var, rk_tensor *rstd, rk_tensor *y)
{
    rk_dev *dev = c->ctx->dev;
    for (int p = 0; p < a->pieces; p++) {
        piece part = piece_of(c->ctx, a, p);
        int64_t x0 = part.lo * a->c * a->s, c0 = p * a->c;
        if (part.n * a->s == 0)
            continue;
        if (a->training)
            RK_TRY(c->k->batch_norm_stats(dev, part.n, a->c, a->s, part.order, at(dense[0], x0), at(mean, c0),
                                          at(var, c0)));
        RK_TRY(c->k->batch_norm(dev, part.n, a->c, a->s, at(dense[0], x0), at(mean, c0), at(var, c0),
                                data_or_null(dense[1]), data_or_null(dense[2]), a->eps, at(y, x0),
                                at(rstd, c0)));
    }
    return RK_OK;
}

static bool batch_fits(const rk__call *c, rk_tensor **in, rk_tensor *running_mean, rk_tensor *running_var,
                       const rk_batch_norm_cfg *cfg, batch_attr *a)
{
    char text[160];
    const rk_shape *s = &in[0]->shape;
    if (s->ndim < 2) {
        rk_fail(c->ctx, RK_ESHAPE, "batch_norm: the input is %s; (n, channels, ..) is wanted",
                rk__shape_str(s, text, sizeof text));
        return false;
    }
    if (!cfg->training && (!running_mean || !running_var)) {
        rk_fail(c->ctx, RK_EUSAGE, "batch_norm: running statistics are wanted outside training");
        return false;
    }
    rk_tensor *running[] = { running_mean, running_var };
    for (int i = 0; i < 2; i++)
        if (running[i] && (running[i]->dtype != c->type || !rk__is_contiguous(running[i]))) {
            rk_fail(c->ctx, RK_EDTYPE, "batch_norm: running statistics are contiguous %s, not %s",
                    rk_dtype_name(c->type), rk_dtype_name(running[i]->dtype));
            return false;
        }
    a->n = s->dim[0];
    a->c = s->dim[1];
    a->s = 1;
    for (int i = 2; i < s->ndim; i++)
        a->s *= s->dim[i];
    a->pieces = cfg->training && cfg->shard_scope ? c->ctx->grid.shards : 1;
    a->training = cfg->training;
    a->eps = cfg->eps;
    return one_of_each(c, in[1], a->c, "gamma") && one_of_each(c, in[2], a->c, "beta") &&
           one_of_each(c, running_mean, a->c, "running_mean") &&
           one_of_each(c, running_var, a->c, "running_var");
}

/* Where the statistics come from: made here, or the running ones. */
static bool batch_statistics(const rk__call *c, const batch_attr *a, rk_tensor *running_mean,
                             rk_tensor *running_var, rk_tensor **stats)
{
    rk_shape s = RK_SHAPE(a->pieces, a->c);
    if (a->training) {
        stats[0] = rk__out(c->ctx, c->type, s);
        stats[1] = rk__out(c->ctx, c->type, s);
    } else {
        stats[0] = rk__dense(running_mean);
        stats[1] = rk__dense(running_var);
    }
    stats[2] = rk__out(c->ctx, c->type, s);
    return !rk_failed(c->ctx);
}

rk_tensor *rk_batch_norm_op(rk_tensor *x, rk_tensor *gamma, rk_tensor *beta, rk_tensor *running_mean,
                            rk_tensor *running_var, const rk_batch_norm_cfg *cfg)
{
    rk__call c;
    rk_tensor *in[] = { x, gamma, beta, running_mean, running_var }, *stats[3];
    batch_attr a;
    if (!rk__call_begin(&c, "batch_norm", in, 3) || (running_mean && !rk__ready(&running_mean, 1)) ||
        (running_var && !rk__ready(&running_var, 1)) ||
        !batch_fits(&c, in, running_mean, running_var, cfg, &a) ||
        !batch_statistics(&c, &a, running_mean, running_var, stats))
        return rk__inert(c.ctx);
    rk_tensor *dense[3] = { rk__dense(in[0]), in[1] ? rk__dense(in[1]) : NULL,
                            in[2] ? rk__dense(in[2]) : NULL };
    rk_tensor *y = rk__out(c.ctx, c.type, in[0]->shape);
    if (rk_failed(c.ctx))
        return rk__inert(c.ctx);
    rk_status st = batch_forward(&c, &a, dense, stats[0], stats[1], stats[2], y);
    if (!st && a.training && running_mean)
        st = update_running(&c, &a, cfg->momentum, stats[0], false, running_mean);
    if (!st && a.training && running_var)
        st = update_running(&c, &a, cfg->momentum, stats[1], true, running_var);
    for (int i = 1; i < 3; i++)
        rk__drop_temp(dense[i], in[i]);
    if (a.training)
        rk__drop(stats[1]);
    if (rk__call_check(&c, st))
        return rk__inert(c.ctx);
    rk_tensor *save[] = { dense[0], stats[0], stats[2], stats[1] };
    return rk__call_end(&c, rk__record(y, &op_batch_norm, in, 5, save, a.training ? 3 : 4, &a, sizeof a));
}
