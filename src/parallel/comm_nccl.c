/* Ranks whose tensors lie on GPUs of their own: data travels from one to another by NCCL. Every call first
 * meets over a communicator of the host, where ranks that call different things, or are missing, are told
 * apart; NCCL is only given what all ranks agree on. Messages, barriers and failures are those of the host.
 */
#include "parallel/comm_nccl.h"

#include "parallel/comm_over.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum nccl_op { EXCHANGE, GATHER, BROADCAST, SUM } nccl_op;

static const char *const op_names[] = { "exchange", "all-gather", "broadcast", "sum" };

struct rk_request {
    rk_request *next; /* in flight, in limbo, or in the pool */
    nccl_op op;
    char name[48];
    int root;
    bool launched, empty; /* NCCL has it; there is nothing for NCCL to do */
    rk_request *under;
    rk_leg *recv;        /* the caller's, of an exchange */
    uint64_t *size;      /* (size, 2): bytes that others say they send; what they are told */
    rk_leg *said, *told; /* (size) legs of `size` */
    rk_nccl_leg *leg;    /* (2 size) */
    int legs;
    rk_leg word; /* of a broadcast */
    struct {     /* of a sum */
        const float *in;
        const size_t *count;
        float *out;
        size_t n;
        bool all;
    } sum;
    rk_nccl_event *made, *done; /* what is sent has been computed; all has arrived */
    rk__over_place place;       /* legs of an exchange that named no place */
};

typedef struct nccl {
    rk__over over;
    struct nccl *parent; /* what this was split from: its bytes count there too */
    const rk_nccl_table *call;
    rk_nccl *comm;
    int *node_of;                     /* (size) */
    bool pushed;                      /* by waits of the host */
    rk_request *flight, **flight_end; /* not waited for, oldest first */
    rk_request *limbo, *pool;
} nccl;

static nccl *nccl_of(rk_comm *c)
{
    return (nccl *)(void *)c;
}

/* ---- failures ---- */

/* A rank that has failed leaves nothing under way: nobody else would end it. */
static rk_status given_up(nccl *n)
{
    if (rk_failed(n->over.base.ctx))
        n->call->abort(n->comm);
    return rk_failed(n->over.base.ctx);
}

static rk_status nccl_failed(nccl *n, const char *what, const char *name)
{
    if (!rk_failed(n->over.base.ctx))
        rk_fail(n->over.base.ctx, RK_EDEVICE,
                "NCCL gives up on rank %d in %s %s: %s; NCCL_DEBUG=INFO tells more, RANKINE_NCCL=0 goes "
                "without it",
                n->over.base.rank, what, name, n->comm ? n->call->error(n->comm) : "out of memory");
    n->over.under->table->look(n->over.under); /* tells the others */
    return given_up(n);
}

static rk_status checked(nccl *n, const rk_request *r, rk_status st)
{
    return st ? nccl_failed(n, op_names[r->op], r->name) : RK_OK;
}

/* Until NCCL has taken in the last call, with an eye on the others. */
static rk_status settle(nccl *n, const char *what, const char *name)
{
    for (;;) {
        rk_nccl_state s = n->call->look(n->comm, NULL);
        if (s == RK_NCCL_FAILED)
            return nccl_failed(n, what, name);
        if (s == RK_NCCL_DONE)
            return RK_OK;
        if (n->over.under->table->look(n->over.under))
            return given_up(n);
    }
}

/* ---- requests ---- */

static void free_request(nccl *n, rk_request *r)
{
    rk__over_place_free(&n->over, &r->place);
    n->call->event_close(r->made);
    n->call->event_close(r->done);
    free(r->size);
    free(r->said);
    free(r->told);
    free(r->leg);
    free(r);
}

static rk_request *make_request(nccl *n)
{
    rk_ctx *ctx = n->over.base.ctx;
    const size_t size = (size_t)n->over.base.size;
    rk_request *r = rk__calloc(ctx, 1, sizeof *r);
    if (!r)
        return NULL;
    r->size = rk__calloc(ctx, 2 * size, sizeof *r->size);
    r->said = rk__calloc(ctx, size, sizeof *r->said);
    r->told = rk__calloc(ctx, size, sizeof *r->told);
    r->leg = rk__calloc(ctx, 2 * size, sizeof *r->leg);
    r->made = n->call->event_open();
    r->done = n->call->event_open();
    if (!r->made || !r->done)
        rk_fail(ctx, RK_EDEVICE, "no event can be made on the GPU of rank %d", n->over.base.rank);
    if (!rk_failed(ctx))
        return r;
    free_request(n, r);
    return NULL;
}

/* What was waited for is read no more when another collective starts. */
static void empty_limbo(nccl *n)
{
    while (n->limbo) {
        rk_request *r = n->limbo;
        n->limbo = r->next;
        r->next = n->pool;
        n->pool = r;
    }
}

static rk_request *take_request(nccl *n, nccl_op op, const char *name)
{
    if (given_up(n))
        return NULL;
    empty_limbo(n);
    rk_request *r = n->pool ? n->pool : make_request(n);
    if (!r)
        return NULL;
    if (r == n->pool)
        n->pool = r->next;
    r->next = NULL;
    r->op = op;
    r->launched = r->empty = false;
    r->legs = 0;
    r->under = NULL;
    snprintf(r->name, sizeof r->name, "%s", name ? name : "");
    return r;
}

/* Notes what the device has been given so far: the values that leave. The request is under way from here on.
 */
static rk_status set_out(nccl *n, rk_request *r, rk_status met)
{
    *n->flight_end = r;
    n->flight_end = &r->next;
    if (met)
        return given_up(n);
    return r->empty ? RK_OK : checked(n, r, n->call->mark_device(n->comm, r->made));
}

static void count_bytes(nccl *n, size_t sent, size_t far)
{
    for (nccl *c = n; c; c = c->parent) {
        c->over.base.sent += sent;
        c->over.base.sent_far += far;
        c->over.under->sent += sent; /* where the log looks */
        c->over.under->sent_far += far;
    }
}

static void count_sent(nccl *n, int to, size_t bytes)
{
    count_bytes(n, bytes, n->node_of[to] != n->over.base.node ? bytes : 0);
}

static void count_received(nccl *n, size_t bytes)
{
    for (nccl *c = n; c; c = c->parent) {
        c->over.base.received += bytes;
        c->over.under->received += bytes;
    }
}

static void add_leg(nccl *n, rk_request *r, int peer, const rk_leg *leg, bool leaves)
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
static void count_gather(nccl *n, const rk_leg *piece)
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
    nccl *n = nccl_of(c);
    rk_request *r = *out = take_request(n, EXCHANGE, name);
    if (!r)
        return rk_failed(c->ctx);
    r->recv = recv;
    rk_status st = rk__over_legs(&n->over, &r->place, send, recv);
    for (int i = 0; i < c->size; i++) {
        r->size[c->size + i] = send[i].bytes;
        r->told[i] = (rk_leg){ &r->size[c->size + i], sizeof *r->size };
        r->said[i] = (rk_leg){ &r->size[i], sizeof *r->size };
        add_leg(n, r, i, &send[i], true);
        add_leg(n, r, i, &recv[i], false);
    }
    r->empty = !r->legs;
    if (!st)
        st = n->over.under->table->exchange(n->over.under, name, r->told, r->said, &r->under);
    return set_out(n, r, st);
}

/* Between nodes a piece goes over few links, as NCCL finds best; within a node straight from each to each. */
static rk_status all_gather_nccl(rk_comm *c, const char *name, const rk_leg *piece, rk_request **out)
{
    nccl *n = nccl_of(c);
    rk_request *r = *out = take_request(n, GATHER, name);
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
    return set_out(n, r, n->over.under->table->meet(n->over.under, name, -1, bytes, &r->under));
}

static rk_status broadcast_nccl(rk_comm *c, const char *name, int root, void *data, size_t bytes,
                                rk_request **out)
{
    nccl *n = nccl_of(c);
    if (root < 0 || root >= c->size)
        return rk_fail(c->ctx, RK_EINTERNAL, "broadcast %s from rank %d of %d", name, root, c->size);
    rk_request *r = *out = take_request(n, BROADCAST, name);
    if (!r)
        return rk_failed(c->ctx);
    r->word = (rk_leg){ data, bytes };
    r->root = root;
    r->empty = !bytes || c->size == 1;
    for (int i = 0; c->rank == root && i < c->size; i++)
        if (i != root)
            count_sent(n, i, bytes);
    if (c->rank != root)
        count_received(n, bytes);
    return set_out(n, r, n->over.under->table->meet(n->over.under, name, root, bytes, &r->under));
}

/* Counted as each piece to its rank, and for all from there back. */
static rk_status sum_nccl(rk_comm *c, const char *name, const float *in, const size_t *count, bool all,
                          float *to, rk_request **out)
{
    nccl *n = nccl_of(c);
    rk_request *r = *out = take_request(n, SUM, name);
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
    return set_out(n, r,
                   n->over.under->table->meet(n->over.under, name, -1, r->sum.n * sizeof *in, &r->under));
}

/* ---- progress ---- */

static rk_status check_sizes(nccl *n, const rk_request *r)
{
    for (int i = 0; r->op == EXCHANGE && i < n->over.base.size; i++)
        if (r->size[i] != r->recv[i].bytes) {
            rk_fail(n->over.base.ctx, RK_EHANG,
                    "exchange %s: rank %d sends %zu bytes to rank %d, which expects %zu", r->name, i,
                    (size_t)r->size[i], n->over.base.rank, r->recv[i].bytes);
            n->over.under->table->look(n->over.under); /* tells the others */
            return given_up(n);
        }
    return RK_OK;
}

static rk_status launch(nccl *n, rk_request *r)
{
    rk_status st;
    RK_TRY(check_sizes(n, r));
    r->launched = true;
    if (r->empty)
        return RK_OK;
    if (r->op == BROADCAST)
        st = n->call->broadcast(n->comm, r->made, r->root, r->word.data, r->word.bytes);
    else if (r->op == SUM && r->sum.all)
        st = n->call->all_reduce(n->comm, r->made, RK_F32, r->sum.in, r->sum.out, r->sum.n);
    else if (r->op == SUM)
        st = n->call->reduce_scatter(n->comm, r->made, RK_F32, r->sum.in, r->sum.count, n->over.base.size,
                                     r->sum.out);
    else if (r->op == GATHER && n->over.base.nodes > 1)
        st = n->call->all_gather(n->comm, r->made, r->leg, r->legs);
    else
        st = n->call->exchange(n->comm, r->made, r->leg, r->legs);
    RK_TRY(checked(n, r, st));
    RK_TRY(settle(n, op_names[r->op], r->name));
    return checked(n, r, n->call->mark(n->comm, r->done));
}

/* Whatever all ranks have called goes to NCCL, in the order of the calls, as it does there. */
static rk_status advance(nccl *n)
{
    const rk_comm_table *host = n->over.under->table;
    RK_TRY(given_up(n));
    host->progress(n->over.under, NULL);
    for (rk_request *r = n->flight; r; r = r->next) {
        if (r->launched)
            continue;
        if (!r->under || !host->progress(n->over.under, r->under) || rk_failed(n->over.base.ctx))
            break;
        RK_TRY(launch(n, r));
    }
    return given_up(n);
}

/* Has everything arrived? */
static rk_status look_at(nccl *n, const rk_request *r, bool *done)
{
    rk_nccl_state s = RK_NCCL_DONE;
    *done = false;
    RK_TRY(advance(n));
    if (r->launched && !r->empty)
        s = n->call->look(n->comm, r->done);
    if (s == RK_NCCL_FAILED)
        return nccl_failed(n, op_names[r->op], r->name);
    *done = r->launched && s == RK_NCCL_DONE;
    return RK_OK;
}

static bool progress_nccl(rk_comm *c, rk_request *r)
{
    bool done = true;
    rk_status st = r ? look_at(nccl_of(c), r, &done) : advance(nccl_of(c));
    return st || done;
}

static void leave_flight(nccl *n, rk_request *r)
{
    rk_request **at = &n->flight;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    if (!r->next)
        n->flight_end = at;
    r->next = n->limbo;
    n->limbo = r;
}

/* What was called before comes first, whoever waits for it. */
static rk_status wait_for(nccl *n, rk_request *r)
{
    const rk_comm_table *host = n->over.under->table;
    bool done = false;
    if (rk_failed(n->over.base.ctx) || !r->under)
        return given_up(n);
    if (host->wait(n->over.under, r->under)) /* all ranks have called it, and so all calls before it */
        return given_up(n);
    r->under = NULL;
    for (rk_request *before = n->flight; before != r; before = before->next)
        while (!before->launched) {
            RK_TRY(advance(n));
            if (!before->launched && host->look(n->over.under))
                return given_up(n);
        }
    if (!r->launched)
        RK_TRY(launch(n, r));
    while (!done) {
        RK_TRY(look_at(n, r, &done));
        if (!done && host->look(n->over.under))
            return given_up(n);
    }
    return RK_OK;
}

/* A request that failed dies with the communicator. */
static rk_status wait_nccl(rk_comm *c, rk_request *r)
{
    nccl *n = nccl_of(c);
    if (!r)
        return rk_failed(c->ctx);
    const double before = n->over.under->waited;
    rk_status st = wait_for(n, r);
    for (nccl *up = n; up; up = up->parent)
        up->over.base.waited += n->over.under->waited - before;
    if (st)
        return st;
    leave_flight(n, r);
    return RK_OK;
}

/* ---- what is the host's ---- */

static rk_status barrier_nccl(rk_comm *c, const char *name)
{
    rk_status st = rk__over_barrier(c, name);
    return st ? given_up(nccl_of(c)) : RK_OK;
}

/* While this rank waits for another, what all have called sets out: the other may be waiting for that, as
 * where the GPU gives memory back. And NCCL is asked whether it has failed. */
static void push_on(void *arg)
{
    nccl *n = arg;
    const rk_request *last = NULL;
    if (!n->flight || advance(n))
        return;
    for (const rk_request *r = n->flight; r && r->launched; r = r->next)
        last = r->empty ? last : r;
    if (last && n->call->look(n->comm, last->done) == RK_NCCL_FAILED)
        nccl_failed(n, op_names[last->op], last->name);
}

/* ---- closing ---- */

static void free_list(nccl *n, rk_request *r)
{
    for (rk_request *next; r; r = next) {
        next = r->next;
        free_request(n, r);
    }
}

/* What is still under way is ended first: it may write to memory that goes. */
static void give_back(nccl *n)
{
    if (n->pushed)
        n->over.under->table->on_wait(n->over.under, NULL, n);
    n->pushed = false;
    if (n->flight || rk_failed(n->over.base.ctx))
        n->call->abort(n->comm);
    n->call->close(n->comm);
    free_list(n, n->flight);
    free_list(n, n->limbo);
    free_list(n, n->pool);
    n->comm = NULL;
    n->flight = n->limbo = n->pool = NULL;
    rk__over_free(&n->over);
    free(n->node_of);
    n->node_of = NULL;
}

/* One that was split; what is left of it goes with the context. */
static void close_nccl(rk_comm *c)
{
    give_back(nccl_of(c));
    rk__over_close(c);
}

/* ---- opening ---- */

static rk_status open_over(rk_comm *under, const rk_nccl_table *call, nccl *parent, rk_comm **out);

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
    nccl *n = arg;
    give_back(n);
    free(n);
}

/* The first rank's id makes all ranks one communicator. */
static rk_status join(nccl *n)
{
    rk_comm *under = n->over.under;
    rk_ctx *ctx = n->over.base.ctx;
    uint8_t id[RK_NCCL_ID_BYTES] = { 0 };
    if (under->rank == 0 && n->call->unique_id(id))
        rk_fail(ctx, RK_EDEVICE,
                "NCCL cannot start on rank 0: NCCL_DEBUG=INFO tells why, RANKINE_NCCL=0 goes without it");
    RK_TRY(rk__comm_broadcast(under, "NCCL's id", 0, id, sizeof id));
    if (n->call->open(ctx->dev, under->size, under->rank, id, &n->comm))
        return nccl_failed(n, "joining", "the others");
    RK_TRY(settle(n, "joining", "the others"));
    return rk__comm_all_values(under, "nodes of ranks", &under->node, sizeof under->node, n->node_of);
}

static rk_status open_over(rk_comm *under, const rk_nccl_table *call, nccl *parent, rk_comm **out)
{
    rk_ctx *ctx = under->ctx;
    nccl *n = rk__calloc(ctx, 1, sizeof *n);
    *out = NULL;
    if (!n)
        return RK_ENOMEM;
    rk__over_init(&n->over, &nccl_table, under);
    n->over.base.sent = n->over.base.received = n->over.base.sent_far = 0;
    n->parent = parent;
    n->call = call;
    n->flight_end = &n->flight;
    n->node_of = rk__calloc(ctx, (size_t)under->size, sizeof *n->node_of);
    if (!n->node_of || rk__at_close(ctx, close_with_context, n)) {
        close_with_context(n);
        return rk_failed(ctx);
    }
    RK_TRY(join(n));
    under->table->on_wait(under, push_on, n);
    n->pushed = true;
    *out = &n->over.base;
    return RK_OK;
}

rk_status rk__comm_nccl(rk_comm *under, const rk_nccl_table *call, rk_comm **out)
{
    return open_over(under, call, NULL, out);
}
