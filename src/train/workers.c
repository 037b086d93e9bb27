#include "train/workers.h"

#include "core/cut.h"
#include "parallel/average.h"
#include "parallel/trace.h"
#include "train/late.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* floats of a cache line: values begin at one */

/* A trained parameter, or a buffer: of the outer network, and of each worker of this rank. */
typedef struct value {
    rk_param param;
    int64_t at;       /* in the outer vector */
    rk_tensor *rows;  /* (own, ...) */
    rk_tensor **row;  /* (own) views of them that change places with the network's own memory */
    rk_tensor *m, *v; /* (own, ...) of the optimisers */
    rk_tensor *ema;   /* of the outer one */
} value;

/* What is told of a worker's last step. */
typedef struct told {
    double loss, norm, samples;
} told;

struct rk__workers {
    rk_ctx *ctx;
    rk__job *job, *alone; /* of all ranks; of the passes */
    int count, first, own;
    value *value; /* parameters, then buffers */
    int n, n_params;
    rk__average *average;
    rk__accumulator acc;
    rk_optim **optim; /* (own) */
    int64_t *steps;   /* (count) that each has made: one without samples makes none */
    int64_t averaged; /* the step after which they agreed last */
    told *last;       /* (count) */
    rk_leg *leg;      /* (ranks) */
    rk_tensor *none;  /* without elements: what a rank has of others' rows */
    double ema_decay;
    bool heard; /* some loss has been told in this session */
};

/* ---- making ---- */

static void workers_free(void *arg)
{
    rk__workers *w = arg;
    for (int i = 0; w->value && i < w->n; i++)
        free(w->value[i].row);
    free(w->value);
    free(w->optim);
    free(w->steps);
    free(w->last);
    free(w->leg);
    free(w);
}

/* What workers differ in: parameters that are trained, then buffers, one after another in the outer vector.
 */
static int64_t list_values(rk__workers *w, const rk_module *net)
{
    int64_t at = 0;
    for (int buffers = 0; buffers < 2; buffers++) {
        for (int i = 0; i < rk_param_count(net); i++) {
            rk_param p = rk_param_at(net, i);
            if (p.buffer != (buffers == 1) || (p.frozen && !p.buffer))
                continue;
            w->value[w->n++] = (value){ .param = p, .at = at };
            at += (rk_tensor_size(p.tensor) + ALIGN - 1) / ALIGN * ALIGN;
        }
        if (!buffers)
            w->n_params = w->n;
    }
    return at;
}

/* (own, ...) for a value of this shape. */
static rk_tensor *make_rows(const rk__workers *w, const rk_tensor *t)
{
    rk_shape s = rk_tensor_shape(t), rows = { .ndim = s.ndim + 1, .dim = { w->own } };
    memcpy(rows.dim + 1, s.dim, (size_t)s.ndim * sizeof s.dim[0]);
    return rk_tensor_make(w->ctx, RK_F32, rows);
}

static float *row_of(const rk__workers *w, const rk_tensor *rows, int k)
{
    return (float *)rk__data(rows) + k * (rk__size(rows) / w->own);
}

/* All workers of this rank begin where the outer network is. */
static rk_status spread(const rk__workers *w, const value *v)
{
    const rk_tensor *t = v->param.tensor;
    for (int k = 0; k < w->own; k++)
        RK_TRY(
            rk__device_copy(w->ctx, (size_t)rk__size(t) * sizeof(float), rk__data(t), rk__data(v->row[k])));
    return RK_OK;
}

static rk_status make_value(rk__workers *w, value *v)
{
    rk_ctx *ctx = w->ctx;
    rk_tensor *t = v->param.tensor;
    v->row = rk__calloc(ctx, (size_t)w->own, sizeof *v->row);
    v->rows = make_rows(w, t);
    RK_TRY(rk_failed(ctx));
    for (int k = 0; k < w->own; k++)
        v->row[k] = rk__tensor_over(ctx, RK_F32, rk_tensor_shape(t), row_of(w, v->rows, k));
    RK_TRY(rk_failed(ctx));
    RK_TRY(rk__tensor_move(t, rk__average_outer(w->average) + v->at));
    if (w->ema_decay > 0 && !v->param.buffer) {
        v->ema = rk_tensor_make(ctx, RK_F32, rk_tensor_shape(t));
        RK_TRY(rk__device_copy(ctx, (size_t)rk__size(t) * sizeof(float), rk__data(t), rk__data(v->ema)));
    }
    return spread(w, v);
}

/* The slot of an optimiser for a parameter. */
static rk__optim_slot *slot_of(rk_optim *o, const rk_tensor *t)
{
    int i = 0;
    while (i < o->n && o->slots[i].param.tensor != t)
        i++;
    RK_ASSERT(i < o->n);
    return &o->slots[i];
}

/* The optimisers' tensors of one parameter lie side by side. */
static rk_status join_slots(rk__workers *w, value *v)
{
    const rk__optim_slot *any = slot_of(w->optim[0], v->param.tensor);
    v->m = any->m ? make_rows(w, v->param.tensor) : NULL;
    v->v = any->v ? make_rows(w, v->param.tensor) : NULL;
    RK_TRY(rk_failed(w->ctx));
    for (int k = 0; k < w->own; k++) {
        rk__optim_slot *s = slot_of(w->optim[k], v->param.tensor);
        if (s->m)
            RK_TRY(rk__tensor_move(s->m, row_of(w, v->m, k)));
        if (s->v)
            RK_TRY(rk__tensor_move(s->v, row_of(w, v->v, k)));
    }
    return RK_OK;
}

static rk_status make_optims(rk__workers *w, rk_module *net, const rk_optim_cfg *cfg)
{
    rk_optim_cfg inner = *cfg;
    inner.ema_decay = 0; /* averages follow the outer weights */
    for (int k = 0; k < w->own; k++) {
        w->optim[k] = rk__optim_make(net, &inner, NULL);
        RK_TRY(rk_failed(w->ctx));
    }
    for (int i = 0; i < w->n_params; i++)
        RK_TRY(join_slots(w, &w->value[i]));
    return RK_OK;
}

static rk__workers *make(rk__trainer *t)
{
    rk_ctx *ctx = t->ctx;
    rk__job *j = t->setup.job;
    rk__workers *w = rk__calloc(ctx, 1, sizeof *w);
    if (!w || rk__at_close(ctx, workers_free, w)) {
        free(w);
        return NULL;
    }
    *w = (rk__workers){ .ctx = ctx, .job = j, .count = rk__config_workers(t->cfg) };
    w->first = rk__average_first(j, w->count, j->rank);
    w->own = rk__average_first(j, w->count, j->rank + 1) - w->first;
    w->value = rk__calloc(ctx, (size_t)rk_param_count(t->setup.net), sizeof *w->value);
    w->optim = rk__calloc(ctx, (size_t)w->own, sizeof(rk_optim *));
    w->steps = rk__calloc(ctx, (size_t)w->count, sizeof *w->steps);
    w->last = rk__calloc(ctx, (size_t)w->count, sizeof *w->last);
    w->leg = rk__calloc(ctx, (size_t)j->ranks, sizeof *w->leg);
    w->none = rk_tensor_make(ctx, RK_F32, RK_SHAPE(0));
    return rk_failed(ctx) ? NULL : w;
}

static rk_status make_average(rk__workers *w, const rk_config *c, int64_t total)
{
    const rk__average_cfg cfg = { .workers = w->count,
                                  .n = total,
                                  .moved = w->n_params < w->n ? w->value[w->n_params].at : total,
                                  .nesterov = !strcmp(c->average_outer, "nesterov"),
                                  .lr = c->average_lr,
                                  .momentum = c->average_momentum };
    return rk__average_make(w->job, &cfg, &w->average);
}

rk_status rk__workers_make(rk__trainer *t, const rk_optim_cfg *cfg)
{
    if (!rk__config_workers(t->cfg))
        return rk_failed(t->ctx);
    rk__workers *w = make(t);
    if (!w)
        return rk_failed(t->ctx);
    int64_t total = list_values(w, t->setup.net);
    w->ema_decay = cfg->ema_decay;
    RK_TRY(make_average(w, t->cfg, total));
    RK_TRY(rk__job_alone(t->ctx, &w->alone));
    RK_TRY(rk__accumulator_init(&w->acc, w->alone, t->setup.net, rk__setup_loss, &t->setup,
                                t->cfg->batch_micro, RK__ZERO_NONE, 0));
    for (int i = 0; i < w->n; i++)
        RK_TRY(make_value(w, &w->value[i]));
    RK_TRY(make_optims(w, t->setup.net, cfg));
    t->workers = w;
    t->optim = w->optim[0];
    return RK_OK;
}

/* ---- state ---- */

static rk_status add_named(rk_state *st, rk_state_kind kind, const char *prefix, const value *v,
                           const char *suffix, rk_tensor *t, const rk_piece *piece)
{
    char name[1200];
    snprintf(name, sizeof name, "%s/%s%s", prefix, v->param.name, suffix);
    return rk__state_add_piece(st, kind, name, t, piece);
}

/* Rows of all workers, of which this rank has some. */
static rk_status add_rows(const rk__workers *w, rk_state *st, const value *v, const char *suffix,
                          rk_tensor *rows)
{
    if (!rows)
        return RK_OK;
    rk_shape whole = rk_tensor_shape(rows);
    whole.dim[0] = w->count;
    rk_piece piece = rk__piece_whole(&whole);
    piece.lo[0] = w->first;
    piece.box.dim[0] = w->own;
    piece.to = rk__size(rows);
    return add_named(st, RK_STATE_OPTIM, "workers", v, suffix, rows, &piece);
}

/* The outer optimiser's momentum, of the elements that this rank moves. */
static rk_status add_momentum(const rk__workers *w, rk_state *st, const value *v)
{
    int64_t lo, hi;
    float *m = rk__average_momentum(w->average, &lo, &hi);
    const rk_shape shape = rk_tensor_shape(v->param.tensor);
    rk_piece piece = rk__piece_whole(&shape);
    const int64_t size = piece.to;
    if (!m)
        return RK_OK;
    piece.from = lo < v->at ? 0 : lo - v->at < size ? lo - v->at : size;
    piece.to = hi < v->at ? 0 : hi - v->at < size ? hi - v->at : size;
    if (piece.to <= piece.from) {
        piece.from = piece.to = 0;
        return add_named(st, RK_STATE_OPTIM, "outer", v, "", w->none, &piece);
    }
    rk_tensor *own =
        rk__tensor_over(w->ctx, RK_F32, RK_SHAPE(piece.to - piece.from), m + v->at + piece.from - lo);
    RK_TRY(rk_failed(w->ctx));
    return add_named(st, RK_STATE_OPTIM, "outer", v, "", own, &piece);
}

rk_status rk__workers_state(rk__trainer *t, rk_state *st)
{
    rk__workers *w = t->workers;
    char name[64];
    for (int i = 0; i < w->n; i++) {
        const value *v = &w->value[i];
        RK_TRY(add_rows(w, st, v, "/value", v->rows));
        RK_TRY(add_rows(w, st, v, "/m", v->m));
        RK_TRY(add_rows(w, st, v, "/v", v->v));
        if (!v->param.buffer)
            RK_TRY(add_momentum(w, st, v));
        if (v->ema) {
            rk_piece piece = rk__cut_piece(v->param.tensor);
            RK_TRY(add_named(st, RK_STATE_EMA, "ema", v, "", v->ema, &piece));
        }
    }
    for (int k = 0; k < w->count; k++) {
        snprintf(name, sizeof name, "workers/%d/steps", k);
        RK_TRY(rk__state_add_cursor(st, name, &w->steps[k]));
    }
    return rk__state_add_cursor(st, "workers/averaged", &w->averaged);
}

/* ---- one step ---- */

/* The values of worker k and of the network change places. */
static void swap_worker(rk__workers *w, int k)
{
    for (int i = 0; i < w->n; i++) {
        rk__storage *s = w->value[i].param.tensor->storage;
        w->value[i].param.tensor->storage = w->value[i].row[k]->storage;
        w->value[i].row[k]->storage = s;
    }
}

/* The samples of worker k (of all) in a batch of `global`. */
static void share_of(const rk__workers *w, int64_t global, int k, int64_t *lo, int64_t *hi)
{
    rk_order_samples(global, w->count, (rk_subtree){ k, 1 }, lo, hi);
}

static rk_batch part_of(const rk_batch *b, int64_t lo, int64_t hi)
{
    rk_batch part = *b;
    const int64_t at = lo - b->first;
    part.x = rk_slice(b->x, 0, at, at + hi - lo);
    part.y = b->y == b->x ? part.x : rk_slice(b->y, 0, at, at + hi - lo);
    part.n = part.global = hi - lo;
    part.first = lo; /* random numbers are counted over the whole batch */
    part.sample = b->sample + at;
    return part;
}

/* To be looked at later. */
static rk_status step_late(rk__trainer *t, int k, const rk_batch *b, double lr_scale)
{
    rk__workers *w = t->workers;
    double none;
    t->ctx->halted = rk__optim_halted(w->optim[k]);
    RK_TRY(rk__accumulate(&w->acc, b, (uint64_t)t->step, &none));
    rk_status st = rk__optim_step_alone(w->optim[k], lr_scale, w->acc.loss_at_hand, t->late.steps);
    t->ctx->halted = NULL;
    return st;
}

/* Worker `first + k`, whose values the network has. */
static rk_status step_worker(rk__trainer *t, int k, const rk_batch *b, double lr_scale)
{
    rk__workers *w = t->workers;
    rk_optim *o = w->optim[k];
    told *last = &w->last[w->first + k];
    o->steps = w->steps[w->first + k];
    last->samples = (double)b->n;
    if (t->late.on)
        return step_late(t, k, b, lr_scale);
    RK_TRY(rk__accumulate(&w->acc, b, (uint64_t)t->step, &last->loss));
    if (!isfinite(last->loss))
        return rk__diverged(t, b, w->first + k, "the loss is not finite");
    RK_TRY(rk__step_optim(t, o, b, w->first + k, lr_scale));
    last->norm = rk_optim_grad_norm(o);
    return RK_OK;
}

static rk_status step_own(rk__trainer *t, const rk_batch *b, double lr_scale)
{
    rk__workers *w = t->workers;
    for (int k = 0; k < w->own; k++) {
        int64_t lo, hi;
        share_of(w, b->global, w->first + k, &lo, &hi);
        w->last[w->first + k] = (told){ 0 };
        if (lo == hi)
            continue;
        rk_batch part = part_of(b, lo, hi);
        RK_TRY(rk_failed(t->ctx));
        swap_worker(w, k);
        rk_status st = step_worker(t, k, &part, lr_scale);
        swap_worker(w, k);
        RK_TRY(st);
    }
    return RK_OK;
}

rk_status rk__workers_step(rk__trainer *t, const rk_batch *b, double lr_scale)
{
    rk__workers *w = t->workers;
    const rk__meet meet = t->ctx->meet;
    t->ctx->meet = (rk__meet){ 0 };
    if (t->late.on)
        rk__late_note(t, b);
    rk_status st = step_own(t, b, lr_scale);
    if (t->late.on)
        t->late.steps++;
    t->ctx->meet = meet;
    for (int k = 0; k < w->count; k++) {
        int64_t lo, hi;
        share_of(w, b->global, k, &lo, &hi);
        w->steps[k] += hi > lo;
    }
    return st;
}

/* ---- looking later ---- */

bool rk__workers_alone(rk__trainer *t)
{
    rk__workers *w = t->workers;
    bool can = w->own > 0;
    for (int k = 0; k < w->own; k++)
        can = can && rk__optim_alone(w->optim[k]);
    w->acc.unread = can;
    return can;
}

/* Worker k was bad in step i of the last n: its values are those before it. */
static rk_status go_back(rk__trainer *t, int n, int i, int k, const rk_verdict *v)
{
    rk__workers *w = t->workers;
    const rk__meet meet = t->ctx->meet;
    char what[512];
    rk_batch b;
    int64_t lo, hi;
    rk__late_why(t, w->optim[k], v, what);
    RK_TRY(rk__late_back(t, n, i, &b));
    share_of(w, b.global, w->first + k, &lo, &hi);
    rk_batch part = part_of(&b, lo, hi);
    RK_TRY(rk_failed(t->ctx));
    t->ctx->meet = (rk__meet){ 0 };
    rk__job_grid(w->alone, part.global);
    rk_set_step(t->ctx, (uint64_t)t->step, part.first);
    swap_worker(w, k);
    rk_status st = rk__diverged(t, &part, w->first + k, what);
    swap_worker(w, k);
    t->ctx->meet = meet;
    return st;
}

/* Did worker k make step i of those that are looked at? */
static bool made_step(const rk__trainer *t, int i, int k)
{
    int64_t lo, hi;
    share_of(t->workers, t->late.samples[i], t->workers->first + k, &lo, &hi);
    return hi > lo;
}

rk_status rk__workers_look(rk__trainer *t, int n)
{
    rk__workers *w = t->workers;
    rk_verdict *v = rk__calloc(t->ctx, (size_t)w->own * (size_t)n, sizeof *v);
    rk_status st = v ? RK_OK : RK_ENOMEM;
    for (int k = 0; k < w->own && !st; k++) {
        st = rk__optim_look(w->optim[k], n, v + k * n);
        if (!st && made_step(t, n - 1, k)) {
            w->last[w->first + k].loss = v[k * n + n - 1].loss;
            w->last[w->first + k].norm = v[k * n + n - 1].norm;
        }
    }
    for (int i = 0; i < n && !st; i++)
        for (int k = 0; k < w->own && !st; k++)
            if (made_step(t, i, k) && v[k * n + i].bad != RK_VERDICT_GOOD)
                st = go_back(t, n, i, k, &v[k * n + i]);
    free(v);
    return st;
}

/* ---- averaging ---- */

/* The averages follow the outer weights, which have stood still for `steps`. */
static rk_status follow(const rk__workers *w, const value *v, int64_t steps)
{
    rk_ctx *ctx = w->ctx;
    double decay = 1;
    if (!v->ema)
        return RK_OK;
    for (int64_t i = 0; i < steps; i++)
        decay *= w->ema_decay;
    const rk_optim_piece piece = { .n = rk__size(v->ema),
                                   .w = rk__data(v->ema),
                                   .g = rk__data(v->param.tensor) };
    rk_status st = rk__kernels(ctx, RK_F32)->ema(ctx->dev, decay, NULL, 1, &piece);
    return st ? rk_fail(ctx, st, "the average of %s cannot be updated", v->param.name) : RK_OK;
}

/* [C] */
static rk_status average(rk__trainer *t)
{
    rk__workers *w = t->workers;
    double begin = rk__trace_begin(w->job);
    for (int i = 0; i < w->n; i++) {
        const value *v = &w->value[i];
        RK_TRY(rk__average_put(w->average, v->at, rk__size(v->param.tensor), rk__data(v->rows)));
    }
    RK_TRY(rk__average_meet(w->average));
    for (int i = 0; i < w->n; i++) {
        RK_TRY(spread(w, &w->value[i]));
        RK_TRY(follow(w, &w->value[i], t->step - w->averaged));
    }
    w->averaged = t->step;
    rk__trace_end(w->job, RK__TRACK_STEP, "averaging", begin);
    return rk_failed(t->ctx);
}

/* [C] What the log tells of the last step: means over the samples. */
static rk_status tell(rk__trainer *t)
{
    rk__workers *w = t->workers;
    const rk__job *j = w->job;
    double samples = 0;
    for (int r = 0; r < j->ranks; r++) {
        const int first = rk__average_first(j, w->count, r), end = rk__average_first(j, w->count, r + 1);
        w->leg[r] = (rk_leg){ w->last + first, (size_t)(end - first) * sizeof *w->last };
    }
    if (j->ranks > 1)
        RK_TRY(rk__comm_all_gather(j->comm, "losses", w->leg));
    t->loss = t->grad_norm = 0;
    for (int k = 0; k < w->count; k++) {
        t->loss += w->last[k].loss * w->last[k].samples;
        t->grad_norm += w->last[k].norm * w->last[k].samples;
        samples += w->last[k].samples;
    }
    t->loss /= samples;
    t->grad_norm /= samples;
    w->heard = true;
    return RK_OK;
}

rk_status rk__workers_stepped(rk__trainer *t)
{
    rk__workers *w = t->workers;
    const bool last = t->step == t->total, now = last || t->step % t->cfg->average_every == 0;
    const bool tells = now || !w->heard || t->step % t->cfg->log_every == 0;
    if (tells)
        RK_TRY(rk__late_look(t));
    if (now)
        RK_TRY(average(t));
    return tells ? tell(t) : RK_OK;
}

/* ---- what there is ---- */

bool rk__workers_agree(const rk__trainer *t)
{
    return !t->workers || t->workers->averaged == t->step;
}

void rk__workers_swap_ema(rk__trainer *t)
{
    for (int i = 0; i < t->workers->n; i++) {
        const value *v = &t->workers->value[i];
        if (v->ema) {
            rk__storage *s = v->param.tensor->storage;
            v->param.tensor->storage = v->ema->storage;
            v->ema->storage = s;
        }
    }
}

size_t rk__workers_bytes(const rk__trainer *t)
{
    return rk__average_bytes(t->workers->average);
}
