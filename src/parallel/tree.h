/* The addition that ranks do after an exchange: partial sums of subtrees, added in the order of the tree over
 * the data shards (core/order.h). */
#ifndef RK_PARALLEL_TREE_H
#define RK_PARALLEL_TREE_H

#include "core/ctx.h"

/* out (n) = the sum of from[0 .. count-1], each (n), f32, where from[i] is the sum over the leaves of
 * parts[i]. The parts lie side by side and make up one subtree, usually all of the tree; siblings are added
 * left first. out may be one of from. On the device's threads, in blocks that stay in a near cache.
 *
 * Errors: RK_EINTERNAL if the parts do not make up a subtree. */
rk_status rk__tree_add(rk_ctx *ctx, int64_t n, int count, const rk_subtree *parts, const float *const *from,
                       float *out);

/* Do two subtrees, the left one first, make up one? */
bool rk__siblings(rk_subtree l, rk_subtree r);

#endif
