/* rankine bench: how near this machine's products come to its peak, in a few seconds; rankine bench comm: how
 * fast its ranks add up. benchmarks/ has the careful ones. */
#include "cli/cli.h"

#include <rankine/parallel.h>

#include <stdlib.h>
#include <string.h>

#define SECONDS_A_CASE 0.25
enum { MIN_RUNS = 5, MAX_RUNS = 2000 };

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

static void run_once(rk_ctx *ctx, const bench_case *c, const operands *o)
{
    if (c->m)
        rk_matmul(o->a, o->b, false, true);
    else
        rk_conv2d_op(o->a, o->b, NULL, &(rk_conv_cfg){ .pad = { 1, 1 } });
    rk_step_end(ctx);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_seconds(rk_ctx *ctx, const bench_case *c)
{
    static double seconds[MAX_RUNS];
    operands o = make_operands(ctx, c);
    double begun = cli_now();
    int runs = 0;
    for (int i = 0; i < 3; i++)
        run_once(ctx, c, &o);
    while (!rk_failed(ctx) && runs < MAX_RUNS && (runs < MIN_RUNS || cli_now() - begun < SECONDS_A_CASE)) {
        double start = cli_now();
        run_once(ctx, c, &o);
        seconds[runs++] = cli_now() - start;
    }
    if (!runs)
        return 0;
    qsort(seconds, (size_t)runs, sizeof *seconds, by_value);
    return seconds[runs / 2];
}

/* ---- comm: a table as nccl-tests print it ---- */

/* Bytes a second that a link has to carry for this: a sum over n ranks moves 2 (n - 1) / n times its size. */
static double bus(const rk_ctx *ctx, double bandwidth)
{
    return bandwidth * 2 * (rk_ranks(ctx) - 1) / rk_ranks(ctx);
}

static void print_comm_head(const rk_ctx *ctx)
{
    printf("# sum over %d ranks, %s a rank; seconds are medians of the slowest rank\n", rk_ranks(ctx),
           rk_device_describe(ctx));
    if (rk_ranks(ctx) == 1)
        printf("# one rank has nobody to exchange with: mpirun -n 2 rankine bench comm\n");
    printf("# %28s exchange + ordered addition + all-gather %17s MPI_Allreduce\n", "", "");
    printf("# %10s %10s | %9s %9s %9s %7s | %9s %9s %9s %7s | %7s\n", "size", "count", "time", "algbw",
           "busbw", "#wrong", "time", "algbw", "busbw", "#wrong", "times");
    printf("# %10s %10s | %9s %9s %9s %7s | %9s %9s %9s %7s | %7s\n", "(B)", "(float)", "(us)", "(GB/s)",
           "(GB/s)", "", "(us)", "(GB/s)", "(GB/s)", "", "faster");
}

static void print_comm_row(const rk_ctx *ctx, const rk_comm_timing *t)
{
    double ours = (double)t->bytes / t->seconds / 1e9;
    printf("  %10lld %10lld | %9.1f %9.2f %9.2f %7lld |", (long long)t->bytes, (long long)t->bytes / 4,
           1e6 * t->seconds, ours, bus(ctx, ours), (long long)t->wrong);
    if (t->mpi_seconds > 0) {
        double mpi = (double)t->bytes / t->mpi_seconds / 1e9;
        printf(" %9.1f %9.2f %9.2f %7lld | %7.2f\n", 1e6 * t->mpi_seconds, mpi, bus(ctx, mpi),
               (long long)t->mpi_wrong, t->mpi_seconds / t->seconds);
    } else {
        printf(" %9s %9s %9s %7s | %7s\n", "-", "-", "-", "-", "-");
    }
    fflush(stdout);
}

static int run_comm(rk_ctx *ctx)
{
    int64_t wrong = 0;
    if (rk_rank(ctx) == 0)
        print_comm_head(ctx);
    for (int64_t bytes = 4096; bytes <= 64 << 20 && !rk_failed(ctx); bytes *= 4) {
        rk_comm_timing t;
        if (rk_bench_comm(ctx, bytes, 0.4, &t))
            break;
        wrong += t.wrong;
        if (rk_rank(ctx) == 0)
            print_comm_row(ctx, &t);
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

static int run_bench(const cli_args *a)
{
    rk_ctx *ctx;
    bool comm = a->n_words && !strcmp(a->words[0], "comm");
    if (a->n_words && !comm)
        return cli_fail(RK_EUSAGE, "bench %s: there is \"comm\", or nothing for products", a->words[0]);
    rk_status st = comm ? open_ranks(a, &ctx) : cli_open_device(a, &ctx);
    if (!ctx)
        return rk_exit_code(st);
    if (st)
        return cli_close(ctx);
    if (comm)
        return run_comm(ctx);
    double peak = rk_peak_flops(ctx);
    printf("%s; measured peak %.1f GFLOP/s\n", rk_device_describe(ctx), peak / 1e9);
    printf("%-22s %-28s %10s %10s %7s\n", "f32", "shape", "median ms", "GFLOP/s", "of peak");
    rk_no_grad_begin(ctx);
    for (size_t i = 0; i < sizeof cases / sizeof *cases && !rk_failed(ctx); i++) {
        char shape[64];
        describe(&cases[i], shape, sizeof shape);
        double s = median_seconds(ctx, &cases[i]);
        if (s > 0)
            printf("%-22s %-28s %10.3f %10.1f %6.0f%%\n", cases[i].name, shape, 1e3 * s,
                   flops(&cases[i]) / s / 1e9, peak > 0 ? 100 * flops(&cases[i]) / s / peak : 0);
        fflush(stdout);
    }
    rk_no_grad_end(ctx);
    return cli_close(ctx);
}

static const cli_flag flags[] = {
    { "threads", "N", "compute threads (default: all cores)" },
    { "device", "NAME", "auto, cpu or cuda (default: auto, a GPU if there is one)" },
    { NULL, NULL, NULL },
};

const cli_verb cli_bench = {
    .name = "bench",
    .synopsis = "[comm] [--threads N]",
    .summary = "time a few products and convolutions against this machine's peak; comm: sums over ranks",
    .flags = flags,
    .max_words = 1,
    .ranks = true,
    .run = run_bench,
};
