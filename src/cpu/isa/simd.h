/* What products need beside vec.h: squares turned in registers, and rounding of operands. */
#ifndef RK_CPU_SIMD_H
#define RK_CPU_SIMD_H

#include "core/kernels.h"
#include "cpu/isa/vec.h"

/* Before a loop over registers: all of it is unrolled, so that an array of vectors needs no memory. */
#if defined(__clang__)
#define RK_UNROLL _Pragma("unroll")
#else
#define RK_UNROLL _Pragma("GCC unroll 32")
#endif

/* The first n lanes; none if n <= 0, all if n >= VL; the others are +0 and their memory is not touched. */
RK_INLINE vf v_load_some(const float *p, int64_t n)
{
    return n > 0 ? v_load_upto(p, n) : v_zero();
}

/* Rounds to bf16, nearest even; a NaN stays one. */
RK_INLINE vf v_bf16(vf x)
{
    vi u = v_bits(x), even = vi_set1(0x7fff);
    vi odd = vi_and(vi_shr(u, 16), vi_set1(1));
    vf rounded = v_float(vi_add(u, vi_add(odd, even)));
    vf quiet = v_float(vi_or(u, vi_set1(0x00400000)));
    return v_float(vi_and(v_bits(v_sel(v_isnan(x), quiet, rounded)), vi_set1((int32_t)0xffff0000)));
}

/* Rounds to IEEE half precision, nearest even; from 65520 on to infinity; a NaN stays one. An addition rounds
 * what is subnormal there: the sum's last bit is worth 2^-24. */
RK_INLINE vf v_f16(vf x)
{
    vi u = v_bits(x), magnitude = vi_and(u, vi_set1(0x7fffffff)), sign = vi_and(u, vi_set1(INT32_MIN));
    vi odd = vi_and(vi_shr(magnitude, 13), vi_set1(1));
    vi normal = vi_and(vi_add(magnitude, vi_add(odd, vi_set1(0xfff))), vi_set1((int32_t)0xffffe000));
    vf m = v_float(magnitude), small = v_sub(v_add(m, v_set1(0.5f)), v_set1(0.5f)), y = v_float(normal);
    y = v_sel(v_lt(m, v_set1(0x1p-14f)), small, y);
    y = v_sel(v_ge(m, v_set1(65520)), v_set1(INFINITY), y);
    return v_sel(v_isnan(x), x, v_float(vi_or(v_bits(y), sign)));
}

RK_INLINE vf v_narrow(rk_round to, vf x)
{
    return to == RK_ROUND_BF16 ? v_bf16(x) : to == RK_ROUND_F16 ? v_f16(x) : x;
}

#if defined(RK_ISA_AVX512)

RK_INLINE __m512 v__unpacklo2(__m512 a, __m512 b)
{
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

RK_INLINE __m512 v__unpackhi2(__m512 a, __m512 b)
{
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

/* r[i][j] and r[j][i] change places. */
RK_INLINE void v_transpose(vf r[VL])
{
    vf t[VL];
    RK_UNROLL for (int i = 0; i < 8; i++)
    {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    RK_UNROLL for (int i = 0; i < 4; i++)
    {
        r[4 * i] = v__unpacklo2(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = v__unpackhi2(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = v__unpacklo2(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = v__unpackhi2(t[4 * i + 1], t[4 * i + 3]);
    }
    RK_UNROLL for (int i = 0; i < 4; i++)
    {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    RK_UNROLL for (int i = 0; i < 8; i++)
    {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}

/* Every second of the 2 * VL - 1 floats at p. */
RK_INLINE vf v_load_even(const float *p)
{
    const __m512i index = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_permutex2var_ps(_mm512_loadu_ps(p), index, _mm512_loadu_ps(p + VL - 1));
}

/* a[0] b[0] a[1] b[1] ... to p, 2 * VL floats. */
RK_INLINE void v_store_interleaved(float *p, vf a, vf b)
{
    const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(a, first, b));
    _mm512_storeu_ps(p + VL, _mm512_permutex2var_ps(a, second, b));
}

#elif defined(RK_ISA_AVX2)

RK_INLINE vf v_load_even(const float *p)
{
    /* The second load begins one float early, so that nothing behind the last is read: its odd ones count. */
    __m256 t = _mm256_shuffle_ps(_mm256_loadu_ps(p), _mm256_loadu_ps(p + VL - 1), 0xd8);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(t), 0xd8));
}

RK_INLINE void v_store_interleaved(float *p, vf a, vf b)
{
    __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(low, high, 0x20));
    _mm256_storeu_ps(p + VL, _mm256_permute2f128_ps(low, high, 0x31));
}

RK_INLINE void v_transpose(vf r[VL])
{
    vf t[VL];
    RK_UNROLL for (int i = 0; i < 4; i++)
    {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    RK_UNROLL for (int i = 0; i < 2; i++)
    {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    RK_UNROLL for (int i = 0; i < 4; i++)
    {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    RK_UNROLL for (int i = 0; i < VL; i++) r[i] = t[i];
}

enum { V_TURN_TERMS = 4 };

/* r[x][j] = p[j * lane + x]. Halves are joined while they are loaded: a square of 8 x 8 then takes
 * 16 shuffles of 24. */
RK_INLINE void v_load_turned(const float *p, int64_t lane, vf r[V_TURN_TERMS])
{
    vf t[4];
    RK_UNROLL for (int i = 0; i < 4; i++) t[i] = _mm256_insertf128_ps(
        _mm256_castps128_ps256(_mm_loadu_ps(p + i * lane)), _mm_loadu_ps(p + (i + 4) * lane), 1);
    vf a = _mm256_unpacklo_ps(t[0], t[1]), b = _mm256_unpackhi_ps(t[0], t[1]);
    vf c = _mm256_unpacklo_ps(t[2], t[3]), d = _mm256_unpackhi_ps(t[2], t[3]);
    r[0] = _mm256_shuffle_ps(a, c, 0x44);
    r[1] = _mm256_shuffle_ps(a, c, 0xee);
    r[2] = _mm256_shuffle_ps(b, d, 0x44);
    r[3] = _mm256_shuffle_ps(b, d, 0xee);
}

#else

RK_INLINE vf v_load_even(const float *p)
{
    vf r;
    for (int i = 0; i < VL; i++)
        r[i] = p[2 * i];
    return r;
}

RK_INLINE void v_store_interleaved(float *p, vf a, vf b)
{
    for (int i = 0; i < VL; i++) {
        p[2 * i] = a[i];
        p[2 * i + 1] = b[i];
    }
}

RK_INLINE void v_transpose(vf r[VL])
{
    for (int i = 0; i < VL; i++)
        for (int j = 0; j < i; j++) {
            float x = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = x;
        }
}

#endif

/* sum = a * b + sum, for tiles that need every register: left to itself, gcc lets the sums wander between
 * registers and loads an operand again at each use, and a tile has neither to spare. */
RK_INLINE void v_accumulate(vf *sum, vf a, vf b)
{
#if defined(RK_ISA_PORTABLE)
    *sum = v_fma(a, b, *sum);
#else
    __asm__("vfmadd231ps %2, %1, %0" : "+v"(*sum) : "v"(a), "v"(b));
#endif
}

/* Between the terms of an unrolled product: loads stay with their term, so that they need no more registers
 * than there are. */
#define RK_IN_ORDER() __asm__ volatile("" ::: "memory")

/* Hides where an integer comes from: what is added to it at each use stays a part of the address, instead of
 * becoming one more integer that is kept. */
#define RK_OPAQUE(i) __asm__("" : "+r"(i))

#if !defined(RK_ISA_AVX2) || defined(RK_ISA_AVX512)
enum { V_TURN_TERMS = VL };

RK_INLINE void v_load_turned(const float *p, int64_t lane, vf r[V_TURN_TERMS])
{
    RK_UNROLL for (int i = 0; i < VL; i++) r[i] = v_load(p + i * lane);
    v_transpose(r);
}
#endif

/* Names of conv_tile.c. */
enum { TV = VL };
typedef vf tvec;
#define TV_INLINE    RK_INLINE
#define TV_UNROLL    RK_UNROLL
#define tv_load      v_load
#define tv_store     v_store
#define tv_set1      v_set1
#define tv_zero      v_zero
#define tv_add       v_add
#define tv_fma       v_fma
#define tv_load_n    v_load_some
#define tv_store_n   v_store_upto
#define tv_narrow    v_narrow
#define tv_transpose v_transpose
#define tv_relu(x)   v_max(v_zero(), x)

#endif
