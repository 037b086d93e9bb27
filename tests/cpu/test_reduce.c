/* Sums in the canonical order, read literally; extremes; indexing. The same bits on every device. */
#include "ref.h"

/* ---- sums ---- */

typedef struct column {
    const float *x;
    int64_t step;
} column;

static float column_term(const void *arg, int64_t i)
{
    const column *c = arg;
    return c->x[i * c->step];
}

static bool check_sum(int64_t outer, int64_t n, int64_t inner, rk_order order)
{
    float *x = ref_random(outer * n * inner, (uint64_t)(n * 31 + inner), -1, 1),
          *old = ref_random(outer * inner, 5, -1, 1);
    bool row = inner == 1 && order.segments == 1 && order.acc == RK_ACC_SET, ok = true;
    float *want = ref_buffer(outer * inner);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            column c = { x + o * n * inner + i, inner };
            want[o * inner + i] = row ? ref_row(column_term, &c, n)
                                      : ref_ordered(column_term, &c, n, order, old[o * inner + i]);
        }
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *y = ref_copy(old, outer * inner);
        ok &= it.k->reduce_sum(it.dev, outer, n, inner, order, x, y) == RK_OK;
        bool same = ref_same(y, want, outer * inner);
        if (!same)
            fprintf(stderr, "sum (%lld, %lld, %lld), %d segments, acc %d: %s, %d threads\n", (long long)outer,
                    (long long)n, (long long)inner, order.segments, (int)order.acc, it.isa, it.threads);
        ok &= same;
        ok &= ref_free(y, outer * inner);
    }
    ok &= ref_free(x, outer * n * inner) && ref_free(old, outer * inner) && ref_free(want, outer * inner);
    return ok;
}

TEST(sums_follow_the_order)
{
    static const int64_t shapes[][3] = { { 1, 64, 10 }, { 1, 33, 512 }, { 3, 24, 7 },   { 2, 48, 1 },
                                         { 1, 5, 130 }, { 0, 4, 4 },    { 4, 0, 9 },    { 1, 7, 1 },
                                         { 5, 40, 1 },  { 2, 1, 33 },   { 1, 3000, 70 } };
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int segments = 1; segments <= 16; segments *= 2)
            for (int64_t unit = 1; unit <= 3; unit += 2)
                for (int acc = RK_ACC_SET; acc <= RK_ACC_CHAIN; acc++) {
                    int64_t n = shapes[s][1] / unit * unit;
                    if (acc == RK_ACC_CHAIN && segments > 1)
                        continue;
                    CHECK(
                        check_sum(shapes[s][0], n, shapes[s][2], (rk_order){ segments, unit, (rk_acc)acc }));
                }
}

TEST(row_sums_go_by_lanes)
{
    for (int64_t n = 0; n < 70; n++)
        CHECK(check_sum(3, n, 1, (rk_order){ 1, 1, RK_ACC_SET }));
    CHECK(check_sum(700, 1000, 1, (rk_order){ 1, 1, RK_ACC_SET }));
}

/* 2 or 4 ranks hold subtrees; their sums, added in the tree, are those of one rank. */
TEST(ranks_hold_subtrees)
{
    enum { N = 37, COLS = 19 };
    float *x = ref_random(N * COLS, 3, -1, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int ranks = 2; ranks <= 4; ranks *= 2) {
            float whole[COLS], part[4][COLS];
            CHECK_INT(it.k->reduce_sum(it.dev, 1, N, COLS, (rk_order){ 8, 1, RK_ACC_SET }, x, whole), RK_OK);
            for (int r = 0; r < ranks; r++) {
                int64_t lo, hi;
                rk_order_leaf(N, ranks, r, &lo, &hi);
                it.k->reduce_sum(it.dev, 1, hi - lo, COLS, (rk_order){ 8 / ranks, 1, RK_ACC_SET },
                                 x + lo * COLS, part[r]);
            }
            for (int width = 1; width < ranks; width *= 2)
                for (int r = 0; r < ranks; r += 2 * width)
                    for (int c = 0; c < COLS; c++)
                        part[r][c] += part[r + width][c];
            CHECK(ref_same(whole, part[0], COLS));
        }
    CHECK(ref_free(x, N * COLS));
}

/* A chain cut in micro-batches is one chain. */
TEST(chains_continue)
{
    enum { N = 50, COLS = 9 };
    float *x = ref_random(N * COLS, 4, -1, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float whole[COLS], parts[COLS];
        it.k->reduce_sum(it.dev, 1, N, COLS, (rk_order){ 1, 1, RK_ACC_SET }, x, whole);
        it.k->reduce_sum(it.dev, 1, 13, COLS, (rk_order){ 1, 1, RK_ACC_SET }, x, parts);
        it.k->reduce_sum(it.dev, 1, N - 13, COLS, (rk_order){ 1, 1, RK_ACC_CHAIN }, x + 13 * COLS, parts);
        CHECK(ref_same(whole, parts, COLS));
    }
    CHECK(ref_free(x, N * COLS));
}

typedef struct channel {
    const float *x;
    int64_t c, s;
} channel;

static float sample_term(const void *arg, int64_t n)
{
    const channel *c = arg;
    column row = { c->x + n * c->c * c->s, 1 };
    return ref_row(column_term, &row, c->s);
}

TEST(channel_sums_are_chains_of_rows)
{
    static const int64_t shapes[][3] = { { 16, 5, 49 }, { 9, 33, 4 }, { 8, 3, 1024 },
                                         { 20, 70, 1 }, { 0, 3, 4 },  { 3, 2, 17 } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int segments = 1; segments <= 8; segments *= 2)
            for (int acc = RK_ACC_SET; acc <= (segments == 1 ? RK_ACC_CHAIN : RK_ACC_ADD); acc++) {
                int64_t n = shapes[i][0], c = shapes[i][1], s = shapes[i][2];
                rk_order order = { segments, 1, (rk_acc)acc };
                float *x = ref_random(n * c * s, 8, -1, 1), *old = ref_random(c, 9, -1, 1),
                      *want = ref_buffer(c);
                for (int64_t k = 0; k < c; k++)
                    want[k] = ref_ordered(sample_term, &(channel){ x + k * s, c, s }, n, order, old[k]);
                for (cpu_iter it = { 0 }; cpu_next(&it);) {
                    float *y = ref_copy(old, c);
                    CHECK_INT(it.k->sum_channels(it.dev, n, c, s, order, x, y), RK_OK);
                    CHECK(ref_same(y, want, c));
                    CHECK(ref_free(y, c));
                }
                CHECK(ref_free(x, n * c * s) && ref_free(old, c) && ref_free(want, c));
            }
}

/* ---- extremes ---- */

static int64_t literal_extreme(const float *x, int64_t n, int64_t step, bool max)
{
    int64_t best = 0;
    for (int64_t k = 1; k < n; k++) {
        float v = x[k * step], b = x[best * step];
        if ((max ? v > b : v < b) || (isnan(v) && !isnan(b)))
            best = k;
    }
    return best;
}

TEST(extremes_are_the_first_of_equals)
{
    static const int64_t shapes[][3] = { { 3, 1, 1 },     { 4, 7, 1 }, { 2, 33, 1 },
                                         { 50, 1000, 1 }, { 2, 9, 5 }, { 1, 16, 33 } };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int fill = 0; fill < 3; fill++) {
            int64_t outer = shapes[i][0], n = shapes[i][1], inner = shapes[i][2], rows = outer * inner;
            float *x = ref_random(outer * n * inner, 11, -4, 4);
            for (int64_t k = 0; k < outer * n * inner; k++)
                x[k] = fill == 2 ? -INFINITY : fill == 1 && k % 37 == 5 ? NAN : rintf(x[k]); /* many equals */
            for (cpu_iter it = { 0 }; cpu_next(&it);)
                for (int max = 0; max < 2; max++) {
                    float *y = ref_buffer(rows);
                    int64_t *index = malloc(sizeof *index * (size_t)rows);
                    CHECK_INT(
                        (max ? it.k->reduce_max : it.k->reduce_min)(it.dev, outer, n, inner, x, y, index),
                        RK_OK);
                    CHECK_INT(
                        (max ? it.k->reduce_max : it.k->reduce_min)(it.dev, outer, n, inner, x, y, NULL),
                        RK_OK);
                    for (int64_t r = 0; r < rows; r++) {
                        const float *row = x + r / inner * n * inner + r % inner;
                        int64_t at = literal_extreme(row, n, inner, max);
                        CHECK_INT(index[r], at);
                        CHECK(ref_same(y + r, row + at * inner, 1));
                    }
                    free(index);
                    CHECK(ref_free(y, rows));
                }
            CHECK(ref_free(x, outer * n * inner));
        }
}

/* ---- sum of squares ---- */

static double literal_squares(const float *x, int64_t n, int64_t lo, int64_t hi)
{
    if (hi - lo > 1) {
        int64_t mid = rk_order_mid(lo, hi);
        double left = literal_squares(x, n, lo, mid);
        return left + literal_squares(x, n, mid, hi);
    }
    double lane[RK_LANES] = { 0 };
    for (int64_t i = lo * RK_CHUNK; i < n && i < hi * RK_CHUNK; i++)
        lane[i % RK_LANES] += (double)x[i] * (double)x[i];
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            lane[l] += lane[l + h];
    return lane[0];
}

TEST(squares_go_by_chunks)
{
    static const int64_t sizes[] = { 0, 1, 7, 33, 4096, 4097, 30001, 100000 };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t n = sizes[i];
        float *x = ref_random(n, 13, -3, 3);
        double want = n ? literal_squares(x, n, 0, (n + RK_CHUNK - 1) / RK_CHUNK) : 0;
        for (cpu_iter it = { 0 }; cpu_next(&it);) {
            double got = -1;
            bool bad = true;
            CHECK_INT(it.k->sum_squares(it.dev, n, x, &got, &bad), RK_OK);
            CHECK(got == want && !bad);
            double chunk[32];
            const rk_square_rows all = { .x = x,
                                         .n = n,
                                         .rows = (n + RK_CHUNK - 1) / RK_CHUNK,
                                         .cols = RK_CHUNK,
                                         .ld = RK_CHUNK,
                                         .step = 1 };
            CHECK_INT(it.k->squares(it.dev, 1, &all, chunk), RK_OK);
            CHECK(n == 0 || rk_order_tree(chunk, 0, all.rows) == want);
        }
        CHECK(ref_free(x, n));
    }
}

TEST(squares_notice_what_is_not_finite)
{
    enum { N = 9000 };
    static const float bad_values[] = { INFINITY, -INFINITY, NAN };
    float *x = ref_random(N, 14, -1, 1);
    x[5] = 0x1.fffffep127f; /* finite: its square is, in double */
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int i = 0; i < 3; i++)
            for (int64_t at = 0; at < N; at += 1499) {
                float keep = x[at];
                double sum;
                bool bad = true;
                it.k->sum_squares(it.dev, N, x, &sum, &bad);
                CHECK(!bad);
                x[at] = bad_values[i];
                it.k->sum_squares(it.dev, N, x, &sum, &bad);
                CHECK(bad);
                x[at] = keep;
            }
    CHECK(ref_free(x, N));
}

/* ---- indexing ---- */

typedef struct lookup {
    const float *dy;
    const int64_t *index;
    int64_t row, cols;
} lookup;

static float lookup_term(const void *arg, int64_t r)
{
    const lookup *l = arg;
    return l->index[r] == l->row ? l->dy[r * l->cols] : 0.0f; /* +0 changes no sum that is not -0 */
}

TEST(table_rows_and_their_gradient)
{
    enum { ROWS = 57, TABLE = 11 };
    int64_t index[ROWS];
    uint64_t state = 3;
    for (int r = 0; r < ROWS; r++)
        index[r] = (int64_t)(ref_next(&state) % (TABLE - 2)); /* some rows of the table have no term */
    for (int64_t cols = 0; cols <= 35; cols += 5)
        for (int segments = 1; segments <= 8; segments *= 2)
            for (int acc = RK_ACC_SET; acc <= (segments == 1 ? RK_ACC_CHAIN : RK_ACC_ADD); acc++)
                for (cpu_iter it = { 0 }; cpu_next(&it);) {
                    float *table = ref_random(TABLE * cols, 1, -1, 1),
                          *dy = ref_random(ROWS * cols, 2, -1, 1);
                    float *y = ref_buffer(ROWS * cols), *grad = ref_copy(table, TABLE * cols);
                    rk_order order = { segments, 1, (rk_acc)acc };
                    CHECK_INT(it.k->take_rows(it.dev, ROWS, cols, table, index, y), RK_OK);
                    CHECK_INT(it.k->take_rows_grad(it.dev, TABLE, ROWS, cols, order, dy, index, grad), RK_OK);
                    for (int r = 0; r < ROWS; r++)
                        CHECK(ref_same(y + r * cols, table + index[r] * cols, cols));
                    for (int64_t t = 0; t < TABLE * cols; t++) {
                        lookup l = { dy + t % cols, index, t / cols, cols };
                        float want = ref_ordered(lookup_term, &l, ROWS, order, table[t]);
                        CHECK(ref_same(grad + t, &want, 1));
                    }
                    CHECK(ref_free(y, ROWS * cols) && ref_free(grad, TABLE * cols));
                    CHECK(ref_free(table, TABLE * cols) && ref_free(dy, ROWS * cols));
                }
}

TEST(gather_and_its_gradient)
{
    enum { OUTER = 3, N = 7, M = 9, INNER = 5 };
    int64_t index[OUTER * M * INNER];
    uint64_t state = 4;
    for (int i = 0; i < OUTER * M * INNER; i++)
        index[i] = (int64_t)(ref_next(&state) % N);
    float *x = ref_random(OUTER * N * INNER, 1, -1, 1), *dy = ref_random(OUTER * M * INNER, 2, -1, 1);
    float want_y[OUTER * M * INNER], want_dx[OUTER * N * INNER] = { 0 };
    for (int i = 0; i < OUTER * M * INNER; i++) {
        int64_t from = (i / (M * INNER) * N + index[i]) * INNER + i % INNER;
        want_y[i] = x[from];
        want_dx[from] += dy[i];
    }
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *y = ref_buffer(OUTER * M * INNER), *dx = ref_buffer(OUTER * N * INNER);
        CHECK_INT(it.k->gather(it.dev, OUTER, N, M, INNER, x, index, y), RK_OK);
        CHECK_INT(it.k->gather_grad(it.dev, OUTER, N, M, INNER, dy, index, dx), RK_OK);
        CHECK(ref_same(y, want_y, OUTER * M * INNER) && ref_same(dx, want_dx, OUTER * N * INNER));
        CHECK(ref_free(y, OUTER * M * INNER) && ref_free(dx, OUTER * N * INNER));
    }
    CHECK(ref_free(x, OUTER * N * INNER) && ref_free(dy, OUTER * M * INNER));
}

TEST_MAIN
