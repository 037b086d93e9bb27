/* The scale of losses: exact where nothing is rounded, and what it does where gradients are not finite. */
#include "test.h"

#include "core/watch.h"
#include "train/optim.h"

#include <rankine/ckpt.h>

#include <unistd.h>

static rk_ctx *ctx;

/* y = w x without a bias that matters; the gradient of w is x. */
typedef struct {
    rk_module *net;
    rk_tensor *w;
    rk_optim *opt;
} toy;

static toy make(rk_optim_cfg cfg, rk_dtype compute)
{
    toy t;
    rk_open(&(rk_open_cfg){ .threads = 1, .device = "cpu" }, &ctx);
    rk_set_compute(ctx, compute);
    t.net = rk_root(ctx, "net");
    rk_linear(t.net, "fc", 3, 1);
    t.w = rk_param_find(t.net, "fc.weight");
    rk_tensor_write(t.w, (float[]){ 1, -2, 0.5f }, 12);
    t.opt = rk_optim_make(t.net, &cfg);
    return t;
}

/* The loss is x times factor times w. */
static rk_status push(toy *t, const float x[3], double factor)
{
    rk_tensor *in = rk_from_host(ctx, RK_F32, RK_SHAPE(1, 3), x);
    rk_status st = rk_backward(rk_mul_scalar(rk_sum(rk_forward(t->net, in), 0, false), factor));
    if (!st)
        st = rk_optim_step(t->opt, 1);
    rk_step_end(ctx);
    return st;
}

static void weights(const toy *t, float w[3])
{
    rk_tensor_read(t->w, w, 12);
}

TEST(a_scale_is_a_power_of_two)
{
    static const double good[] = { 1, 2, 0.5, 1024, 0x1p-24, 0x1p40 },
                        bad[] = { 0, -2, 3, 1e9, 0x1p41, INFINITY, NAN };
    for (int i = 0; i < 6; i++)
        CHECK(rk__scale_fits(good[i]));
    for (int i = 0; i < 7; i++)
        CHECK(!rk__scale_fits(bad[i]));
    make((rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .loss_scale = 3 }, RK_F32);
    CHECK_INT(rk_failed(ctx), RK_EUSAGE);
    rk_close(ctx);
}

TEST(optimisers_of_a_context_have_one_scale)
{
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .loss_scale = 2 }, RK_F32);
    CHECK(rk_optim_make(t.net, &(rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .loss_scale = 2 }));
    CHECK_OK(ctx, rk_failed(ctx));
    rk_optim_make(t.net, &(rk_optim_cfg){ .kind = RK_SGD, .lr = 1 });
    CHECK_INT(rk_failed(ctx), RK_EUSAGE);
    rk_close(ctx);
    t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .loss_scale_moves = true }, RK_F16);
    rk_optim_make(t.net, &(rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .loss_scale = 65536 });
    CHECK_INT(rk_failed(ctx), RK_EUSAGE);
    rk_close(ctx);
}

/* Without rounding to f16 no bit of an update depends on it, clipped or not. */
TEST(division_undoes_it_exactly)
{
    static const float x[3] = { 0.3f, -1.7f, 2.9f };
    float want[3], got[3];
    for (int clip = 0; clip < 2; clip++)
        for (double scale = 0; scale <= 4096; scale = scale > 0 ? 4 * scale : 0.25) {
            toy t = make((rk_optim_cfg){ .kind = RK_ADAMW,
                                         .lr = 0.1,
                                         .beta1 = 0.9,
                                         .beta2 = 0.99,
                                         .eps = 1e-8,
                                         .weight_decay = 0.1,
                                         .clip_norm = clip ? 0.7 : 0,
                                         .loss_scale = scale },
                         RK_F32);
            for (int i = 0; i < 5; i++)
                CHECK_OK(ctx, push(&t, x, 1));
            weights(&t, got);
            if (scale == 0)
                memcpy(want, got, sizeof want);
            CHECK(!memcmp(want, got, sizeof want));
            CHECK_CLOSE(rk_optim_grad_norm(t.opt), sqrt(0.3 * 0.3 + 1.7 * 1.7 + 2.9 * 2.9 + 1), 1e-6, 0);
            rk_close(ctx);
        }
}

/* A gradient that half precision takes for zero arrives, scaled. */
TEST(small_gradients_arrive)
{
    static const float x[3] = { 1, 1, 1 };
    float without[3], with[3];
    for (int scaled = 0; scaled < 2; scaled++) {
        toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 0x1p20, .loss_scale_moves = scaled }, RK_F16);
        CHECK_OK(ctx, push(&t, x, 0x1p-26));
        weights(&t, scaled ? with : without);
        rk_close(ctx);
    }
    CHECK(without[0] == 1 && with[0] == 1 - 0x1p-6f);
}

/* dy = 100 becomes infinite from a scale of 1024 on: 65536 is halved until it fits, and no step before that
 * counts. */
TEST(steps_that_overflow_are_left_out)
{
    static const float x[3] = { 1, 0, 0 };
    float w[3];
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 0x1p-7, .ema_decay = 0.5, .loss_scale_moves = true },
                 RK_F16);
    for (int i = 0; i < 7; i++) {
        CHECK(rk_optim_loss_scale(t.opt) == 65536 / (double)(1 << i));
        CHECK_OK(ctx, push(&t, x, 100));
        weights(&t, w);
        CHECK(w[0] == 1 && w[1] == -2 && w[2] == 0.5f);
        CHECK(rk_optim_skipped(t.opt) == i + 1 && rk_optim_steps(t.opt) == 0);
        CHECK(rk_optim_grad_norm(t.opt) != rk_optim_grad_norm(t.opt));
    }
    CHECK_OK(ctx, push(&t, x, 100));
    weights(&t, w);
    CHECK(w[0] == 0.21875f && rk_optim_steps(t.opt) == 1 && rk_optim_skipped(t.opt) == 7);
    CHECK(rk_optim_loss_scale(t.opt) == 512);
    rk_close(ctx);
}

TEST(it_grows_after_many_good_steps)
{
    int64_t power = RK_SCALING_START, good = 0, skipped = 0;
    for (int i = 0; i < RK_SCALING_GROWS; i++) {
        CHECK(rk_scaling_value(power) == 65536);
        rk_scaling_good(&power, &good);
    }
    CHECK(rk_scaling_value(power) == 131072);
    for (int i = 0; i < RK_SCALING_GROWS - 1; i++)
        rk_scaling_good(&power, &good);
    CHECK(rk_scaling_bad(&power, &good, &skipped) && rk_scaling_value(power) == 65536 && skipped == 1);
    for (int i = 0; i < RK_SCALING_GROWS - 1; i++) /* counted anew */
        rk_scaling_good(&power, &good);
    CHECK(rk_scaling_value(power) == 65536);
    for (int i = 0; i < 20 * RK_SCALING_GROWS; i++)
        rk_scaling_good(&power, &good);
    CHECK(rk_scaling_value(power) == 0x1p24);
    CHECK(rk_scaling_value(INT64_MAX) == 0x1p24); /* as a snapshot might say */
    CHECK(rk_scaling_value(-5) == 1);
}

TEST(what_is_never_finite_diverges)
{
    static const float x[3] = { INFINITY, 0, 0 };
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 0.01, .loss_scale_moves = true }, RK_F16);
    for (int i = 0; i < 16; i++)
        CHECK_OK(ctx, push(&t, x, 1));
    CHECK(rk_optim_loss_scale(t.opt) == 1);
    CHECK_INT(push(&t, x, 1), RK_EDIVERGED);
    CHECK(
        strstr(rk_error(ctx), "gradient of fc.weight is not finite, and the loss is not scaled up any more"));
    rk_close(ctx);
    t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 0.01, .loss_scale = 1024 }, RK_F16);
    CHECK_INT(push(&t, (const float[]){ 1, 0, 0 }, 100), RK_EDIVERGED);
    CHECK(strstr(rk_error(ctx), "at a loss scale of 1024; a smaller one may help"));
    rk_close(ctx);
}

TEST_MAIN
