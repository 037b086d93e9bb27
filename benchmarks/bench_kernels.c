/* The memory-bound kernels at the sizes that training meets, against memcpy: GB/s counts each array that the
 * kernel has to read or write once; memcpy moves the same number of bytes in the same memory. `wrong`:
 * results whose bits differ from those of the portable vectors. */
#include "bench.h"
#include "kernel_cases.h"

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
    for (int64_t i = 0; i < MOST; i++)
        w->bound[i] = i;
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
    w->bound = malloc(MOST * sizeof *w->bound);
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
    return wrong + (memcmp(&fast->sum, &portable->sum, sizeof fast->sum) != 0);
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
    work fast = { 0 }, portable = { 0 };
    if (!open_work(&fast, NULL, o.threads) || !open_work(&portable, "portable", 1))
        return 70;
    printf("%s\n%-28s %-14s %9s %8s %8s %6s  %s\n", rk_device_cpu.describe(fast.dev), "kernel", "shape", "us",
           "GB/s", "memcpy", "ratio", "wrong");
    char *from = aligned_alloc(64, 2 * MOST * sizeof(float)),
         *to = aligned_alloc(64, 2 * MOST * sizeof(float));
    memset(from, 1, 2 * MOST * sizeof(float));
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        const entry *e = &entries[i];
        if (e->arrays == 0 || (o.only && !strstr(e->name, o.only)))
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
