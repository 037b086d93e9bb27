/* Softmax, its logarithm and cross entropy over rows (rows, cols). A row is computed by itself; its sums go
 * by lanes; the largest element is taken off before exp. In f32 the bits are the CPU's. */
#include "cuda/entry.cuh"
#include "cuda/rows.cuh"

/* Bytes of a row that stays in the registers of 16 threads, 64 each. */
enum { SHORT_ROW = 64 * RK_LANES * 4 };

template <class T, class ROW> RK_INLINE T exp_sum(const ROW &row, const T *x, T top)
{
    return row.template sum<T>(
        0, row.n, [=](int64_t i) { return v_exp(x[i] - top); }, rk__plus<T>());
}

template <class T, class ROW> RK_INLINE T plain_sum(const ROW &row, const T *x)
{
    return row.template sum<T>(
        0, row.n, [=](int64_t i) { return x[i]; }, rk__plus<T>());
}

template <class T, class ROW>
static __global__ void softmax_kernel(int64_t rows, int64_t cols, const T *__restrict__ xs,
                                      T *__restrict__ ys)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols;
        T *y = ys + r * cols;
        const T top = row.top(x);
        const auto term = [=](int64_t i) {
            const T e = v_exp(x[i] - top);
            y[i] = e;
            return e;
        };
        const T sum = row.template sum<T>(0, row.n, term, rk__plus<T>());
        row.each([=](int64_t i) { y[i] = y[i] / sum; });
    }
}

/* The same of rows of at most KEPT elements a lane, which stay in registers: two blocks of a multiprocessor are named,
 * since ptxas spills for a third. */
template <class T, int KEPT>
static __global__ void __launch_bounds__(RK__ROW_BLOCK, 2)
    short_softmax_kernel(int64_t rows, int64_t cols, const T *__restrict__ xs, T *__restrict__ ys)
{
    RK__EACH_ROW(rk__lanes_row, rows, r)
    {
        const rk__lanes_row row(rows, cols, r);
        const T *x = xs + r * cols + row.lane;
        T *y = ys + r * cols + row.lane, kept[KEPT], top = (T)-INFINITY, sum = 0;
        const int n = (int)row.n - row.lane; /* of this lane: those below n, RK_LANES apart */
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            kept[k] = k * RK_LANES < n ? x[k * RK_LANES] : (T)-INFINITY;
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            top = kept[k] > top ? kept[k] : top;
        top = rk__lanes_top(top, RK_LANES) + (T)0;
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (k * RK_LANES < n) {
                kept[k] = v_exp(kept[k] - top);
                sum += kept[k];
            }
        sum = rk__row_total(sum);
#pragma unroll
        for (int k = 0; k < KEPT; k++)
            if (k * RK_LANES < n)
                y[k * RK_LANES] = kept[k] / sum;
    }
}

template <class T, class ROW>
static __global__ void softmax_grad_kernel(int64_t rows, int64_t cols, const T *__restrict__ ys,
                                           const T *__restrict__ dys, T *__restrict__ dxs)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *y = ys + r * cols, *dy = dys + r * cols;
        T *dx = dxs + r * cols;
        const auto term = [=](int64_t i) { return rk__two<T>{ y[i], dy[i] }; };
        const T dot = row.template sum<T>(0, row.n, term, rk__dot<T>());
        row.each([=](int64_t i) { dx[i] = y[i] * (dy[i] - dot); });
    }
}

template <class T, class ROW>
static __global__ void log_softmax_kernel(int64_t rows, int64_t cols, const T *__restrict__ xs,
                                          T *__restrict__ ys)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols;
        T *y = ys + r * cols;
        const T top = row.top(x), log_sum = v_log(exp_sum(row, x, top));
        row.each([=](int64_t i) { y[i] = x[i] - top - log_sum; });
    }
}

template <class T, class ROW>
static __global__ void log_softmax_grad_kernel(int64_t rows, int64_t cols, const T *__restrict__ ys,
                                               const T *__restrict__ dys, T *__restrict__ dxs)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *y = ys + r * cols, *dy = dys + r * cols;
        T *dx = dxs + r * cols;
        const T sum = plain_sum(row, dy);
        row.each([=](int64_t i) { dx[i] = v_fnma(v_exp(y[i]), sum, dy[i]); });
    }
}

template <class T, class ROW>
static __global__ void row_max_kernel(int64_t rows, int64_t cols, const T *__restrict__ x, T *__restrict__ y)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T top = row.top(x + r * cols);
        if (row.first)
            y[r] = top;
    }
}

/* ---- cross entropy: (1 - smoothing) (lse - x[target]) + smoothing (lse - mean x) ---- */

template <class T> struct targets {
    const int64_t *target;
    int64_t ignore;
    bool use_ignore, smooth;
    T keep, spread, classes; /* 1 - smoothing; smoothing */
};

template <class T>
static targets<T> targets_of(const int64_t *target, int64_t classes, double smoothing, bool use_ignore,
                             int64_t ignore)
{
    targets<T> t = {};
    t.target = target;
    t.ignore = ignore;
    t.use_ignore = use_ignore;
    t.smooth = smoothing > 0;
    t.keep = (T)(1 - smoothing);
    t.spread = (T)smoothing;
    t.classes = (T)classes;
    return t;
}

template <class T> RK_INLINE bool ignored(const targets<T> &t, int64_t r)
{
    return t.use_ignore && t.target[r] == t.ignore;
}

/* x: the target's logit; plain: the sum of all of them. */
template <class T> RK_INLINE T loss_of(const targets<T> &t, T top, T log_sum, T x, T plain)
{
    /* lse - x by its two parts: less is lost when the largest element is large */
    T hit = log_sum + (top - x);
    if (t.smooth) {
        T even = log_sum + (top - plain / t.classes);
        hit = t.keep * hit + t.spread * even;
    }
    return hit;
}

template <class T, class ROW>
static __global__ void cross_entropy_kernel(int64_t rows, int64_t cols, const T *__restrict__ xs,
                                            targets<T> t, T *__restrict__ loss, T *__restrict__ lse)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols;
        const T top = row.top(x), log_sum = v_log(exp_sum(row, x, top));
        const T plain = t.smooth ? plain_sum(row, x) : (T)0;
        if (row.first) {
            lse[r] = top + log_sum;
            loss[r] = ignored(t, r) ? (T)0 : loss_of(t, top, log_sum, x[t.target[r]], plain);
        }
    }
}

/* A row's sum over `segments` leaves of its columns, a chain of terms a lane in each. */
template <class T, class ROW, class V> RK_INLINE T leaves(const ROW &row, int segments, V value)
{
    rk__tree<T> tree;
    tree.begin();
    T sum = 0;
    for (int s = 0; s < segments; s++) {
        int64_t lo, hi;
        rk_order_leaf(row.n, segments, s, &lo, &hi);
        sum = tree.add(row.template sum<T>(lo, hi, value, rk__plus<T>()));
    }
    return sum;
}

template <class T, class ROW>
static __global__ void cross_entropy_part_kernel(int64_t rows, int64_t cols, int segments, int64_t first,
                                                 const T *__restrict__ xs, const int64_t *__restrict__ target,
                                                 const T *__restrict__ tops, T *__restrict__ sum,
                                                 T *__restrict__ plain, T *__restrict__ hit)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols;
        const T top = r < rows ? tops[r] : (T)0;
        const T exps = leaves<T>(row, segments, [=](int64_t i) { return v_exp(x[i] - top); });
        T all = 0;
        if (plain)
            all = leaves<T>(row, segments, [=](int64_t i) { return x[i]; });
        if (row.first) {
            const int64_t at = target[r] - first;
            sum[r] = exps;
            hit[r] = at >= 0 && at < cols ? x[at] : (T)0;
            if (plain)
                plain[r] = all;
        }
    }
}

template <class T>
static __global__ void cross_entropy_join_kernel(int64_t rows, targets<T> t, const T *__restrict__ top,
                                                 const T *__restrict__ sum, const T *__restrict__ plain,
                                                 const T *__restrict__ hit, T *__restrict__ loss,
                                                 T *__restrict__ lse)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t r = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; r < rows; r += step) {
        const T log_sum = v_log(sum[r]);
        lse[r] = top[r] + log_sum;
        loss[r] = ignored(t, r) ? (T)0 : loss_of(t, top[r], log_sum, hit[r], plain ? plain[r] : (T)0);
    }
}

/* others: what is wanted of every class but the target's. */
template <class T, class ROW>
static __global__ void cross_entropy_grad_kernel(int64_t rows, int64_t cols, int64_t first,
                                                 const T *__restrict__ xs, targets<T> t, T others,
                                                 const T *__restrict__ lses, T scale, T *__restrict__ dxs)
{
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols;
        T *dx = dxs + r * cols;
        if (row.n == 0)
            continue;
        if (ignored(t, r)) {
            row.each([=](int64_t i) { dx[i] = 0; });
            continue;
        }
        const T lse = lses[r], wanted = others + t.keep;
        const int64_t at = t.target[r] - first;
        row.each([=](int64_t i) { dx[i] = scale * (v_exp(x[i] - lse) - (i == at ? wanted : others)); });
    }
}

/* ---- entries ---- */

template <class T> static rk_status softmax(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    enum { FEW = 8 * RK_LANES, MANY = SHORT_ROW / (int)sizeof(T) };
    if (cols <= FEW)
        RK_LAUNCH((short_softmax_kernel<T, FEW / RK_LANES>), rk__cuda_grid(dev, rows * RK_LANES, RK__ROW_BLOCK),
                  RK__ROW_BLOCK, 0, dev->stream, rows, cols, (const T *)x, (T *)y);
    else if (cols <= MANY && !rk__rows_long(dev, rows, cols))
        RK_LAUNCH((short_softmax_kernel<T, MANY / RK_LANES>), rk__cuda_grid(dev, rows * RK_LANES, RK__ROW_BLOCK),
                  RK__ROW_BLOCK, 0, dev->stream, rows, cols, (const T *)x, (T *)y);
    else
        RK__LAUNCH_ROWS(softmax_kernel, T, dev, rows, cols, (const T *)x, (T *)y);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status softmax_grad(rk_dev *dev, int64_t rows, int64_t cols, const void *y, const void *dy,
                              void *dx)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(softmax_grad_kernel, T, dev, rows, cols, (const T *)y, (const T *)dy, (T *)dx);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status log_softmax(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(log_softmax_kernel, T, dev, rows, cols, (const T *)x, (T *)y);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status log_softmax_grad(rk_dev *dev, int64_t rows, int64_t cols, const void *y, const void *dy,
                                  void *dx)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(log_softmax_grad_kernel, T, dev, rows, cols, (const T *)y, (const T *)dy, (T *)dx);
    return rk__cuda_launched(dev);
}

template <class T> static rk_status row_max(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    if (rows == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(row_max_kernel, T, dev, rows, cols, (const T *)x, (T *)y);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status cross_entropy(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const int64_t *target,
                               double smoothing, bool use_ignore, int64_t ignore, void *loss, void *lse)
{
    if (rows == 0)
        return RK_OK;
    const targets<T> t = targets_of<T>(target, cols, smoothing, use_ignore, ignore);
    RK__LAUNCH_ROWS(cross_entropy_kernel, T, dev, rows, cols, (const T *)x, t, (T *)loss, (T *)lse);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status cross_entropy_part(rk_dev *dev, int64_t rows, int64_t cols, int segments, int64_t first,
                                    const void *x, const int64_t *target, const void *top, void *sum,
                                    void *plain, void *hit)
{
    if (rows == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(cross_entropy_part_kernel, T, dev, rows, cols, segments > 1 ? segments : 1, first,
                    (const T *)x, target, (const T *)top, (T *)sum, (T *)plain, (T *)hit);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status cross_entropy_join(rk_dev *dev, int64_t rows, int64_t classes, const int64_t *target,
                                    double smoothing, bool use_ignore, int64_t ignore, const void *top,
                                    const void *sum, const void *plain, const void *hit, void *loss,
                                    void *lse)
{
    if (rows == 0)
        return RK_OK;
    const targets<T> t = targets_of<T>(target, classes, smoothing, use_ignore, ignore);
    RK_LAUNCH((cross_entropy_join_kernel<T>), rk__cuda_grid(dev, rows, RK__ROW_BLOCK), RK__ROW_BLOCK, 0,
              dev->stream, rows, t, (const T *)top, (const T *)sum, (const T *)plain, (const T *)hit,
              (T *)loss, (T *)lse);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status cross_entropy_grad(rk_dev *dev, int64_t rows, int64_t cols, int64_t first, int64_t classes,
                                    const void *x, const int64_t *target, const void *lse, double smoothing,
                                    bool use_ignore, int64_t ignore, double scale, void *dx)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    const targets<T> t = targets_of<T>(target, classes, smoothing, use_ignore, ignore);
    const T others = (T)(smoothing / (double)classes);
    RK__LAUNCH_ROWS(cross_entropy_grad_kernel, T, dev, rows, cols, first, (const T *)x, t, others,
                    (const T *)lse, (T)scale, (T *)dx);
    return rk__cuda_launched(dev);
}

RK__ENTRIES(softmax, (rk_dev * dev, int64_t rows, int64_t cols, const void *x, void *y),
            (dev, rows, cols, x, y))
RK__ENTRIES(softmax_grad, (rk_dev * dev, int64_t rows, int64_t cols, const void *y, const void *dy, void *dx),
            (dev, rows, cols, y, dy, dx))
RK__ENTRIES(log_softmax, (rk_dev * dev, int64_t rows, int64_t cols, const void *x, void *y),
            (dev, rows, cols, x, y))
RK__ENTRIES(log_softmax_grad,
            (rk_dev * dev, int64_t rows, int64_t cols, const void *y, const void *dy, void *dx),
            (dev, rows, cols, y, dy, dx))
RK__ENTRIES(row_max, (rk_dev * dev, int64_t rows, int64_t cols, const void *x, void *y),
            (dev, rows, cols, x, y))
RK__ENTRIES(cross_entropy,
            (rk_dev * dev, int64_t rows, int64_t cols, const void *x, const int64_t *target, double smoothing,
             bool use_ignore, int64_t ignore, void *loss, void *lse),
            (dev, rows, cols, x, target, smoothing, use_ignore, ignore, loss, lse))
RK__ENTRIES(cross_entropy_part,
            (rk_dev * dev, int64_t rows, int64_t cols, int segments, int64_t first, const void *x,
             const int64_t *target, const void *top, void *sum, void *plain, void *hit),
            (dev, rows, cols, segments, first, x, target, top, sum, plain, hit))
RK__ENTRIES(cross_entropy_join,
            (rk_dev * dev, int64_t rows, int64_t classes, const int64_t *target, double smoothing,
             bool use_ignore, int64_t ignore, const void *top, const void *sum, const void *plain,
             const void *hit, void *loss, void *lse),
            (dev, rows, classes, target, smoothing, use_ignore, ignore, top, sum, plain, hit, loss, lse))
RK__ENTRIES(cross_entropy_grad,
            (rk_dev * dev, int64_t rows, int64_t cols, int64_t first, int64_t classes, const void *x,
             const int64_t *target, const void *lse, double smoothing, bool use_ignore, int64_t ignore,
             double scale, void *dx),
            (dev, rows, cols, first, classes, x, target, lse, smoothing, use_ignore, ignore, scale, dx))
