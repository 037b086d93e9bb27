/* Operands of products in 16 bits, for devices that want them so (RK_USES_ROUNDED): converted once where they
 * are used more than once. Weights are kept in 16 bits, too, while nobody changes them: in a training step
 * over all its micro-batches, and in a pass of evaluation. */
#ifndef RK_CORE_ROUNDED_H
#define RK_CORE_ROUNDED_H

#include "core/tape.h"

/* Weights stand still from here to the matching rk__weights_move(); pairs nest. What was kept of them before
 * is not used again, so that whatever has changed them meanwhile need not tell. */
void rk__weights_stand(rk_ctx *ctx);
void rk__weights_move(rk_ctx *ctx);

/* The matrix w as products round it, where weights stand still and it pays; data NULL: products convert it
 * themselves, or it failed, which is recorded. Memory for it is w's from then on. */
rk_rounded rk__rounded_weight(rk_tensor *w);

/* The same of any matrix (rows, cols) of f32, rows `step` elements apart, in a step tensor, *room, which the
 * caller drops; NULL where data is. */
rk_rounded rk__rounded_rows(rk_ctx *ctx, int64_t rows, int64_t cols, int64_t step, const void *from,
                            rk_tensor **room);

/* Of a persistent tensor: its values have changed; it is going away. */
void rk__rounded_stale(rk_tensor *t);
void rk__rounded_free(rk_tensor *t);

#endif
