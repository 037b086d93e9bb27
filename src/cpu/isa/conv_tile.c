#include "cpu/isa/conv.h"

/* Lanes of v in the order of index; lanes beyond the kept ones are arbitrary. */
TV_INLINE tvec permute(tvec v, const int32_t *index)
{
#if defined(RK_ISA_AVX512)
    return _mm512_permutexvar_ps(_mm512_loadu_si512(index), v);
#elif defined(RK_ISA_AVX2)
    return _mm256_permutevar8x32_ps(v, _mm256_loadu_si256((const __m256i *)(const void *)index));
#else
    tvec r;
    for (int i = 0; i < TV; i++)
        r[i] = v[index[i]];
    return r;
#endif
}

enum { LINE = 64 / sizeof(float), PREFETCH_TERMS = 24 };

static __attribute__((noinline)) void put_part(float *y, int32_t count, tvec v)
{
    float part[TV];
    tv_store(part, v);
    memcpy(y, part, (size_t)count * sizeof(float));
}

/* Outputs are stored in ascending order, so a full vector may spill over what the next one is about to write.
 */
TV_INLINE void put(float *y, int64_t plane, const rk__conv_vec *d, tvec v)
{
    v = permute(v, d->lane);
    if (d->dst + TV <= plane)
        tv_store(y + d->dst, v);
    else
        put_part(y + d->dst, d->count, v);
}

/* clang-format off */
/* Loops that are unrolled: the arguments are constants in each tile below. */
#define EACH(i, n, most) RK_UNROLL for (int i = 0; i < (most); i++) if (i < (n))

/* One term of k: vectors at x[] + o. */
#define TERM(o)                                                                                   \
    do {                                                                                          \
        tvec b[RK__CONV_VECS];                                                                    \
        EACH(v, vecs, RK__CONV_VECS) b[v] = tv_load(x[v] + (o));                                  \
        EACH(m, rows, RK__CONV_ROWS)                                                              \
        {                                                                                         \
            const tvec w = tv_set1(a[m]);                                                         \
            EACH(v, vecs, RK__CONV_VECS) v_accumulate(&sum[m][v], w, b[v]);                       \
        }                                                                                         \
        a += rows;                                                                                \
        RK_IN_ORDER();                                                                            \
    } while (0)

/* Stores sums whose vectors cross ends of rows. A function of its own: a call among the sums' last uses makes
 * gcc keep them in memory. */
TV_INLINE void put_all(const int rows, const int vecs, const rk__conv_tile *t)
{
    for (int v = 0; v < vecs; v++) {
        const rk__conv_vec *d = t->vec + (v < t->vecs ? v : t->vecs - 1);
        EACH(m, rows, RK__CONV_ROWS)
            put(t->y + m * t->plane, t->plane, d, tv_load(t->held + (m * vecs + v) * TV));
    }
}

/* period: 0, or that of t, which divides k. The offsets of a period stay in registers: few instructions a
 * multiply-add is what counts on a core whose other thread is busy. */
TV_INLINE void tile(const int rows, const int vecs, const int period, void (*put_some)(const rk__conv_tile *),
                    const rk__conv_tile *t)
{
    tvec sum[RK__CONV_ROWS][RK__CONV_VECS];
    EACH(m, rows, RK__CONV_ROWS)
        EACH(v, vecs, RK__CONV_VECS)
            sum[m][v] = t->first ? tv_zero() : tv_load(t->held + (m * vecs + v) * TV);

    const rk__conv_vec *vec[RK__CONV_VECS];
    EACH(v, vecs, RK__CONV_VECS) vec[v] = t->vec + (v < t->vecs ? v : t->vecs - 1);
    const float *x[RK__CONV_VECS], *a = t->a;
    EACH(v, vecs, RK__CONV_VECS) x[v] = t->x + vec[v]->src;
    if (t->last && t->k >= PREFETCH_TERMS) /* the lines that are written at the end come while k runs */
        EACH(m, rows, RK__CONV_ROWS)
            for (int64_t i = vec[0]->dst; i <= vec[vecs - 1]->dst; i += LINE)
                __builtin_prefetch(t->y + m * t->plane + i, 1);
    const ptrdiff_t *off = t->off;
    if (period) {
        const int64_t advance = t->advance;
        ptrdiff_t o[RK__CONV_LONG];
        EACH(i, period, RK__CONV_LONG) o[i] = off[i];
        for (int64_t k = t->k / period; k > 0; k--) {
            EACH(i, period, RK__CONV_LONG) TERM(o[i]);
            EACH(v, vecs, RK__CONV_VECS) x[v] += advance;
        }
    } else {
        for (int64_t k = t->k; k > 0; k--, off++)
            TERM(*off);
    }

    if (t->last && t->bias)
        EACH(m, rows, RK__CONV_ROWS)
        {
            const tvec b = tv_set1(t->bias[m]);
            EACH(v, vecs, RK__CONV_VECS) sum[m][v] = tv_add(sum[m][v], b);
        }
    if (t->last && t->relu)
        EACH(m, rows, RK__CONV_ROWS)
            EACH(v, vecs, RK__CONV_VECS) sum[m][v] = tv_relu(sum[m][v]);
    if (t->last && t->whole) {
        float *to[RK__CONV_VECS];
        const int64_t plane = t->plane;
        EACH(v, vecs, RK__CONV_VECS) to[v] = t->y + vec[v]->dst;
        EACH(m, rows, RK__CONV_ROWS)
            EACH(v, vecs, RK__CONV_VECS) tv_store(to[v] + m * plane, sum[m][v]);
        return;
    }
    float *held = t->held;
    EACH(m, rows, RK__CONV_ROWS)
        EACH(v, vecs, RK__CONV_VECS) tv_store(held + (m * vecs + v) * TV, sum[m][v]);
    if (t->last)
        put_some(t);
}

#define TILE_OF(m, v, period, name)                                    \
    static __attribute__((noinline)) void name(const rk__conv_tile *t) \
    {                                                                  \
        tile(m, v, period, put_##m##_##v, t);                          \
    }
#define TILE(m, v)                                                            \
    static __attribute__((noinline)) void put_##m##_##v(const rk__conv_tile *t) \
    {                                                                         \
        put_all(m, v, t);                                                     \
    }                                                                         \
    TILE_OF(m, v, 0, tile_##m##_##v)
#define TILE_PERIODIC(m, v)                               \
    TILE(m, v)                                            \
    TILE_OF(m, v, RK__CONV_SHORT, tile_##m##_##v##_short) \
    TILE_OF(m, v, RK__CONV_LONG, tile_##m##_##v##_long)
/* Widths of each height: the most that rk__conv_vecs() allows, and less for the rest of an image. The greatest
 * height, which nearly all tiles have, has loops for periodic offsets. */
#if defined(RK_ISA_AVX512)
TILE(1, 4) TILE(1, 8) TILE(2, 4) TILE(2, 8) TILE(3, 3) TILE(3, 6) TILE(4, 3) TILE(4, 5) TILE(5, 2) TILE(5, 4)
TILE(6, 2) TILE(6, 4) TILE(7, 2) TILE(7, 3) TILE_PERIODIC(8, 1) TILE_PERIODIC(8, 2) TILE_PERIODIC(8, 3)
#define TABLE                                                                                                      \
    { [3] = tile_1_4, [7] = tile_1_8 }, { [3] = tile_2_4, [7] = tile_2_8 }, { [2] = tile_3_3, [5] = tile_3_6 },    \
        { [2] = tile_4_3, [4] = tile_4_5 }, { [1] = tile_5_2, [3] = tile_5_4 }, { [1] = tile_6_2, [3] = tile_6_4 }, \
        { [1] = tile_7_2, [2] = tile_7_3 }, { tile_8_1, tile_8_2, tile_8_3 }
#define SHORT { tile_8_1_short, tile_8_2_short, tile_8_3_short }
#define LONG { tile_8_1_long, tile_8_2_long, tile_8_3_long }
#elif defined(RK_ISA_AVX2)
TILE(1, 4) TILE(1, 8) TILE(2, 2) TILE(2, 5) TILE(3, 2) TILE(3, 4)
TILE_PERIODIC(4, 1) TILE_PERIODIC(4, 2) TILE_PERIODIC(4, 3)
#define TABLE                                                                                                  \
    { [3] = tile_1_4, [7] = tile_1_8 }, { [1] = tile_2_2, [4] = tile_2_5 }, { [1] = tile_3_2, [3] = tile_3_4 }, \
        { tile_4_1, tile_4_2, tile_4_3 }
#define SHORT { tile_4_1_short, tile_4_2_short, tile_4_3_short }
#define LONG { tile_4_1_long, tile_4_2_long, tile_4_3_long }
#else
TILE(1, 1) TILE(1, 4) TILE(2, 1) TILE(2, 4) TILE(3, 1) TILE(3, 3) TILE_PERIODIC(4, 1) TILE_PERIODIC(4, 2)
#define TABLE                                                                                      \
    { [0] = tile_1_1, [3] = tile_1_4 }, { [0] = tile_2_1, [3] = tile_2_4 }, { [0] = tile_3_1, [2] = tile_3_3 }, \
        { tile_4_1, tile_4_2 }
#define SHORT { tile_4_1_short, tile_4_2_short }
#define LONG { tile_4_1_long, tile_4_2_long }
#endif

    /* clang-format on */

    typedef void tile_fn(const rk__conv_tile *);
static tile_fn *const tiles[RK__CONV_ROWS][RK__CONV_VECS] = { TABLE };
static tile_fn *const short_tiles[RK__CONV_VECS] = SHORT, *const long_tiles[RK__CONV_VECS] = LONG;

static tile_fn *const *tiles_for(const rk__conv_tile *t)
{
    if (t->rows < RK__CONV_ROWS || t->period == 0 || t->k % t->period)
        return tiles[t->rows - 1];
    return t->period == RK__CONV_LONG ? long_tiles : short_tiles;
}

/* A width that there is no tile for is rounded up: the last vector is computed, and stored, more than once.
 */
void RK_NAME(conv_tile)(const rk__conv_tile *t)
{
    tile_fn *const *of_rows = tiles_for(t);
    int vecs = t->vecs;
    while (!of_rows[vecs - 1])
        vecs++;
    of_rows[vecs - 1](t);
}
