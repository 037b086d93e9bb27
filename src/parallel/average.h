/* The mean of K workers' weights, and the outer step that follows from it.
 *
 * The workers belong to the job and are shared out to its ranks in order. What they average is one vector of
 * each, cut into one piece a rank: a rank adds up the canonical subtrees of its own workers, sends piece r of
 * these sums to rank r, which adds them in the tree over the K workers (core/order.h), moves its piece of the
 * outer vector by the mean, and everyone gets the new outer vector. So its bits depend on K, not on the
 * ranks.
 *
 * Outer step: McMahan et al. 2017 ("FedAvg": the mean itself) or Douillard et al. 2023 ("DiLoCo",
 * arXiv 2311.08105, algorithm 1): Nesterov's momentum over the outer gradient, the old outer weights minus
 * the mean. */
#ifndef RK_PARALLEL_AVERAGE_H
#define RK_PARALLEL_AVERAGE_H

#include "parallel/job.h"

typedef struct rk__average rk__average;

typedef struct rk__average_cfg {
    int workers;   /* K, a power of two, at least as many as ranks */
    int64_t n;     /* floats of a worker's vector */
    int64_t moved; /* the first of them that an outer optimiser moves; the rest becomes the mean */
    bool nesterov; /* else all of it becomes the mean */
    double lr, momentum;
} rk__average_cfg;

/* The first worker of a rank; those before that of the next rank are its own. */
int rk__average_first(const rk__job *j, int workers, int rank);

/* [C] Lives as long as the context. */
rk_status rk__average_make(rk__job *j, const rk__average_cfg *cfg, rk__average **out);
/* (n) the outer vector, zeroed at first, the same on all ranks: weights may lie there. */
float *rk__average_outer(const rk__average *a);
/* The momentum of the elements [from, to) of the outer vector, which this rank moves; NULL: there is none. */
float *rk__average_momentum(const rk__average *a, int64_t *from, int64_t *to);
/* Elements [at, at + n) of this rank's workers: value (own workers, n), all of them before
 * rk__average_meet().
 */
rk_status rk__average_put(rk__average *a, int64_t at, int64_t n, const float *value);
/* [C] The outer vector makes its step. */
rk_status rk__average_meet(rk__average *a);
/* Bytes that a rank sends in one rk__average_meet(). */
size_t rk__average_bytes(const rk__average *a);

#endif
