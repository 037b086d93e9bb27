/* Gradients on their way: each rank's sums over its subtrees become the sum over the batch.
 *
 * The gradients of all parameters stand in one flat vector (parallel/buckets.h), once for each subtree of a
 * rank, in memory that the ranks of a node read in place. Buckets set out while the backward walk goes on.
 * Rank r gets piece r of every subtree and adds them in the order of the tree. What happens to the weights
 * then is parallel/weights.h's. */
#ifndef RK_PARALLEL_GRADS_H
#define RK_PARALLEL_GRADS_H

#include "parallel/weights.h"

typedef struct rk__grads rk__grads;

/* What a rank keeps by piece (Rajbhandari et al. 2020, "ZeRO"). Each includes those before it; the bits are
 * the same. */
typedef enum rk__zero {
    RK__ZERO_NONE,      /* nothing: everyone gets all sums of gradients and updates all weights */
    RK__ZERO_OPTIMIZER, /* the optimiser's state: each rank updates its piece of the weights, which then meet
                         */
    RK__ZERO_GRADIENTS, /* gradients: a bucket that was exchanged gives its memory back during the walk */
    RK__ZERO_WEIGHTS    /* weights, those of frozen parameters too */
} rk__zero;

typedef struct rk__grads_cfg {
    rk_tensor *const *t; /* (n) parameters (f32), which get their gradients' memory here */
    int n, n_frozen;
    rk_tensor *const *frozen; /* (n_frozen) parameters without */
    rk__zero zero;
    int64_t bucket; /* bytes; 0: measured */
} rk__grads_cfg;

/* [C] Lives as long as the context; the lists are the caller's again. */
rk_status rk__grads_make(rk__job *j, const rk__grads_cfg *cfg, rk__grads **out);
/* Before the forward pass of a batch: gradients are written as this rank's parts. overlap: there will be one
 * backward pass, and buckets of gradients may set out as soon as it is done with them. Ranks whose weights
 * are by piece all say the same. */
void rk__grads_begin(rk__grads *g, bool overlap);
/* [C] After it: rk_grad() of every parameter is the sum over the batch, in the elements of this rank's piece
 * (RK__ZERO_NONE: in all). */
rk_status rk__grads_sum(rk__grads *g);
/* The elements [from, to) of parameter t that this rank updates; RK__ZERO_NONE: all of them. */
void rk__grads_piece(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to);
/* The elements of parameter t, frozen or not, that this rank holds between steps. */
void rk__grads_held(const rk__grads *g, const rk_tensor *t, int64_t *from, int64_t *to);
/* The elements [from, to) of parameter t in the piece of rank r, whatever is kept by piece. */
void rk__grads_share(const rk__grads *g, const rk_tensor *t, int r, int64_t *from, int64_t *to);
rk__job *rk__grads_job(const rk__grads *g);
/* [C] The weights of the pieces, each updated by its rank, set out. Whoever reads them waits. */
rk_status rk__grads_weights_changed(rk__grads *g);
/* They have arrived. */
rk_status rk__grads_settle(rk__grads *g);
/* [C] Everywhere: a rank may change its pieces outside a step. */
rk_status rk__grads_hold(rk__grads *g);
/* Passes of a batch that other ranks make and this one does not: what it reads is noted from the first pass
 * on, and asked for again. */
void rk__grads_note_reads(rk__grads *g, bool on);
rk_status rk__grads_repeat_reads(rk__grads *g); /* [C] */
/* Bytes that a rank sends for gradients and weights in a step of one pass; *far: of them to other nodes. */
size_t rk__grads_bytes(const rk__grads *g, size_t *far);
/* Are gradients added up within nodes first? */
bool rk__grads_by_node(const rk__grads *g);
/* How many buckets there are, and the size at which one is full. */
int rk__grads_buckets(const rk__grads *g, size_t *full);
/* Bytes that a rank has at most for gradients in such a step, and beside its pieces for weights. */
size_t rk__grads_memory(const rk__grads *g);

#endif
