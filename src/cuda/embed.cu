/* Rows by index, and gather. Numeric contract: a gradient is, for each row of the table, the sum of its terms
 * in the order of r; with segments, a sum of each, added in their tree (core/order.h). No atomics: a first
 * launch links the terms of each row into a list, in order, and a second walks the lists. */
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"

namespace
{

enum { BLOCK = 256 };

template <class T>
__global__ void __launch_bounds__(BLOCK)
    take_kernel(int64_t n, int64_t cols, rk__divider by_cols, const T *table, const int64_t *index, T *y)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        int64_t c, r = rk__split(i, by_cols, &c);
        y[i] = table[index[r] * cols + c];
    }
}

template <class T>
rk_status take_rows(rk_dev *dev, int64_t rows, int64_t cols, const void *table, const int64_t *index, void *y)
{
    const int64_t n = rows * cols;
    if (n == 0)
        return RK_OK;
    RK_LAUNCH((take_kernel<T>), rk__cuda_grid(dev, n, BLOCK), BLOCK, 0, dev->stream, n, cols,
              rk__divider_of(cols), (const T *)table, index, (T *)y);
    return rk__cuda_launched(dev);
}

/* The terms of a table's rows as lists: first[t] is the first r with index[r] = t, next[r] the one after r;
 * -1: none. */
struct lists {
    int64_t table_rows, rows;
    const int64_t *index;
    int64_t *first, *next;
};

__global__ void __launch_bounds__(BLOCK) clear_lists_kernel(lists l)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < l.table_rows + l.rows; i += step)
        l.first[i] = -1; /* next lies behind first */
}

/* Each term looks for the term before it: it alone may write that one's `next`, or else its row's `first`. A
 * block passes over the indices before its own from the last to the first, through shared memory. */
__global__ void __launch_bounds__(BLOCK) link_kernel(lists l)
{
    RK_SHARED(int64_t, before, [BLOCK]);
    const int64_t blocks = (l.rows + BLOCK - 1) / BLOCK;
    for (int64_t b = blockIdx.x; b < blocks; b += gridDim.x) {
        const int64_t r = b * BLOCK + threadIdx.x, row = r < l.rows ? l.index[r] : -1;
        const bool is_row = row >= 0 && row < l.table_rows;
        int64_t found = -1;
        for (int64_t piece = b; piece >= 0; piece--) {
            const int64_t from = piece * BLOCK, mine = from + threadIdx.x;
            before[threadIdx.x] = mine < l.rows ? l.index[mine] : -1;
            __syncthreads();
            const int end = is_row && found < 0 ? (piece == b ? (int)threadIdx.x : (int)BLOCK) : 0;
            for (int i = end - 1; i >= 0; i--)
                if (before[i] == row) {
                    found = from + i;
                    break;
                }
            __syncthreads();
        }
        if (found >= 0)
            l.next[found] = r;
        else if (is_row)
            l.first[row] = r;
    }
}

/* The sum of one row's list in one column. An empty segment adds nothing: no sum is -0. */
template <class T>
__device__ __forceinline__ T list_sum(const lists &l, const rk_order &order, int64_t r, int64_t cols,
                                      const T *dy, T begin)
{
    rk__tree<T> tree;
    tree.begin();
    T acc = begin, sum = 0;
    for (int s = 0; s < order.segments; s++) {
        int64_t lo, hi;
        rk__leaf_terms(l.rows, order, s, &lo, &hi);
        for (; r >= 0 && r < hi; r = l.next[r])
            acc += dy[r * cols];
        sum = tree.add(acc);
        acc = 0;
    }
    return sum;
}

template <class T>
__global__ void __launch_bounds__(BLOCK)
    take_grad_kernel(lists l, rk_order order, int64_t cols, rk__divider by_cols, const T *dy, T *dtable)
{
    const int64_t n = l.table_rows * cols, step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        int64_t c, t = rk__split(i, by_cols, &c), r = l.first[t];
        if (r < 0) {
            if (order.acc == RK_ACC_SET)
                dtable[i] = 0;
            continue;
        }
        const T old = order.acc == RK_ACC_SET ? (T)0 : dtable[i];
        if (order.acc == RK_ACC_CHAIN)
            dtable[i] = list_sum(l, order, r, cols, dy + c, old);
        else
            dtable[i] = old + list_sum(l, order, r, cols, dy + c, (T)0);
    }
}

template <class T>
rk_status take_rows_grad(rk_dev *dev, int64_t table_rows, int64_t rows, int64_t cols, rk_order order,
                         const void *dy, const int64_t *index, void *dtable)
{
    if (table_rows == 0 || cols == 0)
        return RK_OK;
    int64_t *first = (int64_t *)rk__cuda_work(dev, 0, (size_t)(table_rows + rows) * sizeof(int64_t));
    if (!first)
        return RK_ENOMEM;
    const lists l = { table_rows, rows, index, first, first + table_rows };
    RK_LAUNCH(clear_lists_kernel, rk__cuda_grid(dev, table_rows + rows, BLOCK), BLOCK, 0, dev->stream, l);
    if (rows > 0)
        RK_LAUNCH(link_kernel, rk__cuda_grid(dev, rows, BLOCK), BLOCK, 0, dev->stream, l);
    RK_LAUNCH((take_grad_kernel<T>), rk__cuda_grid(dev, table_rows * cols, BLOCK), BLOCK, 0, dev->stream, l,
              rk__order_or_plain(order), cols, rk__divider_of(cols), (const T *)dy, (T *)dtable);
    return rk__cuda_launched(dev);
}

/* ---- gather: x (outer, n, inner), index and y (outer, m, inner) ---- */

struct gathered {
    int64_t outer, n, m, inner;
    rk__divider by_inner, by_m;
    const int64_t *index;
};

template <class T> __global__ void __launch_bounds__(BLOCK) gather_kernel(gathered g, const T *x, T *y)
{
    const int64_t all = g.outer * g.m * g.inner, step = (int64_t)gridDim.x * BLOCK;
    for (int64_t at = (int64_t)blockIdx.x * BLOCK + threadIdx.x; at < all; at += step) {
        int64_t i, k, rest = rk__split(at, g.by_inner, &i), o = rk__split(rest, g.by_m, &k);
        y[at] = x[(o * g.n + g.index[at]) * g.inner + i];
    }
}

/* dx is 0: each thread adds the terms of one (outer, inner), in order. */
template <class T> __global__ void __launch_bounds__(BLOCK) gather_grad_kernel(gathered g, const T *dy, T *dx)
{
    const int64_t all = g.outer * g.inner, step = (int64_t)gridDim.x * BLOCK;
    for (int64_t e = (int64_t)blockIdx.x * BLOCK + threadIdx.x; e < all; e += step) {
        int64_t i, o = rk__split(e, g.by_inner, &i);
#pragma unroll 1
        for (int64_t k = 0; k < g.m; k++) {
            const int64_t at = (o * g.m + k) * g.inner + i;
            dx[(o * g.n + g.index[at]) * g.inner + i] += dy[at];
        }
    }
}

template <class T> rk_status gather(rk_dev *dev, const gathered &g, const void *x, void *y)
{
    const int64_t all = g.outer * g.m * g.inner;
    if (all == 0)
        return RK_OK;
    RK_LAUNCH((gather_kernel<T>), rk__cuda_grid(dev, all, BLOCK), BLOCK, 0, dev->stream, g, (const T *)x,
              (T *)y);
    return rk__cuda_launched(dev);
}

template <class T> rk_status gather_grad(rk_dev *dev, const gathered &g, const void *dy, void *dx)
{
    const int64_t all = g.outer * g.inner;
    if (all * g.n == 0)
        return RK_OK;
    cudaError_t e = cudaMemsetAsync(dx, 0, (size_t)(all * g.n) * sizeof(T), dev->stream);
    if (e != cudaSuccess || g.m == 0)
        return rk__cuda_status(dev, e);
    RK_LAUNCH((gather_grad_kernel<T>), rk__cuda_grid(dev, all, BLOCK), BLOCK, 0, dev->stream, g,
              (const T *)dy, (T *)dx);
    return rk__cuda_launched(dev);
}

gathered gathered_of(int64_t outer, int64_t n, int64_t m, int64_t inner, const int64_t *index)
{
    return gathered{ outer, n, m, inner, rk__divider_of(inner), rk__divider_of(m), index };
}

} // namespace

#define ENTRIES(t, T)                                                                                       \
    extern "C" rk_status rk__cuda_##t##_take_rows(rk_dev *dev, int64_t rows, int64_t cols,                  \
                                                  const void *table, const int64_t *index, void *y)         \
    {                                                                                                       \
        return take_rows<T>(dev, rows, cols, table, index, y);                                              \
    }                                                                                                       \
    extern "C" rk_status rk__cuda_##t##_take_rows_grad(rk_dev *dev, int64_t table_rows, int64_t rows,       \
                                                       int64_t cols, rk_order order, const void *dy,        \
                                                       const int64_t *index, void *dtable)                  \
    {                                                                                                       \
        return take_rows_grad<T>(dev, table_rows, rows, cols, order, dy, index, dtable);                    \
    }                                                                                                       \
    extern "C" rk_status rk__cuda_##t##_gather(rk_dev *dev, int64_t outer, int64_t n, int64_t m,            \
                                               int64_t inner, const void *x, const int64_t *index, void *y) \
    {                                                                                                       \
        return gather<T>(dev, gathered_of(outer, n, m, inner, index), x, y);                                \
    }                                                                                                       \
    extern "C" rk_status rk__cuda_##t##_gather_grad(rk_dev *dev, int64_t outer, int64_t n, int64_t m,       \
                                                    int64_t inner, const void *dy, const int64_t *index,    \
                                                    void *dx)                                               \
    {                                                                                                       \
        return gather_grad<T>(dev, gathered_of(outer, n, m, inner, index), dy, dx);                         \
    }

ENTRIES(f32, float)
ENTRIES(f64, double)
