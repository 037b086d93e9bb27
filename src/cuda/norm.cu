/* Layer and RMS norm. A row's sums go by lanes; sums over rows are chains a segment (core/order.h). In f32
 * the bits are the CPU's. */
#include "cuda/columns.cuh"
#include "cuda/entry.cuh"
#include "cuda/rows.cuh"

/* (x - mean) rstd gamma + beta; gamma and beta may be NULL. Not centred: the mean is 0 (RMS norm). */
template <class T, class ROW>
static __global__ void norm_kernel(int64_t rows, int64_t cols, const T *__restrict__ xs,
                                   const T *__restrict__ gamma, const T *__restrict__ beta, T eps,
                                   bool centred, T *__restrict__ ys, T *__restrict__ means,
                                   T *__restrict__ rstds)
{
    const T count = (T)cols;
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols;
        T *y = ys + r * cols, mean = 0;
        if (centred)
            mean = row.template sum<T>(
                       0, row.n, [=](int64_t i) { return x[i]; }, rk__plus<T>()) /
                   count;
        const auto square = [=](T acc, T d) { return v_fma(d, d, acc); };
        const T squares = row.template sum<T>(
            0, row.n, [=](int64_t i) { return x[i] - mean; }, square);
        const T rstd = v_rsqrt(squares / count + eps);
        row.each([=](int64_t i) {
            T hat = (x[i] - mean) * rstd;
            if (gamma)
                hat = hat * gamma[i];
            y[i] = beta ? hat + beta[i] : hat;
        });
        if (row.first && means)
            means[r] = mean;
        if (row.first && rstds)
            rstds[r] = rstd;
    }
}

/* dx = rstd (h - [mean of h] - xhat mean of h xhat), h = dy gamma; means NULL: RMS norm. */
template <class T, class ROW>
static __global__ void norm_dx_kernel(int64_t rows, int64_t cols, const T *__restrict__ xs,
                                      const T *__restrict__ gamma, const T *__restrict__ means,
                                      const T *__restrict__ rstds, const T *__restrict__ dys,
                                      T *__restrict__ dxs)
{
    const T count = (T)cols;
    RK__EACH_ROW(ROW, rows, r)
    {
        const ROW row(rows, cols, r);
        const T *x = xs + r * cols, *dy = dys + r * cols;
        T *dx = dxs + r * cols;
        const T mean = means && r < rows ? means[r] : (T)0, rstd = r < rows ? rstds[r] : (T)0;
        const auto value = [=](int64_t i) {
            const T h = gamma ? dy[i] * gamma[i] : dy[i];
            return rk__two<T>{ h, (x[i] - mean) * rstd };
        };
        const auto add = [](rk__two<T> acc, rk__two<T> t) {
            return rk__two<T>{ acc.a + t.a, v_fma(t.a, t.b, acc.b) };
        };
        const rk__two<T> sum = row.template sum<rk__two<T>>(0, row.n, value, add);
        const T shift = means ? sum.a / count : (T)0, slope = sum.b / count;
        row.each([=](int64_t i) {
            const T h = gamma ? dy[i] * gamma[i] : dy[i];
            dx[i] = rstd * v_fnma((x[i] - mean) * rstd, slope, h - shift);
        });
    }
}

/* dy (x - mean) rstd, row by row; mean NULL: 0. */
template <class T> struct hat_column {
    struct term {
        T dy, hat;
    };
    const T *x, *dy, *mean, *rstd;

    __device__ __forceinline__ term load(int64_t at, int64_t row, int64_t) const
    {
        return { dy[at], (x[at] - (mean ? mean[row] : (T)0)) * rstd[row] };
    }

    __device__ __forceinline__ T add(T acc, term t) const
    {
        return v_fma(t.dy, t.hat, acc);
    }
};

template <class T>
static rk_status norm(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                      const void *beta, double eps, bool centred, void *y, void *mean, void *rstd)
{
    if (rows == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(norm_kernel, T, dev, rows, cols, (const T *)x, (const T *)gamma, (const T *)beta, (T)eps,
                    centred, (T *)y, (T *)mean, (T *)rstd);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status layer_norm(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                            const void *beta, double eps, void *y, void *mean, void *rstd)
{
    return norm<T>(dev, rows, cols, x, gamma, beta, eps, true, y, mean, rstd);
}

template <class T>
static rk_status rms_norm(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                          double eps, void *y, void *rstd)
{
    return norm<T>(dev, rows, cols, x, gamma, NULL, eps, false, y, NULL, rstd);
}

template <class T>
static rk_status layer_norm_dx(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                               const void *mean, const void *rstd, const void *dy, void *dx)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    RK__LAUNCH_ROWS(norm_dx_kernel, T, dev, rows, cols, (const T *)x, (const T *)gamma, (const T *)mean,
                    (const T *)rstd, (const T *)dy, (T *)dx);
    return rk__cuda_launched(dev);
}

template <class T>
static rk_status rms_norm_dx(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                             const void *rstd, const void *dy, void *dx)
{
    return layer_norm_dx<T>(dev, rows, cols, x, gamma, NULL, rstd, dy, dx);
}

template <class T>
static rk_status layer_norm_dparam(rk_dev *dev, int64_t rows, int64_t cols, rk_order order, const void *x,
                                   const void *mean, const void *rstd, const void *dy, void *dgamma,
                                   void *dbeta)
{
    const hat_column<T> hat = { (const T *)x, (const T *)dy, (const T *)mean, (const T *)rstd };
    rk_status st = RK_OK;
    if (dgamma)
        st = rk__column_sums<T>(dev, hat, 1, rows, cols, order, dgamma);
    if (!st && dbeta)
        st = rk__column_sums<T>(dev, rk__column_plain<T>{ (const T *)dy }, 1, rows, cols, order, dbeta);
    return st;
}

RK__ENTRIES(layer_norm,
            (rk_dev * dev, int64_t rows, int64_t cols, const void *x, const void *gamma, const void *beta,
             double eps, void *y, void *mean, void *rstd),
            (dev, rows, cols, x, gamma, beta, eps, y, mean, rstd))
RK__ENTRIES(rms_norm,
            (rk_dev * dev, int64_t rows, int64_t cols, const void *x, const void *gamma, double eps, void *y,
             void *rstd),
            (dev, rows, cols, x, gamma, eps, y, rstd))
RK__ENTRIES(layer_norm_dx,
            (rk_dev * dev, int64_t rows, int64_t cols, const void *x, const void *gamma, const void *mean,
             const void *rstd, const void *dy, void *dx),
            (dev, rows, cols, x, gamma, mean, rstd, dy, dx))
RK__ENTRIES(rms_norm_dx,
            (rk_dev * dev, int64_t rows, int64_t cols, const void *x, const void *gamma, const void *rstd,
             const void *dy, void *dx),
            (dev, rows, cols, x, gamma, rstd, dy, dx))
RK__ENTRIES(layer_norm_dparam,
            (rk_dev * dev, int64_t rows, int64_t cols, rk_order order, const void *x, const void *mean,
             const void *rstd, const void *dy, void *dgamma, void *dbeta),
            (dev, rows, cols, order, x, mean, rstd, dy, dgamma, dbeta))
