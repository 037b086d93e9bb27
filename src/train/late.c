#include "train/late.h"

#include "parallel/trace.h"
#include "train/workers.h"

#include <math.h>
#include <stdio.h>

rk_status rk__late_begin(rk__trainer *t)
{
    t->late.on = t->workers ? rk__workers_alone(t) : rk__optim_alone(t->optim);
    if (t->late.on)
        t->loss = t->grad_norm = NAN;
    if (t->late.on && !t->workers) {
        t->acc.unread = true;
        t->ctx->halted = rk__optim_halted(t->optim);
    }
    return rk_failed(t->ctx);
}

void rk__late_note(rk__trainer *t, const rk_batch *b)
{
    rk__late *l = &t->late;
    l->cursor[l->steps] = t->cursor;
    l->samples[l->steps] = b->global;
}

rk_status rk__late_pass(rk__trainer *t, const rk_batch *b)
{
    double none;
    rk__late_note(t, b);
    return rk__accumulate(&t->acc, b, (uint64_t)t->step, &none);
}

rk_status rk__late_update(rk__trainer *t, double lr_scale)
{
    double begin = rk__trace_begin(t->setup.job);
    RK_TRY(rk__optim_step_alone(t->optim, lr_scale, t->acc.loss_at_hand, t->late.steps));
    rk__trace_end(t->setup.job, RK__TRACK_STEP, "optimiser", begin);
    t->late.steps++;
    return RK_OK;
}

/* ---- looking ---- */

rk_status rk__late_back(rk__trainer *t, int n, int i, rk_batch *b)
{
    t->step += i - n;
    t->cursor = t->late.cursor[i];
    RK_TRY(rk_loader_seek(t->setup.train, t->cursor));
    if (rk_loader_next(t->setup.train, b))
        return rk_failed(t->ctx);
    return rk_failed(t->ctx)
               ? rk_failed(t->ctx)
               : rk_fail(t->ctx, RK_EINTERNAL, "step %lld has no batch", (long long)t->step + 1);
}

void rk__late_why(rk__trainer *t, rk_optim *o, const rk_verdict *v, char what[512])
{
    snprintf(what, 512, "the loss is not finite");
    if (v->bad == RK_VERDICT_LOSS)
        return;
    rk__optim_bad(o, v);
    snprintf(what, 512, "%.500s", rk_error(t->ctx));
    rk_error_clear(t->ctx);
}

/* [C] The bad step's weights are still there: its batch tells what happened. */
static rk_status go_back(rk__trainer *t, int n, int i, const rk_verdict *v)
{
    char what[512];
    rk_batch b;
    t->loss = v->loss;
    rk__late_why(t, t->optim, v, what);
    RK_TRY(rk__late_back(t, n, i, &b));
    rk__job_grid(t->setup.job, b.global);
    rk_set_step(t->ctx, (uint64_t)t->step, b.first);
    return rk__diverged(t, &b, -1, what);
}

rk_status rk__late_look(rk__trainer *t)
{
    rk__late *l = &t->late;
    rk_verdict v[RK_WATCH_STEPS];
    const int n = l->steps;
    if (n == 0)
        return rk_failed(t->ctx);
    l->steps = 0;
    if (t->workers)
        return rk__workers_look(t, n);
    RK_TRY(rk__optim_look(t->optim, n, v));
    for (int i = 0; i < n; i++) {
        if (v[i].left_out)
            rk__left_out(t, t->step - n + i, v[i].loss_scale);
        else if (v[i].bad != RK_VERDICT_GOOD)
            return go_back(t, n, i, &v[i]);
    }
    t->loss = v[n - 1].loss;
    t->grad_norm = rk_optim_grad_norm(t->optim);
    return RK_OK;
}

bool rk__late_full(const rk__trainer *t)
{
    return t->late.steps == RK_WATCH_STEPS;
}
