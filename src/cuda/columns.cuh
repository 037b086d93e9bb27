/* Sums down the columns of x (outer, n, inner): the canonical sum over n as an order says. A column's leaves
 * are chains of one thread each or, if there are many, of a few threads with neighbouring subtrees; a warp
 * has 32 neighbouring columns.
 *
 * What is summed is a type F, plain data:
 *   F::term                                        what a term is made of, as loaded
 *   term load(int64_t at, int64_t row, int64_t column)   at: the place in x
 *   T add(T acc, term t) */
#ifndef RK_CUDA_COLUMNS_CUH
#define RK_CUDA_COLUMNS_CUH

#include "core/kernels.h"
#include "core/order.h"
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"
#include "cuda/vec.cuh"

enum {
    RK__COLUMN_WIDTH = 32,
    RK__COLUMN_SUBTREES = 16, /* most of a block */
    RK__COLUMN_AHEAD = 8      /* terms that are under way at once */
};

/* Rows [lo, hi) of a column, in one chain from `acc`. */
template <class T, class F>
RK_INLINE T rk__column_chain(const F &f, int64_t at, int64_t inner, int64_t column, int64_t lo, int64_t hi,
                             T acc)
{
    int64_t row = lo;
    for (; row + RK__COLUMN_AHEAD <= hi; row += RK__COLUMN_AHEAD) {
        typename F::term t[RK__COLUMN_AHEAD];
#pragma unroll
        for (int k = 0; k < RK__COLUMN_AHEAD; k++)
            t[k] = f.load(at + (row + k) * inner, row + k, column);
#pragma unroll
        for (int k = 0; k < RK__COLUMN_AHEAD; k++)
            acc = f.add(acc, t[k]);
    }
    for (; row < hi; row++)
        acc = f.add(acc, f.load(at + row * inner, row, column));
    return acc;
}

/* One subtree of a column: `leaves` leaves from leaf `first` on. */
template <class T, class F>
RK_INLINE T rk__column_subtree(const F &f, int64_t at, int64_t n, int64_t inner, int64_t column,
                               rk_order order, int first, int leaves, T from)
{
    rk__tree<T> tree;
    tree.begin();
    T sum = 0;
    for (int s = first; s < first + leaves; s++) {
        int64_t lo, hi;
        rk__leaf_terms(n, order, s, &lo, &hi);
        sum = tree.add(rk__column_chain(f, at, inner, column, lo, hi, from));
    }
    return sum;
}

/* Bounds are named, since a ptxas that knows of none may use more registers than 512 threads have, whose launch fails;
 * and one block, since it spills to fit two. */
template <class T, class F>
static __global__ void __launch_bounds__(RK__COLUMN_WIDTH *RK__COLUMN_SUBTREES, 1)
    rk__column_kernel(F f, int64_t columns, int64_t n, int64_t inner, rk_order order, T *out)
{
    RK_SHARED(T, part, [RK__COLUMN_SUBTREES][RK__COLUMN_WIDTH]);
    const int subtrees = (int)blockDim.y, leaves = order.segments / subtrees;
    for (int64_t tile = blockIdx.x; tile * RK__COLUMN_WIDTH < columns; tile += gridDim.x) {
        const int64_t c = tile * RK__COLUMN_WIDTH + threadIdx.x, i = c % inner;
        T sum = 0;
        if (c < columns) {
            const T from = order.acc == RK_ACC_CHAIN ? out[c] : (T)0;
            sum = rk__column_subtree(f, c / inner * n * inner + i, n, inner, i, order,
                                     (int)threadIdx.y * leaves, leaves, from);
        }
        if (subtrees > 1) {
            part[threadIdx.y][threadIdx.x] = sum;
            for (int h = 1; h < subtrees; h *= 2) {
                __syncthreads();
                if (threadIdx.y % (unsigned)(2 * h) == 0)
                    part[threadIdx.y][threadIdx.x] += part[threadIdx.y + h][threadIdx.x];
            }
            sum = part[threadIdx.y][threadIdx.x];
            __syncthreads();
        }
        if (threadIdx.y == 0 && c < columns)
            out[c] = order.acc == RK_ACC_ADD ? out[c] + sum : sum;
    }
}

/* out (outer, inner), op= the sums. */
template <class T, class F>
static rk_status rk__column_sums(rk_dev *dev, F f, int64_t outer, int64_t n, int64_t inner, rk_order order,
                                 void *out)
{
    const int64_t columns = outer * inner;
    if (columns == 0)
        return RK_OK;
    order = rk__order_or_plain(order);
    const dim3 block(RK__COLUMN_WIDTH,
                     order.segments < RK__COLUMN_SUBTREES ? order.segments : RK__COLUMN_SUBTREES);
    RK_LAUNCH((rk__column_kernel<T, F>), rk__cuda_grid(dev, columns, RK__COLUMN_WIDTH), block, 0, dev->stream,
              f, columns, n, inner, order, (T *)out);
    return rk__cuda_launched(dev);
}

/* x itself. */
template <class T> struct rk__column_plain {
    typedef T term;
    const T *x;

    __device__ __forceinline__ term load(int64_t at, int64_t, int64_t) const
    {
        return x[at];
    }

    __device__ __forceinline__ T add(T acc, term t) const
    {
        return acc + t;
    }
};

#endif
