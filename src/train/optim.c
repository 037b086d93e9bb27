#include "train/optim.h"

#include "core/cut.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b)
{
    return strcmp(((const rk__optim_slot *)a)->param.name, ((const rk__optim_slot *)b)->param.name);
}

static void optim_free(void *arg)
{
    rk_optim *o = arg;
    free(o->slots);
    free(o->pieces);
    free(o->averages);
    free(o);
}

static rk_status check_cfg(rk_ctx *ctx, const rk_optim_cfg *c)
{
    if (c->kind != RK_SGD && c->kind != RK_ADAM && c->kind != RK_ADAMW)
        return rk_fail(ctx, RK_EUSAGE, "optimiser: unknown kind %d", (int)c->kind);
    if (!(c->lr >= 0) || !(c->weight_decay >= 0) || !(c->clip_norm >= 0))
        return rk_fail(ctx, RK_EUSAGE,
                       "optimiser: lr %g, weight_decay %g and clip_norm %g must not be negative", c->lr,
                       c->weight_decay, c->clip_norm);
    if (c->kind != RK_SGD && !(c->beta1 >= 0 && c->beta1 < 1 && c->beta2 >= 0 && c->beta2 < 1 && c->eps >= 0))
        return rk_fail(ctx, RK_EUSAGE,
                       "optimiser: beta1 %g and beta2 %g must lie in [0, 1), eps %g not below 0", c->beta1,
                       c->beta2, c->eps);
    if (c->kind == RK_SGD && (!(c->momentum >= 0 && c->momentum <= 1) || (c->nesterov && c->momentum == 0)))
        return rk_fail(ctx, RK_EUSAGE, "optimiser: momentum %g must lie in [0, 1], above 0 for Nesterov",
                       c->momentum);
    if (!(c->ema_decay >= 0 && c->ema_decay < 1))
        return rk_fail(ctx, RK_EUSAGE, "optimiser: ema_decay %g must lie in [0, 1)", c->ema_decay);
    return RK_OK;
}

static void make_slot(rk_optim *o, rk_param p)
{
    rk_shape s = rk_tensor_shape(p.tensor);
    rk__optim_slot *slot = &o->slots[o->n];
    *slot = (rk__optim_slot){ .param = p, .to = rk_tensor_size(p.tensor) };
    o->n++;
    if (o->grads) {
        rk__grads_piece(o->grads, p.tensor, &slot->from, &slot->to);
        if (slot->to - slot->from < rk_tensor_size(p.tensor))
            s = RK_SHAPE(slot->to - slot->from);
    }
    if (o->cfg.kind != RK_SGD || o->cfg.momentum > 0)
        slot->m = rk_tensor_make(o->ctx, RK_F32, s);
    if (o->cfg.kind != RK_SGD)
        slot->v = rk_tensor_make(o->ctx, RK_F32, s);
    if (o->cfg.ema_decay > 0)
        slot->ema = rk_tensor_make(o->ctx, RK_F32, s);
}

/* [C] Gradients that meet in the optimiser's step, for a program with a loop of its own. */
static rk_status own_gradients(rk_module *root, rk_ctx *ctx)
{
    int n = 0;
    rk__job *job;
    if (!ctx->job)
        RK_TRY(rk__job_open(ctx, 1, &job)); /* which says why it cannot be */
    if (ctx->job->grads)
        return rk_fail(ctx, RK_EUSAGE, "several ranks train with one optimiser");
    rk_tensor **trained = rk__calloc(ctx, (size_t)rk_param_count(root), sizeof *trained);
    for (int i = 0; trained && i < rk_param_count(root); i++) {
        rk_param p = rk_param_at(root, i);
        if (!p.buffer && !p.frozen)
            trained[n++] = p.tensor;
    }
    const rk__grads_cfg cfg = { .t = trained, .n = n, .zero = RK__ZERO_OPTIMIZER };
    rk_status st = trained ? rk__grads_make(ctx->job, &cfg, &ctx->job->grads) : RK_ENOMEM;
    free(trained);
    return st;
}

rk_optim *rk_optim_make(rk_module *root, const rk_optim_cfg *cfg)
{
    rk_tensor *any = rk_param_count(root) ? rk_param_at(root, 0).tensor : NULL;
    rk_ctx *ctx = any ? rk_tensor_ctx(any) : NULL;
    if (!ctx || ctx->ranks == 1)
        return rk__optim_make(root, cfg, NULL);
    if (rk_failed(ctx) || own_gradients(root, ctx))
        return NULL;
    rk_optim *o = rk__optim_make(root, cfg, ctx->job->grads);
    if (o)
        o->sums = true;
    return o;
}

/* ---- what the device decides ---- */

/* Steps and the loss scale, where the device has others: at first, and when they came from a snapshot. */
static rk_status tell_device(rk_optim *o)
{
    rk_ctx *ctx = o->ctx;
    const rk__scale *s = &o->scale;
    rk_watch *w = &o->seen;
    if (o->told && !w->halted && w->steps == o->steps && w->power == s->power && w->good == s->good &&
        w->skipped == s->skipped)
        return rk_failed(ctx);
    *w = (rk_watch){ .steps = o->steps, .power = s->power, .good = s->good, .skipped = s->skipped };
    w->seed64 = rk__scale_value(s);
    w->seed32 = (float)w->seed64;
    void *to = rk__data(o->watch);
    if (!to)
        return rk_failed(ctx);
    rk_status st = ctx->device->copy_in(ctx->dev, to, w, offsetof(rk_watch, verdict));
    o->told = !st;
    return st ? rk_fail(ctx, st, "optimiser: its state cannot be written to the device") : RK_OK;
}

/* Reads what the device has decided, and the first n verdicts. */
static rk_status read_device(rk_optim *o, int n, rk_verdict *verdicts)
{
    rk_ctx *ctx = o->ctx;
    rk_watch now = o->seen;
    const void *from = rk__data(o->watch);
    RK_TRY(rk_failed(ctx));
    rk_status st = ctx->device->copy_out(ctx->dev, &now, from,
                                         offsetof(rk_watch, verdict) + (size_t)n * sizeof *now.verdict);
    if (st)
        return rk_fail(ctx, st, "optimiser: the verdicts cannot be read from the device");
    memcpy(verdicts, now.verdict, (size_t)n * sizeof *verdicts);
    memcpy(&o->seen, &now, offsetof(rk_watch, verdict));
    o->steps = now.steps;
    if (o->scale.moves) {
        o->scale.power = now.power;
        o->scale.good = now.good;
        o->scale.skipped = now.skipped;
    }
    return RK_OK;
}

/* Asked for before a backward pass, so that the device knows it then. */
static double loss_scale(void *arg)
{
    rk_optim *o = arg;
    if (o->scale.moves)
        tell_device(o);
    return rk__scale_value(&o->scale);
}

/* A backward pass does not know whose parameters it will meet. */
static void scale_losses(rk_optim *o)
{
    const rk_optim *other = o->ctx->loss_scale.arg;
    const double mine = rk__scale_value(&o->scale);
    if (other && (other->scale.moves || o->scale.moves || rk__scale_value(&other->scale) != mine))
        rk_fail(
            o->ctx, RK_EUSAGE,
            "optimiser: a loss scale of %g beside one of %g: optimisers of one context have the same, and a "
            "scale that moves is that of a context's only one",
            mine, rk__scale_value(&other->scale));
    o->ctx->loss_scale = (rk__loss_scale){ o, loss_scale, o->scale.moves ? rk__data(o->watch) : NULL };
}

static rk_status make_norms(rk_optim *o)
{
    rk_tensor **t = rk__calloc(o->ctx, (size_t)o->n + 1, sizeof(rk_tensor *));
    if (!t)
        return RK_ENOMEM;
    for (int i = 0; i < o->n; i++)
        t[i] = o->slots[i].param.tensor;
    rk_status st = rk__norms_make(o->ctx, o->grads, t, o->n, &o->norms);
    free(t);
    return st;
}

rk_optim *rk__optim_make(rk_module *root, const rk_optim_cfg *cfg, rk__grads *grads)
{
    rk_tensor *any = rk_param_count(root) ? rk_param_at(root, 0).tensor : NULL;
    rk_ctx *ctx = any ? rk_tensor_ctx(any) : NULL;
    if (!ctx || rk_failed(ctx) || check_cfg(ctx, cfg))
        return NULL;
    rk_optim *o = rk__calloc(ctx, 1, sizeof *o);
    if (!o)
        return NULL;
    *o = (rk_optim){ .ctx = ctx, .root = root, .cfg = *cfg, .grads = grads };
    rk__scale_init(&o->scale, ctx, cfg->loss_scale, cfg->loss_scale_moves);
    o->slots = rk__calloc(ctx, (size_t)rk_param_count(root), sizeof *o->slots);
    o->pieces = rk__calloc(ctx, (size_t)rk_param_count(root), sizeof *o->pieces);
    o->averages = rk__calloc(ctx, (size_t)rk_param_count(root), sizeof *o->averages);
    if (!o->slots || !o->pieces || !o->averages || rk__at_close(ctx, optim_free, o)) {
        optim_free(o);
        return NULL;
    }
    for (int i = 0; i < rk_param_count(root); i++) {
        rk_param p = rk_param_at(root, i);
        if (!p.buffer && !p.frozen)
            make_slot(o, p);
    }
    if (!o->n)
        rk_fail(ctx, RK_ECONFIG, "nothing to train: every parameter is frozen");
    qsort(o->slots, (size_t)o->n, sizeof *o->slots, by_name);
    o->watch = rk_tensor_make(ctx, RK_U8, RK_SHAPE(sizeof(rk_watch)));
    if (!rk_failed(ctx) && !make_norms(o))
        scale_losses(o);
    return o;
}

/* ---- one step ---- */

/* [C] The verdict of the device, which stays there. loss may be NULL. */
static rk_status judge(rk_optim *o, const rk_tensor *loss, int slot)
{
    const rk_judge_args a = { .loss = loss ? rk__data(loss) : NULL,
                              .clip_norm = o->cfg.clip_norm,
                              .loss_scale = rk__scale_value(&o->scale),
                              .moves = o->scale.moves,
                              .beta1 = o->cfg.beta1,
                              .beta2 = o->cfg.beta2,
                              .watch = rk__data(o->watch),
                              .slot = slot };
    RK_TRY(tell_device(o));
    return rk__norms_judge(o->norms, &a);
}

rk_status rk__optim_bad(rk_optim *o, const rk_verdict *v)
{
    const char *name = o->slots[v->bad - 1].param.name;
    if (o->scale.moves)
        return rk_fail(o->ctx, RK_EDIVERGED,
                       "the gradient of %s is not finite, and the loss is not scaled up any more", name);
    if (o->cfg.loss_scale > 1)
        return rk_fail(o->ctx, RK_EDIVERGED,
                       "the gradient of %s is not finite at a loss scale of %g; a smaller one may help", name,
                       o->cfg.loss_scale);
    return rk_fail(o->ctx, RK_EDIVERGED, "the gradient of %s is not finite; no weight was changed", name);
}

static rk_status list_pieces(rk_optim *o)
{
    const rk_optim_cfg *c = &o->cfg;
    for (int i = 0; i < o->n; i++) {
        const rk__optim_slot *s = &o->slots[i];
        const rk_tensor *w = s->param.tensor, *g = rk_grad(w);
        rk_optim_piece *p = &o->pieces[i];
        *p = (rk_optim_piece){ .m = s->m ? rk__data(s->m) : NULL,
                               .v = s->v ? rk__data(s->v) : NULL,
                               .weight_decay = s->param.no_decay && !c->decay_all ? 0 : c->weight_decay };
        if (g) {
            p->n = s->to - s->from;
            p->w = rk__data_range(w, s->from, s->to);
            p->g = rk__data_range(g, s->from, s->to);
        }
        o->averages[i] = (rk_optim_piece){ .n = p->n, .w = s->ema ? rk__data(s->ema) : NULL, .g = p->w };
    }
    return rk_failed(o->ctx);
}

static rk_status update(rk_optim *o, double lr)
{
    rk_ctx *ctx = o->ctx;
    const rk_kernels *k = rk__kernels(ctx, RK_F32);
    const rk_optim_cfg *c = &o->cfg;
    const rk_watch *watch = rk__data(o->watch);
    const rk_optim_args a = {
        .lr = lr,
        .beta1 = c->beta1,
        .beta2 = c->beta2,
        .eps = c->eps,
        .momentum = c->momentum,
        .nesterov = c->nesterov,
        .decoupled = c->kind == RK_ADAMW,
        .watch = watch,
    };
    RK_TRY(rk_failed(ctx));
    rk_status st = (c->kind == RK_SGD ? k->sgd : k->adam)(ctx->dev, &a, o->n, o->pieces);
    if (st)
        return rk_fail(ctx, st, "optimiser: the weights cannot be updated");
    if (c->ema_decay > 0)
        st = k->ema(ctx->dev, c->ema_decay, &watch->still, o->n, o->averages);
    return st ? rk_fail(ctx, st, "optimiser: the averages cannot be updated") : RK_OK;
}

static rk_status copy(rk_ctx *ctx, int64_t n, const float *from, float *to)
{
    return from && to ? rk__device_copy(ctx, (size_t)n * sizeof *to, from, to) : rk_failed(ctx);
}

/* Averages begin at the weights that the first step finds. */
static rk_status begin_ema(rk_optim *o)
{
    for (int i = 0; i < o->n && !o->steps; i++) {
        rk__optim_slot *s = &o->slots[i];
        if (s->ema)
            RK_TRY(copy(o->ctx, s->to - s->from, rk__data_range(s->param.tensor, s->from, s->to),
                        rk__data(s->ema)));
    }
    return RK_OK;
}

static void use_up(rk_optim *o)
{
    for (int i = 0; i < o->n; i++)
        rk_grad_zero(o->slots[i].param.tensor);
}

/* [C] Weights, momenta and averages move, if the device has found the step good; gradients are used up.
 * Weights are asked for when all ranks are done with the norm. */
static rk_status move(rk_optim *o, double lr_scale)
{
    RK_TRY(list_pieces(o));
    RK_TRY(begin_ema(o));
    RK_TRY(update(o, o->cfg.lr * lr_scale));
    if (o->grads)
        RK_TRY(rk__grads_weights_changed(o->grads));
    if (o->sums) /* the caller may read them on some ranks only */
        RK_TRY(rk__grads_settle(o->grads));
    use_up(o);
    return RK_OK;
}

/* The host waits: the caller may go on after a bad verdict, so the device is told that it may, too. */
rk_status rk_optim_step(rk_optim *o, double lr_scale)
{
    rk_verdict v;
    if (!o)
        return RK_EUSAGE;
    RK_TRY(rk_failed(o->ctx));
    if (o->sums)
        RK_TRY(rk__grads_sum(o->grads));
    const int64_t before = o->steps;
    RK_TRY(judge(o, NULL, 0));
    RK_TRY(read_device(o, 1, &v));
    o->norm = v.bad == RK_VERDICT_GOOD ? v.norm : NAN;
    if (v.left_out) {
        use_up(o);
        return begin_ema(o);
    }
    if (v.bad != RK_VERDICT_GOOD)
        return rk__optim_bad(o, &v);
    o->steps = before; /* the step is under way */
    RK_TRY(move(o, lr_scale));
    o->steps++;
    return RK_OK;
}

/* ---- without the host ---- */

bool rk__optim_alone(const rk_optim *o)
{
    return !rk__on_host(o->ctx);
}

rk_status rk__optim_step_alone(rk_optim *o, double lr_scale, const rk_tensor *loss, int slot)
{
    RK_TRY(judge(o, loss, slot));
    RK_TRY(move(o, lr_scale));
    o->steps++;
    o->seen.steps++;
    return RK_OK;
}

rk_status rk__optim_look(rk_optim *o, int n, rk_verdict *verdicts)
{
    RK_TRY(read_device(o, n, verdicts));
    o->norm = verdicts[n - 1].bad == RK_VERDICT_GOOD ? verdicts[n - 1].norm : NAN;
    return RK_OK;
}

const int64_t *rk__optim_halted(rk_optim *o)
{
    const rk_watch *watch = rk__data(o->watch);
    return watch ? &watch->halted : NULL;
}

double rk_optim_grad_norm(const rk_optim *o)
{
    return o ? o->norm : 0;
}

int64_t rk_optim_steps(const rk_optim *o)
{
    return o ? o->steps : 0;
}

double rk_optim_loss_scale(const rk_optim *o)
{
    return o ? rk__scale_value(&o->scale) : 1;
}

int64_t rk_optim_skipped(const rk_optim *o)
{
    return o ? o->scale.skipped : 0;
}

/* ---- state ---- */

static rk_status add_named(rk_state *st, rk_state_kind kind, const char *prefix, const rk__optim_slot *s,
                           const char *suffix, rk_tensor *t)
{
    char full[1200];
    if (!t)
        return RK_OK;
    snprintf(full, sizeof full, "%s/%s%s", prefix, s->param.name, suffix);
    rk_piece piece = rk__cut_piece(s->param.tensor);
    piece.from = s->from;
    piece.to = s->to;
    return rk__state_add_piece(st, kind, full, t, &piece);
}

rk_status rk__optim_state(rk_optim *o, rk_state *st)
{
    for (int i = 0; i < o->n; i++) {
        const rk__optim_slot *s = &o->slots[i];
        RK_TRY(add_named(st, RK_STATE_OPTIM, "optim", s, "/m", s->m));
        RK_TRY(add_named(st, RK_STATE_OPTIM, "optim", s, "/v", s->v));
        RK_TRY(add_named(st, RK_STATE_EMA, "ema", s, "", s->ema));
    }
    RK_TRY(rk__scale_state(&o->scale, st));
    return rk__state_add_cursor(st, "optim/steps", &o->steps);
}

enum { BLOCK = 1 << 16 };

/* Swaps n weights with their averages through a little memory. */
static rk_status swap(rk_ctx *ctx, int64_t n, float *w, float *avg, float *block)
{
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t m = n - at < BLOCK ? n - at : BLOCK;
        RK_TRY(copy(ctx, m, w + at, block));
        RK_TRY(copy(ctx, m, avg + at, w + at));
        RK_TRY(copy(ctx, m, block, avg + at));
    }
    return RK_OK;
}

rk_status rk__optim_swap_ema(rk_optim *o)
{
    if (!o->steps || !(o->cfg.ema_decay > 0))
        return RK_OK;
    if (o->grads)
        RK_TRY(rk__grads_hold(o->grads));
    rk_tensor *aside = rk__out(o->ctx, RK_F32, RK_SHAPE(BLOCK));
    float *block = rk__data(aside);
    for (int i = 0; i < o->n; i++) {
        rk__optim_slot *s = &o->slots[i];
        float *w = rk__data_range(s->param.tensor, s->from, s->to), *avg = rk__data(s->ema);
        if (!w || !avg || !block)
            return rk_failed(o->ctx);
        RK_TRY(swap(o->ctx, s->to - s->from, w, avg, block));
    }
    rk__drop(aside);
    return o->grads ? rk__grads_weights_changed(o->grads) : RK_OK;
}
