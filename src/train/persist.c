/* Modules, optimiser and loader <-> one state list; rk_save and rk_resume. */
#include <rankine/ckpt.h>

#include <rankine/io.h>

#include "train/optim.h"
#include "train/setup.h"

#include <stdlib.h>

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

rk_status rk_save(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data)
{
    rk_ctx *ctx = context_of(net);
    if (!ctx)
        return RK_EUSAGE;
    RK_TRY(rk_failed(ctx));
    whole w = { .cursor = data ? rk_loader_cursor(data) : 0 };
    rk_run *run = NULL;
    char why[512] = "";
    rk_status st = gather(&w, ctx, net, opt, data);
    if (!st)
        st = rk__run_open(ctx, &(rk_run_cfg){ .dir = dir, .sync_write = true }, &run);
    if (!st) {
        /* without an optimiser there is no count of steps: the newest snapshot is replaced by a later number
         */
        int64_t *steps = NULL;
        int n = 0;
        int64_t step = opt ? rk_optim_steps(opt) : 0;
        st = rk__run_list(run, &steps, &n);
        bool there = false;
        for (int i = 0; i < n && !st; i++)
            there |= steps[i] == step;
        if (there && !opt)
            step = steps[n - 1] + 1;
        free(steps);
        if (!st && !(there && opt)) {
            st = rk__run_save(run, &w.list, &(rk_snap_info){ .step = step });
            rk_status end = rk__run_wait(run, NULL, why, sizeof why);
            if (st || end)
                st = rk_fail(ctx, end ? end : st, "%s: not saved: %s", dir, why);
        }
    }
    if (run)
        rk__run_close(run);
    rk__state_free(&w.list);
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
        st = rk__run_open(ctx, &(rk_run_cfg){ .dir = dir }, &run);
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
