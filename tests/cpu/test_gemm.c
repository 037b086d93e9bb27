/* The product's bits: every device against a literal chain of fmaf. */
#include "cpu/cpu_devices.h"

#include "core/order.h"
#include "cpu/operands.h"

/* The definition: a leaf is a chain, leaves are added in the halving tree. */
static float subtree(const rk_gemm *g, const float *a, const float *b, int64_t lo, int64_t hi, int segments,
                     float start)
{
    if (segments > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        float left = subtree(g, a, b, lo, mid, segments / 2, 0);
        return left + subtree(g, a, b, mid, hi, segments / 2, 0);
    }
    for (int64_t k = lo * g->order.unit; k < hi * g->order.unit; k++) {
        float x = a[k * g->a_col], y = b[k * g->b_row];
        start = fmaf(rounded(g->round, x), rounded(g->round, y), start);
    }
    return start;
}

/* Everything but gelu. */
static void reference(const rk_gemm *g)
{
    int64_t count = g->batch ? g->batch : 1;
    for (int64_t z = 0; z < count; z++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->n; j++) {
                int64_t at = z * g->c_batch + i * g->ldc + j;
                float *c = (float *)g->c + at;
                const float *a = (const float *)g->a + z * g->a_batch + i * g->a_row;
                const float *b = (const float *)g->b + z * g->b_batch + j * g->b_col;
                float v = subtree(g, a, b, 0, g->k / g->order.unit, g->order.segments,
                                  g->order.acc == RK_ACC_CHAIN ? *c : 0);
                if (g->order.acc == RK_ACC_ADD)
                    v = *c + v;
                if (g->bias)
                    v += ((const float *)g->bias)[j];
                if (g->pre)
                    ((float *)g->pre)[at] = v;
                if (g->act == RK_ACT_RELU)
                    v = 0 > v ? 0 : v;
                if (g->relu_mask)
                    v = ((const float *)g->relu_mask)[at] > 0 ? v : 0;
                *c = v;
            }
}

/* Operands in their own memory, with rows longer than needed. */
typedef struct problem {
    rk_gemm g;
    int64_t c_floats;
    float *a, *b, *c, *pre, *mask, *bias;
} problem;

enum { PAD = 3 };

static problem make(int64_t m, int64_t n, int64_t k, bool ta, bool tb, int64_t batch)
{
    problem p = { 0 };
    int64_t lda = (ta ? m : k) + PAD, ldb = (tb ? k : n) + PAD, count = batch ? batch : 1;
    int64_t a_size = (ta ? k : m) * lda, b_size = (tb ? n : k) * ldb, c_size = m * (n + PAD);
    p.c_floats = c_size * count;
    p.a = numbers(a_size * count);
    p.b = numbers(b_size * count);
    p.c = numbers(p.c_floats);
    p.pre = numbers(p.c_floats);
    p.mask = numbers(p.c_floats);
    p.bias = numbers(n);
    p.g = (rk_gemm){ .m = m,
                     .n = n,
                     .k = k,
                     .a = p.a,
                     .b = p.b,
                     .ldc = n + PAD,
                     .batch = batch,
                     .a_batch = a_size,
                     .b_batch = b_size,
                     .c_batch = c_size,
                     .order = { 1, 1, RK_ACC_SET } };
    p.g.a_row = ta ? 1 : lda;
    p.g.a_col = ta ? lda : 1;
    p.g.b_row = tb ? 1 : ldb;
    p.g.b_col = tb ? ldb : 1;
    return p;
}

static void drop(problem *p)
{
    free(p->a);
    free(p->b);
    free(p->c);
    free(p->pre);
    free(p->mask);
    free(p->bias);
}

static float *copy(const float *p, int64_t n)
{
    float *q = malloc((size_t)(n + 1) * sizeof *q);
    memcpy(q, p, (size_t)n * sizeof *q);
    return q;
}

typedef struct devices {
    cpu_iter it[CPU_ISAS * CPU_MOST_THREADS];
    int count;
} devices;

static devices all;

static void open_all(void)
{
    if (all.count)
        return;
    for (int i = 0; i < CPU_ISAS * CPU_MOST_THREADS; i++) {
        cpu_iter it = { .isa = cpu_isas[i / CPU_MOST_THREADS], .threads = 1 + i % CPU_MOST_THREADS };
        it.dev = cpu_open(it.isa, it.threads);
        if (it.dev) {
            it.k = rk_device_cpu.kernels(it.dev, RK_F32);
            all.it[all.count++] = it;
        }
    }
}

/* The index of the first float that differs, or -1; two NaN are equal. */
static int64_t differs(const float *x, const float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(x + i, y + i, sizeof *x) && (x[i] == x[i] || y[i] == y[i]))
            return i;
    return -1;
}

static char last_case[200];

/* Runs p on every device; c, pre and the memory between their rows must equal the reference's. True if so. */
static bool same_everywhere(problem *p)
{
    open_all();
    float *start = copy(p->c, p->c_floats), *pre_start = copy(p->pre, p->c_floats);
    float *want = copy(start, p->c_floats), *want_pre = copy(pre_start, p->c_floats);
    rk_gemm g = p->g;
    bool with_pre = g.pre != NULL, good = true;
    g.c = want;
    g.pre = with_pre ? want_pre : NULL;
    reference(&g);
    for (int i = 0; i < all.count && good; i++) {
        float *c = copy(start, p->c_floats), *pre = copy(pre_start, p->c_floats);
        g.c = c;
        g.pre = with_pre ? pre : NULL;
        rk_status st = all.it[i].k->gemm(all.it[i].dev, &g);
        int64_t at = differs(c, want, p->c_floats), at_pre = differs(pre, want_pre, p->c_floats);
        good = st == RK_OK && at < 0 && at_pre < 0;
        if (!good)
            snprintf(last_case, sizeof last_case,
                     "%s, %d threads, %lldx%lldx%lld, strides %lld %lld, segments %d, status %d: differs at "
                     "%lld, pre at %lld",
                     all.it[i].isa, all.it[i].threads, (long long)g.m, (long long)g.n, (long long)g.k,
                     (long long)g.a_row, (long long)g.b_row, g.order.segments, st, (long long)at,
                     (long long)at_pre);
        free(c);
        free(pre);
    }
    free(start);
    free(pre_start);
    free(want);
    free(want_pre);
    return good;
}

#define CHECK_SAME(p)                    \
    do {                                 \
        bool same_ = same_everywhere(p); \
        drop(p);                         \
        if (!same_)                      \
            TEST_FAIL("%s", last_case);  \
    } while (0)

TEST(shapes)
{
    static const int64_t shape[][3] = {
        { 1, 1, 1 },      { 1, 7, 33 },   { 7, 1, 33 },      { 33, 7, 1 },     { 7, 33, 7 },
        { 6, 16, 16 },    { 14, 32, 9 },  { 33, 33, 33 },    { 1, 70, 130 },   { 2, 100, 40 },
        { 3, 129, 50 },   { 4, 40, 600 }, { 5, 64, 65 },     { 12, 9, 100 },   { 16, 300, 64 },
        { 17, 100, 30 },  { 64, 10, 51 }, { 20, 130, 1100 }, { 100, 40, 4 },   { 3, 5, 2100 },
        { 200, 257, 20 }, { 9, 600, 16 }, { 1, 48, 4 },      { 4, 48, 23 },    { 4, 37, 1030 },
        { 1, 260, 21 },   { 2, 333, 9 },  { 3, 1030, 8 },    { 13, 1100, 70 }, { 16, 56, 40 },
        { 20, 70, 6 },    { 40, 130, 2 }, { 64, 64, 1 },     { 1021, 70, 11 }, /* rows a multiple of a page
                                                                                  apart, when turned */
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int t = 0; t < 4; t++) {
            problem p = make(shape[i][0], shape[i][1], shape[i][2], t & 1, t & 2, 0);
            CHECK_SAME(&p);
        }
}

TEST(empty)
{
    static const int64_t shape[][3] = { { 0, 5, 3 }, { 5, 0, 3 }, { 5, 7, 0 }, { 0, 0, 0 }, { 20, 40, 0 } };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int acc = 0; acc < 3; acc++)
            for (int t = 0; t < 4; t++) {
                problem p = make(shape[i][0], shape[i][1], shape[i][2], t & 1, t & 2, 0);
                p.g.order.acc = (rk_acc)acc;
                CHECK_SAME(&p);
            }
}

TEST(segments)
{
    static const int64_t shape[][4] = { { 7, 33, 100, 1 },      { 20, 50, 37, 1 },       { 13, 17, 90, 9 },
                                        { 30, 20, 7 * 49, 49 }, { 9, 40, 5, 1 },         { 6, 20, 3000, 1 },
                                        { 8, 20, 1, 1 },        { 5, 24, 3 * 700, 700 }, { 70, 64, 264, 1 },
                                        { 70, 100, 40, 1 },     { 47, 64, 16, 1 },       { 64, 96, 5, 1 } };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int segments = 1; segments <= 16; segments *= 2)
            for (int t = 0; t < 4; t++) {
                problem p = make(shape[i][0], shape[i][1], shape[i][2], t & 1, t & 2, 0);
                p.g.order = (rk_order){ segments, shape[i][3], t & 1 ? RK_ACC_ADD : RK_ACC_SET };
                CHECK_SAME(&p);
            }
}

TEST(what_follows_the_sum)
{
    static const int64_t shape[][2] = { { 3, 100 }, { 37, 49 }, { 2, 300 } };
    for (int what = 0; what < 32 * 3; what++)
        for (int t = 0; t < 4; t++) {
            problem p = make(shape[what / 32][0], shape[what / 32][1], 20, t & 1, t & 2, 0);
            p.g.bias = what & 1 ? p.bias : NULL;
            p.g.act = what & 2 ? RK_ACT_RELU : RK_ACT_NONE;
            p.g.pre = what & 4 ? p.pre : NULL;
            p.g.relu_mask = what & 8 ? p.mask : NULL;
            p.g.order.acc = what & 16 ? t & 1 ? RK_ACC_ADD : RK_ACC_CHAIN : RK_ACC_SET;
            p.g.order.segments = p.g.order.acc == RK_ACC_CHAIN ? 1 : 1 << what % 4;
            CHECK_SAME(&p);
        }
}

/* A fused activation has the bits of the separate one. */
TEST(gelu_is_fused)
{
    open_all();
    for (int i = 0; i < all.count; i++)
        for (int t = 0; t < 4; t++) {
            problem p = make(21, 70, 50, t & 1, t & 2, 0);
            const cpu_iter *d = &all.it[i];
            p.g.ldc = p.g.n;
            p.g.bias = p.bias;
            float *want = copy(p.c, p.c_floats), *got = copy(p.c, p.c_floats);
            p.g.c = want;
            d->k->gemm(d->dev, &p.g);
            p.g.c = got;
            p.g.act = t & 1 ? RK_ACT_GELU_TANH : RK_ACT_GELU;
            p.g.pre = p.pre;
            d->k->gemm(d->dev, &p.g);
            int64_t pre_at = differs(p.pre, want, p.g.m * p.g.n);
            (t & 1 ? d->k->gelu_tanh : d->k->gelu)(d->dev, p.g.m * p.g.n, want, 0, want);
            int64_t at = differs(got, want, p.g.m * p.g.n);
            free(want);
            free(got);
            drop(&p);
            CHECK_INT(pre_at, -1);
            CHECK_INT(at, -1);
        }
}

/* The double table agrees with the others to their precision, whatever follows the sum. */
TEST(double_reference)
{
    open_all();
    const cpu_iter *d = &all.it[0];
    const rk_kernels *f64 = rk_device_cpu.kernels(d->dev, RK_F64);
    for (int what = 0; what < 96; what++) {
        problem p = make(9, 21, 35, what & 1, what & 2, 2);
        p.g.act = (rk_act)(what >> 3 & 3);
        p.g.order = (rk_order){ what & 4 ? 4 : 1, 5,
                                p.g.act     ? RK_ACC_SET
                                : what & 32 ? RK_ACC_ADD
                                            : RK_ACC_SET };
        p.g.bias = what & 32 ? p.bias : NULL;
        p.g.relu_mask = what & 64 ? p.mask : NULL;
        p.g.round = what & 64 ? RK_ROUND_BF16 : RK_ROUND_NONE;
        int64_t size[] = { 2 * p.g.a_batch, 2 * p.g.b_batch, p.c_floats, p.g.n, p.c_floats };
        const float *from[] = { p.a, p.b, p.c, p.bias, p.mask };
        double *in[5];
        for (int x = 0; x < 5; x++) {
            in[x] = malloc((size_t)size[x] * sizeof(double));
            for (int64_t i = 0; i < size[x]; i++)
                in[x][i] = from[x][i];
        }
        rk_gemm g = p.g, h = p.g;
        g.c = p.c;
        h.a = in[0];
        h.b = in[1];
        h.c = in[2];
        h.bias = p.g.bias ? in[3] : NULL;
        h.relu_mask = p.g.relu_mask ? in[4] : NULL;
        d->k->gemm(d->dev, &g);
        f64->gemm(d->dev, &h);
        double worst = 0;
        for (int64_t i = 0; i < p.c_floats; i++)
            worst = fmax(worst, fabs(p.c[i] - in[2][i]));
        for (int x = 0; x < 5; x++)
            free(in[x]);
        drop(&p);
        CHECK(worst < 4e-6);
    }
}

TEST(nan_and_infinity)
{
    problem p = make(9, 40, 20, false, false, 0);
    p.a[5] = INFINITY;
    p.b[50] = -INFINITY;
    p.a[3 * 23] = 3e38f;
    p.b[7] = 1e-44f;
    CHECK_SAME(&p);
}

TEST(batches)
{
    for (int64_t count = 1; count <= 9; count += 4)
        for (int t = 0; t < 8; t++) {
            problem p = make(t & 4 ? 40 : 9, 35, 33, t & 1, t & 2, count);
            if (t & 4)
                p.g.b_batch = 0;
            p.g.relu_mask = p.mask;
            CHECK_SAME(&p);
        }
}

/* Numbers of the left operand are multiplied by `scale`. */
static bool rounded_products(rk_round to, float scale)
{
    bool good = true;
    static const int64_t shape[][3] = {
        { 1, 70, 40 }, { 16, 300, 64 }, { 33, 33, 33 }, { 100, 20, 600 }, { 7, 5, 3 }
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int t = 0; t < 8; t++) {
            problem p = make(shape[i][0], shape[i][1], shape[i][2], t & 1, t & 2, 0);
            p.g.round = to;
            p.g.order.segments = t & 4 ? 8 : 1;
            for (int64_t j = 0; j < p.g.a_batch; j++)
                p.a[j] *= scale;
            good = good && same_everywhere(&p);
            drop(&p);
        }
    return good;
}

TEST(bf16)
{
    CHECK(rounded_products(RK_ROUND_BF16, 1));
}

/* Numbers that are subnormal, normal and, some of them, too large. */
TEST(f16)
{
    CHECK(rounded_products(RK_ROUND_F16, 0x1p-16f));
    CHECK(rounded_products(RK_ROUND_F16, 1));
    CHECK(rounded_products(RK_ROUND_F16, 1e5f));
}

/* Elements from the first to the last of a matrix: the last row has no padding behind it. */
static int64_t extent(int64_t rows, int64_t cols, int64_t ld)
{
    return (rows - 1) * ld + cols;
}

/* Runs one product between guard pages on every device; the kernel is compiled without sanitizers, so a read
 * or a write beyond an operand ends the program here. False if the bits are wrong. */
static bool within_fences(const int64_t *shape, int how)
{
    bool ta = how & 1, tb = how & 2, front = how & 16, good = true;
    int64_t m = shape[0], n = shape[1], k = shape[2], pad = how & 32 ? PAD : 0;
    int64_t lda = (ta ? m : k) + pad, ldb = (tb ? k : n) + pad, ldc = n + pad, size = extent(m, n, ldc);
    fenced a = fence(ta ? extent(k, m, lda) : extent(m, k, lda), NULL, front);
    fenced b = fence(tb ? extent(n, k, ldb) : extent(k, n, ldb), NULL, front);
    fenced c = fence(size, NULL, front), bias = fence(n, NULL, front);
    float *start = copy(c.p, size), *want = copy(c.p, size);
    rk_gemm g = { .m = m,
                  .n = n,
                  .k = k,
                  .a = a.p,
                  .b = b.p,
                  .ldc = ldc,
                  .bias = bias.p,
                  .round = how & 4 ? RK_ROUND_BF16 : RK_ROUND_NONE,
                  .a_row = ta ? 1 : lda,
                  .a_col = ta ? lda : 1,
                  .b_row = tb ? 1 : ldb,
                  .b_col = tb ? ldb : 1,
                  .order = { how & 8 ? 8 : 1, 1, how & 8 ? RK_ACC_ADD : RK_ACC_SET } };
    g.c = want;
    reference(&g);
    g.c = c.p;
    for (int i = 0; i < all.count && good; i++) {
        memcpy(c.p, start, (size_t)size * sizeof(float));
        good = all.it[i].k->gemm(all.it[i].dev, &g) == RK_OK && differs(c.p, want, size) < 0;
    }
    fenced *f[] = { &a, &b, &c, &bias };
    for (int i = 0; i < 4; i++)
        munmap(f[i]->pages, f[i]->bytes);
    free(start);
    free(want);
    return good;
}

TEST(nothing_beyond_the_operands)
{
    static const int64_t shape[][3] = { { 1, 1, 1 },     { 1, 33, 7 },   { 1, 130, 65 },  { 3, 29, 70 },
                                        { 5, 64, 17 },   { 13, 17, 9 },  { 17, 100, 33 }, { 64, 50, 8 },
                                        { 33, 7, 65 },   { 2, 100, 40 }, { 40, 97, 66 },  { 96, 40, 5 },
                                        { 31, 32, 100 }, { 9, 3, 1 },    { 1, 48, 4 },    { 4, 48, 23 },
                                        { 20, 64, 4 },   { 20, 40, 7 },  { 1, 263, 9 },   { 2, 257, 17 },
                                        { 7, 1029, 35 }, { 8, 50, 9 },   { 40, 66, 2 } };
    open_all();
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int how = 0; how < 64; how++)
            if (!within_fences(shape[i], how))
                TEST_FAIL("%lldx%lldx%lld, case %d", (long long)shape[i][0], (long long)shape[i][1],
                          (long long)shape[i][2], how);
}

static rk_gemm part(const rk_gemm *g, int64_t i0, int64_t i1, int64_t j0, int64_t j1)
{
    rk_gemm q = *g;
    q.m = i1 - i0;
    q.n = j1 - j0;
    q.a = (const float *)g->a + i0 * g->a_row;
    q.b = (const float *)g->b + j0 * g->b_col;
    q.c = (float *)g->c + i0 * g->ldc + j0;
    return q;
}

/* A caller that cuts rows and columns gets the same bits. */
TEST(split_by_the_caller)
{
    open_all();
    for (int t = 0; t < 4; t++) {
        problem p = make(61, 150, 77, t & 1, t & 2, 0);
        p.g.order.segments = 4;
        float *whole = copy(p.c, p.c_floats), *parts = copy(p.c, p.c_floats);
        const cpu_iter *d = &all.it[all.count - 1];
        rk_gemm g = p.g;
        g.c = whole;
        d->k->gemm(d->dev, &g);
        g.c = parts;
        for (int q = 0; q < 4; q++) {
            rk_gemm one = part(&g, q & 1 ? 23 : 0, q & 1 ? 61 : 23, q & 2 ? 51 : 0, q & 2 ? 150 : 51);
            d->k->gemm(d->dev, &one);
        }
        int64_t at = differs(whole, parts, p.c_floats);
        free(whole);
        free(parts);
        drop(&p);
        CHECK_INT(at, -1);
    }
}

/* Ranks that hold a subtree of the segments each, added in tree order, give the sum of one rank. */
TEST(split_by_ranks)
{
    open_all();
    for (int ranks = 2; ranks <= 4; ranks *= 2)
        for (int t = 0; t < 4; t++) {
            problem p = make(20, 50, 37 * 3, t & 1, t & 2, 0);
            p.g.order = (rk_order){ 8, 3, RK_ACC_SET };
            float *want = copy(p.c, p.c_floats), *sum[4];
            const cpu_iter *d = &all.it[all.count - 1];
            rk_gemm g = p.g;
            g.c = want;
            reference(&g);
            for (int r = 0; r < ranks; r++) {
                int64_t lo, hi;
                rk_order_leaf(37, ranks, r, &lo, &hi);
                sum[r] = copy(p.c, p.c_floats);
                rk_gemm one = g;
                one.k = (hi - lo) * 3;
                one.a = (const float *)g.a + lo * 3 * g.a_col;
                one.b = (const float *)g.b + lo * 3 * g.b_row;
                one.c = sum[r];
                one.order.segments = 8 / ranks;
                d->k->gemm(d->dev, &one);
            }
            for (int half = ranks / 2, width = 1; half > 0; half /= 2, width *= 2)
                for (int r = 0; r < half; r++)
                    for (int64_t i = 0; i < p.g.m; i++)
                        for (int64_t j = 0; j < p.g.n; j++)
                            sum[2 * r * width][i * g.ldc + j] += sum[(2 * r + 1) * width][i * g.ldc + j];
            int64_t at = differs(sum[0], want, p.c_floats);
            for (int r = 0; r < ranks; r++)
                free(sum[r]);
            free(want);
            drop(&p);
            CHECK_INT(at, -1);
        }
}

/* Two micro-batches, the second continuing the chain, are one batch. */
TEST(chain_over_two_calls)
{
    open_all();
    for (int i = 0; i < all.count; i++) {
        problem p = make(21, 70, 50, true, false, 0);
        float *want = copy(p.c, p.c_floats), *got = copy(p.c, p.c_floats);
        rk_gemm g = p.g;
        g.c = want;
        reference(&g);
        g.c = got;
        g.k = 19;
        all.it[i].k->gemm(all.it[i].dev, &g);
        g.k = 31;
        g.a = (const float *)p.g.a + 19 * g.a_col;
        g.b = (const float *)p.g.b + 19 * g.b_row;
        g.order.acc = RK_ACC_CHAIN;
        all.it[i].k->gemm(all.it[i].dev, &g);
        int64_t at = differs(got, want, p.c_floats);
        free(want);
        free(got);
        drop(&p);
        CHECK_INT(at, -1);
    }
}

TEST_MAIN
