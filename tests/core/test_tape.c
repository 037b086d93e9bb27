/* What rk_backward() promises beside the rules of single operations. */
#include <rankine/tensor.h>

#include "core/ctx.h"
#include "core/tape.h"
#include "test.h"

#include <string.h>

static rk_ctx *opened(void)
{
    rk_ctx *ctx;
    if (rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx)) {
        fprintf(stderr, "%s\n", rk_error(ctx));
        exit(1);
    }
    return ctx;
}

static rk_tensor *leaf(rk_ctx *ctx, double value)
{
    rk_tensor *t = rk_tensor_make(ctx, RK_F64, RK_SHAPE(3));
    double v[3] = { value, value + 1, value + 2 };
    rk_tensor_write(t, v, sizeof v);
    rk_require_grad(t, true);
    return t;
}

static double grad_at(rk_tensor *t, int i)
{
    double g[3] = { NAN, NAN, NAN };
    if (rk_grad(t))
        rk_tensor_read(rk_grad(t), g, sizeof g);
    return g[i];
}

TEST(a_tensor_that_is_used_twice_gets_both_gradients)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *y = rk_add(rk_mul(x, x), x); /* x^2 + x */
    CHECK_OK(ctx, rk_backward(rk_sum(y, 0, false)));
    for (int i = 0; i < 3; i++)
        CHECK_CLOSE(grad_at(x, i), 2 * (1 + i) + 1, 1e-15, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(a_shared_gradient_is_not_added_into)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *a = rk_mul_scalar(x, 1), *b = rk_mul_scalar(x, 1);
    /* add hands the same dy to a and b; a then receives a second one */
    rk_tensor *y = rk_add(rk_mul_scalar(a, 3), rk_add(a, b));
    CHECK_OK(ctx, rk_backward(rk_sum(y, 0, false)));
    CHECK_CLOSE(grad_at(x, 0), 5, 0, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(several_calls_add_up_until_zeroed)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    for (int i = 1; i <= 3; i++) {
        CHECK_OK(ctx, rk_backward(rk_sum(rk_mul_scalar(x, 2), 0, false)));
        CHECK_OK(ctx, rk_step_end(ctx));
        CHECK_CLOSE(grad_at(x, 1), 2 * i, 0, 0);
    }
    rk_grad_zero(x);
    CHECK(rk_grad(x) == NULL);
    CHECK_OK(ctx, rk_backward(rk_sum(x, 0, false)));
    CHECK_CLOSE(grad_at(x, 1), 1, 0, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(two_losses_over_one_trunk)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *trunk = rk_mul(x, x);
    CHECK_OK(ctx, rk_backward_retain(rk_sum(trunk, 0, false)));
    CHECK_OK(ctx, rk_backward(rk_sum(rk_mul_scalar(trunk, 10), 0, false)));
    CHECK_CLOSE(grad_at(x, 2), 11 * 2 * 3, 1e-15, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(a_second_walk_over_released_values_is_refused)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *trunk = rk_exp(x);
    rk_tensor *first = rk_sum(trunk, 0, false), *second = rk_sum(rk_mul_scalar(trunk, 2), 0, false);
    CHECK_OK(ctx, rk_backward(first));
    CHECK_INT(rk_backward(second), RK_EUSAGE);
    CHECK(strstr(rk_error(ctx), "rk_backward_retain"));
    rk_close(ctx);
}

TEST(values_that_were_passed_are_released_unless_kept)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *a = rk_mul_scalar(x, 2), *b = rk_keep(rk_mul_scalar(a, 2));
    CHECK_OK(ctx, rk_backward(rk_sum(b, 0, false)));
    double v[3];
    CHECK_OK(ctx, rk_tensor_read(b, v, sizeof v));
    CHECK(v[0] == 4 && grad_at(b, 0) == 1);
    CHECK_INT(rk_tensor_read(a, v, sizeof v), RK_EUSAGE);
    CHECK(strstr(rk_error(ctx), "rk_keep"));
    rk_close(ctx);
}

TEST(detach_and_no_grad_stop_the_walk)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *y = rk_mul(rk_detach(x), x); /* d/dx = x, not 2x */
    CHECK_OK(ctx, rk_backward(rk_sum(y, 0, false)));
    CHECK_CLOSE(grad_at(x, 2), 3, 0, 0);
    rk_no_grad_begin(ctx);
    rk_tensor *z = rk_mul(x, x);
    rk_no_grad_end(ctx);
    CHECK(!rk_requires_grad(z));
    CHECK_INT(rk_backward(rk_sum(z, 0, false)), RK_EUSAGE);
    rk_close(ctx);
}

TEST(gradients_flow_through_views)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = leaf(ctx, 1);
    rk_tensor *m = rk_broadcast(rk_reshape(x, RK_SHAPE(1, 3)), RK_SHAPE(2, 3));
    rk_tensor *t = rk_contiguous(rk_transpose(m, 0, 1)); /* (3, 2) */
    rk_tensor *part = rk_slice(t, 0, 1, 3);              /* x[1], x[2], twice each */
    CHECK_OK(ctx, rk_backward(rk_sum(rk_mul(part, part), 0, false)));
    CHECK_CLOSE(grad_at(x, 0), 0, 0, 0);
    CHECK_CLOSE(grad_at(x, 1), 2 * 2 * 2, 1e-15, 0);
    CHECK_CLOSE(grad_at(x, 2), 2 * 2 * 3, 1e-15, 0);
    CHECK_INT(rk_close(ctx), 0);
}

/* The gradient of x in sum(max_pool(relu(x)) * r). Keeping relu's output forbids the fused way. */
static void pooled_relu_gradient(const rk_pool_cfg *cfg, bool keep, float *out, size_t bytes)
{
    rk_ctx *ctx = opened();
    rk_tensor *x = rk_tensor_make(ctx, RK_F32, RK_SHAPE(2, 3, 7, 9));
    rk_tensor_read(rk_randn(ctx, RK_F32, RK_SHAPE(2, 3, 7, 9), 1), out, bytes);
    rk_tensor_write(x, out, bytes);
    rk_require_grad(x, true);
    rk_tensor *h = rk_relu(x), *y = rk_max_pool2d(keep ? rk_keep(h) : h, cfg);
    rk_tensor *r = rk_randn(ctx, RK_F32, rk_tensor_shape(y), 2);
    rk_tensor *flat = rk_reshape(rk_mul(y, r), RK_SHAPE(rk_tensor_size(y)));
    CHECK_OK(ctx, rk_backward(rk_sum(flat, 0, false)));
    rk_tensor_read(rk_grad(x), out, bytes);
    CHECK_INT(rk_close(ctx), 0);
}

/* Windows apart, and windows that share elements; many hold nothing positive. */
TEST(relu_before_a_maximum_is_undone_by_either)
{
    enum { SIZE = 2 * 3 * 7 * 9 };
    static float fused[SIZE], plain[SIZE];
    const rk_pool_cfg cfg[] = { { .kernel = { 2, 2 } },
                                { .kernel = { 3, 3 }, .stride = { 1, 1 }, .pad = { 1, 1 } } };
    for (int i = 0; i < 2; i++) {
        pooled_relu_gradient(&cfg[i], false, fused, sizeof fused);
        pooled_relu_gradient(&cfg[i], true, plain, sizeof plain);
        CHECK(memcmp(fused, plain, sizeof plain) == 0);
        int zeros = 0;
        for (int e = 0; e < SIZE; e++)
            zeros += plain[e] == 0;
        CHECK(zeros > SIZE / 4 && zeros < SIZE);
    }
}

TEST(a_training_step_allocates_nothing_once_planned)
{
    rk_ctx *ctx = opened();
    rk_tensor *w = rk_tensor_make(ctx, RK_F32, RK_SHAPE(8, 16));
    rk_require_grad(w, true);
    for (int i = 0; i < 4; i++) {
        rk_tensor *x = rk_randn(ctx, RK_F32, RK_SHAPE(32, 16), (uint64_t)i);
        rk_tensor *y = rk_linear_op(x, w, NULL, RK_ACT_RELU);
        CHECK_OK(ctx, rk_backward(rk_mean(rk_mul(y, y), 0, false)));
        rk_grad_zero(w);
        CHECK_OK(ctx, rk_step_end(ctx));
        if (i > 0)
            CHECK_INT(rk_memory_step_allocs(ctx), 0);
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST_MAIN
