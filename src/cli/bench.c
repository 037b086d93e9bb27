/* rankine bench: how near this machine's products come to its peak, in a few seconds; rankine bench comm: how
 * fast its ranks add up. benchmarks/ has the careful ones. A device is waited for within every time that is
 * taken. */
#include "cli/cli.h"

#include <rankine/parallel.h>

#include <stdlib.h>
#include <string.h>

#define SECONDS_A_CASE 0.25
#define SECONDS_A_SUM  0.4
enum {
    WARM_UP = 2,
    MIN_RUNS = 5,
    MAX_RUNS = 2000,
    LONGEST_SUM = 10, /* larger sums are left out when one would take more than so many times --seconds */
    SUM_RUNS = 8      /* of a sum at least */
};

typedef struct bench_case {
    const char *name;
    int64_t m, n, k;                    /* a product, or */
    int64_t batch, channels, out, side; /* a 3x3 convolution */
} bench_case;

static const bench_case cases[] = {
    { "square product", .m = 1024, .n = 1024, .k = 1024 },
    { "layer, batch 64", .m = 64, .n = 512, .k = 784 },
    { "layer, batch 256", .m = 256, .n = 512, .k = 784 },
    { "output layer", .m = 256, .n = 10, .k = 512 },
    { "convolution 3x3", .batch = 32, .channels = 64, .out = 64, .side = 32 },
    { "first convolution 3x3", .batch = 64, .channels = 3, .out = 32, .side = 32 },
};

typedef struct operands {
    rk_tensor *a, *b;
} operands;

static double flops(const bench_case *c)
{
    if (c->m)
        return 2.0 * (double)c->m * (double)c->n * (double)c->k;
    return 2.0 * 9 * (double)(c->batch * c->channels * c->out * c->side) * (double)c->side;
}

static void describe(const bench_case *c, char *buf, size_t size)
{
    if (c->m)
        snprintf(buf, size, "%lld x %lld x %lld", (long long)c->m, (long long)c->n, (long long)c->k);
    else
        snprintf(buf, size, "%lld x %lld x %lldx%lld -> %lld", (long long)c->batch, (long long)c->channels,
                 (long long)c->side, (long long)c->side, (long long)c->out);
}

/* Persistent operands with normal numbers in them. */
static rk_tensor *random_tensor(rk_ctx *ctx, rk_shape shape, uint64_t stream)
{
    rk_tensor *t = rk_tensor_make(ctx, RK_F32, shape), *r = rk_randn(ctx, RK_F32, shape, stream);
    size_t bytes = (size_t)rk_tensor_size(r) * sizeof(float);
    float *host = malloc(bytes ? bytes : 1);
    if (!host)
        rk_fail(ctx, RK_ENOMEM, "out of memory");
    else if (!rk_tensor_read(r, host, bytes))
        rk_tensor_write(t, host, bytes);
    free(host);
    rk_step_end(ctx);
    return t;
}

static operands make_operands(rk_ctx *ctx, const bench_case *c)
{
    operands o;
    if (c->m) {
        o.a = random_tensor(ctx, RK_SHAPE(c->m, c->k), 1);
        o.b = random_tensor(ctx, RK_SHAPE(c->n, c->k), 2);
    } else {
        o.a = random_tensor(ctx, RK_SHAPE(c->batch, c->channels, c->side, c->side), 1);
        o.b = random_tensor(ctx, RK_SHAPE(c->out, c->channels, 3, 3), 2);
    }
    return o;
}

static double run_once(rk_ctx *ctx, const bench_case *c, const operands *o)
{
    double begun = cli_now();
    if (c->m)
        rk_matmul(o->a, o->b, false, true);
    else
        rk_conv2d_op(o->a, o->b, NULL, &(rk_conv_cfg){ .pad = { 1, 1 } });
    rk_step_end(ctx);
    rk_device_wait(ctx);
    return cli_now() - begun;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool on_host(const rk_ctx *ctx)
{
    return !strncmp(rk_device_describe(ctx), "cpu ", 4);
}

/* A device whose kernels run on the host, for tests. */
static bool stands_in(const rk_ctx *ctx)
{
    return strstr(rk_device_describe(ctx), "run on the host") != NULL;
}

/* ---- products and convolutions ---- */

/* Half as much work, `times` times: the largest extent first. */
static bench_case shrunk(bench_case c, int times)
{
    int64_t *product[] = { &c.m, &c.n, &c.k }, *convolution[] = { &c.batch, &c.channels, &c.out, &c.side };
    int64_t **extent = c.m ? product : convolution;
    const int extents = c.m ? 3 : 4;
    for (; times > 0; times--) {
        int most = 0;
        for (int i = 1; i < extents; i++)
            most = *extent[i] > *extent[most] ? i : most;
        *extent[most] = (*extent[most] + 1) / 2;
    }
    return c;
}

/* As much of the case as runs in `seconds`: from little work on, each time about twice as much, to all of it
 * where this is no slow machine. */
static bench_case fit(rk_ctx *ctx, const bench_case *whole, double seconds)
{
    const double little = 1e5;
    int times = 0;
    for (bench_case c = *whole; flops(&c) > little; c = shrunk(*whole, times))
        times++;
    for (bool first = true;; first = false) {
        const bench_case c = shrunk(*whole, times);
        operands o = make_operands(ctx, &c);
        if (first) /* which loads what is needed from here on */
            run_once(ctx, &c, &o);
        const double took = run_once(ctx, &c, &o);
        if (times == 0 || rk_failed(ctx) || 2 * took > seconds)
            return c;
        times--;
    }
}

static double median_seconds(rk_ctx *ctx, const bench_case *c, double limit)
{
    static double seconds[MAX_RUNS];
    operands o = make_operands(ctx, c);
    double begun = cli_now();
    int runs = 0;
    for (int i = 0; i < WARM_UP; i++)
        run_once(ctx, c, &o);
    while (!rk_failed(ctx) && runs < MAX_RUNS && (runs < MIN_RUNS || cli_now() - begun < limit))
        seconds[runs++] = run_once(ctx, c, &o);
    if (!runs)
        return 0;
    qsort(seconds, (size_t)runs, sizeof *seconds, by_value);
    return seconds[runs / 2];
}

static void print_head(const rk_ctx *ctx, double peak)
{
    printf("%s", rk_device_describe(ctx));
    if (on_host(ctx))
        printf("; measured peak %.1f GFLOP/s", peak / 1e9);
    putchar('\n');
    if (stands_in(ctx))
        printf("kernels run on the host: these times say nothing about a GPU\n");
    printf("%-22s %-28s %10s %10s%s\n", "f32", "shape", "median ms", "GFLOP/s",
           on_host(ctx) ? " of peak" : "");
}

static void print_row(const rk_ctx *ctx, const bench_case *c, double s, double peak)
{
    char shape[64];
    describe(c, shape, sizeof shape);
    printf("%-22s %-28s %10.3f %10.1f", c->name, shape, 1e3 * s, flops(c) / s / 1e9);
    if (on_host(ctx))
        printf(" %6.0f%%", peak > 0 ? 100 * flops(c) / s / peak : 0);
    putchar('\n');
    fflush(stdout);
}

static int run_products(rk_ctx *ctx, double seconds)
{
    const double peak = on_host(ctx) ? rk_peak_flops(ctx) : 0;
    print_head(ctx, peak);
    rk_no_grad_begin(ctx);
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !rk_failed(ctx); i++) {
        const bench_case c = fit(ctx, &cases[i], seconds);
        const double s = median_seconds(ctx, &c, seconds);
        if (s > 0)
            print_row(ctx, &c, s, peak);
    }
    rk_no_grad_end(ctx);
    return cli_close(ctx);
}

/* ---- comm: a table as nccl-tests print it ---- */

/* Bytes a second that a link has to carry for this: a sum over n ranks moves 2 (n - 1) / n times its size. */
static double bus(const rk_ctx *ctx, double bandwidth)
{
    return bandwidth * 2 * (rk_ranks(ctx) - 1) / rk_ranks(ctx);
}

static void print_comm_head(const rk_ctx *ctx, const rk_comm_timing *t)
{
    const bool mpi = t->mpi_seconds > 0;
    printf("# sum over %d ranks, %s a rank; tensors go %s; seconds are medians of the slowest rank\n",
           rk_ranks(ctx), rk_device_describe(ctx), t->way);
    if (stands_in(ctx))
        printf("# kernels run on the host: these times say nothing about a GPU\n");
    if (rk_ranks(ctx) == 1)
        printf("# one rank has nobody to exchange with: mpirun -n 2 rankine bench comm\n");
    printf("# %28s exchange + ordered addition + all-gather%s\n", "",
           mpi ? "    MPI_Allreduce of the host's memory" : "");
    printf("# %10s %10s | %9s %9s %9s %7s", "size", "count", "time", "algbw", "busbw", "#wrong");
    if (mpi)
        printf(" | %9s %9s %9s %7s | %7s", "time", "algbw", "busbw", "#wrong", "times");
    printf("\n# %10s %10s | %9s %9s %9s %7s", "(B)", "(float)", "(us)", "(GB/s)", "(GB/s)", "");
    if (mpi)
        printf(" | %9s %9s %9s %7s | %7s", "(us)", "(GB/s)", "(GB/s)", "", "faster");
    putchar('\n');
}

static void print_comm_row(const rk_ctx *ctx, const rk_comm_timing *t)
{
    double ours = (double)t->bytes / t->seconds / 1e9;
    printf("  %10lld %10lld | %9.1f %9.2f %9.2f %7lld", (long long)t->bytes, (long long)t->bytes / 4,
           1e6 * t->seconds, ours, bus(ctx, ours), (long long)t->wrong);
    if (t->mpi_seconds > 0) {
        double mpi = (double)t->bytes / t->mpi_seconds / 1e9;
        printf(" | %9.1f %9.2f %9.2f %7lld | %7.2f", 1e6 * t->mpi_seconds, mpi, bus(ctx, mpi),
               (long long)t->mpi_wrong, t->mpi_seconds / t->seconds);
    }
    putchar('\n');
    fflush(stdout);
}

/* [C] What is measured is the same on all ranks, so that they stop at one size. */
static int run_comm(rk_ctx *ctx, double seconds)
{
    const int64_t least = 4096, most = 64 << 20;
    int64_t wrong = 0;
    bool slow = false;
    for (int64_t bytes = least; bytes <= most && !slow && !rk_failed(ctx); bytes *= 4) {
        rk_comm_timing t;
        if (rk_bench_comm(ctx, bytes, seconds, &t))
            break;
        wrong += t.wrong;
        slow = 4 * bytes <= most && 4 * SUM_RUNS * (t.seconds + t.mpi_seconds) > LONGEST_SUM * seconds;
        if (rk_rank(ctx) != 0)
            continue;
        if (bytes == least)
            print_comm_head(ctx, &t);
        print_comm_row(ctx, &t);
        if (slow)
            printf("# larger sums take too long here\n");
    }
    if (wrong)
        rk_fail(ctx, RK_EINTERNAL, "%lld values are not the sum", (long long)wrong);
    return cli_close(ctx);
}

/* As cli_open_device(), with every rank there is. */
static rk_status open_ranks(const cli_args *a, rk_ctx **ctx)
{
    int64_t threads;
    *ctx = NULL;
    if (!cli_int(a, "threads", 0, 1, &threads))
        return RK_EUSAGE;
    return rk_open(
        &(rk_open_cfg){ .device = cli_value(a, "device"), .threads = threads < 4096 ? (int)threads : 4096 },
        ctx);
}

/* --seconds; false after having said why. */
static bool read_seconds(const cli_args *a, double absent, double *out)
{
    const char *text = cli_value(a, "seconds");
    char *end = NULL;
    *out = text ? strtod(text, &end) : absent;
    if (!text || (end != text && !*end && *out > 0 && *out <= 3600))
        return true;
    cli_fail(RK_EUSAGE, "bench: --seconds is \"%s\", it should be a number from above 0 to 3600", text);
    return false;
}

static int run_bench(const cli_args *a)
{
    rk_ctx *ctx;
    double seconds;
    bool comm = a->n_words && !strcmp(a->words[0], "comm");
    if (a->n_words && !comm)
        return cli_fail(RK_EUSAGE, "bench %s: there is \"comm\", or nothing for products", a->words[0]);
    if (!read_seconds(a, comm ? SECONDS_A_SUM : SECONDS_A_CASE, &seconds))
        return rk_exit_code(RK_EUSAGE);
    rk_status st = comm ? open_ranks(a, &ctx) : cli_open_device(a, &ctx);
    if (!ctx)
        return rk_exit_code(st);
    if (st)
        return cli_close(ctx);
    cli_note_cpu(ctx);
    return comm ? run_comm(ctx, seconds) : run_products(ctx, seconds);
}

static const cli_flag flags[] = {
    { "seconds", "S", "time for each row, as far as that goes (default: 0.25; comm: 0.4)" },
    { "threads", "N", "compute threads (default: all cores)" },
    { "device", "NAME", "auto, cpu or cuda (default: auto, a GPU if there is one)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_bench = {
    .name = "bench",
    .synopsis = "[comm] [--seconds S] [--threads N]",
    .summary = "time a few products and convolutions against this machine's peak; comm: sums over ranks",
    .flags = flags,
    .max_words = 1,
    .ranks = true,
    .run = run_bench,
};
