/* What the CUDA library exports: one symbol (core/cuda_module.h). */
#include "core/cuda_module.h"
#include "cuda/table.h"

extern __typeof__(*((rk_cuda_library *)0)->gpus) rk__cuda_gpus;

#ifdef RK_CUDA_NCCL
extern const rk_nccl_table rk__cuda_nccl;
#endif

RK_API extern const rk_cuda_library rk_cuda_module;
const rk_cuda_library rk_cuda_module = {
    .version = RK_CUDA_MODULE_VERSION,
    .kernels_bytes = sizeof(rk_kernels),
    .device_bytes = sizeof(rk_device),
#ifdef RK_EMU
    .host_run = true,
#endif
    .built = RK_CUDA_BUILT,
    .device = &rk__cuda_device,
    .gpus = rk__cuda_gpus,
#ifdef RK_CUDA_NCCL
    .nccl = &rk__cuda_nccl,
#endif
};
