/* The vocabulary of core/vec.inc for one thread: a vector is one number. What it makes of core/vmath.inc has
 * the same bits as on the CPU. The names that kernels over both element types use are there for double too.
 */
#ifndef RK_CUDA_VEC_CUH
#define RK_CUDA_VEC_CUH

#include "core/hd.h"
#include "cuda/rk_cuda.h"

#include <math.h>
#include <stdint.h>

#define RK_INLINE static __device__ __forceinline__
#define RK_FN     static __device__ inline

typedef float vf;
typedef int32_t vi;
typedef bool vm;

RK_INLINE vf v_set1(float a)
{
    return a;
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
    return sqrtf(a);
}

/* Not fmaxf and fminf: a NaN on either side, or two zeros, give b. */
RK_INLINE vf v_max(vf a, vf b)
{
    return a > b ? a : b;
}

RK_INLINE vf v_min(vf a, vf b)
{
    return a < b ? a : b;
}

RK_INLINE vf v_fma(vf a, vf b, vf c)
{
    return fmaf(a, b, c);
}

RK_INLINE vm v_lt(vf a, vf b)
{
    return a < b;
}

RK_INLINE vm v_gt(vf a, vf b)
{
    return a > b;
}

RK_INLINE vm v_eq(vf a, vf b)
{
    return a == b;
}

RK_INLINE vm v_ne(vf a, vf b)
{
    return a != b;
}

RK_INLINE vf v_sel(vm m, vf a, vf b)
{
    return m ? a : b;
}

RK_INLINE vm vm_and(vm a, vm b)
{
    return a && b;
}

RK_INLINE vi v_bits(vf a)
{
    return __float_as_int(a);
}

RK_INLINE vf v_float(vi a)
{
    return __int_as_float(a);
}

RK_INLINE vf v_fromint(vi a)
{
    return (float)a;
}

RK_INLINE vi vi_set1(int32_t a)
{
    return a;
}

/* Unsigned inside: these wrap. */
RK_INLINE vi vi_add(vi a, vi b)
{
    return (vi)((uint32_t)a + (uint32_t)b);
}

RK_INLINE vi vi_sub(vi a, vi b)
{
    return (vi)((uint32_t)a - (uint32_t)b);
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
    return (vi)((uint32_t)a << n);
}

RK_INLINE vi vi_sar(vi a, int n)
{
    return a >> n;
}

RK_INLINE vm vi_eq(vi a, vi b)
{
    return a == b;
}

RK_INLINE vf v__horner(vf, vf p)
{
    return p;
}

template <class... C> RK_INLINE vf v__horner(vf x, vf p, float next, C... rest)
{
    return v__horner(x, v_fma(p, x, next), rest...);
}
#define V_POLY(x, ...) v__horner(x, __VA_ARGS__)

#include "core/vec.inc"

#include "core/vmath.inc"

/* ---- double, by the C library's functions ---- */

RK_INLINE double v_fma(double a, double b, double c)
{
    return fma(a, b, c);
}

RK_INLINE double v_fnma(double a, double b, double c)
{
    return fma(-a, b, c);
}

RK_INLINE double v_sqrt(double a)
{
    return sqrt(a);
}

RK_INLINE double v_exp(double a)
{
    return exp(a);
}

RK_INLINE double v_log(double a)
{
    return log(a);
}

RK_INLINE double v_rsqrt(double a)
{
    return 1 / sqrt(a);
}

/* ---- 16 bytes at once ---- */

template <class T> struct alignas(16) rk__pack {
    enum { N = 16 / sizeof(T) };
    T e[N];
};

RK_HD static inline bool rk__aligned(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* How many threads have something to do with n elements, of which `packs` packs are taken whole. */
template <class T> static inline int64_t rk__pack_work(int64_t n, int64_t packs)
{
    const int64_t left = n - packs * rk__pack<T>::N;
    return packs > left ? packs : left;
}

template <class T> RK_INLINE rk__pack<T> rk__load_pack(const T *p)
{
    return *reinterpret_cast<const rk__pack<T> *>(p);
}

template <class T> RK_INLINE void rk__store_pack(T *p, rk__pack<T> a)
{
    *reinterpret_cast<rk__pack<T> *>(p) = a;
}

#endif
