/* What a run tells: events to the caller, lines to its folder. */
#include "train/trainer.h"

#include "core/cut.h"
#include "core/units.h"
#include "train/workers.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void emit(rk__trainer *t, const rk_event *e)
{
    if (t->opts->on_event)
        t->opts->on_event(t->opts->user, e);
}

static const char *const event_names[] = {
    "banner", "start", "step", "log", "eval", "saved", "warning", "end"
};

void rk__report_text(rk__trainer *t, rk_event_kind kind, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    emit(t, &(rk_event){ .kind = kind, .text = text, .step = t->step });
    if (kind != RK_EVENT_BANNER)
        rk__crew_log(&t->crew, "%s%s", kind == RK_EVENT_WARN ? "warning: " : "", text);
    if (kind == RK_EVENT_BANNER || !t->journal.dir)
        return;
    rk__text j = { 0 };
    rk__text_printf(&j, "\"event\":\"%s\",\"step\":%lld,\"text\":", event_names[kind], (long long)t->step);
    rk__text_quote(&j, text);
    char *line = rk__text_take(&j);
    if (line)
        rk__journal_event(&t->journal, line);
    free(line);
}

/* 1234567 -> "1,234,567" */
static const char *grouped(int64_t n, char buf[32])
{
    char digits[24];
    int len = snprintf(digits, sizeof digits, "%lld", (long long)n), o = 0;
    for (int i = 0; i < len; i++) {
        if (i && (len - i) % 3 == 0)
            buf[o++] = ',';
        buf[o++] = digits[i];
    }
    buf[o] = '\0';
    return buf;
}

/* Elements of a parameter, of which this rank may hold a box. */
static int64_t whole_size(const rk_tensor *t)
{
    rk_piece p = rk__cut_piece(t);
    int64_t n = 1;
    for (int i = 0; i < p.whole.ndim; i++)
        n *= p.whole.dim[i];
    return n;
}

/* What ranks send and hold. */
static void report_exchange(rk__trainer *t)
{
    char sent[RK__SIZE_TEXT], each[RK__SIZE_TEXT], held[RK__SIZE_TEXT], full[RK__SIZE_TEXT];
    char away[RK__SIZE_TEXT + 80] = "";
    size_t bucket_bytes = 0;
    rk__size_text(t->persistent_bytes, held);
    if (t->workers) {
        const size_t n = rk__workers_bytes(t);
        rk__report_text(
            t, RK_EVENT_BANNER,
            "exchange: a rank sends %s an averaging, %s a step on average; memory: %s of weights, "
            "gradients and optimiser state a rank",
            rk__size_text(n, each), rk__size_text(n / (size_t)t->cfg->average_every, sent), held);
        return;
    }
    int buckets = t->acc.grads ? rk__grads_buckets(t->acc.grads, &bucket_bytes) : 0;
    size_t far = 0, bytes = t->acc.grads ? rk__grads_bytes(t->acc.grads, &far) : 0;
    if (far > 0)
        snprintf(away, sizeof away, ", %s of it to other nodes%s", rk__size_text(far, each),
                 rk__grads_by_node(t->acc.grads) ? ", whose gradients are added up by node" : "");
    rk__report_text(t, RK_EVENT_BANNER,
                    "exchange: a rank sends %s a step%s%s, in %d bucket%s of %s%s; memory: %s of weights, "
                    "gradients and optimiser state a rank",
                    rk__size_text(bytes, sent),
                    t->cfg->parallel_tensor > 1 ? " for gradients, beside activations" : "", away, buckets,
                    buckets == 1 ? "" : "s", rk__size_text(bucket_bytes, full),
                    t->cfg->parallel_bucket ? "" : " (measured)", held);
}

/* Where the job runs, and what that costs. */
static void report_mesh(rk__trainer *t)
{
    const rk_ctx *ctx = t->ctx;
    char cut[64] = "";
    const long long tensor = t->cfg->parallel_tensor;
    int nodes = rk__crew_nodes(&t->crew), threads = ctx->device->threads(ctx->dev);
    if (ctx->ranks == 1)
        return;
    if (tensor > 1)
        snprintf(cut, sizeof cut, " (%lld x %lld)", ctx->ranks / tensor, tensor);
    rk__report_text(t, RK_EVENT_BANNER,
                    "mesh: %d ranks%s x %d thread%s on %d node%s, over a grid of %lld x %lld shards",
                    ctx->ranks, cut, threads, threads == 1 ? "" : "s", nodes, nodes == 1 ? "" : "s",
                    (long long)t->cfg->grid_data, (long long)t->cfg->grid_tensor);
    if (ctx->job && ctx->job->tensors && ctx->job->tensors->way)
        rk__report_text(t, RK_EVENT_BANNER, "tensors go %s", ctx->job->tensors->way);
    report_exchange(t);
}

/* Workers that train apart. */
static void report_strategy(rk__trainer *t)
{
    const rk_config *c = t->cfg;
    char often[64] = "step", outer[80] = "";
    if (!t->workers)
        return;
    if (c->average_every > 1)
        snprintf(often, sizeof often, "%lld steps", (long long)c->average_every);
    if (!strcmp(c->average_outer, "nesterov"))
        snprintf(outer, sizeof outer, ", outer nesterov lr %g momentum %g", c->average_lr,
                 c->average_momentum);
    rk__report_text(t, RK_EVENT_BANNER,
                    "strategy: %d workers of up to %lld samples a step, averaged every %s%s",
                    rk__config_workers(c), (long long)rk__config_batch(c), often, outer);
}

void rk__report_banner(rk__trainer *t)
{
    const rk__setup *s = &t->setup;
    const rk_config *c = t->cfg;
    char shape[128], a[32], b[32], d[32];
    int64_t trained = 0;
    for (int i = 0; i < t->optim->n; i++)
        trained += whole_size(t->optim->slots[i].param.tensor);
    rk__report_text(t, RK_EVENT_BANNER, "rankine %s: %s, compute %s%s", rk_version(),
                    rk_device_describe(t->ctx), c->compute, c->parallel_exact ? "" : ", inexact");
    if (rk_device_why_cpu(t->ctx, NULL))
        rk__report_text(t, RK_EVENT_BANNER, "on the processor: %s", rk_device_why_cpu(t->ctx, NULL));
    rk__report_text(t, RK_EVENT_BANNER, "data: %s samples of %s%s%s", grouped(rk_loader_samples(s->train), a),
                    rk__shape_str(&s->input, shape, sizeof shape), s->eval ? ", evaluation: " : "",
                    s->eval ? grouped(rk_loader_samples(s->eval), b) : "");
    rk__report_text(t, RK_EVENT_BANNER,
                    "model: %s parameters, %s trained, %s frozen; %.3g MFLOP a sample forward, %.3g "
                    "with the backward pass",
                    grouped(s->params, a), grouped(trained, b), grouped(s->params - trained, d),
                    s->flops * 1e-6, rk_train_flops(s->net) * 1e-6);
    rk__report_text(
        t, RK_EVENT_BANNER, "batch: %lld samples a step on %d data shards%s%s, %s steps an epoch, %s in all",
        (long long)c->batch_global, t->ctx->data_shards, c->batch_micro ? ", passes of at most " : "",
        c->batch_micro ? grouped(c->batch_micro, d) : "", grouped(t->per_epoch, a), grouped(t->total, b));
    report_strategy(t);
    report_mesh(t);
    rk__report_text(t, RK_EVENT_BANNER, "run: %s", c->run_dir);
}

static void put_num(rk__text *j, const char *name, double v)
{
    rk__text_printf(j, ",\"%s\":", name);
    rk__text_double(j, v);
}

/* To the line of metrics.jsonl and to TensorBoard. */
static void put_metric(rk__trainer *t, rk__text *j, const char *name, double v)
{
    put_num(j, name, v);
    rk__journal_scalar(&t->journal, name, t->step, v);
}

static void log_line(rk__trainer *t, const rk_progress *p)
{
    rk__text j = { 0 };
    rk__text_printf(&j, "\"step\":%lld", (long long)p->step);
    put_metric(t, &j, "epoch", p->epoch);
    put_metric(t, &j, "loss", p->loss);
    put_metric(t, &j, "lr", p->lr);
    put_metric(t, &j, "grad_norm", p->grad_norm);
    if (p->loss_scale > 0)
        put_metric(t, &j, "loss_scale", p->loss_scale);
    put_metric(t, &j, "samples_per_s", p->samples_per_s);
    put_metric(t, &j, "step_s", p->step_s);
    put_metric(t, &j, "data_s", p->data_s);
    if (p->ranks > 1) {
        put_metric(t, &j, "exchange_s", p->exchange_s);
        put_metric(t, &j, "sent_bytes", p->sent_bytes);
        if (rk__crew_nodes(&t->crew) > 1)
            put_metric(t, &j, "far_bytes", p->far_bytes);
    }
    if (p->slow_rank >= 0) {
        put_metric(t, &j, "slow_rank", p->slow_rank);
        put_metric(t, &j, "slow_by", p->slow_by);
        rk__text_puts(&j, ",\"slow_host\":");
        rk__text_quote(&j, p->slow_host);
    }
    char *line = rk__text_take(&j);
    if (line)
        rk__journal_metrics(&t->journal, line);
    free(line);
    if (t->journal.failed && !t->journal_told) {
        t->journal_told = true;
        rk__report_text(t, RK_EVENT_WARN,
                        "%s: metrics.jsonl, events.jsonl or tb/ cannot be written; training goes on",
                        t->cfg->run_dir);
    }
}

static double last_accuracy(const rk__trainer *t)
{
    for (int i = 0; i < t->n_evaluated; i++)
        if (!strcmp(t->evaluated[i].name, "val_accuracy"))
            return t->evaluated[i].value;
    return NAN;
}

/* The next window. What was measured last is told until something else is. */
static void begin_window(rk__trainer *t)
{
    const rk__window *w = &t->window;
    t->window = (rk__window){ .begin = rk__seconds(), .rate = w->rate, .step_s = w->step_s };
    rk__crew_begin(&t->crew);
}

/* Steps that nobody has looked at may not have begun on the device: their number says nothing about speed. */
static void measure(const rk__trainer *t, rk__window *w, double now)
{
    const double span = now - w->begin;
    if (t->late.steps || !w->steps)
        return;
    w->rate = span > 0 ? (double)w->samples / span : 0;
    w->step_s = span / (double)w->steps;
}

void rk__report_step(rk__trainer *t, bool log)
{
    rk__window *w = &t->window;
    const double now = rk__seconds(), steps = w->steps ? (double)w->steps : 1;
    measure(t, w, now);
    if (!t->speaks && log) /* nobody listens */
        begin_window(t);
    if (!t->speaks || (!log && !t->opts->on_event))
        return;
    rk_progress p = {
        .step = t->step,
        .steps = t->total,
        .epoch = t->per_epoch ? (double)t->step / (double)t->per_epoch : 0,
        .loss = t->loss,
        .lr = t->lr,
        .grad_norm = t->grad_norm,
        .loss_scale = t->optim->scale.moves ? rk_optim_loss_scale(t->optim) : 0,
        .accuracy = last_accuracy(t),
        .samples_per_s = w->rate,
        .flops_per_s = w->rate * rk_train_flops(t->setup.net),
        .step_s = w->step_s,
        .data_s = w->data / steps,
        .eta_s = w->step_s * (double)(t->total - t->step),
        .memory_bytes = rk_memory_peak(t->ctx) + t->persistent_bytes,
        .since_ckpt_s = t->last_saved > 0 ? now - t->last_saved : -1,
        .ranks = t->ctx->ranks,
        .exchange_s = rk__crew_waited(&t->crew) / steps,
        .sent_bytes = t->crew.all_sent / steps,
        .far_bytes = t->crew.all_far / steps,
        .slow_rank = t->crew.slow_rank,
        .slow_by = t->crew.slow_by,
        .slow_host = t->crew.slow_rank >= 0 ? rk__crew_host(&t->crew, t->crew.slow_rank) : "",
    };
    emit(t, &(rk_event){ .kind = RK_EVENT_STEP, .progress = &p, .step = t->step });
    if (!log)
        return;
    emit(t, &(rk_event){ .kind = RK_EVENT_LOG, .progress = &p, .step = t->step });
    log_line(t, &p);
    begin_window(t);
}

void rk__report_eval(rk__trainer *t)
{
    emit(t,
         &(rk_event){
             .kind = RK_EVENT_EVAL, .step = t->step, .metrics = t->evaluated, .n_metrics = t->n_evaluated });
    rk__text j = { 0 };
    rk__text_printf(&j, "\"step\":%lld", (long long)t->step);
    for (int i = 0; i < t->n_evaluated; i++)
        put_metric(t, &j, t->evaluated[i].name, t->evaluated[i].value);
    char *line = rk__text_take(&j);
    if (line)
        rk__journal_metrics(&t->journal, line);
    free(line);
}

void rk__report_saved(rk__trainer *t, int64_t step)
{
    char body[128];
    t->last_saved = rk__seconds();
    t->saved_step = step;
    emit(t, &(rk_event){ .kind = RK_EVENT_SAVED, .step = step });
    snprintf(body, sizeof body, "\"event\":\"saved\",\"step\":%lld", (long long)step);
    rk__journal_event(&t->journal, body);
}

rk_status rk__report_result(rk__trainer *t, const char *why)
{
    rk__text j = { 0 };
    char now[32];
    double best;
    memcpy(&best, &t->best_bits, sizeof best);
    rk__time_text(now);
    rk__text_printf(&j, "{\"time\":\"%s\",\"status\":\"finished\",\"reason\":", now);
    rk__text_quote(&j, why);
    rk__text_printf(&j, ",\"step\":%lld", (long long)t->step);
    put_num(&j, "loss", t->loss);
    put_num(&j, "seconds", rk__seconds() - t->started);
    rk__text_printf(&j, ",\"parameters\":%lld", (long long)t->setup.params);
    for (int i = 0; i < t->n_evaluated; i++)
        put_num(&j, t->evaluated[i].name, t->evaluated[i].value);
    if (t->best_metric && t->best_step) {
        rk__text_printf(&j, ",\"best_step\":%lld,\"best_metric\":", (long long)t->best_step);
        rk__text_quote(&j, t->best_metric);
        put_num(&j, "best_value", best);
    }
    rk__text_puts(&j, "}\n");
    char *text = rk__text_take(&j);
    rk_status st = text ? rk__journal_file(t->ctx, t->cfg->run_dir, "result.json", text)
                        : rk_fail(t->ctx, RK_ENOMEM, "out of memory");
    free(text);
    if (!st)
        st = rk__journal_file(t->ctx, t->cfg->run_dir, "DONE", "");
    return st;
}
