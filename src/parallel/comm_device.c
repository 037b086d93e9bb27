/* Which way the tensors of a device go between ranks. */
#include "parallel/comm_nccl.h"
#include "parallel/comm_over.h"
#include "parallel/comm_tables.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum asked { NOTHING, NEVER, ALWAYS } asked;

/* What one rank can say of its GPU. */
typedef struct gpu {
    int32_t able, asked, node;
    char by[24]; /* who asked: "RANKINE_NCCL is 0", "device.nccl is on" */
    rk_nccl_gpu is;
    char why[192]; /* it is not able */
} gpu;

const rk_nccl_table *rk__nccl_of(const rk_ctx *ctx, char *why, size_t size)
{
    const rk_cuda_library *m = rk__cuda_load(why, size);
    const rk_nccl_table *call = m && m->device == ctx->device ? m->nccl : NULL;
    if (call)
        return call->there(why, size) ? call : NULL;
    snprintf(why, size, "nccl.h was not there when the CUDA library was built");
    return NULL;
}

/* The environment comes before the configuration: whoever looks for a fault need not change files. */
static rk_status read_asked(rk_ctx *ctx, gpu *g)
{
    const char *text = getenv("RANKINE_NCCL");
    const bool never = text && !strcmp(text, "0"), always = text && !strcmp(text, "1");
    if (never || always) {
        snprintf(g->by, sizeof g->by, "RANKINE_NCCL is %s", text);
        g->asked = never ? NEVER : ALWAYS;
    } else if (text && *text) {
        return rk_fail(ctx, RK_ECONFIG,
                       "RANKINE_NCCL is %s, wanted 0 (never by NCCL), 1 (by NCCL or not at all) or nothing "
                       "(as device.nccl says)",
                       text);
    } else if (ctx->nccl) {
        snprintf(g->by, sizeof g->by, "device.nccl is %s", ctx->nccl > 0 ? "on" : "off");
        g->asked = ctx->nccl > 0 ? ALWAYS : NEVER;
    }
    return RK_OK;
}

rk_status rk__nccl_asked(rk_ctx *ctx)
{
    gpu none = { .asked = NOTHING };
    return read_asked(ctx, &none);
}

/* NCCL is not even looked for where it is not wanted. */
static const rk_nccl_table *describe(const rk_comm *c, gpu *g)
{
    const rk_nccl_table *call = NULL;
    *g = (gpu){ .asked = NOTHING, .node = c->node };
    if (!read_asked(c->ctx, g) && g->asked != NEVER)
        call = rk__nccl_of(c->ctx, g->why, sizeof g->why);
    if (call && call->gpu(c->ctx->dev, &g->is)) {
        snprintf(g->why, sizeof g->why, "the GPU does not tell its id");
        call = NULL;
    }
    g->able = call != NULL;
    return call;
}

/* Two ranks that NCCL cannot tell apart. */
static bool clash(const gpu *g, int a, int b, char *why, size_t size)
{
    if (!strcmp(g[a].is.id, g[b].is.id))
        snprintf(why, size, "ranks %d and %d share a GPU, which NCCL refuses", a, b);
    else if (g[a].node == g[b].node && !strcmp(g[a].is.place, g[b].is.place))
        snprintf(why, size, "ranks %d and %d have slices of one GPU, which NCCL refuses", a, b);
    else
        return false;
    return true;
}

/* Why NCCL cannot be taken; false: it can. */
static bool hindered(const gpu *g, int ranks, char *why, size_t size)
{
    for (int i = 0; i < ranks; i++)
        if (!g[i].able) {
            snprintf(why, size, "%s (rank %d)", g[i].why, i);
            return true;
        }
    for (int i = 0; i < ranks; i++)
        for (int k = 0; k < i; k++)
            if (clash(g, k, i, why, size))
                return true;
    return false;
}

static int first_that_asked(const gpu *g, int ranks, asked what)
{
    for (int i = 0; i < ranks; i++)
        if (g[i].asked == (int)what)
            return i;
    return -1;
}

/* From what all ranks said: which way, and why; the same on every rank. */
static rk_status choose(rk_ctx *ctx, const gpu *g, int ranks, bool *by_nccl, char *way, size_t size)
{
    char why[256];
    const int never = first_that_asked(g, ranks, NEVER), always = first_that_asked(g, ranks, ALWAYS);
    *by_nccl = false;
    if (never >= 0) {
        snprintf(way, size, "over MPI and the host's memory, for %s (rank %d)", g[never].by, never);
    } else if (!hindered(g, ranks, why, sizeof why)) {
        *by_nccl = true;
        snprintf(way, size, "from GPU to GPU by NCCL");
    } else if (always >= 0) {
        return rk_fail(
            ctx, RK_ECONFIG,
            "%s (rank %d), but %s; %s sends tensors over MPI and the host's memory, with the same results",
            g[always].by, always, why, *g[always].by == 'R' ? "RANKINE_NCCL=0" : "device.nccl: off");
    } else {
        snprintf(way, size, "over MPI and the host's memory: %s", why);
    }
    return RK_OK;
}

rk_status rk__comm_of_device(rk_comm *under, rk_comm **out)
{
    rk_ctx *ctx = under->ctx;
    gpu mine, *all;
    bool by_nccl;
    char way[320];
    *out = NULL;
    if (under->size == 1)
        return rk__comm_staged(under, out);
    if (!(all = rk__calloc(ctx, (size_t)under->size, sizeof *all)))
        return RK_ENOMEM;
    const rk_nccl_table *call = describe(under, &mine);
    rk_status st = rk__comm_all_values(under, "GPUs of ranks", &mine, sizeof mine, all);
    if (!st)
        st = choose(ctx, all, under->size, &by_nccl, way, sizeof way);
    free(all);
    if (!st)
        st = by_nccl ? rk__comm_nccl(under, call, out) : rk__comm_staged(under, out);
    return st ? st : rk__over_say_way(*out, way);
}
