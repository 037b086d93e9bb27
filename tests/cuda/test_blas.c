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

static rk_dev *open_with(int graph)
{
    char msg[512] = "";
    rk_dev *dev = NULL;
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    if (!m || m->device->open(&(rk_open_cfg){ .inexact = true, .graph = graph }, &dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        exit(1);
    }
    device = m->device;
    host_run = m->host_run;
    return dev;
}

static rk_dev *open_inexact(void)
{
    return open_with(0);
}

/* ---- a product and its reference ---- */

enum { A, B, C, BIAS, PRE, MASK, SUMS, SLOPE, ARRAYS, AROUND = 7 };

typedef struct problem {
    rk_gemm g;
    rk_dtype type;
    int64_t size[ARRAYS];
    double *value[ARRAYS], *weight; /* weight: what the terms of an element of c amount to, for tolerances */
    bool bias, pre, mask, sums, slope; /* sums, slope: of rk_gemm_beside */
    bool rounded;                      /* operands are given in 16 bits, too */
    rk_acc sums_acc;
    unsigned done;
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

static double slope_of(double x)
{
    const double root = M_2_SQRTPI * M_SQRT1_2, t = tanh(root * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * root * (1 + 3 * 0.044715 * x * x);
}

/* Those of the rows of a, if they were made. */
static void reference_sums(problem *q)
{
    const rk_gemm *g = &q->g;
    for (int64_t i = 0; i < g->m && (q->done & RK_BESIDE_SUMS); i++) {
        double v = 0;
        for (int64_t k = 0; k < g->k; k++)
            v += q->value[A][i * g->a_row + k * g->a_col];
        q->value[SUMS][i] = v + (q->sums_acc == RK_ACC_SET ? 0 : q->value[SUMS][i]);
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
                if (q->done & RK_BESIDE_SLOPE)
                    v *= slope_of(q->value[SLOPE][at]);
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
    q->size[SUMS] = g->m;
    q->size[C] = q->size[PRE] = q->size[MASK] = q->size[SLOPE] =
        (items - 1) * g->c_batch + (g->m - 1) * g->ldc + g->n;
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

/* Those that were not made are as they were. */
static bool compare_sums(const problem *q, const void *host)
{
    for (int64_t i = 0; i < q->size[SUMS]; i++) {
        const double got = q->type == RK_F32 ? (double)((const float *)host)[q->shift + i]
                                             : ((const double *)host)[q->shift + i],
                     want = q->value[SUMS][i], slack = q->done ? 0x1p-22 * sqrt((double)q->g.k + 4) * 2 : 0;
        if (!(fabs(got - want) <= slack * ((double)q->g.k + 2)))
            return fprintf(stderr, "sum %lld: %.17g, not %.17g\n", (long long)i, got, want), false;
    }
    return true;
}

/* What is expected to come beside the product. */
static unsigned beside(const problem *q)
{
    const rk_gemm *g = &q->g;
    const char *mode = getenv("RK_EMU_BLAS");
    const bool plain = mode && strcmp(mode, "off") && strcmp(mode, "none"), set = g->order.acc == RK_ACC_SET;
    if (plain || q->type == RK_F64 || g->k < 2 || q->bias || q->pre || q->mask || g->act)
        return 0;
    if (q->sums)
        return !g->round && g->batch <= 1 && g->a_col != 1 && (g->a_row == 1 || g->m == 1) ? RK_BESIDE_SUMS
                                                                                           : 0;
    return q->slope && set && g->ldc % 8 == 0 && g->c_batch % 8 == 0 && q->shift % 4 == 0 ? RK_BESIDE_SLOPE
                                                                                          : 0;
}

/* An operand's elements as the device rounds them, in lines of what are neighbours; where it is clear which
 * are. */
static rk_rounded in_16_bits(rk_dev *dev, const problem *q, const void *from, int64_t rows, int64_t cols,
                             int64_t row, int64_t col, void **room, size_t *bytes)
{
    const int64_t lines = col == 1 ? rows : cols, length = col == 1 ? cols : rows,
                  step = (length + 7) / 8 * 8 + 8;
    *room = NULL;
    *bytes = (size_t)(lines * step) * 2;
    if (!q->rounded || !device->round16 || !q->g.round || rows < 2 || cols < 2 || q->g.batch > 1)
        return (rk_rounded){ NULL, 0 };
    if (device->alloc(dev, *bytes, room) ||
        device->round16(dev, q->g.round, lines, length, col == 1 ? row : col, from, step, *room))
        exit(1);
    return (rk_rounded){ *room, step };
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
    rk_gemm g = q->g;
    rk_gemm_beside with = { 0 };
    void *room[2];
    size_t room_bytes[2];
#define AT(a) ((char *)p[a] + (size_t)q->shift * elem)
    g.a = AT(A);
    g.b = AT(B);
    g.c = AT(C);
    g.bias = q->bias ? AT(BIAS) : NULL;
    g.pre = q->pre ? AT(PRE) : NULL;
    g.relu_mask = q->mask ? AT(MASK) : NULL;
    with.a_sums = q->sums ? AT(SUMS) : NULL;
    with.sums_acc = q->sums_acc;
    with.slope_of = q->slope ? AT(SLOPE) : NULL;
    with.slope = RK_ACT_GELU_TANH;
    g.beside = q->sums || q->slope ? &with : NULL;
    g.a16 = in_16_bits(dev, q, g.a, g.m, g.k, g.a_row, g.a_col, &room[0], &room_bytes[0]);
    g.b16 = in_16_bits(dev, q, g.b, g.k, g.n, g.b_row, g.b_col, &room[1], &room_bytes[1]);
    good = device->kernels(dev, q->type)->gemm(dev, &g) == RK_OK;
    q->done = with.done;
    reference(q);
    reference_sums(q);
    if (host_run && device->uses(dev) && q->done != beside(q))
        good = fprintf(stderr, "done beside the product: %u, not %u\n", q->done, beside(q)) < 0;
    for (int i = 0; i < 2; i++)
        if (room[i])
            device->release(dev, room[i], room_bytes[i]);
    for (int a = 0; a < ARRAYS; a++) {
        char *host = malloc(bytes_of(q, a));
        good &= device->copy_out(dev, host, p[a], bytes_of(q, a)) == RK_OK;
        if (good && (a == C || (a == PRE && q->pre)))
            good = compare(q, a, host, before[a]);
        if (good && a == SUMS)
            good = compare_sums(q, host);
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
    q.rounded = coin();
    if (draw(0, 2) == 0) { /* a gradient, mostly */
        q.bias = q.pre = q.mask = draw(0, 7) == 0;
        q.sums = coin();
        q.slope = !q.sums;
        q.sums_acc = coin() ? RK_ACC_SET : RK_ACC_ADD;
        q.g.act = RK_ACT_NONE;
    }
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
    static const char *const how[] = { "off", "refuse", "plain", "forward" };
    if (!host_run)
        return;
    for (int i = 0; i < 4; i++) {
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

/* The bits of a product are those of its algorithm, and that is chosen once, however many others come
 * between, and wherever its operands lie: the library would give another one each time. */
TEST(an_algorithm_is_the_runs)
{
    enum { N = 24, PLACES = 9 };
    rk_dev *dev = open_inexact();
    float host[N * N], first[N * N], again[N * N];
    char *p[3];
    const size_t bytes = sizeof host + 256 * PLACES;
    if (host_run)
        setenv("RK_EMU_BLAS", "fickle", 1);
    for (int i = 0; i < N * N; i++)
        host[i] = (float)draw(-1000, 1000) / 700;
    for (int i = 0; i < 3; i++)
        CHECK(device->alloc(dev, bytes, (void **)&p[i]) == RK_OK);
    for (int place = 0; place < PLACES; place++) {
        const size_t at = place ? (size_t)16 << (place % 5) : 0; /* aligned to 16 bytes, and to more */
        rk_gemm g = { .m = N,
                      .n = N,
                      .k = N,
                      .a = p[0] + at,
                      .a_row = N,
                      .a_col = 1,
                      .b = p[1] + at,
                      .b_row = N,
                      .b_col = 1,
                      .c = p[2] + at,
                      .ldc = N };
        CHECK(!device->copy_in(dev, p[0] + at, host, sizeof host) &&
              !device->copy_in(dev, p[1] + at, host, sizeof host));
        CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
        CHECK(device->copy_out(dev, place ? again : first, p[2] + at, sizeof first) == RK_OK);
        CHECK(!place || !memcmp(first, again, sizeof first));
        for (int64_t other = 1; other <= 40; other++) { /* other shapes */
            g.m = 1 + (place * 40 + other) % N;
            g.k = 1 + (place * 40 + other) / N;
            CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
        }
    }
    for (int i = 0; i < 3; i++)
        device->release(dev, p[i], bytes);
    device->close(dev);
    unsetenv("RK_EMU_BLAS");
}

/* Four layers of products, one upon the other, whose operands, results, biases and values aside lie elsewhere
 * each time, and which are added up every third time. out: what the last one gave. */
static void layers(rk_dev *dev, char *memory, int time, float *out)
{
    enum { N = 16, BYTES = N * N * 4 };
    rk_gemm_beside beside = { 0 };
    for (int i = 0; i < 4; i++) {
        char *at = memory + (size_t)(i * 5 + time % 3 * 2) * BYTES;
        rk_gemm g = { .m = N,
                      .n = N,
                      .k = N,
                      .a = at,
                      .a_row = N,
                      .a_col = 1,
                      .b = memory + (size_t)(time % 2 * 3) * BYTES,
                      .b_row = 1,
                      .b_col = N,
                      .c = at + 5 * BYTES,
                      .ldc = N };
        g.bias = time & 1 ? memory + (size_t)(time % 5) * 64 : NULL;
        g.act = i % 2 ? RK_ACT_GELU_TANH : RK_ACT_RELU;
        g.pre = i % 2 ? memory + (size_t)(30 + time % 2) * BYTES : NULL;
        if (time % 3 == 2) {
            g.order = (rk_order){ 1, 1, RK_ACC_ADD };
            g.act = RK_ACT_NONE;
            g.pre = NULL;
        }
        CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
        g = (rk_gemm){ .m = N,
                       .n = N,
                       .k = N,
                       .a = at,
                       .a_row = 1,
                       .a_col = N,
                       .b = at + 5 * BYTES,
                       .b_row = N,
                       .b_col = 1,
                       .c = memory + (size_t)(32 + time % 3) * BYTES,
                       .ldc = N,
                       .beside = &beside };
        beside = (rk_gemm_beside){ .a_sums = memory + 35 * BYTES + time % 4 * 64,
                                   .sums_acc = time & 2 ? RK_ACC_ADD : RK_ACC_SET };
        CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
    }
    CHECK(device->copy_out(dev, out, memory, 36 * BYTES) == RK_OK);
}

/* A graph that was made of earlier products has the addresses and factors of today's. */
TEST(graphs_have_todays_products)
{
    enum { TIMES = 24, FLOATS = 36 * 16 * 16 };
    static float have[FLOATS], want[FLOATS], start[FLOATS];
    rk_dev *dev[2] = { open_with(1), open_with(-1) };
    void *p[2];
    for (int i = 0; i < FLOATS; i++)
        start[i] = (float)draw(-1000, 1000) / 7000;
    for (int d = 0; d < 2; d++)
        CHECK(device->alloc(dev[d], sizeof start, &p[d]) == RK_OK &&
              device->copy_in(dev[d], p[d], start, sizeof start) == RK_OK);
    for (int time = 0; time < TIMES; time++) {
        layers(dev[0], p[0], time, have);
        layers(dev[1], p[1], time, want);
        CHECK(!memcmp(have, want, sizeof have));
        if (time % 6 == 5)
            for (int d = 0; d < 2; d++)
                CHECK(device->copy_in(dev[d], p[d], start, sizeof start) == RK_OK);
    }
    for (int d = 0; d < 2; d++) {
        device->release(dev[d], p[d], sizeof start);
        device->close(dev[d]);
    }
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

/* ReLU's bits are written by one product and read by another: the mask that the values are, but where a sum
 * is 0. */
TEST(a_mask_of_bits_is_that_of_the_values)
{
    enum { M = 37, N = 75, K = 9, PLACES = 7 };
    rk_dev *dev = open_inexact();
    float a[M * K], b[K * N], bias[N], y[M * N], masked[M * N], plain[M * N];
    void *p[PLACES];
    const size_t size[PLACES] = { sizeof a,           sizeof b,      sizeof bias, sizeof y,
                                  rk_relu_bits(M, N), sizeof masked, sizeof plain };
    unsigned passed = 0;
    for (int i = 0; i < M * K; i++)
        a[i] = i < K ? 0 : (float)draw(-1000, 1000) / 700; /* the first row's sums are 0 */
    for (int i = 0; i < K * N; i++)
        b[i] = (float)draw(-1000, 1000) / 700;
    for (int i = 0; i < N; i++)
        bias[i] = i < 5 ? 0 : (float)draw(-1000, 1000) / 700;
    for (int i = 0; i < PLACES; i++)
        CHECK(device->alloc(dev, size[i], &p[i]) == RK_OK);
    CHECK(!device->copy_in(dev, p[0], a, sizeof a) && !device->copy_in(dev, p[1], b, sizeof b) &&
          !device->copy_in(dev, p[2], bias, sizeof bias));
    rk_gemm_beside note = { .relu_bits = p[4] }, use = { .mask_bits = p[4] };
    rk_gemm g = { .m = M,
                  .n = N,
                  .k = K,
                  .a = p[0],
                  .a_row = K,
                  .a_col = 1,
                  .b = p[1],
                  .b_row = N,
                  .b_col = 1,
                  .c = p[3],
                  .ldc = N,
                  .bias = p[2],
                  .act = RK_ACT_RELU,
                  .beside = &note };
    CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
    CHECK(!host_run || note.done == RK_BESIDE_BITS);
    g.c = p[6];
    g.bias = NULL;
    g.act = RK_ACT_NONE;
    g.beside = NULL;
    CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
    g.c = p[5];
    g.relu_mask = p[3];
    g.beside = note.done ? &use : NULL;
    CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
    CHECK(!device->copy_out(dev, y, p[3], sizeof y) && !device->copy_out(dev, masked, p[5], sizeof masked) &&
          !device->copy_out(dev, plain, p[6], sizeof plain));
    for (int i = 0; i < M * N; i++) {
        const bool zero = i < 5;
        CHECK(zero || fabsf(masked[i] - (y[i] > 0 ? plain[i] : 0)) <= (y[i] > 0 ? 1e-5f : 0));
        passed += y[i] > 0;
    }
    CHECK(passed > M * N / 4 && passed < 3 * M * N / 4);
    for (int i = 0; i < PLACES; i++)
        device->release(dev, p[i], size[i]);
    device->close(dev);
}

/* The sum of an operand that no cache holds is left to our own kernels. */
TEST(large_sums_are_left_out)
{
    rk_dev *dev = open_inexact();
    for (int large = 0; large < 2; large++) {
        rk_gemm_beside with = { 0 };
        const int64_t m = 64,
                      k = large ? 1025 : 1024; /* of four bytes: 256 KiB, all that the stand-in's cache has */
        void *p[4];
        const size_t size[] = { (size_t)(m * k) * 4, (size_t)k * 8, (size_t)m * 8, (size_t)m * 4 };
        for (int i = 0; i < 4; i++)
            CHECK(!device->alloc(dev, size[i], &p[i]) && !device->zero(dev, p[i], size[i]));
        with.a_sums = p[3];
        rk_gemm g = { .m = m,
                      .n = 2,
                      .k = k,
                      .a = p[0],
                      .a_row = 1,
                      .a_col = m,
                      .b = p[1],
                      .b_row = 2,
                      .b_col = 1,
                      .c = p[2],
                      .ldc = 2,
                      .beside = &with };
        CHECK(device->kernels(dev, RK_F32)->gemm(dev, &g) == RK_OK);
        CHECK(!host_run || with.done == (large ? 0u : (unsigned)RK_BESIDE_SUMS));
        for (int i = 0; i < 4; i++)
            device->release(dev, p[i], size[i]);
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
