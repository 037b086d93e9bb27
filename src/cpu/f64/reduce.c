/* Reductions in double. */
#include "cpu/f64/f64.h"

#include "core/watch.h"

#include <math.h>
#include <string.h>

typedef struct strided {
    const double *x;
    int64_t step;
} strided;

static double strided_term(const void *arg, int64_t i)
{
    const strided *s = arg;
    return s->x[i * s->step];
}

rk_status rk__reduce_sum_f64(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, rk_order order,
                             const void *x, void *y)
{
    (void)dev;
    bool row = order.segments <= 1 && order.acc == RK_ACC_SET && inner == 1;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            strided s = { (const double *)x + o * n * inner + i, inner };
            double *out = (double *)y + o * inner + i;
            if (row)
                *out = rk__lanes_f64(strided_term, &s, n);
            else
                rk__ordered_f64(strided_term, &s, n, order, out);
        }
    return RK_OK;
}

/* The first of equal extremes; a NaN beats every number, so that it is seen. sign: 1 for max, -1 for min. */
static rk_status extreme(int64_t outer, int64_t n, int64_t inner, double sign, const double *x, double *y,
                         int64_t *index)
{
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < inner; i++) {
            const double *row = x + o * n * inner + i;
            int64_t best = 0;
            for (int64_t k = 1; k < n; k++) {
                double v = row[k * inner], b = row[best * inner];
                if (sign * v > sign * b || (isnan(v) && !isnan(b)))
                    best = k;
            }
            if (n == 0)
                continue;
            if (y)
                y[o * inner + i] = row[best * inner];
            if (index)
                index[o * inner + i] = best;
        }
    return RK_OK;
}

rk_status rk__reduce_max_f64(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                             int64_t *index)
{
    (void)dev;
    return extreme(outer, n, inner, 1, x, y, index);
}

rk_status rk__reduce_min_f64(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                             int64_t *index)
{
    (void)dev;
    return extreme(outer, n, inner, -1, x, y, index);
}

static double square_term(const void *arg, int64_t i)
{
    double v = ((const double *)arg)[i];
    return v * v;
}

/* Sum of squares of chunks [lo, hi), halved down to one chunk. */
static double chunk_squares(const double *x, int64_t n, int64_t lo, int64_t hi)
{
    if (hi - lo == 1) {
        int64_t begin = lo * RK_CHUNK, end = begin + RK_CHUNK < n ? begin + RK_CHUNK : n;
        return rk__lanes_f64(square_term, x + begin, end - begin);
    }
    int64_t mid = rk_order_mid(lo, hi);
    return chunk_squares(x, n, lo, mid) + chunk_squares(x, n, mid, hi);
}

rk_status rk__sum_squares_f64(rk_dev *dev, int64_t n, const void *x, double *out, bool *bad)
{
    (void)dev;
    *bad = false;
    *out = 0;
    for (int64_t i = 0; i < n; i++)
        *bad |= !isfinite(((const double *)x)[i]);
    if (n > 0)
        *out = chunk_squares(x, n, 0, (n + RK_CHUNK - 1) / RK_CHUNK);
    return RK_OK;
}

rk_status rk__squares_f64(rk_dev *dev, int pieces, const rk_square_rows *piece, double *sums)
{
    (void)dev;
    for (int i = 0; i < pieces; i++)
        for (int64_t r = 0; r < piece[i].rows; r++) {
            const rk_square_rows *p = &piece[i];
            const int64_t left = p->n - r * p->ld;
            sums[p->first + r * p->step] = p->x ? rk__lanes_f64(square_term, (const double *)p->x + r * p->ld,
                                                                left < p->cols ? left : p->cols)
                                                : 0;
        }
    return RK_OK;
}

rk_status rk__judge_f64(rk_dev *dev, const rk_judge_args *a)
{
    (void)dev;
    rk_judged judged = { 0, RK_VERDICT_GOOD };
    for (int i = 0; i < a->pieces; i++)
        a->part[i] = rk_judged_tree(a->sums, a->order, a->bound[i], a->bound[i + 1]);
    rk_judged_add(&judged, 0, a->pieces, a->part);
    if (a->watch)
        rk_judged_end(&judged, a->loss ? *(const double *)a->loss : 0, a, a->watch);
    return RK_OK;
}

rk_status rk__fill_f64(rk_dev *dev, int64_t n, double value, void *y)
{
    (void)dev;
    for (int64_t i = 0; i < n; i++)
        ((double *)y)[i] = value;
    return RK_OK;
}
