/* Vectors of floats, one vocabulary for all instruction sets. vf: VL floats; vi: VL 32-bit integers; vm: VL
 * truth values; vd: VL/2 doubles.
 *
 * Numeric contract: every operation here is one IEEE operation (or exact), so a sequence of them gives the
 * same bits on every instruction set and compiler. v_fma rounds once, everywhere. The bits of a NaN are not
 * promised. v_max(a, b) = a > b ? a : b     v_min(a, b) = a < b ? a : b     (a NaN on either side, or two
 * zeros, give b) Comparisons with a NaN are false, except v_ne. */
#ifndef RK_CPU_VEC_H
#define RK_CPU_VEC_H

#include "cpu/isa/isa.h"

#include <math.h>
#include <string.h>

#define RK_INLINE static inline __attribute__((always_inline, unused))

#if defined(RK_ISA_AVX512)
#include "cpu/isa/vec_avx512.h"
#elif defined(RK_ISA_AVX2)
#include "cpu/isa/vec_avx2.h"
#else
#include "cpu/isa/vec_portable.h"
#endif

/* ---- the same on all, from the above ---- */

enum { NV = RK_LANES / VL }; /* vectors that hold the 16 lanes of a row sum (core/order.h) */

#include "core/vec.inc"

/* Horner's rule: the highest coefficient first. */
RK_INLINE vf v_poly(vf x, const float *c, int n)
{
    vf p = v_set1(c[0]);
    for (int i = 1; i < n; i++)
        p = v_fma(p, x, v_set1(c[i]));
    return p;
}
#define V_POLY(x, ...) \
    v_poly(x, (const float[]){ __VA_ARGS__ }, (int)(sizeof((const float[]){ __VA_ARGS__ }) / sizeof(float)))

/* Lane-wise sum of 16 lanes by halving: for h = 8, 4, 2, 1: lane[l] += lane[l + h]. Never -0, which lanes of
 * products that vanish could all have: how many lanes a row's end fills up with +0 depends on the vectors'
 * width. */
RK_INLINE float v_tree_sum(const vf a[NV])
{
    vf s = a[0];
    if (NV == 2)
        s = v_add(a[0], a[NV / 2]);
    if (NV == 4)
        s = v_add(v_add(a[0], a[NV / 2]), v_add(a[NV / 4], a[NV / 2 + NV / 4]));
    return v_halve_sum(s) + 0.0f;
}

/* The first n lanes (n <= VL), the others +0; and all VL of them without a test. */
RK_INLINE vf v_load_upto(const float *p, int64_t n)
{
    return n >= VL ? v_load(p) : v_loadn(p, (int)n);
}

RK_INLINE void v_store_upto(float *p, int64_t n, vf a)
{
    if (n >= VL)
        v_store(p, a);
    else
        v_storen(p, (int)n, a);
}

#endif
