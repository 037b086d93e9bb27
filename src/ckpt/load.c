/* Loading: the newest good snapshot, and never a part of a bad one. */
#include "ckpt/run.h"

#include "core/ctx.h"
#include "core/tape.h"

#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOAD_BYTES = 16 << 20 };

static void tell(rk_warn_fn *warn, void *user, const char *fmt, ...) RK_PRINTF(3, 4);

static void tell(rk_warn_fn *warn, void *user, const char *fmt, ...)
{
    char line[1200];
    va_list ap;
    if (!warn)
        return;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    warn(user, line);
}

/* ---- choosing ---- */

static void note_bad(rk_run *run, int64_t step)
{
    if (!run || run->read_only)
        return;
    int64_t *v = realloc(run->bad, (size_t)(run->n_bad + 1) * sizeof *v);
    if (!v)
        return; /* it is kept longer than it should be */
    run->bad = v;
    run->bad[run->n_bad++] = step;
}

/* The cores that this rank may use beside the others of its machine. */
static int check_threads(const rk_comm *c)
{
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set), ranks = c ? c->node_size : 1;
    return cores > ranks ? cores / ranks : 1;
}

/* [C] The ranks check a share of the snapshot each, and all find it good or none does. */
static rk_status open_checked(rk_ctx *ctx, rk_comm *c, int snap_dir, const char *name, rk__snap *out,
                              rk__fault *f)
{
    const int threads = check_threads(c);
    if (!c)
        return rk__snap_open_share(ctx, snap_dir, name, 0, 1, threads, out, f);
    bool open = !rk__snap_open_share(ctx, snap_dir, name, c->rank, c->size, threads, out, f);
    rk_status st = rk__together_agree(c, name, f);
    if (st && open)
        rk__snap_close(out);
    return st;
}

static rk_status open_one(rk_ctx *ctx, rk_comm *c, int snap_dir, const char *path, int64_t step,
                          rk__snap *out)
{
    char name[RK__SNAP_NAME];
    rk__fault f = { 0 };
    if (step > RK__STEP_MAX)
        return rk_fail(ctx, RK_EUSAGE, "snapshot of step %" PRId64 ": there are none beyond %" PRId64, step,
                       RK__STEP_MAX);
    rk__snap_name(step, name);
    if (snap_dir < 0 || open_checked(ctx, c, snap_dir, name, out, &f) == RK_ENOINPUT)
        return rk_fail(ctx, RK_ENOINPUT, "run %s has no snapshot of step %" PRId64, path, step);
    return f.st ? rk_fail(ctx, f.st, "run %s: %s", path, f.msg) : rk_failed(ctx);
}

rk_status rk__list_steps(rk_ctx *ctx, rk_comm *c, int snap_dir, const char *path, int64_t **steps, int *n)
{
    rk__fault f = { 0 };
    int64_t count = 0;
    *steps = NULL;
    *n = 0;
    if (!c || c->rank == 0) {
        if (rk__steps_in(snap_dir, steps, n, &f))
            rk_fail(ctx, f.st, "run %s: %s", path, f.msg);
        count = *n;
    }
    if (!c)
        return rk_failed(ctx);
    RK_TRY(rk__comm_broadcast(c, "number of snapshots", 0, &count, sizeof count));
    if (c->rank)
        *steps = rk__calloc(ctx, (size_t)count + 1, sizeof **steps);
    *n = (int)count;
    return rk__comm_broadcast(c, "snapshots", 0, *steps, (size_t)count * sizeof **steps);
}

rk_status rk__open_good(rk_ctx *ctx, int snap_dir, const char *path, int64_t step, rk__snap *out,
                        rk_warn_fn *warn, void *user, rk_run *run)
{
    int64_t *steps;
    int n;
    rk_comm *c = run ? run->comm : NULL;
    rk__fault f = { 0 }, newest = { 0 };
    if (step >= 0)
        return open_one(ctx, c, snap_dir, path, step, out);
    rk_status st = rk__list_steps(ctx, c, snap_dir, path, &steps, &n);
    if (st) {
        free(steps);
        return st;
    }
    st = RK_ENOINPUT;
    for (int i = n - 1; i >= 0 && st != RK_OK && !rk_failed(ctx); i--) {
        char name[RK__SNAP_NAME];
        f = (rk__fault){ 0 };
        rk__snap_name(steps[i], name);
        st = open_checked(ctx, c, snap_dir, name, out, &f);
        if (st == RK_OK)
            break;
        if (newest.st == RK_OK)
            newest = f;
        if (f.newer || st == RK_ENOMEM)
            break; /* not bad: going on with an older one would throw work away */
        tell(warn, user, "snapshot %s", f.msg);
        note_bad(run, steps[i]);
    }
    free(steps);
    if (st == RK_OK || rk_failed(ctx))
        return st;
    if (n == 0)
        return rk_fail(ctx, RK_ENOINPUT, "run %s has no snapshot", path);
    if (f.newer || st == RK_ENOMEM)
        return rk_fail(ctx, st, "run %s: %s", path, f.msg);
    return rk_fail(ctx, RK_EDATA, "run %s: none of its %d snapshots is whole; the newest: %s", path, n,
                   newest.msg);
}

/* ---- fitting a snapshot to a state list ---- */

static const char *shape_text(rk_dtype t, const rk_shape *s, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s (", rk_dtype_name(t));
    for (int i = 0; i < s->ndim && n > 0 && (size_t)n < size; i++)
        n += snprintf(buf + n, size - (size_t)n, "%s%" PRId64, i ? ", " : "", s->dim[i]);
    if (n > 0 && (size_t)n < size)
        snprintf(buf + n, size - (size_t)n, ")");
    return buf;
}

static bool fits(const rk__m_tensor *t, const rk_state_entry *e)
{
    const rk_shape *shape = &e->piece.whole;
    return t->dtype == rk_tensor_dtype(e->tensor) && t->shape.ndim == shape->ndim &&
           !memcmp(t->shape.dim, shape->dim, (size_t)shape->ndim * sizeof shape->dim[0]);
}

static rk_status check_tensor(rk_ctx *ctx, const rk__snap *s, const rk_state_entry *e, const rk__m_tensor *t)
{
    rk_shape shape = e->piece.whole;
    rk_dtype dtype = rk_tensor_dtype(e->tensor);
    char here[256], there[256];
    if (fits(t, e))
        return RK_OK;
    return rk_fail(ctx, RK_ECONFIG, "snapshot %s: %s is %s there and %s in this model", s->name, e->name,
                   shape_text(t->dtype, &t->shape, there, sizeof there),
                   shape_text(dtype, &shape, here, sizeof here));
}

static const rk__m_cursor *find_cursor(const rk__manifest *m, const char *name)
{
    for (int i = 0; i < m->n_cursors; i++)
        if (!strcmp(m->cursors[i].name, name))
            return &m->cursors[i];
    return NULL;
}

/* Everything the list asks for is there and fits: asked before anything is changed. */
static rk_status check_wanted(const rk__snap *s, const rk_state *st, bool partial)
{
    for (int i = 0; i < st->n; i++) {
        const rk_state_entry *e = &st->entries[i];
        const rk__m_tensor *t = e->kind == RK_STATE_CURSOR ? NULL : rk__m_find(&s->m, e->name);
        bool there = e->kind == RK_STATE_CURSOR ? find_cursor(&s->m, e->name) != NULL : t != NULL;
        if (!there && !partial && !e->optional)
            return rk_fail(st->ctx, RK_ECONFIG, "snapshot %s lacks %s, which this model has", s->name,
                           e->name);
        if (t)
            RK_TRY(check_tensor(st->ctx, s, e, t));
    }
    return RK_OK;
}

static rk_status check_surplus(const rk__snap *s, const rk_state *st, unsigned ignore_kinds)
{
    for (int i = 0; i < s->m.n_tensors; i++)
        if (!(ignore_kinds >> s->m.tensors[i].kind & 1) && !rk__state_find(st, s->m.tensors[i].name))
            return rk_fail(st->ctx, RK_ECONFIG, "snapshot %s has %s, which this model lacks", s->name,
                           s->m.tensors[i].name);
    for (int i = 0; i < s->m.n_cursors; i++)
        if (!(ignore_kinds >> RK_STATE_CURSOR & 1) && !rk__state_find(st, s->m.cursors[i].name))
            return rk_fail(st->ctx, RK_ECONFIG, "snapshot %s has %s, which this run lacks", s->name,
                           s->m.cursors[i].name);
    return RK_OK;
}

/* ---- moving the values ---- */

/* Slices of a piece go through buf (LOAD_BYTES), so that no more than that lies in memory twice. */
static rk_status load_tensor(rk__snap *s, const rk__m_tensor *t, const rk_state_entry *e, void *buf)
{
    rk_ctx *ctx = rk_tensor_ctx(e->tensor);
    const int64_t all = e->piece.to - e->piece.from, most = LOAD_BYTES / (int64_t)rk_dtype_size(t->dtype);
    for (int64_t at = 0; at < all; at += most) {
        int64_t n = all - at < most ? all - at : most;
        rk__fault f = { 0 };
        rk_status st = rk__snap_read_piece(s, t, &e->piece, at, n, buf, &f);
        if (st)
            return rk_fail(ctx, st, "snapshot %s: %s", s->name, f.msg);
        RK_TRY(rk__state_write(e, at, n, buf));
    }
    return RK_OK;
}

static void *load_buffer(rk_ctx *ctx)
{
    void *p = malloc(LOAD_BYTES); /* pages that are not used do not exist */
    if (!p)
        rk_fail(ctx, RK_ENOMEM, "no memory to load a snapshot");
    return p;
}

static rk_status load_values(rk__snap *s, rk_state *st)
{
    void *buf = load_buffer(st->ctx);
    rk_status status = rk_failed(st->ctx);
    for (int i = 0; i < st->n && !status; i++) {
        rk_state_entry *e = &st->entries[i];
        if (e->kind == RK_STATE_CURSOR) {
            const rk__m_cursor *c = find_cursor(&s->m, e->name);
            if (c)
                *e->cursor = c->value;
            continue;
        }
        const rk__m_tensor *t = rk__m_find(&s->m, e->name);
        if (t)
            status = load_tensor(s, t, e, buf);
    }
    free(buf);
    return status;
}

static rk_status fill_info(rk_ctx *ctx, const rk__manifest *m, rk_snap_info *info)
{
    if (!info)
        return RK_OK;
    *info = (rk_snap_info){ .step = m->step, .best = m->best };
    if (m->config_json)
        info->config_json = rk__strdup(ctx, m->config_json);
    if (m->extra_json)
        info->extra_json = rk__strdup(ctx, m->extra_json);
    return rk_failed(ctx);
}

void rk__snap_info_free(rk_snap_info *info)
{
    free(info->config_json);
    free(info->extra_json);
    *info = (rk_snap_info){ 0 };
}

rk_status rk__run_load(rk_run *run, int64_t step, rk_state *st, unsigned ignore_kinds, bool partial,
                       rk_snap_info *info, rk_warn_fn *warn, void *user)
{
    rk__snap s;
    RK_TRY(rk_failed(run->ctx));
    RK_TRY(rk__open_good(run->ctx, run->snap_dir, run->path, step, &s, warn, user, run));
    rk_status status = check_wanted(&s, st, partial);
    if (!status)
        status = check_surplus(&s, st, ignore_kinds);
    if (!status)
        status = load_values(&s, st);
    if (!status)
        status = fill_info(run->ctx, &s.m, info);
    rk__snap_close(&s);
    return status;
}

rk_status rk__run_read(rk_run *run, int64_t step, unsigned kinds, rk_state *st, rk_snap_info *info)
{
    rk__snap s;
    RK_TRY(rk_failed(run->ctx));
    RK_TRY(rk__open_good(run->ctx, run->snap_dir, run->path, step, &s, NULL, NULL, run));
    void *buf = load_buffer(run->ctx);
    rk_status status = rk_failed(run->ctx);
    for (int i = 0; i < s.m.n_tensors && !status; i++) {
        const rk__m_tensor *t = &s.m.tensors[i];
        if (!(kinds >> t->kind & 1))
            continue;
        rk_tensor *to = rk_tensor_make(run->ctx, t->dtype, t->shape);
        status = rk_failed(run->ctx);
        if (!status)
            status = rk__state_add(st, t->kind, t->name, to);
        if (!status)
            status = load_tensor(&s, t, &st->entries[st->n - 1], buf);
    }
    free(buf);
    if (!status)
        status = fill_info(run->ctx, &s.m, info);
    rk__snap_close(&s);
    return status;
}

/* ---- comparing ---- */

/* Whether this rank's piece has the snapshot's bytes. buf: twice LOAD_BYTES. */
static rk_status compare_tensor(rk__snap *s, const rk__m_tensor *t, const rk_state_entry *e, char *buf,
                                bool *same)
{
    const int64_t size = (int64_t)rk_dtype_size(t->dtype), all = e->piece.to - e->piece.from;
    for (int64_t at = 0; at < all && *same; at += LOAD_BYTES / size) {
        int64_t n = all - at < LOAD_BYTES / size ? all - at : LOAD_BYTES / size;
        rk__fault f = { 0 };
        rk_status st = rk__snap_read_piece(s, t, &e->piece, at, n, buf, &f);
        if (st)
            return rk_fail(rk_tensor_ctx(e->tensor), st, "snapshot %s: %s", s->name, f.msg);
        RK_TRY(rk__state_read(e, at, n, buf + LOAD_BYTES));
        *same = !memcmp(buf, buf + LOAD_BYTES, (size_t)(n * size));
    }
    return RK_OK;
}

static rk_status compare_values(rk__snap *s, const rk_state *st, bool *same)
{
    char *buf = malloc(2 * LOAD_BYTES);
    int n = 0;
    rk_status status = buf ? RK_OK : rk_fail(st->ctx, RK_ENOMEM, "no memory to compare a snapshot");
    for (int i = 0; i < st->n && *same && !status; i++) {
        const rk_state_entry *e = &st->entries[i];
        if (e->kind == RK_STATE_CURSOR)
            continue;
        const rk__m_tensor *t = rk__m_find(&s->m, e->name);
        n++;
        *same = t && t->kind == e->kind && fits(t, e);
        if (*same)
            status = compare_tensor(s, t, e, buf, same);
    }
    *same = *same && n == s->m.n_tensors;
    free(buf);
    return status;
}

rk_status rk__run_same(rk_run *run, int64_t step, const rk_state *st, bool *same)
{
    rk__snap s;
    rk__fault f = { 0 };
    *same = true;
    RK_TRY(rk_failed(run->ctx));
    RK_TRY(rk__open_good(run->ctx, run->snap_dir, run->path, step, &s, NULL, NULL, run));
    rk_status status = compare_values(&s, st, same);
    rk__snap_close(&s);
    if (!run->comm)
        return status;
    if (!*same)
        rk__fault_set(&f, RK_EDATA, "another state");
    if (rk__together_agree(run->comm, "the same state", &f))
        *same = false;
    return rk_failed(run->ctx);
}

/* ---- verifying ---- */

static rk_status verify_one(rk_run *run, int64_t step, rk_warn_fn *line, void *user, rk__fault *f)
{
    char name[RK__SNAP_NAME];
    rk__snap s;
    rk__snap_name(step, name);
    rk_status st = open_checked(run->ctx, run->comm, run->snap_dir, name, &s, f);
    if (st) {
        tell(line, user, "bad   %s", f->msg);
        return st;
    }
    uint64_t bytes = 0;
    for (int i = 0; i < s.m.n_files; i++)
        bytes += s.m.files[i].size;
    tell(line, user, "good  %s: %d tensors in %d files, %" PRIu64 " bytes%s", name, s.m.n_tensors,
         s.m.n_files, bytes, s.m.best ? ", best" : "");
    rk__snap_close(&s);
    return RK_OK;
}

rk_status rk__run_verify(rk_run *run, rk_warn_fn *line, void *user)
{
    int64_t *steps;
    int n, bad = 0;
    rk__fault f, first = { 0 };
    RK_TRY(rk_failed(run->ctx));
    rk_status st = rk__list_steps(run->ctx, run->comm, run->snap_dir, run->path, &steps, &n);
    for (int i = 0; i < n && !st; i++) {
        f = (rk__fault){ 0 };
        if (verify_one(run, steps[i], line, user, &f) && !bad++)
            first = f;
        st = rk_failed(run->ctx);
    }
    free(steps);
    RK_TRY(st);
    if (n == 0)
        return rk_fail(run->ctx, RK_ENOINPUT, "run %s has no snapshot", run->path);
    return bad ? rk_fail(run->ctx, RK_EDATA, "run %s: %d of %d snapshots bad: %s", run->path, bad, n,
                         first.msg)
               : RK_OK;
}
