/* What is on disk, for people and programs that have no model at hand. */
#include <rankine/ckpt.h>

#include "ckpt/hash.h"
#include "ckpt/run.h"
#include "core/ctx.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static rk_status open_run(rk_ctx *ctx, const char *path, rk_run **run)
{
    return rk__run_open(ctx, &(rk_run_cfg){ .dir = path, .read_only = true }, run);
}

/* Memory that lives as long as the context. */
static void *owned(rk_ctx *ctx, size_t n, size_t size)
{
    void *p = rk__calloc(ctx, n, size);
    if (p && rk__at_close(ctx, free, p)) {
        free(p);
        return NULL;
    }
    return p;
}

static char *owned_text(rk_ctx *ctx, const char *s)
{
    char *p = s ? owned(ctx, strlen(s) + 1, 1) : NULL;
    if (p)
        memcpy(p, s, strlen(s) + 1);
    return p;
}

rk_status rk_run_steps(rk_ctx *ctx, const char *dir, const int64_t **steps, int *n)
{
    rk_run *run;
    int64_t *found = NULL;
    *steps = NULL;
    *n = 0;
    RK_TRY(open_run(ctx, dir, &run));
    rk_status st = run->snap_dir < 0 ? rk_fail(ctx, RK_ENOINPUT, "%s is not the folder of a run", dir)
                                     : rk__run_list(run, &found, n);
    if (!st && found && rk__at_close(ctx, free, found)) {
        free(found);
        st = rk_failed(ctx);
    }
    rk__run_close(run);
    if (!st)
        *steps = found;
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const rk_snapshot_entry *)a)->name, ((const rk_snapshot_entry *)b)->name);
}

static rk_status describe(rk_ctx *ctx, const rk__manifest *m, rk_snapshot_info *out)
{
    int n = m->n_tensors + m->n_cursors, k = 0;
    rk_snapshot_entry *e = owned(ctx, (size_t)n + 1, sizeof *e);
    if (!e)
        return rk_failed(ctx);
    for (int i = 0; i < m->n_tensors; i++, k++)
        e[k] = (rk_snapshot_entry){ owned_text(ctx, m->tensors[i].name), rk__kind_name(m->tensors[i].kind),
                                    m->tensors[i].dtype, m->tensors[i].shape,
                                    rk__m_tensor_bytes(&m->tensors[i]) };
    for (int i = 0; i < m->n_cursors; i++, k++)
        e[k] = (rk_snapshot_entry){ owned_text(ctx, m->cursors[i].name), rk__kind_name(RK_STATE_CURSOR),
                                    RK_I64, RK_SCALAR, sizeof(int64_t) };
    *out = (rk_snapshot_info){ .step = m->step, .best = m->best, .entries = e, .n_entries = n };
    for (int i = 0; i < m->n_files; i++)
        out->bytes += (size_t)m->files[i].size;
    out->version = owned_text(ctx, m->version);
    out->config_json = owned_text(ctx, m->config_json);
    out->extra_json = owned_text(ctx, m->extra_json);
    RK_TRY(rk_failed(ctx));
    if (n > 1)
        qsort(e, (size_t)n, sizeof *e, by_name);
    return RK_OK;
}

rk_status rk_snapshot_describe(rk_ctx *ctx, const char *dir, int64_t step, rk_snapshot_info *out)
{
    rk_run *run;
    rk__snap s;
    *out = (rk_snapshot_info){ 0 };
    RK_TRY(open_run(ctx, dir, &run));
    rk_status st = rk__open_good(ctx, run->snap_dir, dir, step, &s, NULL, NULL, run);
    if (!st) {
        st = describe(ctx, &s.m, out);
        rk__snap_close(&s);
    }
    rk__run_close(run);
    return st;
}

static rk_status hash_tensor(rk_ctx *ctx, rk__snap *s, const rk__m_tensor *t, rk__sha256 *h)
{
    rk__fault f = { 0 };
    size_t bytes = rk__m_tensor_bytes(t);
    void *host = malloc(bytes ? bytes : 1);
    if (!host)
        return rk_fail(ctx, RK_ENOMEM, "sha256: no memory for the %zu bytes of %s", bytes, t->name);
    rk_status st = rk__snap_read(s, t, host, &f);
    if (st)
        rk_fail(ctx, st, "snapshot %s: %s", s->name, f.msg);
    rk__sha256_add_header(h, t->name, t->dtype, &t->shape);
    rk__sha256_add(h, host, bytes);
    free(host);
    return st;
}

static rk_status hash_snap(rk_ctx *ctx, rk__snap *s, char *hex)
{
    rk__sha256 *h = rk__sha256_begin();
    if (!h)
        return rk_fail(ctx, RK_ENOMEM, "sha256: no memory");
    rk_status st = RK_OK;
    for (int i = 0; i < s->m.n_tensors && !st; i++)
        st = hash_tensor(ctx, s, &s->m.tensors[i], h);
    bool ok = rk__sha256_end(h, hex);
    return st || ok ? st : rk_fail(ctx, RK_EINTERNAL, "sha256: libcrypto failed");
}

rk_status rk_snapshot_hash(rk_ctx *ctx, const char *dir, int64_t step, char *hex)
{
    rk_run *run;
    rk__snap s;
    RK_TRY(open_run(ctx, dir, &run));
    rk_status st = rk__open_good(ctx, run->snap_dir, dir, step, &s, NULL, NULL, run);
    if (!st) {
        st = hash_snap(ctx, &s, hex);
        rk__snap_close(&s);
    }
    rk__run_close(run);
    return st;
}

rk_status rk_run_verify(rk_ctx *ctx, const char *dir, rk_line_fn *line, void *user)
{
    rk_run *run;
    RK_TRY(rk__run_open(ctx, &(rk_run_cfg){ .dir = dir, .read_only = true, .comm = ctx->comm }, &run));
    rk_status st = rk__run_verify(run, ctx->rank ? NULL : line, user);
    rk__run_close(run);
    return st;
}
