/* Kernels over the pieces of an optimiser's step (rk_optim_piece, rk_square_rows), all in one launch. The pieces are
 * cut into parts; what a kernel needs to know of them is a table, which travels with the arguments if it is short, and
 * lies in device memory otherwise (rk__cuda_table()).
 *
 *     template <class T, class TABLE> static __global__ void kernel(int64_t parts, TABLE table, ..);
 *     rk__with_pieces(dev, pieces, piece, PART, [=](auto table, int64_t parts) {
 *         RK_LAUNCH((kernel<T, decltype(table)>), .., parts, table);
 */
#ifndef RK_CUDA_PIECES_CUH
#define RK_CUDA_PIECES_CUH

#include "core/kernels.h"
#include "cuda/cuda.h"
#include "cuda/rk_cuda.h"

#include <stdlib.h>

template <class P> struct rk__piece_row {
    P p;
    int64_t first; /* part */
};

enum { RK__NEAR_PIECES = 16 };

template <class P> struct rk__near_table {
    int n;
    rk__piece_row<P> row[RK__NEAR_PIECES];
};

template <class P> struct rk__far_table {
    int n;
    const rk__piece_row<P> *row;
};

/* The piece that has this part: the last one that begins at it or before; empty ones have none. */
template <class TABLE> static __device__ __forceinline__ int rk__piece_of(const TABLE &t, int64_t part)
{
    int lo = 0, hi = t.n;
    while (hi - lo > 1) {
        const int mid = (lo + hi) / 2;
        if (t.row[mid].first <= part)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* Parts of `size` elements; a row is a part by itself. */
static inline int64_t rk__parts_of(const rk_optim_piece &p, int64_t size)
{
    return (p.n + size - 1) / size;
}

static inline int64_t rk__parts_of(const rk_square_rows &p, int64_t)
{
    return p.rows;
}

/* Fills rows; returns how many parts there are. */
template <class P>
static inline int64_t rk__piece_rows(int pieces, const P *piece, int64_t size, rk__piece_row<P> *row)
{
    int64_t parts = 0;
    for (int i = 0; i < pieces; i++) {
        memset((void *)&row[i], 0, sizeof row[i]); /* tables are compared byte by byte */
        row[i].p = piece[i];
        row[i].first = parts;
        parts += rk__parts_of(piece[i], size);
    }
    return parts;
}

/* run(table, parts) with a table of either kind; parts may be 0. */
template <class P, class F>
static inline rk_status rk__with_pieces(rk_dev *dev, int pieces, const P *piece, int64_t size, F run)
{
    if (pieces <= RK__NEAR_PIECES) {
        rk__near_table<P> t = {};
        t.n = pieces;
        const int64_t parts = rk__piece_rows(pieces, piece, size, t.row);
        return run(t, parts);
    }
    rk__piece_row<P> *row = (rk__piece_row<P> *)malloc((size_t)pieces * sizeof *row);
    if (!row)
        return RK_ENOMEM;
    const int64_t parts = rk__piece_rows(pieces, piece, size, row);
    rk__far_table<P> t = { pieces,
                           (const rk__piece_row<P> *)rk__cuda_table(dev, row, (size_t)pieces * sizeof *row) };
    free(row);
    return t.row ? run(t, parts) : rk__cuda_denied(dev);
}

#endif
