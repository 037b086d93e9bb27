/* Few rows times a matrix whose columns are neighbours: the matrix is read row by row, a few long rows at
 * once, and the sums wait in memory near at hand. Prefetchers follow that; of the narrow strip of many rows
 * that a tile reads they fetch what nobody asked for.
 *
 *   sum[i][j] = chain over k of a(i, k) * b(k, j)          the same chain as a tile's (tile.h) */
#ifndef RK_CPU_SWEEP_H
#define RK_CPU_SWEEP_H

#include "cpu/isa/simd.h"

enum {
    SWEEP_ROWS = 4, /* the most at once: more have no room in registers */
    SWEEP_TERMS = 8 /* rows of b read side by side */
};

typedef struct rk__sweep {
    int rows; /* 1 to SWEEP_ROWS */
    int64_t cols, k;
    const float *a; /* element (i, k) is a[i * a_row + k * a_step] */
    int64_t a_row, a_step;
    const float *b; /* row k is `cols` floats at b + k * b_step */
    int64_t b_step;
    float *sum;      /* row i is `cols` floats, up to a whole vector, at sum + i * sum_row */
    int64_t sum_row; /* floats */
    bool resume;     /* the chains go on from `sum` instead of +0 */
} rk__sweep;

void RK_NAME(sweep)(const rk__sweep *s);

#endif
