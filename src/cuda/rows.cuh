/* Rows (rows, cols): 16 neighbouring threads, the lanes of core/order.h, walk a row together and add what
 * each has at the end; a block has many rows. A kernel of them begins
 *
 *   RK__EACH_ROW(rows, r) {
 *       const rk__row row(rows, cols, r);
 *       T sum = rk__row_sum<T>(row, [&](T acc, int64_t i) { return acc + x[r * cols + i]; });
 *
 * and takes every step of it in all threads: those of a row behind the last have no elements. */
#ifndef RK_CUDA_ROWS_CUH
#define RK_CUDA_ROWS_CUH

#include "core/kernels.h"
#include "core/order.h"
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"
#include "cuda/vec.cuh"

enum { RK__ROW_BLOCK = 256, RK__BLOCK_ROWS = RK__ROW_BLOCK / RK_LANES, RK__WARP_ROWS = 32 / RK_LANES };

/* The rows of a warp begin and end together, so that shuffles find all lanes. */
#define RK__EACH_ROW(rows, r)                                                       \
    for (int64_t r = (int64_t)blockIdx.x * RK__BLOCK_ROWS + threadIdx.x / RK_LANES; \
         r / RK__WARP_ROWS * RK__WARP_ROWS < (rows); r += (int64_t)gridDim.x * RK__BLOCK_ROWS)

struct rk__row {
    int64_t n; /* elements: 0 if there is no such row */
    int lane;
    bool first; /* this thread writes what there is one of */

    __device__ __forceinline__ rk__row(int64_t rows, int64_t cols, int64_t r)
        : n(r < rows ? cols : 0), lane((int)threadIdx.x % RK_LANES), first(r < rows && lane == 0)
    {
    }
};

static inline unsigned rk__row_grid(const rk_dev *dev, int64_t rows)
{
    return rk__cuda_grid(dev, rows * RK_LANES, RK__ROW_BLOCK);
}

/* The kernel's first parameter is `rows`, which is not 0. */
#define RK__LAUNCH_ROWS(kernel, dev, rows, ...) \
    RK_LAUNCH(kernel, rk__row_grid(dev, rows), RK__ROW_BLOCK, 0, (dev)->stream, rows, __VA_ARGS__)

/* The sum of the lanes by halving, in all of them. Never -0, which a sum of products that vanish could be on
 * some vector widths and not on others. */
template <class T> RK_INLINE T rk__row_total(T v)
{
#pragma unroll
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, h, RK_LANES);
    return v + (T)0;
}

/* This lane's chain over elements [lo, hi) of a row: from, then acc = term(acc, i). */
template <class T, class F> RK_INLINE T rk__lane_chain(int lane, int64_t lo, int64_t hi, T from, F term)
{
    T acc = from;
#pragma unroll 4
    for (int64_t i = lo + lane; i < hi; i += RK_LANES)
        acc = term(acc, i);
    return acc;
}

template <class T, class F> RK_INLINE T rk__row_sum(const rk__row &row, F term)
{
    return rk__row_total(rk__lane_chain(row.lane, 0, row.n, (T)0, term));
}

template <class F> RK_INLINE void rk__row_each(const rk__row &row, F f)
{
#pragma unroll 4
    for (int64_t i = row.lane; i < row.n; i += RK_LANES)
        f(i);
}

/* The largest element (-inf of none); NaN are passed over; +0 of zeros. */
template <class T> RK_INLINE T rk__row_top(const rk__row &row, const T *x)
{
    T top = rk__lane_chain(row.lane, 0, row.n, (T)-INFINITY, [=](T best, int64_t i) {
        T v = x[i];
        return v > best ? v : best;
    });
#pragma unroll
    for (int h = RK_LANES / 2; h > 0; h /= 2) {
        T other = __shfl_xor_sync(0xffffffffu, top, h, RK_LANES);
        top = other > top ? other : top;
    }
    return top + (T)0;
}

#endif
