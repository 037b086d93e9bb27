/* Pooling. Numeric contract: a maximum is the first of equals, in (kh, kw) order, and the last NaN if there
 * is one (arg says where; -1 for a window that is all padding, whose maximum is -inf); an average is a chain
 * of additions over (kh, kw) ascending, divided by the number of elements that are not padding (0 if there
 * are none); a gradient is +0 plus its windows' shares, (oh, ow) ascending. Inner loops run along rows, so
 * that they vectorise. */
#include "cpu/isa/isa.h"

#include <math.h>
#include <string.h>

/* What one call works on; the fields it does not need are NULL. */
typedef struct job {
    const rk_pool2d *g;
    const float *in;
    float *out;
    int32_t *arg_out;
    const int32_t *arg_in;
    int64_t planes, each; /* planes in all, planes a task */
    void (*plane)(const struct job *, int64_t);
} job;

/* The part of window o along one axis that lies in the input: [lo, hi), empty if it is all padding. */
typedef struct span {
    int64_t lo, hi;
} span;

static span window(int64_t o, int64_t in, int64_t out, int64_t k, int64_t stride, int64_t pad)
{
    if (k == 0)
        return (span){ o * in / out, ((o + 1) * in + out - 1) / out };
    span s = { o * stride - pad, o * stride - pad + k };
    return (span){ s.lo > 0 ? s.lo : 0, s.hi < in ? s.hi : in };
}

static span window_h(const rk_pool2d *g, int64_t oh)
{
    return window(oh, g->h, g->oh, g->kh, g->stride_h, g->pad_h);
}

static span window_w(const rk_pool2d *g, int64_t ow)
{
    return window(ow, g->w, g->ow, g->kh ? g->kw : 0, g->stride_w, g->pad_w);
}

/* The outputs of a row for which tap kw lies in the input. */
static span inside(const rk_pool2d *g, int64_t kw)
{
    int64_t first = g->pad_w - kw, last = g->w - 1 + g->pad_w - kw;
    int64_t lo = first > 0 ? (first + g->stride_w - 1) / g->stride_w : 0;
    int64_t hi = last < 0 ? 0 : last / g->stride_w + 1;
    return (span){ lo, hi < g->ow ? hi : g->ow };
}

/* The usual case: windows of 2x2, two apart, none cut by the border. */
static bool two_by_two(const rk_pool2d *g)
{
    return g->kh == 2 && g->kw == 2 && g->stride_h == 2 && g->stride_w == 2 && g->pad_h == 0 &&
           g->pad_w == 0 && 2 * g->oh <= g->h && 2 * g->ow <= g->w;
}

/* ---- maximum ---- */

static inline int beats(float v, float best)
{
    return (v > best) | (v != v);
}

static void max_plane_2x2(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    const float *x = j->in + p * g->h * g->w;
    for (int64_t oh = 0; oh < g->oh; oh++) {
        const float *r0 = x + 2 * oh * g->w, *r1 = r0 + g->w;
        float *restrict y = j->out + (p * g->oh + oh) * g->ow;
        int32_t *restrict arg = j->arg_out + (p * g->oh + oh) * g->ow;
        const int32_t w = (int32_t)g->w, base = (int32_t)(2 * oh) * w;
        for (int32_t i = 0; i < (int32_t)g->ow; i++) {
            float best = -INFINITY, v[4] = { r0[2 * i], r0[2 * i + 1], r1[2 * i], r1[2 * i + 1] };
            int32_t at = 0, offset[4] = { 0, 1, w, w + 1 };
            for (int t = 0; t < 4; t++) {
                int take = beats(v[t], best);
                best = take ? v[t] : best;
                at = take ? offset[t] : at;
            }
            y[i] = best;
            arg[i] = base + 2 * i + at;
        }
    }
}

/* One output row: every tap in turn meets the whole row. */
static void max_row(const rk_pool2d *g, const float *x, int64_t oh, float *restrict y, int32_t *restrict arg)
{
    span rows = window_h(g, oh);
    for (int64_t i = 0; i < g->ow; i++) {
        span cols = window_w(g, i);
        y[i] = -INFINITY;
        arg[i] = rows.lo < rows.hi && cols.lo < cols.hi ? (int32_t)(rows.lo * g->w + cols.lo) : -1;
    }
    for (int64_t ih = rows.lo; ih < rows.hi; ih++)
        for (int64_t kw = 0; kw < g->kw; kw++) {
            span s = inside(g, kw);
            int32_t first = (int32_t)(ih * g->w + kw - g->pad_w), step = (int32_t)g->stride_w;
            for (int32_t i = (int32_t)s.lo; i < (int32_t)s.hi; i++) {
                int32_t at = first + i * step;
                int take = beats(x[at], y[i]);
                y[i] = take ? x[at] : y[i];
                arg[i] = take ? at : arg[i];
            }
        }
}

static void max_plane(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    const float *x = j->in + p * g->h * g->w;
    for (int64_t oh = 0; oh < g->oh; oh++)
        max_row(g, x, oh, j->out + (p * g->oh + oh) * g->ow, j->arg_out + (p * g->oh + oh) * g->ow);
}

static void max_plane_adaptive(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    const float *x = j->in + p * g->h * g->w;
    float *y = j->out + p * g->oh * g->ow;
    int32_t *arg = j->arg_out + p * g->oh * g->ow;
    for (int64_t o = 0; o < g->oh * g->ow; o++) {
        span rows = window_h(g, o / g->ow), cols = window_w(g, o % g->ow);
        float best = -INFINITY;
        int64_t at = rows.lo * g->w + cols.lo;
        for (int64_t ih = rows.lo; ih < rows.hi; ih++)
            for (int64_t iw = cols.lo; iw < cols.hi; iw++)
                if (beats(x[ih * g->w + iw], best)) {
                    best = x[ih * g->w + iw];
                    at = ih * g->w + iw;
                }
        y[o] = best;
        arg[o] = (int32_t)at;
    }
}

static void max_grad_plane_2x2(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    float *dx = j->out + p * g->h * g->w;
    for (int64_t oh = 0; oh < g->oh; oh++) {
        const float *dy = j->in + (p * g->oh + oh) * g->ow;
        const int32_t *arg = j->arg_in + (p * g->oh + oh) * g->ow;
        float *restrict r0 = dx + 2 * oh * g->w, *restrict r1 = r0 + g->w;
        const int32_t w = (int32_t)g->w, base = (int32_t)(2 * oh) * w;
        for (int32_t i = 0; i < (int32_t)g->ow; i++) {
            float v = 0.0f + dy[i];
            int32_t at = arg[i] - base - 2 * i;
            r0[2 * i] = at == 0 ? v : 0;
            r0[2 * i + 1] = at == 1 ? v : 0;
            r1[2 * i] = at == w ? v : 0;
            r1[2 * i + 1] = at == w + 1 ? v : 0;
        }
        memset(r0 + 2 * g->ow, 0, (size_t)(g->w - 2 * g->ow) * sizeof(float));
        memset(r1 + 2 * g->ow, 0, (size_t)(g->w - 2 * g->ow) * sizeof(float));
    }
    memset(dx + 2 * g->oh * g->w, 0, (size_t)((g->h - 2 * g->oh) * g->w) * sizeof(float));
}

static void max_grad_plane(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    int64_t outputs = g->oh * g->ow;
    float *dx = j->out + p * g->h * g->w;
    const float *dy = j->in + p * outputs;
    const int32_t *arg = j->arg_in + p * outputs;
    memset(dx, 0, (size_t)(g->h * g->w) * sizeof(float));
    for (int64_t i = 0; i < outputs; i++)
        if (arg[i] >= 0)
            dx[arg[i]] += dy[i];
}

/* ---- average ---- */

/* Divides a row of sums by what was counted. */
static void divide_row(const rk_pool2d *g, int64_t rows, float *y)
{
    for (int64_t i = 0; i < g->ow; i++) {
        span cols = window_w(g, i);
        y[i] = rows > 0 && cols.lo < cols.hi ? y[i] / (float)(rows * (cols.hi - cols.lo)) : 0;
    }
}

static void avg_plane(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    const float *x = j->in + p * g->h * g->w;
    for (int64_t oh = 0; oh < g->oh; oh++) {
        float *restrict y = j->out + (p * g->oh + oh) * g->ow;
        span rows = window_h(g, oh);
        memset(y, 0, (size_t)g->ow * sizeof(float));
        for (int64_t ih = rows.lo; ih < rows.hi; ih++)
            for (int64_t kw = 0; kw < g->kw; kw++) {
                span s = inside(g, kw);
                const float *from = x + ih * g->w + kw - g->pad_w;
                for (int64_t i = s.lo; i < s.hi; i++)
                    y[i] += from[i * g->stride_w];
            }
        divide_row(g, rows.hi - rows.lo, y);
    }
}

static void avg_plane_adaptive(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    const float *x = j->in + p * g->h * g->w;
    float *y = j->out + p * g->oh * g->ow;
    for (int64_t o = 0; o < g->oh * g->ow; o++) {
        span rows = window_h(g, o / g->ow), cols = window_w(g, o % g->ow);
        float sum = 0;
        for (int64_t ih = rows.lo; ih < rows.hi; ih++)
            for (int64_t iw = cols.lo; iw < cols.hi; iw++)
                sum += x[ih * g->w + iw];
        y[o] = sum / (float)((rows.hi - rows.lo) * (cols.hi - cols.lo));
    }
}

static void avg_grad_plane(const job *j, int64_t p)
{
    const rk_pool2d *g = j->g;
    float *dx = j->out + p * g->h * g->w;
    const float *dy = j->in + p * g->oh * g->ow;
    memset(dx, 0, (size_t)(g->h * g->w) * sizeof(float));
    for (int64_t o = 0; o < g->oh * g->ow; o++) {
        span rows = window_h(g, o / g->ow), cols = window_w(g, o % g->ow);
        float share = dy[o] / (float)((rows.hi - rows.lo) * (cols.hi - cols.lo));
        for (int64_t ih = rows.lo; ih < rows.hi; ih++)
            for (int64_t iw = cols.lo; iw < cols.hi; iw++)
                dx[ih * g->w + iw] += share;
    }
}

/* ---- planes over threads ---- */

static void run_planes(void *arg, int64_t task, int worker)
{
    const job *j = arg;
    (void)worker;
    int64_t end = (task + 1) * j->each < j->planes ? (task + 1) * j->each : j->planes;
    for (int64_t p = task * j->each; p < end; p++)
        j->plane(j, p);
}

static rk_status run(rk_dev *dev, job *j)
{
    const rk_pool2d *g = j->g;
    j->planes = g->n * g->c;
    if (j->planes == 0)
        return RK_OK;
    int64_t size = g->h * g->w > g->oh * g->ow ? g->h * g->w : g->oh * g->ow, tasks;
    int64_t elements = rk__grain(dev, j->planes * size, 0.5, &tasks);
    j->each = size > 0 ? (elements + size - 1) / size : j->planes;
    j->each = j->each > 0 ? j->each : 1;
    rk__parallel(dev, (j->planes + j->each - 1) / j->each, run_planes, j);
    return RK_OK;
}

rk_status RK_NAME(max_pool2d)(rk_dev *dev, const rk_pool2d *g, const void *x, void *y, int32_t *arg)
{
    job j = { .g = g, .in = x, .out = y, .arg_out = arg };
    j.plane = g->kh == 0 ? max_plane_adaptive : two_by_two(g) ? max_plane_2x2 : max_plane;
    return run(dev, &j);
}

rk_status RK_NAME(max_pool2d_grad)(rk_dev *dev, const rk_pool2d *g, const int32_t *arg, const void *dy,
                                   void *dx)
{
    job j = { .g = g, .in = dy, .out = dx, .arg_in = arg };
    j.plane = two_by_two(g) ? max_grad_plane_2x2 : max_grad_plane;
    return run(dev, &j);
}

rk_status RK_NAME(avg_pool2d)(rk_dev *dev, const rk_pool2d *g, const void *x, void *y)
{
    job j = { .g = g, .in = x, .out = y };
    j.plane = g->kh == 0 ? avg_plane_adaptive : avg_plane;
    return run(dev, &j);
}

rk_status RK_NAME(avg_pool2d_grad)(rk_dev *dev, const rk_pool2d *g, const void *dy, void *dx)
{
    job j = { .g = g, .in = dy, .out = dx, .plane = avg_grad_plane };
    return run(dev, &j);
}
