#include "against_f64.h"

typedef struct rows {
    int64_t rows, cols;
    double smoothing;
    bool use_ignore;
    const int64_t *target;
} rows;

static const int64_t shapes[][2] = { { 0, 5 },  { 1, 1 },    { 3, 7 },    { 64, 10 },
                                     { 5, 33 }, { 2, 1000 }, { 300, 130 } };
enum { SHAPES = sizeof shapes / sizeof *shapes };

static rk_status call_softmax(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const rows *r = arg;
    return k->softmax(dev, r->rows, r->cols, p[0], p[1]);
}

static rk_status call_log_softmax(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const rows *r = arg;
    return k->log_softmax(dev, r->rows, r->cols, p[0], p[1]);
}

static rk_status call_softmax_grad(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const rows *r = arg;
    return k->softmax_grad(dev, r->rows, r->cols, p[0], p[1], p[2]);
}

static rk_status call_log_softmax_grad(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const rows *r = arg;
    return k->log_softmax_grad(dev, r->rows, r->cols, p[0], p[1], p[2]);
}

TEST(softmax_and_its_logarithm)
{
    for (int s = 0; s < SHAPES; s++)
        for (double range = 1; range < 200; range *= 10) {
            rows r = { .rows = shapes[s][0], .cols = shapes[s][1] };
            int64_t n = r.rows * r.cols;
            /* x - max is rounded: a relative error of the result */
            array a[] = { { n, -range, range, false, 0, 0 },
                          { n, 0, 0, true, 1e-6 + 1.2e-7 * range, 1e-37 } };
            CHECK(agrees_with_f64(call_softmax, &r, a, 2, NULL));
            a[1].rtol = 3e-7;
            a[1].atol = 3e-7 * range;
            CHECK(agrees_with_f64(call_log_softmax, &r, a, 2, NULL));
        }
}

TEST(softmax_gradients)
{
    for (int s = 0; s < SHAPES; s++) {
        rows r = { .rows = shapes[s][0], .cols = shapes[s][1] };
        int64_t n = r.rows * r.cols;
        array y[] = { { n, 0, 1, false, 0, 0 },
                      { n, -1, 1, false, 0, 0 },
                      { n, 0, 0, true, 1e-6, 3e-6 * (double)r.cols } };
        CHECK(agrees_with_f64(call_softmax_grad, &r, y, 3, NULL));
        y[0].lo = -5;
        y[0].hi = 0;
        CHECK(agrees_with_f64(call_log_softmax_grad, &r, y, 3, NULL));
    }
}

TEST(softmax_of_extreme_rows)
{
    float x[4][3] = { { 1e30f, -1e30f, 0 }, { -INFINITY, 0, 1 }, { 3e38f, 3e38f, 3e38f }, { 1, NAN, 2 } };
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float y[4][3];
        CHECK_INT(it.k->softmax(it.dev, 4, 3, x, y), RK_OK);
        CHECK(y[0][0] == 1 && y[0][1] == 0 && y[0][2] == 0);
        CHECK(y[1][0] == 0);
        CHECK_CLOSE((double)y[1][2], 0.7310585786300049, 1e-6, 0);
        CHECK_CLOSE((double)y[2][1], 1.0 / 3, 1e-6, 0);
        CHECK(isnan(y[3][0]) && isnan(y[3][1]) && isnan(y[3][2]));
    }
}

static rk_status call_cross_entropy(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const rows *r = arg;
    return k->cross_entropy(dev, r->rows, r->cols, p[0], r->target, r->smoothing, r->use_ignore, -7, p[1],
                            p[2]);
}

static rk_status call_cross_entropy_grad(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const rows *r = arg;
    return k->cross_entropy_grad(dev, r->rows, r->cols, 0, r->cols, p[0], r->target, p[1], r->smoothing,
                                 r->use_ignore, -7, 0.125, p[2]);
}

TEST(cross_entropy)
{
    int64_t target[300];
    for (int s = 1; s < SHAPES; s++)
        for (int variant = 0; variant < 4; variant++) {
            rows r = { .rows = shapes[s][0],
                       .cols = shapes[s][1],
                       .smoothing = variant & 1 ? 0.1 : 0,
                       .use_ignore = variant & 2,
                       .target = target };
            uint64_t state = 9;
            for (int64_t i = 0; i < r.rows; i++)
                target[i] = r.use_ignore && i % 3 == 1 ? -7 : (int64_t)(ref_next(&state) % (uint64_t)r.cols);
            int64_t n = r.rows * r.cols;
            array a[] = { { n, -20, 20, false, 0, 0 },
                          { r.rows, 0, 0, true, 1e-6, 2e-6 },
                          { r.rows, 0, 0, true, 1e-6, 2e-6 } };
            CHECK(agrees_with_f64(call_cross_entropy, &r, a, 3, NULL));
            array g[] = { { n, -5, 5, false, 0, 0 },
                          { r.rows, 3, 5, false, 0, 0 },
                          { n, 0, 0, true, 1e-6, 1e-7 } };
            CHECK(agrees_with_f64(call_cross_entropy_grad, &r, g, 3, NULL));
        }
}

/* Which of two zeros a vector meets last depends on its width. */
TEST(largest_of_zeros_is_positive)
{
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int at = 0; at < 33; at++) {
            float x[33], top = -1;
            for (int i = 0; i < 33; i++)
                x[i] = i == at ? -0.0f : i == (at + 8) % 33 && at % 2 ? 0.0f : -1;
            CHECK_INT(it.k->row_max(it.dev, 1, 33, x, &top), RK_OK);
            CHECK(top == 0 && !signbit(top));
        }
}

/* Products that vanish: a sum of -0 in every lane, but for those that a short vector fills up. */
TEST(sum_of_vanishing_products_is_positive)
{
    enum { N = 64 };
    float y[N], dy[N], dx[N];
    for (int n = 16; n <= N; n++)
        for (cpu_iter it = { 0 }; cpu_next(&it);) {
            for (int i = 0; i < n; i++) {
                y[i] = i < n / 2 ? 0x1p-100f : 1;
                dy[i] = i < n / 2 ? -0x1p-100f : -0.0f;
            }
            CHECK_INT(it.k->softmax_grad(it.dev, 1, n, y, dy, dx), RK_OK);
            CHECK(dx[n - 1] == 0 && signbit(dx[n - 1])); /* -0 - +0 */
        }
}

/* A confident, right answer has a small loss, not zero: 1e-7 is kept beside logits of 1000. */
TEST(small_losses_are_kept)
{
    float x[2] = { 1000, 984 }, loss, lse;
    int64_t target = 0;
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        CHECK_INT(it.k->cross_entropy(it.dev, 1, 2, x, &target, 0, false, 0, &loss, &lse), RK_OK);
        CHECK_CLOSE((double)loss, 1.1253516205509499e-07, 0.1, 0);
    }
}

TEST_MAIN
