#include "parallel/nodes.h"

#include <stdlib.h>

/* A rank's place among those of its node, from 0 to 1: in the middle of its share. */
typedef struct place {
    int node, half, halves; /* (2 * number + 1) / (2 * ranks of the node) */
} place;

/* Does a's piece come before b's? */
static bool before(const place *a, const place *b)
{
    const int64_t l = (int64_t)a->half * b->halves, r = (int64_t)b->half * a->halves;
    return l != r ? l < r : a->node < b->node;
}

static void find_places(const rk__nodes *n, place *at)
{
    const bool one = n->count == 1;
    for (int r = 0; r < n->ranks; r++) {
        at[r] = (place){ .node = one ? 0 : n->of[r], .half = 1 };
        for (int i = 0; i < n->ranks; i++) {
            const bool together = one || n->of[i] == n->of[r];
            at[r].half += i < r && together ? 2 : 0;
            at[r].halves += together ? 2 : 0;
        }
    }
}

/* Pieces stand in the order of these places, so that those of one share of the ranks of a node are
 * neighbours. */
static void give_turns(rk__nodes *n, const place *at)
{
    for (int r = 0; r < n->ranks; r++) {
        n->turn[r] = 0;
        for (int i = 0; i < n->ranks; i++)
            n->turn[r] += i != r && before(&at[i], &at[r]);
        n->whose[n->turn[r]] = r;
    }
}

static void share_adding(rk__nodes *n, const place *at)
{
    for (int a = 0; a < n->ranks; a++)
        for (int r = 0; r < n->ranks; r++) {
            const int share = (int)((int64_t)at[r].half * at[a].halves / 2 / at[r].halves);
            if (share == at[a].half / 2)
                n->adds[at[a].node * n->ranks + r] = a;
        }
}

/* What a rank tells the others. */
typedef struct word {
    int32_t node, off;
} word;

/* [C] node[r] of all ranks; *apart false: they are to be taken for one. */
static rk_status ask(rk_ctx *ctx, rk_comm *c, int *node, bool *apart)
{
    const char *asked = getenv("RANKINE_BY_NODE");
    const word mine = { c->node, asked && *asked == '0' };
    word *all = rk__calloc(ctx, (size_t)c->size, sizeof *all);
    if (!all)
        return RK_ENOMEM;
    rk_status st = rk__comm_all_values(c, "nodes of ranks", &mine, sizeof mine, all);
    *apart = !st;
    for (int r = 0; r < c->size && !st; r++) {
        node[r] = all[r].node;
        *apart &= !all[r].off;
    }
    free(all);
    return st;
}

static rk_status fill(rk_ctx *ctx, rk_comm *c, rk__nodes *n)
{
    const size_t ranks = (size_t)n->ranks;
    bool apart = false;
    if (c && c->nodes > 1) {
        RK_TRY(ask(ctx, c, n->of, &apart));
        n->count = apart ? c->nodes : 1;
    }
    n->adds = rk__calloc(ctx, (size_t)n->count * ranks, sizeof *n->adds);
    place *at = rk__calloc(ctx, ranks, sizeof *at);
    if (!rk_failed(ctx)) {
        find_places(n, at);
        give_turns(n, at);
        share_adding(n, at);
    }
    free(at);
    return rk_failed(ctx);
}

rk_status rk__nodes_find(rk_ctx *ctx, rk_comm *c, int ranks, rk__nodes *out)
{
    *out = (rk__nodes){ .count = 1, .ranks = ranks, .me = c ? c->rank : 0 };
    out->of = rk__calloc(ctx, (size_t)ranks, sizeof *out->of);
    out->turn = rk__calloc(ctx, (size_t)ranks, sizeof *out->turn);
    out->whose = rk__calloc(ctx, (size_t)ranks, sizeof *out->whose);
    return rk_failed(ctx) ? rk_failed(ctx) : fill(ctx, c, out);
}

void rk__nodes_free(rk__nodes *n)
{
    free(n->of);
    free(n->turn);
    free(n->whose);
    free(n->adds);
    *n = (rk__nodes){ 0 };
}
