#include "core/op.h"

#include <string.h>

/* ---- calls ---- */

static rk_dtype common_type(rk_dtype a, rk_dtype b)
{
    if (a == b)
        return a;
    bool mix = (a == RK_BF16 && b == RK_F32) || (a == RK_F32 && b == RK_BF16);
    return mix ? RK_F32 : RK_DTYPES;
}

static bool check_types(rk__call *c, rk_tensor *const *ts, int n)
{
    c->store = ts[0]->dtype;
    for (int i = 0; i < n; i++) {
        if (!ts[i])
            continue;
        if (ts[i]->dtype == RK_F16 || !rk__is_float(ts[i]->dtype)) {
            rk_fail(c->ctx, RK_EDTYPE, "%s: no arithmetic is done in %s; rk_cast() the tensor to f32 first",
                    c->name, rk_dtype_name(ts[i]->dtype));
            return false;
        }
        rk_dtype t = common_type(c->store, ts[i]->dtype);
        if (t == RK_DTYPES) {
            rk_fail(c->ctx, RK_EDTYPE, "%s: %s and %s do not mix; rk_cast() one of the tensors", c->name,
                    rk_dtype_name(c->store), rk_dtype_name(ts[i]->dtype));
            return false;
        }
        c->store = t;
    }
    c->type = c->store == RK_F64 ? RK_F64 : RK_F32;
    return true;
}

bool rk__call_begin(rk__call *c, const char *name, rk_tensor **ts, int n)
{
    RK_ASSERT(n <= RK__CALL_INPUTS);
    *c = (rk__call){ .name = name };
    for (int i = 0; i < n && !c->ctx; i++)
        c->ctx = ts[i] ? ts[i]->ctx : NULL;
    if (!c->ctx)
        return false;
    if (!ts[0]) {
        rk_fail(c->ctx, RK_EUSAGE, "%s: a tensor is NULL", name);
        return false;
    }
    if (!rk__ready(ts, n) || !check_types(c, ts, n))
        return false;
    for (int i = 0; i < n; i++)
        if (ts[i] && ts[i]->dtype != c->type)
            c->cast[c->casts++] = ts[i] = rk_cast(ts[i], c->type);
    c->k = rk__kernels(c->ctx, c->type);
    return !rk_failed(c->ctx);
}

rk_tensor *rk__call_end(rk__call *c, rk_tensor *y)
{
    /* Without a record nobody will read the casts again; with one its rule may. */
    for (int i = 0; i < c->casts && !y->node; i++)
        rk__drop_temp(c->cast[i], y);
    if (c->store == c->type || rk__is_inert(y))
        return y;
    rk_tensor *rounded = rk_cast(y, c->store);
    if (!y->node)
        rk__drop(y);
    return rounded;
}

rk_status rk__call_check(const rk__call *c, rk_status st)
{
    if (st)
        rk__op_failed(c->ctx, c->name, st);
    return st;
}

/* ---- axes and shapes ---- */

bool rk__one_of_each(const rk__call *c, const rk_tensor *t, int64_t n, const char *what)
{
    char text[160];
    if (!t || (t->shape.ndim == 1 && t->shape.dim[0] == n))
        return true;
    rk_fail(c->ctx, RK_ESHAPE, "%s: %s is %s; (%lld) is wanted", c->name, what,
            rk__shape_str(&t->shape, text, sizeof text), (long long)n);
    return false;
}

bool rk__axis(rk_ctx *ctx, const char *name, const rk_tensor *x, int *axis)
{
    int n = x->shape.ndim, given = *axis;
    if (*axis < 0)
        *axis += n;
    if (*axis >= 0 && *axis < n)
        return true;
    rk_fail(ctx, RK_ESHAPE, "%s: axis %d of a tensor with %d axes", name, given, n);
    return false;
}

rk_shape rk__drop_axes(const rk_shape *s, unsigned axes, bool keep)
{
    rk_shape out = { 0 };
    for (int i = 0; i < s->ndim; i++)
        if (!(axes >> i & 1))
            out.dim[out.ndim++] = s->dim[i];
        else if (keep)
            out.dim[out.ndim++] = 1;
    return out;
}

int64_t rk__rows(const rk_tensor *x)
{
    int64_t rows = 1;
    for (int i = 0; i + 1 < x->shape.ndim; i++)
        rows *= x->shape.dim[i];
    return rows;
}

bool rk__broadcast_shape(rk_ctx *ctx, const char *name, const rk_shape *a, const rk_shape *b, rk_shape *out)
{
    int n = a->ndim > b->ndim ? a->ndim : b->ndim;
    *out = (rk_shape){ .ndim = n };
    for (int i = 0; i < n; i++) {
        int ia = i - (n - a->ndim), ib = i - (n - b->ndim);
        int64_t da = ia >= 0 ? a->dim[ia] : 1, db = ib >= 0 ? b->dim[ib] : 1;
        if (da != db && da != 1 && db != 1) {
            char ta[160], tb[160];
            rk_fail(ctx, RK_ESHAPE, "%s: shapes %s and %s do not broadcast: %lld and %lld on axis %d", name,
                    rk__shape_str(a, ta, sizeof ta), rk__shape_str(b, tb, sizeof tb), (long long)da,
                    (long long)db, i);
            return false;
        }
        out->dim[i] = da == 1 ? db : da;
    }
    return true;
}

rk_tensor *rk__spread(rk_tensor *x, const rk_shape *s)
{
    if (rk__shape_eq(&x->shape, s))
        return rk__dense(x);
    int lead = s->ndim - x->shape.ndim;
    int64_t stride[RK_MAX_DIMS] = { 0 };
    for (int i = lead; i < s->ndim; i++)
        stride[i] = x->shape.dim[i - lead] == 1 ? 0 : x->stride[i - lead];
    rk_tensor *view = rk__view(x, *s, stride, x->offset);
    rk_tensor *dense = rk__dense(view);
    if (dense != view)
        rk__drop(view);
    return dense;
}

rk_tensor *rk__permuted(rk_tensor *x, const int *order)
{
    rk_shape shape = { .ndim = x->shape.ndim };
    int64_t stride[RK_MAX_DIMS] = { 0 };
    for (int i = 0; i < shape.ndim; i++) {
        shape.dim[i] = x->shape.dim[order[i]];
        stride[i] = x->stride[order[i]];
    }
    return rk__view(x, shape, stride, x->offset);
}

rk_status rk__copy_over(rk_tensor *to, rk_tensor *from)
{
    rk_ctx *ctx = to->ctx;
    void *dst = rk__data(to);
    const void *src = rk__data(from);
    if (!dst || !src)
        return rk_failed(ctx);
    rk_status st = ctx->device->copy_strided(ctx->dev, rk_dtype_size(to->dtype), to->shape.ndim,
                                             to->shape.dim, from->stride, src, to->stride, dst);
    return st ? rk_fail(ctx, st, "cannot copy a tensor") : RK_OK;
}

/* ---- gradients ---- */

rk_tensor *rk__grad_room(const rk__node *node, rk_tensor *dy)
{
    bool own = dy->storage->refs == 1 && !dy->persistent && !dy->kept && !node->out->kept;
    return own ? dy : rk__out(dy->ctx, dy->dtype, dy->shape);
}

rk_tensor *rk__relu_undo(rk__node *node, rk_tensor *dy)
{
    bool done = node->masked > 0 && node->masked == node->uses;
    node->masked = 0;
    if (done)
        return dy;
    rk_ctx *ctx = dy->ctx;
    rk_tensor *g = rk__grad_room(node, dy);
    const void *y = rk__data(node->out), *from = rk__data(dy);
    void *to = rk__data(g);
    if (!y || !from || !to)
        return rk__inert(ctx);
    rk_status st = rk__kernels(ctx, dy->dtype)->relu_grad(ctx->dev, rk__size(dy), y, from, 0, to);
    return st ? rk__op_failed(ctx, "relu", st) : g;
}

const void *rk__relu_mask(rk_tensor *x)
{
    if (!x->node || !x->node->relu || x->kept || !rk__is_contiguous(x))
        return NULL;
    x->node->masked++;
    return rk__data(x);
}

unsigned rk__device_uses(const rk_ctx *ctx)
{
    return ctx->device->uses ? ctx->device->uses(ctx->dev) : 0;
}

/* Only where one reader gives all of the gradient: twice multiplied would be wrong, unlike twice masked. */
static bool slope_wanted(const rk_tensor *x)
{
    return x->node && x->node->before && x->node->uses == 1 && !x->kept && rk__is_contiguous(x);
}

void rk__ask_before(rk_tensor *x, rk_gemm *g, rk_gemm_beside *beside)
{
    const unsigned uses = rk__device_uses(x->ctx);
    *beside = (rk_gemm_beside){ 0 };
    g->beside = uses ? beside : NULL;
    g->relu_mask = rk__relu_mask(x);
    if (g->relu_mask && x->node->bits)
        beside->mask_bits = rk__data(x->node->bits);
    if ((uses & RK_BESIDE_SLOPE) && slope_wanted(x)) {
        beside->slope_of = rk__data(x->node->before);
        beside->slope = RK_ACT_GELU_TANH;
    }
}

void rk__asked_before(rk_tensor *x, const rk_gemm_beside *beside)
{
    if (beside->done & RK_BESIDE_SLOPE)
        x->node->sloped = true;
}

/* ---- indices ---- */

enum { INDEX_PIECE = 512 };

static rk_status check_range(rk_ctx *ctx, const char *name, rk_tensor *index, int64_t limit,
                             const int64_t *ignore, const char *what)
{
    int64_t host[INDEX_PIECE], n = rk__size(index);
    const int64_t *at = rk__data(index);
    if (!at)
        return rk_failed(ctx);
    for (int64_t begin = 0; begin < n; begin += INDEX_PIECE) {
        int64_t m = n - begin < INDEX_PIECE ? n - begin : INDEX_PIECE;
        rk_status st = ctx->device->copy_out(ctx->dev, host, at + begin, (size_t)m * sizeof *host);
        if (st)
            return rk_fail(ctx, st, "%s: cannot read the indices from the device", name);
        for (int64_t i = 0; i < m; i++)
            if ((host[i] < 0 || host[i] >= limit) && !(ignore && host[i] == *ignore))
                return rk_fail(ctx, RK_EDATA, "%s: %s %lld at position %lld is not in [0, %lld)", name, what,
                               (long long)host[i], (long long)(begin + i), (long long)limit);
    }
    return RK_OK;
}

static bool known_in_range(const rk_tensor *index, int64_t limit)
{
    const rk__storage *s = index->storage;
    return s && s->bounded && s->least >= 0 && s->most < limit;
}

rk_tensor *rk__indices(rk_ctx *ctx, const char *name, rk_tensor *index, int64_t limit, const int64_t *ignore,
                       const char *what)
{
    if (index->dtype != RK_I64 && index->dtype != RK_I32 && index->dtype != RK_U8) {
        rk_fail(ctx, RK_EDTYPE, "%s: indices are i64, i32 or u8, not %s", name, rk_dtype_name(index->dtype));
        return NULL;
    }
    rk_tensor *wide = rk__dense(rk_cast(index, RK_I64));
    if (rk__is_inert(wide))
        return NULL;
    if (!known_in_range(index, limit) && check_range(ctx, name, wide, limit, ignore, what))
        return NULL;
    return wide;
}
