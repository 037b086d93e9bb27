/* The memory-bound kernels at the sizes that training meets, against memcpy: GB/s counts each array that the
 * kernel has to read or write once; memcpy moves the same number of bytes in the same memory. `wrong`:
 * results whose bits differ from those of the portable vectors. */
#include "bench.h"
#include "core/kernels.h"

enum { MOST = 1 << 20, ARRAYS = 6 };

typedef struct work {
    const rk_kernels *k;
    rk_dev *dev;
    float *p[ARRAYS]; /* MOST floats each */
    int64_t *index;
    int64_t n, c, s;
} work;

typedef struct entry {
    const char *name;
    void (*run)(work *w);
    int64_t n, c, s; /* (n, c, s); n c s elements */
    double arrays;   /* read or written once, each of n c s floats */
    int out, outs;   /* p[out], ..: what it writes */
} entry;

static int64_t size(const work *w)
{
    return w->n * w->c * w->s;
}

static const rk_order in_eight = { 8, 1, RK_ACC_SET };

#define RUN(name, call)             \
    static void run_##name(work *w) \
    {                               \
        const rk_kernels *k = w->k; \
        float *const *p = w->p;     \
        (void)p;                    \
        if (k->call)                \
            abort();                \
    }
RUN(add, add(w->dev, size(w), p[0], p[1], 0, p[2]))
RUN(relu, relu(w->dev, size(w), p[0], 0, p[2]))
RUN(relu_grad, relu_grad(w->dev, size(w), p[0], p[1], 0, p[2]))
RUN(exp, exp(w->dev, size(w), p[0], 0, p[2]))
RUN(tanh, tanh(w->dev, size(w), p[0], 0, p[2]))
RUN(sigmoid, sigmoid(w->dev, size(w), p[0], 0, p[2]))
RUN(gelu, gelu(w->dev, size(w), p[0], 0, p[2]))
RUN(gelu_grad, gelu_grad(w->dev, size(w), p[0], p[1], 0, p[2]))
RUN(bias_grad, reduce_sum(w->dev, 1, w->n, w->c, in_eight, p[0], p[2]))
RUN(row_sum, reduce_sum(w->dev, w->n, w->c, 1, ((rk_order){ 1, 1, RK_ACC_SET }), p[0], p[2]))
RUN(softmax, softmax(w->dev, w->n, w->c, p[0], p[2]))
RUN(cross_entropy, cross_entropy(w->dev, w->n, w->c, p[0], w->index, 0, false, 0, p[2], p[3]))
RUN(cross_entropy_grad,
    cross_entropy_grad(w->dev, w->n, w->c, 0, w->c, p[0], w->index, p[1], 0, false, 0, 0.1, p[2]))
RUN(layer_norm, layer_norm(w->dev, w->n, w->c, p[0], p[1], p[3], 1e-5, p[2], p[4], p[5]))
RUN(layer_norm_dx, layer_norm_dx(w->dev, w->n, w->c, p[0], p[1], p[3], p[4], p[5], p[2]))
RUN(layer_norm_dparam, layer_norm_dparam(w->dev, w->n, w->c, in_eight, p[0], p[1], p[4], p[5], p[2], p[3]))
RUN(sum_channels, sum_channels(w->dev, w->n, w->c, w->s, in_eight, p[0], p[2]))
RUN(bn_stats, batch_norm_stats(w->dev, w->n, w->c, w->s, in_eight, p[0], p[2], p[3]))
RUN(bn_forward, batch_norm(w->dev, w->n, w->c, w->s, p[0], p[1], p[4], p[5], p[4], 1e-5, p[2], p[3]))
RUN(bn_dparam, batch_norm_dparam(w->dev, w->n, w->c, w->s, in_eight, p[0], p[4], p[5], p[1], p[2], p[3]))
RUN(bn_dx,
    batch_norm_dx(w->dev, w->n, w->c, w->s, w->n * w->s, p[0], p[4], p[5], p[5], p[4], p[5], p[1], p[2]))
RUN(take_rows, take_rows(w->dev, w->n, w->c, p[0], w->index, p[2]))
RUN(take_rows_grad, take_rows_grad(w->dev, 10, w->n, w->c, in_eight, p[0], w->index, p[2]))
RUN(dropout, dropout(w->dev, w->n, w->c, 0, 0.5, ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[0], p[2]))
RUN(uniform, uniform(w->dev, size(w), ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[2]))
RUN(normal, normal(w->dev, size(w), ((rk_rng){ { 1, 2 }, { 0, 0, 3 } }), p[2]))

static void run_adamw(work *w)
{
    rk_optim_args o = { .n = size(w),
                        .lr = 1e-9,
                        .weight_decay = 0.01,
                        .grad_scale = 1,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 1e-8,
                        .bias1 = 0.1,
                        .bias2 = 0.001,
                        .decoupled = true };
    w->k->adam(w->dev, &o, w->p[2], w->p[1], w->p[3], w->p[4]);
}

static void run_sgd(work *w)
{
    rk_optim_args o = { .n = size(w), .lr = 1e-9, .grad_scale = 1, .momentum = 0.9 };
    w->k->sgd(w->dev, &o, w->p[2], w->p[1], w->p[3]);
}

static void run_sum_squares(work *w)
{
    double sum;
    bool bad;
    w->k->sum_squares(w->dev, size(w), w->p[0], &sum, &bad);
    w->p[2][0] = (float)sum;
}

static const entry entries[] = {
    { "add", run_add, 64, 16, 1024, 3, 2, 1 },
    { "relu", run_relu, 64, 16, 1024, 2, 2, 1 },
    { "relu_grad", run_relu_grad, 256, 512, 1, 3, 2, 1 },
    { "relu_grad", run_relu_grad, 64, 16, 1024, 3, 2, 1 },
    { "exp", run_exp, 64, 16, 1024, 2, 2, 1 },
    { "tanh", run_tanh, 64, 16, 1024, 2, 2, 1 },
    { "sigmoid", run_sigmoid, 64, 16, 1024, 2, 2, 1 },
    { "gelu", run_gelu, 64, 16, 1024, 2, 2, 1 },
    { "gelu_grad", run_gelu_grad, 64, 16, 1024, 3, 2, 1 },
    { "bias gradient", run_bias_grad, 256, 512, 1, 1, 2, 1 },
    { "bias gradient", run_bias_grad, 64, 10, 1, 1, 2, 1 },
    { "row sums", run_row_sum, 1024, 1024, 1, 1, 2, 1 },
    { "softmax", run_softmax, 1024, 1000, 1, 2, 2, 1 },
    { "cross entropy", run_cross_entropy, 64, 10, 1, 1, 2, 2 },
    { "cross entropy", run_cross_entropy, 512, 1000, 1, 1, 2, 2 },
    { "cross entropy gradient", run_cross_entropy_grad, 64, 10, 1, 2, 2, 1 },
    { "cross entropy gradient", run_cross_entropy_grad, 512, 1000, 1, 2, 2, 1 },
    { "layer norm", run_layer_norm, 1024, 768, 1, 2, 2, 1 },
    { "layer norm dx", run_layer_norm_dx, 1024, 768, 1, 3, 2, 1 },
    { "layer norm dparam", run_layer_norm_dparam, 1024, 768, 1, 2, 2, 2 },
    { "sum of channels", run_sum_channels, 64, 64, 196, 1, 2, 1 },
    { "sum of channels", run_sum_channels, 64, 16, 1024, 1, 2, 1 },
    { "sum of channels", run_sum_channels, 64, 64, 64, 1, 2, 1 },
    { "batch norm statistics", run_bn_stats, 64, 16, 1024, 1, 2, 2 },
    { "batch norm statistics", run_bn_stats, 64, 64, 64, 1, 2, 2 },
    { "batch norm statistics", run_bn_stats, 32, 512, 49, 1, 2, 2 },
    { "batch norm forward", run_bn_forward, 64, 16, 1024, 2, 2, 2 },
    { "batch norm forward", run_bn_forward, 64, 64, 64, 2, 2, 2 },
    { "batch norm forward", run_bn_forward, 32, 512, 49, 2, 2, 2 },
    { "batch norm dparam", run_bn_dparam, 64, 16, 1024, 2, 2, 2 },
    { "batch norm dparam", run_bn_dparam, 64, 64, 64, 2, 2, 2 },
    { "batch norm dparam", run_bn_dparam, 32, 512, 49, 2, 2, 2 },
    { "batch norm dx", run_bn_dx, 64, 16, 1024, 3, 2, 1 },
    { "batch norm dx", run_bn_dx, 64, 64, 64, 3, 2, 1 },
    { "batch norm dx", run_bn_dx, 32, 512, 49, 3, 2, 1 },
    { "batch norm dx", run_bn_dx, 1024, 512, 1, 3, 2, 1 },
    { "take rows", run_take_rows, 1024, 512, 1, 2, 2, 1 },
    { "take rows gradient", run_take_rows_grad, 1024, 512, 1, 1, 2, 1 },
    { "dropout", run_dropout, 256, 512, 1, 2, 2, 1 },
    { "uniform", run_uniform, 64, 16, 1024, 1, 2, 1 },
    { "normal", run_normal, 64, 16, 1024, 1, 2, 1 },
    { "adamw", run_adamw, 670, 1000, 1, 7, 2, 3 },
    { "sgd, momentum", run_sgd, 670, 1000, 1, 5, 2, 2 },
    { "sum of squares", run_sum_squares, 670, 1000, 1, 1, 2, 1 },
};

static void set_inputs(work *w)
{
    uint32_t state = 1;
    for (int a = 0; a < ARRAYS; a++)
        for (int64_t i = 0; i < MOST; i++) {
            state = state * 1664525u + 1013904223u;
            w->p[a][i] = (float)(state >> 8) * 0x1p-24f * (a >= 3 ? 1 : 4) + (a >= 3 ? 0.1f : -2);
        }
    for (int64_t i = 0; i < MOST; i++)
        w->index[i] = i % 10;
}

static bool open_work(work *w, const char *isa, int threads)
{
    char msg[200] = "";
    if (rk_device_cpu.open(&(rk_open_cfg){ .isa = isa, .threads = threads }, &w->dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        return false;
    }
    w->k = rk_device_cpu.kernels(w->dev, RK_F32);
    for (int a = 0; a < ARRAYS; a++)
        w->p[a] = aligned_alloc(64, MOST * sizeof(float));
    w->index = malloc(MOST * sizeof *w->index);
    return true;
}

static int64_t count_wrong(const entry *e, work *fast, work *portable)
{
    int64_t wrong = 0;
    set_inputs(fast);
    set_inputs(portable);
    e->run(fast);
    e->run(portable);
    for (int a = e->out; a < e->out + e->outs; a++)
        for (int64_t i = 0; i < MOST; i++)
            wrong += memcmp(&fast->p[a][i], &portable->p[a][i], sizeof(float)) != 0;
    return wrong;
}

typedef struct timed {
    const entry *e;
    work *w;
    char *from, *to;
    size_t bytes;
} timed;

static void run_ours(void *arg)
{
    timed *t = arg;
    t->e->run(t->w);
}

/* Half of the bytes are read, half written. */
static void run_memcpy(void *arg)
{
    timed *t = arg;
    size_t half = t->bytes / 2;
    for (size_t done = 0, block = MOST * sizeof(float); done < half; done += block)
        memcpy(t->to + done % (2 * block), t->from + done % (2 * block),
               half - done < block ? half - done : block);
    __asm__ volatile("" ::: "memory");
}

int main(int argc, char **argv)
{
    bench_options o = bench_options_read(argc, argv);
    work fast, portable;
    if (!open_work(&fast, NULL, o.threads) || !open_work(&portable, "portable", 1))
        return 70;
    printf("%s\n%-28s %-14s %9s %8s %8s %6s  %s\n", rk_device_cpu.describe(fast.dev), "kernel", "shape", "us",
           "GB/s", "memcpy", "ratio", "wrong");
    char *from = aligned_alloc(64, 2 * MOST * sizeof(float)),
         *to = aligned_alloc(64, 2 * MOST * sizeof(float));
    memset(from, 1, 2 * MOST * sizeof(float));
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        const entry *e = &entries[i];
        if (o.only && !strstr(e->name, o.only))
            continue;
        fast.n = portable.n = e->n;
        fast.c = portable.c = e->c;
        fast.s = portable.s = e->s;
        int64_t wrong = count_wrong(e, &fast, &portable);
        timed t = { e, &fast, from, to, (size_t)(e->arrays * (double)size(&fast) * sizeof(float)) };
        bench_side sides[] = { { .name = "ours", .run = run_ours, .arg = &t },
                               { .name = "memcpy", .run = run_memcpy, .arg = &t } };
        bench_in_turn(&o, size(&fast) < 100000 ? 20 : 1, sides, 2);
        char shape[40];
        snprintf(shape, sizeof shape, "%lldx%lldx%lld", (long long)e->n, (long long)e->c, (long long)e->s);
        printf("%-28s %-14s %9.1f %8.2f %8.2f %6.2f  %lld\n", e->name, shape, 1e6 * sides[0].median,
               1e-9 * (double)t.bytes / sides[0].median, 1e-9 * (double)t.bytes / sides[1].median,
               sides[1].median / sides[0].median, (long long)wrong);
    }
    rk_device_cpu.close(fast.dev);
    rk_device_cpu.close(portable.dev);
    return 0;
}
