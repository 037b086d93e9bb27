/* Random numbers: Philox4x32-10 by vectors of blocks. The words are those of core/philox.h, wherever they are
 * made. */
#include "core/philox.h"
#include "cpu/isa/isa.h"

#include "cpu/isa/rows.h"
#include "cpu/isa/vmath.h"

/* Words made at a time: one block a lane. */
enum { BATCH = 4 * VL };

typedef struct job {
    int64_t rows, cols, each; /* each: rows of dropout, or batches */
    uint64_t first_sample;
    rk_rng rng;
    uint32_t threshold;
    float scale;
    const float *x;
    float *y;
} job;

/* Words [at, at + BATCH) of a stream; at is a multiple of BATCH, so that the lower half of the block number
 * does not wrap inside. w[e] holds element e of each block. */
RK_INLINE void philox_words(const rk_rng *rng, uint64_t at, vi w[4])
{
    uint64_t block = at / 4;
    vi c0 = vi_add(vi_set1((int32_t)(uint32_t)block), vi_iota());
    vi c1 = vi_set1((int32_t)(rng->ctr[0] + (uint32_t)(block >> 32)));
    vi c2 = vi_set1((int32_t)rng->ctr[1]), c3 = vi_set1((int32_t)rng->ctr[2]);
    uint32_t k0 = rng->key[0], k1 = rng->key[1];
    for (int round = 0; round < 10; round++) {
        vi h0, l0, h1, l1;
        vi_mulhilo(c0, RK_PHILOX_M0, &h0, &l0);
        vi_mulhilo(c2, RK_PHILOX_M1, &h1, &l1);
        c0 = vi_xor(vi_xor(h1, c1), vi_set1((int32_t)k0));
        c1 = l1;
        c2 = vi_xor(vi_xor(h0, c3), vi_set1((int32_t)k1));
        c3 = l0;
        k0 += RK_PHILOX_W0;
        k1 += RK_PHILOX_W1;
    }
    w[0] = c0;
    w[1] = c1;
    w[2] = c2;
    w[3] = c3;
}

/* ---- dropout ---- */

RK_INLINE void drop(const job *j, const vi w[4], int64_t left, const float *x, float *y)
{
    for (int e = 0; e < 4 && e * VL < left; e++) {
        int m = left - e * VL < VL ? (int)(left - e * VL) : VL;
        vm out = vi_gt(vi_set1((int32_t)j->threshold), vi_shr(w[e], 8));
        vf kept = v_mul(v_get(x + e * VL, m), v_set1(j->scale));
        v_put(y + e * VL, m, v_sel(out, v_zero(), kept));
    }
}

static void dropout_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->rows, j->each, task); r < end; r++) {
        rk_rng rng = rk_rng_sample(j->rng, j->first_sample + (uint64_t)r);
        for (int64_t c = 0; c < j->cols; c += BATCH) {
            vi w[4];
            philox_words(&rng, (uint64_t)c, w);
            vi_interleave4(w);
            drop(j, w, j->cols - c, j->x + r * j->cols + c, j->y + r * j->cols + c);
        }
    }
}

rk_status RK_NAME(dropout)(rk_dev *dev, int64_t rows, int64_t cols, uint64_t first_sample, double p,
                           rk_rng rng, const void *x, void *y)
{
    /* u >= p with u = k 2^-24 exactly: k >= ceil(p 2^24) */
    job j = { .rows = rows,
              .cols = cols,
              .first_sample = first_sample,
              .rng = rng,
              .x = x,
              .y = y,
              .threshold = (uint32_t)ceil(p * 0x1p24),
              .scale = (float)(1 / (1 - p)) };
    int64_t tasks;
    j.each = rows_split(dev, rows, 20 + 1.0 * (double)cols, &tasks);
    rk__parallel(dev, tasks, dropout_task, &j);
    return RK_OK;
}

/* ---- uniform and normal numbers ---- */

/* The upper 24 bits of each word as a number in [0, 1). */
RK_INLINE vf unit(vi w)
{
    return v_mul(v_fromint(vi_shr(w, 8)), v_set1(0x1p-24f));
}

RK_INLINE void put_batch(vi w[4], int64_t left, float *y)
{
    vi_interleave4(w);
    for (int e = 0; e < 4 && e * VL < left; e++)
        v_store_upto(y + e * VL, left - e * VL, v_float(w[e]));
}

static void uniform_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const job *j = arg;
    for (int64_t i = task * j->each * BATCH, end = rows_end(j->rows, j->each, task) * BATCH; i < end;
         i += BATCH) {
        vi w[4];
        philox_words(&j->rng, (uint64_t)i, w);
        for (int e = 0; e < 4; e++)
            w[e] = v_bits(unit(w[e]));
        put_batch(w, j->cols - i, j->y + i);
    }
}

/* Box & Muller 1958: words 2k and 2k + 1 make the numbers 2k (cosine) and 2k + 1 (sine). The radius comes
 * from (0, 1], where the logarithm is finite. */
RK_INLINE void box_muller(vi *a, vi *b)
{
    vf u = v_add(unit(*a), v_set1(0x1p-24f)), sn, cs;
    vf radius = v_sqrt(v_mul(v_set1(-2.0f), v_log(u)));
    v_sincos2pi(unit(*b), &sn, &cs);
    *a = v_bits(v_mul(radius, cs));
    *b = v_bits(v_mul(radius, sn));
}

static void normal_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const job *j = arg;
    for (int64_t i = task * j->each * BATCH, end = rows_end(j->rows, j->each, task) * BATCH; i < end;
         i += BATCH) {
        vi w[4];
        philox_words(&j->rng, (uint64_t)i, w);
        box_muller(&w[0], &w[1]);
        box_muller(&w[2], &w[3]);
        put_batch(w, j->cols - i, j->y + i);
    }
}

static rk_status run_stream(rk_dev *dev, int64_t n, rk_rng rng, void *y, double ns, rk__task *task)
{
    job j = { .rows = (n + BATCH - 1) / BATCH, .cols = n, .rng = rng, .y = y };
    int64_t tasks;
    j.each = rows_split(dev, j.rows, ns * BATCH, &tasks);
    rk__parallel(dev, tasks, task, &j);
    return RK_OK;
}

rk_status RK_NAME(uniform)(rk_dev *dev, int64_t n, rk_rng rng, void *y)
{
    return run_stream(dev, n, rng, y, 1, uniform_task);
}

rk_status RK_NAME(normal)(rk_dev *dev, int64_t n, rk_rng rng, void *y)
{
    return run_stream(dev, n, rng, y, 2, normal_task);
}
