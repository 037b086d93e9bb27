/* Rows by index, and gather. Numeric contract: a gradient is, for each row of the table, the sum of its terms
 * in the order of r; with segments, a sum of each, added in their tree (core/order.h). */
#include "cpu/isa/isa.h"

#include "cpu/isa/rows.h"

typedef struct rows_job {
    int64_t rows, cols, each;
    const float *table, *dy;
    const int64_t *index;
    float *y;
    /* the gradient: list[start[t]] .. list[start[t + 1] - 1] are the r with index[r] = t, ascending */
    const int64_t *start, *list;
    rk_order order;
    int64_t terms;
} rows_job;

static void take(void *arg, int64_t task, int worker)
{
    (void)worker;
    const rows_job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->rows, j->each, task); r < end; r++)
        memcpy(j->y + r * j->cols, j->table + j->index[r] * j->cols, sizeof(float) * (size_t)j->cols);
}

rk_status RK_NAME(take_rows)(rk_dev *dev, int64_t rows, int64_t cols, const void *table, const int64_t *index,
                             void *y)
{
    rows_job j = { .rows = rows, .cols = cols, .table = table, .index = index, .y = y };
    int64_t tasks;
    if (cols == 0)
        return RK_OK;
    j.each = rows_split(dev, rows, 5 + 0.1 * (double)cols, &tasks);
    rk__parallel(dev, tasks, take, &j);
    return RK_OK;
}

/* The sum of one row of the table in columns [i, i + m). An empty segment adds nothing: no sum is -0. */
RK_INLINE vf list_sum(const rows_job *j, int64_t t, int64_t i, int m, vf begin)
{
    vf pending[TREE_LEVELS];
    int depth = 0;
    const int64_t *r = j->list + j->start[t], *end = j->list + j->start[t + 1];
    vf acc = begin;
    for (int s = 0; s < j->order.segments; s++) {
        int64_t lo, hi;
        rk_order_leaf(j->terms / j->order.unit, j->order.segments, s, &lo, &hi);
        if (s > 0)
            acc = v_zero();
        for (; r < end && *r < hi * j->order.unit; r++)
            acc = v_add(acc, v_get(j->dy + *r * j->cols + i, m));
        for (int join = tree_joins(s); join > 0; join--)
            acc = v_add(pending[--depth], acc);
        if (s + 1 < j->order.segments)
            pending[depth++] = acc;
    }
    return acc;
}

static void take_grad(void *arg, int64_t task, int worker)
{
    (void)worker;
    const rows_job *j = arg;
    for (int64_t t = task * j->each, end = rows_end(j->rows, j->each, task); t < end; t++) {
        float *out = j->y + t * j->cols;
        if (j->start[t] == j->start[t + 1]) {
            if (j->order.acc == RK_ACC_SET)
                memset(out, 0, sizeof(float) * (size_t)j->cols);
            continue;
        }
        EACH_VECTOR(j->cols, {
            (void)v;
            vf old = j->order.acc == RK_ACC_SET ? v_zero() : v_get(out + i, m);
            if (j->order.acc == RK_ACC_CHAIN)
                v_put(out + i, m, list_sum(j, t, i, m, old));
            else
                v_put(out + i, m, v_add(old, list_sum(j, t, i, m, v_zero())));
        });
    }
}

static bool is_row(int64_t index, int64_t table_rows)
{
    return index >= 0 && index < table_rows;
}

/* Counting sort of the terms by table row; stable. */
static void list_by_row(int64_t table_rows, int64_t rows, const int64_t *index, int64_t *start, int64_t *list)
{
    memset(start, 0, sizeof *start * (size_t)(table_rows + 2));
    for (int64_t r = 0; r < rows; r++)
        if (is_row(index[r], table_rows))
            start[index[r] + 2]++;
    for (int64_t t = 2; t <= table_rows + 1; t++)
        start[t] += start[t - 1];
    for (int64_t r = 0; r < rows; r++)
        if (is_row(index[r], table_rows))
            list[start[index[r] + 1]++] = r;
}

rk_status RK_NAME(take_rows_grad)(rk_dev *dev, int64_t table_rows, int64_t rows, int64_t cols, rk_order order,
                                  const void *dy, const int64_t *index, void *dtable)
{
    int64_t *start = rk__workspace(dev, 0, RK__WS_A, sizeof *start * (size_t)(table_rows + 2));
    int64_t *list = rk__workspace(dev, 0, RK__WS_B, sizeof *list * (size_t)(rows + 1));
    if (!start || !list)
        return RK_ENOMEM;
    if (cols == 0)
        return RK_OK;
    list_by_row(table_rows, rows, index, start, list);
    rows_job j = { .rows = table_rows,
                   .cols = cols,
                   .dy = dy,
                   .y = dtable,
                   .start = start,
                   .list = list,
                   .order = order,
                   .terms = rows };
    int64_t tasks;
    double each_row = table_rows > 0 ? 1 + (double)rows / (double)table_rows * 0.2 * (double)cols : 1;
    j.each = rows_split(dev, table_rows, each_row, &tasks);
    rk__parallel(dev, tasks, take_grad, &j);
    return RK_OK;
}

/* ---- gather: x (outer, n, inner), index and y (outer, m, inner) ---- */

typedef struct gather_job {
    int64_t outer, n, m, inner, each;
    const float *x;
    const int64_t *index;
    float *y;
} gather_job;

static void gather_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const gather_job *j = arg;
    for (int64_t o = task * j->each, end = rows_end(j->outer, j->each, task); o < end; o++)
        for (int64_t k = 0; k < j->m; k++)
            for (int64_t i = 0; i < j->inner; i++) {
                int64_t at = (o * j->m + k) * j->inner + i;
                j->y[at] = j->x[(o * j->n + j->index[at]) * j->inner + i];
            }
}

rk_status RK_NAME(gather)(rk_dev *dev, int64_t outer, int64_t n, int64_t m, int64_t inner, const void *x,
                          const int64_t *index, void *y)
{
    gather_job j = { outer, n, m, inner, 0, x, index, y };
    int64_t tasks;
    j.each = rows_split(dev, outer, 2.0 * (double)(m * inner), &tasks);
    rk__parallel(dev, tasks, gather_task, &j);
    return RK_OK;
}

static void gather_grad_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const gather_job *j = arg;
    for (int64_t o = task * j->each, end = rows_end(j->outer, j->each, task); o < end; o++) {
        memset(j->y + o * j->n * j->inner, 0, sizeof(float) * (size_t)(j->n * j->inner));
        for (int64_t k = 0; k < j->m; k++)
            for (int64_t i = 0; i < j->inner; i++) {
                int64_t at = (o * j->m + k) * j->inner + i;
                j->y[(o * j->n + j->index[at]) * j->inner + i] += j->x[at];
            }
    }
}

rk_status RK_NAME(gather_grad)(rk_dev *dev, int64_t outer, int64_t n, int64_t m, int64_t inner,
                               const void *dy, const int64_t *index, void *dx)
{
    gather_job j = { outer, n, m, inner, 0, dy, index, dx };
    int64_t tasks;
    if (n * inner == 0)
        return RK_OK;
    j.each = rows_split(dev, outer, 2.0 * (double)((m + n) * inner), &tasks);
    rk__parallel(dev, tasks, gather_grad_task, &j);
    return RK_OK;
}
