/* The loop: batches in, steps out, snapshots behind. */
#include "nn/module.h"
#include "parallel/trace.h"
#include "train/fit.h"
#include "train/late.h"
#include "train/workers.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- making ---- */

static void plan_steps(rk__trainer *t)
{
    const rk_config *c = t->cfg;
    t->per_epoch = rk_loader_batches(t->setup.train);
    t->total = c->run_steps > 0 ? c->run_steps : (int64_t)ceil(c->run_epochs * (double)t->per_epoch);
    t->eval_every = c->eval_every > 0 ? c->eval_every : t->per_epoch;
    t->ckpt_every = c->ckpt_every > 0 ? c->ckpt_every : t->per_epoch;
    t->schedule = (rk__schedule){ .min_scale = c->optim_lr > 0 ? c->optim_min_lr / c->optim_lr : 0,
                                  .gamma = c->optim_gamma,
                                  .warmup = c->optim_warmup,
                                  .decay_steps = c->optim_decay_steps,
                                  .total = t->total };
    rk__schedule_find(c->optim_schedule, &t->schedule.kind);
    const char *best = c->ckpt_best ? c->ckpt_best : t->setup.classes ? "accuracy" : "loss";
    t->best_metric = t->setup.eval && strcmp(best, "none") ? best : NULL;
}

static rk_status check_plan(rk__trainer *t)
{
    const rk_config *c = t->cfg;
    if (t->total < 1)
        return rk_fail(
            t->ctx, RK_ECONFIG,
            "nothing to do: run.steps and run.epochs are both 0; one of them says how long to train");
    if (c->parallel_tensor > t->ctx->ranks)
        return rk_fail(
            t->ctx, RK_ECONFIG,
            "parallel.tensor %lld needs as many ranks or a multiple, and there is one: start the job under "
            "mpirun -n %lld, or leave parallel.tensor out",
            (long long)c->parallel_tensor, (long long)c->parallel_tensor);
    if (c->optim_min_lr > c->optim_lr)
        return rk_fail(t->ctx, RK_ECONFIG, "optim.min_lr %g is above optim.lr %g", c->optim_min_lr,
                       c->optim_lr);
    if (c->eval_patience > 0 && !t->best_metric)
        return rk_fail(t->ctx, RK_ECONFIG,
                       "eval.patience needs evaluation data (data.eval or data.split) and a "
                       "ckpt.best other than none");
    const int64_t batch = rk__config_batch(c);
    const char *norm =
        c->batch_micro > 0 && c->batch_micro < batch ? rk__global_batch_norm(t->setup.net) : NULL;
    if (norm)
        return rk_fail(t->ctx, RK_ECONFIG,
                       "batch.micro %lld is below the batch of %lld, but layer %s (batch_norm) needs the "
                       "statistics of the "
                       "whole batch: leave batch.micro out, or use scope: shard or another norm",
                       (long long)c->batch_micro, (long long)batch, norm);
    const int64_t shard = rk__config_shard(c);
    norm = c->batch_micro > 0 && c->batch_micro < shard ? rk__shard_batch_norm(t->setup.net) : NULL;
    if (norm)
        return rk_fail(
            t->ctx, RK_ECONFIG,
            "batch.micro %lld cuts the data shards of up to %lld samples (a batch of %lld, grid.data "
            "%lld) that layer %s (batch_norm) sums over: use at least %lld, or another norm",
            (long long)c->batch_micro, (long long)shard, (long long)batch, (long long)c->grid_data, norm,
            (long long)shard);
    return RK_OK;
}

/* Weights by piece are written by those who hold them. */
static void hold_pieces(const rk__trainer *t, rk_state *st)
{
    for (int i = 0; i < st->n; i++) {
        rk_state_entry *e = &st->entries[i];
        int64_t from, to;
        if (e->kind != RK_STATE_PARAM)
            continue;
        rk__grads_held(t->acc.grads, e->tensor, &from, &to);
        rk__state_hold(e, from, to);
    }
}

static rk_status list_state(rk__trainer *t)
{
    rk_state *st = &t->state;
    rk__state_init(st, t->ctx);
    RK_TRY(rk__module_state(t->setup.net, st));
    if (t->acc.grads)
        hold_pieces(t, st);
    RK_TRY(t->workers ? rk__workers_state(t, st) : rk__optim_state(t->optim, st));
    RK_TRY(rk__state_add_cursor(st, "loader/cursor", &t->cursor));
    RK_TRY(rk__state_add_cursor(st, "train/step", &t->step));
    RK_TRY(rk__state_add_cursor(st, "train/bad_evals", &t->bad_evals));
    RK_TRY(rk__state_add_cursor(st, "train/best", &t->best_bits));
    RK_TRY(rk__state_add_cursor(st, "train/best_step", &t->best_step));
    for (int i = 0; i < st->n; i++)
        if (st->entries[i].tensor)
            t->persistent_bytes +=
                (size_t)(st->entries[i].piece.to - st->entries[i].piece.from) * sizeof(float);
    if (t->acc.grads)
        t->persistent_bytes += rk__grads_memory(t->acc.grads);
    for (int i = 0; i < t->optim->n && !t->acc.grads; i++) /* and the gradients */
        t->persistent_bytes += (size_t)rk_tensor_size(t->optim->slots[i].param.tensor) * sizeof(float);
    return RK_OK;
}

/* ---- continuing ---- */

static void note_change(void *user, const char *line)
{
    rk__report_text(user, RK_EVENT_WARN, "changed: %s", line);
}

static void note_bad_snapshot(void *user, const char *line)
{
    rk__report_text(user, RK_EVENT_WARN, "%s", line);
}

static rk_status has_snapshots(rk__trainer *t, bool *has)
{
    int64_t *steps = NULL;
    int n = 0;
    rk_status st = rk__run_list(t->run, &steps, &n);
    free(steps);
    *has = n > 0;
    return st ? st : rk_failed(t->ctx);
}

/* What the newest good snapshot says about itself. */
static rk_status read_info(rk__trainer *t, rk_snap_info *info)
{
    rk_state none;
    rk__state_init(&none, t->ctx);
    rk_status st = rk__run_read(t->run, -1, 0, &none, info);
    rk__state_free(&none);
    return st;
}

static rk_status resume(rk__trainer *t)
{
    rk_snap_info info = { 0 };
    rk_status st =
        rk__run_load(t->run, -1, &t->state, 1u << RK_STATE_CURSOR, false, &info, note_bad_snapshot, t);
    rk__snap_info_free(&info);
    RK_TRY(st);
    t->saved_step = t->asked_step = t->step;
    t->last_saved = rk__seconds();
    return rk_loader_seek(t->setup.train, t->cursor);
}

/* [C] What the first rank has decided. */
static rk_status agree(rk__trainer *t, const char *name, int64_t *value)
{
    rk_ctx *ctx = t->ctx;
    if (ctx->ranks == 1)
        return rk_failed(ctx);
    return rk__comm_broadcast(ctx->comm, name, 0, value, sizeof *value);
}

/* [C] The folder is all ranks'. Afresh: the first rank clears it under the lock, and what the others know of
 * its snapshots is stale then. */
static rk_status open_run(rk__trainer *t)
{
    const rk_config *c = t->cfg;
    rk_run_cfg rc = { .dir = c->run_dir,
                      .keep = (int)c->ckpt_keep,
                      .keep_every = c->ckpt_keep_every,
                      .compress = c->ckpt_compress,
                      .writers = (int)c->ckpt_writers,
                      .comm = t->ctx->comm };
    int64_t cleared = 1;
    RK_TRY(rk__run_open(t->ctx, &rc, &t->run));
    if (!t->opts->fresh)
        return RK_OK;
    if (t->speaks)
        rk__journal_clear(t->ctx, c->run_dir);
    RK_TRY(agree(t, "the cleared folder", &cleared));
    rk__run_close(t->run);
    t->run = NULL;
    return rk__run_open(t->ctx, &rc, &t->run);
}

static rk_status write_config(rk__trainer *t)
{
    if (!t->speaks)
        return RK_OK;
    char *pretty = rk_config_json(t->cfg, 2);
    rk_status st = pretty ? rk__journal_file(t->ctx, t->cfg->run_dir, "config.json", pretty)
                          : rk_fail(t->ctx, RK_ENOMEM, "out of memory");
    free(pretty);
    t->config_json = rk_config_json(t->cfg, 0);
    t->record = rk__setup_record(&t->setup);
    return st;
}

/* [C] */
static rk_status make_optim(rk__trainer *t)
{
    rk_optim_cfg oc = rk__config_optim(t->cfg);
    if (rk__config_workers(t->cfg))
        return rk__workers_make(t, &oc);
    RK_TRY(rk__accumulator_init(&t->acc, t->setup.job, t->setup.net, rk__setup_loss, &t->setup,
                                t->cfg->batch_micro, (rk__zero)t->cfg->parallel_zero,
                                t->cfg->parallel_bucket));
    t->optim = rk__optim_make(t->setup.net, &oc, t->acc.grads);
    return rk_failed(t->ctx);
}

/* Everything up to the first step. */
static rk_status prepare(rk__trainer *t)
{
    rk_snap_info info = { 0 };
    bool has = false;
    rk_status st;
    RK_TRY(open_run(t));
    rk__crew_open_log(&t->crew, t->cfg->run_dir);
    RK_TRY(has_snapshots(t, &has));
    if (has) {
        RK_TRY_GOTO(done, read_info(t, &info));
        if (info.config_json)
            RK_TRY_GOTO(done, rk__config_continue(t->ctx, t->cfg, info.config_json, t->opts->allow_change,
                                                  note_change, t));
    }
    RK_TRY_GOTO(done, rk__setup_data(&t->setup, t->ctx, t->cfg, info.extra_json));
    RK_TRY_GOTO(done, rk__crew_same_data(&t->crew, &t->setup));
    RK_TRY_GOTO(done, rk__trace_open(t->setup.job));
    RK_TRY_GOTO(done, rk__setup_model(&t->setup, info.extra_json));
    plan_steps(t);
    RK_TRY_GOTO(done, check_plan(t));
    RK_TRY_GOTO(done, rk_barrier(t->ctx)); /* all are well so far: what follows shares memory */
    RK_TRY_GOTO(done, make_optim(t));
    RK_TRY_GOTO(done, list_state(t));
    RK_TRY_GOTO(done, rk__late_begin(t));
    if (has)
        RK_TRY_GOTO(done, resume(t));
    RK_TRY_GOTO(done, write_config(t));
    if (t->speaks)
        st = rk__journal_open(&t->journal, t->ctx, t->cfg->run_dir, t->step, t->cfg->log_tensorboard);
done:
    rk__snap_info_free(&info);
    return st;
}

/* ---- snapshots ---- */

/* "; the last good one is of step 120", after what is said of a snapshot. */
static const char *last_good(const rk__trainer *t, char buf[64])
{
    if (t->saved_step < 0)
        return "; no other was saved before";
    snprintf(buf, 64, "; the last good one is of step %lld", (long long)t->saved_step);
    return buf;
}

/* Storage that fails again and again ends the run while the last good snapshot is not far behind. */
static void give_up(rk__trainer *t, rk_status st, const char *why)
{
    char last[64], what[80] = "a snapshot could not be saved";
    if (st == RK_ELOCKED) {
        rk_fail(t->ctx, st, "%s", why);
        return;
    }
    if (t->failed_saves > 1)
        snprintf(what, sizeof what, "%lld snapshots in a row could not be saved", (long long)t->failed_saves);
    rk_fail(t->ctx, RK_EIO,
            "%s: %s (ckpt.max_failures %lld): %s%s. Make room or mend the storage; the same "
            "command %s",
            t->cfg->run_dir, what, (long long)t->cfg->ckpt_max_failures, why, last_good(t, last),
            t->saved_step < 0 ? "then starts anew" : "then goes on from there");
}

static void save_failed(rk__trainer *t, rk_status st, const char *why)
{
    char last[64];
    int64_t most = t->cfg->ckpt_max_failures;
    if (rk_failed(t->ctx)) /* not the storage: the run ends, and says why */
        return;
    t->failed_saves++;
    if (st == RK_ELOCKED || (most > 0 && t->failed_saves >= most))
        give_up(t, st, why);
    else
        rk__report_text(t, RK_EVENT_WARN, "snapshot not saved, training goes on: %s%s", why,
                        last_good(t, last));
}

static void saved(rk__trainer *t, int64_t step)
{
    t->failed_saves = 0;
    rk__trace_end(t->setup.job, RK__TRACK_SNAPSHOT, "snapshot", t->save_begun);
    rk__report_saved(t, step);
}

/* [C] */
static void poll_save(rk__trainer *t)
{
    rk_status st;
    int64_t step;
    char why[512];
    if (!rk__run_poll(t->run, &st, &step, why, sizeof why))
        return;
    if (st)
        save_failed(t, st, why);
    else
        saved(t, step);
}

/* [C] */
static void begin_save(rk__trainer *t, bool best)
{
    if (t->asked_step == t->step)
        return;
    int64_t done;
    char why[512] = "";
    rk_status earlier =
        rk__run_wait(t->run, &done, why, sizeof why); /* one in flight: its outcome is told first */
    if (earlier)
        save_failed(t, earlier, why);
    else if (t->asked_step > t->saved_step && done > t->saved_step)
        saved(t, done);
    if (rk_failed(t->ctx))
        return;
    t->asked_step = t->step;
    t->save_begun = rk__trace_begin(t->setup.job);
    if (t->acc.grads && rk__grads_settle(t->acc.grads))
        return;
    rk__run_save(t->run, &t->state,
                 &(rk_snap_info){
                     .step = t->step, .config_json = t->config_json, .extra_json = t->record, .best = best });
}

/* [C] The state of now, durable. Tried twice: a disk that was full may not be any more. */
static rk_status save_now(rk__trainer *t)
{
    char why[512] = "", last[64];
    if (t->saved_step == t->step)
        return RK_OK;
    for (int attempt = 0; attempt < 2; attempt++) {
        int64_t done = -1;
        begin_save(t, false);
        rk_status st = rk__run_wait(t->run, &done, why, sizeof why);
        if (rk_failed(t->ctx))
            return rk_failed(t->ctx);
        if (!st && done >= t->step) {
            if (t->saved_step < t->step)
                saved(t, t->step);
            return RK_OK;
        }
        t->asked_step = -1;
    }
    return rk_fail(t->ctx, RK_EIO, "step %lld: the snapshot cannot be saved: %s%s", (long long)t->step, why,
                   last_good(t, last));
}

/* ---- evaluation ---- */

static double value_of(const rk_metric_value *v, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(v[i].name, name))
            return v[i].value;
    return NAN;
}

/* Is this evaluation the best so far? Counts the ones that are not. */
static bool judge(rk__trainer *t, double value)
{
    double best;
    memcpy(&best, &t->best_bits, sizeof best);
    bool smaller = rk__metric_smaller(t->best_metric);
    bool better = isfinite(value) && (!t->best_step || (smaller ? value < best : value > best));
    if (better) {
        memcpy(&t->best_bits, &value, sizeof value);
        t->best_step = t->step;
        t->bad_evals = 0;
    } else {
        t->bad_evals++;
    }
    return better;
}

static const char *val_name(const char *name)
{
    static const char *const names[][2] = {
        { "loss", "val_loss" }, { "accuracy", "val_accuracy" }, { "topk", "val_topk" },
        { "mae", "val_mae" },   { "rmse", "val_rmse" },         { "perplexity", "val_perplexity" },
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(names[i][0], name))
            return names[i][1];
    return name;
}

/* [C] */
static rk_status swap_ema(rk__trainer *t)
{
    if (!t->workers)
        return rk__optim_swap_ema(t->optim);
    rk__workers_swap_ema(t);
    return RK_OK;
}

static rk_status evaluate(rk__trainer *t, bool *best)
{
    rk__metrics m;
    rk_metric_value all[RK__MAX_METRICS];
    rk_status st;
    *best = false;
    RK_TRY(rk__metrics_init(&m, t->ctx, t->setup.classes, t->cfg->eval_topk));
    st = swap_ema(t);
    double begin = rk__trace_begin(t->setup.job);
    if (!st)
        st = rk__evaluate_pass(&t->setup, t->setup.eval, t->cfg->data_eval_limit, &m);
    rk__trace_end(t->setup.job, RK__TRACK_STEP, "evaluation", begin);
    if (!st)
        st = swap_ema(t);
    if (!st) {
        t->n_evaluated = rk__metrics_values(&m, t->cfg->eval_metrics, t->evaluated);
        for (int i = 0; i < t->n_evaluated; i++)
            t->evaluated[i].name = val_name(t->evaluated[i].name);
        t->eval_step = t->step;
        int n = rk__metrics_values(&m, "loss,accuracy,topk,perplexity,mae,rmse", all);
        if (t->best_metric)
            *best = judge(t, value_of(all, n, t->best_metric));
        rk__report_eval(t);
    }
    rk__metrics_free(&m);
    return st;
}

/* ---- steps ---- */

static bool file_asks(rk__trainer *t, const char *name)
{
    char path[4200];
    if (!rk__journal_has(t->cfg->run_dir, name))
        return false;
    snprintf(path, sizeof path, "%s/%s", t->cfg->run_dir, name);
    unlink(path);
    return true;
}

/* Steps until the ranks agree again: all others meet in each one anyway, workers about once a second. */
static int64_t steps_to_ask(rk__trainer *t)
{
    const double now = rk__seconds(), took = now - t->asked_at;
    const double made = (double)(t->step - t->asked_before);
    t->asked_at = now;
    t->asked_before = t->step;
    return !t->workers || made < took ? 1 : (int64_t)fmin(made / took, (double)t->cfg->average_every);
}

/* [C] Was any rank asked to stop, by the caller's flag or by a file STOP in the run folder, or for a snapshot
 * by a file CHECKPOINT (looked for with each log line)? All do it before the same step. */
static rk_status ask(rk__trainer *t, int64_t step)
{
    int64_t count[3] = { t->opts->stop && *t->opts->stop };
    if (t->speaks && step % t->cfg->log_every == 0) {
        count[0] |= file_asks(t, "STOP");
        count[1] = file_asks(t, "CHECKPOINT");
    }
    count[2] = t->speaks ? steps_to_ask(t) : 0;
    RK_TRY(rk__job_add_all(t->setup.job, "stop", 3, count));
    t->next_ask = step + count[2];
    t->stop = count[0] > 0;
    t->snapshot = count[1] > 0;
    return RK_OK;
}

/* [C] One rank and workers ask before a step; others amid the one before, when no weights are on their way
 * that small messages would queue behind. */
static rk_status ask_before(rk__trainer *t)
{
    const bool due = t->step >= t->next_ask || t->step % t->cfg->log_every == 0;
    if (t->ctx->ranks == 1 || (t->workers ? due : !t->next_ask))
        RK_TRY(ask(t, t->step));
    if (t->snapshot || t->stop)
        RK_TRY(rk__late_look(t));
    if (t->snapshot && !t->stop)
        begin_save(t, false);
    t->snapshot = false;
    return rk_failed(t->ctx);
}

/* [C] One step of the whole batch. */
static rk_status step_together(rk__trainer *t, const rk_batch *b, double lr_scale)
{
    if (t->late.on) {
        RK_TRY(rk__late_pass(t, b));
    } else {
        RK_TRY(rk__accumulate(&t->acc, b, (uint64_t)t->step, &t->loss));
        if (!isfinite(t->loss))
            return rk__diverged(t, b, -1, "the loss is not finite");
    }
    if (t->ctx->ranks > 1)
        RK_TRY(ask(t, t->step + 1));
    if (t->late.on)
        return rk__late_update(t, lr_scale);
    RK_TRY(rk__step_optim(t, t->optim, b, -1, lr_scale));
    t->grad_norm = rk_optim_grad_norm(t->optim);
    return RK_OK;
}

/* [C] */
static rk_status take_step(rk__trainer *t, const rk_batch *b)
{
    double scale = rk__schedule_scale(&t->schedule, t->step);
    t->lr = t->cfg->optim_lr * scale;
    RK_TRY(t->workers ? rk__workers_step(t, b, scale) : step_together(t, b, scale));
    t->step++;
    t->cursor = rk_loader_cursor(t->setup.train);
    t->window.steps++;
    t->window.samples += b->global;
    return t->workers ? rk__workers_stepped(t) : RK_OK;
}

/* [C] */
static rk_status write_trace(rk__trainer *t)
{
    char why[512];
    RK_TRY(rk__trace_write(t->setup.job, why));
    if (*why)
        rk__report_text(t, RK_EVENT_WARN, "%s", why);
    return RK_OK;
}

static rk_status finish(rk__trainer *t, const char *why)
{
    bool best = false;
    if (t->setup.eval && t->eval_step != t->step) {
        RK_TRY(evaluate(t, &best));
        if (best)
            begin_save(t, true);
    }
    RK_TRY(save_now(t));
    RK_TRY(write_trace(t));
    if (t->speaks)
        RK_TRY(rk__report_result(t, why));
    rk__report_text(t, RK_EVENT_END, "%s", why);
    return RK_OK;
}

static rk_status preempted(rk__trainer *t)
{
    RK_TRY(save_now(t));
    RK_TRY(write_trace(t));
    rk__report_text(t, RK_EVENT_END, "stopped on request at step %lld; the same command continues",
                    (long long)t->step);
    return rk_fail(t->ctx, RK_EPREEMPTED, "stopped on request at step %lld, saved in %s", (long long)t->step,
                   t->cfg->run_dir);
}

/* What follows a step: a log line, an evaluation, a snapshot. *stop: patience is over. */
static rk_status after_step(rk__trainer *t, bool *stop)
{
    bool best = false, log = t->step % t->cfg->log_every == 0 || t->step == t->total;
    const bool evaluates = t->setup.eval && t->step % t->eval_every == 0,
               saves = t->step % t->ckpt_every == 0;
    if (log || evaluates || saves || rk__late_full(t))
        RK_TRY(rk__late_look(t));
    if (log && t->acc.grads) /* what the line counts was sent */
        RK_TRY(rk__grads_settle(t->acc.grads));
    if (log)
        RK_TRY(rk__crew_compare(&t->crew, rk__seconds() - t->window.begin - rk__crew_waited(&t->crew)));
    rk__report_step(t, log);
    if (evaluates) {
        double begin = rk__seconds(), waited = rk__crew_waited(&t->crew);
        const rk__sent sent = rk__crew_sent(&t->crew);
        RK_TRY(evaluate(t, &best));
        *stop = t->cfg->eval_patience > 0 && t->bad_evals >= t->cfg->eval_patience;
        t->window.begin += rk__seconds() - begin; /* training is measured, not this */
        t->crew.waited += rk__crew_waited(&t->crew) - waited;
        rk__crew_forget(&t->crew, sent);
    }
    if (best || saves)
        begin_save(t, best);
    poll_save(t);
    return rk_failed(t->ctx);
}

static rk_status steps(rk__trainer *t)
{
    bool patience_over = t->cfg->eval_patience > 0 && t->bad_evals >= t->cfg->eval_patience;
    t->window = (rk__window){ .begin = rk__seconds() };
    rk__crew_begin(&t->crew);
    while (t->step < t->total && !(patience_over && rk__workers_agree(t))) {
        RK_TRY(ask_before(t));
        if (t->stop)
            return preempted(t);
        rk_batch b;
        double begin = rk__seconds();
        if (!rk_loader_next(t->setup.train, &b))
            return rk_failed(t->ctx) ? rk_failed(t->ctx)
                                     : rk_fail(t->ctx, RK_EINTERNAL, "the training data ended at step %lld",
                                               (long long)t->step);
        t->window.data += rk__seconds() - begin;
        rk__trace_end(t->setup.job, RK__TRACK_STEP, "loader", begin);
        begin = rk__seconds();
        RK_TRY(take_step(t, &b));
        RK_TRY(rk_step_end(t->ctx));
        rk__trace_end(t->setup.job, RK__TRACK_STEP, "step", begin);
        RK_TRY(after_step(t, &patience_over));
    }
    char why[128];
    if (patience_over)
        snprintf(why, sizeof why, "no better evaluation in %lld: stopped early at step %lld",
                 (long long)t->bad_evals, (long long)t->step);
    else
        snprintf(why, sizeof why, "finished: %lld steps", (long long)t->step);
    return finish(t, why);
}

static void warn_of_plan(rk__trainer *t)
{
    int64_t samples = rk_loader_samples(t->setup.train);
    if (t->cfg->batch_global > samples)
        rk__report_text(t, RK_EVENT_WARN,
                        "batch.global %lld is more than the %lld training samples: each step takes "
                        "all of them",
                        (long long)t->cfg->batch_global, (long long)samples);
    if (t->workers && t->setup.eval && t->eval_every % t->cfg->average_every)
        rk__report_text(
            t, RK_EVENT_WARN,
            "evaluations every %lld steps see the weights of the last averaging (average.every %lld): "
            "a multiple of that as eval.every sees them fresh",
            (long long)t->eval_every, (long long)t->cfg->average_every);
    int ranks, threads, cores, node = rk__crew_crowded(&t->crew, &ranks, &threads, &cores);
    if (node >= 0)
        rk__report_text(
            t, RK_EVENT_WARN,
            "%d ranks with %d threads share %d processors on node %d: the results are the same, but they "
            "wait for each other; fewer ranks, or a smaller parallel.threads",
            ranks, threads, cores, node);
}

static rk_status train(rk__trainer *t)
{
    RK_TRY(rk__crew_meet(&t->crew, t->ctx, t->cfg));
    RK_TRY(prepare(t));
    rk__report_banner(t);
    warn_of_plan(t);
    int64_t done = t->step >= t->total && rk__journal_has(t->cfg->run_dir, "DONE");
    RK_TRY(agree(t, "whether the run is done", &done));
    if (done) {
        rk__report_text(t, RK_EVENT_END,
                        "already finished: step %lld of %lld; more run.steps or run.epochs continue it, "
                        "--fresh starts anew",
                        (long long)t->step, (long long)t->total);
        return RK_OK;
    }
    char path[4200];
    snprintf(path, sizeof path, "%s/DONE", t->cfg->run_dir);
    if (t->speaks)
        unlink(path);
    if (t->step)
        rk__report_text(t, RK_EVENT_START, "resumed from step %lld", (long long)t->step);
    else
        rk__report_text(t, RK_EVENT_START, "new run");
    rk_set_training(t->ctx, true);
    return steps(t);
}

/* Of a device that failed, once: as another rank may have said. */
static void tell_where_it_goes_on(const rk__trainer *t)
{
    if (strstr(rk_error(t->ctx), "the same command"))
        return;
    if (t->saved_step < 0)
        rk__fail_more(t->ctx, ". No snapshot was saved yet: the same command begins anew");
    else
        rk__fail_more(t->ctx, ". The last good snapshot is of step %lld: the same command goes on from there",
                      (long long)t->saved_step);
}

rk_status rk_train(rk_ctx *ctx, const rk_config *cfg, const rk_train_opts *opts)
{
    rk_train_opts quiet = { .stop = opts ? opts->stop : NULL,
                            .fresh = opts && opts->fresh,
                            .allow_change = opts && opts->allow_change };
    if (!ctx)
        return RK_EUSAGE;
    RK_TRY(rk_failed(ctx));
    if (!cfg)
        return rk_fail(ctx, RK_EUSAGE,
                       "rk_train() wants a configuration; where rk_config_load() gave none, "
                       "its context tells why");
    if (rk_failed(cfg->ctx))
        return rk_fail(ctx, rk_failed(cfg->ctx), "%s", rk_error(cfg->ctx));
    rk__trainer t = { .ctx = ctx,
                      .cfg = cfg,
                      .opts = ctx->rank == 0 && opts ? opts : &quiet,
                      .speaks = ctx->rank == 0,
                      .started = rk__seconds(),
                      .journal = { .metrics = -1, .events = -1 },
                      .eval_step = -1,
                      .saved_step = -1,
                      .asked_step = -1 };
    rk_status st = train(&t);
    if (st && rk_failed(ctx)) /* what was recorded first */
        st = rk_failed(ctx);
    if (st && st != RK_EPREEMPTED) {
        if (st == RK_EDEVICE)
            tell_where_it_goes_on(&t);
        if (st == RK_ENOMEM)
            rk__fit_advise(&t);
        rk_barrier(ctx); /* the other ranks hear of it instead of waiting */
        rk__crew_log(&t.crew, "failed: %s", rk_error(ctx));
        rk__trace_write_own(t.setup.job);
    }
    ctx->halted = NULL;
    if (t.run)
        rk__run_close(t.run);
    rk__journal_close(&t.journal);
    rk__state_free(&t.state);
    rk__setup_free(&t.setup);
    rk__crew_close(&t.crew);
    free(t.config_json);
    free(t.record);
    return st;
}
