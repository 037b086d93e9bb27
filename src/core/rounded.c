#include "core/rounded.h"

#include "core/op.h"

void rk__weights_stand(rk_ctx *ctx)
{
    if (ctx->still.depth++ == 0)
        ctx->still.epoch++;
}

void rk__weights_move(rk_ctx *ctx)
{
    RK_ASSERT(ctx->still.depth > 0);
    ctx->still.depth--;
}

static bool wanted(const rk_ctx *ctx)
{
    return ctx->round && (rk__device_uses(ctx) & RK_USES_ROUNDED) && !rk_failed(ctx);
}

static rk_status convert(rk_ctx *ctx, int64_t rows, int64_t cols, int64_t step, const void *from, void *to)
{
    if (!from || !to)
        return rk_failed(ctx);
    rk_status st =
        ctx->device->round16(ctx->dev, ctx->round, rows, cols, step, from, rk__rounded_step(cols), to);
    return st ? rk_fail(ctx, st, "a matrix cannot be converted to 16 bits") : RK_OK;
}

/* ---- weights ---- */

/* With one row or column it is not told which way its elements are neighbours. Weights that come and go
 * (parallel.zero: 3) are not kept in any form. */
static bool keeps(const rk_tensor *w)
{
    const rk__guard *g = w->storage->guard;
    return w->ctx->still.depth > 0 && w->persistent && w->dtype == RK_F32 && w->shape.ndim == 2 &&
           w->shape.dim[0] > 1 && w->shape.dim[1] > 1 && w->offset == 0 && rk__is_contiguous(w) &&
           !(g && g->passing);
}

static rk_status make_room(rk_tensor *w, size_t bytes)
{
    rk_ctx *ctx = w->ctx;
    rk__storage *s = w->storage;
    if (s->rounded)
        return RK_OK;
    RK_TRY(rk__device_alloc(ctx, bytes, "weights in 16 bits", &s->rounded));
    s->rounded_bytes = bytes;
    return RK_OK;
}

rk_rounded rk__rounded_weight(rk_tensor *w)
{
    rk_ctx *ctx = w->ctx;
    rk__storage *s = w->storage;
    const rk_rounded none = { NULL, 0 };
    if (!wanted(ctx) || !keeps(w))
        return none;
    const int64_t rows = w->shape.dim[0], cols = w->shape.dim[1], step = rk__rounded_step(cols);
    if (make_room(w, (size_t)(rows * step) * sizeof(uint16_t)))
        return none;
    if (s->rounded_epoch != ctx->still.epoch || s->rounded_to != ctx->round) {
        if (convert(ctx, rows, cols, cols, rk__data(w), s->rounded))
            return none;
        s->rounded_epoch = ctx->still.epoch;
        s->rounded_to = ctx->round;
    }
    return (rk_rounded){ s->rounded, step };
}

void rk__rounded_stale(rk_tensor *t)
{
    t->storage->rounded_epoch = 0; /* which none is */
}

void rk__rounded_free(rk_tensor *t)
{
    rk__storage *s = t->storage;
    if (s->rounded)
        t->ctx->device->release(t->ctx->dev, s->rounded, s->rounded_bytes);
    s->rounded = NULL;
    s->rounded_epoch = 0;
}

/* ---- others ---- */

rk_rounded rk__rounded_rows(rk_ctx *ctx, int64_t rows, int64_t cols, int64_t step, const void *from,
                            rk_tensor **room)
{
    *room = NULL;
    if (!wanted(ctx) || rows < 2 || cols < 2)
        return (rk_rounded){ NULL, 0 };
    rk_tensor *t = rk__out(ctx, RK_BF16, RK_SHAPE(rows, rk__rounded_step(cols))); /* or f16: 16 bits */
    if (convert(ctx, rows, cols, step, from, rk__data(t)))
        return (rk_rounded){ NULL, 0 };
    *room = t;
    return (rk_rounded){ rk__data(t), rk__rounded_step(cols) };
}
