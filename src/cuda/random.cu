/* Random numbers: a Philox block of four words a thread. The words, and in f32 all that is made of them, are
 * those of the CPU, whatever the grid is. */
#include "core/philox.h"
#include "cuda/cuda.h"
#include "cuda/entry.cuh"
#include "cuda/ordered.cuh"
#include "cuda/vec.cuh"

enum { BLOCK = 256, WORDS = 4 };

/* The upper 24 bits of a word as a number in [0, 1). */
template <class T> RK_INLINE T unit(uint32_t word)
{
    return (T)(int32_t)(word >> 8) * (T)0x1p-24;
}

RK_INLINE void sincos_turn(float u, float *sn, float *cs)
{
    v_sincos2pi(u, sn, cs);
}

RK_INLINE void sincos_turn(double u, double *sn, double *cs)
{
    const double angle = 6.28318530717958647692 * u;
    *sn = sin(angle);
    *cs = cos(angle);
}

struct uniform_block {
    template <class T>
    __device__ __forceinline__ void operator()(const uint32_t word[WORDS], T y[WORDS]) const
    {
#pragma unroll
        for (int e = 0; e < WORDS; e++)
            y[e] = unit<T>(word[e]);
    }
};

/* Box & Muller 1958: words 2k and 2k + 1 make the numbers 2k (cosine) and 2k + 1 (sine). The radius comes
 * from (0, 1], where the logarithm is finite. */
struct normal_block {
    template <class T>
    __device__ __forceinline__ void operator()(const uint32_t word[WORDS], T y[WORDS]) const
    {
#pragma unroll
        for (int e = 0; e < WORDS; e += 2) {
            const T radius = v_sqrt((T)-2 * v_log(unit<T>(word[e]) + (T)0x1p-24));
            T sn, cs;
            sincos_turn(unit<T>(word[e + 1]), &sn, &cs);
            y[e] = radius * cs;
            y[e + 1] = radius * sn;
        }
    }
};

/* The first `count` of four numbers. */
template <class T> RK_INLINE void put_block(const T v[WORDS], int64_t count, bool packs, T *y)
{
    enum { N = rk__pack<T>::N };
    if (packs && count >= WORDS) {
#pragma unroll
        for (int p = 0; p < WORDS / N; p++) {
            rk__pack<T> a;
#pragma unroll
            for (int e = 0; e < N; e++)
                a.e[e] = v[p * N + e];
            rk__store_pack(y + p * N, a);
        }
        return;
    }
#pragma unroll
    for (int e = 0; e < WORDS; e++)
        if (e < count)
            y[e] = v[e];
}

template <class T, class F> static __global__ void stream_kernel(int64_t n, rk_rng rng, F f, bool packs, T *y)
{
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t b = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; b * WORDS < n; b += step) {
        uint32_t word[WORDS];
        T v[WORDS];
        rk_rng_block(&rng, (uint64_t)b, word);
        f(word, v);
        put_block(v, n - b * WORDS, packs, y + b * WORDS);
    }
}

template <class T, class F> static rk_status run_stream(rk_dev *dev, int64_t n, rk_rng rng, F f, void *y)
{
    if (n == 0)
        return RK_OK;
    RK_LAUNCH((stream_kernel<T, F>), rk__cuda_grid(dev, (n + WORDS - 1) / WORDS, BLOCK), BLOCK, 0,
              dev->stream, n, rng, f, rk__aligned(y), (T *)y);
    return rk__cuda_launched(dev);
}

template <class T> static rk_status uniform(rk_dev *dev, int64_t n, rk_rng rng, void *y)
{
    return run_stream<T>(dev, n, rng, uniform_block{}, y);
}

template <class T> static rk_status normal(rk_dev *dev, int64_t n, rk_rng rng, void *y)
{
    return run_stream<T>(dev, n, rng, normal_block{}, y);
}

/* ---- dropout: rows are samples, each with a stream of its own ---- */

template <class T>
static __global__ void dropout_kernel(int64_t blocks, int64_t cols, rk__divider row_blocks,
                                      uint64_t first_sample, uint32_t threshold, T scale, rk_rng rng,
                                      bool packs, const T *xs, T *ys)
{
    enum { N = rk__pack<T>::N };
    const int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < blocks; i += step) {
        int64_t b;
        const int64_t r = rk__split(i, row_blocks, &b), at = r * cols + b * WORDS, count = cols - b * WORDS;
        const rk_rng sample = rk_rng_sample(rng, first_sample + (uint64_t)r);
        uint32_t word[WORDS];
        T v[WORDS] = {};
        rk_rng_block(&sample, (uint64_t)b, word);
        if (packs && count >= WORDS) {
#pragma unroll
            for (int p = 0; p < WORDS / N; p++) {
                const rk__pack<T> a = rk__load_pack(xs + at + p * N);
#pragma unroll
                for (int e = 0; e < N; e++)
                    v[p * N + e] = a.e[e];
            }
        } else {
#pragma unroll
            for (int e = 0; e < WORDS; e++)
                if (e < count)
                    v[e] = xs[at + e];
        }
#pragma unroll
        for (int e = 0; e < WORDS; e++)
            v[e] = word[e] >> 8 < threshold ? (T)0 : v[e] * scale;
        put_block(v, count, packs, ys + at);
    }
}

template <class T>
static rk_status dropout(rk_dev *dev, int64_t rows, int64_t cols, uint64_t first_sample, double p, rk_rng rng,
                         const void *x, void *y)
{
    if (rows == 0 || cols == 0)
        return RK_OK;
    const int64_t row_blocks = (cols + WORDS - 1) / WORDS, blocks = rows * row_blocks;
    const bool packs = cols % WORDS == 0 && rk__aligned(x) && rk__aligned(y);
    /* u >= p with u = k 2^-24 exactly: k >= ceil(p 2^24) */
    RK_LAUNCH((dropout_kernel<T>), rk__cuda_grid(dev, blocks, BLOCK), BLOCK, 0, dev->stream, blocks, cols,
              rk__divider_of(row_blocks), first_sample, (uint32_t)ceil(p * 0x1p24), (T)(1 / (1 - p)), rng,
              packs, (const T *)x, (T *)y);
    return rk__cuda_launched(dev);
}

RK__ENTRIES(uniform, (rk_dev * dev, int64_t n, rk_rng rng, void *y), (dev, n, rng, y))
RK__ENTRIES(normal, (rk_dev * dev, int64_t n, rk_rng rng, void *y), (dev, n, rng, y))
RK__ENTRIES(dropout,
            (rk_dev * dev, int64_t rows, int64_t cols, uint64_t first_sample, double p, rk_rng rng,
             const void *x, void *y),
            (dev, rows, cols, first_sample, p, rng, x, y))
