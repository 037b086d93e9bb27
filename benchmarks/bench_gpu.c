/* The CUDA device against a model of it (docs/gpu-model.md).
 *
 *     bench_gpu model                    the model, as the tables of docs/gpu-model.md; no GPU is needed
 *     bench_gpu kernels [NAME]           times kernels (those whose names hold NAME) on the device
 *     bench_gpu list                     the kernels: NAME, NUMBER of that name, least bytes, FLOP, shape
 *     bench_gpu once NAME NUMBER [N]     runs that kernel once (to count what it moves), on N samples
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

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static bool is_product(const entry *e)
{
    return !strncmp(e->name, "gemm", 4);
}

/* Floats that the largest array of a case has. */
static int64_t most_of(const entry *e)
{
    int64_t most = e->n * e->c * e->s;
    if (is_product(e))
        most = larger(larger(e->n * e->s, e->s * e->c), e->n * e->c);
    if (e->conv)
        most = e->n * larger(e->conv->c * e->conv->h * e->conv->w, e->conv->oc * e->conv->oh * e->conv->ow);
    if (e->conv)
        most = larger(most, e->conv->oc * e->conv->c * e->conv->kh * e->conv->kw);
    if (e->pool)
        most = e->pool->n * e->pool->c * e->pool->h * e->pool->w;
    return larger(most, MOST);
}

/* Of what takes much, only the first three are large. */
static size_t bytes_of(int array, int64_t most)
{
    return (size_t)(array < 3 ? most : MOST) * sizeof(float);
}

static bool make_arrays(work *w, int64_t most)
{
    void *p;
    for (int a = 0; a < ARRAYS; a++) {
        if (w->device->alloc(w->dev, bytes_of(a, most), &p))
            return false;
        w->p[a] = p;
    }
    return true;
}

static void drop_arrays(work *w, int64_t most)
{
    for (int a = 0; a < ARRAYS; a++)
        w->device->release(w->dev, w->p[a], bytes_of(a, most));
}

static bool open_on(work *w, const rk_device *device)
{
    char msg[512] = "";
    void *index = NULL, *bound = NULL, *arg = NULL, *watch = NULL;
    *w = (work){ .device = device };
    if (device->open(&(rk_open_cfg){ 0 }, &w->dev, msg, sizeof msg)) {
        fprintf(stderr, "bench_gpu: %s\n", msg);
        return false;
    }
    w->k = device->kernels(w->dev, RK_F32);
    if (device->alloc(w->dev, MOST * sizeof(int64_t), &index) ||
        device->alloc(w->dev, MOST * sizeof(int64_t), &bound) ||
        device->alloc(w->dev, MOST * sizeof(int32_t), &arg) ||
        device->alloc(w->dev, sizeof(rk_watch), &watch) || device->zero(w->dev, watch, sizeof(rk_watch)))
        return false;
    w->index = index;
    w->bound = bound;
    w->arg = arg;
    w->watch = watch;
    return true;
}

static void close_on(work *w)
{
    const rk_device *device = w->device;
    device->release(w->dev, w->index, MOST * sizeof(int64_t));
    device->release(w->dev, w->bound, MOST * sizeof(int64_t));
    device->release(w->dev, w->arg, MOST * sizeof(int32_t));
    device->release(w->dev, w->watch, sizeof(rk_watch));
    device->close(w->dev);
}

static bool set_numbers(work *w, int64_t most)
{
    float *x = malloc((size_t)most * sizeof *x);
    uint32_t state = 1;
    bool ok = x;
    for (int a = 0; a < ARRAYS && ok; a++) {
        for (int64_t i = 0; i < most; i++) {
            state = state * 1664525u + 1013904223u;
            x[i] = (float)(state >> 8) * 0x1p-24f + 0.1f;
        }
        ok = !w->device->copy_in(w->dev, w->p[a], x, bytes_of(a, most));
    }
    free(x);
    return ok;
}

static bool set_indices(work *w)
{
    int64_t *x = malloc(MOST * sizeof *x);
    bool ok = x;
    for (int64_t i = 0; i < MOST && ok; i++)
        x[i] = i % 10;
    ok = ok && !w->device->copy_in(w->dev, w->index, x, MOST * sizeof *x);
    for (int64_t i = 0; i < MOST && ok; i++)
        x[i] = i;
    ok = ok && !w->device->copy_in(w->dev, w->bound, x, MOST * sizeof *x);
    free(x);
    return ok;
}

/* The first place of a window along an axis. */
static int64_t first_of(int64_t o, int64_t in, int64_t taps, int64_t stride, int64_t pad, int64_t out)
{
    const int64_t at = taps ? o * stride - pad : o * in / out;
    return at > 0 ? at : 0;
}

/* Maxima at the first place of each window. */
static bool set_places(work *w, const rk_pool2d *p)
{
    int32_t *x = malloc(MOST * sizeof *x);
    const int64_t n = p->n * p->c * p->oh * p->ow;
    for (int64_t i = 0; i < n && x; i++) {
        const int64_t oh = i / p->ow % p->oh, ow = i % p->ow;
        x[i] = (int32_t)(first_of(oh, p->h, p->kh, p->stride_h, p->pad_h, p->oh) * p->w +
                         first_of(ow, p->w, p->kw, p->stride_w, p->pad_w, p->ow));
    }
    const bool ok = x && !w->device->copy_in(w->dev, w->arg, x, (size_t)n * sizeof *x);
    free(x);
    return ok;
}

/* The device that counts; its addresses are not looked at, but where there is none. */
static bool open_counting(work *w)
{
    return open_on(w, &rk__device_dry) && make_arrays(w, MOST);
}

static void take_size(work *w, const entry *e)
{
    w->e = e;
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

/* What docs/gpu-model.md calls elements of a case. */
static double elements_of(const entry *e)
{
    const rk_conv2d_args *a = e->conv;
    if (is_product(e))
        return (double)(e->n * e->c);
    if (e->pool)
        return (double)(e->pool->n * e->pool->c * e->pool->h * e->pool->w);
    if (a && !strncmp(e->name, "conv2d_dw", 9))
        return (double)(a->oc * a->c * a->kh * a->kw);
    if (a && !strncmp(e->name, "conv2d_dx", 9))
        return (double)(e->n * a->c * a->h * a->w);
    return a ? (double)(e->n * a->oc * a->oh * a->ow) : (double)(e->n * e->c * e->s);
}

enum { TEXT = 160 };

static const char *shape_of(const entry *e, char text[TEXT])
{
    const rk_conv2d_args *a = e->conv;
    const rk_pool2d *p = e->pool;
    if (a)
        snprintf(text, TEXT, "%lld x %lld x %lld -> %lld x %lld, %lld x %lld", (long long)e->n,
                 (long long)a->c, (long long)a->h, (long long)a->oc, (long long)a->oh, (long long)a->kh,
                 (long long)a->kw);
    else if (p && p->kh)
        snprintf(text, TEXT, "%lld x %lld x %lld -> %lld, %lld x %lld", (long long)p->n, (long long)p->c,
                 (long long)p->h, (long long)p->oh, (long long)p->kh, (long long)p->kw);
    else if (p)
        snprintf(text, TEXT, "%lld x %lld x %lld -> %lld", (long long)p->n, (long long)p->c, (long long)p->h,
                 (long long)p->oh);
    else
        snprintf(text, TEXT, "%lld x %lld x %lld", (long long)e->n, (long long)e->c, (long long)e->s);
    return text;
}

/* ---- the model's tables ---- */

enum { COLUMNS = 9, MOST_ROWS = 64, NAMES = 60 };

typedef struct table {
    char cell[MOST_ROWS][COLUMNS][TEXT];
    int rows, columns;
    int words; /* columns from the left that hold no numbers; if several, the last one holds none, too */
} table;

/* Three digits, and all before the point. */
static void print_number(char cell[TEXT], double x)
{
    if (x >= 100)
        snprintf(cell, TEXT, "%.0f", x);
    else if (x >= 10)
        snprintf(cell, TEXT, "%.1f", x);
    else
        snprintf(cell, TEXT, x >= 1 || x == 0 ? "%.2f" : "%#.3g", x);
}

static bool has_words(const table *t, int column)
{
    return column < t->words || (column == t->columns - 1 && t->words > 1);
}

static void print_rule(const table *t, const int *width)
{
    for (int c = 0; c < t->columns; c++) {
        putchar('|');
        for (int i = 0; i <= width[c]; i++)
            putchar('-');
        putchar(has_words(t, c) ? '-' : ':');
    }
    puts("|");
}

/* Columns are as wide as their widest cell; numbers stand on the right. */
static void print_table(const table *t)
{
    int width[COLUMNS] = { 0 };
    for (int c = 0; c < t->columns; c++)
        for (int r = 0; r < t->rows; r++)
            width[c] = (int)larger(width[c], (int64_t)strlen(t->cell[r][c]));
    for (int r = 0; r < t->rows; r++) {
        for (int c = 0; c < t->columns; c++) {
            printf(has_words(t, c) ? "| %-*s " : "| %*s ", width[c], t->cell[r][c]);
        }
        puts("|");
        if (r == 0)
            print_rule(t, width);
    }
}

static void set_row(table *t, const char *const *cell)
{
    for (int c = 0; c < t->columns; c++)
        snprintf(t->cell[t->rows][c], TEXT, "%s", cell[c]);
    t->rows++;
}

static const char *bound_by(rk__dry_cost c)
{
    return c.bytes / gpus[0].bytes_s > c.flops / gpus[0].flop_s ? "memory" : "operations";
}

/* Kernels that differ in nothing but the name share the row of the first. */
static void add_kernel(table *t, const entry *e, rk__dry_cost c)
{
    if (t->rows == MOST_ROWS)
        abort();
    char(*row)[TEXT] = t->cell[t->rows];
    const double n = elements_of(e);
    snprintf(row[0], TEXT, "%s", e->name);
    shape_of(e, row[1]);
    print_number(row[2], c.bytes / n);
    print_number(row[3], c.flops / n);
    print_number(row[4], 1e6 * seconds(&gpus[0], c));
    print_number(row[5], 1e6 * seconds(&gpus[1], c));
    print_number(row[6], 1e-6 * c.bytes);
    print_number(row[7], 1e-9 * c.flops);
    snprintf(row[t->columns - 1], TEXT, "%s", bound_by(c));
    char(*last)[TEXT] = t->cell[t->rows - 1];
    bool same = !strchr(e->name, '(') && !strchr(last[0], '(');
    for (int i = 1; i < t->columns && same; i++)
        same = !strcmp(row[i], last[i]);
    const size_t used = strlen(last[0]);
    if (!same || used + strlen(e->name) > NAMES)
        t->rows++;
    else
        snprintf(last[0] + used, TEXT - used, ", %s", e->name);
}

/* Of products and convolutions the sums are told, too. */
static const char *const with_sums[] = {
    "kernel", "shape", "bytes an element", "FLOP an element", "A100, us", "H100, us",
    "MB",     "GFLOP", "bound by"
};
static const char *const without[] = { "kernel",   "shape",    "bytes an element", "FLOP an element",
                                       "A100, us", "H100, us", "bound by" };
enum { CASES = sizeof entries / sizeof *entries };

static void model_of_group(work *dry, const entry *heading)
{
    static table t;
    t.rows = 0;
    t.words = 2;
    const bool sums = heading[1].conv || is_product(heading + 1);
    t.columns = sums ? sizeof with_sums / sizeof *with_sums : sizeof without / sizeof *without;
    set_row(&t, sums ? with_sums : without);
    for (const entry *e = heading + 1; e < entries + CASES && e->run; e++)
        add_kernel(&t, e, cost_of(dry, e));
    printf("\n### %s\n\n%s\n\n", heading->name, heading->note);
    print_table(&t);
}

/* A case's name begins with its entry. */
static bool is_case(const char *name)
{
    const size_t n = strlen(name);
    for (int i = 0; i < CASES; i++)
        if (entries[i].run && !strncmp(entries[i].name, name, n) &&
            (entries[i].name[n] == 0 || entries[i].name[n] == ' '))
            return true;
    return false;
}

/* Every entry that the CUDA device has. */
static bool all_are_cases(void)
{
    static const char *const names[] = {
#define ENTRY(name) #name,
#include "cuda/entries.def"
#undef ENTRY
    };
    bool all = true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!is_case(names[i])) {
            fprintf(stderr, "bench_gpu: no case of %s: kernel_cases.h needs one\n", names[i]);
            all = false;
        }
    return all;
}

static int model_of_kernels(void)
{
    work dry;
    if (!all_are_cases() || !open_counting(&dry))
        return 70;
    puts("## Kernels");
    for (int i = 0; i < CASES; i++)
        if (!entries[i].run)
            model_of_group(&dry, &entries[i]);
    close_on(&dry);
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
    static const char *const columns[] = { "training step", "batch",    "entries", "MB",
                                           "GFLOP",         "A100, us", "H100, us" };
    static table t = { .columns = sizeof columns / sizeof *columns, .words = 1 };
    set_row(&t, columns);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rk__dry_cost c;
        char(*row)[TEXT] = t.cell[t.rows++];
        if (!cost_of_step(find(rows[i].name), rows[i].batch, &c))
            return 70;
        snprintf(row[0], TEXT, "%s", rows[i].name);
        snprintf(row[1], TEXT, "%lld", (long long)rows[i].batch);
        snprintf(row[2], TEXT, "%lld", (long long)c.calls);
        print_number(row[3], 1e-6 * c.bytes);
        print_number(row[4], 1e-9 * c.flops);
        print_number(row[5], 1e6 * seconds(&gpus[0], c));
        print_number(row[6], 1e6 * seconds(&gpus[1], c));
    }
    puts(
        "\n## Training steps\n\nThe models of `benchmarks/models.h` with AdamW. Entries: calls of the device "
        "table; what each moves "
        "is added up.\n");
    print_table(&t);
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
    int repeat;
} timed;

enum { REPEAT = 50 };

/* Launches of a millisecond by the model, at most 50. */
static int repeat_of(rk__dry_cost c)
{
    const double fit = 1e-3 / seconds(&gpus[0], c);
    return fit > REPEAT ? REPEAT : fit < 2 ? 2 : (int)fit;
}

/* Launches do not wait: many of them, then one read that does. */
static void run_timed(void *arg)
{
    const timed *t = arg;
    float x;
    for (int i = 0; i < t->repeat; i++)
        t->e->run(t->w);
    if (t->w->device->copy_out(t->w->dev, &x, t->w->p[0], sizeof x))
        abort();
}

static const gpu *known(const char *description)
{
    for (int i = 0; i < GPUS; i++)
        if (strstr(description, gpus[i].name))
            return &gpus[i];
    return NULL;
}

/* A case of its own arrays, filled. */
static bool set_case(work *w, const entry *e)
{
    take_size(w, e);
    return make_arrays(w, most_of(e)) && set_numbers(w, most_of(e)) && (!e->pool || set_places(w, e->pool));
}

static bool time_kernel(work *w, work *dry, const entry *e, const gpu *g)
{
    char shape[TEXT];
    if (!set_case(w, e))
        return false;
    const rk__dry_cost c = cost_of(dry, e);
    timed t = { e, w, repeat_of(c) };
    bench_side side = { .name = e->name, .run = run_timed, .arg = &t };
    bench_in_turn(&(bench_options){ .threads = 2, .seconds = 0.2 }, 1, &side, 1);
    const double us = 1e6 * side.median / t.repeat;
    printf("| %s | %s | %.2f | %.1f | %.1f |", e->name, shape_of(e, shape), us, 1e-3 * c.bytes / us,
           1e-3 * c.flops / us);
    if (g)
        printf(" %.2f | %.2f |\n", 1e6 * seconds(g, c), 1e6 * seconds(g, c) / us);
    else
        printf(" - | - |\n");
    drop_arrays(w, most_of(e));
    return fflush(stdout) == 0;
}

static int time_kernels(const char *only)
{
    const char *built;
    const rk_device *device = find_device(&built);
    work w, dry;
    if (!device || !open_on(&w, device) || !open_counting(&dry) || !set_indices(&w))
        return 70;
    const char *what = device->describe(w.dev);
    bool ok = true;
    printf("%s, %s\n\n| kernel | shape | us | GB/s | GFLOP/s | model, us | model / measured |\n"
           "|---|---|---|---|---|---|---|\n",
           what, built);
    for (int i = 0; i < CASES && ok; i++)
        if (entries[i].run && (!only || strstr(entries[i].name, only)))
            ok = time_kernel(&w, &dry, &entries[i], known(what));
    close_on(&w);
    close_on(&dry);
    return ok ? 0 : 70;
}

/* The case, on other samples where it has samples. */
static bool find_case(const char *name, int number, const char *samples, entry *found)
{
    static rk_pool2d pool;
    for (int i = 0; i < CASES; i++) {
        if (!entries[i].run || strcmp(entries[i].name, name) || number-- > 0)
            continue;
        *found = entries[i];
        const int64_t n = samples ? strtoll(samples, NULL, 10) : found->n;
        if (found->conv || found->pool)
            found->n = n;
        if (found->pool) {
            pool = *found->pool;
            pool.n = n;
            found->pool = &pool;
        }
        return n > 0;
    }
    return false;
}

static int run_once(const char *name, int number, const char *samples)
{
    const char *built;
    const rk_device *device = find_device(&built);
    work w, dry;
    entry e;
    float x;
    if (!find_case(name, number, samples, &e))
        return 64;
    if (!device || !open_on(&w, device) || !open_counting(&dry) || !set_indices(&w) || !set_case(&w, &e))
        return 70;
    e.run(&w);
    printf("{\"least_bytes\": %.0f}\n", cost_of(&dry, &e).bytes);
    const bool ok = !device->copy_out(w.dev, &x, w.p[0], sizeof x);
    drop_arrays(&w, most_of(&e));
    close_on(&w);
    close_on(&dry);
    return ok ? 0 : 70;
}

static int list_kernels(void)
{
    work dry;
    char shape[TEXT];
    if (!open_counting(&dry))
        return 70;
    for (int i = 0; i < CASES; i++) {
        int number = 0;
        for (int j = 0; j < i; j++)
            number += entries[j].run && !strcmp(entries[i].name, entries[j].name);
        if (!entries[i].run)
            continue;
        const rk__dry_cost c = cost_of(&dry, &entries[i]);
        printf("%s\t%d\t%.0f\t%.0f\t%s\n", entries[i].name, number, c.bytes, c.flops,
               shape_of(&entries[i], shape));
    }
    close_on(&dry);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "model"))
        return model_of_kernels() || model_of_steps();
    if (!strcmp(what, "list"))
        return list_kernels();
    if (!strcmp(what, "kernels"))
        return time_kernels(argc > 2 ? argv[2] : NULL);
    if (!strcmp(what, "once") && argc > 3)
        return run_once(argv[2], (int)strtol(argv[3], NULL, 10), argc > 4 ? argv[4] : NULL);
    if (!strcmp(what, "steps") && argc > 4)
        return run_steps(argv[2], strtoll(argv[3], NULL, 10), (int)strtol(argv[4], NULL, 10));
    fprintf(stderr,
            "usage: bench_gpu model | list | kernels [NAME] | once NAME NUMBER [N] | steps MODEL BATCH N\n");
    return 64;
}
