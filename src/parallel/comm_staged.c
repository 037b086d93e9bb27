/* Ranks whose tensors lie in memory that the host does not see, over a communicator of the host: what is sent
 * is copied out first, what arrives is copied in when it is waited for. Several ranks may share a device so.
 * Messages and barriers are those of the host. */
#include "parallel/comm_over.h"
#include "parallel/comm_tables.h"

#include <stdlib.h>
#include <string.h>

typedef enum staged_op { EXCHANGE, GATHER, BROADCAST } staged_op;

struct rk_request {
    rk__over_request base;
    staged_op op;
    bool arrived; /* all of it is where it goes */
    rk_request *under;
    rk_leg *recv;        /* the caller's, of an exchange */
    rk_leg *far, *piece; /* (size) what arrives on the host; where it goes on the device */
    char *out, *in;      /* host: what leaves, what arrives */
    size_t out_bytes, in_bytes;
};

typedef struct staged {
    rk__over over;
    rk_leg *send; /* (size) */
} staged;

static staged *staged_of(rk_comm *c)
{
    return (staged *)(void *)c;
}

/* ---- requests ---- */

static void free_parts(rk__over_request *request)
{
    rk_request *r = (rk_request *)(void *)request;
    free(r->far);
    free(r->piece);
    free(r->out);
    free(r->in);
}

static rk_request *take_request(staged *s, staged_op op)
{
    rk_ctx *ctx = s->over.base.ctx;
    rk_request *r = rk__over_take(&s->over, sizeof *r);
    if (!r)
        return NULL;
    if (!r->far)
        r->far = rk__calloc(ctx, (size_t)s->over.base.size, sizeof *r->far);
    if (!r->piece)
        r->piece = rk__calloc(ctx, (size_t)s->over.base.size, sizeof *r->piece);
    r->op = op;
    r->arrived = false;
    return r->far && r->piece ? r : NULL;
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
    rk_ctx *ctx = s->over.base.ctx;
    size_t bytes = 0, at = 0;
    for (int i = 0; i < s->over.base.size; i++)
        bytes += i == s->over.base.rank ? 0 : padded(send[i].bytes);
    RK_TRY(grow(ctx, &r->out, &r->out_bytes, bytes));
    for (int i = 0; i < s->over.base.size; i++) {
        s->send[i] = (rk_leg){ 0 };
        if (i == s->over.base.rank || !send[i].bytes)
            continue;
        s->send[i] = (rk_leg){ r->out + at, send[i].bytes };
        RK_TRY(copied(ctx, ctx->device->copy_out(ctx->dev, r->out + at, send[i].data, send[i].bytes)));
        at += padded(send[i].bytes);
    }
    return RK_OK;
}

/* Where legs arrive on the host, and then on the device. One's own is there. */
static rk_status place_legs(staged *s, rk_request *r, const rk_leg *send, rk_leg *recv)
{
    const int me = s->over.base.rank;
    memcpy(r->piece, recv, (size_t)s->over.base.size * sizeof *recv);
    RK_TRY(rk__over_legs(&s->over, &r->base.place, send, r->piece));
    recv[me].data = r->piece[me].data;
    r->piece[me] = (rk_leg){ 0 };
    for (int i = 0; i < s->over.base.size; i++)
        r->far[i] = (rk_leg){ NULL, r->piece[i].bytes };
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
    return s->over.under->table->exchange(s->over.under, name, s->send, r->far, &r->under);
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
    return s->over.under->table->all_gather(s->over.under, name, r->far, &r->under);
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
    return s->over.under->table->broadcast(s->over.under, name, root, r->in, bytes, &r->under);
}

/* What has arrived on the host goes to the device, once. */
static rk_status copy_in(rk_comm *c, rk_request *r)
{
    rk_ctx *ctx = c->ctx;
    const rk_comm *under = staged_of(c)->over.under;
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
    rk_status st = s->over.under->table->wait(s->over.under, r->under);
    if (!st)
        st = copy_in(c, r);
    rk__over_done(&s->over, &r->base);
    return st;
}

static bool progress_staged(rk_comm *c, rk_request *r)
{
    rk_comm *under = staged_of(c)->over.under;
    return under->table->progress(under, r ? r->under : NULL) && (!r || !copy_in(c, r) || rk_failed(c->ctx));
}

/* ---- opening and closing ---- */

static rk_status split_staged(rk_comm *c, int color, int key, rk_comm **out)
{
    rk_comm *under = staged_of(c)->over.under, *part;
    *out = NULL;
    RK_TRY(under->table->split(under, color, key, &part));
    return part ? rk__comm_staged(part, out) : RK_OK;
}

static void give_back(staged *s)
{
    rk__over_free_requests(&s->over, free_parts);
    rk__over_free(&s->over);
    free(s->send);
    s->send = NULL;
}

/* One that was split; what is left of it goes with the context. */
static void close_staged(rk_comm *c)
{
    rk__comm_leave(staged_of(c)->over.under);
    give_back(staged_of(c));
    rk__over_close(c);
}

static const rk_comm_table staged_table = {
    .name = "staged",
    .close = close_staged,
    .alloc = rk__over_alloc,
    .release = rk__over_release,
    .discard = rk__over_discard,
    .exchange = exchange_staged,
    .all_gather = all_gather_staged,
    .broadcast = broadcast_staged,
    .barrier = rk__over_barrier,
    .send = rk__over_send,
    .recv = rk__over_recv,
    .progress = progress_staged,
    .wait = wait_staged,
    .split = split_staged,
    .abort = rk__over_abort,
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
    rk__over_init(&s->over, &staged_table, under);
    s->send = rk__calloc(ctx, (size_t)under->size, sizeof *s->send);
    if (!s->send || rk__at_close(ctx, close_with_context, s)) {
        close_with_context(s);
        return rk_failed(ctx);
    }
    *out = &s->over.base;
    return RK_OK;
}
