/* Gradients on their way: each rank's sums over its subtrees become the sum over the batch.
 *
 * The gradients of all parameters stand in one flat vector, once for each subtree of a rank, in memory that
 * the ranks of a node read in place. Neighbouring parameters form buckets, which set out while the backward
 * walk goes on; their size is measured at the start. A bucket is cut into one piece a rank, at chunks of
 * RK_CHUNK elements of a parameter. Rank r gets piece r of every subtree, adds them in the order of the tree,
 * and everyone gets the sums. */
#ifndef RK_PARALLEL_GRADS_H
#define RK_PARALLEL_GRADS_H

#include "parallel/job.h"

typedef struct rk__grads rk__grads;

/* What a rank keeps by piece (Rajbhandari et al. 2020, "ZeRO"). The bits are the same. */
typedef enum rk__zero {
    RK__ZERO_NONE,     /* nothing: everyone gets all sums of gradients and updates all weights */
    RK__ZERO_OPTIMIZER /* the optimiser's state: each rank updates its piece of the weights, which then meet
                        */
} rk__zero;

/* [C] For the parameters t (f32), which get their gradients' memory from here. Lives as long as the context.
 */
rk_status rk__grads_make(rk__job *j, rk_tensor *const *t, int n, rk__zero zero, rk__grads **out);
/* Before the forward pass of a batch: gradients are written as this rank's parts. overlap: there will be one
 * backward pass, and buckets of gradients may set out as soon as it is done with them. */
void rk__grads_begin(rk__grads *g, bool overlap);
/* [C] After it: rk_grad() of every parameter is the sum over the batch, in the elements of this rank's piece
 * (RK__ZERO_NONE: in all). */
rk_status rk__grads_sum(rk__grads *g);
/* The elements [from, to) of parameter t in this rank's piece; RK__ZERO_NONE: all of them. */
void rk__grads_piece(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to);
/* [C] The sum of squares of parameter i's gradient into squares[i], in the order of rk_kernels.sum_squares;
 * not finite if an element is not. i counts as in rk__grads_make(). */
rk_status rk__grads_squares(rk__grads *g, double *squares);
/* [C] The weights of the pieces, each updated by its rank, meet. */
rk_status rk__grads_gather_weights(rk__grads *g);
/* Bytes that a rank sends in one rk__grads_sum(). */
size_t rk__grads_bytes(const rk__grads *g);
/* How many buckets there are, and the measured size at which one is full. */
int rk__grads_buckets(const rk__grads *g, size_t *full);

#endif
