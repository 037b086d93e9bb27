/* Kernels over the pieces of an optimiser's step (rk_optim_piece), all in one launch. The pieces are cut into
 * parts of a fixed size; what a kernel needs to know of them is a table, which travels with the arguments if it
 * is short, and lies in device memory otherwise (rk__cuda_table()).
 *
 *     template <class T, class TABLE> static __global__ void kernel(int64_t parts, TABLE table, ..);
 *     RK__WITH_TABLE(dev, table, pieces, piece, PART, RK_LAUNCH((kernel<T, decltype(table)>), .., table.parts, table));
 */
#ifndef RK_CUDA_PIECES_CUH
#define RK_CUDA_PIECES_CUH

#include "core/kernels.h"
#include "cuda/cuda.h"
#include "cuda/rk_cuda.h"

#include <stdlib.h>

typedef struct rk__piece_row {
    rk_optim_piece p;
    int64_t first; /* part */
} rk__piece_row;

enum { RK__NEAR_PIECES = 16 };

struct rk__near_table {
    int n;
    rk__piece_row row[RK__NEAR_PIECES];
};

struct rk__far_table {
    int n;
    const rk__piece_row *row;
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

/* Fills rows; returns how many parts of `size` elements there are. */
static inline int64_t rk__piece_rows(int pieces, const rk_optim_piece *piece, int64_t size, rk__piece_row *row)
{
    int64_t parts = 0;
    for (int i = 0; i < pieces; i++) {
        memset(&row[i], 0, sizeof row[i]); /* tables are compared byte by byte */
        row[i].p = piece[i];
        row[i].first = parts;
        parts += (piece[i].n + size - 1) / size;
    }
    return parts;
}

/* run(table, parts) with a table of either kind; parts may be 0. */
template <class F>
static inline rk_status rk__with_pieces(rk_dev *dev, int pieces, const rk_optim_piece *piece, int64_t size, F run)
{
    if (pieces <= RK__NEAR_PIECES) {
        rk__near_table t = {};
        t.n = pieces;
        const int64_t parts = rk__piece_rows(pieces, piece, size, t.row);
        return run(t, parts);
    }
    rk__piece_row *row = (rk__piece_row *)malloc((size_t)pieces * sizeof *row);
    if (!row)
        return RK_ENOMEM;
    const int64_t parts = rk__piece_rows(pieces, piece, size, row);
    rk__far_table t = { pieces, (const rk__piece_row *)rk__cuda_table(dev, row, (size_t)pieces * sizeof *row) };
    free(row);
    return t.row ? run(t, parts) : RK_ENOMEM;
}

#endif
