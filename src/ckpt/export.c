/* A snapshot's weights as one plain file for other programs. */
#include <rankine/ckpt.h>

#include "ckpt/run.h"
#include "core/ctx.h"
#include "io/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EMA "ema/"

/* What is exported, under which name. */
typedef struct pick {
    const char *name;
    const rk__m_tensor *t;
} pick;

static const rk__m_tensor *average_of(const rk__snap *s, const char *name)
{
    char ema[sizeof EMA + 512];
    snprintf(ema, sizeof ema, EMA "%s", name);
    const rk__m_tensor *t = rk__m_find(&s->m, ema);
    return t && t->kind == RK_STATE_EMA ? t : NULL;
}

/* Weights and buffers, sorted; with ema each weight that has an average gives way to it (frozen ones have
 * none). */
static rk_status choose(rk_ctx *ctx, const rk__snap *s, bool ema, pick *out, int *n)
{
    int averages = 0;
    *n = 0;
    for (int i = 0; i < s->m.n_tensors; i++) {
        const rk__m_tensor *t = &s->m.tensors[i];
        if (t->kind != RK_STATE_PARAM && t->kind != RK_STATE_BUFFER)
            continue;
        const rk__m_tensor *avg = ema && t->kind == RK_STATE_PARAM ? average_of(s, t->name) : NULL;
        averages += avg != NULL;
        out[(*n)++] = (pick){ t->name, avg ? avg : t };
    }
    if (ema && !averages)
        return rk_fail(ctx, RK_ECONFIG, "snapshot %s keeps no averaged weights (optim.ema)", s->name);
    return RK_OK;
}

/* ---- a file that replaces another only when it is whole and durable ---- */

typedef struct out_file {
    char *dir, *base; /* of the path */
    int dir_fd;
    char tmp[300];
} out_file;

static rk_status out_open(rk_ctx *ctx, out_file *o, const char *path)
{
    *o = (out_file){ .dir_fd = -1 };
    char *a = rk__strdup(ctx, path), *b = rk__strdup(ctx, path);
    if (a && b) {
        o->dir = rk__strdup(ctx, dirname(a));
        o->base = rk__strdup(ctx, basename(b));
    }
    free(a);
    free(b);
    RK_TRY(rk_failed(ctx));
    if (strlen(o->base) > 200)
        return rk_fail(ctx, RK_EUSAGE, "export %s: the name is too long", path);
    snprintf(o->tmp, sizeof o->tmp, ".%s.tmp-%ld", o->base, (long)getpid());
    o->dir_fd = open(o->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (o->dir_fd < 0)
        return rk_fail(ctx, RK_EIO, "export %s: folder %s: %s", path, o->dir, strerrordesc_np(errno));
    unlinkat(o->dir_fd, o->tmp, 0); /* left by a killed export of the same process number */
    return RK_OK;
}

static void out_close(out_file *o)
{
    if (o->dir_fd >= 0) {
        unlinkat(o->dir_fd, o->tmp, 0); /* still there after a failure only */
        close(o->dir_fd);
    }
    free(o->dir);
    free(o->base);
}

static rk_status out_publish(rk_ctx *ctx, out_file *o, const char *path)
{
    if (renameat(o->dir_fd, o->tmp, o->dir_fd, o->base) || fsync(o->dir_fd))
        return rk_fail(ctx, RK_EIO, "export %s: %s", path, strerrordesc_np(errno));
    return RK_OK;
}

/* Writes the picked tensors to fd; what the disk or the snapshot refuses goes to f, all else to ctx. */
typedef rk_status write_fn(rk_ctx *ctx, rk__snap *s, pick *p, int n, int fd, const char *name, rk__fault *f);

/* ---- HDF5 ---- */

static rk_status write_h5(rk_ctx *ctx, rk__snap *s, pick *p, int n, int fd, const char *name, rk__fault *f)
{
    rk__image img = { 0 };
    rk__slab *slab = rk__calloc(ctx, (size_t)n + 1, sizeof *slab);
    if (!slab)
        return rk_failed(ctx);
    for (int i = 0; i < n; i++)
        slab[i] = (rk__slab){ p[i].name, p[i].t->dtype, p[i].t->shape, rk__m_tensor_bytes(p[i].t), 0 };
    rk_status st = rk__h5_layout(&img, slab, n, f);
    for (int i = 0; i < n && !st; i++)
        st = rk__snap_read(s, p[i].t, img.p + slab[i].offset, f);
    if (!st)
        st = rk__io_write_all(&rk__io_system, fd, img.p, img.bytes, name, f);
    free(slab);
    rk__image_free(&img);
    return st;
}

/* ---- safetensors ---- */

typedef struct fd_sink {
    int fd;
    const char *name;
    rk__fault *f;
} fd_sink;

static rk_status to_fd(void *user, const void *p, size_t n)
{
    fd_sink *k = user;
    return rk__io_write_all(&rk__io_system, k->fd, p, n, k->name, k->f);
}

static rk_status write_safetensors(rk_ctx *ctx, rk__snap *s, pick *p, int n, int fd, const char *name,
                                   rk__fault *f)
{
    rk__st_entry *e = rk__calloc(ctx, (size_t)n + 1, sizeof *e);
    rk_status st = rk_failed(ctx);
    for (int i = 0; i < n && !st; i++) {
        void *host = rk__calloc(ctx, rk__m_tensor_bytes(p[i].t), 1);
        e[i] = (rk__st_entry){ p[i].name, p[i].t->dtype, p[i].t->shape, host };
        st = host ? rk__snap_read(s, p[i].t, host, f) : rk_failed(ctx);
    }
    if (!st)
        st = rk__st_write(ctx, e, n, to_fd, &(fd_sink){ fd, name, f });
    for (int i = 0; e && i < n; i++)
        free((void *)e[i].data);
    free(e);
    return st;
}

/* ---- both ---- */

static rk_status write_file(rk_ctx *ctx, rk__snap *s, pick *p, int n, const char *path, write_fn *fn)
{
    const rk__io_ops *io = &rk__io_system;
    rk__fault f = { 0 };
    out_file o;
    int fd = -1;
    rk_status st = out_open(ctx, &o, path);
    if (!st) {
        fd = rk__io_open(io, o.dir_fd, o.tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666, &f);
        st = fd < 0 ? f.st : fn(ctx, s, p, n, fd, o.base, &f);
        if (!st)
            st = rk__io_sync(io, fd, o.base, &f);
        if (fd >= 0 && rk__io_close(io, fd, o.base, &f) && !st)
            st = f.st;
        st = st ? rk_fail(ctx, st, "export %s: %s", path, f.msg) : out_publish(ctx, &o, path);
    }
    out_close(&o);
    return st;
}

static rk_status export_with(rk_ctx *ctx, const char *dir, int64_t step, bool ema, const char *path,
                             write_fn *fn)
{
    rk_run *run;
    rk__snap s;
    int n = 0;
    RK_TRY(rk_failed(ctx));
    RK_TRY(rk__run_open(ctx, &(rk_run_cfg){ .dir = dir, .read_only = true }, &run));
    rk_status st = rk__open_good(ctx, run->snap_dir, dir, step, &s, NULL, NULL, run);
    if (!st) {
        pick *p = rk__calloc(ctx, (size_t)s.m.n_tensors + 1, sizeof *p);
        st = p ? choose(ctx, &s, ema, p, &n) : rk_failed(ctx);
        if (!st)
            st = write_file(ctx, &s, p, n, path, fn);
        free(p);
        rk__snap_close(&s);
    }
    rk__run_close(run);
    return st;
}

rk_status rk_export_h5(rk_ctx *ctx, const char *dir, int64_t step, bool ema, const char *path)
{
    return export_with(ctx, dir, step, ema, path, write_h5);
}

rk_status rk_export_safetensors(rk_ctx *ctx, const char *dir, int64_t step, bool ema, const char *path)
{
    return export_with(ctx, dir, step, ema, path, write_safetensors);
}

rk_status rk_export(rk_ctx *ctx, const char *dir, int64_t step, const char *format, const char *out)
{
    RK_TRY(rk_failed(ctx));
    if (!strcmp(format, "h5"))
        return rk_export_h5(ctx, dir, step, false, out);
    if (!strcmp(format, "safetensors"))
        return rk_export_safetensors(ctx, dir, step, false, out);
    return rk_fail(ctx, RK_EUSAGE, "export: format %s is unknown: h5 or safetensors", format);
}
