/* What comes before and after products that cuBLASLt makes: operands of 16 bits, and what its epilogues do
 * not know. */
#include "cuda/activate.cuh"
#include "cuda/blas.h"
#include "cuda/ordered.cuh"

namespace
{

enum { BLOCK = 256, WIDE = 8 /* elements of 16 bits in a store */ };

struct packed {
    uint16_t e[WIDE];
};

__device__ __forceinline__ uint16_t bits16(rk_round to, float x)
{
    return to == RK_ROUND_F16 ? static_cast<__half_raw>(__float2half_rn(x)).x
                              : (uint16_t)(__float_as_uint(rk__bf16(x)) >> 16);
}

/* Elements [x, x + WIDE) of a line; zeros behind its end. */
__device__ __forceinline__ packed pack_some(rk_round to, const float *line, int64_t x, int64_t length,
                                            bool whole)
{
    packed p;
    if (whole && x + WIDE <= length) {
        const rk__pack<float> low = rk__load_pack(line + x), high = rk__load_pack(line + x + WIDE / 2);
#pragma unroll
        for (int i = 0; i < WIDE; i++)
            p.e[i] = bits16(to, i < WIDE / 2 ? low.e[i % (WIDE / 2)] : high.e[i % (WIDE / 2)]);
        return p;
    }
#pragma unroll
    for (int i = 0; i < WIDE; i++)
        p.e[i] = x + i < length ? bits16(to, line[x + i]) : (uint16_t)0;
    return p;
}

/* A thread writes 16 bytes at a time; `per_line` of them make a line. */
__global__ void __launch_bounds__(BLOCK)
    pack16_kernel(rk_round to, rk__lines l, rk__divider per_line, rk__divider lines, const float *src,
                  bool whole, uint4 *dst)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK, n = l.batch * l.lines * per_line.by;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < n; i += step) {
        int64_t x, line, item = rk__split(rk__split(i, per_line, &x), lines, &line);
        const packed p = pack_some(to, src + item * l.batch_step + line * l.step, x * WIDE, l.length, whole);
        dst[i] =
            make_uint4((uint32_t)p.e[0] | (uint32_t)p.e[1] << 16, (uint32_t)p.e[2] | (uint32_t)p.e[3] << 16,
                       (uint32_t)p.e[4] | (uint32_t)p.e[5] << 16, (uint32_t)p.e[6] | (uint32_t)p.e[7] << 16);
    }
}

/* What a finished sum becomes. */
template <class T> struct ending {
    int64_t ldc, batch_step;
    rk__divider n, m;
    const T *sums, *bias, *relu_mask;
    T *pre, *c;
    rk_act act;
};

template <class T> __global__ void __launch_bounds__(BLOCK) finish_kernel(int64_t count, ending<T> e)
{
    const int64_t step = (int64_t)gridDim.x * BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x; i < count; i += step) {
        int64_t col, row, item = rk__split(rk__split(i, e.n, &col), e.m, &row);
        const int64_t at = item * e.batch_step + row * e.ldc + col;
        T v = e.sums[at];
        if (e.bias)
            v += e.bias[col];
        if (e.pre)
            e.pre[at] = v;
        v = rk__activate(e.act, v);
        if (e.relu_mask)
            v = e.relu_mask[at] > 0 ? v : (T)0;
        e.c[at] = v;
    }
}

template <class T> rk_status finish(rk_dev *dev, const rk_gemm *g, const void *sums, bool biased)
{
    const int64_t batch = g->batch > 0 ? g->batch : 1, count = batch * g->m * g->n;
    ending<T> e;
    e.ldc = g->ldc;
    e.batch_step = g->c_batch;
    e.n = rk__divider_of(g->n);
    e.m = rk__divider_of(g->m);
    e.sums = (const T *)sums;
    e.bias = biased ? NULL : (const T *)g->bias;
    e.relu_mask = (const T *)g->relu_mask;
    e.pre = g->pre == sums && !e.bias ? NULL : (T *)g->pre;
    e.c = (T *)g->c;
    e.act = g->act;
    RK_LAUNCH((finish_kernel<T>), rk__cuda_grid(dev, count, BLOCK), BLOCK, 0, dev->stream, count, e);
    return rk__cuda_launched(dev);
}

} // namespace

extern "C" rk_status rk__cuda_pack16(rk_dev *dev, rk_round to, const rk__lines *l, const float *src,
                                     int64_t step, uint16_t *dst)
{
    const int64_t n = l->batch * l->lines * (step / WIDE);
    const bool whole = rk__aligned(src) && l->step % 4 == 0 && l->batch_step % 4 == 0;
    RK_LAUNCH((pack16_kernel), rk__cuda_grid(dev, n, BLOCK), BLOCK, 0, dev->stream, to, *l,
              rk__divider_of(step / WIDE), rk__divider_of(l->lines), src, whole, (uint4 *)dst);
    return rk__cuda_launched(dev);
}

extern "C" rk_status rk__cuda_finish(rk_dev *dev, rk_dtype t, const rk_gemm *g, void *sums, bool biased)
{
    return t == RK_F32 ? finish<float>(dev, g, sums, biased) : finish<double>(dev, g, sums, biased);
}

extern "C" rk_status rk__cuda_round16(rk_dev *dev, rk_round to, int64_t lines, int64_t length, int64_t step,
                                      const void *src, int64_t to_step, void *dst)
{
    const rk__lines l = { lines, length, step, 1, 0 };
    return rk__cuda_pack16(dev, to, &l, (const float *)src, to_step, (uint16_t *)dst);
}
