/* Initial values: a pure function of (seed, full name of the parameter). */
#include "nn/module.h"

#include "core/philox.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* FNV-1a. */
static uint64_t name_hash(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h;
}

static rk_rng stream(rk_ctx *ctx, const rk__param_slot *slot, uint64_t attempt)
{
    return rk_rng_make(ctx->seed, RK_RNG_INIT, name_hash(slot->name), attempt);
}

static rk_status fill(rk_ctx *ctx, const rk__param_slot *slot, double value)
{
    return rk__kernels(ctx, RK_F32)
        ->fill(ctx->dev, rk__size(slot->pub.tensor), value, rk__data(slot->pub.tensor));
}

/* Uniform in [-bound, bound). */
static rk_status uniform(rk_ctx *ctx, const rk__param_slot *slot, double bound)
{
    const rk_kernels *k = rk__kernels(ctx, RK_F32);
    int64_t n = rk__size(slot->pub.tensor);
    void *w = rk__data(slot->pub.tensor);
    RK_TRY(k->uniform(ctx->dev, n, stream(ctx, slot, 0), w));
    RK_TRY(k->mul_scalar(ctx->dev, n, w, 2 * bound, w));
    return k->add_scalar(ctx->dev, n, w, -bound, w);
}

static rk_status normal(rk_ctx *ctx, const rk__param_slot *slot, double std)
{
    const rk_kernels *k = rk__kernels(ctx, RK_F32);
    int64_t n = rk__size(slot->pub.tensor);
    void *w = rk__data(slot->pub.tensor);
    RK_TRY(k->normal(ctx->dev, n, stream(ctx, slot, 0), w));
    return k->mul_scalar(ctx->dev, n, w, std, w);
}

/* Host copies of a parameter's numbers, for the kinds that need more than a map. */
static rk_status draw(rk_ctx *ctx, const rk__param_slot *slot, uint64_t attempt, float *host)
{
    int64_t n = rk__size(slot->pub.tensor);
    RK_TRY(rk__kernels(ctx, RK_F32)
               ->normal(ctx->dev, n, stream(ctx, slot, attempt), rk__data(slot->pub.tensor)));
    return rk_tensor_read(slot->pub.tensor, host, (size_t)n * sizeof *host);
}

/* Numbers beyond two deviations are drawn again from the next stream, each element from its own place there.
 */
static rk_status truncated_normal(rk_ctx *ctx, const rk__param_slot *slot, double std)
{
    size_t n = (size_t)rk__size(slot->pub.tensor);
    float *keep = rk__calloc(ctx, 2 * n + 1, sizeof *keep), *next = keep + n;
    if (!keep)
        return RK_ENOMEM;
    rk_status st = draw(ctx, slot, 0, keep);
    for (uint64_t attempt = 1; !st; attempt++) {
        size_t outside = 0;
        for (size_t i = 0; i < n; i++)
            outside += fabsf(keep[i]) > 2;
        if (!outside)
            break;
        st = draw(ctx, slot, attempt, next);
        for (size_t i = 0; i < n; i++)
            if (fabsf(keep[i]) > 2)
                keep[i] = next[i];
    }
    for (size_t i = 0; i < n; i++)
        keep[i] = (float)((double)keep[i] * std);
    if (!st)
        st = rk_tensor_write(slot->pub.tensor, keep, n * sizeof *keep);
    free(keep);
    return st;
}

/* Rows (count of `len`) become orthonormal: Gram-Schmidt in double, twice over for stability. */
static void orthonormalise(double *a, int64_t count, int64_t len)
{
    for (int64_t i = 0; i < count; i++) {
        double *r = a + i * len;
        for (int pass = 0; pass < 2; pass++)
            for (int64_t j = 0; j < i; j++) {
                const double *q = a + j * len;
                double dot = 0;
                for (int64_t k = 0; k < len; k++)
                    dot += r[k] * q[k];
                for (int64_t k = 0; k < len; k++)
                    r[k] -= dot * q[k];
            }
        double norm = 0;
        for (int64_t k = 0; k < len; k++)
            norm += r[k] * r[k];
        norm = sqrt(norm);
        for (int64_t k = 0; k < len; k++)
            r[k] /= norm;
    }
}

/* The weight as a matrix (first axis, rest): its rows, or its columns if there are more rows, are
 * orthonormal. */
static rk_status orthogonal(rk_ctx *ctx, const rk__param_slot *slot, double gain)
{
    rk_shape s = rk_tensor_shape(slot->pub.tensor);
    int64_t n = rk__size(slot->pub.tensor), rows = s.ndim ? s.dim[0] : 1, cols = rows ? n / rows : 0;
    float *host = rk__calloc(ctx, (size_t)n + 1, sizeof *host);
    double *a = rk__calloc(ctx, (size_t)n + 1, sizeof *a);
    rk_status st = host && a ? draw(ctx, slot, 0, host) : RK_ENOMEM;
    if (!st) {
        bool wide = rows <= cols;
        int64_t count = wide ? rows : cols, len = wide ? cols : rows;
        for (int64_t i = 0; i < count; i++)
            for (int64_t k = 0; k < len; k++)
                a[i * len + k] = (double)host[wide ? i * cols + k : k * cols + i];
        orthonormalise(a, count, len);
        for (int64_t i = 0; i < count; i++)
            for (int64_t k = 0; k < len; k++)
                host[wide ? i * cols + k : k * cols + i] = (float)(gain * a[i * len + k]);
        st = rk_tensor_write(slot->pub.tensor, host, (size_t)n * sizeof *host);
    }
    free(host);
    free(a);
    return st;
}

/* ---- the table ---- */

typedef rk_status init_fn(rk_ctx *ctx, const rk__param_slot *slot, double scale);

static double in_of(const rk__param_slot *s)
{
    return s->fan_in > 0 ? (double)s->fan_in : 1;
}

static double both_of(const rk__param_slot *s)
{
    return s->fan_in + s->fan_out > 0 ? (double)(s->fan_in + s->fan_out) : 1;
}

static rk_status init_default(rk_ctx *ctx, const rk__param_slot *s, double scale)
{
    return uniform(ctx, s, scale / sqrt(in_of(s)));
}

static rk_status init_kaiming_uniform(rk_ctx *ctx, const rk__param_slot *s, double scale)
{
    return uniform(ctx, s, scale * sqrt(6 / in_of(s)));
}

static rk_status init_kaiming_normal(rk_ctx *ctx, const rk__param_slot *s, double scale)
{
    return normal(ctx, s, scale * sqrt(2 / in_of(s)));
}

static rk_status init_xavier_uniform(rk_ctx *ctx, const rk__param_slot *s, double scale)
{
    return uniform(ctx, s, scale * sqrt(6 / both_of(s)));
}

static rk_status init_xavier_normal(rk_ctx *ctx, const rk__param_slot *s, double scale)
{
    return normal(ctx, s, scale * sqrt(2 / both_of(s)));
}

static rk_status init_zeros(rk_ctx *ctx, const rk__param_slot *s, double scale)
{
    (void)scale;
    return fill(ctx, s, 0);
}

static const struct {
    const char *name;
    init_fn *fn;
} inits[] = {
    { "default", init_default },
    { "kaiming_uniform", init_kaiming_uniform },
    { "kaiming_normal", init_kaiming_normal },
    { "xavier_uniform", init_xavier_uniform },
    { "xavier_normal", init_xavier_normal },
    { "normal", normal },
    { "truncated_normal", truncated_normal },
    { "orthogonal", orthogonal },
    { "zeros", init_zeros },
    { "ones", fill },
};

static init_fn *find(const char *kind)
{
    for (size_t i = 0; i < sizeof inits / sizeof *inits; i++)
        if (!strcmp(inits[i].name, kind))
            return inits[i].fn;
    return NULL;
}

bool rk__init_known(const char *kind)
{
    return find(kind) != NULL;
}

rk_status rk__init_values(rk_ctx *ctx, const rk__param_slot *slot, const rk__init *init)
{
    if (rk_failed(ctx) || !rk__size(slot->pub.tensor))
        return rk_failed(ctx);
    const char *kind = init && init->kind ? init->kind : "default";
    rk_status st = find(kind)(ctx, slot, init && init->scale > 0 ? init->scale : 1);
    return st ? rk_fail(ctx, st, "%s: cannot be initialised (%s)", slot->name, kind) : RK_OK;
}
