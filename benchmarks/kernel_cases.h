/* Kernels at the sizes that training meets, as calls of the device table over arrays that hold MOST floats
 * each. */
#ifndef RK_BENCH_KERNEL_CASES_H
#define RK_BENCH_KERNEL_CASES_H

#include "core/kernels.h"

#include <stdlib.h>

enum { MOST = 1 << 20, ARRAYS = 6 };

typedef struct work {
    const rk_kernels *k;
    rk_dev *dev;
    float *p[ARRAYS]; /* MOST floats each */
    int64_t *index;
    int64_t n, c, s;
    double sum; /* of squares: what is no array */
} work;

typedef struct entry {
    const char *name;
    void (*run)(work *w);
    int64_t n, c, s; /* (n, c, s); n c s elements */
    double arrays;   /* read or written once, each of n c s floats */
    int out, outs;   /* p[out], ..: what it writes */
} entry;

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
RUN(add, add(w->dev, size(w), p[0], p[1], 0, p[2]))
RUN(relu, relu(w->dev, size(w), p[0], 0, p[2]))
RUN(relu_grad, relu_grad(w->dev, size(w), p[0], p[1], 0, p[2]))
RUN(exp, exp(w->dev, size(w), p[0], 0, p[2]))
RUN(tanh, tanh(w->dev, size(w), p[0], 0, p[2]))
RUN(sigmoid, sigmoid(w->dev, size(w), p[0], 0, p[2]))
RUN(gelu, gelu(w->dev, size(w), p[0], 0, p[2]))
RUN(gelu_grad, gelu_grad(w->dev, size(w), p[0], p[1], 0, p[2]))
RUN(bias_grad, reduce_sum(w->dev, 1, w->n, w->c, in_eight, p[0], p[2]))
RUN(row_sum, reduce_sum(w->dev, w->n, w->c, 1, ((rk_order){ 1, 1, RK_ACC_SET }), p[0], p[2]))
RUN(softmax, softmax(w->dev, w->n, w->c, p[0], p[2]))
RUN(cross_entropy, cross_entropy(w->dev, w->n, w->c, p[0], w->index, 0, false, 0, p[2], p[3]))
RUN(cross_entropy_grad,
    cross_entropy_grad(w->dev, w->n, w->c, 0, w->c, p[0], w->index, p[1], 0, false, 0, 0.1, p[2]))
RUN(layer_norm, layer_norm(w->dev, w->n, w->c, p[0], p[1], p[3], 1e-5, p[2], p[4], p[5]))
RUN(layer_norm_dx, layer_norm_dx(w->dev, w->n, w->c, p[0], p[1], p[3], p[4], p[5], p[2]))
RUN(layer_norm_dparam, layer_norm_dparam(w->dev, w->n, w->c, in_eight, p[0], p[1], p[4], p[5], p[2], p[3]))
RUN(sum_channels, sum_channels(w->dev, w->n, w->c, w->s, in_eight, p[0], p[2]))
RUN(bn_stats, batch_norm_stats(w->dev, w->n, w->c, w->s, in_eight, p[0], p[2], p[3]))
RUN(bn_forward, batch_norm(w->dev, w->n, w->c, w->s, p[0], p[1], p[4], p[5], p[4], 1e-5, p[2], p[3]))
RUN(bn_dparam, batch_norm_dparam(w->dev, w->n, w->c, w->s, in_eight, p[0], p[4], p[5], p[1], p[2], p[3]))
RUN(bn_dx,
    batch_norm_dx(w->dev, w->n, w->c, w->s, w->n * w->s, p[0], p[4], p[5], p[5], p[4], p[5], p[1], p[2]))
RUN(take_rows, take_rows(w->dev, w->n, w->c, p[0], w->index, p[2]))
RUN(take_rows_grad, take_rows_grad(w->dev, 10, w->n, w->c, in_eight, p[0], w->index, p[2]))
RUN(dropout, dropout(w->dev, w->n, w->c, 0, 0.5, ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[0], p[2]))
RUN(uniform, uniform(w->dev, size(w), ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[2]))
RUN(normal, normal(w->dev, size(w), ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[2]))

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

static void run_sum_squares(work *w)
{
    bool bad;
    w->k->sum_squares(w->dev, size(w), w->p[0], &w->sum, &bad);
}

static const entry entries[] = {
    { "add", run_add, 64, 16, 1024, 3, 2, 1 },
    { "relu", run_relu, 64, 16, 1024, 2, 2, 1 },
    { "relu_grad", run_relu_grad, 256, 512, 1, 3, 2, 1 },
    { "relu_grad", run_relu_grad, 64, 16, 1024, 3, 2, 1 },
    { "exp", run_exp, 64, 16, 1024, 2, 2, 1 },
    { "tanh", run_tanh, 64, 16, 1024, 2, 2, 1 },
    { "sigmoid", run_sigmoid, 64, 16, 1024, 2, 2, 1 },
    { "gelu", run_gelu, 64, 16, 1024, 2, 2, 1 },
    { "gelu_grad", run_gelu_grad, 64, 16, 1024, 3, 2, 1 },
    { "bias gradient", run_bias_grad, 256, 512, 1, 1, 2, 1 },
    { "bias gradient", run_bias_grad, 64, 10, 1, 1, 2, 1 },
    { "row sums", run_row_sum, 1024, 1024, 1, 1, 2, 1 },
    { "softmax", run_softmax, 1024, 1000, 1, 2, 2, 1 },
    { "cross entropy", run_cross_entropy, 64, 10, 1, 1, 2, 2 },
    { "cross entropy", run_cross_entropy, 512, 1000, 1, 1, 2, 2 },
    { "cross entropy gradient", run_cross_entropy_grad, 64, 10, 1, 2, 2, 1 },
    { "cross entropy gradient", run_cross_entropy_grad, 512, 1000, 1, 2, 2, 1 },
    { "layer norm", run_layer_norm, 1024, 768, 1, 2, 2, 1 },
    { "layer norm dx", run_layer_norm_dx, 1024, 768, 1, 3, 2, 1 },
    { "layer norm dparam", run_layer_norm_dparam, 1024, 768, 1, 2, 2, 2 },
    { "sum of channels", run_sum_channels, 64, 64, 196, 1, 2, 1 },
    { "sum of channels", run_sum_channels, 64, 16, 1024, 1, 2, 1 },
    { "sum of channels", run_sum_channels, 64, 64, 64, 1, 2, 1 },
    { "batch norm statistics", run_bn_stats, 64, 16, 1024, 1, 2, 2 },
    { "batch norm statistics", run_bn_stats, 64, 64, 64, 1, 2, 2 },
    { "batch norm statistics", run_bn_stats, 32, 512, 49, 1, 2, 2 },
    { "batch norm forward", run_bn_forward, 64, 16, 1024, 2, 2, 2 },
    { "batch norm forward", run_bn_forward, 64, 64, 64, 2, 2, 2 },
    { "batch norm forward", run_bn_forward, 32, 512, 49, 2, 2, 2 },
    { "batch norm dparam", run_bn_dparam, 64, 16, 1024, 2, 2, 2 },
    { "batch norm dparam", run_bn_dparam, 64, 64, 64, 2, 2, 2 },
    { "batch norm dparam", run_bn_dparam, 32, 512, 49, 2, 2, 2 },
    { "batch norm dx", run_bn_dx, 64, 16, 1024, 3, 2, 1 },
    { "batch norm dx", run_bn_dx, 64, 64, 64, 3, 2, 1 },
    { "batch norm dx", run_bn_dx, 32, 512, 49, 3, 2, 1 },
    { "batch norm dx", run_bn_dx, 1024, 512, 1, 3, 2, 1 },
    { "take rows", run_take_rows, 1024, 512, 1, 2, 2, 1 },
    { "take rows gradient", run_take_rows_grad, 1024, 512, 1, 1, 2, 1 },
    { "dropout", run_dropout, 256, 512, 1, 2, 2, 1 },
    { "uniform", run_uniform, 64, 16, 1024, 1, 2, 1 },
    { "normal", run_normal, 64, 16, 1024, 1, 2, 1 },
    { "adamw", run_adamw, 670, 1000, 1, 7, 2, 3 },
    { "sgd, momentum", run_sgd, 670, 1000, 1, 5, 2, 2 },
    { "sum of squares", run_sum_squares, 670, 1000, 1, 1, 2, 1 },
};

#endif
