/* Layer, RMS and batch normalisation in double. */
#include "cpu/f64/f64.h"

#include <math.h>

/* A strided series, its mean taken off, and another that it is multiplied with. */
typedef struct series {
    const double *x, *dy, *mean, *rstd;
    double centre;
    int64_t cols, col;     /* rows (rows, cols): column sums */
    int64_t c, s, channel; /* (n, c, s): channel sums */
} series;

static double row_term(const void *arg, int64_t i)
{
    return ((const series *)arg)->x[i];
}

static double row_square_term(const void *arg, int64_t i)
{
    const series *t = arg;
    double d = t->x[i] - t->centre;
    return d * d;
}

/* ---- rows: layer and RMS norm ---- */

rk_status rk__layer_norm_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                             const void *beta, double eps, void *y, void *mean, void *rstd)
{
    (void)dev;
    const double *g = gamma, *b = beta;
    for (int64_t r = 0; r < rows; r++) {
        series t = { .x = (const double *)x + r * cols };
        t.centre = rk__lanes_f64(row_term, &t, cols) / (double)cols;
        double inv = 1 / sqrt(rk__lanes_f64(row_square_term, &t, cols) / (double)cols + eps);
        for (int64_t c = 0; c < cols; c++)
            ((double *)y)[r * cols + c] = (t.x[c] - t.centre) * inv * (g ? g[c] : 1) + (b ? b[c] : 0);
        ((double *)mean)[r] = t.centre;
        ((double *)rstd)[r] = inv;
    }
    return RK_OK;
}

rk_status rk__rms_norm_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                           double eps, void *y, void *rstd)
{
    (void)dev;
    const double *g = gamma;
    for (int64_t r = 0; r < rows; r++) {
        series t = { .x = (const double *)x + r * cols };
        double inv = 1 / sqrt(rk__lanes_f64(row_square_term, &t, cols) / (double)cols + eps);
        for (int64_t c = 0; c < cols; c++)
            ((double *)y)[r * cols + c] = t.x[c] * inv * (g ? g[c] : 1);
        ((double *)rstd)[r] = inv;
    }
    return RK_OK;
}

/* dx of one row: rstd * (h - [mean of h] - xhat * mean of h*xhat), h = dy * gamma. */
static void row_dx(int64_t cols, const double *x, const double *gamma, double mean, double rstd, bool centred,
                   const double *dy, double *dx)
{
    double sum = 0, dot = 0;
    for (int64_t c = 0; c < cols; c++) {
        double h = dy[c] * (gamma ? gamma[c] : 1);
        sum += h;
        dot += h * (x[c] - mean) * rstd;
    }
    if (!centred)
        sum = 0;
    for (int64_t c = 0; c < cols; c++) {
        double h = dy[c] * (gamma ? gamma[c] : 1);
        dx[c] = rstd * (h - sum / (double)cols - (x[c] - mean) * rstd * dot / (double)cols);
    }
}

rk_status rk__layer_norm_dx_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                                const void *mean, const void *rstd, const void *dy, void *dx)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++)
        row_dx(cols, (const double *)x + r * cols, gamma, ((const double *)mean)[r],
               ((const double *)rstd)[r], true, (const double *)dy + r * cols, (double *)dx + r * cols);
    return RK_OK;
}

rk_status rk__rms_norm_dx_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                              const void *rstd, const void *dy, void *dx)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++)
        row_dx(cols, (const double *)x + r * cols, gamma, 0, ((const double *)rstd)[r], false,
               (const double *)dy + r * cols, (double *)dx + r * cols);
    return RK_OK;
}

static double column_term(const void *arg, int64_t r)
{
    const series *t = arg;
    return t->dy[r * t->cols + t->col];
}

static double column_xhat_term(const void *arg, int64_t r)
{
    const series *t = arg;
    double mean = t->mean ? t->mean[r] : 0;
    return t->dy[r * t->cols + t->col] * (t->x[r * t->cols + t->col] - mean) * t->rstd[r];
}

rk_status rk__layer_norm_dparam_f64(rk_dev *dev, int64_t rows, int64_t cols, rk_order order, const void *x,
                                    const void *mean, const void *rstd, const void *dy, void *dgamma,
                                    void *dbeta)
{
    (void)dev;
    for (int64_t c = 0; c < cols; c++) {
        series t = { .x = x, .dy = dy, .mean = mean, .rstd = rstd, .cols = cols, .col = c };
        if (dgamma)
            rk__ordered_f64(column_xhat_term, &t, rows, order, (double *)dgamma + c);
        if (dbeta)
            rk__ordered_f64(column_term, &t, rows, order, (double *)dbeta + c);
    }
    return RK_OK;
}

/* ---- channels: x (n, c, s); the s terms of a sample are summed as a row, samples as `order` says ---- */

/* Where the s values of the series' channel begin in sample n. */
static int64_t channel_at(const series *t, int64_t n)
{
    return (n * t->c + t->channel) * t->s;
}

/* A term of a sample's row: `x`, `dy` point at the row. */
static double row_dy_term(const void *arg, int64_t i)
{
    return ((const series *)arg)->dy[i];
}

static double row_xhat_term(const void *arg, int64_t i)
{
    const series *t = arg;
    return t->dy[i] * (t->x[i] - t->mean[t->channel]) * t->rstd[t->channel];
}

static double sample_sum(const series *t, int64_t n, rk__term *term)
{
    series row = *t;
    row.x = t->x ? t->x + channel_at(t, n) : NULL;
    row.dy = t->dy ? t->dy + channel_at(t, n) : NULL;
    return rk__lanes_f64(term, &row, t->s);
}

static double sample_term(const void *arg, int64_t n)
{
    return sample_sum(arg, n, row_term);
}

static double sample_square_term(const void *arg, int64_t n)
{
    return sample_sum(arg, n, row_square_term);
}

static double sample_dy_term(const void *arg, int64_t n)
{
    return sample_sum(arg, n, row_dy_term);
}

static double sample_xhat_term(const void *arg, int64_t n)
{
    return sample_sum(arg, n, row_xhat_term);
}

rk_status rk__sum_channels_f64(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order, const void *dy,
                               void *out)
{
    (void)dev;
    for (int64_t i = 0; i < c; i++) {
        series t = { .dy = dy, .c = c, .s = s, .channel = i };
        rk__ordered_f64(sample_dy_term, &t, n, order, (double *)out + i);
    }
    return RK_OK;
}

rk_status rk__sum_channel_squares_f64(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order,
                                      const void *x, const void *mean, void *out)
{
    (void)dev;
    for (int64_t i = 0; i < c; i++) {
        series t = { .x = x, .c = c, .s = s, .channel = i, .centre = ((const double *)mean)[i] };
        rk__ordered_f64(sample_square_term, &t, n, order, (double *)out + i);
    }
    return RK_OK;
}

rk_status rk__batch_norm_stats_f64(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order,
                                   const void *x, void *mean, void *var)
{
    (void)dev;
    for (int64_t i = 0; i < c; i++) {
        series t = { .x = x, .c = c, .s = s, .channel = i };
        double sum = 0, squares = 0;
        rk__ordered_f64(sample_term, &t, n, order, &sum);
        t.centre = sum / (double)(n * s);
        rk__ordered_f64(sample_square_term, &t, n, order, &squares);
        ((double *)mean)[i] = t.centre;
        ((double *)var)[i] = squares / (double)(n * s);
    }
    return RK_OK;
}

rk_status rk__batch_norm_f64(rk_dev *dev, int64_t n, int64_t c, int64_t s, const void *x, const void *mean,
                             const void *var, const void *gamma, const void *beta, double eps, void *y,
                             void *rstd)
{
    (void)dev;
    const double *g = gamma, *b = beta;
    for (int64_t i = 0; i < c; i++) {
        double inv = 1 / sqrt(((const double *)var)[i] + eps), mid = ((const double *)mean)[i];
        double scale = inv * (g ? g[i] : 1), shift = b ? b[i] : 0;
        for (int64_t k = 0; k < n; k++)
            for (int64_t j = (k * c + i) * s; j < (k * c + i + 1) * s; j++)
                ((double *)y)[j] = (((const double *)x)[j] - mid) * scale + shift;
        if (rstd)
            ((double *)rstd)[i] = inv;
    }
    return RK_OK;
}

rk_status rk__batch_norm_dparam_f64(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order,
                                    const void *x, const void *mean, const void *rstd, const void *dy,
                                    void *dgamma, void *dbeta)
{
    (void)dev;
    for (int64_t i = 0; i < c; i++) {
        series t = { .x = x, .dy = dy, .mean = mean, .rstd = rstd, .c = c, .s = s, .channel = i };
        rk__ordered_f64(sample_xhat_term, &t, n, order, (double *)dgamma + i);
        rk__ordered_f64(sample_dy_term, &t, n, order, (double *)dbeta + i);
    }
    return RK_OK;
}

rk_status rk__batch_norm_dx_f64(rk_dev *dev, int64_t n, int64_t c, int64_t s, int64_t count, const void *x,
                                const void *mean, const void *rstd, const void *gamma, const void *dgamma,
                                const void *dbeta, const void *dy, void *dx)
{
    (void)dev;
    for (int64_t i = 0; i < c; i++) {
        double inv = ((const double *)rstd)[i], mid = ((const double *)mean)[i];
        double scale = inv * (gamma ? ((const double *)gamma)[i] : 1);
        double shift = ((const double *)dbeta)[i] / (double)count,
               slope = ((const double *)dgamma)[i] / (double)count;
        for (int64_t k = 0; k < n; k++)
            for (int64_t j = (k * c + i) * s; j < (k * c + i + 1) * s; j++) {
                double hat = (((const double *)x)[j] - mid) * inv;
                ((double *)dx)[j] = scale * (((const double *)dy)[j] - shift - hat * slope);
            }
    }
    return RK_OK;
}
