/* Elementwise functions, their gradients, and losses per element: the rows of core/maps.def, and powers. In
 * f32 the bits are the CPU's. */
#include "core/kernels.h"
#include "cuda/cuda.h"
#include "cuda/entry.cuh"
#include "cuda/vec.cuh"

#include "core/f64.inc"
#include "core/pow.inc"

enum { BLOCK = 256 };

/* The first `packs` times 16 bytes by packs, the others one by one. y may be x: a thread reads what it
 * writes, and nobody else's. */
template <class T, class F>
static __global__ void map1_kernel(int64_t n, int64_t packs, const T *x, F f, T *y)
{
    enum { N = rk__pack<T>::N };
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    const int64_t me = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t i = me; i < packs; i += step) {
        rk__pack<T> a = rk__load_pack(x + i * N);
#pragma unroll
        for (int e = 0; e < N; e++)
            a.e[e] = f(a.e[e]);
        rk__store_pack(y + i * N, a);
    }
    for (int64_t i = packs * N + me; i < n; i += step)
        y[i] = f(x[i]);
}

template <class T, class F>
static __global__ void map2_kernel(int64_t n, int64_t packs, const T *x, const T *z, F f, T *y)
{
    enum { N = rk__pack<T>::N };
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    const int64_t me = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t i = me; i < packs; i += step) {
        rk__pack<T> a = rk__load_pack(x + i * N), b = rk__load_pack(z + i * N);
#pragma unroll
        for (int e = 0; e < N; e++)
            a.e[e] = f(a.e[e], b.e[e]);
        rk__store_pack(y + i * N, a);
    }
    for (int64_t i = packs * N + me; i < n; i += step)
        y[i] = f(x[i], z[i]);
}

template <class T, class F> static rk_status map1(rk_dev *dev, int64_t n, const void *x, F f, void *y)
{
    if (n == 0)
        return RK_OK;
    const int64_t packs = rk__aligned(x) && rk__aligned(y) ? n / rk__pack<T>::N : 0;
    RK_LAUNCH((map1_kernel<T, F>), rk__cuda_grid(dev, rk__pack_work<T>(n, packs), BLOCK), BLOCK, 0,
              dev->stream, n, packs, (const T *)x, f, (T *)y);
    return rk__cuda_launched(dev);
}

template <class T, class F>
static rk_status map2(rk_dev *dev, int64_t n, const void *a, const void *b, F f, void *y)
{
    if (n == 0)
        return RK_OK;
    const int64_t packs = rk__aligned(a) && rk__aligned(b) && rk__aligned(y) ? n / rk__pack<T>::N : 0;
    RK_LAUNCH((map2_kernel<T, F>), rk__cuda_grid(dev, rk__pack_work<T>(n, packs), BLOCK), BLOCK, 0,
              dev->stream, n, packs, (const T *)a, (const T *)b, f, (T *)y);
    return rk__cuda_launched(dev);
}

/* The rows of core/maps.def. */
#define MAP1(name, ns, in_f32, in_f64)                                                                 \
    struct name##_f32 {                                                                                \
        float s;                                                                                       \
        __device__ __forceinline__ float operator()(float x) const                                     \
        {                                                                                              \
            return in_f32;                                                                             \
        }                                                                                              \
    };                                                                                                 \
    struct name##_f64 {                                                                                \
        double p;                                                                                      \
        __device__ __forceinline__ double operator()(double x) const                                   \
        {                                                                                              \
            return in_f64;                                                                             \
        }                                                                                              \
    };                                                                                                 \
    extern "C" rk_status rk__cuda_f32_##name(rk_dev *dev, int64_t n, const void *x, double p, void *y) \
    {                                                                                                  \
        return map1<float>(dev, n, x, name##_f32{ (float)p }, y);                                      \
    }                                                                                                  \
    extern "C" rk_status rk__cuda_f64_##name(rk_dev *dev, int64_t n, const void *x, double p, void *y) \
    {                                                                                                  \
        return map1<double>(dev, n, x, name##_f64{ p }, y);                                            \
    }
#define MAP2(name, ns, in_f32, in_f64)                                                                       \
    struct name##_f32 {                                                                                      \
        float s;                                                                                             \
        __device__ __forceinline__ float operator()(float a, float b) const                                  \
        {                                                                                                    \
            return in_f32;                                                                                   \
        }                                                                                                    \
    };                                                                                                       \
    struct name##_f64 {                                                                                      \
        double p;                                                                                            \
        __device__ __forceinline__ double operator()(double a, double b) const                               \
        {                                                                                                    \
            return in_f64;                                                                                   \
        }                                                                                                    \
    };                                                                                                       \
    extern "C" rk_status rk__cuda_f32_##name(rk_dev *dev, int64_t n, const void *a, const void *b, double p, \
                                             void *y)                                                        \
    {                                                                                                        \
        return map2<float>(dev, n, a, b, name##_f32{ (float)p }, y);                                         \
    }                                                                                                        \
    extern "C" rk_status rk__cuda_f64_##name(rk_dev *dev, int64_t n, const void *a, const void *b, double p, \
                                             void *y)                                                        \
    {                                                                                                        \
        return map2<double>(dev, n, a, b, name##_f64{ p }, y);                                               \
    }
#include "core/maps.def"

/* ---- powers: the exponent stays double ---- */

RK_INLINE float power(float x, double p)
{
    return rk__pow_f32(x, p);
}

RK_INLINE double power(double x, double p)
{
    return pow(x, p);
}

RK_INLINE float power_grad(float x, float b, double p)
{
    return rk__pow_grad_f32(x, b, (float)p, p);
}

RK_INLINE double power_grad(double x, double b, double p)
{
    return p == 0 ? 0 : b * p * pow(x, p - 1);
}

struct square_map {
    template <class T> __device__ __forceinline__ T operator()(T x) const
    {
        return x * x;
    }
};

struct power_map {
    double p;
    template <class T> __device__ __forceinline__ T operator()(T x) const
    {
        return power(x, p);
    }
};

struct power_grad_map {
    double p;
    template <class T> __device__ __forceinline__ T operator()(T x, T b) const
    {
        return power_grad(x, b, p);
    }
};

/* The gradient of x^2. */
struct square_grad_map {
    template <class T> __device__ __forceinline__ T operator()(T x, T b) const
    {
        return b * ((T)2 * x);
    }
};

template <class T> static rk_status pow_scalar(rk_dev *dev, int64_t n, const void *x, double p, void *y)
{
    return p == 2 ? map1<T>(dev, n, x, square_map{}, y) : map1<T>(dev, n, x, power_map{ p }, y);
}

template <class T>
static rk_status pow_scalar_grad(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y)
{
    return p == 2 ? map2<T>(dev, n, a, b, square_grad_map{}, y)
                  : map2<T>(dev, n, a, b, power_grad_map{ p }, y);
}

template <class T> struct by_map {
    const T *by;
    __device__ __forceinline__ T operator()(T x) const
    {
        return x * *by;
    }
};

template <class T> static rk_status mul_by(rk_dev *dev, int64_t n, const void *x, const void *by, void *y)
{
    return map1<T>(dev, n, x, by_map<T>{ (const T *)by }, y);
}

RK__ENTRIES(mul_by, (rk_dev * dev, int64_t n, const void *x, const void *by, void *y), (dev, n, x, by, y))
RK__ENTRIES(pow_scalar, (rk_dev * dev, int64_t n, const void *x, double p, void *y), (dev, n, x, p, y))
RK__ENTRIES(pow_scalar_grad, (rk_dev * dev, int64_t n, const void *a, const void *b, double p, void *y),
            (dev, n, a, b, p, y))
