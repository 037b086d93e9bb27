/* Elementwise functions: against double precision (the f64 table), and the same bits on every device, for odd
 * sizes and addresses, in place too. */
#include "ref.h"

#include <stddef.h>

typedef struct map_case {
    const char *name;
    size_t entry; /* offset in rk_kernels */
    int args;     /* 1 or 2 */
    double lo, hi, p;
    double rtol, atol;
} map_case;

#define ONE(f, ...)                                 \
    {                                               \
#f, offsetof(rk_kernels, f), 1, __VA_ARGS__ \
    }
#define TWO(f, ...)                                 \
    {                                               \
#f, offsetof(rk_kernels, f), 2, __VA_ARGS__ \
    }
static const double EPS = 0x1p-24; /* half a unit in the last place of 1 */

/* name, range of the inputs, parameter, relative and absolute tolerance in units of EPS */
static const map_case cases[] = {
    TWO(add, -10, 10, 0, 1, 0),
    TWO(sub, -10, 10, 0, 1, 0),
    TWO(mul, -10, 10, 0, 1, 0),
    TWO(div, -10, 10, 0, 1, 0),
    TWO(add_scaled, -10, 10, 0.3, 1, 2), /* p is rounded to float */
    ONE(add_scalar, -10, 10, 0.25, 1, 0),
    ONE(mul_scalar, -10, 10, 0.25, 1, 0),
    ONE(rsub_scalar, -10, 10, 0.25, 1, 0),
    ONE(rdiv_scalar, -10, 10, 0.25, 1, 0),
    ONE(pow_scalar, -10, 10, 3, 1.01, 0),
    ONE(pow_scalar, -10, 10, -2, 1.01, 0),
    ONE(pow_scalar, -10, 10, 2, 1.01, 0),
    ONE(pow_scalar, 0, 100, 0.37, 1.01, 0),
    ONE(pow_scalar, 0, 3, 40, 1.01, 0),
    ONE(neg, -10, 10, 0, 0, 0),
    ONE(exp, -90, 90, 0, 2, 0),
    ONE(log, 0, 100, 0, 2, 0.1),
    ONE(sqrt, 0, 100, 0, 1, 0),
    ONE(rsqrt, 0, 100, 0, 2, 0),
    ONE(abs, -10, 10, 0, 0, 0),
    ONE(relu, -10, 10, 0, 0, 0),
    ONE(leaky_relu, -10, 10, 0.125, 1, 0),
    ONE(gelu, -10, 10, 0, 4, 6),
    ONE(gelu_tanh, -10, 10, 0, 20, 4),
    ONE(silu, -20, 20, 0, 6, 0),
    ONE(sigmoid, -100, 100, 0, 4, 0),
    ONE(tanh, -10, 10, 0, 4, 0),
    ONE(softplus, -100, 100, 0, 5, 0),
    TWO(pow_scalar_grad, -10, 10, 3, 3, 0),
    TWO(pow_scalar_grad, -10, 10, 2, 3, 0),
    TWO(pow_scalar_grad, 0, 10, 0.5, 3, 0),
    TWO(abs_grad, -10, 10, 0, 0, 0),
    TWO(relu_grad, -10, 10, 0, 0, 0),
    TWO(leaky_relu_grad, -10, 10, 0.125, 1, 0),
    TWO(gelu_grad, -10, 10, 0, 10, 40),
    TWO(gelu_tanh_grad, -10, 10, 0, 10, 20),
    TWO(silu_grad, -10, 10, 0, 6, 20),
    TWO(sigmoid_grad, 0, 1, 0, 4, 0),
    TWO(tanh_grad, -1, 1, 0, 4, 2),
    TWO(softplus_grad, -10, 10, 0, 6, 0),
    TWO(sqrt_grad, 0.1, 10, 0, 3, 0),
    TWO(rsqrt_grad, 0.1, 10, 0, 5, 0),
    TWO(rdiv_scalar_grad, 0.1, 10, 0.5, 5, 0),
    TWO(l1, -10, 10, 0, 1, 0),
    TWO(l1_grad, -10, 10, 0.25, 0, 0),
    TWO(bce, 0, 1, 0, 6, 4),
    TWO(bce_grad, -1, 1, 0.125, 4, 1),
};
enum { CASES = sizeof cases / sizeof *cases };

static rk_map1 *map1(const rk_kernels *k, const map_case *c)
{
    return *(rk_map1 *const *)(const void *)((const char *)k + c->entry);
}

static rk_map2 *map2(const rk_kernels *k, const map_case *c)
{
    return *(rk_map2 *const *)(const void *)((const char *)k + c->entry);
}

static bool apply(const rk_kernels *k, rk_dev *dev, const map_case *c, int64_t n, const void *a,
                  const void *b, void *y)
{
    return (c->args == 1 ? map1(k, c)(dev, n, a, c->p, y) : map2(k, c)(dev, n, a, b, c->p, y)) == RK_OK;
}

static void in_double(const map_case *c, rk_dev *dev, int64_t n, const float *a, const float *b, double *y)
{
    double *da = malloc(sizeof *da * (size_t)(2 * n + 1)), *db = da + n;
    for (int64_t i = 0; i < n; i++) {
        da[i] = (double)a[i];
        db[i] = (double)b[i];
    }
    apply(rk_device_cpu.kernels(dev, RK_F64), dev, c, n, da, db, y);
    free(da);
}

static bool within(const map_case *c, int64_t n, const float *y, const double *want)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)y[i] - want[i]) <= EPS * (c->rtol * fabs(want[i]) + c->atol) + 0x1p-149) &&
            y[i] != (float)want[i] && !(isnan(y[i]) && isnan(want[i]))) {
            fprintf(stderr, "%s (p %g): element %lld is %.9g, not %.9g\n", c->name, c->p, (long long)i,
                    (double)y[i], want[i]);
            return false;
        }
    return true;
}

static bool check_case(const map_case *c, int64_t n)
{
    float *a = ref_random(n, 1, c->lo, c->hi), *b = ref_random(n, 2, c->lo, c->hi), *first = NULL;
    double *want = malloc(sizeof *want * (size_t)(n + 1));
    bool ok = true;
    for (cpu_iter it = { 0 }; cpu_next(&it);) {
        float *y = ref_buffer(n), *in_place = ref_copy(a, n);
        ok &= apply(it.k, it.dev, c, n, a, b, y) && apply(it.k, it.dev, c, n, in_place, b, in_place);
        if (!first) {
            in_double(c, it.dev, n, a, b, want);
            ok &= within(c, n, y, want);
        }
        ok &= ref_same(y, in_place, n) && ref_free(in_place, n);
        ok &= ref_agree(&first, y, n);
        if (!ok)
            fprintf(stderr, "%s, %lld elements: %s, %d threads\n", c->name, (long long)n, it.isa, it.threads);
    }
    ok &= ref_free(first, n);
    ok &= ref_free(a, n) && ref_free(b, n);
    free(want);
    return ok;
}

TEST(values_and_bits_of_every_function)
{
    static const int64_t sizes[] = { 0, 1, 7, 33, 1000 };
    for (int c = 0; c < CASES; c++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            CHECK(check_case(&cases[c], sizes[s]));
}

/* Large enough that three threads share the work. */
TEST(threads_change_no_bit)
{
    for (int c = 0; c < CASES; c++)
        if (!strstr(cases[c].name, "pow"))
            CHECK(check_case(&cases[c], 200001));
}

TEST(special_values)
{
    static const float special[] = { 0.0f,   -0.0f,     INFINITY,        -INFINITY,
                                     NAN,    0x1p-149f, -0x1p-149f,      0x1p-126f,
                                     1.0f,   -1.0f,     0x1.fffffep127f, -0x1.fffffep127f,
                                     104.0f, -104.0f,   88.8f,           -88.8f };
    enum { N = sizeof special / sizeof *special };
    static const char *const names[] = { "exp", "log",  "sqrt",    "rsqrt", "abs",
                                         "neg", "relu", "sigmoid", "tanh",  "softplus" };
    for (size_t f = 0; f < sizeof names / sizeof *names; f++)
        for (int c = 0; c < CASES; c++) {
            if (strcmp(cases[c].name, names[f]))
                continue;
            float *first = NULL;
            for (cpu_iter it = { 0 }; cpu_next(&it);) {
                float *y = ref_buffer(N);
                double want[N];
                CHECK(apply(it.k, it.dev, &cases[c], N, special, special, y));
                in_double(&cases[c], it.dev, N, special, special, want);
                for (int i = 0; i < N; i++)
                    if (ref_ulps(y[i], want[i]) > 2)
                        TEST_FAIL("%s(%g) on %s is %g, not %g", names[f], (double)special[i], it.isa,
                                  (double)y[i], want[i]);
                CHECK(ref_agree(&first, y, N));
            }
            CHECK(ref_free(first, N));
        }
}

TEST(powers_as_c_defines_them)
{
    static const float bases[] = { 0.0f,     -0.0f,     1.0f, -1.0f,     2.5f, -2.5f,
                                   INFINITY, -INFINITY, NAN,  0x1p-140f, 3e38f };
    static const double powers[] = { 0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1.5, 10, 127, 1e6 };
    enum { N = sizeof bases / sizeof *bases };
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (size_t p = 0; p < sizeof powers / sizeof *powers; p++) {
            float y[N];
            CHECK_INT(it.k->pow_scalar(it.dev, N, bases, powers[p], y), RK_OK);
            for (int i = 0; i < N; i++) {
                double want = pow((double)bases[i], powers[p]);
                if (ref_ulps(y[i], want) > 0.51 || (y[i] == 0 && signbit(y[i]) != signbit((float)want)))
                    TEST_FAIL("%g ^ %g is %g, not %g", (double)bases[i], powers[p], (double)y[i], want);
            }
        }
}

TEST(fill_writes_what_it_should)
{
    for (cpu_iter it = { 0 }; cpu_next(&it);)
        for (int64_t n = 0; n < 70; n += 3) {
            float *y = ref_buffer(n);
            CHECK_INT(it.k->fill(it.dev, n, 0.1, y), RK_OK);
            for (int64_t i = 0; i < n; i++)
                CHECK(y[i] == 0.1f);
            CHECK(ref_free(y, n));
        }
}

TEST_MAIN
