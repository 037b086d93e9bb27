/* What the convolution kernels share: copies of images in which every tap of the kernel is a constant offset.
 *
 * Numeric contract of all convolutions: each output is one chain of fused multiply-adds in the order that
 * core/kernels.h gives, from +0. Padding takes part as zeros: its terms are fma(w, +0, sum), which changes a
 * sum only if w is not finite. (A gradient's padding is where a tap meets no output; taps that a stride steps
 * over are no terms at all.) Tiles, vectors, threads and the cut of the batch over ranks never change a bit.
 */
#ifndef RK_CPU_ISA_CONV_H
#define RK_CPU_ISA_CONV_H

#include "cpu/isa/simd.h"

/* How a plane of the source lies in the copy. With stride s the copy is split into s phases (columns 0, s,
 * 2s, ... make phase 0, and so on; rows alike), so that consecutive outputs always read consecutive elements.
 * A row's left padding serves as the right padding of the row before: reading past the end of a row finds
 * zeros. */
typedef struct rk__conv_view {
    int64_t h, w;               /* source plane */
    int64_t stride_h, stride_w; /* source rows or columns from one index to the next */
    int64_t pad_h, pad_w;       /* zeros before the source; negative: the source is cropped */
    int64_t phases_h, phases_w; /* phases that some tap reads */
    int64_t rows, cols;         /* indices of a phase that are read */
    int64_t pitch;              /* elements from row to row */
    int64_t phase, plane;       /* elements of a phase, of all phases */
} rk__conv_view;

/* Derives pitch, phase and plane from the other fields. */
void RK_NAME(conv_view_init)(rk__conv_view *v);

/* Floats of a copy of so many channels, with room behind for a vector that begins at the last element. */
static inline int64_t rk__conv_view_size(const rk__conv_view *v, int64_t channels)
{
    return channels * v->plane + TV;
}

/* Copies channels of one sample (contiguous planes from src on) to dst; rounded. */
void RK_NAME(conv_view_copy)(const rk__conv_view *v, int64_t channels, rk_round to, const float *src,
                             float *dst);

/* Where the copy holds what output (0, 0) reads at distance (dh, dw) >= 0 from its window's first element. */
static inline int64_t rk__conv_view_at(const rk__conv_view *v, int64_t dh, int64_t dw)
{
    return (dh % v->stride_h * v->phases_w + dw % v->stride_w) * v->phase + dh / v->stride_h * v->pitch +
           dw / v->stride_w;
}

/* The view of x that the windows of g read. */
rk__conv_view RK_NAME(conv_view_x)(const rk_conv2d_args *g);

/* One product of a row of weights with windows of an image: out(m, p) = sum over k of a(m, k) * x[at(p) +
 * off[k]]. Vectors of outputs are runs of the image; where a run crosses the end of a row, the lanes in
 * between are dropped. */
typedef struct rk__conv_vec {
    int64_t src, dst; /* first lane in the image; first kept lane in the output plane */
    int32_t count;    /* lanes kept */
    int32_t lane[TV]; /* the kept lanes, in order */
} rk__conv_vec;

typedef struct rk__conv_tile {
    int rows, vecs;       /* at most RK__CONV_ROWS, rk__conv_vecs(rows) */
    const float *a;       /* packed: rows of k */
    const ptrdiff_t *off; /* (k) */
    int64_t k;
    int period; /* terms after which off[] repeats itself, `advance` further on; 0: it does not */
    int64_t advance;
    const float *x;
    const rk__conv_vec *vec; /* (vecs) */
    bool whole;              /* every vector keeps all lanes */
    float *held;             /* the tile's sums between blocks of k */
    bool first, last;        /* block of k */
    const float *bias;       /* (rows) or NULL */
    bool relu;
    float *y;      /* row m is at y + m * plane */
    int64_t plane; /* elements of an output plane: nothing is written past it */
} rk__conv_tile;

#if defined(RK_ISA_AVX512)
enum { RK__CONV_ROWS = 8, RK__CONV_VECS = 8 };
#elif defined(RK_ISA_AVX2)
enum { RK__CONV_ROWS = 4, RK__CONV_VECS = 8 };
#else
enum { RK__CONV_ROWS = 4, RK__CONV_VECS = 4 };
#endif
enum { RK__CONV_HELD = 24 * TV }; /* floats of a tile's sums */

/* Periods that tiles are unrolled for: four terms (kernels of one, two or four taps), and 3x3. */
enum { RK__CONV_SHORT = 4, RK__CONV_LONG = 9 };

/* Most vectors of a tile of so many rows: as many sums as there are registers for. */
static inline int rk__conv_vecs(int rows)
{
#if defined(RK_ISA_AVX512)
    static const int vecs[] = { 8, 8, 6, 5, 4, 4, 3, 3 };
#elif defined(RK_ISA_AVX2)
    static const int vecs[] = { 8, 5, 4, 3 };
#else
    static const int vecs[] = { 4, 4, 3, 2 };
#endif
    return vecs[rows - 1];
}

void RK_NAME(conv_tile)(const rk__conv_tile *t);

#endif
