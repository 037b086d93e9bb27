/* Runs one kernel of the f32 table on every device and of the f64 table once, on the same inputs: each output
 * must have the same bits on all devices, and be near the double's. */
#ifndef RK_TEST_AGAINST_F64_H
#define RK_TEST_AGAINST_F64_H

#include "ref.h"

enum { MOST_ARRAYS = 8 };

typedef struct array {
    int64_t n;
    double lo, hi; /* inputs: random in this range */
    bool out;
    double rtol, atol; /* outputs */
} array;

/* The kernel under test: p[i] is the i-th array, in the table's own type. */
typedef rk_status call_fn(const rk_kernels *k, rk_dev *dev, void *const *p, const void *arg);

static inline double *widen(const float *x, int64_t n)
{
    double *d = malloc(sizeof *d * (size_t)(n + 1));
    for (int64_t i = 0; i < n; i++)
        d[i] = (double)x[i];
    return d;
}

static inline bool near_double(const array *a, int at, const float *y, const double *want)
{
    for (int64_t i = 0; i < a->n; i++)
        if (!(fabs((double)y[i] - want[i]) <= a->rtol * fabs(want[i]) + a->atol) &&
            !(isnan(y[i]) && isnan(want[i])) && (double)y[i] != want[i]) {
            fprintf(stderr, "array %d, element %lld: %.9g, not %.9g\n", at, (long long)i, (double)y[i],
                    want[i]);
            return false;
        }
    return true;
}

/* input: NULL, or fixed values for the i-th array where not NULL. */
static inline bool agrees_with_f64(call_fn *call, const void *arg, const array *a, int arrays,
                                   float *const *input)
{
    float *start[MOST_ARRAYS], *first[MOST_ARRAYS] = { NULL };
    bool ok = true;
    for (int i = 0; i < arrays; i++)
        start[i] = input && input[i] ? ref_copy(input[i], a[i].n)
                                     : ref_random(a[i].n, (uint64_t)i + 1, a[i].lo, a[i].hi);
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        void *p[MOST_ARRAYS];
        float *y[MOST_ARRAYS];
        for (int i = 0; i < arrays; i++)
            p[i] = y[i] = ref_copy(start[i], a[i].n);
        ok &= call(it.k, it.dev, p, arg) == RK_OK;
        if (!first[0]) {
            void *d[MOST_ARRAYS];
            for (int i = 0; i < arrays; i++)
                d[i] = widen(start[i], a[i].n);
            ok &= call(rk_device_cpu.kernels(it.dev, RK_F64), it.dev, d, arg) == RK_OK;
            for (int i = 0; i < arrays; i++) {
                ok &= !a[i].out || near_double(&a[i], i, y[i], d[i]);
                free(d[i]);
            }
        }
        for (int i = 0; i < arrays; i++) {
            ok &= a[i].out || ref_same(start[i], y[i], a[i].n); /* inputs are left alone */
            ok &= ref_agree(&first[i], y[i], a[i].n);
        }
        if (!ok) {
            fprintf(stderr, "on %s, %d threads\n", it.isa, it.threads);
            rk_device_cpu.close(it.dev);
            break;
        }
    }
    for (int i = 0; i < arrays; i++) {
        ok = ref_free(start[i], a[i].n) && ok;
        ok = ref_free(first[i], a[i].n) && ok;
    }
    return ok;
}

#endif
