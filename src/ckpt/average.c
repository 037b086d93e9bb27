/* The mean of several runs' weights, as a run of its own. */
#include <rankine/ckpt.h>

#include "ckpt/run.h"
#include "core/ctx.h"
#include "core/tape.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLICE = 1 << 18 }; /* elements that are added at a time */

typedef struct source {
    const char *path; /* as it was given */
    rk_run *run;
    rk__snap snap;
    bool open;
} source;

typedef struct averager {
    rk_ctx *ctx;
    source *from;
    int n;
    rk_state state;
    double *sum, *part; /* SLICE */
    void *raw;          /* SLICE elements of any type */
} averager;

/* ---- opening ---- */

/* "RUN/snap/step-000000000120" (with or without a slash at the end) as "RUN" and 120; any other path as it is
 * and -1. */
static int64_t split_path(char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = '\0';
    char *slash = strrchr(path, '/');
    int64_t step = rk__snap_step(slash ? slash + 1 : path);
    if (step < 0)
        return -1;
    if (slash && slash - path >= 5 && !strncmp(slash - 5, "/snap", 5)) {
        slash[-5] = '\0';
        return step;
    }
    return -1;
}

static rk_status open_source(averager *a, source *s)
{
    char *path = rk__strdup(a->ctx, s->path);
    if (!path)
        return rk_failed(a->ctx);
    int64_t step = split_path(path);
    rk_status st = rk__run_open(a->ctx, &(rk_run_cfg){ .dir = path, .read_only = true }, &s->run);
    if (!st)
        st = rk__open_good(a->ctx, s->run->snap_dir, path, step, &s->snap, NULL, NULL, s->run);
    s->open = !st;
    free(path);
    return st;
}

static bool wanted(const rk__m_tensor *t)
{
    return t->kind == RK_STATE_PARAM || t->kind == RK_STATE_BUFFER;
}

static const char *shape_of(const rk__m_tensor *t, char *buf, size_t size)
{
    char shape[160] = "";
    size_t n = 0;
    for (int i = 0; i < t->shape.ndim && n < sizeof shape; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%" PRId64, i ? ", " : "", t->shape.dim[i]);
    snprintf(buf, size, "%s (%s)", rk_dtype_name(t->dtype), shape);
    return buf;
}

/* Every weight and buffer of one is in the other, with the same type and shape. */
static rk_status same_tensors(averager *a, const source *x, const source *y)
{
    for (int i = 0; i < x->snap.m.n_tensors; i++) {
        const rk__m_tensor *t = &x->snap.m.tensors[i];
        char here[200], there[200];
        if (!wanted(t))
            continue;
        const rk__m_tensor *u = rk__m_find(&y->snap.m, t->name);
        if (!u || !wanted(u))
            return rk_fail(a->ctx, RK_ECONFIG,
                           "average: %s has %s, which %s lacks: only runs of one model can be averaged",
                           x->path, t->name, y->path);
        shape_of(t, here, sizeof here);
        shape_of(u, there, sizeof there);
        if (strcmp(here, there))
            return rk_fail(a->ctx, RK_ECONFIG,
                           "average: %s is %s in %s and %s in %s: only runs of one model can be averaged",
                           t->name, here, x->path, there, y->path);
    }
    return RK_OK;
}

/* ---- adding ---- */

static rk_status add_slice(averager *a, source *s, const char *name, const rk_piece *whole, int64_t at,
                           int64_t n)
{
    const rk__m_tensor *t = rk__m_find(&s->snap.m, name);
    rk__fault f = { 0 };
    rk_status st = rk__snap_read_piece(&s->snap, t, whole, at, n, a->raw, &f);
    if (st)
        return rk_fail(a->ctx, st, "%s: snapshot %s: %s", s->path, s->snap.name, f.msg);
    st = a->ctx->device->cast(a->ctx->dev, n, t->dtype, a->raw, RK_F64, a->part);
    if (st)
        return rk_fail(a->ctx, st, "average: cannot read %s as numbers", name);
    for (int64_t i = 0; i < n; i++)
        a->sum[i] += a->part[i];
    return RK_OK;
}

static rk_status mean_slice(averager *a, const rk__m_tensor *t, const rk_piece *whole, rk_tensor *to,
                            int64_t at, int64_t n)
{
    const bool integer = t->dtype == RK_I32 || t->dtype == RK_I64 || t->dtype == RK_U8;
    memset(a->sum, 0, (size_t)n * sizeof *a->sum);
    for (int i = 0; i < a->n; i++)
        RK_TRY(add_slice(a, &a->from[i], t->name, whole, at, n));
    for (int64_t i = 0; i < n; i++)
        a->sum[i] = integer ? rint(a->sum[i] / a->n) : a->sum[i] / a->n;
    rk_status st = a->ctx->device->cast(a->ctx->dev, n, RK_F64, a->sum, t->dtype, a->raw);
    return st ? rk_fail(a->ctx, st, "average: cannot write %s", t->name)
              : rk__tensor_write_range(to, at, n, a->raw);
}

static rk_status mean_tensor(averager *a, const rk__m_tensor *t)
{
    rk_tensor *to = rk_tensor_make(a->ctx, t->dtype, t->shape);
    RK_TRY(rk_failed(a->ctx));
    rk_piece whole = rk__piece_whole(&t->shape);
    for (int64_t at = 0; at < whole.to; at += SLICE)
        RK_TRY(mean_slice(a, t, &whole, to, at, whole.to - at < SLICE ? whole.to - at : SLICE));
    return rk__state_add(&a->state, t->kind, t->name, to);
}

/* ---- the result ---- */

static rk_status write_run(averager *a, const char *out)
{
    const rk__manifest *first = &a->from[0].snap.m;
    rk_snap_info info = { .config_json = first->config_json, .extra_json = first->extra_json };
    rk_run *run;
    int64_t *steps = NULL;
    int n = 0;
    char why[512] = "";
    for (int i = 0; i < a->n; i++)
        if (a->from[i].snap.m.step > info.step)
            info.step = a->from[i].snap.m.step;
    RK_TRY(rk__run_open(a->ctx, &(rk_run_cfg){ .dir = out, .sync_write = true }, &run));
    rk_status st = rk__run_list(run, &steps, &n);
    free(steps);
    if (!st && n)
        st = rk_fail(a->ctx, RK_ECONFIG, "average: %s holds a run already; give another folder", out);
    if (!st) {
        rk_status begun = rk__run_save(run, &a->state, &info);
        st = rk__run_wait(run, NULL, why, sizeof why);
        st = begun || st ? rk_fail(a->ctx, st ? st : begun, "average: %s: not saved: %s", out, why) : RK_OK;
    }
    rk__run_close(run);
    return st;
}

static rk_status average(averager *a, const char *const *runs, const char *out)
{
    a->sum = rk__calloc(a->ctx, SLICE, sizeof *a->sum);
    a->part = rk__calloc(a->ctx, SLICE, sizeof *a->part);
    a->raw = rk__calloc(a->ctx, SLICE, sizeof(double));
    a->from = rk__calloc(a->ctx, (size_t)a->n, sizeof *a->from);
    RK_TRY(rk_failed(a->ctx));
    for (int i = 0; i < a->n; i++) {
        a->from[i].path = runs[i];
        RK_TRY(open_source(a, &a->from[i]));
        RK_TRY(same_tensors(a, &a->from[i], &a->from[0]));
        RK_TRY(same_tensors(a, &a->from[0], &a->from[i]));
    }
    const rk__manifest *m = &a->from[0].snap.m;
    for (int i = 0; i < m->n_tensors; i++)
        if (wanted(&m->tensors[i]))
            RK_TRY(mean_tensor(a, &m->tensors[i]));
    return write_run(a, out);
}

rk_status rk_average(rk_ctx *ctx, const char *const *runs, int n, const char *out)
{
    averager a = { .ctx = ctx, .n = n };
    RK_TRY(rk_failed(ctx));
    if (n < 1 || !out)
        return rk_fail(ctx, RK_EUSAGE, "average: at least one run and a folder for the result are needed");
    rk__state_init(&a.state, ctx);
    rk_status st = average(&a, runs, out);
    for (int i = 0; a.from && i < n; i++) {
        if (a.from[i].open)
            rk__snap_close(&a.from[i].snap);
        rk__run_close(a.from[i].run);
    }
    rk__state_free(&a.state);
    free(a.from);
    free(a.sum);
    free(a.part);
    free(a.raw);
    return st;
}
