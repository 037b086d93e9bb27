/* Convolutions: outputs, and gradients of inputs. Both are products of packed weights with windows of a
 * padded image (conv.h): the gradient's image is dy, its taps are the kernel's, mirrored. With a stride, each
 * phase of the input (rows and columns modulo the stride) meets taps of its own and is a pass of its own. */
#include "cpu/isa/conv.h"

#include <stdatomic.h>

/* Tiles of pixels that share a block of weights; bytes of the image that they touch in a block of k: half of
 * a first-level cache. */
enum { SHARE = 4, BLOCK_BYTES = 16 << 10 };
/* Bytes of an image that leaves room in the first-level cache for weights and outputs. */
enum { SMALL_IMAGE = 16 << 10 };
/* Weights below this size are packed by one thread. */
enum { SHARED_PACK = 1 << 16 };

/* One grid of outputs with the same taps. */
typedef struct pass {
    int64_t rows, cols; /* the grid */
    int64_t ph, pw;     /* its phase of the output */
    int64_t k, taps;    /* terms; of one channel */
    ptrdiff_t *off;     /* (k) in the image */
    ptrdiff_t *weight;  /* (k) in a row of weights */
    float *a;           /* packed weights, all groups */
    rk__conv_vec *vec;
    int64_t vecs;
    bool whole; /* every vector keeps all lanes */
    int64_t at; /* of its plane 0 among the pass-ordered outputs of a sample's group */
} pass;

typedef struct job {
    rk_dev *dev;
    rk__conv_view view;
    rk_round round;
    bool relu;
    bool in_place; /* the image is read where it is */
    int64_t n, groups;
    int64_t in, out;            /* channels of a group: of the image, of the output */
    int64_t h, w;               /* output plane */
    int64_t stride_h, stride_w; /* of the phases in the output */
    const float *src, *weights, *bias;
    float *dst;
    int64_t weight_group,
        weight_row;        /* elements from group to group, from output channel to output channel */
    int64_t tiles, chunks; /* row tiles of a group; tasks that share them */
    int64_t reach;         /* rows of the image that one output reads */
    int64_t block;         /* terms of a block of k */
    pass *pass;
    int64_t passes;
    atomic_bool failed;
} job;

/* ---- row tiles: as even as can be ---- */

static int64_t tile_row(const job *j, int64_t t)
{
    int64_t each = j->out / j->tiles, extra = j->out % j->tiles;
    return t * each + (t < extra ? t : extra);
}

static int tile_rows(const job *j, int64_t t)
{
    return (int)(tile_row(j, t + 1) - tile_row(j, t));
}

/* ---- tables ---- */

/* What storing a vector that crosses an end of a row costs, in terms of k. */
enum { CROSSING = 8 };

static int64_t vecs_by_rows(int64_t rows, int64_t cols)
{
    return rows * ((cols + TV - 1) / TV);
}

/* Rows one by one; the last vector of a row may begin early, so that it is whole. */
static int64_t cut_rows(const rk__conv_view *v, int64_t rows, int64_t cols, rk__conv_vec *vec)
{
    const int64_t per_row = (cols + TV - 1) / TV;
    for (int64_t i = 0; i < rows * per_row; i++) {
        int64_t row = i / per_row, col = i % per_row * TV;
        if (col + TV > cols)
            col = cols > TV ? cols - TV : 0;
        vec[i] = (rk__conv_vec){ .src = row * v->pitch + col,
                                 .dst = row * cols + col,
                                 .count = (int32_t)(cols < TV ? cols : TV) };
        for (int l = 0; l < TV; l++)
            vec[i].lane[l] = l;
    }
    return rows * per_row;
}

/* One run through all rows, what lies between them included. */
static int64_t cut_run(const rk__conv_view *v, int64_t rows, int64_t cols, rk__conv_vec *vec)
{
    const int64_t run = (rows - 1) * v->pitch + cols;
    int64_t count = 0;
    for (int64_t src = 0; src < run; src += TV) {
        rk__conv_vec d = { .src = src };
        for (int l = 0; l < TV && src + l < run; l++) {
            int64_t r = (src + l) / v->pitch, c = (src + l) % v->pitch;
            if (c >= cols)
                continue;
            if (d.count == 0)
                d.dst = r * cols + c;
            d.lane[d.count++] = l;
        }
        if (d.count)
            vec[count++] = d;
    }
    return count;
}

/* Cuts the grid into vectors, the way that costs less for k terms. Returns how many. */
static int64_t cut_grid(const rk__conv_view *v, int64_t rows, int64_t cols, int64_t k, rk__conv_vec *vec)
{
    const int64_t by_rows = vecs_by_rows(rows, cols), run = ((rows - 1) * v->pitch + cols + TV - 1) / TV;
    const int64_t crossing = cols < TV ? CROSSING : 0; /* rows of less than a vector are never whole */
    /* Rows overlap in the image where the padding is wider than a window reaches (conv_view_init). */
    bool through = v->pitch >= cols && run < by_rows && run * (k + CROSSING) < by_rows * (k + crossing);
    return (through ? cut_run : cut_rows)(v, rows, cols, vec);
}

static bool all_whole(const rk__conv_vec *vec, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (vec[i].count != TV)
            return false;
    return true;
}

static void pack_tile(void *arg, int64_t task, int worker)
{
    const job *j = arg;
    (void)worker;
    int64_t group = task / j->tiles, t = task % j->tiles, row = tile_row(j, t), rows = tile_rows(j, t);
    const float *w = j->weights + group * j->weight_group + row * j->weight_row;
    for (int64_t p = 0; p < j->passes; p++) {
        const pass *s = &j->pass[p];
        float *a = s->a + (group * j->out + row) * s->k;
        for (int64_t k = 0; k < s->k; k++)
            for (int64_t m = 0; m < rows; m++)
                *a++ = w[m * j->weight_row + s->weight[k]];
    }
}

static void pack_weights(job *j)
{
    int64_t total = 0;
    for (int64_t p = 0; p < j->passes; p++)
        total += j->groups * j->out * j->pass[p].k;
    if (total > SHARED_PACK)
        rk__parallel(j->dev, j->groups * j->tiles, pack_tile, j);
    else
        for (int64_t t = 0; t < j->groups * j->tiles; t++)
            pack_tile(j, t, 0);
    if (j->round && j->passes)
        for (int64_t i = 0; i < total; i += TV)
            tv_store(j->pass[0].a + i, tv_narrow(j->round, tv_load(j->pass[0].a + i)));
}

/* ---- a task ---- */

/* Taps repeat from channel to channel. */
static void set_period(const job *j, const pass *s, rk__conv_tile *t)
{
    if (s->taps == RK__CONV_LONG) {
        t->period = RK__CONV_LONG;
        t->advance = j->view.plane;
    } else if (s->taps > 0 && RK__CONV_SHORT % s->taps == 0) {
        t->period = RK__CONV_SHORT;
        t->advance = RK__CONV_SHORT / s->taps * j->view.plane;
    }
}

/* Runs row tiles [t0, t1), all of the same height, for vectors [v0, v1) of the grid. In a block of k the
 * weights of one tile and the part of the image that the vectors read stay in the first-level cache. */
static void run_vectors(const job *j, const pass *s, int64_t group, int64_t t0, int64_t t1, int64_t v0,
                        int64_t v1, const float *image, float *held, float *y)
{
    const int rows = tile_rows(j, t0), most = rk__conv_vecs(rows);
    const int64_t row0 = tile_row(j, t0);
    rk__conv_tile t = { .rows = rows, .x = image, .relu = j->relu, .plane = s->rows * s->cols };
    set_period(j, s, &t);
    for (int64_t k = 0; k < s->k; k += t.k) {
        t.k = s->k - k < j->block ? s->k - k : j->block;
        t.off = s->off + k;
        t.first = k == 0;
        t.last = k + t.k == s->k;
        t.held = held;
        for (int64_t i = t0; i < t1; i++) {
            int64_t row = row0 + (i - t0) * rows, channel = group * j->out + row;
            t.a = s->a + channel * s->k + k * rows;
            t.bias = j->bias ? j->bias + channel : NULL;
            t.y = y + row * t.plane;
            for (int64_t v = v0; v < v1; v += most) {
                t.vec = s->vec + v;
                t.vecs = (int)(v1 - v < most ? v1 - v : most);
                t.whole = s->whole;
                if (!t.whole)
                    t.whole = all_whole(t.vec, t.vecs);
                RK_NAME(conv_tile)(&t);
                t.held += t.first && t.last ? 0 : RK__CONV_HELD;
            }
        }
    }
}

/* Runs row tiles [t0, t1), all of the same height, over the whole grid. An image that stays in the
 * first-level cache is passed once for each tile, so that few streams of outputs are written at a time; of a
 * larger one each part is used for all tiles at once. */
static void run_tiles(const job *j, const pass *s, int64_t group, int64_t t0, int64_t t1, const float *image,
                      float *held, float *y)
{
    const int64_t step = (int64_t)rk__conv_vecs(tile_rows(j, t0)) * SHARE;
    const bool small = j->in * j->view.plane * (int64_t)sizeof(float) <= SMALL_IMAGE && j->block >= s->k;
    for (int64_t i = t0; small && i < t1; i++)
        run_vectors(j, s, group, i, i + 1, 0, s->vecs, image, held, y);
    for (int64_t v = 0; !small && v < s->vecs; v += step)
        run_vectors(j, s, group, t0, t1, v, v + step < s->vecs ? v + step : s->vecs, image, held, y);
}

/* The terms of a block of k: as many channels as fit. */
static int64_t block_terms(const job *j)
{
    const int64_t lanes = (int64_t)rk__conv_vecs(tile_rows(j, 0)) * TV * SHARE;
    int64_t rows = lanes / j->view.pitch + j->reach,
            cols = lanes < j->view.pitch ? lanes + TV : j->view.pitch;
    int64_t bytes = (rows < j->view.rows ? rows : j->view.rows) * cols * (int64_t)sizeof(float);
    int64_t channels = BLOCK_BYTES / bytes, k = 0;
    for (int64_t p = 0; p < j->passes; p++)
        k = j->pass[p].k > k ? j->pass[p].k : k;
    if (channels >= j->in)
        return INT64_MAX;
    int64_t blocks = channels > 0 ? (j->in + channels - 1) / channels : j->in;
    return (j->in + blocks - 1) / blocks * (k / j->in > 0 ? k / j->in : 1);
}

static void interleave_row(float *restrict to, const float *restrict from, int64_t n, int64_t stride)
{
    for (int64_t c = 0; c < n; c++)
        to[c * stride] = from[c];
}

static void interleave_rows(float *restrict to, const float *restrict even, const float *restrict odd,
                            int64_t n)
{
    int64_t c = 0;
    for (; c + TV <= n; c += TV)
        v_store_interleaved(to + 2 * c, tv_load(even + c), tv_load(odd + c));
    for (; c < n; c++) {
        to[2 * c] = even[c];
        to[2 * c + 1] = odd[c];
    }
}

/* Row r of a channel in a pass's grid. Passes without a tap have one row of zeros for all. */
static const float *grid_row(const job *j, const pass *s, const float *grids, int64_t channel, int64_t r)
{
    return grids + (s->k ? s->at + (channel * s->rows + r) * s->cols : j->out * j->h * j->w);
}

/* Two passes side by side, two columns apart. */
static void interleave_pair(const job *j, const pass *even, const pass *odd, int64_t channel,
                            const float *grids, float *to)
{
    const float *e = grid_row(j, even, grids, channel, 0), *o = grid_row(j, odd, grids, channel, 0);
    const int64_t next_e = even->k ? even->cols : 0, next_o = odd->k ? odd->cols : 0;
    for (int64_t r = 0; r < even->rows; r++, e += next_e, o += next_o, to += j->stride_h * j->w) {
        interleave_rows(to, e, o, odd->cols);
        if (even->cols > odd->cols)
            to[2 * odd->cols] = e[odd->cols];
    }
}

/* Gathers the passes' grids of one channel into its plane. Passes are ordered by ph, then pw. */
static void interleave(const job *j, int64_t channel, const float *grids, float *plane)
{
    for (int64_t p = 0; p < j->passes; p++) {
        const pass *s = &j->pass[p], *next = p + 1 < j->passes ? s + 1 : NULL;
        float *to = plane + s->ph * j->w + s->pw;
        if (j->stride_w == 2 && next && next->ph == s->ph) {
            interleave_pair(j, s, next, channel, grids, to);
            p++;
            continue;
        }
        for (int64_t r = 0; r < s->rows; r++)
            interleave_row(to + r * j->stride_h * j->w, grid_row(j, s, grids, channel, r), s->cols,
                           j->stride_w);
    }
}

/* A sample's group, or a part of its row tiles. */
static void run_task(void *arg, int64_t task, int worker)
{
    job *j = arg;
    int64_t sample = task / (j->groups * j->chunks), group = task / j->chunks % j->groups,
            chunk = task % j->chunks;
    int64_t t0 = chunk * j->tiles / j->chunks, t1 = (chunk + 1) * j->tiles / j->chunks;
    int64_t split = j->out % j->tiles; /* the tiles before this one are one row taller */
    split = split < t0 ? t0 : split > t1 ? t1 : split;
    bool phased = j->passes > 1;

    float *copy =
        rk__workspace(j->dev, worker, RK__WS_B, (size_t)rk__conv_view_size(&j->view, j->in) * sizeof(float));
    float *held =
        rk__workspace(j->dev, worker, RK__WS_C, (size_t)(t1 - t0) * SHARE * RK__CONV_HELD * sizeof(float));
    float *grids = NULL, *y = j->dst + (sample * j->groups + group) * j->out * j->h * j->w;
    if (phased)
        grids =
            rk__workspace(j->dev, worker, RK__WS_D, (size_t)(j->out * j->h * j->w + j->w) * sizeof(float));
    if (!copy || !held || (phased && !grids)) {
        atomic_store(&j->failed, true);
        return;
    }
    const float *src = j->src + (sample * j->groups + group) * j->in * j->view.h * j->view.w;
    if (!j->in_place)
        RK_NAME(conv_view_copy)(&j->view, j->in, j->round, src, copy);
    const float *image = j->in_place ? src : copy;
    const int64_t plane = j->h * j->w, m0 = tile_row(j, t0), m1 = tile_row(j, t1);
    if (phased)
        memset(grids + j->out * plane, 0, (size_t)j->w * sizeof(float));
    else if (j->pass->k == 0)
        memset(y + m0 * plane, 0, (size_t)((m1 - m0) * plane) * sizeof(float));
    for (int64_t p = 0; p < j->passes; p++) {
        float *to = phased ? grids + j->pass[p].at : y;
        if (t0 < split)
            run_tiles(j, &j->pass[p], group, t0, split, image, held, to);
        if (split < t1)
            run_tiles(j, &j->pass[p], group, split, t1, image, held, to);
    }
    for (int64_t m = m0; phased && m < m1; m++)
        interleave(j, m, grids, y + m * plane);
}

/* ---- a job ---- */

/* Lays the passes' tables out in one workspace. k, rows and cols of each pass are known. */
static rk_status make_tables(job *j)
{
    int64_t terms = 0, vecs = 0, at = 0;
    for (int64_t p = 0; p < j->passes; p++) {
        const pass *s = &j->pass[p];
        terms += s->k;
        vecs += vecs_by_rows(s->rows, s->cols);
    }
    size_t bytes = (size_t)vecs * sizeof(rk__conv_vec) + (size_t)terms * 2 * sizeof(ptrdiff_t) +
                   (size_t)(j->groups * j->out * terms + TV) * sizeof(float);
    char *base = rk__workspace(j->dev, 0, RK__WS_A, bytes + 64);
    if (!base)
        return RK_ENOMEM;
    float *a = (float *)(void *)base;
    ptrdiff_t *off =
        (ptrdiff_t *)(void *)(base +
                              ((size_t)(j->groups * j->out * terms + TV) * sizeof(float) + 63) / 64 * 64);
    rk__conv_vec *vec = (rk__conv_vec *)(void *)(off + 2 * terms);
    for (int64_t p = 0; p < j->passes; p++) {
        pass *s = &j->pass[p];
        s->a = a;
        s->off = off;
        s->weight = off + s->k;
        s->vec = vec;
        s->vecs = cut_grid(&j->view, s->rows, s->cols, s->k, vec);
        s->whole = all_whole(vec, s->vecs);
        s->at = at;
        a += j->groups * j->out * s->k;
        off += 2 * s->k;
        vec += vecs_by_rows(s->rows, s->cols);
        at += j->out * s->rows * s->cols;
    }
    return RK_OK;
}

/* Sets of lines in a first-level cache, and lines in a set. */
enum { CACHE_SETS_BYTES = 4096, CACHE_WAYS = 8 };

/* An unpadded image whose vectors all lie within its planes need not be copied, if its channels do not meet
 * in few sets of the cache. To be asked when the vectors are known, and before offsets are. */
static void read_in_place(job *j)
{
    rk__conv_view *v = &j->view;
    const int64_t bytes = v->h * v->w * (int64_t)sizeof(float);
    int64_t apart = CACHE_SETS_BYTES; /* the largest power of two that planes are multiples of */
    while (bytes % apart)
        apart /= 2;
    j->in_place = !j->round && v->rows == v->h && v->cols == v->w && v->pad_h == 0 && v->pad_w == 0 &&
                  v->stride_h == 1 && v->stride_w == 1 && j->in <= CACHE_SETS_BYTES / apart * CACHE_WAYS;
    for (int64_t p = 0; p < j->passes; p++)
        j->in_place = j->in_place && (j->pass[p].whole || j->pass[p].k == 0);
    if (j->in_place)
        v->plane = v->h * v->w;
}

static rk_status run(job *j)
{
    pack_weights(j);
    j->block = block_terms(j);
    int64_t tasks = j->n * j->groups, wanted = rk__threads(j->dev) > 1 ? 4 * rk__threads(j->dev) : 1;
    j->chunks = tasks >= wanted ? 1 : (wanted + tasks - 1) / tasks;
    j->chunks = j->chunks < j->tiles ? j->chunks : j->tiles;
    rk__parallel(j->dev, tasks * j->chunks, run_task, j);
    return atomic_load(&j->failed) ? RK_ENOMEM : RK_OK;
}

rk_status RK_NAME(conv2d)(rk_dev *dev, const rk_conv2d_args *g, const void *x, const void *w,
                          const void *bias, rk_act act, void *y)
{
    if (act != RK_ACT_NONE && act != RK_ACT_RELU)
        return RK_EINTERNAL;
    if (g->n <= 0 || g->oc <= 0 || g->oh <= 0 || g->ow <= 0)
        return RK_OK;
    int64_t in = g->c / g->groups, out = g->oc / g->groups, taps = g->kh * g->kw;
    pass only = { .rows = g->oh, .cols = g->ow, .k = in * taps, .taps = taps };
    job j = { .dev = dev,
              .view = RK_NAME(conv_view_x)(g),
              .round = g->round,
              .relu = act == RK_ACT_RELU,
              .n = g->n,
              .groups = g->groups,
              .in = in,
              .out = out,
              .h = g->oh,
              .w = g->ow,
              .stride_h = 1,
              .stride_w = 1,
              .src = x,
              .weights = w,
              .bias = bias,
              .dst = y,
              .weight_group = out * in * taps,
              .weight_row = in * taps,
              .tiles = (out + RK__CONV_ROWS - 1) / RK__CONV_ROWS,
              .pass = &only,
              .passes = 1,
              .reach = (g->kh - 1) * g->dil_h / g->stride_h + 1 };
    rk_status st = make_tables(&j);
    if (st)
        return st;
    read_in_place(&j);
    for (int64_t k = 0; k < only.k; k++) {
        int64_t kh = k / g->kw % g->kh, kw = k % g->kw;
        only.weight[k] = k;
        only.off[k] = k / taps * j.view.plane + rk__conv_view_at(&j.view, kh * g->dil_h, kw * g->dil_w);
    }
    return run(&j);
}

/* ---- the gradient of the input ---- */

/* One axis of the input's gradient: input index i * stride + phase takes tap k from output index i + shift.
 */
typedef struct axis {
    int64_t in, k, stride, pad, dil;
} axis;

static bool tap_meets(const axis *a, int64_t phase, int64_t k)
{
    return (phase + a->pad - k * a->dil) % a->stride == 0;
}

/* Only for taps that meet, where the division is exact. */
static int64_t tap_shift(const axis *a, int64_t phase, int64_t k)
{
    return (phase + a->pad - k * a->dil) / a->stride;
}

static int64_t phase_size(const axis *a, int64_t phase)
{
    return (a->in - phase + a->stride - 1) / a->stride;
}

static int64_t phase_taps(const axis *a, int64_t phase)
{
    int64_t taps = 0;
    for (int64_t k = 0; k < a->k; k++)
        taps += tap_meets(a, phase, k);
    return taps;
}

static int64_t axis_phases(const axis *a)
{
    return a->stride < a->in ? a->stride : a->in;
}

/* The indices of dy that are read along the axis: `pad` zeros before, `size` in all. */
static void axis_extent(const axis *a, int64_t *pad, int64_t *size)
{
    int64_t lo = 0, hi = 1;
    for (int64_t p = 0; p < axis_phases(a); p++)
        for (int64_t k = 0; k < a->k; k++)
            if (tap_meets(a, p, k)) {
                int64_t shift = tap_shift(a, p, k), end = shift + phase_size(a, p);
                lo = shift < lo ? shift : lo;
                hi = end > hi ? end : hi;
            }
    *pad = -lo;
    *size = hi - lo;
}

static void fill_pass(const job *j, const rk_conv2d_args *g, const axis *ah, const axis *aw, pass *s)
{
    int64_t in_group = g->c / g->groups, i = 0;
    for (int64_t oc = 0; oc < j->in; oc++)
        for (int64_t kh = 0; kh < g->kh; kh++)
            for (int64_t kw = 0; kw < g->kw; kw++)
                if (tap_meets(ah, s->ph, kh) && tap_meets(aw, s->pw, kw)) {
                    s->weight[i] = (oc * in_group * g->kh + kh) * g->kw + kw;
                    s->off[i++] = oc * j->view.plane +
                                  (tap_shift(ah, s->ph, kh) + j->view.pad_h) * j->view.pitch +
                                  tap_shift(aw, s->pw, kw) + j->view.pad_w;
                }
}

rk_status RK_NAME(conv2d_dx)(rk_dev *dev, const rk_conv2d_args *g, const void *dy, const void *w, void *dx)
{
    if (g->n <= 0 || g->c <= 0 || g->h <= 0 || g->w <= 0)
        return RK_OK;
    const axis ah = { g->h, g->kh, g->stride_h, g->pad_h, g->dil_h },
               aw = { g->w, g->kw, g->stride_w, g->pad_w, g->dil_w };
    int64_t in = g->oc / g->groups, out = g->c / g->groups, taps = g->kh * g->kw;
    job j = { .dev = dev,
              .round = g->round,
              .n = g->n,
              .groups = g->groups,
              .in = in,
              .out = out,
              .h = g->h,
              .w = g->w,
              .stride_h = g->stride_h,
              .stride_w = g->stride_w,
              .src = dy,
              .weights = w,
              .dst = dx,
              .weight_group = in * out * taps,
              .weight_row = taps,
              .tiles = (out + RK__CONV_ROWS - 1) / RK__CONV_ROWS,
              .reach = (g->kh - 1) * g->dil_h / g->stride_h + 1 };
    j.view =
        (rk__conv_view){ .h = g->oh, .w = g->ow, .stride_h = 1, .stride_w = 1, .phases_h = 1, .phases_w = 1 };
    axis_extent(&ah, &j.view.pad_h, &j.view.rows);
    axis_extent(&aw, &j.view.pad_w, &j.view.cols);
    RK_NAME(conv_view_init)(&j.view);

    j.passes = axis_phases(&ah) * axis_phases(&aw);
    j.pass = rk__workspace(dev, 0, RK__WS_E, (size_t)j.passes * sizeof *j.pass);
    if (!j.pass)
        return RK_ENOMEM;
    for (int64_t p = 0; p < j.passes; p++) {
        int64_t ph = p / axis_phases(&aw), pw = p % axis_phases(&aw);
        int64_t meet = phase_taps(&ah, ph) * phase_taps(&aw, pw);
        j.pass[p] = (pass){ .rows = phase_size(&ah, ph),
                            .cols = phase_size(&aw, pw),
                            .ph = ph,
                            .pw = pw,
                            .k = in * meet,
                            .taps = meet };
    }
    rk_status st = make_tables(&j);
    if (st)
        return st;
    read_in_place(&j);
    for (int64_t p = 0; p < j.passes; p++)
        fill_pass(&j, g, &ah, &aw, &j.pass[p]);
    return run(&j);
}
