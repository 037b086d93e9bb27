/* Rows (rows, cols): a row's sum goes by the 16 lanes of core/order.h, whoever computes its terms. Two ways
 * to walk a row, with the same interface and the same bits: rk__lanes_row   16 neighbouring threads a row,
 * each a lane; a block has 16 rows rk__block_row   a block a row, for few and long ones: all threads compute
 * terms, the lanes of one warp add them A kernel over ROW begins
 *
 *   RK__EACH_ROW(ROW, rows, r) {
 *       const ROW row(rows, cols, r);
 *       T sum = row.template sum<T>(0, row.n, [=](int64_t i) { return x[r * cols + i]; }, rk__plus<T>());
 *
 * and takes every step of it in all threads: those of a row behind the last have no elements. */
#ifndef RK_CUDA_ROWS_CUH
#define RK_CUDA_ROWS_CUH

#include "core/kernels.h"
#include "core/order.h"
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"
#include "cuda/vec.cuh"

enum {
    RK__ROW_BLOCK = 256,
    RK__BLOCK_ROWS = RK__ROW_BLOCK / RK_LANES,
    RK__WARP_ROWS = 32 / RK_LANES,
    RK__LONG_ROW = 1024, /* from which on a row may have a block */
    RK__ROW_TILE = 8192, /* bytes of terms between two barriers of a block's row: at least 16 a thread's */
};

#define RK__EACH_ROW(ROW, rows, r) for (int64_t r = ROW::begin(); ROW::more(r, rows); r += ROW::step())

/* Two sums at once. */
template <class T> struct rk__two {
    T a, b;
};

template <class T> struct rk__plus {
    __device__ __forceinline__ T operator()(T acc, T term) const
    {
        return acc + term;
    }
};

/* Products in fused multiply-adds. */
template <class T> struct rk__dot {
    __device__ __forceinline__ T operator()(T acc, rk__two<T> term) const
    {
        return v_fma(term.a, term.b, acc);
    }
};

/* The sum of the lanes by halving, in all of them. Never -0, which a sum of products that vanish could be on
 * some vector widths and not on others. */
template <class T> RK_INLINE T rk__row_total(T v)
{
#pragma unroll
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        v += __shfl_xor_sync(0xffffffffu, v, h, RK_LANES);
    return v + (T)0;
}

template <class T> RK_INLINE rk__two<T> rk__row_total(rk__two<T> v)
{
    const T a = rk__row_total(v.a), b = rk__row_total(v.b);
    return { a, b };
}

/* The largest of `lanes` neighbouring threads' values. */
template <class T> RK_INLINE T rk__lanes_top(T top, int lanes)
{
    for (int h = lanes / 2; h > 0; h /= 2) {
        const T other = __shfl_xor_sync(0xffffffffu, top, h, lanes);
        top = other > top ? other : top;
    }
    return top;
}

struct rk__lanes_row {
    int64_t n; /* elements: 0 if there is no such row */
    int lane;
    bool first; /* this thread writes what there is one of */

    __device__ __forceinline__ rk__lanes_row(int64_t rows, int64_t cols, int64_t r)
        : n(r < rows ? cols : 0), lane((int)threadIdx.x % RK_LANES), first(r < rows && lane == 0)
    {
    }

    static __device__ __forceinline__ int64_t begin()
    {
        return (int64_t)blockIdx.x * RK__BLOCK_ROWS + threadIdx.x / RK_LANES;
    }

    /* The rows of a warp begin and end together, so that shuffles find all lanes. */
    static __device__ __forceinline__ bool more(int64_t r, int64_t rows)
    {
        return r / RK__WARP_ROWS * RK__WARP_ROWS < rows;
    }

    static __device__ __forceinline__ int64_t step()
    {
        return (int64_t)gridDim.x * RK__BLOCK_ROWS;
    }

    /* Each lane's chain over elements [lo, hi), acc = combine(acc, value(i)) from 0, and their total. */
    template <class A, class V, class C>
    __device__ __forceinline__ A sum(int64_t lo, int64_t hi, V value, C combine) const
    {
        A acc = {};
#pragma unroll 4
        for (int64_t i = lo + lane; i < hi; i += RK_LANES)
            acc = combine(acc, value(i));
        return rk__row_total(acc);
    }

    /* The largest element (-inf of none); NaN are passed over; +0 of zeros. */
    template <class T> __device__ __forceinline__ T top(const T *x) const
    {
        T best = (T)-INFINITY;
#pragma unroll 4
        for (int64_t i = lane; i < n; i += RK_LANES)
            best = x[i] > best ? x[i] : best;
        return rk__lanes_top(best, RK_LANES) + (T)0;
    }

    template <class F> __device__ __forceinline__ void each(F f) const
    {
#pragma unroll 4
        for (int64_t i = lane; i < n; i += RK_LANES)
            f(i);
    }
};

/* Two tiles of terms, and a result for all threads. */
RK_INLINE rk__pack<double> *rk__row_scratch()
{
    RK_SHARED(rk__pack<double>, scratch, [2 * RK__ROW_TILE / 16 + 1]);
    return scratch;
}

struct rk__block_row {
    int64_t n;
    bool first;

    __device__ __forceinline__ rk__block_row(int64_t, int64_t cols, int64_t)
        : n(cols), first(threadIdx.x == 0)
    {
    }

    static __device__ __forceinline__ int64_t begin()
    {
        return blockIdx.x;
    }

    static __device__ __forceinline__ bool more(int64_t r, int64_t rows)
    {
        return r < rows;
    }

    static __device__ __forceinline__ int64_t step()
    {
        return gridDim.x;
    }

    template <class A, class V, class C>
    __device__ __forceinline__ A sum(int64_t lo, int64_t hi, V value, C combine) const
    {
        typedef decltype(value((int64_t)0)) term;
        enum { TILE = RK__ROW_TILE / sizeof(term) };
        term *tile = reinterpret_cast<term *>(rk__row_scratch());
        A *result = reinterpret_cast<A *>(rk__row_scratch() + 2 * RK__ROW_TILE / 16), acc = {};
        int at = 0; /* one tile is filled while the lanes add the other */
        for (int64_t base = lo; base < hi; base += TILE, at = TILE - at) {
            const int end = hi - base < TILE ? (int)(hi - base) : (int)TILE;
            for (int k = (int)threadIdx.x; k < end; k += RK__ROW_BLOCK)
                tile[at + k] = value(base + k);
            __syncthreads();
            if (threadIdx.x < 32) { /* both halves of the warp, so that shuffles find all lanes */
#pragma unroll 8
                for (int k = (int)threadIdx.x % RK_LANES; k < end; k += RK_LANES)
                    acc = combine(acc, tile[at + k]);
            }
        }
        if (threadIdx.x < 32)
            acc = rk__row_total(acc);
        if (threadIdx.x == 0)
            *result = acc;
        __syncthreads();
        acc = *result;
        __syncthreads();
        return acc;
    }

    template <class T> __device__ __forceinline__ T top(const T *x) const
    {
        T *tops = reinterpret_cast<T *>(rk__row_scratch()), best = (T)-INFINITY;
#pragma unroll 4
        for (int64_t i = threadIdx.x; i < n; i += RK__ROW_BLOCK)
            best = x[i] > best ? x[i] : best;
        best = rk__lanes_top(best, 32);
        if (threadIdx.x % 32 == 0)
            tops[threadIdx.x / 32] = best;
        __syncthreads();
        for (int w = 0; w < RK__ROW_BLOCK / 32; w++)
            best = tops[w] > best ? tops[w] : best;
        __syncthreads();
        return best + (T)0;
    }

    /* The thread that computed a term of a sum from 0 on has that element. */
    template <class F> __device__ __forceinline__ void each(F f) const
    {
#pragma unroll 4
        for (int64_t i = threadIdx.x; i < n; i += RK__ROW_BLOCK)
            f(i);
    }
};

/* Rows of 16 threads each would leave most of the device idle. */
static inline bool rk__rows_long(const rk_dev *dev, int64_t rows, int64_t cols)
{
    return cols >= RK__LONG_ROW && rows < (int64_t)dev->sms * (1024 / RK_LANES);
}

/* kernel<T, ROW>(rows, cols, ..); rows is not 0. */
#define RK__LAUNCH_ROWS(kernel, T, dev, rows, cols, ...)                                                   \
    do {                                                                                                   \
        if (rk__rows_long(dev, rows, cols))                                                                \
            RK_LAUNCH((kernel<T, rk__block_row>), rk__cuda_grid(dev, (rows)*RK__ROW_BLOCK, RK__ROW_BLOCK), \
                      RK__ROW_BLOCK, 0, (dev)->stream, rows, cols, __VA_ARGS__);                           \
        else                                                                                               \
            RK_LAUNCH((kernel<T, rk__lanes_row>), rk__cuda_grid(dev, (rows)*RK_LANES, RK__ROW_BLOCK),      \
                      RK__ROW_BLOCK, 0, (dev)->stream, rows, cols, __VA_ARGS__);                           \
    } while (0)

#endif
