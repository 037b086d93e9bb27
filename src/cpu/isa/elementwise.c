/* Elementwise functions, their gradients, and losses per element. Numeric contract: the value of an element
 * depends on that element alone; parameters are rounded to float first (pow_scalar keeps its exponent in
 * double). */
#include "cpu/isa/isa.h"

#include "cpu/isa/vmath.h"

#define RK_FN static
#include "core/pow.inc"

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

/* The rows of core/maps.def. */
#define MAP1(name, cost, f32, f64)                                                              \
    static void name##_span(int64_t n, const float *xs, const float *none, double p, float *ys) \
    {                                                                                           \
        (void)none;                                                                             \
        const vf s = v_set1((float)p);                                                          \
        (void)s;                                                                                \
        int64_t i = 0;                                                                          \
        for (; i + VL <= n; i += VL) {                                                          \
            vf x = v_load(xs + i);                                                              \
            v_store(ys + i, f32);                                                               \
        }                                                                                       \
        if (i < n) {                                                                            \
            vf x = v_loadn(xs + i, (int)(n - i));                                               \
            v_storen(ys + i, (int)(n - i), f32);                                                \
        }                                                                                       \
    }                                                                                           \
    rk_status RK_NAME(name)(rk_dev * dev, int64_t n, const void *x, double p, void *y)          \
    {                                                                                           \
        return run(dev, n, cost, name##_span, x, NULL, p, y);                                   \
    }

#define MAP2(name, cost, f32, f64)                                                                    \
    static void name##_span(int64_t n, const float *as, const float *bs, double p, float *ys)         \
    {                                                                                                 \
        const vf s = v_set1((float)p);                                                                \
        (void)s;                                                                                      \
        int64_t i = 0;                                                                                \
        for (; i + VL <= n; i += VL) {                                                                \
            vf a = v_load(as + i), b = v_load(bs + i);                                                \
            v_store(ys + i, f32);                                                                     \
        }                                                                                             \
        if (i < n) {                                                                                  \
            vf a = v_loadn(as + i, (int)(n - i)), b = v_loadn(bs + i, (int)(n - i));                  \
            v_storen(ys + i, (int)(n - i), f32);                                                      \
        }                                                                                             \
    }                                                                                                 \
    rk_status RK_NAME(name)(rk_dev * dev, int64_t n, const void *a, const void *b, double p, void *y) \
    {                                                                                                 \
        return run(dev, n, cost, name##_span, a, b, p, y);                                            \
    }

#include "core/maps.def"

/* ---- powers ---- */

static void pow_scalar_span(int64_t n, const float *x, const float *none, double p, float *y)
{
    (void)none;
    for (int64_t i = 0; i < n; i++)
        y[i] = rk__pow_f32(x[i], p);
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
        y[i] = rk__pow_grad_f32(a[i], b[i], factor, p);
}

rk_status RK_NAME(pow_scalar_grad)(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y)
{
    return run(dev, n, p == 2 ? 0.1 : 20, pow_scalar_grad_span, a, b, p, y);
}

rk_status RK_NAME(mul_by)(rk_dev *dev, int64_t n, const void *x, const void *by, void *y)
{
    return run(dev, n, 0.06, mul_scalar_span, x, NULL, (double)*(const float *)by, y);
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
