/* Device memory that travels from GPU to GPU, by NCCL. */
#ifndef RK_PARALLEL_COMM_NCCL_H
#define RK_PARALLEL_COMM_NCCL_H

#include "core/cuda_module.h"
#include "parallel/comm.h"

/* [C] Over `under`, by `call`, which all ranks have; closed with the context, before `under`. */
rk_status rk__comm_nccl(rk_comm *under, const rk_nccl_table *call, rk_comm **out);

/* NCCL for this context's device; NULL and why there is none. */
const rk_nccl_table *rk__nccl_of(const rk_ctx *ctx, char *why, size_t size);

#endif
