#include "cpu/isa/conv.h"

/* Planes of an odd number of cache lines: channels that a tap reads together fall into different sets of the
 * cache. */
enum { LINE = 64 / sizeof(float) };

void RK_NAME(conv_view_init)(rk__conv_view *v)
{
    int64_t right = v->cols - v->pad_w - v->w; /* zeros after the source */
    int64_t shared = v->stride_w == 1 ? (right < v->pad_w ? right : v->pad_w) : 0;
    shared = shared > 0 ? shared : 0;
    v->pitch = v->cols - shared;
    v->phase = v->rows * v->pitch + shared;
    int64_t lines = (v->phases_h * v->phases_w * v->phase + LINE - 1) / LINE;
    v->plane = (lines | 1) * LINE;
}

rk__conv_view RK_NAME(conv_view_x)(const rk_conv2d_args *g)
{
    int64_t reach_h = (g->kh - 1) * g->dil_h, reach_w = (g->kw - 1) * g->dil_w;
    rk__conv_view v = {
        .h = g->h,
        .w = g->w,
        .stride_h = g->stride_h,
        .stride_w = g->stride_w,
        .pad_h = g->pad_h,
        .pad_w = g->pad_w,
        .phases_h = reach_h + 1 < g->stride_h ? reach_h + 1 : g->stride_h,
        .phases_w = reach_w + 1 < g->stride_w ? reach_w + 1 : g->stride_w,
        .rows = g->oh + reach_h / g->stride_h,
        .cols = g->ow + reach_w / g->stride_w,
    };
    RK_NAME(conv_view_init)(&v);
    return v;
}

/* Planes are written in ascending order, and behind the last there is room for a vector: whole vectors of
 * zeros may spill over what is written next. */
TV_INLINE void zero(float *dst, int64_t n)
{
    for (int64_t i = 0; i < n; i += TV)
        tv_store(dst + i, tv_zero());
}

/* Indices of a phase along one axis that meet the source: [*lo, *hi) within [0, n). Index i is source i *
 * stride + at. */
static void meet(int64_t at, int64_t stride, int64_t in, int64_t n, int64_t *lo, int64_t *hi)
{
    *lo = at < 0 ? (-at + stride - 1) / stride : 0;
    *hi = at < in ? (in - 1 - at) / stride + 1 : 0;
    *lo = *lo < n ? *lo : n;
    *hi = *hi < n ? *hi : n;
    *hi = *hi > *lo ? *hi : *lo;
}

TV_INLINE void copy_row(float *restrict dst, const float *restrict src, int64_t n, int64_t stride)
{
    if (stride == 1 && n >= TV) { /* the last vector may overlap the one before it */
        for (int64_t i = 0; i < n - TV; i += TV)
            tv_store(dst + i, tv_load(src + i));
        tv_store(dst + n - TV, tv_load(src + n - TV));
    } else if (stride == 1) {
        tv_store_n(dst, n, tv_load_n(src, n));
    } else if (stride == 2 && n >= TV) { /* likewise */
        for (int64_t i = 0; i < n - TV; i += TV)
            tv_store(dst + i, v_load_even(src + 2 * i));
        tv_store(dst + n - TV, v_load_even(src + 2 * (n - TV)));
    } else if (stride == 2) {
        for (int64_t i = 0; i < n; i++)
            dst[i] = src[2 * i];
    } else {
        for (int64_t i = 0; i < n; i++)
            dst[i] = src[i * stride];
    }
}

static void copy_phase(const rk__conv_view *v, int64_t ph, int64_t pw, const float *src, float *dst)
{
    int64_t at_h = ph - v->pad_h, at_w = pw - v->pad_w, r0, r1, c0, c1;
    meet(at_h, v->stride_h, v->h, v->rows, &r0, &r1);
    meet(at_w, v->stride_w, v->w, v->pitch, &c0, &c1);
    zero(dst, r0 * v->pitch);
    if (v->stride_h == 1 && v->stride_w == 1 && c1 - c0 == v->w && v->w == v->pitch) { /* rows without gaps */
        copy_row(dst + r0 * v->pitch, src + (r0 + at_h) * v->w, (r1 - r0) * v->w, 1);
        r0 = r1;
    }
    for (int64_t r = r0; r < r1; r++) {
        float *row = dst + r * v->pitch;
        zero(row, c0);
        copy_row(row + c0, src + (r * v->stride_h + at_h) * v->w + c0 * v->stride_w + at_w, c1 - c0,
                 v->stride_w);
        zero(row + c1, v->pitch - c1);
    }
    zero(dst + r1 * v->pitch, v->phase - r1 * v->pitch);
}

void RK_NAME(conv_view_copy)(const rk__conv_view *v, int64_t channels, rk_round to, const float *src,
                             float *dst)
{
    int64_t used = v->phases_h * v->phases_w * v->phase;
    for (int64_t c = 0; c < channels; c++, src += v->h * v->w, dst += v->plane) {
        for (int64_t p = 0; p < v->phases_h * v->phases_w; p++)
            copy_phase(v, p / v->phases_w, p % v->phases_w, src, dst + p * v->phase);
        zero(dst + used, v->plane - used);
        if (to) /* a plane is whole vectors */
            for (int64_t i = 0; i < v->plane; i += TV)
                tv_store(dst + i, tv_narrow(to, tv_load(dst + i)));
    }
    zero(dst, TV);
}
