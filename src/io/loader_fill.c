/* One batch: raw samples to normalised, augmented f32. Runs in workers; touches nothing but its arguments.
 *
 * Bits do not depend on threads, batch size or machine: normalisation is one product and one sum in f32
 * (bytes), or one subtraction and one division in double; random numbers are keyed by (seed, epoch, sample);
 * the normal distribution uses +, -, *, / and sqrt alone, which IEEE 754 rounds in one way. */
#include <math.h>
#include <string.h>

#include "io/loader.h"

/* How one image is moved. */
typedef struct move {
    int64_t dy, dx;
    bool flip;
} move;

/* ---- random numbers ---- */

/* -reach .. reach from 16 random bits. */
static int64_t offset_of(uint32_t bits, int reach)
{
    return (int64_t)((bits & 0xffff) * (uint32_t)(2 * reach + 1) >> 16) - reach;
}

static move draw_move(const rk__recipe *r, const rk_rng *epoch_rng, int64_t sample)
{
    uint32_t w[4];
    rk_rng rng = rk_rng_sample(*epoch_rng, (uint64_t)sample);
    rk_rng_block(&rng, 0, w);
    return (move){ offset_of(w[0] >> 16, r->shift) + offset_of(w[1] >> 16, r->crop_pad),
                   offset_of(w[0], r->shift) + offset_of(w[1], r->crop_pad), r->flip && w[2] >> 31 };
}

/* Natural logarithm of x in (0, 1): 2 atanh of the reduced argument. */
static double own_log(double x)
{
    int e;
    double m = frexp(x, &e);
    if (m < 0.70710678118654752440) {
        m *= 2;
        e--;
    }
    double s = (m - 1) / (m + 1), z = s * s, sum = 0;
    for (int k = 21; k >= 1; k -= 2)
        sum = sum * z + 1.0 / k;
    return e * 0.69314718055994530942 + 2 * s * sum;
}

/* The value below which a standard normal number falls with probability p.
 * Wichura 1988, algorithm AS 241 (PPND16). */
static double normal_quantile(double p)
{
    double q = p - 0.5, r;
    if (fabs(q) <= 0.425) {
        r = 0.180625 - q * q;
        return q *
               (((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) *
                        r +
                    4.5921953931549871457e4) *
                       r +
                   1.3731693765509461125e4) *
                      r +
                  1.9715909503065514427e3) *
                     r +
                 1.3314166789178437745e2) *
                    r +
                3.3871328727963666080e0) /
               (((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) *
                        r +
                    2.1213794301586595867e4) *
                       r +
                   5.3941960214247511077e3) *
                      r +
                  6.8718700749205790830e2) *
                     r +
                 4.2313330701600911252e1) *
                    r +
                1.0);
    }
    r = sqrt(-own_log(q < 0 ? p : 1 - p));
    double v;
    if (r <= 5) {
        r -= 1.6;
        v = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r +
                  2.41780725177450611770e-1) *
                     r +
                 1.27045825245236838258e0) *
                    r +
                3.64784832476320460504e0) *
                   r +
               5.76949722146069140550e0) *
                  r +
              4.63033784615654529590e0) *
                 r +
             1.42343711074968357734e0) /
            (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r +
                  1.51986665636164571966e-2) *
                     r +
                 1.48103976427480074590e-1) *
                    r +
                6.89767334985100004550e-1) *
                   r +
               1.67638483018380384940e0) *
                  r +
              2.05319162663775882187e0) *
                 r +
             1.0);
    } else {
        r -= 5;
        v = (((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r +
                  1.24266094738807843860e-3) *
                     r +
                 2.65321895265761230930e-2) *
                    r +
                2.96560571828504891230e-1) *
                   r +
               1.78482653991729133580e0) *
                  r +
              5.46378491116411436990e0) *
                 r +
             6.65790464350110377720e0) /
            (((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r +
                  1.84631831751005468180e-5) *
                     r +
                 7.86869131145613259100e-4) *
                    r +
                1.48753612908506148525e-2) *
                   r +
               1.36929880922735805310e-1) *
                  r +
              5.99832206555887937690e-1) *
                 r +
             1.0);
    }
    return q < 0 ? -v : v;
}

static void add_noise(const rk__recipe *r, const rk_rng *epoch_rng, int64_t sample, float *x)
{
    rk_rng rng = rk_rng_sample(*epoch_rng, (uint64_t)sample);
    for (int64_t i = 0; i < r->elems; i += 4) {
        uint32_t w[4];
        rk_rng_block(&rng, (uint64_t)i / 4, w);
        for (int64_t k = 0; k < 4 && i + k < r->elems; k++)
            x[i + k] += (float)(r->noise * normal_quantile(((double)w[k] + 0.5) * 0x1p-32));
    }
}

/* ---- pixels ---- */

static void fill_with(float *out, int64_t n, float v)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = v;
}

/* A plane moved as one run of memory: what crossed a row's end is then cleared. Not flipped yet. */
static void shift_plane(const uint8_t *src, int64_t h, int64_t w, int64_t dy, int64_t dx, uint8_t *out)
{
    int64_t n = h * w, off = dy * w + dx, lost = off < 0 ? -off : off;
    int64_t clear = dx < 0 ? (-dx < w ? -dx : w) : dx < w ? dx : w, at = dx < 0 ? 0 : w - clear;
    if (lost >= n || clear == w) {
        memset(out, 0, (size_t)n);
        return;
    }
    if (off < 0)
        memset(out, 0, (size_t)lost);
    else
        memset(out + n - lost, 0, (size_t)lost);
    memcpy(out + (off < 0 ? lost : 0), src + (off < 0 ? 0 : off), (size_t)(n - lost));
    for (int64_t y = 0; clear && y < h; y++)
        for (int64_t k = 0; k < clear; k++)
            out[y * w + at + k] = 0;
}

static void reverse_row(const uint8_t *src, int64_t w, uint8_t *out)
{
    if (w < 8) {
        for (int64_t j = 0; j < w; j++)
            out[j] = src[w - 1 - j];
        return;
    }
    for (int64_t j = 0; j < w; j += 8) {
        int64_t at = j + 8 <= w ? j : w - 8; /* the last eight overlap the ones before */
        uint64_t v;
        memcpy(&v, src + w - 8 - at, 8);
        v = __builtin_bswap64(v);
        memcpy(out + at, &v, 8);
    }
}

static void convert_bytes(const rk__recipe *r, const uint8_t *src, float *out)
{
    int64_t inner = r->in.inner;
    for (int64_t g = 0; g < r->in.groups; g++) {
        float a = r->scale[2 * g], b = r->scale[2 * g + 1];
        for (int64_t i = 0; i < inner; i++)
            out[g * inner + i] = (float)src[g * inner + i] * a + b;
    }
}

/* scratch: two images of bytes. */
static void move_bytes(const rk__recipe *r, const move *m, const uint8_t *src, uint8_t *scratch, float *out)
{
    uint8_t *moved = scratch, *flipped = scratch + r->elems;
    for (int64_t c = 0, at = 0; c < r->c; c++, at += r->h * r->w) {
        shift_plane(src + at, r->h, r->w, m->dy, m->dx, moved + at);
        for (int64_t y = 0; m->flip && y < r->h; y++)
            reverse_row(moved + at + y * r->w, r->w, flipped + at + y * r->w);
    }
    convert_bytes(r, m->flip ? flipped : moved, out);
}

/* src is normalised already. */
static void move_floats(const rk__recipe *r, const move *m, const float *src, float *out)
{
    int64_t h = r->h, w = r->w;
    for (int64_t c = 0; c < r->c; c++) {
        float zero = (float)((0.0 - r->mean[c]) / r->std[c]);
        for (int64_t y = 0; y < h; y++, out += w) {
            int64_t sy = y + m->dy;
            fill_with(out, w, zero);
            for (int64_t j = 0; sy >= 0 && sy < h && j < w; j++) {
                int64_t sx = (m->flip ? w - 1 - j : j) + m->dx;
                if (sx >= 0 && sx < w)
                    out[j] = src[(c * h + sy) * w + sx];
            }
        }
    }
}

static void normalise_floats(const rk__recipe *r, const float *src, float *out)
{
    int64_t inner = r->in.inner;
    for (int64_t g = 0; g < r->in.groups; g++) {
        double mean = r->mean[g], std = r->std[g];
        for (int64_t i = 0; i < inner; i++)
            out[g * inner + i] = (float)(((double)src[g * inner + i] - mean) / std);
    }
}

/* scratch: the raw sample (bytes, or f32), behind it room for two images of bytes or one of f32. */
static rk_status one_sample(const rk__recipe *r, const move *m, int64_t sample, void *scratch, float *out,
                            rk_ctx *err)
{
    const void *raw = r->in.direct ? r->in.direct + sample * r->elems : scratch;
    if (!r->in.direct)
        RK_TRY(r->ds->ops->read(r->ds, err, &sample, 1, scratch, NULL));
    if (r->in.bytes && m) {
        move_bytes(r, m, raw, (uint8_t *)scratch + r->elems, out);
    } else if (r->in.bytes) {
        convert_bytes(r, raw, out);
    } else if (m) {
        float *normal = (float *)scratch + r->elems;
        normalise_floats(r, raw, normal);
        move_floats(r, m, normal, out);
    } else {
        normalise_floats(r, raw, out);
    }
    return RK_OK;
}

/* Samples lie anywhere: fetching the one after next hides the way to memory. */
static void prefetch_sample(const rk__recipe *r, int64_t sample)
{
    const uint8_t *p = r->in.direct + sample * r->elems;
    int64_t n = r->elems < 4096 ? r->elems : 4096;
    for (int64_t at = 0; at < n; at += 64)
        __builtin_prefetch(p + at);
}

rk_status rk__loader_fill(const rk__recipe *r, const rk__plan *p, void *scratch, float *x, void *y,
                          int64_t *id, rk_ctx *err)
{
    rk_rng moves = rk_rng_make(r->seed, RK_RNG_AUGMENT, 0, (uint64_t)p->epoch);
    rk_rng noise = rk_rng_make(r->seed, RK_RNG_AUGMENT, 1, (uint64_t)p->epoch);
    bool moved = r->shift || r->crop_pad || r->flip;
    for (int64_t i = 0; i < p->n; i++)
        id[i] = rk__loader_sample(r, p->epoch, p->pos + p->lo + i);
    for (int64_t i = 0; i < p->n; i++) {
        if (r->in.direct && i + 2 < p->n)
            prefetch_sample(r, id[i + 2]);
        move m = moved ? draw_move(r, &moves, id[i]) : (move){ 0 };
        RK_TRY(one_sample(r, moved ? &m : NULL, id[i], scratch, x + i * r->elems, err));
        if (r->noise > 0)
            add_noise(r, &noise, id[i], x + i * r->elems);
    }
    return y ? r->ds->ops->read(r->ds, err, id, p->n, NULL, y) : RK_OK;
}
