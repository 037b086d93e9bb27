/* Who multiplies: cuBLASLt where the run allows any order of addition and the library takes the product, else
 * our own kernels. */
#include "cuda/blas.h"

#include "cuda/table.h"

RK_CUDA_ENTRY(gemm) rk__cuda_f32_gemm, rk__cuda_f64_gemm;
RK_CUDA_ENTRY(gemm) rk__cuda_f32_ordered_gemm, rk__cuda_f64_ordered_gemm;

static rk_status gemm(rk_dev *dev, rk_dtype t, const rk_gemm *g)
{
    bool done = false;
    rk_status st = dev->blas ? rk__blas_gemm(dev, t, g, &done) : RK_OK;
    if (st || done)
        return st;
    return (t == RK_F32 ? rk__cuda_f32_ordered_gemm : rk__cuda_f64_ordered_gemm)(dev, g);
}

rk_status rk__cuda_f32_gemm(rk_dev *dev, const rk_gemm *g)
{
    return gemm(dev, RK_F32, g);
}

rk_status rk__cuda_f64_gemm(rk_dev *dev, const rk_gemm *g)
{
    return gemm(dev, RK_F64, g);
}
