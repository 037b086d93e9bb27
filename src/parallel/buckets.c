#include "parallel/buckets.h"

#include "core/clock.h"
#include "core/tape.h"

#include <stdlib.h>

enum { ALIGN = 16 }; /* floats of a cache line: parameters begin at one */
enum { TRIES = 5 };
enum { LEAST_BUCKET = 256 << 10, MOST_BUCKET = 32 << 20 };
/* What is measured makes so many that one may travel while the next is made, and so few that all may be under
 * way at once; where memory counts, so many that some at hand are little. */
enum { FEW_BUCKETS = 4, MOST_BUCKETS = 20, MANY_BUCKETS = 80, LEAST_SMALL = 64 << 10 };

static void buckets_free(void *arg)
{
    rk__buckets *b = arg;
    for (int k = 0; k < b->count; k++)
        free(b->bucket[k].piece);
    free(b->bucket);
    free(b->t);
    free(b->at);
    free(b->of);
    free(b);
}

static int64_t clamp(int64_t x, int64_t lo, int64_t hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

int64_t rk__chunk_of(const rk_tensor *t)
{
    return t->cut ? rk_tensor_size(t) / t->shape.dim[0] : RK_CHUNK;
}

void rk__bucket_piece(const rk__buckets *b, int i, int r, int64_t *from, int64_t *to)
{
    const int64_t size = rk_tensor_size(b->t[i]);
    const rk__span piece = b->bucket[b->of[i]].piece[r];
    *from = clamp(piece.from - b->at[i], 0, size);
    *to = clamp(piece.to - b->at[i], *from, size);
}

int rk__bucket_find(const rk__buckets *b, const rk_tensor *t)
{
    int i = b->n - 1;
    while (i >= 0 && b->t[i] != t)
        i--;
    return i;
}

int64_t rk__buckets_own(const rk__buckets *b)
{
    int64_t own = 0;
    for (int k = 0; k < b->count; k++)
        own += rk__span_size(b->bucket[k].piece[b->job->rank]);
    return own;
}

void rk__buckets_pack(const rk__buckets *b, int64_t *packed)
{
    const int me = b->job->rank;
    int64_t at = 0;
    for (int k = 0; k < b->count; k++) {
        const rk__span piece = b->bucket[k].piece[me];
        packed[k] = at + piece.from % ALIGN;
        at = (packed[k] + rk__span_size(piece) + ALIGN - 1) / ALIGN * ALIGN;
    }
    packed[b->count] = at;
}

size_t rk__buckets_largest(const rk__buckets *b)
{
    int64_t most = 0;
    for (int k = 0; k < b->count; k++) {
        int64_t n = rk__span_size(b->bucket[k].all);
        most = n > most ? n : most;
    }
    return (size_t)most * sizeof(float);
}

rk_status rk__buckets_lay_out(rk__job *j, rk_tensor *const *t, int n, rk__buckets **out)
{
    rk_ctx *ctx = j->ctx;
    *out = NULL;
    rk__buckets *b = rk__calloc(ctx, 1, sizeof *b);
    if (!b || rk__at_close(ctx, buckets_free, b)) {
        free(b);
        return RK_ENOMEM;
    }
    *b = (rk__buckets){ .job = j, .n = n };
    b->t = rk__calloc(ctx, (size_t)n + 1, sizeof *b->t);
    b->at = rk__calloc(ctx, (size_t)n + 1, sizeof *b->at);
    b->of = rk__calloc(ctx, (size_t)n + 1, sizeof *b->of);
    RK_TRY(rk_failed(ctx));
    for (int i = 0; i < n; i++) {
        b->t[i] = t[i];
        b->at[i + 1] = b->at[i] + (rk_tensor_size(t[i]) + ALIGN - 1) / ALIGN * ALIGN;
    }
    *out = b;
    return RK_OK;
}

/* ---- cutting ---- */

/* Where in the bucket a piece may begin that would best begin at `wish`: at a chunk of a parameter. */
static int64_t cut_near(const rk__buckets *b, const rk__bucket *k, int64_t wish)
{
    int i = k->first;
    while (i + 1 < k->end && b->at[i + 1] <= wish)
        i++;
    const int64_t chunk = rk__chunk_of(b->t[i]), below = b->at[i] + (wish - b->at[i]) / chunk * chunk;
    const int64_t above = below + chunk < b->at[i + 1] ? below + chunk : b->at[i + 1];
    return wish - below <= above - wish ? below : above;
}

static rk_status make_bucket(rk__buckets *b, int first, int end)
{
    const int ranks = b->job->ranks;
    const int64_t lo = b->at[first], n = b->at[end] - lo;
    rk__bucket *k = &b->bucket[b->count];
    *k = (rk__bucket){ .first = first, .end = end, .all = { lo, lo + n } };
    k->piece = rk__calloc(b->job->ctx, (size_t)ranks, sizeof *k->piece);
    if (!k->piece)
        return RK_ENOMEM;
    for (int i = 0; i < ranks; i++) {
        rk__span *p = &k->piece[rk__job_any_order(b->job) ? i : b->job->nodes.whose[i]];
        p->from = i ? cut_near(b, k, lo + n * i / ranks) : lo;
        p->to = i + 1 < ranks ? cut_near(b, k, lo + n * (i + 1) / ranks) : lo + n;
    }
    for (int i = first; i < end; i++)
        b->of[i] = b->count;
    b->count++;
    return RK_OK;
}

/* [C] Seconds that gathering the first n floats of `room` from all ranks takes, at best; on a device, until
 * they are there. */
static rk_status time_gather(rk__job *j, float *room, int64_t n, rk_leg *piece, double *seconds)
{
    *seconds = 1e9;
    for (int r = 0; r < j->ranks; r++)
        piece[r] = (rk_leg){ room + n * r / j->ranks,
                             (size_t)(n * (r + 1) / j->ranks - n * r / j->ranks) * sizeof *room };
    for (int i = 0; i < TRIES; i++) {
        RK_TRY(rk_device_wait(j->ctx));
        RK_TRY(j->comm->table->barrier(j->comm, "measurement"));
        double begun = rk__seconds();
        RK_TRY(rk__comm_all_gather(j->tensors, "measurement", piece));
        RK_TRY(rk_device_wait(j->ctx));
        double took = rk__seconds() - begun;
        *seconds = took < *seconds ? took : *seconds;
    }
    return RK_OK;
}

/* Elements of the largest message that is measured: little beside the whole where memory counts. */
static int64_t measured(const rk__buckets *b, bool small)
{
    return clamp(rk__buckets_total(b) / (small ? 8 : 1), 1, 1 << 20);
}

/* [C] The size at which a message takes eight times as long as an empty one: larger ones gain little speed,
 * and set out later. */
static rk_status measure(const rk__buckets *b, float *room, int64_t many, int64_t *bytes)
{
    rk__job *j = b->job;
    const int64_t few = many < 256 ? many : 256;
    double fast = 0, slow = 0;
    rk_leg *piece = rk__calloc(j->ctx, (size_t)j->ranks, sizeof *piece);
    if (!piece)
        return RK_ENOMEM;
    rk_status st = time_gather(j, room, few, piece, &fast);
    if (!st)
        st = time_gather(j, room, many, piece, &slow);
    free(piece);
    RK_TRY(st);
    double per_byte = (slow - fast) / ((double)(many - few + 1) * sizeof *room);
    double wish = per_byte > 0 ? 8 * fast / per_byte : MOST_BUCKET;
    *bytes = clamp((int64_t)(wish < MOST_BUCKET ? wish : MOST_BUCKET), LEAST_BUCKET, MOST_BUCKET);
    return rk__comm_broadcast(j->comm, "bucket size", 0, bytes, sizeof *bytes);
}

/* [C] */
static rk_status choose(const rk__buckets *b, bool small, int64_t *bytes)
{
    const int64_t total = rk__buckets_total(b) * (int64_t)sizeof(float), many = measured(b, small);
    rk_comm *c = b->job->tensors;
    float *room = c->table->alloc(c, (size_t)many * sizeof *room);
    if (!room)
        return rk_failed(c->ctx);
    RK_TRY(measure(b, room, many, bytes));
    c->table->release(c, room);
    if (small)
        *bytes = clamp(total / MANY_BUCKETS, LEAST_SMALL, *bytes);
    else if (total / FEW_BUCKETS > LEAST_BUCKET)
        *bytes = clamp(*bytes, total / MOST_BUCKETS, total / FEW_BUCKETS);
    return RK_OK;
}

rk_status rk__buckets_cut(rk__buckets *b, int64_t bytes, bool small)
{
    if (bytes <= 0)
        RK_TRY(choose(b, small, &bytes));
    b->bytes = bytes;
    b->bucket = rk__calloc(b->job->ctx, (size_t)b->n + 1, sizeof *b->bucket);
    if (!b->bucket)
        return RK_ENOMEM;
    for (int end = b->n, first; end > 0; end = first) {
        first = end - 1;
        while (first > 0 && (b->at[end] - b->at[first]) * (int64_t)sizeof(float) < bytes)
            first--;
        RK_TRY(make_bucket(b, first, end));
    }
    return RK_OK;
}
