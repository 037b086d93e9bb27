/* Canonical sums on the device (core/order.h): a tree over leaves that are made one after another, and the 16
 * lanes of a row. */
#ifndef RK_CUDA_ORDERED_CUH
#define RK_CUDA_ORDERED_CUH

#include "core/kernels.h"
#include "core/order.h"
#include "cuda/rk_cuda.h"

static __device__ __forceinline__ float rk__fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static __device__ __forceinline__ double rk__fma(double a, double b, double c)
{
    return fma(a, b, c);
}

/* The tree over up to 2^LEVELS leaves, added from left to right: a binary counter, whose levels stay in registers
 * because every index is a constant. */
enum { RK__TREE_LEVELS = 10 };

template <class T, int LEVELS = RK__TREE_LEVELS>
struct rk__tree {
    T held[LEVELS];
    int leaves;

    __device__ __forceinline__ void begin()
    {
        leaves = 0;
    }

    /* Adds a leaf; returns the sum of the largest finished subtree that it ends. After the last leaf of a power of
     * two that is the sum of all. */
    __device__ __forceinline__ T add(T leaf)
    {
        bool carry = true;
#pragma unroll
        for (int d = 0; d < LEVELS; d++)
            if (carry) {
                if (leaves >> d & 1) {
                    leaf = held[d] + leaf;
                } else {
                    held[d] = leaf;
                    carry = false;
                }
            }
        leaves++;
        return leaf;
    }
};

/* The sum of the 16 lanes that neighbouring threads hold, by halving; valid in the first of them. Never -0. */
template <class T>
static __device__ __forceinline__ T rk__lanes_sum(T v)
{
#pragma unroll
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        v += __shfl_down_sync(0xffffffffu, v, h, RK_LANES);
    return v + (T)0;
}

/* Terms [lo, hi) of leaf s of n terms. */
static __device__ __forceinline__ void rk__leaf_terms(int64_t n, const rk_order &o, int s, int64_t *lo,
                                                      int64_t *hi)
{
    rk_order_leaf(n / o.unit, o.segments, s, lo, hi);
    *lo *= o.unit;
    *hi *= o.unit;
}

/* An order whose zeros mean the simplest one. */
static inline rk_order rk__order_or_plain(rk_order o)
{
    if (o.segments < 1)
        o.segments = 1;
    if (o.unit < 1)
        o.unit = 1;
    return o;
}

/* n / by for n >= 0, by > 0 without a division. Source: Granlund & Montgomery 1994, for 63-bit numerators. */
struct rk__divider {
    int64_t by;
    uint64_t multiplier; /* 2^(63 + shift + 1) / by, rounded up, where 2^shift < by <= 2^(shift + 1) */
    int shift;
};

static inline rk__divider rk__divider_of(int64_t by)
{
    rk__divider d = { by, 0, 0 };
    if (by <= 1)
        return d;
    while ((int64_t)2 << d.shift < by && d.shift < 61)
        d.shift++;
    const unsigned __int128 power = (unsigned __int128)1 << (64 + d.shift);
    d.multiplier = (uint64_t)((power + (uint64_t)by - 1) / (uint64_t)by);
    return d;
}

static __device__ __forceinline__ int64_t rk__quotient(int64_t n, const rk__divider &d)
{
    return d.by <= 1 ? n : (int64_t)(__umul64hi((uint64_t)n, d.multiplier) >> d.shift);
}

/* n = quotient * by + remainder. */
static __device__ __forceinline__ int64_t rk__split(int64_t n, const rk__divider &d, int64_t *remainder)
{
    int64_t q = rk__quotient(n, d);
    *remainder = n - q * d.by;
    return q;
}

/* Rounds to bf16, nearest even; a NaN stays one. */
static __device__ __forceinline__ float rk__bf16(float x)
{
    uint32_t u = __float_as_uint(x);
    u = x != x ? u | 0x00400000u : u + 0x7fffu + (u >> 16 & 1u);
    return __uint_as_float(u & 0xffff0000u);
}

static __device__ __forceinline__ double rk__bf16(double x)
{
    return (double)rk__bf16((float)x);
}

/* An operand of a product. */
template <class T> static __device__ __forceinline__ T rk__rounded(rk_round to, T x)
{
    return to == RK_ROUND_BF16  ? rk__bf16(x)
           : to == RK_ROUND_F16 ? (T)__half2float(__float2half_rn((float)x))
                                : x;
}

#endif
