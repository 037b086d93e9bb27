/* Tensors without any operation: shapes, views, reading, casts, errors, the plan of step memory. */
#include <rankine/tensor.h>

#include "core/ctx.h"
#include "core/tape.h"
#include "test.h"

static rk_ctx *opened(void)
{
    rk_ctx *ctx;
    if (rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx)) {
        fprintf(stderr, "%s\n", rk_error(ctx));
        exit(1);
    }
    return ctx;
}

static const float six[6] = { 0, 1, 2, 3, 4, 5 };

static rk_tensor *two_by_three(rk_ctx *ctx)
{
    return rk_from_host(ctx, RK_F32, RK_SHAPE(2, 3), six);
}

TEST(views_share_values_and_read_in_their_own_order)
{
    rk_ctx *ctx = opened();
    float got[6];
    rk_tensor *t = rk_transpose(two_by_three(ctx), 0, 1);
    CHECK_OK(ctx, rk_tensor_read(t, got, sizeof got));
    const float transposed[6] = { 0, 3, 1, 4, 2, 5 };
    CHECK(!memcmp(got, transposed, sizeof got));
    rk_tensor *column = rk_slice(t, 1, -1, 2);
    CHECK_OK(ctx, rk_tensor_read(column, got, 3 * sizeof *got));
    CHECK(got[0] == 3 && got[1] == 4 && got[2] == 5);
    rk_tensor *wide = rk_broadcast(rk_reshape(column, RK_SHAPE(1, -1)), RK_SHAPE(2, 3));
    CHECK_OK(ctx, rk_tensor_read(wide, got, sizeof got));
    CHECK(got[0] == 3 && got[3] == 3 && got[5] == 5);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(empty_tensors_are_legal)
{
    rk_ctx *ctx = opened();
    rk_tensor *t = rk_contiguous(rk_transpose(rk_zeros(ctx, RK_F32, RK_SHAPE(0, 7)), 0, 1));
    CHECK_INT(rk_tensor_size(t), 0);
    CHECK_INT(rk_tensor_shape(t).dim[0], 7);
    CHECK_OK(ctx, rk_tensor_read(t, NULL, 0));
    CHECK_INT(rk_close(ctx), 0);
}

static void check_failure(rk_ctx *ctx, rk_status st, const char *part)
{
    CHECK_INT(rk_failed(ctx), st);
    if (!strstr(rk_error(ctx), part))
        TEST_FAIL("\"%s\" does not contain \"%s\"", rk_error(ctx), part);
    rk_error_clear(ctx);
}

TEST(errors_carry_values_and_stick)
{
    rk_ctx *ctx = opened();
    rk_tensor *t = rk_reshape(two_by_three(ctx), RK_SHAPE(4, 2));
    CHECK(rk_tensor_size(t) == 0);
    rk_reshape(t, RK_SHAPE(1)); /* does nothing */
    check_failure(ctx, RK_ESHAPE, "(2, 3) does not become (4, 2)");
    rk_slice(two_by_three(ctx), 1, 2, 9);
    check_failure(ctx, RK_ESHAPE, "[2, 9) of axis 1, which has 3");
    rk_zeros(ctx, RK_F32, RK_SHAPE(INT64_MAX / 2, 4, 4));
    check_failure(ctx, RK_ESHAPE, "too many elements");
    rk_zeros(ctx, RK_F32, RK_SHAPE(1ll << 40, 1 << 10));
    check_failure(ctx, RK_ENOMEM, "out of memory");
    rk_item(two_by_three(ctx));
    check_failure(ctx, RK_ESHAPE, "one element");
    rk_tensor_read(two_by_three(ctx), &(float){ 0 }, 4);
    check_failure(ctx, RK_EUSAGE, "4 bytes");
    rk_close(ctx);
}

TEST(opening_refuses_what_it_cannot_do)
{
    rk_ctx *ctx;
    CHECK_INT(rk_open(&(rk_open_cfg){ .data_shards = 6 }, &ctx), RK_ECONFIG);
    CHECK(strstr(rk_error(ctx), "power of two"));
    CHECK_INT(rk_close(ctx), 78);
    CHECK_INT(rk_open(&(rk_open_cfg){ .device = "abacus" }, &ctx), RK_ECONFIG);
    rk_close(ctx);
    CHECK_INT(rk_open(&(rk_open_cfg){ .isa = "mmx" }, &ctx), RK_ECONFIG);
    CHECK(strstr(rk_error(ctx), "portable"));
    rk_close(ctx);
}

TEST(casts_round_to_nearest_even)
{
    rk_ctx *ctx = opened();
    static const struct {
        float in, bf16, f16;
    } cases[] = {
        { 1.0f, 1.0f, 1.0f },
        { 1.00390625f, 1.0f, 1.00390625f }, /* halfway for bf16: to even */
        { 1.01171875f, 1.015625f, 1.01171875f },
        { 65519.9f, 65536.0f, 65504.0f },
        { 65520.0f, 65536.0f, INFINITY },
        { 5.9604645e-8f, 5.9604645e-8f, 5.9604645e-8f }, /* the smallest f16 */
        { 2.9802322e-8f, 2.9802322e-8f, 0.0f },
        { -0.0f, -0.0f, -0.0f },
        { INFINITY, INFINITY, INFINITY },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rk_tensor *x = rk_from_host(ctx, RK_F32, RK_SHAPE(1), &cases[i].in);
        CHECK(rk_item(rk_cast(x, RK_BF16)) == (double)cases[i].bf16);
        CHECK(rk_item(rk_cast(x, RK_F16)) == (double)cases[i].f16);
    }
    rk_tensor *nan = rk_full(ctx, RK_F32, RK_SHAPE(1), NAN);
    CHECK(isnan(rk_item(rk_cast(nan, RK_BF16))) && isnan(rk_item(rk_cast(nan, RK_F16))));
    CHECK_INT((int64_t)rk_item(rk_cast(rk_full(ctx, RK_F32, RK_SHAPE(1), 300), RK_U8)), 255);
    CHECK_INT(rk_close(ctx), 0);
}

/* Some tensors come and go; returns a checksum so that memory is really used. */
static double busy_step(rk_ctx *ctx, int64_t n)
{
    rk_tensor *a = rk_full(ctx, RK_F32, RK_SHAPE(n), 1), *b = rk_full(ctx, RK_F32, RK_SHAPE(2 * n), 2);
    rk__drop(a);
    rk_tensor *c = rk_full(ctx, RK_F32, RK_SHAPE(n), 3);
    double sum = rk_item(rk_slice(b, 0, -1, 2 * n)) + rk_item(rk_slice(c, 0, 0, 1));
    rk_step_end(ctx);
    return sum;
}

TEST(memory_is_planned_from_the_first_step)
{
    rk_ctx *ctx = opened();
    CHECK(busy_step(ctx, 1024) == 5);
    CHECK(rk_memory_step_allocs(ctx) > 0);
    size_t peak = rk_memory_peak(ctx);
    CHECK_INT(peak, 3 * 1024 * 4); /* c takes a's place */
    for (int i = 0; i < 3; i++) {
        CHECK(busy_step(ctx, 1024) == 5);
        CHECK_INT(rk_memory_step_allocs(ctx), 0);
    }
    CHECK(busy_step(ctx, 2048) == 5); /* another shape plans again */
    CHECK(rk_memory_step_allocs(ctx) > 0);
    CHECK_INT(rk_memory_peak(ctx), 2 * peak);
    CHECK(busy_step(ctx, 1024) == 5); /* and the old plan still holds */
    CHECK_INT(rk_memory_step_allocs(ctx), 0);
    CHECK_INT(rk_close(ctx), 0);
}

/* The same first request, then another order: whatever was placed must not be overwritten. */
TEST(a_step_that_leaves_the_plan_stays_right)
{
    rk_ctx *ctx = opened();
    for (int round = 0; round < 4; round++) {
        rk_tensor *a = rk_full(ctx, RK_F32, RK_SHAPE(256), 1);
        if (round % 2 == 0)
            rk__drop(a);
        rk_tensor *b = rk_full(ctx, RK_F32, RK_SHAPE(256), 2), *c = rk_full(ctx, RK_F32, RK_SHAPE(256), 3);
        if (round % 2)
            CHECK(rk_item(rk_slice(a, 0, 7, 8)) == 1);
        CHECK(rk_item(rk_slice(b, 0, 255, 256)) == 2 && rk_item(rk_slice(c, 0, 0, 1)) == 3);
        CHECK_OK(ctx, rk_step_end(ctx));
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST_MAIN
