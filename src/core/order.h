/* Canonical order: how sums are cut, so that their bits depend on the grid alone (docs/architecture.md).
 *
 * A sum over k is halved recursively into `segments` pieces (a power of two); each piece is one chain from
 * +0, ascending; the pieces are added in that binary tree. k counts in units (a sample of `unit` terms), so
 * that the pieces are whole samples: the bounds are halved in units, then multiplied. A rank that holds a
 * subtree asks for its own number of segments and gets exactly that subtree's sum. */
#ifndef RK_CORE_ORDER_H
#define RK_CORE_ORDER_H

#include <stdint.h>

#include "core/hd.h"

/* Where the right half of [lo, hi) begins. */
RK_HD static inline int64_t rk_order_mid(int64_t lo, int64_t hi)
{
    return lo + (hi - lo) / 2;
}

/* Bounds of leaf s of `segments` (a power of two) over [0, n): walks down the halving. */
RK_HD static inline void rk_order_leaf(int64_t n, int segments, int s, int64_t *lo, int64_t *hi)
{
    *lo = 0;
    *hi = n;
    for (int half = segments / 2; half > 0; half /= 2) {
        int64_t mid = rk_order_mid(*lo, *hi);
        if (s & half)
            *lo = mid;
        else
            *hi = mid;
    }
}

/* A canonical subtree of the tree over all data shards: `leaves` is a power of two and divides `first`. */
typedef struct rk_subtree {
    int first, leaves;
} rk_subtree;

enum { RK_ORDER_PARTS = 20 }; /* most subtrees of one rank: 2 * log2(1024) */

/* The shards of rank `rank` of `ranks`: [rank * shards / ranks, (rank + 1) * shards / ranks), as the fewest
 * subtrees, in order; returns their number. */
RK_HD static inline int rk_order_parts(int shards, int ranks, int rank, rk_subtree part[RK_ORDER_PARTS])
{
    int at = (int)((int64_t)shards * rank / ranks), end = (int)((int64_t)shards * (rank + 1) / ranks), n = 0;
    while (at < end) {
        int leaves = at ? at & -at : shards;
        while (leaves > end - at)
            leaves /= 2;
        part[n++] = (rk_subtree){ at, leaves };
        at += leaves;
    }
    return n;
}

/* The samples [lo, hi) of a subtree in a batch of n. */
RK_HD static inline void rk_order_samples(int64_t n, int shards, rk_subtree part, int64_t *lo, int64_t *hi)
{
    int64_t none;
    rk_order_leaf(n, shards, part.first, lo, &none);
    rk_order_leaf(n, shards, part.first + part.leaves - 1, &none, hi);
}

/* Sums that are not over the samples of a batch (a row's norm, a softmax denominator, a clipping norm) use
 * fixed lanes: lane l adds elements l, l + RK_LANES, ... in one chain from +0; then lanes are added in a
 * balanced tree,
 * ((0+8)+(4+12)) + ... i.e. halving: for h = 8, 4, 2, 1: lane[l] += lane[l + h]. Independent of vector width.
 */
enum { RK_LANES = 16 };

/* Long sums (norm of a whole tensor) are cut into chunks of this many elements of the logical tensor; chunks
 * are added in a halving tree, as above. */
enum { RK_CHUNK = 4096 };

/* The sum of x[lo, hi), not empty, in that tree. */
RK_HD static inline double rk_order_tree(const double *x, int64_t lo, int64_t hi)
{
    if (hi - lo == 1)
        return x[lo];
    int64_t mid = rk_order_mid(lo, hi);
    return rk_order_tree(x, lo, mid) + rk_order_tree(x, mid, hi);
}

#endif
