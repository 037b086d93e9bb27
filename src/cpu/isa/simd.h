/* Vectors of float for one instruction set: as few operations as the product kernels need. Every operation rounds as
 * the scalar one does; the width never shows in a result. */
#ifndef RK_CPU_SIMD_H
#define RK_CPU_SIMD_H

#include "cpu/isa/isa.h"

#include <string.h>

#define TV_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define TV_UNROLL _Pragma("unroll")
#else
#define TV_UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(RK_ISA_AVX512)

#include <immintrin.h>

enum { TV = 16 };
typedef __m512 tvec;

TV_INLINE tvec tv_zero(void)
{
    return _mm512_setzero_ps();
}

TV_INLINE tvec tv_set1(float x)
{
    return _mm512_set1_ps(x);
}

TV_INLINE tvec tv_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

TV_INLINE void tv_store(float *p, tvec v)
{
    _mm512_storeu_ps(p, v);
}

TV_INLINE tvec tv_fma(tvec a, tvec b, tvec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

TV_INLINE tvec tv_add(tvec a, tvec b)
{
    return _mm512_add_ps(a, b);
}

/* x > 0 ? x : 0 in every lane */
TV_INLINE tvec tv_relu(tvec x)
{
    return _mm512_max_ps(x, _mm512_setzero_ps());
}

/* mask > 0 ? x : 0 */
TV_INLINE tvec tv_where_positive(tvec mask, tvec x)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(mask, _mm512_setzero_ps(), _CMP_GT_OQ), x);
}

TV_INLINE __mmask16 tv_mask(int64_t n)
{
    return n >= TV ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1);
}

/* The first n lanes (0 or fewer: none, TV or more: all); the others are 0 and their memory is not touched. */
TV_INLINE tvec tv_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(tv_mask(n), p);
}

TV_INLINE void tv_store_n(float *p, int64_t n, tvec v)
{
    _mm512_mask_storeu_ps(p, tv_mask(n), v);
}

/* Rounds to bf16, nearest even; NaN stays NaN. */
TV_INLINE tvec tv_bf16(tvec x)
{
    __m512i u = _mm512_castps_si512(x);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x00400000));
    return _mm512_castsi512_ps(_mm512_and_si512(r, _mm512_set1_epi32((int)0xffff0000)));
}

TV_INLINE __m512 tv_unpacklo2(__m512 a, __m512 b)
{
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

TV_INLINE __m512 tv_unpackhi2(__m512 a, __m512 b)
{
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}

TV_INLINE void tv_transpose(tvec r[TV])
{
    tvec t[TV];
    TV_UNROLL for (int i = 0; i < 8; i++)
    {
        t[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    TV_UNROLL for (int i = 0; i < 4; i++)
    {
        r[4 * i] = tv_unpacklo2(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = tv_unpackhi2(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = tv_unpacklo2(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = tv_unpackhi2(t[4 * i + 1], t[4 * i + 3]);
    }
    TV_UNROLL for (int i = 0; i < 4; i++)
    {
        t[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    TV_UNROLL for (int i = 0; i < 8; i++)
    {
        r[i] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(t[i], t[i + 8], 0xdd);
    }
}

#elif defined(RK_ISA_AVX2)

#include <immintrin.h>

enum { TV = 8 };
typedef __m256 tvec;

TV_INLINE tvec tv_zero(void)
{
    return _mm256_setzero_ps();
}

TV_INLINE tvec tv_set1(float x)
{
    return _mm256_set1_ps(x);
}

TV_INLINE tvec tv_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

TV_INLINE void tv_store(float *p, tvec v)
{
    _mm256_storeu_ps(p, v);
}

TV_INLINE tvec tv_fma(tvec a, tvec b, tvec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

TV_INLINE tvec tv_add(tvec a, tvec b)
{
    return _mm256_add_ps(a, b);
}

/* x > 0 ? x : 0 in every lane */
TV_INLINE tvec tv_relu(tvec x)
{
    return _mm256_max_ps(x, _mm256_setzero_ps());
}

/* mask > 0 ? x : 0 */
TV_INLINE tvec tv_where_positive(tvec mask, tvec x)
{
    return _mm256_and_ps(_mm256_cmp_ps(mask, _mm256_setzero_ps(), _CMP_GT_OQ), x);
}

TV_INLINE __m256i tv_mask(int64_t n)
{
    int lanes = n > TV ? TV : n < 0 ? 0 : (int)n;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first n lanes (0 or fewer: none, TV or more: all); the others are 0 and their memory is not touched. */
TV_INLINE tvec tv_load_n(const float *p, int64_t n)
{
    return _mm256_maskload_ps(p, tv_mask(n));
}

/* Not with a masked store, which takes a dozen cycles on AMD's processors. */
TV_INLINE void tv_store_n(float *p, int64_t n, tvec v)
{
    if (n >= TV) {
        tv_store(p, v);
        return;
    }
    __m128 part = _mm256_castps256_ps128(v);
    if (n <= 0)
        return;
    if (n & 4) {
        _mm_storeu_ps(p, part);
        part = _mm256_extractf128_ps(v, 1);
        p += 4;
    }
    if (n & 2) {
        _mm_storel_pi((__m64 *)p, part);
        part = _mm_movehl_ps(part, part);
        p += 2;
    }
    if (n & 1)
        _mm_store_ss(p, part);
}

/* Rounds to bf16, nearest even; NaN stays NaN. */
TV_INLINE tvec tv_bf16(tvec x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x00400000));
    __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    __m256 v = _mm256_blendv_ps(_mm256_castsi256_ps(r), _mm256_castsi256_ps(quiet), nan);
    return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
}

TV_INLINE void tv_transpose(tvec r[TV])
{
    tvec t[TV];
    TV_UNROLL for (int i = 0; i < 4; i++)
    {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    TV_UNROLL for (int i = 0; i < 2; i++)
    {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    TV_UNROLL for (int i = 0; i < 4; i++)
    {
        t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    TV_UNROLL for (int i = 0; i < TV; i++) r[i] = t[i];
}

#else

enum { TV = 4 };
typedef float tvec __attribute__((vector_size(16)));
typedef int32_t tv_i32 __attribute__((vector_size(16)));

TV_INLINE tvec tv_set1(float x)
{
    return (tvec){ x, x, x, x };
}

TV_INLINE tvec tv_zero(void)
{
    return tv_set1(0);
}

TV_INLINE tvec tv_load(const float *p)
{
    tvec v;
    memcpy(&v, p, sizeof v);
    return v;
}

TV_INLINE void tv_store(float *p, tvec v)
{
    memcpy(p, &v, sizeof v);
}

#if defined(__FP_FAST_FMAF)

TV_INLINE tvec tv_fma(tvec a, tvec b, tvec c)
{
    tvec r;
    for (int i = 0; i < TV; i++)
        r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
}

#else

/* Without the instruction: the product is exact in double; the sum is rounded to odd there (its error is known by
 * TwoSum), so that rounding to float afterwards is correct (Boldo and Melquiond 2008). */
TV_INLINE tvec tv_fma(tvec a, tvec b, tvec c)
{
    typedef double f64 __attribute__((vector_size(32)));
    typedef int64_t i64 __attribute__((vector_size(32)));
    f64 p = __builtin_convertvector(a, f64) * __builtin_convertvector(b, f64);
    f64 q = __builtin_convertvector(c, f64);
    f64 s = p + q;
    f64 part = s - p;
    f64 err = (p - (s - part)) + (q - part);
    i64 bits = (i64)s;
    i64 above = err > 0, below = err < 0; /* -1 where true; neither where an operand is not finite */
    i64 even = (bits & 1) - 1;            /* -1 where the last bit is 0 */
    i64 negative = s < 0;
    i64 grow = ((above & ~negative) | (below & negative)) & even;
    i64 shrink = ((above & negative) | (below & ~negative)) & even;
    bits += shrink - grow;
    return __builtin_convertvector((f64)bits, tvec);
}

#endif

TV_INLINE tvec tv_add(tvec a, tvec b)
{
    return a + b;
}

/* x > 0 ? x : 0 in every lane */
TV_INLINE tvec tv_relu(tvec x)
{
    return (tvec)((tv_i32)x & (x > 0));
}

/* mask > 0 ? x : 0 */
TV_INLINE tvec tv_where_positive(tvec mask, tvec x)
{
    return (tvec)((tv_i32)x & (mask > 0));
}

/* The first n lanes (0 or fewer: none, TV or more: all); the others are 0 and their memory is not touched. */
TV_INLINE tvec tv_load_n(const float *p, int64_t n)
{
    tvec v = tv_zero();
    for (int i = 0; i < TV; i++)
        if (i < n)
            v[i] = p[i];
    return v;
}

TV_INLINE void tv_store_n(float *p, int64_t n, tvec v)
{
    for (int i = 0; i < TV; i++)
        if (i < n)
            p[i] = v[i];
}

/* Rounds to bf16, nearest even; NaN stays NaN. */
TV_INLINE tvec tv_bf16(tvec x)
{
    typedef uint32_t u32 __attribute__((vector_size(16)));
    u32 u = (u32)x, nan = (u32)(x != x);
    u32 r = u + 0x7fff + ((u >> 16) & 1);
    return (tvec)(((r & ~nan) | ((u | 0x00400000) & nan)) & 0xffff0000);
}

TV_INLINE void tv_transpose(tvec r[TV])
{
    for (int i = 0; i < TV; i++)
        for (int j = 0; j < i; j++) {
            float x = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = x;
        }
}

#endif
#endif
