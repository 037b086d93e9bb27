/* Pooling. Numeric contract: a maximum is the first of equals, in (kh, kw) order, and the last NaN if there
 * is one (arg says where; -1 for a window that is all padding, whose maximum is -inf); an average is a chain
 * of additions over (kh, kw) ascending, divided by the number of elements that are not padding (0 if there
 * are none); a gradient is +0 plus its windows' shares, (oh, ow) ascending. Gradients are gathered, an input
 * a thread: no atomics. */
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"

namespace
{

enum { BLOCK = 256 };

/* The part of window o along one axis that lies in the input: [lo, hi), empty if it is all padding. */
struct span {
    int32_t lo, hi;
};

struct axis {
    int32_t in, out, k, stride, pad; /* k = 0: adaptive */
    rk__divider by_in, by_out, by_stride;
};

struct pool {
    int64_t inputs, outputs; /* of all planes */
    axis h, w;
    rk__divider in_w, in_h, out_w, out_h;
};

axis axis_of(int64_t in, int64_t out, int64_t k, int64_t stride, int64_t pad)
{
    return axis{ (int32_t)in,  (int32_t)out,       (int32_t)k,          (int32_t)stride,
                 (int32_t)pad, rk__divider_of(in), rk__divider_of(out), rk__divider_of(stride) };
}

pool pool_of(const rk_pool2d *g)
{
    pool p;
    p.inputs = g->n * g->c * g->h * g->w;
    p.outputs = g->n * g->c * g->oh * g->ow;
    p.h = axis_of(g->h, g->oh, g->kh, g->stride_h, g->pad_h);
    p.w = axis_of(g->w, g->ow, g->kh ? g->kw : 0, g->stride_w, g->pad_w);
    p.in_h = rk__divider_of(g->h);
    p.in_w = rk__divider_of(g->w);
    p.out_h = rk__divider_of(g->oh);
    p.out_w = rk__divider_of(g->ow);
    return p;
}

__device__ __forceinline__ span window(const axis &a, int32_t o)
{
    if (a.k == 0)
        return span{ (int32_t)rk__quotient((int64_t)o * a.in, a.by_out),
                     (int32_t)rk__quotient((int64_t)(o + 1) * a.in + a.out - 1, a.by_out) };
    const int32_t lo = o * a.stride - a.pad, hi = lo + a.k;
    return span{ lo > 0 ? lo : 0, hi < a.in ? hi : a.in };
}

/* The outputs whose windows have input i. */
__device__ __forceinline__ span windows_of(const axis &a, int32_t i)
{
    int64_t lo, hi;
    if (a.k == 0) {
        lo = rk__quotient((int64_t)i * a.out, a.by_in);
        hi = rk__quotient((int64_t)(i + 1) * a.out + a.in - 1, a.by_in);
    } else {
        const int64_t first = (int64_t)i + a.pad - a.k + 1;
        lo = first > 0 ? rk__quotient(first + a.stride - 1, a.by_stride) : 0;
        hi = rk__quotient((int64_t)i + a.pad, a.by_stride) + 1;
    }
    return span{ (int32_t)lo, (int32_t)(hi < a.out ? hi : a.out) };
}

/* Which plane, row and column an element is. */
struct cell {
    int64_t plane;
    int32_t h, w;
};

__device__ __forceinline__ cell cell_of(int64_t i, const rk__divider &h, const rk__divider &w)
{
    int64_t row, col, rest = rk__split(i, w, &col), plane = rk__split(rest, h, &row);
    return cell{ plane, (int32_t)row, (int32_t)col };
}

template <class T> __global__ void __launch_bounds__(BLOCK) max_kernel(pool g, const T *x, T *y, int32_t *arg)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t o = (int64_t)blockIdx.x * BLOCK + threadIdx.x; o < g.outputs; o += step) {
        const cell at = cell_of(o, g.out_h, g.out_w);
        const span rows = window(g.h, at.h), cols = window(g.w, at.w);
        const T *plane = x + at.plane * g.h.in * g.w.in;
        T best = -INFINITY;
        int32_t where = rows.lo < rows.hi && cols.lo < cols.hi ? rows.lo * g.w.in + cols.lo : -1;
        for (int32_t h = rows.lo; h < rows.hi; h++)
            for (int32_t w = cols.lo; w < cols.hi; w++) {
                const T v = plane[h * g.w.in + w];
                if (v > best || v != v) {
                    best = v;
                    where = h * g.w.in + w;
                }
            }
        y[o] = best;
        arg[o] = where;
    }
}

template <class T>
__global__ void __launch_bounds__(BLOCK) max_grad_kernel(pool g, const int32_t *arg, const T *dy, T *dx)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < g.inputs; i += step) {
        const cell at = cell_of(i, g.in_h, g.in_w);
        const span rows = windows_of(g.h, at.h), cols = windows_of(g.w, at.w);
        const int64_t plane = at.plane * g.h.out * g.w.out;
        const int32_t self = at.h * g.w.in + at.w;
        T sum = 0;
        for (int32_t h = rows.lo; h < rows.hi; h++)
            for (int32_t w = cols.lo; w < cols.hi; w++) {
                const int64_t o = plane + h * g.w.out + w;
                if (arg[o] == self)
                    sum += dy[o];
            }
        dx[i] = sum;
    }
}

template <class T> __global__ void __launch_bounds__(BLOCK) avg_kernel(pool g, const T *x, T *y)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t o = (int64_t)blockIdx.x * BLOCK + threadIdx.x; o < g.outputs; o += step) {
        const cell at = cell_of(o, g.out_h, g.out_w);
        const span rows = window(g.h, at.h), cols = window(g.w, at.w);
        const T *plane = x + at.plane * g.h.in * g.w.in;
        T sum = 0;
        for (int32_t h = rows.lo; h < rows.hi; h++)
            for (int32_t w = cols.lo; w < cols.hi; w++)
                sum += plane[h * g.w.in + w];
        const bool empty = rows.lo >= rows.hi || cols.lo >= cols.hi;
        y[o] = empty ? (T)0 : sum / (T)((rows.hi - rows.lo) * (cols.hi - cols.lo));
    }
}

template <class T> __global__ void __launch_bounds__(BLOCK) avg_grad_kernel(pool g, const T *dy, T *dx)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < g.inputs; i += step) {
        const cell at = cell_of(i, g.in_h, g.in_w);
        const span rows = windows_of(g.h, at.h), cols = windows_of(g.w, at.w);
        const int64_t plane = at.plane * g.h.out * g.w.out;
        T sum = 0;
        for (int32_t h = rows.lo; h < rows.hi; h++)
            for (int32_t w = cols.lo; w < cols.hi; w++) {
                const span high = window(g.h, h), wide = window(g.w, w);
                sum += dy[plane + h * g.w.out + w] / (T)((high.hi - high.lo) * (wide.hi - wide.lo));
            }
        dx[i] = sum;
    }
}

#define LAUNCH(name, n, ...)                                                                      \
    do {                                                                                          \
        if ((n) == 0)                                                                             \
            return RK_OK;                                                                         \
        RK_LAUNCH((name<T>), rk__cuda_grid(dev, (n), BLOCK), BLOCK, 0, dev->stream, __VA_ARGS__); \
        return rk__cuda_launched(dev);                                                            \
    } while (0)

template <class T> rk_status max_pool(rk_dev *dev, const pool &g, const void *x, void *y, int32_t *arg)
{
    LAUNCH(max_kernel, g.outputs, g, (const T *)x, (T *)y, arg);
}

template <class T>
rk_status max_pool_grad(rk_dev *dev, const pool &g, const int32_t *arg, const void *dy, void *dx)
{
    LAUNCH(max_grad_kernel, g.inputs, g, arg, (const T *)dy, (T *)dx);
}

template <class T> rk_status avg_pool(rk_dev *dev, const pool &g, const void *x, void *y)
{
    LAUNCH(avg_kernel, g.outputs, g, (const T *)x, (T *)y);
}

template <class T> rk_status avg_pool_grad(rk_dev *dev, const pool &g, const void *dy, void *dx)
{
    LAUNCH(avg_grad_kernel, g.inputs, g, (const T *)dy, (T *)dx);
}

} // namespace

#define ENTRIES(t, T)                                                                                        \
    extern "C" rk_status rk__cuda_##t##_max_pool2d(rk_dev *dev, const rk_pool2d *g, const void *x, void *y,  \
                                                   int32_t *arg)                                             \
    {                                                                                                        \
        return max_pool<T>(dev, pool_of(g), x, y, arg);                                                      \
    }                                                                                                        \
    extern "C" rk_status rk__cuda_##t##_max_pool2d_grad(rk_dev *dev, const rk_pool2d *g, const int32_t *arg, \
                                                        const void *dy, void *dx)                            \
    {                                                                                                        \
        return max_pool_grad<T>(dev, pool_of(g), arg, dy, dx);                                               \
    }                                                                                                        \
    extern "C" rk_status rk__cuda_##t##_avg_pool2d(rk_dev *dev, const rk_pool2d *g, const void *x, void *y)  \
    {                                                                                                        \
        return avg_pool<T>(dev, pool_of(g), x, y);                                                           \
    }                                                                                                        \
    extern "C" rk_status rk__cuda_##t##_avg_pool2d_grad(rk_dev *dev, const rk_pool2d *g, const void *dy,     \
                                                        void *dx)                                            \
    {                                                                                                        \
        return avg_pool_grad<T>(dev, pool_of(g), dy, dx);                                                    \
    }

ENTRIES(f32, float)
ENTRIES(f64, double)
