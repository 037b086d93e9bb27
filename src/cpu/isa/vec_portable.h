/* vec.h for any processor: the compilers' own vectors of four. On x86 without FMA instructions v_fma is
 * computed in doubles, and rounded once. */
#ifndef RK_CPU_VEC_PORTABLE_H
#define RK_CPU_VEC_PORTABLE_H

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

enum { VL = 4 };
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t v__u __attribute__((vector_size(16)));
typedef double vd __attribute__((vector_size(16)));
typedef vi vm; /* all ones or all zeros */

RK_INLINE vf v_load(const float *p)
{
    vf a;
    memcpy(&a, p, sizeof a);
    return a;
}
RK_INLINE void v_store(float *p, vf a)
{
    memcpy(p, &a, sizeof a);
}
/* The first n lanes, 0 <= n <= VL; the others are +0. Nothing is read or written beyond them. */
RK_INLINE vf v_loadn(const float *p, int n)
{
    vf a = { 0 };
    for (int i = 0; i < n; i++)
        a[i] = p[i];
    return a;
}
RK_INLINE void v_storen(float *p, int n, vf a)
{
    for (int i = 0; i < n; i++)
        p[i] = a[i];
}
RK_INLINE vf v_set1(float x)
{
    return (vf){ x, x, x, x };
}
RK_INLINE vf v_add(vf a, vf b)
{
    return a + b;
}
RK_INLINE vf v_sub(vf a, vf b)
{
    return a - b;
}
RK_INLINE vf v_mul(vf a, vf b)
{
    return a * b;
}
RK_INLINE vf v_div(vf a, vf b)
{
    return a / b;
}
RK_INLINE vf v_sqrt(vf a)
{
#if defined(__SSE2__)
    return _mm_sqrt_ps(a);
#else
    for (int i = 0; i < VL; i++)
        a[i] = __builtin_sqrtf(a[i]);
    return a;
#endif
}
RK_INLINE vi v_bits(vf a)
{
    return (vi)a;
}
RK_INLINE vf v_float(vi a)
{
    return (vf)a;
}
RK_INLINE vf v_sel(vm m, vf a, vf b)
{
    return (vf)(((vi)a & m) | ((vi)b & ~m));
}
RK_INLINE vf v_max(vf a, vf b)
{
#if defined(__SSE2__)
    return _mm_max_ps(a, b);
#else
    return v_sel(a > b, a, b);
#endif
}
RK_INLINE vf v_min(vf a, vf b)
{
#if defined(__SSE2__)
    return _mm_min_ps(a, b);
#else
    return v_sel(a < b, a, b);
#endif
}

#if defined(__SSE2__) && !defined(__FMA__)
/* s = a * b + c (two lanes) with the double sum s rounded to odd: the product of floats is exact, TwoSum
 * gives the error of the addition, and an inexact even s moves to its neighbour on the true value's side. A
 * later rounding to float is then as if done from the exact value (Boldo & Melquiond 2008, "Emulation of
 * FMA"). */
static inline __m128d v__to_odd(__m128d p, __m128d c, __m128d s)
{
    __m128d bb = _mm_sub_pd(s, p);
    __m128d err = _mm_add_pd(_mm_sub_pd(p, _mm_sub_pd(s, bb)), _mm_sub_pd(c, bb));
    __m128d zero = _mm_setzero_pd(); /* two comparisons, so that a NaN error means exact */
    __m128i inexact = _mm_castpd_si128(_mm_or_pd(_mm_cmplt_pd(err, zero), _mm_cmpgt_pd(err, zero)));
    __m128i bits = _mm_castpd_si128(s), one = _mm_set_epi32(0, 1, 0, 1);
    __m128i away =
        _mm_srli_epi64(_mm_xor_si128(bits, _mm_castpd_si128(err)), 63); /* 1: true value nearer to 0 */
    __m128i step = _mm_sub_epi64(one, _mm_add_epi64(away, away));
    __m128i even = _mm_sub_epi64(_mm_and_si128(bits, one), one);
    return _mm_castsi128_pd(_mm_add_epi64(bits, _mm_and_si128(step, _mm_and_si128(even, inexact))));
}

RK_INLINE vf v_fma(vf a, vf b, vf c)
{
    __m128d c0 = _mm_cvtps_pd(c), c1 = _mm_cvtps_pd(_mm_movehl_ps(c, c));
    __m128d p0 = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b));
    __m128d p1 = _mm_mul_pd(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)));
    __m128d s0 = _mm_add_pd(p0, c0), s1 = _mm_add_pd(p1, c1);
    __m128 r = _mm_movelh_ps(_mm_cvtpd_ps(s0), _mm_cvtpd_ps(s1));
    /* Rounding twice differs from rounding once only if s lies half-way between two floats, or below the
     * normal range, where half-ways are elsewhere. */
    __m128i low =
        _mm_castps_si128(_mm_shuffle_ps(_mm_castpd_ps(s0), _mm_castpd_ps(s1), _MM_SHUFFLE(2, 0, 2, 0)));
    __m128i half =
        _mm_cmpeq_epi32(_mm_and_si128(low, _mm_set1_epi32(0x1fffffff)), _mm_set1_epi32(0x10000000));
    __m128i mag = _mm_and_si128(_mm_castps_si128(r), _mm_set1_epi32(INT32_MAX));
    __m128i tiny = _mm_cmplt_epi32(mag, _mm_set1_epi32(0x00800001));
    if (__builtin_expect(_mm_movemask_epi8(_mm_or_si128(half, tiny)) != 0, 0))
        r = _mm_movelh_ps(_mm_cvtpd_ps(v__to_odd(p0, c0, s0)), _mm_cvtpd_ps(v__to_odd(p1, c1, s1)));
    return r;
}
#else
RK_INLINE vf v_fma(vf a, vf b, vf c)
{
    for (int i = 0; i < VL; i++)
        a[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return a;
}
#endif

RK_INLINE float v_first(vf a)
{
    return a[0];
}

RK_INLINE vm v_lt(vf a, vf b)
{
    return a < b;
}
RK_INLINE vm v_le(vf a, vf b)
{
    return a <= b;
}
RK_INLINE vm v_gt(vf a, vf b)
{
    return a > b;
}
RK_INLINE vm v_ge(vf a, vf b)
{
    return a >= b;
}
RK_INLINE vm v_eq(vf a, vf b)
{
    return a == b;
}
RK_INLINE vm v_ne(vf a, vf b)
{
    return a != b;
}
RK_INLINE vm vm_and(vm a, vm b)
{
    return a & b;
}
RK_INLINE vm vm_or(vm a, vm b)
{
    return a | b;
}
RK_INLINE vm vm_not(vm a)
{
    return ~a;
}
RK_INLINE int vm_any(vm a)
{
    return (a[0] | a[1] | a[2] | a[3]) != 0;
}

/* Value conversions; to integer: nearest, ties to even, |a| < 2^31. */
RK_INLINE vi v_toint(vf a)
{
#if defined(__SSE2__)
    return (vi)_mm_cvtps_epi32(a);
#else
    vi r;
    for (int i = 0; i < VL; i++)
        r[i] = (int32_t)__builtin_rintf(a[i]);
    return r;
#endif
}
RK_INLINE vf v_fromint(vi a)
{
    return __builtin_convertvector(a, vf);
}
RK_INLINE vi vi_set1(int32_t x)
{
    return (vi){ x, x, x, x };
}
RK_INLINE vi vi_iota(void)
{
    return (vi){ 0, 1, 2, 3 };
}
RK_INLINE vi vi_load(const void *p)
{
    vi a;
    memcpy(&a, p, sizeof a);
    return a;
}
RK_INLINE void vi_store(void *p, vi a)
{
    memcpy(p, &a, sizeof a);
}
/* Unsigned inside: these wrap. */
RK_INLINE vi vi_add(vi a, vi b)
{
    return (vi)((v__u)a + (v__u)b);
}
RK_INLINE vi vi_sub(vi a, vi b)
{
    return (vi)((v__u)a - (v__u)b);
}
RK_INLINE vi vi_and(vi a, vi b)
{
    return a & b;
}
RK_INLINE vi vi_or(vi a, vi b)
{
    return a | b;
}
RK_INLINE vi vi_xor(vi a, vi b)
{
    return a ^ b;
}
RK_INLINE vi vi_shl(vi a, int n)
{
    return (vi)((v__u)a << n);
}
RK_INLINE vi vi_shr(vi a, int n)
{
    return (vi)((v__u)a >> n);
}
RK_INLINE vi vi_sar(vi a, int n)
{
    return a >> n;
}
RK_INLINE vm vi_gt(vi a, vi b)
{
    return a > b;
}
RK_INLINE vm vi_eq(vi a, vi b)
{
    return a == b;
}
/* The 64-bit products of unsigned lanes with m: upper and lower halves. */
RK_INLINE void vi_mulhilo(vi a, uint32_t m, vi *hi, vi *lo)
{
    for (int i = 0; i < VL; i++) {
        uint64_t p = (uint64_t)(uint32_t)a[i] * m;
        (*hi)[i] = (int32_t)(uint32_t)(p >> 32);
        (*lo)[i] = (int32_t)(uint32_t)p;
    }
}
/* w[e] lane b becomes word 4 * b + e of w[0], w[1], ... */
RK_INLINE void vi_interleave4(vi w[4])
{
    vi t0 = __builtin_shufflevector(w[0], w[1], 0, 4, 1, 5),
       t1 = __builtin_shufflevector(w[0], w[1], 2, 6, 3, 7);
    vi t2 = __builtin_shufflevector(w[2], w[3], 0, 4, 1, 5),
       t3 = __builtin_shufflevector(w[2], w[3], 2, 6, 3, 7);
    w[0] = __builtin_shufflevector(t0, t2, 0, 1, 4, 5);
    w[1] = __builtin_shufflevector(t0, t2, 2, 3, 6, 7);
    w[2] = __builtin_shufflevector(t1, t3, 0, 1, 4, 5);
    w[3] = __builtin_shufflevector(t1, t3, 2, 3, 6, 7);
}

/* Sum of all lanes by halving: lane[l] += lane[l + h] for h = VL/2 .. 1. */
RK_INLINE float v_halve_sum(vf a)
{
    return (a[0] + a[2]) + (a[1] + a[3]);
}

/* Doubles: the lower and the upper half of the lanes. */
RK_INLINE vd vd_lower(vf a)
{
    return (vd){ a[0], a[1] };
}
RK_INLINE vd vd_upper(vf a)
{
    return (vd){ a[2], a[3] };
}
RK_INLINE vd vd_zero(void)
{
    return (vd){ 0, 0 };
}
RK_INLINE vd vd_add(vd a, vd b)
{
    return a + b;
}
RK_INLINE vd vd_mul(vd a, vd b)
{
    return a * b;
}
RK_INLINE void vd_store(double *p, vd a)
{
    memcpy(p, &a, sizeof a);
}

#endif
