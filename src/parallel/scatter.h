/* The first half of a sum over ranks, in the order of a tree: everyone has the sums over some subtrees of its
 * leaves, and gets one piece of the sum over all (a reduce-scatter; the ordered addition is
 * parallel/tree.h's). */
#ifndef RK_PARALLEL_SCATTER_H
#define RK_PARALLEL_SCATTER_H

#include "parallel/job.h"

typedef struct rk__scatter {
    rk__job *job;
    const rk_subtree *part; /* (parts) of all ranks, in order of the leaves */
    const int *first;       /* (ranks + 1) rank r has part[first[r]] to part[first[r + 1] - 1] */
    int parts, most;        /* most: of one rank */
    rk_leg *send;           /* (ranks) */
    const float **from;     /* (parts) */
} rk__scatter;

/* part and first stay the caller's. */
rk_status rk__scatter_init(rk__scatter *s, rk__job *j, const rk_subtree *part, const int *first);
void rk__scatter_free(rk__scatter *s);

/* [C] Sets out, as s->most exchanges: part p of this rank stands at flat + p * stride; of each part piece r,
 * [bound[r], bound[r + 1]), goes to rank r. bound (ranks + 1). recv (most, ranks) and request (most) are in
 * use until rk__scatter_add(), as the parts are (rk_comm_table.exchange). */
rk_status rk__scatter_start(rk__scatter *s, const char *name, const float *flat, int64_t stride,
                            const int64_t *bound, rk_leg *recv, rk_request **request);
/* [C] Waits for it: out becomes this rank's piece of the sum. */
rk_status rk__scatter_add(rk__scatter *s, const int64_t *bound, rk_leg *recv, rk_request **request,
                          float *out);

#endif
