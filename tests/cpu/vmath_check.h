/* The elementary functions against double precision, over every `step`-th float from bits 0 to 2^32. exp,
 * log, tanh and sigmoid are asked of the best device this machine has, as users get them; erf has no kernel
 * of its own, and is taken from the portable vectors. A part of the blocks is compared bit by bit with the
 * portable vectors too. */
#ifndef RK_TEST_VMATH_CHECK_H
#define RK_TEST_VMATH_CHECK_H

#define RK_ISA          test
#define RK_ISA_PORTABLE 1
#include "cpu/isa/vmath.h"
#include "ref.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

enum { VMATH_BLOCK = 4096, VMATH_MOST_THREADS = 64 };

typedef struct vmath_fn {
    const char *name;
    rk_map1 *(*kernel)(const rk_kernels *k); /* NULL: portable only */
    vf (*portable)(vf);
    double (*exact)(double);
} vmath_fn;

typedef struct vmath_run {
    const vmath_fn *fn;
    uint64_t step, blocks, compare_every;
    _Atomic uint64_t next;
} vmath_run;

typedef struct vmath_worker {
    vmath_run *run;
    pthread_t thread;
    double worst;
    float at;
    bool failed;
} vmath_worker;

static double vmath_sigmoid(double x)
{
    double t = exp(-fabs(x));
    return x < 0 ? t / (1 + t) : 1 / (1 + t);
}

static rk_map1 *vmath_kernel_exp(const rk_kernels *k)
{
    return k->exp;
}
static rk_map1 *vmath_kernel_log(const rk_kernels *k)
{
    return k->log;
}
static rk_map1 *vmath_kernel_tanh(const rk_kernels *k)
{
    return k->tanh;
}
static rk_map1 *vmath_kernel_sigmoid(const rk_kernels *k)
{
    return k->sigmoid;
}
static vf vmath_exp(vf x)
{
    return v_exp(x);
}
static vf vmath_log(vf x)
{
    return v_log(x);
}
static vf vmath_tanh(vf x)
{
    return v_tanh(x);
}
static vf vmath_erf(vf x)
{
    return v_erf(x);
}
static vf vmath_logistic(vf x)
{
    return v_sigmoid(x);
}

static const vmath_fn vmath_fns[] = {
    { "exp", vmath_kernel_exp, vmath_exp, exp },
    { "log", vmath_kernel_log, vmath_log, log },
    { "tanh", vmath_kernel_tanh, vmath_tanh, tanh },
    { "erf", NULL, vmath_erf, erf },
    { "sigmoid", vmath_kernel_sigmoid, vmath_logistic, vmath_sigmoid },
};
enum { VMATH_FNS = sizeof vmath_fns / sizeof *vmath_fns };

static void vmath_block(vmath_worker *w, rk_dev *dev, uint64_t block)
{
    vmath_run *run = w->run;
    static _Thread_local float x[VMATH_BLOCK], y[VMATH_BLOCK], z[VMATH_BLOCK];
    for (uint64_t i = 0; i < VMATH_BLOCK; i++) {
        uint32_t bits = (uint32_t)((block * VMATH_BLOCK + i) * run->step);
        memcpy(x + i, &bits, sizeof bits);
    }
    bool compare = run->fn->kernel && block % run->compare_every == 0;
    if (!run->fn->kernel || compare)
        for (int i = 0; i < VMATH_BLOCK; i += VL)
            v_store(z + i, run->fn->portable(v_load(x + i)));
    if (run->fn->kernel)
        run->fn->kernel(rk_device_cpu.kernels(dev, RK_F32))(dev, VMATH_BLOCK, x, 0, y);
    if (compare && !ref_same(y, z, VMATH_BLOCK))
        w->failed = true;
    const float *got = run->fn->kernel ? y : z;
    for (int i = 0; i < VMATH_BLOCK; i++) {
        double ulps = ref_ulps(got[i], run->fn->exact((double)x[i]));
        if (ulps > w->worst) {
            w->worst = ulps;
            w->at = x[i];
        }
    }
}

static void *vmath_work(void *arg)
{
    vmath_worker *w = arg;
    rk_dev *dev = cpu_open(NULL, 1);
    w->failed = dev == NULL;
    for (uint64_t b; !w->failed && (b = atomic_fetch_add(&w->run->next, 1)) < w->run->blocks;)
        vmath_block(w, dev, b);
    rk_device_cpu.close(dev);
    return NULL;
}

/* The largest error of fn in ulp, on all cores; INFINITY if bits differ between devices. */
static double vmath_worst(const vmath_fn *fn, uint64_t step, uint64_t compare_every)
{
    vmath_run run = { .fn = fn, .step = step, .compare_every = compare_every };
    run.blocks = ((UINT64_C(1) << 32) / step + VMATH_BLOCK - 1) / VMATH_BLOCK;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int threads = cores < 1 ? 1 : cores > VMATH_MOST_THREADS ? VMATH_MOST_THREADS : (int)cores;
    vmath_worker workers[VMATH_MOST_THREADS] = { { 0 } };
    double worst = 0;
    float at = 0;
    for (int i = 0; i < threads; i++) {
        workers[i].run = &run;
        if (pthread_create(&workers[i].thread, NULL, vmath_work, &workers[i]))
            return INFINITY;
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].failed)
            worst = INFINITY;
        if (workers[i].worst > worst) {
            worst = workers[i].worst;
            at = workers[i].at;
        }
    }
    printf("%s: at most %.3f ulp, at %a\n", fn->name, worst, (double)at);
    return worst;
}

#endif
