#include "parallel/weights.h"

#include "core/tape.h"
#include "parallel/park.h"
#include "parallel/slots.h"

#include <stdlib.h>

/* Buckets of others' weights that a rank keeps: an operation reads up to three parameters, and a piece that
 * another rank reads may not go before a later collective is complete. */
enum { KEPT = 4 };
enum { MOST_COMING = 24 }; /* collectives under way at once */

typedef enum place { AWAY, COMING, HERE } place;

struct rk__weights {
    const rk__buckets *buckets;
    float *flat; /* the whole vector; NULL: in slots */
    rk__slots slots;
    float *own;       /* with slots: this rank's pieces, that of bucket k at packed[k] */
    int64_t *packed;  /* (count + 1) */
    float **slot;     /* (count) NULL: AWAY */
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
    rk__slots_free(&w->slots);
    free(w->packed);
    free(w->slot);
    free(w->is);
    free(w->request);
    free(w->read);
    free(w->piece);
    free(w->guard);
    free(w);
}

/* ---- where ---- */

/* The flat vector, for the elements of a bucket that is not AWAY. */
static float *whole(const rk__weights *w, int k)
{
    return w->flat ? w->flat : rk__flat_from(w->slot[k], w->buckets->bucket[k].all.from);
}

/* The flat vector, for this rank's piece of a bucket. */
static float *home(const rk__weights *w, int k)
{
    const int64_t first = w->buckets->bucket[k].piece[w->buckets->job->rank].from;
    return w->flat ? w->flat : rk__flat_from(w->own + w->packed[k], first);
}

/* A slot for the bucket, with this rank's piece in it. */
static rk_status take_slot(rk__weights *w, int k)
{
    const rk__job *j = w->buckets->job;
    const rk__bucket *b = &w->buckets->bucket[k];
    const rk__span mine = b->piece[j->rank];
    if (w->flat)
        return RK_OK;
    w->slot[k] = rk__slots_take(&w->slots, rk__span_size(b->all));
    return w->slot[k]
               ? rk__device_copy(j->ctx, (size_t)rk__span_size(mine) * sizeof(float),
                                 rk__flat_at(home(w, k), mine.from), rk__flat_at(whole(w, k), mine.from))
               : rk_failed(j->ctx);
}

/* [C] A bucket sets out. */
static rk_status start(rk__weights *w, int k)
{
    const rk__job *j = w->buckets->job;
    const rk__span *piece = w->buckets->bucket[k].piece;
    RK_TRY(take_slot(w, k));
    for (int r = 0; r < j->ranks; r++)
        w->piece[r] = (rk_leg){ rk__flat_at(whole(w, k), piece[r].from),
                                (size_t)rk__span_size(piece[r]) * sizeof(float) };
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
    const rk__span all = w->buckets->bucket[k].all, own = w->buckets->bucket[k].piece[j->rank];
    w->is[k] = AWAY;
    if (!w->flat) {
        rk__slots_give(&w->slots, w->slot[k]);
        w->slot[k] = NULL;
        return;
    }
    j->tensors->table->discard(j->tensors, w->flat + all.from, (size_t)(own.from - all.from) * sizeof(float));
    j->tensors->table->discard(j->tensors, w->flat + own.to, (size_t)(all.to - own.to) * sizeof(float));
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

/* The values of a parameter are in that flat vector for now. */
static void point(const rk__weights *w, int number, float *flat)
{
    w->buckets->t[number]->storage->data = rk__flat_at(flat, w->buckets->at[number]);
}

static void need(void *arg, int number, int64_t from, int64_t to)
{
    rk__weights *w = arg;
    const rk__buckets *b = w->buckets;
    const int k = b->of[number];
    int64_t own, own_end;
    if (to < 0 && w->reads) {
        if (w->reads->on)
            note(w->reads, w, k);
        if (!come(w, k))
            point(w, number, whole(w, k));
        return;
    }
    rk__bucket_piece(b, number, b->job->rank, &own, &own_end);
    if (to >= 0 && from >= own && to <= own_end)
        point(w, number, home(w, k));
    else if (w->is[k] == HERE)
        point(w, number, whole(w, k));
    else if (w->reads)
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

/* ---- making ---- */

/* The parameters' values move into the vector: on a device by way of the host, so that the network is never
 * there twice. */
static rk_status move_all(rk__weights *w)
{
    const rk__buckets *b = w->buckets;
    rk_comm *c = b->job->tensors;
    for (int i = 0; i < b->n; i++)
        RK_TRY(rk__park(b->t[i]));
    w->flat = c->table->alloc(c, (size_t)rk__buckets_total(b) * sizeof *w->flat);
    if (!w->flat)
        return rk_failed(c->ctx);
    for (int i = 0; i < b->n; i++)
        RK_TRY(rk__park_end(b->t[i], w->flat + b->at[i]));
    return RK_OK;
}

/* This rank's part of each parameter to the host, and the memory of all of it back to the device. */
static rk_status save_own(const rk__weights *w, float *host)
{
    const rk__buckets *b = w->buckets;
    for (int i = 0; i < b->n; i++) {
        const int k = b->of[i];
        const int64_t first = b->bucket[k].piece[b->job->rank].from;
        int64_t from, to;
        rk__bucket_piece(b, i, b->job->rank, &from, &to);
        if (from < to)
            RK_TRY(rk__tensor_read_range(b->t[i], from, to - from,
                                         host + w->packed[k] + b->at[i] + from - first));
        RK_TRY(rk__park_end(b->t[i], NULL));
    }
    return RK_OK;
}

/* This rank's pieces alone, side by side: by way of the host, so that never more than the network is on the
 * device. */
static rk_status move_own(rk__weights *w)
{
    rk_comm *c = w->buckets->job->tensors;
    const size_t bytes = (size_t)w->packed[w->buckets->count] * sizeof(float);
    float *host = rk__calloc(c->ctx, bytes, 1);
    if (!host)
        return RK_ENOMEM;
    rk_status st = save_own(w, host);
    if (!st && !(w->own = c->table->alloc(c, bytes)))
        st = rk_failed(c->ctx);
    if (!st && (st = c->ctx->device->copy_in(c->ctx->dev, w->own, host, bytes)))
        rk_fail(c->ctx, st, "weights cannot be copied to the device");
    free(host);
    return st;
}

static rk_status make_lists(rk__weights *w)
{
    rk_ctx *ctx = w->buckets->job->ctx;
    const size_t count = (size_t)w->buckets->count + 1;
    w->is = rk__calloc(ctx, count, sizeof *w->is);
    w->request = rk__calloc(ctx, count, sizeof *w->request);
    w->read = rk__calloc(ctx, count, sizeof *w->read);
    w->piece = rk__calloc(ctx, (size_t)w->buckets->job->ranks, sizeof *w->piece);
    w->guard = rk__calloc(ctx, (size_t)w->buckets->n + 1, sizeof *w->guard);
    w->packed = rk__calloc(ctx, count, sizeof *w->packed);
    w->slot = rk__calloc(ctx, count, sizeof(float *));
    RK_TRY(rk_failed(ctx));
    rk__buckets_pack(w->buckets, w->packed);
    return RK_OK;
}

rk_status rk__weights_make(const rk__buckets *b, rk__reads *reads, rk__weights **out)
{
    rk_ctx *ctx = b->job->ctx;
    *out = NULL;
    rk__weights *w = rk__calloc(ctx, 1, sizeof *w);
    if (!w || rk__at_close(ctx, weights_free, w)) {
        free(w);
        return RK_ENOMEM;
    }
    *w = (rk__weights){ .buckets = b, .reads = reads, .arrived = b->count, .last = b->count };
    rk__slots_init(&w->slots, b->job->tensors);
    RK_TRY(make_lists(w));
    RK_TRY(reads && rk__slots_save(b->job->tensors) ? move_own(w) : move_all(w));
    for (int i = 0; i < b->n; i++) {
        w->guard[i] = (rk__guard){ .arg = w, .number = i, .passing = reads != NULL, .need = need };
        b->t[i]->storage->guard = &w->guard[i];
    }
    for (int k = b->count - 1; k >= 0; k--) {
        w->is[k] = HERE;
        if (reads)
            forget(w, k);
    }
    *out = w;
    return RK_OK;
}
