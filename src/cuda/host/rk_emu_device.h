/* The device language on the host: what rk_cuda.h gives a kernel file under g++ or clang++ with RK_EMU. A
 * kernel is an ordinary function that every thread of the grid calls in turn, each on a fiber of its own
 * where it waits. Types and conversions (bf16, f16, vectors) are those of CUDA's own headers. */
#ifndef RK_CUDA_HOST_RK_EMU_DEVICE_H
#define RK_CUDA_HOST_RK_EMU_DEVICE_H

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __shared__
#define __shared__ _Pragma("GCC error \"RK_SHARED or RK_DYN_SHARED, not __shared__\"")
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))

/* The running thread. References, not macros: kernels may have locals of these names. */
struct rk_emu_place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
extern rk_emu_place rk_emu_here;
static auto &threadIdx = rk_emu_here.thread;
static auto &blockIdx = rk_emu_here.block;
static auto &blockDim = rk_emu_here.block_dim;
static auto &gridDim = rk_emu_here.grid_dim;
static const int warpSize = 32;

/* What the lanes of a warp do together. */
enum rk_emu_op {
    RK_EMU_SYNC,
    RK_EMU_SHFL,
    RK_EMU_BALLOT,
    RK_EMU_ADD,
    RK_EMU_MIN,
    RK_EMU_MAX,
    RK_EMU_AND,
    RK_EMU_OR,
    RK_EMU_XOR
};
struct rk_emu_value {
    uint64_t word[2];
};

extern "C" {
void rk_emu_syncthreads(const char *file, int line);
void rk_emu_warp(int op, unsigned mask, rk_emu_value *v, int from, const char *file, int line);
void *rk_emu_shared(const void *key, size_t size, const char *name);
void *rk_emu_dynamic_shared(void);
void rk_emu_atomic(void *p, size_t size);
void rk_emu_unordered(const char *what, const char *file, int line);
void rk_emu_load(const void *p, void *value, size_t size);
void rk_emu_store(void *p, const void *value, size_t size);
void rk_emu_fence(int device_wide);
unsigned rk_emu_lane(void);
void rk_emu_register(const void *kernel, const char *name, void (*run)(void *args), const size_t *sizes,
                     int n);
}

/* ---- launches and shared memory ---- */

/* Arguments lie behind the kernel's address, each at a multiple of 16 bytes. */
enum : size_t { RK_EMU_SLOT = 16 };

template <class... P> static constexpr size_t rk_emu_offset(size_t i)
{
    const size_t sizes[] = { sizeof(P)..., 0 };
    size_t at = RK_EMU_SLOT;
    for (size_t k = 0; k < i; k++)
        at += (sizes[k] + RK_EMU_SLOT - 1) / RK_EMU_SLOT * RK_EMU_SLOT;
    return at;
}

template <class... P, size_t... I> static void rk_emu_call(char *args, std::index_sequence<I...>)
{
    (*reinterpret_cast<void (**)(P...)>(args))(
        *reinterpret_cast<P *>(args + std::integral_constant<size_t, rk_emu_offset<P...>(I)>::value)...);
}

/* Tells of a kernel what nvcc's code tells CUDA before main(): here before its first launch. */
template <class... P> static inline void rk_emu_know(void (*kernel)(P...), const char *name)
{
    static_assert((std::is_trivially_copy_constructible<P>::value && ...), "kernel arguments are plain data");
    static const size_t sizes[] = { sizeof(P)..., 0 };
    rk_emu_register(
        (const void *)kernel, name,
        [](void *args) { rk_emu_call<P...>(static_cast<char *>(args), std::index_sequence_for<P...>()); },
        sizes, (int)sizeof...(P));
}

#define RK_SHARED(T, name, dims)       \
    static char rk_emu_key_##name;     \
    typedef T rk_emu_type_##name dims; \
    rk_emu_type_##name &name =         \
        *(rk_emu_type_##name *)rk_emu_shared(&rk_emu_key_##name, sizeof(rk_emu_type_##name), #name)
#define RK_DYN_SHARED(T, name) T *name = reinterpret_cast<T *>(rk_emu_dynamic_shared())

/* ---- waiting for each other ---- */

#define __syncthreads() rk_emu_syncthreads(__FILE__, __LINE__)
#define __syncwarp(...) rk_emu_syncwarp(__FILE__, __LINE__, ##__VA_ARGS__)
static inline void rk_emu_syncwarp(const char *file, int line, unsigned mask = 0xffffffffu)
{
    rk_emu_warp(RK_EMU_SYNC, mask, nullptr, -1, file, line);
}

template <class T>
static inline T rk_emu_exchange(int op, unsigned mask, T v, int from, const char *file, int line)
{
    static_assert(sizeof(T) <= sizeof(rk_emu_value), "at most 16 bytes a lane");
    rk_emu_value w = {};
    memcpy(&w, &v, sizeof v);
    rk_emu_warp(op, mask, &w, from, file, line);
    memcpy(&v, &w, sizeof v);
    return v;
}

/* The lane that a shuffle of `width` lanes reads: its own where the other would be outside its section. */
template <class T>
static inline T rk_emu_shfl_xor(const char *file, int line, unsigned mask, T v, int x, int width = 32)
{
    int lane = (int)rk_emu_lane(), from = lane ^ x;
    bool inside = (from & ~(width - 1)) <= (lane & ~(width - 1));
    return rk_emu_exchange(RK_EMU_SHFL, mask, v, inside ? from : lane, file, line);
}

template <class T>
static inline T rk_emu_shfl_down(const char *file, int line, unsigned mask, T v, unsigned d, int width = 32)
{
    int lane = (int)rk_emu_lane();
    bool inside = (lane & (width - 1)) + (int)d < width;
    return rk_emu_exchange(RK_EMU_SHFL, mask, v, inside ? lane + (int)d : lane, file, line);
}

template <class T>
static inline T rk_emu_shfl_up(const char *file, int line, unsigned mask, T v, unsigned d, int width = 32)
{
    int lane = (int)rk_emu_lane();
    bool inside = (lane & (width - 1)) >= (int)d;
    return rk_emu_exchange(RK_EMU_SHFL, mask, v, inside ? lane - (int)d : lane, file, line);
}

template <class T>
static inline T rk_emu_shfl(const char *file, int line, unsigned mask, T v, int from, int width = 32)
{
    int lane = (int)rk_emu_lane();
    return rk_emu_exchange(RK_EMU_SHFL, mask, v, (lane & ~(width - 1)) | (from & (width - 1)), file, line);
}

#define __shfl_xor_sync(...)  rk_emu_shfl_xor(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_down_sync(...) rk_emu_shfl_down(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_up_sync(...)   rk_emu_shfl_up(__FILE__, __LINE__, __VA_ARGS__)
#define __shfl_sync(...)      rk_emu_shfl(__FILE__, __LINE__, __VA_ARGS__)
#define __ballot_sync(mask, p) \
    ((unsigned)rk_emu_exchange<uint64_t>(RK_EMU_BALLOT, mask, !!(p), -1, __FILE__, __LINE__))
#define __any_sync(mask, p)        (__ballot_sync(mask, p) != 0)
#define __all_sync(mask, p)        (__ballot_sync(mask, !(p)) == 0)
#define __reduce_add_sync(mask, v) rk_emu_exchange<decltype(v)>(RK_EMU_ADD, mask, v, -1, __FILE__, __LINE__)
#define __reduce_min_sync(mask, v) rk_emu_exchange<decltype(v)>(RK_EMU_MIN, mask, v, -1, __FILE__, __LINE__)
#define __reduce_max_sync(mask, v) rk_emu_exchange<decltype(v)>(RK_EMU_MAX, mask, v, -1, __FILE__, __LINE__)

static inline void __threadfence()
{
    rk_emu_fence(1);
}

static inline void __threadfence_block()
{
    rk_emu_fence(0);
}

/* ---- atomics: threads run one at a time, so a read, a sum and a write are one; the accesses themselves are
 * made by the emulation, whose code the checker does not see ---- */

template <class T>
using rk_emu_same = typename std::common_type<T>::type; /* keeps an argument out of deduction */

template <class T, class F> static inline T rk_emu_update(T *p, F next)
{
    T old;
    rk_emu_atomic(p, sizeof old);
    rk_emu_load(p, &old, sizeof old);
    T v = next(old);
    rk_emu_store(p, &v, sizeof v);
    return old;
}

/* Sums of numbers with a fraction are reported: their bits depend on the order of the threads. */
#define atomicAdd(p, v) rk_emu_add(p, v, __FILE__, __LINE__)
template <class T> static inline T rk_emu_add(T *p, rk_emu_same<T> v, const char *file, int line)
{
    if (!std::is_integral<T>::value)
        rk_emu_unordered("atomicAdd()", file, line);
    return rk_emu_update(p, [=](T old) { return (T)(old + v); });
}

template <class T> static inline T atomicMax(T *p, rk_emu_same<T> v)
{
    return rk_emu_update(p, [=](T old) { return old > v ? old : v; });
}

template <class T> static inline T atomicMin(T *p, rk_emu_same<T> v)
{
    return rk_emu_update(p, [=](T old) { return old < v ? old : v; });
}

template <class T> static inline T atomicOr(T *p, rk_emu_same<T> v)
{
    return rk_emu_update(p, [=](T old) { return (T)(old | v); });
}

template <class T> static inline T atomicExch(T *p, rk_emu_same<T> v)
{
    return rk_emu_update(p, [=](T) { return v; });
}

template <class T> static inline T atomicCAS(T *p, rk_emu_same<T> expected, rk_emu_same<T> v)
{
    return rk_emu_update(p, [=](T old) { return old == expected ? v : old; });
}

static inline unsigned atomicInc(unsigned *p, unsigned most)
{
    return rk_emu_update(p, [=](unsigned old) { return old >= most ? 0 : old + 1; });
}

/* ---- arithmetic ---- */

static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}

static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}

static inline float __fadd_rn(float a, float b)
{
    return a + b;
}

static inline float __fmul_rn(float a, float b)
{
    return a * b;
}

static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}

static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}

static inline float __frcp_rn(float a)
{
    return 1.0f / a;
}

static inline unsigned __float_as_uint(float f)
{
    unsigned u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float __uint_as_float(unsigned u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline int __float_as_int(float f)
{
    return (int)__float_as_uint(f);
}

static inline float __int_as_float(int i)
{
    return __uint_as_float((unsigned)i);
}

static inline long long __double_as_longlong(double d)
{
    long long i;
    memcpy(&i, &d, sizeof i);
    return i;
}

static inline double __longlong_as_double(long long i)
{
    double d;
    memcpy(&d, &i, sizeof d);
    return d;
}

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}

static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}

static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}

static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)(((uint64_t)a * b) >> 32);
}

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}

template <class T> static inline T __ldg(const T *p)
{
    return *p;
}

template <class T> static inline T __ldcs(const T *p)
{
    return *p;
}

template <class T> static inline void __stcs(T *p, T v)
{
    *p = v;
}

template <class T, class U> static inline typename std::common_type<T, U>::type min(T a, U b)
{
    typedef typename std::common_type<T, U>::type C;
    return (C)a < (C)b ? (C)a : (C)b;
}

template <class T, class U> static inline typename std::common_type<T, U>::type max(T a, U b)
{
    typedef typename std::common_type<T, U>::type C;
    return (C)a > (C)b ? (C)a : (C)b;
}

template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), enum cudaFuncAttribute a, int v)
{
    return cudaFuncSetAttribute((const void *)kernel, a, v);
}

#endif
