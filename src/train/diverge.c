/* A loss that is not finite: which layer made it first, and from which samples. */
#include "nn/module.h"
#include "train/trainer.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    char name[256]; /* empty: none found */
} culprit;

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
    if (!c->name[0] && !finite_values(y))
        snprintf(c->name, sizeof c->name, "%s (%s)", m->full, m->kind->name);
}

/* The same forward pass once more, layer by layer: the weights and the random numbers are those of the step.
 */
static void find_layer(rk__trainer *t, const rk_batch *b, culprit *c)
{
    rk_module *net = t->setup.net;
    if (!finite_values(b->x)) {
        snprintf(c->name, sizeof c->name, "the input");
        return;
    }
    for (int i = 0; i < rk_param_count(net); i++) {
        rk_param p = rk_param_at(net, i);
        if (!finite_values(p.tensor)) {
            snprintf(c->name, sizeof c->name, "the weights %s", p.name);
            return;
        }
    }
    net->probe = probe;
    net->probe_user = c;
    rk_no_grad_begin(t->ctx);
    rk_forward(net, b->x);
    rk_no_grad_end(t->ctx);
    net->probe = NULL;
    if (!c->name[0])
        snprintf(c->name, sizeof c->name, "the loss");
}

static void all_samples(rk__trainer *t, const rk_batch *b, const char *what, const char *layer)
{
    rk__text j = { 0 };
    rk__text_printf(&j, "\"event\":\"diverged\",\"step\":%lld,\"what\":", (long long)t->step + 1);
    rk__text_quote(&j, what);
    rk__text_puts(&j, ",\"layer\":");
    rk__text_quote(&j, layer);
    rk__text_puts(&j, ",\"samples\":[");
    for (int64_t i = 0; i < b->n; i++)
        rk__text_printf(&j, "%s%lld", i ? "," : "", (long long)b->sample[i]);
    rk__text_puts(&j, "]");
    char *text = rk__text_take(&j);
    if (text)
        rk__journal_event(&t->journal, text);
    free(text);
}

rk_status rk__diverged(rk__trainer *t, const rk_batch *b, const char *what)
{
    culprit c = { "" };
    char samples[256] = "";
    size_t used = 0;
    find_layer(t, b, &c);
    all_samples(t, b, what, c.name);
    for (int64_t i = 0; i < b->n && i < 16; i++)
        used += (size_t)snprintf(samples + used, sizeof samples - used, "%s%lld", i ? " " : "",
                                 (long long)b->sample[i]);
    rk_error_clear(t->ctx);
    return rk_fail(
        t->ctx, RK_EDIVERGED,
        "step %lld: %s; first not finite: %s; samples %s%s; no weight was changed by this step. A lower "
        "optim.lr, optim.warmup or optim.clip_norm may help",
        (long long)t->step + 1, what, c.name, samples, b->n > 16 ? " ... (all in events.jsonl)" : "");
}
