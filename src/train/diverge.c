/* A loss that is not finite: which layer made it first, and from which samples. */
#include "nn/module.h"
#include "parallel/trace.h"
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INPUT, WEIGHTS, LAYERS, LOSS = 1 << 30 }; /* the order in which a pass comes to them */

typedef struct {
    int64_t order; /* of what was found first; LOSS: nothing before it */
    int64_t layer; /* the next one's */
    char name[256];
} culprit;

static void blame(culprit *c, int64_t order, const char *name, const char *kind)
{
    if (order >= c->order)
        return;
    c->order = order;
    snprintf(c->name, sizeof c->name, *kind ? "%s (%s)" : "%s", name, kind);
}

static bool finite_values(rk_tensor *t)
{
    rk_ctx *ctx = rk_tensor_ctx(t);
    rk_tensor *d = rk__dense(t);
    double sum;
    bool bad = false;
    if (rk_tensor_dtype(d) == RK_F32 &&
        !rk__kernels(ctx, RK_F32)->sum_squares(ctx->dev, rk__size(d), rk__data(d), &sum, &bad))
        return !bad;
    return true;
}

static void probe(void *user, const rk_module *m, rk_tensor *y)
{
    culprit *c = user;
    if (!finite_values(y))
        blame(c, c->layer, m->full, m->kind->name);
    c->layer++;
}

/* [C] The first of what the ranks have found: each sees its own samples. */
static rk_status agree(rk_ctx *ctx, culprit *c)
{
    if (ctx->ranks == 1)
        return rk_failed(ctx);
    culprit *all = rk__calloc(ctx, (size_t)ctx->ranks, sizeof *all);
    if (!all)
        return RK_ENOMEM;
    rk_status st = rk__comm_all_values(ctx->comm, "what diverged", c, sizeof *c, all);
    for (int r = 0; r < ctx->ranks && !st; r++)
        if (r == 0 || all[r].order < c->order)
            *c = all[r];
    free(all);
    return st;
}

/* The same forward pass once more, layer by layer: the weights and the random numbers are those of the step.
 * [C] */
static void find_layer(rk__trainer *t, const rk_batch *b, culprit *c)
{
    rk_module *net = t->setup.net;
    if (!finite_values(b->x))
        blame(c, INPUT, "the input", "");
    for (int i = 0; i < rk_param_count(net); i++) {
        rk_param p = rk_param_at(net, i);
        char name[256];
        snprintf(name, sizeof name, "the weights %.200s", p.name);
        if (!finite_values(p.tensor))
            blame(c, WEIGHTS, name, "");
    }
    net->probe = probe;
    net->probe_user = c;
    rk_no_grad_begin(t->ctx);
    rk_forward(net, b->x);
    rk_no_grad_end(t->ctx);
    net->probe = NULL;
}

/* [C] unless alone. The samples of the whole batch; the caller frees them. NULL: recorded. */
static int64_t *samples_of(rk__trainer *t, const rk_batch *b, bool alone)
{
    int64_t *all = rk__calloc(t->ctx, (size_t)b->global, sizeof *all);
    if (!all)
        return NULL;
    memcpy(all + (alone ? 0 : b->first), b->sample, (size_t)b->n * sizeof *all);
    if (alone || !rk__job_add_counts(t->setup.job, "samples", b->global, all))
        return all;
    free(all);
    return NULL;
}

static void all_samples(rk__trainer *t, const int64_t *sample, int64_t n, const char *what, const char *layer)
{
    rk__text j = { 0 };
    rk__text_printf(&j, "\"event\":\"diverged\",\"step\":%lld,\"what\":", (long long)t->step + 1);
    rk__text_quote(&j, what);
    rk__text_puts(&j, ",\"layer\":");
    rk__text_quote(&j, layer);
    rk__text_puts(&j, ",\"samples\":[");
    for (int64_t i = 0; i < n; i++)
        rk__text_printf(&j, "%s%lld", i ? "," : "", (long long)sample[i]);
    rk__text_puts(&j, "]");
    char *text = rk__text_take(&j);
    if (text)
        rk__journal_event(&t->journal, text);
    free(text);
}

rk_status rk__diverged(rk__trainer *t, const rk_batch *b, int worker, const char *what)
{
    const bool alone = worker >= 0;
    culprit c = { .order = LOSS, .layer = LAYERS, .name = "the loss" };
    char samples[256] = "", who[32] = "";
    size_t used = 0;
    find_layer(t, b, &c);
    rk_error_clear(t->ctx);
    if (!alone)
        RK_TRY(agree(t->ctx, &c));
    int64_t *sample = samples_of(t, b, alone);
    if (!sample)
        return rk_failed(t->ctx);
    all_samples(t, sample, b->global, what, c.name);
    for (int64_t i = 0; i < b->global && i < 16; i++)
        used += (size_t)snprintf(samples + used, sizeof samples - used, "%s%lld", i ? " " : "",
                                 (long long)sample[i]);
    free(sample);
    if (alone)
        snprintf(who, sizeof who, "worker %d: ", worker);
    return rk_fail(
        t->ctx, RK_EDIVERGED,
        "step %lld: %s%s; first not finite: %s; samples %s%s; no weight was changed by this step. A lower "
        "optim.lr, optim.warmup or optim.clip_norm may help",
        (long long)t->step + 1, who, what, c.name, samples,
        b->global > 16 ? " ... (all in events.jsonl)" : "");
}

void rk__left_out(rk__trainer *t, int64_t step, double scale)
{
    rk__report_text(
        t, RK_EVENT_WARN,
        "step %lld: a gradient is not finite where the loss is scaled by %g: the step is left out, and "
        "the scale is %g now",
        (long long)step + 1, scale, scale / 2);
}

rk_status rk__step_optim(rk__trainer *t, rk_optim *o, const rk_batch *b, int worker, double lr_scale)
{
    char what[512];
    double begin = rk__trace_begin(t->setup.job), scale = rk_optim_loss_scale(o);
    const int64_t skipped = rk_optim_skipped(o);
    rk_status st = rk_optim_step(o, lr_scale);
    rk__trace_end(t->setup.job, RK__TRACK_STEP, "optimiser", begin);
    if (rk_optim_skipped(o) > skipped)
        rk__left_out(t, t->step, scale);
    if (st != RK_EDIVERGED)
        return st;
    snprintf(what, sizeof what, "%.500s", rk_error(t->ctx));
    rk_error_clear(t->ctx);
    return rk__diverged(t, b, worker, what);
}
