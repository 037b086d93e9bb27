/* Elementwise operations. */
#include "cuda/cuda.h"
#include "cuda/rk_cuda.h"

enum { BLOCK = 256 };

template <class T>
static __global__ void add_kernel(int64_t n, const T *a, const T *b, T *y)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step)
        y[i] = a[i] + b[i];
}

template <class T>
static rk_status add(rk_dev *dev, int64_t n, const void *a, const void *b, void *y)
{
    if (n == 0)
        return RK_OK;
    RK_LAUNCH((add_kernel<T>), rk__cuda_grid(dev, n, BLOCK), BLOCK, 0, dev->stream, n, (const T *)a,
              (const T *)b, (T *)y);
    return rk__cuda_launched(dev);
}

extern "C" rk_status rk__cuda_f32_add(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y)
{
    (void)p;
    return add<float>(dev, n, a, b, y);
}

extern "C" rk_status rk__cuda_f64_add(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y)
{
    (void)p;
    return add<double>(dev, n, a, b, y);
}
