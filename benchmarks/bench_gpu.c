/* The CUDA device against a model of it (docs/gpu-model.md).
 *
 *     bench_gpu model                    the model, as the tables of docs/gpu-model.md; no GPU is needed
 *     bench_gpu kernels [NAME]           times kernels (those whose names hold NAME) on the device
 *     bench_gpu once NAME NUMBER         runs the NUMBER-th kernel of that name once (to count what it moves)
 *     bench_gpu steps MODEL BATCH N      N training steps on the device, and what one has to move at least
 *
 * The model is a roofline: a kernel takes the longer of the time that its bytes need at the memory's
 * bandwidth, each array read once and written once, and that its operations need at the peak of the float32
 * units; both from NVIDIA's datasheets. */
#include "bench.h"
#include "kernel_cases.h"
#include "models.h"

#include "core/ctx.h"
#include "core/cuda_module.h"
#include "core/dry.h"

typedef struct gpu {
    const char *name;       /* in its description */
    double bytes_s, flop_s; /* of memory; of float32, without tensor cores */
} gpu;

/* A100 SXM 80 GB and H100 SXM: "NVIDIA A100 Tensor Core GPU", 2021; "NVIDIA H100 Tensor Core GPU", 2023. */
static const gpu gpus[] = { { "A100", 2039e9, 19.5e12 }, { "H100", 3350e9, 66.9e12 } };
enum { GPUS = 2 };

static double seconds(const gpu *g, rk__dry_cost c)
{
    return fmax(c.bytes / g->bytes_s, c.flops / g->flop_s);
}

static rk__dry_cost minus(rk__dry_cost a, rk__dry_cost b)
{
    return (rk__dry_cost){ a.bytes - b.bytes, a.flops - b.flops, a.calls - b.calls };
}

/* ---- kernels ---- */

static bool open_on(work *w, const rk_device *device)
{
    char msg[512] = "";
    *w = (work){ 0 };
    if (device->open(&(rk_open_cfg){ 0 }, &w->dev, msg, sizeof msg)) {
        fprintf(stderr, "bench_gpu: %s\n", msg);
        return false;
    }
    w->k = device->kernels(w->dev, RK_F32);
    void *index = NULL;
    for (int a = 0; a < ARRAYS; a++) {
        void *p = NULL;
        if (device->alloc(w->dev, MOST * sizeof(float), &p))
            return false;
        w->p[a] = p;
    }
    if (device->alloc(w->dev, MOST * sizeof(int64_t), &index))
        return false;
    w->index = index;
    return true;
}

static void close_on(work *w, const rk_device *device)
{
    for (int a = 0; a < ARRAYS; a++)
        device->release(w->dev, w->p[a], MOST * sizeof(float));
    device->release(w->dev, w->index, MOST * sizeof(int64_t));
    device->close(w->dev);
}

static bool set_inputs(work *w, const rk_device *device)
{
    float *x = malloc(MOST * sizeof *x);
    int64_t *index = malloc(MOST * sizeof *index);
    uint32_t state = 1;
    bool ok = x && index;
    for (int a = 0; a < ARRAYS && ok; a++) {
        for (int64_t i = 0; i < MOST; i++) {
            state = state * 1664525u + 1013904223u;
            x[i] = (float)(state >> 8) * 0x1p-24f + 0.1f;
        }
        ok = !device->copy_in(w->dev, w->p[a], x, MOST * sizeof *x);
    }
    for (int64_t i = 0; i < MOST && ok; i++)
        index[i] = i % 10;
    ok = ok && !device->copy_in(w->dev, w->index, index, MOST * sizeof *index);
    free(x);
    free(index);
    return ok;
}

static void take_size(work *w, const entry *e)
{
    w->n = e->n;
    w->c = e->c;
    w->s = e->s;
}

static rk__dry_cost cost_of(work *dry, const entry *e)
{
    const rk__dry_cost before = rk__dry_spent(dry->dev);
    take_size(dry, e);
    e->run(dry);
    return minus(rk__dry_spent(dry->dev), before);
}

static const char *shape_of(const entry *e, char text[48])
{
    snprintf(text, 48, "%lld x %lld x %lld", (long long)e->n, (long long)e->c, (long long)e->s);
    return text;
}

static int model_of_kernels(void)
{
    work dry;
    char shape[48];
    if (!open_on(&dry, &rk__device_dry))
        return 70;
    printf("| kernel | shape | bytes an element | FLOP an element | A100, us | H100, us | bound by |\n"
           "|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        const entry *e = &entries[i];
        const rk__dry_cost c = cost_of(&dry, e);
        const double n = (double)(e->n * e->c * e->s);
        printf("| %s | %s | %.1f | %.1f | %.2f | %.2f | %s |\n", e->name, shape_of(e, shape), c.bytes / n,
               c.flops / n, 1e6 * seconds(&gpus[0], c), 1e6 * seconds(&gpus[1], c),
               c.bytes / gpus[0].bytes_s > c.flops / gpus[0].flop_s ? "memory" : "operations");
    }
    close_on(&dry, &rk__device_dry);
    return 0;
}

/* ---- products and convolutions ---- */

static int model_of_products(void)
{
    static const int64_t sizes[][3] = { { 256, 512, 784 },    { 512, 784, 256 },    { 1024, 1024, 1024 },
                                        { 4096, 4096, 4096 }, { 8192, 8192, 8192 }, { 1, 4096, 4096 } };
    work dry;
    if (!open_on(&dry, &rk__device_dry))
        return 70;
    printf(
        "| product, m x n x k | MB | GFLOP | A100, us | H100, us | bound by |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        const rk__dry_cost before = rk__dry_spent(dry.dev);
        dry.k->gemm(
            dry.dev,
            &(rk_gemm){ .m = m, .n = n, .k = k, .a_row = k, .a_col = 1, .b_row = n, .b_col = 1, .ldc = n });
        const rk__dry_cost c = minus(rk__dry_spent(dry.dev), before);
        printf("| %lld x %lld x %lld | %.2f | %.3f | %.2f | %.2f | %s |\n", (long long)m, (long long)n,
               (long long)k, 1e-6 * c.bytes, 1e-9 * c.flops, 1e6 * seconds(&gpus[0], c),
               1e6 * seconds(&gpus[1], c),
               c.bytes / gpus[0].bytes_s > c.flops / gpus[0].flop_s ? "memory" : "operations");
    }
    close_on(&dry, &rk__device_dry);
    return 0;
}

/* ---- whole steps ---- */

static rk_status train(bench *b, int steps)
{
    for (int i = 0; i < steps && !rk_failed(b->ctx); i++)
        step(b);
    return rk_failed(b->ctx);
}

/* One step of a model, as the device that only counts sees it. */
static bool cost_of_step(const model *m, int64_t batch, rk__dry_cost *cost)
{
    bench b = { .batch = batch };
    bool ok = !rk__open_on(NULL, &rk__device_dry, &b.ctx);
    if (ok) {
        make(&b, m);
        train(&b, 2);
        const rk__dry_cost before = rk__dry_spent(b.ctx->dev);
        ok = !train(&b, 1);
        *cost = minus(rk__dry_spent(b.ctx->dev), before);
    }
    rk_close(b.ctx);
    return ok;
}

static int model_of_steps(void)
{
    static const struct {
        const char *name;
        int64_t batch;
    } rows[] = { { "mlp", 64 },   { "mlp", 256 },   { "cnn", 64 },
                 { "cnn", 1024 }, { "resnet", 64 }, { "resnet", 1024 } };
    printf("| training step | batch | entries | MB | GFLOP | A100, us | H100, us "
           "|\n|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rk__dry_cost c;
        if (!cost_of_step(find(rows[i].name), rows[i].batch, &c))
            return 70;
        printf("| %s | %lld | %lld | %.2f | %.3f | %.1f | %.1f |\n", rows[i].name, (long long)rows[i].batch,
               (long long)c.calls, 1e-6 * c.bytes, 1e-9 * c.flops, 1e6 * seconds(&gpus[0], c),
               1e6 * seconds(&gpus[1], c));
    }
    return 0;
}

static int run_steps(const char *name, int64_t batch, int steps)
{
    const model *m = find(name);
    rk__dry_cost cost;
    bench b = { .batch = batch };
    if (!cost_of_step(m, batch, &cost))
        return 70;
    if (!rk_open(&(rk_open_cfg){ .device = "cuda", .seed = 1 }, &b.ctx)) {
        make(&b, m);
        train(&b, steps);
    }
    if (rk_failed(b.ctx))
        fprintf(stderr, "bench_gpu: %s\n", rk_error(b.ctx));
    else
        printf("{\"steps\": %d, \"entries\": %lld, \"least_bytes\": %.0f, \"flops\": %.0f}\n", steps,
               (long long)cost.calls, cost.bytes, cost.flops);
    return rk_close(b.ctx);
}

/* ---- on the device ---- */

static const rk_device *find_device(const char **built)
{
    char msg[512];
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    if (!m || m->gpus(msg, sizeof msg) <= 0) {
        fprintf(stderr, "bench_gpu: %s\n", msg);
        return NULL;
    }
    *built = m->built;
    return m->device;
}

typedef struct timed {
    const entry *e;
    work *w;
    const rk_device *device;
} timed;

enum { REPEAT = 50 };

/* Launches do not wait: many of them, then one read that does. */
static void run_timed(void *arg)
{
    const timed *t = arg;
    float x;
    for (int i = 0; i < REPEAT; i++)
        t->e->run(t->w);
    if (t->device->copy_out(t->w->dev, &x, t->w->p[0], sizeof x))
        abort();
}

static const gpu *known(const char *description)
{
    for (int i = 0; i < GPUS; i++)
        if (strstr(description, gpus[i].name))
            return &gpus[i];
    return NULL;
}

static int time_kernels(const char *only)
{
    const char *built;
    const rk_device *device = find_device(&built);
    work w, dry;
    char shape[48];
    if (!device || !open_on(&w, device) || !open_on(&dry, &rk__device_dry) || !set_inputs(&w, device))
        return 70;
    const char *what = device->describe(w.dev);
    const gpu *g = known(what);
    printf("%s, %s\n\n| kernel | shape | us | GB/s | model, us | model / measured "
           "|\n|---|---|---|---|---|---|\n",
           what, built);
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        const entry *e = &entries[i];
        if (only && !strstr(e->name, only))
            continue;
        const rk__dry_cost c = cost_of(&dry, e);
        timed t = { e, &w, device };
        bench_side side = { .name = e->name, .run = run_timed, .arg = &t };
        take_size(&w, e);
        bench_in_turn(&(bench_options){ .threads = 2, .seconds = 0.2 }, 1, &side, 1);
        const double us = 1e6 * side.median / REPEAT;
        printf("| %s | %s | %.2f | %.1f |", e->name, shape_of(e, shape), us, 1e-3 * c.bytes / us);
        if (g)
            printf(" %.2f | %.2f |\n", 1e6 * seconds(g, c), 1e6 * seconds(g, c) / us);
        else
            printf(" - | - |\n");
    }
    close_on(&w, device);
    close_on(&dry, &rk__device_dry);
    return 0;
}

static int run_once(const char *name, int number)
{
    const char *built;
    const rk_device *device = find_device(&built);
    work w, dry;
    if (!device || !open_on(&w, device) || !open_on(&dry, &rk__device_dry) || !set_inputs(&w, device))
        return 70;
    int code = 64;
    for (size_t i = 0; i < sizeof entries / sizeof *entries && code; i++) {
        if (strcmp(entries[i].name, name) || number-- > 0)
            continue;
        float x;
        take_size(&w, &entries[i]);
        entries[i].run(&w);
        printf("{\"least_bytes\": %.0f}\n", cost_of(&dry, &entries[i]).bytes);
        code = device->copy_out(w.dev, &x, w.p[0], sizeof x) ? 70 : 0;
    }
    close_on(&w, device);
    close_on(&dry, &rk__device_dry);
    return code;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "model"))
        return model_of_kernels() || puts("") < 0 || model_of_products() || puts("") < 0 || model_of_steps();
    if (!strcmp(what, "kernels"))
        return time_kernels(argc > 2 ? argv[2] : NULL);
    if (!strcmp(what, "once") && argc > 3)
        return run_once(argv[2], (int)strtol(argv[3], NULL, 10));
    if (!strcmp(what, "steps") && argc > 4)
        return run_steps(argv[2], strtoll(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10));
    fprintf(stderr, "usage: bench_gpu model | kernels [NAME] | once NAME NUMBER | steps MODEL BATCH N\n");
    return 64;
}
