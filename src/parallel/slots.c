#include "parallel/slots.h"

#include <stdlib.h>

enum { WASTE = 2 }; /* a slot may be so many times as large as what is in it */

void rk__slots_init(rk__slots *s, rk_comm *c)
{
    *s = (rk__slots){ .comm = c };
}

void rk__slots_free(rk__slots *s)
{
    free(s->slot);
    *s = (rk__slots){ 0 };
}

/* The smallest free one that will do, and is not too large. */
static struct rk__slot *find(const rk__slots *s, int64_t n)
{
    struct rk__slot *best = NULL;
    for (int i = 0; i < s->count; i++) {
        struct rk__slot *it = &s->slot[i];
        if (!it->taken && it->n >= n && it->n <= WASTE * n && (!best || it->n < best->n))
            best = it;
    }
    return best;
}

static struct rk__slot *make(rk__slots *s, int64_t n)
{
    if (s->count == s->cap) {
        int cap = 2 * s->cap + 16;
        struct rk__slot *more = realloc(s->slot, (size_t)cap * sizeof *more);
        if (!more) {
            rk_fail(s->comm->ctx, RK_ENOMEM, "out of memory");
            return NULL;
        }
        s->slot = more;
        s->cap = cap;
    }
    float *p = s->comm->table->alloc(s->comm, (size_t)n * sizeof *p);
    if (!p)
        return NULL;
    s->slot[s->count] = (struct rk__slot){ .p = p, .n = n };
    return &s->slot[s->count++];
}

float *rk__slots_take(rk__slots *s, int64_t n)
{
    struct rk__slot *it = find(s, n);
    if (!it)
        it = make(s, n);
    if (!it)
        return NULL;
    it->taken = true;
    return it->p;
}

void rk__slots_give(rk__slots *s, const float *p)
{
    for (int i = 0; i < s->count; i++)
        if (s->slot[i].p == p)
            s->slot[i].taken = false;
}
