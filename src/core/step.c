/* The end of a step: handles, records and step memory go. */
#include "core/memory.h"
#include "core/tape.h"

/* A leaf of the step is forgotten with it; a persistent leaf keeps its buffer and its gradient. */
rk_status rk_step_end(rk_ctx *ctx)
{
    if (!ctx || !ctx->memory)
        return rk_failed(ctx);
    ctx->step_tensors = NULL;
    ctx->tape->newest = NULL;
    rk_status st = rk__memory_step_end(ctx);
    if (!st && ctx->device->flush && (st = ctx->device->flush(ctx->dev)))
        return rk_fail(ctx, st, "the step cannot be started");
    return rk_failed(ctx) ? rk_failed(ctx) : st;
}
