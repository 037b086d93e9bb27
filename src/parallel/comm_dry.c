#include "parallel/comm_dry.h"

#include "parallel/comm_over.h"

#include <stdlib.h>

struct rk_request {
    rk__over_request base;
};

typedef struct dry {
    rk__over over;
    rk_comm none; /* which it stands over: nothing is asked of it */
    int tensor;   /* ranks of a group */
    int splits;   /* that were made of it */
} dry;

static dry *dry_of(rk_comm *c)
{
    return (dry *)(void *)c;
}

static rk_status start(rk_comm *c, rk_request **out)
{
    *out = rk__over_take(&dry_of(c)->over, sizeof **out);
    return rk_failed(c->ctx);
}

static rk_status exchange_dry(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv,
                              rk_request **out)
{
    (void)name;
    RK_TRY(start(c, out));
    return rk__over_legs(&dry_of(c)->over, &(*out)->base.place, send, recv);
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
    if (r)
        rk__over_done(&dry_of(c)->over, &r->base);
    return rk_failed(c->ctx);
}

/* Nobody else is there to tell a color: who has the same follows from the mesh. */
static rk_status split_dry(rk_comm *c, int color, int key, rk_comm **out)
{
    dry *d = dry_of(c);
    const int tensor = d->tensor;
    const bool beside = d->splits++ % 2 == 0;
    RK_ASSERT(key == c->rank && color == (beside ? c->rank / tensor : c->rank % tensor));
    return beside ? rk__comm_dry(c->ctx, c->rank % tensor, tensor, 1, out)
                  : rk__comm_dry(c->ctx, c->rank / tensor, c->size / tensor, 1, out);
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
    .split = split_dry,
};

static void dry_free(void *arg)
{
    dry *d = arg;
    rk__over_free_requests(&d->over, NULL);
    rk__over_free(&d->over);
    free(d);
}

rk_status rk__comm_dry(rk_ctx *ctx, int rank, int size, int tensor, rk_comm **out)
{
    dry *d = rk__calloc(ctx, 1, sizeof *d);
    *out = NULL;
    if (!d || rk__at_close(ctx, dry_free, d)) {
        free(d);
        return RK_ENOMEM;
    }
    d->none =
        (rk_comm){ .ctx = ctx, .rank = rank, .size = size, .nodes = 1, .node_rank = rank, .node_size = size };
    d->tensor = tensor;
    rk__over_init(&d->over, &dry_table, &d->none);
    *out = &d->over.base;
    return RK_OK;
}

size_t rk__comm_dry_held(const rk_comm *c)
{
    const dry *d = (const dry *)(const void *)c;
    size_t bytes = 0;
    for (const rk__over_request *r = d->over.made; r; r = r->made)
        bytes += r->place.bytes;
    return bytes;
}
