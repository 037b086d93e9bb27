/* Layer, RMS and batch normalisation. Numeric contract: core/order.h. A row's sums go by lanes; sums over
 * samples are chains a segment; in (n, c, s) the s terms of a sample's channel are a row, and their sums the
 * chain's terms. */
#include "cpu/isa/isa.h"

#include "cpu/isa/columns.h"

static float rsqrt_of(float x)
{
    return 1.0f / sqrtf(x);
}

/* ---- layer and RMS norm: rows (rows, cols) ---- */

typedef struct row_job {
    int64_t rows, cols, each;
    const float *x, *gamma, *beta, *dy; /* gamma, beta may be NULL */
    const float *mean_in, *rstd_in;     /* mean_in NULL: RMS norm */
    float *out, *mean, *rstd;           /* mean, rstd may be NULL */
    bool centred;
    float eps;
} row_job;

RK_INLINE vf scaled(const float *gamma, int64_t i, int m, vf a)
{
    return gamma ? v_mul(a, v_get(gamma + i, m)) : a;
}

static void norm_row(const row_job *j, int64_t r)
{
    const float *x = j->x + r * j->cols;
    float *y = j->out + r * j->cols, count = (float)j->cols;
    float mean = j->centred ? row_sum(x, j->cols) / count : 0.0f;
    vf acc[NV], mid = v_set1(mean);
    lanes_zero(acc);
    EACH_VECTOR(j->cols, {
        vf d = v_only(m, v_sub(v_get(x + i, m), mid));
        acc[v] = v_fma(d, d, acc[v]);
    });
    float rstd = rsqrt_of(v_tree_sum(acc) / count + j->eps);
    vf inv = v_set1(rstd);
    EACH_VECTOR(j->cols, {
        (void)v;
        vf hat = v_mul(v_sub(v_get(x + i, m), mid), inv);
        hat = scaled(j->gamma, i, m, hat);
        v_put(y + i, m, j->beta ? v_add(hat, v_get(j->beta + i, m)) : hat);
    });
    if (j->mean)
        j->mean[r] = mean;
    if (j->rstd)
        j->rstd[r] = rstd;
}

static void norm_rows(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->rows, j->each, task); r < end; r++)
        norm_row(j, r);
}

static rk_status run_rows(rk_dev *dev, row_job *j, double ns, rk__task *task)
{
    int64_t tasks;
    j->each = rows_split(dev, j->rows, 10 + ns * (double)j->cols, &tasks);
    rk__parallel(dev, tasks, task, j);
    return RK_OK;
}

rk_status RK_NAME(layer_norm)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                              const void *beta, double eps, void *y, void *mean, void *rstd)
{
    row_job j = { .rows = rows,
                  .cols = cols,
                  .x = x,
                  .gamma = gamma,
                  .beta = beta,
                  .out = y,
                  .mean = mean,
                  .rstd = rstd,
                  .centred = true,
                  .eps = (float)eps };
    return run_rows(dev, &j, 0.3, norm_rows);
}

rk_status RK_NAME(rms_norm)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                            double eps, void *y, void *rstd)
{
    row_job j = {
        .rows = rows, .cols = cols, .x = x, .gamma = gamma, .out = y, .rstd = rstd, .eps = (float)eps
    };
    return run_rows(dev, &j, 0.25, norm_rows);
}

/* dx = rstd (h - [mean of h] - xhat mean of h xhat), h = dy gamma */
static void norm_dx_row(const row_job *j, int64_t r)
{
    const float *x = j->x + r * j->cols, *dy = j->dy + r * j->cols;
    float *dx = j->out + r * j->cols, count = (float)j->cols;
    vf mid = v_set1(j->mean_in ? j->mean_in[r] : 0.0f), inv = v_set1(j->rstd_in[r]), sum[NV], dot[NV];
    lanes_zero(sum);
    lanes_zero(dot);
    EACH_VECTOR(j->cols, {
        vf h = scaled(j->gamma, i, m, v_get(dy + i, m));
        vf hat = v_mul(v_sub(v_get(x + i, m), mid), inv);
        sum[v] = v_add(sum[v], h);
        dot[v] = v_fma(h, v_only(m, hat), dot[v]);
    });
    vf shift = v_set1(j->mean_in ? v_tree_sum(sum) / count : 0.0f), slope = v_set1(v_tree_sum(dot) / count);
    EACH_VECTOR(j->cols, {
        (void)v;
        vf h = scaled(j->gamma, i, m, v_get(dy + i, m));
        vf hat = v_mul(v_sub(v_get(x + i, m), mid), inv);
        v_put(dx + i, m, v_mul(inv, v_fnma(hat, slope, v_sub(h, shift))));
    });
}

static void norm_dx_rows(void *arg, int64_t task, int worker)
{
    (void)worker;
    const row_job *j = arg;
    for (int64_t r = task * j->each, end = rows_end(j->rows, j->each, task); r < end; r++)
        norm_dx_row(j, r);
}

rk_status RK_NAME(layer_norm_dx)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                                 const void *mean, const void *rstd, const void *dy, void *dx)
{
    row_job j = { .rows = rows,
                  .cols = cols,
                  .x = x,
                  .gamma = gamma,
                  .dy = dy,
                  .mean_in = mean,
                  .rstd_in = rstd,
                  .out = dx };
    return run_rows(dev, &j, 0.4, norm_dx_rows);
}

rk_status RK_NAME(rms_norm_dx)(rk_dev *dev, int64_t rows, int64_t cols, const void *x, const void *gamma,
                               const void *rstd, const void *dy, void *dx)
{
    return RK_NAME(layer_norm_dx)(dev, rows, cols, x, gamma, NULL, rstd, dy, dx);
}

/* ---- parameter gradients, and channels of (n, c) ---- */

typedef struct strip_job {
    col_kind kind;
    col_src src;
    rk_order order;
    int64_t each, strips;
    float *weighted, *plain; /* sums of kind over x and dy; sums of dy; either may be NULL */
} strip_job;

static void strips_of(col_kind kind, const strip_job *j, const col_src *src, float *out, int64_t col,
                      int64_t n)
{
    /* a constant kind for each copy of the loops */
    switch (kind) {
    case COL_PLAIN:
        col_strip(COL_PLAIN, src, j->order, col, n, out + col);
        break;
    case COL_SQUARE:
        col_strip(COL_SQUARE, src, j->order, col, n, out + col);
        break;
    case COL_XHAT:
        col_strip(COL_XHAT, src, j->order, col, n, out + col);
        break;
    case COL_ROW_XHAT:
        col_strip(COL_ROW_XHAT, src, j->order, col, n, out + col);
        break;
    }
}

static void strip_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const strip_job *j = arg;
    for (int64_t s = task * j->each, end = rows_end(j->strips, j->each, task); s < end; s++) {
        int64_t col = s * STRIP_COLS, n = j->src.cols - col < STRIP_COLS ? j->src.cols - col : STRIP_COLS;
        if (j->weighted)
            strips_of(j->kind, j, &j->src, j->weighted, col, n);
        if (j->plain) {
            col_src dy = { .x = j->src.dy, .rows = j->src.rows, .cols = j->src.cols };
            strips_of(COL_PLAIN, j, &dy, j->plain, col, n);
        }
    }
}

static void run_strips(rk_dev *dev, strip_job *j)
{
    int64_t tasks;
    j->strips = (j->src.cols + STRIP_COLS - 1) / STRIP_COLS;
    j->each = rows_split(dev, j->strips, (double)j->src.rows * 0.2 * STRIP_COLS, &tasks);
    rk__parallel(dev, tasks, strip_task, j);
}

rk_status RK_NAME(layer_norm_dparam)(rk_dev *dev, int64_t rows, int64_t cols, rk_order order, const void *x,
                                     const void *mean, const void *rstd, const void *dy, void *dgamma,
                                     void *dbeta)
{
    strip_job j = { .kind = COL_ROW_XHAT, .order = order, .weighted = dgamma, .plain = dbeta };
    j.src = (col_src){ .x = x, .dy = dy, .centre = mean, .scale = rstd, .rows = rows, .cols = cols };
    run_strips(dev, &j);
    return RK_OK;
}

/* ---- sums over channels of (n, c, s) ---- */

/* Channels taken together, so that their part of all samples stays in the near cache between two passes. */
enum { BLOCK_CHANNELS = 32, BLOCK_BYTES = 192 << 10 };

typedef struct channel_job {
    int64_t n, c, s, each, block; /* each: blocks a task; block: channels */
    rk_order order;
    const float *x, *dy, *mean, *rstd;
    float *first,
        *second; /* mean and variance, or sums weighted by xhat and plain; sum_channels: first alone */
} channel_job;

/* What a row of s elements gives to up to two sums. */
typedef enum row_kind { ROW_PLAIN, ROW_SQUARE, ROW_XHAT } row_kind;

RK_INLINE void row_terms(row_kind kind, const channel_job *j, int64_t at, float mean, float rstd,
                         float term[2])
{
    if (kind == ROW_PLAIN) {
        term[0] = row_sum(j->x + at, j->s);
        return;
    }
    const float *x = j->x + at;
    vf mid = v_set1(mean), inv = v_set1(rstd), acc[NV], sum[NV];
    lanes_zero(acc);
    lanes_zero(sum);
    if (kind == ROW_SQUARE) {
        EACH_VECTOR(j->s, {
            vf d = v_only(m, v_sub(v_get(x + i, m), mid));
            acc[v] = v_fma(d, d, acc[v]);
        });
    } else {
        const float *dy = j->dy + at;
        EACH_VECTOR(j->s, {
            vf g = v_get(dy + i, m);
            acc[v] = v_fma(g, v_only(m, v_mul(v_sub(v_get(x + i, m), mid), inv)), acc[v]);
            sum[v] = v_add(sum[v], g);
        });
        term[1] = v_tree_sum(sum);
    }
    term[0] = v_tree_sum(acc);
}

/* The sums of `count` channels from `c0` on, as the order says; out[k] (count) takes the k-th of `sums` sums.
 */
RK_INLINE void sum_block(row_kind kind, const channel_job *j, int64_t c0, int64_t count, int sums,
                         const float *mean, float *const out[2])
{
    float pending[TREE_LEVELS][2][BLOCK_CHANNELS], acc[2][BLOCK_CHANNELS] = { { 0 } };
    int depth = 0;
    const size_t bytes = sizeof(float) * (size_t)count;
    for (int leaf = 0; leaf < j->order.segments; leaf++) {
        int64_t lo, hi;
        rk_order_leaf(j->n, j->order.segments, leaf, &lo, &hi);
        for (int k = 0; k < sums; k++)
            if (j->order.acc == RK_ACC_CHAIN)
                memcpy(acc[k], out[k], bytes);
            else
                memset(acc[k], 0, bytes);
        for (int64_t n = lo; n < hi; n++)
            for (int64_t i = 0; i < count; i++) {
                float term[2] = { 0, 0 };
                row_terms(kind, j, (n * j->c + c0 + i) * j->s, mean ? mean[i] : 0,
                          j->rstd ? j->rstd[c0 + i] : 0, term);
                for (int k = 0; k < sums; k++)
                    acc[k][i] += term[k];
            }
        for (int join = tree_joins(leaf); join > 0; join--) {
            depth--;
            for (int k = 0; k < sums; k++)
                for (int64_t i = 0; i < count; i++)
                    acc[k][i] = pending[depth][k][i] + acc[k][i];
        }
        if (leaf + 1 < j->order.segments) {
            for (int k = 0; k < sums; k++)
                memcpy(pending[depth][k], acc[k], bytes);
            depth++;
        }
    }
    for (int k = 0; k < sums; k++)
        for (int64_t i = 0; i < count; i++)
            out[k][i] = j->order.acc == RK_ACC_ADD ? out[k][i] + acc[k][i] : acc[k][i];
}

/* Runs `block` statements for each block of channels of a task: c0, count. */
#define EACH_BLOCK(j, task, ...)                                                                            \
    do {                                                                                                    \
        int64_t blocks_ = ((j)->c + (j)->block - 1) / (j)->block;                                           \
        for (int64_t b_ = (task) * (j)->each, end_ = rows_end(blocks_, (j)->each, task); b_ < end_; b_++) { \
            const int64_t c0 = b_ * (j)->block;                                                             \
            const int64_t count = (j)->c - c0 < (j)->block ? (j)->c - c0 : (j)->block;                      \
            __VA_ARGS__                                                                                     \
        }                                                                                                   \
    } while (0)

static void channel_sums(void *arg, int64_t task, int worker)
{
    (void)worker;
    const channel_job *j = arg;
    EACH_BLOCK(j, task, {
        float *out[2] = { j->first + c0, NULL };
        sum_block(ROW_PLAIN, j, c0, count, 1, NULL, out);
    });
}

static void channel_squares(void *arg, int64_t task, int worker)
{
    (void)worker;
    const channel_job *j = arg;
    EACH_BLOCK(j, task, {
        float *out[2] = { j->first + c0, NULL };
        sum_block(ROW_SQUARE, j, c0, count, 1, j->mean + c0, out);
    });
}

static void channel_stats(void *arg, int64_t task, int worker)
{
    (void)worker;
    const channel_job *j = arg;
    const float terms = (float)(j->n * j->s);
    EACH_BLOCK(j, task, {
        float *mean[2] = { j->first + c0, NULL };
        sum_block(ROW_PLAIN, j, c0, count, 1, NULL, mean);
        for (int64_t i = 0; i < count; i++)
            mean[0][i] /= terms;
        float *var[2] = { j->second + c0, NULL };
        sum_block(ROW_SQUARE, j, c0, count, 1, mean[0], var);
        for (int64_t i = 0; i < count; i++)
            var[0][i] /= terms;
    });
}

static void channel_dparam(void *arg, int64_t task, int worker)
{
    (void)worker;
    const channel_job *j = arg;
    EACH_BLOCK(j, task, {
        float *out[2] = { j->first + c0, j->second + c0 };
        sum_block(ROW_XHAT, j, c0, count, 2, j->mean + c0, out);
    });
}

/* ns: nanoseconds an element. */
static void run_channels(rk_dev *dev, channel_job *j, double ns, rk__task *task)
{
    int64_t tasks, bytes = j->n * j->s * (int64_t)sizeof(float), threads = rk__threads(dev);
    j->block = bytes > 0 ? BLOCK_BYTES / bytes : 1;
    if (j->block > (j->c + threads - 1) / threads)
        j->block = (j->c + threads - 1) / threads;
    j->block = j->block < 1 ? 1 : j->block > BLOCK_CHANNELS ? BLOCK_CHANNELS : j->block;
    int64_t blocks = (j->c + j->block - 1) / j->block;
    j->each = rows_split(dev, blocks, ns * (double)(j->n * j->block * (j->s + 8)), &tasks);
    rk__parallel(dev, tasks, task, j);
}

rk_status RK_NAME(sum_channels)(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order, const void *dy,
                                void *out)
{
    if (s == 1) {
        strip_job columns = { .kind = COL_PLAIN, .order = order, .weighted = out };
        columns.src = (col_src){ .x = dy, .rows = n, .cols = c };
        run_strips(dev, &columns);
        return RK_OK;
    }
    channel_job j = { .n = n, .c = c, .s = s, .order = order, .x = dy, .first = out };
    run_channels(dev, &j, 0.1, channel_sums);
    return RK_OK;
}

rk_status RK_NAME(sum_channel_squares)(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order,
                                       const void *x, const void *mean, void *out)
{
    if (s == 1) {
        strip_job columns = { .kind = COL_SQUARE, .order = order, .weighted = out };
        columns.src = (col_src){ .x = x, .centre = mean, .rows = n, .cols = c };
        run_strips(dev, &columns);
        return RK_OK;
    }
    channel_job j = { .n = n, .c = c, .s = s, .order = order, .x = x, .mean = mean, .first = out };
    run_channels(dev, &j, 0.1, channel_squares);
    return RK_OK;
}

/* Channels of (n, c): columns. */
static void column_stats(rk_dev *dev, int64_t n, int64_t c, rk_order order, const float *x, float *mean,
                         float *var)
{
    strip_job j = { .kind = COL_PLAIN, .order = order, .weighted = mean };
    j.src = (col_src){ .x = x, .rows = n, .cols = c };
    run_strips(dev, &j);
    for (int64_t i = 0; i < c; i++)
        mean[i] /= (float)n;
    j.kind = COL_SQUARE;
    j.src.centre = mean;
    j.weighted = var;
    run_strips(dev, &j);
    for (int64_t i = 0; i < c; i++)
        var[i] /= (float)n;
}

rk_status RK_NAME(batch_norm_stats)(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order,
                                    const void *x, void *mean, void *var)
{
    order.acc = RK_ACC_SET;
    if (s == 1) {
        column_stats(dev, n, c, order, x, mean, var);
        return RK_OK;
    }
    channel_job j = { .n = n, .c = c, .s = s, .order = order, .x = x, .first = mean, .second = var };
    run_channels(dev, &j, 0.2, channel_stats);
    return RK_OK;
}

rk_status RK_NAME(batch_norm_dparam)(rk_dev *dev, int64_t n, int64_t c, int64_t s, rk_order order,
                                     const void *x, const void *mean, const void *rstd, const void *dy,
                                     void *dgamma, void *dbeta)
{
    if (s == 1) {
        strip_job j = { .kind = COL_XHAT, .order = order, .weighted = dgamma, .plain = dbeta };
        j.src = (col_src){ .x = x, .dy = dy, .centre = mean, .scale = rstd, .rows = n, .cols = c };
        run_strips(dev, &j);
        return RK_OK;
    }
    channel_job j = { .n = n,
                      .c = c,
                      .s = s,
                      .order = order,
                      .x = x,
                      .dy = dy,
                      .mean = mean,
                      .rstd = rstd,
                      .first = dgamma,
                      .second = dbeta };
    run_channels(dev, &j, 0.25, channel_dparam);
    return RK_OK;
}

/* ---- batch norm, elementwise ---- */

/* y = (x - mean) slope + shift, or dx = gain ((dy - shift) - (x - mean) slope); all but x, dy, y are (c). */
typedef struct affine_job {
    int64_t n, c, s, each; /* each: rows (n c) of s, or rows (n) of c if s is 1 */
    const float *x, *dy, *mean;
    const float *slope, *shift, *gain;
    float *y;
} affine_job;

RK_INLINE vf affine(vf x, vf mean, vf slope, vf shift)
{
    return v_fma(v_sub(x, mean), slope, shift);
}

RK_INLINE vf affine_dx(vf x, vf dy, vf mean, vf slope, vf shift, vf gain)
{
    return v_mul(gain, v_fnma(v_sub(x, mean), slope, v_sub(dy, shift)));
}

static void affine_rows(void *arg, int64_t task, int worker)
{
    (void)worker;
    const affine_job j = *(const affine_job *)arg;
    for (int64_t r = task * j.each, end = rows_end(j.n * j.c, j.each, task); r < end; r++) {
        int64_t c = r % j.c;
        const float *x = j.x + r * j.s, *dy = j.dy ? j.dy + r * j.s : NULL;
        float *y = j.y + r * j.s;
        vf mean = v_set1(j.mean[c]), slope = v_set1(j.slope[c]), shift = v_set1(j.shift[c]);
        if (dy) {
            vf gain = v_set1(j.gain[c]);
            EACH_VECTOR(
                j.s, (void)v;
                v_put(y + i, m, affine_dx(v_get(x + i, m), v_get(dy + i, m), mean, slope, shift, gain)));
        } else {
            EACH_VECTOR(j.s, (void)v; v_put(y + i, m, affine(v_get(x + i, m), mean, slope, shift)));
        }
    }
}

static void affine_columns(void *arg, int64_t task, int worker)
{
    (void)worker;
    const affine_job j = *(const affine_job *)arg;
    for (int64_t r = task * j.each, end = rows_end(j.n, j.each, task); r < end; r++) {
        const float *x = j.x + r * j.c, *dy = j.dy ? j.dy + r * j.c : NULL;
        float *y = j.y + r * j.c;
        EACH_VECTOR(j.c, {
            (void)v;
            vf mean = v_get(j.mean + i, m), slope = v_get(j.slope + i, m), shift = v_get(j.shift + i, m);
            vf out =
                dy ? affine_dx(v_get(x + i, m), v_get(dy + i, m), mean, slope, shift, v_get(j.gain + i, m))
                   : affine(v_get(x + i, m), mean, slope, shift);
            v_put(y + i, m, out);
        });
    }
}

static void run_affine(rk_dev *dev, affine_job *j)
{
    int64_t tasks, rows = j->s == 1 ? j->n : j->n * j->c, width = j->s == 1 ? j->c : j->s;
    j->each = rows_split(dev, rows, 2 + 0.1 * (double)width, &tasks);
    rk__parallel(dev, tasks, j->s == 1 ? affine_columns : affine_rows, j);
}

rk_status RK_NAME(batch_norm)(rk_dev *dev, int64_t n, int64_t c, int64_t s, const void *x, const void *mean,
                              const void *var, const void *gamma, const void *beta, double eps, void *y,
                              void *rstd)
{
    float *slope = rk__workspace(dev, 0, RK__WS_A, 2 * sizeof(float) * (size_t)c);
    if (!slope)
        return RK_ENOMEM;
    float *shift = slope + c;
    for (int64_t i = 0; i < c; i++) {
        float inv = rsqrt_of(((const float *)var)[i] + (float)eps);
        slope[i] = gamma ? inv * ((const float *)gamma)[i] : inv;
        shift[i] = beta ? ((const float *)beta)[i] : 0.0f;
        if (rstd)
            ((float *)rstd)[i] = inv;
    }
    affine_job j = { .n = n, .c = c, .s = s, .x = x, .mean = mean, .slope = slope, .shift = shift, .y = y };
    run_affine(dev, &j);
    return RK_OK;
}

rk_status RK_NAME(batch_norm_dx)(rk_dev *dev, int64_t n, int64_t c, int64_t s, int64_t count, const void *x,
                                 const void *mean, const void *rstd, const void *gamma, const void *dgamma,
                                 const void *dbeta, const void *dy, void *dx)
{
    float *slope = rk__workspace(dev, 0, RK__WS_A, 3 * sizeof(float) * (size_t)c);
    if (!slope)
        return RK_ENOMEM;
    float *shift = slope + c, *gain = shift + c;
    for (int64_t i = 0; i < c; i++) {
        float inv = ((const float *)rstd)[i];
        slope[i] = ((const float *)dgamma)[i] / (float)count * inv;
        shift[i] = ((const float *)dbeta)[i] / (float)count;
        gain[i] = gamma ? inv * ((const float *)gamma)[i] : inv;
    }
    affine_job j = { .n = n,
                     .c = c,
                     .s = s,
                     .x = x,
                     .dy = dy,
                     .mean = mean,
                     .slope = slope,
                     .shift = shift,
                     .gain = gain,
                     .y = dx };
    run_affine(dev, &j);
    return RK_OK;
}
