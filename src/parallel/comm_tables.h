/* The communicators there are. Made here, they belong to whoever asks; rk__comm_open() hangs them from the
 * context. */
#ifndef RK_PARALLEL_COMM_TABLES_H
#define RK_PARALLEL_COMM_TABLES_H

#include "parallel/comm.h"

rk_status rk__comm_make_self(rk_ctx *ctx, rk_comm **out);
rk_status rk__comm_make_mpi(rk_ctx *ctx, rk_comm **out); /* [C] *out NULL: no launcher started this process */

/* Over `under`, for memory of a device that the host does not see; closed with the context, before `under`.
 */
rk_status rk__comm_staged(rk_comm *under, rk_comm **out);

/* [C] Over `under`, for device memory: from GPU to GPU where all ranks have NCCL and GPUs of their own, else
 * staged. RANKINE_NCCL=0 on any rank asks for the latter, 1 insists on the former. Every rank comes to the
 * same answer, and (*out)->way tells it. Closed with the context, before `under`. Errors: RK_ECONFIG if NCCL
 * was insisted on and cannot be. */
rk_status rk__comm_of_device(rk_comm *under, rk_comm **out);
/* Refuses a RANKINE_NCCL that says nothing, where nobody would ask it. */
rk_status rk__nccl_asked(rk_ctx *ctx);

#endif
