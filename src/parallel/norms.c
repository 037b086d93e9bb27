#include "parallel/norms.h"

#include "core/cut.h"
#include "parallel/buckets.h"

#include <stdlib.h>
#include <string.h>

/* Which sums make up those of each parameter: rk_judge_args. */
typedef struct layout {
    rk_tensor *order, *bound; /* int64; order NULL: they stand in order */
} layout;

struct rk__norms {
    rk_ctx *ctx;
    rk__grads *grads; /* NULL: one rank has them all */
    rk__job *job;
    int ranks, rank; /* that share the batch */
    rk_tensor **t;   /* (n) */
    int n;
    rk_square_rows *rows; /* (pieces) this rank's */
    int *of;              /* (pieces) their parameter */
    int64_t *from;        /* (pieces) where they begin in it */
    int pieces, room;
    int64_t *first;   /* (ranks + 1) number of the first sum of each rank */
    rk_leg *leg;      /* (ranks) */
    rk_tensor *sums;  /* f64 (first[ranks]) */
    rk_tensor *part;  /* f64 (n), or a row of `parts` */
    rk_tensor *parts; /* f64 (shard ranks, n); NULL: no rank holds the rest of cut parameters */
    rk_leg *beside;   /* (shard ranks) */
    layout all, shards;
};

static void norms_free(void *arg)
{
    rk__norms *m = arg;
    free(m->t);
    free(m->rows);
    free(m->of);
    free(m->from);
    free(m->first);
    free(m->leg);
    free(m->beside);
    free(m);
}

/* ---- where sums stand ---- */

/* Sums of one row. */
static int64_t each_of(const rk_tensor *t)
{
    return t->cut ? rk__cut_row_sums(t->ctx, t->cut->axis) : 1;
}

static int64_t rows_of(const rk_tensor *t, int64_t n)
{
    return (n + rk__chunk_of(t) - 1) / rk__chunk_of(t);
}

/* The elements of parameter i that rank r squares: whole rows. */
static void share_of(const rk__norms *m, int i, int r, int64_t *from, int64_t *to)
{
    *from = 0;
    *to = rk_tensor_size(m->t[i]);
    if (m->grads)
        rk__grads_share(m->grads, m->t[i], r, from, to);
}

/* Those of parameter i from sum `first` on: each row is one chain a shard. */
static void add_rows(rk__norms *m, int i, int64_t from, int64_t to, int64_t first)
{
    const rk_tensor *t = m->t[i];
    const int64_t each = each_of(t), ld = rk__chunk_of(t), rows = rows_of(t, to - from);
    for (int64_t s = 0; s < each && rows > 0; s++) {
        int64_t lo = 0, hi = ld;
        if (t->cut)
            rk_order_leaf(ld, (int)each, (int)s, &lo, &hi);
        m->rows[m->pieces] = (rk_square_rows){ .n = t->cut ? (rows - 1) * ld + hi - lo : to - from,
                                               .rows = rows,
                                               .cols = hi - lo,
                                               .ld = ld,
                                               .first = first + s,
                                               .step = each };
        m->of[m->pieces] = i;
        m->from[m->pieces++] = from + lo;
    }
}

/* The sums of [from, to) begin at `first` and step row by row; canonical order is shard by shard. */
static void note_order(const rk_tensor *t, int64_t from, int64_t to, int64_t first, int64_t *order)
{
    const int64_t each = each_of(t), all = rows_of(t, rk_tensor_size(t)), rows = rows_of(t, to - from);
    for (int64_t s = 0; s < each; s++)
        for (int64_t r = 0; r < rows; r++)
            order[s * all + rows_of(t, from) + r] = first + r * each + s;
}

/* Rank by rank, so that what a rank sends stands together. */
static void place_sums(rk__norms *m, const int64_t *bound, int64_t *order)
{
    int64_t at = 0;
    for (int r = 0; r < m->ranks; r++) {
        m->first[r] = at;
        for (int i = 0; i < m->n; i++) {
            int64_t from, to;
            share_of(m, i, r, &from, &to);
            note_order(m->t[i], from, to, at, order + bound[i]);
            if (r == m->rank)
                add_rows(m, i, from, to, at);
            at += rows_of(m->t[i], to - from) * each_of(m->t[i]);
        }
    }
    m->first[m->ranks] = at;
}

static rk_tensor *on_device(rk_ctx *ctx, const int64_t *x, int64_t n)
{
    rk_tensor *t = rk_tensor_make(ctx, RK_I64, RK_SHAPE(n > 0 ? n : 1));
    if (n > 0 && !rk_failed(ctx))
        rk__tensor_write_range(t, 0, n, x);
    return t;
}

static rk_status keep_layout(rk__norms *m, layout *l, const int64_t *bound, const int64_t *order)
{
    const int64_t n = bound[m->n];
    bool sorted = true;
    for (int64_t i = 0; i < n; i++)
        sorted = sorted && order[i] == i;
    l->bound = on_device(m->ctx, bound, m->n + 1);
    l->order = sorted ? NULL : on_device(m->ctx, order, n);
    return rk_failed(m->ctx);
}

/* ---- making ---- */

static rk_status lay_out(rk__norms *m)
{
    rk_ctx *ctx = m->ctx;
    int64_t *bound = rk__calloc(ctx, (size_t)m->n + 1, sizeof *bound);
    for (int i = 0; bound && i < m->n; i++)
        bound[i + 1] = bound[i] + rows_of(m->t[i], rk_tensor_size(m->t[i])) * each_of(m->t[i]);
    int64_t *order = bound ? rk__calloc(ctx, (size_t)bound[m->n] + 1, sizeof *order) : NULL;
    if (order) {
        place_sums(m, bound, order);
        keep_layout(m, &m->all, bound, order);
        m->sums = rk_tensor_make(ctx, RK_F64, RK_SHAPE(bound[m->n] > 0 ? bound[m->n] : 1));
    }
    free(bound);
    free(order);
    return rk_failed(ctx);
}

/* Of the sums of all ranks that hold tensor shards side by side: every one's of what is cut, one's own of the
 * rest, which are alike. */
static rk_status lay_out_shards(rk__norms *m)
{
    rk_ctx *ctx = m->ctx;
    const int ranks = ctx->shards.ranks;
    int64_t at = 0, *bound = rk__calloc(ctx, (size_t)m->n + 1, sizeof *bound);
    int64_t *order = rk__calloc(ctx, (size_t)m->n * (size_t)ranks + 1, sizeof *order);
    m->beside = rk__calloc(ctx, (size_t)ranks, sizeof *m->beside);
    for (int i = 0; !rk_failed(ctx) && i < m->n; i++) {
        for (int r = 0; r < ranks; r++)
            if (m->t[i]->cut || r == ctx->shards.rank)
                order[at++] = r * m->n + i;
        bound[i + 1] = at;
    }
    if (!rk_failed(ctx))
        keep_layout(m, &m->shards, bound, order);
    free(bound);
    free(order);
    m->parts = rk_tensor_make(ctx, RK_F64, RK_SHAPE(ranks, m->n > 0 ? m->n : 1));
    return rk_failed(ctx);
}

static rk_status make_lists(rk__norms *m, rk_tensor *const *t)
{
    rk_ctx *ctx = m->ctx;
    for (int i = 0; i < m->n; i++)
        m->room += (int)each_of(t[i]);
    m->t = rk__calloc(ctx, (size_t)m->n + 1, sizeof *m->t);
    m->rows = rk__calloc(ctx, (size_t)m->room + 1, sizeof *m->rows);
    m->of = rk__calloc(ctx, (size_t)m->room + 1, sizeof *m->of);
    m->from = rk__calloc(ctx, (size_t)m->room + 1, sizeof *m->from);
    m->first = rk__calloc(ctx, (size_t)m->ranks + 1, sizeof *m->first);
    m->leg = rk__calloc(ctx, (size_t)m->ranks, sizeof *m->leg);
    RK_TRY(rk_failed(ctx));
    memcpy(m->t, t, (size_t)m->n * sizeof *t);
    m->part = rk_tensor_make(ctx, RK_F64, RK_SHAPE(m->n > 0 ? m->n : 1));
    return rk_failed(ctx);
}

rk_status rk__norms_make(rk_ctx *ctx, rk__grads *grads, rk_tensor *const *t, int n, rk__norms **out)
{
    *out = NULL;
    rk__norms *m = rk__calloc(ctx, 1, sizeof *m);
    if (!m || rk__at_close(ctx, norms_free, m)) {
        free(m);
        return RK_ENOMEM;
    }
    *m = (rk__norms){ .ctx = ctx, .grads = grads, .job = ctx->job, .ranks = 1, .n = n };
    if (grads) {
        m->job = rk__grads_job(grads);
        m->ranks = m->job->ranks;
        m->rank = m->job->rank;
    }
    RK_TRY(make_lists(m, t));
    RK_TRY(lay_out(m));
    if (rk__cut_meets(ctx))
        RK_TRY(lay_out_shards(m));
    *out = m;
    return RK_OK;
}

/* ---- judging ---- */

static rk_status square(rk__norms *m)
{
    rk_ctx *ctx = m->ctx;
    for (int i = 0; i < m->pieces; i++) {
        const rk_tensor *g = rk_grad(m->t[m->of[i]]);
        const int64_t from = m->from[i];
        m->rows[i].x = g ? rk__data_range(g, from, from + m->rows[i].n) : NULL;
    }
    RK_TRY(rk_failed(ctx));
    rk_status st = rk__kernels(ctx, RK_F32)->squares(ctx->dev, m->pieces, m->rows, rk__data(m->sums));
    return st ? rk_fail(ctx, st, "the norm of the gradients cannot be computed") : RK_OK;
}

/* [C] Everyone's sums to everyone. */
static rk_status gather(rk__norms *m)
{
    double *sums = rk__data(m->sums);
    if (m->ranks == 1)
        return rk_failed(m->ctx);
    for (int r = 0; r < m->ranks; r++)
        m->leg[r] = (rk_leg){ sums + m->first[r], (size_t)(m->first[r + 1] - m->first[r]) * sizeof *sums };
    return rk__comm_all_gather(m->job->tensors, "norms", m->leg);
}

static rk_status judge(rk__norms *m, const rk_judge_args *caller, const layout *l, const double *sums,
                       double *part, bool last)
{
    rk_ctx *ctx = m->ctx;
    rk_judge_args a = *caller;
    a.sums = sums;
    a.order = l->order ? rk__data(l->order) : NULL;
    a.bound = rk__data(l->bound);
    a.part = part;
    a.pieces = m->n;
    if (!last)
        a.watch = NULL;
    RK_TRY(rk_failed(ctx));
    rk_status st = rk__kernels(ctx, RK_F32)->judge(ctx->dev, &a);
    return st ? rk_fail(ctx, st, "the norm of the gradients cannot be computed") : RK_OK;
}

/* [C] The ranks' subtrees of cut parameters. */
static rk_status judge_shards(rk__norms *m, const rk_judge_args *a)
{
    const rk__shards *s = &m->ctx->shards;
    double *parts = rk__data(m->parts);
    RK_TRY(judge(m, a, &m->all, rk__data(m->sums), parts + s->rank * m->n, false));
    for (int r = 0; r < s->ranks; r++)
        m->beside[r] = (rk_leg){ parts + r * m->n, (size_t)m->n * sizeof *parts };
    RK_TRY(rk__comm_all_gather(m->job->beside_tensors, "norms of shards", m->beside));
    return judge(m, a, &m->shards, parts, rk__data(m->part), true);
}

rk_status rk__norms_judge(rk__norms *m, const rk_judge_args *a)
{
    RK_TRY(rk_failed(m->ctx));
    RK_TRY(square(m));
    RK_TRY(gather(m));
    return m->parts ? judge_shards(m, a) : judge(m, a, &m->all, rk__data(m->sums), rk__data(m->part), true);
}
