/* Reductions, in the order of core/order.h: a column's sum is a chain a segment, a row's sum goes by lanes,
 * sums of squares by chunks in double. In f32 the bits are the CPU's. */
#include "core/watch.h"
#include "cuda/columns.cuh"
#include "cuda/entry.cuh"
#include "cuda/pieces.cuh"
#include "cuda/rows.cuh"

/* ---- sums ---- */

template <class T, class ROW>
static __global__ void row_sum_kernel(int64_t rows, int64_t cols, const T *__restrict__ x, T *__restrict__ y)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *from = x + r * cols;
        const T sum = row.template sum<T>(
            0, row.n, [=](int64_t i) { return from[i]; }, rk__plus<T>());
        if (row.first)
            y[r] = sum;
    }
}

template <class T>
static rk_status reduce_sum(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, rk_order order,
                            const void *x, void *y)
{
    if (inner != 1 || order.segments > 1 || order.acc != RK_ACC_SET)
        return rk__column_sums<T>(dev, rk__column_plain<T>{ (const T *)x }, outer, n, inner, order, y);
    if (outer == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(row_sum_kernel, T, dev, outer, n, (const T *)x, (T *)y);
    return rk__cuda_launched(dev);
}

/* ---- extremes: the first of equals; a NaN beats every number, so that it is seen ---- */

/* The best of a thread so far. at: n if it saw none. */
template <class T> struct extreme {
    T value; /* times the sign */
    int64_t at;
};

template <class T> RK_INLINE bool beats(const extreme<T> &a, const extreme<T> &b)
{
    const bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    if (a_nan || b_nan)
        return a_nan && (!b_nan || a.at < b.at);
    return a.value > b.value || (a.value == b.value && a.at < b.at);
}

/* Elements lane, lane + lanes, .. of n, `step` apart. */
template <class T>
RK_INLINE extreme<T> best_of(const T *x, int64_t n, int64_t step, int lane, int lanes, T sign)
{
    extreme<T> best = { (T)-INFINITY, n };
#pragma unroll 4
    for (int64_t i = lane; i < n; i += lanes) {
        const extreme<T> e = { sign * x[i * step], i };
        if (beats(e, best))
            best = e;
    }
    return best;
}

/* A warp a row. y or index may be NULL. */
template <class T>
static __global__ void row_extreme_kernel(int64_t rows, int64_t n, T sign, const T *x, T *y, int64_t *index)
{
    const int lane = (int)threadIdx.x % 32;
    const int64_t warps = (int64_t)gridDim.x * blockDim.x / 32;
    for (int64_t r = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32; r < rows; r += warps) {
        extreme<T> best = best_of(x + r * n, n, 1, lane, 32, sign);
#pragma unroll
        for (int h = 16; h > 0; h /= 2) {
            const extreme<T> other = { __shfl_xor_sync(0xffffffffu, best.value, h),
                                       __shfl_xor_sync(0xffffffffu, best.at, h) };
            if (beats(other, best))
                best = other;
        }
        if (lane == 0 && y)
            y[r] = x[r * n + best.at];
        if (lane == 0 && index)
            index[r] = best.at;
    }
}

/* A thread a column. */
template <class T>
static __global__ void column_extreme_kernel(int64_t columns, int64_t n, int64_t inner, T sign, const T *x,
                                             T *y, int64_t *index)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t c = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; c < columns; c += step) {
        const T *from = x + c / inner * n * inner + c % inner;
        const extreme<T> best = best_of(from, n, inner, 0, 1, sign);
        if (y)
            y[c] = from[best.at * inner];
        if (index)
            index[c] = best.at;
    }
}

template <class T>
static rk_status run_extreme(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, T sign, const void *x,
                             void *y, int64_t *index)
{
    const int64_t columns = outer * inner;
    if (columns == 0 || n == 0)
        return RK_OK;
    if (inner == 1)
        RK_LAUNCH((row_extreme_kernel<T>), rk__cuda_grid(dev, columns * 32, RK__ROW_BLOCK), RK__ROW_BLOCK, 0,
                  dev->stream, columns, n, sign, (const T *)x, (T *)y, index);
    else
        RK_LAUNCH((column_extreme_kernel<T>), rk__cuda_grid(dev, columns, RK__ROW_BLOCK), RK__ROW_BLOCK, 0,
                  dev->stream, columns, n, inner, sign, (const T *)x, (T *)y, index);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status reduce_max(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                            int64_t *index)
{
    return run_extreme(dev, outer, n, inner, (T)1, x, y, index);
}

template <class T>
static rk_status reduce_min(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                            int64_t *index)
{
    return run_extreme(dev, outer, n, inner, (T)-1, x, y, index);
}

/* ---- sums of squares, in 16 lanes of doubles: the square of a float is exact in one ---- */

/* Row r is x[r * ld .. r * ld + cols), cut at `total`. sums (rows); odd (rows), if not NULL: how many of a
 * row's elements are not finite. */
template <class T, class ROW>
static __global__ void squares_kernel(int64_t rows, int64_t cols, int64_t ld, int64_t total, const T *x,
                                      double *sums, double *odd)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const int64_t left = total - r * ld;
        const ROW row(rows, left < cols ? left : cols, r);
        const T *from = x + r * ld;
        const auto value = [=](int64_t i) { return from[i]; };
        const auto add = [=](rk__two<double> acc, T x) {
            const double v = (double)x;
            acc.a = acc.a + v * v;
            if (odd && !(fabs(v) < (double)INFINITY))
                acc.b = acc.b + 1;
            return acc;
        };
        const rk__two<double> sum = row.template sum<rk__two<double>>(0, row.n, value, add);
        if (row.first) {
            sums[r] = sum.a;
            if (odd)
                odd[r] = sum.b;
        }
    }
}

template <class T> static rk_status sum_squares(rk_dev *dev, int64_t n, const void *x, double *out, bool *bad)
{
    *out = 0;
    *bad = false;
    if (n == 0)
        return RK_OK;
    const int64_t chunks = (n + RK_CHUNK - 1) / RK_CHUNK;
    const size_t bytes = 2 * (size_t)chunks * sizeof(double);
    double *part = (double *)rk__cuda_work(dev, 0, bytes), *host = (double *)rk__cuda_host(dev, bytes);
    if (!part || !host)
        return rk__cuda_denied(dev);
    RK__LAUNCH_ROWS(squares_kernel, T, dev, chunks, (int64_t)RK_CHUNK, (int64_t)RK_CHUNK, n, (const T *)x,
                    part, part + chunks);
    rk_status st = rk__cuda_launched(dev);
    if (!st)
        st = rk__cuda_read(dev, host, part, bytes);
    if (st)
        return st;
    *out = rk_order_tree(host, 0, chunks);
    *bad = rk_order_tree(host + chunks, 0, chunks) > 0;
    return RK_OK;
}

/* ---- of all gradients ---- */

/* Row r of all pieces. */
template <class T, class ROW, class TABLE>
static __global__ void piece_squares_kernel(int64_t rows, TABLE table, double *sums)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const int i = rk__piece_of(table, r < rows ? r : rows - 1);
        const rk_square_rows p = table.row[i].p;
        const int64_t at = r - table.row[i].first, left = p.x ? p.n - at * p.ld : 0;
        const ROW row(rows, left < p.cols ? left : p.cols, r);
        const T *from = (const T *)p.x + at * p.ld;
        const double sum = row.template sum<double>(
            0, row.n, [=](int64_t k) { return from[k]; },
            [](double acc, T x) { return acc + (double)x * (double)x; });
        if (row.first)
            sums[p.first + at * p.step] = sum;
    }
}

template <class T>
static rk_status squares(rk_dev *dev, int pieces, const rk_square_rows *piece, double *sums)
{
    int64_t longest = 0;
    for (int i = 0; i < pieces; i++)
        longest = piece[i].cols > longest ? piece[i].cols : longest;
    return rk__with_pieces(dev, pieces, piece, 1, [=](auto table, int64_t rows) {
        if (rows == 0)
            return RK_OK;
        if (rk__rows_long(dev, rows, longest))
            RK_LAUNCH((piece_squares_kernel<T, rk__block_row, decltype(table)>),
                      rk__cuda_grid(dev, rows * RK__ROW_BLOCK, RK__ROW_BLOCK), RK__ROW_BLOCK, 0, dev->stream, rows,
                      table, sums);
        else
            RK_LAUNCH((piece_squares_kernel<T, rk__lanes_row, decltype(table)>),
                      rk__cuda_grid(dev, rows * RK_LANES, RK__ROW_BLOCK), RK__ROW_BLOCK, 0, dev->stream, rows, table,
                      sums);
        return rk__cuda_launched(dev);
    });
}

enum { JUDGES = 256 };

/* The tree over n sums, +0 of none: each thread a subtree of as many leaves, some of them of nothing, then
 * halves. In thread 0. */
RK_INLINE double block_tree(const double *sums, const int64_t *order, int64_t first, int64_t n, double *half)
{
    rk__tree<double, 20> tree;
    int64_t lo, hi, each = 1;
    rk_order_leaf(n, JUDGES, (int)threadIdx.x, &lo, &hi);
    while (each < hi - lo)
        each *= 2;
    tree.begin();
    for (int64_t k = 0; k < each; k++) {
        int64_t from, to;
        rk_order_leaf(hi - lo, (int)each, (int)k, &from, &to);
        from += first + lo;
        to += first + lo;
        half[threadIdx.x] = tree.add(to > from ? sums[order ? order[from] : from] : 0);
    }
    for (int leaves = JUDGES / 2; leaves > 0; leaves /= 2) {
        double sum = 0;
        __syncthreads();
        if ((int)threadIdx.x < leaves)
            sum = half[2 * threadIdx.x] + half[2 * threadIdx.x + 1];
        __syncthreads();
        if ((int)threadIdx.x < leaves)
            half[threadIdx.x] = sum;
    }
    return threadIdx.x == 0 ? half[0] : 0;
}

/* A block a piece; the last one to end judges. */
template <class T> static __global__ void judge_kernel(rk_judge_args a)
{
    RK_SHARED(double, half, [JUDGES]);
    RK_SHARED(int, last, [1]);
    const int i = (int)blockIdx.x;
    const int64_t from = i < a.pieces ? a.bound[i] : 0, to = i < a.pieces ? a.bound[i + 1] : 0;
    const double sum = block_tree(a.sums, a.order, from, to - from, half);
    if (threadIdx.x == 0) {
        if (i < a.pieces)
            a.part[i] = sum;
        __threadfence();
        last[0] = a.watch && atomicAdd((unsigned long long *)&a.watch->ticket, 1ull) + 1 == gridDim.x;
        __threadfence();
    }
    __syncthreads();
    if (!last[0])
        return;
    rk_judged judged = { 0, RK_VERDICT_GOOD };
    for (int at = 0; at < a.pieces; at += JUDGES) {
        const int n = a.pieces - at < JUDGES ? a.pieces - at : (int)JUDGES;
        __syncthreads();
        if ((int)threadIdx.x < n)
            half[threadIdx.x] = a.part[at + (int)threadIdx.x];
        __syncthreads();
        if (threadIdx.x == 0)
            rk_judged_add(&judged, at, n, half);
    }
    if (threadIdx.x == 0) {
        rk_judged_end(&judged, a.loss ? (double)*(const T *)a.loss : 0, &a, a.watch);
        a.watch->ticket = 0;
    }
}

template <class T> static rk_status judge(rk_dev *dev, const rk_judge_args *a)
{
    RK_LAUNCH((judge_kernel<T>), (unsigned)(a->pieces ? a->pieces : 1), JUDGES, 0, dev->stream, *a);
    return rk__cuda_launched(dev);
}

RK__ENTRIES(reduce_sum,
            (rk_dev * dev, int64_t outer, int64_t n, int64_t inner, rk_order order, const void *x, void *y),
            (dev, outer, n, inner, order, x, y))
RK__ENTRIES(reduce_max,
            (rk_dev * dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y, int64_t *index),
            (dev, outer, n, inner, x, y, index))
RK__ENTRIES(reduce_min,
            (rk_dev * dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y, int64_t *index),
            (dev, outer, n, inner, x, y, index))
RK__ENTRIES(sum_squares, (rk_dev * dev, int64_t n, const void *x, double *out, bool *bad),
            (dev, n, x, out, bad))
RK__ENTRIES(squares, (rk_dev * dev, int pieces, const rk_square_rows *piece, double *sums),
            (dev, pieces, piece, sums))
RK__ENTRIES(judge, (rk_dev * dev, const rk_judge_args *a), (dev, a))
