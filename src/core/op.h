/* What the op files share. An op reads
 *
 *     rk__call c;
 *     if (!rk__call_begin(&c, "softmax", &x, 1))
 *         return rk__inert(c.ctx);
 *     ... shapes, kernel, rk__record() ...
 *     return rk__call_end(&c, y);
 *
 * and is the only place that knows its shapes, its kernels and its backward rule. */
#ifndef RK_CORE_OP_H
#define RK_CORE_OP_H

#include "core/tape.h"

enum { RK__CALL_INPUTS = 5 };

/* One call of an op: bf16 inputs were replaced by f32 ones, and the result is rounded back. */
typedef struct rk__call {
    rk_ctx *ctx;
    const rk_kernels *k; /* of the type that is computed in: f32 or f64 */
    const char *name;
    rk_dtype type, store; /* computed in, returned as */
    rk_tensor *cast[RK__CALL_INPUTS];
    int casts;
} rk__call;

/* Checks the n float inputs ts (the first must be there, others may be NULL) and puts f32 casts in place of
 * bf16 ones. bf16 beside f32 gives f32; other types do not mix. False: the call does nothing and returns the
 * inert tensor. */
bool rk__call_begin(rk__call *c, const char *name, rk_tensor **ts, int n);
/* y as the type that the call returns. */
rk_tensor *rk__call_end(rk__call *c, rk_tensor *y);
/* Records the failure of a kernel, if it is one, under the call's name. */
rk_status rk__call_check(const rk__call *c, rk_status st);

/* ---- axes and shapes ---- */
/* t is NULL or has one axis of n; otherwise RK_ESHAPE is recorded. */
bool rk__one_of_each(const rk__call *c, const rk_tensor *t, int64_t n, const char *what);
bool rk__axis(rk_ctx *ctx, const char *name, const rk_tensor *x,
              int *axis); /* negative counts from the end */
rk_shape rk__drop_axes(const rk_shape *s, unsigned axes, bool keep);
int64_t rk__rows(const rk_tensor *x); /* product of all axes but the last */
bool rk__broadcast_shape(rk_ctx *ctx, const char *name, const rk_shape *a, const rk_shape *b, rk_shape *out);
/* x repeated to the shape s as one contiguous tensor: x itself if nothing is to be done, else a temporary. */
rk_tensor *rk__spread(rk_tensor *x, const rk_shape *s);
/* x with axis i taken from axis order[i]; a view without history. */
rk_tensor *rk__permuted(rk_tensor *x, const int *order);
/* Copies x over a view of the same shape and type, by strides. */
rk_status rk__copy_over(rk_tensor *to, rk_tensor *from);
static inline void rk__drop_temp(rk_tensor *temp, const rk_tensor *x)
{
    if (temp != x)
        rk__drop(temp);
}

static inline const void *rk__data_or_null(const rk_tensor *t)
{
    return t ? rk__data(t) : NULL;
}

/* Element i of the contiguous t. */
static inline void *rk__at(const rk_tensor *t, int64_t i)
{
    return (char *)rk__data(t) + (size_t)i * rk_dtype_size(t->dtype);
}

/* ---- sums ---- */
/* y (the kept axes of x, in their order) = sum of x over `axes`, which the caller has checked. If axis 0, the
 * samples, is among them, the sum follows `order`; otherwise order is not looked at. */
rk_status rk__sum_axes(const rk_kernels *k, rk_tensor *x, unsigned axes, rk_order order, void *y);
/* Gives t the gradient g of t broadcast to g's shape. */
rk_status rk__grad_give_sum(rk_tensor *t, rk_tensor *g);

/* ---- gradients ---- */
/* Room for a gradient computed from dy element by element: dy itself where nobody else needs it. */
rk_tensor *rk__grad_room(const rk__node *node, rk_tensor *dy);
/* The gradient before the relu that made node->out (the node's `relu` is set). */
rk_tensor *rk__relu_undo(rk__node *node, rk_tensor *dy);
/* Asks a product that makes the gradient of x for what comes before x, too: relu's mask, the slope of gelu by
 * tanh; beside is g's from now on. When the product has run, `asked` says so to x. */
void rk__ask_before(rk_tensor *x, rk_gemm *g, rk_gemm_beside *beside);
void rk__asked_before(rk_tensor *x, const rk_gemm_beside *beside);
/* What of rk_gemm_beside the device may do. */
unsigned rk__device_uses(const rk_ctx *ctx);
/* Values by which the gradient of x may be masked (x > 0), because x came out of a relu; NULL if not. Says so
 * to x. */
const void *rk__relu_mask(rk_tensor *x);

/* ---- indices ---- */
/* index as contiguous i64 with every entry in [0, limit), or equal to *ignore if that is not NULL. what:
 * "class", "row". NULL after a failure, which names the first bad entry. */
rk_tensor *rk__indices(rk_ctx *ctx, const char *name, rk_tensor *index, int64_t limit, const int64_t *ignore,
                       const char *what);

#endif
