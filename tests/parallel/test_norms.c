/* The norm of the gradients: chunks in a tree, cut parameters row by row and shard by shard; and what it
 * makes of gradients that are not finite. */
#include "test.h"

#include "core/order.h"
#include "core/tape.h"
#include "parallel/norms.h"

#include <math.h>
#include <stdlib.h>

static rk_ctx *open_ctx(int shards)
{
    rk_ctx *ctx = NULL;
    rk_open(&(rk_open_cfg){ .threads = 2, .seed = 5, .device = "cpu" }, &ctx);
    ctx->shards.count = shards;
    return ctx;
}

/* A parameter whose gradient is x. */
static rk_tensor *parameter(rk_ctx *ctx, rk_shape shape, const float *x)
{
    rk_tensor *w = rk_tensor_make(ctx, RK_F32, shape);
    rk_require_grad(w, true);
    rk_tensor *loss = rk_mul(w, rk_from_host(ctx, RK_F32, shape, x));
    for (int i = 0; i < shape.ndim; i++)
        loss = rk_sum(loss, 0, false);
    rk_backward(loss);
    return w;
}

static rk_watch judged(rk_ctx *ctx, rk_tensor *const *t, int n)
{
    rk_watch watch = { .halted = -1 };
    rk__norms *norms;
    if (!rk__norms_make(ctx, NULL, t, n, &norms)) {
        watch.halted = 0;
        rk__norms_judge(norms, &(rk_judge_args){ .loss_scale = 1, .watch = &watch });
    }
    return watch;
}

static double row_sum(const float *x, int64_t n) /* 16 lanes, halved */
{
    double lane[RK_LANES] = { 0 };
    for (int64_t i = 0; i < n; i++)
        lane[i % RK_LANES] += (double)x[i] * (double)x[i];
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            lane[l] += lane[l + h];
    return lane[0];
}

TEST(cut_parameters_are_rows_then_shards)
{
    enum { R = 21, C = 50 };
    float x[R * C];
    for (int i = 0; i < R * C; i++)
        x[i] = sinf((float)(i * i % 97)) * (float)(1 + i % 7);
    for (int s = 1; s <= 32; s *= 2)
        for (int axis = 0; axis < 2; axis++) {
            rk_ctx *ctx = open_ctx(s);
            rk__cut cut = { .axis = axis, .whole = axis ? C : R };
            double want[32], rows[R];
            rk_tensor *t = parameter(ctx, RK_SHAPE(R, C), x);
            t->cut = &cut;
            for (int i = 0; i < s; i++) {
                int64_t r0 = 0, r1 = R, c0 = 0, c1 = C;
                rk_order_leaf(axis ? C : R, s, i, axis ? &c0 : &r0, axis ? &c1 : &r1);
                for (int64_t r = r0; r < r1; r++)
                    rows[r] = row_sum(x + r * C + c0, c1 - c0);
                want[i] = r1 > r0 ? rk_order_tree(rows, r0, r1) : 0;
            }
            CHECK(judged(ctx, &t, 1).verdict[0].norm == sqrt(rk_order_tree(want, 0, s)));
            CHECK_INT(rk_close(ctx), 0);
        }
}

TEST(chunks_in_a_tree_and_parameters_in_order)
{
    enum { N = 5 * RK_CHUNK + 77 };
    float *x = malloc(N * sizeof *x);
    double sums[6];
    for (int i = 0; i < N; i++)
        x[i] = sinf((float)(i % 9973)) * (float)(1 + i % 5);
    rk_ctx *ctx = open_ctx(1);
    rk_tensor *t[] = { parameter(ctx, RK_SHAPE(N), x), rk_tensor_make(ctx, RK_F32, RK_SHAPE(9)),
                       parameter(ctx, RK_SHAPE(3), x + 11) };
    for (int c = 0; c < 6; c++)
        sums[c] = row_sum(x + c * RK_CHUNK, c < 5 ? RK_CHUNK : 77);
    const double sum = rk_order_tree(sums, 0, 6) + row_sum(x + 11, 3);
    rk_watch w = judged(ctx, t, 3); /* the second has no gradient */
    CHECK(w.verdict[0].norm == sqrt(sum) && w.verdict[0].bad == RK_VERDICT_GOOD && w.steps == 1 && !w.still);
    const float bad[] = { 1, NAN, 2 };
    t[1] = parameter(ctx, RK_SHAPE(3), bad);
    w = judged(ctx, t, 3);
    CHECK(w.verdict[0].bad == 2 && w.halted && w.still && w.steps == 0);
    CHECK_INT(rk_close(ctx), 0);
    free(x);
}

TEST_MAIN
