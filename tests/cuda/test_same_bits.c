/* Kernels of the CUDA device, run on the host, give the bits of the CPU in f32, on ordinary numbers and on
 * zeros of both signs, subnormal, huge, infinite and undefined ones (of a NaN, that it is one), at sizes
 * around those of packs, lanes, chunks and blocks, at addresses that are aligned and that are not; in f64
 * they are close. */
#include "host_run.h"
#include "test.h"

#include "core/order.h"

typedef enum kind {
    WILD,   /* anything */
    TAME,   /* in (-4, 4) */
    ABOVE,  /* in (0.5, 2) */
    FAINT,  /* 2^-100 */
    BELOW,  /* -2^-100, and -0 in the second half */
    LABELS, /* int64_t in [0, limit); every seventh is `limit` / 2 */
    PLACES, /* int64_t, written */
} kind;

typedef struct array {
    kind kind;
    int64_t n, limit;
} array;

enum { MOST_ARRAYS = 8, MOST_HOST = 40000, SHIFT = 1 };

typedef struct shape {
    int64_t rows, cols, inner;
    int segments;
    rk_acc acc;
    double p;
    bool flag;
} shape;

/* p: the arrays; host: numbers that an entry gives on the host. */
typedef rk_status call_fn(const rk_kernels *k, rk_dev *dev, const shape *s, void *const *p, double *host);

static rk_dev *cpu, *gpu;
static const rk_device *cuda;
static uint64_t state = 1;

static uint64_t next(void)
{
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static double between(double lo, double hi)
{
    return lo + (hi - lo) * (double)(next() >> 11) * 0x1p-53;
}

static double wild(void)
{
    static const double odd[] = { 0.0,         -0.0,           INFINITY,        -INFINITY,
                                  NAN,         0x1p-149,       -0x1p-149,       0x1p-127,
                                  -0x1.8p-128, 0x1.fffffep127, -0x1.fffffep127, 1,
                                  -1,          88.8,           -103.9 };
    uint64_t r = next() % 64;
    if (r < sizeof odd / sizeof *odd)
        return odd[r];
    return r < 24 ? ldexp(between(-1, 1), (int)(next() % 250) - 125) : between(-4, 4);
}

static size_t element(const array *a, rk_dtype t)
{
    return a->kind >= LABELS || t == RK_F64 ? 8 : 4;
}

static void fill_array(const array *a, rk_dtype t, void *p)
{
    for (int64_t i = 0; i < a->n; i++) {
        if (a->kind >= LABELS) {
            ((int64_t *)p)[i] = a->kind == PLACES ? -1
                                : i % 7 == 3      ? a->limit / 2
                                                  : (int64_t)(next() % (uint64_t)a->limit);
            continue;
        }
        double v = a->kind == WILD    ? wild()
                   : a->kind == TAME  ? between(-4, 4)
                   : a->kind == ABOVE ? between(0.5, 2)
                   : a->kind == FAINT ? 0x1p-100
                   : i < a->n / 2     ? -0x1p-100
                                      : -0.0;
        if (t == RK_F64)
            ((double *)p)[i] = v;
        else
            ((float *)p)[i] = (float)v;
    }
}

/* Bits in f32, and of what is no number of T; one in 10^10 of the largest in f64. */
static bool same(const array *a, rk_dtype t, const void *x, const void *y)
{
    double top = 1;
    if (a->kind >= LABELS)
        return !memcmp(x, y, 8 * (size_t)a->n);
    for (int64_t i = 0; i < a->n && t == RK_F64; i++)
        top = fmax(top, fabs(((const double *)x)[i]));
    for (int64_t i = 0; i < a->n; i++)
        if (t == RK_F64) {
            double u = ((const double *)x)[i], v = ((const double *)y)[i];
            if (!(fabs(u - v) <= 1e-10 * top) && u == u)
                return false;
        } else {
            float u = ((const float *)x)[i], v = ((const float *)y)[i];
            if (memcmp(&u, &v, sizeof u) && (u == u || v == v)) {
                fprintf(stderr, "element %lld: cpu %a, cuda %a\n", (long long)i, (double)u, (double)v);
                return false;
            }
        }
    return true;
}

/* One call on both devices; `shift` elements from where memory begins. */
static bool agree_at(call_fn *call, const shape *s, rk_dtype t, int arrays, const array *a, int shift)
{
    static double host[2][MOST_HOST];
    void *on_cpu[MOST_ARRAYS], *on_gpu[MOST_ARRAYS], *whole[MOST_ARRAYS];
    for (int k = 0; k < MOST_HOST; k++)
        host[0][k] = host[1][k] = -1;
    for (int i = 0; i < arrays; i++) {
        size_t bytes = (size_t)a[i].n * element(a + i, t);
        on_cpu[i] = malloc(bytes + 1);
        fill_array(a + i, t, on_cpu[i]);
        if (cuda->alloc(gpu, bytes + (size_t)shift * element(a + i, t) + 1, whole + i))
            exit(1);
        on_gpu[i] = (char *)whole[i] + (size_t)shift * element(a + i, t);
        if (cuda->copy_in(gpu, on_gpu[i], on_cpu[i], bytes))
            exit(1);
    }
    rk_status st = call(rk_device_cpu.kernels(cpu, t), cpu, s, on_cpu, host[0]);
    bool ok = st == call(cuda->kernels(gpu, t), gpu, s, on_gpu, host[1]) && st == RK_OK;
    for (int k = 0; k < MOST_HOST && ok; k++)
        ok = !memcmp(host[0] + k, host[1] + k, sizeof(double)) ||
             (host[0][k] != host[0][k] && host[1][k] != host[1][k]);
    if (!ok)
        fprintf(stderr, "status or host numbers differ\n");
    for (int i = 0; i < arrays; i++) {
        size_t bytes = (size_t)a[i].n * element(a + i, t);
        void *back = malloc(bytes + 1);
        ok &= !cuda->copy_out(gpu, back, on_gpu[i], bytes) && same(a + i, t, on_cpu[i], back);
        free(back);
        cuda->release(gpu, whole[i], bytes + (size_t)shift * element(a + i, t) + 1);
        free(on_cpu[i]);
    }
    if (!ok)
        fprintf(stderr, "differs: %s, (%lld, %lld, %lld), %d segments, acc %d, p %g, shift %d\n",
                t == RK_F64 ? "f64" : "f32", (long long)s->rows, (long long)s->cols, (long long)s->inner,
                s->segments, (int)s->acc, s->p, shift);
    return ok;
}

/* f32 on wild and on tame numbers, f64 on tame ones. */
static bool agree(call_fn *call, const shape *s, int arrays, const array *a)
{
    array tame[MOST_ARRAYS];
    for (int i = 0; i < arrays; i++) {
        tame[i] = a[i];
        if (a[i].kind == WILD)
            tame[i].kind = TAME;
    }
    return agree_at(call, s, RK_F32, arrays, a, 0) && agree_at(call, s, RK_F32, arrays, a, SHIFT) &&
           agree_at(call, s, RK_F32, arrays, tame, 0) && agree_at(call, s, RK_F64, arrays, tame, 0);
}

#define CALL(name)                                                                                 \
    static rk_status call_##name(const rk_kernels *k, rk_dev *dev, const shape *s, void *const *p, \
                                 double *host)
#define UNUSED (void)s, (void)p, (void)host

TEST(devices_open)
{
    char msg[512] = "";
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    CHECK(m && (cuda = m->device));
    CHECK(cuda->open(&(rk_open_cfg){ 0 }, &gpu, msg, sizeof msg) == RK_OK);
    CHECK(rk_device_cpu.open(&(rk_open_cfg){ .threads = 1 }, &cpu, msg, sizeof msg) == RK_OK);
}

/* ---- elementwise ---- */

static const int64_t lengths[] = { 0, 1, 3, 4, 5, 255, 1023, 1025, 4099 };
enum { LENGTHS = sizeof lengths / sizeof *lengths };

#define MAP1(name, ns, f32, f64)                        \
    CALL(name)                                          \
    {                                                   \
        UNUSED;                                         \
        return k->name(dev, s->rows, p[0], s->p, p[1]); \
    }
#define MAP2(name, ns, f32, f64)                              \
    CALL(name)                                                \
    {                                                         \
        UNUSED;                                               \
        return k->name(dev, s->rows, p[0], p[1], s->p, p[2]); \
    }
#include "core/maps.def"
MAP1(pow_scalar, 0, , )
MAP2(pow_scalar_grad, 0, , )
#undef MAP1
#undef MAP2

typedef struct map {
    const char *name;
    call_fn *call;
    int arrays;
} map;

static const map maps[] = {
#define MAP1(name, ns, f32, f64) { #name, call_##name, 2 },
#define MAP2(name, ns, f32, f64) { #name, call_##name, 3 },
#include "core/maps.def"
    MAP1(pow_scalar, 0, , ) MAP2(pow_scalar_grad, 0, , )
};

TEST(maps)
{
    for (size_t m = 0; m < sizeof maps / sizeof *maps; m++)
        for (int i = 0; i < LENGTHS; i++) {
            int64_t n = lengths[i];
            shape s = { .rows = n, .p = i % 2 ? 0.75 : -2.5 };
            bool f64_positive = !strcmp(maps[m].name, "log") || !strncmp(maps[m].name, "pow", 3) ||
                                strstr(maps[m].name, "sqrt") || strstr(maps[m].name, "div");
            const array a[] = { { WILD, n, 0 }, { WILD, n, 0 }, { WILD, n, 0 } };
            const array b[] = { { ABOVE, n, 0 }, { ABOVE, n, 0 }, { ABOVE, n, 0 } };
            bool ok = agree_at(maps[m].call, &s, RK_F32, maps[m].arrays, a, 0) &&
                      agree_at(maps[m].call, &s, RK_F32, maps[m].arrays, a, SHIFT) &&
                      agree_at(maps[m].call, &s, RK_F64, maps[m].arrays, b, 0);
            if (ok && !f64_positive)
                ok = agree(maps[m].call, &s, maps[m].arrays, a);
            if (!ok)
                TEST_FAIL("%s of %lld", maps[m].name, (long long)n);
        }
}

TEST(powers)
{
    static const double p[] = { 0, 1, -1, 2, 3, -3, 0.5, 2.5, -0.25, 40, NAN, INFINITY };
    const array a[] = { { WILD, 777, 0 }, { WILD, 777, 0 }, { WILD, 777, 0 } };
    for (size_t i = 0; i < sizeof p / sizeof *p; i++) {
        shape s = { .rows = 777, .p = p[i] };
        CHECK(agree_at(call_pow_scalar, &s, RK_F32, 2, a, 0));
        CHECK(agree_at(call_pow_scalar_grad, &s, RK_F32, 3, a, 0));
    }
}

/* ---- rows ---- */

static const int64_t rows_of[][2] = { { 0, 5 },    { 1, 1 },     { 3, 7 },    { 17, 16 }, { 5, 33 },
                                      { 64, 10 },  { 33, 130 },  { 2, 1000 }, { 300, 3 }, { 3, 1024 },
                                      { 2, 5003 }, { 70, 1100 }, { 9, 128 } };
enum { ROWS_OF = sizeof rows_of / sizeof *rows_of };

#define EACH_SHAPE(s)                       \
    for (int at_ = 0; at_ < ROWS_OF; at_++) \
        for (shape s = { .rows = rows_of[at_][0], .cols = rows_of[at_][1] }, *once_ = &s; once_; once_ = NULL)

#define CALL_ROWS(name, ...)                                \
    CALL(name)                                              \
    {                                                       \
        UNUSED;                                             \
        return k->name(dev, s->rows, s->cols, __VA_ARGS__); \
    }

CALL_ROWS(softmax, p[0], p[1])
CALL_ROWS(softmax_grad, p[0], p[1], p[2])
CALL_ROWS(log_softmax, p[0], p[1])
CALL_ROWS(log_softmax_grad, p[0], p[1], p[2])
CALL_ROWS(row_max, p[0], p[1])
CALL_ROWS(cross_entropy, p[0], p[1], s->p, s->flag, s->cols / 2, p[2], p[3])
CALL_ROWS(cross_entropy_part, s->segments, s->cols / 2, p[0], p[1], p[2], p[3], s->flag ? p[4] : NULL, p[5])
CALL_ROWS(cross_entropy_grad, 3, 2 * s->cols, p[0], p[1], p[2], s->p, s->flag, s->cols / 2, 0.25, p[3])
CALL_ROWS(layer_norm, p[0], s->flag ? p[1] : NULL, s->p > 0 ? p[2] : NULL, 1e-5, p[3], p[4], p[5])
CALL_ROWS(rms_norm, p[0], s->flag ? p[1] : NULL, 1e-5, p[2], p[3])
CALL_ROWS(layer_norm_dx, p[0], s->flag ? p[1] : NULL, p[2], p[3], p[4], p[5])
CALL_ROWS(rms_norm_dx, p[0], s->flag ? p[1] : NULL, p[2], p[3], p[4])

CALL(cross_entropy_join)
{
    UNUSED;
    return k->cross_entropy_join(dev, s->rows, s->cols, p[0], s->p, s->flag, s->cols / 2, p[1], p[2],
                                 s->p > 0 ? p[3] : NULL, p[4], p[5], p[6]);
}

TEST(softmax)
{
    EACH_SHAPE(s)
    {
        const int64_t n = s.rows * s.cols;
        const array a[] = { { WILD, n, 0 }, { WILD, n, 0 }, { WILD, n, 0 } };
        CHECK(agree(call_softmax, &s, 2, a));
        CHECK(agree(call_log_softmax, &s, 2, a));
        CHECK(agree(call_softmax_grad, &s, 3, a));
        CHECK(agree(call_log_softmax_grad, &s, 3, a));
        CHECK(agree(call_row_max, &s, 2, (array[]){ { WILD, n, 0 }, { WILD, s.rows, 0 } }));
    }
}

/* The longest that stay in registers, of f32 and of f64, and enough of them for no row to have a block. */
TEST(softmax_in_registers)
{
    for (int64_t cols = 512; cols <= 1024; cols *= 2) {
        shape s = { .rows = 70, .cols = cols };
        CHECK(agree(call_softmax, &s, 2, (array[]){ { WILD, 70 * cols, 0 }, { WILD, 70 * cols, 0 } }));
    }
}

/* A sum of products that vanish is +0. */
TEST(vanishing_products)
{
    for (int64_t n = 16; n <= 64; n++) {
        shape s = { .rows = 1, .cols = n };
        CHECK(agree(call_softmax_grad, &s, 3, (array[]){ { FAINT, n, 0 }, { BELOW, n, 0 }, { WILD, n, 0 } }));
    }
}

TEST(cross_entropy)
{
    EACH_SHAPE(s) for (int way = 0; way < 4; way++)
    {
        const int64_t n = s.rows * s.cols, r = s.rows;
        const array x = { WILD, n, 0 }, target = { LABELS, r, s.cols }, row = { WILD, r, 0 };
        const array all = { LABELS, r, 2 * s.cols }, sum = { ABOVE, r, 0 };
        s.p = way & 1 ? 0.1 : 0;
        s.flag = way & 2;
        s.segments = 1 << way;
        CHECK(agree(call_cross_entropy, &s, 4, (array[]){ x, target, row, row }));
        CHECK(agree(call_cross_entropy_part, &s, 6, (array[]){ x, all, row, row, row, row }));
        CHECK(agree(call_cross_entropy_join, &s, 7, (array[]){ target, row, sum, row, row, row, row }));
        CHECK(agree(call_cross_entropy_grad, &s, 4, (array[]){ x, all, row, x }));
    }
}

TEST(norms)
{
    EACH_SHAPE(s) for (int way = 0; way < 4; way++)
    {
        const array x = { WILD, s.rows * s.cols, 0 }, col = { WILD, s.cols, 0 }, row = { WILD, s.rows, 0 };
        s.flag = way & 1;
        s.p = way & 2;
        CHECK(agree(call_layer_norm, &s, 6, (array[]){ x, col, col, x, row, row }));
        CHECK(agree(call_rms_norm, &s, 4, (array[]){ x, col, x, row }));
        CHECK(agree(call_layer_norm_dx, &s, 6, (array[]){ x, col, row, row, x, x }));
        CHECK(agree(call_rms_norm_dx, &s, 5, (array[]){ x, col, row, x, x }));
    }
}

/* ---- reductions ---- */

CALL(reduce_sum)
{
    UNUSED;
    const rk_order order = { .segments = s->segments, .unit = 1, .acc = s->acc };
    return k->reduce_sum(dev, s->rows, s->cols, s->inner, order, p[0], p[1]);
}

CALL(layer_norm_dparam)
{
    UNUSED;
    const rk_order order = { .segments = s->segments, .unit = s->cols % 3 ? 1 : 3, .acc = s->acc };
    return k->layer_norm_dparam(dev, s->cols, s->inner, order, p[0], s->flag ? p[1] : NULL, p[2], p[3], p[4],
                                s->flag ? p[5] : NULL);
}

CALL(reduce_max)
{
    UNUSED;
    return k->reduce_max(dev, s->rows, s->cols, s->inner, p[0], s->flag ? p[1] : NULL, p[2]);
}

CALL(reduce_min)
{
    UNUSED;
    return k->reduce_min(dev, s->rows, s->cols, s->inner, p[0], p[1], s->flag ? p[2] : NULL);
}

TEST(sums_and_extremes)
{
    static const int64_t outer[] = { 0, 1, 3 }, n[] = { 0, 1, 9, 40, 333 }, inner[] = { 1, 2, 31, 33, 100 };
    for (int i = 0; i < 3 * 5 * 5; i++) {
        shape s = { .rows = outer[i % 3], .cols = n[i / 3 % 5], .inner = inner[i / 15], .flag = i % 2 };
        const int64_t out = s.rows * s.inner;
        const array x = { WILD, out * s.cols, 0 }, y = { WILD, out, 0 }, at = { PLACES, out, 0 };
        CHECK(agree(call_reduce_max, &s, 3, (array[]){ x, y, at }));
        CHECK(agree(call_reduce_min, &s, 3, (array[]){ x, y, at }));
        const array part = { WILD, s.cols * s.inner, 0 }, row = { WILD, s.cols, 0 },
                    col = { WILD, s.inner, 0 };
        for (s.segments = 1; s.segments <= 64; s.segments *= 4)
            for (int acc = RK_ACC_SET; acc <= (s.segments > 1 ? RK_ACC_ADD : RK_ACC_CHAIN); acc++) {
                s.acc = (rk_acc)acc;
                CHECK(agree(call_reduce_sum, &s, 2, (array[]){ x, y }));
                if (s.rows == 1)
                    CHECK(agree(call_layer_norm_dparam, &s, 6, (array[]){ part, row, row, part, col, col }));
            }
    }
}

CALL(sum_squares)
{
    UNUSED;
    bool bad = false;
    rk_status st = k->sum_squares(dev, s->rows, p[0], host, &bad);
    host[1] = bad;
    return st;
}

static const rk_device *device_of(const rk_dev *dev)
{
    return dev == gpu ? cuda : &rk_device_cpu;
}

/* Of rows that are cut short, and of none. */
CALL(squares)
{
    UNUSED;
    const rk_square_rows piece[] = {
        { .x = p[0],
          .n = s->rows * (s->cols + 2) - 3,
          .rows = s->rows,
          .cols = s->cols,
          .ld = s->cols + 2,
          .step = 3 },
        { .n = s->rows, .rows = s->rows, .cols = 1, .ld = 1, .first = 1, .step = 3 },
        { .x = p[0], .n = s->rows, .rows = s->rows, .cols = 1, .ld = 1, .first = 2, .step = 3 },
    };
    const size_t bytes = (size_t)(3 * s->rows) * sizeof *host;
    double *sums = NULL;
    rk_status st = device_of(dev)->alloc(dev, bytes + 1, (void **)&sums);
    if (!st)
        st = k->squares(dev, 3, piece, sums);
    if (!st)
        st = device_of(dev)->copy_out(dev, host, sums, bytes);
    device_of(dev)->release(dev, sums, bytes + 1);
    return st;
}

CALL(mul_by)
{
    UNUSED;
    return k->mul_by(dev, s->rows, p[0], p[1], p[2]);
}

/* Rows, of 16 threads or a block each. */
TEST(row_sums)
{
    EACH_SHAPE(s)
    {
        s.inner = s.segments = 1;
        CHECK(agree(call_reduce_sum, &s, 2, (array[]){ { WILD, s.rows * s.cols, 0 }, { WILD, s.rows, 0 } }));
    }
}

TEST(squares)
{
    static const int64_t n[] = { 0, 1, 15, 17, 4095, 4096, 4097, 12289, 70001 };
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        shape s = { .rows = n[i] };
        for (int k = 0; k < 2; k++) {
            const array x = { k ? WILD : TAME, n[i], 0 };
            CHECK(agree(call_sum_squares, &s, 1, &x));
            CHECK(agree(call_mul_by, &s, 3, (array[]){ x, { x.kind, 1, 0 }, { TAME, n[i], 0 } }));
        }
    }
    EACH_SHAPE(s)
    {
        if (3 * s.rows < MOST_HOST && s.rows * (s.cols + 2) > 3)
            CHECK(agree(call_squares, &s, 1, (array[]){ { WILD, s.rows * (s.cols + 2), 0 } }));
    }
}

/* ---- random numbers ---- */

static const rk_rng rng = { .key = { 0x89abcdef, 2 }, .ctr = { 0xfffffff0, 4, 5 } };

CALL(uniform)
{
    UNUSED;
    return k->uniform(dev, s->rows, rng, p[0]);
}

CALL(normal)
{
    UNUSED;
    return k->normal(dev, s->rows, rng, p[0]);
}

CALL(dropout)
{
    UNUSED;
    return k->dropout(dev, s->rows, s->cols, UINT64_C(0xfffffffe), s->p, rng, p[0], p[1]);
}

TEST(random_numbers)
{
    for (int i = 0; i < LENGTHS; i++) {
        shape s = { .rows = lengths[i] };
        const array y = { TAME, lengths[i], 0 };
        CHECK(agree(call_uniform, &s, 1, &y));
        CHECK(agree(call_normal, &s, 1, &y));
    }
    EACH_SHAPE(s) for (s.p = 0; s.p <= 1; s.p += 0.25)
    {
        const array x = { WILD, s.rows * s.cols, 0 };
        CHECK(agree(call_dropout, &s, 2, (array[]){ x, x }));
    }
}

/* ---- optimisers ---- */

static rk_optim_args optim_of(const shape *s)
{
    const int way = s->segments;
    return (rk_optim_args){ .lr = 0.01,
                            .grad_scale = 0.5,
                            .beta1 = 0.9,
                            .beta2 = 0.99,
                            .eps = 1e-6,
                            .bias1 = 0.271,
                            .bias2 = 0.0297,
                            .momentum = 0.9,
                            .dampening = way & 2 ? 0.3 : 0,
                            .nesterov = way & 4,
                            .decoupled = way & 8,
                            .first = way & 16 };
}

enum { MOST_PIECES = 40 };

/* s->cols pieces of unlike lengths, empty ones among them, of arrays of s->rows elements. */
static int pieces_of(const rk_kernels *k, const shape *s, void *const *p, rk_optim_piece piece[MOST_PIECES])
{
    const size_t size = k->dtype == RK_F64 ? 8 : 4;
    const int n = (int)s->cols;
    for (int i = 0; i < n; i++) {
        const int64_t lo = s->rows * i / n * (i % 3 != 1), hi = s->rows * (i + 1) / n;
        const int64_t from = i % 3 == 1 ? s->rows * i / n + (hi - s->rows * i / n) / 2 : lo;
        void *at[4];
        for (int a = 0; a < 4; a++)
            at[a] = p[a] ? (char *)p[a] + (size_t)from * size : NULL;
        piece[i] = (rk_optim_piece){ .n = i % 7 == 6 ? 0 : hi - from,
                                     .w = at[0],
                                     .g = at[1],
                                     .m = at[2],
                                     .v = at[3],
                                     .weight_decay = s->segments & 1 ? 0.1 * (i % 2 + 1) : 0 };
    }
    return n;
}

CALL(adam)
{
    UNUSED;
    rk_optim_piece piece[MOST_PIECES];
    const rk_optim_args o = optim_of(s);
    return k->adam(dev, &o, pieces_of(k, s, p, piece), piece);
}

CALL(sgd)
{
    UNUSED;
    rk_optim_piece piece[MOST_PIECES];
    const rk_optim_args o = optim_of(s);
    void *const mine[] = { p[0], p[1], s->flag ? p[2] : NULL, NULL };
    return k->sgd(dev, &o, pieces_of(k, s, mine, piece), piece);
}

CALL(ema)
{
    UNUSED;
    rk_optim_piece piece[MOST_PIECES];
    void *const mine[] = { p[0], p[1], NULL, NULL };
    return k->ema(dev, 0.97, NULL, pieces_of(k, s, mine, piece), piece);
}

CALL(collect)
{
    UNUSED;
    rk_optim_piece piece[MOST_PIECES];
    void *const mine[] = { p[0], p[1], NULL, NULL };
    return k->collect(dev, s->flag, pieces_of(k, s, mine, piece), piece);
}

/* The chunks of each piece, whose sums stand in the order of `order`: the last one first. */
static int chunks_of(const rk_optim_piece *piece, int n, rk_square_rows *rows, int64_t *bound, int64_t *order)
{
    int64_t sums = 0;
    bound[0] = 0;
    for (int i = 0; i < n; i++)
        bound[i + 1] = bound[i] + (piece[i].n + RK_CHUNK - 1) / RK_CHUNK;
    sums = bound[n];
    for (int64_t c = 0; c < sums; c++)
        order[c] = sums - 1 - c;
    for (int i = 0; i < n; i++)
        rows[i] = (rk_square_rows){ .x = piece[i].g,
                                    .n = piece[i].n,
                                    .rows = bound[i + 1] - bound[i],
                                    .cols = RK_CHUNK,
                                    .ld = RK_CHUNK,
                                    .first = sums - 1 - bound[i],
                                    .step = -1 };
    return (int)sums;
}

enum { MOST_SUMS = 200 };

/* What judge() works with, in the device's memory. */
typedef struct court {
    rk_watch watch;
    double sums[MOST_SUMS], part[MOST_PIECES];
    int64_t order[MOST_SUMS], bound[MOST_PIECES + 1];
} court;

/* Two steps that the device decides about by itself: p are w, g, m, v, avg, loss (2). host: what it noted. */
CALL(watched)
{
    rk_optim_piece piece[MOST_PIECES], follow[MOST_PIECES];
    rk_square_rows rows[MOST_PIECES];
    court now = { .watch.power = 1 }, *there;
    rk_optim_args o = optim_of(s);
    const size_t size = k->dtype == RK_F64 ? 8 : 4;
    const int n = pieces_of(k, s, p, piece);
    if (chunks_of(piece, n, rows, now.bound, now.order) > MOST_SUMS)
        return RK_EINTERNAL;
    pieces_of(k, s, (void *const[]){ p[4], p[0], NULL, NULL }, follow);
    rk_status st = device_of(dev)->alloc(dev, sizeof *there, (void **)&there);
    if (!st)
        st = device_of(dev)->copy_in(dev, there, &now, sizeof *there);
    o.watch = &there->watch;
    for (int step = 0; step < 2 && !st; step++) {
        const rk_judge_args a = { .sums = there->sums,
                                  .order = there->order,
                                  .bound = there->bound,
                                  .part = there->part,
                                  .pieces = n,
                                  .loss = s->flag ? (char *)p[5] + (size_t)step * size : NULL,
                                  .clip_norm = s->p,
                                  .loss_scale = 8,
                                  .moves = s->segments & 2,
                                  .beta1 = o.beta1,
                                  .beta2 = o.beta2,
                                  .watch = &there->watch,
                                  .slot = 3 * step };
        st = k->squares(dev, n, rows, there->sums);
        if (!st)
            st = k->judge(dev, &a);
        if (!st)
            st = k->adam(dev, &o, n, piece);
        if (!st)
            st = k->ema(dev, 0.9, &there->watch.still, n, follow);
    }
    if (!st)
        st = device_of(dev)->copy_out(dev, &now, there, sizeof now);
    device_of(dev)->release(dev, there, sizeof *there);
    const rk_watch *w = &now.watch;
    const double noted[] = { w->scale,          w->bias1,          w->bias2,          (double)w->still,
                             (double)w->halted, (double)w->steps,  (double)w->power,  (double)w->good,
                             w->seed64,         (double)w->seed32, (double)w->ticket, (double)w->skipped,
                             now.part[n / 2] };
    memcpy(host, noted, sizeof noted);
    for (int i = 0; i < 2; i++) {
        const rk_verdict *v = &w->verdict[3 * i];
        const double of[] = { v->loss, v->norm, v->loss_scale, (double)v->bad, (double)v->left_out };
        memcpy(host + 20 + 5 * i, of, sizeof of);
    }
    return st;
}

/* Tables of pieces that travel with the launch, and those that do not. */
TEST(decisions_of_the_device)
{
    static const int64_t cut[] = { 0, 1, 5, 16, 17, 40 };
    static const kind kinds[] = { TAME, WILD, FAINT };
    for (size_t c = 0; c < sizeof cut / sizeof *cut; c++)
        for (int64_t rows = 40; rows < 60000; rows *= 37)
            for (int k = 0; k < 3; k++) {
                shape s = {
                    .rows = rows, .cols = cut[c], .p = k == 0 ? 1.5 : 1e9, .segments = (int)c, .flag = c % 2
                };
                const array g = { kinds[k], rows, 0 }, w = { ABOVE, rows, 0 };
                const array loss = { k == 2 ? WILD : TAME, 2, 0 };
                CHECK(agree_at(call_watched, &s, RK_F32, 6, (array[]){ w, g, w, w, w, loss }, k % 2));
                if (k == 0)
                    CHECK(agree_at(call_watched, &s, RK_F64, 6, (array[]){ w, g, w, w, w, loss }, 0));
            }
}

TEST(optimisers)
{
    for (int i = 0; i < LENGTHS; i++)
        for (int way = 0; way < 32; way += lengths[i] == 1023 ? 1 : 5) {
            shape s = {
                .rows = lengths[i], .cols = way % 4 ? way % 5 + 1 : 30, .segments = way, .flag = way % 3
            };
            const array w = { WILD, lengths[i], 0 }, above = { ABOVE, lengths[i], 0 };
            CHECK(agree_at(call_adam, &s, RK_F32, 4, (array[]){ w, w, w, w }, way % 2));
            CHECK(agree_at(call_adam, &s, RK_F64, 4, (array[]){ above, above, above, above }, 0));
            CHECK(agree(call_sgd, &s, 3, (array[]){ w, w, w }));
            CHECK(way || agree(call_ema, &s, 2, (array[]){ w, w }));
            CHECK(way > 2 || agree(call_collect, &s, 2, (array[]){ w, w }));
        }
}

TEST(devices_close)
{
    cuda->close(gpu);
    rk_device_cpu.close(cpu);
}

TEST_MAIN
