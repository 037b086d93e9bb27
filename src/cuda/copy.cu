/* Copies by strides, conversions between element types, and fill. */
#include "cuda/cuda.h"
#include "cuda/ordered.cuh"

namespace
{

enum { BLOCK = 256, SQUARE = 32, SQUARE_ROWS = 8 };

/* ---- strided copies ---- */

struct walk {
    int ndim;
    int64_t n;
    int64_t src[RK_MAX_DIMS], dst[RK_MAX_DIMS];
    rk__divider dim[RK_MAX_DIMS];
};

/* Drops axes of size 1 and joins neighbours that are one stretch on both sides. */
walk simplify(int ndim, const int64_t *dim, const int64_t *src, const int64_t *dst)
{
    walk w = {};
    int64_t size[RK_MAX_DIMS];
    w.n = 1;
    for (int i = 0; i < ndim; i++) {
        w.n *= dim[i];
        if (dim[i] == 1)
            continue;
        int last = w.ndim - 1;
        if (last >= 0 && w.src[last] == src[i] * dim[i] && w.dst[last] == dst[i] * dim[i]) {
            size[last] *= dim[i];
            w.src[last] = src[i];
            w.dst[last] = dst[i];
            continue;
        }
        size[w.ndim] = dim[i];
        w.src[w.ndim] = src[i];
        w.dst[w.ndim++] = dst[i];
    }
    for (int i = 0; i < w.ndim && w.n > 0; i++)
        w.dim[i] = rk__divider_of(size[i]);
    return w;
}

template <class T> __global__ void __launch_bounds__(BLOCK) strided_kernel(walk w, const T *src, T *dst)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < w.n; i += step) {
        int64_t rest = i, from = 0, to = 0, at;
#pragma unroll
        for (int d = RK_MAX_DIMS - 1; d >= 0; d--)
            if (d < w.ndim) {
                rest = rk__split(rest, w.dim[d], &at);
                from += at * w.src[d];
                to += at * w.dst[d];
            }
        dst[to] = src[from];
    }
}

/* A matrix that lies across: squares pass through shared memory, so that both sides are read and written
 * along their rows. src element (i, j) is src[i + j * src_step], dst's is dst[i * dst_step + j]. */
struct across {
    int64_t rows, cols, src_step, dst_step;
};

template <class T>
__global__ void __launch_bounds__(SQUARE *SQUARE_ROWS) across_kernel(across a, const T *src, T *dst)
{
    RK_SHARED(T, square, [SQUARE][SQUARE + 1]);
    const int64_t wide = (a.cols + SQUARE - 1) / SQUARE, all = wide * ((a.rows + SQUARE - 1) / SQUARE);
    for (int64_t s = blockIdx.x; s < all; s += gridDim.x) {
        const int64_t row0 = s / wide * SQUARE, col0 = s % wide * SQUARE;
        for (int j = threadIdx.y; j < SQUARE; j += SQUARE_ROWS)
            if (row0 + threadIdx.x < a.rows && col0 + j < a.cols)
                square[j][threadIdx.x] = src[row0 + threadIdx.x + (col0 + j) * a.src_step];
        __syncthreads();
        for (int i = threadIdx.y; i < SQUARE; i += SQUARE_ROWS)
            if (row0 + i < a.rows && col0 + threadIdx.x < a.cols)
                dst[(row0 + i) * a.dst_step + col0 + threadIdx.x] = square[threadIdx.x][i];
        __syncthreads();
    }
}

template <class T> rk_status copy_walk(rk_dev *dev, const walk &w, const void *src, void *dst)
{
    if (w.ndim == 2 && w.src[0] == 1 && w.dst[1] == 1) {
        const across a = { w.dim[0].by, w.dim[1].by, w.src[1], w.dst[0] };
        const dim3 block(SQUARE, SQUARE_ROWS);
        RK_LAUNCH((across_kernel<T>), rk__cuda_grid(dev, w.n, SQUARE * SQUARE), block, 0, dev->stream, a,
                  (const T *)src, (T *)dst);
    } else {
        RK_LAUNCH((strided_kernel<T>), rk__cuda_grid(dev, w.n, BLOCK), BLOCK, 0, dev->stream, w,
                  (const T *)src, (T *)dst);
    }
    return rk__cuda_launched(dev);
}

/* ---- element types ---- */

struct brain16 {
    uint16_t bits;
};

struct half16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(brain16 b)
{
    return __uint_as_float((uint32_t)b.bits << 16);
}

/* IEEE binary16 to and from binary32, round to nearest even: every value, as the CPU's. */
__device__ __forceinline__ float to_float(half16 h)
{
    const uint32_t sign = (uint32_t)(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31,
                   fraction = h.bits & 0x3ff;
    if (exponent == 31)
        return __uint_as_float(sign | 0x7f800000 | fraction << 13);
    if (exponent)
        return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    return __uint_as_float(__float_as_uint((float)fraction * 0x1p-24f) | sign);
}

__device__ __forceinline__ uint16_t half_bits(float f)
{
    const uint32_t bits = __float_as_uint(f), sign = bits >> 16 & 0x8000;
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) /* subnormal: an exact addition rounds at 2^-24 */
        return (uint16_t)(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000));
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

/* A float as an integer: towards zero, NaN as 0, clamped to the type. */
__device__ __forceinline__ int64_t to_integer(double v, int64_t lo, int64_t hi)
{
    if (v != v)
        return 0;
    if (v <= (double)lo)
        return lo;
    return v >= (double)hi ? hi : (int64_t)v;
}

/* What an element is converted through: a type that holds it exactly, double only where it must be. */
__device__ __forceinline__ float widened(float x)
{
    return x;
}

__device__ __forceinline__ float widened(brain16 x)
{
    return to_float(x);
}

__device__ __forceinline__ float widened(half16 x)
{
    return to_float(x);
}

__device__ __forceinline__ float widened(uint8_t x)
{
    return x;
}

__device__ __forceinline__ double widened(double x)
{
    return x;
}

__device__ __forceinline__ double widened(int32_t x)
{
    return x;
}

__device__ __forceinline__ double widened(int64_t x)
{
    return (double)x;
}

template <class To> struct narrow;

template <> struct narrow<float> {
    static __device__ __forceinline__ float from(float v)
    {
        return v;
    }

    static __device__ __forceinline__ float from(double v)
    {
        return (float)v;
    }
};

template <> struct narrow<double> {
    static __device__ __forceinline__ double from(double v)
    {
        return v;
    }
};

template <> struct narrow<brain16> {
    static __device__ __forceinline__ brain16 from(float v)
    {
        return brain16{ (uint16_t)(__float_as_uint(rk__bf16(v)) >> 16) };
    }

    static __device__ __forceinline__ brain16 from(double v)
    {
        return from((float)v);
    }
};

template <> struct narrow<half16> {
    static __device__ __forceinline__ half16 from(float v)
    {
        return half16{ half_bits(v) };
    }

    static __device__ __forceinline__ half16 from(double v)
    {
        return from((float)v);
    }
};

template <> struct narrow<int32_t> {
    static __device__ __forceinline__ int32_t from(double v)
    {
        return (int32_t)to_integer(v, INT32_MIN, INT32_MAX);
    }
};

template <> struct narrow<int64_t> {
    static __device__ __forceinline__ int64_t from(double v)
    {
        return to_integer(v, INT64_MIN, INT64_MAX);
    }
};

template <> struct narrow<uint8_t> {
    static __device__ __forceinline__ uint8_t from(double v)
    {
        return (uint8_t)to_integer(v, 0, UINT8_MAX);
    }
};

template <class From, class To> struct convert {
    static __device__ __forceinline__ To one(From x)
    {
        return narrow<To>::from(widened(x));
    }
};

/* Not through double, which loses bits above 2^53. */
template <> struct convert<int64_t, int32_t> {
    static __device__ __forceinline__ int32_t one(int64_t v)
    {
        return (int32_t)(v < INT32_MIN ? INT32_MIN : v > INT32_MAX ? INT32_MAX : v);
    }
};

template <class From, class To>
__global__ void __launch_bounds__(BLOCK) cast_kernel(int64_t n, const From *src, To *dst)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step)
        dst[i] = convert<From, To>::one(src[i]);
}

template <class From, class To> rk_status cast_to(rk_dev *dev, int64_t n, const void *src, void *dst)
{
    RK_LAUNCH((cast_kernel<From, To>), rk__cuda_grid(dev, n, BLOCK), BLOCK, 0, dev->stream, n,
              (const From *)src, (To *)dst);
    return rk__cuda_launched(dev);
}

template <class From> rk_status cast_from(rk_dev *dev, int64_t n, const void *src, rk_dtype to, void *dst)
{
    switch (to) {
    case RK_F32:
        return cast_to<From, float>(dev, n, src, dst);
    case RK_F64:
        return cast_to<From, double>(dev, n, src, dst);
    case RK_BF16:
        return cast_to<From, brain16>(dev, n, src, dst);
    case RK_F16:
        return cast_to<From, half16>(dev, n, src, dst);
    case RK_I32:
        return cast_to<From, int32_t>(dev, n, src, dst);
    case RK_I64:
        return cast_to<From, int64_t>(dev, n, src, dst);
    case RK_U8:
        return cast_to<From, uint8_t>(dev, n, src, dst);
    default:
        return RK_EINTERNAL;
    }
}

/* ---- fill ---- */

template <class T> __global__ void __launch_bounds__(BLOCK) fill_kernel(int64_t n, T value, T *y)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step)
        y[i] = value;
}

template <class T> rk_status fill(rk_dev *dev, int64_t n, double value, void *y)
{
    if (n == 0)
        return RK_OK;
    RK_LAUNCH((fill_kernel<T>), rk__cuda_grid(dev, n, BLOCK), BLOCK, 0, dev->stream, n, (T)value, (T *)y);
    return rk__cuda_launched(dev);
}

} // namespace

extern "C" rk_status rk__cuda_copy_strided(rk_dev *dev, size_t elem, int ndim, const int64_t *dim,
                                           const int64_t *src_stride, const void *src,
                                           const int64_t *dst_stride, void *dst)
{
    const walk w = simplify(ndim, dim, src_stride, dst_stride);
    if (w.n == 0)
        return RK_OK;
    if (w.ndim == 0 || (w.ndim == 1 && w.src[0] == 1 && w.dst[0] == 1))
        return rk__cuda_copy(dev, dst, src, (size_t)w.n * elem);
    switch (elem) {
    case 1:
        return copy_walk<uint8_t>(dev, w, src, dst);
    case 2:
        return copy_walk<uint16_t>(dev, w, src, dst);
    case 4:
        return copy_walk<uint32_t>(dev, w, src, dst);
    case 8:
        return copy_walk<uint64_t>(dev, w, src, dst);
    default:
        return RK_EINTERNAL;
    }
}

/* src and dst are device memory. */
extern "C" rk_status rk__cuda_cast(rk_dev *dev, int64_t n, rk_dtype from, const void *src, rk_dtype to,
                                   void *dst)
{
    if (n == 0)
        return RK_OK;
    switch (from) {
    case RK_F32:
        return cast_from<float>(dev, n, src, to, dst);
    case RK_F64:
        return cast_from<double>(dev, n, src, to, dst);
    case RK_BF16:
        return cast_from<brain16>(dev, n, src, to, dst);
    case RK_F16:
        return cast_from<half16>(dev, n, src, to, dst);
    case RK_I32:
        return cast_from<int32_t>(dev, n, src, to, dst);
    case RK_I64:
        return cast_from<int64_t>(dev, n, src, to, dst);
    case RK_U8:
        return cast_from<uint8_t>(dev, n, src, to, dst);
    default:
        return RK_EINTERNAL;
    }
}

extern "C" rk_status rk__cuda_f32_fill(rk_dev *dev, int64_t n, double value, void *y)
{
    return fill<float>(dev, n, value, y);
}

extern "C" rk_status rk__cuda_f64_fill(rk_dev *dev, int64_t n, double value, void *y)
{
    return fill<double>(dev, n, value, y);
}
