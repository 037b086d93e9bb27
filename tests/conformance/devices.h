/* One kernel on every device: each CPU (instruction set, threads) and CUDA: run on the host, or on a GPU if
 * RANKINE_CUDA names the library for one. Its arrays lie in the device's memory, at odd addresses and between
 * canaries. The f32 table's outputs must have the same bits on all devices, and be near those of the CPU's
 * f64 table; another f64 table's must be near them too. */
#ifndef RK_TEST_DEVICES_H
#define RK_TEST_DEVICES_H

#include "core/cuda_module.h"
#include "cpu/ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST_ARRAYS = 8, SHIFT = 1, CANARY = 16 };

typedef enum array_type {
    OF_TABLE, /* float or double */
    OF_I32,
    OF_I64,
    OF_HOST /* doubles in the host's memory: results that a kernel hands over */
} array_type;

typedef struct array {
    int64_t n;
    double lo, hi; /* what it holds at first: random numbers in this range */
    bool out;
    double rtol, atol; /* of outputs, against double precision */
    array_type type;
    int64_t (*index)(int64_t i); /* what integers hold at first */
} array;

/* The kernel under test: p[i] is the i-th array, in the table's own type. */
typedef rk_status call_fn(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg);

/* ---- the devices ---- */

typedef struct device_iter {
    cpu_iter cpu;
    bool cuda;
    char name[200];
    const rk_device *device;
    rk_dev *dev;
} device_iter;

static inline const rk_device *cuda_device(void)
{
    static const char host_run[] = RK_BUILD_DIR "/librankine_cuda_host.so";
    char msg[512] = "";
    if (!getenv("RANKINE_CUDA") && access(host_run, R_OK))
        return NULL;
    setenv("RANKINE_CUDA", host_run, 0);
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    if (!m) {
        fprintf(stderr, "%s\n", msg);
        exit(1);
    }
    return m->device;
}

static inline rk_dev *cuda_open(const rk_device *device)
{
    char msg[512] = "";
    rk_dev *dev = NULL;
    if (device->open(&(rk_open_cfg){ 0 }, &dev, msg, sizeof msg)) {
        fprintf(stderr, "cuda: %s\n", msg);
        exit(1);
    }
    return dev;
}

/* Closes the last device and opens the next one; false after the last. CUDA comes last. */
static inline bool device_next(device_iter *it)
{
    if (!it->cuda && cpu_next(&it->cpu)) {
        snprintf(it->name, sizeof it->name, "%s, %d threads", it->cpu.isa, it->cpu.threads);
        it->device = &rk_device_cpu;
        it->dev = it->cpu.dev;
        return true;
    }
    if (it->cuda) {
        it->device->close(it->dev);
        return false;
    }
    it->device = cuda_device();
    if (!it->device)
        return false;
    it->cuda = true;
    it->dev = cuda_open(it->device);
    snprintf(it->name, sizeof it->name, "%s", it->device->describe(it->dev));
    return true;
}

/* ---- arrays ---- */

static inline size_t array_elem(const array *a, rk_dtype t)
{
    return a->type == OF_I32 || (a->type == OF_TABLE && t == RK_F32) ? 4 : 8;
}

static inline size_t array_whole(const array *a, rk_dtype t)
{
    return (size_t)(a->n + SHIFT + CANARY) * array_elem(a, t);
}

/* What the array holds at first, canaries and all, in the table's type. */
static inline char *array_start(const array *a, rk_dtype t, uint64_t seed)
{
    size_t elem = array_elem(a, t);
    char *whole = malloc(array_whole(a, t)), *p = whole + SHIFT * elem;
    memset(whole, 0x5c, array_whole(a, t));
    for (int64_t i = 0; i < a->n; i++) {
        int64_t index = a->index ? a->index(i) : 0;
        float f = ref_uniform(&seed, a->lo, a->hi);
        if (a->type == OF_I32)
            ((int32_t *)(void *)p)[i] = (int32_t)index;
        else if (a->type == OF_I64)
            ((int64_t *)(void *)p)[i] = index;
        else if (elem == 4)
            ((float *)(void *)p)[i] = f;
        else
            ((double *)(void *)p)[i] = (double)f;
    }
    return whole;
}

static inline double array_value(const array *a, rk_dtype t, const char *whole, int64_t i)
{
    const void *p = whole + (size_t)(i + SHIFT) * array_elem(a, t);
    if (a->type == OF_I32)
        return *(const int32_t *)p;
    if (a->type == OF_I64)
        return (double)*(const int64_t *)p;
    return array_elem(a, t) == 4 ? (double)*(const float *)p : *(const double *)p;
}

/* Equal bits; two NaN are equal. */
static inline bool array_same(const array *a, rk_dtype t, const char *x, const char *y)
{
    size_t elem = array_elem(a, t);
    if (memcmp(x, y, array_whole(a, t)) == 0)
        return true;
    for (int64_t i = -SHIFT; i < a->n + CANARY; i++) {
        double u = array_value(a, t, x, i), v = array_value(a, t, y, i);
        size_t at = (size_t)(i + SHIFT) * elem;
        if (memcmp(x + at, y + at, elem) && !(u != u && v != v)) {
            fprintf(stderr, "element %lld of %lld: %a, not %a\n", (long long)i, (long long)a->n, u, v);
            return false;
        }
    }
    return true;
}

static inline bool array_near(const array *a, rk_dtype t, const char *x, const char *want, double rtol,
                              double atol)
{
    for (int64_t i = 0; i < a->n; i++) {
        double u = array_value(a, t, x, i), v = array_value(a, RK_F64, want, i);
        if (!(fabs(u - v) <= rtol * fabs(v) + atol) && !(u != u && v != v) && u != v) {
            fprintf(stderr, "element %lld of %lld: %.17g, not %.17g\n", (long long)i, (long long)a->n, u, v);
            return false;
        }
    }
    return true;
}

/* ---- a run ---- */

/* Calls with the arrays in the device's memory; result[i] is what they hold then. */
static inline bool run_on(const rk_device *d, rk_dev *dev, rk_dtype t, call_fn *call, const void *arg,
                          const array *a, int arrays, char **start, char **result)
{
    void *whole[MOST_ARRAYS] = { NULL }, *p[MOST_ARRAYS];
    bool ok = true;
    for (int i = 0; i < arrays; i++) {
        size_t bytes = array_whole(&a[i], t);
        result[i] = malloc(bytes);
        memcpy(result[i], start[i], bytes);
        whole[i] = result[i];
        if (a[i].type != OF_HOST) {
            ok &= d->alloc(dev, bytes, &whole[i]) == RK_OK;
            ok &= d->copy_in(dev, whole[i], start[i], bytes) == RK_OK;
        }
        p[i] = (char *)whole[i] + SHIFT * array_elem(&a[i], t);
    }
    ok = ok && call(d->kernels(dev, t), dev, p, arg) == RK_OK;
    for (int i = 0; i < arrays; i++) {
        size_t bytes = array_whole(&a[i], t);
        if (a[i].type == OF_HOST)
            continue;
        ok &= d->copy_out(dev, result[i], whole[i], bytes) == RK_OK;
        d->release(dev, whole[i], bytes);
    }
    if (!ok)
        fprintf(stderr, "the call failed\n");
    for (int i = 0; i < arrays && ok; i++) { /* inputs are left alone, and what lies around outputs */
        array around = a[i];
        if (a[i].out) {
            size_t elem = array_elem(&a[i], t);
            memcpy(start[i] + SHIFT * elem, result[i] + SHIFT * elem, (size_t)a[i].n * elem);
        }
        ok &= array_same(&around, t, result[i], start[i]);
        if (!ok)
            fprintf(stderr, "array %d: written where it may not be\n", i);
    }
    return ok;
}

static inline void free_all(char **p, int n)
{
    for (int i = 0; i < n; i++)
        free(p[i]);
}

/* One device's run of one table. */
static inline bool run_table(const device_iter *it, rk_dtype t, call_fn *call, const void *arg,
                             const array *a, int arrays, char **result)
{
    char *start[MOST_ARRAYS];
    for (int i = 0; i < arrays; i++)
        start[i] = array_start(&a[i], t, (uint64_t)i + 1);
    bool ok = run_on(it->device, it->dev, t, call, arg, a, arrays, start, result);
    free_all(start, arrays);
    return ok;
}

static inline bool agree(const device_iter *it, call_fn *call, const void *arg, const array *a, int arrays,
                         char **f32, char **f64, bool first)
{
    char *now[MOST_ARRAYS], *wide[MOST_ARRAYS];
    bool ok = run_table(it, RK_F32, call, arg, a, arrays, first ? f32 : now), widely = first || it->cuda;
    if (widely)
        ok = run_table(it, RK_F64, call, arg, a, arrays, first ? f64 : wide) && ok;
    for (int i = 0; i < arrays && ok; i++) {
        if (first && a[i].out)
            ok = array_near(&a[i], RK_F32, f32[i], f64[i], a[i].rtol, a[i].atol);
        if (!first)
            ok = array_same(&a[i], RK_F32, now[i], f32[i]);
        if (!first && widely && a[i].out) /* sums in another order, another libm */
            ok = ok && array_near(&a[i], RK_F64, wide[i], f64[i], 1e-11, 1e-11);
        if (!ok)
            fprintf(stderr, "array %d\n", i);
    }
    if (!first)
        free_all(now, arrays);
    if (!first && widely)
        free_all(wide, arrays);
    return ok;
}

static rk_dev *cpu_kept, *cuda_kept;

static inline void close_kept(void)
{
    rk_device_cpu.close(cpu_kept);
    cuda_device()->close(cuda_kept);
}

/* On the CPU, as it opens by itself, and on CUDA, which must be there; both stay open. For many shapes. */
static inline bool agrees_on_cuda(call_fn *call, const void *arg, const array *a, int arrays)
{
    if (!cpu_kept) {
        cpu_kept = cpu_open(NULL, 2);
        cuda_kept = cuda_open(cuda_device());
        atexit(close_kept);
    }
    char *f32[MOST_ARRAYS] = { NULL }, *f64[MOST_ARRAYS] = { NULL };
    const device_iter cpu = { .name = "cpu", .device = &rk_device_cpu, .dev = cpu_kept },
                      cuda = { .cuda = true, .name = "cuda", .device = cuda_device(), .dev = cuda_kept };
    bool ok = agree(&cpu, call, arg, a, arrays, f32, f64, true);
    ok = agree(&cuda, call, arg, a, arrays, f32, f64, false) && ok;
    free_all(f32, arrays);
    free_all(f64, arrays);
    return ok;
}

/* Runs the call on all devices. */
static inline bool agrees_everywhere(call_fn *call, const void *arg, const array *a, int arrays)
{
    char *f32[MOST_ARRAYS] = { NULL }, *f64[MOST_ARRAYS] = { NULL };
    bool ok = true, first = true;
    for (device_iter it = { 0 }; device_next(&it); first = false) {
        bool good = agree(&it, call, arg, a, arrays, f32, f64, first);
        if (!good)
            fprintf(stderr, "on %s\n", it.name);
        ok &= good;
    }
    free_all(f32, arrays);
    free_all(f64, arrays);
    return ok;
}

#endif
