/* Modules, optimiser and loader <-> one state list; rk_save and rk_resume. */
#include <rankine/ckpt.h>

#include <rankine/io.h>

#include "train/optim.h"
#include "train/setup.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    rk_state list;
    int64_t cursor;
} whole;

static rk_status gather(whole *w, rk_ctx *ctx, rk_module *net, rk_optim *opt, rk_loader *data)
{
    rk__state_init(&w->list, ctx);
    RK_TRY(rk__module_state(net, &w->list));
    if (opt)
        RK_TRY(rk__optim_state(opt, &w->list));
    if (data)
        RK_TRY(rk__state_add_cursor(&w->list, "loader/cursor", &w->cursor));
    return RK_OK;
}

static rk_ctx *context_of(rk_module *net)
{
    return rk_param_count(net) ? rk_tensor_ctx(rk_param_at(net, 0).tensor) : NULL;
}

/* The step that this snapshot gets; *there: the same snapshot is on the disk already. Without an optimiser
 * nothing counts the steps: the number is the next one. */
static rk_status choose_step(rk_run *run, const char *dir, const whole *w, const rk_optim *opt, int64_t *step,
                             bool *there)
{
    rk_ctx *ctx = w->list.ctx;
    int64_t *steps = NULL;
    int n = 0;
    rk_status st = rk__run_list(run, &steps, &n);
    int64_t newest = n ? steps[n - 1] : -1;
    free(steps);
    RK_TRY(st);
    *step = opt ? rk_optim_steps(opt) : newest + 1;
    *there = false;
    if (newest < *step)
        return RK_OK;
    if (newest == *step)
        RK_TRY(rk__run_same(run, newest, &w->list, there));
    return *there ? RK_OK
                  : rk_fail(ctx, RK_ECONFIG,
                            "%s: not saved: step %lld is there already, of another training than this one at "
                            "step %lld; save to another folder, or rk_resume() from this one first",
                            dir, (long long)newest, (long long)*step);
}

static rk_status write_snapshot(rk_run *run, const char *dir, const whole *w, const rk_snap_info *info)
{
    char why[512] = "";
    rk_status st = rk__run_save(run, &w->list, info), end = rk__run_wait(run, NULL, why, sizeof why);
    return st || end ? rk_fail(w->list.ctx, end ? end : st, "%s: not saved: %s", dir, why) : RK_OK;
}

rk_status rk_save(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data)
{
    rk_ctx *ctx = context_of(net);
    if (!ctx)
        return RK_EUSAGE;
    RK_TRY(rk_failed(ctx));
    whole w = { .cursor = data ? rk_loader_cursor(data) : 0 };
    rk_run *run = NULL;
    rk_snap_info info = { 0 };
    bool there = false;
    rk_status st;
    RK_TRY_GOTO(done, gather(&w, ctx, net, opt, data));
    RK_TRY_GOTO(done, rk__describe(ctx, net, opt, data, &info.config_json, &info.extra_json));
    RK_TRY_GOTO(done,
                rk__run_open(ctx, &(rk_run_cfg){ .dir = dir, .sync_write = true, .comm = ctx->comm }, &run));
    RK_TRY_GOTO(done, choose_step(run, dir, &w, opt, &info.step, &there));
    if (!there)
        st = write_snapshot(run, dir, &w, &info);
done:
    if (run)
        rk__run_close(run);
    rk__state_free(&w.list);
    free(info.config_json);
    free(info.extra_json);
    return st;
}

rk_status rk_resume(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data)
{
    rk_ctx *ctx = context_of(net);
    if (!ctx)
        return RK_EUSAGE;
    RK_TRY(rk_failed(ctx));
    whole w = { 0 };
    rk_run *run = NULL;
    rk_snap_info info = { 0 };
    int64_t *steps = NULL;
    int n = 0;
    rk_status st = gather(&w, ctx, net, opt, data);
    if (!st)
        st = rk__run_open(ctx, &(rk_run_cfg){ .dir = dir, .comm = ctx->comm }, &run);
    if (!st)
        st = rk__run_list(run, &steps, &n);
    if (!st && n)
        st = rk__run_load(run, -1, &w.list, 1u << RK_STATE_CURSOR, false, &info, NULL, NULL);
    if (!st && n && data)
        st = rk_loader_seek(data, w.cursor);
    free(steps);
    rk__snap_info_free(&info);
    if (run)
        rk__run_close(run);
    rk__state_free(&w.list);
    return st;
}
