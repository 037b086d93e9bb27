/* The rows of cases.def: gradients by central differences, f32 against f64, the same bits on every device. */
#include "core/tape.h"
#include "ops/cases.h"
#include "test.h"

enum { SEED = 11, STEP = 5, FIRST_SAMPLE = 3 };

/* ---- inputs: pseudo-random numbers that f32 holds exactly ---- */

static double uniform01(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 40) * 0x1p-24;
}

static double normal01(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += uniform01(state);
    return sum;
}

/* Multiples of 0.05, each once, in an order that a stride coprime to n makes. */
static double distinct(int64_t i, int64_t n)
{
    int64_t step = n * 5 / 8 + 1;
    for (int64_t a = step, b = n; b;) {
        int64_t r = a % b;
        a = b;
        b = r;
        if (b == 0 && a != 1) {
            step++;
            a = step;
            b = n;
        }
    }
    return 0.05 * (double)(i * step % n) - 1;
}

static double element(const case_input *in, int64_t i, int64_t n, uint64_t *state)
{
    double v = normal01(state);
    switch (in->kind) {
    case 'A':
        return (float)(v < 0 ? v - 0.1 : v + 0.1);
    case 'P':
        return (float)(0.5 + 1.5 * uniform01(state));
    case 'T':
        return uniform01(state);
    case 'D':
        return (float)distinct(i, n);
    case 'I':
        return floor(uniform01(state) * (double)in->limit);
    default:
        return (float)v;
    }
}

static int64_t size_of(const rk_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        n *= s->dim[i];
    return n;
}

static double *input_values(const case_input *in, int number)
{
    int64_t n = size_of(&in->shape);
    double *v = malloc((size_t)n * sizeof *v + 1);
    uint64_t state = 0x9E3779B97F4A7C15u * (uint64_t)(number + 1);
    for (int64_t i = 0; v && i < n; i++)
        v[i] = element(in, i, n, &state);
    return v;
}

static bool takes_gradient(const case_input *in)
{
    return in->kind != 'I' && in->kind != 'T';
}

/* A leaf of the values, and what the op is given: the leaf, or a view of it whose axes lie in memory the
 * other way round (so nothing but its strides differs). */
typedef struct input {
    rk_tensor *leaf, *x;
} op_input;

static rk_tensor *leaf_of(rk_ctx *ctx, const case_input *in, rk_dtype t, rk_shape shape, const double *v)
{
    int64_t n = size_of(&shape);
    if (in->kind == 'I') {
        int64_t *at = malloc((size_t)n * sizeof *at + 1);
        for (int64_t i = 0; i < n; i++)
            at[i] = (int64_t)v[i];
        rk_tensor *x = rk_from_host(ctx, RK_I64, shape, at);
        free(at);
        return x;
    }
    return rk_cast(rk_from_host(ctx, RK_F64, shape, v), t);
}

/* v (row-major in shape) as it lies when the axes are reversed. */
static double *reversed_values(const rk_shape *s, const double *v)
{
    int64_t n = size_of(s), at[RK_MAX_DIMS] = { 0 };
    double *out = malloc((size_t)n * sizeof *out + 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t to = 0;
        for (int d = s->ndim - 1; d >= 0; d--)
            to = to * s->dim[d] + at[d];
        out[to] = v[i];
        for (int d = s->ndim - 1; d >= 0 && ++at[d] == s->dim[d]; d--)
            at[d] = 0;
    }
    return out;
}

static op_input make_input(rk_ctx *ctx, const case_input *in, rk_dtype t, const double *v, bool strided)
{
    op_input made;
    if (!strided) {
        made.leaf = made.x = leaf_of(ctx, in, t, in->shape, v);
    } else {
        rk_shape back = in->shape;
        int order[RK_MAX_DIMS] = { 0 };
        for (int d = 0; d < back.ndim; d++) {
            back.dim[d] = in->shape.dim[back.ndim - 1 - d];
            order[d] = back.ndim - 1 - d;
        }
        double *reversed = reversed_values(&in->shape, v);
        made.leaf = leaf_of(ctx, in, t, back, reversed);
        free(reversed);
        if (takes_gradient(in))
            rk_require_grad(made.leaf, true);
        made.x = rk_permute(made.leaf, order);
        return made;
    }
    if (takes_gradient(in))
        rk_require_grad(made.leaf, true);
    return made;
}

/* ---- a run of a row: its result, and gradients for a fixed seed gradient ---- */

typedef struct outcome {
    rk_dtype dtype;
    rk_shape shape;
    double *y;
    int64_t n;
    double *g[CASE_INPUTS]; /* in the order of the leaf; NULL: none */
} outcome;

static void outcome_free(outcome *o)
{
    free(o->y);
    for (int i = 0; i < CASE_INPUTS; i++)
        free(o->g[i]);
    memset(o, 0, sizeof *o);
}

static double *read_wide(rk_tensor *t)
{
    rk_tensor *wide = rk_cast(t, RK_F64);
    int64_t n = rk_tensor_size(wide);
    double *v = calloc((size_t)n + 1, sizeof *v);
    if (v && rk_tensor_read(wide, v, (size_t)n * sizeof *v)) {
        free(v);
        return NULL;
    }
    return v;
}

/* The seed gradient: the same for every element type. */
static double seed_at(int64_t i)
{
    uint64_t state = 77 + (uint64_t)i;
    uniform01(&state);
    return uniform01(&state) - 0.5;
}

static rk_tensor *seed_gradient(rk_tensor *y)
{
    rk_ctx *ctx = rk_tensor_ctx(y);
    int64_t n = rk_tensor_size(y);
    double *v = malloc((size_t)n * sizeof *v + 1);
    for (int64_t i = 0; i < n; i++)
        v[i] = seed_at(i);
    rk_tensor *r = rk_cast(rk_from_host(ctx, RK_F64, rk_tensor_shape(y), v), rk_tensor_dtype(y));
    free(v);
    return r;
}

/* v: values of the inputs. Ends the step. */
static bool run_case(rk_ctx *ctx, const op_case *c, rk_dtype t, double *const *v, bool strided,
                     bool gradients, outcome *o)
{
    op_input in[CASE_INPUTS] = { { 0 } };
    rk_tensor *x[CASE_INPUTS] = { 0 };
    memset(o, 0, sizeof *o);
    rk_set_step(ctx, STEP, FIRST_SAMPLE);
    if (!gradients)
        rk_no_grad_begin(ctx);
    for (int i = 0; i < case_inputs(c); i++) {
        in[i] = make_input(ctx, &c->in[i], t, v[i], strided);
        x[i] = in[i].x;
    }
    rk_tensor *y = c->run(ctx, x);
    o->dtype = rk_tensor_dtype(y);
    o->shape = rk_tensor_shape(y);
    o->n = rk_tensor_size(y);
    o->y = read_wide(y);
    if (gradients && rk_requires_grad(y)) {
        rk_backward_from(y, seed_gradient(y));
        for (int i = 0; i < case_inputs(c); i++)
            if (rk_grad(in[i].leaf))
                o->g[i] = read_wide(rk_grad(in[i].leaf));
    }
    if (!gradients)
        rk_no_grad_end(ctx);
    bool ok = !rk_failed(ctx) && o->y;
    if (!ok)
        fprintf(stderr, "%s%s in %s%s: %s\n", c->name, c->suffix, rk_dtype_name(t),
                strided ? ", strided" : "", rk_error(ctx));
    rk_error_clear(ctx);
    rk_step_end(ctx);
    return ok;
}

static void all_values(const op_case *c, double **v)
{
    for (int i = 0; i < CASE_INPUTS; i++)
        v[i] = i < case_inputs(c) ? input_values(&c->in[i], i) : NULL;
}

static void free_values(double **v)
{
    for (int i = 0; i < CASE_INPUTS; i++)
        free(v[i]);
}

static bool same_within(const op_case *c, const char *what, const double *a, const double *b, int64_t n,
                        double tolerance)
{
    double largest = 1;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(b[i]));
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(a[i] - b[i]) <= tolerance * largest)) {
            fprintf(stderr, "%s%s: %s[%lld] is %.12g, expected %.12g\n", c->name, c->suffix, what,
                    (long long)i, a[i], b[i]);
            return false;
        }
    return true;
}

static rk_ctx *open_on(const char *isa, int threads)
{
    rk_ctx *ctx = NULL;
    rk_open_cfg cfg = { .isa = isa, .threads = threads, .seed = SEED };
    if (rk_open(&cfg, &ctx) == RK_OK)
        return ctx;
    rk_close(ctx);
    return NULL;
}

/* ---- coverage ---- */

/* Every "RK_API rk_tensor *rk_name(" below the views' headline of tensor.h, and rk_split. */
static bool next_operation(const char **text, char *name, size_t n)
{
    static const char key[] = "RK_API rk_tensor *rk_";
    const char *p = strstr(*text, key);
    if (!p)
        return false;
    p += sizeof key - 1 - 3;
    size_t len = strcspn(p, "(");
    snprintf(name, n, "%.*s", (int)len, p);
    *text = p + len;
    return true;
}

static bool has_row(const char *function)
{
    for (int i = 0; i < OP_CASES; i++)
        if (op_cases[i].function && !strcmp(op_cases[i].function, function))
            return true;
    fprintf(stderr, "%s has no row in tests/ops/cases.def\n", function);
    return false;
}

TEST(every_operation_has_a_row)
{
    FILE *f = fopen(RK_SOURCE_DIR "/include/rankine/tensor.h", "rb");
    CHECK(f);
    static char text[1 << 16];
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    CHECK(n > 0 && n < sizeof text - 1);
    const char *at = strstr(text, "/* ---- views");
    CHECK(at);
    char name[64];
    int found = 0, missing = !has_row("rk_split");
    for (; next_operation(&at, name, sizeof name); found++)
        missing += !has_row(name);
    CHECK(found > 50);
    CHECK_INT(missing, 0);
}

/* ---- gradients by central differences, in f64 ---- */

enum { EVERY_ELEMENT = 48, SOME_ELEMENTS = 12 }; /* inputs up to the first are checked in full */
static const double DIFFERENCE = 1e-5;           /* error about h^2 and 1e-16 / h */

/* sum of y * seed, as rk_backward_from() is told. */
static bool seeded_loss(rk_ctx *ctx, const op_case *c, double *const *v, bool strided, double *loss)
{
    outcome o;
    bool ok = run_case(ctx, c, RK_F64, v, strided, false, &o);
    *loss = 0;
    for (int64_t i = 0; ok && i < o.n; i++)
        *loss += o.y[i] * seed_at(i);
    outcome_free(&o);
    return ok;
}

static bool difference_at(rk_ctx *ctx, const op_case *c, double **v, int input, int64_t i, bool strided,
                          double *slope)
{
    double middle = v[input][i], up, down;
    v[input][i] = middle + DIFFERENCE;
    bool ok = seeded_loss(ctx, c, v, strided, &up);
    v[input][i] = middle - DIFFERENCE;
    ok = ok && seeded_loss(ctx, c, v, strided, &down);
    v[input][i] = middle;
    if (ok)
        *slope = (up - down) / (2 * DIFFERENCE);
    return ok;
}

static bool check_input_gradient(rk_ctx *ctx, const op_case *c, double **v, int input, bool strided,
                                 const double *g)
{
    int64_t n = size_of(&c->in[input].shape), step = n <= EVERY_ELEMENT ? 1 : n / SOME_ELEMENTS;
    double largest = 1;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(g[i]));
    double *position = malloc((size_t)n * sizeof *position + 1);
    for (int64_t i = 0; i < n; i++)
        position[i] = (double)i;
    double *lies = strided ? reversed_values(&c->in[input].shape, position) : NULL;
    bool ok = true;
    for (int64_t i = 0; ok && i < n; i += step) {
        double slope;
        int64_t element_of = strided ? (int64_t)lies[i] : i;
        ok = difference_at(ctx, c, v, input, element_of, strided, &slope);
        if (ok && !(fabs(slope - g[i]) <= 2e-8 * largest + 1e-8 * fabs(slope))) {
            fprintf(stderr, "%s%s%s: gradient %d at %lld is %.12g, by differences %.12g\n", c->name,
                    c->suffix, strided ? " strided" : "", input, (long long)element_of, g[i], slope);
            ok = false;
        }
    }
    free(position);
    free(lies);
    return ok;
}

/* An operation without gradient (argmax, running statistics) has none to check. */
static bool has_gradient(const op_case *c)
{
    return strcmp(c->name, "argmax") && strcmp(c->name, "argmax_first") &&
           strcmp(c->name, "batch_norm_running");
}

static bool check_gradients(rk_ctx *ctx, const op_case *c, bool strided)
{
    double *v[CASE_INPUTS];
    outcome o;
    all_values(c, v);
    bool ok = run_case(ctx, c, RK_F64, v, strided, true, &o);
    for (int i = 0; ok && i < case_inputs(c); i++) {
        if (!takes_gradient(&c->in[i]) || !has_gradient(c))
            continue;
        if (!o.g[i]) {
            fprintf(stderr, "%s%s: input %d got no gradient\n", c->name, c->suffix, i);
            ok = false;
        } else {
            ok = check_input_gradient(ctx, c, v, i, strided, o.g[i]);
        }
    }
    outcome_free(&o);
    free_values(v);
    return ok;
}

static int check_all_gradients(bool strided)
{
    rk_ctx *ctx = open_on(NULL, 1);
    int wrong = ctx == NULL;
    for (int i = 0; ctx && i < OP_CASES; i++)
        wrong += !check_gradients(ctx, &op_cases[i], strided);
    rk_close(ctx);
    return wrong;
}

TEST(gradients_are_central_differences)
{
    CHECK_INT(check_all_gradients(false), 0);
}

TEST(gradients_are_central_differences_strided)
{
    CHECK_INT(check_all_gradients(true), 0);
}

/* ---- f32 against f64, strided against plain ---- */

static bool same_outcome(const op_case *c, const outcome *a, const outcome *b, double tolerance,
                         bool gradients)
{
    if (a->n != b->n || !rk__shape_eq(&a->shape, &b->shape)) {
        fprintf(stderr, "%s%s: another shape\n", c->name, c->suffix);
        return false;
    }
    bool ok = same_within(c, "result", a->y, b->y, a->n, tolerance);
    for (int i = 0; ok && gradients && i < case_inputs(c); i++) {
        ok = !a->g[i] == !b->g[i];
        if (ok && a->g[i])
            ok = same_within(c, "gradient", a->g[i], b->g[i], size_of(&c->in[i].shape), 4 * tolerance + 1e-7);
    }
    return ok;
}

static bool check_f32(rk_ctx *ctx, const op_case *c, bool strided)
{
    double *v[CASE_INPUTS];
    outcome single = { 0 }, wide = { 0 };
    all_values(c, v);
    bool ok = run_case(ctx, c, RK_F32, v, strided, true, &single) &&
              run_case(ctx, c, RK_F64, v, strided, true, &wide) &&
              same_outcome(c, &single, &wide, case_tolerance(c), true);
    outcome_free(&single);
    outcome_free(&wide);
    free_values(v);
    return ok;
}

TEST(f32_is_close_to_f64)
{
    rk_ctx *ctx = open_on(NULL, 1);
    CHECK(ctx);
    int wrong = 0;
    for (int i = 0; i < OP_CASES; i++)
        for (int strided = 0; strided < 2; strided++)
            wrong += !check_f32(ctx, &op_cases[i], strided);
    rk_close(ctx);
    CHECK_INT(wrong, 0);
}

TEST(strides_do_not_change_results)
{
    rk_ctx *ctx = open_on(NULL, 1);
    CHECK(ctx);
    int wrong = 0;
    for (int i = 0; i < OP_CASES; i++) {
        const op_case *c = &op_cases[i];
        double *v[CASE_INPUTS];
        outcome plain = { 0 }, strided = { 0 };
        all_values(c, v);
        wrong += !(run_case(ctx, c, RK_F64, v, false, false, &plain) &&
                   run_case(ctx, c, RK_F64, v, true, false, &strided) &&
                   same_outcome(c, &plain, &strided, 1e-13, false));
        outcome_free(&plain);
        outcome_free(&strided);
        free_values(v);
    }
    rk_close(ctx);
    CHECK_INT(wrong, 0);
}

/* Rows that go through more than one op: what passes between them is rounded too. */
static bool several_ops(const op_case *c)
{
    return !strcmp(c->name, "mlp_fused") || !strcmp(c->name, "relu_two_readers");
}

/* The same within the rounding of the result to 8 bits. */
TEST(bf16_computes_in_f32_and_rounds)
{
    rk_ctx *ctx = open_on(NULL, 1);
    CHECK(ctx);
    int wrong = 0;
    for (int i = 0; i < OP_CASES; i++) {
        const op_case *c = &op_cases[i];
        double *v[CASE_INPUTS];
        outcome stored = { 0 }, single = { 0 };
        if (!c->function || !strncmp(c->name, "batch_norm_", 11) || !strcmp(c->name, "batch_norm") ||
            !has_gradient(c))
            continue; /* running statistics are f32, as the rows here do not make them */
        all_values(c, v);
        for (int k = 0; k < case_inputs(c); k++)
            for (int64_t e = 0; c->in[k].kind != 'I' && e < size_of(&c->in[k].shape); e++) {
                float f = (float)v[k][e];
                uint32_t bits;
                memcpy(&bits, &f, sizeof bits);
                bits &= 0xffff0000u; /* what bf16 holds */
                memcpy(&f, &bits, sizeof f);
                v[k][e] = f;
            }
        wrong += !(run_case(ctx, c, RK_BF16, v, false, true, &stored) &&
                   run_case(ctx, c, RK_F32, v, false, true, &single) &&
                   same_outcome(c, &stored, &single, several_ops(c) ? 0x1p-7 : 0x1p-8, true));
        if (stored.dtype != RK_BF16 && strcmp(c->name, "cast")) {
            fprintf(stderr, "%s: the result is %s\n", c->name, rk_dtype_name(stored.dtype));
            wrong++;
        }
        outcome_free(&stored);
        outcome_free(&single);
        free_values(v);
    }
    rk_close(ctx);
    CHECK_INT(wrong, 0);
}

/* ---- the same bits on every instruction set, with every number of threads ---- */

static bool same_bits(const op_case *c, const outcome *a, const outcome *b, const char *isa, int threads)
{
    bool same = a->n == b->n && !memcmp(a->y, b->y, (size_t)a->n * sizeof *a->y);
    for (int i = 0; same && i < case_inputs(c); i++)
        same = !a->g[i] == !b->g[i] &&
               (!a->g[i] || !memcmp(a->g[i], b->g[i], (size_t)size_of(&c->in[i].shape) * sizeof *a->g[i]));
    if (!same)
        fprintf(stderr, "%s%s: other bits on %s with %d threads\n", c->name, c->suffix, isa, threads);
    return same;
}

TEST(same_bits_on_every_device)
{
    static const char *const isas[] = { "portable", "avx2", "avx512" };
    static outcome first[OP_CASES];
    int wrong = 0, devices = 0;
    for (int d = 0; d < 9; d++) {
        rk_ctx *ctx = open_on(isas[d / 3], 1 + d % 3);
        for (int i = 0; ctx && i < OP_CASES; i++) {
            double *v[CASE_INPUTS];
            outcome o = { 0 };
            all_values(&op_cases[i], v);
            wrong += !run_case(ctx, &op_cases[i], RK_F32, v, false, true, devices ? &o : &first[i]);
            if (devices)
                wrong += !same_bits(&op_cases[i], &first[i], &o, isas[d / 3], 1 + d % 3);
            outcome_free(&o);
            free_values(v);
        }
        devices += ctx != NULL;
        rk_close(ctx);
    }
    for (int i = 0; i < OP_CASES; i++)
        outcome_free(&first[i]);
    CHECK(devices >= 3);
    CHECK_INT(wrong, 0);
}

TEST_MAIN
