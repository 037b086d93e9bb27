#include "io/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/file.h"

enum { PENDING_BYTES = 1 << 20 };

static rk_status no_memory(rk_ctx *ctx, const rk__store *s)
{
    return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", s->name);
}

static rk_status read_fd(rk_ctx *ctx, const rk__store *s, int64_t at, uint8_t *p, int64_t n)
{
    while (n) {
        ssize_t got = pread(s->fd, p, (size_t)n, s->offset + at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return rk_fail(ctx, RK_ENOINPUT, "%s: cannot be read: %s", s->name, strerror(errno));
        if (got == 0)
            return rk_fail(ctx, RK_EDATA, "%s: offset %lld: the file became shorter while in use", s->name,
                           (long long)(s->offset + at));
        p += got;
        at += got;
        n -= got;
    }
    return RK_OK;
}

rk_status rk__store_file(rk_ctx *ctx, rk__store *s, const char *name, int fd, int64_t offset, int64_t size)
{
    *s = (rk__store){ .fd = fd, .offset = offset, .size = size, .name = name };
    if (size > RK__STORE_MEMORY)
        return RK_OK;
    uint8_t *mem = malloc((size_t)size + 1);
    if (!mem)
        return no_memory(ctx, s);
    rk_status st = read_fd(ctx, s, 0, mem, size);
    s->mem = mem;
    close(s->fd);
    s->fd = -1;
    return st;
}

void rk__store_adopt(rk__store *s, const char *name, uint8_t *base, uint8_t *mem, int64_t size)
{
    *s = (rk__store){ .mem = mem, .base = base, .fd = -1, .size = size, .name = name };
}

void rk__store_begin(rk__store *s, const char *name)
{
    *s = (rk__store){ .fd = -1, .name = name };
}

static rk_status flush(rk_ctx *ctx, rk__store *s)
{
    rk_status st = rk__write_all(ctx, s->fd, s->pending, (size_t)s->n_pending, "temporary file");
    s->n_pending = 0;
    return st;
}

/* From memory to a temporary file. */
static rk_status spill(rk_ctx *ctx, rk__store *s)
{
    s->fd = rk__temp_file(ctx);
    if (s->fd < 0)
        return rk_failed(ctx);
    s->pending = malloc(PENDING_BYTES);
    if (!s->pending)
        return no_memory(ctx, s);
    RK_TRY(rk__write_all(ctx, s->fd, s->mem, (size_t)s->size, "temporary file"));
    free(s->mem);
    s->mem = NULL;
    return RK_OK;
}

static rk_status grow(rk_ctx *ctx, rk__store *s, int64_t need)
{
    int64_t cap = s->cap ? s->cap : 1 << 16;
    while (cap < need)
        cap *= 2;
    uint8_t *mem = realloc(s->mem, (size_t)cap);
    if (!mem)
        return no_memory(ctx, s);
    s->mem = mem;
    s->cap = cap;
    return RK_OK;
}

rk_status rk__store_put(rk_ctx *ctx, rk__store *s, const void *p, int64_t n)
{
    const uint8_t *b = p;
    if (s->fd < 0 && s->size + n > RK__STORE_MEMORY)
        RK_TRY(spill(ctx, s));
    if (s->fd < 0) {
        if (s->size + n > s->cap)
            RK_TRY(grow(ctx, s, s->size + n));
        if (n)
            memcpy(s->mem + s->size, b, (size_t)n);
        s->size += n;
        return RK_OK;
    }
    s->size += n;
    while (n) {
        int64_t k = PENDING_BYTES - s->n_pending < n ? PENDING_BYTES - s->n_pending : n;
        memcpy(s->pending + s->n_pending, b, (size_t)k);
        s->n_pending += k;
        b += k;
        n -= k;
        if (s->n_pending == PENDING_BYTES)
            RK_TRY(flush(ctx, s));
    }
    return RK_OK;
}

rk_status rk__store_end(rk_ctx *ctx, rk__store *s)
{
    rk_status st = RK_OK;
    if (s->pending)
        st = flush(ctx, s);
    free(s->pending);
    s->pending = NULL;
    return st;
}

rk_status rk__store_read(rk_ctx *ctx, const rk__store *s, int64_t at, void *p, int64_t n)
{
    if (at < 0 || n < 0 || at > s->size || n > s->size - at)
        return rk_fail(ctx, RK_EINTERNAL, "%s: read of %lld bytes at %lld of %lld", s->name, (long long)n,
                       (long long)at, (long long)s->size);
    if (s->fd >= 0)
        return read_fd(ctx, s, at, p, n);
    if (n)
        memcpy(p, s->mem + at, (size_t)n);
    return RK_OK;
}

void rk__store_close(rk__store *s)
{
    free(s->base ? s->base : s->mem);
    free(s->pending);
    if (s->fd >= 0)
        close(s->fd);
    *s = (rk__store){ .fd = -1 };
}
