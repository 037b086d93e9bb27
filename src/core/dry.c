#include "core/dry.h"

#include "core/order.h"

#include <stdlib.h>
#include <string.h>

/* The parameters are those of rk_kernels; none of them matters here. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

enum { ALIGN = 64 };

struct rk_dev {
    uintptr_t next; /* addresses that nobody follows: no two blocks have the same */
    size_t held, peak;
};

/* ---- kernels ---- */

#define NOTHING(name, ...)             \
    static rk_status name(__VA_ARGS__) \
    {                                  \
        return RK_OK;                  \
    }

NOTHING(gemm, rk_dev *d, const rk_gemm *g)
NOTHING(conv2d, rk_dev *d, const rk_conv2d_args *a, const void *x, const void *w, const void *bias,
        rk_act act, void *y)
NOTHING(conv2d_dx, rk_dev *d, const rk_conv2d_args *a, const void *dy, const void *w, void *dx)
NOTHING(conv2d_dw, rk_dev *d, const rk_conv2d_args *a, rk_order o, const void *x, const void *dy, void *dw)
NOTHING(sum_channels, rk_dev *d, int64_t n, int64_t c, int64_t s, rk_order o, const void *dy, void *out)
NOTHING(map1, rk_dev *d, int64_t n, const void *x, double p, void *y)
NOTHING(map2, rk_dev *d, int64_t n, const void *a, const void *b, double p, void *y)
NOTHING(reduce_sum, rk_dev *d, int64_t outer, int64_t n, int64_t inner, rk_order o, const void *x, void *y)
NOTHING(reduce_most, rk_dev *d, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
        int64_t *index)
NOTHING(rows1, rk_dev *d, int64_t rows, int64_t cols, const void *x, void *y)
NOTHING(rows2, rk_dev *d, int64_t rows, int64_t cols, const void *y, const void *dy, void *dx)
NOTHING(cross_entropy, rk_dev *d, int64_t rows, int64_t cols, const void *x, const int64_t *target,
        double smoothing, bool use_ignore, int64_t ignore, void *loss, void *lse)
NOTHING(cross_entropy_part, rk_dev *d, int64_t rows, int64_t cols, int segments, int64_t first, const void *x,
        const int64_t *target, const void *top, void *sum, void *plain, void *hit)
NOTHING(cross_entropy_join, rk_dev *d, int64_t rows, int64_t classes, const int64_t *target, double smoothing,
        bool use_ignore, int64_t ignore, const void *top, const void *sum, const void *plain, const void *hit,
        void *loss, void *lse)
NOTHING(cross_entropy_grad, rk_dev *d, int64_t rows, int64_t cols, int64_t first, int64_t classes,
        const void *x, const int64_t *target, const void *lse, double smoothing, bool use_ignore,
        int64_t ignore, double scale, void *dx)
NOTHING(layer_norm, rk_dev *d, int64_t rows, int64_t cols, const void *x, const void *gamma, const void *beta,
        double eps, void *y, void *mean, void *rstd)
NOTHING(layer_norm_dx, rk_dev *d, int64_t rows, int64_t cols, const void *x, const void *gamma,
        const void *mean, const void *rstd, const void *dy, void *dx)
NOTHING(layer_norm_dparam, rk_dev *d, int64_t rows, int64_t cols, rk_order o, const void *x, const void *mean,
        const void *rstd, const void *dy, void *dgamma, void *dbeta)
NOTHING(rms_norm, rk_dev *d, int64_t rows, int64_t cols, const void *x, const void *gamma, double eps,
        void *y, void *rstd)
NOTHING(rms_norm_dx, rk_dev *d, int64_t rows, int64_t cols, const void *x, const void *gamma,
        const void *rstd, const void *dy, void *dx)
NOTHING(batch_norm_stats, rk_dev *d, int64_t n, int64_t c, int64_t s, rk_order o, const void *x, void *mean,
        void *var)
NOTHING(sum_channel_squares, rk_dev *d, int64_t n, int64_t c, int64_t s, rk_order o, const void *x,
        const void *mean, void *out)
NOTHING(batch_norm, rk_dev *d, int64_t n, int64_t c, int64_t s, const void *x, const void *mean,
        const void *var, const void *gamma, const void *beta, double eps, void *y, void *rstd)
NOTHING(batch_norm_dparam, rk_dev *d, int64_t n, int64_t c, int64_t s, rk_order o, const void *x,
        const void *mean, const void *rstd, const void *dy, void *dgamma, void *dbeta)
NOTHING(batch_norm_dx, rk_dev *d, int64_t n, int64_t c, int64_t s, int64_t count, const void *x,
        const void *mean, const void *rstd, const void *gamma, const void *dgamma, const void *dbeta,
        const void *dy, void *dx)
NOTHING(max_pool2d, rk_dev *d, const rk_pool2d *p, const void *x, void *y, int32_t *arg)
NOTHING(max_pool2d_grad, rk_dev *d, const rk_pool2d *p, const int32_t *arg, const void *dy, void *dx)
NOTHING(avg_pool2d, rk_dev *d, const rk_pool2d *p, const void *x, void *y)
NOTHING(take_rows, rk_dev *d, int64_t rows, int64_t cols, const void *table, const int64_t *index, void *y)
NOTHING(take_rows_grad, rk_dev *d, int64_t table_rows, int64_t rows, int64_t cols, rk_order o, const void *dy,
        const int64_t *index, void *dtable)
NOTHING(gather, rk_dev *d, int64_t outer, int64_t n, int64_t m, int64_t inner, const void *x,
        const int64_t *index, void *y)
NOTHING(fill, rk_dev *d, int64_t n, double value, void *y)
NOTHING(dropout, rk_dev *d, int64_t rows, int64_t cols, uint64_t first_sample, double p, rk_rng r,
        const void *x, void *y)
NOTHING(draw, rk_dev *d, int64_t n, rk_rng r, void *y)
NOTHING(adam, rk_dev *d, const rk_optim_args *a, void *w, const void *g, void *m, void *v)
NOTHING(sgd, rk_dev *d, const rk_optim_args *a, void *w, const void *g, void *m)
NOTHING(ema, rk_dev *d, int64_t n, double decay, const void *w, void *avg)

static rk_status sum_squares(rk_dev *d, int64_t n, const void *x, double *out, bool *bad)
{
    *out = 0;
    *bad = false;
    return RK_OK;
}

static rk_status chunk_squares(rk_dev *d, int64_t n, const void *x, double *sums)
{
    for (int64_t i = 0; i * RK_CHUNK < n; i++)
        sums[i] = 0;
    return RK_OK;
}

static rk_status row_squares(rk_dev *d, int64_t rows, int64_t cols, int64_t ld, const void *x, int64_t step,
                             double *sums)
{
    for (int64_t r = 0; r < rows; r++)
        sums[r * step] = 0;
    return RK_OK;
}

/* clang-format off */
#define MAPS1 .add_scalar = map1, .mul_scalar = map1, .rsub_scalar = map1, .rdiv_scalar = map1, .pow_scalar = map1, \
    .neg = map1, .exp = map1, .log = map1, .sqrt = map1, .rsqrt = map1, .abs = map1, .relu = map1, \
    .leaky_relu = map1, .gelu = map1, .gelu_tanh = map1, .silu = map1, .sigmoid = map1, .tanh = map1, .softplus = map1
#define MAPS2 .add = map2, .sub = map2, .mul = map2, .div = map2, .pow_scalar_grad = map2, .abs_grad = map2, \
    .relu_grad = map2, .leaky_relu_grad = map2, .gelu_grad = map2, .gelu_tanh_grad = map2, .silu_grad = map2, \
    .sigmoid_grad = map2, .tanh_grad = map2, .softplus_grad = map2, .sqrt_grad = map2, .rsqrt_grad = map2, \
    .rdiv_scalar_grad = map2, .l1 = map2, .l1_grad = map2, .bce = map2, .bce_grad = map2, .add_scaled = map2
#define TABLE(t) { .name = "dry", .dtype = t, MAPS1, MAPS2, \
    .gemm = gemm, .conv2d = conv2d, .conv2d_dx = conv2d_dx, .conv2d_dw = conv2d_dw, .sum_channels = sum_channels, \
    .reduce_sum = reduce_sum, .reduce_max = reduce_most, .reduce_min = reduce_most, .sum_squares = sum_squares, \
    .chunk_squares = chunk_squares, .row_squares = row_squares, .row_max = rows1, .softmax = rows1, \
    .softmax_grad = rows2, .log_softmax = rows1, .log_softmax_grad = rows2, .cross_entropy = cross_entropy, \
    .cross_entropy_part = cross_entropy_part, .cross_entropy_join = cross_entropy_join, \
    .cross_entropy_grad = cross_entropy_grad, .layer_norm = layer_norm, .layer_norm_dx = layer_norm_dx, \
    .layer_norm_dparam = layer_norm_dparam, .rms_norm = rms_norm, .rms_norm_dx = rms_norm_dx, \
    .batch_norm_stats = batch_norm_stats, .sum_channel_squares = sum_channel_squares, .batch_norm = batch_norm, \
    .batch_norm_dparam = batch_norm_dparam, .batch_norm_dx = batch_norm_dx, .max_pool2d = max_pool2d, \
    .max_pool2d_grad = max_pool2d_grad, .avg_pool2d = avg_pool2d, .avg_pool2d_grad = avg_pool2d, \
    .take_rows = take_rows, .take_rows_grad = take_rows_grad, .gather = gather, .gather_grad = gather, \
    .fill = fill, .dropout = dropout, .uniform = draw, .normal = draw, .adam = adam, .sgd = sgd, .ema = ema }
/* clang-format on */

static const rk_kernels f32 = TABLE(RK_F32), f64 = TABLE(RK_F64);

/* ---- the device ---- */

static rk_status open_dry(const rk_open_cfg *cfg, rk_dev **out, char *msg, size_t msg_size)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return RK_ENOMEM;
    (*out)->next = ALIGN;
    return RK_OK;
}

static void close_dry(rk_dev *d)
{
    free(d);
}

static const rk_kernels *kernels(rk_dev *d, rk_dtype t)
{
    return t == RK_F32 ? &f32 : t == RK_F64 ? &f64 : NULL;
}

static rk_status alloc(rk_dev *d, size_t bytes, void **p)
{
    const size_t room = (bytes + 2 * ALIGN - 1) / ALIGN * ALIGN;
    if (room < bytes || d->next > UINTPTR_MAX - room)
        return RK_ENOMEM;
    *p = (void *)d->next; /* NOLINT: no memory is there, and none is wanted */
    d->next += room;
    d->held += bytes;
    d->peak = d->held > d->peak ? d->held : d->peak;
    return RK_OK;
}

static void release(rk_dev *d, void *p, size_t bytes)
{
    d->held -= p ? bytes : 0;
}

size_t rk__dry_peak(const rk_dev *d)
{
    return d->peak;
}

static rk_status copy_out(rk_dev *d, void *host, const void *src, size_t bytes)
{
    memset(host, 0, bytes);
    return RK_OK;
}

NOTHING(zero, rk_dev *d, void *p, size_t bytes)
NOTHING(copy_in, rk_dev *d, void *dst, const void *host, size_t bytes)
NOTHING(copy_strided, rk_dev *d, size_t elem, int ndim, const int64_t *dim, const int64_t *src_stride,
        const void *src, const int64_t *dst_stride, void *dst)
NOTHING(cast, rk_dev *d, int64_t n, rk_dtype from, const void *src, rk_dtype to, void *dst)

static const char *describe(rk_dev *d)
{
    return "dry: counts memory, computes nothing";
}

static int threads(rk_dev *d)
{
    return 1;
}

const rk_device rk__device_dry = { .name = "dry",
                                   .open = open_dry,
                                   .close = close_dry,
                                   .kernels = kernels,
                                   .alloc = alloc,
                                   .release = release,
                                   .zero = zero,
                                   .copy_in = copy_in,
                                   .copy_out = copy_out,
                                   .copy_strided = copy_strided,
                                   .cast = cast,
                                   .describe = describe,
                                   .threads = threads };
