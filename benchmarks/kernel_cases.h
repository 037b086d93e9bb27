/* Kernels at the sizes that training meets, as calls of the device table over arrays of floats. A case's name
 * begins with its entry of the table (core/kernels.h), or with the function of the device. */
#ifndef RK_BENCH_KERNEL_CASES_H
#define RK_BENCH_KERNEL_CASES_H

#include "core/kernels.h"

#include <stdlib.h>

enum { MOST = 1 << 20, ARRAYS = 6 };

typedef struct entry entry;

typedef struct work {
    const rk_device *device;
    const rk_kernels *k;
    rk_dev *dev;
    const entry *e;
    float *p[ARRAYS]; /* MOST floats each, p[0] to p[2] more where a case needs more */
    int64_t *index;   /* (MOST) 0 to 9, again and again */
    int64_t *bound;   /* (MOST) 0, 1, 2, .. */
    int32_t *arg;     /* (MOST) of e->pool: a place of each window */
    rk_watch *watch;  /* zeros at first */
    int64_t n, c, s;
    double sum; /* of squares: what is no array */
} work;

struct entry {
    const char *name; /* where run is NULL, a heading */
    void (*run)(work *w);
    int64_t n, c, s; /* (n, c, s); n c s elements. Of a product: (rows, columns, terms) */
    double arrays;   /* read or written once, each of n c s floats; 0: the CPU's benchmark leaves it out */
    int out, outs;   /* p[out], ..: what it writes */
    const rk_conv2d_args *conv; /* n is the case's */
    const rk_pool2d *pool;
    const char *note; /* of a heading */
};

static int64_t size(const work *w)
{
    return w->n * w->c * w->s;
}

static const rk_order in_eight = { 8, 1, RK_ACC_SET };

#define RUN(name, call)             \
    static void run_##name(work *w) \
    {                               \
        const rk_kernels *k = w->k; \
        float *const *p = w->p;     \
        (void)p;                    \
        if (k->call)                \
            abort();                \
    }

#define RUN1(name, parameter) RUN(name, name(w->dev, size(w), p[0], parameter, p[2]))
#define RUN2(name, parameter) RUN(name, name(w->dev, size(w), p[0], p[1], parameter, p[2]))
RUN1(neg, 0)
RUN1(abs, 0)
RUN1(add_scalar, 0.5)
RUN1(mul_scalar, 0.5)
RUN1(rsub_scalar, 0.5)
RUN1(rdiv_scalar, 0.5)
RUN1(sqrt, 0)
RUN1(rsqrt, 0)
RUN1(relu, 0)
RUN1(leaky_relu, 0.01)
RUN1(exp, 0)
RUN1(log, 0)
RUN1(pow_scalar, 1.5)
RUN1(tanh, 0)
RUN1(sigmoid, 0)
RUN1(silu, 0)
RUN1(gelu, 0)
RUN1(gelu_tanh, 0)
RUN1(softplus, 0)
RUN2(add, 0)
RUN2(sub, 0)
RUN2(mul, 0)
RUN2(div, 0)
RUN2(add_scaled, 0.5)
RUN2(abs_grad, 0)
RUN2(relu_grad, 0)
RUN2(leaky_relu_grad, 0.01)
RUN2(sqrt_grad, 0)
RUN2(rsqrt_grad, 0)
RUN2(rdiv_scalar_grad, 0.5)
RUN2(pow_scalar_grad, 1.5)
RUN2(sigmoid_grad, 0)
RUN2(tanh_grad, 0)
RUN2(silu_grad, 0)
RUN2(gelu_grad, 0)
RUN2(gelu_tanh_grad, 0)
RUN2(softplus_grad, 0)
RUN2(l1, 0)
RUN2(l1_grad, 0.1)
RUN2(bce, 0)
RUN2(bce_grad, 0.1)
RUN(mul_by, mul_by(w->dev, size(w), p[0], p[1], p[2]))

RUN(bias_grad, reduce_sum(w->dev, 1, w->n, w->c, in_eight, p[0], p[2]))
RUN(row_sum, reduce_sum(w->dev, w->n, w->c, 1, ((rk_order){ 1, 1, RK_ACC_SET }), p[0], p[2]))
RUN(reduce_max, reduce_max(w->dev, w->n, w->c, w->s, p[0], p[2], (int64_t *)(void *)p[4]))
RUN(reduce_min, reduce_min(w->dev, w->n, w->c, w->s, p[0], p[2], (int64_t *)(void *)p[4]))
RUN(row_max, row_max(w->dev, w->n, w->c, p[0], p[2]))
RUN(softmax, softmax(w->dev, w->n, w->c, p[0], p[2]))
RUN(softmax_grad, softmax_grad(w->dev, w->n, w->c, p[0], p[1], p[2]))
RUN(log_softmax, log_softmax(w->dev, w->n, w->c, p[0], p[2]))
RUN(log_softmax_grad, log_softmax_grad(w->dev, w->n, w->c, p[0], p[1], p[2]))
RUN(cross_entropy, cross_entropy(w->dev, w->n, w->c, p[0], w->index, 0, false, 0, p[2], p[3]))
RUN(cross_entropy_part, cross_entropy_part(w->dev, w->n, w->c, 1, 0, p[0], w->index, p[1], p[2], NULL, p[3]))
RUN(cross_entropy_join,
    cross_entropy_join(w->dev, w->n, 1000, w->index, 0, false, 0, p[0], p[1], NULL, p[4], p[2], p[3]))
RUN(cross_entropy_grad,
    cross_entropy_grad(w->dev, w->n, w->c, 0, w->c, p[0], w->index, p[1], 0, false, 0, 0.1, p[2]))
RUN(layer_norm, layer_norm(w->dev, w->n, w->c, p[0], p[1], p[3], 1e-5, p[2], p[4], p[5]))
RUN(layer_norm_dx, layer_norm_dx(w->dev, w->n, w->c, p[0], p[1], p[3], p[4], p[5], p[2]))
RUN(layer_norm_dparam, layer_norm_dparam(w->dev, w->n, w->c, in_eight, p[0], p[1], p[4], p[5], p[2], p[3]))
RUN(rms_norm, rms_norm(w->dev, w->n, w->c, p[0], p[1], 1e-5, p[2], p[4]))
RUN(rms_norm_dx, rms_norm_dx(w->dev, w->n, w->c, p[0], p[1], p[3], p[4], p[2]))
RUN(sum_channels, sum_channels(w->dev, w->n, w->c, w->s, in_eight, p[0], p[2]))
RUN(bn_stats, batch_norm_stats(w->dev, w->n, w->c, w->s, in_eight, p[0], p[2], p[3]))
RUN(bn_squares, sum_channel_squares(w->dev, w->n, w->c, w->s, in_eight, p[0], p[1], p[2]))
RUN(bn_forward, batch_norm(w->dev, w->n, w->c, w->s, p[0], p[1], p[4], p[5], p[4], 1e-5, p[2], p[3]))
RUN(bn_dparam, batch_norm_dparam(w->dev, w->n, w->c, w->s, in_eight, p[0], p[4], p[5], p[1], p[2], p[3]))
RUN(bn_dx,
    batch_norm_dx(w->dev, w->n, w->c, w->s, w->n * w->s, p[0], p[4], p[5], p[5], p[4], p[5], p[1], p[2]))
RUN(take_rows, take_rows(w->dev, w->n, w->c, p[0], w->bound, p[2]))
RUN(take_rows_grad, take_rows_grad(w->dev, 10, w->n, w->c, in_eight, p[0], w->index, p[2]))
RUN(gather, gather(w->dev, w->n, 10, w->c, w->s, p[0], w->index, p[2]))
RUN(gather_grad, gather_grad(w->dev, w->n, 10, w->c, w->s, p[0], w->index, p[2]))
RUN(dropout, dropout(w->dev, w->n, w->c, 0, 0.5, ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[0], p[2]))
RUN(uniform, uniform(w->dev, size(w), ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[2]))
RUN(normal, normal(w->dev, size(w), ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[2]))
RUN(fill, fill(w->dev, size(w), 1, p[2]))
RUN(max_pool, max_pool2d(w->dev, w->e->pool, p[0], p[2], w->arg))
RUN(max_pool_grad, max_pool2d_grad(w->dev, w->e->pool, w->arg, p[0], p[2]))
RUN(avg_pool, avg_pool2d(w->dev, w->e->pool, p[0], p[2]))
RUN(avg_pool_grad, avg_pool2d_grad(w->dev, w->e->pool, p[0], p[2]))

/* ---- products and convolutions ---- */

static void run_gemm(work *w)
{
    const int64_t m = w->n, n = w->c, k = w->s;
    if (w->k->gemm(w->dev, &(rk_gemm){ .m = m,
                                       .n = n,
                                       .k = k,
                                       .a = w->p[0],
                                       .a_row = k,
                                       .a_col = 1,
                                       .b = w->p[1],
                                       .b_row = n,
                                       .b_col = 1,
                                       .c = w->p[2],
                                       .ldc = n }))
        abort();
}

/* A weight's gradient: the terms are samples. */
static void run_gemm_samples(work *w)
{
    const int64_t m = w->n, n = w->c, k = w->s;
    if (w->k->gemm(w->dev, &(rk_gemm){ .m = m,
                                       .n = n,
                                       .k = k,
                                       .a = w->p[0],
                                       .a_row = 1,
                                       .a_col = m,
                                       .b = w->p[1],
                                       .b_row = n,
                                       .b_col = 1,
                                       .c = w->p[2],
                                       .ldc = n,
                                       .order = in_eight }))
        abort();
}

static rk_conv2d_args conv_of(const work *w)
{
    rk_conv2d_args a = *w->e->conv;
    a.n = w->n;
    return a;
}

#define RUN_CONV(name, call)                 \
    static void run_##name(work *w)          \
    {                                        \
        const rk_conv2d_args a = conv_of(w); \
        float *const *p = w->p;              \
        if (w->k->call)                      \
            abort();                         \
    }
RUN_CONV(conv2d, conv2d(w->dev, &a, p[0], p[1], NULL, RK_ACT_NONE, p[2]))
RUN_CONV(conv2d_relu, conv2d(w->dev, &a, p[0], p[1], p[3], RK_ACT_RELU, p[2]))
RUN_CONV(conv2d_dx, conv2d_dx(w->dev, &a, p[0], p[1], p[2]))
RUN_CONV(conv2d_dw, conv2d_dw(w->dev, &a, ((rk_order){ 8, a.oh *a.ow, RK_ACC_SET }), p[0], p[1], p[2]))

/* ---- optimisers, and what goes before them ---- */

static void run_adamw(work *w)
{
    rk_optim_args o = { .lr = 1e-9,
                        .grad_scale = 1,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 1e-8,
                        .bias1 = 0.1,
                        .bias2 = 0.001,
                        .decoupled = true };
    w->k->adam(w->dev, &o, 1, &(rk_optim_piece){ size(w), w->p[2], w->p[1], w->p[3], w->p[4], 0.01 });
}

static void run_sgd(work *w)
{
    rk_optim_args o = { .lr = 1e-9, .grad_scale = 1, .momentum = 0.9 };
    w->k->sgd(w->dev, &o, 1, &(rk_optim_piece){ size(w), w->p[2], w->p[1], w->p[3], NULL, 0 });
}

static void run_sgd_plain(work *w)
{
    rk_optim_args o = { .lr = 1e-9, .grad_scale = 1 };
    w->k->sgd(w->dev, &o, 1, &(rk_optim_piece){ size(w), w->p[2], w->p[1], NULL, NULL, 0 });
}

static rk_optim_piece second_to_third(work *w)
{
    return (rk_optim_piece){ .n = size(w), .w = w->p[2], .g = w->p[1] };
}

RUN(ema, ema(w->dev, 0.999, NULL, 1, (rk_optim_piece[]){ second_to_third(w) }))
RUN(collect, collect(w->dev, false, 1, (rk_optim_piece[]){ second_to_third(w) }))
RUN(collect_add, collect(w->dev, true, 1, (rk_optim_piece[]){ second_to_third(w) }))
RUN(squares,
    squares(w->dev, 1,
            &(rk_square_rows){ .x = p[0], .n = size(w), .rows = w->n, .cols = w->c, .ld = w->c, .step = 1 },
            (double *)(void *)p[2]))

static void run_sum_squares(work *w)
{
    bool bad;
    w->k->sum_squares(w->dev, size(w), w->p[0], &w->sum, &bad);
}

/* One sum a piece. */
static void run_judge(work *w)
{
    if (w->k->judge(w->dev, &(rk_judge_args){ .sums = (const double *)(const void *)w->p[0],
                                              .bound = w->bound,
                                              .part = (double *)(void *)w->p[2],
                                              .watch = w->watch,
                                              .loss = w->p[1],
                                              .clip_norm = 1,
                                              .loss_scale = 1,
                                              .beta1 = 0.9,
                                              .beta2 = 0.999,
                                              .pieces = (int)w->n }))
        abort();
}

/* ---- copies ---- */

static void run_transpose(work *w)
{
    if (w->device->copy_strided(w->dev, sizeof(float), 2, (int64_t[]){ w->n, w->c }, (int64_t[]){ 1, w->n },
                                w->p[0], (int64_t[]){ w->c, 1 }, w->p[2]))
        abort();
}

static void run_cast(work *w)
{
    if (w->device->cast(w->dev, size(w), RK_F64, w->p[0], RK_F32, w->p[2]))
        abort();
}

static void run_round16(work *w)
{
    if (w->device->round16(w->dev, RK_ROUND_BF16, w->n, w->c, w->c, w->p[0], rk__rounded_step(w->c), w->p[2]))
        abort();
}

/* ---- shapes of benchmarks/models.h ---- */

#define CONV(name, in, side, out, k, by, edge)                                 \
    static const rk_conv2d_args name = { .c = in,                              \
                                         .h = side,                            \
                                         .w = side,                            \
                                         .oc = out,                            \
                                         .kh = k,                              \
                                         .kw = k,                              \
                                         .oh = (side + 2 * edge - k) / by + 1, \
                                         .ow = (side + 2 * edge - k) / by + 1, \
                                         .stride_h = by,                       \
                                         .stride_w = by,                       \
                                         .pad_h = edge,                        \
                                         .pad_w = edge,                        \
                                         .dil_h = 1,                           \
                                         .dil_w = 1,                           \
                                         .groups = 1 };
CONV(cnn_conv1, 1, 28, 32, 3, 1, 0)
CONV(cnn_conv2, 32, 26, 64, 3, 1, 0)
CONV(resnet_conv1, 3, 32, 16, 3, 1, 1)
CONV(resnet_stage1, 16, 32, 16, 3, 1, 1)
CONV(resnet_down, 16, 32, 32, 3, 2, 1)
CONV(resnet_shortcut, 16, 32, 32, 1, 2, 0)
CONV(resnet_stage3, 64, 8, 64, 3, 1, 1)

#define POOL(name, in, side, size, to, by, edge)    \
    static const rk_pool2d name = { .n = 64,        \
                                    .c = in,        \
                                    .h = side,      \
                                    .w = side,      \
                                    .kh = size,     \
                                    .kw = size,     \
                                    .oh = to,       \
                                    .ow = to,       \
                                    .stride_h = by, \
                                    .stride_w = by, \
                                    .pad_h = edge,  \
                                    .pad_w = edge };
POOL(cnn_pool, 64, 24, 2, 12, 2, 0)
POOL(pool_2, 16, 32, 2, 16, 2, 0)
POOL(pool_3, 16, 32, 3, 16, 2, 1)
POOL(resnet_pool, 64, 8, 0, 1, 1, 0)
POOL(adaptive_3, 64, 8, 0, 3, 1, 0)

#define GROUP(heading, ...)                  \
    {                                        \
        .name = heading, .note = __VA_ARGS__ \
    }
#define MAP(map)                                                 \
    {                                                            \
#map, run_##map, 64, 16, 1024, 0, 2, 1, NULL, NULL, NULL \
    }
#define CASE(name, run, n, c, s)                      \
    {                                                 \
        name, run, n, c, s, 0, 2, 1, NULL, NULL, NULL \
    }
#define CONV_CASE(name, run, shape)                      \
    {                                                    \
        name, run, 64, 1, 1, 0, 2, 1, &shape, NULL, NULL \
    }
#define POOL_CASE(name, run, shape)                      \
    {                                                    \
        name, run, 64, 1, 1, 0, 2, 1, NULL, &shape, NULL \
    }
/* One that the CPU's benchmark times too. */
#define BOTH(name, run, n, c, s, arrays, out, outs)             \
    {                                                           \
        name, run, n, c, s, arrays, out, outs, NULL, NULL, NULL \
    }

static const entry entries[] = {
    GROUP("Products", "m x n x k: an element is one of the m x n results; k is the number of its terms. The "
                      "gradient of a weight adds\n"
                      "over samples, in segments."),
    CASE("gemm", run_gemm, 256, 512, 784),
    CASE("gemm (gradient of a weight)", run_gemm_samples, 512, 784, 256),
    CASE("gemm", run_gemm, 1024, 1024, 1024),
    CASE("gemm", run_gemm, 4096, 4096, 4096),
    CASE("gemm", run_gemm, 8192, 8192, 8192),
    CASE("gemm", run_gemm, 1, 4096, 4096),

    GROUP("Convolutions", "Those of the CNN and the ResNet of `benchmarks/models.h`, 64 samples, as samples "
                          "x channels x side -> channels x side, taps;\n"
                          "images are square. FLOP are those of the implicit product: 2 x samples x output "
                          "pixels x output channels x channels x taps, in all\n"
                          "three. An element is one of the result: y, dx or dw. They are our own kernels "
                          "with `parallel.exact: false`, too."),
    CONV_CASE("conv2d (bias, relu)", run_conv2d_relu, cnn_conv1),
    CONV_CASE("conv2d (bias, relu)", run_conv2d_relu, cnn_conv2),
    CONV_CASE("conv2d", run_conv2d, resnet_conv1),
    CONV_CASE("conv2d", run_conv2d, resnet_stage1),
    CONV_CASE("conv2d", run_conv2d, resnet_down),
    CONV_CASE("conv2d", run_conv2d, resnet_shortcut),
    CONV_CASE("conv2d", run_conv2d, resnet_stage3),
    CONV_CASE("conv2d_dx", run_conv2d_dx, cnn_conv2),
    CONV_CASE("conv2d_dx", run_conv2d_dx, resnet_stage1),
    CONV_CASE("conv2d_dx", run_conv2d_dx, resnet_down),
    CONV_CASE("conv2d_dx", run_conv2d_dx, resnet_shortcut),
    CONV_CASE("conv2d_dx", run_conv2d_dx, resnet_stage3),
    CONV_CASE("conv2d_dw", run_conv2d_dw, cnn_conv1),
    CONV_CASE("conv2d_dw", run_conv2d_dw, cnn_conv2),
    CONV_CASE("conv2d_dw", run_conv2d_dw, resnet_conv1),
    CONV_CASE("conv2d_dw", run_conv2d_dw, resnet_stage1),
    CONV_CASE("conv2d_dw", run_conv2d_dw, resnet_down),
    CONV_CASE("conv2d_dw", run_conv2d_dw, resnet_shortcut),
    CONV_CASE("conv2d_dw", run_conv2d_dw, resnet_stage3),

    GROUP("Maps of one array", "Names that share a row are entries of their own with the same bytes and "
                               "operations; bench_gpu times each."),
    MAP(neg),
    MAP(abs),
    MAP(add_scalar),
    MAP(mul_scalar),
    MAP(mul_by),
    MAP(rsub_scalar),
    MAP(rdiv_scalar),
    MAP(sqrt),
    BOTH("relu", run_relu, 64, 16, 1024, 2, 2, 1),
    MAP(rsqrt),
    MAP(leaky_relu),
    BOTH("exp", run_exp, 64, 16, 1024, 2, 2, 1),
    MAP(log),
    MAP(pow_scalar),
    BOTH("tanh", run_tanh, 64, 16, 1024, 2, 2, 1),
    BOTH("sigmoid", run_sigmoid, 64, 16, 1024, 2, 2, 1),
    MAP(silu),
    BOTH("gelu", run_gelu, 64, 16, 1024, 2, 2, 1),
    MAP(gelu_tanh),
    MAP(softplus),

    GROUP("Maps of two arrays", "Gradients read what the map read or gave, and the gradient that comes in."),
    BOTH("add", run_add, 64, 16, 1024, 3, 2, 1),
    MAP(sub),
    MAP(mul),
    MAP(div),
    BOTH("relu_grad", run_relu_grad, 64, 16, 1024, 3, 2, 1),
    BOTH("relu_grad", run_relu_grad, 256, 512, 1, 3, 2, 1),
    MAP(add_scaled),
    MAP(abs_grad),
    MAP(leaky_relu_grad),
    MAP(sqrt_grad),
    MAP(l1),
    MAP(rsqrt_grad),
    MAP(rdiv_scalar_grad),
    MAP(sigmoid_grad),
    MAP(tanh_grad),
    MAP(l1_grad),
    MAP(softplus_grad),
    MAP(bce_grad),
    MAP(silu_grad),
    MAP(gelu_tanh_grad),
    MAP(bce),
    BOTH("gelu_grad", run_gelu_grad, 64, 16, 1024, 3, 2, 1),
    MAP(pow_scalar_grad),

    GROUP("Reductions", "An element is one of what is reduced."),
    BOTH("reduce_sum (gradient of a bias)", run_bias_grad, 256, 512, 1, 1, 2, 1),
    BOTH("reduce_sum (gradient of a bias)", run_bias_grad, 64, 10, 1, 1, 2, 1),
    BOTH("reduce_sum (rows)", run_row_sum, 1024, 1024, 1, 1, 2, 1),
    CASE("reduce_max (rows, with places)", run_reduce_max, 1024, 1024, 1),
    CASE("reduce_min (rows, with places)", run_reduce_min, 1024, 1024, 1),
    CASE("reduce_max (columns, with places)", run_reduce_max, 64, 16, 1024),
    CASE("reduce_min (columns, with places)", run_reduce_min, 64, 16, 1024),
    CASE("row_max", run_row_max, 512, 1000, 1),
    BOTH("sum_channels", run_sum_channels, 64, 64, 196, 1, 2, 1),
    BOTH("sum_channels", run_sum_channels, 64, 16, 1024, 1, 2, 1),
    BOTH("sum_channels", run_sum_channels, 64, 64, 64, 1, 2, 1),

    GROUP("Rows", "`cross_entropy_part` and `cross_entropy_join` are the loss where ranks share the classes; "
                  "an element of the latter is a row."),
    BOTH("softmax", run_softmax, 1024, 1000, 1, 2, 2, 1),
    CASE("log_softmax", run_log_softmax, 1024, 1000, 1),
    CASE("softmax_grad", run_softmax_grad, 1024, 1000, 1),
    CASE("log_softmax_grad", run_log_softmax_grad, 1024, 1000, 1),
    BOTH("cross_entropy", run_cross_entropy, 64, 10, 1, 1, 2, 2),
    BOTH("cross_entropy", run_cross_entropy, 512, 1000, 1, 1, 2, 2),
    BOTH("cross_entropy_grad", run_cross_entropy_grad, 64, 10, 1, 2, 2, 1),
    BOTH("cross_entropy_grad", run_cross_entropy_grad, 512, 1000, 1, 2, 2, 1),
    CASE("cross_entropy_part", run_cross_entropy_part, 512, 1000, 1),
    CASE("cross_entropy_join", run_cross_entropy_join, 512, 1, 1),

    GROUP("Norms", "The parameters of an RMS norm have their gradient by `layer_norm_dparam`."),
    BOTH("layer_norm", run_layer_norm, 1024, 768, 1, 2, 2, 1),
    BOTH("layer_norm_dx", run_layer_norm_dx, 1024, 768, 1, 3, 2, 1),
    BOTH("layer_norm_dparam", run_layer_norm_dparam, 1024, 768, 1, 2, 2, 2),
    CASE("rms_norm", run_rms_norm, 1024, 768, 1),
    CASE("rms_norm_dx", run_rms_norm_dx, 1024, 768, 1),
    BOTH("batch_norm_stats", run_bn_stats, 64, 16, 1024, 1, 2, 2),
    BOTH("batch_norm_stats", run_bn_stats, 64, 64, 64, 1, 2, 2),
    BOTH("batch_norm_stats", run_bn_stats, 32, 512, 49, 1, 2, 2),
    CASE("sum_channel_squares", run_bn_squares, 64, 16, 1024),
    BOTH("batch_norm", run_bn_forward, 64, 16, 1024, 2, 2, 2),
    BOTH("batch_norm", run_bn_forward, 64, 64, 64, 2, 2, 2),
    BOTH("batch_norm", run_bn_forward, 32, 512, 49, 2, 2, 2),
    BOTH("batch_norm_dparam", run_bn_dparam, 64, 16, 1024, 2, 2, 2),
    BOTH("batch_norm_dparam", run_bn_dparam, 64, 64, 64, 2, 2, 2),
    BOTH("batch_norm_dparam", run_bn_dparam, 32, 512, 49, 2, 2, 2),
    BOTH("batch_norm_dx", run_bn_dx, 64, 16, 1024, 3, 2, 1),
    BOTH("batch_norm_dx", run_bn_dx, 64, 64, 64, 3, 2, 1),
    BOTH("batch_norm_dx", run_bn_dx, 32, 512, 49, 3, 2, 1),
    BOTH("batch_norm_dx", run_bn_dx, 1024, 512, 1, 3, 2, 1),

    GROUP("Pools", "The CNN's (24 to 12), the ResNet's (8 to 1) and some that overlap, as samples x channels "
                   "x side -> side. An element is one of the larger\n"
                   "array. A maximum notes its place in 4 bytes, which its gradient reads."),
    POOL_CASE("max_pool2d", run_max_pool, cnn_pool),
    POOL_CASE("max_pool2d", run_max_pool, pool_3),
    POOL_CASE("max_pool2d (adaptive)", run_max_pool, adaptive_3),
    POOL_CASE("max_pool2d_grad", run_max_pool_grad, cnn_pool),
    POOL_CASE("max_pool2d_grad", run_max_pool_grad, pool_3),
    POOL_CASE("max_pool2d_grad (adaptive)", run_max_pool_grad, adaptive_3),
    POOL_CASE("avg_pool2d", run_avg_pool, pool_2),
    POOL_CASE("avg_pool2d", run_avg_pool, pool_3),
    POOL_CASE("avg_pool2d (adaptive)", run_avg_pool, resnet_pool),
    POOL_CASE("avg_pool2d (adaptive)", run_avg_pool, adaptive_3),
    POOL_CASE("avg_pool2d_grad", run_avg_pool_grad, pool_2),
    POOL_CASE("avg_pool2d_grad", run_avg_pool_grad, pool_3),
    POOL_CASE("avg_pool2d_grad (adaptive)", run_avg_pool_grad, resnet_pool),
    POOL_CASE("avg_pool2d_grad (adaptive)", run_avg_pool_grad, adaptive_3),

    GROUP("Indices", "An index has 8 bytes. `take_rows` takes each row of a table once, its gradient has a "
                     "table of 10 rows; `gather` takes\nall of 10 numbers."),
    BOTH("take_rows", run_take_rows, 1024, 512, 1, 2, 2, 1),
    BOTH("take_rows_grad", run_take_rows_grad, 1024, 512, 1, 1, 2, 1),
    CASE("gather", run_gather, 65536, 10, 1),
    CASE("gather_grad", run_gather_grad, 65536, 10, 1),

    GROUP("Random numbers and copies", "The last three are no entries of the table, but functions of the "
                                       "device beside it; the transpose is of a matrix."),
    BOTH("dropout", run_dropout, 256, 512, 1, 2, 2, 1),
    BOTH("uniform", run_uniform, 64, 16, 1024, 1, 2, 1),
    BOTH("normal", run_normal, 64, 16, 1024, 1, 2, 1),
    CASE("fill", run_fill, 64, 16, 1024),
    CASE("copy_strided (transpose)", run_transpose, 1024, 1024, 1),
    CASE("cast (f64 to f32)", run_cast, 512, 1000, 1),
    CASE("round16 (f32 to bf16)", run_round16, 1024, 1000, 1),

    GROUP("Optimiser", "An element is a parameter; of `judge`, which looks at the sums of squares, a tensor "
                       "that has one sum."),
    BOTH("adam (decoupled)", run_adamw, 670, 1000, 1, 7, 2, 3),
    BOTH("sgd (momentum)", run_sgd, 670, 1000, 1, 5, 2, 2),
    CASE("sgd", run_sgd_plain, 670, 1000, 1),
    CASE("ema", run_ema, 670, 1000, 1),
    CASE("collect (first micro-batch)", run_collect, 670, 1000, 1),
    CASE("collect (later micro-batch)", run_collect_add, 670, 1000, 1),
    BOTH("sum_squares", run_sum_squares, 670, 1000, 1, 1, 2, 1),
    CASE("squares", run_squares, 670, 1000, 1),
    CASE("judge", run_judge, 200, 1, 1),
};

#undef GROUP
#undef MAP
#undef CASE
#undef CONV_CASE
#undef POOL_CASE
#undef BOTH

#endif
