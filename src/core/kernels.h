/* THE device table: everything the engine asks of a device, for one element type.
 *
 * Pointers are device memory, contiguous and row-major unless strides are given. `T` is the table's own type
 * (float in the f32 table, double in the f64 one). Kernels are called with checked, non-negative sizes; zero
 * sizes are legal and write nothing. Inputs and outputs do not overlap unless "may be" says so. Every kernel
 * returns a status (RK_ENOMEM, RK_EDEVICE) and leaves the message to the caller. All sums follow
 * core/order.h. A device fills every entry. */
#ifndef RK_CORE_KERNELS_H
#define RK_CORE_KERNELS_H

#include <rankine/base.h>
#include <rankine/tensor.h>

typedef struct rk_dev rk_dev; /* the device's own state: thread pool, workspaces, streams */

/* What a kernel does with what is in `out` already. */
typedef enum rk_acc {
    RK_ACC_SET,  /* out = sum */
    RK_ACC_ADD,  /* out = out + sum */
    RK_ACC_CHAIN /* the chain starts from out instead of +0; segments must be 1 */
} rk_acc;

/* What the operands of a product are rounded to, to nearest even: bf16, or IEEE half precision, where what is
 * too large becomes infinite. */
typedef enum rk_round { RK_ROUND_NONE, RK_ROUND_BF16, RK_ROUND_F16 } rk_round;

/* Sum over samples: `segments` leaves, cut between whole units of `unit` consecutive terms. */
typedef struct rk_order {
    int segments; /* power of two, >= 1 */
    int64_t unit; /* >= 1; the number of terms is a multiple of it */
    rk_acc acc;
} rk_order;

/* A matrix in 16 bits, as rk_round says: lines of what are neighbours in the matrix that it was made of,
 * `step` elements apart, as rk__rounded_step() says; zeros behind their ends. data NULL: there is none. */
typedef struct rk_rounded {
    const void *data;
    int64_t step;
} rk_rounded;

/* 16 bytes, as tensor cores want lines to begin. */
static inline int64_t rk__rounded_step(int64_t cols)
{
    return (cols + 7) / 8 * 8;
}

/* What a device may do together with a product where it costs it nothing, and need not: `done` has a bit for
 * each that it did. A device that does none of it does not look here (rk_device.uses). */
typedef struct rk_gemm_beside {
    void *a_sums; /* (m): sums_acc(sum over k of a[i,k]), of a not rounded: a bias's gradient */
    rk_acc sums_acc;
    void *relu_bits;       /* after RK_ACT_RELU: notes which sums it let pass; rk_relu_bits() bytes */
    const void *mask_bits; /* what relu_bits became: may stand for relu_mask, and differ where a sum is 0 */
    const void *slope_of;  /* (m, n) like c: c is multiplied by the slope of `slope` there */
    rk_act slope;
    unsigned done; /* RK_BESIDE_.. */
} rk_gemm_beside;

enum { RK_BESIDE_SUMS = 1, RK_BESIDE_BITS = 2, RK_BESIDE_SLOPE = 4, RK_USES_ROUNDED = 8 };

/* Bytes of the bits of a matrix (m, n): rows of 128 bits or a multiple. */
static inline size_t rk_relu_bits(int64_t m, int64_t n)
{
    return (size_t)m * (size_t)((n + 127) / 128) * 16;
}

/* c[i,j] = act(acc(sum over k of a[i,k] * b[k,j]) + bias[j]), one fused multiply-add chain per segment.
 * One stride of a and one of b is 1 (or the extent there is <= 1). Batched: `batch` independent products at
 * offsets i * a_batch etc. (elements; 0 repeats an operand). */
typedef struct rk_gemm {
    int64_t m, n, k;
    const void *a; /* (m, k) by strides */
    int64_t a_row, a_col;
    const void *b; /* (k, n) by strides */
    int64_t b_row, b_col;
    void *c; /* (m, n), row stride ldc */
    int64_t ldc;
    int64_t batch, a_batch, b_batch, c_batch; /* batch 0 means 1 */
    rk_order order;                           /* segments 0 means {1, 1, SET} */
    const void *bias;                         /* (n) or NULL */
    rk_act act;                               /* after the bias; not with acc other than SET */
    void *pre;              /* NULL, or (m, n) like c: the value before act (gelu's backward needs it) */
    const void *relu_mask;  /* NULL, or (m, n) like c: c = mask > 0 ? c : 0 (relu's backward, fused) */
    rk_round round;         /* of the operands; sums stay T */
    rk_rounded a16, b16;    /* a and b as rounded, where that is known already; one matrix each */
    rk_gemm_beside *beside; /* NULL: nothing more is of use */
} rk_gemm;

/* x (n, c, h, w), w (oc, c/groups, kh, kw), y (n, oc, oh, ow). Term order of the chains: y over (c, kh, kw)
 * ascending; dw over (sample, oh, ow) ascending with order.unit = oh*ow; dx over (oc, kh, kw) ascending.
 * Padding takes part as zeros; taps of dx that a stride steps over are no terms. */
typedef struct rk_conv2d_args {
    int64_t n, c, h, w, oc, kh, kw, oh, ow;
    int64_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w, groups;
    rk_round round;
} rk_conv2d_args;

typedef struct rk_pool2d {
    int64_t n, c, h, w, kh, kw, oh, ow; /* kh = 0: adaptive windows, floor(i*h/oh) .. ceil((i+1)*h/oh) */
    int64_t stride_h, stride_w, pad_h, pad_w;
} rk_pool2d;

/* One tensor of an optimiser's step: n elements each. */
typedef struct rk_optim_piece {
    int64_t n;
    void *w;
    const void *g;
    void *m, *v; /* adam: both; sgd: m, in all pieces or in none (no momentum) */
    double weight_decay;
} rk_optim_piece;

typedef struct rk_optim_args {
    double lr, grad_scale;    /* g is multiplied by grad_scale first (clipping) */
    double beta1, beta2, eps; /* adam */
    double bias1, bias2;      /* 1 - beta^t, computed by the caller */
    double momentum, dampening;
    bool nesterov, decoupled, first; /* decoupled: AdamW; first: momentum buffers are set to g */
    const struct rk_watch *watch; /* NULL, or the device decides: its scale in place of grad_scale, its bias1,
                                     bias2 and steps == 1 in place of first */
} rk_optim_args;

/* Rows whose sums of squares are wanted: row r is x[r * ld] to x[r * ld + cols - 1], and ends where x does.
 */
typedef struct rk_square_rows {
    const void *x; /* (n); NULL: all sums are +0 */
    int64_t n, rows, cols, ld;
    int64_t first, step; /* the sum of row r is number first + r * step */
} rk_square_rows;

/* How a device goes on by itself where the host does not wait for the loss and the norm of each step: judge()
 * looks at them, and what it finds stays in device memory, for the updates that follow on the stream and,
 * some steps later, for the host. From the first verdict that is bad on no update changes anything, so that
 * the state is still the one that the bad step found when the host comes to read of it. A step whose
 * gradients are too large for a loss scale that moves is left out, and the scale is halved. */
enum { RK_WATCH_STEPS = 64, RK_VERDICT_GOOD = 0, RK_VERDICT_LOSS = -1 };

typedef struct rk_verdict {
    double loss, norm; /* norm: of all gradients before they are clipped, if all are finite */
    double loss_scale; /* by which they were multiplied; norm is without it */
    int64_t bad;      /* what is not finite: RK_VERDICT_LOSS, or the number of the first such piece, from 1 */
    int64_t left_out; /* 1: the step, and nothing else */
} rk_verdict;

/* Device memory. The host writes all but the verdicts at first: steps, power, good, skipped and the seeds as
 * they are, 0 otherwise. */
typedef struct rk_watch {
    double scale;                 /* of gradients: what clips them, over what the loss was multiplied by */
    double bias1, bias2;          /* 1 - beta^steps */
    int64_t still;                /* 1: the update at hand changes nothing */
    int64_t halted;               /* 1: a verdict was bad */
    int64_t steps;                /* updates, that at hand included */
    int64_t power, good, skipped; /* of a loss scale that moves: its power of two; steps (core/watch.h) */
    double seed64;                /* what the next loss is multiplied by */
    float seed32;
    uint64_t ticket; /* the device's own; 0 between calls */
    rk_verdict verdict[RK_WATCH_STEPS];
} rk_watch;

/* Pointers are device memory, the rest is the host's. */
typedef struct rk_judge_args {
    const double *sums;   /* what squares() gave, of all ranks */
    const int64_t *order; /* the numbers of the sums in canonical order, or NULL: 0, 1, .. */
    const int64_t *bound; /* (pieces + 1) piece i has those in places bound[i] to bound[i + 1] - 1 */
    double *part;         /* (pieces) is written: the tree over the sums of each; +0 of none */
    rk_watch *watch;      /* NULL: that is all */
    const void *loss;     /* (1); NULL: there is none to look at, and 0 is noted */
    double clip_norm;     /* 0: gradients are not clipped */
    double loss_scale;    /* of the loss, unless it moves */
    double beta1, beta2;  /* of adam */
    int pieces;
    int slot; /* of watch->verdict */
    bool moves;
} rk_judge_args;

/* Philox4x32-10 stream: key (k0, k1), counter words c1..c3; word c0 counts blocks of 4 numbers. */
typedef struct rk_rng {
    uint32_t key[2];
    uint32_t ctr[3];
} rk_rng;

/* y[i] = f(x[i], p). y may be x. */
typedef rk_status rk_map1(rk_dev *dev, int64_t n, const void *x, double p, void *y);
/* y[i] = f(a[i], b[i], p). y may be a or b. In gradients a is what the formula names (x or y), b is dy. */
typedef rk_status rk_map2(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y);

typedef struct rk_kernels {
    const char *name;
    rk_dtype dtype;

    /* ---- products ---- */
    rk_status (*gemm)(rk_dev *, const rk_gemm *);
    rk_status (*conv2d)(rk_dev *, const rk_conv2d_args *, const void *x, const void *w, const void *bias,
                        rk_act act, void *y);
    rk_status (*conv2d_dx)(rk_dev *, const rk_conv2d_args *, const void *dy, const void *w, void *dx);
    rk_status (*conv2d_dw)(rk_dev *, const rk_conv2d_args *, rk_order, const void *x, const void *dy,
                           void *dw);
    /* out (c): sum of dy (n, c, s) over n and s: the s terms of a sample as a row (lanes), then a chain over
     * samples n; order.unit is 1 (samples) */
    rk_status (*sum_channels)(rk_dev *, int64_t n, int64_t c, int64_t s, rk_order, const void *dy, void *out);

    /* ---- elementwise ---- */
    rk_map2 *add, *sub, *mul, *div;
    rk_map1 *add_scalar, *mul_scalar, *rsub_scalar, *rdiv_scalar, *pow_scalar;
    rk_map1 *neg, *exp, *log, *sqrt, *rsqrt, *abs;
    rk_map1 *relu, *leaky_relu, *gelu, *gelu_tanh, *silu, *sigmoid, *tanh, *softplus;
    /* y = gradient: from the output for sqrt, rsqrt, exp, relu, sigmoid, tanh; from the input for all others
     */
    rk_map2 *pow_scalar_grad, *abs_grad, *relu_grad, *leaky_relu_grad, *gelu_grad, *gelu_tanh_grad,
        *silu_grad, *sigmoid_grad, *tanh_grad, *softplus_grad, *sqrt_grad, *rsqrt_grad, *rdiv_scalar_grad;
    /* losses per element and d loss_i / d x_i: |a-b|, bce(a, b): y[i]; gradients with p as factor */
    rk_map2 *l1, *l1_grad, *bce, *bce_grad;
    rk_map2 *add_scaled; /* y = a + p * b, fused multiply-add */
    /* y = x * by[0], device memory; y may be x */
    rk_status (*mul_by)(rk_dev *, int64_t n, const void *x, const void *by, void *y);

    /* ---- reductions: x (outer, n, inner) -> y (outer, inner) ---- */
    /* sum over n. order.segments > 1 or acc != SET or inner > 1: chains as order says; else (a row's sum):
     * lanes */
    rk_status (*reduce_sum)(rk_dev *, int64_t outer, int64_t n, int64_t inner, rk_order, const void *x,
                            void *y);
    rk_status (*reduce_max)(rk_dev *, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                            int64_t *index);
    rk_status (*reduce_min)(rk_dev *, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                            int64_t *index);
    /* sum of squares in double over the chunk grid; true in *bad if any element is not finite */
    rk_status (*sum_squares)(rk_dev *, int64_t n, const void *x, double *out, bool *bad);

    /* ---- rows (rows, cols) ---- */
    /* y (rows): the largest element; NaN are passed over, unless there is nothing else */
    rk_status (*row_max)(rk_dev *, int64_t rows, int64_t cols, const void *x, void *y);
    rk_status (*softmax)(rk_dev *, int64_t rows, int64_t cols, const void *x, void *y);
    rk_status (*softmax_grad)(rk_dev *, int64_t rows, int64_t cols, const void *y, const void *dy, void *dx);
    rk_status (*log_softmax)(rk_dev *, int64_t rows, int64_t cols, const void *x, void *y);
    rk_status (*log_softmax_grad)(rk_dev *, int64_t rows, int64_t cols, const void *y, const void *dy,
                                  void *dx);
    /* loss[r] = cross entropy of row r (0 where target is `ignore`, if use_ignore); lse[r] = log-sum-exp.
     * Targets were checked by the caller. */
    rk_status (*cross_entropy)(rk_dev *, int64_t rows, int64_t cols, const void *x, const int64_t *target,
                               double smoothing, bool use_ignore, int64_t ignore, void *loss, void *lse);
    /* The same where the columns are those from `first` on of more classes: top (rows) is the largest logit
     * of a row; sum = the sum of e^(x - top), plain (may be NULL) that of x, each over `segments` leaves of
     * the columns; hit = x[target], 0 if the target is not among the columns. */
    rk_status (*cross_entropy_part)(rk_dev *, int64_t rows, int64_t cols, int segments, int64_t first,
                                    const void *x, const int64_t *target, const void *top, void *sum,
                                    void *plain, void *hit);
    /* loss and lse as cross_entropy gives them, from the sums over all classes; plain may be NULL without
     * smoothing */
    rk_status (*cross_entropy_join)(rk_dev *, int64_t rows, int64_t classes, const int64_t *target,
                                    double smoothing, bool use_ignore, int64_t ignore, const void *top,
                                    const void *sum, const void *plain, const void *hit, void *loss,
                                    void *lse);
    /* dx = scale * (softmax(x) - smoothed one-hot), 0 in ignored rows; the columns are those from `first` on
     * of `classes` */
    rk_status (*cross_entropy_grad)(rk_dev *, int64_t rows, int64_t cols, int64_t first, int64_t classes,
                                    const void *x, const int64_t *target, const void *lse, double smoothing,
                                    bool use_ignore, int64_t ignore, double scale, void *dx);
    rk_status (*layer_norm)(rk_dev *, int64_t rows, int64_t cols, const void *x, const void *gamma,
                            const void *beta, double eps, void *y, void *mean, void *rstd);
    rk_status (*layer_norm_dx)(rk_dev *, int64_t rows, int64_t cols, const void *x, const void *gamma,
                               const void *mean, const void *rstd, const void *dy, void *dx);
    /* dgamma, dbeta (cols), sums over rows; either may be NULL */
    rk_status (*layer_norm_dparam)(rk_dev *, int64_t rows, int64_t cols, rk_order, const void *x,
                                   const void *mean, const void *rstd, const void *dy, void *dgamma,
                                   void *dbeta);
    /* RMS norm: mean is NULL (taken as 0) in the two above: layer_norm_dparam; forward and dx have their own
     */
    rk_status (*rms_norm)(rk_dev *, int64_t rows, int64_t cols, const void *x, const void *gamma, double eps,
                          void *y, void *rstd);
    rk_status (*rms_norm_dx)(rk_dev *, int64_t rows, int64_t cols, const void *x, const void *gamma,
                             const void *rstd, const void *dy, void *dx);

    /* ---- batch norm: x (n, c, s); sums over (n, s) as sum_channels ---- */
    /* two passes: mean, then biased variance about it */
    rk_status (*batch_norm_stats)(rk_dev *, int64_t n, int64_t c, int64_t s, rk_order, const void *x,
                                  void *mean, void *var);
    /* out (c) = the sum of (x - mean)^2: what batch_norm_stats divides for var, of a part of the samples */
    rk_status (*sum_channel_squares)(rk_dev *, int64_t n, int64_t c, int64_t s, rk_order, const void *x,
                                     const void *mean, void *out);
    /* y = (x - mean) / sqrt(var + eps) * gamma + beta; rstd (c) is written if not NULL; relu fused if asked
     */
    rk_status (*batch_norm)(rk_dev *, int64_t n, int64_t c, int64_t s, const void *x, const void *mean,
                            const void *var, const void *gamma, const void *beta, double eps, void *y,
                            void *rstd);
    /* dgamma, dbeta (c), written (SET) */
    rk_status (*batch_norm_dparam)(rk_dev *, int64_t n, int64_t c, int64_t s, rk_order, const void *x,
                                   const void *mean, const void *rstd, const void *dy, void *dgamma,
                                   void *dbeta);
    /* training: through the statistics, which are over `count` terms; dgamma, dbeta as just computed */
    rk_status (*batch_norm_dx)(rk_dev *, int64_t n, int64_t c, int64_t s, int64_t count, const void *x,
                               const void *mean, const void *rstd, const void *gamma, const void *dgamma,
                               const void *dbeta, const void *dy, void *dx);

    /* ---- pooling ---- */
    rk_status (*max_pool2d)(rk_dev *, const rk_pool2d *, const void *x, void *y,
                            int32_t *arg); /* arg: h*w offset */
    rk_status (*max_pool2d_grad)(rk_dev *, const rk_pool2d *, const int32_t *arg, const void *dy, void *dx);
    rk_status (*avg_pool2d)(rk_dev *, const rk_pool2d *, const void *x, void *y);
    rk_status (*avg_pool2d_grad)(rk_dev *, const rk_pool2d *, const void *dy, void *dx);

    /* ---- indexing ---- */
    rk_status (*take_rows)(rk_dev *, int64_t rows, int64_t cols, const void *table, const int64_t *index,
                           void *y);
    /* dtable[index[r]] += dy[r] in the order of r; per segment a sum of its own, added in the tree. An index
     * that is no row of the table adds nothing. */
    rk_status (*take_rows_grad)(rk_dev *, int64_t table_rows, int64_t rows, int64_t cols, rk_order,
                                const void *dy, const int64_t *index, void *dtable);
    /* torch.gather over n: x (outer, n, inner), index and y (outer, m, inner) */
    rk_status (*gather)(rk_dev *, int64_t outer, int64_t n, int64_t m, int64_t inner, const void *x,
                        const int64_t *index, void *y);
    rk_status (*gather_grad)(rk_dev *, int64_t outer, int64_t n, int64_t m, int64_t inner, const void *dy,
                             const int64_t *index, void *dx); /* dx = 0, then += in order */

    /* ---- memory ---- */
    rk_status (*fill)(rk_dev *, int64_t n, double value, void *y);

    /* ---- random ---- */
    /* element i of sample s (rows are samples first_sample + r): kept if u >= p, scaled by 1/(1-p); y may be
     * x */
    rk_status (*dropout)(rk_dev *, int64_t rows, int64_t cols, uint64_t first_sample, double p, rk_rng,
                         const void *x, void *y);
    rk_status (*uniform)(rk_dev *, int64_t n, rk_rng, void *y); /* [0, 1): (word >> 8) * 2^-24 */
    rk_status (*normal)(rk_dev *, int64_t n, rk_rng,
                        void *y); /* Box-Muller over pairs of words, our own log, sin, cos */

    /* ---- optimisers: one pass over all pieces, whose w, m, v are updated ---- */
    /* Rows as chunks of sum_squares: 16 lanes of doubles; not finite where an element is not. sums: device
     * memory. */
    rk_status (*squares)(rk_dev *, int pieces, const rk_square_rows *, double *sums);
    /* Adds them by piece, and the pieces in their order; see rk_watch. */
    rk_status (*judge)(rk_dev *, const rk_judge_args *);
    rk_status (*adam)(rk_dev *, const rk_optim_args *, int pieces, const rk_optim_piece *);
    rk_status (*sgd)(rk_dev *, const rk_optim_args *, int pieces, const rk_optim_piece *);
    /* averages w follow g: w += (1 - decay) * (g - w). still: NULL, or device memory: not if it holds 1 */
    rk_status (*ema)(rk_dev *, double decay, const int64_t *still, int pieces, const rk_optim_piece *);
    /* sums of micro-batches: w = g, or if `add`, w = g + w */
    rk_status (*collect)(rk_dev *, bool add, int pieces, const rk_optim_piece *);
} rk_kernels;

enum { RK_TICK_US = 100 };

/* What a device is beside its kernels. */
typedef struct rk_device {
    const char *name;
    /* isa, threads as in rk_open_cfg. The reason of a failure goes to msg. */
    rk_status (*open)(const rk_open_cfg *cfg, rk_dev **dev, char *msg, size_t msg_size);
    void (*close)(rk_dev *dev);
    const rk_kernels *(*kernels)(rk_dev *dev, rk_dtype t);   /* f32 and f64; NULL for the others */
    rk_status (*alloc)(rk_dev *dev, size_t bytes, void **p); /* 64-byte aligned, not cleared */
    void (*release)(rk_dev *dev, void *p, size_t bytes);
    rk_status (*zero)(rk_dev *dev, void *p, size_t bytes);
    rk_status (*copy_in)(rk_dev *dev, void *dst, const void *host, size_t bytes);
    rk_status (*copy_out)(rk_dev *dev, void *host, const void *src, size_t bytes);
    /* dst (contiguous) = src by element strides; any element size of 1, 2, 4, 8 */
    rk_status (*copy_strided)(rk_dev *dev, size_t elem, int ndim, const int64_t *dim,
                              const int64_t *src_stride, const void *src, const int64_t *dst_stride,
                              void *dst);
    rk_status (*cast)(rk_dev *dev, int64_t n, rk_dtype from, const void *src, rk_dtype to, void *dst);
    const char *(*describe)(rk_dev *dev); /* "avx2, 2 threads" */
    int (*threads)(rk_dev *dev);
    /* From now on fn(arg) is called between pieces of the work of kernels, by the thread that called them,
     * about every RK_TICK_US microseconds; fn NULL: no more. It may not call kernels. NULL: this device needs
     * no such calls. */
    void (*on_work)(rk_dev *dev, void (*fn)(void *arg), void *arg);
    /* Measured f32 operations a second of all threads, a multiply-add counting two; may be NULL. Takes some
     * 10 ms the first time. */
    double (*peak_flops)(rk_dev *dev);
    /* The last failure in words, with what to do: "" if there was none. NULL: statuses say it all. */
    void (*failure)(rk_dev *dev, char *msg, size_t msg_size);
    /* room: bytes that this process could have in all, those it has included; total: of the device. NULL: as
     * much as the host has. */
    void (*memory)(rk_dev *dev, size_t *room, size_t *total);
    /* Starts what was asked for and held back; waits for nothing. NULL: nothing is held back. */
    rk_status (*flush)(rk_dev *dev);
    /* Returns when all that was asked for is done. NULL: calls return when it is. */
    rk_status (*wait)(rk_dev *dev);
    /* What of rk_gemm_beside this device may do, RK_BESIDE_.., and RK_USES_ROUNDED: it would convert operands
     * that are to be rounded, unless they come so (round16). NULL: nothing. */
    unsigned (*uses)(const rk_dev *dev);
    /* dst = the lines of src, of `length` elements, `step` elements apart; of dst, `to_step`. NULL where
     * uses() has no RK_USES_ROUNDED. */
    rk_status (*round16)(rk_dev *dev, rk_round to, int64_t lines, int64_t length, int64_t step,
                         const void *src, int64_t to_step, void *dst);
    /* What all ranks have or none: why this one has no library of products although it may add in any order,
     * or "". do_without() gives the library up, for a reason that describe() tells. NULL: there is none. */
    const char *(*lacks)(const rk_dev *dev);
    void (*do_without)(rk_dev *dev, const char *why);
} rk_device;

extern const rk_device rk_device_cpu;

#endif
