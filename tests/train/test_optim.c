/* Optimiser steps by hand, clipping, averages, refusals; the shapes of schedules. */
#include "test.h"

#include "train/optim.h"
#include "train/schedule.h"

#include <rankine/ckpt.h>

#include <unistd.h>

static rk_ctx *ctx;

/* One weight w (3), loss = sum(c * w): the gradient is c. */
typedef struct {
    rk_module *net;
    rk_tensor *w, *b;
    rk_optim *opt;
} toy;

static toy make(rk_optim_cfg cfg)
{
    toy t;
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    t.net = rk_root(ctx, "net");
    rk_linear(t.net, "fc", 3, 1);
    t.w = rk_param_find(t.net, "fc.weight");
    t.b = rk_param_find(t.net, "fc.bias");
    rk_tensor_write(t.w, (float[]){ 1, -2, 0.5f }, 12);
    rk_tensor_write(t.b, (float[]){ 4 }, 4);
    t.opt = rk_optim_make(t.net, &cfg);
    return t;
}

static rk_status push(toy *t, float a, float b, float c, double scale)
{
    rk_tensor *x = rk_from_host(ctx, RK_F32, RK_SHAPE(1, 3), (float[]){ a, b, c });
    rk_status st = rk_backward(rk_sum(rk_forward(t->net, x), 0, false)); /* the bias gets 1 */
    if (!st)
        st = rk_optim_step(t->opt, scale);
    rk_step_end(ctx);
    return st;
}

static double at(rk_tensor *t, int i)
{
    float v[3];
    rk_tensor_read(t, v, (size_t)rk_tensor_size(t) * sizeof *v);
    return (double)v[i];
}

TEST(sgd_with_momentum_and_decay)
{
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 0.5, .momentum = 0.5, .weight_decay = 0.25 });
    CHECK_OK(ctx, push(&t, 1, 0, 2, 1));
    /* w -= lr (g + 0.25 w); the bias has no decay */
    CHECK_CLOSE(at(t.w, 0), 1 - 0.5 * 1.25, 1e-6, 0);
    CHECK_CLOSE(at(t.w, 1), -2 + 0.5 * 0.5, 1e-6, 0);
    CHECK_CLOSE(at(t.b, 0), 3.5, 1e-6, 0);
    CHECK_OK(ctx, push(&t, 0, 0, 0, 0.5));
    CHECK_CLOSE(at(t.w, 0), 0.375 - 0.25 * (0.25 * 0.375 + 0.5 * 1.25), 1e-6, 0);
    CHECK_CLOSE(at(t.b, 0), 3.5 - 0.25 * (1 + 0.5), 1e-6, 0);
    CHECK_INT(rk_optim_steps(t.opt), 2);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(adamw_first_step_is_lr_and_decay)
{
    toy t = make((rk_optim_cfg){
        .kind = RK_ADAMW, .lr = 0.1, .weight_decay = 0.5, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 });
    CHECK_OK(ctx, push(&t, 3, -7, 0, 1));
    CHECK_CLOSE(at(t.w, 0), 1 * (1 - 0.05) - 0.1, 1e-5, 0);
    CHECK_CLOSE(at(t.w, 1), -2 * (1 - 0.05) + 0.1, 1e-5, 0);
    CHECK_CLOSE(at(t.w, 2), 0.5 * (1 - 0.05), 1e-5, 0);
    CHECK_CLOSE(at(t.b, 0), 3.9, 1e-6, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(decay_on_everything_if_asked)
{
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .weight_decay = 0.5, .decay_all = true });
    CHECK_OK(ctx, push(&t, 0, 0, 0, 1));
    CHECK_CLOSE(at(t.b, 0), 4 - 1 - 2, 1e-6, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(clipping_by_the_norm_of_all)
{
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .clip_norm = 1.5 });
    CHECK_OK(ctx, push(&t, 2, 2, 0, 1)); /* with the bias's 1: norm 3, halved */
    CHECK_CLOSE(rk_optim_grad_norm(t.opt), 3, 1e-9, 0);
    CHECK_CLOSE(at(t.w, 0), 0, 0, 1e-6);
    CHECK_CLOSE(at(t.w, 1), -3, 1e-6, 0);
    CHECK_CLOSE(at(t.b, 0), 3.5, 1e-6, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(averages_follow_the_weights)
{
    toy t = make((rk_optim_cfg){ .kind = RK_SGD, .lr = 1, .ema_decay = 0.75 });
    double avg = 1;
    for (int i = 0; i < 4; i++) {
        CHECK_OK(ctx, push(&t, 1, 0, 0, 1));
        avg = 0.75 * avg + 0.25 * (1 - (i + 1));
    }
    CHECK_CLOSE(at(t.w, 0), -3, 1e-6, 0);
    rk__optim_swap_ema(t.opt);
    CHECK_CLOSE(at(t.w, 0), avg, 1e-6, 0);
    rk__optim_swap_ema(t.opt);
    CHECK_CLOSE(at(t.w, 0), -3, 1e-6, 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(a_gradient_that_is_not_finite_changes_nothing)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    for (int i = 0; i < 3; i++) {
        toy t = make((rk_optim_cfg){ .kind = RK_ADAM, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 });
        CHECK_INT(push(&t, 1, bad[i], 1, 1), RK_EDIVERGED);
        CHECK(strstr(rk_error(ctx), "fc.weight"));
        rk_error_clear(ctx);
        CHECK(at(t.w, 0) == 1 && at(t.w, 1) == -2 && at(t.w, 2) == 0.5 && at(t.b, 0) == 4);
        CHECK_INT(rk_optim_steps(t.opt), 0);
        rk_close(ctx);
    }
}

TEST(impossible_settings_are_refused)
{
    static const rk_optim_cfg cfgs[] = {
        { .kind = RK_SGD, .lr = -1 },
        { .kind = RK_SGD, .lr = NAN },
        { .kind = RK_SGD, .lr = 1, .nesterov = true },
        { .kind = RK_ADAM, .lr = 1, .beta1 = 1, .beta2 = 0.9 },
        { .kind = RK_SGD, .lr = 1, .ema_decay = 1 },
        { .kind = (rk_optim_kind)9, .lr = 1 },
    };
    for (size_t i = 0; i < sizeof cfgs / sizeof *cfgs; i++) {
        toy t = make(cfgs[i]);
        CHECK(!t.opt);
        CHECK_INT(rk_failed(ctx), RK_EUSAGE);
        CHECK(rk_optim_step(t.opt, 1)); /* what a failed maker gives is accepted */
        rk_close(ctx);
    }
}

static double scale(const char *name, rk__schedule s, int64_t step)
{
    return rk__schedule_find(name, &s.kind) ? rk__schedule_scale(&s, step) : NAN;
}

TEST(schedules)
{
    rk__schedule s = { .min_scale = 0.1, .gamma = 0.5, .warmup = 10, .total = 110 };
    static const char *const names[] = { "constant", "step", "linear", "cosine", "wsd" };
    for (int i = 0; i < 5; i++) {
        CHECK_CLOSE(scale(names[i], s, 0), 0.1, 1e-12, 0);
        CHECK_CLOSE(scale(names[i], s, 9), 1, 1e-12, 0);
        CHECK_CLOSE(scale(names[i], s, 10), 1, 1e-12, 0);
    }
    CHECK_CLOSE(scale("constant", s, 109), 1, 0, 0);
    CHECK_CLOSE(scale("linear", s, 60), 0.55, 1e-12, 0);
    CHECK_CLOSE(scale("linear", s, 500), 0.1, 1e-12, 0);
    for (int t = 0; t <= 100; t++)
        CHECK_CLOSE(scale("cosine", s, 10 + t), 0.1 + 0.9 * 0.5 * (1 + cos(M_PI * t / 100)), 1e-14, 1e-15);
    CHECK_CLOSE(scale("step", s, 10 + 32), 1, 0, 0);
    CHECK_CLOSE(scale("step", s, 10 + 33), 0.5, 1e-12, 0);
    CHECK_CLOSE(scale("step", s, 10 + 66), 0.25, 1e-12, 0);
    CHECK_CLOSE(scale("wsd", s, 10 + 80), 1, 0, 0);
    CHECK_CLOSE(scale("wsd", s, 10 + 90), 0.55, 1e-12, 0);
    CHECK_CLOSE(scale("wsd", s, 10 + 100), 0.1, 1e-12, 0);
    s.decay_steps = 50;
    CHECK_CLOSE(scale("wsd", s, 10 + 75), 0.55, 1e-12, 0);
    CHECK_CLOSE(scale("step", s, 10 + 50), 0.5, 0, 0);
    CHECK(isnan(scale("cosin", s, 0)));
}

/* What rk_save writes rk_resume restores, and the next steps have the same bits. */
TEST(saved_and_resumed_by_hand)
{
    rk_optim_cfg cfg = {
        .kind = RK_ADAMW, .lr = 0.1, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0.1
    };
    char dir[64];
    snprintf(dir, sizeof dir, "test_optim_run_%d", (int)getpid());
    toy a = make(cfg);
    CHECK_OK(ctx, rk_resume(dir, a.net, a.opt, NULL)); /* nothing there yet */
    for (int i = 0; i < 3; i++)
        CHECK_OK(ctx, push(&a, 1, (float)i, -1, 1));
    CHECK_OK(ctx, rk_save(dir, a.net, a.opt, NULL));
    CHECK_OK(ctx, rk_save(dir, a.net, a.opt, NULL)); /* saved already: fine */
    CHECK_OK(ctx, push(&a, 2, 2, 2, 1));
    double w[3] = { at(a.w, 0), at(a.w, 1), at(a.w, 2) };
    CHECK_INT(rk_close(ctx), 0);
    toy b = make(cfg);
    CHECK_OK(ctx, rk_resume(dir, b.net, b.opt, NULL));
    CHECK_INT(rk_optim_steps(b.opt), 3);
    CHECK_OK(ctx, push(&b, 2, 2, 2, 1));
    for (int i = 0; i < 3; i++)
        CHECK(at(b.w, i) == w[i]);
    CHECK_INT(rk_close(ctx), 0);
    char rm[100];
    snprintf(rm, sizeof rm, "rm -rf '%s'", dir);
    CHECK_INT(system(rm), 0);
}

TEST_MAIN
