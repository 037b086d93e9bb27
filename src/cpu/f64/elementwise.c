/* Elementwise functions and their gradients in double. */
#include "cpu/f64/f64.h"

#include <math.h>

#define RK_FN static
#include "core/f64.inc"

#define MAP1(fn, cost, f32, f64)                                                          \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *xs, double p, void *ys); \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *xs, double p, void *ys)  \
    {                                                                                     \
        (void)dev;                                                                        \
        (void)p;                                                                          \
        const double *in = xs;                                                            \
        double *out = ys;                                                                 \
        for (int64_t i = 0; i < n; i++) {                                                 \
            double x = in[i];                                                             \
            out[i] = (f64);                                                               \
        }                                                                                 \
        return RK_OK;                                                                     \
    }

#define MAP2(fn, cost, f32, f64)                                                                          \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *as, const void *bs, double p, void *ys); \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *as, const void *bs, double p, void *ys)  \
    {                                                                                                     \
        (void)dev;                                                                                        \
        (void)p;                                                                                          \
        const double *in_a = as, *in_b = bs;                                                              \
        double *out = ys;                                                                                 \
        for (int64_t i = 0; i < n; i++) {                                                                 \
            double a = in_a[i], b = in_b[i];                                                              \
            out[i] = (f64);                                                                               \
        }                                                                                                 \
        return RK_OK;                                                                                     \
    }

#include "core/maps.def"

MAP1(pow_scalar, 0, , pow(x, p))
MAP2(pow_scalar_grad, 0, , p == 0 ? 0 : b * p * pow(a, p - 1))

rk_status rk__mul_by_f64(rk_dev *dev, int64_t n, const void *x, const void *by, void *y)
{
    return rk__mul_scalar_f64(dev, n, x, *(const double *)by, y);
}
