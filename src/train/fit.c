#include "train/fit.h"

#include "core/dry.h"
#include "core/units.h"
#include "nn/module.h"

#include <stdlib.h>

enum { MOST_BUCKET = 64 << 20 }; /* bytes, where the buckets are not known yet */
enum { STEPS = 3 }; /* the first is recorded, the second makes room for its plan, the third follows it */

/* ---- measuring ---- */

static rk_tensor *zeros(rk_ctx *ctx, rk_dtype t, int64_t n, const rk_shape *sample)
{
    rk_shape s = { .ndim = sample->ndim + 1, .dim = { n } };
    for (int i = 0; i < sample->ndim; i++)
        s.dim[i + 1] = sample->dim[i];
    return rk_tensor_make(ctx, t, s);
}

/* A batch of the right size, with nothing in it. */
static rk_batch batch_of(const rk__setup *s, int64_t samples)
{
    const rk_shape one = { 0 }, values = RK_SHAPE(s->outputs);
    rk_batch b = { .n = samples, .global = samples };
    b.x = zeros(s->ctx, RK_F32, samples, &s->input);
    b.y = s->target == RK__CLASSES  ? zeros(s->ctx, RK_I64, samples, &one)
          : s->target == RK__VALUES ? zeros(s->ctx, RK_F32, samples, &values)
                                    : b.x;
    return b;
}

static void count(const rk__setup *s, const rk_optim *o, rk__fit *fit)
{
    for (int i = 0; i < o->n; i++) {
        const rk__optim_slot *slot = &o->slots[i];
        const size_t bytes = (size_t)rk_tensor_size(slot->param.tensor) * sizeof(float);
        fit->weights += bytes;
        fit->gradients += bytes;
        fit->optim += bytes * (size_t)(!!slot->m + !!slot->v + !!slot->ema);
        fit->rounded += slot->param.tensor->storage->rounded_bytes;
    }
    const size_t all = rk__dry_peak(s->ctx->dev),
                 kept = fit->weights + fit->gradients + fit->optim + fit->rounded;
    fit->step = all > kept ? all - kept : 0;
}

static rk_status steps(rk__setup *s, int64_t samples, int64_t micro, rk__fit *fit)
{
    rk__accumulator acc;
    const rk_optim_cfg cfg = rk__config_optim(s->cfg);
    RK_TRY(rk__accumulator_init(&acc, s->job, s->net, rk__setup_loss, s, micro, RK__ZERO_NONE, 0));
    rk_optim *o = rk__optim_make(s->net, &cfg, NULL);
    const rk_batch b = batch_of(s, samples);
    for (uint64_t i = 0; i < STEPS && !rk_failed(s->ctx); i++) {
        double loss;
        RK_TRY(rk__accumulate(&acc, &b, i, &loss));
        RK_TRY(rk_optim_step(o, 1));
        RK_TRY(rk_step_end(s->ctx));
    }
    RK_TRY(rk_failed(s->ctx));
    count(s, o, fit);
    return RK_OK;
}

rk_status rk__fit_measure(const rk__setup *s, int64_t samples, int64_t micro, rk__fit *fit)
{
    rk_ctx *ctx;
    rk__setup dry;
    char *record = rk__setup_record(s);
    *fit = (rk__fit){ 0 };
    rk_status st = rk__open_on(&(rk_open_cfg){ .inexact = !s->cfg->parallel_exact }, &rk__device_dry, &ctx);
    if (!st && record)
        st = rk__setup_recorded(&dry, ctx, s->cfg, record);
    if (!st && record) {
        st = steps(&dry, samples, micro, fit);
        rk__setup_free(&dry);
    }
    rk_close(ctx);
    free(record);
    return record ? st : RK_ENOMEM;
}

static size_t share(size_t bytes, int ranks, bool shared)
{
    return shared ? bytes / (size_t)ranks : bytes;
}

size_t rk__fit_bytes(const rk__fit *fit, int ranks, rk__zero zero)
{
    return fit->step + fit->exchange + (zero < RK__ZERO_WEIGHTS ? fit->rounded : 0) +
           share(fit->optim, ranks, zero >= RK__ZERO_OPTIMIZER) +
           share(fit->gradients, ranks, zero >= RK__ZERO_GRADIENTS) +
           share(fit->weights, ranks, zero >= RK__ZERO_WEIGHTS);
}

/* ---- advice ---- */

typedef struct {
    rk__trainer *t;
    int64_t samples; /* of this rank's part of a batch */
    size_t room, exchange;
    rk__zero zero;
} wanted;

static bool may_be_cut(const rk__trainer *t)
{
    return !rk__global_batch_norm(t->setup.net) && !rk__shard_batch_norm(t->setup.net);
}

/* The largest number of samples at once, half as many as now or fewer, that fits; 0: none. */
static int64_t smaller(const wanted *w, int64_t now, rk__zero zero, size_t *bytes)
{
    rk__fit fit;
    for (int64_t micro = now / 2; micro > 0; micro /= 2) {
        if (rk__fit_measure(&w->t->setup, w->samples, micro, &fit))
            return 0;
        fit.exchange = w->exchange;
        *bytes = rk__fit_bytes(&fit, w->t->ctx->ranks, zero);
        if (*bytes <= w->room)
            return micro;
    }
    return 0;
}

static bool advise_micro(const wanted *w, int64_t now)
{
    char text[RK__SIZE_TEXT];
    size_t bytes;
    const int64_t micro = w->t->setup.net && may_be_cut(w->t) ? smaller(w, now, w->zero, &bytes) : 0;
    if (micro)
        rk__fail_more(w->t->ctx, "; batch.micro %lld would need %s, with the same results", (long long)micro,
                      rk__size_text(bytes, text));
    return micro > 0;
}

static bool advise_zero(const wanted *w, const rk__fit *fit)
{
    const int ranks = w->t->ctx->ranks;
    char text[RK__SIZE_TEXT];
    for (rk__zero z = w->zero + 1; ranks > 1 && z <= RK__ZERO_WEIGHTS; z++)
        if (rk__fit_bytes(fit, ranks, z) <= w->room) {
            rk__fail_more(w->t->ctx, "; parallel.zero %d would need about %s, with the same results", (int)z,
                          rk__size_text(rk__fit_bytes(fit, ranks, z), text));
            return true;
        }
    return false;
}

/* With everything shared by more ranks than there are: how many would do? */
static void advise_ranks(const wanted *w, const rk__fit *fit)
{
    const size_t kept = fit->weights + fit->gradients + fit->optim;
    if (fit->step < w->room)
        rk__fail_more(w->t->ctx, "; parallel.zero 3 on %zu ranks would fit, as would a GPU with more memory",
                      kept / (w->room - fit->step) + 1);
    else
        rk__fail_more(w->t->ctx, "; a smaller model or a GPU with more memory would fit");
}

/* A bucket of gradients, in and out. */
static size_t exchanged(const rk__trainer *t, const rk__fit *fit)
{
    size_t bucket = fit->gradients < MOST_BUCKET ? fit->gradients : MOST_BUCKET;
    if (t->ctx->ranks == 1)
        return 0;
    if (t->acc.grads)
        rk__grads_buckets(t->acc.grads, &bucket);
    return 2 * bucket;
}

static void tell_need(const wanted *w, const rk__fit *fit, int64_t now)
{
    char all[RK__SIZE_TEXT], kept[RK__SIZE_TEXT], step[RK__SIZE_TEXT], other[RK__SIZE_TEXT];
    const size_t bytes = rk__fit_bytes(fit, w->t->ctx->ranks, w->zero);
    rk__fail_more(
        w->t->ctx,
        ". The run needs about %s a rank (%s for weights, gradients and optimiser, %s for a step of %lld "
        "samples at once",
        rk__size_text(bytes, all), rk__size_text(bytes - fit->step - fit->exchange, kept),
        rk__size_text(fit->step, step), (long long)now);
    if (fit->exchange)
        rk__fail_more(w->t->ctx, ", %s for what ranks exchange", rk__size_text(fit->exchange, other));
    rk__fail_more(w->t->ctx, "), and %s can be had", rk__size_text(w->room, other));
}

void rk__fit_advise(rk__trainer *t)
{
    rk_ctx *ctx = t->ctx;
    rk__fit fit;
    size_t total;
    if (!ctx->dev || !ctx->device->memory || !t->setup.model_json || !t->setup.input.ndim ||
        t->cfg->parallel_tensor > 1 || rk__config_workers(t->cfg))
        return;
    const int64_t batch = rk__config_batch(t->cfg);
    wanted w = { .t = t,
                 .samples = (batch + ctx->ranks - 1) / ctx->ranks,
                 .zero = (rk__zero)t->cfg->parallel_zero };
    const int64_t micro = t->cfg->batch_micro, now = micro > 0 && micro < w.samples ? micro : w.samples;
    ctx->device->memory(ctx->dev, &w.room, &total);
    if (rk__fit_measure(&t->setup, w.samples, micro, &fit))
        return;
    fit.exchange = w.exchange = exchanged(t, &fit);
    tell_need(&w, &fit, now);
    if (!advise_micro(&w, now) && !advise_zero(&w, &fit))
        advise_ranks(&w, &fit);
}
