/* Gradients on their way: each rank's sums over its subtrees become the sum over the batch.
 *
 * The gradients of all parameters stand in one flat vector, once for each subtree of a rank, in memory that
 * the ranks of a node read in place. The vector is cut into one piece a rank, at chunks of RK_CHUNK elements
 * of a parameter. Rank r gets piece r of every subtree, adds them in the order of the tree, and everyone gets
 * the sums. */
#ifndef RK_PARALLEL_GRADS_H
#define RK_PARALLEL_GRADS_H

#include "parallel/job.h"

typedef struct rk__grads rk__grads;

/* [C] For the parameters t (f32), which get their gradients' memory from here. Lives as long as the context.
 */
rk_status rk__grads_make(rk__job *j, rk_tensor *const *t, int n, rk__grads **out);
/* Before a backward pass: gradients are written as this rank's parts. */
void rk__grads_begin(rk__grads *g);
/* [C] After it: rk_grad() of every parameter is the sum over the batch. */
rk_status rk__grads_sum(rk__grads *g);
/* Bytes that a rank sends in one rk__grads_sum(). */
size_t rk__grads_bytes(const rk__grads *g);

#endif
