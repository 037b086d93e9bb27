#include "core/ctx.h"

#include "core/cuda_module.h"
#include "core/memory.h"
#include "core/tape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct rk__closer {
    struct rk__closer *next;
    rk__close_fn *fn;
    void *arg;
} rk__closer;

#define WITHOUT "; device: cpu trains without a GPU"

/* An empty reason: the host's memory is short. */
static rk_status try_device(rk_ctx *ctx, const rk_open_cfg *cfg, const rk_device *device, char *reason,
                            size_t size)
{
    *reason = '\0';
    ctx->device = device;
    return device->open(cfg, &ctx->dev, reason, size);
}

static rk_status use_device(rk_ctx *ctx, const rk_open_cfg *cfg, const rk_device *device)
{
    char reason[512];
    rk_status st = try_device(ctx, cfg, device, reason, sizeof reason);
    if (!st)
        return RK_OK;
    return rk_fail(ctx, st, "device %s: %s%s", device->name, *reason ? reason : "out of memory",
                   *reason && device != &rk_device_cpu ? WITHOUT : "");
}

static rk_status use_cuda(rk_ctx *ctx, const rk_open_cfg *cfg)
{
    char reason[512];
    const rk_cuda_library *m = rk__cuda_load(reason, sizeof reason);
    if (!m)
        return rk_fail(ctx, RK_ECONFIG, "device cuda: %s" WITHOUT, reason);
    return use_device(ctx, cfg, m->device);
}

/* A GPU where there is one that can be used; why not, is kept. The host-run module counts as one where
 * RANKINE_CUDA names it. */
static rk_status use_best(rk_ctx *ctx, const rk_open_cfg *cfg)
{
    const char *named = getenv("RANKINE_CUDA");
    char reason[sizeof ctx->choice.no_gpu];
    const rk_cuda_library *m = rk__cuda_load(reason, sizeof reason);
    if (!m && named && *named)
        return rk_fail(ctx, RK_ECONFIG, "device auto: %s" WITHOUT, reason);
    if (m && !try_device(ctx, cfg, m->device, reason, sizeof reason))
        return RK_OK;
    if (m && !*reason)
        return rk_fail(ctx, RK_ENOMEM, "device auto: out of memory");
    snprintf(ctx->choice.no_gpu, sizeof ctx->choice.no_gpu, "%s", reason);
    ctx->choice.looked = m != NULL;
    ctx->choice.faulty = m && m->gpus(reason, sizeof reason) != 0;
    return use_device(ctx, cfg, &rk_device_cpu);
}

static rk_status open_device(rk_ctx *ctx, const rk_open_cfg *cfg)
{
    ctx->choice.free = !cfg->device || !strcmp(cfg->device, "auto");
    if (ctx->choice.free)
        return use_best(ctx, cfg);
    if (!strcmp(cfg->device, "cpu"))
        return use_device(ctx, cfg, &rk_device_cpu);
    if (!strcmp(cfg->device, "cuda"))
        return use_cuda(ctx, cfg);
    return rk_fail(ctx, RK_ECONFIG, "there is no device \"%s\"; there are auto, cpu and cuda", cfg->device);
}

/* device NULL: the one that cfg names. */
static rk_status set_up(rk_ctx *ctx, const rk_open_cfg *cfg, const rk_device *device)
{
    int shards = cfg->data_shards ? cfg->data_shards : 8;
    if (shards < 1 || shards > 1024 || (shards & (shards - 1)))
        return rk_fail(ctx, RK_ECONFIG, "grid.data is %d; it must be a power of two from 1 to 1024", shards);
    if (cfg->threads < 0)
        return rk_fail(ctx, RK_ECONFIG, "parallel.threads is %d; it must not be negative", cfg->threads);
    ctx->data_shards = shards;
    ctx->grid.segments = cfg->inexact ? 1 : shards;
    ctx->grid.shards = shards;
    ctx->exact = !cfg->inexact;
    ctx->nccl = cfg->nccl;
    ctx->seed = cfg->seed;
    ctx->ranks = 1;
    RK_TRY(device ? use_device(ctx, cfg, device) : open_device(ctx, cfg));
    RK_TRY(rk__memory_open(ctx));
    ctx->tape = rk__calloc(ctx, 1, sizeof *ctx->tape);
    return ctx->status;
}

rk_status rk__open_on(const rk_open_cfg *cfg, const rk_device *device, rk_ctx **out)
{
    static const rk_open_cfg defaults;
    rk_ctx *ctx = *out = calloc(1, sizeof *ctx);
    if (!ctx)
        return RK_ENOMEM;
    ctx->inert = calloc(1, sizeof *ctx->inert);
    if (!ctx->inert)
        return rk_fail(ctx, RK_ENOMEM, "out of memory");
    ctx->inert->ctx = ctx;
    ctx->training = true;
    return set_up(ctx, cfg ? cfg : &defaults, device);
}

rk_status rk__open(const rk_open_cfg *cfg, rk_ctx **out)
{
    return rk__open_on(cfg, NULL, out);
}

static void run(rk__closer *c)
{
    for (rk__closer *next; c; c = next) {
        next = c->next;
        c->fn(c->arg);
        free(c);
    }
}

int rk_close(rk_ctx *ctx)
{
    if (!ctx)
        return 0;
    run(ctx->leavers);
    run(ctx->closers);
    rk__memory_close(ctx);
    if (ctx->dev)
        ctx->device->close(ctx->dev);
    int code = rk_exit_code(ctx->status);
    free(ctx->tape);
    free(ctx->inert);
    free(ctx);
    return code;
}

static rk_status put(rk_ctx *ctx, rk__closer **list, rk__close_fn *fn, void *arg)
{
    rk__closer *c = rk__calloc(ctx, 1, sizeof *c);
    if (!c)
        return RK_ENOMEM;
    *c = (rk__closer){ *list, fn, arg };
    *list = c;
    return RK_OK;
}

rk_status rk__at_close(rk_ctx *ctx, rk__close_fn *fn, void *arg)
{
    return put(ctx, &ctx->closers, fn, arg);
}

rk_status rk__before_close(rk_ctx *ctx, rk__close_fn *fn, void *arg)
{
    return put(ctx, &ctx->leavers, fn, arg);
}

const rk_kernels *rk__kernels(rk_ctx *ctx, rk_dtype t)
{
    return ctx->device->kernels(ctx->dev, t);
}

int rk_rank(const rk_ctx *ctx)
{
    return ctx ? ctx->rank : 0;
}

int rk_ranks(const rk_ctx *ctx)
{
    return ctx ? ctx->ranks : 1;
}

const char *rk_version(void)
{
    return RANKINE_VERSION;
}

const char *rk_device_describe(const rk_ctx *ctx)
{
    return ctx && ctx->dev ? ctx->device->describe(ctx->dev) : "no device";
}

const char *rk_device_why_cpu(const rk_ctx *ctx, bool *faulty)
{
    if (faulty)
        *faulty = ctx && ctx->choice.faulty;
    return ctx && ctx->choice.looked && *ctx->choice.no_gpu ? ctx->choice.no_gpu : NULL;
}

rk_status rk_device_wait(rk_ctx *ctx)
{
    if (!ctx || ctx->status || !ctx->dev || !ctx->device->wait)
        return rk_failed(ctx);
    rk_status st = ctx->device->wait(ctx->dev);
    return st ? rk_fail(ctx, st, "the device cannot be waited for") : RK_OK;
}

void *rk__calloc(rk_ctx *ctx, size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p)
        rk_fail(ctx, RK_ENOMEM, "out of memory: %zu x %zu bytes", n, size);
    return p;
}

rk_status rk__device_alloc(rk_ctx *ctx, size_t bytes, const char *what, void **p)
{
    *p = NULL;
    const rk_status st = ctx->device->alloc(ctx->dev, bytes, p);
    if (!st)
        return RK_OK;
    *p = NULL;
    if (st == RK_ENOMEM)
        rk_fail(ctx, st, "out of memory: %zu bytes for %s", bytes, what);
    else
        rk_fail(ctx, st, "the device failed when it was asked for memory, %zu bytes for %s", bytes, what);
    return st;
}

char *rk__strdup(rk_ctx *ctx, const char *s)
{
    size_t n = strlen(s) + 1;
    char *copy = rk__calloc(ctx, n, 1);
    return copy ? memcpy(copy, s, n) : NULL;
}

rk_status rk__mul_size(rk_ctx *ctx, size_t a, size_t b, size_t *out)
{
    if (__builtin_mul_overflow(a, b, out))
        return rk_fail(ctx, RK_ENOMEM, "a size overflows: %zu x %zu", a, b);
    return RK_OK;
}

rk_status rk__shape_size(rk_ctx *ctx, const rk_shape *s, int64_t *out)
{
    char text[160];
    int64_t n = 1, nonzero = 1;
    if (s->ndim < 0 || s->ndim > RK_MAX_DIMS)
        return rk_fail(ctx, RK_ESHAPE, "a tensor has at most %d axes, not %d", RK_MAX_DIMS, s->ndim);
    for (int i = 0; i < s->ndim; i++) {
        if (s->dim[i] < 0)
            return rk_fail(ctx, RK_ESHAPE, "negative size in shape %s", rk__shape_str(s, text, sizeof text));
        /* The product of the others is checked even where a zero makes the whole empty: strides use it. */
        if (__builtin_mul_overflow(nonzero, s->dim[i] ? s->dim[i] : 1, &nonzero) || nonzero > INT64_MAX / 16)
            return rk_fail(ctx, RK_ESHAPE, "shape %s has too many elements",
                           rk__shape_str(s, text, sizeof text));
        n *= s->dim[i];
    }
    *out = n;
    return RK_OK;
}

void rk_set_step(rk_ctx *ctx, uint64_t step, int64_t first_sample)
{
    if (ctx) {
        ctx->step = step;
        ctx->first_sample = first_sample;
    }
}

void rk_set_training(rk_ctx *ctx, bool on)
{
    if (ctx)
        ctx->training = on;
}

rk_status rk_set_compute(rk_ctx *ctx, rk_dtype t)
{
    if (rk_failed(ctx))
        return rk_failed(ctx);
    if (t != RK_F32 && t != RK_BF16 && t != RK_F16)
        return rk_fail(ctx, RK_ECONFIG, "compute is %s; f32, bf16 and f16 are offered", rk_dtype_name(t));
    ctx->round = t == RK_BF16 ? RK_ROUND_BF16 : t == RK_F16 ? RK_ROUND_F16 : RK_ROUND_NONE;
    return RK_OK;
}

void rk_no_grad_begin(rk_ctx *ctx)
{
    if (ctx)
        ctx->no_grad++;
}

void rk_no_grad_end(rk_ctx *ctx)
{
    if (ctx && ctx->no_grad > 0)
        ctx->no_grad--;
}
