/* Who is where: nodes, relays, and communicators that open, split and close. */
#include "parallel/comm_ranks.h"

#include "core/clock.h"
#include "parallel/comm_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAVE_SECONDS 0.2

extern const rk_comm_table rk__ranks_table;

static rk_status gather_by_net(void *arg, const void *mine, size_t bytes, void *all)
{
    return rk__net_gather(arg, mine, bytes, all);
}

/* [C] The ranks that share this rank's memory. Tests pretend several nodes: RANKINE_NODE=name of each rank's.
 */
static rk_status find_node(rk_ctx *ctx, rk__net *net, rk__net **out, bool *crowded)
{
    enum { NAME = 64 };
    char mine[NAME] = "";
    rk__net *node, *named = NULL;
    int first = 0;
    const char *name = getenv("RANKINE_NODE");
    RK_TRY(rk__net_split_node(net, &node));
    *crowded = rk__node_crowded(ctx, rk__net_size(node), gather_by_net, node);
    snprintf(mine, sizeof mine, "%s", name ? name : "");
    char *all = calloc((size_t)rk__net_size(node), NAME);
    rk_status st = all ? rk__net_gather(node, mine, NAME, all) : RK_ENOMEM;
    while (!st && strcmp(all + (size_t)first * NAME, mine))
        first++;
    if (!st)
        st = rk__net_split(node, first, rk__net_rank(node), &named);
    free(all);
    rk__net_close(node);
    *out = named;
    return st;
}

/* From everyone's node head to the tables of places. */
static rk_status fill_places(rk__ranks *c, const int *head)
{
    int size = c->base.size, nodes = 0, n = 0;
    rk_ctx *ctx = c->base.ctx;
    c->first = rk__calloc(ctx, (size_t)size + 1, sizeof *c->first);
    c->at = rk__calloc(ctx, (size_t)size, sizeof *c->at);
    c->node_of = rk__calloc(ctx, (size_t)size, sizeof *c->node_of);
    c->home = rk__calloc(ctx, (size_t)size, sizeof *c->home);
    c->heard = rk__calloc(ctx, (size_t)size, sizeof *c->heard);
    c->closed_at = rk__calloc(ctx, (size_t)size, sizeof *c->closed_at);
    c->legs = rk__calloc(ctx, (size_t)size * RK__CALLS, 2 * sizeof *c->legs);
    if (rk_failed(ctx))
        return rk_failed(ctx);
    for (int h = 0; h < size; h++) {
        if (head[h] != h)
            continue;
        c->first[nodes] = n;
        for (int r = h; r < size; r++)
            if (head[r] == h) {
                c->node_of[r] = nodes;
                c->home[r] = n - c->first[nodes];
                c->at[n++] = r;
            }
        c->first[++nodes] = n;
    }
    c->base.nodes = nodes;
    c->base.node = c->node_of[c->base.rank];
    c->base.node_rank = c->home[c->base.rank];
    c->base.node_size = c->first[c->base.node + 1] - c->first[c->base.node];
    return RK_OK;
}

int rk__ranks_relayed(const rk__ranks *c, int n)
{
    int count = 0;
    for (int i = 0; i < c->base.size; i++)
        count += !rk__is_near(c, i) && rk__relay_of(c, i, c->base.node) == rk__near(c, n);
    return count;
}

/* [C] among the ranks of `node`. */
static rk_status share_node(rk__ranks *c, rk__net *node, bool crowded, bool *shared)
{
    int offers = c->base.node_size, *in_parent = NULL;
    for (int n = 0; n < c->base.node_size; n++)
        offers = rk__ranks_relayed(c, n) + 1 > offers ? rk__ranks_relayed(c, n) + 1 : offers;
    rk__node *parent = c->parent ? c->parent->shm : NULL;
    if (parent && (in_parent = rk__calloc(c->base.ctx, (size_t)c->base.node_size, sizeof *in_parent)))
        RK_TRY(rk__net_gather(node, &c->parent->base.node_rank, sizeof *in_parent, in_parent));
    rk_status st = rk__node_open(c->base.ctx, c->base.node_rank, c->base.node_size, offers, crowded, parent,
                                 in_parent, gather_by_net, node, &c->shm);
    free(in_parent);
    *shared = c->shm != NULL;
    return st;
}

/* [C] Heads of nodes by the ranks that can share: the first rank of each, or each its own. */
static rk_status gather_heads(rk__ranks *c, int head)
{
    int *heads = rk__calloc(c->base.ctx, (size_t)c->base.size, sizeof *heads);
    rk_status st = heads ? rk__net_gather(c->net, &head, sizeof head, heads) : RK_ENOMEM;
    if (!st)
        st = fill_places(c, heads);
    free(heads);
    return st;
}

static void free_places(rk__ranks *c)
{
    free(c->first);
    free(c->at);
    free(c->node_of);
    free(c->home);
    free(c->heard);
    free(c->closed_at);
    free(c->legs);
    c->first = c->at = c->node_of = c->home = NULL;
    c->heard = NULL;
    c->closed_at = c->legs = NULL;
}

static rk_status lowest(rk__net *node, int rank, int *out)
{
    int *all = calloc((size_t)rk__net_size(node), sizeof *all);
    rk_status st = all ? rk__net_gather(node, &rank, sizeof rank, all) : RK_ENOMEM;
    *out = st ? rank : all[0]; /* ordered by rank */
    free(all);
    return st;
}

/* [C] Memory cannot be shared: every rank is a node of its own. */
static rk_status part(rk__ranks *c, bool crowded)
{
    rk__net *alone;
    bool shared = false;
    free_places(c);
    rk__node_close(c->shm);
    c->shm = NULL;
    RK_TRY(gather_heads(c, c->base.rank));
    RK_TRY(rk__net_split(c->net, c->base.rank, 0, &alone));
    rk_status st = share_node(c, alone, crowded, &shared);
    rk__net_close(alone);
    if (!st && !shared)
        st = rk_fail(c->base.ctx, RK_ENOMEM, "no shared memory for ranks: memfd_create failed");
    return st;
}

/* [C] Who is where, and the memory that the ranks of a node share. Where it cannot be shared every rank is a
 * node of its own. */
static rk_status settle(rk__ranks *c, rk__net *node, bool crowded)
{
    int head = c->base.rank;
    bool shared = true;
    RK_TRY(lowest(node, c->base.rank, &head));
    RK_TRY(gather_heads(c, head));
    RK_TRY(share_node(c, node, crowded, &shared));
    if (!c->parent) { /* a split finds what its parent found */
        int8_t mine = shared, *all = rk__calloc(c->base.ctx, (size_t)c->base.size, 1);
        rk_status st = all ? rk__net_gather(c->net, &mine, 1, all) : RK_ENOMEM;
        bool everywhere = !st && !memchr(all, 0, (size_t)c->base.size);
        free(all);
        if (st || everywhere)
            return st;
        return part(c, crowded);
    }
    return RK_OK;
}

/* [C] A communicator around net, which it owns from now on. */
static rk_status wrap(rk_ctx *ctx, rk__net *net, rk__ranks *parent, rk_comm **out)
{
    rk__ranks *c = rk__calloc(ctx, 1, sizeof *c);
    rk__net *node = NULL;
    if (!c)
        return RK_ENOMEM;
    c->base = (rk_comm){
        .table = &rk__ranks_table, .ctx = ctx, .rank = rk__net_rank(net), .size = rk__net_size(net)
    };
    c->net = net;
    c->parent = parent;
    c->root = parent ? parent->root : c;
    c->flight_end = &c->flight;
    c->far_failed = -1;
    *out = &c->base;
    bool crowded = false;
    RK_TRY(parent ? rk__net_split(net, parent->base.node, c->base.rank, &node)
                  : find_node(ctx, net, &node, &crowded));
    rk_status st = settle(c, node, crowded);
    rk__net_close(node);
    if (parent) {
        c->next = c->root->next;
        c->root->next = c;
    }
    return st;
}

rk_status rk__ranks_split(rk_comm *base, int color, int key, rk_comm **out)
{
    rk__ranks *c = rk__ranks_of(base);
    rk__net *net;
    *out = NULL;
    RK_TRY(base->table->barrier(base, "split")); /* all are here and well, so MPI's own waits end */
    RK_TRY(rk__net_split(c->net, color, key, &net));
    return net ? wrap(base->ctx, net, c, out) : RK_OK;
}

rk_status rk__comm_make_mpi(rk_ctx *ctx, rk_comm **out)
{
    rk__net *net;
    *out = NULL;
    if (rk__net_launched() == 0)
        return RK_OK;
    RK_TRY(rk__net_open(ctx, &net));
    return wrap(ctx, net, NULL, out);
}

/* Those that were split from the first one go with it. */
void rk__ranks_leave(rk_comm *base)
{
    rk__ranks *c = rk__ranks_of(base);
    const double until = rk__seconds() + LEAVE_SECONDS;
    for (rk__ranks *each = c; each; each = c == c->root ? each->next : NULL)
        rk__ranks_give_up(each, until);
}

static void close_one(rk__ranks *c)
{
    if (c->shm && !rk_failed(c->base.ctx))
        rk__say_closed(c);
    rk__ranks_free_requests(c);
    rk__node_close(c->shm);
    free_places(c);
    rk__net_leave(c->net);
    free(c);
}

static void unlink_child(rk__ranks *c)
{
    rk__ranks *at = c->root;
    while (at && at->next != c)
        at = at->next;
    if (at)
        at->next = c->next;
}

void rk__ranks_close(rk_comm *base)
{
    rk__ranks *c = rk__ranks_of(base);
    if (rk_failed(base->ctx) && c->root->shm)
        rk__announce(c);
    if (c != c->root) {
        unlink_child(c);
        close_one(c);
        return;
    }
    for (rk__ranks *child = c->next, *next; child; child = next) {
        next = child->next;
        close_one(child);
    }
    close_one(c);
}
