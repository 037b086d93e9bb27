#include "parallel/devices.h"

#include "parallel/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What one rank has found. */
typedef struct found {
    int32_t gpu, free; /* free: device auto */
    char host[64];
    char no_gpu[320];     /* auto: why it is the processor; "" if nothing was asked */
    char no_library[128]; /* why products come from no library although they may; else "" */
} found;

static void describe(const rk_ctx *ctx, found *f)
{
    const rk_device *d = ctx->device;
    *f = (found){ .gpu = !rk__on_host(ctx), .free = ctx->choice.free };
    if (gethostname(f->host, sizeof f->host - 1))
        snprintf(f->host, sizeof f->host, "unknown");
    snprintf(f->no_gpu, sizeof f->no_gpu, "%.319s", ctx->choice.no_gpu);
    if (d->lacks)
        snprintf(f->no_library, sizeof f->no_library, "%.127s", d->lacks(ctx->dev));
}

/* The first rank with a GPU, or without; -1: none. */
static int first_with(const found *f, int ranks, bool gpu)
{
    for (int r = 0; r < ranks; r++)
        if (!f[r].gpu == !gpu)
            return r;
    return -1;
}

static rk_status refuse(rk_ctx *ctx, const found *f, int with, int without)
{
    const found *w = &f[without];
    if (w->free && f[with].free)
        return rk_fail(
            ctx, RK_ECONFIG,
            "device auto: rank %d (on %s) has a GPU, and rank %d (on %s) has none that it can use: "
            "%s. device: cpu trains on the processors of all ranks",
            with, f[with].host, without, w->host, w->no_gpu);
    return rk_fail(ctx, RK_ECONFIG,
                   "rank %d (on %s) computes on a GPU, and rank %d (on %s) on the processor: give every rank "
                   "the same device",
                   with, f[with].host, without, w->host);
}

/* All ranks are on the processor: the reason of the first, and of the first that has another. */
static void tell_why(rk_ctx *ctx, const found *f)
{
    rk__choice *c = &ctx->choice;
    int other = 1;
    while (other < ctx->ranks && !strcmp(f[other].no_gpu, f[0].no_gpu))
        other++;
    if (other < ctx->ranks && *f[0].no_gpu && *f[other].no_gpu)
        snprintf(c->no_gpu, sizeof c->no_gpu, "%.220s (rank 0); %.220s (rank %d)", f[0].no_gpu,
                 f[other].no_gpu, other);
}

/* Results depend on who multiplies: all by the library, or none. */
static void all_or_none(rk_ctx *ctx, const found *f)
{
    char why[160];
    int r = 0;
    while (r < ctx->ranks && !*f[r].no_library)
        r++;
    if (r == ctx->ranks)
        return;
    snprintf(why, sizeof why, "%s (rank %d)", f[r].no_library, r);
    ctx->device->do_without(ctx->dev, why);
}

rk_status rk__devices_agree(rk_ctx *ctx)
{
    const int ranks = ctx->ranks;
    found mine;
    if (ranks == 1)
        return rk_failed(ctx);
    found *all = rk__calloc(ctx, (size_t)ranks, sizeof *all);
    if (!all)
        return RK_ENOMEM;
    describe(ctx, &mine);
    rk_status st = rk__comm_all_values(ctx->comm, "devices", &mine, sizeof mine, all);
    const int with = st ? -1 : first_with(all, ranks, true),
              without = st ? -1 : first_with(all, ranks, false);
    if (with >= 0 && without >= 0)
        st = refuse(ctx, all, with, without);
    else if (without >= 0)
        tell_why(ctx, all);
    else if (with >= 0)
        all_or_none(ctx, all);
    free(all);
    return st;
}
