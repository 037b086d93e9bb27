/* Pooling in double: the reference for every other table. */
#include "core/kernels.h"

#include <math.h>

/* The part of window o along one axis that lies in the input: [*lo, *hi), empty if it is all padding. */
static void window(int64_t o, int64_t in, int64_t out, int64_t k, int64_t stride, int64_t pad, int64_t *lo,
                   int64_t *hi)
{
    if (k == 0) {
        *lo = o * in / out;
        *hi = ((o + 1) * in + out - 1) / out;
        return;
    }
    *lo = o * stride - pad;
    *hi = *lo + k < in ? *lo + k : in;
    *lo = *lo > 0 ? *lo : 0;
}

/* One window of one plane. */
typedef struct box {
    int64_t h0, h1, w0, w1;
} box;

static box window_box(const rk_pool2d *g, int64_t oh, int64_t ow)
{
    box b;
    window(oh, g->h, g->oh, g->kh, g->stride_h, g->pad_h, &b.h0, &b.h1);
    window(ow, g->w, g->ow, g->kh ? g->kw : 0, g->stride_w, g->pad_w, &b.w0, &b.w1);
    return b;
}

rk_status rk__max_pool2d_f64(rk_dev *dev, const rk_pool2d *g, const void *x_, void *y_, int32_t *arg)
{
    (void)dev;
    const double *x = x_;
    double *y = y_;
    for (int64_t p = 0; p < g->n * g->c; p++, x += g->h * g->w)
        for (int64_t oh = 0; oh < g->oh; oh++)
            for (int64_t ow = 0; ow < g->ow; ow++) {
                box b = window_box(g, oh, ow);
                double best = -INFINITY;
                int64_t at = b.h0 < b.h1 && b.w0 < b.w1 ? b.h0 * g->w + b.w0 : -1;
                for (int64_t h = b.h0; h < b.h1; h++)
                    for (int64_t w = b.w0; w < b.w1; w++) {
                        double v = x[h * g->w + w];
                        if (v > best || isnan(v)) {
                            best = v;
                            at = h * g->w + w;
                        }
                    }
                *y++ = best;
                *arg++ = (int32_t)at;
            }
    return RK_OK;
}

rk_status rk__max_pool2d_grad_f64(rk_dev *dev, const rk_pool2d *g, const int32_t *arg, const void *dy_,
                                  void *dx_)
{
    (void)dev;
    const double *dy = dy_;
    double *dx = dx_;
    for (int64_t i = 0; i < g->n * g->c * g->h * g->w; i++)
        dx[i] = 0;
    for (int64_t p = 0; p < g->n * g->c; p++, dx += g->h * g->w)
        for (int64_t i = 0; i < g->oh * g->ow; i++, arg++, dy++)
            if (*arg >= 0)
                dx[*arg] += *dy;
    return RK_OK;
}

rk_status rk__avg_pool2d_f64(rk_dev *dev, const rk_pool2d *g, const void *x_, void *y_)
{
    (void)dev;
    const double *x = x_;
    double *y = y_;
    for (int64_t p = 0; p < g->n * g->c; p++, x += g->h * g->w)
        for (int64_t oh = 0; oh < g->oh; oh++)
            for (int64_t ow = 0; ow < g->ow; ow++) {
                box b = window_box(g, oh, ow);
                double sum = 0;
                for (int64_t h = b.h0; h < b.h1; h++)
                    for (int64_t w = b.w0; w < b.w1; w++)
                        sum += x[h * g->w + w];
                int64_t count = (b.h1 - b.h0) * (b.w1 - b.w0);
                *y++ = b.h0 < b.h1 && b.w0 < b.w1 ? sum / (double)count : 0;
            }
    return RK_OK;
}

rk_status rk__avg_pool2d_grad_f64(rk_dev *dev, const rk_pool2d *g, const void *dy_, void *dx_)
{
    (void)dev;
    const double *dy = dy_;
    double *dx = dx_;
    for (int64_t i = 0; i < g->n * g->c * g->h * g->w; i++)
        dx[i] = 0;
    for (int64_t p = 0; p < g->n * g->c; p++, dx += g->h * g->w)
        for (int64_t oh = 0; oh < g->oh; oh++)
            for (int64_t ow = 0; ow < g->ow; ow++, dy++) {
                box b = window_box(g, oh, ow);
                for (int64_t h = b.h0; h < b.h1; h++)
                    for (int64_t w = b.w0; w < b.w1; w++)
                        dx[h * g->w + w] += *dy / (double)((b.h1 - b.h0) * (b.w1 - b.w0));
            }
    return RK_OK;
}
