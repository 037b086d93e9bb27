/* The tiled product that gemm.cu and conv.cu are made of, in canonical order: a block of 16 x 16 threads has
 * a tile of 16 R x 16 R outputs, R x R a thread, in registers; the operands pass through shared memory.
 *
 *   out(i, j) = the tree over leaves of: chain over terms k of a(i, k) * b(j, k), one fused multiply-add each
 *
 * A problem P (plain data, copied to the device) says what is multiplied:
 *
 *   P::value                    float or double
 *   P::left a; P::right b;      the operands, below
 *   int64_t m, n, units, unit;  outputs; terms are units * unit, cut between units
 *   P select(int64_t item)      the item-th of independent products (its sizes are not larger than P's own)
 *   T start(i, j)               what the first chain starts from
 *   void finish(i, j, sum)      takes a finished sum
 *
 * and an operand how its elements are found:
 *
 *   line_type line(int64_t i), term(int64_t k)   what is known of a row (or column) and of a term; plain data
 *   bool padding(line, term)                     the element is 0, and in no memory
 *   const T *at(line, term)                      where it is otherwise
 *   rk_round round                               what becomes of it before it is multiplied
 *   bool by_term()                               neighbours in memory are neighbouring terms, not lines
 *
 * which is also asked of lines and terms behind the last, whose places nobody reads.
 *
 * The partial sums of a tree wait in shared memory, a level each. Where they find no room, or the tiles do
 * not fill the device, subtrees become work of their own: their sums go to device memory, and join_kernel
 * adds them. */
#ifndef RK_CUDA_TILE_CUH
#define RK_CUDA_TILE_CUH

#include "cuda/cuda.h"
#include "cuda/ordered.cuh"

enum { RK__TILE_THREADS = 256, RK__TILE_ACROSS = 16 };

/* R = 1 is for products with few outputs, R = 8 for large ones. */
template <int R> struct rk__tile_shape {
    enum {
        SIDE = RK__TILE_ACROSS * R,
        NEXT = R < 4 ? R : 4, /* neighbouring lines of a thread: one vector load each */
        DEPTH = R == 1   ? 32
                : R == 4 ? 16
                         : 8,                    /* terms of a step */
        LOADS = SIDE * DEPTH / RK__TILE_THREADS, /* elements of an operand a thread brings */
        PITCH = SIDE + 4,                        /* keeps vectors aligned and spreads columns over banks */
        OPERAND = DEPTH * PITCH,
        BUFFERS = 4 * OPERAND, /* two operands, twice: one step is multiplied while the next arrives */
        FIT = BUFFERS / (RK__TILE_ACROSS * SIDE),
        ROWS = FIT < R ? FIT : R /* rows of a thread's sums that find room there */
    };
};

struct rk__tile_plan {
    int64_t col_tiles, tiles, items, work;
    int segments, subtrees, leaves; /* leaves: of a subtree */
};

/* A thread's share of bringing an operand: neighbouring threads read neighbours in memory. */
template <class O, class T, int R> struct rk__bringer {
    typedef rk__tile_shape<R> S;
    typename O::line_type line[S::LOADS];
    T held[S::LOADS];
    unsigned there; /* bits: the line exists */

    __device__ __forceinline__ static int line_of(bool by_term, int e)
    {
        return by_term ? (int)threadIdx.x / S::DEPTH + e * (RK__TILE_THREADS / S::DEPTH)
                       : (int)threadIdx.x % S::SIDE;
    }

    __device__ __forceinline__ static int term_of(bool by_term, int e)
    {
        return by_term ? (int)threadIdx.x % S::DEPTH
                       : (int)threadIdx.x / S::SIDE + e * (RK__TILE_THREADS / S::SIDE);
    }

    __device__ __forceinline__ void begin(const O &o, int64_t first, int64_t count)
    {
        there = 0;
#pragma unroll
        for (int e = 0; e < S::LOADS; e++) {
            int64_t i = first + line_of(o.by_term(), e);
            line[e] = o.line(i);
            there |= (i < count ? 1u : 0u) << e;
        }
    }

    /* Terms [k, end) of which a step's are read. Nothing is done with them yet: what was computed of one would wait
     * for it before the next is asked for. */
    __device__ __forceinline__ void fetch(const O &o, int64_t k, int64_t end)
    {
        if (o.by_term())
            fetch_by(o, true, k, end);
        else
            fetch_by(o, false, k, end);
    }

    /* by_term is a constant: places have most of their arithmetic in common. */
    __device__ __forceinline__ void fetch_by(const O &o, bool by_term, int64_t k, int64_t end)
    {
#pragma unroll
        for (int e = 0; e < S::LOADS; e++) {
            const int64_t at = k + term_of(by_term, e);
            const auto term = o.term(at);
            const bool read = (there >> e & 1) && at < end && !o.padding(line[e], term);
            const T *from = o.at(line[e], term);
            held[e] = read ? *from : (T)0;
        }
    }

    __device__ __forceinline__ void put(const O &o, T *to)
    {
        if (o.round != RK_ROUND_NONE)
#pragma unroll
            for (int e = 0; e < S::LOADS; e++)
                held[e] = rk__rounded(o.round, held[e]);
        if (o.by_term())
            put_by(true, to);
        else
            put_by(false, to);
    }

    __device__ __forceinline__ void put_by(bool by_term, T *to) const
    {
#pragma unroll
        for (int e = 0; e < S::LOADS; e++)
            to[term_of(by_term, e) * S::PITCH + line_of(by_term, e)] = held[e];
    }
};

/* Which line of the tile is the i-th of thread `at` of 16. */
template <int R> static __device__ __forceinline__ int rk__tile_line(int at, int i)
{
    const int next = rk__tile_shape<R>::NEXT;
    return i / next * (RK__TILE_ACROSS * next) + at * next + i % next;
}

template <class T, int R>
static __device__ __forceinline__ void rk__tile_term(const T *a, const T *b, T (&sum)[R][R])
{
    const int across = (int)threadIdx.x % RK__TILE_ACROSS, down = (int)threadIdx.x / RK__TILE_ACROSS;
    T x[R], y[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        x[i] = a[rk__tile_line<R>(down, i)];
        y[i] = b[rk__tile_line<R>(across, i)];
    }
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < R; j++)
            sum[i][j] = rk__fma(x[i], y[j], sum[i][j]);
}

/* A step: `terms` of them, in order. Missing ones are not multiplied as zeros: that would lose a sum's -0. */
template <class T, int R>
static __device__ __forceinline__ void rk__tile_step(const T *a, const T *b, int terms, T (&sum)[R][R])
{
    typedef rk__tile_shape<R> S;
    if (terms == S::DEPTH) {
#pragma unroll 4
        for (int k = 0; k < S::DEPTH; k++)
            rk__tile_term<T, R>(a + k * S::PITCH, b + k * S::PITCH, sum);
        return;
    }
#pragma unroll 1
    for (int k = 0; k < terms; k++)
        rk__tile_term<T, R>(a + k * S::PITCH, b + k * S::PITCH, sum);
}

/* sum joins the stack of partial sums as leaf s; each thread has its own, so that no barrier is needed. */
template <class T, int R>
static __device__ __forceinline__ void rk__tile_join(T *stack, int s, bool last, T (&sum)[R][R])
{
    T *top = stack + (int64_t)__popc((unsigned)s) * R * R * RK__TILE_THREADS + threadIdx.x;
#pragma unroll 1
    for (int d = s; d & 1; d >>= 1) {
        top -= R * R * RK__TILE_THREADS;
#pragma unroll
        for (int i = 0; i < R * R; i++)
            sum[i / R][i % R] = top[i * RK__TILE_THREADS] + sum[i / R][i % R];
    }
    if (!last)
#pragma unroll
        for (int i = 0; i < R * R; i++)
            top[i * RK__TILE_THREADS] = sum[i / R][i % R];
}

/* Hands the tile's sums on: to the problem, or as a subtree's to device memory (subtree, item, m, n). They
 * pass through shared memory, as many rows at a time as find room, so that neighbouring threads write
 * neighbours. */
template <class P, class T, int R>
static __device__ __forceinline__ void rk__tile_finish(const P &p, const P &whole, int64_t row0, int64_t col0,
                                                       T *partial, T *shared, const T (&sum)[R][R])
{
    typedef rk__tile_shape<R> S;
    const int across = (int)threadIdx.x % RK__TILE_ACROSS, down = (int)threadIdx.x / RK__TILE_ACROSS;
#pragma unroll
    for (int first = 0; first < R; first += S::ROWS) {
#pragma unroll
        for (int i = 0; i < S::ROWS; i++)
#pragma unroll
            for (int j = 0; j < R; j++)
                shared[(i * RK__TILE_ACROSS + down) * S::SIDE + rk__tile_line<R>(across, j)] =
                    sum[first + i][j];
        __syncthreads();
#pragma unroll 1
        for (int e = (int)threadIdx.x; e < S::ROWS * RK__TILE_ACROSS * S::SIDE; e += RK__TILE_THREADS) {
            const int at = e / S::SIDE, i = first + at / RK__TILE_ACROSS;
            const int64_t row = row0 + rk__tile_line<R>(at % RK__TILE_ACROSS, i), col = col0 + e % S::SIDE;
            if (row >= p.m || col >= p.n)
                continue;
            if (partial)
                partial[row * whole.n + col] = shared[e];
            else
                p.finish(row, col, shared[e]);
        }
        __syncthreads();
    }
}

template <class P, class T, int R>
static __device__ __forceinline__ void rk__tile_start(const P &p, int64_t row0, int64_t col0, T (&sum)[R][R])
{
    const int across = (int)threadIdx.x % RK__TILE_ACROSS, down = (int)threadIdx.x / RK__TILE_ACROSS;
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < R; j++) {
            const int64_t row = row0 + rk__tile_line<R>(down, i), col = col0 + rk__tile_line<R>(across, j);
            sum[i][j] = row < p.m && col < p.n ? p.start(row, col) : (T)0;
        }
}

/* The sum of leaves [first, first + plan.leaves), from what is in sum. While one step is multiplied the next
 * one's operands arrive, across the ends of leaves too. All threads of the block; ends with a barrier. */
template <class P, class T, int R>
static __device__ __forceinline__ void rk__tile_sum(const P &p, const rk__tile_plan &plan, int first,
                                                    int64_t row0, int64_t col0, T *shared, T (&sum)[R][R])
{
    typedef rk__tile_shape<R> S;
    rk__bringer<typename P::left, T, R> a;
    rk__bringer<typename P::right, T, R> b;
    int64_t k, none, end, hi; /* this step; the last term's end; this leaf's end */
    rk_order_leaf(p.units, plan.segments, first, &k, &hi);
    rk_order_leaf(p.units, plan.segments, first + plan.leaves - 1, &none, &end);
    k *= p.unit, hi *= p.unit, end *= p.unit;
    int s = 0, buffer = 0;
    a.begin(p.a, row0, p.m);
    b.begin(p.b, col0, p.n);
    if (k < end) {
        a.fetch(p.a, k, end);
        b.fetch(p.b, k, end);
        a.put(p.a, shared);
        b.put(p.b, shared + S::OPERAND);
    }
    __syncthreads();
#pragma unroll 1
    for (;;) {
        while (k == hi) { /* leaves may be empty */
            rk__tile_join<T, R>(shared + S::BUFFERS, s, s + 1 == plan.leaves, sum);
            if (++s == plan.leaves)
                return;
#pragma unroll
            for (int i = 0; i < R * R; i++)
                sum[i / R][i % R] = 0;
            rk_order_leaf(p.units, plan.segments, first + s, &none, &hi);
            hi *= p.unit;
        }
        const int terms = hi - k < S::DEPTH ? (int)(hi - k) : (int)S::DEPTH;
        const T *now = shared + buffer * 2 * S::OPERAND;
        k += terms;
        if (k < end) {
            a.fetch(p.a, k, end);
            b.fetch(p.b, k, end);
        }
        rk__tile_step<T, R>(now, now + S::OPERAND, terms, sum);
        buffer ^= 1;
        if (k < end) {
            a.put(p.a, shared + buffer * 2 * S::OPERAND);
            b.put(p.b, shared + buffer * 2 * S::OPERAND + S::OPERAND);
        }
        __syncthreads();
    }
}

/* Blocks of a multiprocessor are named: left open, ptxas spills to fit one more. */
template <class P, int R>
static __global__ void __launch_bounds__(RK__TILE_THREADS, R == 8 ? 1 : 2)
    rk__tile_kernel(P whole, rk__tile_plan plan, typename P::value *partials)
{
    typedef typename P::value T;
    typedef rk__tile_shape<R> S;
    RK_DYN_SHARED(T, shared);
#pragma unroll 1
    for (int64_t w = blockIdx.x; w < plan.work; w += gridDim.x) {
        const int64_t tile = w % plan.tiles, part = w / plan.tiles; /* (subtree, item) */
        const P p = whole.select(part % plan.items);
        const int64_t row0 = tile / plan.col_tiles * S::SIDE, col0 = tile % plan.col_tiles * S::SIDE;
        if (row0 >= p.m || col0 >= p.n)
            continue;
        T sum[R][R];
        rk__tile_start<P, T, R>(p, row0, col0, sum);
        rk__tile_sum<P, T, R>(p, plan, (int)(part / plan.items) * plan.leaves, row0, col0, shared, sum);
        T *partial = partials ? partials + part * whole.m * whole.n : NULL;
        rk__tile_finish<P, T, R>(whole.select(part % plan.items), whole, row0, col0, partial, shared, sum);
    }
}

/* Adds the subtrees' sums. */
template <class P>
static __global__ void rk__tile_join_kernel(P whole, rk__tile_plan plan, const typename P::value *partials)
{
    typedef typename P::value T;
    const int64_t size = whole.m * whole.n, all = size * plan.items, step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t e = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; e < all; e += step) {
        const P p = whole.select(e / size);
        rk__tree<T> tree;
        tree.begin();
        T sum = 0;
        for (int s = 0; s < plan.subtrees; s++)
            sum = tree.add(partials[s * all + e]);
        p.finish(e % size / whole.n, e % whole.n, sum);
    }
}

/* ---- the host's part ---- */

static inline int64_t rk__tiles_along(int64_t n, int side)
{
    return (n + side - 1) / side;
}

template <int R>
static rk__tile_plan rk__tile_plan_of(const rk_dev *dev, int64_t m, int64_t n, int64_t items, int segments,
                                      size_t elem, size_t *bytes)
{
    typedef rk__tile_shape<R> S;
    const size_t level = (size_t)R * R * RK__TILE_THREADS * elem,
                 room = dev->shared_bytes - S::BUFFERS * elem;
    rk__tile_plan plan;
    plan.col_tiles = rk__tiles_along(n, S::SIDE);
    plan.tiles = plan.col_tiles * rk__tiles_along(m, S::SIDE);
    plan.items = items;
    plan.segments = plan.leaves = segments;
    plan.subtrees = 1;
    int levels = 0;
    while (2 << levels <= segments)
        levels++;
    /* Subtrees of their own cost a trip through memory: only for tiles that would leave half of the device
     * idle. */
    while (levels > 0 &&
           ((size_t)levels * level > room || 2 * plan.tiles * items * plan.subtrees <= dev->sms)) {
        levels--;
        plan.subtrees *= 2;
        plan.leaves /= 2;
    }
    plan.work = plan.tiles * items * plan.subtrees;
    *bytes = S::BUFFERS * elem + (size_t)levels * level;
    return plan;
}

template <class P, int R>
static rk_status rk__tile_launch(rk_dev *dev, const P &p, int64_t items, int segments)
{
    typedef typename P::value T;
    size_t bytes;
    const rk__tile_plan plan = rk__tile_plan_of<R>(dev, p.m, p.n, items, segments, sizeof(T), &bytes);
    T *partials = NULL;
    if (plan.subtrees > 1) {
        partials = (T *)rk__cuda_work(dev, 0, (size_t)(plan.subtrees * items * p.m * p.n) * sizeof(T));
        if (!partials)
            return rk__cuda_denied(dev);
    }
    if (bytes > (48 << 10)) { /* more must be asked for; all there is: what is held back may need more than this */
        cudaError_t e = cudaFuncSetAttribute((const void *)rk__tile_kernel<P, R>,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)dev->shared_bytes);
        if (e != cudaSuccess)
            return rk__cuda_status(dev, e);
    }
    const int64_t most = 0x7fffffff;
    const unsigned grid = (unsigned)(plan.work < most ? plan.work : most);
    RK_LAUNCH((rk__tile_kernel<P, R>), grid, RK__TILE_THREADS, bytes, dev->stream, p, plan, partials);
    rk_status st = rk__cuda_launched(dev);
    if (st || plan.subtrees == 1)
        return st;
    RK_LAUNCH((rk__tile_join_kernel<P>), rk__cuda_grid(dev, items * p.m * p.n, RK__TILE_THREADS),
              RK__TILE_THREADS, 0, dev->stream, p, plan, (const T *)partials);
    return rk__cuda_launched(dev);
}

/* Tiles of how many elements a thread: the largest that keep the device busy. A tree needs room beside large
 * ones. */
static inline int rk__tile_size(const rk_dev *dev, int64_t m, int64_t n, int64_t items, int segments)
{
    const int64_t least = m < n ? m : n;
    if (segments == 1 && least >= 128 &&
        rk__tiles_along(m, 128) * rk__tiles_along(n, 128) * items >= 2 * (int64_t)dev->sms)
        return 8;
    if (least <= 16 || 8 * rk__tiles_along(m, 64) * rk__tiles_along(n, 64) * items < dev->sms)
        return 1;
    return 4;
}

template <class T> struct rk__tile_runner {
    template <class P> static rk_status run(rk_dev *dev, const P &p, int64_t items, int segments)
    {
        switch (rk__tile_size(dev, p.m, p.n, items, segments)) {
        case 8:
            return rk__tile_launch<P, 8>(dev, p, items, segments);
        case 4:
            return rk__tile_launch<P, 4>(dev, p, items, segments);
        default:
            return rk__tile_launch<P, 1>(dev, p, items, segments);
        }
    }
};

/* Doubles are for checks, not for speed. */
template <> struct rk__tile_runner<double> {
    template <class P> static rk_status run(rk_dev *dev, const P &p, int64_t items, int segments)
    {
        return rk__tile_launch<P, 1>(dev, p, items, segments);
    }
};

/* Runs `items` products of p.m x p.n outputs, which are not 0, over `segments` leaves. */
template <class P> static rk_status rk__tile_run(rk_dev *dev, const P &p, int64_t items, int segments)
{
    return rk__tile_runner<typename P::value>::run(dev, p, items, segments);
}

#endif
