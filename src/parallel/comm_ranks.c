/* Collectives between the ranks of a launcher: the table, requests and waiting. */
#include "parallel/comm_ranks.h"

#include "parallel/comm_tables.h"

#include <stdlib.h>
#include <string.h>

/* ---- requests ---- */

static void free_request(rk_request *r)
{
    rk__posts_close(r->relay);
    rk__posts_close(r->posts);
    free(r->leg);
    free(r->scratch);
    free(r->place);
    free(r->taken);
    free(r);
}

static rk_request *make_request(rk__ranks *c)
{
    rk_ctx *ctx = c->base.ctx;
    rk_request *r = rk__calloc(ctx, 1, sizeof *r);
    if (!r)
        return NULL;
    r->leg = rk__calloc(ctx, (size_t)c->base.size, sizeof *r->leg);
    r->place = rk__calloc(ctx, (size_t)c->base.node_size, sizeof *r->place);
    r->taken = rk__calloc(ctx, (size_t)c->base.node_size, 1);
    rk__posts_open(c->net, &r->relay);
    rk__posts_open(c->net, &r->posts);
    if (!rk_failed(ctx))
        return r;
    if (r->relay)
        rk__posts_close(r->relay);
    r->relay = NULL;
    free_request(r);
    return NULL;
}

/* Nothing of a call is read any more. */
static void free_call(rk__ranks *c, uint64_t seq)
{
    uint64_t before = c->freed;
    c->done_with[seq % RK__CALLS] = true;
    while (c->freed < c->seq && c->done_with[(c->freed + 1) % RK__CALLS])
        c->done_with[++c->freed % RK__CALLS] = false;
    if (c->freed != before)
        rk__node_set_freed(c->shm, c->freed);
}

/* To the pool, with what it may use again. */
static void recycle(rk__ranks *c, rk_request *r)
{
    if (r->lends)
        free_call(c, r->call.seq);
    for (int n = 0; n < c->base.node_size; n++) {
        free(r->place[n]);
        r->place[n] = NULL;
    }
    r->next = c->pool;
    c->pool = r;
}

static void empty_limbo(rk__ranks *c)
{
    for (rk_request *r = c->limbo, *next; r; r = next) {
        next = r->next;
        recycle(c, r);
    }
    c->limbo = NULL;
}

static void reset(rk__ranks *c, rk_request *r)
{
    r->next = NULL;
    r->recv = NULL;
    r->data = NULL;
    r->round = 0;
    r->ready = r->moved = r->done = r->lends = r->posted = r->meets = false;
    memset(r->taken, 0, (size_t)c->base.node_size);
    r->taken[c->base.node_rank] = true;
    r->left = c->base.node_size - 1;
}

/* ---- progress ---- */

/* Moves whatever is under way, oldest first. */
static rk_status advance(rk__ranks *c)
{
    for (rk_request *r = c->flight; r; r = r->next) {
        if (r->done)
            continue;
        RK_TRY(rk__move(c, r));
        if (r->done && !r->lends)
            free_call(c, r->call.seq);
    }
    return RK_OK;
}

/* ---- a call ---- */

static rk_status room_for_call(rk__ranks *c)
{
    rk__watch w = { 0 };
    rk_status st = RK_OK;
    if (c->in_flight >= RK__CALLS - 1)
        return rk_fail(c->base.ctx, RK_EINTERNAL, "more than %d collectives under way", RK__CALLS - 1);
    while (!st && !rk__node_room(c->shm, c->seq + 1))
        if (!(st = advance(c)) && !rk__node_room(c->shm, c->seq + 1))
            st = rk__watch_idle(c, NULL, &w);
    rk__watch_end(c, &w);
    return st;
}

/* [C] Counts a call. After it, rk__node_call() has to follow. */
static rk_status count_call(rk__ranks *c, rk__op op, const char *name, int root, uint64_t bytes,
                            rk__call *call)
{
    if (rk_failed(c->base.ctx)) {
        rk__announce(c);
        return rk_failed(c->base.ctx);
    }
    if (c->root->announced)
        return rk_fail(c->base.ctx, RK_EPEER,
                       "the ranks parted when one of them failed: start the job again");
    empty_limbo(c);
    RK_TRY(room_for_call(c));
    rk__call_set(call, ++c->seq, op, name, root, bytes);
    call->waited = c->waited;
    call->chain = c->chain = rk__call_chain(c->chain, call);
    c->history[c->seq % RK__CALLS] = *call;
    return RK_OK;
}

/* [C] Counts a collective and makes its request. */
static rk_status begin(rk__ranks *c, rk__op op, const char *name, int root, uint64_t bytes, rk_request **out)
{
    rk__call call;
    *out = NULL;
    RK_TRY(count_call(c, op, name, root, bytes, &call));
    rk_request *r = c->pool ? c->pool : make_request(c);
    if (!r)
        return RK_ENOMEM;
    if (r == c->pool)
        c->pool = r->next;
    reset(c, r);
    r->call = call;
    c->in_flight++;
    *out = r;
    return RK_OK;
}

/* Posts and publishes; the request is under way from here on, whatever comes. */
static rk_status launch(rk__ranks *c, rk_request *r)
{
    *c->flight_end = r;
    c->flight_end = &r->next;
    RK_TRY(rk__move_start(c, r));
    rk__node_call(c->shm, &r->call);
    c->called = r->call.seq;
    return advance(c);
}

static rk_status exchange_ranks(rk_comm *base, const char *name, const rk_leg *send, rk_leg *recv,
                                rk_request **out)
{
    rk__ranks *c = rk__ranks_of(base);
    uint64_t bytes = 0;
    for (int i = 0; i < base->size; i++)
        bytes += send[i].bytes;
    RK_TRY(begin(c, RK__EXCHANGE, name, 0, bytes, out));
    memcpy((*out)->leg, send, (size_t)base->size * sizeof *send);
    (*out)->recv = recv;
    for (int i = 0; base->nodes > 1 && i < base->size; i++) {
        rk__legs_of(c, c->seq, i)[0] = send[i].bytes;
        rk__legs_of(c, c->seq, i)[1] = recv[i].bytes;
    }
    return launch(c, *out);
}

static rk_status all_gather_ranks(rk_comm *base, const char *name, const rk_leg *piece, rk_request **out)
{
    rk__ranks *c = rk__ranks_of(base);
    uint64_t bytes = 0;
    for (int i = 0; i < base->size; i++)
        bytes += piece[i].bytes;
    RK_TRY(begin(c, RK__ALL_GATHER, name, 0, bytes, out));
    memcpy((*out)->leg, piece, (size_t)base->size * sizeof *piece);
    return launch(c, *out);
}

static rk_status broadcast_ranks(rk_comm *base, const char *name, int root, void *data, size_t bytes,
                                 rk_request **out)
{
    rk__ranks *c = rk__ranks_of(base);
    if (root < 0 || root >= base->size)
        return rk_fail(base->ctx, RK_EINTERNAL, "broadcast %s from rank %d of %d", name, root, base->size);
    RK_TRY(begin(c, RK__BROADCAST, name, root, bytes, out));
    (*out)->data = data;
    return launch(c, *out);
}

static bool progress_ranks(rk_comm *base, rk_request *r)
{
    rk__ranks *c = rk__ranks_of(base);
    if (!rk_failed(base->ctx))
        advance(c);
    return !r || r->done || rk_failed(base->ctx);
}

static void leave_flight(rk__ranks *c, rk_request *r)
{
    rk_request **at = &c->flight;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (!r->next)
        c->flight_end = at;
}

static rk_status wait_ranks(rk_comm *base, rk_request *r)
{
    rk__ranks *c = rk__ranks_of(base);
    rk__watch w = { 0 };
    if (!r)
        return rk_failed(base->ctx);
    while (!progress_ranks(base, r))
        if (rk__watch_idle(c, r, &w))
            break;
    rk__watch_end(c, &w);
    if (rk_failed(base->ctx)) { /* messages may be under way: the request dies with the communicator */
        rk__announce(c);
        return rk_failed(base->ctx);
    }
    c->in_flight--;
    leave_flight(c, r);
    if (r->call.op == RK__EXCHANGE)
        c->waited += r->call.seq;
    r->next = c->limbo;
    c->limbo = r;
    return RK_OK;
}

static rk_status barrier_ranks(rk_comm *base, const char *name)
{
    rk__ranks *c = rk__ranks_of(base);
    rk_request *r;
    RK_TRY(begin(c, RK__BARRIER, name, 0, 0, &r));
    rk_status st = launch(c, r);
    return st ? st : wait_ranks(base, r);
}

/* ---- for communicators whose data travels otherwise ---- */

static rk_status meet_ranks(rk_comm *base, const char *name, int root, size_t bytes, rk_request **out)
{
    rk__ranks *c = rk__ranks_of(base);
    if (root >= base->size)
        return rk_fail(base->ctx, RK_EINTERNAL, "broadcast %s from rank %d of %d", name, root, base->size);
    RK_TRY(begin(c, root < 0 ? RK__ALL_GATHER : RK__BROADCAST, name, root < 0 ? 0 : root, bytes, out));
    (*out)->meets = true;
    return launch(c, *out);
}

static rk_status look_ranks(rk_comm *base)
{
    rk__ranks *c = rk__ranks_of(base);
    rk__watch w = { 0 };
    rk_status st = rk_failed(base->ctx);
    if (!st)
        st = advance(c);
    if (!st)
        st = rk__watch_idle(c, NULL, &w);
    rk__watch_end(c, &w);
    if (st)
        rk__announce(c);
    return st;
}

static void on_wait_ranks(rk_comm *base, void (*fn)(void *arg), void *arg)
{
    rk__ranks *root = rk__ranks_of(base)->root;
    struct rk__waiter **at = &root->waiters, *it;
    while (*at && (*at)->arg != arg)
        at = &(*at)->next;
    it = *at;
    if (it && !fn) {
        *at = it->next;
        free(it);
    } else if (!it && fn && (it = rk__calloc(base->ctx, 1, sizeof *it))) {
        *it = (struct rk__waiter){ root->waiters, fn, arg };
        root->waiters = it;
    }
}

/* ---- messages ---- */

static rk_status message(rk_comm *base, int peer, int tag, void *data, size_t bytes, bool leaves)
{
    rk__ranks *c = rk__ranks_of(base);
    rk__posts *p;
    rk__watch w = { 0 };
    bool done = false;
    if (rk_failed(base->ctx))
        return rk_failed(base->ctx);
    if (peer < 0 || peer >= base->size || peer == base->rank || tag < 0 || tag >= RK__NET_TAGS)
        return rk_fail(base->ctx, RK_EINTERNAL, "a message between ranks %d and %d of %d with tag %d",
                       base->rank, peer, base->size, tag);
    RK_TRY(rk__posts_open(c->net, &p));
    rk_status st = leaves ? rk__posts_send(p, peer, (uint32_t)tag, data, bytes)
                          : rk__posts_recv(p, peer, (uint32_t)tag, data, bytes);
    while (!st && !(st = rk__posts_test(p, &done)) && !done)
        if (!(st = advance(c)))
            st = rk__watch_idle(c, NULL, &w);
    rk__watch_end(c, &w);
    rk__posts_close(p);
    return st;
}

static rk_status send_ranks(rk_comm *base, int to, int tag, const void *data, size_t bytes)
{
    RK_TRY(message(base, to, tag, (void *)(uintptr_t)data, bytes, true));
    rk__count_sent(rk__ranks_of(base), to, bytes);
    return RK_OK;
}

static rk_status recv_ranks(rk_comm *base, int from, int tag, void *data, size_t bytes)
{
    RK_TRY(message(base, from, tag, data, bytes, false));
    rk__count_received(rk__ranks_of(base), bytes);
    return RK_OK;
}

/* ---- memory ---- */

static void *alloc_ranks(rk_comm *base, size_t bytes)
{
    rk__ranks *c = rk__ranks_of(base);
    rk_request *r;
    if (begin(c, RK__ALLOC, "", 0, bytes, &r))
        return NULL;
    rk_status st = launch(c, r);
    void *p = r->data;
    return st || wait_ranks(base, r) ? NULL : p;
}

static void release_ranks(rk_comm *base, void *p)
{
    rk__ranks *c = rk__ranks_of(base);
    rk__call call;
    if (!p || count_call(c, RK__RELEASE, "", 0, 0, &call))
        return;
    rk__node_call(c->shm, &call);
    c->called = call.seq;
    free_call(c, call.seq);
    rk__node_release(c->shm, p);
}

static void discard_ranks(rk_comm *base, void *p, size_t bytes)
{
    rk__node_discard(rk__ranks_of(base)->shm, p, bytes);
}

__attribute__((noreturn)) static void abort_ranks(rk_comm *base, int code)
{
    rk__net_abort(rk__ranks_of(base)->net, code);
}

void rk__ranks_give_up(rk__ranks *c, double until)
{
    for (rk_request *r; (r = c->flight);) {
        leave_flight(c, r);
        r->next = c->limbo;
        c->limbo = r;
    }
    for (const rk_request *r = c->limbo; r; r = r->next) {
        rk__posts_give_up(r->relay, until);
        rk__posts_give_up(r->posts, until);
    }
}

void rk__ranks_free_requests(rk__ranks *c)
{
    rk_request *lists[] = { c->flight, c->limbo, c->pool };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (rk_request *r = lists[i], *next; r; r = next) {
            next = r->next;
            for (int n = 0; n < c->base.node_size; n++)
                free(r->place[n]);
            free_request(r);
        }
    c->flight = c->limbo = c->pool = NULL;
}

const rk_comm_table rk__ranks_table = {
    .name = "mpi",
    .leave = rk__ranks_leave,
    .close = rk__ranks_close,
    .alloc = alloc_ranks,
    .release = release_ranks,
    .discard = discard_ranks,
    .exchange = exchange_ranks,
    .all_gather = all_gather_ranks,
    .broadcast = broadcast_ranks,
    .barrier = barrier_ranks,
    .send = send_ranks,
    .recv = recv_ranks,
    .progress = progress_ranks,
    .wait = wait_ranks,
    .split = rk__ranks_split,
    .abort = abort_ranks,
    .meet = meet_ranks,
    .look = look_ranks,
    .on_wait = on_wait_ranks,
};
