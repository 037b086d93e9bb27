/* Elementwise functions. One row of a table each: the forward kernel, and where the gradient comes from. */
#include "core/op.h"

#include <stddef.h>
#include <string.h>

/* ---- of one tensor ---- */

/* How dx follows from dy. */
typedef enum rule {
    SAME,        /* dx = dy */
    LINEAR,      /* dx = gradient(dy, p), a map1 */
    FROM_INPUT,  /* dx = gradient(x, dy, p), a map2 */
    FROM_OUTPUT, /* dx = gradient(y, dy, p) */
    DY_FIRST     /* dx = gradient(dy, x, p) */
} rule;

typedef struct unary {
    rk__op op;                /* first: a node's op leads back to its row */
    size_t forward, gradient; /* offsets in rk_kernels */
    rule rule;
} unary;

static rk_status unary_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy);

#define UNARY(id, fwd, rule_, grad)                                                           \
    static const unary op_##id = {                                                            \
        { #id, unary_backward }, offsetof(rk_kernels, fwd), offsetof(rk_kernels, grad), rule_ \
    };

UNARY(add_scalar, add_scalar, SAME, add_scalar)
UNARY(mul_scalar, mul_scalar, LINEAR, mul_scalar)
UNARY(rsub_scalar, rsub_scalar, LINEAR, neg)
UNARY(rdiv_scalar, rdiv_scalar, FROM_INPUT, rdiv_scalar_grad)
UNARY(pow_scalar, pow_scalar, FROM_INPUT, pow_scalar_grad)
UNARY(neg, neg, LINEAR, neg)
UNARY(exp, exp, FROM_OUTPUT, mul)
UNARY(log, log, DY_FIRST, div)
UNARY(sqrt, sqrt, FROM_OUTPUT, sqrt_grad)
UNARY(rsqrt, rsqrt, FROM_OUTPUT, rsqrt_grad)
UNARY(abs, abs, FROM_INPUT, abs_grad)
UNARY(relu, relu, FROM_OUTPUT, relu_grad)
UNARY(leaky_relu, leaky_relu, FROM_INPUT, leaky_relu_grad)
UNARY(gelu, gelu, FROM_INPUT, gelu_grad)
UNARY(gelu_tanh, gelu_tanh, FROM_INPUT, gelu_tanh_grad)
UNARY(silu, silu, FROM_INPUT, silu_grad)
UNARY(sigmoid, sigmoid, FROM_OUTPUT, sigmoid_grad)
UNARY(tanh, tanh, FROM_OUTPUT, tanh_grad)
UNARY(softplus, softplus, FROM_INPUT, softplus_grad)

/* The table's entry at an offset. */
static rk_map1 *map1_at(const rk_kernels *k, size_t offset)
{
    rk_map1 *f;
    memcpy(&f, (const char *)k + offset, sizeof f);
    return f;
}

static rk_map2 *map2_at(const rk_kernels *k, size_t offset)
{
    rk_map2 *f;
    memcpy(&f, (const char *)k + offset, sizeof f);
    return f;
}

static rk_status unary_gradient(rk_ctx *ctx, const unary *u, rk__node *node, rk_tensor *dy, rk_tensor *dx)
{
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    double p;
    memcpy(&p, node->attr, sizeof p);
    int64_t n = rk__size(dy);
    const void *g = rk__data(dy), *saved = node->nsave ? rk__data(node->save[0]) : NULL;
    void *out = rk__data(dx);
    if (!g || !out || (node->nsave && !saved))
        return rk_failed(ctx);
    if (u->rule == LINEAR)
        return map1_at(k, u->gradient)(ctx->dev, n, g, p, out);
    rk_map2 *f = map2_at(k, u->gradient);
    return u->rule == DY_FIRST ? f(ctx->dev, n, g, saved, p, out) : f(ctx->dev, n, saved, g, p, out);
}

static rk_status unary_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    const unary *u = (const unary *)node->op;
    if (u->rule == SAME)
        return rk__grad_give(node->in[0], dy);
    if (node->relu)
        return rk__grad_give(node->in[0], rk__relu_undo(node, dy));
    rk_tensor *dx = rk__grad_room(node, dy);
    if (rk__is_inert(dx))
        return rk_failed(ctx);
    rk_status st = unary_gradient(ctx, u, node, dy, dx);
    return st ? rk__grad_failed(ctx, u->op.name, st) : rk__grad_give(node->in[0], dx);
}

static rk_tensor *apply(const unary *u, rk_tensor *x, double p)
{
    rk__call c;
    if (!rk__call_begin(&c, u->op.name, &x, 1))
        return rk__inert(c.ctx);
    rk_tensor *dense = rk__dense(x), *y = rk__out(c.ctx, c.type, x->shape);
    const void *from = rk__data(dense);
    void *to = rk__data(y);
    if (!from || !to)
        return rk__inert(c.ctx);
    rk_status st = map1_at(c.k, u->forward)(c.ctx->dev, rk__size(x), from, p, to);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    bool needs_input = u->rule == FROM_INPUT || u->rule == DY_FIRST;
    rk_tensor *save = needs_input ? dense : y;
    if (!needs_input)
        rk__drop_temp(dense, x);
    y = rk__record(y, &u->op, &x, 1, &save, needs_input || u->rule == FROM_OUTPUT, &p, sizeof p);
    if (u == &op_relu && y->node)
        y->node->relu = true;
    return rk__call_end(&c, y);
}

rk_tensor *rk_add_scalar(rk_tensor *x, double s)
{
    return apply(&op_add_scalar, x, s);
}

rk_tensor *rk_mul_scalar(rk_tensor *x, double s)
{
    return apply(&op_mul_scalar, x, s);
}

rk_tensor *rk_rsub_scalar(rk_tensor *x, double s)
{
    return apply(&op_rsub_scalar, x, s);
}

rk_tensor *rk_rdiv_scalar(rk_tensor *x, double s)
{
    return apply(&op_rdiv_scalar, x, s);
}

rk_tensor *rk_pow_scalar(rk_tensor *x, double p)
{
    return apply(&op_pow_scalar, x, p);
}

rk_tensor *rk_neg(rk_tensor *x)
{
    return apply(&op_neg, x, 0);
}

rk_tensor *rk_exp(rk_tensor *x)
{
    return apply(&op_exp, x, 0);
}

rk_tensor *rk_log(rk_tensor *x)
{
    return apply(&op_log, x, 0);
}

rk_tensor *rk_sqrt(rk_tensor *x)
{
    return apply(&op_sqrt, x, 0);
}

rk_tensor *rk_rsqrt(rk_tensor *x)
{
    return apply(&op_rsqrt, x, 0);
}

rk_tensor *rk_abs(rk_tensor *x)
{
    return apply(&op_abs, x, 0);
}

rk_tensor *rk_relu(rk_tensor *x)
{
    return apply(&op_relu, x, 0);
}

rk_tensor *rk_leaky_relu(rk_tensor *x, double slope)
{
    return apply(&op_leaky_relu, x, slope);
}

rk_tensor *rk_gelu(rk_tensor *x)
{
    return apply(&op_gelu, x, 0);
}

rk_tensor *rk_gelu_tanh(rk_tensor *x)
{
    return apply(&op_gelu_tanh, x, 0);
}

rk_tensor *rk_silu(rk_tensor *x)
{
    return apply(&op_silu, x, 0);
}

rk_tensor *rk_sigmoid(rk_tensor *x)
{
    return apply(&op_sigmoid, x, 0);
}

rk_tensor *rk_tanh(rk_tensor *x)
{
    return apply(&op_tanh, x, 0);
}

rk_tensor *rk_softplus(rk_tensor *x)
{
    return apply(&op_softplus, x, 0);
}

/* ---- of two tensors ---- */

/* A kernel call in a backward rule: a fresh tensor of b's shape, or the inert one. out: NULL or where to
 * write. */
static rk_tensor *combine(rk_map2 *f, rk_tensor *a, rk_tensor *b, double p, rk_tensor *out)
{
    rk_ctx *ctx = b->ctx;
    rk_tensor *y = out ? out : rk__out(ctx, b->dtype, b->shape);
    const void *pa = rk__data(a), *pb = rk__data(b);
    void *py = rk__data(y);
    if (!pa || !pb || !py)
        return rk__inert(ctx);
    rk_status st = f(ctx->dev, rk__size(b), pa, pb, p, py);
    return st ? rk__op_failed(ctx, "elementwise gradient", st) : y;
}

static rk_tensor *negated(const rk_kernels *k, rk_tensor *x, rk_tensor *out)
{
    rk_ctx *ctx = x->ctx;
    rk_tensor *y = out ? out : rk__out(ctx, x->dtype, x->shape);
    const void *from = rk__data(x);
    void *to = rk__data(y);
    if (!from || !to)
        return rk__inert(ctx);
    rk_status st = k->neg(ctx->dev, rk__size(x), from, 0, to);
    return st ? rk__op_failed(ctx, "neg", st) : y;
}

static rk_status give_sum(rk_tensor *t, rk_tensor *g)
{
    return rk__is_inert(g) ? rk_failed(t->ctx) : rk__grad_give_sum(t, g);
}

static rk_status add_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    for (int i = 0; i < 2; i++)
        if (rk_requires_grad(node->in[i]))
            RK_TRY(rk__grad_give_sum(node->in[i], dy));
    return RK_OK;
}

static rk_status sub_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    if (rk_requires_grad(node->in[0]))
        RK_TRY(rk__grad_give_sum(node->in[0], dy));
    if (rk_requires_grad(node->in[1]))
        RK_TRY(give_sum(node->in[1], negated(rk__kernels(ctx, dy->dtype), dy, NULL)));
    return RK_OK;
}

static rk_status mul_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    for (int i = 0; i < 2; i++) {
        if (!rk_requires_grad(node->in[i]))
            continue;
        rk_tensor *other = rk__spread(node->in[1 - i], &dy->shape);
        RK_TRY(give_sum(node->in[i], combine(k->mul, other, dy, 0, NULL)));
    }
    return RK_OK;
}

/* y = a / b: da = dy / b, db = -da * y. */
static rk_status div_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *b = rk__spread(node->in[1], &dy->shape);
    rk_tensor *da = combine(k->div, dy, b, 0, NULL);
    if (rk__is_inert(da))
        return rk_failed(ctx);
    if (rk_requires_grad(node->in[1])) {
        rk_tensor *db = combine(k->mul, node->out, da, 0, NULL);
        if (rk__is_inert(db))
            return rk_failed(ctx);
        RK_TRY(give_sum(node->in[1], negated(k, db, db)));
    }
    return rk_requires_grad(node->in[0]) ? give_sum(node->in[0], da) : RK_OK;
}

typedef struct binary {
    rk__op op;
    size_t forward;
} binary;

static const binary op_add = { { "add", add_backward }, offsetof(rk_kernels, add) };
static const binary op_sub = { { "sub", sub_backward }, offsetof(rk_kernels, sub) };
static const binary op_mul = { { "mul", mul_backward }, offsetof(rk_kernels, mul) };
static const binary op_div = { { "div", div_backward }, offsetof(rk_kernels, div) };

static rk_tensor *apply2(const binary *op, rk_tensor *a, rk_tensor *b)
{
    rk__call c;
    rk_tensor *in[] = { a, b };
    rk_shape shape;
    if (!a || !b) {
        rk_tensor *other = a ? a : b;
        return other ? (rk_fail(other->ctx, RK_EUSAGE, "%s: a tensor is NULL", op->op.name),
                        rk__inert(other->ctx))
                     : NULL;
    }
    if (!rk__call_begin(&c, op->op.name, in, 2) ||
        !rk__broadcast_shape(c.ctx, c.name, &in[0]->shape, &in[1]->shape, &shape))
        return rk__inert(c.ctx);
    rk_tensor *wide[] = { rk__spread(in[0], &shape), rk__spread(in[1], &shape) };
    rk_tensor *y = rk__out(c.ctx, c.type, shape);
    const void *pa = rk__data(wide[0]), *pb = rk__data(wide[1]);
    void *py = rk__data(y);
    if (!pa || !pb || !py)
        return rk__inert(c.ctx);
    rk_status st = map2_at(c.k, op->forward)(c.ctx->dev, rk__size(y), pa, pb, 0, py);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    rk__drop_temp(wide[0], in[0]);
    rk__drop_temp(wide[1], in[1]);
    return rk__call_end(&c, rk__record(y, &op->op, in, 2, NULL, 0, NULL, 0));
}

rk_tensor *rk_add(rk_tensor *a, rk_tensor *b)
{
    return apply2(&op_add, a, b);
}

rk_tensor *rk_sub(rk_tensor *a, rk_tensor *b)
{
    return apply2(&op_sub, a, b);
}

rk_tensor *rk_mul(rk_tensor *a, rk_tensor *b)
{
    return apply2(&op_mul, a, b);
}

rk_tensor *rk_div(rk_tensor *a, rk_tensor *b)
{
    return apply2(&op_div, a, b);
}
