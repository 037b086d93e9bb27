/* Sums down the columns of (rows, cols): the canonical sum over the samples of a batch, for many columns at
 * once. Each column is a chain for each segment, and the segments are added in their tree. */
#ifndef RK_CPU_COLUMNS_H
#define RK_CPU_COLUMNS_H

#include "cpu/isa/rows.h"

/* Vectors summed side by side: enough chains to hide the latency of an addition. */
enum { STRIP = 8, STRIP_COLS = STRIP * VL };

/* What is summed. All arrays but x may be NULL where the kind does not name them. */
typedef enum col_kind {
    COL_PLAIN,    /* x */
    COL_SQUARE,   /* (x - centre[col])^2 */
    COL_XHAT,     /* dy (x - centre[col]) scale[col] */
    COL_ROW_XHAT, /* dy (x - centre[row]) scale[row]; centre NULL: 0 */
} col_kind;

typedef struct col_src {
    const float *x, *dy;         /* (rows, cols) */
    const float *centre, *scale; /* (cols), or (rows) for COL_ROW_XHAT */
    int64_t rows, cols;
} col_src;

RK_INLINE vf col_add(col_kind kind, const col_src *c, int64_t row, int64_t col, int m, vf acc)
{
    vf x = v_get(c->x + row * c->cols + col, m);
    if (kind == COL_PLAIN)
        return v_add(acc, x);
    if (kind == COL_SQUARE) {
        vf d = v_sub(x, v_get(c->centre + col, m));
        return v_add(acc, v_mul(d, d)); /* not fused: the term is a row of one element */
    }
    vf dy = v_get(c->dy + row * c->cols + col, m);
    vf mean = kind == COL_XHAT ? v_get(c->centre + col, m) : c->centre ? v_set1(c->centre[row]) : v_zero();
    vf scale = kind == COL_XHAT ? v_get(c->scale + col, m) : v_set1(c->scale[row]);
    vf hat = v_mul(v_sub(x, mean), scale);
    return kind == COL_XHAT ? v_add(acc, v_mul(dy, hat)) : v_fma(dy, hat, acc);
}

/* The sums of columns [col, col + n), n <= STRIP_COLS, into out (its first column). */
RK_INLINE void col_strip(col_kind kind, const col_src *c, rk_order order, int64_t col, int64_t n, float *out)
{
    float pending[TREE_LEVELS][STRIP_COLS];
    int depth = 0;
    const bool full = n == STRIP_COLS;
    const int vectors = (int)((n + VL - 1) / VL);
    vf acc[STRIP];
    for (int s = 0; s < order.segments; s++) {
        int64_t lo, hi;
        rk_order_leaf(c->rows / order.unit, order.segments, s, &lo, &hi);
        lo *= order.unit;
        hi *= order.unit;
        for (int v = 0; v < STRIP; v++)
            acc[v] = v_zero();
        if (order.acc == RK_ACC_CHAIN)
            for (int v = 0; v < vectors; v++)
                acc[v] = v_load_upto(out + v * VL, n - v * VL);
        if (full) {
            for (int64_t row = lo; row < hi; row++)
                for (int v = 0; v < STRIP; v++)
                    acc[v] = col_add(kind, c, row, col + v * VL, VL, acc[v]);
        } else {
            for (int v = 0; v < vectors; v++) {
                int m = n - v * VL < VL ? (int)(n - v * VL) : VL;
                vf sum = acc[v];
                for (int64_t row = lo; row < hi; row++)
                    sum = col_add(kind, c, row, col + v * VL, m, sum);
                acc[v] = sum;
            }
        }
        for (int join = tree_joins(s); join > 0; join--) {
            depth--;
            for (int v = 0; v < vectors; v++)
                acc[v] = v_add(v_load(pending[depth] + v * VL), acc[v]);
        }
        if (s + 1 < order.segments) {
            for (int v = 0; v < vectors; v++)
                v_store(pending[depth] + v * VL, acc[v]);
            depth++;
        }
    }
    for (int v = 0; v < vectors; v++) {
        if (order.acc == RK_ACC_ADD)
            acc[v] = v_add(v_load_upto(out + v * VL, n - v * VL), acc[v]);
        v_store_upto(out + v * VL, n - v * VL, acc[v]);
    }
}

#endif
