/* Rows of a table and elements along an axis, by index. */
#include "core/cut.h"

#include <string.h>

/* ---- embedding ---- */

static rk_status embedding_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    rk_tensor *table = node->in[0], *index = node->save[0];
    int64_t rows = rk__size(index), samples = index->shape.ndim ? index->shape.dim[0] : 1;
    const int64_t unit = samples ? rows / samples : 1, width = table->shape.dim[1];
    if (!rk__data(dy) || !rk__data(index))
        return rk_failed(ctx);
    for (int p = 0; p < rk__parts(ctx); p++) {
        rk__part part;
        RK_TRY(rk__grad_part(table, p, samples, unit, &part));
        rk_status st = rk__kernels(ctx, dy->dtype)
                           ->take_rows_grad(ctx->dev, table->shape.dim[0], part.n * unit, width, part.order,
                                            rk__at(dy, part.lo * unit * width), rk__at(index, part.lo * unit),
                                            rk__data(part.sum));
        if (st)
            return rk__grad_failed(ctx, "embedding", st);
    }
    return RK_OK;
}

static const rk__op op_embedding = { "embedding", embedding_backward };

/* index with the shape it was given, as checked i64 that a node may save. */
static rk_tensor *own_indices(const rk__call *c, rk_tensor *index, int64_t limit, const char *what)
{
    rk_tensor *wide = rk__indices(c->ctx, c->name, index, limit, NULL, what);
    return wide ? wide : rk__inert(c->ctx);
}

/* Indices of a cut table: rows of this rank's box (another rank's are no rows of it), this rank's own alone,
 * and where each row stands among the rows of rank 0, rank 1, ... */
typedef struct shared_rows {
    int64_t *local, *own, *where;
    int64_t *count; /* (ranks) */
} shared_rows;

static int owner(const rk_ctx *ctx, int64_t rows, int64_t index)
{
    int64_t lo, hi;
    for (int r = 0; r < ctx->shards.ranks; r++) {
        rk_order_leaf(rows, ctx->shards.ranks, r, &lo, &hi);
        if (index < hi)
            return r;
    }
    return ctx->shards.ranks - 1;
}

static rk_status share_rows(rk_ctx *ctx, const rk__cut *cut, int64_t n, const int64_t *index, shared_rows *s)
{
    const int ranks = ctx->shards.ranks;
    int64_t *next = rk__step_record(ctx, (size_t)ranks * sizeof *next), own = 0;
    int *who = rk__step_record(ctx, (size_t)(n + 1) * sizeof *who);
    s->local = rk__step_record(ctx, (size_t)(3 * n + 1) * sizeof *s->local);
    s->count = rk__step_record(ctx, (size_t)ranks * sizeof *s->count);
    if (!next || !who || !s->local || !s->count)
        return RK_ENOMEM;
    s->own = s->local + n;
    s->where = s->own + n;
    for (int64_t i = 0; i < n; i++) {
        who[i] = owner(ctx, cut->whole, index[i]);
        s->count[who[i]]++;
        s->local[i] = index[i] - cut->lo;
        if (who[i] == ctx->shards.rank)
            s->own[own++] = s->local[i];
    }
    for (int r = 1; r < ranks; r++)
        next[r] = next[r - 1] + s->count[r - 1];
    for (int64_t i = 0; i < n; i++)
        s->where[i] = next[who[i]]++;
    return RK_OK;
}

static rk_tensor *device_indices(rk_ctx *ctx, rk_shape s, const int64_t *host)
{
    rk_tensor *t = rk__out(ctx, RK_I64, s);
    if (rk__is_inert(t) || rk_tensor_write(t, host, (size_t)rk__size(t) * sizeof *host))
        return rk__inert(ctx);
    return t;
}

/* [C] y (n, width) from the rows that each rank has; *at becomes the indices as rows of this rank's box. */
static rk_status rows_of_ranks(const rk__call *c, rk_tensor *table, rk_tensor **at, rk_tensor *y)
{
    rk_ctx *ctx = c->ctx;
    const rk__cut *cut = table->cut;
    const int64_t n = rk__size(*at), width = table->shape.dim[1];
    int64_t *host = rk__step_record(ctx, (size_t)(n + 1) * sizeof *host);
    shared_rows s;
    if (!host)
        return RK_ENOMEM;
    RK_TRY(rk_tensor_read(*at, host, (size_t)n * sizeof *host));
    RK_TRY(share_rows(ctx, cut, n, host, &s));
    const int64_t mine = s.count[ctx->shards.rank];
    rk_tensor *own = device_indices(ctx, RK_SHAPE(mine), s.own),
              *where = device_indices(ctx, RK_SHAPE(n), s.where);
    rk_tensor *part = rk__out(ctx, c->type, RK_SHAPE(mine, width)),
              *all = rk__out(ctx, c->type, RK_SHAPE(n, width));
    *at = device_indices(ctx, (*at)->shape, s.local);
    RK_TRY(rk_failed(ctx));
    if (c->type != RK_F32)
        return rk_fail(ctx, RK_EDTYPE, "embedding: ranks gather f32 only");
    RK_TRY(c->k->take_rows(ctx->dev, mine, width, rk__data(table), rk__data(own), rk__data(part)));
    for (int r = 0; r < ctx->shards.ranks; r++)
        s.count[r] *= width;
    RK_TRY(ctx->shards.gather(ctx->shards.arg, "embedding", s.count, rk__data(part), rk__data(all)));
    RK_TRY(c->k->take_rows(ctx->dev, n, width, rk__data(all), rk__data(where), rk__data(y)));
    rk__drop(own);
    rk__drop(where);
    rk__drop(part);
    rk__drop(all);
    return RK_OK;
}

rk_tensor *rk_embedding_op(rk_tensor *table, rk_tensor *index)
{
    rk__call c;
    char text[160];
    if (!rk__call_begin(&c, "embedding", &table, 1) || !rk__ready(&index, 1))
        return rk__inert(c.ctx);
    if (table->shape.ndim != 2 || index->shape.ndim == RK_MAX_DIMS) {
        rk_fail(c.ctx, RK_ESHAPE,
                "embedding: the table is %s; (rows, width) is wanted, and an index of at most %d axes",
                rk__shape_str(&table->shape, text, sizeof text), RK_MAX_DIMS - 1);
        return rk__inert(c.ctx);
    }
    rk_shape shape = index->shape;
    shape.dim[shape.ndim++] = table->shape.dim[1];
    const bool shared = table->cut && rk__cut_meets(c.ctx);
    rk_tensor *at = own_indices(&c, index, shared ? table->cut->whole : table->shape.dim[0], "row");
    rk_tensor *dense = rk__dense(table), *y = rk__out(c.ctx, c.type, shape);
    const void *from = rk__data(dense), *rows = rk__data(at);
    void *to = rk__data(y);
    if (!from || !rows || !to)
        return rk__inert(c.ctx);
    rk_status st = shared ? rows_of_ranks(&c, table, &at, y)
                          : c.k->take_rows(c.ctx->dev, rk__size(at), table->shape.dim[1], from, rows, to);
    rk__drop_temp(dense, table);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    rk_tensor *in[] = { table, index };
    return rk__call_end(&c, rk__record(y, &op_embedding, in, 2, &at, 1, NULL, 0));
}

/* ---- gather ---- */

typedef struct gather_attr {
    int axis;
} gather_attr;

typedef struct spans {
    int64_t outer, n, m, inner;
} spans;

static spans spans_of(const rk_tensor *x, const rk_tensor *index, int axis)
{
    spans s = { 1, x->shape.dim[axis], index->shape.dim[axis], 1 };
    for (int i = 0; i < x->shape.ndim; i++)
        if (i != axis)
            *(i < axis ? &s.outer : &s.inner) *= x->shape.dim[i];
    return s;
}

static rk_status gather_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    gather_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *x = node->in[0], *dx = rk__out(ctx, dy->dtype, x->shape);
    spans s = spans_of(x, node->save[0], a.axis);
    const void *g = rk__data(dy), *at = rk__data(node->save[0]);
    void *to = rk__data(dx);
    if (!g || !at || !to)
        return rk_failed(ctx);
    rk_status st = rk__kernels(ctx, dy->dtype)->gather_grad(ctx->dev, s.outer, s.n, s.m, s.inner, g, at, to);
    return st ? rk__grad_failed(ctx, "gather", st) : rk__grad_give(x, dx);
}

static const rk__op op_gather = { "gather", gather_backward };

/* As torch.gather: on every other axis the index may be shorter than x, never longer. */
static bool gather_fits(const rk__call *c, const rk_tensor *x, const rk_tensor *index, int axis)
{
    char tx[160], ti[160];
    bool fits = x->shape.ndim == index->shape.ndim;
    for (int i = 0; fits && i < x->shape.ndim; i++)
        fits = i == axis || index->shape.dim[i] <= x->shape.dim[i];
    if (!fits)
        rk_fail(c->ctx, RK_ESHAPE,
                "gather: x %s, index %s along axis %d; on the other axes the index must fit into x",
                rk__shape_str(&x->shape, tx, sizeof tx), rk__shape_str(&index->shape, ti, sizeof ti), axis);
    return fits;
}

rk_tensor *rk_gather(rk_tensor *x, int axis, rk_tensor *index)
{
    rk__call c;
    if (!rk__call_begin(&c, "gather", &x, 1) || !rk__ready(&index, 1) || !rk__axis(c.ctx, c.name, x, &axis) ||
        !gather_fits(&c, x, index, axis))
        return rk__inert(c.ctx);
    for (int i = 0; i < x->shape.ndim; i++)
        if (i != axis && index->shape.dim[i] < x->shape.dim[i])
            x = rk_slice(x, i, 0, index->shape.dim[i]);
    rk_tensor *at = own_indices(&c, index, x->shape.dim[axis], "index");
    rk_tensor *dense = rk__dense(x), *y = rk__out(c.ctx, c.type, index->shape);
    const void *from = rk__data(dense), *where = rk__data(at);
    void *to = rk__data(y);
    if (!from || !where || !to)
        return rk__inert(c.ctx);
    spans s = spans_of(x, index, axis);
    rk_status st = c.k->gather(c.ctx->dev, s.outer, s.n, s.m, s.inner, from, where, to);
    rk__drop_temp(dense, x);
    if (st)
        return rk__op_failed(c.ctx, c.name, st);
    gather_attr a = { axis };
    return rk__call_end(&c, rk__record(y, &op_gather, (rk_tensor *[]){ x, index }, 2, &at, 1, &a, sizeof a));
}
