/* Elementwise functions and their gradients in double. */
#include "cpu/f64/f64.h"

#include <math.h>

#define MAP1(fn, expr)                                                                    \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *xs, double p, void *ys); \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *xs, double p, void *ys)  \
    {                                                                                     \
        (void)dev;                                                                        \
        (void)p;                                                                          \
        const double *in = xs;                                                            \
        double *out = ys;                                                                 \
        for (int64_t i = 0; i < n; i++) {                                                 \
            double x = in[i];                                                             \
            out[i] = (expr);                                                              \
        }                                                                                 \
        return RK_OK;                                                                     \
    }

#define MAP2(fn, expr)                                                                                    \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *as, const void *bs, double p, void *ys); \
    rk_status rk__##fn##_f64(rk_dev *dev, int64_t n, const void *as, const void *bs, double p, void *ys)  \
    {                                                                                                     \
        (void)dev;                                                                                        \
        (void)p;                                                                                          \
        const double *in_a = as, *in_b = bs;                                                              \
        double *out = ys;                                                                                 \
        for (int64_t i = 0; i < n; i++) {                                                                 \
            double a = in_a[i], b = in_b[i];                                                              \
            out[i] = (expr);                                                                              \
        }                                                                                                 \
        return RK_OK;                                                                                     \
    }

static const double SQRT_HALF = 0.70710678118654752440;
static const double INV_SQRT_2PI = 0.39894228040143267794;
/* The tanh form of GELU (Hendrycks & Gimpel 2016): x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). */
static const double SQRT_2_OVER_PI = 0.79788456080286535588;
static const double GELU_CUBE = 0.044715;

static double sigmoid(double x)
{
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

static double softplus(double x)
{
    return (x > 0 ? x : 0) + log1p(exp(-fabs(x)));
}

/* -1, 0, 1; NaN stays. */
static double sign(double x)
{
    return x > 0 ? 1 : x < 0 ? -1 : x;
}

static double gelu(double x)
{
    return x * 0.5 * erfc(-x * SQRT_HALF);
}

static double gelu_slope(double x)
{
    return 0.5 * erfc(-x * SQRT_HALF) + x * INV_SQRT_2PI * exp(-0.5 * x * x);
}

static double gelu_inner(double x)
{
    return SQRT_2_OVER_PI * (x + GELU_CUBE * x * x * x);
}

static double gelu_tanh_slope(double x)
{
    double t = tanh(gelu_inner(x));
    double inner_slope = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBE * x * x);
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * inner_slope;
}

static double silu_slope(double x)
{
    double s = sigmoid(x);
    return s * (1 + x * (1 - s));
}

MAP2(add, a + b)
MAP2(sub, a - b)
MAP2(mul, a *b)
MAP2(div, a / b)
MAP2(add_scaled, fma(p, b, a))

MAP1(add_scalar, x + p)
MAP1(mul_scalar, x *p)
MAP1(rsub_scalar, p - x)
MAP1(rdiv_scalar, p / x)
MAP1(pow_scalar, pow(x, p))
MAP1(neg, -x)
MAP1(exp, exp(x))
MAP1(log, log(x))
MAP1(sqrt, sqrt(x))
MAP1(rsqrt, 1 / sqrt(x))
MAP1(abs, fabs(x))
MAP1(relu, x < 0 ? 0 : x)
MAP1(leaky_relu, x < 0 ? p * x : x)
MAP1(gelu, gelu(x))
MAP1(gelu_tanh, 0.5 * x * (1 + tanh(gelu_inner(x))))
MAP1(silu, x *sigmoid(x))
MAP1(sigmoid, sigmoid(x))
MAP1(tanh, tanh(x))
MAP1(softplus, softplus(x))

/* a is the input or, where the name stands in the second group, the output. */
MAP2(pow_scalar_grad, p == 0 ? 0 : b * p * pow(a, p - 1))
MAP2(abs_grad, b *sign(a))
MAP2(leaky_relu_grad, a > 0 ? b : p * b)
MAP2(gelu_grad, b *gelu_slope(a))
MAP2(gelu_tanh_grad, b *gelu_tanh_slope(a))
MAP2(silu_grad, b *silu_slope(a))
MAP2(softplus_grad, b *sigmoid(a))
MAP2(rdiv_scalar_grad, b * -p / (a * a))

MAP2(relu_grad, a > 0 ? b : 0)
MAP2(sigmoid_grad, b *a *(1 - a))
MAP2(tanh_grad, b *(1 - a * a))
MAP2(sqrt_grad, b * 0.5 / a)
MAP2(rsqrt_grad, b * -0.5 * a * a * a)

MAP2(l1, fabs(a - b))
MAP2(l1_grad, p *sign(a - b))
MAP2(bce, (a > 0 ? a : 0) - a * b + log1p(exp(-fabs(a))))
MAP2(bce_grad, p *(sigmoid(a) - b))
