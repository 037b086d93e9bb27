/* cases.def as a table. */
#ifndef RK_TEST_CASES_H
#define RK_TEST_CASES_H

#include <rankine/tensor.h>

#include <string.h>

enum { CASE_INPUTS = 4 };

typedef struct case_input {
    char kind; /* as cases.def says; 0: none */
    int64_t limit;
    rk_shape shape;
} case_input;

typedef rk_tensor *case_fn(rk_ctx *ctx, rk_tensor **x);

typedef struct op_case {
    const char *function, *name; /* function: NULL in an ALSO row */
    const char *suffix;
    double tolerance;
    case_fn *run;
    case_input in[CASE_INPUTS];
} op_case;

/* ---- expressions that take more than one call ---- */

/* A relu read by a product, which can mask its gradient, and by a function that cannot. */
static rk_tensor *two_readers(rk_tensor *x, rk_tensor *w1, rk_tensor *w2)
{
    rk_tensor *h = rk_relu(x);
    rk_tensor *a = rk_linear_op(h, w1, NULL, RK_ACT_NONE), *b = rk_matmul(h, w2, false, true);
    return rk_add(rk_add(a, b), rk_sum(rk_tanh(h), 2u, true));
}

static rk_tensor *split_reversed(rk_tensor *x)
{
    rk_tensor *parts[3], *back[3];
    rk_split(x, 1, (int64_t[]){ 1, 3, 2 }, 3, parts);
    for (int i = 0; i < 3; i++)
        back[i] = parts[2 - i];
    return rk_concat(back, 3, 1);
}

/* Running statistics 0.25 and 1.5 for every channel before the call. */
static rk_tensor *running(rk_tensor *x, double value)
{
    return rk_full(rk_tensor_ctx(x), rk_tensor_dtype(x), RK_SHAPE(rk_tensor_shape(x).dim[1]), value);
}

static rk_tensor *batch_norm(rk_tensor *x, rk_tensor *gamma, rk_tensor *beta, bool training, bool shard_scope)
{
    rk_batch_norm_cfg cfg = {
        .eps = 1e-5, .momentum = 0.1, .training = training, .shard_scope = shard_scope
    };
    return rk_batch_norm_op(x, gamma, beta, running(x, 0.25), running(x, 1.5), &cfg);
}

/* What the running statistics become: (2, c). */
static rk_tensor *batch_norm_running(rk_tensor *x)
{
    rk_batch_norm_cfg cfg = { .eps = 1e-5, .momentum = 0.1, .training = true };
    rk_tensor *stats[2] = { running(x, 0.25), running(x, 1.5) };
    rk_batch_norm_op(x, NULL, NULL, stats[0], stats[1], &cfg);
    return rk_stack(stats, 2, 0);
}

/* ---- the table ---- */

#define CASE(function, name, tolerance, expression, ...)      \
    static rk_tensor *case_##name(rk_ctx *ctx, rk_tensor **x) \
    {                                                         \
        (void)ctx;                                            \
        (void)x;                                              \
        (void)function;                                       \
        return expression;                                    \
    }
#define ALSO(name, suffix, ...)
#include "ops/cases.def"
#undef CASE
#undef ALSO

/* clang-format off */
#define CASE_SHAPE(...) { (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)), { __VA_ARGS__ } }
#define N(...)          { 'N', 0, CASE_SHAPE(__VA_ARGS__) }
#define A(...)          { 'A', 0, CASE_SHAPE(__VA_ARGS__) }
#define P(...)          { 'P', 0, CASE_SHAPE(__VA_ARGS__) }
#define D(...)          { 'D', 0, CASE_SHAPE(__VA_ARGS__) }
#define T(...)          { 'T', 0, CASE_SHAPE(__VA_ARGS__) }
#define I(limit, ...)   { 'I', limit, CASE_SHAPE(__VA_ARGS__) }

#define CASE(function, name, tolerance, expression, ...) \
    { #function, #name, "", tolerance, case_##name, { __VA_ARGS__ } },
#define ALSO(name, suffix, ...) { NULL, #name, "_" #suffix, -1, case_##name, { __VA_ARGS__ } },

/* clang-format on */

static const op_case op_cases[] = {
#include "ops/cases.def"
};
enum { OP_CASES = sizeof op_cases / sizeof *op_cases };

#undef CASE
#undef ALSO
#undef N
#undef A
#undef P
#undef D
#undef T
#undef I

/* The tolerance of a row: an ALSO row has its CASE's. */
static double case_tolerance(const op_case *c)
{
    for (int i = 0; c->tolerance < 0 && i < OP_CASES; i++)
        if (op_cases[i].function && op_cases[i].run == c->run)
            return op_cases[i].tolerance;
    return c->tolerance;
}

static int case_inputs(const op_case *c)
{
    int n = 0;
    while (n < CASE_INPUTS && c->in[n].kind)
        n++;
    return n;
}

#endif
