/* vec.h for AVX2 with FMA. */
#ifndef RK_CPU_VEC_AVX2_H
#define RK_CPU_VEC_AVX2_H

#include <immintrin.h>

enum { VL = 8 };
typedef __m256 vf;
typedef __m256i vi;
typedef __m256d vd;
typedef __m256 vm;

static const int32_t v__masks[16] __attribute__((unused)) = { -1, -1, -1, -1, -1, -1, -1, -1 };

RK_INLINE vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
RK_INLINE void v_store(float *p, vf a)
{
    _mm256_storeu_ps(p, a);
}
/* The first n lanes, 0 <= n <= VL; the others are +0. Nothing is read or written beyond them. */
RK_INLINE vf v_loadn(const float *p, int n)
{
    return _mm256_maskload_ps(p, _mm256_loadu_si256((const __m256i *)(const void *)(v__masks + 8 - n)));
}
/* Not vmaskmovps: its stores take dozens of cycles on Zen. */
RK_INLINE void v_storen(float *p, int n, vf a)
{
    if (n >= 8) {
        _mm256_storeu_ps(p, a);
        return;
    }
    __m128 x = _mm256_castps256_ps128(a);
    if (n & 4) {
        _mm_storeu_ps(p, x);
        p += 4;
        x = _mm256_extractf128_ps(a, 1);
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)(void *)p, x);
        p += 2;
        x = _mm_movehl_ps(x, x);
    }
    if (n & 1)
        _mm_store_ss(p, x);
}
RK_INLINE vf v_set1(float x)
{
    return _mm256_set1_ps(x);
}
RK_INLINE vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
RK_INLINE vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
RK_INLINE vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
RK_INLINE vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
RK_INLINE vf v_sqrt(vf a)
{
    return _mm256_sqrt_ps(a);
}
RK_INLINE vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
RK_INLINE vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
RK_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
RK_INLINE float v_first(vf a)
{
    return _mm256_cvtss_f32(a);
}

RK_INLINE vm v_lt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
RK_INLINE vm v_le(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}
RK_INLINE vm v_gt(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_GT_OQ);
}
RK_INLINE vm v_ge(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_GE_OQ);
}
RK_INLINE vm v_eq(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
}
RK_INLINE vm v_ne(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_NEQ_UQ);
}
RK_INLINE vf v_sel(vm m, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, m);
}
RK_INLINE vm vm_and(vm a, vm b)
{
    return _mm256_and_ps(a, b);
}
RK_INLINE vm vm_or(vm a, vm b)
{
    return _mm256_or_ps(a, b);
}
RK_INLINE vm vm_not(vm a)
{
    return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1)));
}
RK_INLINE int vm_any(vm a)
{
    return _mm256_movemask_ps(a) != 0;
}

RK_INLINE vi v_bits(vf a)
{
    return _mm256_castps_si256(a);
}
RK_INLINE vf v_float(vi a)
{
    return _mm256_castsi256_ps(a);
}
/* Value conversions; to integer: nearest, ties to even, |a| < 2^31. */
RK_INLINE vi v_toint(vf a)
{
    return _mm256_cvtps_epi32(a);
}
RK_INLINE vf v_fromint(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
RK_INLINE vi vi_set1(int32_t x)
{
    return _mm256_set1_epi32(x);
}
RK_INLINE vi vi_iota(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}
RK_INLINE vi vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
RK_INLINE void vi_store(void *p, vi a)
{
    _mm256_storeu_si256(p, a);
}
RK_INLINE vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
RK_INLINE vi vi_sub(vi a, vi b)
{
    return _mm256_sub_epi32(a, b);
}
RK_INLINE vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
RK_INLINE vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
RK_INLINE vi vi_xor(vi a, vi b)
{
    return _mm256_xor_si256(a, b);
}
RK_INLINE vi vi_shl(vi a, int n)
{
    return _mm256_slli_epi32(a, n);
}
RK_INLINE vi vi_shr(vi a, int n)
{
    return _mm256_srli_epi32(a, n);
}
RK_INLINE vi vi_sar(vi a, int n)
{
    return _mm256_srai_epi32(a, n);
}
RK_INLINE vm vi_gt(vi a, vi b)
{
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(a, b));
}
RK_INLINE vm vi_eq(vi a, vi b)
{
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, b));
}
/* The 64-bit products of unsigned lanes with m: upper and lower halves. */
RK_INLINE void vi_mulhilo(vi a, uint32_t m, vi *hi, vi *lo)
{
    vi mm = _mm256_set1_epi32((int32_t)m);
    vi even = _mm256_mul_epu32(a, mm), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), mm);
    *hi = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
    *lo = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
/* w[e] lane b becomes word 4 * b + e of w[0], w[1], ... */
RK_INLINE void vi_interleave4(vi w[4])
{
    vi t0 = _mm256_unpacklo_epi32(w[0], w[1]), t1 = _mm256_unpackhi_epi32(w[0], w[1]);
    vi t2 = _mm256_unpacklo_epi32(w[2], w[3]), t3 = _mm256_unpackhi_epi32(w[2], w[3]);
    vi u0 = _mm256_unpacklo_epi64(t0, t2), u1 = _mm256_unpackhi_epi64(t0, t2);
    vi u2 = _mm256_unpacklo_epi64(t1, t3), u3 = _mm256_unpackhi_epi64(t1, t3);
    w[0] = _mm256_permute2x128_si256(u0, u1, 0x20);
    w[1] = _mm256_permute2x128_si256(u2, u3, 0x20);
    w[2] = _mm256_permute2x128_si256(u0, u1, 0x31);
    w[3] = _mm256_permute2x128_si256(u2, u3, 0x31);
}

/* Sum of all lanes by halving: lane[l] += lane[l + h] for h = VL/2 .. 1. */
RK_INLINE float v_halve_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_shuffle_ps(s, s, 1));
    return _mm_cvtss_f32(s);
}

/* Doubles: the lower and the upper half of the lanes. */
RK_INLINE vd vd_lower(vf a)
{
    return _mm256_cvtps_pd(_mm256_castps256_ps128(a));
}
RK_INLINE vd vd_upper(vf a)
{
    return _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
}
RK_INLINE vd vd_zero(void)
{
    return _mm256_setzero_pd();
}
RK_INLINE vd vd_add(vd a, vd b)
{
    return _mm256_add_pd(a, b);
}
RK_INLINE vd vd_mul(vd a, vd b)
{
    return _mm256_mul_pd(a, b);
}
RK_INLINE void vd_store(double *p, vd a)
{
    _mm256_storeu_pd(p, a);
}

#endif
