/* What devices the ranks of a job have found, and that they agree. */
#ifndef RK_PARALLEL_DEVICES_H
#define RK_PARALLEL_DEVICES_H

#include "core/ctx.h"

/* [C] Once ranks meet and before any of them uses its device. RK_ECONFIG where some have a GPU and others do
 * not: their tensors could not meet, and GPUs that were asked for would stand idle. A library that products
 * may come from is used by all ranks or by none. ctx->choice then tells of all ranks. */
rk_status rk__devices_agree(rk_ctx *ctx);

#endif
