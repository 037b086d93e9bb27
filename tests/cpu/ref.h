/* What the tests of the f32 kernels share: inputs, comparison of bits, and core/order.h read literally, one
 * float at a time. */
#ifndef RK_TEST_CPU_REF_H
#define RK_TEST_CPU_REF_H

#include "core/order.h"
#include "cpu_devices.h"

/* A generator for inputs (splitmix64). */
static inline uint64_t ref_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static inline float ref_uniform(uint64_t *state, double lo, double hi)
{
    return (float)(lo + (hi - lo) * (double)(ref_next(state) >> 11) * 0x1p-53);
}

/* n floats in [lo, hi], at an odd address (4 bytes past what malloc gives), with a canary behind. */
enum { REF_SHIFT = 1, REF_CANARY = 16 };

static inline float *ref_buffer(int64_t n)
{
    float *p = malloc(sizeof *p * (size_t)(n + REF_SHIFT + REF_CANARY));
    if (!p)
        abort();
    for (int64_t i = 0; i < n + REF_SHIFT + REF_CANARY; i++)
        p[i] = 12345.0f;
    return p + REF_SHIFT;
}

static inline float *ref_random(int64_t n, uint64_t seed, double lo, double hi)
{
    float *p = ref_buffer(n);
    for (int64_t i = 0; i < n; i++)
        p[i] = ref_uniform(&seed, lo, hi);
    return p;
}

static inline float *ref_copy(const float *x, int64_t n)
{
    float *p = ref_buffer(n);
    if (n)
        memcpy(p, x, sizeof *p * (size_t)n);
    return p;
}

/* Frees it; false if something wrote outside. */
static inline bool ref_free(float *p, int64_t n)
{
    if (!p)
        return true;
    bool whole = p[-1] == 12345.0f;
    for (int i = 0; i < REF_CANARY; i++)
        whole &= p[n + i] == 12345.0f;
    free(p - REF_SHIFT);
    return whole;
}

/* Equal bits; two NaN are equal. */
static inline bool ref_same(const float *a, const float *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) && !(a[i] != a[i] && b[i] != b[i])) {
            fprintf(stderr, "element %lld: %a and %a\n", (long long)i, (double)a[i], (double)b[i]);
            return false;
        }
    return true;
}

/* Keeps the first output as *first, and compares the later ones with it. Frees y. */
static inline bool ref_agree(float **first, float *y, int64_t n)
{
    if (!*first) {
        *first = y;
        return true;
    }
    bool same = ref_same(*first, y, n);
    return ref_free(y, n) && same;
}

/* |a - b| in units of the last place of the float nearest to b. */
static inline double ref_ulps(float a, double b)
{
    float r = (float)b;
    if (a == r || (a != a && r != r))
        return 0;
    if (!(fabsf(a) <= INFINITY) || !(fabsf(r) <= INFINITY) || isinf(a) || isinf(r))
        return INFINITY;
    uint64_t bits; /* of |b| = m 2^e, 1/2 <= m < 1; subnormal floats are as coarse as those of e = -125 */
    memcpy(&bits, &b, sizeof bits);
    int64_t e = (int64_t)(bits >> 52 & 0x7ff) - 1022;
    uint64_t per_ulp = (uint64_t)(1023 + 24 - (e < -125 ? -125 : e)) << 52;
    double scale;
    memcpy(&scale, &per_ulp, sizeof scale);
    return fabs((double)a - b) * scale;
}

/* ---- core/order.h, literally; term(arg, i) is the i-th float ---- */

typedef float ref_term(const void *arg, int64_t i);

static inline float ref_row(ref_term *term, const void *arg, int64_t n)
{
    float lane[RK_LANES] = { 0 };
    for (int64_t i = 0; i < n; i++)
        lane[i % RK_LANES] += term(arg, i);
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            lane[l] += lane[l + h];
    return lane[0];
}

static inline float ref_chain(ref_term *term, const void *arg, int64_t lo, int64_t hi, float from)
{
    for (int64_t i = lo; i < hi; i++)
        from += term(arg, i);
    return from;
}

/* The tree over the units [lo, hi). */
static inline float ref_tree(ref_term *term, const void *arg, int64_t lo, int64_t hi, int64_t unit,
                             int segments)
{
    if (segments == 1)
        return ref_chain(term, arg, lo * unit, hi * unit, 0.0f);
    int64_t mid = rk_order_mid(lo, hi);
    float left = ref_tree(term, arg, lo, mid, unit, segments / 2);
    return left + ref_tree(term, arg, mid, hi, unit, segments / 2);
}

static inline float ref_ordered(ref_term *term, const void *arg, int64_t n, rk_order order, float old)
{
    if (order.acc == RK_ACC_CHAIN)
        return ref_chain(term, arg, 0, n, old);
    float sum = ref_tree(term, arg, 0, n / order.unit, order.unit, order.segments);
    return order.acc == RK_ACC_ADD ? old + sum : sum;
}

#endif
