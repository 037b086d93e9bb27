/* Training steps of the models of models.h.
 *
 *     bench_models MODEL BATCH THREADS [inexact] [cuda]     mlp, cnn, resnet, finetune
 *
 * Reads lines "run SECONDS" and answers each with one JSON line: samples_per_s (of the median step), steps,
 * loss. */
#include "models.h"

#include <math.h>
#include <time.h>

enum { WARM_UP = 5, MIN_STEPS = 5, MAX_STEPS = 1 << 16 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void run(bench *b, double seconds)
{
    static double times[MAX_STEPS];
    int n = 0;
    double loss = NAN;
    for (double start = now(); (now() - start < seconds || n < MIN_STEPS) && n < MAX_STEPS; n++) {
        double t = now();
        loss = step(b);
        times[n] = now() - t;
    }
    qsort(times, (size_t)n, sizeof *times, ascending);
    printf("{\"samples_per_s\": %.1f, \"steps\": %d, \"loss\": %.9g}\n", (double)b->batch / times[n / 2], n,
           loss);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: bench_models mlp|cnn|resnet|finetune BATCH THREADS [inexact] [cuda]\n");
        return 64;
    }
    const model *m = find(argv[1]);
    bench b = { .batch = strtoll(argv[2], NULL, 10) };
    rk_open_cfg cfg = { .device = "cpu", .threads = (int)strtol(argv[3], NULL, 10), .seed = 1 };
    for (int i = 4; i < argc; i++) {
        cfg.inexact |= !strcmp(argv[i], "inexact");
        cfg.device = strcmp(argv[i], "cuda") ? cfg.device : "cuda";
    }
    if (rk_open(&cfg, &b.ctx) == RK_OK) {
        make(&b, m);
        for (int i = 0; i < WARM_UP; i++)
            step(&b);
        printf("{\"ready\": true, \"device\": \"%s\"}\n", rk_device_describe(b.ctx));
        fflush(stdout);
        char line[64];
        double seconds;
        while (!rk_failed(b.ctx) && fgets(line, sizeof line, stdin) && sscanf(line, "run %lf", &seconds) == 1)
            run(&b, seconds);
    }
    if (rk_failed(b.ctx))
        fprintf(stderr, "bench_models: %s\n", rk_error(b.ctx));
    return rk_close(b.ctx);
}
