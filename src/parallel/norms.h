/* The norm of all gradients, and the verdict on a step (rk_watch). Each rank squares what it has of the
 * gradients, the sums meet as small arrays of the device's memory, and every rank makes the same of them: the
 * host takes no part in it but to agree on what is moved.
 *
 * Sums are over chunks of RK_CHUNK elements of the logical tensor, added in a tree; those of a cut parameter
 * over rows of a shard, in a tree, then the shards (core/cut.h). */
#ifndef RK_PARALLEL_NORMS_H
#define RK_PARALLEL_NORMS_H

#include "parallel/grads.h"

typedef struct rk__norms rk__norms;

/* [C] Of the parameters t (n), in whose order the verdict counts. grads NULL: this rank has the gradients by
 * itself. Lives as long as ctx; t is the caller's again. */
rk_status rk__norms_make(rk_ctx *ctx, rk__grads *grads, rk_tensor *const *t, int n, rk__norms **out);
/* [C] Between rk__grads_sum() and the update; a parameter without gradient counts as zeros. a: what the
 * caller knows; the sums and where they stand are filled in. */
rk_status rk__norms_judge(rk__norms *n, const rk_judge_args *a);

#endif
