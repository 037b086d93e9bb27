/* The device language: all that a kernel file sees of CUDA. nvcc: the real one; g++ with RK_EMU: the emulation
 * on the host (docs/cuda.md).
 *
 *   RK_LAUNCH((kernel<float>), grid, block, smem, stream, args...);   plain data as arguments
 *   RK_SHARED(float, tile, [32][33]);   RK_DYN_SHARED(float, all);    instead of __shared__
 *
 * Every multiply-add is written out (fmaf, fma): nothing is contracted (-fmad=false, -ffp-contract=off). */
#ifndef RK_CUDA_RK_CUDA_H
#define RK_CUDA_RK_CUDA_H

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define RK_LAUNCH(kernel, grid, block, smem, stream, ...) \
    (kernel)<<<(grid), (block), (smem), (stream)>>>(__VA_ARGS__)
#define RK_SHARED(T, name, dims) __shared__ __align__(16) T name dims
#define RK_DYN_SHARED(T, name)                                         \
    extern __shared__ __align__(16) unsigned char rk_dynamic_shared[]; \
    T *name = reinterpret_cast<T *>(rk_dynamic_shared)
#else
#include "cuda/host/rk_emu_device.h"
#endif

#endif
