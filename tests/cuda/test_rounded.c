/* Weights that the device keeps in 16 bits while they stand still are never those of earlier: after every way
 * to change them a product has the bits of one that converts its operands itself. */
#include "host_run.h"
#include "test.h"

#include "core/rounded.h"

#include <rankine/rankine.h>

#include <stdlib.h>
#include <string.h>

enum { ROWS = 6, IN = 21, OUT = 13 }; /* lines that are no multiple of 8 */

static rk_tensor *numbers(rk_ctx *ctx, bool persistent, int64_t rows, int64_t cols, int seed)
{
    float host[IN * IN];
    rk_tensor *t = persistent ? rk_tensor_make(ctx, RK_F32, RK_SHAPE(rows, cols)) : NULL;
    for (int64_t i = 0; i < rows * cols; i++)
        host[i] = (float)((i * 7919 + seed * 104729) % 1999 - 999) / 700;
    if (!t)
        return rk_from_host(ctx, RK_F32, RK_SHAPE(rows, cols), host);
    rk_tensor_write(t, host, (size_t)(rows * cols) * sizeof *host);
    return t;
}

static void product(rk_ctx *ctx, rk_tensor *w, float *out)
{
    CHECK(!rk_tensor_read(rk_linear_op(numbers(ctx, false, ROWS, IN, 1), w, NULL, RK_ACT_NONE), out,
                          ROWS * OUT * sizeof *out));
}

/* ---- ways to change them ---- */

static void write_all(rk_ctx *ctx, rk_tensor *w)
{
    float host[OUT * IN];
    for (int i = 0; i < OUT * IN; i++)
        host[i] = (float)(i % 17) / 3;
    (void)ctx;
    CHECK(!rk_tensor_write(w, host, sizeof host));
}

static void write_some(rk_ctx *ctx, rk_tensor *w)
{
    const float host[3] = { 5, -4, 3 };
    (void)ctx;
    CHECK(!rk__tensor_write_range(w, 40, 3, host));
}

static void swap(rk_ctx *ctx, rk_tensor *w)
{
    CHECK(!rk__tensor_swap(w, numbers(ctx, true, OUT, IN, 5)));
}

/* Another had been used meanwhile. */
static void swap_with_a_used_one(rk_ctx *ctx, rk_tensor *w)
{
    float none[ROWS * OUT];
    rk_tensor *other = numbers(ctx, true, OUT, IN, 6);
    product(ctx, other, none);
    CHECK(!rk__tensor_swap(w, other));
}

static void round_otherwise(rk_ctx *ctx, rk_tensor *w)
{
    (void)w;
    CHECK(!rk_set_compute(ctx, RK_F16));
}

/* By a kernel, as optimisers do: nobody is told, and weights move meanwhile. */
static void by_a_kernel(rk_ctx *ctx, rk_tensor *w)
{
    rk__weights_move(ctx);
    CHECK(!rk__kernels(ctx, RK_F32)->mul_scalar(ctx->dev, OUT * IN, rk__data(w), 1.5, rk__data(w)));
    rk__weights_stand(ctx);
}

/* ---- tests ---- */

static rk_ctx *open_half(void)
{
    rk_ctx *ctx;
    if (rk_open(&(rk_open_cfg){ .device = "cuda", .alone = true, .inexact = true }, &ctx) ||
        rk_set_compute(ctx, RK_BF16)) {
        fprintf(stderr, "%s\n", rk_error(ctx));
        exit(1);
    }
    return ctx;
}

TEST(they_are_those_of_today)
{
    void (*const change[])(rk_ctx *, rk_tensor *) = { write_all,       write_some, swap, swap_with_a_used_one,
                                                      round_otherwise, by_a_kernel };
    for (size_t i = 0; i < sizeof change / sizeof *change; i++) {
        rk_ctx *ctx = open_half();
        rk_tensor *w = numbers(ctx, true, OUT, IN, 2);
        float before[ROWS * OUT], kept[ROWS * OUT], fresh[ROWS * OUT];
        rk__weights_stand(ctx);
        product(ctx, w, before);
        product(ctx, w, kept);
        CHECK(!memcmp(before, kept, sizeof kept));
        change[i](ctx, w);
        product(ctx, w, kept);
        rk__weights_move(ctx);
        product(ctx, w, fresh);
        CHECK(!memcmp(kept, fresh, sizeof kept) && memcmp(kept, before, sizeof kept));
        CHECK(!rk_close(ctx));
    }
}

/* The memory of a device in which nothing is kept, and that of one where weights stand still. */
TEST(they_are_kept_only_where_weights_stand_still)
{
    rk_ctx *ctx = open_half();
    rk_tensor *w = numbers(ctx, true, OUT, IN, 2), *small = numbers(ctx, true, 1, IN, 3);
    float out[ROWS * OUT];
    product(ctx, w, out);
    CHECK(!w->storage->rounded);
    rk__weights_stand(ctx);
    product(ctx, w, out);
    CHECK(!!w->storage->rounded ==
          !!(rk__kernels(ctx, RK_F32) && ctx->device->uses(ctx->dev) & RK_USES_ROUNDED));
    CHECK(!rk__is_inert(rk_linear_op(numbers(ctx, false, ROWS, IN, 1), small, NULL, RK_ACT_NONE)));
    CHECK(!small->storage->rounded);
    rk__weights_move(ctx);
    CHECK(!rk_close(ctx));
}

/* A loss over two layers, whose weights' gradients are those of products that convert everything themselves.
 */
TEST(gradients_are_the_same)
{
    float have[2][OUT * IN], want[2][OUT * IN];
    rk_ctx *ctx = open_half();
    rk_tensor *w = numbers(ctx, true, OUT, IN, 2), *v = numbers(ctx, true, IN, OUT, 3);
    rk_require_grad(w, true);
    rk_require_grad(v, true);
    for (int still = 0; still < 2; still++) {
        rk_grad_zero(w);
        rk_grad_zero(v);
        if (still)
            rk__weights_stand(ctx);
        rk_tensor *y = rk_linear_op(numbers(ctx, false, ROWS, IN, 1), w, NULL, RK_ACT_GELU_TANH);
        y = rk_linear_op(y, v, NULL, RK_ACT_RELU);
        CHECK(!rk_backward(rk_sum(y, 3, false)));
        if (still)
            rk__weights_move(ctx);
        CHECK(!rk_tensor_read(rk_grad(w), still ? have[0] : want[0], sizeof have[0]));
        CHECK(!rk_tensor_read(rk_grad(v), still ? have[1] : want[1], sizeof have[1]));
        CHECK(!rk_step_end(ctx));
    }
    CHECK(!memcmp(have, want, sizeof have));
    CHECK(!rk_close(ctx));
}

TEST_MAIN
