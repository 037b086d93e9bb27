/* Batch norm: channels over the samples of the whole batch, whoever holds them, or of each data shard. */
#include "core/op.h"

#include <string.h>

typedef struct batch_attr {
    int64_t n, c, s; /* of this pass */
    bool shards;     /* statistics of each data shard by itself */
    bool training;
    double eps;
} batch_attr;

/* Samples that are summed by themselves: a data shard, or a subtree of the whole. */
typedef struct span {
    int64_t lo, n;
    rk_order order;
} span;

static int leaves_of(const rk_ctx *ctx, int part)
{
    return ctx->grid.parts > 1 ? ctx->grid.leaves[part] : ctx->grid.shards;
}

static int spans_of(const rk_ctx *ctx, const batch_attr *a)
{
    return a->shards ? ctx->grid.shards : rk__parts(ctx);
}

/* Sets of statistics: one, or one a shard. */
static int stats_of(const rk_ctx *ctx, const batch_attr *a)
{
    return a->shards ? ctx->grid.shards : 1;
}

static rk_status span_at(rk_ctx *ctx, const batch_attr *a, int i, span *out)
{
    rk__part part;
    int p = a->shards ? 0 : i;
    for (; a->shards && i >= leaves_of(ctx, p); p++)
        i -= leaves_of(ctx, p);
    RK_TRY(rk__part_of(ctx, p, a->n, 1, &part));
    *out = (span){ part.lo, part.n, part.order };
    if (a->shards) {
        int64_t lo, hi;
        rk_order_leaf(part.n, leaves_of(ctx, p), i, &lo, &hi);
        out->lo += lo;
        out->n = hi - lo;
        out->order.segments = 1;
    }
    return RK_OK;
}

/* Other ranks or parts share the statistics: they are made of sums that all meet to add. */
static bool meets(const rk_ctx *ctx, const batch_attr *a)
{
    return a->training && !a->shards && (ctx->meet.sum || rk__parts(ctx) > 1);
}

/* Samples under one set of statistics that are not a shard's. */
static int64_t whole_batch(const rk_ctx *ctx, const batch_attr *a)
{
    return meets(ctx, a) && ctx->grid.batch_samples > 0 ? ctx->grid.batch_samples : a->n;
}

static rk_status meet(rk_ctx *ctx, int64_t n, rk_tensor *parts, rk_tensor *out)
{
    RK_TRY(rk_failed(ctx));
    RK_ASSERT(ctx->meet.sum);
    return ctx->meet.sum(ctx->meet.arg, "batch norm", n, rk__data(parts), rk__data(out));
}

/* ---- backward ---- */

/* sums (2, spans, c): of each span the gradients of gamma, then of beta. */
static rk_status span_sums(rk__node *node, const batch_attr *a, rk_tensor *dy, rk_tensor *sums)
{
    rk_ctx *ctx = dy->ctx;
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *x = node->save[0], *mean = node->save[1], *rstd = node->save[2];
    const int spans = spans_of(ctx, a);
    for (int i = 0; i < spans; i++) {
        span at;
        RK_TRY(span_at(ctx, a, i, &at));
        int64_t x0 = at.lo * a->c * a->s, s0 = a->shards ? i * a->c : 0;
        if (at.n * a->s > 0)
            RK_TRY(k->batch_norm_dparam(ctx->dev, at.n, a->c, a->s, at.order, rk__at(x, x0), rk__at(mean, s0),
                                        rk__at(rstd, s0), rk__at(dy, x0), rk__at(sums, i * a->c),
                                        rk__at(sums, (spans + i) * a->c)));
    }
    return RK_OK;
}

/* dx through the statistics. total (2, c): the sums over the whole batch; shards have their own in sums. */
static rk_status through_statistics(rk__node *node, const batch_attr *a, rk_tensor *dy, rk_tensor *sums,
                                    rk_tensor *total, rk_tensor *dx)
{
    rk_ctx *ctx = dy->ctx;
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *x = node->save[0], *mean = node->save[1], *rstd = node->save[2];
    rk_tensor *gamma = node->in[1] ? rk__dense(node->in[1]) : NULL;
    const int spans = spans_of(ctx, a);
    for (int i = 0; i < spans; i++) {
        span at;
        RK_TRY(span_at(ctx, a, i, &at));
        int64_t x0 = at.lo * a->c * a->s, s0 = a->shards ? i * a->c : 0;
        int64_t count = (a->shards ? at.n : whole_batch(ctx, a)) * a->s;
        const void *dgamma = a->shards ? rk__at(sums, i * a->c) : rk__at(total, 0);
        const void *dbeta = a->shards ? rk__at(sums, (spans + i) * a->c) : rk__at(total, a->c);
        if (at.n * a->s > 0)
            RK_TRY(k->batch_norm_dx(ctx->dev, at.n, a->c, a->s, count, rk__at(x, x0), rk__at(mean, s0),
                                    rk__at(rstd, s0), rk__data_or_null(gamma), dgamma, dbeta, rk__at(dy, x0),
                                    rk__at(dx, x0)));
    }
    return RK_OK;
}

/* Fixed statistics: dx = dy * gamma * rstd, which is batch_norm itself with mean 0 and no shift. */
static rk_status fixed_statistics(rk__node *node, const batch_attr *a, rk_tensor *dy, rk_tensor *dx)
{
    rk_ctx *ctx = dy->ctx;
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *zero = rk_zeros(ctx, dy->dtype, RK_SHAPE(a->c));
    rk_tensor *gamma = node->in[1] ? rk__dense(node->in[1]) : NULL;
    RK_TRY(rk_failed(ctx));
    return k->batch_norm(ctx->dev, a->n, a->c, a->s, rk__data(dy), rk__data(zero), rk__data(node->save[3]),
                         rk__data_or_null(gamma), rk__data(zero), a->eps, rk__data(dx), NULL);
}

/* The gradient of gamma (which 0) or beta (1): spans of a part are added in its tree. */
static rk_status parameter(const rk_kernels *k, const batch_attr *a, rk_tensor *t, int which, rk_tensor *sums)
{
    rk_ctx *ctx = sums->ctx;
    const int spans = spans_of(ctx, a);
    int from = which * spans;
    for (int p = 0; rk_requires_grad(t) && p < rk__parts(ctx); p++) {
        rk__part part;
        RK_TRY(rk__grad_part(t, p, a->n, 1, &part));
        part.order.segments = a->shards ? leaves_of(ctx, p) : 1;
        int rows = part.order.segments;
        RK_TRY(k->reduce_sum(ctx->dev, 1, rows, a->c, part.order, rk__at(sums, from * a->c),
                             rk__data(part.sum)));
        from += rows;
    }
    return RK_OK;
}

/* The sums over the whole batch; those of this rank's parts if it is alone. */
static rk_status totals(const batch_attr *a, rk_tensor *sums, rk_tensor **total)
{
    rk_ctx *ctx = sums->ctx;
    *total = sums;
    if (!meets(ctx, a))
        return RK_OK;
    /* (2, spans, c) -> (spans, 2, c): a part's sums together */
    rk_tensor *by_part = rk__dense(rk__permuted(sums, (int[]){ 1, 0, 2 }));
    *total = rk__out(ctx, sums->dtype, RK_SHAPE(2, 1, a->c));
    return meet(ctx, 2 * a->c, by_part, *total);
}

static rk_status batch_norm_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    batch_attr a;
    memcpy(&a, node->attr, sizeof a);
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *sums = rk_zeros(ctx, dy->dtype, RK_SHAPE(2, spans_of(ctx, &a), a.c)), *total;
    rk_tensor *dx = rk_requires_grad(node->in[0]) ? rk__out(ctx, dy->dtype, dy->shape) : NULL;
    RK_TRY(rk_failed(ctx));
    rk_status st = span_sums(node, &a, dy, sums);
    if (!st && dx && a.training)
        st = totals(&a, sums, &total);
    if (!st && dx)
        st = a.training ? through_statistics(node, &a, dy, sums, total, dx)
                        : fixed_statistics(node, &a, dy, dx);
    if (!st)
        st = parameter(k, &a, node->in[1], 0, sums);
    if (!st)
        st = parameter(k, &a, node->in[2], 1, sums);
    if (!st && dx)
        st = rk__grad_give(node->in[0], dx);
    return st ? rk__grad_failed(ctx, "batch_norm", st) : RK_OK;
}

static const rk__op op_batch_norm = { "batch_norm", batch_norm_backward };

/* ---- running statistics ---- */

/* running = (1 - momentum) * running + momentum * sum / shards; the sum is used up. */
static rk_status move_running(rk_tensor *running, double momentum, rk_tensor *sum, int64_t shards)
{
    rk_ctx *ctx = running->ctx;
    const rk_kernels *k = rk__kernels(ctx, running->dtype);
    int64_t n = rk__size(running);
    if (shards > 1)
        RK_TRY(k->mul_scalar(ctx->dev, n, rk__data(sum), 1.0 / (double)shards, rk__data(sum)));
    const rk_optim_piece piece = { .n = n, .w = rk__data(running), .g = rk__data(sum) };
    return shards > 0 ? k->ema(ctx->dev, 1 - momentum, ctx->halted, 1, &piece) : RK_OK;
}

/* The sums of the parts of all ranks. */
static rk_status meet_running(rk_tensor *running, rk_tensor **sum)
{
    rk_ctx *ctx = running->ctx;
    const int parts = rk__parts(ctx);
    const int64_t n = rk__size(running);
    rk_tensor *by_part = rk_zeros(ctx, running->dtype, RK_SHAPE(parts, n));
    *sum = rk__out(ctx, running->dtype, RK_SHAPE(n));
    RK_TRY(rk_failed(ctx));
    for (int p = 0; p < parts; p++) {
        rk_tensor *leaf = rk__part_leaf(running, p), *part = leaf ? rk_grad(leaf) : NULL;
        if (part)
            RK_TRY(rk__device_copy(ctx, (size_t)n * rk_dtype_size(running->dtype), rk__data(part),
                                   rk__at(by_part, p * n)));
    }
    return meet(ctx, n, by_part, *sum);
}

rk_status rk__running_finish(rk_tensor *running, double momentum, int64_t shards)
{
    rk_ctx *ctx = running->ctx;
    rk_tensor *sum = rk_grad(running);
    rk_status st = rk_failed(ctx);
    if (!st && ctx->meet.sum)
        st = meet_running(running, &sum);
    if (!st && sum)
        st = move_running(running, momentum, sum, shards);
    rk_grad_zero(running);
    return st ? rk_fail(running->ctx, st, "batch_norm: running statistics cannot be updated") : RK_OK;
}

/* Where the sums over the parts go: to a micro-batch's place in the tree over all of them, or into `own`. */
static rk_tensor *running_sum(const rk__call *c, rk_tensor *running, rk_tensor *own)
{
    rk_order order;
    if (!c->ctx->grid.part)
        return own;
    running = rk__part_leaf(running, c->ctx->grid.first_part);
    if (running && rk_grad(running)) {
        rk_fail(c->ctx, RK_ECONFIG,
                "a batch norm that is used twice needs the whole batch at once: leave batch.micro out");
        return NULL;
    }
    return running ? rk__grad_begin(running, 1, &order) : NULL;
}

/* n / (n - 1) for variances, as other frameworks keep them. */
static double correction(bool variance, int64_t count)
{
    return count == 0 ? 0 : variance && count > 1 ? (double)count / (double)(count - 1) : 1;
}

/* One set of statistics moves the running ones. */
static rk_status follow_whole(const rk__call *c, const batch_attr *a, double momentum, rk_tensor *stat,
                              bool variance, rk_tensor *running)
{
    rk_tensor *own = rk__out(c->ctx, c->type, RK_SHAPE(a->c)), *sum = running_sum(c, running, own);
    int64_t count = whole_batch(c->ctx, a) * a->s;
    RK_TRY(rk_failed(c->ctx));
    RK_TRY(count ? c->k->mul_scalar(c->ctx->dev, a->c, rk__data(stat), correction(variance, count),
                                    rk__data(sum))
                 : c->k->fill(c->ctx->dev, a->c, 0, rk__data(sum)));
    if (sum == own)
        RK_TRY(move_running(running, momentum, sum, count > 0));
    rk__drop(own);
    return RK_OK;
}

/* The mean over the shards of stat * factor of the shard moves the running ones. */
static rk_status follow_shards(const rk__call *c, const batch_attr *a, double momentum, rk_tensor *stat,
                               bool variance, rk_tensor *running)
{
    rk_ctx *ctx = c->ctx;
    const int spans = spans_of(ctx, a), parts = rk__parts(ctx);
    rk_tensor *scaled = rk__out(ctx, c->type, RK_SHAPE(spans, a->c)),
              *by_part = rk__out(ctx, c->type, RK_SHAPE(parts, a->c));
    rk_tensor *own = rk__out(ctx, c->type, RK_SHAPE(a->c)), *sum = running_sum(c, running, own);
    int64_t used = 0, at = 0;
    RK_TRY(rk_failed(ctx));
    for (int i = 0; i < spans; i++) {
        span s;
        RK_TRY(span_at(ctx, a, i, &s));
        int64_t count = s.n * a->s;
        used += count > 0;
        RK_TRY(count ? c->k->mul_scalar(ctx->dev, a->c, rk__at(stat, i * a->c), correction(variance, count),
                                        rk__at(scaled, i * a->c))
                     : c->k->fill(ctx->dev, a->c, 0, rk__at(scaled, i * a->c)));
    }
    for (int p = 0; p < parts; p++) {
        rk_order tree = { leaves_of(ctx, p), 1, RK_ACC_SET };
        void *to = parts > 1 || sum == own ? rk__at(by_part, p * a->c) : rk__data(sum);
        RK_TRY(c->k->reduce_sum(ctx->dev, 1, leaves_of(ctx, p), a->c, tree, rk__at(scaled, at), to));
        at += leaves_of(ctx, p) * a->c;
    }
    if (sum == own) {
        bool alone = !ctx->meet.sum;
        if (!alone) {
            RK_TRY(meet(ctx, a->c, by_part, own));
            used = ctx->grid.batch_samples < ctx->data_shards ? ctx->grid.batch_samples : ctx->data_shards;
        }
        RK_TRY(move_running(running, momentum, alone ? by_part : own, used));
    }
    rk__drop(scaled);
    rk__drop(by_part);
    rk__drop(own);
    return RK_OK;
}

/* ---- forward ---- */

/* stat (c) = the meeting of parts (spans, c), over the terms of the whole batch. */
static rk_status meet_mean(const rk__call *c, const batch_attr *a, rk_tensor *parts, rk_tensor *stat)
{
    rk_ctx *ctx = c->ctx;
    rk_tensor *terms = rk_full(ctx, c->type, RK_SHAPE(a->c), (double)(whole_batch(ctx, a) * a->s));
    RK_TRY(meet(ctx, a->c, parts, stat));
    rk_status st = c->k->div(ctx->dev, a->c, rk__data(stat), rk__data(terms), 0, rk__data(stat));
    rk__drop(terms);
    return st;
}

/* Statistics of the whole batch, of which this rank has a part: two meetings. */
static rk_status meet_statistics(const rk__call *c, const batch_attr *a, rk_tensor *x, rk_tensor *mean,
                                 rk_tensor *var)
{
    rk_ctx *ctx = c->ctx;
    const int spans = spans_of(ctx, a);
    rk_tensor *parts = rk_zeros(ctx, c->type, RK_SHAPE(spans, a->c));
    RK_TRY(rk_failed(ctx));
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < spans; i++) {
            span at;
            RK_TRY(span_at(ctx, a, i, &at));
            const void *from = rk__at(x, at.lo * a->c * a->s);
            void *to = rk__at(parts, i * a->c);
            if (at.n * a->s > 0)
                RK_TRY(pass == 0 ? c->k->sum_channels(ctx->dev, at.n, a->c, a->s, at.order, from, to)
                                 : c->k->sum_channel_squares(ctx->dev, at.n, a->c, a->s, at.order, from,
                                                             rk__data(mean), to));
        }
        RK_TRY(meet_mean(c, a, parts, pass == 0 ? mean : var));
    }
    rk__drop(parts);
    return RK_OK;
}

/* y, and mean, var, rstd (stats, c). */
static rk_status batch_forward(const rk__call *c, const batch_attr *a, rk_tensor *const *dense,
                               rk_tensor *mean, rk_tensor *var, rk_tensor *rstd, rk_tensor *y)
{
    rk_ctx *ctx = c->ctx;
    const bool together = meets(ctx, a);
    if (together)
        RK_TRY(meet_statistics(c, a, dense[0], mean, var));
    for (int i = 0; i < stats_of(ctx, a); i++) {
        span at = { .n = a->n, .order = rk__order(ctx, 1) };
        if (a->shards)
            RK_TRY(span_at(ctx, a, i, &at));
        int64_t x0 = at.lo * a->c * a->s, s0 = i * a->c;
        if (at.n * a->s == 0)
            continue;
        if (a->training && !together)
            RK_TRY(c->k->batch_norm_stats(ctx->dev, at.n, a->c, a->s, at.order, rk__at(dense[0], x0),
                                          rk__at(mean, s0), rk__at(var, s0)));
        RK_TRY(c->k->batch_norm(ctx->dev, at.n, a->c, a->s, rk__at(dense[0], x0), rk__at(mean, s0),
                                rk__at(var, s0), rk__data_or_null(dense[1]), rk__data_or_null(dense[2]),
                                a->eps, rk__at(y, x0), rk__at(rstd, s0)));
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
    a->shards = cfg->training && cfg->shard_scope;
    a->training = cfg->training;
    a->eps = cfg->eps;
    return rk__one_of_each(c, in[1], a->c, "gamma") && rk__one_of_each(c, in[2], a->c, "beta") &&
           rk__one_of_each(c, running_mean, a->c, "running_mean") &&
           rk__one_of_each(c, running_var, a->c, "running_var");
}

/* Where the statistics come from: made here, or the running ones. */
static bool batch_statistics(const rk__call *c, const batch_attr *a, rk_tensor *running_mean,
                             rk_tensor *running_var, rk_tensor **stats)
{
    rk_shape s = RK_SHAPE(stats_of(c->ctx, a), a->c);
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

static rk_status follow(const rk__call *c, const batch_attr *a, double momentum, rk_tensor *stat,
                        bool variance, rk_tensor *running)
{
    return (a->shards ? follow_shards : follow_whole)(c, a, momentum, stat, variance, running);
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
        st = follow(&c, &a, cfg->momentum, stats[0], false, running_mean);
    if (!st && a.training && running_var)
        st = follow(&c, &a, cfg->momentum, stats[1], true, running_var);
    for (int i = 1; i < 3; i++)
        rk__drop_temp(dense[i], in[i]);
    if (a.training)
        rk__drop(stats[1]);
    if (rk__call_check(&c, st))
        return rk__inert(c.ctx);
    rk_tensor *save[] = { dense[0], stats[0], stats[2], stats[1] };
    return rk__call_end(&c, rk__record(y, &op_batch_norm, in, 5, save, a.training ? 3 : 4, &a, sizeof a));
}
