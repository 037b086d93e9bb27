/* Products, convolutions, batch norm, pooling, indexing: the CUDA device has the CPU's bits in f32, over many
 * shapes, drawn at random: tiles of every size, empty sums, edges, strides, groups, trees that need device
 * memory. */
#include "host_run.h"

#include "conformance/devices.h"

/* Random shapes of a kind: a sanitizer, which takes ten times as long, sees the first quarter of them. */
#ifdef __SANITIZE_ADDRESS__
#define SHAPES(n) ((n) / 4)
#else
#define SHAPES(n) (n)
#endif

static uint64_t state;

static int64_t draw(int64_t lo, int64_t hi)
{
    return lo + (int64_t)(ref_next(&state) % (uint64_t)(hi - lo + 1));
}

static bool coin(void)
{
    return draw(0, 1);
}

#define CALL(name) \
    static rk_status call_##name(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)

static array in(int64_t n)
{
    return (array){ .n = n, .lo = -1, .hi = 1 };
}

static array out(int64_t n)
{
    return (array){ .n = n, .lo = -1, .hi = 1, .out = true, .rtol = 1e-4, .atol = 1e-4 };
}

static rk_order draw_order(int64_t unit)
{
    rk_order o = { 1 << draw(0, 5), unit, (rk_acc)draw(0, 2) };
    if (o.acc == RK_ACC_CHAIN)
        o.segments = 1;
    return o;
}

/* ---- products ---- */

typedef struct product {
    rk_gemm g;
    bool bias, pre, mask;
    int64_t a, b, c; /* elements */
} product;

CALL(gemm)
{
    const product *q = arg;
    rk_gemm g = q->g;
    g.a = p[0];
    g.b = p[1];
    g.c = p[2];
    g.bias = q->bias ? p[3] : NULL;
    g.pre = q->pre ? p[4] : NULL;
    g.relu_mask = q->mask ? p[5] : NULL;
    return k->gemm(dev, &g);
}

static int64_t draw_extent(void)
{
    switch (draw(0, 5)) {
    case 0:
        return draw(0, 3);
    case 1:
        return 16 * draw(1, 4);
    case 2:
        return draw(60, 140);
    default:
        return draw(1, 50);
    }
}

static product draw_product(int64_t m, int64_t n, int64_t units, int64_t unit)
{
    const int64_t k = units * unit;
    product q = { .g = { .m = m, .n = n, .k = k, .order = draw_order(unit), .ldc = n + draw(0, 3) } };
    bool a_across = coin(), b_across = coin();
    q.g.a_row = a_across ? 1 : k + draw(0, 2);
    q.g.a_col = a_across ? m + draw(0, 2) : 1;
    q.g.b_row = b_across ? 1 : n + draw(0, 2);
    q.g.b_col = b_across ? k + draw(0, 2) : 1;
    q.a = (a_across ? k * q.g.a_col : m * q.g.a_row) + 1;
    q.b = (b_across ? n * q.g.b_col : k * q.g.b_row) + 1;
    q.c = m * q.g.ldc;
    q.g.batch = draw(0, 3);
    int64_t items = q.g.batch ? q.g.batch : 1;
    q.g.a_batch = coin() ? q.a : 0;
    q.g.b_batch = coin() ? q.b : 0;
    q.g.c_batch = q.c;
    q.a *= items;
    q.b *= items;
    q.c *= items;
    q.bias = coin();
    q.pre = coin();
    q.mask = coin();
    if (q.g.order.acc == RK_ACC_SET)
        q.g.act = (rk_act)draw(0, 3);
    q.g.round = (rk_round)(draw(0, 1) * draw(0, 2));
    return q;
}

static bool product_agrees(const product *q)
{
    const array a[] = { in(q->a), in(q->b), out(q->c), in(q->g.n), out(q->c), in(q->c) };
    if (agrees_on_cuda(call_gemm, q, a, 6))
        return true;
    fprintf(stderr, "gemm %lld x %lld x %lld, %d segments of %lld, acc %d, act %d, round %d, batch %lld\n",
            (long long)q->g.m, (long long)q->g.n, (long long)q->g.k, q->g.order.segments,
            (long long)q->g.order.unit, (int)q->g.order.acc, (int)q->g.act, (int)q->g.round,
            (long long)q->g.batch);
    return false;
}

TEST(products)
{
    state = 1;
    for (int i = 0; i < SHAPES(200); i++) {
        product q = draw_product(draw_extent(), draw_extent(), draw(0, 60), draw(1, 4));
        CHECK(product_agrees(&q));
    }
}

/* Sizes that take the largest tiles, trees deeper than shared memory has room for, and more work than blocks.
 */
TEST(large_products)
{
    static const struct {
        int64_t m, n, units, unit;
        rk_order order;
    } cases[] = { { 517, 390, 70, 1, { 1, 1, RK_ACC_SET } },    { 260, 512, 40, 1, { 1, 1, RK_ACC_CHAIN } },
                  { 384, 384, 0, 1, { 1, 1, RK_ACC_ADD } },     { 70, 66, 256, 2, { 256, 2, RK_ACC_ADD } },
                  { 20, 30, 1024, 1, { 1024, 1, RK_ACC_SET } }, { 20, 10, 1000, 3, { 1024, 3, RK_ACC_SET } },
                  { 300, 300, 64, 1, { 8, 1, RK_ACC_SET } },    { 1, 5000, 33, 1, { 1, 1, RK_ACC_SET } },
                  { 4000, 3, 129, 1, { 2, 1, RK_ACC_SET } } };
    state = 2;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        product q = draw_product(cases[i].m, cases[i].n, cases[i].units, cases[i].unit);
        q.g.order = cases[i].order;
        q.g.act = q.g.order.acc == RK_ACC_SET ? q.g.act : RK_ACT_NONE;
        CHECK(product_agrees(&q));
    }
}

/* Terms whose sums are -0 or vanish, infinities and NaN: a missing term is none, padding is a zero. */
CALL(gemm_fixed)
{
    (void)arg;
    rk_gemm g = { .m = 3,
                  .n = 3,
                  .k = 8,
                  .a = p[0],
                  .a_row = 8,
                  .a_col = 1,
                  .b = p[1],
                  .b_row = 3,
                  .b_col = 1,
                  .c = p[2],
                  .ldc = 3,
                  .order = { 1, 1, RK_ACC_CHAIN },
                  .act = RK_ACT_NONE };
    return k->gemm(dev, &g);
}

TEST(zeros_keep_their_signs)
{
    const array a[] = { { .n = 24, .lo = -0.0, .hi = -0.0 },
                        in(24),
                        { .n = 9, .lo = -0.0, .hi = -0.0, .out = true } };
    const array tiny[] = { { .n = 24, .lo = -1e-38, .hi = 1e-38 },
                           { .n = 24, .lo = -1e-30, .hi = 1e-30 },
                           { .n = 9, .lo = -0.0, .hi = -0.0, .out = true, .atol = 1e-30 } };
    const array wild[] = { in(24), { .n = 24, .lo = INFINITY, .hi = INFINITY }, out(9) };
    CHECK(agrees_on_cuda(call_gemm_fixed, NULL, a, 3));
    CHECK(agrees_on_cuda(call_gemm_fixed, NULL, tiny, 3));
    CHECK(agrees_on_cuda(call_gemm_fixed, NULL, wild, 3));
}

/* ---- convolutions ---- */

typedef struct conv {
    rk_conv2d_args g;
    rk_order order;
    rk_act act;
    bool bias;
} conv;

CALL(conv2d)
{
    const conv *c = arg;
    return k->conv2d(dev, &c->g, p[0], p[1], c->bias ? p[2] : NULL, c->act, p[3]);
}

CALL(conv2d_dx)
{
    return k->conv2d_dx(dev, &((const conv *)arg)->g, p[0], p[1], p[2]);
}

CALL(conv2d_dw)
{
    const conv *c = arg;
    return k->conv2d_dw(dev, &c->g, c->order, p[0], p[1], p[2]);
}

static conv draw_conv(int64_t most_channels, int64_t most_side)
{
    conv c = { .act = coin() ? RK_ACT_RELU : RK_ACT_NONE, .bias = coin() };
    rk_conv2d_args *g = &c.g;
    do {
        *g = (rk_conv2d_args){ .n = draw(1, 6),
                               .h = draw(1, most_side),
                               .w = draw(1, most_side),
                               .kh = draw(1, 4),
                               .kw = draw(1, 4),
                               .stride_h = draw(1, 3),
                               .stride_w = draw(1, 3),
                               .pad_h = draw(0, 3),
                               .pad_w = draw(0, 3),
                               .dil_h = draw(1, 3),
                               .dil_w = draw(1, 3),
                               .groups = draw(1, 3) };
        g->c = g->groups * draw(1, most_channels);
        g->oc = g->groups * draw(1, most_channels);
        g->oh = (g->h + 2 * g->pad_h - (g->kh - 1) * g->dil_h - 1) / g->stride_h + 1;
        g->ow = (g->w + 2 * g->pad_w - (g->kw - 1) * g->dil_w - 1) / g->stride_w + 1;
    } while (g->h + 2 * g->pad_h <= (g->kh - 1) * g->dil_h || g->w + 2 * g->pad_w <= (g->kw - 1) * g->dil_w);
    g->round = (rk_round)(draw(0, 1) * draw(0, 2));
    c.order = draw_order(g->oh * g->ow);
    return c;
}

static bool conv_agrees(const conv *c)
{
    const rk_conv2d_args *g = &c->g;
    const int64_t x = g->n * g->c * g->h * g->w, w = g->oc * g->c / g->groups * g->kh * g->kw,
                  y = g->n * g->oc * g->oh * g->ow;
    /* the f64 table of the CPU does not round */
    const double tol = g->round ? 1 : 1e-4;
    array ay = out(y), ax = out(x), aw = out(w);
    ay.atol = ax.atol = aw.atol = ay.rtol = ax.rtol = aw.rtol = tol;
    const array forward[] = { in(x), in(w), in(g->oc), ay }, dx[] = { in(y), in(w), ax },
                dw[] = { in(x), in(y), aw };
    bool ok = agrees_on_cuda(call_conv2d, c, forward, 4) && agrees_on_cuda(call_conv2d_dx, c, dx, 3) &&
              agrees_on_cuda(call_conv2d_dw, c, dw, 3);
    if (!ok)
        fprintf(stderr, "conv (%lld, %lld, %lld, %lld) -> %lld, %lld x %lld, stride %lld %lld, groups %lld\n",
                (long long)g->n, (long long)g->c, (long long)g->h, (long long)g->w, (long long)g->oc,
                (long long)g->kh, (long long)g->kw, (long long)g->stride_h, (long long)g->stride_w,
                (long long)g->groups);
    return ok;
}

TEST(convolutions)
{
    state = 3;
    for (int i = 0; i < SHAPES(80); i++) {
        conv c = draw_conv(i % 8 ? 7 : 40, i % 8 ? 12 : 20);
        CHECK(conv_agrees(&c));
    }
}

TEST(large_convolutions)
{
    static const rk_conv2d_args cases[] = {
        { .n = 2,
          .c = 33,
          .h = 18,
          .w = 17,
          .oc = 140,
          .kh = 3,
          .kw = 3,
          .oh = 18,
          .ow = 17,
          .stride_h = 1,
          .stride_w = 1,
          .pad_h = 1,
          .pad_w = 1,
          .dil_h = 1,
          .dil_w = 1,
          .groups = 1 },
        { .n = 2,
          .c = 130,
          .h = 16,
          .w = 16,
          .oc = 130,
          .kh = 1,
          .kw = 1,
          .oh = 16,
          .ow = 16,
          .stride_h = 1,
          .stride_w = 1,
          .dil_h = 1,
          .dil_w = 1,
          .groups = 1 },
        { .n = 3,
          .c = 64,
          .h = 17,
          .w = 17,
          .oc = 64,
          .kh = 3,
          .kw = 3,
          .oh = 9,
          .ow = 9,
          .stride_h = 2,
          .stride_w = 2,
          .pad_h = 1,
          .pad_w = 1,
          .dil_h = 1,
          .dil_w = 1,
          .groups = 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        conv c = { .g = cases[i], .order = { 4, cases[i].oh * cases[i].ow, RK_ACC_SET }, .bias = true };
        CHECK(conv_agrees(&c));
    }
}

/* ---- channels ---- */

typedef struct channels {
    int64_t n, c, s;
    rk_order order;
    bool affine, rstd;
} channels;

CALL(sum_channels)
{
    const channels *q = arg;
    return k->sum_channels(dev, q->n, q->c, q->s, q->order, p[0], p[1]);
}

CALL(sum_channel_squares)
{
    const channels *q = arg;
    return k->sum_channel_squares(dev, q->n, q->c, q->s, q->order, p[0], p[1], p[2]);
}

CALL(batch_norm_stats)
{
    const channels *q = arg;
    return k->batch_norm_stats(dev, q->n, q->c, q->s, q->order, p[0], p[1], p[2]);
}

CALL(batch_norm)
{
    const channels *q = arg;
    return k->batch_norm(dev, q->n, q->c, q->s, p[0], p[1], p[2], q->affine ? p[3] : NULL,
                         q->affine ? p[4] : NULL, 1e-3, p[5], q->rstd ? p[6] : NULL);
}

CALL(batch_norm_dparam)
{
    const channels *q = arg;
    return k->batch_norm_dparam(dev, q->n, q->c, q->s, q->order, p[0], p[1], p[2], p[3], p[4], p[5]);
}

CALL(batch_norm_dx)
{
    const channels *q = arg;
    return k->batch_norm_dx(dev, q->n, q->c, q->s, q->n * q->s + 3, p[0], p[1], p[2], q->affine ? p[3] : NULL,
                            p[4], p[5], p[6], p[7]);
}

static bool channels_agree(const channels *q)
{
    const int64_t n = q->n * q->c * q->s, c = q->c;
    const array positive = { .n = c, .lo = 0.5, .hi = 2 };
    const array sums[] = { in(n), out(c) }, squares[] = { in(n), in(c), out(c) },
                stats[] = { in(n), out(c), out(c) },
                norm[] = { in(n), in(c), positive, in(c), in(c), out(n), out(c) },
                dparam[] = { in(n), in(c), positive, in(n), out(c), out(c) },
                dx[] = { in(n), in(c), positive, in(c), in(c), in(c), in(n), out(n) };
    bool ok =
        agrees_on_cuda(call_sum_channels, q, sums, 2) &&
        agrees_on_cuda(call_sum_channel_squares, q, squares, 3) &&
        agrees_on_cuda(call_batch_norm_stats, q, stats, 3) && agrees_on_cuda(call_batch_norm, q, norm, 7) &&
        agrees_on_cuda(call_batch_norm_dparam, q, dparam, 6) && agrees_on_cuda(call_batch_norm_dx, q, dx, 8);
    if (!ok)
        fprintf(stderr, "channels (%lld, %lld, %lld), %d segments, acc %d\n", (long long)q->n,
                (long long)q->c, (long long)q->s, q->order.segments, (int)q->order.acc);
    return ok;
}

TEST(channels_of_batches)
{
    state = 4;
    for (int i = 0; i < SHAPES(60); i++) {
        channels q = { draw(1, 40), draw(1, 70), coin() ? 1 : draw(2, 60), draw_order(1), coin(), coin() };
        CHECK(channels_agree(&q));
    }
    channels many = { 1100, 5, 3, { 1024, 1, RK_ACC_ADD }, true, true };
    CHECK(channels_agree(&many));
}

/* ---- pooling ---- */

CALL(max_pool2d)
{
    return k->max_pool2d(dev, arg, p[0], p[1], p[2]);
}

/* With the places that the forward pass finds. */
CALL(max_pool2d_grad)
{
    rk_status st = k->max_pool2d(dev, arg, p[0], p[1], p[2]);
    return st ? st : k->max_pool2d_grad(dev, arg, p[2], p[3], p[4]);
}

CALL(avg_pool2d)
{
    return k->avg_pool2d(dev, arg, p[0], p[1]);
}

CALL(avg_pool2d_grad)
{
    return k->avg_pool2d_grad(dev, arg, p[0], p[1]);
}

static rk_pool2d draw_pool(bool adaptive)
{
    rk_pool2d g = { .n = draw(1, 3), .c = draw(1, 4), .h = draw(1, 14), .w = draw(1, 14) };
    if (adaptive) {
        g.oh = draw(1, 9);
        g.ow = draw(1, 9);
        return g;
    }
    g.kh = coin() ? 2 : draw(1, 4);
    g.kw = coin() ? g.kh : draw(1, 4);
    g.stride_h = coin() ? g.kh : draw(1, 3);
    g.stride_w = coin() ? g.kw : draw(1, 3);
    g.pad_h = coin() ? 0 : draw(0, 2);
    g.pad_w = coin() ? 0 : draw(0, 2);
    g.oh = g.h + 2 * g.pad_h < g.kh ? 1 : (g.h + 2 * g.pad_h - g.kh) / g.stride_h + 1;
    g.ow = g.w + 2 * g.pad_w < g.kw ? 1 : (g.w + 2 * g.pad_w - g.kw) / g.stride_w + 1;
    return g;
}

TEST(pools)
{
    state = 5;
    for (int i = 0; i < SHAPES(80); i++) {
        const rk_pool2d g = draw_pool(i % 4 == 0);
        const int64_t x = g.n * g.c * g.h * g.w, y = g.n * g.c * g.oh * g.ow;
        const array arg = { .n = y, .out = true, .type = OF_I32 };
        const array max[] = { in(x), out(y), arg }, grad[] = { in(x), out(y), arg, in(y), out(x) },
                    avg[] = { in(x), out(y) }, avg_grad[] = { in(y), out(x) };
        CHECK(agrees_on_cuda(call_max_pool2d, &g, max, 3));
        CHECK(agrees_on_cuda(call_max_pool2d_grad, &g, grad, 5));
        CHECK(agrees_on_cuda(call_avg_pool2d, &g, avg, 2));
        CHECK(agrees_on_cuda(call_avg_pool2d_grad, &g, avg_grad, 2));
    }
}

/* ---- indexing ---- */

typedef struct table {
    int64_t table_rows, rows, cols;
    rk_order order;
} table;

static int64_t limit; /* of the indices below */

static int64_t some_index(int64_t i)
{
    uint64_t s = (uint64_t)i / 3 + 77; /* runs of equals */
    return (int64_t)(ref_next(&s) % (uint64_t)limit);
}

/* Some are no rows of the table. */
static int64_t some_index_or_none(int64_t i)
{
    return i % 11 == 5 ? -1 : i % 13 == 7 ? limit : some_index(i);
}

CALL(take_rows)
{
    const table *t = arg;
    return k->take_rows(dev, t->rows, t->cols, p[0], p[1], p[2]);
}

CALL(take_rows_grad)
{
    const table *t = arg;
    return k->take_rows_grad(dev, t->table_rows, t->rows, t->cols, t->order, p[0], p[1], p[2]);
}

TEST(rows_by_index)
{
    state = 6;
    for (int i = 0; i < SHAPES(60); i++) {
        table t = { draw(1, 60), 0, draw(1, 40), draw_order(draw(1, 3)) };
        t.rows = t.order.unit * (i % 6 ? draw(0, 60) : draw(200, 700));
        limit = t.table_rows;
        const array rows = { .n = t.rows, .type = OF_I64, .index = some_index };
        const array some = { .n = t.rows, .type = OF_I64, .index = some_index_or_none };
        const array take[] = { in(t.table_rows * t.cols), rows, out(t.rows * t.cols) },
                    grad[] = { in(t.rows * t.cols), some, out(t.table_rows * t.cols) };
        CHECK(agrees_on_cuda(call_take_rows, &t, take, 3));
        CHECK(agrees_on_cuda(call_take_rows_grad, &t, grad, 3));
    }
}

typedef struct gathered {
    int64_t outer, n, m, inner;
} gathered;

CALL(gather)
{
    const gathered *g = arg;
    return k->gather(dev, g->outer, g->n, g->m, g->inner, p[0], p[1], p[2]);
}

CALL(gather_grad)
{
    const gathered *g = arg;
    return k->gather_grad(dev, g->outer, g->n, g->m, g->inner, p[0], p[1], p[2]);
}

TEST(gathers)
{
    state = 7;
    for (int i = 0; i < SHAPES(40); i++) {
        gathered g = { draw(0, 20), draw(1, 12), draw(0, 9), coin() ? 1 : draw(1, 30) };
        const int64_t x = g.outer * g.n * g.inner, y = g.outer * g.m * g.inner;
        limit = g.n;
        const array index = { .n = y, .type = OF_I64, .index = some_index };
        const array gather[] = { in(x), index, out(y) }, grad[] = { in(y), index, out(x) };
        CHECK(agrees_on_cuda(call_gather, &g, gather, 3));
        CHECK(agrees_on_cuda(call_gather_grad, &g, grad, 3));
    }
}

TEST_MAIN
