/* Losses: the mean over the samples, a scalar. */
#include "core/cut.h"

#include <string.h>

/* The same over the samples of all ranks. [C] */
static rk_status sum_of_ranks(const rk_kernels *k, rk_tensor *values, rk_tensor *y)
{
    rk_ctx *ctx = y->ctx;
    const int parts = rk__parts(ctx);
    rk_tensor *sums = rk__out(ctx, y->dtype, RK_SHAPE(parts));
    rk_shape s = values->shape;
    for (int p = 0; p < parts; p++) {
        rk__part part;
        RK_TRY(rk__part_of(ctx, p, values->shape.dim[0], 1, &part));
        s.dim[0] = part.n;
        rk_tensor *rows = rk__view(values, s, values->stride, values->offset + part.lo * values->stride[0]);
        void *to = rk__is_inert(rows) || rk__is_inert(sums) ? NULL : rk__at(sums, p);
        if (!to)
            return rk_failed(ctx);
        RK_TRY(rk__sum_axes(k, rows, (1u << s.ndim) - 1, part.order, to));
    }
    RK_ASSERT(ctx->meet.sum);
    return ctx->meet.sum(ctx->meet.arg, "loss", 1, rk__data(sums), rk__data(y));
}

/* The sum of values (n, ..) over samples in canonical order, times scale, into the scalar y. */
static rk_status sum_scaled(const rk_kernels *k, rk_tensor *values, double scale, rk_tensor *y)
{
    rk_ctx *ctx = y->ctx;
    void *to = rk__data(y);
    if (!to || rk__is_inert(values))
        return rk_failed(ctx);
    RK_TRY(ctx->meet.sum || rk__parts(ctx) > 1
               ? sum_of_ranks(k, values, y)
               : rk__sum_axes(k, values, (1u << values->shape.ndim) - 1, rk__order(ctx, 1), to));
    return k->mul_scalar(ctx->dev, 1, to, scale, to);
}

/* One over the number of terms of the mean, `each` a sample; parts of a batch, which may be empty, know the
 * samples of the whole. */
static double mean_scale(const rk_ctx *ctx, int64_t terms, int64_t each)
{
    int64_t n = ctx->grid.batch_samples > 0 ? ctx->grid.batch_samples * each : terms;
    return n > 0 ? 1.0 / (double)n : 0;
}

/* Terms of one sample of x (n, ..). */
static int64_t terms_each(const rk_tensor *x)
{
    int64_t n = 1;
    for (int i = 1; i < x->shape.ndim; i++)
        n *= x->shape.dim[i];
    return n;
}

/* The gradient of a loss, where the host knows it; else 1, and times_seed() comes behind. */
static double known_seed(const rk_tensor *dy)
{
    return rk__known(dy) ? rk_item(dy) : 1;
}

static rk_status times_seed(const rk_tensor *dy, int64_t n, void *dx)
{
    const void *by = rk__known(dy) ? NULL : rk__data(dy);
    rk_ctx *ctx = dy->ctx;
    return by ? rk__kernels(ctx, dy->dtype)->mul_by(ctx->dev, n, dx, by, dx) : rk_failed(ctx);
}

/* ---- element by element: MSE, L1, BCE ---- */

typedef struct loss_attr {
    double scale;
} loss_attr;

/* d loss / d x scaled by the seed; f(x, target, factor). */
typedef rk_status slope_fn(const rk_kernels *k, rk__node *node, double factor, int64_t n, void *dx);

static rk_status mse_slope(const rk_kernels *k, rk__node *node, double factor, int64_t n, void *dx)
{
    return k->mul_scalar(node->out->ctx->dev, n, rk__data(node->save[0]), 2 * factor, dx);
}

static rk_status l1_slope(const rk_kernels *k, rk__node *node, double factor, int64_t n, void *dx)
{
    return k->l1_grad(node->out->ctx->dev, n, rk__data(node->save[0]), rk__data(node->save[1]), factor, dx);
}

static rk_status bce_slope(const rk_kernels *k, rk__node *node, double factor, int64_t n, void *dx)
{
    return k->bce_grad(node->out->ctx->dev, n, rk__data(node->save[0]), rk__data(node->save[1]), factor, dx);
}

/* d bce / d target = -x. */
static rk_status bce_target_slope(const rk_kernels *k, rk__node *node, double factor, int64_t n, void *dt)
{
    return k->mul_scalar(node->out->ctx->dev, n, rk__data(node->save[0]), -factor, dt);
}

static rk_status give_slope(rk__node *node, slope_fn *f, rk_tensor *to, const rk_tensor *dy, double factor)
{
    rk_ctx *ctx = to->ctx;
    rk_tensor *g = rk__out(ctx, to->dtype, to->shape);
    void *p = rk__data(g);
    if (!p)
        return rk_failed(ctx);
    rk_status st = f(rk__kernels(ctx, to->dtype), node, factor, rk__size(g), p);
    if (!st)
        st = times_seed(dy, rk__size(g), p);
    return st ? rk__grad_failed(ctx, node->op->name, st) : rk__grad_give(to, g);
}

static rk_status element_backward(rk__node *node, rk_tensor *dy, slope_fn *slope, slope_fn *target_slope)
{
    loss_attr a;
    memcpy(&a, node->attr, sizeof a);
    double factor = known_seed(dy) * a.scale;
    if (rk_requires_grad(node->in[0]))
        RK_TRY(give_slope(node, slope, node->in[0], dy, factor));
    if (rk_requires_grad(node->in[1]))
        return target_slope ? give_slope(node, target_slope, node->in[1], dy, factor)
                            : give_slope(node, slope, node->in[1], dy, -factor);
    return RK_OK;
}

static rk_status mse_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return element_backward(node, dy, mse_slope, NULL);
}

static rk_status l1_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return element_backward(node, dy, l1_slope, NULL);
}

static rk_status bce_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return element_backward(node, dy, bce_slope, bce_target_slope);
}

static const rk__op op_mse = { "mse_loss", mse_backward };
static const rk__op op_l1 = { "l1_loss", l1_backward };
static const rk__op op_bce = { "bce_with_logits", bce_backward };

/* The losses of the elements into `each`; for MSE the differences stay in `saved` too. */
static rk_status element_losses(const rk__call *c, const rk__op *op, rk_tensor *const *dense,
                                rk_tensor *saved, rk_tensor *each)
{
    rk_dev *dev = c->ctx->dev;
    int64_t n = rk__size(each);
    const void *x = rk__data(dense[0]), *t = rk__data(dense[1]);
    void *to = rk__data(each), *d = saved ? rk__data(saved) : NULL;
    if (!x || !t || !to || (saved && !d))
        return rk_failed(c->ctx);
    if (op == &op_l1)
        return c->k->l1(dev, n, x, t, 0, to);
    if (op == &op_bce)
        return c->k->bce(dev, n, x, t, 0, to);
    RK_TRY(c->k->sub(dev, n, x, t, 0, d));
    return c->k->mul(dev, n, d, d, 0, to);
}

static rk_tensor *element_loss(const rk__op *op, rk_tensor *x, rk_tensor *target)
{
    rk__call c;
    rk_tensor *in[] = { x, target };
    char ta[160], tb[160];
    if (!rk__call_begin(&c, op->name, in, 2))
        return rk__inert(c.ctx);
    if (!in[1] || !rk__shape_eq(&in[0]->shape, &in[1]->shape)) {
        rk_fail(c.ctx, RK_ESHAPE, "%s: input %s, target %s; they have one shape", c.name,
                rk__shape_str(&in[0]->shape, ta, sizeof ta),
                in[1] ? rk__shape_str(&in[1]->shape, tb, sizeof tb) : "NULL");
        return rk__inert(c.ctx);
    }
    loss_attr a = { mean_scale(c.ctx, rk__size(in[0]), terms_each(in[0])) };
    rk_tensor *dense[] = { rk__dense(in[0]), rk__dense(in[1]) };
    rk_tensor *difference = op == &op_mse ? rk__out(c.ctx, c.type, in[0]->shape) : NULL;
    rk_tensor *each = rk__out(c.ctx, c.type, in[0]->shape), *y = rk__out(c.ctx, c.type, RK_SCALAR);
    rk_status st = element_losses(&c, op, dense, difference, each);
    if (!st && !rk_failed(c.ctx))
        st = sum_scaled(c.k, each, a.scale, y);
    rk__drop(each);
    if (rk__call_check(&c, st) || rk_failed(c.ctx))
        return rk__inert(c.ctx);
    if (difference) {
        rk__drop_temp(dense[0], in[0]);
        rk__drop_temp(dense[1], in[1]);
        y = rk__record(y, op, in, 2, &difference, 1, &a, sizeof a);
    } else {
        y = rk__record(y, op, in, 2, dense, 2, &a, sizeof a);
    }
    return rk__call_end(&c, y);
}

rk_tensor *rk_mse_loss(rk_tensor *x, rk_tensor *target)
{
    return element_loss(&op_mse, x, target);
}

rk_tensor *rk_l1_loss(rk_tensor *x, rk_tensor *target)
{
    return element_loss(&op_l1, x, target);
}

rk_tensor *rk_bce_with_logits(rk_tensor *x, rk_tensor *target)
{
    return element_loss(&op_bce, x, target);
}

/* ---- cross entropy ---- */

typedef struct cross_entropy_attr {
    rk_cross_entropy_cfg cfg;
    double scale;
    int64_t first, classes; /* of the columns */
} cross_entropy_attr;

static rk_status cross_entropy_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    cross_entropy_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *x = node->in[0], *dx = rk__out(ctx, x->dtype, x->shape);
    double scale = known_seed(dy) * a.scale;
    const void *logits = rk__data(node->save[0]), *target = rk__data(node->save[1]),
               *lse = rk__data(node->save[2]);
    void *to = rk__data(dx);
    if (!logits || !target || !lse || !to)
        return rk_failed(ctx);
    rk_status st = rk__kernels(ctx, x->dtype)
                       ->cross_entropy_grad(ctx->dev, x->shape.dim[0], x->shape.dim[1], a.first, a.classes,
                                            logits, target, lse, a.cfg.label_smoothing, a.cfg.use_ignore,
                                            a.cfg.ignore_index, scale, to);
    if (!st)
        st = times_seed(dy, rk__size(dx), to);
    return st ? rk__grad_failed(ctx, "cross_entropy", st) : rk__grad_give(x, dx);
}

static const rk__op op_cross_entropy = { "cross_entropy", cross_entropy_backward };

static bool cross_entropy_fits(const rk__call *c, const rk_tensor *x, const rk_tensor *target,
                               const rk_cross_entropy_cfg *cfg)
{
    char tx[160], tt[160];
    if (x->shape.ndim != 2 || target->shape.ndim != 1 || x->shape.dim[0] != target->shape.dim[0] ||
        x->shape.dim[1] < 1) {
        rk_fail(c->ctx, RK_ESHAPE, "cross_entropy: logits %s, target %s; (n, classes) and (n) are wanted",
                rk__shape_str(&x->shape, tx, sizeof tx), rk__shape_str(&target->shape, tt, sizeof tt));
        return false;
    }
    if (!(cfg->label_smoothing >= 0 && cfg->label_smoothing < 1)) {
        rk_fail(c->ctx, RK_EUSAGE, "cross_entropy: label smoothing %g is not in [0, 1)",
                cfg->label_smoothing);
        return false;
    }
    return true;
}

enum { TARGET_PIECE = 512 };

/* Targets that count. */
static rk_status count_targets(rk_ctx *ctx, rk_tensor *target, const rk_cross_entropy_cfg *cfg,
                               int64_t *count)
{
    int64_t n = rk__size(target), host[TARGET_PIECE];
    const int64_t *at = rk__data(target);
    *count = n;
    for (int64_t begin = 0; cfg->use_ignore && begin < n; begin += TARGET_PIECE) {
        int64_t m = n - begin < TARGET_PIECE ? n - begin : TARGET_PIECE;
        rk_status st = ctx->device->copy_out(ctx->dev, host, at + begin, (size_t)m * sizeof *host);
        if (st)
            return rk_fail(ctx, st, "cross_entropy: cannot read the targets from the device");
        for (int64_t i = 0; i < m; i++)
            *count -= host[i] == cfg->ignore_index;
    }
    return RK_OK;
}

static rk_status losses_of_rows(const rk__call *c, const cross_entropy_attr *a, const rk__cut *cut,
                                rk_tensor *logits, rk_tensor *target, rk_tensor *each, rk_tensor *lse)
{
    if (cut)
        return rk__cross_entropy_rows(c, &a->cfg, cut, logits, target, each, lse);
    return c->k->cross_entropy(c->ctx->dev, logits->shape.dim[0], logits->shape.dim[1], rk__data(logits),
                               rk__data(target), a->cfg.label_smoothing, a->cfg.use_ignore,
                               a->cfg.ignore_index, rk__data(each), rk__data(lse));
}

rk_tensor *rk__cross_entropy_cut(rk_tensor *logits, rk_tensor *target, const rk_cross_entropy_cfg *cfg,
                                 const rk__cut *cut)
{
    static const rk_cross_entropy_cfg defaults;
    rk__call c;
    cross_entropy_attr a = { .cfg = cfg ? *cfg : defaults };
    if (!rk__call_begin(&c, "cross_entropy", &logits, 1) || !rk__ready(&target, 1) ||
        !cross_entropy_fits(&c, logits, target, &a.cfg))
        return rk__inert(c.ctx);
    int64_t rows = logits->shape.dim[0], counted;
    a.first = cut ? cut->lo : 0;
    a.classes = cut ? cut->whole : logits->shape.dim[1];
    rk_tensor *wide =
        rk__indices(c.ctx, c.name, target, a.classes, a.cfg.use_ignore ? &a.cfg.ignore_index : NULL, "class");
    if (!wide || count_targets(c.ctx, wide, &a.cfg, &counted))
        return rk__inert(c.ctx);
    a.scale = mean_scale(c.ctx, counted, 1);
    rk_tensor *dense = rk__dense(logits), *y = rk__out(c.ctx, c.type, RK_SCALAR);
    rk_tensor *each = rk__out(c.ctx, c.type, RK_SHAPE(rows)), *lse = rk__out(c.ctx, c.type, RK_SHAPE(rows));
    if (rk_failed(c.ctx))
        return rk__inert(c.ctx);
    rk_status st = losses_of_rows(&c, &a, cut, dense, wide, each, lse);
    if (!st)
        st = sum_scaled(c.k, each, a.scale, y);
    rk__drop(each);
    if (rk__call_check(&c, st))
        return rk__inert(c.ctx);
    rk_tensor *save[] = { dense, wide, lse };
    rk_tensor *in[] = { logits, target };
    return rk__call_end(&c, rk__record(y, &op_cross_entropy, in, 2, save, 3, &a, sizeof a));
}

rk_tensor *rk_cross_entropy_cfgd(rk_tensor *logits, rk_tensor *target, const rk_cross_entropy_cfg *cfg)
{
    return rk__cross_entropy_cut(logits, target, cfg, NULL);
}

rk_tensor *rk_cross_entropy(rk_tensor *logits, rk_tensor *target)
{
    return rk_cross_entropy_cfgd(logits, target, NULL);
}
