/* Views: other shapes and strides over the same values, and what their gradients are. */
#include "core/op.h"

#include <string.h>

/* ---- reshape ---- */

static rk_status reshape_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return rk__grad_give(node->in[0], rk__view(dy, node->in[0]->shape, NULL, dy->offset));
}

static const rk__op op_reshape = { "reshape", reshape_backward };

static rk_status complete_shape(rk_ctx *ctx, const rk_tensor *x, rk_shape *shape)
{
    char a[160], b[160];
    rk_shape asked = *shape;
    int64_t n = rk__size(x), known = 1;
    int open = -1;
    for (int i = 0; i < shape->ndim && i < RK_MAX_DIMS; i++) {
        if (shape->dim[i] == -1 && open < 0)
            open = i;
        else if (shape->dim[i] < 0 || __builtin_mul_overflow(known, shape->dim[i], &known))
            goto wrong;
    }
    if (open >= 0) {
        if (known == 0 || n % known)
            goto wrong;
        shape->dim[open] = n / known;
    }
    int64_t size;
    RK_TRY(rk__shape_size(ctx, shape, &size));
    if (size == n)
        return RK_OK;
wrong:
    return rk_fail(ctx, RK_ESHAPE, "reshape: %s does not become %s", rk__shape_str(&x->shape, a, sizeof a),
                   rk__shape_str(&asked, b, sizeof b));
}

rk_tensor *rk_reshape(rk_tensor *x, rk_shape shape)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx || complete_shape(ctx, x, &shape))
        return rk__inert(x ? x->ctx : NULL);
    rk_tensor *dense = rk_contiguous(x);
    if (rk__is_inert(dense))
        return dense;
    rk_tensor *y = rk__view(dense, shape, NULL, dense->offset);
    return rk__record(y, &op_reshape, (rk_tensor *[]){ dense }, 1, NULL, 0, NULL, 0);
}

/* ---- contiguous ---- */

static rk_status contiguous_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return rk__grad_give(node->in[0], dy);
}

static const rk__op op_contiguous = { "contiguous", contiguous_backward };

rk_tensor *rk_contiguous(rk_tensor *x)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx)
        return rk__inert(x ? x->ctx : NULL);
    rk_tensor *y = rk__dense(x);
    return y == x ? x : rk__record(y, &op_contiguous, (rk_tensor *[]){ x }, 1, NULL, 0, NULL, 0);
}

/* ---- permute ---- */

typedef struct axes {
    int at[RK_MAX_DIMS];
} axes;

/* x with its axes in another order: axis i of the result is axis order[i] of x. */
static rk_tensor *permuted(rk_tensor *x, const int *order)
{
    rk_shape shape = { .ndim = x->shape.ndim };
    int64_t stride[RK_MAX_DIMS];
    for (int i = 0; i < shape.ndim; i++) {
        shape.dim[i] = x->shape.dim[order[i]];
        stride[i] = x->stride[order[i]];
    }
    return rk__view(x, shape, stride, x->offset);
}

static rk_status permute_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    axes forward, inverse;
    memcpy(&forward, node->attr, sizeof forward);
    for (int i = 0; i < dy->shape.ndim; i++)
        inverse.at[forward.at[i]] = i;
    return rk__grad_give(node->in[0], permuted(dy, inverse.at));
}

static const rk__op op_permute = { "permute", permute_backward };

rk_tensor *rk_permute(rk_tensor *x, const int *order)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx)
        return rk__inert(x ? x->ctx : NULL);
    unsigned seen = 0;
    axes a = { { 0 } };
    for (int i = 0; i < x->shape.ndim; i++) {
        if (order[i] < 0 || order[i] >= x->shape.ndim || (seen & 1u << order[i])) {
            rk_fail(ctx, RK_ESHAPE, "permute: axis %d at place %d is out of range or twice there (%d axes)",
                    order[i], i, x->shape.ndim);
            return rk__inert(ctx);
        }
        seen |= 1u << order[i];
        a.at[i] = order[i];
    }
    return rk__record(permuted(x, order), &op_permute, (rk_tensor *[]){ x }, 1, NULL, 0, &a, sizeof a);
}

static bool axis_of(rk_tensor *x, const char *what, int *axis)
{
    int n = x->shape.ndim, given = *axis;
    if (*axis < 0)
        *axis += n;
    if (*axis >= 0 && *axis < n)
        return true;
    rk_fail(x->ctx, RK_ESHAPE, "%s: axis %d of a tensor with %d axes", what, given, n);
    return false;
}

rk_tensor *rk_transpose(rk_tensor *x, int axis_a, int axis_b)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx || !axis_of(x, "transpose", &axis_a) || !axis_of(x, "transpose", &axis_b))
        return rk__inert(x ? x->ctx : NULL);
    int order[RK_MAX_DIMS];
    for (int i = 0; i < RK_MAX_DIMS; i++)
        order[i] = i;
    order[axis_a] = axis_b;
    order[axis_b] = axis_a;
    return rk_permute(x, order);
}

/* ---- slice ---- */

typedef struct range {
    int axis;
    int64_t begin, end;
} range;

static rk_tensor *sliced(rk_tensor *x, const range *r)
{
    rk_shape shape = x->shape;
    shape.dim[r->axis] = r->end - r->begin;
    return rk__view(x, shape, x->stride, x->offset + r->begin * x->stride[r->axis]);
}

/* Zeros, with dy in the slice's place. */
static rk_status slice_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    range r;
    memcpy(&r, node->attr, sizeof r);
    rk_tensor *dx = rk_zeros(ctx, dy->dtype, node->in[0]->shape);
    if (rk__is_inert(dx))
        return rk_failed(ctx);
    rk_tensor *window = sliced(dx, &r);
    const void *from = rk__data(dy);
    void *to = rk__data(window);
    if (!from || !to)
        return rk_failed(ctx);
    rk_status st = ctx->device->copy_strided(ctx->dev, rk_dtype_size(dy->dtype), dy->shape.ndim,
                                             dy->shape.dim, dy->stride, from, window->stride, to);
    if (st)
        return rk_fail(ctx, st, "slice: cannot copy the gradient");
    rk__drop(window);
    return rk__grad_give(node->in[0], dx);
}

static const rk__op op_slice = { "slice", slice_backward };

rk_tensor *rk_slice(rk_tensor *x, int axis, int64_t begin, int64_t end)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx || !axis_of(x, "slice", &axis))
        return rk__inert(x ? x->ctx : NULL);
    int64_t n = x->shape.dim[axis];
    range r = { axis, begin < 0 ? begin + n : begin, end < 0 ? end + n : end };
    if (r.begin < 0 || r.end > n || r.begin > r.end) {
        rk_fail(ctx, RK_ESHAPE, "slice: [%lld, %lld) of axis %d, which has %lld", (long long)begin,
                (long long)end, axis, (long long)n);
        return rk__inert(ctx);
    }
    return rk__record(sliced(x, &r), &op_slice, (rk_tensor *[]){ x }, 1, NULL, 0, &r, sizeof r);
}

/* ---- broadcast ---- */

static rk_status broadcast_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return rk__grad_give_sum(node->in[0], dy);
}

static const rk__op op_broadcast = { "broadcast", broadcast_backward };

rk_tensor *rk_broadcast(rk_tensor *x, rk_shape shape)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    int64_t n;
    if (!ctx || rk__shape_size(ctx, &shape, &n))
        return rk__inert(x ? x->ctx : NULL);
    if (rk__shape_eq(&x->shape, &shape))
        return x;
    int lead = shape.ndim - x->shape.ndim;
    int64_t stride[RK_MAX_DIMS] = { 0 };
    bool fits = lead >= 0;
    for (int i = lead; fits && i < shape.ndim; i++) {
        int64_t d = x->shape.dim[i - lead];
        fits = d == shape.dim[i] || d == 1;
        stride[i] = d == shape.dim[i] ? x->stride[i - lead] : 0;
    }
    if (!fits) {
        char a[160], b[160];
        rk_fail(ctx, RK_ESHAPE, "broadcast: %s does not become %s", rk__shape_str(&x->shape, a, sizeof a),
                rk__shape_str(&shape, b, sizeof b));
        return rk__inert(ctx);
    }
    return rk__record(rk__view(x, shape, stride, x->offset), &op_broadcast, (rk_tensor *[]){ x }, 1, NULL, 0,
                      NULL, 0);
}

/* ---- cast, detach ---- */

rk_tensor *rk__converted(rk_tensor *x, rk_dtype t)
{
    rk_ctx *ctx = x->ctx;
    rk_tensor *dense = rk__dense(x), *y = rk__out(ctx, t, x->shape);
    const void *from = rk__data(dense);
    void *to = rk__data(y);
    if (!from || !to)
        return rk__inert(ctx);
    rk_status st = ctx->device->cast(ctx->dev, rk__size(x), x->dtype, from, t, to);
    if (dense != x)
        rk__drop(dense);
    return st ? rk__op_failed(ctx, "cast", st) : y;
}

static rk_status cast_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    (void)ctx;
    return rk__grad_give(node->in[0], rk__converted(dy, node->in[0]->dtype));
}

static const rk__op op_cast = { "cast", cast_backward };

rk_tensor *rk_cast(rk_tensor *x, rk_dtype t)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    if (!ctx)
        return rk__inert(x ? x->ctx : NULL);
    if ((unsigned)t >= RK_DTYPES) {
        rk_fail(ctx, RK_EDTYPE, "cast: no element type %d", (int)t);
        return rk__inert(ctx);
    }
    if (t == x->dtype)
        return x;
    rk_tensor *y = rk__converted(x, t);
    if (!rk__is_float(t) || !rk__is_float(x->dtype))
        return y;
    return rk__record(y, &op_cast, (rk_tensor *[]){ x }, 1, NULL, 0, NULL, 0);
}

rk_tensor *rk_detach(rk_tensor *x)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    return ctx ? rk__view(x, x->shape, x->stride, x->offset) : rk__inert(x ? x->ctx : NULL);
}
