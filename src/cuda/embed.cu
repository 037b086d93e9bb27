/* Rows by index, and gather. Numeric contract: a gradient is, for each row of the table, the sum of its terms
 * in the order of r; with segments, a sum of each, added in their tree (core/order.h). No atomics: the terms
 * are sorted by row, and each element of the table walks those of its row. */
#include "cuda/ordered.cuh"
#include "cuda/sorted.cuh"

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

/* The terms of a table's rows, sorted: those of row t are from first[t] on (-1: there are none). */
struct terms {
    int64_t rows;
    const int64_t *first;
    const rk__place *sorted;
};

/* The sum of row t's terms, of which the first is at i, in one column. An empty segment adds nothing: no sum
 * is -0. */
template <class T>
__device__ __forceinline__ T row_sum(const terms &l, const rk_order &order, int64_t t, int64_t i,
                                     int64_t cols, const T *dy, T begin)
{
    rk__tree<T> tree;
    tree.begin();
    T acc = begin, sum = 0;
    for (int s = 0; s < order.segments; s++) {
        int64_t lo, hi;
        rk__leaf_terms(l.rows, order, s, &lo, &hi);
        for (; i < l.rows && l.sorted[i].row == t && l.sorted[i].at < hi; i++)
            acc += dy[l.sorted[i].at * cols];
        sum = tree.add(acc);
        acc = 0;
    }
    return sum;
}

template <class T>
__global__ void __launch_bounds__(BLOCK) take_grad_kernel(terms l, rk_order order, int64_t n, int64_t cols,
                                                          rk__divider by_cols, const T *dy, T *dtable)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        int64_t c, t = rk__split(i, by_cols, &c), at = l.first[t];
        if (at < 0) {
            if (order.acc == RK_ACC_SET)
                dtable[i] = 0;
            continue;
        }
        const T old = order.acc == RK_ACC_SET ? (T)0 : dtable[i];
        if (order.acc == RK_ACC_CHAIN)
            dtable[i] = row_sum(l, order, t, at, cols, dy + c, old);
        else
            dtable[i] = old + row_sum(l, order, t, at, cols, dy + c, (T)0);
    }
}

template <class T>
rk_status take_rows_grad(rk_dev *dev, int64_t table_rows, int64_t rows, int64_t cols, rk_order order,
                         const void *dy, const int64_t *index, void *dtable)
{
    if (table_rows == 0 || cols == 0)
        return RK_OK;
    int64_t *first = (int64_t *)rk__cuda_work(dev, 0, (size_t)table_rows * sizeof(int64_t));
    rk__place *places = (rk__place *)rk__cuda_work(dev, 1, 2 * (size_t)rows * sizeof(rk__place));
    if (!first || !places)
        return rk__cuda_denied(dev);
    const rk_status st = rk__cuda_set(dev, first, 0xff, (size_t)table_rows * sizeof(int64_t));
    if (st != RK_OK)
        return st;
    if (rows > 0) {
        places = rk__sort_places(dev, rows, table_rows, index, places, places + rows);
        RK_LAUNCH(rk__first_places_kernel, rk__cuda_grid(dev, rows, BLOCK), BLOCK, 0, dev->stream, rows,
                  places, first);
    }
    const terms l = { rows, first, places };
    RK_LAUNCH((take_grad_kernel<T>), rk__cuda_grid(dev, table_rows * cols, BLOCK), BLOCK, 0, dev->stream, l,
              rk__order_or_plain(order), table_rows * cols, cols, rk__divider_of(cols), (const T *)dy,
              (T *)dtable);
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
    const rk_status st = rk__cuda_set(dev, dx, 0, (size_t)(all * g.n) * sizeof(T));
    if (st != RK_OK || g.m == 0)
        return st;
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
