/* Numbers that name rows of a table, sorted by row and, within a row, by where they stood: blocks sort short
 * runs (bitonic, Batcher 1968), which are then merged in pairs, each element finding its place in the other
 * run by binary search. No two elements are equal, so that there is one result, whatever the order of
 * threads. */
#ifndef RK_CUDA_SORTED_CUH
#define RK_CUDA_SORTED_CUH

#include "cuda/cuda.h"
#include "cuda/rk_cuda.h"

namespace
{

enum { RK__RUN = 512, RK__RUN_BLOCK = RK__RUN / 2 }; /* a thread has one pair to compare */

struct rk__place {
    int64_t row, at; /* row RK__NO_ROW: of no row, and behind all others */
};
#define RK__NO_ROW INT64_MAX

__device__ __forceinline__ bool rk__comes_first(const rk__place &a, const rk__place &b)
{
    return a.row < b.row || (a.row == b.row && a.at < b.at);
}

__device__ __forceinline__ rk__place rk__place_of(int64_t i, int64_t n, int64_t rows, const int64_t *index)
{
    const int64_t row = i < n ? index[i] : -1;
    return rk__place{ row >= 0 && row < rows ? row : RK__NO_ROW, i };
}

__global__ void __launch_bounds__(RK__RUN_BLOCK)
    rk__sort_runs_kernel(int64_t n, int64_t rows, const int64_t *index, rk__place *out)
{
    RK_SHARED(rk__place, run, [RK__RUN]);
    const int64_t runs = (n + RK__RUN - 1) / RK__RUN;
    for (int64_t b = blockIdx.x; b < runs; b += gridDim.x) {
        const int64_t from = b * RK__RUN;
        for (int i = (int)threadIdx.x; i < RK__RUN; i += RK__RUN_BLOCK)
            run[i] = rk__place_of(from + i, n, rows, index);
        for (int size = 2; size <= RK__RUN; size *= 2)
            for (int apart = size / 2; apart > 0; apart /= 2) {
                __syncthreads();
                const int t = (int)threadIdx.x, low = t / apart * 2 * apart + t % apart, high = low + apart;
                const bool up = (low & size) == 0;
                const rk__place a = run[low], c = run[high];
                if (rk__comes_first(c, a) == up) {
                    run[low] = c;
                    run[high] = a;
                }
            }
        __syncthreads();
        for (int i = (int)threadIdx.x; i < RK__RUN && from + i < n; i += RK__RUN_BLOCK)
            out[from + i] = run[i];
        __syncthreads();
    }
}

/* How many of run[0 .. n - 1] come before x. */
__device__ __forceinline__ int64_t rk__places_before(const rk__place *run, int64_t n, const rk__place &x)
{
    int64_t lo = 0;
    for (int64_t hi = n; lo < hi;) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (rk__comes_first(run[mid], x))
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Runs of `width` become runs of twice that. */
__global__ void __launch_bounds__(RK__RUN_BLOCK)
    rk__merge_runs_kernel(int64_t n, int64_t width, const rk__place *in, rk__place *out)
{
    const int64_t step = (int64_t)gridDim.x * RK__RUN_BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * RK__RUN_BLOCK + threadIdx.x; i < n; i += step) {
        const int64_t own = i / width * width, pair = i / (2 * width) * (2 * width);
        const int64_t other = own == pair ? pair + width : pair;
        const int64_t there = other < n ? (n - other < width ? n - other : width) : 0;
        out[pair + (i - own) + rk__places_before(in + other, there, in[i])] = in[i];
    }
}

/* first[t] = where row t begins in the sorted places; rows that are not there keep what they have. */
__global__ void __launch_bounds__(RK__RUN_BLOCK)
    rk__first_places_kernel(int64_t n, const rk__place *sorted, int64_t *first)
{
    const int64_t step = (int64_t)gridDim.x * RK__RUN_BLOCK;
    for (int64_t i = (int64_t)blockIdx.x * RK__RUN_BLOCK + threadIdx.x; i < n; i += step)
        if (sorted[i].row != RK__NO_ROW && (i == 0 || sorted[i - 1].row != sorted[i].row))
            first[sorted[i].row] = i;
}

/* Sorts index (n > 0), which names rows of a table of `rows`; two buffers of n places. Returns the one that
 * holds the result. */
static rk__place *rk__sort_places(rk_dev *dev, int64_t n, int64_t rows, const int64_t *index,
                                  rk__place *buffer, rk__place *other)
{
    RK_LAUNCH(rk__sort_runs_kernel, rk__cuda_grid(dev, (n + 1) / 2, RK__RUN_BLOCK), RK__RUN_BLOCK, 0,
              dev->stream, n, rows, index, buffer);
    for (int64_t width = RK__RUN; width < n; width *= 2) {
        RK_LAUNCH(rk__merge_runs_kernel, rk__cuda_grid(dev, n, RK__RUN_BLOCK), RK__RUN_BLOCK, 0, dev->stream,
                  n, width, buffer, other);
        rk__place *merged = other;
        other = buffer;
        buffer = merged;
    }
    return buffer;
}

} // namespace

#endif
