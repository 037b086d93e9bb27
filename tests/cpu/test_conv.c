/* The convolutions' bits: every device against a literal chain of fmaf, over odd shapes. */
#include "cpu/cpu_devices.h"

#include "core/order.h"
#include "cpu/operands.h"

static int64_t extent(int64_t in, int64_t k, int64_t stride, int64_t pad, int64_t dil)
{
    return (in + 2 * pad - (k - 1) * dil - 1) / stride + 1;
}

/* ---- the definition ---- */

typedef struct problem {
    rk_conv2d_args g;
    float *x, *w, *bias, *y, *dy, *dx, *dw; /* y, dx, dw: what is wanted */
    int64_t nx, nw, ny;
} problem;

static float term(const problem *p, float a, float b, float sum)
{
    return fmaf(rounded(p->g.round, a), rounded(p->g.round, b), sum);
}

/* x of a sample and channel, zero in the padding. */
static float x_at(const problem *p, int64_t n, int64_t c, int64_t ih, int64_t iw)
{
    const rk_conv2d_args *g = &p->g;
    bool inside = ih >= 0 && ih < g->h && iw >= 0 && iw < g->w;
    return inside ? p->x[((n * g->c + c) * g->h + ih) * g->w + iw] : 0;
}

static void want_y(problem *p, bool with_bias, bool relu)
{
    const rk_conv2d_args *g = &p->g;
    int64_t gc = g->c / g->groups, goc = g->oc / g->groups;
    float *y = p->y;
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t oc = 0; oc < g->oc; oc++)
            for (int64_t o = 0; o < g->oh * g->ow; o++) {
                const float *w = p->w + oc * gc * g->kh * g->kw;
                float sum = 0;
                for (int64_t c = 0; c < gc; c++)
                    for (int64_t kh = 0; kh < g->kh; kh++)
                        for (int64_t kw = 0; kw < g->kw; kw++)
                            sum = term(p, *w++,
                                       x_at(p, n, oc / goc * gc + c,
                                            o / g->ow * g->stride_h + kh * g->dil_h - g->pad_h,
                                            o % g->ow * g->stride_w + kw * g->dil_w - g->pad_w),
                                       sum);
                sum = with_bias ? sum + p->bias[oc] : sum;
                *y++ = relu ? (0 > sum ? 0 : sum) : sum;
            }
}

/* dy where tap k of input index i comes from: false if the stride steps over it; zero where there is no
 * output. */
static bool dy_index(int64_t i, int64_t k, int64_t stride, int64_t pad, int64_t dil, int64_t *o)
{
    int64_t at = i + pad - k * dil;
    *o = at >= 0 ? at / stride : -1;
    return at % stride == 0;
}

static float want_dx_at(const problem *p, int64_t n, int64_t c, int64_t ih, int64_t iw)
{
    const rk_conv2d_args *g = &p->g;
    int64_t gc = g->c / g->groups, goc = g->oc / g->groups, oh, ow;
    float sum = 0;
    for (int64_t oc = c / gc * goc; oc < (c / gc + 1) * goc; oc++)
        for (int64_t kh = 0; kh < g->kh; kh++)
            for (int64_t kw = 0; kw < g->kw; kw++)
                if (dy_index(ih, kh, g->stride_h, g->pad_h, g->dil_h, &oh) &&
                    dy_index(iw, kw, g->stride_w, g->pad_w, g->dil_w, &ow)) {
                    bool inside = oh >= 0 && oh < g->oh && ow >= 0 && ow < g->ow;
                    float dy = inside ? p->dy[((n * g->oc + oc) * g->oh + oh) * g->ow + ow] : 0;
                    sum = term(p, p->w[((oc * gc + c % gc) * g->kh + kh) * g->kw + kw], dy, sum);
                }
    return sum;
}

static void want_dx(problem *p)
{
    const rk_conv2d_args *g = &p->g;
    for (int64_t i = 0; i < p->nx; i++)
        p->dx[i] =
            want_dx_at(p, i / (g->c * g->h * g->w), i / (g->h * g->w) % g->c, i / g->w % g->h, i % g->w);
}

/* The chain of one weight over samples [lo, hi). */
static float dw_chain(const problem *p, int64_t i, int64_t lo, int64_t hi, float sum)
{
    const rk_conv2d_args *g = &p->g;
    int64_t gc = g->c / g->groups, goc = g->oc / g->groups;
    int64_t oc = i / (gc * g->kh * g->kw), c = oc / goc * gc + i / (g->kh * g->kw) % gc,
            kh = i / g->kw % g->kh, kw = i % g->kw;
    for (int64_t n = lo; n < hi; n++)
        for (int64_t oh = 0; oh < g->oh; oh++)
            for (int64_t ow = 0; ow < g->ow; ow++)
                sum = term(p, p->dy[((n * g->oc + oc) * g->oh + oh) * g->ow + ow],
                           x_at(p, n, c, oh * g->stride_h + kh * g->dil_h - g->pad_h,
                                ow * g->stride_w + kw * g->dil_w - g->pad_w),
                           sum);
    return sum;
}

static float dw_tree(const problem *p, int64_t i, int64_t lo, int64_t hi, int segments)
{
    if (segments == 1)
        return dw_chain(p, i, lo, hi, 0);
    int64_t mid = lo + (hi - lo) / 2;
    float left = dw_tree(p, i, lo, mid, segments / 2);
    return left + dw_tree(p, i, mid, hi, segments / 2);
}

static void want_dw(problem *p, rk_order order, const float *start)
{
    for (int64_t i = 0; i < p->nw; i++) {
        if (order.acc == RK_ACC_CHAIN) {
            p->dw[i] = dw_chain(p, i, 0, p->g.n, start[i]);
            continue;
        }
        float sum = dw_tree(p, i, 0, p->g.n, order.segments);
        p->dw[i] = order.acc == RK_ACC_ADD ? start[i] + sum : sum;
    }
}

/* ---- problems ---- */

static problem make(rk_conv2d_args g)
{
    g.oh = extent(g.h, g.kh, g.stride_h, g.pad_h, g.dil_h);
    g.ow = extent(g.w, g.kw, g.stride_w, g.pad_w, g.dil_w);
    problem p = { .g = g };
    p.nx = g.n * g.c * g.h * g.w;
    p.nw = g.oc * (g.c / g.groups) * g.kh * g.kw;
    p.ny = g.n * g.oc * g.oh * g.ow;
    p.x = numbers(p.nx);
    p.w = numbers(p.nw);
    p.bias = numbers(g.oc);
    p.y = numbers(p.ny);
    p.dy = numbers(p.ny);
    p.dx = numbers(p.nx);
    p.dw = numbers(p.nw);
    return p;
}

static void drop(problem *p)
{
    float *all[] = { p->x, p->w, p->bias, p->y, p->dy, p->dx, p->dw };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* An output between two walls that must stand. */
enum { WALL = 70 };
static const float BRICK = 12345.5f;

static float *walled(const float *start, int64_t n)
{
    float *p = malloc((size_t)(n + 2 * WALL) * sizeof *p);
    for (int64_t i = 0; i < n + 2 * WALL; i++)
        p[i] = BRICK;
    if (start && n)
        memcpy(p + WALL, start, (size_t)n * sizeof *p);
    return p;
}

static char failure[300];

/* Compares and frees; says what differs. */
static bool same(const cpu_iter *d, const problem *p, const char *what, rk_status st, float *got,
                 const float *want, int64_t n)
{
    const rk_conv2d_args *g = &p->g;
    int64_t at = -1;
    for (int64_t i = 0; i < n + 2 * WALL && at < 0; i++) {
        float w = i < WALL || i >= n + WALL ? BRICK : want[i - WALL];
        if (memcmp(&got[i], &w, sizeof w))
            at = i;
    }
    if (at >= 0 || st)
        snprintf(failure, sizeof failure,
                 "%s on %s, %d threads: n %d c %d h %d w %d oc %d k %dx%d stride %d %d pad %d %d dil %d %d "
                 "groups %d: "
                 "status %d, element %lld of %lld is %.9g, wanted %.9g",
                 what, d->isa, d->threads, (int)g->n, (int)g->c, (int)g->h, (int)g->w, (int)g->oc, (int)g->kh,
                 (int)g->kw, (int)g->stride_h, (int)g->stride_w, (int)g->pad_h, (int)g->pad_w, (int)g->dil_h,
                 (int)g->dil_w, (int)g->groups, st, (long long)at - WALL, (long long)n, at >= 0 ? got[at] : 0,
                 at >= WALL && at < n + WALL ? want[at - WALL] : BRICK);
    free(got);
    return at < 0 && !st;
}

static bool same_y(const cpu_iter *d, const problem *p, bool bias, bool relu)
{
    float *y = walled(NULL, p->ny);
    rk_status st = d->k->conv2d(d->dev, &p->g, p->x, p->w, bias ? p->bias : NULL,
                                relu ? RK_ACT_RELU : RK_ACT_NONE, y + WALL);
    return same(d, p, "y", st, y, p->y, p->ny);
}

static bool same_dx(const cpu_iter *d, const problem *p)
{
    float *dx = walled(NULL, p->nx);
    rk_status st = d->k->conv2d_dx(d->dev, &p->g, p->dy, p->w, dx + WALL);
    return same(d, p, "dx", st, dx, p->dx, p->nx);
}

static bool same_dw(const cpu_iter *d, const problem *p, rk_order order, const float *start)
{
    float *dw = walled(start, p->nw);
    rk_status st = d->k->conv2d_dw(d->dev, &p->g, order, p->x, p->dy, dw + WALL);
    return same(d, p, "dw", st, dw, p->dw, p->nw);
}

typedef struct devices {
    cpu_iter it[CPU_ISAS * CPU_MOST_THREADS];
    int count;
} devices;

static const devices *all_devices(void)
{
    static devices all;
    for (int i = 0; all.count == 0 && i < CPU_ISAS * CPU_MOST_THREADS; i++) {
        static int opened;
        cpu_iter it = { .isa = cpu_isas[i / CPU_MOST_THREADS], .threads = 1 + i % CPU_MOST_THREADS };
        it.dev = cpu_open(it.isa, it.threads);
        if (it.dev) {
            it.k = rk_device_cpu.kernels(it.dev, RK_F32);
            all.it[opened++] = it;
        }
        if (i == CPU_ISAS * CPU_MOST_THREADS - 1)
            all.count = opened;
    }
    if (all.count == 0)
        abort();
    return &all;
}

/* Output and both gradients on every device. */
static bool same_everywhere(problem *p, int variant)
{
    const devices *all = all_devices();
    static const rk_acc accs[] = { RK_ACC_SET, RK_ACC_ADD, RK_ACC_CHAIN };
    rk_order order = { .unit = p->g.oh * p->g.ow, .acc = accs[variant % 3] };
    order.segments = order.acc == RK_ACC_CHAIN ? 1 : 1 << variant / 2 % 5;
    float *start = numbers(p->nw);
    bool bias = variant & 1, relu = variant & 2, good = true;
    want_y(p, bias, relu);
    want_dx(p);
    want_dw(p, order, start);
    for (int i = 0; i < all->count && good; i++)
        good = same_y(&all->it[i], p, bias, relu) && same_dx(&all->it[i], p) &&
               same_dw(&all->it[i], p, order, start);
    free(start);
    return good;
}

#define CHECK_SAME(p, variant)                       \
    do {                                             \
        bool same_ = same_everywhere(&(p), variant); \
        drop(&(p));                                  \
        if (!same_)                                  \
            TEST_FAIL("%s", failure);                \
    } while (0)

/* n c h w oc kh kw, stride, pad, dilation (height and width each), groups */
static rk_conv2d_args args(const int64_t a[14])
{
    return (rk_conv2d_args){ .n = a[0],
                             .c = a[1],
                             .h = a[2],
                             .w = a[3],
                             .oc = a[4],
                             .kh = a[5],
                             .kw = a[6],
                             .stride_h = a[7],
                             .stride_w = a[8],
                             .pad_h = a[9],
                             .pad_w = a[10],
                             .dil_h = a[11],
                             .dil_w = a[12],
                             .groups = a[13] };
}

TEST(shapes)
{
    static const int64_t shape[][14] = {
        { 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1 },     { 2, 3, 7, 33, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1 },
        { 3, 1, 28, 28, 17, 3, 3, 1, 1, 1, 1, 1, 1, 1 },  { 5, 17, 8, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1 },
        { 2, 16, 14, 14, 33, 3, 3, 1, 1, 1, 1, 1, 1, 1 }, { 3, 5, 33, 7, 3, 2, 2, 1, 1, 0, 0, 1, 1, 1 },
        { 2, 3, 17, 17, 6, 5, 5, 1, 1, 2, 2, 1, 1, 1 },   { 1, 2, 33, 33, 7, 7, 7, 2, 2, 3, 3, 1, 1, 1 },
        { 9, 17, 16, 16, 7, 1, 1, 1, 1, 0, 0, 1, 1, 1 },  { 4, 16, 16, 16, 32, 1, 1, 2, 2, 0, 0, 1, 1, 1 },
        { 3, 16, 16, 16, 9, 3, 3, 2, 2, 1, 1, 1, 1, 1 },  { 2, 3, 7, 7, 4, 3, 3, 3, 3, 0, 0, 1, 1, 1 },
        { 2, 3, 9, 11, 4, 3, 2, 2, 3, 2, 1, 1, 1, 1 },    { 2, 3, 16, 12, 4, 4, 4, 4, 4, 0, 0, 1, 1, 1 },
        { 3, 2, 7, 1, 3, 3, 1, 1, 1, 1, 0, 1, 1, 1 },     { 3, 2, 1, 7, 3, 1, 3, 1, 1, 0, 1, 1, 1, 1 },
        { 2, 4, 3, 3, 40, 3, 3, 1, 1, 2, 2, 1, 1, 1 },    { 2, 20, 6, 6, 12, 3, 3, 1, 1, 0, 0, 1, 1, 1 },
        { 70, 3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1 },    { 1, 40, 5, 40, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1 },
        { 2, 8, 6, 67, 16, 3, 3, 2, 2, 1, 1, 1, 1, 1 },   { 2, 8, 9, 80, 16, 1, 1, 2, 2, 0, 0, 1, 1, 1 },
        { 2, 8, 16, 32, 16, 1, 1, 1, 1, 0, 0, 1, 1, 1 },  { 1, 12, 32, 32, 8, 1, 1, 1, 1, 0, 0, 1, 1, 1 },
        { 2, 8, 5, 21, 24, 2, 2, 1, 1, 0, 0, 1, 1, 1 },   { 2, 3, 8, 26, 8, 1, 2, 1, 2, 0, 0, 1, 1, 1 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        problem p = make(args(shape[i]));
        CHECK_SAME(p, (int)i);
    }
}

/* Runs all three between guard pages on every device; the tiles are compiled without sanitizers, so a read or
 * a write beyond an operand ends the program here. False if the bits are wrong. */
static bool within_fences(const problem *p, rk_order order, bool front)
{
    const devices *all = all_devices();
    fenced x = fence(p->nx, p->x, front), w = fence(p->nw, p->w, front),
           bias = fence(p->g.oc, p->bias, front), dy = fence(p->ny, p->dy, front),
           y = fence(p->ny, p->dy, front), dx = fence(p->nx, p->x, front), dw = fence(p->nw, p->w, front);
    bool good = true;
    for (int i = 0; i < all->count && good; i++) {
        const cpu_iter *d = &all->it[i];
        good = d->k->conv2d(d->dev, &p->g, x.p, w.p, bias.p, RK_ACT_NONE, y.p) == RK_OK &&
               d->k->conv2d_dx(d->dev, &p->g, dy.p, w.p, dx.p) == RK_OK &&
               d->k->conv2d_dw(d->dev, &p->g, order, x.p, dy.p, dw.p) == RK_OK &&
               memcmp(y.p, p->y, (size_t)p->ny * sizeof(float)) == 0 &&
               memcmp(dx.p, p->dx, (size_t)p->nx * sizeof(float)) == 0 &&
               memcmp(dw.p, p->dw, (size_t)p->nw * sizeof(float)) == 0;
    }
    fenced *f[] = { &x, &w, &bias, &dy, &y, &dx, &dw };
    for (size_t i = 0; i < sizeof f / sizeof *f; i++)
        munmap(f[i]->pages, f[i]->bytes);
    return good;
}

TEST(nothing_beyond_the_operands)
{
    static const int64_t shape[][14] = {
        { 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1 },    { 2, 3, 5, 9, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1 },
        { 1, 2, 4, 17, 3, 3, 3, 1, 1, 0, 0, 1, 1, 1 },   { 1, 3, 7, 8, 9, 2, 3, 1, 1, 1, 2, 1, 1, 1 },
        { 2, 5, 6, 16, 17, 3, 3, 1, 1, 1, 1, 1, 1, 1 },  { 2, 3, 9, 11, 7, 3, 3, 2, 2, 1, 1, 1, 1, 1 },
        { 2, 4, 10, 10, 6, 1, 1, 2, 2, 0, 0, 1, 1, 1 },  { 1, 2, 7, 7, 4, 1, 2, 3, 3, 1, 0, 1, 1, 1 },
        { 1, 4, 9, 33, 8, 3, 3, 1, 1, 2, 12, 2, 12, 2 }, { 1, 2, 11, 40, 3, 3, 3, 1, 1, 0, 0, 1, 1, 1 },
        { 2, 2, 6, 11, 3, 1, 1, 2, 2, 0, 0, 1, 1, 1 },   { 2, 2, 11, 9, 3, 1, 1, 2, 2, 1, 1, 1, 1, 1 },
        { 2, 8, 5, 43, 16, 1, 1, 1, 1, 0, 0, 1, 1, 1 },  { 2, 8, 5, 43, 16, 1, 1, 2, 2, 0, 0, 1, 1, 1 },
        { 1, 8, 4, 7, 8, 1, 1, 1, 1, 0, 0, 1, 1, 1 },    { 2, 8, 7, 67, 16, 3, 3, 2, 2, 1, 1, 1, 1, 1 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        problem p = make(args(shape[i]));
        rk_order order = { 2, p.g.oh * p.g.ow, RK_ACC_SET };
        want_y(&p, true, false);
        want_dx(&p);
        want_dw(&p, order, NULL);
        bool good = within_fences(&p, order, false) && within_fences(&p, order, true);
        drop(&p);
        if (!good)
            TEST_FAIL("shape %d differs between the fences", (int)i);
    }
}

TEST(dilation)
{
    static const int64_t shape[][14] = {
        { 2, 3, 9, 10, 5, 3, 3, 1, 1, 2, 2, 2, 2, 1 },
        { 2, 3, 11, 9, 5, 3, 3, 2, 2, 2, 2, 2, 2, 1 },
        { 1, 2, 13, 14, 3, 2, 3, 2, 3, 0, 3, 3, 2, 1 },
        { 1, 2, 9, 17, 3, 3, 3, 1, 1, 0, 5, 1, 5, 1 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int variant = 0; variant < 3; variant++) {
            problem p = make(args(shape[i]));
            CHECK_SAME(p, variant);
        }
}

TEST(groups)
{
    static const int64_t shape[][14] = {
        { 2, 6, 7, 9, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2 },   { 2, 17, 8, 8, 17, 3, 3, 1, 1, 1, 1, 1, 1, 17 },
        { 3, 7, 9, 9, 14, 3, 3, 2, 2, 1, 1, 1, 1, 7 },  { 2, 12, 6, 6, 36, 1, 1, 1, 1, 0, 0, 1, 1, 3 },
        { 2, 4, 14, 14, 4, 5, 5, 1, 1, 2, 2, 1, 1, 4 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++)
        for (int variant = 0; variant < 6; variant++) {
            problem p = make(args(shape[i]));
            CHECK_SAME(p, variant);
        }
}

TEST(segments)
{
    for (int variant = 0; variant < 12; variant++)
        for (int64_t n = 1; n <= 21; n += 10) {
            problem p = make(args((const int64_t[]){ n, 3, 6, 5, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1 }));
            CHECK_SAME(p, variant);
        }
}

TEST(rounded_operands)
{
    static const int64_t shape[][14] = {
        { 2, 5, 9, 10, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1 },
        { 2, 6, 8, 8, 4, 3, 3, 2, 2, 1, 1, 1, 1, 2 },
        { 3, 9, 5, 7, 20, 1, 1, 1, 1, 0, 0, 1, 1, 1 },
    };
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        rk_conv2d_args g = args(shape[i]);
        for (g.round = RK_ROUND_BF16; g.round <= RK_ROUND_F16; g.round++) {
            problem p = make(g);
            CHECK_SAME(p, (int)i);
        }
    }
}

/* Padding that is wider than the window reaches: outputs that meet nothing else. */
TEST(wide_padding)
{
    for (int64_t kernel = 1; kernel <= 2; kernel++)
        for (int64_t pad = 1; pad <= 3; pad++)
            for (int64_t w = 2; w <= 11; w += 3) {
                const int64_t s = pad % 2 + 1;
                problem p =
                    make(args((const int64_t[]){ 2, 14, 11, w, 4, kernel, kernel, s, 1, pad, pad, 1, 1, 2 }));
                CHECK_SAME(p, (int)pad);
            }
}

/* Weights of 3 and more blocks of k; more channels than a block of the cache holds. */
TEST(many_channels)
{
    problem p = make(args((const int64_t[]){ 1, 150, 4, 5, 35, 3, 3, 1, 1, 1, 1, 1, 1, 1 }));
    CHECK_SAME(p, 1);
    p = make(args((const int64_t[]){ 2, 37, 4, 4, 130, 3, 3, 1, 1, 1, 1, 1, 1, 1 }));
    CHECK_SAME(p, 4);
}

TEST(empty)
{
    const devices *all = all_devices();
    for (int i = 0; i < all->count; i++) {
        problem p = make(args((const int64_t[]){ 0, 3, 6, 5, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1 }));
        memset(p.dw, 0, (size_t)p.nw * sizeof(float));
        bool good = same_y(&all->it[i], &p, true, false) && same_dx(&all->it[i], &p) &&
                    same_dw(&all->it[i], &p, (rk_order){ 8, 20, RK_ACC_SET }, NULL);
        drop(&p);
        if (!good)
            TEST_FAIL("%s", failure);
    }
}

/* What the parts of a batch give apart is what the batch gives: outputs by sample, weights by subtree. */
TEST(batch_split_over_ranks)
{
    const devices *all = all_devices();
    const rk_conv2d_args whole = args((const int64_t[]){ 21, 3, 9, 8, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1 });
    for (int ranks = 2; ranks <= 4; ranks *= 2)
        for (int i = 0; i < all->count; i++) {
            problem p = make(whole);
            const cpu_iter *d = &all->it[i];
            want_y(&p, true, true);
            want_dx(&p);
            want_dw(&p, (rk_order){ 8, p.g.oh * p.g.ow, RK_ACC_SET }, NULL);
            float *y = walled(NULL, p.ny), *dx = walled(NULL, p.nx), *dw[4];
            for (int r = 0; r < ranks; r++) {
                int64_t lo, hi, in = p.nx / p.g.n, out = p.ny / p.g.n;
                rk_order_leaf(p.g.n, ranks, r, &lo, &hi);
                rk_conv2d_args g = p.g;
                g.n = hi - lo;
                dw[r] = walled(NULL, p.nw);
                d->k->conv2d(d->dev, &g, p.x + lo * in, p.w, p.bias, RK_ACT_RELU, y + WALL + lo * out);
                d->k->conv2d_dx(d->dev, &g, p.dy + lo * out, p.w, dx + WALL + lo * in);
                d->k->conv2d_dw(d->dev, &g, (rk_order){ 8 / ranks, g.oh * g.ow, RK_ACC_SET }, p.x + lo * in,
                                p.dy + lo * out, dw[r] + WALL);
            }
            for (int step = 1; step < ranks; step *= 2)
                for (int r = 0; r < ranks; r += 2 * step)
                    for (int64_t q = WALL; q < p.nw + WALL; q++)
                        dw[r][q] += dw[r + step][q];
            for (int r = 1; r < ranks; r++)
                free(dw[r]);
            bool good = same(d, &p, "y in parts", RK_OK, y, p.y, p.ny);
            good &= same(d, &p, "dx in parts", RK_OK, dx, p.dx, p.nx);
            good &= same(d, &p, "dw in parts", RK_OK, dw[0], p.dw, p.nw);
            drop(&p);
            if (!good)
                TEST_FAIL("%s", failure);
        }
}

/* The f64 table is the reference of gradient checks; it must agree with the definition too. */
TEST(double_table)
{
    static const int64_t shape[][14] = {
        { 2, 6, 7, 9, 4, 3, 3, 1, 1, 1, 1, 1, 1, 2 },
        { 3, 2, 9, 11, 3, 3, 2, 2, 3, 2, 1, 2, 1, 1 },
        { 5, 3, 5, 5, 4, 1, 1, 2, 2, 0, 0, 1, 1, 1 },
    };
    const cpu_iter *d = &all_devices()->it[0];
    const rk_kernels *k = rk_device_cpu.kernels(d->dev, RK_F64);
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        problem p = make(args(shape[s]));
        want_y(&p, true, true);
        want_dx(&p);
        want_dw(&p, (rk_order){ 2, p.g.oh * p.g.ow, RK_ACC_SET }, NULL);
        const float *from[] = { p.x, p.w, p.bias, p.dy };
        int64_t size[] = { p.nx, p.nw, p.g.oc, p.ny };
        double *in[4];
        for (int i = 0; i < 4; i++) {
            in[i] = malloc((size_t)size[i] * sizeof(double));
            for (int64_t q = 0; q < size[i]; q++)
                in[i][q] = from[i][q];
        }
        double *out[3] = { malloc((size_t)p.ny * sizeof(double)), malloc((size_t)p.nx * sizeof(double)),
                           malloc((size_t)p.nw * sizeof(double)) };
        k->conv2d(d->dev, &p.g, in[0], in[1], in[2], RK_ACT_RELU, out[0]);
        k->conv2d_dx(d->dev, &p.g, in[3], in[1], out[1]);
        k->conv2d_dw(d->dev, &p.g, (rk_order){ 2, p.g.oh * p.g.ow, RK_ACC_SET }, in[0], in[3], out[2]);
        const float *want[] = { p.y, p.dx, p.dw };
        int64_t count[] = { p.ny, p.nx, p.nw };
        double worst = 0;
        for (int i = 0; i < 3; i++)
            for (int64_t q = 0; q < count[i]; q++)
                worst = fmax(worst, fabs(out[i][q] - want[i][q]));
        for (int i = 0; i < 4; i++)
            free(in[i]);
        for (int i = 0; i < 3; i++)
            free(out[i]);
        drop(&p);
        CHECK_CLOSE(worst, 0, 0, 3e-5);
    }
}

TEST_MAIN
