/* Which samples make up a batch. */
#include "core/order.h"
#include "core/permute.h"
#include "io/loader.h"

int64_t rk__loader_sample(const rk__recipe *r, int64_t epoch, int64_t pos)
{
    uint64_t place = (uint64_t)pos;
    if (r->shuffle)
        place = rk__permute(r->shuffle_key, (uint64_t)epoch, (uint64_t)r->part, place);
    if (!r->split)
        return (int64_t)place;
    /* the split is a fixed permutation: its first places are held out */
    place += r->validation ? 0 : (uint64_t)r->held_out;
    return (int64_t)rk__permute(r->split_key, 0, (uint64_t)r->all, place);
}

bool rk__loader_plan(const rk_loader *l, int64_t cursor, rk__plan *p)
{
    int64_t epoch = cursor / l->usable, pos = cursor % l->usable, hi;
    if (l->epochs && epoch >= l->epochs)
        return false;
    *p = (rk__plan){ .cursor = cursor, .epoch = epoch, .pos = pos };
    p->global = l->batch < l->usable - pos ? l->batch : l->usable - pos;
    p->next = cursor + p->global;
    p->index = epoch * ((l->usable + l->batch - 1) / l->batch) + pos / l->batch;
    p->epoch_end = pos + p->global == l->usable;
    rk_order_samples(p->global, l->shards, (rk_subtree){ l->first_shard, l->own_shards }, &p->lo, &hi);
    p->n = hi - p->lo;
    return true;
}
