#include "train/fit.h"

#include "core/dry.h"
#include "core/order.h"
#include "core/units.h"
#include "nn/module.h"
#include "parallel/comm_dry.h"

#include <stdlib.h>
#include <string.h>

enum { BESIDE = 64 }; /* this part of all for what a device keeps of its own, and for sizes that it rounds */
enum { STEPS = 3 };   /* the first is recorded, the second makes room for its plan, the third follows it */

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

/* The samples of a batch that are this rank's. */
static rk_batch share_of(const rk__setup *s)
{
    const rk__job *j = s->job;
    const int64_t global = rk__config_batch(s->cfg), shards = s->ctx->data_shards;
    int64_t first, end, none;
    rk_order_samples(global, (int)shards, j->part[j->first[j->rank]], &first, &none);
    rk_order_samples(global, (int)shards, j->part[j->first[j->rank + 1] - 1], &none, &end);
    rk_batch b = batch_of(s, end - first);
    b.first = first;
    b.global = global;
    return b;
}

static size_t kept_for(const rk__accumulator *acc, const rk_tensor *t)
{
    int64_t from = 0, to = rk_tensor_size(t);
    if (acc->grads)
        rk__grads_held(acc->grads, t, &from, &to);
    return (size_t)(to - from) * sizeof(float);
}

static void count(const rk__setup *s, const rk__accumulator *acc, const rk_optim *o, rk__fit *fit)
{
    for (int i = 0; i < o->n; i++) {
        const rk__optim_slot *slot = &o->slots[i];
        const rk_tensor *of[] = { slot->m, slot->v, slot->ema };
        fit->kept += kept_for(acc, slot->param.tensor) + slot->param.tensor->storage->rounded_bytes;
        if (!acc->grads)
            fit->kept += (size_t)rk_tensor_size(slot->param.tensor) * sizeof(float);
        for (int k = 0; k < 3; k++)
            fit->kept += of[k] ? (size_t)rk_tensor_size(of[k]) * sizeof(float) : 0;
    }
    if (acc->grads)
        fit->kept += rk__grads_memory(acc->grads);
    fit->exchange = acc->grads ? rk__comm_dry_held(s->job->tensors) : 0;
    fit->all = rk__dry_peak(s->ctx->dev);
    fit->all += fit->all / BESIDE;
    const size_t most = fit->all - fit->exchange; /* not all that is kept need be there at one time */
    fit->kept = fit->kept < most ? fit->kept : most;
    fit->step = most - fit->kept;
}

static rk_status steps(rk__setup *s, rk__fit *fit, int64_t bucket)
{
    rk__accumulator acc;
    const rk_optim_cfg cfg = rk__config_optim(s->cfg);
    RK_TRY(rk__accumulator_init(&acc, s->job, s->net, rk__setup_loss, s, s->cfg->batch_micro,
                                (rk__zero)s->cfg->parallel_zero, bucket));
    rk_optim *o = rk__optim_make(s->net, &cfg, acc.grads);
    const rk_batch b = share_of(s);
    for (uint64_t i = 0; i < STEPS && !rk_failed(s->ctx); i++) {
        double loss;
        RK_TRY(rk__accumulate(&acc, &b, i, &loss));
        RK_TRY(rk_optim_step(o, 1));
        RK_TRY(rk_step_end(s->ctx));
    }
    if (acc.grads)
        RK_TRY(rk__grads_settle(acc.grads));
    RK_TRY(rk_failed(s->ctx));
    count(s, &acc, o, fit);
    return RK_OK;
}

/* The rank with the most samples is the last. */
static rk_status join(rk_ctx *ctx, int ranks)
{
    if (ranks == 1)
        return RK_OK;
    ctx->rank = ranks - 1;
    ctx->ranks = ranks;
    return rk__comm_dry(ctx, ctx->rank, ranks, &ctx->comm);
}

rk_status rk__fit_measure(const rk__setup *s, const rk__fit_plan *plan, rk__fit *fit)
{
    rk_ctx *ctx;
    rk__setup dry = { 0 };
    rk_config cfg = *s->cfg;
    char *record = rk__setup_record(s);
    cfg.batch_micro = plan->micro;
    cfg.parallel_zero = plan->zero;
    *fit = (rk__fit){ 0 };
    rk_status st = rk__open_on(&(rk_open_cfg){ .inexact = !cfg.parallel_exact }, &rk__device_dry, &ctx);
    if (!st)
        st = join(ctx, plan->ranks);
    if (!st && record)
        st = rk__setup_recorded(&dry, ctx, &cfg, record);
    if (!st && record)
        st = steps(&dry, fit, plan->bucket);
    rk__setup_free(&dry);
    rk_close(ctx);
    free(record);
    return record ? st : RK_ENOMEM;
}

/* ---- advice ---- */

typedef struct {
    rk__trainer *t;
    size_t room;
    rk__fit_plan now;
} wanted;

static bool may_be_cut(const rk__trainer *t)
{
    return !rk__global_batch_norm(t->setup.net) && !rk__shard_batch_norm(t->setup.net);
}

/* What the run would need so; fits: it can be had. */
static bool fits(const wanted *w, const rk__fit_plan *plan, size_t *bytes)
{
    rk__fit fit;
    if (rk__fit_measure(&w->t->setup, plan, &fit))
        return false;
    *bytes = fit.all;
    return *bytes <= w->room;
}

/* Half as many samples at once as now, or fewer. */
static bool advise_micro(const wanted *w, int64_t samples)
{
    char text[RK__SIZE_TEXT];
    size_t bytes;
    rk__fit_plan plan = w->now;
    for (plan.micro = samples / 2; w->t->setup.net && may_be_cut(w->t) && plan.micro > 0; plan.micro /= 2)
        if (fits(w, &plan, &bytes)) {
            rk__fail_more(w->t->ctx, "; batch.micro %lld would need %s, with the same results",
                          (long long)plan.micro, rk__size_text(bytes, text));
            return true;
        }
    return false;
}

static bool advise_zero(const wanted *w)
{
    char text[RK__SIZE_TEXT];
    size_t bytes;
    rk__fit_plan plan = w->now;
    for (plan.zero++; plan.ranks > 1 && plan.zero <= RK__ZERO_WEIGHTS; plan.zero++)
        if (fits(w, &plan, &bytes)) {
            rk__fail_more(w->t->ctx, "; parallel.zero %d would need about %s, with the same results",
                          (int)plan.zero, rk__size_text(bytes, text));
            return true;
        }
    return false;
}

/* With everything shared by more ranks than there are: how many would do? */
static void advise_ranks(const wanted *w)
{
    size_t bytes;
    rk__fit_plan plan = w->now;
    plan.zero = RK__ZERO_WEIGHTS;
    for (plan.ranks *= 2; plan.ranks <= w->t->ctx->data_shards; plan.ranks *= 2)
        if (fits(w, &plan, &bytes)) {
            rk__fail_more(w->t->ctx,
                          "; parallel.zero 3 on %d ranks would fit, as would a GPU with more memory",
                          plan.ranks);
            return;
        }
    rk__fail_more(w->t->ctx, "; a smaller model or a GPU with more memory would fit");
}

static void tell_need(const wanted *w, const rk__fit *fit, int64_t samples)
{
    char all[RK__SIZE_TEXT], kept[RK__SIZE_TEXT], step[RK__SIZE_TEXT], other[RK__SIZE_TEXT];
    rk__fail_more(
        w->t->ctx,
        ". The run needs about %s a rank (%s for weights, gradients and optimiser, %s for a step of %lld "
        "samples at once",
        rk__size_text(fit->all, all), rk__size_text(fit->kept, kept), rk__size_text(fit->step, step),
        (long long)samples);
    if (fit->exchange)
        rk__fail_more(w->t->ctx, ", %s for what ranks exchange", rk__size_text(fit->exchange, other));
    rk__fail_more(w->t->ctx, "), and %s can be had", rk__size_text(w->room, other));
}

void rk__fit_advise(rk__trainer *t)
{
    rk_ctx *ctx = t->ctx;
    rk__fit fit;
    size_t total, bucket = (size_t)t->cfg->parallel_bucket;
    if (!ctx->dev || !ctx->device->memory || !t->setup.model_json || !t->setup.input.ndim ||
        t->cfg->parallel_tensor > 1 || rk__config_workers(t->cfg) ||
        strstr(rk_error(ctx), "The run needs about")) /* as another rank has said */
        return;
    if (t->acc.grads)
        rk__grads_buckets(t->acc.grads, &bucket);
    wanted w = { .t = t,
                 .now = { .ranks = ctx->ranks,
                          .micro = t->cfg->batch_micro,
                          .bucket = (int64_t)bucket,
                          .zero = (rk__zero)t->cfg->parallel_zero } };
    const int64_t samples = (rk__config_batch(t->cfg) + ctx->ranks - 1) / ctx->ranks,
                  now = w.now.micro > 0 && w.now.micro < samples ? w.now.micro : samples;
    ctx->device->memory(ctx->dev, &w.room, &total);
    if (rk__fit_measure(&t->setup, &w.now, &fit))
        return;
    tell_need(&w, &fit, now);
    if (!advise_micro(&w, now) && !advise_zero(&w))
        advise_ranks(&w);
}
