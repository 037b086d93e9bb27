/* What each collective moves. Ranks of a node take what the others offer in shared memory; a rank of another
 * node sends messages. A piece crosses the network once for each node: a relay there receives it and offers
 * it on. */
#include "parallel/comm_ranks.h"

#include <stdlib.h>
#include <string.h>

static uint32_t tag_of(const rk__ranks *c, const rk_request *r, size_t bytes)
{
    return rk__net_tag(c->net, r->call.chain ^ bytes * 0x9e3779b97f4a7c15u);
}

static rk_status post_send(rk__ranks *c, rk_request *r, int to, const void *data, size_t bytes)
{
    rk__count_sent(c, to, bytes);
    r->posted = true;
    return rk__posts_send(r->posts, to, tag_of(c, r, bytes), data, bytes);
}

static rk_status post_recv(rk__ranks *c, rk_request *r, rk__posts *list, int from, void *data, size_t bytes)
{
    rk__count_received(c, bytes);
    r->posted = true;
    return rk__posts_recv(list, from, tag_of(c, r, bytes), data, bytes);
}

/* Offers bytes to the node: lent where they are if the others see them there, else as a message. */
static void offer(rk__ranks *c, rk__offer *o, const void *data, size_t bytes)
{
    *o = (rk__offer){ .way = bytes ? RK__POSTED : RK__NOTHING, .bytes = bytes };
    if (bytes)
        rk__node_lend(c->shm, data, bytes, o);
}

/* Copies private bytes to staging if there is room, so that they can be lent. */
static void stage(rk__ranks *c, rk__offer *o, uint64_t seq, const void *data)
{
    char *copy = o->way == RK__POSTED && c->base.node_size > 1 ? rk__node_stage(c->shm, seq, o->bytes) : NULL;
    if (copy)
        rk__node_lend(c->shm, memcpy(copy, data, o->bytes), o->bytes, o);
}

/* The bytes of a peer's offer, taken to *to or lent there if it is NULL; a message is posted. */
static rk_status take(rk__ranks *c, rk_request *r, int n, const rk__offer *o, void **to)
{
    if (o->way == RK__NOTHING)
        return RK_OK;
    if (o->way == RK__POSTED) {
        if (!*to)
            *to = r->place[n] = rk__calloc(c->base.ctx, o->bytes, 1);
        return *to ? post_recv(c, r, r->posts, rk__near(c, n), *to, o->bytes) : RK_ENOMEM;
    }
    void *from = rk__node_find(c->shm, n, o);
    if (!from)
        return rk__fail_for_all(c, "rank %d offers memory that rank %d does not know", rk__near(c, n),
                                c->base.rank);
    rk__count_received(c, o->bytes);
    if (*to && *to != from)
        memcpy(*to, from, o->bytes);
    else
        *to = from;
    return RK_OK;
}

/* ---- exchange ---- */

static rk_status place_far_legs(rk__ranks *c, rk_request *r)
{
    size_t bytes = 0;
    for (int i = 0; i < c->base.size; i++)
        if (!rk__is_near(c, i) && !r->recv[i].data)
            bytes += (r->recv[i].bytes + 63) / 64 * 64;
    if (bytes > r->scratch_bytes) {
        free(r->scratch);
        r->scratch_bytes = 0;
        if (!(r->scratch = rk__calloc(c->base.ctx, bytes, 1)))
            return RK_ENOMEM;
        r->scratch_bytes = bytes;
    }
    char *at = r->scratch;
    for (int i = 0; i < c->base.size; i++)
        if (!rk__is_near(c, i) && !r->recv[i].data && r->recv[i].bytes) {
            r->recv[i].data = at;
            at += (r->recv[i].bytes + 63) / 64 * 64;
        }
    return RK_OK;
}

static rk_status start_exchange(rk__ranks *c, rk_request *r)
{
    int size = c->base.size, me = c->base.rank;
    rk_leg *own = &r->recv[me];
    if (own->bytes != r->leg[me].bytes)
        return rk__fail_for_all(c, "exchange %s: rank %d sends %zu bytes to itself, which expects %zu",
                                r->call.name, me, r->leg[me].bytes, own->bytes);
    if (!own->data)
        own->data = r->leg[me].data;
    else if (own->bytes)
        memmove(own->data, r->leg[me].data, own->bytes);
    for (int i = 0; i < size; i++)
        r->lends |= !r->recv[i].data;
    RK_TRY(place_far_legs(c, r));
    rk__offer *offers = rk__node_offers(c->shm, r->call.seq);
    for (int d = 1; d < size; d++) { /* everyone begins with another one */
        int to = (me + d) % size, from = (me + size - d) % size;
        const rk_leg *s = &r->leg[to];
        if (!rk__is_near(c, from) && r->recv[from].bytes)
            RK_TRY(post_recv(c, r, r->posts, from, r->recv[from].data, r->recv[from].bytes));
        rk__offer *o = rk__is_near(c, to) ? &offers[c->home[to]] : NULL;
        if (o) {
            offer(c, o, s->data, s->bytes);
            stage(c, o, r->call.seq, s->data);
        }
        if (o && o->way != RK__POSTED)
            rk__count_sent(c, to, s->bytes);
        else if (s->bytes)
            RK_TRY(post_send(c, r, to, s->data, s->bytes));
    }
    return RK_OK;
}

static rk_status take_exchange(rk__ranks *c, rk_request *r, int n, bool *taken)
{
    int from = rk__near(c, n);
    const rk__offer *o = &rk__node_offered(c->shm, n, r->call.seq)[c->base.node_rank];
    *taken = true;
    if (o->bytes != r->recv[from].bytes)
        return rk__fail_for_all(c, "exchange %s: rank %d sends %zu bytes to rank %d, which expects %zu",
                                r->call.name, from, (size_t)o->bytes, c->base.rank, r->recv[from].bytes);
    return take(c, r, n, o, &r->recv[from].data);
}

static rk_status step_exchange(rk__ranks *c, rk_request *r)
{
    (void)c;
    if (r->left)
        return RK_OK;
    RK_TRY(rk__posts_test(r->posts, &r->moved));
    r->done = r->moved;
    return RK_OK;
}

/* ---- all-gather ---- */

/* Calls the k-th rank of another node whose piece near rank n passes on; -1: no more. */
static int relayed(const rk__ranks *c, int n, int k)
{
    for (int i = 0; i < c->base.size; i++)
        if (!rk__is_near(c, i) && rk__relay_of(c, i, c->base.node) == rk__near(c, n) && k-- == 0)
            return i;
    return -1;
}

/* Own pieces that the node cannot see and all that goes to other nodes, as messages. */
static rk_status send_piece(rk__ranks *c, rk_request *r, int from, const rk__offer *o)
{
    const rk_leg *p = &r->leg[from];
    for (int n = 0; p->bytes && n < c->base.node_size; n++)
        if (n != c->base.node_rank && o->way == RK__POSTED)
            RK_TRY(post_send(c, r, rk__near(c, n), p->data, p->bytes));
        else if (n != c->base.node_rank)
            rk__count_sent(c, rk__near(c, n), p->bytes);
    for (int k = 0; p->bytes && from == c->base.rank && k < c->base.nodes; k++)
        if (k != c->base.node)
            RK_TRY(post_send(c, r, rk__relay_of(c, from, k), p->data, p->bytes));
    return RK_OK;
}

static rk_status start_all_gather(rk__ranks *c, rk_request *r)
{
    int me = c->base.rank;
    rk__offer *offers = rk__node_offers(c->shm, r->call.seq);
    offer(c, &offers[0], r->leg[me].data, r->leg[me].bytes);
    stage(c, &offers[0], r->call.seq, r->leg[me].data);
    RK_TRY(send_piece(c, r, me, offers));
    for (int k = 0, from; c->base.nodes > 1 && (from = relayed(c, c->base.node_rank, k)) >= 0; k++) {
        rk_leg *p = &r->leg[from];
        if (p->bytes)
            RK_TRY(post_recv(c, r, r->relay, from, p->data, p->bytes));
        offer(c, &offers[1 + k], p->data, p->bytes);
    }
    return RK_OK;
}

static rk_status take_piece(rk__ranks *c, rk_request *r, int n, const rk__offer *o, int from)
{
    if (o->bytes != r->leg[from].bytes)
        return rk__fail_for_all(c, "all-gather %s: rank %d has %zu bytes, of which rank %d expects %zu",
                                r->call.name, from, (size_t)o->bytes, c->base.rank, r->leg[from].bytes);
    return take(c, r, n, o, &r->leg[from].data);
}

static rk_status take_all_gather(rk__ranks *c, rk_request *r, int n, bool *taken)
{
    const rk__offer *o = rk__node_offered(c->shm, n, r->call.seq);
    *taken = c->base.nodes == 1 || rk__node_ready(c->shm, n, r->call.seq);
    if (!*taken)
        return RK_OK;
    RK_TRY(take_piece(c, r, n, &o[0], rk__near(c, n)));
    for (int k = 0, from; c->base.nodes > 1 && (from = relayed(c, n, k)) >= 0; k++)
        RK_TRY(take_piece(c, r, n, &o[1 + k], from));
    return RK_OK;
}

/* Relayed pieces have come: those that cannot be lent are sent on. */
static rk_status pass_on_pieces(rk__ranks *c, rk_request *r)
{
    const rk__offer *o = rk__node_offers(c->shm, r->call.seq);
    for (int k = 0, from; (from = relayed(c, c->base.node_rank, k)) >= 0; k++)
        RK_TRY(send_piece(c, r, from, &o[1 + k]));
    return RK_OK;
}

/* ---- broadcast: down a binary tree of nodes' heads ---- */

/* Where broadcasts enter node k. */
static int head_of(const rk__ranks *c, const rk_request *r, int k)
{
    return c->node_of[r->call.root] == k ? r->call.root : c->at[c->first[k]];
}

static int from_root(const rk__ranks *c, const rk_request *r)
{
    return (c->base.node + c->base.nodes - c->node_of[r->call.root]) % c->base.nodes;
}

static rk_status start_broadcast(rk__ranks *c, rk_request *r)
{
    int head = head_of(c, r, c->base.node), v = from_root(c, r);
    rk__offer *o = rk__node_offers(c->shm, r->call.seq);
    o[0] = (rk__offer){ 0 };
    if (head != c->base.rank || !r->call.bytes)
        return RK_OK;
    offer(c, &o[0], r->data, r->call.bytes);
    if (v > 0) {
        int above = ((v - 1) / 2 + c->node_of[r->call.root]) % c->base.nodes;
        RK_TRY(post_recv(c, r, r->relay, head_of(c, r, above), r->data, r->call.bytes));
    } else {
        stage(c, &o[0], r->call.seq, r->data);
    }
    return RK_OK;
}

static rk_status take_broadcast(rk__ranks *c, rk_request *r, int n, bool *taken)
{
    *taken = true;
    if (rk__near(c, n) != head_of(c, r, c->base.node) || !r->call.bytes)
        return RK_OK;
    *taken = rk__node_ready(c->shm, n, r->call.seq);
    return *taken ? take(c, r, n, rk__node_offered(c->shm, n, r->call.seq), &r->data) : RK_OK;
}

/* The bytes are here: on to the nodes below and, where they cannot be lent, to the ranks of this one. */
static rk_status pass_on_broadcast(rk__ranks *c, rk_request *r)
{
    int v = from_root(c, r), root_node = c->node_of[r->call.root];
    if (head_of(c, r, c->base.node) != c->base.rank || !r->call.bytes)
        return RK_OK;
    for (int below = 2 * v + 1; below <= 2 * v + 2 && below < c->base.nodes; below++)
        RK_TRY(post_send(c, r, head_of(c, r, (below + root_node) % c->base.nodes), r->data, r->call.bytes));
    const rk__offer *o = rk__node_offers(c->shm, r->call.seq);
    for (int n = 0; n < c->base.node_size; n++)
        if (n != c->base.node_rank && o->way == RK__POSTED)
            RK_TRY(post_send(c, r, rk__near(c, n), r->data, r->call.bytes));
        else if (n != c->base.node_rank)
            rk__count_sent(c, rk__near(c, n), r->call.bytes);
    return RK_OK;
}

/* ---- what all-gather and broadcast share ---- */

static bool all_moved(rk__ranks *c, const rk_request *r)
{
    for (int n = 0; n < c->base.node_size; n++)
        if (n != c->base.node_rank && !rk__node_moved(c->shm, n, r->call.seq))
            return false;
    return true;
}

/* What comes from afar is passed on, then all that is near is taken; done when the others have taken theirs.
 */
static rk_status step_relayed(rk__ranks *c, rk_request *r)
{
    if (!r->ready) {
        RK_TRY(rk__posts_test(r->relay, &r->ready));
        if (!r->ready)
            return RK_OK;
        if (r->call.op == RK__BROADCAST)
            RK_TRY(pass_on_broadcast(c, r));
        else if (c->base.nodes > 1)
            RK_TRY(pass_on_pieces(c, r));
        if (c->base.nodes > 1 || r->call.op == RK__BROADCAST)
            rk__node_set_ready(c->shm, r->call.seq);
    }
    if (!r->moved && !r->left) {
        RK_TRY(rk__posts_test(r->posts, &r->moved));
        if (r->moved)
            rk__node_set_moved(c->shm, r->call.seq);
    }
    r->done = r->moved && all_moved(c, r);
    return RK_OK;
}

/* ---- barrier: the first of each node meet in ceil(log2(nodes)) rounds ---- */

static rk_status step_barrier(rk__ranks *c, rk_request *r)
{
    static char byte[2]; /* nobody looks at it */
    int nodes = c->base.nodes;
    if (c->base.node_rank) {
        r->moved = r->done = !r->left && (nodes == 1 || rk__node_ready(c->shm, 0, r->call.seq));
        return RK_OK;
    }
    bool arrived = !r->left;
    while (arrived && 1 << r->round < nodes) {
        if (!r->ready) {
            int up = (c->base.node + (1 << r->round)) % nodes;
            int down = (c->base.node + nodes - (1 << r->round)) % nodes;
            RK_TRY(rk__posts_recv(r->posts, c->at[c->first[down]], tag_of(c, r, 1), &byte[0], 1));
            RK_TRY(rk__posts_send(r->posts, c->at[c->first[up]], tag_of(c, r, 1), &byte[1], 1));
            r->ready = true;
        }
        RK_TRY(rk__posts_test(r->posts, &arrived));
        r->ready = !arrived;
        r->round += arrived;
    }
    if (arrived && nodes > 1)
        rk__node_set_ready(c->shm, r->call.seq);
    r->moved = r->done = arrived;
    return RK_OK;
}

/* ---- shared memory ---- */

static rk_status start_alloc(rk__ranks *c, rk_request *r)
{
    return rk__node_alloc(c->shm, r->call.bytes, &rk__node_offers(c->shm, r->call.seq)[0], &r->data);
}

static rk_status take_alloc(rk__ranks *c, rk_request *r, int n, bool *taken)
{
    *taken = true;
    return rk__node_map(c->shm, r->data, n, &rk__node_offered(c->shm, n, r->call.seq)[0]);
}

static rk_status step_alloc(rk__ranks *c, rk_request *r)
{
    if (!r->moved && !r->left) {
        r->moved = true;
        rk__node_set_moved(c->shm, r->call.seq);
    }
    r->done = r->moved && all_moved(c, r);
    if (r->done)
        rk__node_mapped(c->shm, r->data);
    return RK_OK;
}

static rk_status take_nothing(rk__ranks *c, rk_request *r, int n, bool *taken)
{
    (void)c, (void)r, (void)n;
    *taken = true;
    return RK_OK;
}

static rk_status start_nothing(rk__ranks *c, rk_request *r)
{
    (void)c, (void)r;
    return RK_OK;
}

static const struct {
    rk_status (*start)(rk__ranks *c, rk_request *r);
    rk_status (*take)(rk__ranks *c, rk_request *r, int n, bool *taken); /* what near rank n has called */
    rk_status (*step)(rk__ranks *c, rk_request *r);
} moves[] = {
    [RK__EXCHANGE] = { start_exchange, take_exchange, step_exchange },
    [RK__ALL_GATHER] = { start_all_gather, take_all_gather, step_relayed },
    [RK__BROADCAST] = { start_broadcast, take_broadcast, step_relayed },
    [RK__BARRIER] = { start_nothing, take_nothing, step_barrier },
    [RK__ALLOC] = { start_alloc, take_alloc, step_alloc },
};

static int32_t move_of(const rk_request *r)
{
    return r->meets ? RK__BARRIER : r->call.op;
}

rk_status rk__move_start(rk__ranks *c, rk_request *r)
{
    return moves[move_of(r)].start(c, r);
}

rk_status rk__move(rk__ranks *c, rk_request *r)
{
    for (int n = 0; r->left && n < c->base.node_size; n++) {
        const rk__call *theirs = r->taken[n] ? NULL : rk__node_called(c->shm, n, r->call.seq);
        bool taken = false;
        if (!theirs)
            continue;
        if (!rk__calls_agree(theirs, &r->call) || theirs->waited != r->call.waited)
            return rk__disagree(c, r->call.seq);
        RK_TRY(moves[move_of(r)].take(c, r, n, &taken));
        r->taken[n] = taken;
        r->left -= taken;
    }
    return r->done ? RK_OK : moves[move_of(r)].step(c, r);
}
