/* Operations over cut parameters: the S tensor shards of the grid.
 *
 * A weight with a `cut` (rk__cut) is cut along one axis into S chunks, by halving (core/order.h); each sum
 * over that axis is S chains, added in the tree. One rank has all of the weight and makes all S chains; of T
 * ranks each has the box of S / T chunks, makes that subtree, and the subtrees are added in the same tree.
 * So the bits depend on S and not on T.
 *
 *     linear, cut along out (column)   input gradients are cut sums; a rank's outputs are its columns
 *     linear, cut along in (row)       outputs are cut sums; a rank's inputs are its columns
 *     embedding, cut along the rows    nothing is added: each row comes from who has it
 *     conv2d, cut along out channels   input gradients are cut sums; a rank's outputs are its channels
 *     cross entropy over cut classes   the sum of exponentials of a row is a cut sum
 *     sum of squares of a gradient     rows of a shard in a tree, then the shards
 *
 * Names for collectives are those of the operations. */
#ifndef RK_CORE_CUT_H
#define RK_CORE_CUT_H

#include "core/op.h"
#include "core/state.h"

/* Chains of this rank in a cut sum. */
int rk__cut_chains(const rk_ctx *ctx);
/* Do other ranks hold the rest of cut parameters? */
bool rk__cut_meets(const rk_ctx *ctx);
/* [C] t (f32) becomes the sum of the ranks' subtrees; alone: t is it already. */
rk_status rk__cut_sum(const char *name, rk_tensor *t);
/* [C] The ranks' boxes of `whole` along axis, side by side; alone: x itself. Records. */
rk_tensor *rk__cut_gather(rk_tensor *x, int axis, int64_t whole);
/* [C] The other way round: this rank's box of x, whose gradient is gathered. */
rk_tensor *rk__cut_slice(rk_tensor *x, int axis);
/* [C] Leaves this rank its box of a persistent cut tensor that it has all of. */
rk_status rk__cut_share(rk_tensor *t, rk__cut *cut);
/* What this rank holds of a persistent tensor. */
rk_piece rk__cut_piece(const rk_tensor *t);
/* This rank's box of an axis of n elements. */
void rk__cut_box(const rk_ctx *ctx, int64_t n, int64_t *lo, int64_t *hi);

/* Dropout as rk_dropout_op(), of this rank's box of `whole` elements of the last axis: with the mask that all
 * of it would have. */
rk_tensor *rk__dropout_cut(rk_tensor *x, double p, uint64_t layer, int64_t whole);

/* [C] Cross entropy as rk_cross_entropy_cfgd(); logits (n, this rank's box of cut->whole classes), target in
 * [0, cut->whole). cut NULL: not cut. */
rk_tensor *rk__cross_entropy_cut(rk_tensor *logits, rk_tensor *target, const rk_cross_entropy_cfg *cfg,
                                 const rk__cut *cut);
/* [C] loss and lse (rows) of dense logits (rows, cols), as the kernel cross_entropy gives them. */
rk_status rk__cross_entropy_rows(const rk__call *c, const rk_cross_entropy_cfg *cfg, const rk__cut *cut,
                                 rk_tensor *logits, rk_tensor *target, rk_tensor *loss, rk_tensor *lse);

/* The sum of squares of the gradient of a parameter that is cut along axis 0 or 1, seen as a matrix (rows,
 * cols) whose rows are those of axis 0: each row of a shard is a sum by itself, so that a row of this rank
 * has so many; the rows of a shard are added in a tree, then the shards (parallel/norms.h). */
int64_t rk__cut_row_sums(const rk_ctx *ctx, int axis);

#endif
