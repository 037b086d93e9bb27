/* What the stand-ins for the runtime's calls share. */
#ifndef RK_CUDA_HOST_RUNTIME_H
#define RK_CUDA_HOST_RUNTIME_H

#include "cuda/host/rk_emu.h"

/* Remembers e for cudaGetLastError() and returns it. */
cudaError_t rk_emu_error(cudaError_t e);

/* The head of a call that may be made to fail (RK_EMU_FAIL). */
#define RK_EMU_CALL(name, error)    \
    rk_emu_guard rk_emu_guard_here; \
    if (rk_emu_fails(name))         \
    return rk_emu_error(error)

#endif
