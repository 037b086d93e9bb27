/* Ranks whose tensors lie on GPUs of their own: data travels from one to another by NCCL. Every call first
 * meets over a communicator of the host, where ranks that call different things, or are missing, are told
 * apart; NCCL is only given what all ranks agree on. Messages, barriers and failures are those of the host.
 *
 * Nobody waits for a GPU here: what a rank gives to its device after a wait comes after what has been waited
 * for. Calls that come again are recorded by all ranks at once, and from then on are part of the graphs that
 * the device makes of what it holds back. With each call ranks tell each other what they have of it:
 *   UNKNOWN  no record of it can be had, or it is called for the first time: it runs by itself, everywhere
 *   SEEN     it ran before: where all have seen it, all record it, under the next number
 *   a number the recording that is there: where all have the same, it runs once more
 *   NO_PART  this rank has nothing to do with it.
 *
 * What a device holds back is nothing that another rank may wait for in vain. Before a device launches, what
 * was called joins it (set_out_all); a rank that waits on the host launches after PATIENCE what it has
 * (push_on), for the one that it waits for may be waiting for that on its GPU; one that waits for its GPU has
 * launched everything, and goes on with what others need of it to call NCCL (watch_wait). */
#include "parallel/comm_nccl.h"

#include "core/clock.h"
#include "parallel/comm_over.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Seconds: what differs between ranks that do the same is less, usually. Kernels that run on the host take
 * longer. */
#define PATIENCE      10e-3
#define PATIENCE_HOST 0.2
enum { UNKNOWN, SEEN, FIRST_NUMBER };
#define NO_PART UINT64_MAX

typedef enum nccl_op { EXCHANGE, GATHER, BROADCAST, SUM } nccl_op;

static const char *const op_names[] = { "exchange", "all-gather", "broadcast", "sum" };

/* What one rank tells another of a call. */
typedef struct word {
    uint64_t bytes; /* that it sends to it, in an exchange */
    uint64_t have;  /* UNKNOWN, .. */
} word;

/* Places in the device's order. */
typedef struct pair {
    struct pair *next;
    rk_nccl_event *made, *done; /* what is sent has been computed; all has arrived */
    bool taken;
} pair;

struct rk_request {
    rk_request *next; /* in flight, in limbo, or in the pool */
    nccl_op op;
    char name[48];
    int root;
    bool launched, empty;      /* NCCL has it; there is nothing for NCCL to do */
    rk_request *under, *words; /* of the host; words NULL: those of `under` carry them */
    rk_leg *recv;              /* the caller's, of an exchange */
    word *hears, *tells;       /* (size) */
    rk_leg *said, *told;       /* (size) legs of them */
    uint64_t *key;             /* all that the call depends on */
    size_t keys;
    rk_nccl_leg *leg; /* (2 size) */
    int legs;
    rk_leg data; /* of a broadcast */
    struct {     /* of a sum */
        const float *in;
        const size_t *count;
        float *out;
        size_t n;
        bool all;
    } sum;
    pair *at;
    rk__over_place place; /* legs of an exchange that named no place */
};

typedef struct nccl {
    rk__over over;
    struct nccl *parent; /* what this was split from: its bytes count there too */
    const rk_nccl_table *call;
    rk_nccl *comm;
    int *node_of;     /* (size) */
    bool pushed;      /* by waits of the host */
    bool agrees;      /* all ranks have graphs: words are told */
    bool busy;        /* a call is being made, or looked after */
    uint64_t numbers; /* given so far */
    uint64_t given;   /* to the device, when the host was seen waiting; since when */
    double since, patience;
    pair *pairs;
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
    free(r->hears);
    free(r->tells);
    free(r->said);
    free(r->told);
    free(r->leg);
    free(r->key);
    free(r);
}

/* (op, root or whole, numbers of the sum), then a leg or count each */
enum { KEY_HEAD = 5, KEY_LEG = 3 };

static rk_request *make_request(nccl *n)
{
    rk_ctx *ctx = n->over.base.ctx;
    const size_t size = (size_t)n->over.base.size;
    rk_request *r = rk__calloc(ctx, 1, sizeof *r);
    if (!r)
        return NULL;
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
    if (!rk_failed(ctx))
        return r;
    free_request(n, r);
    return NULL;
}

/* One that the device holds nothing back of; NULL: recorded. */
static pair *take_pair(nccl *n)
{
    pair *p = n->pairs;
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

static void free_pairs(nccl *n)
{
    for (pair *p = n->pairs, *next; p; p = next) {
        next = p->next;
        n->call->event_close(n->comm, p->made);
        n->call->event_close(n->comm, p->done);
        free(p);
    }
    n->pairs = NULL;
}

static void give_up_request(nccl *n, rk_request *r)
{
    r->at->taken = false;
    r->next = n->pool;
    n->pool = r;
}

/* What was waited for is read no more when another collective starts. */
static void empty_limbo(nccl *n)
{
    while (n->limbo) {
        rk_request *r = n->limbo;
        n->limbo = r->next;
        give_up_request(n, r);
    }
}

static rk_request *take_request(nccl *n, nccl_op op, const char *name)
{
    if (given_up(n))
        return NULL;
    empty_limbo(n);
    pair *at = take_pair(n);
    rk_request *r = !at ? NULL : n->pool ? n->pool : make_request(n);
    if (!r)
        return NULL;
    if (r == n->pool)
        n->pool = r->next;
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
static void make_key(const nccl *n, rk_request *r)
{
    const bool sum = r->op == SUM;
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

static uint64_t have(nccl *n, rk_request *r)
{
    if (!n->agrees || !n->call->records(n->comm))
        return UNKNOWN;
    if (r->empty)
        return NO_PART;
    make_key(n, r);
    return n->call->number(n->comm, r->key, r->keys * sizeof *r->key);
}

/* What all ranks do about a call, from what they have of it: UNKNOWN: it runs by itself; SEEN: it is
 * recorded; or the number that runs once more. */
static uint64_t agreed(const nccl *n, const rk_request *r)
{
    uint64_t all = NO_PART;
    for (int i = 0; n->agrees && i < n->over.base.size; i++) {
        const uint64_t theirs = i == n->over.base.rank ? r->tells[i].have : r->hears[i].have;
        if (theirs == UNKNOWN)
            return UNKNOWN;
        if (theirs != NO_PART)
            all = all == NO_PART || all == theirs ? theirs : SEEN;
    }
    return all == NO_PART ? UNKNOWN : all;
}

/* The call meets on the host. Of an exchange words travel with the sizes; root: as of meet(). */
static rk_status meet(nccl *n, rk_request *r, int root, size_t bytes)
{
    rk_comm *host = n->over.under;
    const uint64_t mine = have(n, r);
    for (int i = 0; i < n->over.base.size; i++)
        r->tells[i].have = mine;
    if (r->op == EXCHANGE)
        return host->table->exchange(host, r->name, r->told, r->said, &r->under);
    RK_TRY(host->table->meet(host, r->name, root, bytes, &r->under));
    return n->agrees ? host->table->exchange(host, r->name, r->told, r->said, &r->words) : RK_OK;
}

/* Notes what the device has been given so far: the values that leave. The request is under way from here on.
 * What runs by itself, and so may set out at any time, leaves no list of the device cut at any place. */
static rk_status set_out(nccl *n, rk_request *r, int root, size_t bytes)
{
    *n->flight_end = r;
    n->flight_end = &r->next;
    if (meet(n, r, root, bytes))
        return given_up(n);
    rk_status st = r->empty ? RK_OK : n->call->mark_device(n->comm, r->at->made);
    if (!st && !r->empty && r->tells[0].have == UNKNOWN)
        st = n->call->flush(n->comm, false);
    return checked(n, r, st);
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
        r->tells[i].bytes = send[i].bytes;
        add_leg(n, r, i, &send[i], true);
        add_leg(n, r, i, &recv[i], false);
    }
    r->empty = !r->legs;
    r->data = (rk_leg){ 0 };
    r->root = 0;
    if (!st)
        return set_out(n, r, 0, 0);
    *out = NULL;
    give_up_request(n, r);
    return st;
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
    r->data = (rk_leg){ 0 };
    r->root = 0;
    return set_out(n, r, -1, bytes);
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
    r->data = (rk_leg){ data, bytes };
    r->root = root;
    r->empty = !bytes || c->size == 1;
    for (int i = 0; c->rank == root && i < c->size; i++)
        if (i != root)
            count_sent(n, i, bytes);
    if (c->rank != root)
        count_received(n, bytes);
    return set_out(n, r, root, bytes);
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
    return set_out(n, r, -1, r->sum.n * sizeof *in);
}

/* ---- progress ---- */

static rk_status check_sizes(nccl *n, const rk_request *r)
{
    for (int i = 0; r->op == EXCHANGE && i < n->over.base.size; i++)
        if (i != n->over.base.rank && r->hears[i].bytes != r->recv[i].bytes) {
            rk_fail(n->over.base.ctx, RK_EHANG,
                    "exchange %s: rank %d sends %zu bytes to rank %d, which expects %zu", r->name, i,
                    (size_t)r->hears[i].bytes, n->over.base.rank, r->recv[i].bytes);
            n->over.under->table->look(n->over.under); /* tells the others */
            return given_up(n);
        }
    return RK_OK;
}

/* Gives the call to NCCL, which has taken it in at return. */
static rk_status call_nccl(nccl *n, rk_request *r)
{
    rk_nccl_event *made = r->at->made;
    rk_status st;
    if (r->op == BROADCAST)
        st = n->call->broadcast(n->comm, made, r->root, r->data.data, r->data.bytes);
    else if (r->op == SUM && r->sum.all)
        st = n->call->all_reduce(n->comm, made, RK_F32, r->sum.in, r->sum.out, r->sum.n);
    else if (r->op == SUM)
        st = n->call->reduce_scatter(n->comm, made, RK_F32, r->sum.in, r->sum.count, n->over.base.size,
                                     r->sum.out);
    else if (r->op == GATHER && n->over.base.nodes > 1)
        st = n->call->all_gather(n->comm, made, r->leg, r->legs);
    else
        st = n->call->exchange(n->comm, made, r->leg, r->legs);
    RK_TRY(checked(n, r, st));
    return settle(n, op_names[r->op], r->name);
}

/* What is held back is launched before: others may have to wait for it, to come to the same. */
static rk_status record(nccl *n, rk_request *r, uint64_t number)
{
    rk_status st = n->call->flush(n->comm, true);
    if (!st)
        st = n->call->record(n->comm);
    RK_TRY(checked(n, r, st));
    RK_TRY(call_nccl(n, r));
    return checked(n, r, n->call->keep(n->comm, r->key, r->keys * sizeof *r->key, number));
}

static rk_status run(nccl *n, rk_request *r, uint64_t what, uint64_t number)
{
    if (what == UNKNOWN) {
        RK_TRY(call_nccl(n, r));
        return checked(n, r, n->call->mark(n->comm, r->at->done));
    }
    if (what == SEEN)
        RK_TRY(record(n, r, number));
    return checked(n, r,
                   n->call->replay(n->comm, r->key, r->keys * sizeof *r->key, r->at->made, r->at->done));
}

static rk_status launch(nccl *n, rk_request *r)
{
    const uint64_t what = agreed(n, r);
    RK_TRY(check_sizes(n, r));
    r->launched = true;
    if (what == SEEN)
        n->numbers++;
    if (r->empty)
        return RK_OK;
    const bool busy = n->busy;
    n->busy = true;
    rk_status st = run(n, r, what, FIRST_NUMBER + n->numbers);
    n->busy = busy;
    return st;
}

/* Has everyone called it? */
static bool met(const nccl *n, const rk_request *r)
{
    rk_comm *host = n->over.under;
    return r->under && host->table->progress(host, r->under) &&
           (!r->words || host->table->progress(host, r->words)) && !rk_failed(host->ctx);
}

/* What all ranks have called sets out, in the order of the calls, as it does there. What becomes part of the
 * device's list waits for a place that is the same in every step, unless it is everything that is to go. */
static rk_status advance(nccl *n, bool everything)
{
    RK_TRY(given_up(n));
    if (n->busy)
        return RK_OK;
    n->over.under->table->progress(n->over.under, NULL);
    for (rk_request *r = n->flight; r; r = r->next) {
        if (r->launched)
            continue;
        if (!met(n, r) || (!everything && agreed(n, r) >= FIRST_NUMBER))
            break;
        RK_TRY(launch(n, r));
    }
    return given_up(n);
}

static bool all_launched(const nccl *n)
{
    const rk_request *r = n->flight;
    while (r && r->launched)
        r = r->next;
    return !r;
}

/* The device launches what it holds back: what was called goes along if the others are not late. */
static void set_out_all(void *arg)
{
    nccl *n = arg;
    double until = 0;
    while (!n->busy && !all_launched(n) && !advance(n, true) && !all_launched(n)) {
        const double now = rk__seconds();
        until = until > 0 ? until : now + n->patience;
        if (now > until)
            break;
    }
}

/* Has everything arrived? */
static rk_status look_at(nccl *n, const rk_request *r, bool *done)
{
    rk_nccl_state s = RK_NCCL_DONE;
    *done = false;
    RK_TRY(advance(n, true));
    if (r->launched && !r->empty && n->call->event_held(r->at->done))
        RK_TRY(checked(n, r, n->call->flush(n->comm, false)));
    if (r->launched && !r->empty)
        s = n->call->look(n->comm, r->at->done);
    if (s == RK_NCCL_FAILED)
        return nccl_failed(n, op_names[r->op], r->name);
    *done = r->launched && s == RK_NCCL_DONE;
    return RK_OK;
}

static bool progress_nccl(rk_comm *c, rk_request *r)
{
    bool done = true;
    rk_status st = r ? look_at(nccl_of(c), r, &done) : advance(nccl_of(c), false);
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

static rk_status wait_host(nccl *n, rk_request **under)
{
    rk_comm *host = n->over.under;
    rk_request *r = *under;
    *under = NULL;
    return r && host->table->wait(host, r) ? given_up(n) : RK_OK;
}

/* What was called before comes first, whoever waits for it. What the device is given from here on comes after
 * the request; the host does not wait for the device. */
static rk_status wait_for(nccl *n, rk_request *r)
{
    const rk_comm_table *host = n->over.under->table;
    if (rk_failed(n->over.base.ctx) || !r->under)
        return given_up(n);
    RK_TRY(wait_host(n, &r->under)); /* all ranks have called it, and so all calls before it */
    RK_TRY(wait_host(n, &r->words));
    for (rk_request *before = n->flight; before != r; before = before->next)
        while (!before->launched) {
            RK_TRY(advance(n, true));
            if (!before->launched && host->look(n->over.under))
                return given_up(n);
        }
    if (!r->launched)
        RK_TRY(launch(n, r));
    if (r->empty)
        return RK_OK;
    if (n->call->look(n->comm, NULL) == RK_NCCL_FAILED)
        return nccl_failed(n, op_names[r->op], r->name);
    return checked(n, r, n->call->join_device(n->comm, r->at->done));
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

/* What NCCL has noticed by itself. */
static void check_async(nccl *n)
{
    const rk_request *last = n->flight;
    if (rk_failed(n->over.base.ctx) || n->call->look(n->comm, NULL) != RK_NCCL_FAILED)
        return;
    while (last && last->next && last->next->launched)
        last = last->next;
    nccl_failed(n, last ? op_names[last->op] : "what was called", last ? last->name : "before");
}

/* While this rank waits for another on the host, what all have called sets out: the other may be waiting for
 * that, as where NCCL connects. After a while so does what the device holds back. And NCCL is asked whether
 * it has failed. */
static void push_on(void *arg)
{
    nccl *n = arg;
    if (n->busy || rk_failed(n->over.base.ctx))
        return;
    if (advance(n, false))
        return;
    uint64_t given;
    const double now = rk__seconds();
    n->call->held(n->comm, &given);
    if (given != n->given || n->since <= 0) { /* another wait than the last one */
        n->given = given;
        n->since = now;
    }
    if (now - n->since > n->patience && !advance(n, true) && n->call->held(n->comm, &given))
        n->call->flush(n->comm, true); /* a failure is what look() tells next */
    check_async(n);
}

/* The device is waited for. Nothing is launched where something is held back: that is a wait for room. */
static void watch_wait(void *arg)
{
    nccl *n = arg;
    if (n->busy || given_up(n)) /* what the device is stuck in, where a failure was found elsewhere, ends */
        return;
    uint64_t given;
    if (!n->call->held(n->comm, &given))
        advance(n, false);
    check_async(n);
    n->busy = true;
    if (n->over.under->table->look(n->over.under))
        given_up(n);
    n->busy = false;
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
    free_list(n, n->flight);
    free_list(n, n->limbo);
    free_list(n, n->pool);
    if (n->comm)
        free_pairs(n);
    n->call->close(n->comm);
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

/* Words are told where every rank's device makes graphs. */
static rk_status agree(nccl *n)
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
    n->patience = patience(call);
    n->node_of = rk__calloc(ctx, (size_t)under->size, sizeof *n->node_of);
    if (!n->node_of || rk__at_close(ctx, close_with_context, n)) {
        close_with_context(n);
        return rk_failed(ctx);
    }
    RK_TRY(join(n));
    under->table->on_wait(under, push_on, n);
    call->watch(n->comm, set_out_all, watch_wait, n);
    n->pushed = true;
    *out = &n->over.base;
    return RK_OK;
}

rk_status rk__comm_nccl(rk_comm *under, const rk_nccl_table *call, rk_comm **out)
{
    return open_over(under, call, NULL, out);
}
