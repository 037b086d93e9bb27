/* The register tile: a few rows by a few vectors of a product's output stay in registers while k runs. gemm.c
 * and conv.c cut their work into panels and call it.
 *
 *   sum[i][j] = chain over k of a(i, k) * b(k, j)          one fused multiply-add each, k ascending, from +0
 *
 * The rows' operand a is broadcast element by element, from wherever it lies (any two strides). The columns'
 * operand b is read in whole vectors: a panel of `width` columns packed by rk__pack, or rows of the matrix
 * itself.
 *
 * A sum over segments (core/order.h) is a stack of partial sums: after leaf s the finished pairs are added,
 * as when a binary counter carries. A tile may stop at any k and go on in a later call (a later block of k):
 * what it must remember lies in `held`. */
#ifndef RK_CPU_TILE_H
#define RK_CPU_TILE_H

#include "cpu/isa/simd.h"

/* The shape of most tiles, rows by vectors, and the shapes for few columns or few rows. All keep some 12
 * (AVX2) or 28 (AVX-512) sums in registers. Three rows by four vectors take fewer loads a term than six by
 * two, which on Zen 3 makes 101 GFLOP/s of 94. */
#if defined(RK_ISA_AVX512)
/* TILE_TALL: the most rows, of a tile one vector wide */
enum { TILE_VECS = 2, TILE_TALL = 14, TILE_SUMS = 28 };
#elif defined(RK_ISA_AVX2)
enum { TILE_VECS = 4, TILE_TALL = 12, TILE_SUMS = 12 };
#else
enum { TILE_VECS = 2, TILE_TALL = 4, TILE_SUMS = 4 }; /* small: the emulated operation fills pages of code */
#endif
enum {
    TILE_COLS = TILE_VECS * VL,
    TILE_FLOATS = TILE_SUMS * VL, /* the most that a tile holds */
    TILE_SEGMENTS_LOG2 = 10,      /* at most 1024 segments */
    TILE_SHORT_LEAF = 16          /* longer leaves hide the branches of the stack */
};

/* What becomes of a finished sum; one for a whole product. Pointers are to element (0, 0). */
typedef struct rk__epilogue {
    float *c;
    int64_t ldc;
    bool add;        /* c + sum instead of sum */
    bool transposed; /* the tile's rows are columns of c */
    rk_act act;
    const float *bias;      /* by column of c, or NULL */
    const float *bias_row;  /* by row of c, or NULL */
    float *pre;             /* like c: the value before act, or NULL */
    const float *relu_mask; /* like c: 0 where mask <= 0, or NULL */
} rk__epilogue;

/* Rows of sums on their way to a c that lies across: they wait until there are VL of them, are turned as
 * squares and stored as whole vectors. One for tiles that lie one below the other; tile_flush() ends them. */
typedef struct rk__turn {
    int rows; /* that wait, up to the next tile's first */
    float sum[(VL - 1) * 8 * VL + TILE_FLOATS] __attribute__((aligned(64)));
} rk__turn;

/* How b is read. */
typedef enum rk__tile_mode {
    RK__TILE_PANEL,  /* packed; every shape */
    RK__TILE_COPY,   /* rows of a matrix, left packed in b_copy */
    RK__TILE_DIRECT, /* rows of a matrix */
    RK__TILE_TURNED  /* columns of a matrix whose k is contiguous, turned in registers */
} rk__tile_mode;

typedef struct rk__tile {
    int rows, vecs; /* vecs is 1, 2, 3, 4 or 8; rows at most rk__tile_rows(vecs) */
    int cols;       /* columns that exist: at most vecs * VL */
    const float *a; /* element (i, k) is a[i * a_row + k * a_step] */
    int64_t a_row, a_step;
    const float *b; /* row k is vecs * VL floats at b + k * b_step, all readable */
    int64_t b_step;
    int64_t b_lane; /* turned: column j is b + j * b_lane, its k contiguous */
    float *b_copy;  /* copy: where to leave b packed (step vecs * VL) */
    rk__tile_mode mode;
    /* The terms of this call: run[0] terms of leaf `leaf`, run[1] of the next, ... */
    const int64_t *run;
    int runs, leaf;
    bool resume;  /* the first run continues a leaf begun in an earlier call */
    bool partial; /* the last run leaves its leaf unfinished */
    bool chain;   /* the first leaf starts from c (not transposed) instead of +0 */
    bool last;    /* the sum is complete: apply `out` */
    float *held; /* held_levels * TILE_FLOATS that live between the calls for this tile; NULL if one call does
                    it */
    int held_levels;
    const rk__epilogue *out;
    rk__turn *turn;   /* where out->transposed */
    int64_t row, col; /* of the tile in the product (in c: transposed if out says so) */
} rk__tile;

/* Most rows of a tile that is `vecs` vectors wide; 0: there is none of that width. */
static inline int rk__tile_rows(int vecs)
{
    if (vecs == 1)
        return TILE_TALL;
    if (vecs == 3)
        return TILE_VECS < 3 ? 0 : TILE_SUMS / 3;
    return vecs == 2 || vecs == 4 || vecs == 8 ? TILE_SUMS / vecs : 0;
}

/* Packed panels have a tile for every shape up to that; the other modes for some. */
bool RK_NAME(tile_has)(rk__tile_mode mode, int vecs, int64_t rows);

/* Runs one tile. */
void RK_NAME(tile)(const rk__tile *t);

/* Stores the rows that wait in t->turn, which lie above t->row. */
void RK_NAME(tile_flush)(const rk__tile *t);

/* Runs `tiles` tiles of the most rows, one below the other: panel or direct, complete, not a chain, not
 * transposed; one run, or as many as tile_has_groups() says, each shorter than TILE_SHORT_LEAF. */
void RK_NAME(tile_column)(const rk__tile *t, int64_t tiles);
bool RK_NAME(tile_has_column)(const rk__tile *t);
bool RK_NAME(tile_has_groups)(int leaves);

/* Rows 0 .. rows of c from column `col` on, from finished sums.
 * sum   (rows, cols) in rows of `step` floats, each readable up to a whole vector; not transposed */
void RK_NAME(finish_sums)(const rk__epilogue *e, const float *sum, int64_t step, int64_t col, int64_t rows,
                          int64_t cols);

/* Packs k rows of `lanes` floats into rows of `width` >= lanes floats, zeros after the last lane.
 * src   element (k, l) is src[k * step + l * lane]
 * panel k * width floats
 * to    what each element is rounded to */
void RK_NAME(pack)(const float *src, int64_t step, int64_t lane, int64_t k, int64_t lanes, int64_t width,
                   rk_round to, float *panel);

#endif
