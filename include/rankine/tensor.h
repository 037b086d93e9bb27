/* Tensors, and every differentiable operation on them.
 *
 * Ownership: tensors made by operations belong to the context's step and die in rk_step_end(); tensors from
 * rk_tensor_make() live until rk_close(). Nothing is freed by the caller.
 * After a failure operations return an inert tensor that every call accepts (rk_failed() tells).
 * Memory: rk_backward() releases the values of intermediate tensors it has passed, unless rk_keep() was
 * called. */
#ifndef RANKINE_TENSOR_H
#define RANKINE_TENSOR_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RK_MAX_DIMS 8

typedef enum rk_dtype { RK_F32, RK_BF16, RK_F16, RK_F64, RK_I32, RK_I64, RK_U8, RK_DTYPES } rk_dtype;

RK_API size_t rk_dtype_size(rk_dtype t);      /* bytes of an element */
RK_API const char *rk_dtype_name(rk_dtype t); /* "f32", "bf16", ... */

typedef struct rk_shape {
    int ndim;
    int64_t dim[RK_MAX_DIMS];
} rk_shape;

/* RK_SHAPE(2, 3) is the shape (2, 3). C only. */
#define RK_SHAPE(...) \
    ((rk_shape){ (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), { __VA_ARGS__ } })
#define RK_SCALAR ((rk_shape){ 0, { 0 } })

typedef struct rk_tensor rk_tensor;

/* ---- making, reading ---- */

/* Zeros, owned by ctx until rk_close(). Parameters and buffers are made so. */
RK_API rk_tensor *rk_tensor_make(rk_ctx *ctx, rk_dtype t, rk_shape shape);
/* Zeros / a copy of host data (contiguous, row-major, same dtype), owned by the step. */
RK_API rk_tensor *rk_zeros(rk_ctx *ctx, rk_dtype t, rk_shape shape);
RK_API rk_tensor *rk_full(rk_ctx *ctx, rk_dtype t, rk_shape shape, double value);
RK_API rk_tensor *rk_from_host(rk_ctx *ctx, rk_dtype t, rk_shape shape, const void *data);
/* Philox normal / uniform [0, 1) numbers keyed by (seed of ctx, stream). Step-owned. */
RK_API rk_tensor *rk_randn(rk_ctx *ctx, rk_dtype t, rk_shape shape, uint64_t stream);
RK_API rk_tensor *rk_rand(rk_ctx *ctx, rk_dtype t, rk_shape shape, uint64_t stream);

RK_API rk_dtype rk_tensor_dtype(const rk_tensor *t);
RK_API rk_shape rk_tensor_shape(const rk_tensor *t);
RK_API int64_t rk_tensor_size(const rk_tensor *t); /* elements */
RK_API rk_ctx *rk_tensor_ctx(const rk_tensor *t);
/* Copies all elements, row-major, to host memory of `bytes` bytes (must be exact). */
RK_API rk_status rk_tensor_read(const rk_tensor *t, void *host, size_t bytes);
RK_API rk_status rk_tensor_write(rk_tensor *t, const void *host, size_t bytes);
/* The single element of a one-element tensor as a double; NAN after a failure. */
RK_API double rk_item(const rk_tensor *t);

/* ---- gradients ---- */

RK_API void rk_require_grad(rk_tensor *t,
                            bool on); /* leaves only: float tensors from rk_tensor_make or a step leaf */
RK_API bool rk_requires_grad(const rk_tensor *t);
RK_API rk_tensor *rk_grad(const rk_tensor *t); /* NULL if none yet */
/* Adds d loss / d leaf to the gradient of every leaf that requires one. loss has one element.
 * Several calls add up, until rk_grad_zero(). */
RK_API rk_status rk_backward(rk_tensor *loss);
/* The same, and the graph stays, so that a second loss that shares a part of it can be walked too. */
RK_API rk_status rk_backward_retain(rk_tensor *loss);
/* The same as rk_backward() with a seed gradient of the shape of y. */
RK_API rk_status rk_backward_from(rk_tensor *y, rk_tensor *dy);
RK_API void rk_grad_zero(rk_tensor *t);
RK_API rk_tensor *rk_detach(rk_tensor *t); /* same values, no history */
RK_API rk_tensor *rk_keep(rk_tensor *t);   /* values survive rk_backward(); returns t */
/* Nothing recorded between the two; nests. */
RK_API void rk_no_grad_begin(rk_ctx *ctx);
RK_API void rk_no_grad_end(rk_ctx *ctx);
/* Frees the tensors of the step. From the second step on memory comes from one planned arena. */
RK_API rk_status rk_step_end(rk_ctx *ctx);

/* ---- views (no copies) ---- */
RK_API rk_tensor *rk_reshape(rk_tensor *x,
                             rk_shape shape); /* one dim may be -1; copies only if strides force it */
RK_API rk_tensor *rk_transpose(rk_tensor *x, int axis_a, int axis_b);
RK_API rk_tensor *rk_permute(rk_tensor *x, const int *axes); /* axes: ndim entries */
RK_API rk_tensor *rk_slice(rk_tensor *x, int axis, int64_t begin,
                           int64_t end);                      /* negative counts from the end */
RK_API rk_tensor *rk_broadcast(rk_tensor *x, rk_shape shape); /* numpy rules */
RK_API rk_tensor *rk_contiguous(rk_tensor *x);                /* x itself, or a row-major copy */
RK_API rk_tensor *rk_cast(rk_tensor *x, rk_dtype t);

/* ---- elementwise; binary forms broadcast ---- */
RK_API rk_tensor *rk_add(rk_tensor *a, rk_tensor *b);
RK_API rk_tensor *rk_sub(rk_tensor *a, rk_tensor *b);
RK_API rk_tensor *rk_mul(rk_tensor *a, rk_tensor *b);
RK_API rk_tensor *rk_div(rk_tensor *a, rk_tensor *b);
RK_API rk_tensor *rk_add_scalar(rk_tensor *x, double s);  /* x + s */
RK_API rk_tensor *rk_mul_scalar(rk_tensor *x, double s);  /* x * s */
RK_API rk_tensor *rk_rsub_scalar(rk_tensor *x, double s); /* s - x */
RK_API rk_tensor *rk_rdiv_scalar(rk_tensor *x, double s); /* s / x */
RK_API rk_tensor *rk_pow_scalar(rk_tensor *x, double p);  /* x ^ p */
RK_API rk_tensor *rk_neg(rk_tensor *x);
RK_API rk_tensor *rk_exp(rk_tensor *x);
RK_API rk_tensor *rk_log(rk_tensor *x);
RK_API rk_tensor *rk_sqrt(rk_tensor *x);
RK_API rk_tensor *rk_rsqrt(rk_tensor *x);
RK_API rk_tensor *rk_abs(rk_tensor *x);
RK_API rk_tensor *rk_relu(rk_tensor *x);
RK_API rk_tensor *rk_leaky_relu(rk_tensor *x, double slope);
RK_API rk_tensor *rk_gelu(rk_tensor *x);      /* x * Phi(x), by erf */
RK_API rk_tensor *rk_gelu_tanh(rk_tensor *x); /* the tanh form */
RK_API rk_tensor *rk_silu(rk_tensor *x);
RK_API rk_tensor *rk_sigmoid(rk_tensor *x);
RK_API rk_tensor *rk_tanh(rk_tensor *x);
RK_API rk_tensor *rk_softplus(rk_tensor *x);

/* ---- reductions: axes as a bit mask (1u << axis), 0 = all axes; keep: reduced axes stay as 1 ---- */
RK_API rk_tensor *rk_sum(rk_tensor *x, unsigned axes, bool keep);
RK_API rk_tensor *rk_mean(rk_tensor *x, unsigned axes, bool keep);
RK_API rk_tensor *rk_max(rk_tensor *x, unsigned axes, bool keep); /* gradient to the first of equal maxima */
RK_API rk_tensor *rk_min(rk_tensor *x, unsigned axes, bool keep);
RK_API rk_tensor *rk_argmax(rk_tensor *x, int axis); /* i64, no gradient */

/* ---- products ---- */
/* op(a) @ op(b) over the last two axes; leading axes broadcast. trans_a: a is (.., k, m). */
RK_API rk_tensor *rk_matmul(rk_tensor *a, rk_tensor *b, bool trans_a, bool trans_b);
typedef enum rk_act { RK_ACT_NONE, RK_ACT_RELU, RK_ACT_GELU, RK_ACT_GELU_TANH } rk_act;
/* act(x @ w^T + b): x (.., in), w (out, in), b (out) or NULL -> (.., out) */
RK_API rk_tensor *rk_linear_op(rk_tensor *x, rk_tensor *w, rk_tensor *b, rk_act act);

typedef struct rk_conv_cfg {
    int stride[2], pad[2], dilation[2]; /* (height, width); stride and dilation 0 mean 1 */
    int groups;                         /* 0 means 1 */
    rk_act act;                         /* fused; NONE or RELU */
} rk_conv_cfg;
/* x (n, c, h, w), w (out, c/groups, kh, kw), b (out) or NULL -> (n, out, oh, ow). Cross-correlation. */
RK_API rk_tensor *rk_conv2d_op(rk_tensor *x, rk_tensor *w, rk_tensor *b, const rk_conv_cfg *cfg);
typedef struct rk_pool_cfg {
    int kernel[2], stride[2],
        pad[2]; /* stride 0 means kernel; padding counts as -inf (max) or is not counted (avg) */
} rk_pool_cfg;
RK_API rk_tensor *rk_max_pool2d(rk_tensor *x, const rk_pool_cfg *cfg);
RK_API rk_tensor *rk_avg_pool2d(rk_tensor *x, const rk_pool_cfg *cfg);
RK_API rk_tensor *rk_adaptive_avg_pool2d(rk_tensor *x, int oh, int ow);
RK_API rk_tensor *rk_adaptive_max_pool2d(rk_tensor *x, int oh, int ow);

/* ---- normalisation ---- */
/* over the last axis; gamma, beta (cols) may be NULL */
RK_API rk_tensor *rk_layer_norm_op(rk_tensor *x, rk_tensor *gamma, rk_tensor *beta, double eps);
RK_API rk_tensor *rk_rms_norm_op(rk_tensor *x, rk_tensor *gamma, double eps);
typedef struct rk_batch_norm_cfg {
    double eps, momentum;
    bool training;    /* statistics of this batch, and running ones updated; else the running ones */
    bool shard_scope; /* statistics of each data shard by itself, not of the global batch */
} rk_batch_norm_cfg;
/* x (n, c, ...); gamma, beta, running_mean, running_var (c) */
RK_API rk_tensor *rk_batch_norm_op(rk_tensor *x, rk_tensor *gamma, rk_tensor *beta, rk_tensor *running_mean,
                                   rk_tensor *running_var, const rk_batch_norm_cfg *cfg);

/* ---- indexing, joining ---- */
RK_API rk_tensor *rk_embedding_op(rk_tensor *table,
                                  rk_tensor *index); /* (rows, d), i64/i32 (..) -> (.., d) */
RK_API rk_tensor *rk_gather(rk_tensor *x, int axis, rk_tensor *index); /* torch.gather */
RK_API rk_tensor *rk_concat(rk_tensor *const *xs, int n, int axis);
RK_API rk_tensor *rk_stack(rk_tensor *const *xs, int n, int axis);
RK_API rk_status rk_split(rk_tensor *x, int axis, const int64_t *sizes, int n, rk_tensor **out); /* views */
/* before/after: ndim entries of elements added; zero gradient there */
RK_API rk_tensor *rk_pad(rk_tensor *x, const int64_t *before, const int64_t *after, double value);

/* ---- softmax, losses: mean over the (not ignored) samples, a scalar ---- */
RK_API rk_tensor *rk_softmax(rk_tensor *x, int axis);
RK_API rk_tensor *rk_log_softmax(rk_tensor *x, int axis);
typedef struct rk_cross_entropy_cfg {
    double label_smoothing; /* [0, 1) */
    bool use_ignore;
    int64_t ignore_index; /* targets of this value do not count, if use_ignore */
} rk_cross_entropy_cfg;
/* logits (n, classes), target (n) i64/i32/u8; cfg may be NULL */
RK_API rk_tensor *rk_cross_entropy(rk_tensor *logits, rk_tensor *target);
RK_API rk_tensor *rk_cross_entropy_cfgd(rk_tensor *logits, rk_tensor *target,
                                        const rk_cross_entropy_cfg *cfg);
RK_API rk_tensor *rk_mse_loss(rk_tensor *x, rk_tensor *target);
RK_API rk_tensor *rk_l1_loss(rk_tensor *x, rk_tensor *target);
RK_API rk_tensor *rk_bce_with_logits(rk_tensor *x, rk_tensor *target);

/* Zeroes each element with probability p and scales the rest by 1/(1-p); the mask is Philox keyed by
 * (seed, layer), counter (step, global sample = first axis, element). Identity in rk_set_training(false). */
RK_API rk_tensor *rk_dropout_op(rk_tensor *x, double p, uint64_t layer);

/* What counters the random numbers of this step use: the step number and the position of the local batch's
 * first sample in the global batch. The training loop calls it. */
RK_API void rk_set_step(rk_ctx *ctx, uint64_t step, int64_t first_sample);
RK_API void rk_set_training(rk_ctx *ctx, bool on);
/* Round the operands of every product (linear, matmul, conv) to this type, to nearest even: RK_F32 (default),
 * RK_BF16, or RK_F16, where what is beyond 65504 becomes infinite. Sums are f32. */
RK_API rk_status rk_set_compute(rk_ctx *ctx, rk_dtype t);

#ifdef __cplusplus
}
#endif
#endif
