#include "core/dry.h"

#include "core/order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The parameters are those of rk_kernels; none of them matters here. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

enum { ALIGN = 64 };

struct rk_dev {
    uintptr_t next; /* addresses that nobody follows: no two blocks have the same */
    size_t held, peak;
    unsigned uses;
    rk__dry_cost cost;
};

/* ---- kernels ---- */

/* Operations of elementary functions, as the polynomials of core/vmath.inc have them, to the nearest five. */
enum { EXP = 20, LOG = 25, ERF = 30, TANH = 30, POW = 60, PHILOX = 15 };

/* Entries by name, and the operations of one element. */
/* clang-format off */
#define MAPS1(M)                                                                                       \
    M(add_scalar, 1) M(mul_scalar, 1) M(rsub_scalar, 1) M(rdiv_scalar, 1) M(pow_scalar, POW) M(neg, 1)   \
    M(exp, EXP) M(log, LOG) M(sqrt, 1) M(rsqrt, 2) M(abs, 1) M(relu, 1) M(leaky_relu, 2)                 \
    M(gelu, ERF + 4) M(gelu_tanh, TANH + 6) M(silu, EXP + 3) M(sigmoid, EXP + 2) M(tanh, TANH)           \
    M(softplus, EXP + LOG + 2)
#define MAPS2(M)                                                                                       \
    M(add, 1) M(sub, 1) M(mul, 1) M(div, 1) M(pow_scalar_grad, POW) M(abs_grad, 2) M(relu_grad, 1)       \
    M(leaky_relu_grad, 2) M(gelu_grad, ERF + EXP + 6) M(gelu_tanh_grad, TANH + 12)                       \
    M(silu_grad, EXP + 6) M(sigmoid_grad, 3) M(tanh_grad, 3) M(softplus_grad, EXP + 3) M(sqrt_grad, 2)   \
    M(rsqrt_grad, 3) M(rdiv_scalar_grad, 3) M(l1, 2) M(l1_grad, 3) M(bce, EXP + LOG + 4)                 \
    M(bce_grad, EXP + 4) M(add_scaled, 2)
#define OTHERS(M)                                                                                      \
    M(gemm) M(conv2d) M(conv2d_dx) M(conv2d_dw) M(sum_channels) M(reduce_sum) M(sum_squares)             \
    M(mul_by) M(squares) M(row_max) M(softmax) M(softmax_grad) M(log_softmax)                 \
    M(log_softmax_grad) M(cross_entropy) M(cross_entropy_part) M(cross_entropy_join)                     \
    M(cross_entropy_grad) M(layer_norm) M(layer_norm_dx) M(layer_norm_dparam) M(rms_norm)                \
    M(rms_norm_dx) M(batch_norm_stats) M(sum_channel_squares) M(batch_norm) M(batch_norm_dparam)         \
    M(batch_norm_dx) M(max_pool2d) M(max_pool2d_grad) M(avg_pool2d) M(avg_pool2d_grad) M(take_rows)      \
    M(take_rows_grad) M(gather) M(gather_grad) M(fill) M(dropout) M(uniform) M(normal) M(judge) M(adam)  \
    M(sgd) M(ema) M(collect)
/* clang-format on */

/* An index is 64 bits, in elements. */
#define INDEX (sizeof(int64_t) / SIZE)

static rk_status spend(rk_dev *d, double bytes, double flops)
{
    d->cost.bytes += bytes;
    d->cost.flops += flops;
    d->cost.calls++;
    return RK_OK;
}

/* What is added to has to be read too. */
static double again(rk_order o, int64_t n)
{
    return o.acc == RK_ACC_SET ? 0 : (double)n;
}

/* What a device with cuBLASLt does of it. */
static void beside(const rk_dev *d, const rk_gemm *g)
{
    rk_gemm_beside *b = d->uses ? g->beside : NULL;
    if (b)
        b->done = (b->a_sums ? RK_BESIDE_SUMS : 0) | (b->relu_bits ? RK_BESIDE_BITS : 0) |
                  (b->slope_of ? RK_BESIDE_SLOPE : 0);
}

static double conv_weights(const rk_conv2d_args *a)
{
    return (double)a->oc * (double)(a->c / a->groups) * (double)(a->kh * a->kw);
}

/* How many of `in` places along an axis some window reaches. */
static double reached(int64_t in, int64_t taps, int64_t stride, int64_t pad, int64_t dil, int64_t out)
{
    int64_t n = 0;
    for (int64_t i = 0; i < in; i++)
        for (int64_t k = 0; k < taps; k++) {
            const int64_t at = i + pad - k * dil;
            if (at >= 0 && at % stride == 0 && at / stride < out) {
                n++;
                break;
            }
        }
    return (double)n;
}

static double conv_reached(const rk_conv2d_args *a)
{
    return (double)(a->n * a->c) * reached(a->h, a->kh, a->stride_h, a->pad_h, a->dil_h, a->oh) *
           reached(a->w, a->kw, a->stride_w, a->pad_w, a->dil_w, a->ow);
}

static double conv_in(const rk_conv2d_args *a)
{
    return (double)a->n * (double)(a->c * a->h * a->w);
}

static double conv_out(const rk_conv2d_args *a)
{
    return (double)a->n * (double)(a->oc * a->oh * a->ow);
}

static double conv_flops(const rk_conv2d_args *a)
{
    return 2 * (double)a->n * (double)(a->oh * a->ow) * conv_weights(a);
}

static double pool_in(const rk_pool2d *p)
{
    return (double)p->n * (double)(p->c * p->h * p->w);
}

static double pool_out(const rk_pool2d *p)
{
    return (double)p->n * (double)(p->c * p->oh * p->ow);
}

static double pool_reached(const rk_pool2d *p)
{
    return p->kh == 0 ? pool_in(p)
                      : (double)(p->n * p->c) * reached(p->h, p->kh, p->stride_h, p->pad_h, 1, p->oh) *
                            reached(p->w, p->kw, p->stride_w, p->pad_w, 1, p->ow);
}

/* The sum over the windows along an axis of what each has of the input. */
static double window_sum(int64_t in, int64_t taps, int64_t stride, int64_t pad, int64_t out)
{
    int64_t n = 0;
    for (int64_t o = 0; o < out; o++) {
        int64_t lo = taps ? o * stride - pad : o * in / out;
        int64_t hi = taps ? lo + taps : ((o + 1) * in + out - 1) / out;
        lo = lo > 0 ? lo : 0;
        hi = hi < in ? hi : in;
        n += hi > lo ? hi - lo : 0;
    }
    return (double)n;
}

static double pool_terms(const rk_pool2d *p)
{
    return (double)(p->n * p->c) * window_sum(p->h, p->kh, p->stride_h, p->pad_h, p->oh) *
           window_sum(p->w, p->kh ? p->kw : 0, p->stride_w, p->pad_w, p->ow);
}

/* Rows have a sum in double each. */
static double all_sums(int pieces, const rk_square_rows *p)
{
    double n = 0;
    for (int i = 0; i < pieces; i++)
        n += (double)p[i].rows;
    return n;
}

static double all_of(int pieces, const rk_optim_piece *p)
{
    double n = 0;
    for (int i = 0; i < pieces; i++)
        n += (double)p[i].n;
    return n;
}

static double all_rows(int pieces, const rk_square_rows *p)
{
    double n = 0;
    for (int i = 0; i < pieces; i++)
        n += fmin((double)p[i].n, (double)p[i].rows * (double)p[i].cols);
    return n;
}

#define E(name) f32_##name
#define SIZE    sizeof(float)
#define DTYPE   RK_F32
#include "core/dry_entries.inc"
#define E(name) f64_##name
#define SIZE    sizeof(double)
#define DTYPE   RK_F64
#include "core/dry_entries.inc"

/* ---- the device ---- */

static rk_status open_dry(const rk_open_cfg *cfg, rk_dev **out, char *msg, size_t msg_size)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return RK_ENOMEM;
    (*out)->next = ALIGN;
    (*out)->uses =
        cfg && cfg->inexact ? RK_BESIDE_SUMS | RK_BESIDE_BITS | RK_BESIDE_SLOPE | RK_USES_ROUNDED : 0;
    return RK_OK;
}

static void close_dry(rk_dev *d)
{
    free(d);
}

static const rk_kernels *kernels(rk_dev *d, rk_dtype t)
{
    return t == RK_F32 ? &f32_table : t == RK_F64 ? &f64_table : NULL;
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

size_t rk__dry_held(const rk_dev *d)
{
    return d->held;
}

size_t rk__dry_peak(const rk_dev *d)
{
    return d->peak;
}

rk__dry_cost rk__dry_spent(const rk_dev *d)
{
    return d->cost;
}

static rk_status copy_out(rk_dev *d, void *host, const void *src, size_t bytes)
{
    memset(host, 0, bytes);
    return RK_OK;
}

static rk_status zero(rk_dev *d, void *p, size_t bytes)
{
    return RK_OK;
}

static rk_status copy_in(rk_dev *d, void *dst, const void *host, size_t bytes)
{
    return RK_OK;
}

static rk_status copy_strided(rk_dev *d, size_t elem, int ndim, const int64_t *dim, const int64_t *src_stride,
                              const void *src, const int64_t *dst_stride, void *dst)
{
    double n = (double)elem;
    for (int i = 0; i < ndim; i++)
        n *= (double)dim[i];
    return spend(d, 2 * n, 0);
}

static rk_status cast(rk_dev *d, int64_t n, rk_dtype from, const void *src, rk_dtype to, void *dst)
{
    return spend(d, (double)n * (double)(rk_dtype_size(from) + rk_dtype_size(to)), 0);
}

static const char *describe(rk_dev *d)
{
    return "dry: counts memory, computes nothing";
}

static int threads(rk_dev *d)
{
    return 1;
}

/* As a GPU with cuBLASLt. */
static unsigned uses(const rk_dev *d)
{
    return d->uses;
}

static rk_status round16(rk_dev *d, rk_round to, int64_t lines, int64_t length, int64_t step, const void *src,
                         int64_t to_step, void *dst)
{
    return spend(d, (double)lines * ((double)length * sizeof(float) + (double)to_step * sizeof(uint16_t)), 0);
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
                                   .threads = threads,
                                   .uses = uses,
                                   .round16 = round16 };
