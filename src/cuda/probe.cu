/* The launch that a device is opened with. */
#include "cuda/rk_cuda.h"

static __global__ void probe_kernel(int)
{
}

extern "C" cudaError_t rk__cuda_probe(cudaStream_t stream)
{
    RK_LAUNCH(probe_kernel, 1, 1, 0, stream, 0);
    return cudaGetLastError();
}
