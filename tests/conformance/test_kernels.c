/* One suite for every entry of the kernel table: each is run on every device (instruction set, threads) and
 * on the f64 table; devices must agree to the bit, and with f64 within the row's tolerance. An entry without
 * a row fails. A device that joins the table joins the suite by cpu_devices.h. */
#include "cpu/against_f64.h"
#include "cpu/threads.h"

#include <stddef.h>

enum { ROWS = 9, COLS = 33, CELLS = ROWS * COLS };

typedef struct row {
    const char *entry;
    size_t offset; /* in rk_kernels */
    call_fn *call;
    double p; /* of a map */
    int arrays;
    array a[MOST_ARRAYS];
} row;

/* Segments that do not divide the rows evenly. */
static const rk_order ORDER = { .segments = 4, .unit = 1, .acc = RK_ACC_ADD };

/* A number that is no array of the table's type (a double, an index), as an output that is compared. */
static void put(const rk_kernels *k, void *p, int64_t i, double v)
{
    if (k->dtype == RK_F64)
        ((double *)p)[i] = v;
    else
        ((float *)p)[i] = (float)v;
}

enum { MOST_INDICES = 20 * COLS };
static int64_t targets[MOST_INDICES];

static const int64_t *indices(int64_t limit)
{
    for (int64_t i = 0; i < MOST_INDICES; i++)
        targets[i] = i * 7 % limit;
    return targets;
}

/* ---- calls ---- */

static rk_status call_map1(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const row *r = arg;
    rk_map1 *f = *(rk_map1 *const *)(const void *)((const char *)k + r->offset);
    return f(dev, CELLS, p[0], r->p, p[1]);
}

static rk_status call_map2(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const row *r = arg;
    rk_map2 *f = *(rk_map2 *const *)(const void *)((const char *)k + r->offset);
    return f(dev, CELLS, p[0], p[1], r->p, p[2]);
}

#define CALL(name) \
    static rk_status call_##name(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)

static const rk_conv2d_args CONV = { .n = 5,
                                     .c = 4,
                                     .h = 7,
                                     .w = 6,
                                     .oc = 6,
                                     .kh = 3,
                                     .kw = 2,
                                     .oh = 4,
                                     .ow = 7,
                                     .stride_h = 2,
                                     .stride_w = 1,
                                     .pad_h = 1,
                                     .pad_w = 1,
                                     .dil_h = 1,
                                     .dil_w = 1,
                                     .groups = 2 };
enum { CONV_X = 5 * 4 * 7 * 6, CONV_W = 6 * 2 * 3 * 2, CONV_Y = 5 * 6 * 4 * 7 };

CALL(gemm)
{
    (void)arg;
    rk_gemm g = { .m = ROWS,
                  .n = 7,
                  .k = COLS,
                  .a = p[0],
                  .a_row = COLS,
                  .a_col = 1,
                  .b = p[1],
                  .b_row = 7,
                  .b_col = 1,
                  .c = p[3],
                  .ldc = 7,
                  .order = { .segments = 4, .unit = 11 },
                  .bias = p[2],
                  .act = RK_ACT_RELU };
    return k->gemm(dev, &g);
}

CALL(conv2d)
{
    (void)arg;
    return k->conv2d(dev, &CONV, p[0], p[1], p[2], RK_ACT_RELU, p[3]);
}

CALL(conv2d_dx)
{
    (void)arg;
    return k->conv2d_dx(dev, &CONV, p[0], p[1], p[2]);
}

CALL(conv2d_dw)
{
    (void)arg;
    rk_order order = ORDER;
    order.unit = CONV.oh * CONV.ow;
    return k->conv2d_dw(dev, &CONV, order, p[0], p[1], p[2]);
}

CALL(sum_channels)
{
    (void)arg;
    return k->sum_channels(dev, ROWS, 3, 11, ORDER, p[0], p[1]);
}

CALL(reduce_sum)
{
    (void)arg;
    return k->reduce_sum(dev, 1, ROWS, COLS, ORDER, p[0], p[1]);
}

static rk_status with_index(rk_status st, const rk_kernels *k, const int64_t *index, void *out)
{
    for (int64_t i = 0; i < ROWS; i++)
        put(k, out, i, (double)index[i]);
    return st;
}

CALL(reduce_max)
{
    (void)arg;
    int64_t index[ROWS] = { 0 };
    return with_index(k->reduce_max(dev, ROWS, COLS, 1, p[0], p[1], index), k, index, p[2]);
}

CALL(reduce_min)
{
    (void)arg;
    int64_t index[ROWS] = { 0 };
    return with_index(k->reduce_min(dev, ROWS, COLS, 1, p[0], p[1], index), k, index, p[2]);
}

CALL(sum_squares)
{
    (void)arg;
    double sum = 0;
    bool bad = true;
    rk_status st = k->sum_squares(dev, CELLS, p[0], &sum, &bad);
    put(k, p[1], 0, sum);
    put(k, p[1], 1, bad);
    return st;
}

CALL(chunk_squares)
{
    (void)arg;
    double sum = 0;
    rk_status st = k->chunk_squares(dev, CELLS, p[0], &sum);
    put(k, p[1], 0, sum);
    return st;
}

CALL(row_squares)
{
    (void)arg;
    double sums[2 * ROWS];
    rk_status st = k->row_squares(dev, ROWS, COLS - 5, COLS, p[0], 2, sums);
    for (int r = 0; r < ROWS; r++)
        put(k, p[1], r, sums[2 * r]);
    return st;
}

#define CALL_ROWS(name, ...)                          \
    CALL(name)                                        \
    {                                                 \
        (void)arg;                                    \
        return k->name(dev, ROWS, COLS, __VA_ARGS__); \
    }

CALL_ROWS(softmax, p[0], p[1])
CALL_ROWS(softmax_grad, p[0], p[1], p[2])
CALL_ROWS(log_softmax, p[0], p[1])
CALL_ROWS(log_softmax_grad, p[0], p[1], p[2])
CALL_ROWS(cross_entropy, p[0], indices(COLS), 0.1, true, 7, p[1], p[2])
CALL_ROWS(row_max, p[0], p[1])
CALL_ROWS(cross_entropy_part, 4, COLS / 2, p[0], indices(2 * COLS), p[1], p[2], p[3], p[4])
CALL_ROWS(cross_entropy_grad, 3, 2 * COLS, p[0], indices(COLS), p[1], 0.1, true, 7, 0.25, p[2])

CALL(cross_entropy_join)
{
    (void)arg;
    return k->cross_entropy_join(dev, ROWS, COLS, indices(COLS), 0.1, true, 7, p[0], p[1], p[2], p[3], p[4],
                                 p[5]);
}
CALL_ROWS(layer_norm, p[0], p[1], p[2], 1e-3, p[3], p[4], p[5])
CALL_ROWS(layer_norm_dx, p[0], p[1], p[2], p[3], p[4], p[5])
CALL_ROWS(layer_norm_dparam, ORDER, p[0], p[1], p[2], p[3], p[4], p[5])
CALL_ROWS(rms_norm, p[0], p[1], 1e-3, p[2], p[3])
CALL_ROWS(rms_norm_dx, p[0], p[1], p[2], p[3], p[4])

CALL(batch_norm_stats)
{
    (void)arg;
    rk_order order = ORDER;
    order.acc = RK_ACC_SET;
    return k->batch_norm_stats(dev, ROWS, 3, 11, order, p[0], p[1], p[2]);
}

CALL(sum_channel_squares)
{
    (void)arg;
    rk_order order = ORDER;
    order.acc = RK_ACC_SET;
    return k->sum_channel_squares(dev, ROWS, 3, 11, order, p[0], p[1], p[2]);
}

CALL(batch_norm)
{
    (void)arg;
    return k->batch_norm(dev, ROWS, 3, 11, p[0], p[1], p[2], p[3], p[4], 1e-3, p[5], p[6]);
}

CALL(batch_norm_dparam)
{
    (void)arg;
    rk_order order = ORDER;
    order.acc = RK_ACC_SET;
    return k->batch_norm_dparam(dev, ROWS, 3, 11, order, p[0], p[1], p[2], p[3], p[4], p[5]);
}

CALL(batch_norm_dx)
{
    (void)arg;
    return k->batch_norm_dx(dev, ROWS, 3, 11, ROWS * 11, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7]);
}

static const rk_pool2d POOL = { .n = 3,
                                .c = 2,
                                .h = 7,
                                .w = 5,
                                .kh = 3,
                                .kw = 2,
                                .oh = 4,
                                .ow = 6,
                                .stride_h = 2,
                                .stride_w = 1,
                                .pad_h = 1,
                                .pad_w = 1 };
enum { POOL_X = 3 * 2 * 7 * 5, POOL_Y = 3 * 2 * 4 * 6 };

CALL(max_pool2d)
{
    (void)arg;
    int32_t at[POOL_Y] = { 0 };
    rk_status st = k->max_pool2d(dev, &POOL, p[0], p[1], at);
    for (int i = 0; i < POOL_Y; i++)
        put(k, p[2], i, at[i]);
    return st;
}

CALL(max_pool2d_grad)
{
    (void)arg;
    int32_t at[POOL_Y];
    for (int i = 0; i < POOL_Y; i++) /* overlapping windows share some of their maxima */
        at[i] = (int32_t)(i * 11 % (POOL.h * POOL.w));
    return k->max_pool2d_grad(dev, &POOL, at, p[0], p[1]);
}

CALL(avg_pool2d)
{
    (void)arg;
    return k->avg_pool2d(dev, &POOL, p[0], p[1]);
}

CALL(avg_pool2d_grad)
{
    (void)arg;
    return k->avg_pool2d_grad(dev, &POOL, p[0], p[1]);
}

CALL(take_rows)
{
    (void)arg;
    return k->take_rows(dev, 20, COLS, p[0], indices(ROWS), p[1]);
}

CALL(take_rows_grad)
{
    (void)arg;
    return k->take_rows_grad(dev, ROWS, 20, COLS, ORDER, p[0], indices(ROWS), p[1]);
}

CALL(gather)
{
    (void)arg;
    return k->gather(dev, 3, 3, 5, COLS, p[0], indices(3), p[1]);
}

CALL(gather_grad)
{
    (void)arg;
    return k->gather_grad(dev, 3, 3, 2, COLS, p[0], indices(3), p[1]);
}

CALL(fill)
{
    (void)arg;
    return k->fill(dev, CELLS, 0.75, p[0]);
}

static const rk_rng RNG = { .key = { 1, 2 }, .ctr = { 3, 4, 5 } };

CALL(dropout)
{
    (void)arg;
    return k->dropout(dev, ROWS, COLS, 17, 0.25, RNG, p[0], p[1]);
}

CALL(uniform)
{
    (void)arg;
    return k->uniform(dev, CELLS, RNG, p[0]);
}

CALL(normal)
{
    (void)arg;
    return k->normal(dev, CELLS, RNG, p[0]);
}

static const rk_optim_args OPTIM = { .n = CELLS,
                                     .lr = 0.01,
                                     .weight_decay = 0.1,
                                     .grad_scale = 0.5,
                                     .beta1 = 0.9,
                                     .beta2 = 0.99,
                                     .eps = 1e-6,
                                     .bias1 = 0.271,
                                     .bias2 = 0.0297,
                                     .momentum = 0.9,
                                     .nesterov = true,
                                     .decoupled = true };

CALL(adam)
{
    (void)arg;
    return k->adam(dev, &OPTIM, p[0], p[1], p[2], p[3]);
}

CALL(sgd)
{
    (void)arg;
    return k->sgd(dev, &OPTIM, p[0], p[1], p[2]);
}

CALL(ema)
{
    (void)arg;
    return k->ema(dev, CELLS, 0.9, p[0], p[1]);
}

/* ---- the rows ---- */

/* clang-format off */
#define IN(n, lo, hi)     { n, lo, hi, false, 0, 0 }
#define OUT(n, rtol)      { n, -1, 1, true, rtol, rtol }
#define UPDATED(n, lo, hi, rtol) { n, lo, hi, true, rtol, rtol }
#define ROW(e, n, ...)    { #e, offsetof(rk_kernels, e), call_##e, 0, n, { __VA_ARGS__ } }
#define MAP1(e, lo, hi, p) { #e, offsetof(rk_kernels, e), call_map1, p, 2, { IN(CELLS, lo, hi), OUT(CELLS, 1e-6) } }
#define MAP2(e, lo, hi, p) \
    { #e, offsetof(rk_kernels, e), call_map2, p, 3, { IN(CELLS, lo, hi), IN(CELLS, lo, hi), OUT(CELLS, 2e-6) } }

static const row rows[] = {
    ROW(gemm, 4, IN(CELLS, -1, 1), IN(COLS * 7, -1, 1), IN(7, -1, 1), OUT(ROWS * 7, 1e-5)),
    ROW(conv2d, 4, IN(CONV_X, -1, 1), IN(CONV_W, -1, 1), IN(6, -1, 1), OUT(CONV_Y, 1e-5)),
    ROW(conv2d_dx, 3, IN(CONV_Y, -1, 1), IN(CONV_W, -1, 1), OUT(CONV_X, 1e-5)),
    ROW(conv2d_dw, 3, IN(CONV_X, -1, 1), IN(CONV_Y, -1, 1), OUT(CONV_W, 1e-5)),
    ROW(sum_channels, 2, IN(CELLS, -1, 1), OUT(3, 1e-5)),
    MAP2(add, -2, 2, 0), MAP2(sub, -2, 2, 0), MAP2(mul, -2, 2, 0), MAP2(div, 0.5, 2, 0), MAP2(add_scaled, -2, 2, 0.25),
    MAP1(add_scalar, -2, 2, 0.5), MAP1(mul_scalar, -2, 2, 0.5), MAP1(rsub_scalar, -2, 2, 0.5),
    MAP1(rdiv_scalar, 0.5, 2, 0.5), MAP1(pow_scalar, 0.5, 2, 2.5),
    MAP1(neg, -2, 2, 0), MAP1(exp, -2, 2, 0), MAP1(log, 0.5, 2, 0), MAP1(sqrt, 0.5, 2, 0), MAP1(rsqrt, 0.5, 2, 0),
    MAP1(abs, -2, 2, 0), MAP1(relu, -2, 2, 0), MAP1(leaky_relu, -2, 2, 0.25), MAP1(gelu, -4, 4, 0),
    MAP1(gelu_tanh, -4, 4, 0), MAP1(silu, -4, 4, 0), MAP1(sigmoid, -4, 4, 0), MAP1(tanh, -4, 4, 0),
    MAP1(softplus, -4, 4, 0),
    MAP2(pow_scalar_grad, 0.5, 2, 2.5), MAP2(abs_grad, -2, 2, 0), MAP2(relu_grad, -2, 2, 0),
    MAP2(leaky_relu_grad, -2, 2, 0.25), MAP2(gelu_grad, -4, 4, 0), MAP2(gelu_tanh_grad, -4, 4, 0),
    MAP2(silu_grad, -4, 4, 0), MAP2(sigmoid_grad, 0, 1, 0), MAP2(tanh_grad, -1, 1, 0), MAP2(softplus_grad, -4, 4, 0),
    MAP2(sqrt_grad, 0.5, 2, 0), MAP2(rsqrt_grad, 0.5, 2, 0), MAP2(rdiv_scalar_grad, 0.5, 2, 0.5),
    MAP2(l1, -2, 2, 0), MAP2(l1_grad, -2, 2, 0.25), MAP2(bce, 0, 1, 0), MAP2(bce_grad, -1, 1, 0.25),
    ROW(reduce_sum, 2, IN(CELLS, -1, 1), OUT(COLS, 1e-5)),
    ROW(reduce_max, 3, IN(CELLS, -1, 1), OUT(ROWS, 0), OUT(ROWS, 0)),
    ROW(reduce_min, 3, IN(CELLS, -1, 1), OUT(ROWS, 0), OUT(ROWS, 0)),
    ROW(sum_squares, 2, IN(CELLS, -1, 1), OUT(2, 1e-6)),
    ROW(chunk_squares, 2, IN(CELLS, -1, 1), OUT(1, 1e-6)),
    ROW(row_squares, 2, IN(CELLS, -1, 1), OUT(ROWS, 1e-6)),
    ROW(softmax, 2, IN(CELLS, -4, 4), OUT(CELLS, 1e-6)),
    ROW(softmax_grad, 3, IN(CELLS, 0, 0.1), IN(CELLS, -1, 1), OUT(CELLS, 1e-5)),
    ROW(log_softmax, 2, IN(CELLS, -4, 4), OUT(CELLS, 2e-6)),
    ROW(log_softmax_grad, 3, IN(CELLS, -4, -1), IN(CELLS, -1, 1), OUT(CELLS, 1e-5)),
    ROW(cross_entropy, 3, IN(CELLS, -4, 4), OUT(ROWS, 2e-6), OUT(ROWS, 2e-6)),
    ROW(row_max, 2, IN(CELLS, -4, 4), OUT(ROWS, 0)),
    ROW(cross_entropy_part, 5, IN(CELLS, -4, 4), IN(ROWS, 3, 5), OUT(ROWS, 2e-6), OUT(ROWS, 2e-6), OUT(ROWS, 0)),
    ROW(cross_entropy_join, 6, IN(ROWS, 3, 5), IN(ROWS, 1, 9), IN(ROWS, -9, 9), IN(ROWS, -4, 4), OUT(ROWS, 2e-6),
        OUT(ROWS, 2e-6)),
    ROW(cross_entropy_grad, 3, IN(CELLS, -4, 4), IN(ROWS, 4, 6), OUT(CELLS, 2e-6)),
    ROW(layer_norm, 6, IN(CELLS, -1, 1), IN(COLS, -1, 1), IN(COLS, -1, 1), OUT(CELLS, 1e-5), OUT(ROWS, 1e-6),
        OUT(ROWS, 1e-6)),
    ROW(layer_norm_dx, 6, IN(CELLS, -1, 1), IN(COLS, -1, 1), IN(ROWS, -0.1, 0.1), IN(ROWS, 1, 2), IN(CELLS, -1, 1),
        OUT(CELLS, 1e-5)),
    ROW(layer_norm_dparam, 6, IN(CELLS, -1, 1), IN(ROWS, -0.1, 0.1), IN(ROWS, 1, 2), IN(CELLS, -1, 1), OUT(COLS, 1e-5),
        OUT(COLS, 1e-5)),
    ROW(rms_norm, 4, IN(CELLS, -1, 1), IN(COLS, -1, 1), OUT(CELLS, 1e-5), OUT(ROWS, 1e-6)),
    ROW(rms_norm_dx, 5, IN(CELLS, -1, 1), IN(COLS, -1, 1), IN(ROWS, 1, 2), IN(CELLS, -1, 1), OUT(CELLS, 1e-5)),
    ROW(batch_norm_stats, 3, IN(CELLS, -1, 1), OUT(3, 1e-6), OUT(3, 1e-6)),
    ROW(sum_channel_squares, 3, IN(CELLS, -1, 1), IN(3, -0.1, 0.1), OUT(3, 1e-5)),
    ROW(batch_norm, 7, IN(CELLS, -1, 1), IN(3, -0.1, 0.1), IN(3, 0.5, 2), IN(3, -1, 1), IN(3, -1, 1), OUT(CELLS, 1e-5),
        OUT(3, 1e-6)),
    ROW(batch_norm_dparam, 6, IN(CELLS, -1, 1), IN(3, -0.1, 0.1), IN(3, 1, 2), IN(CELLS, -1, 1), OUT(3, 1e-5),
        OUT(3, 1e-5)),
    ROW(batch_norm_dx, 8, IN(CELLS, -1, 1), IN(3, -0.1, 0.1), IN(3, 1, 2), IN(3, -1, 1), IN(3, -1, 1), IN(3, -1, 1),
        IN(CELLS, -1, 1), OUT(CELLS, 1e-5)),
    ROW(max_pool2d, 3, IN(POOL_X, -1, 1), OUT(POOL_Y, 0), OUT(POOL_Y, 0)),
    ROW(max_pool2d_grad, 2, IN(POOL_Y, -1, 1), OUT(POOL_X, 1e-6)),
    ROW(avg_pool2d, 2, IN(POOL_X, -1, 1), OUT(POOL_Y, 1e-6)),
    ROW(avg_pool2d_grad, 2, IN(POOL_Y, -1, 1), OUT(POOL_X, 1e-6)),
    ROW(take_rows, 2, IN(CELLS, -1, 1), OUT(20 * COLS, 0)),
    ROW(take_rows_grad, 2, IN(20 * COLS, -1, 1), OUT(CELLS, 1e-6)),
    ROW(gather, 2, IN(CELLS, -1, 1), OUT(15 * COLS, 0)),
    ROW(gather_grad, 2, IN(6 * COLS, -1, 1), OUT(CELLS, 1e-6)),
    ROW(fill, 1, OUT(CELLS, 0)),
    ROW(dropout, 2, IN(CELLS, -1, 1), OUT(CELLS, 1e-6)),
    ROW(uniform, 1, OUT(CELLS, 0)),
    ROW(normal, 1, OUT(CELLS, 1e-5)),
    ROW(adam, 4, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1), UPDATED(CELLS, -1, 1, 1e-6),
        UPDATED(CELLS, 0.1, 1, 1e-6)),
    ROW(sgd, 3, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1), UPDATED(CELLS, -1, 1, 1e-6)),
    ROW(ema, 2, IN(CELLS, -1, 1), UPDATED(CELLS, -1, 1, 1e-6)),
};
/* clang-format on */
enum { ENTRIES = sizeof rows / sizeof *rows };

TEST(every_entry_has_a_row_and_every_table_has_every_entry)
{
    size_t first = offsetof(rk_kernels, gemm);
    CHECK_INT((sizeof(rk_kernels) - first) % sizeof(void (*)(void)), 0);
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        const rk_kernels *tables[] = { it.k, rk_device_cpu.kernels(it.dev, RK_F64) };
        for (size_t at = first; at < sizeof(rk_kernels); at += sizeof(void (*)(void))) {
            const char *name = NULL;
            for (int i = 0; i < ENTRIES && !name; i++)
                name = rows[i].offset == at ? rows[i].entry : NULL;
            if (!name)
                TEST_FAIL("the entry at byte %zu of rk_kernels has no row", at);
            for (int t = 0; t < 2; t++) {
                void (*f)(void);
                memcpy(&f, (const char *)tables[t] + at, sizeof f);
                if (!f)
                    TEST_FAIL("%s: the table %s has no %s", it.isa, tables[t]->name, name);
            }
        }
    }
}

TEST(every_entry_agrees_with_f64_and_between_devices)
{
    int wrong = 0;
    for (int i = 0; i < ENTRIES; i++)
        if (!agrees_with_f64(rows[i].call, &rows[i], rows[i].a, rows[i].arrays, NULL)) {
            fprintf(stderr, "%s failed\n", rows[i].entry);
            wrong++;
        }
    CHECK_INT(wrong, 0);
}

/* An empty batch asks a worker that has worked on nothing yet for no bytes: that is not out of memory. */
TEST(an_empty_workspace_is_not_out_of_memory)
{
    rk_dev *dev = cpu_open(NULL, 2);
    CHECK(dev);
    bool there = rk__workspace(dev, 1, RK__WS_E, 0) != NULL;
    rk_device_cpu.close(dev);
    CHECK(there);
}

TEST_MAIN
