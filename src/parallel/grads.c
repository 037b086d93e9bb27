#include "parallel/grads.h"

#include "core/clock.h"
#include "core/cut.h"
#include "parallel/tree.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* floats of a cache line: parameters begin at one */
enum { LEAST_BUCKET = 256 << 10, MOST_BUCKET = 32 << 20, TRIES = 5 };

/* Neighbouring parameters whose gradients set out together. */
typedef struct bucket {
    int first, end;  /* parameters */
    int ready;       /* of them have their gradient */
    int64_t *bound;  /* (ranks + 1) piece r is [bound[r], bound[r + 1]) of the flat vector */
    int64_t *chunks; /* (ranks + 1) where the chunk sums of piece r stand */
    rk_leg *recv;    /* (most_parts, ranks) */
    rk_request *request[RK_ORDER_PARTS];
} bucket;

struct rk__grads {
    rk__job *job;
    rk__zero zero;
    rk_tensor **t;
    int n;
    int64_t *at;    /* (n + 1) where parameter i begins in the flat vector */
    int64_t *chunk; /* (n + 1) number of parameter i's first chunk */
    bucket *bucket; /* in the order in which gradients come: the last parameters first */
    int buckets, started;
    size_t bucket_bytes;  /* a bucket with so many is full */
    float *part;          /* (parts, total): this rank's subtrees */
    float *sum;           /* (total): what all of them come to; others' pieces only with RK__ZERO_NONE */
    float *weights;       /* (total): where the parameters lie; NULL with RK__ZERO_NONE */
    double *squares;      /* (chunks) by rank, bucket, parameter */
    double *sorted;       /* (chunks) by parameter */
    int most_parts;       /* of any rank */
    rk_leg *send, *piece; /* (ranks) */
    rk_request **gathers; /* (buckets) */
    const float **from;   /* (parts of all ranks) */
};

static int64_t total(const rk__grads *g)
{
    return g->at[g->n];
}

static void grads_free(void *arg)
{
    rk__grads *g = arg;
    for (int b = 0; b < g->buckets; b++) {
        free(g->bucket[b].bound);
        free(g->bucket[b].chunks);
        free(g->bucket[b].recv);
    }
    free(g->bucket);
    free(g->t);
    free(g->at);
    free(g->chunk);
    free(g->squares);
    free(g->sorted);
    free(g->send);
    free(g->piece);
    free(g->gathers);
    free(g->from);
    free(g);
}

/* ---- who has what ---- */

/* Elements of a parameter whose squares are summed by themselves: pieces begin there. */
static int64_t chunk_of(const rk_tensor *t)
{
    return t->cut ? rk_tensor_size(t) / t->shape.dim[0] : RK_CHUNK;
}

/* How many sums the squares of the first n elements of a piece of t come to. */
static int64_t sums_of(const rk_tensor *t, int64_t n)
{
    int64_t each = t->cut ? rk__cut_row_sums(t->ctx, t->cut->axis) : 1;
    return (n + chunk_of(t) - 1) / chunk_of(t) * each;
}

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

/* The elements of parameter i, of bucket b, in the piece of rank r. */
static void piece_of(const rk__grads *g, const bucket *b, int i, int r, int64_t *from, int64_t *to)
{
    const int64_t size = rk_tensor_size(g->t[i]);
    *from = clamp(b->bound[r] - g->at[i], 0, size);
    *to = clamp(b->bound[r + 1] - g->at[i], *from, size);
}

/* The bucket of a parameter, and its number; NULL: it is none of ours. */
static bucket *find(const rk__grads *g, const rk_tensor *t, int *number)
{
    for (int k = 0; k < g->buckets; k++)
        for (*number = g->bucket[k].first; *number < g->bucket[k].end; ++*number)
            if (g->t[*number] == t)
                return &g->bucket[k];
    return NULL;
}

/* Where in the bucket a piece may begin that would best begin at `wish`: at a chunk of a parameter. */
static int64_t cut_near(const rk__grads *g, const bucket *b, int64_t wish)
{
    int i = b->first;
    while (i + 1 < b->end && g->at[i + 1] <= wish)
        i++;
    const int64_t chunk = chunk_of(g->t[i]), below = g->at[i] + (wish - g->at[i]) / chunk * chunk;
    const int64_t above = below + chunk < g->at[i + 1] ? below + chunk : g->at[i + 1];
    return wish - below <= above - wish ? below : above;
}

static rk_status make_bucket(rk__grads *g, bucket *b, int first, int end)
{
    rk_ctx *ctx = g->job->ctx;
    const int ranks = g->job->ranks;
    const int64_t lo = g->at[first], n = g->at[end] - lo;
    *b = (bucket){ .first = first, .end = end };
    b->bound = rk__calloc(ctx, (size_t)ranks + 1, sizeof *b->bound);
    b->chunks = rk__calloc(ctx, (size_t)ranks + 1, sizeof *b->chunks);
    b->recv = rk__calloc(ctx, (size_t)(g->most_parts * ranks), sizeof *b->recv);
    RK_TRY(rk_failed(ctx));
    b->bound[0] = lo;
    b->bound[ranks] = lo + n;
    for (int r = 1; r < ranks; r++)
        b->bound[r] = cut_near(g, b, lo + n * r / ranks);
    return RK_OK;
}

/* The chunk sums that a rank makes stand together, so that they travel as one. */
static void place_chunks(rk__grads *g)
{
    int64_t at = 0;
    for (int r = 0; r < g->job->ranks; r++)
        for (int k = 0; k < g->buckets; k++) {
            bucket *b = &g->bucket[k];
            b->chunks[r] = at;
            for (int i = b->first; i < b->end; i++) {
                int64_t from, to;
                piece_of(g, b, i, r, &from, &to);
                at += sums_of(g->t[i], to - from);
            }
        }
}

static rk_status make_buckets(rk__grads *g, size_t bytes)
{
    g->bucket_bytes = bytes;
    g->bucket = rk__calloc(g->job->ctx, (size_t)g->n + 1, sizeof *g->bucket);
    if (!g->bucket)
        return RK_ENOMEM;
    for (int end = g->n, first; end > 0; end = first) {
        first = end - 1;
        while (first > 0 && (size_t)(g->at[end] - g->at[first]) * sizeof(float) < bytes)
            first--;
        RK_TRY(make_bucket(g, &g->bucket[g->buckets++], first, end));
    }
    place_chunks(g);
    g->gathers = rk__calloc(g->job->ctx, (size_t)g->buckets, sizeof(rk_request *));
    return rk_failed(g->job->ctx);
}

/* ---- the exchange ---- */

/* Part number p of every rank sets out: piece r to rank r. */
static rk_status start_part(rk__grads *g, bucket *b, int p)
{
    const rk__job *j = g->job;
    rk_leg *recv = b->recv + p * j->ranks;
    for (int r = 0; r < j->ranks; r++) {
        bool mine = p < rk__job_parts(j), theirs = j->first[r] + p < j->first[r + 1];
        int64_t out = b->bound[r + 1] - b->bound[r], in = b->bound[j->rank + 1] - b->bound[j->rank];
        g->send[r] = (rk_leg){ g->part + p * total(g) + b->bound[r], mine ? (size_t)out * sizeof(float) : 0 };
        recv[r] = (rk_leg){ NULL, theirs ? (size_t)in * sizeof(float) : 0 };
    }
    return j->comm->table->exchange(j->comm, "gradients", g->send, recv, &b->request[p]);
}

/* Gradients that nothing wrote are sums of nothing; those that were written elsewhere come home. */
static rk_status complete(rk__grads *g, const bucket *b)
{
    for (int i = b->first; i < b->end; i++)
        for (int p = 0; p < rk__job_parts(g->job); p++) {
            rk_tensor *leaf = rk__part_leaf(g->t[i], p);
            if (!leaf)
                return RK_ENOMEM;
            float *home = g->part + p * total(g) + g->at[i];
            size_t bytes = (size_t)rk_tensor_size(leaf) * sizeof(float);
            if (!leaf->grad_set)
                memset(home, 0, bytes);
            else if (rk__data(leaf->grad) != home)
                memcpy(home, rk__data(leaf->grad), bytes);
        }
    return RK_OK;
}

static rk_status start_bucket(rk__grads *g, bucket *b)
{
    RK_TRY(complete(g, b));
    for (int p = 0; p < g->most_parts; p++)
        RK_TRY(start_part(g, b, p));
    return RK_OK;
}

/* The walk is done with a parameter. Buckets set out in their order, which is the same on all ranks. */
static void on_ready(void *arg, rk_tensor *leaf)
{
    rk__grads *g = arg;
    rk_comm *c = g->job->comm;
    int i;
    bucket *b = find(g, leaf, &i);
    if (b)
        b->ready++;
    while (g->started < g->buckets &&
           g->bucket[g->started].ready == g->bucket[g->started].end - g->bucket[g->started].first)
        if (start_bucket(g, &g->bucket[g->started++]))
            return;
    if (g->started)
        c->table->progress(c, NULL);
}

void rk__grads_begin(rk__grads *g, bool overlap)
{
    rk_ctx *ctx = g->job->ctx;
    for (int i = 0; i < g->n; i++) {
        g->t[i]->grad->storage->data = g->part + g->at[i];
        g->t[i]->pending = 0;
    }
    for (int k = 0; k < g->buckets; k++)
        g->bucket[k].ready = 0;
    g->started = 0;
    ctx->on_ready = overlap ? (rk__on_ready){ g, on_ready } : (rk__on_ready){ 0 };
}

/* What arrived for a bucket, added in order. */
static rk_status add_bucket(rk__grads *g, const bucket *b)
{
    const rk__job *j = g->job;
    const int64_t lo = b->bound[j->rank], n = b->bound[j->rank + 1] - lo;
    for (int p = 0; p < g->most_parts; p++)
        for (int r = 0; r < j->ranks; r++)
            if (j->first[r] + p < j->first[r + 1])
                g->from[j->first[r] + p] = b->recv[p * j->ranks + r].data;
    return rk__tree_add(j->ctx, n, j->parts, j->part, g->from, g->sum + lo);
}

/* Everyone's pieces of a flat vector to everyone. */
static rk_status gather(rk__grads *g, const char *name, float *flat)
{
    const rk__job *j = g->job;
    for (int k = 0; k < g->buckets; k++) {
        const int64_t *bound = g->bucket[k].bound;
        for (int r = 0; r < j->ranks; r++)
            g->piece[r] = (rk_leg){ flat + bound[r], (size_t)(bound[r + 1] - bound[r]) * sizeof(float) };
        RK_TRY(j->comm->table->all_gather(j->comm, name, g->piece, &g->gathers[k]));
    }
    for (int k = 0; k < g->buckets; k++)
        RK_TRY(j->comm->table->wait(j->comm, g->gathers[k]));
    return RK_OK;
}

rk_status rk__grads_sum(rk__grads *g)
{
    rk__job *j = g->job;
    j->ctx->on_ready = (rk__on_ready){ 0 };
    RK_TRY(rk_failed(j->ctx));
    while (g->started < g->buckets)
        RK_TRY(start_bucket(g, &g->bucket[g->started++]));
    for (int k = 0; k < g->buckets; k++)
        for (int p = 0; p < g->most_parts; p++)
            RK_TRY(j->comm->table->wait(j->comm, g->bucket[k].request[p]));
    for (int k = 0; k < g->buckets; k++)
        RK_TRY(add_bucket(g, &g->bucket[k]));
    if (g->zero == RK__ZERO_NONE)
        RK_TRY(gather(g, "gradients", g->sum));
    for (int i = 0; i < g->n; i++) {
        g->t[i]->grad->storage->data = g->sum + g->at[i];
        g->t[i]->grad_set = true;
    }
    return RK_OK;
}

rk_status rk__grads_gather_weights(rk__grads *g)
{
    return g->weights ? gather(g, "weights", g->weights) : RK_OK;
}

/* ---- making ---- */

static rk_status lay_out(rk__grads *g, rk_tensor *const *t)
{
    for (int i = 0; i < g->n; i++) {
        g->t[i] = t[i];
        g->at[i + 1] = g->at[i] + (rk_tensor_size(t[i]) + ALIGN - 1) / ALIGN * ALIGN;
        g->chunk[i + 1] = g->chunk[i] + sums_of(t[i], rk_tensor_size(t[i]));
    }
    for (int r = 0; r < g->job->ranks; r++) {
        int parts = g->job->first[r + 1] - g->job->first[r];
        g->most_parts = parts > g->most_parts ? parts : g->most_parts;
    }
    return RK_OK;
}

static rk_status take_memory(rk__grads *g)
{
    rk_ctx *ctx = g->job->ctx;
    rk_comm *c = g->job->comm;
    size_t bytes = (size_t)total(g) * sizeof(float);
    g->part = c->table->alloc(c, bytes * (size_t)rk__job_parts(g->job));
    g->sum = c->table->alloc(c, bytes);
    if (g->zero != RK__ZERO_NONE)
        g->weights = c->table->alloc(c, bytes);
    g->squares = rk__calloc(ctx, (size_t)g->chunk[g->n], sizeof *g->squares);
    g->sorted = rk__calloc(ctx, (size_t)g->chunk[g->n], sizeof *g->sorted);
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

/* [C] Seconds that gathering the first n floats from all ranks takes, at best. */
static rk_status time_gather(rk__grads *g, int64_t n, double *seconds)
{
    rk__job *j = g->job;
    *seconds = 1e9;
    for (int r = 0; r < j->ranks; r++)
        g->piece[r] =
            (rk_leg){ g->sum + n * r / j->ranks, (size_t)(n * (r + 1) / j->ranks - n * r / j->ranks) * 4 };
    for (int i = 0; i < TRIES; i++) {
        RK_TRY(j->comm->table->barrier(j->comm, "measurement"));
        double begun = rk__seconds();
        RK_TRY(rk__comm_all_gather(j->comm, "measurement", g->piece));
        double took = rk__seconds() - begun;
        *seconds = took < *seconds ? took : *seconds;
    }
    return RK_OK;
}

/* [C] The size at which a message takes eight times as long as an empty one: larger ones gain little speed,
 * and set out later. */
static rk_status measure_bucket(rk__grads *g, size_t *bytes)
{
    const int64_t small = total(g) < 256 ? total(g) : 256, large = total(g) < 1 << 20 ? total(g) : 1 << 20;
    double few, many;
    RK_TRY(time_gather(g, small, &few));
    RK_TRY(time_gather(g, large, &many));
    double per_byte = (many - few) / ((double)(large - small + 1) * sizeof(float));
    double wish = per_byte > 0 ? 8 * few / per_byte : MOST_BUCKET;
    int64_t size = clamp((int64_t)(wish < MOST_BUCKET ? wish : MOST_BUCKET), LEAST_BUCKET, MOST_BUCKET);
    RK_TRY(rk__comm_broadcast(g->job->comm, "bucket size", 0, &size, sizeof size));
    *bytes = (size_t)size;
    return RK_OK;
}

rk_status rk__grads_make(rk__job *j, rk_tensor *const *t, int n, rk__zero zero, rk__grads **out)
{
    rk_ctx *ctx = j->ctx;
    size_t bytes, ranks = (size_t)j->ranks;
    *out = NULL;
    rk__grads *g = rk__calloc(ctx, 1, sizeof *g);
    if (!g || rk__at_close(ctx, grads_free, g)) {
        free(g);
        return RK_ENOMEM;
    }
    *g = (rk__grads){ .job = j, .n = n, .zero = zero };
    g->t = rk__calloc(ctx, (size_t)n, sizeof *g->t);
    g->at = rk__calloc(ctx, (size_t)n + 1, sizeof *g->at);
    g->chunk = rk__calloc(ctx, (size_t)n + 1, sizeof *g->chunk);
    g->send = rk__calloc(ctx, ranks, sizeof *g->send);
    g->piece = rk__calloc(ctx, ranks, sizeof *g->piece);
    g->from = rk__calloc(ctx, (size_t)j->parts, sizeof *g->from);
    RK_TRY(rk_failed(ctx));
    RK_TRY(lay_out(g, t));
    RK_TRY(take_memory(g));
    RK_TRY(measure_bucket(g, &bytes));
    RK_TRY(make_buckets(g, bytes));
    for (int i = 0; i < n; i++)
        for (int p = 0; p < rk__job_parts(j); p++)
            RK_TRY(place(rk__part_leaf(t[i], p), g->part + p * total(g) + g->at[i]));
    for (int i = 0; i < n && g->weights; i++)
        RK_TRY(rk__tensor_move(t[i], g->weights + g->at[i]));
    *out = g;
    return RK_OK;
}

/* ---- pieces ---- */

void rk__grads_piece(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to)
{
    *from = 0;
    *to = rk_tensor_size(t);
    int i;
    const bucket *b = g->zero == RK__ZERO_NONE ? NULL : find(g, t, &i);
    if (b)
        piece_of(g, b, i, g->job->rank, from, to);
}

/* Those of n elements of t's gradient. */
static rk_status squares_of(rk_ctx *ctx, const rk_tensor *t, int64_t n, const float *x, double *sums)
{
    const int64_t chunk = chunk_of(t);
    if (t->cut)
        return rk__cut_row_squares(ctx, n / chunk, chunk, t->cut->axis, x, sums);
    rk_status st = rk__kernels(ctx, RK_F32)->chunk_squares(ctx->dev, n, x, sums);
    return st ? rk_fail(ctx, st, "the norm of the gradients cannot be computed") : RK_OK;
}

/* The chunk sums of this rank's pieces. */
static rk_status own_squares(rk__grads *g)
{
    rk_ctx *ctx = g->job->ctx;
    for (int k = 0; k < g->buckets; k++) {
        const bucket *b = &g->bucket[k];
        double *at = g->squares + b->chunks[g->job->rank];
        for (int i = b->first; i < b->end; i++) {
            int64_t from, to;
            piece_of(g, b, i, g->job->rank, &from, &to);
            RK_TRY(squares_of(ctx, g->t[i], to - from, g->sum + g->at[i] + from, at));
            at += sums_of(g->t[i], to - from);
        }
    }
    return RK_OK;
}

/* From the order of ranks to that of parameters. */
static void sort_squares(rk__grads *g)
{
    for (int k = 0; k < g->buckets; k++)
        for (int r = 0; r < g->job->ranks; r++) {
            const bucket *b = &g->bucket[k];
            const double *at = g->squares + b->chunks[r];
            for (int i = b->first; i < b->end; i++) {
                int64_t from, to;
                piece_of(g, b, i, r, &from, &to);
                const int64_t n = sums_of(g->t[i], to - from);
                memcpy(g->sorted + g->chunk[i] + sums_of(g->t[i], from), at, (size_t)n * sizeof *at);
                at += n;
            }
        }
}

rk_status rk__grads_squares(rk__grads *g, double *squares)
{
    const rk__job *j = g->job;
    RK_TRY(own_squares(g));
    for (int r = 0; r < j->ranks; r++) {
        int64_t first = g->bucket[0].chunks[r],
                end = r + 1 < j->ranks ? g->bucket[0].chunks[r + 1] : g->chunk[g->n];
        g->piece[r] = (rk_leg){ g->squares + first, (size_t)(end - first) * sizeof(double) };
    }
    RK_TRY(rk__comm_all_gather(j->comm, "norms", g->piece));
    sort_squares(g);
    for (int i = 0; i < g->n; i++) {
        const rk_tensor *t = g->t[i];
        squares[i] = 0;
        if (t->cut)
            RK_TRY(
                rk__cut_squares(j->ctx, t->shape.dim[0], t->cut->axis, g->sorted + g->chunk[i], &squares[i]));
        else if (g->chunk[i + 1] > g->chunk[i])
            squares[i] = rk_order_tree(g->sorted, g->chunk[i], g->chunk[i + 1]);
    }
    return RK_OK;
}

int rk__grads_buckets(const rk__grads *g, size_t *full)
{
    *full = g->bucket_bytes;
    return g->buckets;
}

size_t rk__grads_bytes(const rk__grads *g)
{
    const rk__job *j = g->job;
    int64_t own = 0;
    for (int k = 0; k < g->buckets; k++)
        own += g->bucket[k].bound[j->rank + 1] - g->bucket[k].bound[j->rank];
    return (size_t)((total(g) - own) * rk__job_parts(j) + own * (j->ranks - 1)) * sizeof(float);
}
