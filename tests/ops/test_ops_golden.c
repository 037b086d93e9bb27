/* Every operation against PyTorch: values and gradients of ops.golden (tests/golden/make_ops.py), in f64 and
 * f32. */
#include "golden/golden.h"
#include "ops/cases.h"
#include "test.h"

enum { SEED = 11, STEP = 5, FIRST_SAMPLE = 3 }; /* as make_ops.py: dropout */

static const golden_array *part(const golden *g, const op_case *c, const char *what, int i)
{
    char name[128];
    if (i < 0)
        snprintf(name, sizeof name, "%s/%s", c->name, what);
    else
        snprintf(name, sizeof name, "%s/%s%d", c->name, what, i);
    return golden_find(g, name);
}

/* |t - wanted| <= tolerance * max(1, largest wanted); says where not. */
static bool close_to(const char *what, const op_case *c, rk_tensor *t, const golden_array *wanted,
                     double tolerance)
{
    rk_tensor *wide = rk_cast(t, RK_F64);
    int64_t n = rk_tensor_size(wide);
    double *v = malloc((size_t)n * sizeof *v + 1), largest = 1;
    rk_shape s = rk_tensor_shape(wide);
    bool ok = v && n == wanted->n && s.ndim == wanted->shape.ndim;
    for (int i = 0; ok && i < s.ndim; i++)
        ok = s.dim[i] == wanted->shape.dim[i];
    if (!ok || rk_tensor_read(wide, v, (size_t)n * sizeof *v)) {
        fprintf(stderr, "%s: %s has another shape than expected, or none (%s)\n", c->name, what,
                rk_error(rk_tensor_ctx(t)));
        free(v);
        return false;
    }
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(golden_value(wanted, i)));
    for (int64_t i = 0; ok && i < n; i++)
        if (!(fabs(v[i] - golden_value(wanted, i)) <= tolerance * largest)) {
            fprintf(stderr, "%s: %s[%lld] is %.17g, expected %.17g\n", c->name, what, (long long)i, v[i],
                    golden_value(wanted, i));
            ok = false;
        }
    free(v);
    return ok;
}

static bool check_gradients(const golden *g, const op_case *c, rk_dtype t, rk_tensor **x, rk_tensor *y,
                            double tolerance)
{
    const golden_array *r = part(g, c, "r", -1);
    rk_ctx *ctx = rk_tensor_ctx(y);
    char what[32];
    if (!r)
        return true;
    if (rk_backward_from(y, golden_tensor(ctx, r, rk_tensor_dtype(y)))) {
        fprintf(stderr, "%s in %s: %s\n", c->name, rk_dtype_name(t), rk_error(ctx));
        return false;
    }
    for (int i = 0; i < case_inputs(c); i++) {
        const golden_array *wanted = part(g, c, "g", i);
        if (!wanted)
            continue;
        snprintf(what, sizeof what, "gradient %d", i);
        if (!rk_grad(x[i]) || !close_to(what, c, rk_grad(x[i]), wanted, tolerance))
            return false;
    }
    return true;
}

static bool check_case(rk_ctx *ctx, const golden *g, const op_case *c, rk_dtype t)
{
    rk_tensor *x[CASE_INPUTS] = { 0 };
    double tolerance =
        t == RK_F64 ? 1e-12 : 4 * case_tolerance(c) + 1e-7; /* a sum of squares and its like, several deep */
    const golden_array *y = part(g, c, "y", -1);
    rk_set_step(ctx, STEP, FIRST_SAMPLE);
    for (int i = 0; i < case_inputs(c); i++) {
        const golden_array *in = part(g, c, "x", i);
        if (!in || !y) {
            fprintf(stderr, "%s has no reference values; add a row to make_ops.py and run it\n", c->name);
            return false;
        }
        x[i] = golden_tensor(ctx, in, t);
        if (part(g, c, "g", i))
            rk_require_grad(x[i], true);
    }
    rk_tensor *result = c->run(ctx, x);
    bool ok = close_to("result", c, result, y, tolerance) && check_gradients(g, c, t, x, result, tolerance);
    if (rk_failed(ctx)) {
        fprintf(stderr, "%s in %s: %s\n", c->name, rk_dtype_name(t), rk_error(ctx));
        rk_error_clear(ctx);
        ok = false;
    }
    rk_step_end(ctx);
    return ok;
}

static int check_all(rk_dtype t)
{
    golden *g = golden_open(RK_SOURCE_DIR "/tests/golden/ops.golden");
    rk_ctx *ctx;
    rk_open_cfg cfg = { .seed = SEED };
    int wrong = 0;
    if (!g || rk_open(&cfg, &ctx))
        return 1;
    for (int i = 0; i < OP_CASES; i++)
        if (op_cases[i].function)
            wrong += !check_case(ctx, g, &op_cases[i], t);
    wrong += rk_close(ctx) != 0;
    golden_close(g);
    return wrong;
}

TEST(as_pytorch_in_f64)
{
    CHECK_INT(check_all(RK_F64), 0);
}

TEST(as_pytorch_in_f32)
{
    CHECK_INT(check_all(RK_F32), 0);
}

TEST_MAIN
