/* One rank alone: everything is done when it starts. */
#include "parallel/comm_tables.h"

#include <stdlib.h>
#include <string.h>

struct rk_request {
    char done; /* nothing is ever under way */
};

static rk_request nothing;

/* Memory that alloc() made; it dies with its communicator. */
typedef struct block {
    struct block *next;
    void *p;
} block;

typedef struct self {
    rk_comm base;
    block *blocks;
    struct self *root, *next; /* next: those that were split from root, directly or not */
} self;

static self *self_of(rk_comm *c)
{
    return (self *)(void *)c;
}

static void close_one(self *s)
{
    for (block *b = s->blocks, *next; b; b = next) {
        next = b->next;
        free(b->p);
        free(b);
    }
    free(s);
}

static void close_self(rk_comm *c)
{
    self *s = self_of(c), *at = s->root;
    while (at != s && at->next != s)
        at = at->next;
    if (at != s) { /* one that was split */
        at->next = s->next;
        close_one(s);
        return;
    }
    for (self *child = s->next, *next; child; child = next) {
        next = child->next;
        close_one(child);
    }
    close_one(s);
}

static void *alloc_self(rk_comm *c, size_t bytes)
{
    enum { PAGE = 4096 };
    void *p = NULL;
    if (rk_failed(c->ctx))
        return NULL;
    size_t size = bytes ? (bytes + PAGE - 1) / PAGE * PAGE : PAGE;
    block *b = rk__calloc(c->ctx, 1, sizeof *b);
    if (!b)
        return NULL;
    if (size < bytes || posix_memalign(&p, PAGE, size)) {
        free(b);
        rk_fail(c->ctx, RK_ENOMEM, "out of memory: %zu bytes to share between ranks", bytes);
        return NULL;
    }
    *b = (block){ self_of(c)->blocks, p };
    self_of(c)->blocks = b;
    return memset(p, 0, size);
}

static void release_self(rk_comm *c, void *p)
{
    for (block **at = &self_of(c)->blocks; p && *at; at = &(*at)->next)
        if ((*at)->p == p) {
            block *b = *at;
            *at = b->next;
            free(b->p);
            free(b);
            return;
        }
}

/* One rank alone reads again what it had: nothing to do, and nothing to gain. */
static void discard_self(rk_comm *c, void *p, size_t bytes)
{
    (void)c, (void)p, (void)bytes;
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
    RK_TRY(rk__comm_make_self(c->ctx, out));
    self *child = self_of(*out), *root = self_of(c)->root;
    child->root = root;
    child->next = root->next;
    root->next = child;
    return RK_OK;
}

__attribute__((noreturn)) static void abort_self(rk_comm *c, int code)
{
    (void)c;
    _Exit(code);
}

static rk_status meet_self(rk_comm *c, const char *name, int root, size_t bytes, rk_request **out)
{
    return broadcast_self(c, name, root < 0 ? 0 : root, NULL, bytes, out);
}

static rk_status look_self(rk_comm *c)
{
    return rk_failed(c->ctx);
}

static const rk_comm_table self_table = {
    .name = "self",
    .close = close_self,
    .alloc = alloc_self,
    .release = release_self,
    .discard = discard_self,
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
    .meet = meet_self,
    .look = look_self,
};

rk_status rk__comm_make_self(rk_ctx *ctx, rk_comm **out)
{
    self *s = rk__calloc(ctx, 1, sizeof *s);
    *out = NULL;
    if (!s)
        return RK_ENOMEM;
    s->base = (rk_comm){ .table = &self_table, .ctx = ctx, .size = 1, .nodes = 1, .node_size = 1 };
    s->root = s;
    *out = &s->base;
    return RK_OK;
}
