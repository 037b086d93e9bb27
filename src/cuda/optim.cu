/* Optimiser steps, each one pass over memory. An element's new value depends on that element alone; the
 * formulas are those of the CPU (cpu/isa/optim.c), with its multiply-adds; parameters are computed in double
 * and rounded once. */
#include "core/kernels.h"
#include "cuda/cuda.h"
#include "cuda/entry.cuh"
#include "cuda/pieces.cuh"
#include "cuda/vec.cuh"

enum { BLOCK = 256, PART = 4 * BLOCK };

/* g * scale + decay * w; w * shrink - step * .. */
template <class T> struct common {
    T scale, decay, shrink, step;
    double lr;
    bool decoupled;

    __device__ __forceinline__ void decided(const rk_watch &w)
    {
        scale = (T)w.scale;
    }

    __device__ __forceinline__ void begin_piece(double weight_decay)
    {
        decay = decoupled ? (T)0 : (T)weight_decay;
        shrink = decoupled ? (T)(1 - lr * weight_decay) : (T)1;
    }

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

    __device__ __forceinline__ void decided(const rk_watch &w)
    {
        c.decided(w);
        c.step = (T)(c.lr / w.bias1);
        inverse_root = (T)(1 / sqrt(w.bias2));
    }

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

    __device__ __forceinline__ void decided(const rk_watch &w)
    {
        c.decided(w);
    }

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

    __device__ __forceinline__ void decided(const rk_watch &w)
    {
        c.decided(w);
        first = w.steps == 1;
    }

    __device__ __forceinline__ void operator()(T &w, T g0, T &buf, T &) const
    {
        const T g = c.gradient(g0, w);
        buf = first ? g : v_fma(momentum, buf, take * g);
        w = c.moved(w, nesterov ? v_fma(momentum, buf, g) : buf);
    }
};

/* Nothing is scaled and nothing decays. */
struct plain {
    __device__ __forceinline__ void begin_piece(double)
    {
    }
};

/* Of what is no update of the optimiser's. */
struct undecided {
    enum { MOMENTS = 0 };
    plain c;

    __device__ __forceinline__ void decided(const rk_watch &)
    {
    }
};

/* An average follows what stands in the gradient's place. */
template <class T> struct ema_step : undecided {
    T take;

    __device__ __forceinline__ void operator()(T &avg, T w, T &, T &) const
    {
        avg = v_fma(take, w - avg, avg);
    }
};

template <class T> struct take_step : undecided {
    __device__ __forceinline__ void operator()(T &sum, T g, T &, T &) const
    {
        sum = g;
    }
};

template <class T> struct add_step : undecided {
    __device__ __forceinline__ void operator()(T &sum, T g, T &, T &) const
    {
        sum = g + sum;
    }
};

/* Elements lo .. hi - 1 of a piece: by packs of 16 bytes as far as they go. */
template <class T, class S>
RK_INLINE void update(const S &step, const rk_optim_piece &p, int64_t lo, int64_t hi)
{
    enum { N = rk__pack<T>::N };
    T *w = (T *)p.w + lo, *m1 = (T *)p.m + lo, *m2 = (T *)p.v + lo;
    const T *g = (const T *)p.g + lo;
    const bool aligned = rk__aligned(w) && rk__aligned(g) && (S::MOMENTS < 1 || rk__aligned(m1)) &&
                         (S::MOMENTS < 2 || rk__aligned(m2));
    const int n = (int)(hi - lo), packs = aligned ? n / N : 0;
    for (int i = (int)threadIdx.x; i < packs; i += BLOCK) {
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
    for (int i = packs * N + (int)threadIdx.x; i < n; i += BLOCK) {
        T none1 = 0, none2 = 0;
        step(w[i], g[i], S::MOMENTS > 0 ? m1[i] : none1, S::MOMENTS > 1 ? m2[i] : none2);
    }
}

/* A block takes neighbouring parts, so that it looks for its first piece alone. */
template <class T, class S, class TABLE>
static __global__ void step_kernel(int64_t parts, S step, const rk_watch *watch, const int64_t *still, TABLE table)
{
    int64_t part = parts * blockIdx.x / gridDim.x;
    const int64_t end = parts * (blockIdx.x + 1) / gridDim.x;
    if (still && *still)
        return;
    if (watch)
        step.decided(*watch);
    for (int i = rk__piece_of(table, part); part < end; i++) {
        const rk_optim_piece p = table.row[i].p;
        const int64_t first = table.row[i].first;
        step.c.begin_piece(p.weight_decay);
        for (; part < end && (part - first) * PART < p.n; part++) {
            const int64_t lo = (part - first) * PART;
            update<T>(step, p, lo, lo + PART < p.n ? lo + PART : p.n);
        }
    }
}

template <class T, class S>
static rk_status run(rk_dev *dev, S step, const rk_watch *watch, const int64_t *still, int pieces,
                     const rk_optim_piece *piece)
{
    return rk__with_pieces(dev, pieces, piece, PART, [=](auto table, int64_t parts) {
        if (parts == 0)
            return RK_OK;
        RK_LAUNCH((step_kernel<T, S, decltype(table)>), rk__cuda_grid(dev, parts * BLOCK, BLOCK), BLOCK, 0,
                  dev->stream, parts, step, watch, still, table);
        return rk__cuda_launched(dev);
    });
}

static const int64_t *still_of(const rk_optim_args *o)
{
    return o->watch ? &o->watch->still : NULL;
}

template <class T> static common<T> common_of(const rk_optim_args *o, double step)
{
    common<T> c = {};
    c.scale = (T)o->grad_scale;
    c.lr = o->lr;
    c.decoupled = o->decoupled;
    c.step = (T)step;
    return c;
}

template <class T>
static rk_status adam(rk_dev *dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece)
{
    adam_step<T> s;
    s.c = common_of<T>(o, o->lr / o->bias1);
    s.take1 = (T)(1 - o->beta1);
    s.keep2 = (T)o->beta2;
    s.take2 = (T)(1 - o->beta2);
    s.inverse_root = (T)(1 / sqrt(o->bias2));
    s.eps = (T)o->eps;
    return run<T>(dev, s, o->watch, still_of(o), pieces, piece);
}

template <class T>
static rk_status sgd(rk_dev *dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece)
{
    const common<T> c = common_of<T>(o, o->lr);
    if (pieces == 0 || !piece[0].m)
        return run<T>(dev, sgd_step<T>{ c }, o->watch, still_of(o), pieces, piece);
    momentum_step<T> s;
    s.c = c;
    s.momentum = (T)o->momentum;
    s.take = (T)(1 - o->dampening);
    s.nesterov = o->nesterov;
    s.first = o->first;
    return run<T>(dev, s, o->watch, still_of(o), pieces, piece);
}

template <class T>
static rk_status ema(rk_dev *dev, double decay, const int64_t *still, int pieces, const rk_optim_piece *piece)
{
    ema_step<T> s;
    s.take = (T)(1 - decay);
    return run<T>(dev, s, NULL, still, pieces, piece);
}

template <class T> static rk_status collect(rk_dev *dev, bool add, int pieces, const rk_optim_piece *piece)
{
    return add ? run<T>(dev, add_step<T>(), NULL, NULL, pieces, piece)
               : run<T>(dev, take_step<T>(), NULL, NULL, pieces, piece);
}

RK__ENTRIES(adam, (rk_dev * dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece),
            (dev, o, pieces, piece))
RK__ENTRIES(sgd, (rk_dev * dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece),
            (dev, o, pieces, piece))
RK__ENTRIES(ema,
            (rk_dev * dev, double decay, const int64_t *still, int pieces, const rk_optim_piece *piece),
            (dev, decay, still, pieces, piece))
RK__ENTRIES(collect, (rk_dev * dev, bool add, int pieces, const rk_optim_piece *piece), (dev, add, pieces, piece))
