/* Convolution and pooling over (n, c, h, w). */
#include "core/cut.h"

#include <string.h>

static rk_tensor *kernel_failed(rk__call *c, rk_status st)
{
    return st ? rk__op_failed(c->ctx, c->name, st) : rk__inert(c->ctx);
}

static bool four_axes(const rk__call *c, const rk_tensor *x)
{
    char text[160];
    if (x->shape.ndim == 4)
        return true;
    rk_fail(c->ctx, RK_ESHAPE, "%s: the input is %s; (n, channels, height, width) is wanted", c->name,
            rk__shape_str(&x->shape, text, sizeof text));
    return false;
}

/* Positions of a window of `extent` elements over `size` padded by `pad` on both sides; < 1: it does not fit.
 */
static int64_t positions(int64_t size, int64_t pad, int64_t extent, int64_t stride)
{
    int64_t room = size + 2 * pad - extent;
    return room < 0 ? 0 : room / stride + 1;
}

/* ---- conv2d ---- */

typedef struct conv_attr {
    rk_conv2d_args k;
    rk_act act;
} conv_attr;

static rk_status conv_weight_gradient(const rk_kernels *k, const rk_conv2d_args *args, rk_tensor *w,
                                      rk_tensor *x, rk_tensor *g)
{
    const int64_t plane = args->oh * args->ow;
    for (int p = 0; p < rk__parts(w->ctx); p++) {
        rk__part part;
        rk_conv2d_args a = *args;
        RK_TRY(rk__grad_part(w, p, args->n, plane, &part));
        a.n = part.n;
        RK_TRY(k->conv2d_dw(w->ctx->dev, &a, part.order, rk__at(x, part.lo * a.c * a.h * a.w),
                            rk__at(g, part.lo * a.oc * plane), rk__data(part.sum)));
    }
    return RK_OK;
}

static rk_status conv_bias_gradient(const rk_kernels *k, const rk_conv2d_args *args, rk_tensor *b,
                                    rk_tensor *g)
{
    const int64_t plane = args->oh * args->ow;
    for (int p = 0; p < rk__parts(b->ctx); p++) {
        rk__part part;
        RK_TRY(rk__grad_part(b, p, args->n, 1, &part));
        RK_TRY(k->sum_channels(b->ctx->dev, part.n, args->oc, plane, part.order,
                               rk__at(g, part.lo * args->oc * plane), rk__data(part.sum)));
    }
    return RK_OK;
}

/* The part of dx over output channels [lo, hi), as a tree over `segments` leaves of them. */
static rk_status dx_of_channels(const rk_kernels *k, const rk_conv2d_args *args, rk_tensor *g, rk_tensor *w,
                                int64_t lo, int64_t hi, int segments, rk_tensor *dx)
{
    rk_ctx *ctx = g->ctx;
    if (segments > 1) {
        int64_t mid = rk_order_mid(lo, hi);
        rk_tensor *right = rk__out(ctx, dx->dtype, dx->shape);
        void *a = rk__data(dx), *b = rk__data(right);
        if (!a || !b)
            return rk_failed(ctx);
        RK_TRY(dx_of_channels(k, args, g, w, lo, mid, segments / 2, dx));
        RK_TRY(dx_of_channels(k, args, g, w, mid, hi, segments / 2, right));
        RK_TRY(k->add(ctx->dev, rk__size(dx), a, b, 0, a));
        rk__drop(right);
        return RK_OK;
    }
    rk_conv2d_args a = *args;
    rk_shape s = g->shape;
    s.dim[1] = a.oc = hi - lo;
    rk_tensor *view = rk__view(g, s, g->stride, g->offset + lo * g->stride[1]), *dense = rk__dense(view);
    const void *dy = rk__data(dense), *weight = rk__at(w, lo * w->stride[0]);
    if (!dy || !weight || !rk__data(dx))
        return rk_failed(ctx);
    rk_status st = k->conv2d_dx(ctx->dev, &a, dy, weight, rk__data(dx));
    rk__drop_temp(dense, view);
    return st;
}

static rk_status conv_gradients(rk__node *node, const rk_conv2d_args *args, rk_tensor *g)
{
    rk_ctx *ctx = g->ctx;
    const rk_kernels *k = rk__kernels(ctx, g->dtype);
    rk_tensor *x = node->in[0], *w = node->in[1], *b = node->in[2];
    const void *dy = rk__data(g);
    if (!dy)
        return rk_failed(ctx);
    if (rk_requires_grad(w)) {
        rk_tensor *dense = rk__dense(x);
        if (!rk__data(dense))
            return rk_failed(ctx);
        RK_TRY(conv_weight_gradient(k, args, w, dense, g));
    }
    if (rk_requires_grad(b))
        RK_TRY(conv_bias_gradient(k, args, b, g));
    if (rk_requires_grad(x)) {
        rk_tensor *dx = rk__out(ctx, g->dtype, x->shape), *weight = rk__dense(w);
        if (!rk__data(weight))
            return rk_failed(ctx);
        RK_TRY(dx_of_channels(k, args, g, weight, 0, args->oc, w->cut ? rk__cut_chains(ctx) : 1, dx));
        if (w->cut)
            RK_TRY(rk__cut_sum("conv2d, gradient", dx));
        return rk__grad_give(x, dx);
    }
    return RK_OK;
}

static rk_status conv_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    conv_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *g = a.act == RK_ACT_RELU ? rk__relu_undo(node, dy) : dy;
    if (rk__is_inert(g))
        return rk_failed(ctx);
    rk_status st = conv_gradients(node, &a.k, g);
    return st ? rk__grad_failed(ctx, "conv2d", st) : RK_OK;
}

static const rk__op op_conv2d = { "conv2d", conv_backward };

static bool conv_settings(const rk__call *c, const rk_conv_cfg *cfg, rk_conv2d_args *k)
{
    static const rk_conv_cfg defaults;
    if (!cfg)
        cfg = &defaults;
    k->stride_h = cfg->stride[0] ? cfg->stride[0] : 1;
    k->stride_w = cfg->stride[1] ? cfg->stride[1] : 1;
    k->dil_h = cfg->dilation[0] ? cfg->dilation[0] : 1;
    k->dil_w = cfg->dilation[1] ? cfg->dilation[1] : 1;
    k->pad_h = cfg->pad[0];
    k->pad_w = cfg->pad[1];
    k->groups = cfg->groups ? cfg->groups : 1;
    bool fits = k->stride_h > 0 && k->stride_w > 0 && k->dil_h > 0 && k->dil_w > 0 && k->pad_h >= 0 &&
                k->pad_w >= 0 && k->groups > 0;
    if (!fits)
        rk_fail(
            c->ctx, RK_EUSAGE,
            "conv2d: stride (%d, %d), padding (%d, %d), dilation (%d, %d), groups %d: none may be negative",
            cfg->stride[0], cfg->stride[1], cfg->pad[0], cfg->pad[1], cfg->dilation[0], cfg->dilation[1],
            cfg->groups);
    if (fits && cfg->act != RK_ACT_NONE && cfg->act != RK_ACT_RELU) {
        rk_fail(c->ctx, RK_EUSAGE, "conv2d: relu is the only activation that is fused");
        fits = false;
    }
    return fits;
}

/* Fills in the sizes; the result's shape into *out. */
static bool conv_sizes(const rk__call *c, const rk_tensor *x, const rk_tensor *w, const rk_tensor *b,
                       rk_conv2d_args *k, rk_shape *out)
{
    char tx[160], tw[160], tb[160] = "none";
    if (!four_axes(c, x))
        return false;
    rk__shape_str(&x->shape, tx, sizeof tx);
    rk__shape_str(&w->shape, tw, sizeof tw);
    if (b)
        rk__shape_str(&b->shape, tb, sizeof tb);
    const int64_t *dx = x->shape.dim, *dw = w->shape.dim;
    if (w->shape.ndim != 4 || dx[1] != dw[1] * k->groups || dw[0] % k->groups || dx[1] < 1 ||
        (b && (b->shape.ndim != 1 || b->shape.dim[0] != dw[0]))) {
        rk_fail(c->ctx, RK_ESHAPE,
                "conv2d: input %s, weight %s, bias %s, groups %lld; (n, c, h, w), (out, c / groups, kh, kw) "
                "and (out) "
                "are wanted, with out divisible by groups",
                tx, tw, tb, (long long)k->groups);
        return false;
    }
    k->n = dx[0], k->c = dx[1], k->h = dx[2], k->w = dx[3];
    k->oc = dw[0], k->kh = dw[2], k->kw = dw[3];
    k->oh = k->kh < 1 ? 0 : positions(k->h, k->pad_h, (k->kh - 1) * k->dil_h + 1, k->stride_h);
    k->ow = k->kw < 1 ? 0 : positions(k->w, k->pad_w, (k->kw - 1) * k->dil_w + 1, k->stride_w);
    if (k->oh < 1 || k->ow < 1) {
        rk_fail(c->ctx, RK_ESHAPE,
                "conv2d: a kernel %lld x %lld (dilation %lld, %lld) does not fit into %lld x %lld padded by "
                "(%lld, %lld)",
                (long long)k->kh, (long long)k->kw, (long long)k->dil_h, (long long)k->dil_w, (long long)k->h,
                (long long)k->w, (long long)k->pad_h, (long long)k->pad_w);
        return false;
    }
    *out = (rk_shape){ 4, { k->n, k->oc, k->oh, k->ow } };
    return true;
}

static rk_status conv_forward(const rk__call *c, const conv_attr *a, rk_tensor **in, rk_tensor *y)
{
    rk_tensor *dense[3] = { rk__dense(in[0]), rk__dense(in[1]), in[2] ? rk__dense(in[2]) : NULL };
    const void *x = rk__data(dense[0]), *w = rk__data(dense[1]), *b = dense[2] ? rk__data(dense[2]) : NULL;
    void *to = rk__data(y);
    if (!x || !w || !to)
        return rk_failed(c->ctx);
    rk_status st = c->k->conv2d(c->ctx->dev, &a->k, x, w, b, a->act, to);
    for (int i = 0; i < 3; i++)
        rk__drop_temp(dense[i], in[i]);
    return st;
}

rk_tensor *rk_conv2d_op(rk_tensor *x, rk_tensor *w, rk_tensor *b, const rk_conv_cfg *cfg)
{
    rk__call c;
    rk_tensor *in[] = { x, w, b };
    conv_attr a = { .act = cfg ? cfg->act : RK_ACT_NONE };
    rk_shape shape;
    if (!rk__call_begin(&c, "conv2d", in, 3))
        return rk__inert(c.ctx);
    if (!in[1]) {
        rk_fail(c.ctx, RK_EUSAGE, "conv2d: the weight is NULL");
        return rk__inert(c.ctx);
    }
    if (!conv_settings(&c, cfg, &a.k) || !conv_sizes(&c, in[0], in[1], in[2], &a.k, &shape))
        return rk__inert(c.ctx);
    a.k.round = c.ctx->round;
    rk_tensor *y = rk__out(c.ctx, c.type, shape);
    rk_status st = conv_forward(&c, &a, in, y);
    if (st || rk_failed(c.ctx))
        return kernel_failed(&c, st);
    y = rk__record(y, &op_conv2d, in, 3, NULL, 0, &a, sizeof a);
    if (y->node)
        y->node->relu = a.act == RK_ACT_RELU;
    return rk__call_end(&c, y);
}

/* ---- pooling ---- */

typedef struct pool_attr {
    rk_pool2d k;
} pool_attr;

/* A maximum is positive where the element it came from is: the backward of a ReLU before a maximum masks the
 * few gradients of the outputs instead of all those of the inputs. */
static rk_tensor *masked_by_input(rk__node *node, rk_tensor *dy)
{
    if (!node->nsave || !rk__relu_mask(node->in[0]))
        return dy;
    rk_tensor *g = rk__grad_room(node, dy);
    const void *y = rk__data(node->out), *from = rk__data(dy);
    void *to = rk__data(g);
    if (!y || !from || !to)
        return rk__inert(dy->ctx);
    rk_status st = rk__kernels(dy->ctx, dy->dtype)->relu_grad(dy->ctx->dev, rk__size(dy), y, from, 0, to);
    return st ? rk__op_failed(dy->ctx, "relu", st) : g;
}

static rk_status pool_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    pool_attr a;
    memcpy(&a, node->attr, sizeof a);
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *x = node->in[0], *dx = rk__out(ctx, dy->dtype, x->shape), *g = masked_by_input(node, dy);
    const void *from = rk__data(g);
    void *to = rk__data(dx);
    if (!from || !to)
        return rk_failed(ctx);
    rk_status st = node->nsave ? k->max_pool2d_grad(ctx->dev, &a.k, rk__data(node->save[0]), from, to)
                               : k->avg_pool2d_grad(ctx->dev, &a.k, from, to);
    return st ? rk__grad_failed(ctx, node->op->name, st) : rk__grad_give(x, dx);
}

static const rk__op op_max_pool2d = { "max_pool2d", pool_backward };
static const rk__op op_avg_pool2d = { "avg_pool2d", pool_backward };
static const rk__op op_adaptive_max_pool2d = { "adaptive_max_pool2d", pool_backward };
static const rk__op op_adaptive_avg_pool2d = { "adaptive_avg_pool2d", pool_backward };

static bool pool_settings(const rk__call *c, const rk_pool_cfg *cfg, rk_pool2d *k)
{
    k->kh = cfg->kernel[0];
    k->kw = cfg->kernel[1];
    k->stride_h = cfg->stride[0] ? cfg->stride[0] : k->kh;
    k->stride_w = cfg->stride[1] ? cfg->stride[1] : k->kw;
    k->pad_h = cfg->pad[0];
    k->pad_w = cfg->pad[1];
    /* A window that lies in the padding alone would have no value. */
    if (k->kh > 0 && k->kw > 0 && k->stride_h > 0 && k->stride_w > 0 && k->pad_h >= 0 && k->pad_w >= 0 &&
        2 * k->pad_h <= k->kh && 2 * k->pad_w <= k->kw)
        return true;
    rk_fail(c->ctx, RK_EUSAGE,
            "%s: kernel (%d, %d), stride (%d, %d), padding (%d, %d): the kernel is positive, padding at most "
            "half of it",
            c->name, cfg->kernel[0], cfg->kernel[1], cfg->stride[0], cfg->stride[1], cfg->pad[0],
            cfg->pad[1]);
    return false;
}

static bool pool_sizes(const rk__call *c, const rk_tensor *x, rk_pool2d *k)
{
    k->n = x->shape.dim[0], k->c = x->shape.dim[1], k->h = x->shape.dim[2], k->w = x->shape.dim[3];
    bool adaptive = k->kh == 0;
    if (!adaptive) {
        k->oh = positions(k->h, k->pad_h, k->kh, k->stride_h);
        k->ow = positions(k->w, k->pad_w, k->kw, k->stride_w);
    }
    if (k->oh > 0 && k->ow > 0 && k->h > 0 && k->w > 0)
        return true;
    if (adaptive)
        rk_fail(c->ctx, RK_ESHAPE, "%s: %lld x %lld from an input of %lld x %lld", c->name, (long long)k->oh,
                (long long)k->ow, (long long)k->h, (long long)k->w);
    else
        rk_fail(c->ctx, RK_ESHAPE,
                "%s: a window of %lld x %lld does not fit into %lld x %lld padded by (%lld, %lld)", c->name,
                (long long)k->kh, (long long)k->kw, (long long)k->h, (long long)k->w, (long long)k->pad_h,
                (long long)k->pad_w);
    return false;
}

static rk_tensor *pool(const rk__op *op, rk_tensor *x, const rk_pool_cfg *cfg, int oh, int ow, bool max)
{
    rk__call c;
    pool_attr a = { .k = { .oh = oh, .ow = ow, .stride_h = 1, .stride_w = 1 } };
    if (!rk__call_begin(&c, op->name, &x, 1) || !four_axes(&c, x) || (cfg && !pool_settings(&c, cfg, &a.k)) ||
        !pool_sizes(&c, x, &a.k))
        return rk__inert(c.ctx);
    rk_shape shape = { 4, { a.k.n, a.k.c, a.k.oh, a.k.ow } };
    rk_tensor *dense = rk__dense(x), *y = rk__out(c.ctx, c.type, shape);
    rk_tensor *arg = max ? rk__out(c.ctx, RK_I32, shape) : NULL;
    const void *from = rk__data(dense);
    void *to = rk__data(y), *at = max ? rk__data(arg) : NULL;
    if (!from || !to || (max && !at))
        return rk__inert(c.ctx);
    rk_status st =
        max ? c.k->max_pool2d(c.ctx->dev, &a.k, from, to, at) : c.k->avg_pool2d(c.ctx->dev, &a.k, from, to);
    rk__drop_temp(dense, x);
    if (st)
        return kernel_failed(&c, st);
    return rk__call_end(&c, rk__record(y, op, &x, 1, &arg, max, &a, sizeof a));
}

rk_tensor *rk_max_pool2d(rk_tensor *x, const rk_pool_cfg *cfg)
{
    return pool(&op_max_pool2d, x, cfg, 0, 0, true);
}

rk_tensor *rk_avg_pool2d(rk_tensor *x, const rk_pool_cfg *cfg)
{
    return pool(&op_avg_pool2d, x, cfg, 0, 0, false);
}

rk_tensor *rk_adaptive_avg_pool2d(rk_tensor *x, int oh, int ow)
{
    return pool(&op_adaptive_avg_pool2d, x, NULL, oh, ow, false);
}

rk_tensor *rk_adaptive_max_pool2d(rk_tensor *x, int oh, int ow)
{
    return pool(&op_adaptive_max_pool2d, x, NULL, oh, ow, true);
}
