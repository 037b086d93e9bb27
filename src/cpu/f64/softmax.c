/* Softmax, its logarithm and cross entropy in double, over rows (rows, cols). */
#include "cpu/f64/f64.h"

#include <math.h>

static double row_max(const double *x, int64_t cols)
{
    double m = -INFINITY;
    for (int64_t c = 0; c < cols; c++)
        if (x[c] > m || isnan(x[c]))
            m = x[c];
    return m;
}

typedef struct shifted {
    const double *x;
    double max;
} shifted;

static double exp_term(const void *arg, int64_t i)
{
    const shifted *s = arg;
    return exp(s->x[i] - s->max);
}

/* log(sum(exp(x))) of a row. */
static double log_sum_exp(const double *x, int64_t cols)
{
    shifted s = { x, row_max(x, cols) };
    return s.max + log(rk__lanes_f64(exp_term, &s, cols));
}

rk_status rk__softmax_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        shifted s = { (const double *)x + r * cols, 0 };
        double *out = (double *)y + r * cols;
        s.max = row_max(s.x, cols);
        double sum = rk__lanes_f64(exp_term, &s, cols);
        for (int64_t c = 0; c < cols; c++)
            out[c] = exp_term(&s, c) / sum;
    }
    return RK_OK;
}

typedef struct pair {
    const double *a, *b;
} pair;

static double product_term(const void *arg, int64_t i)
{
    const pair *p = arg;
    return p->a[i] * p->b[i];
}

rk_status rk__softmax_grad_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *y, const void *dy,
                               void *dx)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        pair p = { (const double *)y + r * cols, (const double *)dy + r * cols };
        double dot = rk__lanes_f64(product_term, &p, cols);
        for (int64_t c = 0; c < cols; c++)
            ((double *)dx)[r * cols + c] = p.a[c] * (p.b[c] - dot);
    }
    return RK_OK;
}

rk_status rk__log_softmax_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        const double *row = (const double *)x + r * cols;
        double lse = cols ? log_sum_exp(row, cols) : 0;
        for (int64_t c = 0; c < cols; c++)
            ((double *)y)[r * cols + c] = row[c] - lse;
    }
    return RK_OK;
}

static double plain_term(const void *arg, int64_t i)
{
    return ((const double *)arg)[i];
}

rk_status rk__log_softmax_grad_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *y, const void *dy,
                                   void *dx)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        const double *out = (const double *)y + r * cols, *g = (const double *)dy + r * cols;
        double sum = rk__lanes_f64(plain_term, g, cols);
        for (int64_t c = 0; c < cols; c++)
            ((double *)dx)[r * cols + c] = g[c] - exp(out[c]) * sum;
    }
    return RK_OK;
}

rk_status rk__cross_entropy_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const int64_t *target,
                                double smoothing, bool use_ignore, int64_t ignore, void *loss, void *lse)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        const double *row = (const double *)x + r * cols;
        double norm = log_sum_exp(row, cols);
        ((double *)lse)[r] = norm;
        if (use_ignore && target[r] == ignore) {
            ((double *)loss)[r] = 0;
            continue;
        }
        double hit = norm - row[target[r]];
        double even = smoothing > 0 ? norm - rk__lanes_f64(plain_term, row, cols) / (double)cols : 0;
        ((double *)loss)[r] = (1 - smoothing) * hit + smoothing * even;
    }
    return RK_OK;
}

rk_status rk__row_max_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, void *y)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++)
        ((double *)y)[r] = row_max((const double *)x + r * cols, cols);
    return RK_OK;
}

/* A row's sum over `segments` leaves of columns [lo, hi): of e^(x - *max), or of x without a max. */
static double leaves(const double *x, const double *max, int64_t lo, int64_t hi, int segments)
{
    if (segments > 1) {
        int64_t mid = rk_order_mid(lo, hi);
        double left = leaves(x, max, lo, mid, segments / 2);
        return left + leaves(x, max, mid, hi, segments / 2);
    }
    shifted s = { x + lo, max ? *max : 0 };
    return max ? rk__lanes_f64(exp_term, &s, hi - lo) : rk__lanes_f64(plain_term, x + lo, hi - lo);
}

rk_status rk__cross_entropy_part_f64(rk_dev *dev, int64_t rows, int64_t cols, int segments, int64_t first,
                                     const void *x, const int64_t *target, const void *top, void *sum,
                                     void *plain, void *hit)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        const double *row = (const double *)x + r * cols;
        int64_t at = target[r] - first;
        ((double *)sum)[r] = leaves(row, (const double *)top + r, 0, cols, segments);
        ((double *)hit)[r] = at >= 0 && at < cols ? row[at] : 0;
        if (plain)
            ((double *)plain)[r] = leaves(row, NULL, 0, cols, segments);
    }
    return RK_OK;
}

rk_status rk__cross_entropy_join_f64(rk_dev *dev, int64_t rows, int64_t classes, const int64_t *target,
                                     double smoothing, bool use_ignore, int64_t ignore, const void *top,
                                     const void *sum, const void *plain, const void *hit, void *loss,
                                     void *lse)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        double norm = ((const double *)top)[r] + log(((const double *)sum)[r]);
        double even = smoothing > 0 ? norm - ((const double *)plain)[r] / (double)classes : 0;
        bool ignored = use_ignore && target[r] == ignore;
        ((double *)lse)[r] = norm;
        ((double *)loss)[r] =
            ignored ? 0 : (1 - smoothing) * (norm - ((const double *)hit)[r]) + smoothing * even;
    }
    return RK_OK;
}

rk_status rk__cross_entropy_grad_f64(rk_dev *dev, int64_t rows, int64_t cols, int64_t first, int64_t classes,
                                     const void *x, const int64_t *target, const void *lse, double smoothing,
                                     bool use_ignore, int64_t ignore, double scale, void *dx)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++) {
        const double *row = (const double *)x + r * cols;
        double *out = (double *)dx + r * cols;
        bool ignored = use_ignore && target[r] == ignore;
        for (int64_t c = 0; c < cols; c++) {
            double wanted = smoothing / (double)classes + (first + c == target[r] ? 1 - smoothing : 0);
            out[c] = ignored ? 0 : scale * (exp(row[c] - ((const double *)lse)[r]) - wanted);
        }
    }
    return RK_OK;
}
