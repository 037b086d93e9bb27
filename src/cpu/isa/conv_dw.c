/* Gradients of convolution weights: dw(oc, r) = chain over (sample, oh, ow) of dy(oc, p) * x(p + off[r]),
 * where r runs over (c, kh, kw). Vectors run over output channels, so dy is packed pixel by pixel; x is read
 * element by element from the padded image (conv.h), whose taps are constant offsets. The sums wait in memory
 * between pieces of the chain, in the order [channel vectors][r][lane]; the segments' sums meet in the tree
 * of core/order.h. */
#include "cpu/isa/conv.h"

#include <stdatomic.h>

/* Widest panel of output channels, in vectors, and rows of r in a tile for each width. */
#if defined(RK_ISA_AVX512)
enum { MOST_VECS = 4, MOST_ROWS = 9 };
static const int rows_of[MOST_VECS] = { 9, 9, 8, 6 };
#elif defined(RK_ISA_AVX2)
enum { MOST_VECS = 2, MOST_ROWS = 9 };
static const int rows_of[MOST_VECS] = { 9, 6 };
#else
enum { MOST_VECS = 2, MOST_ROWS = 6 };
static const int rows_of[MOST_VECS] = { 6, 4 };
#endif

enum { UNROLL = 4 }; /* pixels a turn of a tile's loop */
/* Floats of dy that are packed at once, and the fewest pixels: the panel stays in the first-level cache, and
 * reading and writing the sums costs little beside the multiply-adds. */
enum { PANEL_FLOATS = 4096, PANEL_PIXELS = 128 };

/* A piece of the chain for one tile. */
typedef struct tile_args {
    const float *x;       /* where the image rows of the first pixel begin */
    const ptrdiff_t *off; /* (tile rows) from there to what each row of the tile reads */
    const float *dy;      /* packed: vecs * TV floats a pixel */
    int64_t images, rows, cols;
    int64_t pitch, image; /* of x: from row to row, from image to image */
    float *sum;           /* (tile rows, vecs * TV) */
    bool first;           /* the chain begins here */
} tile_args;

/* clang-format off */
#define EACH(i, n, most) RK_UNROLL for (int i = 0; i < (most); i++) if (i < (n))

/* One pixel: u pixels on from x and from dy. */
#define PIXEL(u)                                                                              \
    do {                                                                                      \
        tvec b[MOST_VECS];                                                                    \
        EACH(v, vecs, MOST_VECS) b[v] = tv_load(dy + ((u) * vecs + v) * TV);                  \
        EACH(m, rows, MOST_ROWS)                                                              \
        {                                                                                     \
            RK_OPAQUE(off[m]);                                                                \
            const tvec a = tv_set1(x[off[m] + (u)]);                                          \
            EACH(v, vecs, MOST_VECS) v_accumulate(&sum[m][v], a, b[v]);                       \
        }                                                                                     \
        RK_IN_ORDER();                                                                        \
    } while (0)

TV_INLINE void tile(const int rows, const int vecs, const tile_args *t)
{
    tvec sum[MOST_ROWS][MOST_VECS];
    EACH(m, rows, MOST_ROWS)
        EACH(v, vecs, MOST_VECS) sum[m][v] = t->first ? tv_zero() : tv_load(t->sum + (m * vecs + v) * TV);
    ptrdiff_t off[MOST_ROWS];
    EACH(m, rows, MOST_ROWS) off[m] = t->off[m];
    const float *dy = t->dy;
    for (int64_t i = 0; i < t->images; i++)
        for (int64_t r = 0; r < t->rows; r++) {
            const float *x = t->x + i * t->image + r * t->pitch;
            int64_t left = t->cols;
            for (; left >= UNROLL; left -= UNROLL, x += UNROLL, dy += UNROLL * vecs * TV)
                EACH(u, UNROLL, UNROLL) PIXEL(u);
            for (; left > 0; left--, x++, dy += vecs * TV)
                PIXEL(0);
        }
    EACH(m, rows, MOST_ROWS)
        EACH(v, vecs, MOST_VECS) tv_store(t->sum + (m * vecs + v) * TV, sum[m][v]);
}

#define TILE(m, v)                                                          \
    static __attribute__((noinline)) void tile_##m##_##v(const tile_args *t) \
    {                                                                       \
        tile(m, v, t);                                                      \
    }
#define TILES4(v) TILE(1, v) TILE(2, v) TILE(3, v) TILE(4, v)
#define TILES6(v) TILES4(v) TILE(5, v) TILE(6, v)
#define TILES9(v) TILES6(v) TILE(7, v) TILE(8, v) TILE(9, v)
#define ROW4(v) tile_1_##v, tile_2_##v, tile_3_##v, tile_4_##v
#define ROW6(v) ROW4(v), tile_5_##v, tile_6_##v
#define ROW8(v) ROW6(v), tile_7_##v, tile_8_##v
#define ROW9(v) ROW8(v), tile_9_##v

/* The heights of each width are those of rows_of. */
#if defined(RK_ISA_AVX512)
TILES9(1) TILES9(2) TILES6(3) TILE(7, 3) TILE(8, 3) TILES6(4)
#define TABLE { ROW9(1) }, { ROW9(2) }, { ROW8(3) }, { ROW6(4) }
#elif defined(RK_ISA_AVX2)
TILES9(1) TILES6(2)
#define TABLE { ROW9(1) }, { ROW6(2) }
#else
TILES6(1) TILES4(2)
#define TABLE { ROW6(1) }, { ROW4(2) }
#endif

    /* clang-format on */

    typedef void tile_fn(const tile_args *);
static tile_fn *const tiles[MOST_VECS][MOST_ROWS] = { TABLE };

/* ---- the job ---- */

typedef struct job {
    rk_dev *dev;
    const rk_conv2d_args *g;
    rk__conv_view view;
    rk_order order;
    int64_t c, oc, taps, r;      /* of a group; r = c * taps */
    int64_t lanes;               /* oc, rounded up to whole vectors */
    int subtrees;                /* of the tree of segments, each a task's */
    int64_t c_blocks, oc_blocks; /* tasks that share a group's weights */
    const float *x, *dy;
    float *dw;
    float *partial; /* (subtrees, groups, lanes * r) */
    atomic_bool failed;
} job;

/* A task: weights of channels [c0, c1) and output channel vectors [v0, v1) of a group, samples of one
 * subtree. */
typedef struct part {
    const job *j;
    int64_t group, c0, c1, v0, v1;
    ptrdiff_t *off; /* (rows of r) in the image; a workspace, as these two */
    float *image, *panel;
    int64_t images; /* that `image` holds */
    int64_t image_size;
} part;

/* Where the sums of vector v begin in a block of so many rows. */
static int64_t sums_at(const part *p, int64_t v)
{
    return (v - p->v0) * TV * (p->c1 - p->c0) * p->j->taps;
}

static int64_t block_size(const part *p)
{
    return sums_at(p, p->v1);
}

/* Packs pixels [p0, p0 + n) of a panel of `vecs` vectors of output channels from v on: out (n, vecs * TV). */
static void pack_dy(const part *p, int64_t sample, int64_t v, int vecs, int64_t p0, int64_t n, float *out)
{
    const job *j = p->j;
    const int64_t plane = j->g->oh * j->g->ow, width = vecs * TV;
    for (int i = 0; i < vecs; i++, out += TV) {
        int64_t first = (v + i) * TV, lanes = j->oc - first < TV ? j->oc - first : TV;
        const float *src = j->dy + (sample * j->g->oc + p->group * j->oc + first) * plane + p0;
        for (int64_t q = 0; q < n; q += TV) {
            tvec t[TV];
            int64_t left = n - q;
            RK_UNROLL for (int l = 0; l < TV; l++) t[l] = l >= lanes   ? tv_zero()
                                                          : left >= TV ? tv_load(src + l * plane + q)
                                                                       : tv_load_n(src + l * plane + q, left);
            tv_transpose(t);
            RK_UNROLL for (int l = 0; l < TV; l++) if (l < left)
                tv_store(out + (q + l) * width, tv_narrow(j->g->round, t[l]));
        }
    }
}

/* Runs all tiles of a panel over packed pixels; x: where the pixels' image rows begin. */
static void run_panel(const part *p, int64_t v, int vecs, tile_args *t, const float *x, float *sums)
{
    const job *j = p->j;
    const int64_t rows = (p->c1 - p->c0) * j->taps,
                  count = (rows + rows_of[vecs - 1] - 1) / rows_of[vecs - 1];
    float *sum = sums + sums_at(p, v);
    int64_t r = 0;
    t->x = x;
    for (int64_t i = 0; i < count; i++) {
        int high = (int)((rows - r + count - i - 1) / (count - i));
        t->off = p->off + r;
        r += high;
        t->sum = sum;
        tiles[vecs - 1][high - 1](t);
        sum += high * vecs * TV;
    }
}

static int panel_vecs(const part *p, int64_t v)
{
    return (int)(p->v1 - v < MOST_VECS ? p->v1 - v : MOST_VECS);
}

/* Pixels of a panel of so many vectors that are packed at once. */
static int64_t panel_pixels(int vecs)
{
    int64_t pixels = PANEL_FLOATS / (vecs * TV);
    return pixels > PANEL_PIXELS ? pixels : PANEL_PIXELS;
}

/* Adds whole images to the chains. */
static void add_images(const part *p, int64_t sample, int64_t images, bool first, float *sums)
{
    const rk_conv2d_args *g = p->j->g;
    tile_args t = { .dy = p->panel,
                    .images = images,
                    .rows = g->oh,
                    .cols = g->ow,
                    .pitch = p->j->view.pitch,
                    .image = p->image_size,
                    .first = first };
    for (int64_t v = p->v0; v < p->v1; v += MOST_VECS) {
        int vecs = panel_vecs(p, v);
        for (int64_t i = 0; i < images; i++)
            pack_dy(p, sample + i, v, vecs, 0, g->oh * g->ow, p->panel + i * g->oh * g->ow * vecs * TV);
        run_panel(p, v, vecs, &t, p->image, sums);
    }
}

/* Adds one image, some rows at a time. */
static void add_rows(const part *p, int64_t sample, int64_t rows, bool first, float *sums)
{
    const rk_conv2d_args *g = p->j->g;
    for (int64_t r = 0; r < g->oh; r += rows) {
        tile_args t = { .dy = p->panel,
                        .images = 1,
                        .rows = g->oh - r < rows ? g->oh - r : rows,
                        .cols = g->ow,
                        .pitch = p->j->view.pitch,
                        .first = first && r == 0 };
        for (int64_t v = p->v0; v < p->v1; v += MOST_VECS) {
            int vecs = panel_vecs(p, v);
            pack_dy(p, sample, v, vecs, r * g->ow, t.rows * g->ow, p->panel);
            run_panel(p, v, vecs, &t, p->image + r * p->j->view.pitch, sums);
        }
    }
}

/* One chain: samples [lo, hi), from +0 if `first`, else from what is in sums. */
static void chain(const part *p, int64_t lo, int64_t hi, bool first, float *sums)
{
    const job *j = p->j;
    const rk_conv2d_args *g = j->g;
    if (first && lo == hi)
        memset(sums, 0, (size_t)block_size(p) * sizeof(float));
    int64_t rows = panel_pixels(panel_vecs(p, p->v0)) / g->ow;
    rows = rows > 0 ? rows : 1;
    for (int64_t n = lo; n < hi; n += p->images) {
        int64_t images = hi - n < p->images ? hi - n : p->images;
        for (int64_t i = 0; i < images; i++) {
            const float *src = j->x + ((n + i) * g->c + p->group * j->c + p->c0) * g->h * g->w;
            RK_NAME(conv_view_copy)(&j->view, p->c1 - p->c0, g->round, src, p->image + i * p->image_size);
        }
        if (rows < g->oh)
            add_rows(p, n, rows, first && n == lo, sums);
        else
            add_images(p, n, images, first && n == lo, sums);
    }
}

/* The tree over samples [lo, hi); spare: one block for each level below. */
static void tree(const part *p, int64_t lo, int64_t hi, int segments, float *sums, float *spare)
{
    if (segments == 1) {
        chain(p, lo, hi, true, sums);
        return;
    }
    int64_t mid = rk_order_mid(lo, hi), size = block_size(p);
    tree(p, lo, mid, segments / 2, sums, spare);
    tree(p, mid, hi, segments / 2, spare, spare + size);
    for (int64_t i = 0; i < size; i += TV)
        tv_store(sums + i, tv_add(tv_load(sums + i), tv_load(spare + i)));
}

/* Visits a part's sums by squares: TV rows of r by a vector of output channels, transposed to lie as in dw.
 */
typedef enum direction { SUMS_TO_DW, ADD_TO_DW, DW_TO_SUMS } direction;

/* One square: `rows` rows of r, the channels from `first` on that exist. */
static void exchange_square(const job *j, direction d, float *sums, int64_t width, float *dw, int64_t rows,
                            int64_t lanes)
{
    tvec t[TV];
    RK_UNROLL for (int i = 0; i < TV; i++) t[i] =
        d == DW_TO_SUMS ? (i < lanes ? tv_load_n(dw + i * j->r, rows) : tv_zero())
                        : (i < rows ? tv_load(sums + i * width) : tv_zero());
    tv_transpose(t);
    if (d == DW_TO_SUMS) {
        for (int i = 0; i < TV && i < rows; i++)
            tv_store(sums + i * width, t[i]);
        return;
    }
    for (int i = 0; i < TV && i < lanes; i++) {
        tvec v = d == ADD_TO_DW ? tv_add(tv_load_n(dw + i * j->r, rows), t[i]) : t[i];
        if (rows >= TV)
            tv_store(dw + i * j->r, v);
        else
            tv_store_n(dw + i * j->r, rows, v);
    }
}

static void exchange(const part *p, direction d, float *sums)
{
    const job *j = p->j;
    const int64_t rows = (p->c1 - p->c0) * j->taps;
    for (int64_t v = p->v0; v < p->v1; v++) {
        int64_t panel = p->v0 + (v - p->v0) / MOST_VECS * MOST_VECS, width = panel_vecs(p, panel) * TV;
        float *dw = j->dw + (p->group * j->oc + v * TV) * j->r + p->c0 * j->taps;
        for (int64_t r = 0; r < rows; r += TV)
            exchange_square(j, d, sums + sums_at(p, panel) + (v - panel) * TV + r * width, width, dw + r,
                            rows - r < TV ? rows - r : TV, j->oc - v * TV);
    }
}

/* ---- tasks ---- */

/* Which weights a task has; tasks of one subtree are numbered from 0. */
static part part_of(const job *j, int64_t task)
{
    int64_t cb = task % j->c_blocks, ob = task / j->c_blocks % j->oc_blocks, vecs = j->lanes / TV;
    return (part){ .j = j,
                   .group = task / (j->c_blocks * j->oc_blocks),
                   .c0 = cb * j->c / j->c_blocks,
                   .c1 = (cb + 1) * j->c / j->c_blocks,
                   .v0 = ob * vecs / j->oc_blocks,
                   .v1 = (ob + 1) * vecs / j->oc_blocks };
}

static int64_t parts(const job *j)
{
    return j->g->groups * j->oc_blocks * j->c_blocks;
}

static float *partial_of(const part *p, int subtree)
{
    const job *j = p->j;
    return j->partial + (subtree * j->g->groups + p->group) * j->lanes * j->r + p->v0 * TV * j->r +
           p->c0 * j->taps * (p->v1 - p->v0) * TV;
}

static rk_status get_workspaces(part *p, int worker, int levels, float **spare)
{
    const job *j = p->j;
    int64_t plane = j->g->oh * j->g->ow, pixels = panel_pixels(panel_vecs(p, p->v0)),
            room = (256 << 10) / sizeof(float);
    p->image_size = rk__conv_view_size(&j->view, p->c1 - p->c0);
    p->images = pixels / plane < room / p->image_size ? pixels / plane : room / p->image_size;
    p->images = p->images < 1 ? 1 : p->images > j->g->n ? j->g->n : p->images;
    int64_t held = p->images * plane > pixels + j->g->ow ? p->images * plane : pixels + j->g->ow;
    p->image = rk__workspace(j->dev, worker, RK__WS_B, (size_t)(p->images * p->image_size) * sizeof(float));
    p->panel = rk__workspace(j->dev, worker, RK__WS_C, (size_t)(held * MOST_VECS * TV) * sizeof(float));
    p->off = rk__workspace(j->dev, worker, RK__WS_E, (size_t)((p->c1 - p->c0) * j->taps) * sizeof *p->off);
    *spare = levels
                 ? rk__workspace(j->dev, worker, RK__WS_D, (size_t)(levels * block_size(p)) * sizeof(float))
                 : NULL;
    return p->image && p->panel && p->off && (*spare || !levels) ? RK_OK : RK_ENOMEM;
}

static void fill_offsets(const part *p)
{
    const job *j = p->j;
    ptrdiff_t *off = p->off;
    for (int64_t c = 0; c < p->c1 - p->c0; c++)
        for (int64_t kh = 0; kh < j->g->kh; kh++)
            for (int64_t kw = 0; kw < j->g->kw; kw++)
                *off++ = c * j->view.plane + rk__conv_view_at(&j->view, kh * j->g->dil_h, kw * j->g->dil_w);
}

static void run_task(void *arg, int64_t task, int worker)
{
    job *j = arg;
    part p = part_of(j, task % parts(j));
    int subtree = (int)(task / parts(j)), segments = j->order.segments / j->subtrees, levels = 0;
    while (1 << levels < segments)
        levels++;
    float *spare, *sums = partial_of(&p, subtree);
    if (get_workspaces(&p, worker, levels, &spare)) {
        atomic_store(&j->failed, true);
        return;
    }
    fill_offsets(&p);
    int64_t lo, hi;
    rk_order_leaf(j->g->n, j->subtrees, subtree, &lo, &hi);
    if (j->order.acc == RK_ACC_CHAIN) {
        exchange(&p, DW_TO_SUMS, sums);
        chain(&p, lo, hi, false, sums);
    } else {
        tree(&p, lo, hi, segments, sums, spare);
    }
}

/* Adds the subtrees' sums and brings them to dw. */
static void finish_task(void *arg, int64_t task, int worker)
{
    const job *j = arg;
    part p = part_of(j, task);
    (void)worker;
    const int64_t size = block_size(&p);
    for (int step = 1; step < j->subtrees; step *= 2)
        for (int s = 0; s < j->subtrees; s += 2 * step) {
            float *left = partial_of(&p, s), *right = partial_of(&p, s + step);
            for (int64_t i = 0; i < size; i += TV)
                tv_store(left + i, tv_add(tv_load(left + i), tv_load(right + i)));
        }
    exchange(&p, j->order.acc == RK_ACC_ADD ? ADD_TO_DW : SUMS_TO_DW, partial_of(&p, 0));
}

/* Shares the work: subtrees first (they share nothing), then channels, then output channels. */
static void cut(job *j, int threads)
{
    int64_t wanted = threads > 1 ? 2 * threads : 1, vecs = j->lanes / TV;
    j->subtrees = 1;
    while (j->subtrees < j->order.segments && j->subtrees * j->g->groups < wanted)
        j->subtrees *= 2;
    int64_t tasks = j->subtrees * j->g->groups;
    j->c_blocks = tasks < wanted ? (wanted + tasks - 1) / tasks : 1;
    j->c_blocks = j->c_blocks < j->c ? j->c_blocks : j->c;
    tasks *= j->c_blocks;
    j->oc_blocks = tasks < wanted ? (wanted + tasks - 1) / tasks : 1;
    j->oc_blocks = j->oc_blocks < vecs ? j->oc_blocks : vecs;
}

rk_status RK_NAME(conv2d_dw)(rk_dev *dev, const rk_conv2d_args *g, rk_order order, const void *x,
                             const void *dy, void *dw)
{
    if (order.acc == RK_ACC_CHAIN && order.segments > 1)
        return RK_EINTERNAL;
    order.segments = order.segments > 0 ? order.segments : 1;
    job j = {
        .dev = dev, .g = g, .view = RK_NAME(conv_view_x)(g), .order = order, .x = x, .dy = dy, .dw = dw
    };
    j.c = g->c / g->groups;
    j.oc = g->oc / g->groups;
    j.taps = g->kh * g->kw;
    j.r = j.c * j.taps;
    j.lanes = (j.oc + TV - 1) / TV * TV;
    if (j.r <= 0 || j.oc <= 0)
        return RK_OK;
    cut(&j, rk__threads(dev));
    j.partial =
        rk__workspace(dev, 0, RK__WS_A, (size_t)(j.subtrees * g->groups * j.lanes * j.r) * sizeof(float));
    if (!j.partial)
        return RK_ENOMEM;
    rk__parallel(dev, j.subtrees * parts(&j), run_task, &j);
    if (atomic_load(&j.failed))
        return RK_ENOMEM;
    rk__parallel(dev, parts(&j), finish_task, &j);
    return RK_OK;
}
