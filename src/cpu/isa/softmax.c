/* Softmax, its logarithm and cross entropy over rows (rows, cols). Numeric contract: a row is computed by
 * itself; its sums go by lanes (core/order.h); the largest element is taken off before exp. */
#include "cpu/isa/isa.h"

#include "cpu/isa/rows.h"
#include "cpu/isa/vmath.h"

typedef struct job {
    int64_t rows, cols, each;
    const float *x, *y, *dy;
    float *out;
    void (*row)(const struct job *, int64_t r);
    /* cross entropy */
    const int64_t *target;
    const float *lse;
    float *loss, *lse_out;
    double smoothing, scale;
    bool use_ignore;
    int64_t ignore;
    /* columns from `first` on of `classes` */
    int segments;
    int64_t first, classes;
    const float *top, *sum, *plain, *hit;
    float *sum_out, *plain_out, *hit_out;
} job;

static void run_rows(void *arg, int64_t task, int worker)
{
    (void)worker;
    const job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->rows, j->each, task); r < end; r++)
        j->row(j, r);
}

/* ns: nanoseconds an element. */
static rk_status run(rk_dev *dev, job *j, double ns)
{
    int64_t tasks;
    j->each = rows_split(dev, j->rows, 20 + (double)j->cols * ns, &tasks);
    rk__parallel(dev, tasks, run_rows, j);
    return RK_OK;
}

/* Sum of e^(x - top); the terms go to `terms` unless it is NULL. */
RK_INLINE float exp_sum(const float *x, int64_t n, float top, float *terms)
{
    vf acc[NV], t = v_set1(top);
    lanes_zero(acc);
    EACH_VECTOR(n, {
        vf e = v_exp(v_sub(v_get(x + i, m), t));
        if (terms)
            v_put(terms + i, m, e);
        acc[v] = v_add(acc[v], v_only(m, e));
    });
    return v_tree_sum(acc);
}

static float log_of(float x)
{
    return v_first(v_log(v_set1(x)));
}

static void softmax_row(const job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    float *y = j->out + r * j->cols;
    vf sum = v_set1(exp_sum(x, j->cols, row_max(x, j->cols), y));
    EACH_VECTOR(j->cols, (void)v; v_put(y + i, m, v_div(v_get(y + i, m), sum)));
}

rk_status RK_NAME(softmax)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    return run(dev, &(job){ .rows = rows, .cols = cols, .x = x, .out = y, .row = softmax_row }, 0.8);
}

static void softmax_grad_row(const job *j, int64_t r)
{
    const float *y = j->y + r * j->cols, *dy = j->dy + r * j->cols;
    float *dx = j->out + r * j->cols;
    vf acc[NV];
    lanes_zero(acc);
    EACH_VECTOR(j->cols, acc[v] = v_fma(v_get(y + i, m), v_get(dy + i, m), acc[v]));
    vf dot = v_set1(v_tree_sum(acc));
    EACH_VECTOR(j->cols, (void)v; v_put(dx + i, m, v_mul(v_get(y + i, m), v_sub(v_get(dy + i, m), dot))));
}

rk_status RK_NAME(softmax_grad)(rk_dev *dev, int64_t rows, int64_t cols, const void *y, const void *dy,
                                void *dx)
{
    job j = { .rows = rows, .cols = cols, .y = y, .dy = dy, .out = dx, .row = softmax_grad_row };
    return run(dev, &j, 0.2);
}

static void log_softmax_row(const job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    float *y = j->out + r * j->cols, top = row_max(x, j->cols);
    vf shift = v_set1(top), log_sum = v_set1(log_of(exp_sum(x, j->cols, top, NULL)));
    EACH_VECTOR(j->cols, (void)v; v_put(y + i, m, v_sub(v_sub(v_get(x + i, m), shift), log_sum)));
}

rk_status RK_NAME(log_softmax)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    return run(dev, &(job){ .rows = rows, .cols = cols, .x = x, .out = y, .row = log_softmax_row }, 0.7);
}

static void log_softmax_grad_row(const job *j, int64_t r)
{
    const float *y = j->y + r * j->cols, *dy = j->dy + r * j->cols;
    float *dx = j->out + r * j->cols;
    vf sum = v_set1(row_sum(dy, j->cols));
    EACH_VECTOR(j->cols, (void)v; v_put(dx + i, m, v_fnma(v_exp(v_get(y + i, m)), sum, v_get(dy + i, m))));
}

rk_status RK_NAME(log_softmax_grad)(rk_dev *dev, int64_t rows, int64_t cols, const void *y, const void *dy,
                                    void *dx)
{
    job j = { .rows = rows, .cols = cols, .y = y, .dy = dy, .out = dx, .row = log_softmax_grad_row };
    return run(dev, &j, 0.7);
}

/* ---- cross entropy: (1 - smoothing) (lse - x[target]) + smoothing (lse - mean x) ---- */

static bool ignored(const job *j, int64_t r)
{
    return j->use_ignore && j->target[r] == j->ignore;
}

/* x: the target's logit; plain: the sum of all of them. */
static float loss_of(const job *j, float top, float log_sum, float x, float plain)
{
    /* lse - x by its two parts: less is lost when the largest element is large */
    float hit = log_sum + (top - x);
    if (j->smoothing > 0) {
        float even = log_sum + (top - plain / (float)j->classes);
        hit = (float)(1 - j->smoothing) * hit + (float)j->smoothing * even;
    }
    return hit;
}

static void cross_entropy_row(const job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    float top = row_max(x, j->cols), log_sum = log_of(exp_sum(x, j->cols, top, NULL));
    j->lse_out[r] = top + log_sum;
    j->loss[r] = ignored(j, r)
                     ? 0
                     : loss_of(j, top, log_sum, x[j->target[r]], j->smoothing > 0 ? row_sum(x, j->cols) : 0);
}

rk_status RK_NAME(cross_entropy)(rk_dev *dev, int64_t rows, int64_t cols, const void *x,
                                 const int64_t *target, double smoothing, bool use_ignore, int64_t ignore,
                                 void *loss, void *lse)
{
    job j = { .rows = rows,
              .cols = cols,
              .classes = cols,
              .x = x,
              .target = target,
              .loss = loss,
              .lse_out = lse,
              .smoothing = smoothing,
              .use_ignore = use_ignore,
              .ignore = ignore,
              .row = cross_entropy_row };
    return run(dev, &j, 0.7);
}

static void row_max_row(const job *j, int64_t r)
{
    j->out[r] = row_max(j->x + r * j->cols, j->cols);
}

rk_status RK_NAME(row_max)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    return run(dev, &(job){ .rows = rows, .cols = cols, .x = x, .out = y, .row = row_max_row }, 0.1);
}

/* A row's sum over `segments` leaves of columns [lo, hi): of e^(x - *top), or of x without a top. */
static float leaves(const float *x, const float *top, int64_t lo, int64_t hi, int segments)
{
    if (segments > 1) {
        int64_t mid = rk_order_mid(lo, hi);
        float left = leaves(x, top, lo, mid, segments / 2);
        return left + leaves(x, top, mid, hi, segments / 2);
    }
    return top ? exp_sum(x + lo, hi - lo, *top, NULL) : row_sum(x + lo, hi - lo);
}

static void part_row(const job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    int64_t at = j->target[r] - j->first;
    j->sum_out[r] = leaves(x, &j->top[r], 0, j->cols, j->segments);
    j->hit_out[r] = at >= 0 && at < j->cols ? x[at] : 0;
    if (j->plain_out)
        j->plain_out[r] = leaves(x, NULL, 0, j->cols, j->segments);
}

rk_status RK_NAME(cross_entropy_part)(rk_dev *dev, int64_t rows, int64_t cols, int segments, int64_t first,
                                      const void *x, const int64_t *target, const void *top, void *sum,
                                      void *plain, void *hit)
{
    job j = { .rows = rows,
              .cols = cols,
              .segments = segments,
              .first = first,
              .x = x,
              .target = target,
              .top = top,
              .sum_out = sum,
              .plain_out = plain,
              .hit_out = hit,
              .row = part_row };
    return run(dev, &j, 0.7);
}

static void join_row(const job *j, int64_t r)
{
    float log_sum = log_of(j->sum[r]), plain = j->plain ? j->plain[r] : 0;
    j->lse_out[r] = j->top[r] + log_sum;
    j->loss[r] = ignored(j, r) ? 0 : loss_of(j, j->top[r], log_sum, j->hit[r], plain);
}

rk_status RK_NAME(cross_entropy_join)(rk_dev *dev, int64_t rows, int64_t classes, const int64_t *target,
                                      double smoothing, bool use_ignore, int64_t ignore, const void *top,
                                      const void *sum, const void *plain, const void *hit, void *loss,
                                      void *lse)
{
    job j = { .rows = rows,
              .classes = classes,
              .target = target,
              .smoothing = smoothing,
              .use_ignore = use_ignore,
              .ignore = ignore,
              .top = top,
              .sum = sum,
              .plain = plain,
              .hit = hit,
              .loss = loss,
              .lse_out = lse,
              .row = join_row };
    return run(dev, &j, 20);
}

static void cross_entropy_grad_row(const job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    float *dx = j->out + r * j->cols;
    if (ignored(j, r)) {
        EACH_VECTOR(j->cols, (void)v; v_put(dx + i, m, v_zero()));
        return;
    }
    vf lse = v_set1(j->lse[r]), scale = v_set1((float)j->scale);
    float others = (float)(j->smoothing / (double)j->classes);
    vf even = v_set1(others);
    EACH_VECTOR(j->cols, (void)v;
                v_put(dx + i, m, v_mul(scale, v_sub(v_exp(v_sub(v_get(x + i, m), lse)), even))));
    int64_t t = j->target[r] - j->first;
    if (t < 0 || t >= j->cols)
        return;
    float p = v_first(v_exp(v_sub(v_set1(x[t]), lse)));
    dx[t] = (float)j->scale * (p - (others + (float)(1 - j->smoothing)));
}

rk_status RK_NAME(cross_entropy_grad)(rk_dev *dev, int64_t rows, int64_t cols, int64_t first, int64_t classes,
                                      const void *x, const int64_t *target, const void *lse, double smoothing,
                                      bool use_ignore, int64_t ignore, double scale, void *dx)
{
    job j = { .rows = rows,
              .cols = cols,
              .first = first,
              .classes = classes,
              .x = x,
              .target = target,
              .lse = lse,
              .out = dx,
              .smoothing = smoothing,
              .scale = scale,
              .use_ignore = use_ignore,
              .ignore = ignore,
              .row = cross_entropy_grad_row };
    return run(dev, &j, 0.6);
}
