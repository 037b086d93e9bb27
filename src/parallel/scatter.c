#include "parallel/scatter.h"

#include "parallel/tree.h"

#include <stdlib.h>

/* A subtree that the ranks of a node make up together, of part[begin] to part[end - 1]. */
struct rk__node_part {
    rk_subtree is;
    int node, number; /* in the node */
    int begin, end;
    int own;     /* part of this rank that is in it; -1: none, or another node's */
    int strange; /* number of those of this node without one; -1 */
};

/* ---- who has what ---- */

static int rank_of(const rk__scatter *s, int part)
{
    int r = 0;
    while (s->first[r + 1] <= part)
        r++;
    return r;
}

static bool is_near(const rk__scatter *s, int rank)
{
    const rk__nodes *n = &s->job->nodes;
    return n->of[rank] == n->of[n->me];
}

/* The parts of node k, added up as far as they can be without those of others, to sum; returns their number.
 */
static int join_parts(const rk__scatter *s, int k, rk__node_part *sum)
{
    const rk__nodes *nodes = &s->job->nodes;
    int n = 0;
    for (int i = 0; i < s->parts; i++) {
        if (nodes->of[rank_of(s, i)] != k)
            continue;
        sum[n++] = (rk__node_part){ .is = s->part[i], .node = k, .begin = i, .end = i + 1 };
        for (; n > 1 && rk__siblings(sum[n - 2].is, sum[n - 1].is); n--) {
            sum[n - 2].is.leaves *= 2;
            sum[n - 2].end = sum[n - 1].end;
        }
    }
    for (int i = 0; i < n; i++)
        sum[i].number = i;
    return n;
}

static int by_leaves(const void *a, const void *b)
{
    const rk__node_part *l = a, *r = b;
    return (l->is.first > r->is.first) - (l->is.first < r->is.first);
}

/* Where this rank keeps the sums of its node. */
static void place_sums(rk__scatter *s)
{
    const int me = s->job->rank;
    for (int i = 0; i < s->sums; i++) {
        rk__node_part *q = &s->sum[i];
        s->is[i] = q->is;
        q->own = q->strange = -1;
        if (q->node != s->job->nodes.of[me])
            continue;
        const int p = q->begin > s->first[me] ? q->begin : s->first[me];
        if (p < q->end && p < s->first[me + 1])
            q->own = p - s->first[me];
        else
            q->strange = s->strange++;
    }
}

/* Fewer bytes between nodes? Pieces are about equal. */
static void consider_nodes(rk__scatter *s)
{
    const rk__nodes *nodes = &s->job->nodes;
    int64_t straight = 0, by_node = 0;
    for (int k = 0; k < nodes->count; k++) {
        int64_t ranks = 0, parts = 0;
        const int sums = join_parts(s, k, s->sum + s->sums);
        for (int r = 0; r < nodes->ranks; r++) {
            ranks += nodes->of[r] == k;
            parts += nodes->of[r] == k ? s->first[r + 1] - s->first[r] : 0;
        }
        straight += parts * (nodes->ranks - ranks);
        by_node += sums * (nodes->ranks - ranks);
        s->sums += sums;
        s->most_sums = sums > s->most_sums ? sums : s->most_sums;
    }
    if (by_node >= straight || s->most + s->most_sums > RK_ORDER_PARTS)
        s->sums = s->most_sums = 0;
    qsort(s->sum, (size_t)s->sums, sizeof *s->sum, by_leaves);
}

rk_status rk__scatter_init(rk__scatter *s, rk__job *j, const rk_subtree *part, const int *first)
{
    *s = (rk__scatter){ .job = j, .part = part, .first = first, .parts = first[j->ranks] };
    for (int r = 0; r < j->ranks; r++)
        s->most = first[r + 1] - first[r] > s->most ? first[r + 1] - first[r] : s->most;
    s->send = rk__calloc(j->ctx, (size_t)j->ranks, sizeof *s->send);
    s->from = rk__calloc(j->ctx, (size_t)s->parts, sizeof *s->from);
    s->sum = rk__calloc(j->ctx, (size_t)s->parts, sizeof *s->sum);
    s->is = rk__calloc(j->ctx, (size_t)s->parts, sizeof *s->is);
    RK_TRY(rk_failed(j->ctx));
    if (j->nodes.count > 1)
        consider_nodes(s);
    place_sums(s);
    s->trips = s->most + s->most_sums;
    return RK_OK;
}

void rk__scatter_free(rk__scatter *s)
{
    free(s->send);
    free(s->from);
    free(s->sum);
    free(s->is);
}

/* ---- pieces ---- */

/* All pieces that near rank n adds up for the node: neighbours. */
static rk__span share_of(const rk__scatter *s, const rk__span *piece, int n)
{
    const rk__nodes *nodes = &s->job->nodes;
    const int *adds = nodes->adds + nodes->of[n] * nodes->ranks;
    rk__span all = piece[n];
    for (int r = 0; r < nodes->ranks; r++) {
        all.from = adds[r] == n && piece[r].from < all.from ? piece[r].from : all.from;
        all.to = adds[r] == n && piece[r].to > all.to ? piece[r].to : all.to;
    }
    return all;
}

/* The rank that sends what node k has of rank r's piece. */
static int sender_to(const rk__scatter *s, int k, int r)
{
    return s->job->nodes.adds[k * s->job->nodes.ranks + r];
}

/* Element i of part p. The vector may begin where no memory is (rk__flat_from). */
static float *at(const rk__scattered *x, int p, int64_t i)
{
    return (float *)((uintptr_t)x->flat + (uintptr_t)(p * x->stride + i) * sizeof *x->flat);
}

/* Where this rank's share of a sum of its node stands. */
static float *sum_at(const rk__node_part *q, const rk__scattered *x, rk__span share)
{
    return q->own >= 0 ? at(x, q->own, share.from) : x->room + q->strange * rk__span_size(share);
}

int64_t rk__scatter_room(const rk__scatter *s, const rk__span *piece)
{
    const int64_t n = s->strange ? rk__span_size(share_of(s, piece, s->job->rank)) : 0;
    return s->strange * (n ? n : 1);
}

static rk_leg leg_of(const float *p, int64_t n, bool there)
{
    return (rk_leg){ there && n ? (void *)(uintptr_t)p : NULL, there ? (size_t)n * sizeof *p : 0 };
}

/* ---- the first trip ---- */

/* Part number p of every rank sets out: piece r to rank r, or what rank r adds up for this node. */
static rk_status start_part(rk__scatter *s, const char *name, int p, const rk__scattered *x)
{
    const rk__job *j = s->job;
    rk_leg *recv = x->recv + p * j->ranks;
    const bool mine = s->first[j->rank] + p < s->first[j->rank + 1];
    const rk__span in = s->sums ? share_of(s, x->piece, j->rank) : x->piece[j->rank];
    for (int r = 0; r < j->ranks; r++) {
        const bool goes = !s->sums || is_near(s, r), theirs = s->first[r] + p < s->first[r + 1];
        const rk__span out = s->sums && goes ? share_of(s, x->piece, r) : x->piece[r];
        s->send[r] = leg_of(at(x, p, out.from), rk__span_size(out), goes && mine);
        recv[r] = leg_of(NULL, rk__span_size(in), goes && theirs);
    }
    return j->tensors->table->exchange(j->tensors, name, s->send, recv, &x->request[p]);
}

rk_status rk__scatter_start(rk__scatter *s, const char *name, const rk__scattered *x)
{
    for (int p = 0; p < s->most; p++)
        RK_TRY(start_part(s, name, p, x));
    return RK_OK;
}

static rk_status wait_for(const rk__scatter *s, const rk__scattered *x, int begin, int end)
{
    const rk__job *j = s->job;
    for (int i = begin; i < end; i++)
        RK_TRY(j->tensors->table->wait(j->tensors, x->request[i]));
    return RK_OK;
}

/* What arrived of part i. */
static const float *arrived(const rk__scatter *s, const rk__scattered *x, int i)
{
    const int r = rank_of(s, i);
    return x->recv[(i - s->first[r]) * s->job->ranks + r].data;
}

/* ---- by node ---- */

static rk_status add_for_node(rk__scatter *s, const rk__node_part *q, const rk__scattered *x, rk__span share)
{
    for (int i = q->begin; i < q->end; i++)
        s->from[i] = arrived(s, x, i);
    return rk__tree_add(s->job->ctx, rk__span_size(share), q->end - q->begin, s->part + q->begin,
                        s->from + q->begin, sum_at(q, x, share));
}

/* Sum number `number` of node k; NULL: it has fewer. */
static const rk__node_part *sum_of(const rk__scatter *s, int k, int number)
{
    for (int i = 0; i < s->sums; i++)
        if (s->sum[i].node == k && s->sum[i].number == number)
            return &s->sum[i];
    return NULL;
}

/* Sum number q of every node sets out: piece r to rank r of another node. */
static rk_status start_sum(rk__scatter *s, const char *name, int q, const rk__scattered *x, rk__span share)
{
    const rk__job *j = s->job;
    const rk__nodes *nodes = &j->nodes;
    const int me = j->rank, here = nodes->of[me];
    const rk__node_part *mine = sum_of(s, here, q);
    rk_leg *recv = x->recv + (s->most + q) * j->ranks;
    for (int r = 0; r < j->ranks; r++) {
        const bool goes = mine && !is_near(s, r) && sender_to(s, here, r) == me;
        const bool comes =
            !is_near(s, r) && sender_to(s, nodes->of[r], me) == r && sum_of(s, nodes->of[r], q);
        const float *p = goes ? sum_at(mine, x, share) + x->piece[r].from - share.from : NULL;
        s->send[r] = leg_of(p, rk__span_size(x->piece[r]), goes);
        recv[r] = leg_of(NULL, rk__span_size(x->piece[me]), comes);
    }
    return j->tensors->table->exchange(j->tensors, name, s->send, recv, &x->request[s->most + q]);
}

rk_status rk__scatter_pass_on(rk__scatter *s, const char *name, const rk__scattered *x)
{
    const int here = s->job->nodes.of[s->job->rank];
    if (!s->sums)
        return RK_OK;
    const rk__span share = share_of(s, x->piece, s->job->rank);
    RK_TRY(wait_for(s, x, 0, s->most));
    for (int i = 0; i < s->sums; i++)
        if (s->sum[i].node == here)
            RK_TRY(add_for_node(s, &s->sum[i], x, share));
    for (int q = 0; q < s->most_sums; q++)
        RK_TRY(start_sum(s, name, q, x, share));
    return RK_OK;
}

/* ---- the sum ---- */

/* What there is of this rank's piece of a node's sum. */
static const float *have(const rk__scatter *s, const rk__node_part *q, const rk__scattered *x, rk__span share)
{
    const int me = s->job->rank;
    if (q->node == s->job->nodes.of[me])
        return sum_at(q, x, share) + x->piece[me].from - share.from;
    return x->recv[(s->most + q->number) * s->job->ranks + sender_to(s, q->node, me)].data;
}

rk_status rk__scatter_add(rk__scatter *s, const rk__scattered *x, float *out)
{
    const rk__job *j = s->job;
    const int64_t n = rk__span_size(x->piece[j->rank]);
    RK_TRY(wait_for(s, x, s->sums ? s->most : 0, s->trips));
    if (!s->sums) {
        for (int i = 0; i < s->parts; i++)
            s->from[i] = arrived(s, x, i);
        return rk__tree_add(j->ctx, n, s->parts, s->part, s->from, out);
    }
    const rk__span share = share_of(s, x->piece, j->rank);
    for (int i = 0; i < s->sums; i++)
        s->from[i] = have(s, &s->sum[i], x, share);
    return rk__tree_add(j->ctx, n, s->sums, s->is, s->from, out);
}

int64_t rk__scatter_bytes(const rk__scatter *s, const rk__span *piece, int64_t *far)
{
    const rk__job *j = s->job;
    const int me = j->rank, parts = s->first[me + 1] - s->first[me];
    int64_t sums = 0, near_by = 0, away = 0;
    for (int i = 0; i < s->sums; i++)
        sums += s->sum[i].node == j->nodes.of[me];
    for (int r = 0; r < j->ranks; r++) {
        if (r != me && is_near(s, r))
            near_by += parts * rk__span_size(s->sums ? share_of(s, piece, r) : piece[r]);
        else if (!is_near(s, r) && !s->sums)
            away += parts * rk__span_size(piece[r]);
        else if (!is_near(s, r) && sender_to(s, j->nodes.of[me], r) == me)
            away += sums * rk__span_size(piece[r]);
    }
    *far = away * (int64_t)sizeof(float);
    return (near_by + away) * (int64_t)sizeof(float);
}
