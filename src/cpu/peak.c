/* The rate of fused multiply-adds that the device's threads reach when nothing else stands in the way: what
 * the percentage in the progress line refers to. Measured, not looked up: it counts the clock that the
 * machine really holds with these instructions on all cores. */
#include "cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    CHAINS = 12,    /* independent chains: latency 4 x 2 units, and a few to spare; they fit 16 registers */
    ROUNDS = 60000, /* about 0.2 ms */
    REPETITIONS = 40,
};

/* Returns the floating-point operations done; *sink keeps the compiler from dropping them. */
typedef double burn_fn(float *sink);

/* Two roundings on a processor without fused multiply-add: the same two operations a lane. */
static double burn_portable(float *sink)
{
    typedef float v4 __attribute__((vector_size(16)));
    v4 x[CHAINS], a = { 0.999f, 0.999f, 0.999f, 0.999f }, b = { 1e-3f, 1e-3f, 1e-3f, 1e-3f };
    for (int c = 0; c < CHAINS; c++) /* all different, or the compiler would compute one of them */
        x[c] = a + (float)c;
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            x[c] = x[c] * a + b;
    for (int c = 0; c < CHAINS; c++)
        *sink += x[c][0];
    return 2.0 * 4 * CHAINS * ROUNDS;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static double burn_avx2(float *sink)
{
    __m256 x[CHAINS], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
    for (int c = 0; c < CHAINS; c++)
        x[c] = _mm256_set1_ps((float)c);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            x[c] = _mm256_fmadd_ps(x[c], a, b);
    for (int c = 0; c < CHAINS; c++)
        *sink += _mm256_cvtss_f32(x[c]);
    return 2.0 * 8 * CHAINS * ROUNDS;
}

__attribute__((target("avx512f"))) static double burn_avx512(float *sink)
{
    __m512 x[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
    for (int c = 0; c < CHAINS; c++)
        x[c] = _mm512_set1_ps((float)c);
    for (int r = 0; r < ROUNDS; r++)
#pragma GCC unroll 12
        for (int c = 0; c < CHAINS; c++)
            x[c] = _mm512_fmadd_ps(x[c], a, b);
    for (int c = 0; c < CHAINS; c++)
        *sink += _mm512_cvtss_f32(x[c]);
    return 2.0 * 16 * CHAINS * ROUNDS;
}
#endif

static burn_fn *burn_of(const char *isa)
{
#if defined(__x86_64__)
    if (!strcmp(isa, "avx512"))
        return burn_avx512;
    if (!strcmp(isa, "avx2"))
        return burn_avx2;
#endif
    (void)isa;
    return burn_portable;
}

typedef struct burn_job {
    burn_fn *burn;
    double *rate; /* best so far, one a task */
} burn_job;

static double thread_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* By the thread's own time: on a busy machine it waits for a core, and that says nothing about the core. */
static void burn_task(void *arg, int64_t task, int worker)
{
    burn_job *job = arg;
    volatile float kept;
    float sink = 0;
    double start = thread_seconds(), flops = job->burn(&sink), seconds = thread_seconds() - start;
    kept = sink;
    (void)kept;
    (void)worker;
    if (seconds > 0 && flops / seconds > job->rate[task])
        job->rate[task] = flops / seconds;
}

/* The best of many short runs: a run that was interrupted tells of the interruption. */
double rk__peak_flops_cpu(rk_dev *dev)
{
    int threads = dev->pool.threads;
    burn_job job = { .burn = burn_of(dev->isa), .rate = calloc((size_t)threads, sizeof(double)) };
    if (dev->peak_flops > 0 || !job.rate) {
        free(job.rate);
        return dev->peak_flops;
    }
    for (int r = 0; r < REPETITIONS; r++)
        rk__parallel(dev, threads, burn_task, &job);
    for (int t = 0; t < threads; t++)
        dev->peak_flops += job.rate[t];
    free(job.rate);
    return dev->peak_flops;
}
