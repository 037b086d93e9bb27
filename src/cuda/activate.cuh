/* What follows a product: the activations of rk_act. */
#ifndef RK_CUDA_ACTIVATE_CUH
#define RK_CUDA_ACTIVATE_CUH

#include "core/kernels.h"
#include "cuda/vec.cuh"

#include "core/f64.inc"

static __device__ __forceinline__ float rk__activate(rk_act f, float x)
{
    switch (f) {
    case RK_ACT_RELU:
        return v_relu(x);
    case RK_ACT_GELU:
        return v_gelu(x);
    case RK_ACT_GELU_TANH:
        return v_gelu_tanh(x);
    default:
        return x;
    }
}

static __device__ __forceinline__ double rk__activate(rk_act f, double x)
{
    switch (f) {
    case RK_ACT_RELU:
        return 0 > x ? 0 : x; /* a NaN stays one */
    case RK_ACT_GELU:
        return d_gelu(x);
    case RK_ACT_GELU_TANH:
        return d_gelu_tanh(x);
    default:
        return x;
    }
}

#endif
