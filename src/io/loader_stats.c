/* Mean and standard deviation of each channel or column over the training part. Bytes are counted (exact
 * whatever the order); floats are summed in the order of sample numbers, in blocks that are merged as in
 * Chan, Golub & LeVeque 1983, so that no layout changes a bit. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/permute.h"
#include "io/loader.h"

enum { BLOCK = 256 }; /* samples; part of the definition of the sums */

typedef struct sums {
    double n, mean, m2; /* count, mean, sum of squares about it */
} sums;

static rk_status no_memory(rk_ctx *ctx)
{
    return rk_fail(ctx, RK_ENOMEM, "data set statistics: out of memory");
}

/* A bit a sample: is it in the training part? NULL if all are. */
static rk_status training_samples(rk_ctx *ctx, const rk__recipe *r, uint8_t **out)
{
    *out = NULL;
    if (!r->split)
        return RK_OK;
    uint8_t *bits = calloc((size_t)(r->all / 8 + 1), 1);
    if (!bits)
        return no_memory(ctx);
    for (int64_t p = r->held_out; p < r->all; p++) {
        uint64_t s = rk__permute(r->split_key, 0, (uint64_t)r->all, (uint64_t)p);
        bits[s / 8] |= (uint8_t)(1u << (s % 8));
    }
    *out = bits;
    return RK_OK;
}

/* The next up to BLOCK training samples from *at on. */
static int64_t next_block(const rk__recipe *r, const uint8_t *bits, int64_t *at, int64_t *id)
{
    int64_t n = 0;
    for (; *at < r->all && n < BLOCK; ++*at)
        if (!bits || bits[*at / 8] >> (*at % 8) & 1)
            id[n++] = *at;
    return n;
}

/* ---- bytes ---- */

/* Four tables, so that equal neighbours do not wait for each other. */
static void count(const uint8_t *p, int64_t n, uint32_t part[4][256])
{
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) {
        part[0][p[i]]++;
        part[1][p[i + 1]]++;
        part[2][p[i + 2]]++;
        part[3][p[i + 3]]++;
    }
    for (; i < n; i++)
        part[0][p[i]]++;
}

static void add_counts(uint32_t part[4][256], uint64_t *total)
{
    for (int v = 0; v < 256; v++)
        for (int k = 0; k < 4; k++)
            total[v] += part[k][v];
    memset(part, 0, sizeof(uint32_t[4][256]));
}

static rk_status count_bytes(rk_ctx *ctx, const rk__recipe *r, const uint8_t *bits, uint8_t *buf,
                             uint64_t *total)
{
    uint32_t part[4][256] = { { 0 } };
    int64_t id[BLOCK], n, inner = r->in.inner, pending = 0;
    for (int64_t at = 0; (n = next_block(r, bits, &at, id)) > 0;) {
        if (!r->in.direct)
            RK_TRY(r->ds->ops->read(r->ds, ctx, id, n, buf, NULL));
        for (int64_t g = 0; g < r->in.groups; g++) {
            for (int64_t i = 0; i < n; i++) {
                const uint8_t *x = r->in.direct ? r->in.direct + id[i] * r->elems : buf + i * r->elems;
                int64_t left = inner;
                for (const uint8_t *p = x + g * inner; left;
                     p += 1 << 24) { /* 32-bit counters must not run over */
                    int64_t k = left < 1 << 24 ? left : 1 << 24;
                    count(p, k, part);
                    left -= k;
                    if (k == 1 << 24)
                        add_counts(part, total + 256 * g);
                }
            }
            if (r->in.groups > 1)
                add_counts(part, total + 256 * g);
        }
        pending += n * inner;
        if (r->in.groups == 1 && pending > 1 << 28) {
            add_counts(part, total);
            pending = 0;
        }
    }
    add_counts(part, total);
    return RK_OK;
}

static void from_counts(const uint64_t *count_of, double *mean, double *std)
{
    uint64_t n = 0, sum = 0;
    double squares = 0;
    for (int v = 0; v < 256; v++) {
        n += count_of[v];
        sum += count_of[v] * (uint64_t)v;
    }
    *mean = (double)sum / (double)n;
    for (int v = 0; v < 256; v++)
        squares += (double)count_of[v] * (v - *mean) * (v - *mean);
    *std = sqrt(squares / (double)n);
}

static rk_status measure_bytes(rk_ctx *ctx, rk__recipe *r, const uint8_t *bits)
{
    uint64_t *total = calloc((size_t)r->in.groups, 256 * sizeof *total);
    uint8_t *buf = r->in.direct ? NULL : malloc((size_t)r->elems * BLOCK);
    rk_status st = total && (buf || r->in.direct) ? count_bytes(ctx, r, bits, buf, total) : no_memory(ctx);
    for (int64_t g = 0; st == RK_OK && g < r->in.groups; g++)
        from_counts(total + 256 * g, &r->mean[g], &r->std[g]);
    free(buf);
    free(total);
    return st;
}

/* ---- floats ---- */

/* One block of one group: two passes in memory, then merged. */
static void add_block(const rk__recipe *r, const float *x, int64_t n, int64_t g, sums *s)
{
    int64_t inner = r->in.inner;
    double count_b = (double)(n * inner), sum = 0, m2 = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < inner; k++)
            sum += x[i * r->elems + g * inner + k];
    double mean = sum / count_b;
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < inner; k++) {
            double d = x[i * r->elems + g * inner + k] - mean;
            m2 += d * d;
        }
    double all = s->n + count_b, d = mean - s->mean;
    s->m2 += m2 + d * d * (s->n * count_b / all);
    s->mean += d * (count_b / all);
    s->n = all;
}

static rk_status measure_floats(rk_ctx *ctx, rk__recipe *r, const uint8_t *bits)
{
    int64_t id[BLOCK], n;
    size_t bytes;
    RK_TRY(rk__mul_size(ctx, (size_t)r->elems, BLOCK * sizeof(float), &bytes));
    float *buf = malloc(bytes);
    sums *s = calloc((size_t)r->in.groups, sizeof *s);
    rk_status st = buf && s ? RK_OK : no_memory(ctx);
    for (int64_t at = 0; st == RK_OK && (n = next_block(r, bits, &at, id)) > 0;) {
        st = r->ds->ops->read(r->ds, ctx, id, n, buf, NULL);
        for (int64_t g = 0; st == RK_OK && g < r->in.groups; g++)
            add_block(r, buf, n, g, &s[g]);
    }
    for (int64_t g = 0; st == RK_OK && g < r->in.groups; g++) {
        r->mean[g] = s[g].mean;
        r->std[g] = sqrt(s[g].m2 / s[g].n);
    }
    free(s);
    free(buf);
    return st;
}

rk_status rk__loader_measure(rk_ctx *ctx, rk__recipe *r, const char *mode)
{
    bool scale = !strcmp(mode, "scale"), standard = !strcmp(mode, "standard");
    if (!scale && !standard && strcmp(mode, "none") != 0)
        return rk_fail(ctx, RK_ECONFIG, "data.normalize: \"%s\" is none of none, scale, standard", mode);
    for (int64_t g = 0; g < r->in.groups; g++) {
        r->mean[g] = 0;
        r->std[g] = scale && r->in.bytes ? 255 : 1;
    }
    if (!standard)
        return RK_OK;
    uint8_t *bits;
    RK_TRY(training_samples(ctx, r, &bits));
    rk_status st = (r->in.bytes ? measure_bytes : measure_floats)(ctx, r, bits);
    free(bits);
    for (int64_t g = 0; g < r->in.groups; g++) {
        if (r->in.as_is && r->in.as_is[g]) {
            r->mean[g] = 0;
            r->std[g] = 1;
        }
        if (!(r->std[g] > 1e-12 * (1 + fabs(r->mean[g])))) /* constant: becomes 0 */
            r->std[g] = 1;
    }
    return st;
}

rk_status rk__loader_scales(rk_ctx *ctx, rk__recipe *r)
{
    if (!r->in.bytes)
        return RK_OK;
    if (!r->scale)
        r->scale = rk__calloc(ctx, (size_t)r->in.groups, 2 * sizeof *r->scale);
    for (int64_t g = 0; r->scale && g < r->in.groups; g++) {
        r->scale[2 * g] = (float)(1 / r->std[g]);
        r->scale[2 * g + 1] = (float)(-r->mean[g] / r->std[g]);
    }
    return r->scale ? RK_OK : rk_failed(ctx);
}
