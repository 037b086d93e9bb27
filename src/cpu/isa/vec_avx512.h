/* vec.h for AVX-512 F, VL, BW and DQ. */
#ifndef RK_CPU_VEC_AVX512_H
#define RK_CPU_VEC_AVX512_H

#include <immintrin.h>

enum { VL = 16 };
typedef __m512 vf;
typedef __m512i vi;
typedef __m512d vd;
typedef __mmask16 vm;

RK_INLINE __mmask16 v__first(int n)
{
    return (__mmask16)((1u << n) - 1u);
}

RK_INLINE vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
RK_INLINE void v_store(float *p, vf a)
{
    _mm512_storeu_ps(p, a);
}
/* The first n lanes, 0 <= n <= VL; the others are +0. Nothing is read or written beyond them. */
RK_INLINE vf v_loadn(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(v__first(n), p);
}
RK_INLINE void v_storen(float *p, int n, vf a)
{
    _mm512_mask_storeu_ps(p, v__first(n), a);
}
RK_INLINE vf v_set1(float x)
{
    return _mm512_set1_ps(x);
}
RK_INLINE vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
RK_INLINE vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
RK_INLINE vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
RK_INLINE vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
RK_INLINE vf v_sqrt(vf a)
{
    return _mm512_sqrt_ps(a);
}
RK_INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
RK_INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
RK_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
RK_INLINE float v_first(vf a)
{
    return _mm512_cvtss_f32(a);
}

RK_INLINE vm v_lt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
RK_INLINE vm v_le(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
RK_INLINE vm v_gt(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
}
RK_INLINE vm v_ge(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ);
}
RK_INLINE vm v_eq(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
RK_INLINE vm v_ne(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}
RK_INLINE vf v_sel(vm m, vf a, vf b)
{
    return _mm512_mask_blend_ps(m, b, a);
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
    return (vm)~a;
}
RK_INLINE int vm_any(vm a)
{
    return a != 0;
}

RK_INLINE vi v_bits(vf a)
{
    return _mm512_castps_si512(a);
}
RK_INLINE vf v_float(vi a)
{
    return _mm512_castsi512_ps(a);
}
/* Value conversions; to integer: nearest, ties to even, |a| < 2^31. */
RK_INLINE vi v_toint(vf a)
{
    return _mm512_cvtps_epi32(a);
}
RK_INLINE vf v_fromint(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
RK_INLINE vi vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
RK_INLINE vi vi_iota(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
RK_INLINE vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
RK_INLINE void vi_store(void *p, vi a)
{
    _mm512_storeu_si512(p, a);
}
RK_INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
RK_INLINE vi vi_sub(vi a, vi b)
{
    return _mm512_sub_epi32(a, b);
}
RK_INLINE vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
RK_INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
RK_INLINE vi vi_xor(vi a, vi b)
{
    return _mm512_xor_si512(a, b);
}
RK_INLINE vi vi_shl(vi a, int n)
{
    return _mm512_slli_epi32(a, (unsigned)n);
}
RK_INLINE vi vi_shr(vi a, int n)
{
    return _mm512_srli_epi32(a, (unsigned)n);
}
RK_INLINE vi vi_sar(vi a, int n)
{
    return _mm512_srai_epi32(a, (unsigned)n);
}
RK_INLINE vm vi_gt(vi a, vi b)
{
    return _mm512_cmpgt_epi32_mask(a, b);
}
RK_INLINE vm vi_eq(vi a, vi b)
{
    return _mm512_cmpeq_epi32_mask(a, b);
}
/* The 64-bit products of unsigned lanes with m: upper and lower halves. */
RK_INLINE void vi_mulhilo(vi a, uint32_t m, vi *hi, vi *lo)
{
    vi mm = _mm512_set1_epi32((int32_t)m);
    vi even = _mm512_mul_epu32(a, mm), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), mm);
    *hi = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
    *lo = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
}
/* w[e] lane b becomes word 4 * b + e of w[0], w[1], ... */
RK_INLINE void vi_interleave4(vi w[4])
{
    vi t0 = _mm512_unpacklo_epi32(w[0], w[1]), t1 = _mm512_unpackhi_epi32(w[0], w[1]);
    vi t2 = _mm512_unpacklo_epi32(w[2], w[3]), t3 = _mm512_unpackhi_epi32(w[2], w[3]);
    vi u0 = _mm512_unpacklo_epi64(t0, t2), u1 = _mm512_unpackhi_epi64(t0, t2);
    vi u2 = _mm512_unpacklo_epi64(t1, t3), u3 = _mm512_unpackhi_epi64(t1, t3);
    vi v0 = _mm512_shuffle_i32x4(u0, u1, 0x44), v1 = _mm512_shuffle_i32x4(u2, u3, 0x44);
    vi v2 = _mm512_shuffle_i32x4(u0, u1, 0xee), v3 = _mm512_shuffle_i32x4(u2, u3, 0xee);
    w[0] = _mm512_shuffle_i32x4(v0, v1, 0x88);
    w[1] = _mm512_shuffle_i32x4(v0, v1, 0xdd);
    w[2] = _mm512_shuffle_i32x4(v2, v3, 0x88);
    w[3] = _mm512_shuffle_i32x4(v2, v3, 0xdd);
}

RK_INLINE float v__halve128(__m128 s)
{
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
    return _mm_cvtss_f32(s);
}
/* Sum of all lanes by halving: lane[l] += lane[l + h] for h = VL/2 .. 1. */
RK_INLINE float v_halve_sum(vf a)
{
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    return v__halve128(_mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1)));
}

/* Doubles: the lower and the upper half of the lanes. */
RK_INLINE vd vd_lower(vf a)
{
    return _mm512_cvtps_pd(_mm512_castps512_ps256(a));
}
RK_INLINE vd vd_upper(vf a)
{
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
}
RK_INLINE vd vd_zero(void)
{
    return _mm512_setzero_pd();
}
RK_INLINE vd vd_add(vd a, vd b)
{
    return _mm512_add_pd(a, b);
}
RK_INLINE vd vd_mul(vd a, vd b)
{
    return _mm512_mul_pd(a, b);
}
RK_INLINE void vd_store(double *p, vd a)
{
    _mm512_storeu_pd(p, a);
}

#endif
