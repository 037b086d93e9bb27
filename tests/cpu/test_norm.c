#include "against_f64.h"

typedef struct shape {
    int64_t n, c, s; /* rows, cols and 1 for layer norm */
    rk_order order;
    bool affine, centred;
} shape;

/* ---- layer and RMS norm ---- */

static rk_status call_layer_norm(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    void *gamma = s->affine ? p[1] : NULL, *beta = s->affine ? p[2] : NULL;
    if (s->centred)
        return k->layer_norm(dev, s->n, s->c, p[0], gamma, beta, 1e-5, p[3], p[4], p[5]);
    return k->rms_norm(dev, s->n, s->c, p[0], gamma, 1e-5, p[3], p[5]);
}

/* p: x, gamma, mean, rstd, dy; dx */
static rk_status call_layer_norm_dx(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    void *gamma = s->affine ? p[1] : NULL;
    if (s->centred)
        return k->layer_norm_dx(dev, s->n, s->c, p[0], gamma, p[2], p[3], p[4], p[5]);
    return k->rms_norm_dx(dev, s->n, s->c, p[0], gamma, p[3], p[4], p[5]);
}

/* p: x, mean, rstd, dy; dgamma, dbeta */
static rk_status call_layer_norm_dparam(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    return k->layer_norm_dparam(dev, s->n, s->c, s->order, p[0], s->centred ? p[1] : NULL, p[2], p[3], p[4],
                                s->affine ? p[5] : NULL);
}

static const int64_t row_shapes[][2] = { { 0, 4 }, { 1, 1 }, { 5, 7 }, { 16, 33 }, { 9, 768 }, { 200, 130 } };

TEST(layer_and_rms_norm)
{
    for (size_t i = 0; i < sizeof row_shapes / sizeof *row_shapes; i++)
        for (int variant = 0; variant < 4; variant++) {
            shape s = {
                .n = row_shapes[i][0], .c = row_shapes[i][1], .affine = variant & 1, .centred = variant & 2
            };
            int64_t n = s.n * s.c;
            double lo = s.c == 1 ? 1 : -3,
                   slack = s.centred && s.c == 1 ? 1e-3 : 4e-6; /* one column: 0 * huge */
            array a[] = { { n, lo, 5, false, 0, 0 },       { s.c, 0.5, 2, false, 0, 0 },
                          { s.c, -1, 1, false, 0, 0 },     { n, 0, 0, true, 4e-6, slack },
                          { s.n, 0, 0, true, 1e-6, 1e-6 }, { s.n, 0, 0, true, 3e-6, 0 } };
            CHECK(agrees_with_f64(call_layer_norm, &s, a, 6, NULL));
            array g[] = { { n, -3, 5, false, 0, 0 },   { s.c, 0.5, 2, false, 0, 0 },
                          { s.n, -1, 1, false, 0, 0 }, { s.n, 0.3, 1, false, 0, 0 },
                          { n, -1, 1, false, 0, 0 },   { n, 0, 0, true, 1e-5, 1e-5 } };
            CHECK(agrees_with_f64(call_layer_norm_dx, &s, g, 6, NULL));
        }
}

TEST(layer_norm_parameter_gradients)
{
    for (size_t i = 0; i < sizeof row_shapes / sizeof *row_shapes; i++)
        for (int variant = 0; variant < 8; variant++)
            for (int acc = RK_ACC_SET; acc <= RK_ACC_CHAIN; acc++) {
                shape s = { .n = row_shapes[i][0],
                            .c = row_shapes[i][1],
                            .affine = variant & 1,
                            .centred = variant & 2 };
                s.order = (rk_order){ variant & 4 && acc != RK_ACC_CHAIN ? 8 : 1, 1, (rk_acc)acc };
                int64_t n = s.n * s.c;
                array a[] = { { n, -3, 5, false, 0, 0 },        { s.n, -1, 1, false, 0, 0 },
                              { s.n, 0.3, 1, false, 0, 0 },     { n, -1, 1, false, 0, 0 },
                              { s.c, -1, 1, true, 1e-6, 3e-5 }, { s.c, -1, 1, true, 1e-6, 3e-5 } };
                CHECK(agrees_with_f64(call_layer_norm_dparam, &s, a, 6, NULL));
            }
}

/* ---- batch norm ---- */

static rk_status call_stats(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    return k->batch_norm_stats(dev, s->n, s->c, s->s, s->order, p[0], p[1], p[2]);
}

/* p: x, mean, var, gamma, beta; y, rstd */
static rk_status call_batch_norm(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    return k->batch_norm(dev, s->n, s->c, s->s, p[0], p[1], p[2], s->affine ? p[3] : NULL,
                         s->affine ? p[4] : NULL, 1e-5, p[5], p[6]);
}

/* p: x, mean, rstd, dy; dgamma, dbeta */
static rk_status call_dparam(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    return k->batch_norm_dparam(dev, s->n, s->c, s->s, s->order, p[0], p[1], p[2], p[3], p[4], p[5]);
}

/* p: x, mean, rstd, gamma, dgamma, dbeta, dy; dx */
static rk_status call_dx(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg)
{
    const shape *s = arg;
    return k->batch_norm_dx(dev, s->n, s->c, s->s, s->n * s->s, p[0], p[1], p[2], s->affine ? p[3] : NULL,
                            p[4], p[5], p[6], p[7]);
}

static const int64_t image_shapes[][3] = { { 8, 3, 49 },   { 16, 40, 49 }, { 4, 5, 1024 }, { 9, 33, 1 },
                                           { 64, 130, 1 }, { 7, 3, 4 },    { 3, 2, 17 } };
enum { IMAGES = sizeof image_shapes / sizeof *image_shapes };

TEST(batch_norm)
{
    for (int i = 0; i < IMAGES; i++)
        for (int segments = 1; segments <= 8; segments *= 2) {
            shape s = { .n = image_shapes[i][0],
                        .c = image_shapes[i][1],
                        .s = image_shapes[i][2],
                        .affine = segments & 5 };
            s.order = (rk_order){ segments, 1, RK_ACC_SET };
            int64_t n = s.n * s.c * s.s;
            array stats[] = { { n, 9, 11, false, 0, 0 },
                              { s.c, 0, 0, true, 1e-6, 0 },
                              { s.c, 0, 0, true, 3e-6, 0 } };
            CHECK(agrees_with_f64(call_stats, &s, stats, 3, NULL));
            array y[] = { { n, -3, 5, false, 0, 0 },    { s.c, -1, 1, false, 0, 0 },
                          { s.c, 0.1, 2, false, 0, 0 }, { s.c, 0.5, 2, false, 0, 0 },
                          { s.c, -1, 1, false, 0, 0 },  { n, 0, 0, true, 1e-6, 3e-6 },
                          { s.c, 0, 0, true, 3e-7, 0 } };
            CHECK(agrees_with_f64(call_batch_norm, &s, y, 7, NULL));
            array dparam[] = { { n, -3, 5, false, 0, 0 },        { s.c, -1, 1, false, 0, 0 },
                               { s.c, 0.3, 1, false, 0, 0 },     { n, -1, 1, false, 0, 0 },
                               { s.c, -1, 1, true, 1e-5, 2e-4 }, { s.c, -1, 1, true, 1e-5, 2e-4 } };
            CHECK(agrees_with_f64(call_dparam, &s, dparam, 6, NULL));
            array dx[] = { { n, -3, 5, false, 0, 0 },    { s.c, -1, 1, false, 0, 0 },
                           { s.c, 0.3, 1, false, 0, 0 }, { s.c, 0.5, 2, false, 0, 0 },
                           { s.c, -1, 1, false, 0, 0 },  { s.c, -1, 1, false, 0, 0 },
                           { n, -1, 1, false, 0, 0 },    { n, 0, 0, true, 1e-6, 1e-6 } };
            CHECK(agrees_with_f64(call_dx, &s, dx, 8, NULL));
        }
}

/* ---- the order of the sums, literally ---- */

typedef struct channel {
    const float *x, *dy;
    float mean, rstd;
    int64_t c, s;
} channel;

static float square_lanes(const channel *c, int64_t n, bool weighted)
{
    const float *x = c->x + n * c->c * c->s, *dy = c->dy + n * c->c * c->s;
    float lane[RK_LANES] = { 0 };
    for (int64_t i = 0; i < c->s; i++) {
        float d = x[i] - c->mean, *l = &lane[i % RK_LANES];
        *l = weighted ? fmaf(dy[i], d * c->rstd, *l) : fmaf(d, d, *l);
    }
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            lane[l] += lane[l + h];
    return lane[0];
}

static float square_term(const void *arg, int64_t n)
{
    return square_lanes(arg, n, false);
}

static float weighted_term(const void *arg, int64_t n)
{
    return square_lanes(arg, n, true);
}

TEST(batch_norm_sums_follow_the_order)
{
    enum { N = 12, C = 5, S = 37 };
    float *x = ref_random(N * C * S, 1, -1, 3), *dy = ref_random(N * C * S, 2, -1, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int segments = 1; segments <= 8; segments *= 2) {
            rk_order order = { segments, 1, RK_ACC_SET };
            float mean[C], sum[C], var[C], rstd[C], dgamma[C], dbeta[C], plain[C], squares[C];
            CHECK_INT(it.k->batch_norm_stats(it.dev, N, C, S, order, x, mean, var), RK_OK);
            CHECK_INT(it.k->sum_channels(it.dev, N, C, S, order, x, sum), RK_OK);
            CHECK_INT(it.k->sum_channels(it.dev, N, C, S, order, dy, plain), RK_OK);
            CHECK_INT(it.k->sum_channel_squares(it.dev, N, C, S, order, x, mean, squares), RK_OK);
            for (int c = 0; c < C; c++)
                rstd[c] = 1 / sqrtf(var[c] + 1e-5f);
            CHECK_INT(it.k->batch_norm_dparam(it.dev, N, C, S, order, x, mean, rstd, dy, dgamma, dbeta),
                      RK_OK);
            for (int c = 0; c < C; c++) {
                channel ch = { x + c * S, dy + c * S, mean[c], rstd[c], C, S };
                CHECK(var[c] == squares[c] / (float)(N * S));
                float want[4] = { sum[c] / (float)(N * S),
                                  ref_ordered(square_term, &ch, N, order, 0) / (float)(N * S),
                                  ref_ordered(weighted_term, &ch, N, order, 0), plain[c] };
                float got[4] = { mean[c], var[c], dgamma[c], dbeta[c] };
                CHECK(ref_same(got, want, 4));
            }
        }
    CHECK(ref_free(x, N * C * S) && ref_free(dy, N * C * S));
}

/* Channels of single elements are columns: the same definition, another code path. */
TEST(columns_are_channels_of_one_element)
{
    enum { N = 23, C = 71 };
    float *x = ref_random(N * C, 1, -1, 3), *dy = ref_random(N * C, 2, -1, 1);
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int segments = 1; segments <= 8; segments *= 2) {
            rk_order order = { segments, 1, RK_ACC_SET };
            float mean[C], var[C], rstd[C], dgamma[C], dbeta[C], squares[C];
            it.k->batch_norm_stats(it.dev, N, C, 1, order, x, mean, var);
            it.k->sum_channel_squares(it.dev, N, C, 1, order, x, mean, squares);
            for (int c = 0; c < C; c++)
                rstd[c] = 1 / sqrtf(var[c] + 1e-5f);
            it.k->batch_norm_dparam(it.dev, N, C, 1, order, x, mean, rstd, dy, dgamma, dbeta);
            for (int c = 0; c < C; c++) {
                channel ch = { x + c, dy + c, mean[c], rstd[c], C, 1 };
                CHECK(var[c] == squares[c] / (float)N);
                float want[2] = { ref_ordered(square_term, &ch, N, order, 0) / (float)N,
                                  ref_ordered(weighted_term, &ch, N, order, 0) };
                float got[2] = { var[c], dgamma[c] };
                CHECK(ref_same(got, want, 2));
            }
        }
    CHECK(ref_free(x, N * C) && ref_free(dy, N * C));
}

TEST_MAIN
