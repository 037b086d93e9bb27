/* Reductions. Numeric contract: core/order.h; a column's sum is a chain a segment, a row's sum goes by lanes,
 * sums of squares by chunks in double. */
#include "cpu/isa/isa.h"

#include "core/watch.h"
#include "cpu/isa/columns.h"

/* ---- sums ---- */

typedef struct sum_job {
    int64_t outer, n, inner, each, strips; /* each: rows, or strips of columns, a task */
    rk_order order;
    const float *x;
    float *y;
} sum_job;

static void sum_rows(void *arg, int64_t task, int worker)
{
    (void)worker;
    const sum_job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->outer, j->each, task); r < end; r++)
        j->y[r] = row_sum(j->x + r * j->n, j->n);
}

static void sum_strips(void *arg, int64_t task, int worker)
{
    (void)worker;
    const sum_job *j = arg;
    for (int64_t i = task * j->each, end = rows_end(j->outer * j->strips, j->each, task); i < end; i++) {
        int64_t o = i / j->strips, col = i % j->strips * STRIP_COLS;
        int64_t width = j->inner - col < STRIP_COLS ? j->inner - col : STRIP_COLS;
        col_src src = { .x = j->x + o * j->n * j->inner, .rows = j->n, .cols = j->inner };
        col_strip(COL_PLAIN, &src, j->order, col, width, j->y + o * j->inner + col);
    }
}

rk_status RK_NAME(reduce_sum)(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, rk_order order,
                              const void *x, void *y)
{
    sum_job j = { .outer = outer, .n = n, .inner = inner, .order = order, .x = x, .y = y };
    int64_t tasks;
    if (inner == 1 && order.segments == 1 && order.acc == RK_ACC_SET) {
        j.each = rows_split(dev, outer, 3 + 0.08 * (double)n, &tasks);
        rk__parallel(dev, tasks, sum_rows, &j);
        return RK_OK;
    }
    j.strips = (inner + STRIP_COLS - 1) / STRIP_COLS;
    double width = inner < STRIP_COLS ? (double)inner : STRIP_COLS;
    j.each = rows_split(dev, outer * j.strips, (double)n * (1 + 0.07 * width), &tasks);
    rk__parallel(dev, tasks, sum_strips, &j);
    return RK_OK;
}

/* ---- extremes: the first of equals; a NaN beats every number, so that it is seen ---- */

typedef struct extreme_job {
    int64_t outer, n, inner, each;
    float sign; /* 1: largest, -1: smallest */
    const float *x;
    float *y;       /* may be NULL */
    int64_t *index; /* may be NULL */
} extreme_job;

static int64_t extreme_of(const float *x, int64_t n, int64_t step, float sign)
{
    int64_t best = 0;
    for (int64_t k = 1; k < n; k++) {
        float v = sign * x[k * step], b = sign * x[best * step];
        if (v > b || (v != v && b == b))
            best = k;
    }
    return best;
}

/* In a contiguous row: the extreme by vectors, then the place where it stands first. */
static int64_t extreme_of_row(const float *x, int64_t n, float sign)
{
    const vf flip = v_set1(sign);
    vf best = v_set1(-INFINITY);
    vm nan = v_isnan(v_zero());
    EACH_VECTOR(n, {
        vf a = v_mul(flip, v_get(x + i, m));
        a = m == VL ? a : v_sel(vi_gt(vi_set1(m), vi_iota()), a, v_set1(-INFINITY));
        nan = vm_or(nan, v_isnan(a));
        best = v_max(a, best);
        (void)v;
    });
    if (vm_any(nan))
        return extreme_of(x, n, 1, sign);
    float lane[VL], top;
    v_store(lane, best);
    top = lane[0];
    for (int l = 1; l < VL; l++)
        top = lane[l] > top ? lane[l] : top;
    int64_t i = 0;
    while (sign * x[i] != top)
        i++;
    return i;
}

static void extremes(void *arg, int64_t task, int worker)
{
    (void)worker;
    const extreme_job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->outer * j->inner, j->each, task); r < end; r++) {
        const float *x = j->x + r / j->inner * j->n * j->inner + r % j->inner;
        int64_t at =
            j->inner == 1 ? extreme_of_row(x, j->n, j->sign) : extreme_of(x, j->n, j->inner, j->sign);
        if (j->y)
            j->y[r] = x[at * j->inner];
        if (j->index)
            j->index[r] = at;
    }
}

static rk_status run_extreme(rk_dev *dev, extreme_job *j)
{
    int64_t tasks;
    if (j->n == 0)
        return RK_OK;
    j->each = rows_split(dev, j->outer * j->inner, 5 + (double)j->n * (j->inner == 1 ? 0.2 : 2), &tasks);
    rk__parallel(dev, tasks, extremes, j);
    return RK_OK;
}

rk_status RK_NAME(reduce_max)(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                              int64_t *index)
{
    return run_extreme(dev, &(extreme_job){ outer, n, inner, 0, 1.0f, x, y, index });
}

rk_status RK_NAME(reduce_min)(rk_dev *dev, int64_t outer, int64_t n, int64_t inner, const void *x, void *y,
                              int64_t *index)
{
    return run_extreme(dev, &(extreme_job){ outer, n, inner, 0, -1.0f, x, y, index });
}

/* ---- sum of squares ---- */

typedef struct squares_job {
    int64_t n, each, chunks;
    const float *x;
    double *sums; /* (chunks) */
} squares_job;

/* 16 lanes of doubles: the square of a float is exact in one. */
static double chunk_squares(const float *x, int64_t n)
{
    vd acc[2 * NV];
    for (int v = 0; v < 2 * NV; v++)
        acc[v] = vd_zero();
    EACH_VECTOR(n, {
        vf a = v_get(x + i, m);
        vd lower = vd_lower(a), upper = vd_upper(a);
        acc[2 * v] = vd_add(acc[2 * v], vd_mul(lower, lower));
        acc[2 * v + 1] = vd_add(acc[2 * v + 1], vd_mul(upper, upper));
    });
    double lane[RK_LANES];
    for (int v = 0; v < 2 * NV; v++)
        vd_store(lane + v * VL / 2, acc[v]);
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            lane[l] += lane[l + h];
    return lane[0];
}

static void squares_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const squares_job *j = arg;
    for (int64_t c = task * j->each, end = rows_end(j->chunks, j->each, task); c < end; c++) {
        int64_t left = j->n - c * RK_CHUNK;
        j->sums[c] = chunk_squares(j->x + c * RK_CHUNK, left < RK_CHUNK ? left : RK_CHUNK);
    }
}

rk_status RK_NAME(sum_squares)(rk_dev *dev, int64_t n, const void *x, double *out, bool *bad)
{
    const int64_t chunks = (n + RK_CHUNK - 1) / RK_CHUNK;
    *out = 0;
    *bad = false;
    if (n == 0)
        return RK_OK;
    double *sums = rk__workspace(dev, 0, RK__WS_A, (size_t)chunks * sizeof *sums);
    if (!sums)
        return RK_ENOMEM;
    squares_job j = { .n = n, .chunks = chunks, .x = x, .sums = sums };
    int64_t tasks;
    j.each = rows_split(dev, chunks, 0.1 * RK_CHUNK, &tasks);
    rk__parallel(dev, tasks, squares_task, &j);
    *out = rk_order_tree(sums, 0, chunks);
    *bad = !isfinite(*out); /* squares of finite floats cannot overflow a double's range */
    return RK_OK;
}

/* ---- of all gradients ---- */

typedef struct rows_job {
    int pieces;
    const rk_square_rows *piece;
    int64_t rows, each;
    double *sums;
} rows_job;

static void rows_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const rows_job *j = arg;
    int64_t from = task * j->each, to = rows_end(j->rows, j->each, task);
    for (int i = 0; i < j->pieces && to > 0; i++) {
        const rk_square_rows *p = &j->piece[i];
        for (int64_t r = from > 0 ? from : 0; r < p->rows && r < to; r++) {
            const int64_t left = p->n - r * p->ld;
            j->sums[p->first + r * p->step] =
                p->x ? chunk_squares((const float *)p->x + r * p->ld, left < p->cols ? left : p->cols) : 0;
        }
        from -= p->rows;
        to -= p->rows;
    }
}

rk_status RK_NAME(squares)(rk_dev *dev, int pieces, const rk_square_rows *piece, double *sums)
{
    rows_job j = { .pieces = pieces, .piece = piece, .sums = sums };
    double terms = 0;
    int64_t tasks;
    for (int i = 0; i < pieces; i++) {
        j.rows += piece[i].rows;
        terms += (double)piece[i].n;
    }
    j.each = rows_split(dev, j.rows, j.rows ? 10 + 0.1 * terms / (double)j.rows : 0, &tasks);
    if (j.rows > 0)
        rk__parallel(dev, tasks, rows_task, &j);
    return RK_OK;
}

rk_status RK_NAME(judge)(rk_dev *dev, const rk_judge_args *a)
{
    rk_judged judged = { 0, RK_VERDICT_GOOD };
    (void)dev;
    for (int i = 0; i < a->pieces; i++)
        a->part[i] = rk_judged_tree(a->sums, a->order, a->bound[i], a->bound[i + 1]);
    rk_judged_add(&judged, 0, a->pieces, a->part);
    if (a->watch)
        rk_judged_end(&judged, a->loss ? (double)*(const float *)a->loss : 0, a, a->watch);
    return RK_OK;
}
