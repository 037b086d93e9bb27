/* Batch normalisation, and sums over the channels of (n, c, s). Numeric contract: core/order.h. The s terms
 * of a sample's channel are a row, summed by lanes; rows' sums are terms of a chain over samples, which is a
 * column of (n, c). So a sum is two launches: rows, 16 threads each, to a workspace (n, c), then its columns.
 */
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"

namespace
{

enum { BLOCK = 256, COLUMNS = 32, SUBTREES = 8, AHEAD = 4 /* elements that are under way at once */ };

/* What is summed. */
enum kind {
    PLAIN,  /* x */
    SQUARE, /* (x - mean)^2 */
    XHAT    /* dy (x - mean) rstd; and dy beside it */
};

template <class T> struct source {
    kind what;
    const T *x, *dy, *mean, *rstd; /* x, dy (n, c, s); mean, rstd (c); NULL where `what` does not name them */
    T *out;                        /* (c) */
    T divisor;                     /* of the sum; 0: none */
};

/* ---- rows ---- */

template <class T> struct rows_job {
    int64_t rows, s;
    rk__divider channels;
    source<T> of;
    T *terms, *plain; /* (n, c); plain: the sums of dy, for XHAT */
};

template <class T> __global__ void __launch_bounds__(BLOCK) rows_kernel(rows_job<T> j)
{
    const int lane = (int)threadIdx.x % RK_LANES;
    const int64_t at_once = (int64_t)gridDim.x * (BLOCK / RK_LANES);
    /* whole warps leave the loop together: their lanes meet in sums */
    const int64_t all = (j.rows + 1) / 2 * 2;
    for (int64_t r = (int64_t)blockIdx.x * (BLOCK / RK_LANES) + threadIdx.x / RK_LANES; r < all;
         r += at_once) {
        const bool there = r < j.rows;
        int64_t c;
        rk__split(there ? r : 0, j.channels, &c);
        const T mean = j.of.mean ? j.of.mean[c] : (T)0, rstd = j.of.rstd ? j.of.rstd[c] : (T)0;
        T sum = 0, plain = 0;
        for (int64_t i = r * j.s + lane; there && i < (r + 1) * j.s; i += RK_LANES) {
            const T x = j.of.x[i];
            if (j.of.what == PLAIN) {
                sum += x;
            } else if (j.of.what == SQUARE) {
                sum = rk__fma(x - mean, x - mean, sum);
            } else {
                const T dy = j.of.dy[i];
                sum = rk__fma(dy, (x - mean) * rstd, sum);
                plain += dy;
            }
        }
        sum = rk__lanes_sum(sum);
        plain = rk__lanes_sum(plain);
        if (lane == 0 && there) {
            j.terms[r] = sum;
            if (j.plain)
                j.plain[r] = plain;
        }
    }
}

/* ---- columns of (n, c) ---- */

template <class T> struct columns_job {
    int64_t n, c;
    rk_order order;
    source<T> of[2]; /* blockIdx.y of them */
};

/* What row `at` of (n, 1) adds. Not fused: the term is the sum of a row of one element. */
template <class T, kind WHAT>
__device__ __forceinline__ T column_term(const source<T> &of, int64_t at, T mean, T rstd)
{
    const T x = of.x[at];
    if (WHAT == PLAIN)
        return x;
    if (WHAT == SQUARE)
        return (x - mean) * (x - mean);
    return of.dy[at] * ((x - mean) * rstd);
}

/* The sum of the subtree-th of `subtrees` parts of a column. */
template <class T, kind WHAT>
__device__ __forceinline__ T column_part(const columns_job<T> &j, const source<T> &of, int64_t col,
                                         int subtrees, int subtree)
{
    const int leaves = j.order.segments / subtrees;
    const T mean = WHAT == PLAIN ? (T)0 : of.mean[col], rstd = WHAT == XHAT ? of.rstd[col] : (T)0;
    rk__tree<T> tree;
    tree.begin();
    T sum = 0;
    for (int s = 0; s < leaves; s++) {
        int64_t lo, hi;
        rk__leaf_terms(j.n, j.order, subtree * leaves + s, &lo, &hi);
        T acc = j.order.acc == RK_ACC_CHAIN ? of.out[col] : (T)0;
#pragma unroll 4
        for (int64_t r = lo; r < hi; r++)
            acc += column_term<T, WHAT>(of, r * j.c + col, mean, rstd);
        sum = tree.add(acc);
    }
    return sum;
}

template <class T>
__device__ __forceinline__ T column_part_of(const columns_job<T> &j, const source<T> &of, int64_t col,
                                            int subtrees, int subtree)
{
    switch (of.what) {
    case PLAIN:
        return column_part<T, PLAIN>(j, of, col, subtrees, subtree);
    case SQUARE:
        return column_part<T, SQUARE>(j, of, col, subtrees, subtree);
    default:
        return column_part<T, XHAT>(j, of, col, subtrees, subtree);
    }
}

/* A block has COLUMNS columns, and SUBTREES threads each, with a part of the tree. */
template <class T> __global__ void __launch_bounds__(COLUMNS *SUBTREES) columns_kernel(columns_job<T> j)
{
    RK_SHARED(T, part, [SUBTREES][COLUMNS]);
    const source<T> of = blockIdx.y ? j.of[1] : j.of[0];
    const int subtrees = j.order.segments < SUBTREES ? j.order.segments : SUBTREES;
    for (int64_t col0 = (int64_t)blockIdx.x * COLUMNS; col0 < j.c; col0 += (int64_t)gridDim.x * COLUMNS) {
        const int64_t col = col0 + threadIdx.x;
        if (col < j.c && (int)threadIdx.y < subtrees)
            part[threadIdx.y][threadIdx.x] = column_part_of(j, of, col, subtrees, (int)threadIdx.y);
        __syncthreads();
        if (col < j.c && threadIdx.y == 0) {
            rk__tree<T> tree;
            tree.begin();
            T sum = 0;
            for (int s = 0; s < subtrees; s++)
                sum = tree.add(part[s][threadIdx.x]);
            if (j.order.acc == RK_ACC_ADD)
                sum = of.out[col] + sum;
            of.out[col] = of.divisor != 0 ? sum / of.divisor : sum;
        }
        __syncthreads();
    }
}

template <class T> rk_status sum_columns(rk_dev *dev, const columns_job<T> &j, unsigned sums)
{
    const int64_t blocks = (j.c + COLUMNS - 1) / COLUMNS, most = 65535;
    const dim3 grid((unsigned)(blocks < most ? blocks : most), sums), block(COLUMNS, SUBTREES);
    RK_LAUNCH((columns_kernel<T>), grid, block, 0, dev->stream, j);
    return rk__cuda_launched(dev);
}

/* ---- sums over channels ---- */

template <class T> struct shape {
    int64_t n, c, s;
    rk_order order;
};

/* Sums `of`, and with XHAT that of dy, which goes to `plain`. */
template <class T> rk_status sum_channels_of(rk_dev *dev, const shape<T> &q, const source<T> &of, T *plain)
{
    columns_job<T> columns = { q.n, q.c, rk__order_or_plain(q.order), { of, of } };
    source<T> beside = { PLAIN, of.dy, NULL, NULL, NULL, plain, 0 };
    if (q.c == 0)
        return RK_OK;
    if (q.s == 1) {
        columns.of[1] = beside;
        return sum_columns(dev, columns, plain ? 2 : 1);
    }
    const int64_t rows = q.n * q.c;
    T *terms = (T *)rk__cuda_work(dev, 0, (size_t)(rows * (plain ? 2 : 1) + 1) * sizeof(T));
    if (!terms)
        return rk__cuda_denied(dev);
    rows_job<T> j = { rows, q.s, rk__divider_of(q.c), of, terms, plain ? terms + rows : NULL };
    if (rows > 0) {
        RK_LAUNCH((rows_kernel<T>), rk__cuda_grid(dev, rows * RK_LANES, BLOCK), BLOCK, 0, dev->stream, j);
        rk_status st = rk__cuda_launched(dev);
        if (st)
            return st;
    }
    columns.of[0] = source<T>{ PLAIN, terms, NULL, NULL, NULL, of.out, of.divisor };
    columns.of[1] = source<T>{ PLAIN, terms + rows, NULL, NULL, NULL, plain, 0 };
    return sum_columns(dev, columns, plain ? 2 : 1);
}

template <class T> rk_status sum_channels(rk_dev *dev, const shape<T> &q, const void *dy, void *out)
{
    return sum_channels_of(dev, q, source<T>{ PLAIN, (const T *)dy, NULL, NULL, NULL, (T *)out, 0 },
                           (T *)NULL);
}

template <class T>
rk_status sum_squares_of(rk_dev *dev, const shape<T> &q, const void *x, const void *mean, void *out,
                         T divisor)
{
    return sum_channels_of(
        dev, q, source<T>{ SQUARE, (const T *)x, NULL, (const T *)mean, NULL, (T *)out, divisor }, (T *)NULL);
}

template <class T> rk_status stats(rk_dev *dev, const shape<T> &q, const void *x, void *mean, void *var)
{
    const T count = (T)(q.n * q.s);
    shape<T> set = q;
    set.order.acc = RK_ACC_SET;
    rk_status st = sum_channels_of(
        dev, set, source<T>{ PLAIN, (const T *)x, NULL, NULL, NULL, (T *)mean, count }, (T *)NULL);
    return st ? st : sum_squares_of<T>(dev, set, x, mean, var, count);
}

template <class T>
rk_status dparam(rk_dev *dev, const shape<T> &q, const void *x, const void *mean, const void *rstd,
                 const void *dy, void *dgamma, void *dbeta)
{
    return sum_channels_of(
        dev, q,
        source<T>{ XHAT, (const T *)x, (const T *)dy, (const T *)mean, (const T *)rstd, (T *)dgamma, 0 },
        (T *)dbeta);
}

/* ---- elementwise: y = (x - mean) slope + shift, dx = gain ((dy - shift) - (x - mean) slope) ---- */

template <class T> struct affine_job {
    int64_t rows, s; /* rows (n c) of s */
    rk__divider channels;
    const T *x, *mean, *gamma;
    /* forward */
    const T *var, *beta;
    T eps, *rstd_out;
    /* gradient */
    const T *dy, *rstd, *dgamma, *dbeta;
    T count;
    T *y;
};

__device__ __forceinline__ float root(float x)
{
    return sqrtf(x);
}

__device__ __forceinline__ double root(double x)
{
    return sqrt(x);
}

/* What becomes of the elements of a row. Loads stand before stores: nvcc, for which y may be x, would let each load
 * wait for the store before it. */
template <class T, bool GRAD> struct row_map {
    const T *x, *dy;
    T *y;
    T mean, slope, shift, gain;

    __device__ __forceinline__ T of(T a, T b) const
    {
        return GRAD ? gain * rk__fma(-(a - mean), slope, b - shift) : rk__fma(a - mean, slope, shift);
    }

    __device__ __forceinline__ void run(int64_t i, int64_t end, int lanes) const
    {
        for (; i + (AHEAD - 1) * lanes < end; i += AHEAD * lanes) {
            T a[AHEAD], b[AHEAD];
#pragma unroll
            for (int k = 0; k < AHEAD; k++) {
                a[k] = x[i + k * lanes];
                b[k] = GRAD ? dy[i + k * lanes] : (T)0;
            }
#pragma unroll
            for (int k = 0; k < AHEAD; k++)
                y[i + k * lanes] = of(a[k], b[k]);
        }
#pragma unroll 1
        for (; i < end; i += lanes)
            y[i] = of(x[i], GRAD ? dy[i] : (T)0);
    }
};

template <class T>
__device__ __forceinline__ void affine_row(const affine_job<T> &j, int64_t r, int lane, int lanes)
{
    int64_t c;
    const int64_t n = rk__split(r, j.channels, &c);
    const T inv = (T)1 / root(j.var[c] + j.eps);
    row_map<T, false> m = { j.x, NULL, j.y, j.mean[c] };
    m.slope = j.gamma ? inv * j.gamma[c] : inv;
    m.shift = j.beta ? j.beta[c] : (T)0;
    m.run(r * j.s + lane, (r + 1) * j.s, lanes);
    if (j.rstd_out && n == 0 && lane == 0)
        j.rstd_out[c] = inv;
}

template <class T>
__device__ __forceinline__ void affine_dx_row(const affine_job<T> &j, int64_t r, int lane, int lanes)
{
    int64_t c;
    rk__split(r, j.channels, &c);
    const T inv = j.rstd[c];
    row_map<T, true> m = { j.x, j.dy, j.y, j.mean[c] };
    m.slope = j.dgamma[c] / j.count * inv;
    m.shift = j.dbeta[c] / j.count;
    m.gain = j.gamma ? inv * j.gamma[c] : inv;
    m.run(r * j.s + lane, (r + 1) * j.s, lanes);
}

/* `LANES` threads a row. */
template <class T, int LANES> __global__ void __launch_bounds__(BLOCK) affine_kernel(affine_job<T> j)
{
    const int64_t step = (int64_t)gridDim.x * (BLOCK / LANES);
    for (int64_t r = (int64_t)blockIdx.x * (BLOCK / LANES) + threadIdx.x / LANES; r < j.rows; r += step)
        if (j.dy)
            affine_dx_row(j, r, (int)threadIdx.x % LANES, LANES);
        else
            affine_row(j, r, (int)threadIdx.x % LANES, LANES);
}

template <class T> rk_status run_affine(rk_dev *dev, const affine_job<T> &j)
{
    if (j.rows == 0)
        return RK_OK;
    if (j.s < 16)
        RK_LAUNCH((affine_kernel<T, 1>), rk__cuda_grid(dev, j.rows, BLOCK), BLOCK, 0, dev->stream, j);
    else
        RK_LAUNCH((affine_kernel<T, 32>), rk__cuda_grid(dev, j.rows * 32, BLOCK), BLOCK, 0, dev->stream, j);
    return rk__cuda_launched(dev);
}

/* What both directions take. */
template <class T>
affine_job<T> job_of(int64_t n, int64_t c, int64_t s, const void *x, const void *mean, const void *gamma,
                     void *y)
{
    affine_job<T> j = {};
    j.rows = n * c;
    j.s = s;
    j.channels = rk__divider_of(c);
    j.x = (const T *)x;
    j.mean = (const T *)mean;
    j.gamma = (const T *)gamma;
    j.y = (T *)y;
    return j;
}

template <class T>
rk_status batch_norm(rk_dev *dev, int64_t n, int64_t c, int64_t s, const void *x, const void *mean,
                     const void *var, const void *gamma, const void *beta, double eps, void *y, void *rstd)
{
    affine_job<T> j = job_of<T>(n, c, s, x, mean, gamma, y);
    j.var = (const T *)var;
    j.beta = (const T *)beta;
    j.eps = (T)eps;
    j.rstd_out = (T *)rstd;
    return run_affine(dev, j);
}

template <class T>
rk_status batch_norm_dx(rk_dev *dev, int64_t n, int64_t c, int64_t s, int64_t count, const void *x,
                        const void *mean, const void *rstd, const void *gamma, const void *dgamma,
                        const void *dbeta, const void *dy, void *dx)
{
    affine_job<T> j = job_of<T>(n, c, s, x, mean, gamma, dx);
    j.rstd = (const T *)rstd;
    j.dgamma = (const T *)dgamma;
    j.dbeta = (const T *)dbeta;
    j.dy = (const T *)dy;
    j.count = (T)count;
    return run_affine(dev, j);
}

} // namespace

#define ENTRIES(t, T)                                                                                      \
    extern "C" rk_status rk__cuda_##t##_sum_channels(rk_dev *dev, int64_t n, int64_t c, int64_t s,         \
                                                     rk_order o, const void *dy, void *out)                \
    {                                                                                                      \
        return sum_channels<T>(dev, shape<T>{ n, c, s, o }, dy, out);                                      \
    }                                                                                                      \
    extern "C" rk_status rk__cuda_##t##_sum_channel_squares(rk_dev *dev, int64_t n, int64_t c, int64_t s,  \
                                                            rk_order o, const void *x, const void *mean,   \
                                                            void *out)                                     \
    {                                                                                                      \
        return sum_squares_of<T>(dev, shape<T>{ n, c, s, o }, x, mean, out, 0);                            \
    }                                                                                                      \
    extern "C" rk_status rk__cuda_##t##_batch_norm_stats(rk_dev *dev, int64_t n, int64_t c, int64_t s,     \
                                                         rk_order o, const void *x, void *mean, void *var) \
    {                                                                                                      \
        return stats<T>(dev, shape<T>{ n, c, s, o }, x, mean, var);                                        \
    }                                                                                                      \
    extern "C" rk_status rk__cuda_##t##_batch_norm_dparam(                                                 \
        rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order o, const void *x, const void *mean,         \
        const void *rstd, const void *dy, void *dgamma, void *dbeta)                                       \
    {                                                                                                      \
        return dparam<T>(dev, shape<T>{ n, c, s, o }, x, mean, rstd, dy, dgamma, dbeta);                   \
    }                                                                                                      \
    extern "C" rk_status rk__cuda_##t##_batch_norm(                                                        \
        rk_dev *dev, int64_t n, int64_t c, int64_t s, const void *x, const void *mean, const void *var,    \
        const void *gamma, const void *beta, double eps, void *y, void *rstd)                              \
    {                                                                                                      \
        return batch_norm<T>(dev, n, c, s, x, mean, var, gamma, beta, eps, y, rstd);                       \
    }                                                                                                      \
    extern "C" rk_status rk__cuda_##t##_batch_norm_dx(                                                     \
        rk_dev *dev, int64_t n, int64_t c, int64_t s, int64_t count, const void *x, const void *mean,      \
        const void *rstd, const void *gamma, const void *dgamma, const void *dbeta, const void *dy,        \
        void *dx)                                                                                          \
    {                                                                                                      \
        return batch_norm_dx<T>(dev, n, c, s, count, x, mean, rstd, gamma, dgamma, dbeta, dy, dx);         \
    }

ENTRIES(f32, float)
ENTRIES(f64, double)
