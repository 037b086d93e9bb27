#include "train/fit.h"

#include "core/dry.h"
#include "core/order.h"
#include "core/units.h"
#include "nn/module.h"
#include "parallel/average.h"
#include "parallel/comm_dry.h"
#include "train/late.h"
#include "train/workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BESIDE = 64 }; /* this part of all for what a device keeps of its own, and for sizes that it rounds */
enum { NEAR = 8 };    /* memory that is free may be in pieces: a need this near to all of it may not be met */
enum { STEPS = 3 };   /* the first is recorded, the second makes room for its plan, the third follows it */

/* ---- measuring ---- */

static rk_tensor *zeros(rk_ctx *ctx, rk_dtype t, int64_t n, const rk_shape *sample)
{
    rk_shape s = { .ndim = sample->ndim + 1, .dim = { n } };
    for (int i = 0; i < sample->ndim; i++)
        s.dim[i + 1] = sample->dim[i];
    return rk_zeros(ctx, t, s);
}

/* This rank's part of a batch of `global` samples, with nothing in it, for one step. workers: they share it
 * out, 0: the shards of the grid do. */
static rk_batch batch_of(const rk__setup *s, int workers, int64_t global)
{
    const rk__job *j = s->job;
    const rk_shape one = { 0 }, values = RK_SHAPE(s->outputs);
    const int shards = workers ? workers : s->ctx->data_shards;
    int64_t first, end, none;
    rk_order_samples(global, shards, (rk_subtree){ rk__average_first(j, shards, j->rank), 1 }, &first, &none);
    rk_order_samples(global, shards, (rk_subtree){ rk__average_first(j, shards, j->rank + 1) - 1, 1 }, &none,
                     &end);
    rk_batch b = { .n = end - first, .first = first, .global = global };
    b.x = zeros(s->ctx, RK_F32, b.n, &s->input);
    b.y = s->target == RK__CLASSES  ? zeros(s->ctx, RK_I64, b.n, &one)
          : s->target == RK__VALUES ? zeros(s->ctx, RK_F32, b.n, &values)
                                    : b.x;
    return b;
}

/* d: a run on the device that counts, as far as it takes memory. Its optim is NULL where nothing is trained.
 */
static rk_status make_optim(rk__trainer *d, const rk__fit_plan *plan)
{
    const rk_optim_cfg cfg = rk__config_optim(d->cfg);
    if (plan->workers) {
        RK_TRY(rk__workers_make(d, &cfg));
        return rk__late_begin(d);
    }
    RK_TRY(rk__accumulator_init(&d->acc, d->setup.job, d->setup.net, rk__setup_loss, &d->setup, plan->micro,
                                plan->zero, plan->bucket));
    d->optim = rk__optim_make(d->setup.net, &cfg, d->acc.grads);
    return rk_failed(d->ctx);
}

static rk_status step_together(rk__trainer *d, const rk_batch *b)
{
    RK_TRY(rk__accumulate(&d->acc, b, (uint64_t)d->step++, &d->loss));
    return rk_optim_step(d->optim, 1);
}

static rk_status step_workers(rk__trainer *d, const rk_batch *b)
{
    RK_TRY(rk__workers_step(d, b, 1));
    d->step++;
    return rk__workers_stepped(d);
}

/* Workers average after the last of them. */
static rk_status train(rk__trainer *d, const rk__fit_plan *plan, int64_t samples, int steps)
{
    d->total = d->step + steps;
    for (int i = 0; i < steps && samples > 0; i++) {
        const rk_batch b = batch_of(&d->setup, plan->workers, samples);
        RK_TRY(rk_failed(d->ctx));
        RK_TRY(d->workers ? step_workers(d, &b) : step_together(d, &b));
        RK_TRY(rk_step_end(d->ctx));
    }
    return d->acc.grads ? rk__grads_settle(d->acc.grads) : rk_failed(d->ctx);
}

/* Batches of evaluation: twice the whole one, and what is left over. */
typedef struct {
    const rk__setup *s;
    int64_t size[3];
    int next;
} passing;

static bool next_batch(void *arg, rk_batch *b)
{
    passing *p = arg;
    while (p->next < 3 && !p->size[p->next])
        p->next++;
    if (p->next == 3)
        return false;
    *b = batch_of(p->s, 0, p->size[p->next++]);
    return !rk_failed(p->s->ctx);
}

static rk_status swap_ema(rk__trainer *d)
{
    if (d->workers)
        rk__workers_swap_ema(d);
    return d->workers || !d->optim ? RK_OK : rk__optim_swap_ema(d->optim);
}

static rk_status evaluate(rk__trainer *d, const rk__fit_plan *plan)
{
    rk__metrics m;
    const int64_t n = plan->eval, all = plan->eval_all;
    passing p = { .s = &d->setup, .size = { all >= n ? n : 0, all >= 2 * n ? n : 0, n ? all % n : 0 } };
    if (!n)
        return RK_OK;
    rk_status st = rk__metrics_init(&m, d->ctx, d->setup.classes, d->cfg->eval_topk);
    if (!st)
        st = swap_ema(d);
    if (!st)
        st = rk__evaluate_batches(&d->setup, next_batch, &p, 0, &m);
    if (!st)
        st = swap_ema(d);
    rk__metrics_free(&m);
    return st;
}

/* All that the run does, in its order. */
static rk_status pass_through(rk__trainer *d, const rk__fit_plan *plan)
{
    if (!plan->trains)
        return evaluate(d, plan);
    RK_TRY(make_optim(d, plan));
    RK_TRY(train(d, plan, plan->batch, STEPS));
    if (plan->eval_before_rest)
        RK_TRY(evaluate(d, plan));
    RK_TRY(train(d, plan, plan->rest, 1));
    return plan->eval_before_rest ? RK_OK : evaluate(d, plan);
}

/* After the last step, when only the arena is left of it. */
static void count(const rk__trainer *d, rk__fit *fit)
{
    const rk_ctx *ctx = d->ctx;
    const rk__job *j = d->setup.job;
    const size_t held = rk__dry_held(ctx->dev), arena = rk_memory_peak(ctx);
    if (d->optim && j->ranks > 1)
        fit->exchange += rk__comm_dry_held(j->tensors);
    if (j->beside)
        fit->exchange += rk__comm_dry_held(j->beside_tensors) + 2 * (size_t)j->shared_size * sizeof(float);
    fit->kept = held - arena - fit->exchange;
    fit->all = rk__dry_peak(ctx->dev);
    fit->all += fit->all / BESIDE;
    fit->step = fit->all - fit->kept - fit->exchange;
}

/* The rank with the most samples is the last. */
static rk_status join(rk_ctx *ctx, const rk__fit_plan *plan)
{
    if (plan->ranks == 1)
        return RK_OK;
    ctx->rank = plan->ranks - 1;
    ctx->ranks = plan->ranks;
    return rk__comm_dry(ctx, ctx->rank, plan->ranks, plan->tensor, &ctx->comm);
}

rk_status rk__fit_measure(const rk__setup *s, const rk__fit_plan *plan, rk__fit *fit)
{
    rk_ctx *ctx;
    rk_config cfg = *s->cfg;
    rk__trainer d = { .cfg = &cfg };
    char *record = rk__setup_record(s);
    cfg.batch_micro = plan->micro;
    cfg.parallel_zero = plan->zero;
    *fit = (rk__fit){ 0 };
    rk_status st = rk__open_on(&(rk_open_cfg){ .inexact = !cfg.parallel_exact }, &rk__device_dry, &ctx);
    if (!st)
        st = join(ctx, plan);
    d.ctx = ctx;
    if (!st && record)
        st = rk__setup_recorded(&d.setup, ctx, &cfg, plan->tensor, record);
    if (!st && record)
        st = pass_through(&d, plan);
    if (!st && record)
        st = rk_failed(ctx);
    if (!st && record)
        count(&d, fit);
    rk__setup_free(&d.setup);
    rk_close(ctx);
    free(record);
    return record ? st : RK_ENOMEM;
}

/* ---- advice ---- */

typedef struct {
    const rk__setup *setup;
    size_t room, most; /* what can be had; what a plan that is named may need */
    rk__fit_plan now;
    const char *option; /* that says how many samples are evaluated at once */
} wanted;

/* Can it be had, with as few samples evaluated at once as it takes? */
static bool fits(const wanted *w, rk__fit_plan *plan, size_t *bytes)
{
    rk__fit fit;
    rk__fit_plan without = *plan;
    without.eval = 0;
    bool enough = !rk__fit_measure(w->setup, &without, &fit) && fit.all <= w->most;
    for (int64_t n = plan->eval; enough && n > 0; n /= 2) {
        plan->eval = n;
        if (rk__fit_measure(w->setup, plan, &fit) || fit.all <= w->most)
            break;
    }
    *bytes = fit.all;
    return enough && fit.all && fit.all <= w->most;
}

/* "batch.micro 4 and eval.batch 32", what differs from now. */
static void name_plan(const wanted *w, const rk__fit_plan *p, char *text, size_t size)
{
    size_t n = 0;
    *text = '\0';
    if (p->micro != w->now.micro)
        n += (size_t)snprintf(text, size, "batch.micro %lld", (long long)p->micro);
    if (p->eval != w->now.eval)
        n += (size_t)snprintf(text + n, size - n, "%s%s %lld", n ? " and " : "", w->option,
                              (long long)p->eval);
    if (!p->workers && (p->zero != w->now.zero || p->ranks != w->now.ranks))
        n += (size_t)snprintf(text + n, size - n, "%sparallel.zero %d", n ? " and " : "", (int)p->zero);
    if (p->ranks != w->now.ranks)
        snprintf(text + n, size - n, "%s%d ranks", n ? " on " : "", p->ranks);
}

static bool advise(const wanted *w, rk__fit_plan plan)
{
    char text[RK__SIZE_TEXT], what[128];
    size_t bytes;
    if (!fits(w, &plan, &bytes))
        return false;
    name_plan(w, &plan, what, sizeof what);
    rk__fail_more(w->setup->ctx, "; %s would need about %s%s", what, rk__size_text(bytes, text),
                  !plan.trains               ? ""
                  : plan.eval != w->now.eval ? ", with the same weights"
                                             : ", with the same results");
    return true;
}

/* The fewest samples that a pass of training may have: rk_train() refuses fewer. */
static int64_t least_micro(const rk__setup *s)
{
    if (!s->net || rk__global_batch_norm(s->net))
        return INT64_MAX;
    return rk__shard_batch_norm(s->net) ? rk__config_shard(s->cfg) : 1;
}

/* As many samples at once as now, then half as many, and so on. */
static bool advise_batches(const wanted *w, int64_t samples)
{
    const int64_t least = least_micro(w->setup);
    rk__fit_plan plan = w->now;
    bool told = plan.eval && advise(w, plan);
    while (!told && samples > least) {
        samples = samples / 2 > least ? samples / 2 : least;
        plan.micro = samples;
        told = advise(w, plan);
    }
    return told;
}

/* Ranks among which a batch is shared. */
static int sharers(const rk__fit_plan *p)
{
    return p->ranks / p->tensor;
}

/* Where gradients come by piece, buckets are smaller: what was measured for the others does not hold. */
static void take_stage(const wanted *w, rk__fit_plan *p, rk__zero zero)
{
    if ((zero >= RK__ZERO_GRADIENTS) != (w->now.zero >= RK__ZERO_GRADIENTS))
        p->bucket = w->setup->cfg->parallel_bucket;
    p->zero = zero;
}

/* Workers have all of their weights, gradients and state. */
static bool advise_zero(const wanted *w)
{
    rk__fit_plan plan = w->now;
    bool told = false;
    if (sharers(&plan) == 1 || plan.workers)
        return false;
    for (int zero = (int)plan.zero + 1; zero <= RK__ZERO_WEIGHTS && !told; zero++) {
        take_stage(w, &plan, (rk__zero)zero);
        told = advise(w, plan);
    }
    return told;
}

/* Each of them needs a shard of the batch, and a worker where there are any. */
static bool may_be(const wanted *w, const rk__fit_plan *p)
{
    return sharers(p) <= w->setup->ctx->data_shards && (!p->workers || p->ranks <= p->workers);
}

/* With everything shared by more ranks than there are: how many would do? */
static void advise_ranks(const wanted *w)
{
    size_t bytes;
    char what[128];
    rk__fit_plan plan = w->now;
    if (!plan.workers)
        take_stage(w, &plan, RK__ZERO_WEIGHTS);
    for (plan.ranks *= 2; plan.trains && may_be(w, &plan); plan.ranks *= 2) {
        rk__fit_plan it = plan;
        if (!fits(w, &it, &bytes))
            continue;
        name_plan(w, &it, what, sizeof what);
        rk__fail_more(w->setup->ctx, "; %s would fit, as would a GPU with more memory", what);
        return;
    }
    rk__fail_more(w->setup->ctx, "; a smaller model or a GPU with more memory would fit");
}

/* without: what it needs if nothing is evaluated. */
static void tell_need(const wanted *w, const rk__fit *fit, const rk__fit *without, int64_t samples)
{
    rk_ctx *ctx = w->setup->ctx;
    char text[RK__SIZE_TEXT];
    const int64_t evaluated = (w->now.eval + sharers(&w->now) - 1) / sharers(&w->now);
    const int own = (w->now.workers + w->now.ranks - 1) / w->now.ranks;
    const rk__fit *of = w->now.trains ? without : fit;
    rk__fail_more(ctx, ". The run needs about %s a rank (", rk__size_text(fit->all, text));
    rk__fail_more(ctx, "%s for weights%s", rk__size_text(of->kept, text),
                  w->now.trains ? ", gradients and optimiser" : "");
    if (w->now.workers)
        rk__fail_more(ctx, " of %d worker%s", own, own == 1 ? "" : "s");
    rk__fail_more(ctx, ", %s for %s of %lld samples at once", rk__size_text(of->step, text),
                  w->now.trains ? "a step" : "a pass", (long long)(w->now.trains ? samples : evaluated));
    if (w->now.trains && fit->all > without->all)
        rk__fail_more(ctx, ", %s more to evaluate %lld at once", rk__size_text(fit->all - without->all, text),
                      (long long)evaluated);
    if (of->exchange)
        rk__fail_more(ctx, ", %s for what ranks exchange", rk__size_text(of->exchange, text));
    rk__fail_more(ctx, "), and %s can be had", rk__size_text(w->room, text));
}

/* The device has too little memory, or says so. samples: of a rank's step at once. */
static void tell(wanted *w, int64_t samples)
{
    rk_ctx *ctx = w->setup->ctx;
    rk__fit fit, without;
    rk__fit_plan plain = w->now;
    size_t total;
    ctx->device->memory(ctx->dev, &w->room, &total);
    plain.eval = 0;
    if (rk__fit_measure(w->setup, &w->now, &fit) || rk__fit_measure(w->setup, &plain, &without))
        return;
    tell_need(w, &fit, &without, samples);
    w->most = fit.all > w->room ? w->room : w->room - w->room / NEAR;
    if (fit.all <= w->most)
        rk__fail_more(ctx, ", which is enough: another process had taken it, or what is free is in pieces");
    else if (!advise_batches(w, samples) && !advise_zero(w))
        advise_ranks(w);
}

/* Has the device said that it has too little memory, and has nobody told of needs yet, as another rank? A
 * graph that takes too much has advice of its own. */
static bool wants_advice(rk_ctx *ctx)
{
    char why[512] = "";
    if (!ctx->dev || !ctx->device->memory || !ctx->device->failure ||
        strstr(rk_error(ctx), "The run needs about") || strstr(rk_error(ctx), "device.graph: auto"))
        return false;
    ctx->device->failure(ctx->dev, why, sizeof why);
    return *why;
}

static int64_t least_of(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Samples of a pass that ends with the batch that reaches the limit. */
static int64_t pass_of(const rk_loader *l, int64_t limit, int64_t batch)
{
    const int64_t all = rk_loader_samples(l);
    return limit > 0 ? least_of(all, (limit + batch - 1) / batch * batch) : all;
}

static rk__fit_plan plan_now(const rk__trainer *t)
{
    const rk_config *c = t->cfg;
    const rk__setup *s = &t->setup;
    size_t bucket = (size_t)c->parallel_bucket;
    if (t->acc.grads)
        rk__grads_buckets(t->acc.grads, &bucket);
    const int workers = rk__config_workers(c), ranks = t->ctx->ranks;
    rk__fit_plan p = { .ranks = ranks,
                       .tensor = ranks > 1 ? (int)c->parallel_tensor : 1,
                       .workers = workers,
                       .trains = true,
                       .micro = c->batch_micro,
                       .bucket = (int64_t)bucket,
                       .batch = c->batch_global,
                       .zero = (rk__zero)c->parallel_zero };
    if (s->train)
        p.batch = least_of(p.batch, rk_loader_samples(s->train));
    if (s->train && !c->data_drop_last && t->total >= t->per_epoch)
        p.rest = rk_loader_samples(s->train) % p.batch;
    if (s->eval) {
        p.eval_all = pass_of(s->eval, c->data_eval_limit, c->eval_batch);
        p.eval = least_of(c->eval_batch, p.eval_all);
        p.eval_before_rest = t->eval_every < t->per_epoch;
    }
    return p;
}

void rk__fit_advise(rk__trainer *t)
{
    if (!wants_advice(t->ctx) || !t->setup.model_json || !t->setup.input.ndim ||
        t->cfg->parallel_tensor > t->ctx->ranks) /* it would be refused */
        return;
    wanted w = { .setup = &t->setup, .option = "eval.batch", .now = plan_now(t) };
    const int parts = w.now.workers ? w.now.workers : sharers(&w.now);
    const int64_t samples = (w.now.batch + parts - 1) / parts;
    tell(&w, w.now.micro > 0 ? least_of(w.now.micro, samples) : samples);
}

void rk__fit_advise_pass(const rk__setup *s, int64_t samples, int64_t batch, const char *option)
{
    if (!s->ctx || !s->cfg || !wants_advice(s->ctx) || !s->model_json || !s->input.ndim)
        return;
    wanted w = {
        .setup = s,
        .option = option,
        .now = { .ranks = s->ctx->ranks, .tensor = 1, .eval = least_of(batch, samples), .eval_all = samples }
    };
    tell(&w, 0);
}
