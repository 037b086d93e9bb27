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

/* Outputs are stored in ascending order, so a full vector may spill over what the next one is about to write. */
TV_INLINE void put(float *y, int64_t plane, const rk__conv_vec *d, tvec v)
{
    v = permute(v, d->lane);
    if (d->dst + TV <= plane) {
        tv_store(y + d->dst, v);
        return;
    }
    float part[TV];
    tv_store(part, v);
    memcpy(y + d->dst, part, (size_t)d->count * sizeof(float));
}

/* Bounds of the unrolled loops; the arguments cut them to the tile at hand at compile time. */
#define EACH(i, n, most) TV_UNROLL for (int i = 0; i < (most); i++) if (i < (n))

TV_INLINE void tile(const int rows, const int vecs, const rk__conv_tile *t)
{
    tvec sum[RK__CONV_ROWS][RK__CONV_VECS];
    EACH(m, rows, RK__CONV_ROWS)
        EACH(v, vecs, RK__CONV_VECS)
            sum[m][v] = t->first ? tv_zero() : tv_load(t->held + (m * vecs + v) * TV);

    const float *x[RK__CONV_VECS], *a = t->a;
    EACH(v, vecs, RK__CONV_VECS) x[v] = t->x + t->vec[v].src;
    const ptrdiff_t *off = t->off;
    for (int64_t k = t->k; k > 0; k--) {
        const ptrdiff_t o = *off++;
        tvec b[RK__CONV_VECS];
        EACH(v, vecs, RK__CONV_VECS) b[v] = tv_load(x[v] + o);
        EACH(m, rows, RK__CONV_ROWS)
        {
            const tvec w = tv_set1(a[m]);
            EACH(v, vecs, RK__CONV_VECS) sum[m][v] = tv_fma(w, b[v], sum[m][v]);
        }
        a += rows;
    }

    if (!t->last) {
        EACH(m, rows, RK__CONV_ROWS)
            EACH(v, vecs, RK__CONV_VECS) tv_store(t->held + (m * vecs + v) * TV, sum[m][v]);
        return;
    }
    if (t->bias)
        EACH(m, rows, RK__CONV_ROWS)
        {
            const tvec b = tv_set1(t->bias[m]);
            EACH(v, vecs, RK__CONV_VECS) sum[m][v] = tv_add(sum[m][v], b);
        }
    if (t->relu)
        EACH(m, rows, RK__CONV_ROWS)
            EACH(v, vecs, RK__CONV_VECS) sum[m][v] = tv_relu(sum[m][v]);
    if (t->whole) {
        EACH(m, rows, RK__CONV_ROWS)
            EACH(v, vecs, RK__CONV_VECS) tv_store(t->y + m * t->plane + t->vec[v].dst, sum[m][v]);
        return;
    }
    EACH(m, rows, RK__CONV_ROWS)
        EACH(v, vecs, RK__CONV_VECS) put(t->y + m * t->plane, t->plane, &t->vec[v], sum[m][v]);
}

#define TILE(m, v)                                                                \
    static __attribute__((noinline)) void tile_##m##_##v(const rk__conv_tile *t) \
    {                                                                             \
        tile(m, v, t);                                                            \
    }
#define TILES2(m) TILE(m, 1) TILE(m, 2)
#define TILES3(m) TILES2(m) TILE(m, 3)
#define TILES4(m) TILES3(m) TILE(m, 4)
#define TILES5(m) TILES4(m) TILE(m, 5)
#define TILES6(m) TILES5(m) TILE(m, 6)
#define TILES8(m) TILES6(m) TILE(m, 7) TILE(m, 8)
#define ROW2(m) tile_##m##_1, tile_##m##_2
#define ROW3(m) ROW2(m), tile_##m##_3
#define ROW4(m) ROW3(m), tile_##m##_4
#define ROW5(m) ROW4(m), tile_##m##_5
#define ROW6(m) ROW5(m), tile_##m##_6
#define ROW8(m) ROW6(m), tile_##m##_7, tile_##m##_8

/* The widths of each row are those of rk__conv_vecs(). */
#if defined(RK_ISA_AVX512)
TILES8(1) TILES8(2) TILES6(3) TILES5(4) TILES4(5) TILES4(6) TILES3(7) TILES3(8)
#define TABLE { ROW8(1) }, { ROW8(2) }, { ROW6(3) }, { ROW5(4) }, { ROW4(5) }, { ROW4(6) }, { ROW3(7) }, { ROW3(8) }
#elif defined(RK_ISA_AVX2)
TILES8(1) TILES5(2) TILES4(3) TILES3(4)
#define TABLE { ROW8(1) }, { ROW5(2) }, { ROW4(3) }, { ROW3(4) }
#else
TILES4(1) TILES4(2) TILES3(3) TILES2(4)
#define TABLE { ROW4(1) }, { ROW4(2) }, { ROW3(3) }, { ROW2(4) }
#endif

void RK_NAME(conv_tile)(const rk__conv_tile *t)
{
    typedef void tile_fn(const rk__conv_tile *);
    static tile_fn *const tiles[RK__CONV_ROWS][RK__CONV_VECS] = { TABLE };
    tiles[t->rows - 1][t->vecs - 1](t);
}
