#include "parallel/grads.h"

#include "core/tape.h"
#include "parallel/tree.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16 }; /* floats of a cache line: parameters begin at one */

struct rk__grads {
    rk__job *job;
    rk__zero zero;
    rk_tensor **t;
    int n;
    int64_t *at;          /* (n + 1) where parameter i begins in the flat vector */
    int64_t *bound;       /* (ranks + 1) piece r is [bound[r], bound[r + 1]) */
    int64_t *chunk;       /* (n + 1) number of parameter i's first chunk */
    float *part;          /* (parts, total): this rank's subtrees */
    float *sum;           /* (total): what all of them come to; others' pieces only with RK__ZERO_NONE */
    float *weights;       /* (total): where the parameters lie; NULL with RK__ZERO_NONE */
    double *squares;      /* (chunks) */
    int most_parts;       /* of any rank */
    rk_leg *send, *piece; /* (ranks) */
    rk_leg *recv;         /* (most_parts, ranks) */
    rk_request *request[RK_ORDER_PARTS];
    const float **from;
};

static int64_t total(const rk__grads *g)
{
    return g->at[g->n];
}

static void grads_free(void *arg)
{
    rk__grads *g = arg;
    free(g->t);
    free(g->at);
    free(g->bound);
    free(g->chunk);
    free(g->squares);
    free(g->send);
    free(g->recv);
    free(g->piece);
    free(g->from);
    free(g);
}

static int64_t chunks_of(int64_t n)
{
    return (n + RK_CHUNK - 1) / RK_CHUNK;
}

/* Where the piece that begins nearest to `wish` may begin: at a chunk of a parameter. */
static int64_t cut_near(const rk__grads *g, int64_t wish)
{
    int i = 0;
    while (i + 1 < g->n && g->at[i + 1] <= wish)
        i++;
    int64_t below = g->at[i] + (wish - g->at[i]) / RK_CHUNK * RK_CHUNK, above = below + RK_CHUNK;
    if (above > g->at[i + 1])
        above = g->at[i + 1];
    return wish - below <= above - wish ? below : above;
}

static rk_status lay_out(rk__grads *g, rk_tensor *const *t)
{
    const int ranks = g->job->ranks;
    for (int i = 0; i < g->n; i++) {
        g->t[i] = t[i];
        g->at[i + 1] = g->at[i] + (rk_tensor_size(t[i]) + ALIGN - 1) / ALIGN * ALIGN;
        g->chunk[i + 1] = g->chunk[i] + chunks_of(rk_tensor_size(t[i]));
    }
    for (int r = 1; r < ranks; r++)
        g->bound[r] = cut_near(g, total(g) * r / ranks);
    g->bound[ranks] = total(g);
    for (int r = 0; r < ranks; r++) {
        int parts = g->job->first[r + 1] - g->job->first[r];
        g->most_parts = parts > g->most_parts ? parts : g->most_parts;
    }
    return RK_OK;
}

static rk_status take_memory(rk__grads *g)
{
    rk_comm *c = g->job->comm;
    size_t bytes = (size_t)total(g) * sizeof(float);
    g->part = c->table->alloc(c, bytes * (size_t)rk__job_parts(g->job));
    g->sum = c->table->alloc(c, bytes);
    if (g->zero != RK__ZERO_NONE)
        g->weights = c->table->alloc(c, bytes);
    g->squares = rk__calloc(g->job->ctx, (size_t)g->chunk[g->n], sizeof *g->squares);
    return rk_failed(g->job->ctx);
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

rk_status rk__grads_make(rk__job *j, rk_tensor *const *t, int n, rk__zero zero, rk__grads **out)
{
    rk_ctx *ctx = j->ctx;
    *out = NULL;
    rk__grads *g = rk__calloc(ctx, 1, sizeof *g);
    if (!g || rk__at_close(ctx, grads_free, g)) {
        free(g);
        return RK_ENOMEM;
    }
    *g = (rk__grads){ .job = j, .n = n, .zero = zero };
    size_t ranks = (size_t)j->ranks;
    g->t = rk__calloc(ctx, (size_t)n, sizeof *g->t);
    g->at = rk__calloc(ctx, (size_t)n + 1, sizeof *g->at);
    g->chunk = rk__calloc(ctx, (size_t)n + 1, sizeof *g->chunk);
    g->bound = rk__calloc(ctx, ranks + 1, sizeof *g->bound);
    g->send = rk__calloc(ctx, ranks, sizeof *g->send);
    g->piece = rk__calloc(ctx, ranks, sizeof *g->piece);
    g->from = rk__calloc(ctx, (size_t)j->parts, sizeof *g->from);
    RK_TRY(rk_failed(ctx));
    RK_TRY(lay_out(g, t));
    g->recv = rk__calloc(ctx, (size_t)g->most_parts * ranks, sizeof *g->recv);
    RK_TRY(take_memory(g));
    for (int i = 0; i < n; i++)
        for (int p = 0; p < rk__job_parts(j); p++)
            RK_TRY(place(rk__part_leaf(t[i], p), g->part + p * total(g) + g->at[i]));
    for (int i = 0; i < n && g->weights; i++)
        RK_TRY(rk__tensor_move(t[i], g->weights + g->at[i]));
    *out = g;
    return RK_OK;
}

void rk__grads_begin(rk__grads *g)
{
    for (int i = 0; i < g->n; i++)
        g->t[i]->grad->storage->data = g->part + g->at[i];
}

/* Gradients that nothing wrote are sums of nothing; those that were written elsewhere come home. */
static rk_status complete(rk__grads *g)
{
    for (int i = 0; i < g->n; i++)
        for (int p = 0; p < rk__job_parts(g->job); p++) {
            rk_tensor *leaf = rk__part_leaf(g->t[i], p);
            float *home = g->part + p * total(g) + g->at[i];
            size_t bytes = (size_t)rk_tensor_size(leaf) * sizeof(float);
            if (!leaf)
                return RK_ENOMEM;
            if (!leaf->grad_set)
                memset(home, 0, bytes);
            else if (rk__data(leaf->grad) != home)
                memcpy(home, rk__data(leaf->grad), bytes);
        }
    return RK_OK;
}

/* Part number p of every rank sets out: piece r to rank r. */
static rk_status start_part(rk__grads *g, int p)
{
    const rk__job *j = g->job;
    const int64_t *b = g->bound;
    rk_leg *recv = g->recv + p * j->ranks;
    for (int r = 0; r < j->ranks; r++) {
        bool mine = p < rk__job_parts(j), theirs = j->first[r] + p < j->first[r + 1];
        g->send[r] =
            (rk_leg){ g->part + p * total(g) + b[r], mine ? (size_t)(b[r + 1] - b[r]) * sizeof(float) : 0 };
        recv[r] = (rk_leg){ NULL, theirs ? (size_t)(b[j->rank + 1] - b[j->rank]) * sizeof(float) : 0 };
    }
    return j->comm->table->exchange(j->comm, "gradients", g->send, recv, &g->request[p]);
}

/* All set out before the first arrives: what arrived may be read until another sets out. */
static rk_status exchange(rk__grads *g)
{
    const rk__job *j = g->job;
    for (int p = 0; p < g->most_parts; p++)
        RK_TRY(start_part(g, p));
    for (int p = 0; p < g->most_parts; p++) {
        RK_TRY(j->comm->table->wait(j->comm, g->request[p]));
        for (int r = 0; r < j->ranks; r++)
            if (j->first[r] + p < j->first[r + 1])
                g->from[j->first[r] + p] = g->recv[p * j->ranks + r].data;
    }
    return RK_OK;
}

/* Everyone's piece of a flat vector to everyone. */
static rk_status gather(rk__grads *g, const char *name, float *flat)
{
    const rk__job *j = g->job;
    for (int r = 0; r < j->ranks; r++)
        g->piece[r] = (rk_leg){ flat + g->bound[r], (size_t)(g->bound[r + 1] - g->bound[r]) * sizeof(float) };
    return rk__comm_all_gather(j->comm, name, g->piece);
}

rk_status rk__grads_gather_weights(rk__grads *g)
{
    return g->weights ? gather(g, "weights", g->weights) : RK_OK;
}

rk_status rk__grads_sum(rk__grads *g)
{
    rk__job *j = g->job;
    const int64_t *b = g->bound, lo = b[j->rank], n = b[j->rank + 1] - lo;
    RK_TRY(complete(g));
    RK_TRY(exchange(g));
    RK_TRY(rk__tree_add(j->ctx, n, j->parts, j->part, g->from, g->sum + lo));
    if (g->zero == RK__ZERO_NONE)
        RK_TRY(gather(g, "gradients", g->sum));
    for (int i = 0; i < g->n; i++) {
        g->t[i]->grad->storage->data = g->sum + g->at[i];
        g->t[i]->grad_set = true;
    }
    return RK_OK;
}

size_t rk__grads_bytes(const rk__grads *g)
{
    const rk__job *j = g->job;
    int64_t own = g->bound[j->rank + 1] - g->bound[j->rank], sent = 0;
    sent += (total(g) - own) * rk__job_parts(j);
    sent += own * (j->ranks - 1);
    return (size_t)sent * sizeof(float);
}

/* The elements of parameter i in the piece of rank r. */
static void piece_of(const rk__grads *g, int i, int r, int64_t *from, int64_t *to)
{
    const int64_t size = rk_tensor_size(g->t[i]);
    int64_t lo = g->bound[r] - g->at[i], hi = g->bound[r + 1] - g->at[i];
    *from = lo < 0 ? 0 : lo > size ? size : lo;
    *to = hi < *from ? *from : hi > size ? size : hi;
}

void rk__grads_piece(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to)
{
    *from = 0;
    *to = rk_tensor_size(t);
    for (int i = 0; i < g->n && g->zero != RK__ZERO_NONE; i++)
        if (g->t[i] == t)
            piece_of(g, i, g->job->rank, from, to);
}

/* Chunks of the pieces before that of rank r. */
static int64_t first_chunk(const rk__grads *g, int r)
{
    int64_t chunks = 0;
    for (int i = 0; i < g->n; i++) {
        int64_t before = g->bound[r] - g->at[i], size = rk_tensor_size(g->t[i]);
        chunks += chunks_of(before < 0 ? 0 : before > size ? size : before);
    }
    return chunks;
}

rk_status rk__grads_squares(rk__grads *g, double *squares)
{
    const rk__job *j = g->job;
    rk_ctx *ctx = j->ctx;
    double *at = g->squares + first_chunk(g, j->rank);
    for (int i = 0; i < g->n; i++) {
        int64_t from, to;
        piece_of(g, i, j->rank, &from, &to);
        if (rk__kernels(ctx, RK_F32)->chunk_squares(ctx->dev, to - from, g->sum + g->at[i] + from, at))
            return rk_fail(ctx, RK_EDEVICE, "the norm of the gradients cannot be computed");
        at += chunks_of(to - from);
    }
    for (int r = 0; r < j->ranks; r++) {
        int64_t first = first_chunk(g, r);
        g->piece[r] =
            (rk_leg){ g->squares + first, (size_t)(first_chunk(g, r + 1) - first) * sizeof(double) };
    }
    RK_TRY(rk__comm_all_gather(j->comm, "norms", g->piece));
    for (int i = 0; i < g->n; i++)
        squares[i] =
            g->chunk[i + 1] > g->chunk[i] ? rk_order_tree(g->squares, g->chunk[i], g->chunk[i + 1]) : 0;
    return RK_OK;
}
