/* Optimiser steps, each one pass over memory. An element's new value depends on that element alone; the
 * formulas are those of the CPU (cpu/isa/optim.c), with its multiply-adds; parameters are computed in double
 * and rounded once. */
#include "core/kernels.h"
#include "cuda/cuda.h"
#include "cuda/entry.cuh"
#include "cuda/vec.cuh"

enum { BLOCK = 256 };

/* g * scale + decay * w; w * shrink - step * .. */
template <class T> struct common {
    T scale, decay, shrink, step;

    __device__ __forceinline__ T gradient(T g, T w) const
    {
        const T scaled = g * scale;
        return decay != 0 ? v_fma(decay, w, scaled) : scaled;
    }

    __device__ __forceinline__ T moved(T w, T by) const
    {
        return v_fnma(step, by, w * shrink);
    }
};

/* Kingma & Ba 2015, algorithm 1, with the bias corrections taken into the step and the root; decoupled decay:
 * Loshchilov & Hutter 2019, algorithm 2. */
template <class T> struct adam_step {
    enum { MOMENTS = 2 };
    common<T> c;
    T take1, keep2, take2, inverse_root, eps; /* inverse_root: of 1 - beta2^t */

    __device__ __forceinline__ void operator()(T &w, T g0, T &m1, T &m2) const
    {
        const T g = c.gradient(g0, w);
        m1 = v_fma(g - m1, take1, m1);
        m2 = v_fma(take2 * g, g, keep2 * m2);
        w = c.moved(w, m1 / v_fma(v_sqrt(m2), inverse_root, eps));
    }
};

template <class T> struct sgd_step {
    enum { MOMENTS = 0 };
    common<T> c;

    __device__ __forceinline__ void operator()(T &w, T g, T &, T &) const
    {
        w = c.moved(w, c.gradient(g, w));
    }
};

template <class T> struct momentum_step {
    enum { MOMENTS = 1 };
    common<T> c;
    T momentum, take; /* take: of a new gradient */
    bool nesterov, first;

    __device__ __forceinline__ void operator()(T &w, T g0, T &buf, T &) const
    {
        const T g = c.gradient(g0, w);
        buf = first ? g : v_fma(momentum, buf, take * g);
        w = c.moved(w, nesterov ? v_fma(momentum, buf, g) : buf);
    }
};

/* An average follows: here `w` is the average and the gradient's place has the weights. */
template <class T> struct ema_step {
    enum { MOMENTS = 0 };
    T take;

    __device__ __forceinline__ void operator()(T &avg, T w, T &, T &) const
    {
        avg = v_fma(take, w - avg, avg);
    }
};

/* The first `packs` times 16 bytes by packs, the others one by one. */
template <class T, class S>
static __global__ void step_kernel(int64_t n, int64_t packs, S step, T *w, const T *g, T *m1, T *m2)
{
    enum { N = rk__pack<T>::N };
    const int64_t threads = (int64_t)gridDim.x * blockDim.x;
    const int64_t me = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (int64_t i = me; i < packs; i += threads) {
        rk__pack<T> a = rk__load_pack(w + i * N), b = rk__load_pack(g + i * N), c = {}, d = {};
        if (S::MOMENTS > 0)
            c = rk__load_pack(m1 + i * N);
        if (S::MOMENTS > 1)
            d = rk__load_pack(m2 + i * N);
#pragma unroll
        for (int e = 0; e < N; e++)
            step(a.e[e], b.e[e], c.e[e], d.e[e]);
        rk__store_pack(w + i * N, a);
        if (S::MOMENTS > 0)
            rk__store_pack(m1 + i * N, c);
        if (S::MOMENTS > 1)
            rk__store_pack(m2 + i * N, d);
    }
    for (int64_t i = packs * N + me; i < n; i += threads) {
        T none1 = 0, none2 = 0;
        step(w[i], g[i], S::MOMENTS > 0 ? m1[i] : none1, S::MOMENTS > 1 ? m2[i] : none2);
    }
}

template <class T, class S>
static rk_status run(rk_dev *dev, int64_t n, S step, void *w, const void *g, void *m1, void *m2)
{
    if (n == 0)
        return RK_OK;
    const bool aligned = rk__aligned(w) && rk__aligned(g) && rk__aligned(m1) && rk__aligned(m2);
    const int64_t packs = aligned ? n / rk__pack<T>::N : 0;
    RK_LAUNCH((step_kernel<T, S>), rk__cuda_grid(dev, rk__pack_work<T>(n, packs), BLOCK), BLOCK, 0,
              dev->stream, n, packs, step, (T *)w, (const T *)g, (T *)m1, (T *)m2);
    return rk__cuda_launched(dev);
}

template <class T> static common<T> common_of(const rk_optim_args *o, double step)
{
    common<T> c;
    c.scale = (T)o->grad_scale;
    c.decay = o->decoupled ? (T)0 : (T)o->weight_decay;
    c.shrink = o->decoupled ? (T)(1 - o->lr * o->weight_decay) : (T)1;
    c.step = (T)step;
    return c;
}

template <class T>
static rk_status adam(rk_dev *dev, const rk_optim_args *o, void *w, const void *g, void *m, void *v)
{
    adam_step<T> s;
    s.c = common_of<T>(o, o->lr / o->bias1);
    s.take1 = (T)(1 - o->beta1);
    s.keep2 = (T)o->beta2;
    s.take2 = (T)(1 - o->beta2);
    s.inverse_root = (T)(1 / sqrt(o->bias2));
    s.eps = (T)o->eps;
    return run<T>(dev, o->n, s, w, g, m, v);
}

template <class T> static rk_status sgd(rk_dev *dev, const rk_optim_args *o, void *w, const void *g, void *m)
{
    const common<T> c = common_of<T>(o, o->lr);
    if (!m)
        return run<T>(dev, o->n, sgd_step<T>{ c }, w, g, NULL, NULL);
    momentum_step<T> s;
    s.c = c;
    s.momentum = (T)o->momentum;
    s.take = (T)(1 - o->dampening);
    s.nesterov = o->nesterov;
    s.first = o->first;
    return run<T>(dev, o->n, s, w, g, m, NULL);
}

template <class T> static rk_status ema(rk_dev *dev, int64_t n, double decay, const void *w, void *avg)
{
    return run<T>(dev, n, ema_step<T>{ (T)(1 - decay) }, avg, w, NULL, NULL);
}

RK__ENTRIES(adam, (rk_dev * dev, const rk_optim_args *o, void *w, const void *g, void *m, void *v),
            (dev, o, w, g, m, v))
RK__ENTRIES(sgd, (rk_dev * dev, const rk_optim_args *o, void *w, const void *g, void *m), (dev, o, w, g, m))
RK__ENTRIES(ema, (rk_dev * dev, int64_t n, double decay, const void *w, void *avg), (dev, n, decay, w, avg))
