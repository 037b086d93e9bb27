#include "parallel/nccl_state.h"

#include <stdio.h>
#include <stdlib.h>

const char *const rk__nccl_op_names[] = { "exchange", "all-gather", "broadcast", "sum" };

/* ---- failures ---- */

rk_status rk__nccl_given_up(rk__nccl *n)
{
    if (rk_failed(n->over.base.ctx))
        n->call->abort(n->comm, true);
    return rk_failed(n->over.base.ctx);
}

rk_status rk__nccl_failed(rk__nccl *n, const char *what, const char *name)
{
    if (!rk_failed(n->over.base.ctx))
        rk_fail(n->over.base.ctx, RK_EDEVICE,
                "NCCL gives up on rank %d in %s %s: %s; NCCL_DEBUG=INFO tells more, RANKINE_NCCL=0 goes "
                "without it",
                n->over.base.rank, what, name, n->comm ? n->call->error(n->comm) : "out of memory");
    n->over.under->table->look(n->over.under); /* tells the others */
    return rk__nccl_given_up(n);
}

rk_status rk__nccl_checked(rk__nccl *n, const rk_request *r, rk_status st)
{
    return st ? rk__nccl_failed(n, rk__nccl_op_names[r->op], r->name) : RK_OK;
}

rk_status rk__nccl_settle(rk__nccl *n, const char *what, const char *name)
{
    for (;;) {
        rk_nccl_state s = n->call->look(n->comm, NULL);
        if (s == RK_NCCL_FAILED)
            return rk__nccl_failed(n, what, name);
        if (s == RK_NCCL_DONE)
            return RK_OK;
        if (n->over.under->table->look(n->over.under))
            return rk__nccl_given_up(n);
    }
}

/* ---- requests ---- */

static void free_parts(rk__over_request *request)
{
    rk_request *r = (rk_request *)(void *)request;
    free(r->hears);
    free(r->tells);
    free(r->said);
    free(r->told);
    free(r->leg);
    free(r->key);
}

void rk__nccl_free_requests(rk__nccl *n)
{
    n->flight = NULL;
    rk__over_free_requests(&n->over, free_parts);
}

/* (op, root or whole, numbers of the sum), then a leg or count each */
enum { KEY_HEAD = 5, KEY_LEG = 3 };

/* What one has that was not used before; false: recorded. */
static bool make_parts(const rk__nccl *n, rk_request *r)
{
    rk_ctx *ctx = n->over.base.ctx;
    const size_t size = (size_t)n->over.base.size;
    if (r->key)
        return true;
    r->hears = rk__calloc(ctx, size, sizeof *r->hears);
    r->tells = rk__calloc(ctx, size, sizeof *r->tells);
    r->said = rk__calloc(ctx, size, sizeof *r->said);
    r->told = rk__calloc(ctx, size, sizeof *r->told);
    r->leg = rk__calloc(ctx, 2 * size, sizeof *r->leg);
    r->key = rk__calloc(ctx, KEY_HEAD + KEY_LEG * 2 * size, sizeof *r->key);
    for (size_t i = 0; i < size && !rk_failed(ctx); i++) {
        r->said[i] = (rk_leg){ &r->hears[i], sizeof *r->hears };
        r->told[i] = (rk_leg){ &r->tells[i], sizeof *r->tells };
    }
    return !rk_failed(ctx);
}

/* One that the device holds nothing back of; NULL: recorded. */
static rk__nccl_pair *take_pair(rk__nccl *n)
{
    rk__nccl_pair *p = n->pairs;
    while (p && (p->taken || n->call->event_held(p->made) || n->call->event_held(p->done)))
        p = p->next;
    if (!p && (p = rk__calloc(n->over.base.ctx, 1, sizeof *p))) {
        p->next = n->pairs;
        n->pairs = p;
        p->made = n->call->event_open();
        p->done = n->call->event_open();
    }
    if (p && (!p->made || !p->done)) {
        rk_fail(n->over.base.ctx, RK_EDEVICE, "no event can be made on the GPU of rank %d",
                n->over.base.rank);
        return NULL;
    }
    if (p)
        p->taken = true;
    return p;
}

void rk__nccl_free_pairs(rk__nccl *n)
{
    for (rk__nccl_pair *p = n->pairs, *next; p; p = next) {
        next = p->next;
        n->call->event_close(n->comm, p->made);
        n->call->event_close(n->comm, p->done);
        free(p);
    }
    n->pairs = NULL;
}

void rk__nccl_give_up(rk__nccl *n, rk_request *r)
{
    r->at->taken = false;
    rk__over_done(&n->over, &r->base);
}

rk_request *rk__nccl_take(rk__nccl *n, rk__nccl_op op, const char *name)
{
    if (rk__nccl_given_up(n))
        return NULL;
    rk__nccl_pair *at = take_pair(n);
    rk_request *r = at ? rk__over_take(&n->over, sizeof *r) : NULL;
    if (!r || !make_parts(n, r))
        return NULL;
    r->next = NULL;
    r->op = op;
    r->at = at;
    r->launched = r->empty = false;
    r->legs = 0;
    r->under = r->words = NULL;
    snprintf(r->name, sizeof r->name, "%s", name ? name : "");
    return r;
}

/* ---- what ranks have of a call ---- */

static void add_key(rk_request *r, uint64_t value)
{
    r->key[r->keys++] = value;
}

static uint64_t address(const void *p)
{
    return (uint64_t)(uintptr_t)p;
}

/* All that NCCL is given. */
static void make_key(const rk__nccl *n, rk_request *r)
{
    const bool sum = r->op == RK__NCCL_SUM;
    r->keys = 0;
    add_key(r, (uint64_t)r->op);
    add_key(r, sum ? r->sum.all : (uint64_t)r->root);
    add_key(r, sum ? r->sum.n : r->data.bytes);
    add_key(r, address(sum ? r->sum.in : r->data.data));
    add_key(r, sum ? address(r->sum.out) : 0);
    for (int i = 0; sum && i < n->over.base.size; i++)
        add_key(r, r->sum.count[i]);
    for (int i = 0; i < r->legs; i++) {
        add_key(r, address(r->leg[i].data));
        add_key(r, r->leg[i].bytes);
        add_key(r, (uint64_t)r->leg[i].peer << 1 | r->leg[i].leaves);
    }
}

uint64_t rk__nccl_have(rk__nccl *n, rk_request *r)
{
    if (!n->agrees || !n->call->records(n->comm))
        return RK__NCCL_UNKNOWN;
    if (r->empty)
        return RK__NCCL_NO_PART;
    make_key(n, r);
    return n->call->number(n->comm, r->key, r->keys * sizeof *r->key);
}

uint64_t rk__nccl_agreed(const rk__nccl *n, const rk_request *r)
{
    uint64_t all = RK__NCCL_NO_PART;
    for (int i = 0; n->agrees && i < n->over.base.size; i++) {
        const uint64_t theirs = i == n->over.base.rank ? r->tells[i].have : r->hears[i].have;
        if (theirs == RK__NCCL_UNKNOWN)
            return RK__NCCL_UNKNOWN;
        if (theirs != RK__NCCL_NO_PART)
            all = all == RK__NCCL_NO_PART || all == theirs ? theirs : RK__NCCL_SEEN;
    }
    return all == RK__NCCL_NO_PART ? RK__NCCL_UNKNOWN : all;
}
