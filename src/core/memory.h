/* Step memory: the values of the tensors that die in rk_step_end().
 *
 * The first step of a kind is recorded: each request and its release are numbered events. From the record
 * every request gets an offset in one arena such that lifetimes that overlap do not overlap in memory; the
 * next step of the same kind is served from there without any allocation. Each event is checked against the
 * record; at the first difference (another shape, another order) the rest of the step comes from the system
 * allocator and the plan is made anew. Steps of different kinds (training, evaluation, the short last batch)
 * keep plans of their own, told apart by their first request and by whether gradients are recorded.
 *
 * Source: greedy by size, Pisarchyk & Lee 2020, "Efficient Memory Management for Deep Neural Net Inference".
 */
#ifndef RK_CORE_MEMORY_H
#define RK_CORE_MEMORY_H

#include "core/ctx.h"

rk_status rk__memory_open(rk_ctx *ctx);
void rk__memory_close(rk_ctx *ctx);

/* bytes of step memory; *slot names it for the release. NULL: a failure is recorded. */
void *rk__memory_take(rk_ctx *ctx, size_t bytes, int64_t *slot);
void rk__memory_give_back(rk_ctx *ctx, int64_t slot);
/* Everything still out is given back; makes or keeps the plan. */
rk_status rk__memory_step_end(rk_ctx *ctx);

#endif
