#include "ckpt/plan.h"

#include "core/ctx.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WHOLE_BYTES = 64 << 10,   /* smaller pieces are not worth two data sets */
    LONG_ROW_BYTES = 1 << 20, /* longer rows are cut */
    CUT = 4096                /* elements: a page or more */
};

int rk__flat_boxes(const rk_shape *shape, int64_t from, int64_t to, rk__flat_box *out)
{
    int count = 0, n = shape->ndim;
    while (from < to) {
        rk__flat_box *b = &out[count++];
        int axis = 0;
        int64_t unit = 1, rest = from;
        for (int i = 1; i < n; i++)
            unit *= shape->dim[i];
        /* the longest rows that begin here and end in time */
        while (axis < n - 1 && (from % unit || unit > to - from))
            unit /= shape->dim[++axis];
        *b = (rk__flat_box){ .extent = *shape, .at = from, .n = 1 };
        for (int i = n - 1; i >= 0; i--) {
            int64_t at = rest % shape->dim[i];
            rest /= shape->dim[i];
            if (i > axis)
                continue; /* all of it */
            int64_t most = (to - from) / unit, left = shape->dim[i] - at;
            b->lo[i] = at;
            b->extent.dim[i] = i < axis ? 1 : left < most ? left : most;
        }
        for (int i = 0; i < n; i++)
            b->n *= b->extent.dim[i];
        from += b->n;
    }
    return count;
}

int rk__plan_leader(const rk__plan *p, int file)
{
    return (int)(((int64_t)file * p->ranks + p->writers - 1) / p->writers);
}

int rk__plan_file_of(const rk__plan *p, int rank)
{
    return (int)((int64_t)rank * p->writers / p->ranks);
}

void rk__plan_free(rk__plan *p)
{
    free(p->part);
    *p = (rk__plan){ 0 };
}

void rk__plan_held(const rk_state *st, rk__held *out)
{
    for (int e = 0; e < st->n; e++) {
        const rk_piece *p = &st->entries[e].piece;
        out[e] = (rk__held){ .from = p->from, .to = p->to };
        for (int i = 0; i < p->whole.ndim; i++) {
            out[e].lo[i] = p->lo[i];
            out[e].box[i] = p->box.dim[i];
        }
    }
}

/* ---- who holds the same ---- */

/* Ranks that share out what all of them hold. */
typedef struct pool {
    int *rank;
    int n;
    int64_t bytes, at; /* of all pieces; of those that are shared out already */
} pool;

typedef struct piece {
    int entry, pool;
    const rk__held *held;
} piece;

typedef struct maker {
    const rk_state *st;
    const rk__held *held;
    rk__plan *plan;
    pool *pools;
    int n_pools, cap_pools;
    piece *pieces;
    int n_pieces, cap_pieces;
    int *set, *seen; /* (ranks) */
} maker;

static rk_status no_memory(rk_ctx *ctx)
{
    return rk_fail(ctx, RK_ENOMEM, "save: no memory for the plan of who writes what");
}

static bool grow(void **p, int n, int *cap, size_t size)
{
    if (n < *cap)
        return true;
    int more = *cap ? 2 * *cap : 64;
    void *q = realloc(*p, (size_t)more * size);
    if (!q)
        return false;
    *p = q;
    *cap = more;
    return true;
}

static bool empty(const rk__held *h)
{
    return h->from >= h->to;
}

/* Of the ranks in set (n) those that write keep it; if none of them does, each sends to its writer. */
static int writers_of(const maker *m, int *set, int n)
{
    int k = 0;
    for (int i = 0; i < n; i++)
        k += rk__plan_leader(m->plan, rk__plan_file_of(m->plan, set[i])) == set[i];
    if (!k)
        return n;
    k = 0;
    for (int i = 0; i < n; i++)
        if (rk__plan_leader(m->plan, rk__plan_file_of(m->plan, set[i])) == set[i])
            set[k++] = set[i];
    return k;
}

/* Number of the pool of the ranks in m->set; -1: no memory. */
static int pool_of(maker *m, int n)
{
    for (int i = 0; i < m->n_pools; i++)
        if (m->pools[i].n == n && !memcmp(m->pools[i].rank, m->set, (size_t)n * sizeof *m->set))
            return i;
    int *copy = malloc((size_t)n * sizeof *copy);
    if (!copy || !grow((void **)&m->pools, m->n_pools, &m->cap_pools, sizeof *m->pools)) {
        free(copy);
        return -1;
    }
    memcpy(copy, m->set, (size_t)n * sizeof *copy);
    m->pools[m->n_pools] = (pool){ .rank = copy, .n = n };
    return m->n_pools++;
}

/* A piece reaches over the tensor's edge only by a mistake of ours. */
static bool right(const rk_shape *whole, const rk__held *h)
{
    int64_t n = 1;
    for (int i = 0; i < whole->ndim; i++) {
        if (h->lo[i] < 0 || h->box[i] < 0 || h->lo[i] + h->box[i] > whole->dim[i])
            return false;
        n *= h->box[i];
    }
    return h->from >= 0 && h->to <= n;
}

static rk_status add_piece(maker *m, int entry, const rk__held *h, int n)
{
    const rk_state_entry *e = &m->st->entries[entry];
    int p = pool_of(m, writers_of(m, m->set, n));
    if (p < 0 || !grow((void **)&m->pieces, m->n_pieces, &m->cap_pieces, sizeof *m->pieces))
        return no_memory(m->st->ctx);
    m->pieces[m->n_pieces++] = (piece){ entry, p, h };
    m->pools[p].bytes += (h->to - h->from) * (int64_t)rk_dtype_size(rk_tensor_dtype(e->tensor));
    return RK_OK;
}

/* Finds the different pieces of one tensor, and who holds each. */
static rk_status find_pieces(maker *m, int entry)
{
    const rk_state_entry *e = &m->st->entries[entry];
    const int ranks = m->plan->ranks;
    int64_t sum = 0, whole = rk__piece_whole(&e->piece.whole).to;
    memset(m->seen, 0, (size_t)ranks * sizeof *m->seen);
    for (int r = 0; r < ranks; r++) {
        const rk__held *h = &m->held[(int64_t)r * m->st->n + entry];
        int n = 0;
        if (!right(&e->piece.whole, h))
            return rk_fail(m->st->ctx, RK_EINTERNAL, "save: rank %d holds what %s does not have", r, e->name);
        if (empty(h) || m->seen[r])
            continue;
        for (int q = r; q < ranks; q++)
            if (!memcmp(h, &m->held[(int64_t)q * m->st->n + entry], sizeof *h)) {
                m->seen[q] = 1;
                m->set[n++] = q;
            }
        sum += h->to - h->from;
        RK_TRY(add_piece(m, entry, h, n));
    }
    return sum == whole ? RK_OK
                        : rk_fail(m->st->ctx, RK_EINTERNAL,
                                  "save: the ranks' pieces of %s are %" PRId64 " elements of its %" PRId64,
                                  e->name, sum, whole);
}

/* ---- sharing out ---- */

static rk_status add_range(maker *m, const piece *p, int rank, int64_t from, int64_t to)
{
    const rk_state_entry *e = &m->st->entries[p->entry];
    rk_shape box = { .ndim = e->piece.whole.ndim };
    rk__flat_box flat[RK__FLAT_BOXES];
    memcpy(box.dim, p->held->box, sizeof box.dim);
    int n = rk__flat_boxes(&box, from, to, flat);
    for (int i = 0; i < n; i++) {
        if (!grow((void **)&m->plan->part, m->plan->n, &m->plan->cap, sizeof *m->plan->part))
            return no_memory(m->st->ctx);
        rk__share *q = &m->plan->part[m->plan->n++];
        *q = (rk__share){ .entry = p->entry,
                          .holder = rank,
                          .file = rk__plan_file_of(m->plan, rank),
                          .extent = flat[i].extent,
                          .at = flat[i].at - p->held->from,
                          .n = flat[i].n };
        for (int k = 0; k < box.ndim; k++)
            q->lo[k] = p->held->lo[k] + flat[i].lo[k];
    }
    return RK_OK;
}

/* Elements between two places where a piece may be cut: rows, if they are not too long. */
static int64_t cuts_of(const rk_shape *whole, const rk__held *h, int64_t size)
{
    int64_t row = 1;
    int axis = 0;
    while (axis < whole->ndim - 1 && h->box[axis] == 1)
        axis++;
    for (int i = axis + 1; i < whole->ndim; i++)
        row *= h->box[i];
    return row * size > LONG_ROW_BYTES ? CUT : row;
}

/* Where the share of the pool's rank number i begins, in bytes of all that the pool has. */
static int64_t share_begin(const pool *p, int i)
{
    return p->bytes / p->n * i + p->bytes % p->n * i / p->n;
}

/* The same as an element of the piece whose bytes follow p->at. */
static int64_t cut_at(const pool *p, int i, const rk__held *h, int64_t size, int64_t cuts)
{
    int64_t off = (share_begin(p, i) - p->at) / size;
    if (off <= 0)
        return h->from;
    if (off >= h->to - h->from)
        return h->to;
    int64_t at = (h->from + off + cuts / 2) / cuts * cuts;
    return at < h->from ? h->from : at > h->to ? h->to : at;
}

static rk_status share_out(maker *m, const piece *p)
{
    const rk_state_entry *e = &m->st->entries[p->entry];
    pool *from = &m->pools[p->pool];
    const rk__held *h = p->held;
    const int64_t size = (int64_t)rk_dtype_size(rk_tensor_dtype(e->tensor)), bytes = (h->to - h->from) * size;
    rk_status st = RK_OK;
    if (from->n == 1 || bytes < WHOLE_BYTES) {
        int i = 0;
        while (i + 1 < from->n && share_begin(from, i + 1) <= from->at + bytes / 2)
            i++;
        st = add_range(m, p, from->rank[i], h->from, h->to);
    } else {
        const int64_t cuts = cuts_of(&e->piece.whole, h, size);
        for (int i = 0; i < from->n && !st; i++) {
            int64_t begin = cut_at(from, i, h, size, cuts);
            int64_t end = i + 1 < from->n ? cut_at(from, i + 1, h, size, cuts) : h->to;
            st = add_range(m, p, from->rank[i], begin, end);
        }
    }
    from->at += bytes;
    return st;
}

/* A tensor without elements has a data set too, in the first file. */
static rk_status add_empty(maker *m, int entry)
{
    if (!grow((void **)&m->plan->part, m->plan->n, &m->plan->cap, sizeof *m->plan->part))
        return no_memory(m->st->ctx);
    m->plan->part[m->plan->n++] = (rk__share){ .entry = entry, .extent = m->st->entries[entry].piece.whole };
    return RK_OK;
}

static rk_status make(maker *m)
{
    int next = 0;
    for (int e = 0; e < m->st->n; e++)
        if (m->st->entries[e].kind != RK_STATE_CURSOR)
            RK_TRY(find_pieces(m, e));
    for (int e = 0; e < m->st->n; e++) {
        int before = m->plan->n;
        if (m->st->entries[e].kind == RK_STATE_CURSOR)
            continue;
        for (; next < m->n_pieces && m->pieces[next].entry == e; next++)
            RK_TRY(share_out(m, &m->pieces[next]));
        if (m->plan->n == before)
            RK_TRY(add_empty(m, e));
        if (m->plan->n - before > RK__MAX_PIECES)
            return rk_fail(m->st->ctx, RK_ECONFIG,
                           "save: %s would be cut into %d pieces, more than %d: use fewer ranks or no pieces",
                           m->st->entries[e].name, m->plan->n - before, RK__MAX_PIECES);
    }
    return RK_OK;
}

rk_status rk__plan_make(const rk_state *st, const rk__held *held, int ranks, int writers, rk__plan *out)
{
    rk__plan_free(out);
    *out = (rk__plan){ .ranks = ranks, .writers = writers < 1 ? 1 : writers > ranks ? ranks : writers };
    maker m = { .st = st, .held = held, .plan = out };
    m.set = rk__calloc(st->ctx, (size_t)ranks, sizeof *m.set);
    m.seen = rk__calloc(st->ctx, (size_t)ranks, sizeof *m.seen);
    rk_status status = m.set && m.seen ? make(&m) : rk_failed(st->ctx);
    for (int i = 0; i < m.n_pools; i++)
        free(m.pools[i].rank);
    free(m.pools);
    free(m.pieces);
    free(m.set);
    free(m.seen);
    if (status)
        rk__plan_free(out);
    return status;
}

bool rk__plan_data_set(const rk__plan *p, int i, const char *name, char *out, size_t size)
{
    const rk__share *part = &p->part[i];
    int before = 0, all = 0, first = i;
    while (first > 0 && p->part[first - 1].entry == part->entry)
        first--;
    for (int k = first; k < p->n && p->part[k].entry == part->entry; k++) {
        before += k < i && p->part[k].file == part->file;
        all += p->part[k].file == part->file;
    }
    int n = all == 1 ? snprintf(out, size, "%s", name) : snprintf(out, size, "%s/%d", name, before);
    return n > 0 && (size_t)n < size && rk__state_name_ok(out);
}
