/* Elementwise functions, their gradients, and losses per element. Numeric contract: the value of an element
 * depends on that element alone; parameters are rounded to float first (pow_scalar keeps its exponent in
 * double). */
#include "cpu/isa/isa.h"

#include "cpu/isa/vmath.h"

/* One function over n consecutive elements; b is NULL for functions of one array. */
typedef void span_fn(int64_t n, const float *a, const float *b, double p, float *y);

typedef struct job {
    int64_t n, each;
    const float *a, *b;
    float *y;
    double p;
    span_fn *fn;
} job;

static void run_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const job *j = arg;
    int64_t lo = task * j->each, hi = lo + j->each < j->n ? lo + j->each : j->n;
    j->fn(hi - lo, j->a + lo, j->b ? j->b + lo : NULL, j->p, j->y + lo);
}

/* cost: nanoseconds an element, on data that is in a near cache. */
static rk_status run(rk_dev *dev, int64_t n, double cost, span_fn *fn, const void *a, const void *b, double p,
                     void *y)
{
    job j = { .n = n, .a = a, .b = b, .y = y, .p = p, .fn = fn };
    int64_t tasks;
    j.each = rk__grain(dev, n, cost, &tasks);
    rk__parallel(dev, tasks, run_task, &j);
    return RK_OK;
}

/* MAP1(name, nanoseconds, expression of the vectors x and s, s = p in every lane) */
#define MAP1(name, cost, ...)                                                                   \
    static void name##_span(int64_t n, const float *xs, const float *none, double p, float *ys) \
    {                                                                                           \
        (void)none;                                                                             \
        const vf s = v_set1((float)p);                                                          \
        (void)s;                                                                                \
        int64_t i = 0;                                                                          \
        for (; i + VL <= n; i += VL) {                                                          \
            vf x = v_load(xs + i);                                                              \
            v_store(ys + i, __VA_ARGS__);                                                       \
        }                                                                                       \
        if (i < n) {                                                                            \
            vf x = v_loadn(xs + i, (int)(n - i));                                               \
            v_storen(ys + i, (int)(n - i), __VA_ARGS__);                                        \
        }                                                                                       \
    }                                                                                           \
    rk_status RK_NAME(name)(rk_dev * dev, int64_t n, const void *x, double p, void *y)          \
    {                                                                                           \
        return run(dev, n, cost, name##_span, x, NULL, p, y);                                   \
    }

/* MAP2(name, nanoseconds, expression of the vectors a, b and s) */
#define MAP2(name, cost, ...)                                                                         \
    static void name##_span(int64_t n, const float *as, const float *bs, double p, float *ys)         \
    {                                                                                                 \
        const vf s = v_set1((float)p);                                                                \
        (void)s;                                                                                      \
        int64_t i = 0;                                                                                \
        for (; i + VL <= n; i += VL) {                                                                \
            vf a = v_load(as + i), b = v_load(bs + i);                                                \
            v_store(ys + i, __VA_ARGS__);                                                             \
        }                                                                                             \
        if (i < n) {                                                                                  \
            vf a = v_loadn(as + i, (int)(n - i)), b = v_loadn(bs + i, (int)(n - i));                  \
            v_storen(ys + i, (int)(n - i), __VA_ARGS__);                                              \
        }                                                                                             \
    }                                                                                                 \
    rk_status RK_NAME(name)(rk_dev * dev, int64_t n, const void *a, const void *b, double p, void *y) \
    {                                                                                                 \
        return run(dev, n, cost, name##_span, a, b, p, y);                                            \
    }

/* -1, 0 or 1; a NaN stays one. */
RK_INLINE vf sign_of(vf x)
{
    vf unit = v_copysign(v_set1(1.0f), x);
    return v_sel(v_ne(x, v_zero()), v_sel(v_isnan(x), x, unit), v_zero());
}

/* x where it is positive (or NaN), slope * x elsewhere. */
RK_INLINE vf leaky(vf x, vf slope)
{
    return v_sel(v_lt(x, v_zero()), v_mul(slope, x), x);
}

/* Binary cross entropy of logit a and target b: max(a, 0) - a b + log(1 + e^-|a|). */
RK_INLINE vf bce_of(vf a, vf b)
{
    vf tail = v__log1p_unit(v_exp(v_neg(v_abs(a))));
    return v_add(v_fnma(a, b, v_relu(a)), tail);
}

/* clang-format off */
MAP2(add, 0.08, v_add(a, b))
MAP2(sub, 0.08, v_sub(a, b))
MAP2(mul, 0.08, v_mul(a, b))
MAP2(div, 0.25, v_div(a, b))
MAP2(add_scaled, 0.08, v_fma(s, b, a))

MAP1(add_scalar, 0.06, v_add(x, s))
MAP1(mul_scalar, 0.06, v_mul(x, s))
MAP1(rsub_scalar, 0.06, v_sub(s, x))
MAP1(rdiv_scalar, 0.25, v_div(s, x))
MAP1(neg, 0.06, v_neg(x))
MAP1(exp, 0.5, v_exp(x))
MAP1(log, 0.6, v_log(x))
MAP1(sqrt, 0.3, v_sqrt(x))
MAP1(rsqrt, 0.5, v_rsqrt(x))
MAP1(abs, 0.06, v_abs(x))
MAP1(relu, 0.06, v_relu(x))
MAP1(leaky_relu, 0.06, leaky(x, s))
MAP1(gelu, 1.0, v_gelu(x))
MAP1(gelu_tanh, 0.8, v_gelu_tanh(x))
MAP1(silu, 0.8, v_silu(x))
MAP1(sigmoid, 0.8, v_sigmoid(x))
MAP1(tanh, 0.9, v_tanh(x))
MAP1(softplus, 1.4, v_softplus(x))

/* From the input a and the gradient b. */
MAP2(abs_grad, 0.1, v_mul(b, sign_of(a)))
MAP2(leaky_relu_grad, 0.08, v_sel(v_gt(a, v_zero()), b, v_mul(s, b)))
MAP2(gelu_grad, 1.6, v_mul(b, v_gelu_slope(a)))
MAP2(gelu_tanh_grad, 1.0, v_mul(b, v_gelu_tanh_slope(a)))
MAP2(silu_grad, 0.9, v_mul(b, v_silu_slope(a)))
MAP2(softplus_grad, 0.8, v_mul(b, v_sigmoid(a)))
MAP2(rdiv_scalar_grad, 0.3, v_div(v_mul(v_neg(s), b), v_mul(a, a)))

/* From the output a and the gradient b. */
MAP2(relu_grad, 0.08, v_keep(v_gt(a, v_zero()), b))
MAP2(sigmoid_grad, 0.1, v_mul(b, v_mul(a, v_sub(v_set1(1.0f), a))))
MAP2(tanh_grad, 0.1, v_mul(b, v_fnma(a, a, v_set1(1.0f))))
MAP2(sqrt_grad, 0.25, v_div(v_mul(v_set1(0.5f), b), a))
MAP2(rsqrt_grad, 0.1, v_mul(v_mul(v_set1(-0.5f), b), v_mul(v_mul(a, a), a)))

/* Losses per element. */
MAP2(l1, 0.08, v_abs(v_sub(a, b)))
MAP2(l1_grad, 0.1, v_mul(s, sign_of(v_sub(a, b))))
MAP2(bce, 1.5, bce_of(a, b))
MAP2(bce_grad, 0.9, v_mul(s, v_sub(v_sigmoid(a), b)))
/* clang-format on */

/* ---- powers: in double, since p log x needs more bits than a float has ---- */

static double bits_to_double(uint64_t u)
{
    double d;
    memcpy(&d, &u, sizeof d);
    return d;
}

static uint64_t double_to_bits(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof u);
    return u;
}

/* log2 of a positive float: 2 atanh(z) / ln 2 with z = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)]; error
 * 1e-13. */
static double log2_of(float x)
{
    uint64_t sqrt_half = UINT64_C(0x3fe6a09e667f3bcd), ix = double_to_bits((double)x) - sqrt_half;
    double e = (double)((int64_t)ix >> 52);
    double m = bits_to_double((ix & UINT64_C(0xfffffffffffff)) + sqrt_half);
    double z = (m - 1) / (m + 1), s = z * z, p = 1.0 / 15;
    for (int k = 13; k >= 1; k -= 2)
        p = p * s + 1.0 / k;
    return e + 2 * z * p * 0x1.71547652b82fep0;
}

/* 2^y as a float; error of the double before rounding 1e-14. */
static float exp2_of(double y)
{
    y = y < -200 ? -200 : y > 200 ? 200 : y;
    double n = (y + 0x1.8p52) - 0x1.8p52, r = (y - n) * 0x1.62e42fefa39efp-1, p = 1.0 / 39916800;
    static const double inverse_factorial[] = { 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                                                1.0 / 720,     1.0 / 120,    1.0 / 24,    1.0 / 6,
                                                1.0 / 2,       1.0,          1.0 };
    for (int k = 0; k < 11; k++)
        p = p * r + inverse_factorial[k];
    return (float)(p * bits_to_double((uint64_t)((int64_t)n + 1023) << 52));
}

/* x^p as C's pow defines it. */
static float pow_of(float x, double p)
{
    if (p == 0 || x == 1.0f)
        return 1.0f;
    if (x != x || p != p)
        return x + (float)p;
    float a = fabsf(x), y;
    if (a == 0 || a == INFINITY)
        y = (a == 0) == (p > 0) ? 0.0f : INFINITY;
    else
        y = exp2_of(p * log2_of(a));
    if (!signbit(x))
        return y;
    bool whole = p == floor(p), odd = whole && fmod(p, 2) != 0;
    if (!whole && a != 0 && a != INFINITY)
        return NAN;
    return odd ? -y : y;
}

static void pow_scalar_span(int64_t n, const float *x, const float *none, double p, float *y)
{
    (void)none;
    for (int64_t i = 0; i < n; i++)
        y[i] = pow_of(x[i], p);
}

static void square_span(int64_t n, const float *x, const float *none, double p, float *y)
{
    (void)none;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * x[i];
}

rk_status RK_NAME(pow_scalar)(rk_dev *dev, int64_t n, const void *x, double p, void *y)
{
    if (p == 2)
        return run(dev, n, 0.06, square_span, x, NULL, p, y);
    return run(dev, n, 20, pow_scalar_span, x, NULL, p, y);
}

static void pow_scalar_grad_span(int64_t n, const float *a, const float *b, double p, float *y)
{
    float factor = (float)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = p == 0 ? 0.0f : b[i] * (factor * (p == 2 ? a[i] : pow_of(a[i], p - 1)));
}

rk_status RK_NAME(pow_scalar_grad)(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y)
{
    return run(dev, n, p == 2 ? 0.1 : 20, pow_scalar_grad_span, a, b, p, y);
}

/* ---- fill ---- */

static void fill_span(int64_t n, const float *none_a, const float *none_b, double p, float *y)
{
    (void)none_a;
    (void)none_b;
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        v_store(y + i, v_set1((float)p));
    v_storen(y + i, (int)(n - i), v_set1((float)p));
}

rk_status RK_NAME(fill)(rk_dev *dev, int64_t n, double value, void *y)
{
    return run(dev, n, 0.05, fill_span, y, NULL, value, y);
}
