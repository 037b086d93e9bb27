/* The product kernel against oneDNN, in turn, on the same threads.
 *
 * Sections: train (8 shapes of training, each forward, input gradient and weight gradient), few (few rows),
 * thin (few terms), segments (8 segments against 1 on weight gradients), bf16 (the shapes of train). Ratio:
 * our speed over theirs; in `segments`, the speed with 8 segments over that with 1. */
#include "bench.h"
#include "core/kernels.h"

#include <dlfcn.h>
#include <dnnl.h>
#include <sys/mman.h>

typedef struct task {
    rk_dev *dev;
    const rk_kernels *k;
    rk_gemm g;
    char ta, tb; /* as sgemm wants them */
    int64_t lda, ldb;
    float beta;
    float *other; /* their result */
} task;

static uint64_t seed = 1234567;

static float *matrix(int64_t n)
{
    size_t bytes = ((size_t)n * sizeof(float) + (2u << 20) - 1) / (2u << 20) * (2u << 20);
    float *p = aligned_alloc(2u << 20, bytes);
    if (!p)
        exit(71);
    madvise(p, bytes, MADV_HUGEPAGE);
    for (int64_t i = 0; i < n; i++) {
        seed ^= seed << 13; /* xorshift64: no pattern at strides of a power of two */
        seed ^= seed >> 7;
        seed ^= seed << 17;
        p[i] = (float)(seed >> 40) * 0x1p-24f - 0.5f;
    }
    return p;
}

static void ours(void *arg)
{
    task *t = arg;
    t->k->gemm(t->dev, &t->g);
}

static void theirs(void *arg)
{
    task *t = arg;
    dnnl_sgemm(t->ta, t->tb, t->g.m, t->g.n, t->g.k, 1.0f, t->g.a, t->lda, t->g.b, t->ldb, t->beta, t->other,
               t->g.n);
}

/* c = op(a) op(b), row-major. */
static task make(rk_dev *dev, int64_t m, int64_t n, int64_t k, bool ta, bool tb, bool add)
{
    task t = {
        .dev = dev, .k = rk_device_cpu.kernels(dev, RK_F32), .ta = ta ? 'T' : 'N', .tb = tb ? 'T' : 'N'
    };
    t.lda = ta ? m : k;
    t.ldb = tb ? k : n;
    t.beta = add;
    t.other = matrix(m * n);
    t.g = (rk_gemm){ .m = m,
                     .n = n,
                     .k = k,
                     .a = matrix(m * k),
                     .a_row = ta ? 1 : k,
                     .a_col = ta ? m : 1,
                     .b = matrix(k * n),
                     .b_row = tb ? 1 : n,
                     .b_col = tb ? k : 1,
                     .c = matrix(m * n),
                     .ldc = n,
                     .order = { 1, 1, add ? RK_ACC_ADD : RK_ACC_SET } };
    return t;
}

static void drop(task *t)
{
    free((void *)t->g.a);
    free((void *)t->g.b);
    free(t->g.c);
    free(t->other);
}

/* Elements of the two results that differ by more than rounding explains, each side run once on the same c.
 */
static int64_t count_wrong(const task *t, void (*run_a)(void *), void (*run_b)(void *), void *b,
                           double precision)
{
    task *a = (task *)t;
    int64_t n = t->g.m * t->g.n, wrong = 0;
    memset(t->g.c, 0, (size_t)n * sizeof(float));
    memset(t->other, 0, (size_t)n * sizeof(float));
    run_a(a);
    run_b(b);
    const float *x = t->g.c, *y = t->other;
    double tolerance =
        4 * precision * (double)t->g.k / 16 + 1e-6; /* half a unit of a sum of |a b|, about k / 16 */
    for (int64_t i = 0; i < n; i++)
        wrong += !(fabs((double)x[i] - (double)y[i]) <= tolerance);
    return wrong;
}

static double gflops(const task *t, double seconds)
{
    return 2e-9 * (double)t->g.m * (double)t->g.n * (double)t->g.k / seconds;
}

static int repeats(const task *t)
{
    return 1 + (int)(4e6 / ((double)t->g.m * (double)t->g.n * (double)t->g.k +
                            (double)t->g.m * (double)t->g.n * 8));
}

static void head(const char *section, const bench_options *o, const char *a, const char *b)
{
    printf("%s, %d thread%s\n%-28s %9s %9s %7s %17s %17s %6s\n", section, o->threads,
           o->threads == 1 ? "" : "s", "rows x columns x terms", a, b, "ratio", "spread", "spread", "wrong");
}

static void row(const bench_options *o, const char *name, task *t, bench_side *sides, int64_t wrong,
                bench_summary *sum)
{
    bench_in_turn(o, repeats(t), sides, 2);
    double ratio = sides[1].median / sides[0].median;
    printf("%-28s %9.1f %9.1f %7.3f %8.1f-%-8.1f %8.1f-%-8.1f %6lld\n", name, gflops(t, sides[0].median),
           gflops(t, sides[1].median), ratio, gflops(t, sides[0].max), gflops(t, sides[0].min),
           gflops(t, sides[1].max), gflops(t, sides[1].min), (long long)wrong);
    fflush(stdout);
    bench_add(sum, ratio, wrong);
}

static void against_sgemm(const bench_options *o, rk_dev *dev, const char *label, int64_t m, int64_t n,
                          int64_t k, bool ta, bool tb, bool add, bench_summary *sum)
{
    char name[64];
    snprintf(name, sizeof name, "%lldx%lldx%lld %s", (long long)m, (long long)n, (long long)k, label);
    if (o->only && !strstr(name, o->only))
        return;
    task t = make(dev, m, n, k, ta, tb, add);
    int64_t wrong = count_wrong(&t, ours, theirs, &t, 1e-7);
    bench_side sides[2] = { { .name = "ours", .run = ours, .arg = &t },
                            { .name = "oneDNN", .run = theirs, .arg = &t } };
    row(o, name, &t, sides, wrong, sum);
    drop(&t);
}

/* samples, outputs, inputs of a linear layer */
static const int64_t layers[][3] = { { 256, 768, 768 },   { 1024, 768, 768 },  { 1024, 3072, 768 },
                                     { 1024, 768, 3072 }, { 256, 50257, 768 }, { 64, 512, 784 },
                                     { 4096, 64, 64 },    { 2048, 2048, 2048 } };
enum { LAYERS = sizeof layers / sizeof *layers };

static void train(const bench_options *o, rk_dev *dev)
{
    bench_summary sum = { 0 };
    head("train", o, "GFLOP/s", "oneDNN");
    for (int i = 0; i < LAYERS; i++) {
        int64_t m = layers[i][0], n = layers[i][1], k = layers[i][2];
        against_sgemm(o, dev, "NT fwd", m, n, k, false, true, false, &sum);
        against_sgemm(o, dev, "NN dx", m, k, n, false, false, false, &sum);
        against_sgemm(o, dev, "TN dw", n, k, m, true, false, true, &sum);
    }
    bench_print_summary(&sum, "train");
}

static void few(const bench_options *o, rk_dev *dev)
{
    static const int64_t shape[][2] = { { 768, 768 }, { 3072, 768 }, { 512, 784 } };
    bench_summary sum = { 0 };
    head("few", o, "GFLOP/s", "oneDNN");
    for (int i = 0; i < 3; i++)
        for (int64_t m = 1; m <= 16; m *= 2)
            for (int tb = 0; tb < 2; tb++)
                against_sgemm(o, dev, tb ? "NT" : "NN", m, shape[i][0], shape[i][1], false, tb, false, &sum);
    bench_print_summary(&sum, "few");
}

static void thin(const bench_options *o, rk_dev *dev)
{
    static const int64_t terms[] = { 1, 4, 9, 16, 27 }, shape[][2] = {
        { 64, 64 }, { 256, 512 }, { 1024, 1024 }, { 64, 4096 }, { 4096, 64 }
    };
    bench_summary sum = { 0 };
    head("thin", o, "GFLOP/s", "oneDNN");
    for (int s = 0; s < 5; s++)
        for (int i = 0; i < 5; i++)
            for (int t = 0; t < 3; t++)
                against_sgemm(o, dev,
                              t == 0   ? "NN"
                              : t == 1 ? "NT"
                                       : "TN",
                              shape[s][0], shape[s][1], terms[i], t == 2, t == 1, false, &sum);
    bench_print_summary(&sum, "thin");
}

static void in_segments(const bench_options *o, rk_dev *dev)
{
    /* the last four: the share of one rank of 2 and of 4 in a batch of 64 */
    static const int64_t shape[][4] = { { 768, 768, 64, 8 },   { 768, 768, 128, 8 }, { 768, 768, 256, 8 },
                                        { 768, 768, 1024, 8 }, { 512, 784, 64, 8 },  { 512, 784, 256, 8 },
                                        { 3072, 768, 512, 8 }, { 64, 64, 4096, 8 },  { 768, 3072, 1024, 8 },
                                        { 512, 784, 32, 4 },   { 512, 512, 32, 4 },  { 512, 784, 16, 2 },
                                        { 512, 512, 16, 2 } };
    bench_summary sum = { 0 };
    head("segments", o, "GF/s, many", "GF/s, 1");
    for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
        task one = make(dev, shape[i][0], shape[i][1], shape[i][2], true, false, true), many = one;
        many.g.order.segments = (int)shape[i][3];
        one.g.c = one.other;
        char name[64];
        snprintf(name, sizeof name, "%lldx%lldx%lld TN in %d", (long long)shape[i][0], (long long)shape[i][1],
                 (long long)shape[i][2], many.g.order.segments);
        if (!o->only || strstr(name, o->only)) {
            int64_t wrong = count_wrong(&many, ours, ours, &one, 1e-7);
            bench_side sides[2] = { { .name = "many", .run = ours, .arg = &many },
                                    { .name = "1", .run = ours, .arg = &one } };
            row(o, name, &many, sides, wrong, &sum);
        }
        drop(&many);
    }
    bench_print_summary(&sum, "segments");
}

/* ---- bf16: their matmul with both conversions ---- */

typedef struct bf16_task {
    task t;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_memory_t a32, b32, a16, b16, c;
    dnnl_primitive_t convert_a, convert_b, matmul;
} bf16_task;

static bool memory(bf16_task *b, dnnl_memory_desc_t *d, int64_t rows, int64_t cols, bool turned,
                   dnnl_data_type_t type, void *p, dnnl_memory_t *out)
{
    dnnl_dims_t dims = { rows, cols }, strides = { turned ? 1 : cols, turned ? rows : 1 };
    return !dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides) &&
           !dnnl_memory_create(out, d, b->engine, p ? p : DNNL_MEMORY_ALLOCATE);
}

static bool convert(bf16_task *b, const dnnl_memory_desc_t *from, const dnnl_memory_desc_t *to,
                    dnnl_primitive_t *out)
{
    dnnl_primitive_desc_t pd;
    if (dnnl_reorder_primitive_desc_create(&pd, from, b->engine, to, b->engine, NULL))
        return false;
    bool good = !dnnl_primitive_create(out, pd);
    dnnl_primitive_desc_destroy(pd);
    return good;
}

/* False: this oneDNN has no bf16 matmul for this processor. */
static bool bf16_open(bf16_task *b)
{
    const rk_gemm *g = &b->t.g;
    dnnl_memory_desc_t a32, b32, a16, b16, c;
    bool ta = b->t.ta == 'T', tb = b->t.tb == 'T';
    if (dnnl_engine_create(&b->engine, dnnl_cpu, 0) ||
        dnnl_stream_create(&b->stream, b->engine, dnnl_stream_default_flags) ||
        !memory(b, &a32, g->m, g->k, ta, dnnl_f32, (void *)g->a, &b->a32) ||
        !memory(b, &b32, g->k, g->n, tb, dnnl_f32, (void *)g->b, &b->b32) ||
        !memory(b, &a16, g->m, g->k, ta, dnnl_bf16, NULL, &b->a16) ||
        !memory(b, &b16, g->k, g->n, tb, dnnl_bf16, NULL, &b->b16) ||
        !memory(b, &c, g->m, g->n, false, dnnl_f32, b->t.other, &b->c) ||
        !convert(b, &a32, &a16, &b->convert_a) || !convert(b, &b32, &b16, &b->convert_b))
        return false;
    dnnl_matmul_desc_t desc;
    dnnl_primitive_desc_t pd;
    if (dnnl_matmul_desc_init(&desc, &a16, &b16, NULL, &c) ||
        dnnl_primitive_desc_create(&pd, &desc, NULL, b->engine, NULL))
        return false;
    const char *how = "";
    dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &how);
    static bool said;
    if (!said)
        printf("(their implementation: %s)\n", how);
    said = true;
    bool good = !dnnl_primitive_create(&b->matmul, pd);
    dnnl_primitive_desc_destroy(pd);
    return good;
}

static void bf16_close(bf16_task *b)
{
    dnnl_primitive_t p[] = { b->convert_a, b->convert_b, b->matmul };
    dnnl_memory_t m[] = { b->a32, b->b32, b->a16, b->b16, b->c };
    for (int i = 0; i < 3; i++)
        if (p[i])
            dnnl_primitive_destroy(p[i]);
    for (int i = 0; i < 5; i++)
        if (m[i])
            dnnl_memory_destroy(m[i]);
    if (b->stream)
        dnnl_stream_destroy(b->stream);
    if (b->engine)
        dnnl_engine_destroy(b->engine);
}

static void theirs_bf16(void *arg)
{
    bf16_task *b = arg;
    dnnl_exec_arg_t a[] = { { DNNL_ARG_FROM, b->a32 }, { DNNL_ARG_TO, b->a16 } };
    dnnl_exec_arg_t w[] = { { DNNL_ARG_FROM, b->b32 }, { DNNL_ARG_TO, b->b16 } };
    dnnl_exec_arg_t m[] = { { DNNL_ARG_SRC, b->a16 }, { DNNL_ARG_WEIGHTS, b->b16 }, { DNNL_ARG_DST, b->c } };
    dnnl_primitive_execute(b->convert_a, b->stream, 2, a);
    dnnl_primitive_execute(b->convert_b, b->stream, 2, w);
    dnnl_primitive_execute(b->matmul, b->stream, 3, m);
    dnnl_stream_wait(b->stream);
}

static void against_bf16(const bench_options *o, rk_dev *dev, const char *label, int64_t m, int64_t n,
                         int64_t k, bool ta, bool tb, bench_summary *sum)
{
    char name[64];
    snprintf(name, sizeof name, "%lldx%lldx%lld %s", (long long)m, (long long)n, (long long)k, label);
    if (o->only && !strstr(name, o->only))
        return;
    bf16_task b = { .t = make(dev, m, n, k, ta, tb, false) };
    b.t.g.round = RK_ROUND_BF16;
    if (bf16_open(&b)) {
        int64_t wrong = count_wrong(&b.t, ours, theirs_bf16, &b, 1e-7);
        bench_side sides[2] = { { .name = "ours", .run = ours, .arg = &b.t },
                                { .name = "oneDNN", .run = theirs_bf16, .arg = &b } };
        row(o, name, &b.t, sides, wrong, sum);
    } else {
        int64_t wrong = count_wrong(&b.t, ours, theirs, &b.t, 1e-3); /* two roundings of 2^-9 a term */
        bench_side sides[2] = { { .name = "ours", .run = ours, .arg = &b.t },
                                { .name = "sgemm", .run = theirs, .arg = &b.t } };
        printf("(no bf16 matmul here: against their sgemm) ");
        row(o, name, &b.t, sides, wrong, sum);
    }
    bf16_close(&b);
    drop(&b.t);
}

static void in_bf16(const bench_options *o, rk_dev *dev)
{
    bench_summary sum = { 0 };
    head("bf16", o, "GFLOP/s", "oneDNN");
    for (int i = 0; i < LAYERS; i++) {
        int64_t m = layers[i][0], n = layers[i][1], k = layers[i][2];
        against_bf16(o, dev, "NT fwd", m, n, k, false, true, &sum);
        against_bf16(o, dev, "NN dx", m, k, n, false, false, &sum);
        against_bf16(o, dev, "TN dw", n, k, m, true, false, &sum);
    }
    bench_print_summary(&sum, "bf16");
}

int main(int argc, char **argv)
{
    bench_options o = bench_options_read(argc, argv);
    rk_dev *dev;
    char msg[200] = "";
    if (rk_device_cpu.open(&(rk_open_cfg){ .threads = o.threads }, &dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        return 70;
    }
    void (*their_threads)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (their_threads)
        their_threads(o.threads);
    const dnnl_version_t *v = dnnl_version();
    printf("%s; oneDNN %d.%d.%d\n", rk_device_cpu.describe(dev), v->major, v->minor, v->patch);
    static const struct {
        const char *name;
        void (*run)(const bench_options *, rk_dev *);
    } sections[] = {
        { "train", train }, { "few", few }, { "thin", thin }, { "segments", in_segments }, { "bf16", in_bf16 }
    };
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++)
        if (bench_wants(&o, sections[i].name))
            sections[i].run(&o, dev);
    rk_device_cpu.close(dev);
    return 0;
}
