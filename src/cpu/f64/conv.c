/* Convolutions in double, as the definition reads: the reference for every other table. Terms that lie in the
 * padding are left out, which changes no sum of finite numbers. */
#include "core/kernels.h"
#include "core/order.h"

#include <math.h>

/* Where output row or column o meets the input under tap k; outside [0, in) it is padding. */
static int64_t source(int64_t o, int64_t stride, int64_t k, int64_t dil, int64_t pad)
{
    return o * stride + k * dil - pad;
}

/* One output of one group: the chain over (c, kh, kw). x: the group's first plane; w: the output channel's
 * weights. */
static double dot_window(const rk_conv2d_args *g, const double *x, const double *w, int64_t oh, int64_t ow)
{
    double sum = 0;
    for (int64_t c = 0; c < g->c / g->groups; c++)
        for (int64_t kh = 0; kh < g->kh; kh++)
            for (int64_t kw = 0; kw < g->kw; kw++) {
                int64_t ih = source(oh, g->stride_h, kh, g->dil_h, g->pad_h);
                int64_t iw = source(ow, g->stride_w, kw, g->dil_w, g->pad_w);
                if (ih >= 0 && ih < g->h && iw >= 0 && iw < g->w)
                    sum = fma(x[(c * g->h + ih) * g->w + iw], w[(c * g->kh + kh) * g->kw + kw], sum);
            }
    return sum;
}

rk_status rk__conv2d_f64(rk_dev *dev, const rk_conv2d_args *g, const void *x_, const void *w_,
                         const void *bias_, rk_act act, void *y_)
{
    (void)dev;
    if (act != RK_ACT_NONE && act != RK_ACT_RELU)
        return RK_EINTERNAL;
    const double *x = x_, *w = w_, *bias = bias_;
    double *y = y_;
    int64_t gc = g->c / g->groups, goc = g->oc / g->groups;
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t oc = 0; oc < g->oc; oc++) {
            const double *plane = x + (n * g->c + oc / goc * gc) * g->h * g->w;
            for (int64_t oh = 0; oh < g->oh; oh++)
                for (int64_t ow = 0; ow < g->ow; ow++) {
                    double v =
                        dot_window(g, plane, w + oc * gc * g->kh * g->kw, oh, ow) + (bias ? bias[oc] : 0);
                    *y++ = act == RK_ACT_RELU && 0 > v ? 0 : v;
                }
        }
    return RK_OK;
}

/* Adds one output channel's share to the group's dx planes. */
static void scatter_channel(const rk_conv2d_args *g, const double *dy, const double *w, double *dx)
{
    for (int64_t c = 0; c < g->c / g->groups; c++)
        for (int64_t kh = 0; kh < g->kh; kh++)
            for (int64_t kw = 0; kw < g->kw; kw++)
                for (int64_t oh = 0; oh < g->oh; oh++)
                    for (int64_t ow = 0; ow < g->ow; ow++) {
                        int64_t ih = source(oh, g->stride_h, kh, g->dil_h, g->pad_h);
                        int64_t iw = source(ow, g->stride_w, kw, g->dil_w, g->pad_w);
                        if (ih < 0 || ih >= g->h || iw < 0 || iw >= g->w)
                            continue;
                        double *at = dx + (c * g->h + ih) * g->w + iw;
                        *at = fma(dy[oh * g->ow + ow], w[(c * g->kh + kh) * g->kw + kw], *at);
                    }
}

rk_status rk__conv2d_dx_f64(rk_dev *dev, const rk_conv2d_args *g, const void *dy_, const void *w_, void *dx_)
{
    (void)dev;
    const double *dy = dy_, *w = w_;
    double *dx = dx_;
    int64_t gc = g->c / g->groups, goc = g->oc / g->groups;
    for (int64_t i = 0; i < g->n * g->c * g->h * g->w; i++)
        dx[i] = 0;
    for (int64_t n = 0; n < g->n; n++)
        for (int64_t oc = 0; oc < g->oc; oc++)
            scatter_channel(g, dy + (n * g->oc + oc) * g->oh * g->ow, w + oc * gc * g->kh * g->kw,
                            dx + (n * g->c + oc / goc * gc) * g->h * g->w);
    return RK_OK;
}

/* One weight's place: output channel, input channel within the whole input, tap. */
typedef struct weight {
    int64_t oc, c, kh, kw;
} weight;

/* The chain of one weight over the samples [lo, hi), from `sum`. */
static double chain_weight(const rk_conv2d_args *g, const double *x, const double *dy, weight at, int64_t lo,
                           int64_t hi, double sum)
{
    for (int64_t n = lo; n < hi; n++)
        for (int64_t oh = 0; oh < g->oh; oh++)
            for (int64_t ow = 0; ow < g->ow; ow++) {
                int64_t ih = source(oh, g->stride_h, at.kh, g->dil_h, g->pad_h);
                int64_t iw = source(ow, g->stride_w, at.kw, g->dil_w, g->pad_w);
                if (ih >= 0 && ih < g->h && iw >= 0 && iw < g->w)
                    sum = fma(dy[((n * g->oc + at.oc) * g->oh + oh) * g->ow + ow],
                              x[((n * g->c + at.c) * g->h + ih) * g->w + iw], sum);
            }
    return sum;
}

static double tree_weight(const rk_conv2d_args *g, const double *x, const double *dy, weight at, int64_t lo,
                          int64_t hi, int segments)
{
    if (segments == 1)
        return chain_weight(g, x, dy, at, lo, hi, 0);
    int64_t mid = rk_order_mid(lo, hi);
    double left = tree_weight(g, x, dy, at, lo, mid, segments / 2);
    return left + tree_weight(g, x, dy, at, mid, hi, segments / 2);
}

rk_status rk__conv2d_dw_f64(rk_dev *dev, const rk_conv2d_args *g, rk_order order, const void *x,
                            const void *dy, void *dw_)
{
    (void)dev;
    double *dw = dw_;
    int64_t gc = g->c / g->groups, goc = g->oc / g->groups;
    weight at;
    for (at.oc = 0; at.oc < g->oc; at.oc++)
        for (int64_t c = 0; c < gc; c++)
            for (at.kh = 0; at.kh < g->kh; at.kh++)
                for (at.kw = 0; at.kw < g->kw; at.kw++, dw++) {
                    at.c = at.oc / goc * gc + c;
                    if (order.acc == RK_ACC_CHAIN) {
                        *dw = chain_weight(g, x, dy, at, 0, g->n, *dw);
                        continue;
                    }
                    double sum = tree_weight(g, x, dy, at, 0, g->n, order.segments > 1 ? order.segments : 1);
                    *dw = order.acc == RK_ACC_ADD ? *dw + sum : sum;
                }
    return RK_OK;
}
