#include "parallel/comm_over.h"

#include "core/tape.h"

#include <stdlib.h>

enum { ALIGN = 256 }; /* bytes: legs begin where a device likes to read */

typedef struct rk__over_block {
    struct rk__over_block *next;
    void *p;
    size_t bytes;
} block;

static rk__over *over_of(rk_comm *c)
{
    return (rk__over *)(void *)c;
}

void rk__over_init(rk__over *o, const rk_comm_table *table, rk_comm *under)
{
    o->base = *under;
    o->base.table = table;
    o->base.way = NULL;
    o->base.of_device = true;
    o->under = under;
}

rk_status rk__over_say_way(rk_comm *c, const char *way)
{
    rk__over *o = over_of(c);
    free(o->way);
    c->way = o->way = rk__strdup(c->ctx, way);
    return rk_failed(c->ctx);
}

void rk__over_free(rk__over *o)
{
    while (o->blocks)
        rk__over_release(&o->base, o->blocks->p);
    free(o->way);
    o->base.way = o->way = NULL;
}

void rk__over_close(rk_comm *c)
{
    rk_comm *under = over_of(c)->under;
    under->table->close(under);
}

/* ---- legs ---- */

static size_t padded(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}

void rk__over_place_free(rk__over *o, rk__over_place *place)
{
    const rk_ctx *ctx = o->base.ctx;
    if (place->p)
        ctx->device->release(ctx->dev, place->p, place->bytes);
    *place = (rk__over_place){ 0 };
}

static rk_status grow(rk__over *o, rk__over_place *place, size_t bytes)
{
    rk_ctx *ctx = o->base.ctx;
    if (bytes <= place->bytes)
        return RK_OK;
    rk__over_place_free(o, place);
    RK_TRY(rk__device_alloc(ctx, bytes, "what other ranks send", &place->p));
    place->bytes = bytes;
    return RK_OK;
}

rk_status rk__over_legs(rk__over *o, rk__over_place *place, const rk_leg *send, rk_leg *recv)
{
    rk_ctx *ctx = o->base.ctx;
    const int me = o->base.rank;
    size_t bytes = 0, at = 0;
    if (send[me].bytes != recv[me].bytes)
        return rk_fail(ctx, RK_EINTERNAL, "exchange: rank %d sends %zu bytes to itself, which expects %zu",
                       me, send[me].bytes, recv[me].bytes);
    for (int i = 0; i < o->base.size; i++)
        bytes += i == me || recv[i].data ? 0 : padded(recv[i].bytes);
    RK_TRY(grow(o, place, bytes));
    for (int i = 0; i < o->base.size; i++) {
        if (i == me || recv[i].data || !recv[i].bytes)
            continue;
        recv[i].data = (char *)place->p + at;
        at += padded(recv[i].bytes);
    }
    if (!recv[me].data)
        recv[me].data = send[me].data;
    else if (recv[me].bytes && recv[me].data != send[me].data)
        RK_TRY(rk__device_copy(ctx, recv[me].bytes, send[me].data, recv[me].data));
    return RK_OK;
}

/* ---- requests ---- */

void *rk__over_take(rk__over *o, size_t bytes)
{
    while (o->limbo) {
        rk__over_request *r = o->limbo;
        o->limbo = r->next;
        r->next = o->pool;
        o->pool = r;
    }
    rk__over_request *r = o->pool;
    if (r) {
        o->pool = r->next;
    } else if ((r = rk__calloc(o->base.ctx, 1, bytes))) {
        r->made = o->made;
        o->made = r;
    }
    return r;
}

void rk__over_done(rk__over *o, rk__over_request *r)
{
    r->next = o->limbo;
    o->limbo = r;
}

void rk__over_free_requests(rk__over *o, void (*parts)(rk__over_request *r))
{
    for (rk__over_request *r = o->made, *before; r; r = before) {
        before = r->made;
        if (parts)
            parts(r);
        rk__over_place_free(o, &r->place);
        free(r);
    }
    o->limbo = o->pool = o->made = NULL;
}

/* ---- memory ---- */

void *rk__over_alloc(rk_comm *c, size_t bytes)
{
    rk_ctx *ctx = c->ctx;
    if (rk_failed(ctx))
        return NULL;
    block *b = rk__calloc(c->ctx, 1, sizeof *b);
    if (!b)
        return NULL;
    b->bytes = bytes ? bytes : 1;
    rk_status st = rk__device_alloc(ctx, b->bytes, "what ranks exchange", &b->p);
    if (!st && (st = ctx->device->zero(ctx->dev, b->p, b->bytes)))
        rk_fail(ctx, st, "%zu bytes that ranks exchange cannot be cleared", bytes);
    if (st) {
        if (b->p)
            ctx->device->release(ctx->dev, b->p, b->bytes);
        free(b);
        return NULL;
    }
    b->next = over_of(c)->blocks;
    over_of(c)->blocks = b;
    return b->p;
}

void rk__over_release(rk_comm *c, void *p)
{
    for (block **at = &over_of(c)->blocks; p && *at; at = &(*at)->next)
        if ((*at)->p == p) {
            block *b = *at;
            *at = b->next;
            c->ctx->device->release(c->ctx->dev, b->p, b->bytes);
            free(b);
            return;
        }
}

/* A device's memory is not the system's to take back. */
void rk__over_discard(rk_comm *c, void *p, size_t bytes)
{
    (void)c, (void)p, (void)bytes;
}

/* ---- what is the host's ---- */

rk_status rk__over_barrier(rk_comm *c, const char *name)
{
    rk_comm *under = over_of(c)->under;
    return under->table->barrier(under, name);
}

rk_status rk__over_send(rk_comm *c, int to, int tag, const void *data, size_t bytes)
{
    rk_comm *under = over_of(c)->under;
    return under->table->send(under, to, tag, data, bytes);
}

rk_status rk__over_recv(rk_comm *c, int from, int tag, void *data, size_t bytes)
{
    rk_comm *under = over_of(c)->under;
    return under->table->recv(under, from, tag, data, bytes);
}

void rk__over_abort(rk_comm *c, int code)
{
    rk_comm *under = over_of(c)->under;
    under->table->abort(under, code);
}
