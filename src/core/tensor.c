/* Tensors: handles, storage, making, reading. */
#include "core/tape.h"

#include "core/memory.h"
#include "core/philox.h"
#include "core/rounded.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[RK_DTYPES] = {
    [RK_F32] = { "f32", 4 }, [RK_BF16] = { "bf16", 2 }, [RK_F16] = { "f16", 2 }, [RK_F64] = { "f64", 8 },
    [RK_I32] = { "i32", 4 }, [RK_I64] = { "i64", 8 },   [RK_U8] = { "u8", 1 },
};

size_t rk_dtype_size(rk_dtype t)
{
    return (unsigned)t < RK_DTYPES ? dtypes[t].size : 0;
}

const char *rk_dtype_name(rk_dtype t)
{
    return (unsigned)t < RK_DTYPES ? dtypes[t].name : "?";
}

bool rk__is_float(rk_dtype t)
{
    return t == RK_F32 || t == RK_BF16 || t == RK_F16 || t == RK_F64;
}

const char *rk__shape_str(const rk_shape *s, char *buf, size_t n)
{
    size_t used = (size_t)snprintf(buf, n, "(");
    for (int i = 0; i < s->ndim && i < RK_MAX_DIMS && used < n; i++)
        used += (size_t)snprintf(buf + used, n - used, i ? ", %lld" : "%lld", (long long)s->dim[i]);
    if (used < n)
        snprintf(buf + used, n - used, ")");
    return buf;
}

bool rk__shape_eq(const rk_shape *a, const rk_shape *b)
{
    if (a->ndim != b->ndim)
        return false;
    for (int i = 0; i < a->ndim; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

bool rk__is_inert(const rk_tensor *t)
{
    return !t || !t->storage;
}

rk_tensor *rk__inert(rk_ctx *ctx)
{
    return ctx ? ctx->inert : NULL;
}

rk_ctx *rk__ready(rk_tensor *const *ts, int n)
{
    rk_ctx *ctx = NULL;
    for (int i = 0; i < n; i++)
        if (ts[i]) {
            ctx = ts[i]->ctx;
            break;
        }
    if (rk_failed(ctx))
        return NULL;
    for (int i = 0; i < n; i++)
        if (ts[i] && rk__is_inert(ts[i])) {
            rk_fail(ctx, RK_EUSAGE, "an inert tensor of a failed call was used");
            return NULL;
        }
    return ctx;
}

/* ---- handles ---- */

static void row_major(rk_tensor *t)
{
    int64_t stride = 1;
    for (int i = t->shape.ndim - 1; i >= 0; i--) {
        t->stride[i] = stride;
        stride *= t->shape.dim[i] ? t->shape.dim[i] : 1;
    }
}

static rk_tensor *step_handle(rk_ctx *ctx, rk_dtype dtype, const rk_shape *shape)
{
    rk_tensor *t = rk__step_record(ctx, sizeof *t);
    if (!t)
        return NULL;
    t->ctx = ctx;
    t->dtype = dtype;
    t->shape = *shape;
    t->next_step = ctx->step_tensors;
    ctx->step_tensors = t;
    return t;
}

rk_tensor *rk__out(rk_ctx *ctx, rk_dtype dtype, rk_shape shape)
{
    int64_t n;
    size_t bytes;
    if (rk_failed(ctx) || rk__shape_size(ctx, &shape, &n) ||
        rk__mul_size(ctx, (size_t)n, rk_dtype_size(dtype), &bytes))
        return rk__inert(ctx);
    rk_tensor *t = step_handle(ctx, dtype, &shape);
    rk__storage *s = t ? rk__step_record(ctx, sizeof *s) : NULL;
    if (!s)
        return rk__inert(ctx);
    s->data = rk__memory_take(ctx, bytes, &s->slot);
    if (!s->data) {
        t->dropped = true;
        return rk__inert(ctx);
    }
    s->bytes = bytes;
    s->refs = 1;
    t->storage = s;
    row_major(t);
    return t;
}

/* A constant that nobody has asked the memory of. */
bool rk__known(const rk_tensor *t)
{
    return t && !rk_failed(t->ctx) && t->storage && t->storage->constant && !t->dropped;
}

rk_tensor *rk__view(rk_tensor *x, rk_shape shape, const int64_t *stride, int64_t offset)
{
    rk_ctx *ctx = x->ctx;
    if (!rk__known(x) && !rk__data(x))
        return rk__inert(ctx);
    rk_tensor *t = step_handle(ctx, x->dtype, &shape);
    if (!t)
        return rk__inert(ctx);
    t->storage = x->storage;
    t->storage->refs++;
    t->offset = offset;
    if (stride)
        memcpy(t->stride, stride, sizeof(int64_t) * (size_t)shape.ndim);
    else
        row_major(t);
    return t;
}

static void release_values(rk_tensor *t)
{
    t->dropped = true;
    if (--t->storage->refs == 0 && t->storage->slot >= 0)
        rk__memory_give_back(t->ctx, t->storage->slot);
}

void rk__drop(rk_tensor *t)
{
    if (t && t->storage && !t->persistent && !t->kept && !t->dropped)
        release_values(t);
}

rk_tensor *rk_keep(rk_tensor *t)
{
    if (t)
        t->kept = true;
    return t;
}

/* From now on it is memory like any other. */
static void write_constant(const rk_tensor *t)
{
    rk_ctx *ctx = t->ctx;
    rk__storage *s = t->storage;
    const int64_t n = (int64_t)(s->bytes / rk_dtype_size(t->dtype));
    rk_status st = rk__kernels(ctx, t->dtype)->fill(ctx->dev, n, s->value, s->data);
    s->constant = false;
    if (st)
        rk_fail(ctx, st, "a constant cannot be written");
}

/* Where its memory begins, to be used from element `from` to `to` (negative: all). */
static char *values(const rk_tensor *t, int64_t from, int64_t to)
{
    if (!t || rk_failed(t->ctx) || !t->storage)
        return NULL;
    if (t->dropped) {
        rk_fail(t->ctx, RK_EUSAGE,
                "the values of this tensor were released by rk_backward(); call rk_keep() on it before");
        return NULL;
    }
    const rk__guard *g = t->storage->guard;
    if (g)
        g->need(g->arg, g->number, from, to);
    if (t->storage->constant)
        write_constant(t);
    return rk_failed(t->ctx) ? NULL : t->storage->data;
}

void *rk__data(const rk_tensor *t)
{
    char *p = values(t, 0, -1);
    return p ? p + (size_t)t->offset * rk_dtype_size(t->dtype) : NULL;
}

void *rk__data_range(const rk_tensor *t, int64_t from, int64_t to)
{
    if (t && (!rk__is_contiguous(t) || from < 0 || to < from || to > rk__size(t))) {
        rk_fail(t->ctx, RK_EUSAGE, "elements that are not in the tensor, or not in a row");
        return NULL;
    }
    char *p = t ? values(t, t->offset + from, t->offset + to) : NULL;
    return p ? p + (size_t)(t->offset + from) * rk_dtype_size(t->dtype) : NULL;
}

rk_status rk__device_copy(rk_ctx *ctx, size_t bytes, const void *from, void *to)
{
    const size_t elem = bytes % sizeof(float) ? 1 : sizeof(float);
    const int64_t n = (int64_t)(bytes / elem), one = 1;
    if (rk_failed(ctx) || n == 0)
        return rk_failed(ctx);
    rk_status st = ctx->device->copy_strided(ctx->dev, elem, 1, &n, &one, from, &one, to);
    return st ? rk_fail(ctx, st, "%zu bytes cannot be copied on the device", bytes) : RK_OK;
}

int64_t rk__size(const rk_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->shape.ndim; i++)
        n *= t->shape.dim[i];
    return n;
}

bool rk__is_contiguous(const rk_tensor *t)
{
    int64_t expected = 1;
    for (int i = t->shape.ndim - 1; i >= 0; i--) {
        if (t->shape.dim[i] == 0)
            return true;
        if (t->shape.dim[i] > 1 && t->stride[i] != expected)
            return false;
        expected *= t->shape.dim[i];
    }
    return true;
}

rk_tensor *rk__dense(rk_tensor *x)
{
    if (rk__is_inert(x) || rk__is_contiguous(x))
        return x;
    rk_ctx *ctx = x->ctx;
    rk_tensor *y = rk__out(ctx, x->dtype, x->shape);
    const void *from = rk__data(x);
    if (rk__is_inert(y) || !from)
        return rk__inert(ctx);
    rk_status st = ctx->device->copy_strided(ctx->dev, rk_dtype_size(x->dtype), x->shape.ndim, x->shape.dim,
                                             x->stride, from, y->stride, rk__data(y));
    return st ? rk__op_failed(ctx, "copy", st) : y;
}

/* ---- making ---- */

static void free_persistent(void *arg)
{
    rk_tensor *t = arg;
    rk__rounded_free(t);
    if (!t->storage->foreign)
        t->ctx->device->release(t->ctx->dev, t->storage->data, t->storage->bytes);
    free(t->storage);
    free(t);
}

static rk_status zero(rk_tensor *t)
{
    void *p = rk__data(t);
    rk_status st = p ? t->ctx->device->zero(t->ctx->dev, p, t->storage->bytes) : rk_failed(t->ctx);
    return st ? rk_fail(t->ctx, st, "cannot clear a tensor") : RK_OK;
}

/* A persistent tensor over `data`, or over memory of the device if that is NULL. */
static rk_tensor *persistent(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, void *data)
{
    int64_t n;
    size_t bytes;
    const bool foreign = data != NULL;
    if (rk_failed(ctx) || rk__shape_size(ctx, &shape, &n) ||
        rk__mul_size(ctx, (size_t)n, rk_dtype_size(dtype), &bytes))
        return rk__inert(ctx);
    rk_tensor *t = rk__calloc(ctx, 1, sizeof *t);
    rk__storage *s = rk__calloc(ctx, 1, sizeof *s);
    if (!t || !s || (!foreign && rk__device_alloc(ctx, bytes, "a tensor", &data)))
        goto failed;
    *s = (rk__storage){ .data = data, .bytes = bytes, .refs = 1, .slot = -1, .foreign = foreign };
    *t = (rk_tensor){ .ctx = ctx, .dtype = dtype, .shape = shape, .storage = s, .persistent = true };
    row_major(t);
    if ((!foreign && zero(t)) || rk__at_close(ctx, free_persistent, t)) {
        if (!foreign)
            ctx->device->release(ctx->dev, data, bytes);
        goto failed;
    }
    return t;
failed:
    free(t);
    free(s);
    return rk__inert(ctx);
}

rk_tensor *rk_tensor_make(rk_ctx *ctx, rk_dtype dtype, rk_shape shape)
{
    return persistent(ctx, dtype, shape, NULL);
}

rk_tensor *rk__tensor_over(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, void *data)
{
    RK_ASSERT(data);
    return persistent(ctx, dtype, shape, data);
}

rk_status rk__tensor_move(rk_tensor *t, void *data)
{
    rk_ctx *ctx = t->ctx;
    rk__storage *s = t->storage;
    RK_ASSERT(t->persistent);
    RK_TRY(rk__device_copy(ctx, s->bytes, s->data, data));
    if (!s->foreign)
        ctx->device->release(ctx->dev, s->data, s->bytes);
    s->data = data;
    s->foreign = true;
    return RK_OK;
}

void rk__tensor_give_up(rk_tensor *t)
{
    rk__storage *s = t->storage;
    RK_ASSERT(t->persistent && s->refs == 1);
    rk__rounded_free(t);
    if (!s->foreign)
        t->ctx->device->release(t->ctx->dev, s->data, s->bytes);
    s->data = NULL;
    s->foreign = true;
}

rk_status rk__tensor_swap(rk_tensor *t, rk_tensor *other)
{
    rk_ctx *ctx = t->ctx;
    rk__storage *s = t->storage;
    RK_ASSERT(t->persistent && other->persistent && other->storage->refs == 1 && s->refs == 1);
    RK_TRY(rk_failed(ctx));
    rk__rounded_free(t);
    rk__rounded_stale(other);
    t->storage = other->storage;
    t->shape = other->shape;
    t->offset = other->offset;
    memcpy(t->stride, other->stride, sizeof t->stride);
    if (!s->foreign)
        ctx->device->release(ctx->dev, s->data, s->bytes);
    *s = (rk__storage){ .refs = 1, .slot = -1, .foreign = true };
    other->storage = s;
    return RK_OK;
}

rk_tensor *rk_zeros(rk_ctx *ctx, rk_dtype dtype, rk_shape shape)
{
    rk_tensor *t = rk__out(ctx, dtype, shape);
    return rk__is_inert(t) || zero(t) ? rk__inert(ctx) : t;
}

rk_tensor *rk_from_host(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, const void *data)
{
    rk_tensor *t = rk__out(ctx, dtype, shape);
    if (rk__is_inert(t) || rk_tensor_write(t, data, t->storage->bytes))
        return rk__inert(ctx);
    return t;
}

rk_tensor *rk_full(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, double value)
{
    rk_dtype made = dtype == RK_F64 ? RK_F64 : RK_F32;
    rk_tensor *t = rk__out(ctx, made, shape);
    void *p = rk__data(t);
    if (!p)
        return rk__inert(ctx);
    rk_status st = rk__kernels(ctx, made)->fill(ctx->dev, rk__size(t), value, p);
    return st ? rk__op_failed(ctx, "fill", st) : rk_cast(t, dtype);
}

rk_tensor *rk__constant(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, double value)
{
    if (dtype != RK_F32 && dtype != RK_F64)
        return rk_full(ctx, dtype, shape, value);
    rk_tensor *t = rk__out(ctx, dtype, shape);
    if (!rk__is_inert(t)) {
        t->storage->constant = true;
        t->storage->value = dtype == RK_F32 ? (double)(float)value : value;
    }
    return t;
}

typedef rk_status random_fn(rk_dev *, int64_t, rk_rng, void *);

static rk_tensor *random_tensor(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, uint64_t stream,
                                rk_rng_purpose purpose)
{
    rk_dtype made = dtype == RK_F64 ? RK_F64 : RK_F32;
    rk_tensor *t = rk__out(ctx, made, shape);
    void *p = rk__data(t);
    if (!p)
        return rk__inert(ctx);
    const rk_kernels *k = rk__kernels(ctx, made);
    random_fn *fill = purpose == RK_RNG_RANDN ? k->normal : k->uniform;
    rk_status st = fill(ctx->dev, rk__size(t), rk_rng_make(ctx->seed, purpose, stream, 0), p);
    return st ? rk__op_failed(ctx, "random", st) : rk_cast(t, dtype);
}

rk_tensor *rk_randn(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, uint64_t stream)
{
    return random_tensor(ctx, dtype, shape, stream, RK_RNG_RANDN);
}

rk_tensor *rk_rand(rk_ctx *ctx, rk_dtype dtype, rk_shape shape, uint64_t stream)
{
    return random_tensor(ctx, dtype, shape, stream, RK_RNG_RAND);
}

/* ---- reading ---- */

rk_dtype rk_tensor_dtype(const rk_tensor *t)
{
    return t ? t->dtype : RK_F32;
}

rk_shape rk_tensor_shape(const rk_tensor *t)
{
    return t ? t->shape : RK_SCALAR;
}

int64_t rk_tensor_size(const rk_tensor *t)
{
    return rk__is_inert(t) ? 0 : rk__size(t);
}

rk_ctx *rk_tensor_ctx(const rk_tensor *t)
{
    return t ? t->ctx : NULL;
}

static rk_status check_bytes(const rk_tensor *t, size_t bytes)
{
    size_t expected = (size_t)rk__size(t) * rk_dtype_size(t->dtype);
    char text[160];
    if (bytes != expected)
        return rk_fail(t->ctx, RK_EUSAGE, "%zu bytes were given for a tensor %s of %s, which has %zu", bytes,
                       rk__shape_str(&t->shape, text, sizeof text), rk_dtype_name(t->dtype), expected);
    return RK_OK;
}

rk_status rk_tensor_read(const rk_tensor *t, void *host, size_t bytes)
{
    const void *p = rk__data(t);
    if (!p)
        return t ? rk_fail(t->ctx, RK_EUSAGE, "an inert tensor was read") : RK_EUSAGE;
    RK_TRY(check_bytes(t, bytes));
    rk_tensor *dense = rk__dense((rk_tensor *)t);
    if (rk__is_inert(dense))
        return rk_failed(t->ctx);
    rk_status st = t->ctx->device->copy_out(t->ctx->dev, host, rk__data(dense), bytes);
    if (dense != t)
        rk__drop(dense);
    return st ? rk_fail(t->ctx, st, "cannot read a tensor from the device") : RK_OK;
}

static int64_t integer_at(rk_dtype t, const void *p, int64_t i)
{
    return t == RK_I64   ? ((const int64_t *)p)[i]
           : t == RK_I32 ? ((const int32_t *)p)[i]
                         : ((const uint8_t *)p)[i];
}

void rk__note_bounds(rk_tensor *t, const void *host)
{
    rk__storage *s = t->storage;
    const int64_t n = rk__size(t);
    s->bounded = !rk__is_float(t->dtype) && n > 0 && (size_t)n * rk_dtype_size(t->dtype) == s->bytes;
    if (!s->bounded)
        return;
    s->least = s->most = integer_at(t->dtype, host, 0);
    for (int64_t i = 1; i < n; i++) {
        const int64_t v = integer_at(t->dtype, host, i);
        s->least = v < s->least ? v : s->least;
        s->most = v > s->most ? v : s->most;
    }
}

rk_status rk_tensor_write(rk_tensor *t, const void *host, size_t bytes)
{
    void *p = rk__data(t);
    if (!p)
        return t ? rk_fail(t->ctx, RK_EUSAGE, "an inert tensor was written") : RK_EUSAGE;
    RK_TRY(check_bytes(t, bytes));
    if (!rk__is_contiguous(t))
        return rk_fail(t->ctx, RK_EUSAGE, "only a contiguous tensor can be written");
    if (!rk__on_host(t->ctx)) /* there it can look at them at any time */
        rk__note_bounds(t, host);
    rk__rounded_stale(t);
    rk_status st = t->ctx->device->copy_in(t->ctx->dev, p, host, bytes);
    return st ? rk_fail(t->ctx, st, "cannot write a tensor to the device") : RK_OK;
}

rk_status rk__tensor_read_range(const rk_tensor *t, int64_t at, int64_t n, void *host)
{
    const char *p = rk__data_range(t, at, at + n);
    if (!p)
        return RK_EUSAGE;
    rk_status st = t->ctx->device->copy_out(t->ctx->dev, host, p, (size_t)n * rk_dtype_size(t->dtype));
    return st ? rk_fail(t->ctx, st, "cannot read a tensor from the device") : RK_OK;
}

rk_status rk__tensor_write_range(rk_tensor *t, int64_t at, int64_t n, const void *host)
{
    char *p = rk__data_range(t, at, at + n);
    if (!p)
        return RK_EUSAGE;
    t->storage->bounded = false;
    rk__rounded_stale(t);
    rk_status st = t->ctx->device->copy_in(t->ctx->dev, p, host, (size_t)n * rk_dtype_size(t->dtype));
    return st ? rk_fail(t->ctx, st, "cannot write a tensor to the device") : RK_OK;
}

double rk_item(const rk_tensor *t)
{
    if (rk__known(t) && rk__size(t) == 1)
        return t->storage->value;
    if (!rk__data(t))
        return NAN;
    if (rk__size(t) != 1) {
        char text[160];
        rk_fail(t->ctx, RK_ESHAPE, "rk_item() takes one element, not shape %s",
                rk__shape_str(&t->shape, text, sizeof text));
        return NAN;
    }
    double value = NAN;
    rk_ctx *ctx = t->ctx;
    if (rk__on_host(ctx)) {
        const rk_status st = ctx->device->cast(ctx->dev, 1, t->dtype, rk__data(t), RK_F64, &value);
        if (st)
            rk_fail(ctx, st, "cannot read a tensor");
        return rk_failed(ctx) ? NAN : value;
    }
    rk_tensor *wide = rk__converted((rk_tensor *)t, RK_F64);
    if (!rk__is_inert(wide))
        rk_tensor_read(wide, &value, sizeof value);
    rk__drop(wide);
    return rk_failed(ctx) ? NAN : value;
}
