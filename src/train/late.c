#include "train/late.h"

#include "parallel/trace.h"

#include <math.h>
#include <stdio.h>

rk_status rk__late_begin(rk__trainer *t)
{
    t->late.on = !t->workers && rk__optim_alone(t->optim);
    if (t->late.on) {
        t->acc.unread = true;
        t->loss = t->grad_norm = NAN;
        t->ctx->watch = rk__optim_watch(t->optim);
    }
    return rk_failed(t->ctx);
}

rk_status rk__late_step(rk__trainer *t, const rk_batch *b, double lr_scale)
{
    rk__late *l = &t->late;
    double none;
    l->cursor[l->steps] = t->cursor;
    RK_TRY(rk__accumulate(&t->acc, b, (uint64_t)t->step, &none));
    double begin = rk__trace_begin(t->setup.job);
    RK_TRY(rk__optim_step_alone(t->optim, lr_scale, t->acc.loss_at_hand, l->steps));
    rk__trace_end(t->setup.job, RK__TRACK_STEP, "optimiser", begin);
    l->steps++;
    return RK_OK;
}

/* Back to the bad step, whose weights are still there: its batch tells what happened. */
static rk_status go_back(rk__trainer *t, int64_t step, int64_t cursor, const rk_verdict *v)
{
    char what[512] = "the loss is not finite";
    rk_batch b;
    t->step = step;
    t->cursor = cursor;
    t->loss = v->loss;
    if (v->bad != RK_VERDICT_LOSS) {
        rk__optim_bad(t->optim, v);
        snprintf(what, sizeof what, "%.500s", rk_error(t->ctx));
        rk_error_clear(t->ctx);
    }
    RK_TRY(rk_loader_seek(t->setup.train, cursor));
    if (!rk_loader_next(t->setup.train, &b))
        return rk_failed(t->ctx)
                   ? rk_failed(t->ctx)
                   : rk_fail(t->ctx, RK_EINTERNAL, "step %lld has no batch", (long long)step + 1);
    rk__job_grid(t->setup.job, b.global);
    rk_set_step(t->ctx, (uint64_t)step, b.first);
    return rk__diverged(t, &b, -1, what);
}

rk_status rk__late_look(rk__trainer *t)
{
    rk__late *l = &t->late;
    rk_verdict v[RK_WATCH_STEPS];
    const int n = l->steps;
    if (n == 0)
        return rk_failed(t->ctx);
    RK_TRY(rk__optim_look(t->optim, n, v));
    l->steps = 0;
    for (int i = 0; i < n; i++)
        if (v[i].bad != RK_VERDICT_GOOD)
            return go_back(t, t->step - n + i, l->cursor[i], &v[i]);
    t->loss = v[n - 1].loss;
    t->grad_norm = v[n - 1].norm;
    return RK_OK;
}

bool rk__late_full(const rk__trainer *t)
{
    return t->late.steps == RK_WATCH_STEPS;
}
