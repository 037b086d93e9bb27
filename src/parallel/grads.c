#include "parallel/grads.h"

#include "core/cut.h"
#include "core/tape.h"
#include "parallel/scatter.h"
#include "parallel/slots.h"

#include <stdlib.h>
#include <string.h>

/* Exchanges under way at once; with gradients by piece buckets, whose memory is taken until they are over. */
enum { MOST_EXCHANGES = 32, BUCKETS_AHEAD = 2 };

/* A bucket on its way. */
typedef struct trip {
    int ready; /* parameters that have their gradient */
    rk__scattered sum;
    rk_request *request[RK_ORDER_PARTS];
    size_t *count; /* (ranks) elements of the pieces */
    rk_request *gather;
} trip;

struct rk__grads {
    rk__job *job;
    rk__zero zero;
    rk__buckets *b;
    rk__buckets *frozen;                   /* NULL: none by piece */
    rk__weights *weights, *frozen_weights; /* NULL with RK__ZERO_NONE; without frozen */
    rk__reads reads;
    trip *trip; /* (buckets) in the order in which gradients come */
    int trips;
    int started, passed, added, discarded; /* buckets; passed: rk__scatter_pass_on() */
    float *room; /* (buckets ahead, room_size) of rk__scatter; NULL: it needs none */
    int64_t room_size;
    float *part; /* (parts, total): this rank's subtrees; NULL: in slots, by bucket */
    rk__slots slots;
    float **slot;     /* (buckets) (parts, size of the bucket); NULL: nothing was written */
    rk__guard *guard; /* (parts, n) of gradients in slots */
    bool any_order;   /* sums are the communicator's own */
    bool summed;      /* gradients are where the sums are */
    float *sum; /* what all of them come to: (total) with RK__ZERO_NONE, else this rank's pieces, packed */
    int64_t *packed;     /* (buckets + 1) */
    rk__scatter scatter; /* the subtrees of all ranks */
    rk_leg *piece;       /* (ranks) */
};

static int64_t total(const rk__grads *g)
{
    return rk__buckets_total(g->b);
}

/* How many buckets may be under way. */
static int buckets_ahead(const rk__grads *g)
{
    if (g->zero >= RK__ZERO_GRADIENTS)
        return BUCKETS_AHEAD;
    return MOST_EXCHANGES > g->scatter.trips ? MOST_EXCHANGES / g->scatter.trips : 1;
}

static size_t room_bytes(const rk__grads *g)
{
    return (size_t)(buckets_ahead(g) * g->room_size) * sizeof *g->room;
}

static void grads_free(void *arg)
{
    rk__grads *g = arg;
    for (int k = 0; k < g->trips; k++) { /* the buckets have gone before */
        free(g->trip[k].sum.recv);
        free(g->trip[k].count);
    }
    free(g->trip);
    if (g->room)
        g->job->ctx->device->release(g->job->ctx->dev, g->room, room_bytes(g));
    rk__slots_free(&g->slots);
    free(g->slot);
    free(g->guard);
    free(g->packed);
    rk__reads_free(&g->reads);
    free(g->piece);
    rk__scatter_free(&g->scatter);
    free(g);
}

/* ---- where gradients are ---- */

/* Those of bucket k: the flat vector of part p is *stride * p further on. NULL: recorded. */
static float *parts_of(rk__grads *g, int k, int64_t *stride)
{
    const int64_t first = g->b->at[g->b->bucket[k].first], n = g->b->at[g->b->bucket[k].end] - first;
    *stride = g->part ? total(g) : n;
    if (g->part)
        return g->part;
    if (!g->slot[k])
        g->slot[k] = rk__slots_take(&g->slots, n * rk__job_parts(g->job));
    return g->slot[k] ? rk__flat_from(g->slot[k], first) : NULL;
}

/* The flat vector of the sums, for this rank's piece of bucket k. */
static float *sums_in(const rk__grads *g, int k)
{
    return g->packed ? rk__flat_from(g->sum + g->packed[k], g->b->bucket[k].piece[g->job->rank].from)
                     : g->sum;
}

/* A gradient in a slot is about to be written or read. */
static void need_slot(void *arg, int number, int64_t from, int64_t to)
{
    rk__grads *g = arg;
    const int i = number % g->b->n, p = number / g->b->n;
    int64_t stride;
    (void)from, (void)to;
    if (g->summed)
        return;
    float *flat = parts_of(g, g->b->of[i], &stride);
    rk_tensor *leaf = flat ? rk__part_leaf(g->b->t[i], p) : NULL;
    if (leaf)
        leaf->grad->storage->data = rk__flat_at(flat, p * stride + g->b->at[i]);
}

/* ---- the exchange ---- */

/* Gradients that nothing wrote are sums of nothing; those that were written elsewhere come home. */
static rk_status complete(rk__grads *g, int k)
{
    const rk__bucket *b = &g->b->bucket[k];
    int64_t stride;
    float *flat = parts_of(g, k, &stride);
    if (!flat)
        return rk_failed(g->job->ctx);
    for (int i = b->first; i < b->end; i++)
        for (int p = 0; p < rk__job_parts(g->job); p++) {
            rk_tensor *leaf = rk__part_leaf(g->b->t[i], p);
            if (!leaf)
                return RK_ENOMEM;
            float *home = rk__flat_at(flat, p * stride + g->b->at[i]);
            const size_t bytes = (size_t)rk_tensor_size(g->b->t[i]) * sizeof(float);
            rk_ctx *ctx = leaf->ctx;
            rk_status st = leaf->grad_set ? RK_OK : ctx->device->zero(ctx->dev, home, bytes);
            if (st)
                return rk_fail(ctx, st, "a gradient cannot be cleared");
            if (leaf->grad_set && rk__data(leaf->grad) != home)
                RK_TRY(rk__device_copy(ctx, bytes, rk__data(leaf->grad), home));
        }
    return RK_OK;
}

static void give_slot(rk__grads *g, int k)
{
    rk__slots_give(&g->slots, g->slot[k]);
    g->slot[k] = NULL;
}

/* This rank's parts of buckets [g->discarded, end) have been read by everyone. */
static void discard_parts(rk__grads *g, int end)
{
    rk_comm *c = g->job->tensors;
    for (; g->part && g->zero >= RK__ZERO_GRADIENTS && g->discarded < end; g->discarded++) {
        const rk__bucket *b = &g->b->bucket[g->discarded];
        for (int p = 0; p < rk__job_parts(g->job); p++)
            c->table->discard(c, g->part + p * total(g) + g->b->at[b->first],
                              (size_t)(g->b->at[b->end] - g->b->at[b->first]) * sizeof(float));
    }
}

/* Buckets up to k go on to other nodes. */
static rk_status pass_on(rk__grads *g, int k)
{
    for (; g->passed <= k && !g->any_order; g->passed++)
        RK_TRY(rk__scatter_pass_on(&g->scatter, "gradients by node", &g->trip[g->passed].sum));
    return RK_OK;
}

/* What arrives for the next bucket, added in order. Its exchange was started when the one BUCKETS_AHEAD
 * before it had been added, so that everyone has read that one now. */
static rk_status add_bucket(rk__grads *g)
{
    const int k = g->added++;
    trip *t = &g->trip[k];
    RK_TRY(pass_on(g, k));
    if (g->any_order)
        RK_TRY(g->job->tensors->table->wait(g->job->tensors, t->request[0]));
    else
        RK_TRY(rk__scatter_add(&g->scatter, &t->sum,
                               rk__flat_at(sums_in(g, k), t->sum.piece[g->job->rank].from)));
    discard_parts(g, k - BUCKETS_AHEAD + 1);
    if (!g->part)
        give_slot(g, k); /* what left has left, and nobody reads it here */
    return RK_OK;
}

/* Sums in the communicator's own order: what this rank has is added up first. */
static rk_status start_sum(rk__grads *g, int k, float *flat, int64_t stride)
{
    const rk__job *j = g->job;
    const rk__bucket *b = &g->b->bucket[k];
    const bool all = g->zero == RK__ZERO_NONE;
    float *in = rk__flat_at(flat, b->all.from);
    for (int p = 1; p < rk__job_parts(j); p++) {
        rk_status st = rk__kernels(j->ctx, RK_F32)
                           ->add(j->ctx->dev, rk__span_size(b->all), in, rk__flat_at(in, p * stride), 0, in);
        if (st)
            return rk_fail(j->ctx, st, "gradients cannot be added");
    }
    return j->tensors->table->sum(j->tensors, "gradients", in, g->trip[k].count, all,
                                  rk__flat_at(sums_in(g, k), all ? b->all.from : b->piece[j->rank].from),
                                  &g->trip[k].request[0]);
}

static rk_status start_bucket(rk__grads *g)
{
    const int k = g->started++, ahead = buckets_ahead(g);
    int64_t stride;
    RK_TRY(complete(g, k));
    while (k - g->added >= ahead)
        RK_TRY(add_bucket(g));
    float *flat = parts_of(g, k, &stride);
    if (g->any_order)
        return start_sum(g, k, flat, stride);
    g->trip[k].sum.flat = flat;
    g->trip[k].sum.stride = stride;
    g->trip[k].sum.room = g->room ? g->room + k % ahead * g->room_size : NULL;
    RK_TRY(rk__scatter_start(&g->scatter, "gradients", &g->trip[k].sum));
    return pass_on(g, k - 1); /* which the others of the node have started by now, or soon will */
}

/* The walk is done with a parameter. Buckets set out in their order, which is the same on all ranks. */
static void on_ready(void *arg, rk_tensor *leaf)
{
    rk__grads *g = arg;
    rk_comm *c = g->job->tensors;
    const int i = rk__bucket_find(g->b, leaf);
    if (i >= 0)
        g->trip[g->b->of[i]].ready++;
    while (g->started < g->b->count) {
        const rk__bucket *b = &g->b->bucket[g->started];
        if (g->trip[g->started].ready < b->end - b->first)
            break;
        if (start_bucket(g))
            return;
    }
    if (g->started)
        c->table->progress(c, NULL);
}

void rk__grads_begin(rk__grads *g, bool overlap)
{
    rk_ctx *ctx = g->job->ctx;
    discard_parts(g, g->added); /* norms and weights have met since */
    g->summed = false;
    for (int k = 0; !g->part && k < g->b->count; k++)
        give_slot(g, k); /* of a batch that was given up */
    for (int i = 0; i < g->b->n; i++) {
        if (g->part)
            g->b->t[i]->grad->storage->data = g->part + g->b->at[i];
        g->b->t[i]->pending = 0;
    }
    for (int k = 0; k < g->b->count; k++)
        g->trip[k].ready = 0;
    g->started = g->passed = g->added = g->discarded = 0;
    ctx->on_ready = overlap ? (rk__on_ready){ g, on_ready } : (rk__on_ready){ 0 };
}

/* Everyone's pieces of the sums to everyone. */
static rk_status gather_sums(rk__grads *g)
{
    const rk__job *j = g->job;
    for (int k = 0; k < g->b->count; k++) {
        const rk__span *piece = g->b->bucket[k].piece;
        for (int r = 0; r < j->ranks; r++)
            g->piece[r] = (rk_leg){ g->sum + piece[r].from, (size_t)rk__span_size(piece[r]) * sizeof(float) };
        if (k >= MOST_EXCHANGES)
            RK_TRY(j->tensors->table->wait(j->tensors, g->trip[k - MOST_EXCHANGES].gather));
        RK_TRY(j->tensors->table->all_gather(j->tensors, "gradients", g->piece, &g->trip[k].gather));
    }
    for (int k = g->b->count > MOST_EXCHANGES ? g->b->count - MOST_EXCHANGES : 0; k < g->b->count; k++)
        RK_TRY(j->tensors->table->wait(j->tensors, g->trip[k].gather));
    return RK_OK;
}

rk_status rk__grads_sum(rk__grads *g)
{
    rk_ctx *ctx = g->job->ctx;
    ctx->on_ready = (rk__on_ready){ 0 };
    RK_TRY(rk_failed(ctx));
    RK_TRY(rk__grads_settle(g)); /* weights are changed next: nobody reads the old ones when this is over */
    while (g->started < g->b->count)
        RK_TRY(start_bucket(g));
    while (g->added < g->b->count)
        RK_TRY(add_bucket(g));
    if (g->zero == RK__ZERO_NONE && !g->any_order)
        RK_TRY(gather_sums(g));
    for (int i = 0; i < g->b->n; i++) {
        g->b->t[i]->grad->storage->data = rk__flat_at(sums_in(g, g->b->of[i]), g->b->at[i]);
        g->b->t[i]->grad_set = true;
    }
    g->summed = true;
    return RK_OK;
}

/* ---- weights ---- */

rk_status rk__grads_weights_changed(rk__grads *g)
{
    return g->weights ? rk__weights_changed(g->weights) : RK_OK;
}

rk_status rk__grads_settle(rk__grads *g)
{
    if (g->frozen_weights)
        RK_TRY(rk__weights_settle(g->frozen_weights));
    return g->weights ? rk__weights_settle(g->weights) : RK_OK;
}

rk_status rk__grads_hold(rk__grads *g)
{
    RK_TRY(rk__grads_settle(g));
    return g->job->comm->table->barrier(g->job->comm, "weights");
}

void rk__grads_note_reads(rk__grads *g, bool on)
{
    rk__reads_note(&g->reads, on);
}

rk_status rk__grads_repeat_reads(rk__grads *g)
{
    return rk__reads_repeat(&g->reads);
}

/* ---- making ---- */

static rk_status make_trips(rk__grads *g)
{
    rk_ctx *ctx = g->job->ctx;
    const size_t ranks = (size_t)g->job->ranks;
    g->trip = rk__calloc(ctx, (size_t)g->b->count + 1, sizeof *g->trip);
    g->trips = g->trip ? g->b->count : 0;
    for (int k = 0; g->trip && k < g->b->count; k++) {
        const rk__span *piece = g->b->bucket[k].piece;
        g->trip[k].sum = (rk__scattered){ .piece = piece, .request = g->trip[k].request };
        g->trip[k].sum.recv = rk__calloc(ctx, (size_t)g->scatter.trips * ranks, sizeof(rk_leg));
        g->trip[k].count = rk__calloc(ctx, ranks, sizeof(size_t));
        for (size_t r = 0; g->trip[k].count && r < ranks; r++)
            g->trip[k].count[r] = (size_t)rk__span_size(piece[r]);
        const int64_t n = g->any_order ? 0 : rk__scatter_room(&g->scatter, piece);
        g->room_size = n > g->room_size ? n : g->room_size;
    }
    return rk_failed(ctx);
}

static rk_status make_room(rk__grads *g)
{
    rk_ctx *ctx = g->job->ctx;
    void *p;
    if (!g->room_size)
        return RK_OK;
    RK_TRY(rk__device_alloc(ctx, room_bytes(g), "a node's sums of gradients", &p));
    g->room = p;
    return RK_OK;
}

static rk_status take_lists(rk__grads *g)
{
    rk_ctx *ctx = g->job->ctx;
    const rk__job *j = g->job;
    RK_TRY(rk__scatter_init(&g->scatter, g->job, j->part, j->first));
    g->piece = rk__calloc(ctx, (size_t)j->ranks, sizeof *g->piece);
    return rk_failed(ctx);
}

/* The leaf of part p writes its gradient to `to`. */
static rk_status place(rk_tensor *leaf, float *to)
{
    if (!leaf)
        return RK_ENOMEM;
    if (!leaf->grad) {
        leaf->grad = rk__tensor_over(leaf->ctx, leaf->dtype, leaf->shape, to);
        if (rk__is_inert(leaf->grad)) {
            leaf->grad = NULL;
            return rk_failed(leaf->ctx);
        }
        leaf->grad->holds_grad = true;
    }
    leaf->grad->storage->data = to;
    return RK_OK;
}

/* [C] Memory that the ranks share, in which pages of the host take room only when something is written there.
 */
static rk_status share(const rk__job *j, int64_t n, float **out)
{
    *out = j->tensors->table->alloc(j->tensors, (size_t)n * sizeof(float));
    return *out ? RK_OK : rk_failed(j->ctx);
}

static rk_status make_weights(rk__grads *g, const rk__grads_cfg *cfg)
{
    rk__reads *by_piece = g->zero >= RK__ZERO_WEIGHTS ? &g->reads : NULL;
    if (g->zero == RK__ZERO_NONE)
        return RK_OK;
    RK_TRY(rk__weights_make(g->b, by_piece, &g->weights));
    if (!by_piece || cfg->n_frozen == 0)
        return RK_OK;
    RK_TRY(rk__buckets_lay_out(g->job, cfg->frozen, cfg->n_frozen, &g->frozen));
    RK_TRY(rk__buckets_cut(g->frozen, cfg->bucket, true));
    return rk__weights_make(g->frozen, by_piece, &g->frozen_weights);
}

static rk_status make_sum(rk__grads *g)
{
    if (g->zero == RK__ZERO_NONE)
        return share(g->job, total(g), &g->sum);
    g->packed = rk__calloc(g->job->ctx, (size_t)g->b->count + 1, sizeof *g->packed);
    if (!g->packed)
        return RK_ENOMEM;
    rk__buckets_pack(g->b, g->packed);
    return share(g->job, g->packed[g->b->count], &g->sum);
}

/* Gradients that stand in slots begin nowhere. */
static rk_status make_parts(rk__grads *g)
{
    rk__job *j = g->job;
    const int parts = rk__job_parts(j), n = g->b->n;
    const bool in_slots = g->zero >= RK__ZERO_GRADIENTS && rk__slots_save(j->tensors);
    rk__slots_init(&g->slots, j->tensors);
    if (in_slots) {
        g->slot = rk__calloc(j->ctx, (size_t)g->b->count + 1, sizeof(float *));
        g->guard = rk__calloc(j->ctx, (size_t)(n * parts) + 1, sizeof *g->guard);
        RK_TRY(rk_failed(j->ctx));
    } else {
        RK_TRY(share(j, total(g) * parts, &g->part));
    }
    for (int i = 0; i < n * parts; i++) {
        rk_tensor *leaf = rk__part_leaf(g->b->t[i % n], i / n);
        RK_TRY(place(leaf, in_slots ? g->sum : g->part + i / n * total(g) + g->b->at[i % n]));
        if (!in_slots)
            continue;
        g->guard[i] = (rk__guard){ .arg = g, .number = i, .need = need_slot };
        leaf->grad->storage->guard = &g->guard[i];
    }
    return RK_OK;
}

rk_status rk__grads_make(rk__job *j, const rk__grads_cfg *cfg, rk__grads **out)
{
    rk_ctx *ctx = j->ctx;
    *out = NULL;
    rk__grads *g = rk__calloc(ctx, 1, sizeof *g);
    if (!g || rk__at_close(ctx, grads_free, g)) {
        free(g);
        return RK_ENOMEM;
    }
    *g = (rk__grads){ .job = j, .zero = cfg->zero, .any_order = rk__job_any_order(j) };
    RK_TRY(rk__buckets_lay_out(j, cfg->t, cfg->n, &g->b));
    RK_TRY(take_lists(g));
    RK_TRY(rk__buckets_cut(g->b, cfg->bucket, cfg->zero >= RK__ZERO_GRADIENTS));
    RK_TRY(make_trips(g));
    RK_TRY(make_room(g));
    RK_TRY(make_weights(g, cfg)); /* first: it may give memory back */
    RK_TRY(make_sum(g));
    RK_TRY(make_parts(g));
    *out = g;
    return RK_OK;
}

/* ---- pieces ---- */

void rk__grads_piece(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to)
{
    const int i = g->zero == RK__ZERO_NONE ? -1 : rk__bucket_find(g->b, t);
    *from = 0;
    *to = rk_tensor_size(t);
    if (i >= 0)
        rk__bucket_piece(g->b, i, g->job->rank, from, to);
}

void rk__grads_held(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to)
{
    const int i = g->frozen ? rk__bucket_find(g->frozen, t) : -1;
    *from = 0;
    *to = rk_tensor_size(t);
    if (i >= 0)
        rk__bucket_piece(g->frozen, i, g->job->rank, from, to);
    else if (g->zero >= RK__ZERO_WEIGHTS)
        rk__grads_piece(g, t, from, to);
}

void rk__grads_share(const rk__grads *g, const rk_tensor *t, int r, int64_t *from, int64_t *to)
{
    const int i = rk__bucket_find(g->b, t);
    *from = *to = 0;
    if (i >= 0)
        rk__bucket_piece(g->b, i, r, from, to);
}

rk__job *rk__grads_job(const rk__grads *g)
{
    return g->job;
}

/* ---- what it costs ---- */

/* To be added up, of a bucket; *far: between nodes. */
static int64_t scattered(const rk__grads *g, const rk__bucket *b, int64_t *far)
{
    const rk__job *j = g->job;
    int64_t n = 0;
    if (!g->any_order)
        return rk__scatter_bytes(&g->scatter, b->piece, far);
    *far = 0;
    for (int r = 0; r < j->ranks; r++) {
        const int64_t bytes = rk__span_size(b->piece[r]) * (int64_t)sizeof(float);
        n += r == j->rank ? 0 : bytes;
        *far += j->nodes.of[r] == j->nodes.of[j->rank] ? 0 : bytes;
    }
    return n;
}

size_t rk__grads_bytes(const rk__grads *g, size_t *far)
{
    const rk__job *j = g->job;
    const int64_t own = rk__buckets_own(g->b), frozen = g->frozen ? rk__buckets_own(g->frozen) : 0;
    const int gathers = g->zero >= RK__ZERO_WEIGHTS ? 2 : 1; /* both walks read the weights */
    const int64_t gathered = (own + frozen) * gathers * (int64_t)sizeof(float);
    int64_t sent = gathered * (j->ranks - 1), away = gathered * (j->comm->nodes - 1), bucket_away;
    for (int k = 0; k < g->b->count; k++) {
        sent += scattered(g, &g->b->bucket[k], &bucket_away);
        away += bucket_away;
    }
    *far = (size_t)away;
    return (size_t)sent;
}

bool rk__grads_by_node(const rk__grads *g)
{
    return g->scatter.sums > 0 && !g->any_order;
}

int rk__grads_buckets(const rk__grads *g, size_t *full)
{
    *full = (size_t)g->b->bytes;
    return g->b->count;
}

size_t rk__grads_memory(const rk__grads *g)
{
    const size_t all = (size_t)total(g) * sizeof(float), parts = (size_t)rk__job_parts(g->job);
    const size_t own = (size_t)rk__buckets_own(g->b) * sizeof(float);
    const size_t at_hand = rk__buckets_largest(g->b);
    size_t bytes = (g->zero == RK__ZERO_NONE ? all : own) + room_bytes(g);
    bytes += g->zero >= RK__ZERO_GRADIENTS ? parts * at_hand * (2 * BUCKETS_AHEAD + 1) : parts * all;
    if (g->zero >= RK__ZERO_WEIGHTS)
        bytes += rk__weights_at_hand(g->weights) + (g->frozen ? rk__weights_at_hand(g->frozen_weights) : 0);
    return bytes;
}
