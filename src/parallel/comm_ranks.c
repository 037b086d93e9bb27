/* Collectives between the ranks of a launcher. */
#include "parallel/comm_tables.h"

#include "parallel/comm_net.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct ranks {
    rk_comm base;
    rk__net *net;
    uint64_t chain;    /* hash of every collective so far: ranks that differ do not meet */
    rk_request *limbo; /* waited for; what they lent may be read until the next collective starts */
    rk_leg barrier_leg;
} ranks;

struct rk_request {
    rk__posts *posts;
    void *scratch; /* where bytes lie whose receiver named no place */
    bool done;
    rk_request *next;
};

static ranks *ranks_of(rk_comm *c)
{
    return (ranks *)c;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void free_request(rk_request *r)
{
    rk__posts_close(r->posts);
    free(r->scratch);
    free(r);
}

static void free_limbo(ranks *c)
{
    for (rk_request *r = c->limbo, *next; r; r = next) {
        next = r->next;
        free_request(r);
    }
    c->limbo = NULL;
}

/* FNV-1a of an operation and its name, on top of all before it. */
static uint64_t mix(uint64_t h, const char *op, const char *name)
{
    const char *part[2] = { op, name };
    for (int i = 0; i < 2; i++)
        for (const char *s = part[i];; s++) {
            h = (h ^ (uint8_t)*s) * 0x100000001b3u;
            if (!*s)
                break;
        }
    return h;
}

static uint32_t tag_of(const ranks *c)
{
    uint64_t h = c->chain ^ c->chain >> 29;
    return RK__NET_TAGS + (uint32_t)(h % (rk__net_top_tag(c->net) - RK__NET_TAGS));
}

/* [C] Counts a collective and makes its request. */
static rk_status begin(ranks *c, const char *op, const char *name, rk_request **out)
{
    *out = NULL;
    if (rk_failed(c->base.ctx))
        return rk_failed(c->base.ctx);
    free_limbo(c);
    c->chain = mix(c->chain, op, name);
    rk_request *r = rk__calloc(c->base.ctx, 1, sizeof *r);
    if (!r)
        return RK_ENOMEM;
    rk_status st = rk__posts_open(c->net, &r->posts);
    if (st) {
        free(r);
        return st;
    }
    *out = r;
    return RK_OK;
}

static bool progress_ranks(rk_comm *base, rk_request *r)
{
    if (!r || r->done || rk_failed(base->ctx))
        return true;
    bool done = false;
    if (rk__posts_test(r->posts, &done) == RK_OK)
        r->done = done;
    return done;
}

static rk_status wait_ranks(rk_comm *base, rk_request *r)
{
    ranks *c = ranks_of(base);
    double begun = now();
    if (!r)
        return rk_failed(base->ctx);
    while (!progress_ranks(base, r))
        sched_yield();
    base->waited += now() - begun;
    r->next = c->limbo;
    c->limbo = r;
    return rk_failed(base->ctx);
}

/* Everything that this rank sends and expects, one's own leg last. */
static rk_status post_legs(ranks *c, rk_request *r, const rk_leg *send, rk_leg *recv)
{
    uint32_t tag = tag_of(c);
    int me = c->base.rank;
    for (int d = 1; d < c->base.size; d++) {
        int from = (me + c->base.size - d) % c->base.size;
        RK_TRY(rk__posts_recv(r->posts, from, tag, recv[from].data, recv[from].bytes));
        c->base.received += recv[from].bytes;
    }
    for (int d = 1; d < c->base.size; d++) {
        int to = (me + d) % c->base.size;
        RK_TRY(rk__posts_send(r->posts, to, tag, send[to].data, send[to].bytes));
        c->base.sent += send[to].bytes;
    }
    return RK_OK;
}

/* Places for the legs whose receiver named none. */
static rk_status place_legs(ranks *c, rk_request *r, const rk_leg *send, rk_leg *recv)
{
    size_t bytes = 0;
    int me = c->base.rank;
    for (int i = 0; i < c->base.size; i++)
        bytes += i != me && !recv[i].data ? (recv[i].bytes + 63) / 64 * 64 : 0;
    r->scratch = rk__calloc(c->base.ctx, bytes, 1);
    if (!r->scratch)
        return RK_ENOMEM;
    char *at = r->scratch;
    for (int i = 0; i < c->base.size; i++)
        if (i != me && !recv[i].data) {
            recv[i].data = at;
            at += (recv[i].bytes + 63) / 64 * 64;
        }
    if (!recv[me].data)
        recv[me].data = send[me].data;
    else if (recv[me].bytes)
        memmove(recv[me].data, send[me].data, recv[me].bytes);
    return RK_OK;
}

static rk_status exchange_ranks(rk_comm *base, const char *name, const rk_leg *send, rk_leg *recv,
                                rk_request **out)
{
    ranks *c = ranks_of(base);
    RK_TRY(begin(c, "exchange", name, out));
    RK_TRY(place_legs(c, *out, send, recv));
    return post_legs(c, *out, send, recv);
}

static rk_status all_gather_ranks(rk_comm *base, const char *name, const rk_leg *piece, rk_request **out)
{
    ranks *c = ranks_of(base);
    RK_TRY(begin(c, "all-gather", name, out));
    uint32_t tag = tag_of(c);
    for (int d = 1; d < base->size; d++) {
        int from = (base->rank + base->size - d) % base->size, to = (base->rank + d) % base->size;
        RK_TRY(rk__posts_recv((*out)->posts, from, tag, piece[from].data, piece[from].bytes));
        RK_TRY(rk__posts_send((*out)->posts, to, tag, piece[base->rank].data, piece[base->rank].bytes));
        base->received += piece[from].bytes;
        base->sent += piece[base->rank].bytes;
    }
    return RK_OK;
}

static rk_status broadcast_ranks(rk_comm *base, const char *name, int root, void *data, size_t bytes,
                                 rk_request **out)
{
    ranks *c = ranks_of(base);
    RK_TRY(begin(c, "broadcast", name, out));
    uint32_t tag = tag_of(c);
    if (root != base->rank) {
        base->received += bytes;
        return rk__posts_recv((*out)->posts, root, tag, data, bytes);
    }
    for (int to = 0; to < base->size; to++)
        if (to != root)
            RK_TRY(rk__posts_send((*out)->posts, to, tag, data, bytes));
    base->sent += bytes * (size_t)(base->size - 1);
    return RK_OK;
}

static rk_status barrier_ranks(rk_comm *base, const char *name)
{
    char byte[1024];
    rk_leg *piece = rk__calloc(base->ctx, (size_t)base->size, sizeof *piece);
    if (!piece)
        return RK_ENOMEM;
    memset(byte, 0, sizeof byte);
    for (int i = 0; i < base->size; i++)
        piece[i] = (rk_leg){ &byte[i % 1024], 1 };
    rk_status st = rk__comm_all_gather(base, name, piece);
    free(piece);
    return st;
}

static rk_status message(rk_comm *base, int peer, int tag, void *data, size_t bytes, bool leaves)
{
    ranks *c = ranks_of(base);
    rk__posts *p;
    bool done = false;
    if (rk_failed(base->ctx))
        return rk_failed(base->ctx);
    RK_TRY(rk__posts_open(c->net, &p));
    rk_status st = leaves ? rk__posts_send(p, peer, (uint32_t)tag, data, bytes)
                          : rk__posts_recv(p, peer, (uint32_t)tag, data, bytes);
    while (!st && !(st = rk__posts_test(p, &done)) && !done)
        sched_yield();
    rk__posts_close(p);
    return st;
}

static rk_status send_ranks(rk_comm *base, int to, int tag, const void *data, size_t bytes)
{
    base->sent += bytes;
    return message(base, to, tag, (void *)(uintptr_t)data, bytes, true);
}

static rk_status recv_ranks(rk_comm *base, int from, int tag, void *data, size_t bytes)
{
    base->received += bytes;
    return message(base, from, tag, data, bytes, false);
}

static void *alloc_ranks(rk_comm *base, size_t bytes)
{
    void *p = NULL;
    if (rk_failed(base->ctx))
        return NULL;
    if (posix_memalign(&p, 4096, bytes ? bytes : 1)) {
        rk_fail(base->ctx, RK_ENOMEM, "out of memory: %zu bytes to share between ranks", bytes);
        return NULL;
    }
    return memset(p, 0, bytes);
}

static void release_ranks(rk_comm *base, void *p)
{
    (void)base;
    free(p);
}

static void close_ranks(rk_comm *base)
{
    ranks *c = ranks_of(base);
    free_limbo(c);
    rk__net_close(c->net);
    free(c);
}

static rk_status wrap(rk_ctx *ctx, rk__net *net, rk_comm **out);

static rk_status split_ranks(rk_comm *base, int color, int key, rk_comm **out)
{
    rk__net *net;
    *out = NULL;
    if (rk_failed(base->ctx))
        return rk_failed(base->ctx);
    RK_TRY(rk__net_split(ranks_of(base)->net, color, key, &net));
    return net ? wrap(base->ctx, net, out) : RK_OK;
}

__attribute__((noreturn)) static void abort_ranks(rk_comm *base, int code)
{
    rk__net_abort(ranks_of(base)->net, code);
}

static const rk_comm_table mpi = {
    .name = "mpi",
    .close = close_ranks,
    .alloc = alloc_ranks,
    .release = release_ranks,
    .exchange = exchange_ranks,
    .all_gather = all_gather_ranks,
    .broadcast = broadcast_ranks,
    .barrier = barrier_ranks,
    .send = send_ranks,
    .recv = recv_ranks,
    .progress = progress_ranks,
    .wait = wait_ranks,
    .split = split_ranks,
    .abort = abort_ranks,
};

static rk_status wrap(rk_ctx *ctx, rk__net *net, rk_comm **out)
{
    rk__net *node;
    RK_TRY(rk__net_split_node(net, &node));
    ranks *c = rk__calloc(ctx, 1, sizeof *c);
    if (!c)
        return RK_ENOMEM;
    c->base = (rk_comm){ .table = &mpi, .ctx = ctx };
    c->base.rank = rk__net_rank(net);
    c->base.size = rk__net_size(net);
    c->base.nodes = 1;
    c->base.node_rank = rk__net_rank(node);
    c->base.node_size = rk__net_size(node);
    c->net = net;
    c->chain = 0xcbf29ce484222325u;
    rk__net_close(node);
    *out = &c->base;
    return RK_OK;
}

rk_status rk__comm_make_mpi(rk_ctx *ctx, rk_comm **out)
{
    rk__net *net;
    *out = NULL;
    if (rk__net_launched() == 0)
        return RK_OK;
    RK_TRY(rk__net_open(ctx, &net));
    return wrap(ctx, net, out);
}
