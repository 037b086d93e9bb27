/* The plain product in double: what rk_gemm means, literally. */
#include "core/kernels.h"
#include "core/order.h"

#include <math.h>
#include <string.h>

static double to_bf16(double x)
{
    float f = (float)x;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    u = f != f ? u | 0x00400000 : u + 0x7fff + (u >> 16 & 1);
    u &= 0xffff0000;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* As a multiple of the last bit that half precision has there. */
static double to_f16(double x)
{
    float f = (float)x, most = 65520;
    int exponent;
    if (!(fabsf(f) < most))
        return f != f ? f : copysign(INFINITY, f);
    frexp(f, &exponent);
    double unit = ldexp(1, (exponent < -13 ? -13 : exponent) - 11);
    return rint(f / unit) * unit;
}

static double rounded(rk_round to, double x)
{
    return to == RK_ROUND_BF16 ? to_bf16(x) : to == RK_ROUND_F16 ? to_f16(x) : x;
}

/* The subtree of `segments` leaves over units [lo, hi); one leaf is a chain from `start`. */
static double subtree(const rk_gemm *g, const double *a, const double *b, int64_t unit, int64_t lo,
                      int64_t hi, int segments, double start)
{
    if (segments > 1) {
        int64_t mid = rk_order_mid(lo, hi);
        double left = subtree(g, a, b, unit, lo, mid, segments / 2, 0);
        return left + subtree(g, a, b, unit, mid, hi, segments / 2, 0);
    }
    double sum = start;
    for (int64_t k = lo * unit; k < hi * unit; k++) {
        double x = rounded(g->round, a[k * g->a_col]), y = rounded(g->round, b[k * g->b_row]);
        sum = fma(x, y, sum);
    }
    return sum;
}

static double activate(rk_act act, double x)
{
    switch (act) {
    case RK_ACT_RELU:
        return 0 > x ? 0 : x; /* a NaN stays one */
    case RK_ACT_GELU:
        return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case RK_ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x)));
    default:
        return x;
    }
}

static void element(const rk_gemm *g, int64_t item, int64_t i, int64_t j)
{
    const double *a = (const double *)g->a + item * g->a_batch + i * g->a_row;
    const double *b = (const double *)g->b + item * g->b_batch + j * g->b_col;
    int64_t at = item * g->c_batch + i * g->ldc + j;
    double *c = (double *)g->c + at;
    rk_order o = g->order.segments > 0 ? g->order : (rk_order){ 1, 1, RK_ACC_SET };
    int64_t unit = o.unit > 0 ? o.unit : 1;
    double v = subtree(g, a, b, unit, 0, g->k / unit, o.segments, o.acc == RK_ACC_CHAIN ? *c : 0);
    if (o.acc == RK_ACC_ADD)
        v = *c + v;
    if (g->bias)
        v += ((const double *)g->bias)[j];
    if (g->pre)
        ((double *)g->pre)[at] = v;
    v = activate(g->act, v);
    if (g->relu_mask)
        v = ((const double *)g->relu_mask)[at] > 0 ? v : 0;
    *c = v;
}

rk_status rk__gemm_f64(rk_dev *dev, const rk_gemm *g)
{
    (void)dev;
    int64_t count = g->batch > 0 ? g->batch : 1;
    for (int64_t item = 0; item < count; item++)
        for (int64_t i = 0; i < g->m; i++)
            for (int64_t j = 0; j < g->n; j++)
                element(g, item, i, j);
    return RK_OK;
}
