/* Pooling against its definition, bit by bit, on every device. */
#include "cpu/cpu_devices.h"

static uint32_t seed = 7;

/* Few different values, so that maxima tie; both zeros. */
static float number(void)
{
    seed = seed * 1664525u + 1013904223u;
    int v = (int)(seed >> 20) % 9 - 4;
    return v == 0 && seed >> 19 & 1 ? -0.0f : (float)v * 0.7f;
}

static float *numbers(int64_t n)
{
    float *p = malloc((size_t)(n > 0 ? n : 1) * sizeof *p);
    for (int64_t i = 0; i < n; i++)
        p[i] = number();
    return p;
}

typedef struct box {
    int64_t h0, h1, w0, w1;
} box;

static box window(const rk_pool2d *g, int64_t oh, int64_t ow)
{
    box b = { oh * g->stride_h - g->pad_h, 0, ow * g->stride_w - g->pad_w, 0 };
    b.h1 = b.h0 + g->kh;
    b.w1 = b.w0 + g->kw;
    if (g->kh == 0)
        b = (box){ oh * g->h / g->oh, ((oh + 1) * g->h + g->oh - 1) / g->oh, ow * g->w / g->ow,
                   ((ow + 1) * g->w + g->ow - 1) / g->ow };
    b.h0 = b.h0 < 0 ? 0 : b.h0;
    b.w0 = b.w0 < 0 ? 0 : b.w0;
    b.h1 = b.h1 > g->h ? g->h : b.h1;
    b.w1 = b.w1 > g->w ? g->w : b.w1;
    return b;
}

typedef struct want {
    float *max, *avg, *max_grad, *avg_grad;
    int32_t *arg;
} want;

/* One plane by the definition; everything is written. */
static void define(const rk_pool2d *g, const float *x, const float *dy, want w)
{
    for (int64_t i = 0; i < g->h * g->w; i++)
        w.max_grad[i] = w.avg_grad[i] = 0;
    for (int64_t o = 0; o < g->oh * g->ow; o++) {
        box b = window(g, o / g->ow, o % g->ow);
        bool any = b.h0 < b.h1 && b.w0 < b.w1;
        float best = -INFINITY, sum = 0, count = (float)((b.h1 - b.h0) * (b.w1 - b.w0));
        int64_t at = any ? b.h0 * g->w + b.w0 : -1;
        for (int64_t h = b.h0; h < b.h1; h++)
            for (int64_t c = b.w0; c < b.w1; c++) {
                float v = x[h * g->w + c];
                sum += v;
                if (v > best || isnan(v)) {
                    best = v;
                    at = h * g->w + c;
                }
                w.avg_grad[h * g->w + c] += dy[o] / count;
            }
        w.max[o] = best;
        w.arg[o] = (int32_t)at;
        w.avg[o] = any ? sum / count : 0;
        if (at >= 0)
            w.max_grad[at] += dy[o];
    }
}

enum { WALL = 40 };
static const uint32_t BRICK = 0x4640e5a5;

static void *walled(int64_t n)
{
    uint32_t *p = malloc((size_t)(n + 2 * WALL) * sizeof *p);
    for (int64_t i = 0; i < n + 2 * WALL; i++)
        p[i] = BRICK;
    return p + WALL;
}

static char failure[200];

/* Compares 4-byte elements and the walls about them (any NaN equals any NaN); frees got. */
static bool same(const char *what, const cpu_iter *d, const rk_pool2d *g, void *got_, const void *want_,
                 int64_t n, bool floats)
{
    uint32_t *got = got_;
    const uint32_t *wanted = want_;
    int64_t at = -WALL;
    for (; at < n + WALL; at++) {
        uint32_t w = at < 0 || at >= n ? BRICK : wanted[at];
        float a, b;
        memcpy(&a, &got[at], 4);
        memcpy(&b, &w, 4);
        if (got[at] != w && !(floats && isnan(a) && isnan(b)))
            break;
    }
    if (at < n + WALL)
        snprintf(failure, sizeof failure,
                 "%s on %s, %d threads, %dx%d, kernel %dx%d, output %dx%d: element %lld", what, d->isa,
                 d->threads, (int)g->h, (int)g->w, (int)g->kh, (int)g->kw, (int)g->oh, (int)g->ow,
                 (long long)at);
    free(got - WALL);
    return at == n + WALL;
}

static bool same_everywhere(const rk_pool2d *g, const float *x, const float *dy)
{
    int64_t planes = g->n * g->c, in = g->h * g->w, out = g->oh * g->ow;
    want w = { numbers(planes * out), numbers(planes * out), numbers(planes * in), numbers(planes * in),
               malloc((size_t)(planes * out + 1) * sizeof(int32_t)) };
    for (int64_t p = 0; p < planes; p++)
        define(g, x + p * in, dy + p * out,
               (want){ w.max + p * out, w.avg + p * out, w.max_grad + p * in, w.avg_grad + p * in,
                       w.arg + p * out });
    bool good = true;
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *max = walled(planes * out), *avg = walled(planes * out), *mg = walled(planes * in),
              *ag = walled(planes * in);
        int32_t *arg = walled(planes * out);
        it.k->max_pool2d(it.dev, g, x, max, arg);
        it.k->avg_pool2d(it.dev, g, x, avg);
        it.k->max_pool2d_grad(it.dev, g, w.arg, dy, mg);
        it.k->avg_pool2d_grad(it.dev, g, dy, ag);
        good &= same("max", &it, g, max, w.max, planes * out, true);
        good &= same("arg", &it, g, arg, w.arg, planes * out, false);
        good &= same("avg", &it, g, avg, w.avg, planes * out, true);
        good &= same("max gradient", &it, g, mg, w.max_grad, planes * in, true);
        good &= same("avg gradient", &it, g, ag, w.avg_grad, planes * in, true);
    }
    free(w.max);
    free(w.avg);
    free(w.max_grad);
    free(w.avg_grad);
    free(w.arg);
    return good;
}

/* n c h w kh kw, stride, pad (height and width each); kh 0: adaptive, then oh ow instead of strides */
static rk_pool2d args(const int64_t a[10])
{
    rk_pool2d g = { .n = a[0], .c = a[1], .h = a[2], .w = a[3], .kh = a[4], .kw = a[5] };
    if (g.kh == 0) {
        g.oh = a[6];
        g.ow = a[7];
        return g;
    }
    g.stride_h = a[6];
    g.stride_w = a[7];
    g.pad_h = a[8];
    g.pad_w = a[9];
    g.oh = (g.h + 2 * g.pad_h - g.kh) / g.stride_h + 1;
    g.ow = (g.w + 2 * g.pad_w - g.kw) / g.stride_w + 1;
    return g;
}

static const int64_t shapes[][10] = {
    { 1, 1, 1, 1, 1, 1, 1, 1, 0, 0 },   { 2, 3, 28, 28, 2, 2, 2, 2, 0, 0 },
    { 3, 2, 7, 33, 2, 2, 2, 2, 0, 0 },  { 2, 3, 9, 70, 2, 2, 2, 2, 0, 0 },
    { 2, 2, 33, 17, 3, 3, 2, 2, 1, 1 }, { 1, 5, 9, 9, 3, 3, 1, 1, 1, 1 },
    { 2, 2, 11, 8, 2, 3, 3, 1, 0, 1 },  { 1, 2, 6, 6, 2, 2, 2, 2, 1, 1 },
    { 1, 3, 5, 1, 3, 1, 2, 1, 1, 0 },   { 2, 3, 7, 7, 0, 0, 1, 1, 0, 0 },
    { 2, 3, 10, 7, 0, 0, 3, 2, 0, 0 },  { 1, 2, 5, 6, 0, 0, 7, 4, 0, 0 },
    { 70, 17, 4, 4, 2, 2, 2, 2, 0, 0 }, { 2, 2, 7, 7, 2, 2, 3, 3, 3, 2 },
    { 0, 3, 4, 4, 2, 2, 2, 2, 0, 0 },   { 64, 20, 16, 16, 2, 2, 2, 2, 0, 0 },
};

static void check_shapes(float special)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        rk_pool2d g = args(shapes[i]);
        int64_t in = g.n * g.c * g.h * g.w, out = g.n * g.c * g.oh * g.ow;
        float *x = numbers(in), *dy = numbers(out);
        for (int64_t q = 0; special != 0 && q < in; q += 5)
            x[q] = special;
        bool good = same_everywhere(&g, x, dy);
        free(x);
        free(dy);
        if (!good)
            TEST_FAIL("%s", failure);
    }
}

TEST(shapes)
{
    check_shapes(0);
}

/* A NaN is a window's maximum, whatever else is in it. */
TEST(nan)
{
    check_shapes(NAN);
}

TEST(minus_infinity)
{
    check_shapes(-INFINITY);
}

/* The f64 table follows the same definition: exact on these numbers but for the divisions. */
TEST(double_table)
{
    rk_dev *dev = cpu_open("portable", 1);
    const rk_kernels *k = rk_device_cpu.kernels(dev, RK_F64);
    double worst = 0;
    bool same_args = true;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        rk_pool2d g = args(shapes[i]);
        int64_t planes = g.n * g.c, in = g.h * g.w, out = g.oh * g.ow;
        float *x = numbers(planes * in), *dy = numbers(planes * out);
        want w = { numbers(out), numbers(out), numbers(in), numbers(in),
                   malloc((size_t)out * sizeof(int32_t)) };
        double *xd = malloc((size_t)(planes * in + 1) * 8), *dyd = malloc((size_t)(planes * out + 1) * 8);
        double *max = malloc((size_t)(planes * out + 1) * 8), *avg = malloc((size_t)(planes * out + 1) * 8);
        double *mg = malloc((size_t)(planes * in + 1) * 8), *ag = malloc((size_t)(planes * in + 1) * 8);
        int32_t *arg = malloc((size_t)(planes * out + 1) * 4);
        for (int64_t q = 0; q < planes * in; q++)
            xd[q] = x[q];
        for (int64_t q = 0; q < planes * out; q++)
            dyd[q] = dy[q];
        k->max_pool2d(dev, &g, xd, max, arg);
        k->avg_pool2d(dev, &g, xd, avg);
        k->max_pool2d_grad(dev, &g, arg, dyd, mg);
        k->avg_pool2d_grad(dev, &g, dyd, ag);
        for (int64_t p = 0; p < planes; p++) {
            define(&g, x + p * in, dy + p * out, w);
            for (int64_t o = 0; o < out; o++) {
                same_args &= arg[p * out + o] == w.arg[o] && max[p * out + o] == w.max[o];
                worst = fmax(worst, fabs(avg[p * out + o] - w.avg[o]));
            }
            for (int64_t q = 0; q < in; q++)
                worst = fmax(
                    worst, fmax(fabs(mg[p * in + q] - w.max_grad[q]), fabs(ag[p * in + q] - w.avg_grad[q])));
        }
        void *all[] = { x, dy, w.max, w.avg, w.max_grad, w.avg_grad, w.arg, xd, dyd, max, avg, mg, ag, arg };
        for (size_t q = 0; q < sizeof all / sizeof *all; q++)
            free(all[q]);
    }
    rk_device_cpu.close(dev);
    CHECK(same_args);
    CHECK_CLOSE(worst, 0, 0, 1e-5);
}

TEST_MAIN
