/* One suite for every entry of the kernel table: each is run on every device (instruction sets, threads,
 * CUDA) and on the f64 table; devices must agree to the bit, and with f64 within the row's tolerance. An
 * entry without a row fails, and a device without an entry. A device that joins the table joins the suite by
 * devices.h. */
#include "devices.h"

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

enum { MOST_INDICES = 20 * COLS };

/* What indices are: rows of COLS, rows of ROWS, .. */
static int64_t index_cols(int64_t i)
{
    return i * 7 % COLS;
}

static int64_t index_two_cols(int64_t i)
{
    return i * 7 % (2 * COLS);
}

static int64_t index_rows(int64_t i)
{
    return i * 7 % ROWS;
}

static int64_t index_three(int64_t i) /* 0, 1, 2 */
{
    return i * 7 % 3;
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

CALL(reduce_max)
{
    (void)arg;
    return k->reduce_max(dev, ROWS, COLS, 1, p[0], p[1], p[2]);
}

CALL(reduce_min)
{
    (void)arg;
    return k->reduce_min(dev, ROWS, COLS, 1, p[0], p[1], p[2]);
}

CALL(sum_squares)
{
    (void)arg;
    double *sum = p[1];
    bool bad = true;
    rk_status st = k->sum_squares(dev, CELLS, p[0], sum, &bad);
    sum[1] = bad;
    return st;
}

/* Rows that are cut short, and rows of nothing. */
CALL(squares)
{
    (void)arg;
    const rk_square_rows piece[] = {
        { .x = p[0], .n = CELLS - 8, .rows = ROWS, .cols = COLS - 5, .ld = COLS, .first = 1, .step = 2 },
        { .n = 9, .rows = 3, .cols = 3, .ld = 3, .first = 0, .step = 2 },
    };
    return k->squares(dev, 2, piece, p[1]);
}

CALL(mul_by)
{
    (void)arg;
    return k->mul_by(dev, CELLS, p[0], p[1], p[2]);
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
CALL_ROWS(cross_entropy, p[0], p[3], 0.1, true, 7, p[1], p[2])
CALL_ROWS(row_max, p[0], p[1])
CALL_ROWS(cross_entropy_part, 4, COLS / 2, p[0], p[5], p[1], p[2], p[3], p[4])
CALL_ROWS(cross_entropy_grad, 3, 2 * COLS, p[0], p[3], p[1], 0.1, true, 7, 0.25, p[2])

CALL(cross_entropy_join)
{
    (void)arg;
    return k->cross_entropy_join(dev, ROWS, COLS, p[6], 0.1, true, 7, p[0], p[1], p[2], p[3], p[4], p[5]);
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
    return k->max_pool2d(dev, &POOL, p[0], p[1], p[2]);
}

/* A place in output i's window, another one each time; overlapping windows share some; -1 now and then. */
static int64_t pool_index(int64_t i)
{
    int64_t oh = i / POOL.ow % POOL.oh, ow = i % POOL.ow;
    int64_t h = oh * POOL.stride_h - POOL.pad_h + i * 5 % POOL.kh,
            w = ow * POOL.stride_w - POOL.pad_w + i * 3 % POOL.kw;
    return h < 0 || h >= POOL.h || w < 0 || w >= POOL.w ? -1 : h * POOL.w + w;
}

CALL(max_pool2d_grad)
{
    (void)arg;
    return k->max_pool2d_grad(dev, &POOL, p[2], p[0], p[1]);
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
    return k->take_rows(dev, 20, COLS, p[0], p[2], p[1]);
}

CALL(take_rows_grad)
{
    (void)arg;
    return k->take_rows_grad(dev, ROWS, 20, COLS, ORDER, p[0], p[2], p[1]);
}

CALL(gather)
{
    (void)arg;
    return k->gather(dev, 3, 3, 5, COLS, p[0], p[2], p[1]);
}

CALL(gather_grad)
{
    (void)arg;
    return k->gather_grad(dev, 3, 3, 2, COLS, p[0], p[2], p[1]);
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

static const rk_optim_args OPTIM = { .lr = 0.01,
                                     .grad_scale = 0.5,
                                     .beta1 = 0.9,
                                     .beta2 = 0.99,
                                     .eps = 1e-6,
                                     .bias1 = 0.271,
                                     .bias2 = 0.0297,
                                     .momentum = 0.9,
                                     .nesterov = true,
                                     .decoupled = true };

/* Half of each array is a piece, and half of what is left. */
static const rk_optim_piece *in_pieces(const rk_kernels *k, void *const *p, rk_optim_piece piece[2])
{
    const size_t cut = (CELLS / 2) * rk_dtype_size(k->dtype);
    piece[0] = (rk_optim_piece){ CELLS / 2, p[0], p[1], p[2], p[3], 0.1 };
    piece[1] = (rk_optim_piece){ CELLS / 4, (char *)p[0] + cut, (char *)p[1] + cut, NULL, NULL, 0 };
    piece[1].m = p[2] ? (char *)p[2] + cut : NULL;
    piece[1].v = p[3] ? (char *)p[3] + cut : NULL;
    return piece;
}

CALL(adam)
{
    (void)arg;
    rk_optim_piece piece[2];
    return k->adam(dev, &OPTIM, 2, in_pieces(k, p, piece));
}

CALL(sgd)
{
    (void)arg;
    rk_optim_piece piece[2];
    return k->sgd(dev, &OPTIM, 2, in_pieces(k, (void *const[]){ p[0], p[1], p[2], NULL }, piece));
}

CALL(ema)
{
    (void)arg;
    rk_optim_piece piece[2];
    return k->ema(dev, 0.9, NULL, 2, in_pieces(k, (void *const[]){ p[0], p[1], NULL, NULL }, piece));
}

CALL(collect)
{
    (void)arg;
    rk_optim_piece piece[2];
    return k->collect(dev, true, 2, in_pieces(k, (void *const[]){ p[0], p[1], NULL, NULL }, piece));
}

/* An update by what the device has decided: p are w, g, m, v, and room for a watch, sums, and their bounds.
 */
CALL(judge)
{
    (void)arg;
    rk_optim_piece piece[2];
    rk_square_rows square[2];
    rk_optim_args o = OPTIM;
    const rk_judge_args a = { .sums = p[5],
                              .bound = p[6],
                              .part = (double *)p[5] + 2,
                              .pieces = 2,
                              .loss = p[0],
                              .clip_norm = 2,
                              .loss_scale = 4,
                              .beta1 = OPTIM.beta1,
                              .beta2 = OPTIM.beta2,
                              .watch = p[4],
                              .slot = 7 };
    o.watch = p[4];
    in_pieces(k, p, piece);
    for (int i = 0; i < 2; i++)
        square[i] = (rk_square_rows){ .x = piece[i].g,
                                      .n = piece[i].n,
                                      .rows = 1,
                                      .cols = RK_CHUNK,
                                      .ld = RK_CHUNK,
                                      .first = i,
                                      .step = 1 };
    rk_status st = k->squares(dev, 2, square, p[5]);
    if (!st)
        st = k->judge(dev, &a);
    return st ? st : k->adam(dev, &o, 2, piece);
}

/* ---- the rows ---- */

/* clang-format off */
#define IN(n, lo, hi)     { n, lo, hi, false, 0, 0, OF_TABLE, NULL }
#define OUT(n, rtol)      { n, -1, 1, true, rtol, rtol, OF_TABLE, NULL }
#define UPDATED(n, lo, hi, rtol) { n, lo, hi, true, rtol, rtol, OF_TABLE, NULL }
#define INDEX(n, f)       { n, 0, 0, false, 0, 0, OF_I64, f }
#define INTS(type, n, f, out) { n, 0, 0, out, 0, 0, type, f }
#define HOST(n, rtol)     { n, -1, 1, true, rtol, rtol, OF_HOST, NULL }
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
    ROW(reduce_max, 3, IN(CELLS, -1, 1), OUT(ROWS, 0), INTS(OF_I64, ROWS, NULL, true)),
    ROW(reduce_min, 3, IN(CELLS, -1, 1), OUT(ROWS, 0), INTS(OF_I64, ROWS, NULL, true)),
    ROW(sum_squares, 2, IN(CELLS, -1, 1), HOST(2, 1e-6)),
    ROW(squares, 2, IN(CELLS, -1, 1), { 2 * ROWS, 0, 0, true, 1e-6, 0, OF_I64, NULL /* bits */ }),
    ROW(mul_by, 3, IN(CELLS, -2, 2), IN(1, 0.5, 2), OUT(CELLS, 1e-6)),
    ROW(softmax, 2, IN(CELLS, -4, 4), OUT(CELLS, 1e-6)),
    ROW(softmax_grad, 3, IN(CELLS, 0, 0.1), IN(CELLS, -1, 1), OUT(CELLS, 1e-5)),
    ROW(log_softmax, 2, IN(CELLS, -4, 4), OUT(CELLS, 2e-6)),
    ROW(log_softmax_grad, 3, IN(CELLS, -4, -1), IN(CELLS, -1, 1), OUT(CELLS, 1e-5)),
    ROW(cross_entropy, 4, IN(CELLS, -4, 4), OUT(ROWS, 2e-6), OUT(ROWS, 2e-6), INDEX(ROWS, index_cols)),
    ROW(row_max, 2, IN(CELLS, -4, 4), OUT(ROWS, 0)),
    ROW(cross_entropy_part, 6, IN(CELLS, -4, 4), IN(ROWS, 3, 5), OUT(ROWS, 2e-6), OUT(ROWS, 2e-6), OUT(ROWS, 0),
        INDEX(ROWS, index_two_cols)),
    ROW(cross_entropy_join, 7, IN(ROWS, 3, 5), IN(ROWS, 1, 9), IN(ROWS, -9, 9), IN(ROWS, -4, 4), OUT(ROWS, 2e-6),
        OUT(ROWS, 2e-6), INDEX(ROWS, index_cols)),
    ROW(cross_entropy_grad, 4, IN(CELLS, -4, 4), IN(ROWS, 4, 6), OUT(CELLS, 2e-6), INDEX(ROWS, index_cols)),
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
    ROW(max_pool2d, 3, IN(POOL_X, -1, 1), OUT(POOL_Y, 0), INTS(OF_I32, POOL_Y, NULL, true)),
    ROW(max_pool2d_grad, 3, IN(POOL_Y, -1, 1), OUT(POOL_X, 1e-6), INTS(OF_I32, POOL_Y, pool_index, false)),
    ROW(avg_pool2d, 2, IN(POOL_X, -1, 1), OUT(POOL_Y, 1e-6)),
    ROW(avg_pool2d_grad, 2, IN(POOL_Y, -1, 1), OUT(POOL_X, 1e-6)),
    ROW(take_rows, 3, IN(CELLS, -1, 1), OUT(20 * COLS, 0), INDEX(MOST_INDICES, index_rows)),
    ROW(take_rows_grad, 3, IN(20 * COLS, -1, 1), OUT(CELLS, 1e-6), INDEX(MOST_INDICES, index_rows)),
    ROW(gather, 3, IN(CELLS, -1, 1), OUT(15 * COLS, 0), INDEX(MOST_INDICES, index_three)),
    ROW(gather_grad, 3, IN(6 * COLS, -1, 1), OUT(CELLS, 1e-6), INDEX(MOST_INDICES, index_three)),
    ROW(fill, 1, OUT(CELLS, 0)),
    ROW(dropout, 2, IN(CELLS, -1, 1), OUT(CELLS, 1e-6)),
    ROW(uniform, 1, OUT(CELLS, 0)),
    ROW(normal, 1, OUT(CELLS, 1e-5)),
    ROW(adam, 4, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1), UPDATED(CELLS, -1, 1, 1e-6),
        UPDATED(CELLS, 0.1, 1, 1e-6)),
    ROW(sgd, 3, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1), UPDATED(CELLS, -1, 1, 1e-6)),
    ROW(collect, 2, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1)),
    ROW(ema, 2, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1)),
    ROW(judge, 7, UPDATED(CELLS, -1, 1, 1e-6), IN(CELLS, -1, 1), UPDATED(CELLS, -1, 1, 1e-6),
        UPDATED(CELLS, 0, 1, 1e-6), { sizeof(rk_watch) / 8, 0, 0, true, 1e-6, 0, OF_I64, NULL /* bits */ },
        { 4, 0, 0, true, 1e-6, 0, OF_I64, NULL /* bits */ }, INDEX(3, index_three)),
};
/* clang-format on */
enum { ENTRIES = sizeof rows / sizeof *rows };

static bool has(const rk_kernels *k, size_t offset)
{
    void (*f)(void);
    memcpy(&f, (const char *)k + offset, sizeof f);
    return f != NULL;
}

TEST(every_entry_has_a_row_and_every_table_has_every_entry)
{
    size_t first = offsetof(rk_kernels, gemm);
    int missing = 0;
    CHECK_INT((sizeof(rk_kernels) - first) % sizeof(void (*)(void)), 0);
    for (device_iter it = { 0 }; device_next(&it);)
        for (size_t at = first; at < sizeof(rk_kernels); at += sizeof(void (*)(void))) {
            const char *name = NULL;
            for (int i = 0; i < ENTRIES && !name; i++)
                name = rows[i].offset == at ? rows[i].entry : NULL;
            if (!name)
                TEST_FAIL("the entry at byte %zu of rk_kernels has no row", at);
            for (int t = 0; t < 2; t++)
                if (!has(it.device->kernels(it.dev, t ? RK_F64 : RK_F32), at)) {
                    fprintf(stderr, "%s: the %s table has no %s\n", it.name, t ? "f64" : "f32", name);
                    missing++;
                }
        }
    CHECK_INT(missing, 0);
}

TEST(every_entry_agrees_with_f64_and_between_devices)
{
    int wrong = 0;
    for (int i = 0; i < ENTRIES; i++)
        if (!agrees_everywhere(rows[i].call, &rows[i], rows[i].a, rows[i].arrays)) {
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
