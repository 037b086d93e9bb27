/* Ranks whose tensors lie in memory that the host does not see, over a communicator of the host: what is sent
 * is copied out first, what arrives is copied in when it is waited for. Several ranks may share a device so.
 * Messages and barriers are those of the host. */
#include "parallel/comm_tables.h"

#include "core/tape.h"

#include <stdlib.h>
#include <string.h>

typedef enum staged_op { EXCHANGE, GATHER, BROADCAST } staged_op;

struct rk_request {
    rk_request *next; /* in limbo, or in the pool */
    rk_request *made; /* the one that was made before */
    staged_op op;
    bool arrived; /* all of it is where it goes */
    rk_request *under;
    rk_leg *recv;        /* the caller's, of an exchange */
    rk_leg *far, *piece; /* (size) what arrives on the host; where it goes on the device */
    char *out, *in;      /* host: what leaves, what arrives */
    size_t out_bytes, in_bytes;
    void *place; /* device: legs of an exchange that named no place */
    size_t place_bytes;
};

/* Memory that alloc() made; it dies with its communicator. */
typedef struct block {
    struct block *next;
    void *p;
    size_t bytes;
} block;

typedef struct staged {
    rk_comm base;
    rk_comm *under;
    block *blocks;
    rk_leg *send; /* (size) */
    rk_request *limbo, *pool;
    rk_request *made; /* all, also those that were never waited for */
} staged;

static staged *staged_of(rk_comm *c)
{
    return (staged *)(void *)c;
}

/* ---- requests ---- */

static void free_request(staged *s, rk_request *r)
{
    const rk_ctx *ctx = s->base.ctx;
    if (r->place)
        ctx->device->release(ctx->dev, r->place, r->place_bytes);
    free(r->far);
    free(r->piece);
    free(r->out);
    free(r->in);
    free(r);
}

static void empty_limbo(staged *s)
{
    while (s->limbo) {
        rk_request *r = s->limbo;
        s->limbo = r->next;
        r->next = s->pool;
        s->pool = r;
    }
}

/* What was waited for is read no more when another collective starts. */
static rk_request *take_request(staged *s, staged_op op)
{
    rk_ctx *ctx = s->base.ctx;
    empty_limbo(s);
    rk_request *r = s->pool;
    if (r) {
        s->pool = r->next;
    } else if ((r = rk__calloc(ctx, 1, sizeof *r))) {
        r->far = rk__calloc(ctx, (size_t)s->base.size, sizeof *r->far);
        r->piece = rk__calloc(ctx, (size_t)s->base.size, sizeof *r->piece);
        if (rk_failed(ctx)) {
            free_request(s, r);
            return NULL;
        }
        r->made = s->made;
        s->made = r;
    }
    if (r) {
        r->op = op;
        r->arrived = false;
    }
    return r;
}

static rk_status grow(rk_ctx *ctx, char **p, size_t *have, size_t bytes)
{
    if (bytes <= *have)
        return RK_OK;
    free(*p);
    *have = 0;
    *p = rk__calloc(ctx, bytes, 1);
    *have = *p ? bytes : 0;
    return rk_failed(ctx);
}

static rk_status grow_place(rk_ctx *ctx, rk_request *r, size_t bytes)
{
    if (bytes <= r->place_bytes)
        return RK_OK;
    if (r->place)
        ctx->device->release(ctx->dev, r->place, r->place_bytes);
    r->place_bytes = 0;
    if (ctx->device->alloc(ctx->dev, bytes, &r->place)) {
        r->place = NULL;
        return rk_fail(ctx, RK_ENOMEM, "out of device memory: %zu bytes that other ranks send", bytes);
    }
    r->place_bytes = bytes;
    return RK_OK;
}

static rk_status copied(rk_ctx *ctx, rk_status st)
{
    return st ? rk_fail(ctx, st, "cannot copy between the device and other ranks") : RK_OK;
}

static size_t padded(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

/* ---- collectives ---- */

static rk_status copy_out_legs(staged *s, rk_request *r, const rk_leg *send)
{
    rk_ctx *ctx = s->base.ctx;
    size_t bytes = 0, at = 0;
    for (int i = 0; i < s->base.size; i++)
        bytes += i == s->base.rank ? 0 : padded(send[i].bytes);
    RK_TRY(grow(ctx, &r->out, &r->out_bytes, bytes));
    for (int i = 0; i < s->base.size; i++) {
        s->send[i] = (rk_leg){ 0 };
        if (i == s->base.rank || !send[i].bytes)
            continue;
        s->send[i] = (rk_leg){ r->out + at, send[i].bytes };
        RK_TRY(copied(ctx, ctx->device->copy_out(ctx->dev, r->out + at, send[i].data, send[i].bytes)));
        at += padded(send[i].bytes);
    }
    return RK_OK;
}

/* Where legs arrive: at the place named, or at one made here. One's own leg stays, or is copied at once. */
static rk_status place_legs(staged *s, rk_request *r, const rk_leg *send, rk_leg *recv)
{
    rk_ctx *ctx = s->base.ctx;
    const int me = s->base.rank;
    size_t bytes = 0, at = 0;
    for (int i = 0; i < s->base.size; i++)
        bytes += i == me || recv[i].data ? 0 : padded(recv[i].bytes);
    RK_TRY(grow_place(ctx, r, bytes));
    if (send[me].bytes != recv[me].bytes)
        return rk_fail(ctx, RK_EINTERNAL, "exchange: rank %d sends %zu bytes to itself, which expects %zu",
                       me, send[me].bytes, recv[me].bytes);
    for (int i = 0; i < s->base.size; i++) {
        r->far[i] = (rk_leg){ NULL, i == me ? 0 : recv[i].bytes };
        r->piece[i] = i == me ? (rk_leg){ 0 } : recv[i];
        if (i == me || recv[i].data || !recv[i].bytes)
            continue;
        r->piece[i].data = (char *)r->place + at;
        at += padded(recv[i].bytes);
    }
    if (!recv[me].data)
        recv[me].data = send[me].data;
    else if (recv[me].bytes && recv[me].data != send[me].data)
        RK_TRY(rk__device_copy(ctx, recv[me].bytes, send[me].data, recv[me].data));
    return RK_OK;
}

static rk_status exchange_staged(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv,
                                 rk_request **out)
{
    staged *s = staged_of(c);
    rk_request *r = *out = take_request(s, EXCHANGE);
    if (!r)
        return rk_failed(c->ctx);
    r->recv = recv;
    RK_TRY(copy_out_legs(s, r, send));
    RK_TRY(place_legs(s, r, send, recv));
    return s->under->table->exchange(s->under, name, s->send, r->far, &r->under);
}

static rk_status all_gather_staged(rk_comm *c, const char *name, const rk_leg *piece, rk_request **out)
{
    staged *s = staged_of(c);
    rk_request *r = *out = take_request(s, GATHER);
    size_t bytes = 0, at = 0;
    if (!r)
        return rk_failed(c->ctx);
    for (int i = 0; i < c->size; i++)
        bytes += padded(piece[i].bytes);
    RK_TRY(grow(c->ctx, &r->in, &r->in_bytes, bytes));
    for (int i = 0; i < c->size; i++) {
        r->piece[i] = piece[i];
        r->far[i] = (rk_leg){ r->in + at, piece[i].bytes };
        at += padded(piece[i].bytes);
    }
    const rk_leg *own = &r->far[c->rank];
    if (own->bytes)
        RK_TRY(copied(c->ctx,
                      c->ctx->device->copy_out(c->ctx->dev, own->data, piece[c->rank].data, own->bytes)));
    r->piece[c->rank].bytes = 0; /* it is there */
    return s->under->table->all_gather(s->under, name, r->far, &r->under);
}

static rk_status broadcast_staged(rk_comm *c, const char *name, int root, void *data, size_t bytes,
                                  rk_request **out)
{
    staged *s = staged_of(c);
    rk_request *r = *out = take_request(s, BROADCAST);
    if (!r)
        return rk_failed(c->ctx);
    RK_TRY(grow(c->ctx, &r->in, &r->in_bytes, padded(bytes)));
    if (c->rank == root && bytes)
        RK_TRY(copied(c->ctx, c->ctx->device->copy_out(c->ctx->dev, r->in, data, bytes)));
    memset(r->piece, 0, (size_t)c->size * sizeof *r->piece);
    r->far[0] = (rk_leg){ r->in, bytes };
    r->piece[0] = (rk_leg){ data, c->rank == root ? 0 : bytes };
    return s->under->table->broadcast(s->under, name, root, r->in, bytes, &r->under);
}

/* What has arrived on the host goes to the device, once. */
static rk_status copy_in(rk_comm *c, rk_request *r)
{
    rk_ctx *ctx = c->ctx;
    const rk_comm *under = staged_of(c)->under;
    c->sent = under->sent;
    c->received = under->received;
    c->sent_far = under->sent_far;
    for (int i = 0; i < c->size && !r->arrived; i++) {
        if (r->piece[i].bytes)
            RK_TRY(copied(
                ctx, ctx->device->copy_in(ctx->dev, r->piece[i].data, r->far[i].data, r->piece[i].bytes)));
        if (r->op == EXCHANGE && i != c->rank)
            r->recv[i].data = r->piece[i].data;
    }
    r->arrived = true;
    return RK_OK;
}

static rk_status wait_staged(rk_comm *c, rk_request *r)
{
    staged *s = staged_of(c);
    if (!r)
        return rk_failed(c->ctx);
    rk_status st = s->under->table->wait(s->under, r->under);
    if (!st)
        st = copy_in(c, r);
    r->next = s->limbo;
    s->limbo = r;
    return st;
}

static bool progress_staged(rk_comm *c, rk_request *r)
{
    rk_comm *under = staged_of(c)->under;
    return under->table->progress(under, r ? r->under : NULL) && (!r || !copy_in(c, r) || rk_failed(c->ctx));
}

/* ---- what is the host's ---- */

static rk_status barrier_staged(rk_comm *c, const char *name)
{
    rk_comm *under = staged_of(c)->under;
    return under->table->barrier(under, name);
}

static rk_status send_staged(rk_comm *c, int to, int tag, const void *data, size_t bytes)
{
    rk_comm *under = staged_of(c)->under;
    return under->table->send(under, to, tag, data, bytes);
}

static rk_status recv_staged(rk_comm *c, int from, int tag, void *data, size_t bytes)
{
    rk_comm *under = staged_of(c)->under;
    return under->table->recv(under, from, tag, data, bytes);
}

static rk_status split_staged(rk_comm *c, int color, int key, rk_comm **out)
{
    rk_comm *under = staged_of(c)->under, *part;
    *out = NULL;
    RK_TRY(under->table->split(under, color, key, &part));
    return part ? rk__comm_staged(part, out) : RK_OK;
}

__attribute__((noreturn)) static void abort_staged(rk_comm *c, int code)
{
    rk_comm *under = staged_of(c)->under;
    under->table->abort(under, code);
}

/* ---- memory ---- */

static void *alloc_staged(rk_comm *c, size_t bytes)
{
    const rk_ctx *ctx = c->ctx;
    if (rk_failed(c->ctx))
        return NULL;
    block *b = rk__calloc(c->ctx, 1, sizeof *b);
    if (!b)
        return NULL;
    b->bytes = bytes ? bytes : 1;
    if (ctx->device->alloc(ctx->dev, b->bytes, &b->p) || ctx->device->zero(ctx->dev, b->p, b->bytes)) {
        if (b->p)
            ctx->device->release(ctx->dev, b->p, b->bytes);
        free(b);
        rk_fail(c->ctx, RK_ENOMEM, "out of device memory: %zu bytes that ranks exchange", bytes);
        return NULL;
    }
    b->next = staged_of(c)->blocks;
    staged_of(c)->blocks = b;
    return b->p;
}

static void release_staged(rk_comm *c, void *p)
{
    for (block **at = &staged_of(c)->blocks; p && *at; at = &(*at)->next)
        if ((*at)->p == p) {
            block *b = *at;
            *at = b->next;
            c->ctx->device->release(c->ctx->dev, b->p, b->bytes);
            free(b);
            return;
        }
}

/* A device's memory is not the system's to take back. */
static void discard_staged(rk_comm *c, void *p, size_t bytes)
{
    (void)c, (void)p, (void)bytes;
}

static void give_back(staged *s)
{
    for (rk_request *before; s->made; s->made = before) {
        before = s->made->made;
        free_request(s, s->made);
    }
    s->limbo = s->pool = NULL;
    while (s->blocks)
        release_staged(&s->base, s->blocks->p);
    free(s->send);
    s->send = NULL;
}

/* One that was split; what is left of it goes with the context. */
static void close_staged(rk_comm *c)
{
    rk_comm *under = staged_of(c)->under;
    give_back(staged_of(c));
    under->table->close(under);
}

static const rk_comm_table staged_table = {
    .name = "staged",
    .close = close_staged,
    .alloc = alloc_staged,
    .release = release_staged,
    .discard = discard_staged,
    .exchange = exchange_staged,
    .all_gather = all_gather_staged,
    .broadcast = broadcast_staged,
    .barrier = barrier_staged,
    .send = send_staged,
    .recv = recv_staged,
    .progress = progress_staged,
    .wait = wait_staged,
    .split = split_staged,
    .abort = abort_staged,
};

static void close_with_context(void *s)
{
    give_back(s);
    free(s);
}

rk_status rk__comm_staged(rk_comm *under, rk_comm **out)
{
    rk_ctx *ctx = under->ctx;
    staged *s = rk__calloc(ctx, 1, sizeof *s);
    *out = NULL;
    if (!s)
        return RK_ENOMEM;
    s->base = *under;
    s->base.table = &staged_table;
    s->under = under;
    s->send = rk__calloc(ctx, (size_t)under->size, sizeof *s->send);
    if (!s->send || rk__at_close(ctx, close_with_context, s)) {
        close_with_context(s);
        return rk_failed(ctx);
    }
    *out = &s->base;
    return RK_OK;
}
