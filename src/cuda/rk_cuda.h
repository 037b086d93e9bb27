/* The device language: all that a kernel file sees of CUDA. nvcc: the real one; g++ with RK_EMU: the
 * emulation on the host (docs/cuda.md).
 *
 *   RK_LAUNCH((kernel<float>), grid, block, smem, stream, args...);   plain data as arguments; stream: a CUDA
 *                                                                     stream, or dev->stream
 *   RK_SHARED(float, tile, [32][33]);   RK_DYN_SHARED(float, all);    instead of __shared__
 *
 * Every multiply-add is written out (fmaf, fma): nothing is contracted (-fmad=false, -ffp-contract=off). */
#ifndef RK_CUDA_RK_CUDA_H
#define RK_CUDA_RK_CUDA_H

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define RK_SHARED(T, name, dims) __shared__ __align__(16) T name dims
#define RK_DYN_SHARED(T, name)                                         \
    extern __shared__ __align__(16) unsigned char rk_dynamic_shared[]; \
    T *name = reinterpret_cast<T *>(rk_dynamic_shared)
#else
#include "cuda/host/rk_emu_device.h"
#endif

#include "cuda/cuda.h"

#include <tuple>
#include <utility>

/* ---- launches ---- */

static inline void rk__launch_into(cudaStream_t s, const void *kernel, dim3 grid, dim3 block, size_t smem,
                                   void **args, const size_t *, int)
{
    (void)cudaLaunchKernel(kernel, grid, block, args, smem,
                           s); /* what it says waits for cudaGetLastError() */
}

static inline void rk__launch_into(rk__cuda_queue *q, const void *kernel, dim3 grid, dim3 block, size_t smem,
                                   void **args, const size_t *sizes, int n)
{
    const unsigned g[] = { grid.x, grid.y, grid.z }, b[] = { block.x, block.y, block.z };
    rk__cuda_submit(q, kernel, g, b, smem, args, sizes, n);
}

template <class S, class... P, size_t... I>
static inline void rk__launch_all(S stream, void (*kernel)(P...), dim3 grid, dim3 block, size_t smem,
                                  std::tuple<P...> &&held, std::index_sequence<I...>)
{
    static_assert(sizeof...(P) <= RK__CUDA_MOST_ARGS, "a kernel with so many arguments takes a struct");
    static const size_t sizes[] = { sizeof(P)..., 0 };
    void *args[] = { (void *)&std::get<I>(held)..., nullptr };
    rk__launch_into(stream, (const void *)kernel, grid, block, smem, args, sizes, (int)sizeof...(P));
}

/* Arguments become what the kernel takes, and are copied at the call. */
template <class S, class... P, class... A>
static inline void rk__launch(S stream, const char *name, void (*kernel)(P...), dim3 grid, dim3 block,
                              size_t smem, A... a)
{
#ifdef RK_EMU
    rk_emu_know(kernel, name);
#else
    (void)name;
#endif
    rk__launch_all(stream, kernel, grid, block, smem, std::tuple<P...>(static_cast<P>(a)...),
                   std::index_sequence_for<P...>());
}

#define RK_LAUNCH(kernel, grid, block, smem, stream, ...) \
    rk__launch(stream, #kernel, kernel, grid, block, smem, __VA_ARGS__)

#endif
