/* Convolutions as products of windows (tile.cuh), in the order of terms that core/kernels.h gives. Padding
 * takes part as zeros: fma(w, 0, sum). The gradient of the input is one product for each phase of the input
 * (rows and columns modulo the stride): each meets taps of its own, and the others are no terms. */
#include "cuda/tile.cuh"

namespace
{

/* Where something lies in images: elements from the first plane, and rows and columns, which may be outside.
 */
struct place {
    int64_t base;
    int32_t h, w;
};

/* As on the CPU, doubles are the reference, which is not rounded. */
rk_round rounds(const rk_conv2d_args *g, float)
{
    return g->round;
}

rk_round rounds(const rk_conv2d_args *, double)
{
    return RK_ROUND_NONE;
}

/* Elements of images: those at the sum of a line's and a term's place. Lines and terms are what D says. */
template <class T, class D> struct windows {
    typedef place line_type;
    const T *p;
    int32_t h, w; /* of a plane */
    rk_round round;
    D places;

    __device__ __forceinline__ place line(int64_t i) const
    {
        return places.line(i);
    }

    __device__ __forceinline__ place term(int64_t k) const
    {
        return places.term(k);
    }

    __device__ __forceinline__ bool padding(const place &l, const place &t) const
    {
        return (uint32_t)(l.h + t.h) >= (uint32_t)h || (uint32_t)(l.w + t.w) >= (uint32_t)w;
    }

    __device__ __forceinline__ const T *at(const place &l, const place &t) const
    {
        return p + (l.base + t.base + (int64_t)(l.h + t.h) * w + l.w + t.w);
    }

    __device__ __forceinline__ bool by_term() const
    {
        return D::BY_TERM;
    }
};

/* Elements at the sum of two offsets. */
template <class T, class D> struct offsets {
    typedef const T *line_type;
    const T *p;
    rk_round round;
    D places;

    __device__ __forceinline__ const T *line(int64_t i) const
    {
        return p + places.line(i);
    }

    __device__ __forceinline__ int64_t term(int64_t k) const
    {
        return places.term(k);
    }

    __device__ __forceinline__ bool padding(const T *, int64_t) const
    {
        return false;
    }

    __device__ __forceinline__ const T *at(const T *l, int64_t t) const
    {
        return l + t;
    }

    __device__ __forceinline__ bool by_term() const
    {
        return D::BY_TERM;
    }
};

/* A number in mixed radix: n = (a * second + b) * third + c. */
struct digits {
    rk__divider both, third;
};

digits digits_of(int64_t second, int64_t third)
{
    return digits{ rk__divider_of(second * third), rk__divider_of(third) };
}

__device__ __forceinline__ int64_t split_digits(const digits &d, int64_t n, int64_t *b, int64_t *c)
{
    int64_t rest, a = rk__split(n, d.both, &rest);
    *b = rk__split(rest, d.third, c);
    return a;
}

/* How windows lie in x: output (oh, ow) meets tap (kh, kw) at their places' sum. */
struct grid {
    int32_t stride_h, stride_w, pad_h, pad_w, dil_h, dil_w;
    digits pixels, taps; /* (n, oh, ow); (c, kh, kw) */
    int64_t image, plane;

    __device__ __forceinline__ place pixel(int64_t i) const
    {
        int64_t oh, ow, n = split_digits(pixels, i, &oh, &ow);
        return place{ n * image, (int32_t)oh * stride_h - pad_h, (int32_t)ow * stride_w - pad_w };
    }

    __device__ __forceinline__ place tap(int64_t i) const
    {
        int64_t kh, kw, c = split_digits(taps, i, &kh, &kw);
        return place{ c * plane, (int32_t)kh * dil_h, (int32_t)kw * dil_w };
    }
};

grid grid_of(const rk_conv2d_args *g)
{
    return grid{ (int32_t)g->stride_h, (int32_t)g->stride_w, (int32_t)g->pad_h,       (int32_t)g->pad_w,
                 (int32_t)g->dil_h,    (int32_t)g->dil_w,    digits_of(g->oh, g->ow), digits_of(g->kh, g->kw),
                 g->c * g->h * g->w,   g->h * g->w };
}

/* ---- outputs: (output channels of a group) x (pixels), terms (c, kh, kw) ---- */

struct weight_rows {
    enum { BY_TERM = 1 };
    int64_t row;

    __device__ __forceinline__ int64_t line(int64_t i) const
    {
        return i * row;
    }

    __device__ __forceinline__ int64_t term(int64_t k) const
    {
        return k;
    }
};

struct pixels_by_taps {
    enum { BY_TERM = 0 };
    grid g;

    __device__ __forceinline__ place line(int64_t i) const
    {
        return g.pixel(i);
    }

    __device__ __forceinline__ place term(int64_t k) const
    {
        return g.tap(k);
    }
};

template <class T> struct forward {
    typedef T value;
    typedef offsets<T, weight_rows> left;
    typedef windows<T, pixels_by_taps> right;
    left a;
    right b;
    int64_t m, n, units, unit;
    int64_t weights, planes; /* elements of a group: of the weights; of its planes of an image */
    int64_t channels, pixels;
    rk__divider plane;
    const T *bias;
    T *y;
    bool relu;

    __device__ __forceinline__ forward select(int64_t group) const
    {
        forward q = *this;
        q.a.p += group * weights;
        q.b.p += group * planes;
        q.bias = bias ? bias + group * m : NULL;
        q.y += group * m * pixels;
        return q;
    }

    __device__ __forceinline__ T start(int64_t, int64_t) const
    {
        return 0;
    }

    __device__ __forceinline__ void finish(int64_t i, int64_t j, T v) const
    {
        int64_t pixel, sample = rk__split(j, plane, &pixel);
        if (bias)
            v += bias[i];
        if (relu)
            v = 0 > v ? (T)0 : v;
        y[(sample * channels + i) * pixels + pixel] = v;
    }
};

template <class T>
rk_status conv2d(rk_dev *dev, const rk_conv2d_args *g, const void *x, const void *w, const void *bias,
                 rk_act act, void *y)
{
    if (act != RK_ACT_NONE && act != RK_ACT_RELU)
        return RK_EINTERNAL;
    if (g->n <= 0 || g->oc <= 0 || g->oh <= 0 || g->ow <= 0)
        return RK_OK;
    const int64_t c = g->c / g->groups, oc = g->oc / g->groups, taps = g->kh * g->kw;
    forward<T> p;
    p.a = typename forward<T>::left{ (const T *)w, rounds(g, T()), weight_rows{ c * taps } };
    p.b = typename forward<T>::right{ (const T *)x, (int32_t)g->h, (int32_t)g->w, rounds(g, T()),
                                      pixels_by_taps{ grid_of(g) } };
    p.m = oc;
    p.n = g->n * g->oh * g->ow;
    p.units = c * taps;
    p.unit = 1;
    p.weights = oc * c * taps;
    p.planes = c * g->h * g->w;
    p.channels = g->oc;
    p.pixels = g->oh * g->ow;
    p.plane = rk__divider_of(p.pixels);
    p.bias = (const T *)bias;
    p.y = (T *)y;
    p.relu = act == RK_ACT_RELU;
    return rk__tile_run(dev, p, g->groups, 1);
}

/* ---- gradients of weights: (output channels of a group) x (c, kh, kw), terms are pixels ---- */

struct channel_pixels {
    enum { BY_TERM = 1 };
    int64_t plane, image;
    rk__divider pixels;

    __device__ __forceinline__ int64_t line(int64_t i) const
    {
        return i * plane;
    }

    __device__ __forceinline__ int64_t term(int64_t k) const
    {
        int64_t pixel, sample = rk__split(k, pixels, &pixel);
        return sample * image + pixel;
    }
};

struct taps_by_pixels {
    enum { BY_TERM = 1 };
    grid g;

    __device__ __forceinline__ place line(int64_t i) const
    {
        return g.tap(i);
    }

    __device__ __forceinline__ place term(int64_t k) const
    {
        return g.pixel(k);
    }
};

template <class T> struct weight_gradient {
    typedef T value;
    typedef offsets<T, channel_pixels> left;
    typedef windows<T, taps_by_pixels> right;
    left a;
    right b;
    int64_t m, n, units, unit;
    int64_t out_planes, in_planes; /* elements of a group's planes of dy, of x */
    T *dw;
    rk_acc acc;

    __device__ __forceinline__ weight_gradient select(int64_t group) const
    {
        weight_gradient q = *this;
        q.a.p += group * out_planes;
        q.b.p += group * in_planes;
        q.dw += group * m * n;
        return q;
    }

    __device__ __forceinline__ T start(int64_t i, int64_t j) const
    {
        return acc == RK_ACC_CHAIN ? dw[i * n + j] : (T)0;
    }

    __device__ __forceinline__ void finish(int64_t i, int64_t j, T v) const
    {
        dw[i * n + j] = acc == RK_ACC_ADD ? dw[i * n + j] + v : v;
    }
};

template <class T>
rk_status conv2d_dw(rk_dev *dev, const rk_conv2d_args *g, rk_order order, const void *x, const void *dy,
                    void *dw)
{
    const int64_t c = g->c / g->groups, oc = g->oc / g->groups;
    order = rk__order_or_plain(order);
    if (order.acc == RK_ACC_CHAIN && order.segments > 1)
        return RK_EINTERNAL;
    weight_gradient<T> p;
    p.m = oc;
    p.n = c * g->kh * g->kw;
    if (p.m <= 0 || p.n <= 0)
        return RK_OK;
    p.units = g->n;
    p.unit = g->oh * g->ow;
    p.out_planes = oc * p.unit;
    p.in_planes = c * g->h * g->w;
    p.a =
        typename weight_gradient<T>::left{ (const T *)dy, rounds(g, T()),
                                           channel_pixels{ p.unit, g->oc * p.unit, rk__divider_of(p.unit) } };
    p.b = typename weight_gradient<T>::right{ (const T *)x, (int32_t)g->h, (int32_t)g->w, rounds(g, T()),
                                              taps_by_pixels{ grid_of(g) } };
    p.dw = (T *)dw;
    p.acc = order.acc;
    return rk__tile_run(dev, p, g->groups, order.segments);
}

/* ---- gradients of inputs: (channels of a group) x (pixels of a phase), terms (oc, kh, kw) ---- */

/* One axis: input index i * stride + phase takes tap first + t * step from output index i + shift - t * back.
 */
struct axis {
    int32_t in, taps, stride, pad, dil, step, back;
};

struct phase {
    int32_t size, first, count, shift; /* inputs; taps */
};

axis axis_of(int64_t in, int64_t taps, int64_t stride, int64_t pad, int64_t dil)
{
    int64_t a = stride, b = dil;
    while (b) {
        int64_t r = a % b;
        a = b;
        b = r;
    }
    return axis{ (int32_t)in,  (int32_t)taps,         (int32_t)stride,   (int32_t)pad,
                 (int32_t)dil, (int32_t)(stride / a), (int32_t)(dil / a) };
}

__device__ __forceinline__ phase phase_of(const axis &a, int32_t at)
{
    phase p = { (a.in - at + a.stride - 1) / a.stride, 0, 0, 0 };
    const int32_t most = a.step < a.taps ? a.step : a.taps;
    while (p.first < most && (at + a.pad - p.first * a.dil) % a.stride != 0)
        p.first++;
    if (p.first < most) {
        p.count = (a.taps - p.first + a.step - 1) / a.step;
        p.shift = (at + a.pad - p.first * a.dil) / a.stride;
    }
    return p;
}

/* The taps that meet a phase. */
struct phase_taps {
    phase h, w;
    int32_t step_h, step_w;

    /* Term k is output channel a, tap first + b * step, first + c * step. */
    __device__ __forceinline__ uint32_t split(int64_t k, int32_t *b, int32_t *c) const
    {
        const uint32_t n = (uint32_t)k, rest = n / (uint32_t)w.count;
        *c = (int32_t)(n - rest * (uint32_t)w.count);
        const uint32_t a = rest / (uint32_t)h.count;
        *b = (int32_t)(rest - a * (uint32_t)h.count);
        return a;
    }
};

struct weights_by_phase {
    enum { BY_TERM = 1 };
    phase_taps t;
    int64_t channel, row, kw; /* elements: of an input channel, of an output channel; columns of taps */

    __device__ __forceinline__ int64_t line(int64_t i) const
    {
        return i * channel;
    }

    __device__ __forceinline__ int64_t term(int64_t k) const
    {
        int32_t b, c;
        const uint32_t oc = t.split(k, &b, &c);
        return oc * row + (t.h.first + b * t.step_h) * kw + t.w.first + c * t.step_w;
    }
};

struct pixels_of_phase {
    enum { BY_TERM = 0 };
    phase_taps t;
    int32_t back_h, back_w;
    int64_t plane, image; /* elements of dy */

    __device__ __forceinline__ place line(int64_t i) const
    {
        const int64_t rest = i / t.w.size, n = rest / t.h.size;
        return place{ n * image, (int32_t)(rest - n * t.h.size) + t.h.shift,
                      (int32_t)(i - rest * t.w.size) + t.w.shift };
    }

    __device__ __forceinline__ place term(int64_t k) const
    {
        int32_t b, c;
        const uint32_t oc = t.split(k, &b, &c);
        return place{ oc * plane, -b * back_h, -c * back_w };
    }
};

template <class T> struct input_gradient {
    typedef T value;
    typedef offsets<T, weights_by_phase> left;
    typedef windows<T, pixels_of_phase> right;
    left a;
    right b;
    int64_t m, n, units, unit;
    axis ah, aw;
    int64_t phases, samples; /* phases of a group */
    int32_t phases_w;
    int64_t weights, planes, out; /* elements of a group: weights; planes of dy; output channels */
    int64_t image, plane;         /* elements of dx */
    int32_t ph, pw;
    T *dx;

    __device__ __forceinline__ input_gradient select(int64_t item) const
    {
        input_gradient q = *this;
        const int64_t group = item / phases;
        const int32_t at = (int32_t)(item - group * phases);
        q.ph = at / phases_w;
        q.pw = at - q.ph * phases_w;
        const phase_taps t = { phase_of(ah, q.ph), phase_of(aw, q.pw), ah.step, aw.step };
        q.a.places.t = q.b.places.t = t;
        q.a.p += group * weights;
        q.b.p += group * planes;
        q.dx += group * m * plane;
        q.n = samples * t.h.size * t.w.size;
        q.units = out * t.h.count * t.w.count;
        return q;
    }

    __device__ __forceinline__ T start(int64_t, int64_t) const
    {
        return 0;
    }

    __device__ __forceinline__ void finish(int64_t i, int64_t j, T v) const
    {
        const phase_taps &t = b.places.t;
        const int64_t rest = j / t.w.size, sample = rest / t.h.size;
        const int64_t row = (rest - sample * t.h.size) * ah.stride + ph,
                      col = (j - rest * t.w.size) * aw.stride + pw;
        dx[sample * image + i * plane + row * aw.in + col] = v;
    }
};

template <class T>
rk_status conv2d_dx(rk_dev *dev, const rk_conv2d_args *g, const void *dy, const void *w, void *dx)
{
    const int64_t c = g->c / g->groups, oc = g->oc / g->groups, taps = g->kh * g->kw;
    if (g->n <= 0 || c <= 0 || g->h <= 0 || g->w <= 0)
        return RK_OK;
    input_gradient<T> p;
    memset(&p, 0, sizeof p);
    p.ah = axis_of(g->h, g->kh, g->stride_h, g->pad_h, g->dil_h);
    p.aw = axis_of(g->w, g->kw, g->stride_w, g->pad_w, g->dil_w);
    const int64_t phases_h = g->stride_h < g->h ? g->stride_h : g->h;
    p.phases_w = (int32_t)(g->stride_w < g->w ? g->stride_w : g->w);
    p.phases = phases_h * p.phases_w;
    p.a.p = (const T *)w;
    p.a.round = rounds(g, T());
    p.a.places.channel = taps;
    p.a.places.row = c * taps;
    p.a.places.kw = g->kw;
    p.b.p = (const T *)dy;
    p.b.h = (int32_t)g->oh;
    p.b.w = (int32_t)g->ow;
    p.b.round = rounds(g, T());
    p.b.places.back_h = p.ah.back;
    p.b.places.back_w = p.aw.back;
    p.b.places.plane = g->oh * g->ow;
    p.b.places.image = g->oc * g->oh * g->ow;
    p.m = c;
    p.n = g->n * ((g->h + g->stride_h - 1) / g->stride_h) * ((g->w + g->stride_w - 1) / g->stride_w);
    p.unit = 1;
    p.samples = g->n;
    p.weights = oc * c * taps;
    p.planes = oc * g->oh * g->ow;
    p.out = oc;
    p.plane = g->h * g->w;
    p.image = g->c * p.plane;
    p.dx = (T *)dx;
    return rk__tile_run(dev, p, g->groups * p.phases, 1);
}

} // namespace

#define ENTRIES(t, T)                                                                                   \
    extern "C" rk_status rk__cuda_##t##_conv2d(rk_dev *dev, const rk_conv2d_args *g, const void *x,     \
                                               const void *w, const void *bias, rk_act act, void *y)    \
    {                                                                                                   \
        return conv2d<T>(dev, g, x, w, bias, act, y);                                                   \
    }                                                                                                   \
    extern "C" rk_status rk__cuda_##t##_conv2d_dx(rk_dev *dev, const rk_conv2d_args *g, const void *dy, \
                                                  const void *w, void *dx)                              \
    {                                                                                                   \
        return conv2d_dx<T>(dev, g, dy, w, dx);                                                         \
    }                                                                                                   \
    extern "C" rk_status rk__cuda_##t##_conv2d_dw(rk_dev *dev, const rk_conv2d_args *g, rk_order order, \
                                                  const void *x, const void *dy, void *dw)              \
    {                                                                                                   \
        return conv2d_dw<T>(dev, g, order, x, dy, dw);                                                  \
    }

ENTRIES(f32, float)
ENTRIES(f64, double)
