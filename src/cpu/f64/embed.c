/* Rows and elements by index in double. */
#include "cpu/f64/f64.h"

#include <string.h>

rk_status rk__take_rows_f64(rk_dev *dev, int64_t rows, int64_t cols, const void *table, const int64_t *index,
                            void *y)
{
    (void)dev;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            ((double *)y)[r * cols + c] = ((const double *)table)[index[r] * cols + c];
    return RK_OK;
}

/* One element of the table's gradient: the terms of other rows are left out, not added as 0. */
typedef struct cell {
    const double *dy;
    const int64_t *index;
    int64_t row, col, cols;
} cell;

static double cell_chain(const cell *t, int64_t lo, int64_t hi, double from)
{
    for (int64_t r = lo; r < hi; r++)
        if (t->index[r] == t->row)
            from += t->dy[r * t->cols + t->col];
    return from;
}

static double cell_tree(const cell *t, int64_t lo, int64_t hi, int segments, int64_t unit)
{
    if (segments <= 1)
        return cell_chain(t, lo * unit, hi * unit, 0);
    int64_t mid = rk_order_mid(lo, hi);
    return cell_tree(t, lo, mid, segments / 2, unit) + cell_tree(t, mid, hi, segments / 2, unit);
}

rk_status rk__take_rows_grad_f64(rk_dev *dev, int64_t table_rows, int64_t rows, int64_t cols, rk_order order,
                                 const void *dy, const int64_t *index, void *dtable)
{
    (void)dev;
    int64_t unit = order.unit > 0 ? order.unit : 1;
    for (int64_t row = 0; row < table_rows; row++)
        for (int64_t col = 0; col < cols; col++) {
            cell t = { dy, index, row, col, cols };
            double *out = (double *)dtable + row * cols + col;
            if (order.acc == RK_ACC_CHAIN) {
                *out = cell_chain(&t, 0, rows, *out);
                continue;
            }
            double sum = cell_tree(&t, 0, rows / unit, order.segments, unit);
            *out = order.acc == RK_ACC_ADD ? *out + sum : sum;
        }
    return RK_OK;
}

rk_status rk__gather_f64(rk_dev *dev, int64_t outer, int64_t n, int64_t m, int64_t inner, const void *x,
                         const int64_t *index, void *y)
{
    (void)dev;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t j = 0; j < m; j++)
            for (int64_t i = 0; i < inner; i++) {
                int64_t at = (o * m + j) * inner + i;
                ((double *)y)[at] = ((const double *)x)[(o * n + index[at]) * inner + i];
            }
    return RK_OK;
}

rk_status rk__gather_grad_f64(rk_dev *dev, int64_t outer, int64_t n, int64_t m, int64_t inner, const void *dy,
                              const int64_t *index, void *dx)
{
    (void)dev;
    for (int64_t i = 0; i < outer * n * inner; i++)
        ((double *)dx)[i] = 0;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t j = 0; j < m; j++)
            for (int64_t i = 0; i < inner; i++) {
                int64_t at = (o * m + j) * inner + i;
                ((double *)dx)[(o * n + index[at]) * inner + i] += ((const double *)dy)[at];
            }
    return RK_OK;
}
