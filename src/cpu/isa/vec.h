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

/* Mask of the sign bit. */
RK_INLINE vi vi_sign(void)
{
    return vi_set1(INT32_MIN);
}

RK_INLINE vf v_zero(void)
{
    return v_set1(0.0f);
}

RK_INLINE vf v_neg(vf a)
{
    return v_float(vi_xor(v_bits(a), vi_sign()));
}

RK_INLINE vf v_abs(vf a)
{
    return v_float(vi_and(v_bits(a), vi_set1(INT32_MAX)));
}

/* |mag| with the sign of sgn. */
RK_INLINE vf v_copysign(vf mag, vf sgn)
{
    return v_float(vi_or(vi_and(v_bits(mag), vi_set1(INT32_MAX)), vi_and(v_bits(sgn), vi_sign())));
}

/* c - a * b, rounded once. */
RK_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return v_fma(v_neg(a), b, c);
}

#define V_ROUND_MAGIC 0x1.8p23f

/* Nearest integer, ties to even; |a| < 2^22. */
RK_INLINE vf v_round(vf a)
{
    return v_sub(v_add(a, v_set1(V_ROUND_MAGIC)), v_set1(V_ROUND_MAGIC));
}

/* 2^n for integers n in [-126, 127]. */
RK_INLINE vf v_pow2i(vi n)
{
    return v_float(vi_shl(vi_add(n, vi_set1(127)), 23));
}

RK_INLINE vm v_isnan(vf a)
{
    return v_ne(a, a);
}

/* m ? a : +0 */
RK_INLINE vf v_keep(vm m, vf a)
{
    return v_sel(m, a, v_zero());
}

/* Lane-wise sum of 16 lanes by halving: for h = 8, 4, 2, 1: lane[l] += lane[l + h]. */
RK_INLINE float v_tree_sum(const vf a[NV])
{
    vf s = a[0];
    if (NV == 2)
        s = v_add(a[0], a[NV / 2]);
    if (NV == 4)
        s = v_add(v_add(a[0], a[NV / 2]), v_add(a[NV / 4], a[NV / 2 + NV / 4]));
    return v_halve_sum(s);
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
