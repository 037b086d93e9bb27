/* One rank alone: everything is done when it starts. */
#include "parallel/comm_tables.h"

#include <stdlib.h>
#include <string.h>

struct rk_request {
    char done; /* nothing is ever under way */
};

static rk_request nothing;

static void close_self(rk_comm *c)
{
    free(c);
}

static void *alloc_self(rk_comm *c, size_t bytes)
{
    enum { PAGE = 4096 };
    void *p = NULL;
    if (rk_failed(c->ctx))
        return NULL;
    size_t size = (bytes + PAGE - 1) / PAGE * PAGE;
    if (size < bytes || posix_memalign(&p, PAGE, size ? size : PAGE)) {
        rk_fail(c->ctx, RK_ENOMEM, "out of memory: %zu bytes to share between ranks", bytes);
        return NULL;
    }
    return memset(p, 0, size);
}

static void release_self(rk_comm *c, void *p)
{
    (void)c;
    free(p);
}

static rk_status exchange_self(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv,
                               rk_request **out)
{
    *out = &nothing;
    if (rk_failed(c->ctx))
        return rk_failed(c->ctx);
    if (send[0].bytes != recv[0].bytes)
        return rk_fail(c->ctx, RK_EINTERNAL, "exchange %s: sends %zu bytes to itself, expects %zu", name,
                       send[0].bytes, recv[0].bytes);
    if (!recv[0].data)
        recv[0].data = send[0].data;
    else if (recv[0].bytes)
        memmove(recv[0].data, send[0].data, recv[0].bytes);
    return RK_OK;
}

static rk_status all_gather_self(rk_comm *c, const char *name, const rk_leg *piece, rk_request **out)
{
    (void)name, (void)piece;
    *out = &nothing;
    return rk_failed(c->ctx);
}

static rk_status broadcast_self(rk_comm *c, const char *name, int root, void *data, size_t bytes,
                                rk_request **out)
{
    (void)data, (void)bytes;
    *out = &nothing;
    if (root)
        return rk_fail(c->ctx, RK_EINTERNAL, "broadcast %s from rank %d of 1", name, root);
    return rk_failed(c->ctx);
}

static rk_status barrier_self(rk_comm *c, const char *name)
{
    (void)name;
    return rk_failed(c->ctx);
}

static rk_status send_self(rk_comm *c, int to, int tag, const void *data, size_t bytes)
{
    (void)data, (void)bytes;
    return rk_fail(c->ctx, RK_EINTERNAL, "send to rank %d with tag %d, but there is one rank", to, tag);
}

static rk_status recv_self(rk_comm *c, int from, int tag, void *data, size_t bytes)
{
    (void)data, (void)bytes;
    return rk_fail(c->ctx, RK_EINTERNAL, "receive from rank %d with tag %d, but there is one rank", from,
                   tag);
}

static bool progress_self(rk_comm *c, rk_request *r)
{
    (void)c, (void)r;
    return true;
}

static rk_status wait_self(rk_comm *c, rk_request *r)
{
    (void)r;
    return rk_failed(c->ctx);
}

static rk_status split_self(rk_comm *c, int color, int key, rk_comm **out)
{
    (void)key;
    *out = NULL;
    if (color < 0 || rk_failed(c->ctx))
        return rk_failed(c->ctx);
    return rk__comm_make_self(c->ctx, out);
}

__attribute__((noreturn)) static void abort_self(rk_comm *c, int code)
{
    (void)c;
    _Exit(code);
}

static const rk_comm_table self = {
    .name = "self",
    .close = close_self,
    .alloc = alloc_self,
    .release = release_self,
    .exchange = exchange_self,
    .all_gather = all_gather_self,
    .broadcast = broadcast_self,
    .barrier = barrier_self,
    .send = send_self,
    .recv = recv_self,
    .progress = progress_self,
    .wait = wait_self,
    .split = split_self,
    .abort = abort_self,
};

rk_status rk__comm_make_self(rk_ctx *ctx, rk_comm **out)
{
    rk_comm *c = *out = rk__calloc(ctx, 1, sizeof *c);
    if (!c)
        return RK_ENOMEM;
    *c = (rk_comm){ .table = &self, .ctx = ctx, .size = 1, .nodes = 1, .node_size = 1 };
    return RK_OK;
}
