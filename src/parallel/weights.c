#include "parallel/weights.h"

#include "core/tape.h"

#include <stdlib.h>

/* Buckets of others' weights that a rank keeps: an operation reads up to three parameters, and a piece that
 * another rank reads may not go before a later collective is complete. */
enum { KEPT = 4 };
enum { MOST_COMING = 24 }; /* collectives under way at once */

typedef enum place { AWAY, COMING, HERE } place;

struct rk__weights {
    const rk__buckets *buckets;
    float *flat;
    rk__reads *reads; /* NULL: all weights are kept */
    int arrived;      /* buckets that are not COMING */
    place *is;        /* (count) */
    rk_request **request;
    uint64_t *read; /* (count) when last */
    uint64_t clock; /* reads so far */
    int last;       /* bucket that came last; count: none since the weights changed */
    rk_leg *piece;  /* (ranks) */
    rk__guard *guard;
};

static void weights_free(void *arg)
{
    rk__weights *w = arg;
    free(w->is);
    free(w->request);
    free(w->read);
    free(w->piece);
    free(w->guard);
    free(w);
}

/* [C] A bucket sets out. */
static rk_status start(rk__weights *w, int k)
{
    const rk__job *j = w->buckets->job;
    const int64_t *bound = w->buckets->bucket[k].bound;
    for (int r = 0; r < j->ranks; r++)
        w->piece[r] = (rk_leg){ w->flat + bound[r], (size_t)(bound[r + 1] - bound[r]) * sizeof(float) };
    RK_TRY(j->tensors->table->all_gather(j->tensors, "weights", w->piece, &w->request[k]));
    w->is[k] = COMING;
    w->arrived--;
    return RK_OK;
}

static rk_status arrive(rk__weights *w, int k)
{
    const rk__job *j = w->buckets->job;
    RK_TRY(j->tensors->table->wait(j->tensors, w->request[k]));
    w->is[k] = HERE;
    w->arrived++;
    return RK_OK;
}

/* ---- by piece ---- */

/* The others' pieces of a bucket give their memory back. */
static void forget(rk__weights *w, int k)
{
    const rk__job *j = w->buckets->job;
    const int64_t *bound = w->buckets->bucket[k].bound, lo = bound[j->rank], hi = bound[j->rank + 1];
    j->tensors->table->discard(j->tensors, w->flat + bound[0], (size_t)(lo - bound[0]) * sizeof(float));
    j->tensors->table->discard(j->tensors, w->flat + hi, (size_t)(bound[j->ranks] - hi) * sizeof(float));
    w->is[k] = AWAY;
}

/* No more than KEPT are here. */
static void forget_oldest(rk__weights *w)
{
    int here = 0, oldest = -1;
    for (int k = 0; k < w->buckets->count; k++) {
        if (w->is[k] != HERE)
            continue;
        here++;
        if (oldest < 0 || w->read[k] < w->read[oldest])
            oldest = k;
    }
    if (here > KEPT)
        forget(w, oldest);
}

/* Layers are read in one direction, then in the other. */
static rk_status ask_ahead(rk__weights *w, int k)
{
    int next = k > w->last ? k + 1 : k - 1;
    w->last = k;
    return next >= 0 && next < w->buckets->count && w->is[next] == AWAY ? start(w, next) : RK_OK;
}

static rk_status come(rk__weights *w, int k)
{
    w->read[k] = ++w->clock;
    if (w->is[k] == HERE)
        return RK_OK;
    if (w->is[k] == AWAY)
        RK_TRY(start(w, k));
    RK_TRY(arrive(w, k));
    forget_oldest(w);
    return ask_ahead(w, k);
}

/* ---- reads ---- */

static void note(rk__reads *r, rk__weights *w, int k)
{
    const struct rk__read *last = r->n ? &r->read[r->n - 1] : NULL;
    if (last && last->weights == w && last->bucket == k)
        return;
    if (r->n == r->cap) {
        int cap = 2 * r->cap + 64;
        struct rk__read *more = realloc(r->read, (size_t)cap * sizeof *more);
        if (!more) {
            rk_fail(w->buckets->job->ctx, RK_ENOMEM, "out of memory");
            return;
        }
        r->read = more;
        r->cap = cap;
    }
    r->read[r->n++] = (struct rk__read){ w, k };
}

void rk__reads_note(rk__reads *r, bool on)
{
    if (on)
        r->n = 0;
    r->on = on;
}

rk_status rk__reads_repeat(const rk__reads *r)
{
    for (int i = 0; i < r->n; i++)
        RK_TRY(come(r->read[i].weights, r->read[i].bucket));
    return RK_OK;
}

void rk__reads_free(rk__reads *r)
{
    free(r->read);
}

size_t rk__weights_at_hand(const rk__weights *w)
{
    return (KEPT + 1) * rk__buckets_largest(w->buckets);
}

/* ---- reading ---- */

static void need(void *arg, int number, int64_t from, int64_t to)
{
    rk__weights *w = arg;
    const rk__buckets *b = w->buckets;
    const int k = b->of[number];
    int64_t own, own_end;
    if (to < 0 && w->reads) {
        if (w->reads->on)
            note(w->reads, w, k);
        come(w, k);
        return;
    }
    rk__bucket_piece(b, number, b->job->rank, &own, &own_end);
    if (w->is[k] == HERE || (to >= 0 && from >= own && to <= own_end))
        return;
    if (w->reads)
        rk_fail(b->job->ctx, RK_EINTERNAL, "weights that another rank holds were read on this one alone");
    else
        arrive(w, k);
}

/* ---- changes ---- */

rk_status rk__weights_settle(rk__weights *w)
{
    const int count = w->buckets->count;
    for (int k = count - 1; k >= 0 && w->arrived < count; k--)
        if (w->is[k] == COMING)
            RK_TRY(arrive(w, k));
    return RK_OK;
}

rk_status rk__weights_changed(rk__weights *w)
{
    RK_TRY(rk__weights_settle(w));
    w->last = w->buckets->count;
    for (int k = w->buckets->count - 1; k >= 0; k--) {
        if (w->reads && w->is[k] == HERE)
            forget(w, k);
        if (w->reads)
            continue;
        if (k + MOST_COMING < w->buckets->count)
            RK_TRY(arrive(w, k + MOST_COMING));
        RK_TRY(start(w, k));
    }
    return RK_OK;
}

rk_status rk__weights_make(const rk__buckets *b, float *flat, rk__reads *reads, rk__weights **out)
{
    rk_ctx *ctx = b->job->ctx;
    const size_t count = (size_t)b->count + 1;
    *out = NULL;
    rk__weights *w = rk__calloc(ctx, 1, sizeof *w);
    if (!w || rk__at_close(ctx, weights_free, w)) {
        free(w);
        return RK_ENOMEM;
    }
    *w = (rk__weights){ .buckets = b, .flat = flat, .reads = reads, .arrived = b->count, .last = b->count };
    w->is = rk__calloc(ctx, count, sizeof *w->is);
    w->request = rk__calloc(ctx, count, sizeof *w->request);
    w->read = rk__calloc(ctx, count, sizeof *w->read);
    w->piece = rk__calloc(ctx, (size_t)b->job->ranks, sizeof *w->piece);
    w->guard = rk__calloc(ctx, (size_t)b->n + 1, sizeof *w->guard);
    RK_TRY(rk_failed(ctx));
    for (int k = b->count - 1; k >= 0; k--) {
        for (int i = b->bucket[k].first; i < b->bucket[k].end; i++) {
            RK_TRY(rk__tensor_move(b->t[i], flat + b->at[i]));
            w->guard[i] = (rk__guard){ w, i, need };
            b->t[i]->storage->guard = &w->guard[i];
        }
        w->is[k] = HERE;
        if (reads)
            forget(w, k);
    }
    *out = w;
    return RK_OK;
}
