/* Ranks whose tensors lie on GPUs of their own: data travels from one to another by NCCL. Every call first
 * meets over a communicator of the host, where ranks that call different things, or are missing, are told
 * apart; NCCL is only given what all ranks agree on. Messages, barriers and failures are those of the host.
 * How calls set out: nccl_state.h. */
#include "parallel/comm_nccl.h"

#include "parallel/nccl_state.h"

#include <stdlib.h>

/* Seconds: what differs between ranks that do the same is less, usually. Kernels that run on the host take
 * longer. */
#define PATIENCE      10e-3
#define PATIENCE_HOST 0.2

static rk__nccl *nccl_of(rk_comm *c)
{
    return (rk__nccl *)(void *)c;
}

static void count_bytes(rk__nccl *n, size_t sent, size_t far)
{
    for (rk__nccl *c = n; c; c = c->parent) {
        c->over.base.sent += sent;
        c->over.base.sent_far += far;
        c->over.under->sent += sent; /* where the log looks */
        c->over.under->sent_far += far;
    }
}

static void count_sent(rk__nccl *n, int to, size_t bytes)
{
    count_bytes(n, bytes, n->node_of[to] != n->over.base.node ? bytes : 0);
}

static void count_received(rk__nccl *n, size_t bytes)
{
    for (rk__nccl *c = n; c; c = c->parent) {
        c->over.base.received += bytes;
        c->over.under->received += bytes;
    }
}

static void add_leg(rk__nccl *n, rk_request *r, int peer, const rk_leg *leg, bool leaves)
{
    if (!leg->bytes || peer == n->over.base.rank)
        return;
    r->leg[r->legs++] = (rk_nccl_leg){ leg->data, leg->bytes, peer, leaves };
    if (leaves)
        count_sent(n, peer, leg->bytes);
    else
        count_received(n, leg->bytes);
}

/* Everyone gets it, and it crosses to each other node once. */
static void count_gather(rk__nccl *n, const rk_leg *piece)
{
    const rk_comm *base = &n->over.base;
    for (int i = 0; i < base->size; i++)
        if (i != base->rank) {
            count_received(n, piece[i].bytes);
            count_bytes(n, piece[base->rank].bytes, 0);
        }
    count_bytes(n, 0, piece[base->rank].bytes * (size_t)(base->nodes - 1));
}

/* ---- collectives ---- */

/* Ranks tell each other what they send, so that sizes that do not fit never come to NCCL. */
static rk_status exchange_nccl(rk_comm *c, const char *name, const rk_leg *send, rk_leg *recv,
                               rk_request **out)
{
    rk__nccl *n = nccl_of(c);
    rk_request *r = *out = rk__nccl_take(n, RK__NCCL_EXCHANGE, name);
    if (!r)
        return rk_failed(c->ctx);
    r->recv = recv;
    rk_status st = rk__over_legs(&n->over, &r->base.place, send, recv);
    for (int i = 0; i < c->size; i++) {
        r->tells[i].bytes = send[i].bytes;
        add_leg(n, r, i, &send[i], true);
        add_leg(n, r, i, &recv[i], false);
    }
    r->empty = !r->legs;
    r->data = (rk_leg){ 0 };
    r->root = 0;
    if (!st)
        return rk__nccl_set_out(n, r, 0, 0);
    *out = NULL;
    rk__nccl_give_up(n, r);
    return st;
}

/* Between nodes a piece goes over few links, as NCCL finds best; within a node straight from each to each. */
static rk_status all_gather_nccl(rk_comm *c, const char *name, const rk_leg *piece, rk_request **out)
{
    rk__nccl *n = nccl_of(c);
    rk_request *r = *out = rk__nccl_take(n, RK__NCCL_GATHER, name);
    size_t bytes = 0;
    if (!r)
        return rk_failed(c->ctx);
    for (int i = 0; i < c->size; i++)
        bytes += piece[i].bytes;
    for (int i = 0; i < c->size && c->nodes == 1; i++) {
        add_leg(n, r, i, &piece[c->rank], true);
        add_leg(n, r, i, &piece[i], false);
    }
    for (int i = 0; i < c->size && c->nodes > 1; i++)
        r->leg[r->legs++] = (rk_nccl_leg){ piece[i].data, piece[i].bytes, i, i == c->rank };
    if (c->nodes > 1)
        count_gather(n, piece);
    r->empty = !bytes || !r->legs;
    r->data = (rk_leg){ 0 };
    r->root = 0;
    return rk__nccl_set_out(n, r, -1, bytes);
}

static rk_status broadcast_nccl(rk_comm *c, const char *name, int root, void *data, size_t bytes,
                                rk_request **out)
{
    rk__nccl *n = nccl_of(c);
    if (root < 0 || root >= c->size)
        return rk_fail(c->ctx, RK_EINTERNAL, "broadcast %s from rank %d of %d", name, root, c->size);
    rk_request *r = *out = rk__nccl_take(n, RK__NCCL_BROADCAST, name);
    if (!r)
        return rk_failed(c->ctx);
    r->data = (rk_leg){ data, bytes };
    r->root = root;
    r->empty = !bytes || c->size == 1;
    for (int i = 0; c->rank == root && i < c->size; i++)
        if (i != root)
            count_sent(n, i, bytes);
    if (c->rank != root)
        count_received(n, bytes);
    return rk__nccl_set_out(n, r, root, bytes);
}

/* Counted as each piece to its rank, and for all from there back. */
static rk_status sum_nccl(rk_comm *c, const char *name, const float *in, const size_t *count, bool all,
                          float *to, rk_request **out)
{
    rk__nccl *n = nccl_of(c);
    rk_request *r = *out = rk__nccl_take(n, RK__NCCL_SUM, name);
    if (!r)
        return rk_failed(c->ctx);
    r->sum.in = in;
    r->sum.out = to;
    r->sum.count = count;
    r->sum.all = all;
    r->sum.n = 0;
    for (int i = 0; i < c->size; i++) {
        const size_t theirs = count[i] * sizeof *in, mine = count[c->rank] * sizeof *in;
        r->sum.n += count[i];
        if (i == c->rank)
            continue;
        count_sent(n, i, theirs + (all ? mine : 0));
        count_received(n, mine + (all ? theirs : 0));
    }
    r->empty = !r->sum.n;
    return rk__nccl_set_out(n, r, -1, r->sum.n * sizeof *in);
}

/* ---- progress ---- */

static bool progress_nccl(rk_comm *c, rk_request *r)
{
    bool done = true;
    rk_status st = r ? rk__nccl_look_at(nccl_of(c), r, &done) : rk__nccl_advance(nccl_of(c), false);
    return st || done;
}

/* A request that failed dies with the communicator. */
static rk_status wait_nccl(rk_comm *c, rk_request *r)
{
    rk__nccl *n = nccl_of(c);
    if (!r)
        return rk_failed(c->ctx);
    const double before = n->over.under->waited;
    rk_status st = rk__nccl_wait_for(n, r);
    for (rk__nccl *up = n; up; up = up->parent)
        up->over.base.waited += n->over.under->waited - before;
    if (st)
        return st;
    rk__nccl_leave_flight(n, r);
    return RK_OK;
}

/* ---- what is the host's ---- */

static rk_status barrier_nccl(rk_comm *c, const char *name)
{
    rk_status st = rk__over_barrier(c, name);
    return st ? rk__nccl_given_up(nccl_of(c)) : RK_OK;
}

/* ---- closing ---- */

/* What is still under way is ended first: it may write to memory that goes. */
static void give_back(rk__nccl *n)
{
    if (n->pushed)
        n->over.under->table->on_wait(n->over.under, NULL, n);
    n->pushed = false;
    if (n->flight || rk_failed(n->over.base.ctx))
        n->call->abort(n->comm, rk_failed(n->over.base.ctx));
    rk__nccl_free_requests(n);
    if (n->comm)
        rk__nccl_free_pairs(n);
    n->call->close(n->comm);
    n->comm = NULL;
    rk__over_free(&n->over);
    free(n->node_of);
    n->node_of = NULL;
}

/* One that was split; what is left of it goes with the context. */
static void close_nccl(rk_comm *c)
{
    rk__comm_leave(nccl_of(c)->over.under);
    give_back(nccl_of(c));
    rk__over_close(c);
}

/* ---- opening ---- */

static rk_status open_over(rk_comm *under, const rk_nccl_table *call, rk__nccl *parent, rk_comm **out);

static rk_status split_nccl(rk_comm *c, int color, int key, rk_comm **out)
{
    rk_comm *under = nccl_of(c)->over.under, *part;
    *out = NULL;
    RK_TRY(under->table->split(under, color, key, &part));
    return part ? open_over(part, nccl_of(c)->call, nccl_of(c), out) : RK_OK;
}

static const rk_comm_table nccl_table = {
    .name = "nccl",
    .close = close_nccl,
    .alloc = rk__over_alloc,
    .release = rk__over_release,
    .discard = rk__over_discard,
    .exchange = exchange_nccl,
    .all_gather = all_gather_nccl,
    .broadcast = broadcast_nccl,
    .barrier = barrier_nccl,
    .send = rk__over_send,
    .recv = rk__over_recv,
    .progress = progress_nccl,
    .wait = wait_nccl,
    .split = split_nccl,
    .sum = sum_nccl,
    .abort = rk__over_abort,
};

static void close_with_context(void *arg)
{
    rk__nccl *n = arg;
    give_back(n);
    free(n);
}

/* Words are told where every rank's device makes graphs. */
static rk_status agree(rk__nccl *n)
{
    rk_comm *under = n->over.under;
    const uint8_t mine = n->call->graphs(n->comm);
    uint8_t *all = rk__calloc(under->ctx, (size_t)under->size, sizeof *all);
    rk_status st = all ? rk__comm_all_values(under, "graphs of ranks", &mine, sizeof mine, all) : RK_ENOMEM;
    n->agrees = !st;
    for (int i = 0; i < under->size && n->agrees; i++)
        n->agrees = all[i];
    free(all);
    return st;
}

/* The first rank's id makes all ranks one communicator. */
static rk_status join(rk__nccl *n)
{
    rk_comm *under = n->over.under;
    rk_ctx *ctx = n->over.base.ctx;
    uint8_t id[RK_NCCL_ID_BYTES] = { 0 };
    if (under->rank == 0 && n->call->unique_id(id))
        rk_fail(ctx, RK_EDEVICE,
                "NCCL cannot start on rank 0: NCCL_DEBUG=INFO tells why, RANKINE_NCCL=0 goes without it");
    RK_TRY(rk__comm_broadcast(under, "NCCL's id", 0, id, sizeof id));
    if (n->call->open(ctx->dev, under->size, under->rank, id, &n->comm))
        return rk__nccl_failed(n, "joining", "the others");
    RK_TRY(rk__nccl_settle(n, "joining", "the others"));
    RK_TRY(rk__comm_all_values(under, "nodes of ranks", &under->node, sizeof under->node, n->node_of));
    return agree(n);
}

/* RANKINE_NCCL_PATIENCE: in seconds, where ranks are further apart than usual. */
static double patience(const rk_nccl_table *call)
{
    const char *text = getenv("RANKINE_NCCL_PATIENCE");
    const double asked = text ? strtod(text, NULL) : 0;
    return asked > 0 ? asked : call->host_run ? PATIENCE_HOST : PATIENCE;
}

static rk_status open_over(rk_comm *under, const rk_nccl_table *call, rk__nccl *parent, rk_comm **out)
{
    rk_ctx *ctx = under->ctx;
    rk__nccl *n = rk__calloc(ctx, 1, sizeof *n);
    *out = NULL;
    if (!n)
        return RK_ENOMEM;
    rk__over_init(&n->over, &nccl_table, under);
    n->over.base.sent = n->over.base.received = n->over.base.sent_far = 0;
    n->parent = parent;
    n->call = call;
    n->flight_end = &n->flight;
    n->patience = patience(call);
    n->node_of = rk__calloc(ctx, (size_t)under->size, sizeof *n->node_of);
    if (!n->node_of || rk__at_close(ctx, close_with_context, n)) {
        close_with_context(n);
        return rk_failed(ctx);
    }
    RK_TRY(join(n));
    under->table->on_wait(under, rk__nccl_push_on, n);
    call->watch(n->comm, rk__nccl_set_out_all, rk__nccl_watch_wait, n);
    n->pushed = true;
    *out = &n->over.base;
    return RK_OK;
}

rk_status rk__comm_nccl(rk_comm *under, const rk_nccl_table *call, rk_comm **out)
{
    return open_over(under, call, NULL, out);
}
