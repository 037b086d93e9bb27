#include <rankine/base.h>

#include "core/ctx.h"

double rk_peak_flops(rk_ctx *ctx)
{
    if (!ctx || ctx->status || !ctx->dev || !ctx->device->peak_flops)
        return 0;
    return ctx->device->peak_flops(ctx->dev);
}
