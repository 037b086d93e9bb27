#include "parallel/comm_dry.h"

#include "parallel/comm_over.h"

#include <stdlib.h>

struct rk_request {
    rk_request *next; /* in limbo, or in the pool */
    rk_request *made; /* the one that was made before */
    rk__over_place place;
};

typedef struct dry {
    rk__over over;
    rk_comm none; /* which it stands over: nothing is asked of it */
    rk_request *limbo, *pool;
    rk_request *made; /* all, also those that were never waited for */
} dry;

static dry *dry_of(rk_comm *c)
{
    return (dry *)(void *)c;
}

/* As in the communicators that it stands for: what was waited for is used again by the collectives that
 * follow the next. */
static rk_status start(rk_comm *c, rk_request **out)
{
    dry *d = dry_of(c);
    while (d->limbo) {
        rk_request *r = d->limbo;
        d->limbo = r->next;
        r->next = d->pool;
        d->pool = r;
    }
    *out = d->pool ? d->pool : rk__calloc(c->ctx, 1, sizeof **out);
    if (!*out)
        return RK_ENOMEM;
    if (*out == d->pool) {
        d->pool = d->pool->next;
    } else {
        (*out)->made = d->made;
        d->made = *out;
    }
    return rk_failed(c->ctx);
}

static rk_status exchange_dry(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv,
                              rk_request **out)
{
    (void)name;
    RK_TRY(start(c, out));
    return rk__over_legs(&dry_of(c)->over, &(*out)->place, send, recv);
}

static rk_status all_gather_dry(rk_comm *c, const char *name, const rk_leg *piece, rk_request **out)
{
    (void)name, (void)piece;
    return start(c, out);
}

static rk_status broadcast_dry(rk_comm *c, const char *name, int root, void *data, size_t bytes,
                               rk_request **out)
{
    (void)name, (void)root, (void)data, (void)bytes;
    return start(c, out);
}

static rk_status barrier_dry(rk_comm *c, const char *name)
{
    (void)name;
    return rk_failed(c->ctx);
}

static bool progress_dry(rk_comm *c, rk_request *r)
{
    (void)c, (void)r;
    return true;
}

static rk_status wait_dry(rk_comm *c, rk_request *r)
{
    dry *d = dry_of(c);
    if (r) {
        r->next = d->limbo;
        d->limbo = r;
    }
    return rk_failed(c->ctx);
}

static const rk_comm_table dry_table = {
    .name = "dry",
    .alloc = rk__over_alloc,
    .release = rk__over_release,
    .discard = rk__over_discard,
    .exchange = exchange_dry,
    .all_gather = all_gather_dry,
    .broadcast = broadcast_dry,
    .barrier = barrier_dry,
    .progress = progress_dry,
    .wait = wait_dry,
};

static void dry_free(void *arg)
{
    dry *d = arg;
    for (rk_request *before; d->made; d->made = before) {
        before = d->made->made;
        rk__over_place_free(&d->over, &d->made->place);
        free(d->made);
    }
    rk__over_free(&d->over);
    free(d);
}

rk_status rk__comm_dry(rk_ctx *ctx, int rank, int size, rk_comm **out)
{
    dry *d = rk__calloc(ctx, 1, sizeof *d);
    *out = NULL;
    if (!d || rk__at_close(ctx, dry_free, d)) {
        free(d);
        return RK_ENOMEM;
    }
    d->none =
        (rk_comm){ .ctx = ctx, .rank = rank, .size = size, .nodes = 1, .node_rank = rank, .node_size = size };
    rk__over_init(&d->over, &dry_table, &d->none);
    *out = &d->over.base;
    return RK_OK;
}

size_t rk__comm_dry_held(const rk_comm *c)
{
    const dry *d = (const dry *)(const void *)c;
    size_t bytes = 0;
    for (const rk_request *r = d->made; r; r = r->made)
        bytes += r->place.bytes;
    return bytes;
}
