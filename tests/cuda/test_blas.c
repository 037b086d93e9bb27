/* Products of runs that may add in any order: cuBLASLt, whose stand-in checks every call, near a sum in
 * double precision, over shapes, strides, batches, epilogues and types; and our own kernels where the library
 * is missing or takes no such product. */
#include "host_run.h"
#include "test.h"

#include "core/kernels.h"

#include <rankine/rankine.h>

#include <math.h>
#include <string.h>

static const rk_device *device;
static bool host_run; /* else a GPU, and the library itself */
static uint64_t state = 1;

static int64_t draw(int64_t lo, int64_t hi)
{
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return lo + (int64_t)((state >> 33) % (uint64_t)(hi - lo + 1));
}

static bool coin(void)
{
    return draw(0, 1);
}

static rk_dev *open_inexact(void)
{
    char msg[512] = "";
    rk_dev *dev = NULL;
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    if (!m || m->device->open(&(rk_open_cfg){ .inexact = true }, &dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        exit(1);
    }
    device = m->device;
    host_run = m->host_run;
    return dev;
}

/* ---- a product and its reference ---- */

enum { A, B, C, BIAS, PRE, MASK, ARRAYS, AROUND = 7 };

typedef struct problem {
    rk_gemm g;
    rk_dtype type;
    int64_t size[ARRAYS];
    double *value[ARRAYS], *weight; /* weight: what the terms of an element of c amount to, for tolerances */
    bool bias, pre, mask;
    int64_t shift; /* elements by which arrays lie off the best alignment */
} problem;

/* What the table's type makes of x. */
static double held(rk_dtype t, double x)
{
    return t == RK_F32 ? (double)(float)x : x;
}

static double to_bits(double x, int digits, int least)
{
    int exponent;
    frexp(x, &exponent);
    double unit = ldexp(1, (exponent < least ? least : exponent) - digits);
    return rint(x / unit) * unit;
}

static double rounded(rk_round to, double x)
{
    return to == RK_ROUND_BF16 ? to_bits(x, 8, -125) : to == RK_ROUND_F16 ? to_bits(x, 11, -13) : x;
}

static double activated(rk_act act, double x)
{
    switch (act) {
    case RK_ACT_RELU:
        return x > 0 ? x : 0;
    case RK_ACT_GELU:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case RK_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
    default:
        return x;
    }
}

/* Writes c and pre, and weight. */
static void reference(problem *q)
{
    const rk_gemm *g = &q->g;
    const bool adds = g->order.segments > 0 && g->order.acc != RK_ACC_SET;
    for (int64_t z = 0; z < (g->batch ? g->batch : 1); z++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->n; j++) {
                const int64_t at = z * g->c_batch + i * g->ldc + j;
                double v = 0, weight = 0;
                for (int64_t k = 0; k < g->k; k++) {
                    double x = rounded(g->round, q->value[A][z * g->a_batch + i * g->a_row + k * g->a_col]);
                    double y = rounded(g->round, q->value[B][z * g->b_batch + k * g->b_row + j * g->b_col]);
                    v += x * y;
                    weight += fabs(x * y);
                }
                v += (adds ? q->value[C][at] : 0) + (q->bias ? q->value[BIAS][j] : 0);
                if (q->pre)
                    q->value[PRE][at] = v;
                v = activated(g->act, v);
                q->value[C][at] = q->mask && !(q->value[MASK][at] > 0) ? 0 : v;
                q->weight[at] = weight + 2;
            }
}

static void make(problem *q)
{
    const int64_t items = q->g.batch ? q->g.batch : 1;
    const rk_gemm *g = &q->g;
    q->size[A] = (items - 1) * g->a_batch + (g->m - 1) * g->a_row + (g->k - 1) * g->a_col + 1;
    q->size[B] = (items - 1) * g->b_batch + (g->k - 1) * g->b_row + (g->n - 1) * g->b_col + 1;
    q->size[C] = q->size[PRE] = q->size[MASK] = (items - 1) * g->c_batch + (g->m - 1) * g->ldc + g->n;
    q->size[BIAS] = g->n;
    q->weight = calloc((size_t)q->size[C] + 1, sizeof(double));
    for (int a = 0; a < ARRAYS; a++) {
        q->value[a] = calloc((size_t)q->size[a] + 1, sizeof(double));
        for (int64_t i = 0; i < q->size[a]; i++)
            q->value[a][i] = held(q->type, (double)draw(-1000, 1000) / 700);
    }
}

static void drop(problem *q)
{
    free(q->weight);
    for (int a = 0; a < ARRAYS; a++)
        free(q->value[a]);
}

/* ---- on the device ---- */

static size_t bytes_of(const problem *q, int a)
{
    return (size_t)(q->size[a] + q->shift + AROUND) * (q->type == RK_F32 ? 4 : 8);
}

static void *upload(rk_dev *dev, const problem *q, int a)
{
    void *p = NULL, *host = malloc(bytes_of(q, a));
    memset(host, 0x5c, bytes_of(q, a));
    for (int64_t i = 0; i < q->size[a]; i++)
        if (q->type == RK_F32)
            ((float *)host)[q->shift + i] = (float)q->value[a][i];
        else
            ((double *)host)[q->shift + i] = q->value[a][i];
    if (device->alloc(dev, bytes_of(q, a), &p) || device->copy_in(dev, p, host, bytes_of(q, a)))
        exit(1);
    free(host);
    return p;
}

static double largest, largest_of[2][3]; /* error by what is tolerated */

/* Elements of c or pre near what is wanted, those between its rows untouched. */
static bool compare(const problem *q, int a, const void *host, const double *before)
{
    const double eps = q->type == RK_F64 ? 0x1p-52 : 0x1p-23;
    const int64_t items = q->g.batch ? q->g.batch : 1;
    for (int64_t at = 0; at < q->size[a]; at++) {
        const int64_t in = items > 1 ? at % q->g.c_batch : at, row = in / q->g.ldc, col = in % q->g.ldc;
        double got = q->type == RK_F32 ? (double)((const float *)host)[q->shift + at]
                                       : ((const double *)host)[q->shift + at];
        if (row >= q->g.m || col >= q->g.n) {
            if (got != before[at])
                return fprintf(stderr, "element %lld lies between rows, and was written\n", (long long)at),
                       false;
            continue;
        }
        /* a sum of k terms in any order, and a few roundings after it */
        double error = fabs(got - q->value[a][at]) / (eps * q->weight[at] * sqrt((double)q->g.k + 4));
        if (!host_run && q->g.act == RK_ACT_GELU_TANH) /* GPUs have a quick tanh, whose error is 2^-11 */
            error /= 0x1p-10 / eps;
        largest = error > largest ? error : largest;
        if (!(error <= 2))
            return fprintf(stderr, "element %lld: %.17g, not %.17g\n", (long long)at, got, q->value[a][at]),
                   false;
    }
    return true;
}

/* Runs q on the device, and compares. */
static bool agrees(rk_dev *dev, problem *q)
{
    void *p[ARRAYS];
    double *before[ARRAYS] = { NULL };
    const size_t elem = q->type == RK_F32 ? 4 : 8;
    bool good = true;
    make(q);
    for (int a = 0; a < ARRAYS; a++) {
        p[a] = upload(dev, q, a);
        before[a] = malloc(((size_t)q->size[a] + 1) * sizeof(double));
        memcpy(before[a], q->value[a], (size_t)q->size[a] * sizeof(double));
    }
    reference(q);
    rk_gemm g = q->g;
#define AT(a) ((char *)p[a] + (size_t)q->shift * elem)
    g.a = AT(A);
    g.b = AT(B);
    g.c = AT(C);
    g.bias = q->bias ? AT(BIAS) : NULL;
    g.pre = q->pre ? AT(PRE) : NULL;
    g.relu_mask = q->mask ? AT(MASK) : NULL;
    good = device->kernels(dev, q->type)->gemm(dev, &g) == RK_OK;
    for (int a = 0; a < ARRAYS; a++) {
        char *host = malloc(bytes_of(q, a));
        good &= device->copy_out(dev, host, p[a], bytes_of(q, a)) == RK_OK;
        if (good && (a == C || (a == PRE && q->pre)))
            good = compare(q, a, host, before[a]);
        for (size_t i = 0; i < AROUND * elem; i++)
            good = good && host[(size_t)(q->shift + q->size[a]) * elem + i] == 0x5c;
        free(host);
        free(before[a]);
        device->release(dev, p[a], bytes_of(q, a));
    }
    drop(q);
    largest_of[q->type == RK_F64][q->g.round] = fmax(largest_of[q->type == RK_F64][q->g.round], largest);
    largest = 0;
    if (!good)
        fprintf(stderr,
                "%s %lld x %lld x %lld, round %d, acc %d, act %d, bias %d, pre %d, mask %d, batch %lld\n",
                rk_dtype_name(q->type), (long long)g.m, (long long)g.n, (long long)g.k, (int)g.round,
                (int)g.order.acc, (int)g.act, q->bias, q->pre, q->mask, (long long)g.batch);
    return good;
}

static int64_t extent(void)
{
    switch (draw(0, 5)) {
    case 0:
        return draw(1, 3);
    case 1:
        return 8 * draw(1, 6);
    default:
        return draw(1, 40);
    }
}

static problem draw_problem(void)
{
    const int64_t m = extent(), n = extent(), k = draw(0, 9) ? extent() : draw(100, 400),
                  pad = coin() ? 8 : draw(0, 3);
    const bool ta = coin(), tb = coin(), adds = draw(0, 3) == 0;
    problem q = {
        .type = draw(0, 3) ? RK_F32 : RK_F64, .bias = coin(), .mask = draw(0, 3) == 0, .shift = draw(0, 2)
    };
    q.g = (rk_gemm){ .m = m,
                     .n = n,
                     .k = k,
                     .a_row = ta ? 1 : k + pad,
                     .a_col = ta ? m + pad : 1,
                     .b_row = tb ? 1 : n + pad,
                     .b_col = tb ? k + pad : 1,
                     .ldc = coin() ? (n + 7) / 8 * 8 : n + draw(0, 2),
                     .batch = coin() ? 0 : draw(1, 4),
                     .order = { coin() ? 1 : 8, 1, adds ? RK_ACC_ADD : RK_ACC_SET },
                     .act = adds ? RK_ACT_NONE : (rk_act)draw(0, 3),
                     .round = q.type == RK_F32 ? (rk_round)draw(0, 2) : RK_ROUND_NONE };
    if (adds && coin())
        q.g.order = (rk_order){ 1, 1, RK_ACC_CHAIN };
    q.pre = !adds && coin();
    q.g.a_batch = coin() ? 0 : (ta ? k * q.g.a_col : m * q.g.a_row) + draw(0, 2);
    q.g.b_batch = coin() ? 0 : (tb ? n * q.g.b_col : k * q.g.b_row) + draw(0, 2);
    q.g.c_batch = m * q.g.ldc + 8 * draw(0, 1);
    return q;
}

/* Over all that a call may ask for; more shapes than are kept. */
static void products(int rounds)
{
    rk_dev *dev = open_inexact();
    for (int i = 0; i < rounds; i++) {
        problem q = draw_problem();
        CHECK(agrees(dev, &q));
    }
    device->close(dev);
}

TEST(it_says_who_multiplies)
{
    rk_ctx *ctx;
    CHECK(rk_open(&(rk_open_cfg){ .device = "cuda", .alone = true, .inexact = true }, &ctx) == RK_OK);
    CHECK(strstr(rk_device_describe(ctx), ", cuBLASLt ") != NULL);
    rk_close(ctx);
    CHECK(rk_open(&(rk_open_cfg){ .device = "cuda", .alone = true }, &ctx) == RK_OK);
    CHECK(strstr(rk_device_describe(ctx), "cuBLASLt") == NULL);
    rk_close(ctx);
    rk_dev *dev = open_inexact();
    device->close(dev);
    if (!host_run)
        return;
    setenv("RK_EMU_BLAS", "off", 1);
    CHECK(rk_open(&(rk_open_cfg){ .device = "cuda", .alone = true, .inexact = true }, &ctx) == RK_OK);
    CHECK(strstr(rk_device_describe(ctx), ", products by its own kernels: libcublasLt.so.13 was not found") !=
          NULL);
    rk_close(ctx);
    unsetenv("RK_EMU_BLAS");
}

TEST(products_are_near)
{
    products(400);
    for (int i = 0; i < 4; i++)
        printf("  %s: at most %.2f of sqrt(k + 4) roundings of the sum of magnitudes\n",
               (const char *[]){ "f32", "bf16", "f16", "f64" }[i], largest_of[i == 3][i % 3]);
}

TEST(the_library_may_be_missing_or_refuse)
{
    static const char *const how[] = { "off", "refuse", "plain" };
    if (!host_run)
        return;
    for (int i = 0; i < 3; i++) {
        setenv("RK_EMU_BLAS", how[i], 1);
        products(60);
    }
    unsetenv("RK_EMU_BLAS");
}

/* The products of attention: a head is a matrix inside of longer rows, queries times keys transposed. */
TEST(heads_are_batches)
{
    rk_dev *dev = open_inexact();
    for (int round = 0; round < 3; round++)
        for (int tb = 0; tb < 2; tb++) {
            const int64_t heads = 6, length = 19, width = 8, all = heads * width;
            problem q = { .type = RK_F32 };
            q.g = (rk_gemm){ .m = length,
                             .n = tb ? length : width,
                             .k = tb ? width : length,
                             .a_row = tb ? all : length,
                             .a_col = 1,
                             .b_row = tb ? 1 : all,
                             .b_col = tb ? all : 1,
                             .ldc = tb ? length : all,
                             .batch = heads,
                             .a_batch = tb ? width : length * length,
                             .b_batch = width,
                             .c_batch = tb ? length * length : length * all,
                             .round = (rk_round)round };
            CHECK(agrees(dev, &q));
        }
    device->close(dev);
}

/* The same product twice, and elsewhere: the algorithm that was chosen is used where it fits only. */
TEST(algorithms_are_kept_by_what_they_were_chosen_for)
{
    rk_dev *dev = open_inexact();
    for (int64_t shift = 0; shift < 4; shift++)
        for (int again = 0; again < 2; again++) {
            problem q = { .type = RK_F32, .shift = shift, .bias = true, .pre = true };
            q.g = (rk_gemm){ .m = 24,
                             .n = 16,
                             .k = 32,
                             .a_row = 32,
                             .a_col = 1,
                             .b_row = 16,
                             .b_col = 1,
                             .ldc = 16,
                             .act = RK_ACT_GELU_TANH };
            CHECK(agrees(dev, &q));
        }
    device->close(dev);
}

/* What is too large for half precision becomes infinite, and a NaN stays one. */
TEST(half_precision_overflows)
{
    const float a[] = { 65519, 65520, -1e30f, NAN, 0x1p-25f, 0x1.8p-24f }, b[] = { 1 };
    float c[6];
    void *p[3];
    rk_dev *dev = open_inexact();
    const rk_gemm g = { .m = 6,
                        .n = 1,
                        .k = 1,
                        .a_row = 1,
                        .a_col = 6,
                        .b_row = 1,
                        .b_col = 1,
                        .ldc = 1,
                        .round = RK_ROUND_F16 };
    for (int i = 0; i < 3; i++)
        CHECK(device->alloc(dev, sizeof a, &p[i]) == RK_OK);
    CHECK(device->copy_in(dev, p[0], a, sizeof a) == RK_OK &&
          device->copy_in(dev, p[1], b, sizeof b) == RK_OK);
    rk_gemm call = g;
    call.a = p[0];
    call.b = p[1];
    call.c = p[2];
    CHECK(device->kernels(dev, RK_F32)->gemm(dev, &call) == RK_OK);
    CHECK(device->copy_out(dev, c, p[2], sizeof c) == RK_OK);
    CHECK(c[0] == 65504 && c[1] == INFINITY && c[2] == -INFINITY && c[3] != c[3] && c[4] == 0 &&
          c[5] == 0x1p-23f);
    for (int i = 0; i < 3; i++)
        device->release(dev, p[i], sizeof a);
    device->close(dev);
}

TEST_MAIN
