/* Joining and taking apart: concat, stack, split, pad. They move elements of any type. */
#include "core/op.h"

#include <string.h>

/* [begin, begin + size) of x's axis; a view without history. */
static rk_tensor *window(rk_tensor *x, int axis, int64_t begin, int64_t size)
{
    rk_shape s = x->shape;
    s.dim[axis] = size;
    return rk__view(x, s, x->stride, x->offset + begin * x->stride[axis]);
}

/* ---- concat ---- */

typedef struct concat_attr {
    int axis;
} concat_attr;

static rk_status concat_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    concat_attr a;
    memcpy(&a, node->attr, sizeof a);
    int64_t begin = 0;
    for (int i = 0; i < node->nin; i++) {
        int64_t size = node->in[i]->shape.dim[a.axis];
        if (rk_requires_grad(node->in[i])) {
            rk_tensor *part = window(dy, a.axis, begin, size);
            RK_TRY(rk_failed(ctx));
            RK_TRY(rk__grad_give(node->in[i], part));
        }
        begin += size;
    }
    return RK_OK;
}

static const rk__op op_concat = { "concat", concat_backward };

static bool concat_shape(rk_ctx *ctx, rk_tensor *const *xs, int n, int axis, rk_shape *out)
{
    char ta[160], tb[160];
    *out = xs[0]->shape;
    for (int i = 1; i < n; i++) {
        bool fits = xs[i]->shape.ndim == out->ndim;
        for (int d = 0; fits && d < out->ndim; d++)
            fits = d == axis || xs[i]->shape.dim[d] == out->dim[d];
        if (!fits) {
            rk_fail(ctx, RK_ESHAPE, "concat: tensor %d is %s, the first %s; they may differ on axis %d alone",
                    i, rk__shape_str(&xs[i]->shape, tb, sizeof tb),
                    rk__shape_str(&xs[0]->shape, ta, sizeof ta), axis);
            return false;
        }
        if (xs[i]->dtype != xs[0]->dtype) {
            rk_fail(ctx, RK_EDTYPE, "concat: tensor %d is %s, the first %s; rk_cast() one of them", i,
                    rk_dtype_name(xs[i]->dtype), rk_dtype_name(xs[0]->dtype));
            return false;
        }
        out->dim[axis] += xs[i]->shape.dim[axis];
    }
    return true;
}

/* The context of a list, or NULL after saying what is wrong with it. */
static rk_ctx *list_ready(const char *name, rk_tensor *const *xs, int n)
{
    if (n < 1 || !xs || !xs[0])
        return NULL;
    rk_ctx *ctx = rk__ready(xs, n);
    for (int i = 0; ctx && i < n; i++)
        if (!xs[i]) {
            rk_fail(ctx, RK_EUSAGE, "%s: tensor %d is NULL", name, i);
            return NULL;
        }
    return ctx;
}

rk_tensor *rk_concat(rk_tensor *const *xs, int n, int axis)
{
    rk_ctx *ctx = list_ready("concat", xs, n);
    rk_shape shape;
    if (!ctx || !rk__axis(ctx, "concat", xs[0], &axis) || !concat_shape(ctx, xs, n, axis, &shape))
        return rk__inert(n > 0 && xs && xs[0] ? xs[0]->ctx : NULL);
    rk_tensor *y = rk__out(ctx, xs[0]->dtype, shape);
    int64_t begin = 0;
    for (int i = 0; i < n && !rk__is_inert(y); i++) {
        int64_t size = xs[i]->shape.dim[axis];
        rk_tensor *part = window(y, axis, begin, size);
        if (rk__is_inert(part) || rk__copy_over(part, xs[i]))
            return rk__inert(ctx);
        rk__drop(part);
        begin += size;
    }
    concat_attr a = { axis };
    return rk__record(y, &op_concat, xs, n, NULL, 0, &a, sizeof a);
}

/* ---- stack, split ---- */

enum { FEW = 16 };

/* Tensors with a new axis of 1 where they will be joined. */
static bool with_axis(rk_ctx *ctx, rk_tensor *const *xs, int n, int axis, rk_tensor **out)
{
    for (int i = 0; i < n; i++) {
        rk_shape s = xs[i]->shape;
        if (s.ndim == RK_MAX_DIMS || s.ndim != xs[0]->shape.ndim) {
            rk_fail(ctx, RK_ESHAPE,
                    "stack: tensor %d has %d axes, the first %d; all have as many, and fewer than %d", i,
                    s.ndim, xs[0]->shape.ndim, RK_MAX_DIMS);
            return false;
        }
        memmove(&s.dim[axis + 1], &s.dim[axis], (size_t)(s.ndim - axis) * sizeof s.dim[0]);
        s.dim[axis] = 1;
        s.ndim++;
        out[i] = rk_reshape(xs[i], s);
    }
    return true;
}

rk_tensor *rk_stack(rk_tensor *const *xs, int n, int axis)
{
    rk_ctx *ctx = list_ready("stack", xs, n);
    if (!ctx)
        return rk__inert(n > 0 && xs && xs[0] ? xs[0]->ctx : NULL);
    int axes = xs[0]->shape.ndim + 1, at = axis < 0 ? axis + axes : axis;
    if (at < 0 || at >= axes) {
        rk_fail(ctx, RK_ESHAPE, "stack: axis %d of a result with %d axes", axis, axes);
        return rk__inert(ctx);
    }
    rk_tensor *few[FEW], **raised = n <= FEW ? few : rk__step_record(ctx, (size_t)n * sizeof *raised);
    if (!raised || !with_axis(ctx, xs, n, at, raised))
        return rk__inert(ctx);
    return rk_concat(raised, n, at);
}

rk_status rk_split(rk_tensor *x, int axis, const int64_t *sizes, int n, rk_tensor **out)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    for (int i = 0; i < n; i++)
        out[i] = rk__inert(x ? x->ctx : NULL);
    if (!ctx)
        return x ? rk_failed(x->ctx) : RK_EUSAGE;
    if (!rk__axis(ctx, "split", x, &axis))
        return rk_failed(ctx);
    int64_t sum = 0, have = x->shape.dim[axis];
    for (int i = 0; i < n; i++)
        if (sizes[i] < 0 || __builtin_add_overflow(sum, sizes[i], &sum))
            return rk_fail(ctx, RK_ESHAPE, "split: size %lld at place %d", (long long)sizes[i], i);
    if (sum != have)
        return rk_fail(ctx, RK_ESHAPE, "split: the sizes add up to %lld, axis %d has %lld", (long long)sum,
                       axis, (long long)have);
    int64_t begin = 0;
    for (int i = 0; i < n; begin += sizes[i++])
        out[i] = rk_slice(x, axis, begin, begin + sizes[i]);
    return rk_failed(ctx);
}

/* ---- pad ---- */

typedef struct pad_attr {
    int64_t before[RK_MAX_DIMS];
} pad_attr;

/* Where x lies in the padded tensor. */
static rk_tensor *inside(rk_tensor *padded, const rk_shape *s, const int64_t *before)
{
    int64_t offset = padded->offset;
    for (int i = 0; i < s->ndim; i++)
        offset += before[i] * padded->stride[i];
    return rk__view(padded, *s, padded->stride, offset);
}

static rk_status pad_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    pad_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *part = inside(dy, &node->in[0]->shape, a.before);
    return rk__is_inert(part) ? rk_failed(ctx) : rk__grad_give(node->in[0], part);
}

static const rk__op op_pad = { "pad", pad_backward };

static bool pad_shape(rk_ctx *ctx, const rk_tensor *x, const int64_t *before, const int64_t *after,
                      rk_shape *out)
{
    *out = x->shape;
    for (int i = 0; i < out->ndim; i++)
        if (before[i] < 0 || after[i] < 0 || __builtin_add_overflow(out->dim[i], before[i], &out->dim[i]) ||
            __builtin_add_overflow(out->dim[i], after[i], &out->dim[i])) {
            rk_fail(ctx, RK_ESHAPE, "pad: %lld before and %lld after axis %d; rk_slice() takes elements away",
                    (long long)before[i], (long long)after[i], i);
            return false;
        }
    return true;
}

rk_tensor *rk_pad(rk_tensor *x, const int64_t *before, const int64_t *after, double value)
{
    rk_ctx *ctx = rk__ready(&x, 1);
    rk_shape shape;
    if (!ctx || !pad_shape(ctx, x, before, after, &shape))
        return rk__inert(x ? x->ctx : NULL);
    rk_tensor *y = rk_full(ctx, x->dtype, shape, value);
    rk_tensor *part = rk__is_inert(y) ? y : inside(y, &x->shape, before);
    if (rk__is_inert(part) || rk__copy_over(part, x))
        return rk__inert(ctx);
    rk__drop(part);
    pad_attr a = { { 0 } };
    memcpy(a.before, before, (size_t)shape.ndim * sizeof *before);
    return rk__record(y, &op_pad, &x, 1, NULL, 0, &a, sizeof a);
}
