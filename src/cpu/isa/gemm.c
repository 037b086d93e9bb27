/* The product kernel in canonical order: panels, blocks and tasks around the register tile (tile.h).
 *
 * Loops, outermost first: column blocks, blocks of k, row blocks; in each the rows' operand is packed for
 * all, then tasks of panels by row panels run tiles. How the loops are cut changes no bit: every element is
 * one chain a leaf.
 *
 * bf16 and f16: operands are rounded while they are packed and then multiplied as floats, on every
 * instruction set. A product of two such numbers is exact in float, so the chain rounds once a term, as for
 * floats. vdpbf16ps is not used: it adds two terms an instruction and takes denormals for zero, so its bits
 * are not those of a chain. */
#include "cpu/isa/sweep.h"
#include "cpu/isa/tile.h"

#include <string.h>

enum {
    K_BLOCK = 1024,       /* terms of a block: fewer passes over c and the partial sums */
    K_BLOCK_DIRECT = 192, /* rows read at a stride: a line a term, which the next tiles find again */
    K_BLOCK_TURNED = 64,  /* for few rows: columns just turned stay in the first-level cache */
    A_BLOCK_BYTES =
        VL == 16 ? 640 << 10 : 4 << 20, /* packed rows at hand: they stream, so far caches will do */
    A_DIRECT_COLUMNS = 128,             /* fewer columns do not repay the packing of rows */
    TURNED_VECS = VL == 16 ? 4 : 2,     /* more columns at once than prefetchers follow are slower */
    SWAP_MIN_TERMS = 64,                /* shorter sums do not repay turning the result */
    B_SMALL_BYTES = 200 << 10,          /* a block of columns that fits beside them */
    COLUMN_BLOCK = 4096,                /* columns whose packed block of k is kept for several row blocks */
    THIN_TERMS = 32,                    /* so few that a call costs as much as they do */
    WIDE_TERMS = 2,                     /* so few that writing c takes longest */
    SPREAD_LEAST_TERMS = 8,             /* ways of a set of the first-level cache */
    MIN_TASK_TERMS = 1 << 17,           /* multiply-adds worth a thread: about 3 us */
    SWEEP_LEAST_COLUMNS = 256,          /* rows of b long enough for a prefetcher */
    SWEEP_LONG_COLUMNS = 1024,          /* so long that tiles lose their prefetchers and cache sets */
    SWEEP_MOST_ROWS = 16,               /* more repay the packing of b */
    SWEEP_SUMS = 6144,                  /* sums of a group of rows: 24 KB */
    SWEEP_STRIP = 32,                   /* rows of b that several groups of rows find in a near cache */
    PACK_ROWS = 16                      /* k rows packed before the next panel: their lines are read once */
};

/* A product whose roles are settled: rows are broadcast, columns are vectors. */
typedef struct product {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_step;
    const float *b;
    int64_t b_step, b_lane;
    int segments;
    int64_t unit;
    bool chain;
    rk_round round;
    rk__epilogue out;
} product;

/* Consecutive terms that one pass takes: whole leaves, or a piece of one. */
typedef struct block {
    int64_t k0, k;
    const int64_t *run;
    int runs, leaf;
    bool resume, partial;
} block;

typedef struct plan {
    int vecs;
    int64_t width;                     /* columns of a panel */
    int64_t most_rows, tiles, height;  /* rows of a tile; tiles and rows of a row panel, at most */
    int64_t row_panels, col_panels;    /* row panels are balanced: rows differ by one at most */
    int64_t row_step, col_step;        /* row panels of a row block, column panels of a column block */
    bool a_direct, b_direct, b_turned; /* read in place */
    bool thin;                         /* few terms: columns of tiles a call */
    block *blocks;
    int count, held_levels;
    int64_t *runs, runs_used, k_block, k_most;
} plan;

/* Who works: all threads of the device, or one worker inside a task. */
typedef struct team {
    rk_dev *dev;
    int threads, worker;
} team;

typedef struct pass {
    const product *p;
    const plan *plan;
    const block *block;
    const team *team;
    int64_t row0, row1, col0, col1; /* panels */
    int64_t row_cuts, col_cuts;     /* tasks */
    bool fill, last;                /* b's panels are not packed yet; the last block */
    float *a, *b, *held;
} pass;

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static void team_run(const team *t, int64_t tasks, rk__task *fn, void *arg)
{
    if (t->threads > 1)
        rk__parallel(t->dev, tasks, fn, arg);
    else
        for (int64_t i = 0; i < tasks; i++)
            fn(arg, i, t->worker);
}

/* ---- blocks of k ---- */

static void add_leaves(plan *pl, int64_t units, int64_t unit, int segments)
{
    if (segments == 1) {
        pl->runs[pl->runs_used++] = units * unit;
        return;
    }
    int64_t mid = rk_order_mid(0, units);
    add_leaves(pl, mid, unit, segments / 2);
    add_leaves(pl, units - mid, unit, segments / 2);
}

static block *add_block(plan *pl, int64_t k0, int64_t k, int leaf)
{
    block *b = &pl->blocks[pl->count++];
    *b = (block){ .k0 = k0, .k = k, .leaf = leaf, .run = pl->runs + pl->runs_used };
    if (k > pl->k_most)
        pl->k_most = k;
    return b;
}

/* Cuts the subtree over units [lo, hi) that begins at `leaf`: at its halves while it is too long, then
 * anywhere. */
static void add_blocks(plan *pl, int64_t lo, int64_t hi, int64_t unit, int leaf, int segments)
{
    int64_t k = (hi - lo) * unit, k0 = lo * unit;
    if (k <= pl->k_block) {
        block *b = add_block(pl, k0, k, leaf);
        add_leaves(pl, hi - lo, unit, segments);
        b->runs = segments;
    } else if (segments > 1) {
        int64_t mid = rk_order_mid(lo, hi);
        add_blocks(pl, lo, mid, unit, leaf, segments / 2);
        add_blocks(pl, mid, hi, unit, leaf + segments / 2, segments / 2);
    } else {
        int64_t each = ceil_div(ceil_div(k, ceil_div(k, pl->k_block)), 16) * 16;
        for (int64_t at = 0; at < k; at += each) {
            block *b = add_block(pl, k0 + at, min64(each, k - at), leaf);
            pl->runs[pl->runs_used++] = b->k;
            b->runs = 1;
            b->resume = at > 0;
            b->partial = at + each < k;
        }
    }
}

/* Columns whose k is contiguous, for one tile's rows. */
static bool turns_in_registers(const product *p)
{
    return !p->round && p->b_lane != 1 && p->b_step == 1 && p->n >= TURNED_VECS * VL &&
           RK_NAME(tile_has)(RK__TILE_TURNED, TURNED_VECS, p->m);
}

static bool plan_blocks(plan *pl, const product *p, const team *t)
{
    bool turned = p->b_lane != 1 && p->m < VL;
    pl->k_block = turned && !turns_in_registers(p) ? K_BLOCK_TURNED : K_BLOCK;
    if (!p->round && p->a_row == 1 && p->n <= A_DIRECT_COLUMNS)
        pl->k_block = K_BLOCK_DIRECT;
    int64_t most = p->k / pl->k_block + 1;
    int64_t blocks = min64(most * (TILE_SEGMENTS_LOG2 + 2), 2 * (int64_t)p->segments) + most;
    int64_t runs = p->segments + blocks;
    size_t bytes = (size_t)blocks * sizeof(block) + (size_t)runs * sizeof(int64_t);
    pl->blocks = rk__workspace(t->dev, t->worker, RK__WS_E, bytes);
    if (!pl->blocks)
        return false;
    pl->runs = (int64_t *)(pl->blocks + blocks);
    add_blocks(pl, 0, p->k / p->unit, p->unit, 0, p->segments);
    for (int i = 0; i + 1 < pl->count; i++) {
        const block *b = &pl->blocks[i];
        int next = b->partial ? b->leaf : b->leaf + b->runs;
        int levels = __builtin_popcount((unsigned)next) + b->partial;
        if (levels > pl->held_levels)
            pl->held_levels = levels;
    }
    return true;
}

/* ---- panels ---- */

static int64_t first_row(const product *p, const plan *pl, int64_t panel)
{
    int64_t each = p->m / pl->row_panels, more = p->m % pl->row_panels;
    return panel * each + min64(panel, more);
}

/* Few rows take wide tiles, so that enough chains run side by side, and so do few terms, whose time goes into
 * writing long pieces of c; few columns take tall ones. */
static int vecs_for(const product *p, bool turned)
{
    const int64_t m = p->m, n = p->n;
    if (turned)
        return TURNED_VECS;
    if ((m <= rk__tile_rows(8) && n > 4 * VL) || (VL == 8 && p->k <= WIDE_TERMS && n >= 8 * VL))
        return 8;
    if (m <= rk__tile_rows(4) && n > 3 * VL)
        return 4;
    if (VL == 8 && m % 4 == 0 && m <= 16 && n > 2 * VL) /* whole tiles: four rows by three vectors */
        return 3;
    return (int)min64(ceil_div(n, VL), TILE_VECS);
}

/* Few terms, or short leaves that one call adds up. */
static bool is_thin(const product *p)
{
    if (p->chain || p->round || p->m <= TILE_TALL)
        return false;
    if (p->segments == 1)
        return p->k <= THIN_TERMS;
    return p->k < (int64_t)p->segments * TILE_SHORT_LEAF && RK_NAME(tile_has_groups)(p->segments) &&
           p->a_row == 1 && p->n >= TILE_COLS && !p->out.transposed && !p->out.relu_mask;
}

static void plan_panels(plan *pl, const product *p, const team *t)
{
    pl->b_turned = turns_in_registers(p);
    pl->vecs = vecs_for(p, pl->b_turned);
    pl->width = (int64_t)pl->vecs * VL;
    pl->col_panels = ceil_div(p->n, pl->width);
    pl->most_rows = rk__tile_rows(pl->vecs);
    pl->tiles = pl->vecs == 4 ? 2 : 1;
    pl->height = pl->most_rows * pl->tiles;
    pl->row_panels = ceil_div(p->m, pl->height);
    int64_t a_bytes = pl->height * pl->k_most * (int64_t)sizeof(float);
    int64_t b_bytes = pl->col_panels * pl->width * pl->k_most * (int64_t)sizeof(float);
    pl->row_step = A_BLOCK_BYTES * t->threads / (a_bytes + 1);
    if (b_bytes <= B_SMALL_BYTES && pl->row_step < pl->row_panels)
        pl->row_step = 4 * t->threads;
    if (pl->row_step < 1)
        pl->row_step = 1;
    pl->row_step = ceil_div(pl->row_panels, ceil_div(pl->row_panels, pl->row_step));
    pl->thin = is_thin(p) && !pl->b_turned;
    bool one = pl->row_step >= pl->row_panels;
    pl->col_step = one ? pl->col_panels : min64(pl->col_panels, COLUMN_BLOCK / pl->width);
    /* In place: each element of a is then read once a panel, at a stride. */
    bool aliased = p->a_row * (int64_t)sizeof(float) % 4096 == 0;
    bool in_place = VL < 16 || (p->n <= 512 && !aliased);
    pl->a_direct = !p->round && (p->a_row == 1 ? p->n <= A_DIRECT_COLUMNS : in_place);
    pl->a_direct |= pl->thin;
    pl->b_direct = !p->round && p->b_lane == 1 && RK_NAME(tile_has)(RK__TILE_DIRECT, pl->vecs, p->m);
}

/* ---- a pass: one block of k, one row block, one column block ---- */

static float *a_panel(const pass *s, int64_t panel)
{
    return s->a + (first_row(s->p, s->plan, panel) - first_row(s->p, s->plan, s->row0)) * s->block->k;
}

static void cut(int64_t lo, int64_t hi, int64_t cuts, int64_t i, int64_t *from, int64_t *to)
{
    *from = lo + (hi - lo) * i / cuts;
    *to = lo + (hi - lo) * (i + 1) / cuts;
}

static void pack_a_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const pass *s = arg;
    const product *p = s->p;
    int64_t from, to, k = s->block->k, rows_at_once = p->a_row == 1 ? PACK_ROWS : k;
    cut(s->row0, s->row1, s->row_cuts, task, &from, &to);
    for (int64_t x = 0; x < k; x += rows_at_once)
        for (int64_t i = from; i < to; i++) {
            int64_t row = first_row(p, s->plan, i), rows = first_row(p, s->plan, i + 1) - row;
            const float *src = p->a + row * p->a_row + (s->block->k0 + x) * p->a_step;
            RK_NAME(pack)
            (src, p->a_step, p->a_row, min64(rows_at_once, k - x), rows, rows, p->round,
             a_panel(s, i) + x * rows);
        }
}

/* The last panel is as wide as it must be. */
static int panel_vecs(const pass *s, int64_t panel)
{
    int64_t vecs = ceil_div(s->p->n - panel * s->plan->width, VL);
    return vecs >= s->plan->vecs || rk__tile_rows((int)vecs) == 0 ? s->plan->vecs : (int)vecs;
}

static void pack_b_panel(const pass *s, int64_t panel, float *to)
{
    const product *p = s->p;
    int64_t col = panel * s->plan->width;
    const float *src = p->b + s->block->k0 * p->b_step + col * p->b_lane;
    RK_NAME(pack)
    (src, p->b_step, p->b_lane, s->block->k, min64(s->plan->width, p->n - col),
     (int64_t)panel_vecs(s, panel) * VL, p->round, to);
}

static void pack_b_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const pass *s = arg;
    int64_t from, to;
    cut(s->col0, s->col1, s->col_cuts, task, &from, &to);
    for (int64_t j = from; j < to; j++)
        pack_b_panel(s, j, s->b + (j - s->col0) * s->plan->width * s->block->k);
}

static rk__tile tile_of(const pass *s, int64_t panel)
{
    const product *p = s->p;
    const block *b = s->block;
    int64_t col = panel * s->plan->width;
    return (rk__tile){
        .vecs = panel_vecs(s, panel),
        .cols = (int)min64(s->plan->width, p->n - col),
        .col = col,
        .a_row = p->a_row,
        .a_step = p->a_step,
        .b = s->b ? s->b + (panel - s->col0) * s->plan->width * b->k : NULL,
        .b_step = (int64_t)panel_vecs(s, panel) * VL,
        .run = b->run,
        .runs = b->runs,
        .leaf = b->leaf,
        .resume = b->resume,
        .partial = b->partial,
        .chain = p->chain && b->k0 == 0,
        .last = s->last,
        .held_levels = s->plan->held_levels,
        .out = &p->out,
    };
}

/* Makes the panel ready and says where the first tile finds it: in the matrix, then leaving a copy for the
 * others, if whole vectors can be read there. */
static void place_b(const pass *s, int64_t panel, rk__tile *t)
{
    const product *p = s->p;
    const plan *pl = s->plan;
    const float *in_place = p->b + s->block->k0 * p->b_step + t->col * p->b_lane;
    bool whole = t->cols == t->vecs * VL && t->vecs == pl->vecs;
    if (whole && pl->b_turned) {
        t->mode = RK__TILE_TURNED;
        t->b = in_place;
        t->b_lane = p->b_lane;
    } else if (whole && pl->b_direct) {
        t->mode = RK__TILE_DIRECT;
        t->b = in_place;
        t->b_step = p->b_step;
    } else if (s->fill && whole && p->b_lane == 1 && !p->round &&
               RK_NAME(tile_has)(RK__TILE_COPY, t->vecs, 1)) {
        t->mode = RK__TILE_COPY;
        t->b_copy = (float *)t->b;
        t->b = in_place;
        t->b_step = p->b_step;
    } else if (s->fill) {
        pack_b_panel(s, panel, (float *)t->b);
    }
}

/* Tiles of rows [row, end) of one panel. */
static void tiles(const pass *s, rk__tile *t, int64_t row, int64_t end, const float *packed)
{
    int64_t pieces = ceil_div(end - row, min64(rk__tile_rows(t->vecs), s->plan->most_rows));
    for (int64_t left = pieces; left > 0; left--) {
        t->row = row;
        t->rows = (int)ceil_div(end - row, left);
        RK_NAME(tile)(t);
        row += t->rows;
        t->a += t->rows * t->a_row;
        t->held += t->held ? TILE_FLOATS * s->plan->held_levels : 0;
        if (t->mode == RK__TILE_COPY) {
            t->mode = RK__TILE_PANEL;
            t->b = packed;
            t->b_step = (int64_t)t->vecs * VL;
        }
    }
}

/* The same for few terms: all whole tiles in one call. */
static void thin_tiles(const pass *s, rk__tile *t, int64_t row, int64_t end, const float *packed)
{
    const int64_t most = rk__tile_rows(t->vecs);
    t->row = row;
    if (t->mode == RK__TILE_COPY || end - row < most || !RK_NAME(tile_has_column)(t)) {
        tiles(s, t, row, min64(end, row + most), packed);
        t->row = min64(end, row + most);
    }
    int64_t count = (end - t->row) / most;
    if (count > 0 && RK_NAME(tile_has_column)(t)) {
        t->rows = (int)most;
        RK_NAME(tile_column)(t, count);
        t->row += count * most;
        t->a += count * most * t->a_row;
    }
    if (t->row < end)
        tiles(s, t, t->row, end, packed);
}

static void column(const pass *s, int64_t panel, int64_t from, int64_t to)
{
    const product *p = s->p;
    const plan *pl = s->plan;
    rk__tile t = tile_of(s, panel);
    const float *packed = t.b;
    place_b(s, panel, &t);
    if (pl->thin) {
        int64_t row = first_row(p, pl, from);
        t.a = p->a + row * p->a_row;
        thin_tiles(s, &t, row, first_row(p, pl, to), packed);
        return;
    }
    int64_t held = TILE_FLOATS * pl->held_levels * pl->tiles;
    rk__turn turn;
    turn.rows = 0;
    t.turn = &turn;
    for (int64_t i = from; i < to; i++) {
        int64_t row = first_row(p, pl, i), end = first_row(p, pl, i + 1);
        if (s->a) {
            t.a = a_panel(s, i);
            t.a_row = 1;
            t.a_step = end - row;
        } else {
            t.a = p->a + row * p->a_row + s->block->k0 * p->a_step;
        }
        t.held = s->held ? s->held + ((panel - s->col0) * pl->row_panels + i) * held : NULL;
        tiles(s, &t, row, end, packed);
    }
    if (turn.rows > 0) {
        t.row = first_row(p, pl, to);
        RK_NAME(tile_flush)(&t);
    }
}

static void tiles_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const pass *s = arg;
    int64_t i0, i1, j0, j1;
    cut(s->row0, s->row1, s->row_cuts, task / s->col_cuts, &i0, &i1);
    cut(s->col0, s->col1, s->col_cuts, task % s->col_cuts, &j0, &j1);
    for (int64_t j = j0; j < j1; j++)
        column(s, j, i0, i1);
}

/* How a pass is shared: by columns if there are enough of them, so that each panel's owner packs it on the
 * way. */
static void cut_tasks(pass *s)
{
    int64_t rows = s->row1 - s->row0, cols = s->col1 - s->col0,
            want = s->team->threads > 1 ? 4 * s->team->threads : 1;
    s->row_cuts = 1;
    s->col_cuts = min64(cols, want);
    if (cols < want && cols % s->team->threads)
        s->row_cuts = min64(rows, ceil_div(want, cols));
}

static void run_pass(pass *s, bool first_rows)
{
    cut_tasks(s);
    if (s->a)
        team_run(s->team, s->row_cuts = min64(s->row1 - s->row0, 4 * s->team->threads), pack_a_task, s);
    cut_tasks(s);
    s->fill = first_rows;
    if (first_rows && s->row_cuts > 1) {
        team_run(s->team, s->col_cuts, pack_b_task, s);
        s->fill = false;
    }
    team_run(s->team, s->row_cuts * s->col_cuts, tiles_task, s);
}

static bool pass_memory(pass *s)
{
    const plan *pl = s->plan;
    const team *t = s->team;
    size_t k = (size_t)(pl->k_most > 0 ? pl->k_most : 1) * sizeof(float);
    if (!pl->a_direct) {
        size_t rows = (size_t)min64(s->p->m, (pl->row_step + 1) * pl->height);
        s->a = rk__workspace(t->dev, t->worker, RK__WS_A, rows * k);
        if (!s->a)
            return false;
    }
    s->b = rk__workspace(t->dev, t->worker, RK__WS_B, (size_t)(pl->col_step * pl->width) * k);
    if (!s->b)
        return false;
    if (pl->held_levels > 0) {
        size_t tiles = (size_t)(pl->row_panels * pl->tiles * pl->col_step);
        s->held = rk__workspace(t->dev, t->worker, RK__WS_C,
                                tiles * (size_t)pl->held_levels * TILE_FLOATS * sizeof(float));
        if (!s->held)
            return false;
    }
    return true;
}

/* ---- few rows, long rows of b (sweep.h) ---- */

typedef struct sweeps {
    const product *p;
    int64_t tasks, block, row; /* columns of a block; floats of a row of sums */
    float *sum;                /* (tasks, m, row) */
} sweeps;

static bool is_swept(const product *p)
{
    return p->b_lane == 1 && p->segments == 1 && !p->chain && !p->round && p->k > 0 && !p->out.transposed &&
           p->m <= SWEEP_MOST_ROWS && p->n >= (p->m <= 2 ? SWEEP_LEAST_COLUMNS : SWEEP_LONG_COLUMNS);
}

static void sweep_block(const sweeps *w, float *sum, int64_t col, int64_t cols)
{
    const product *p = w->p;
    int64_t groups = ceil_div(p->m, SWEEP_ROWS), each = groups > 1 ? SWEEP_STRIP : p->k;
    for (int64_t k = 0; k < p->k; k += each)
        for (int64_t g = 0; g < groups; g++) {
            int64_t row = p->m * g / groups;
            RK_NAME(sweep)
            (&(rk__sweep){ .rows = (int)(p->m * (g + 1) / groups - row),
                           .cols = cols,
                           .k = min64(each, p->k - k),
                           .a = p->a + row * p->a_row + k * p->a_step,
                           .a_row = p->a_row,
                           .a_step = p->a_step,
                           .b = p->b + k * p->b_step + col,
                           .b_step = p->b_step,
                           .sum = sum + row * w->row,
                           .sum_row = w->row,
                           .resume = k > 0 });
        }
    RK_NAME(finish_sums)(&p->out, sum, w->row, col, p->m, cols);
}

static void sweep_task(void *arg, int64_t task, int worker)
{
    (void)worker;
    const sweeps *w = arg;
    int64_t vecs = ceil_div(w->p->n, VL), from, to;
    cut(0, vecs, w->tasks, task, &from, &to);
    to = min64(to * VL, w->p->n);
    for (int64_t col = from * VL; col < to; col += w->block)
        sweep_block(w, w->sum + task * w->p->m * w->row, col, min64(w->block, to - col));
}

static rk_status sweep_all(const team *t, const product *p)
{
    sweeps w = { .p = p, .tasks = t->threads };
    int64_t most = ceil_div(ceil_div(p->n, VL), w.tasks) * VL;
    w.block = SWEEP_SUMS / min64(p->m, SWEEP_ROWS);
    w.block = ceil_div(ceil_div(most, ceil_div(most, w.block)), 4 * VL) * 4 * VL;
    w.row = w.block + 16; /* not a multiple of a page */
    size_t floats = (size_t)(w.tasks * p->m * w.row);
    w.sum = rk__workspace(t->dev, t->worker, RK__WS_C, floats * sizeof(float));
    if (!w.sum)
        return RK_ENOMEM;
    team_run(t, w.tasks, sweep_task, &w);
    return RK_OK;
}

/* Rows that lie a multiple of a page apart share a set of the first-level cache, and every tile reads a few
 * floats of each: with many terms they are copied apart first. */
static bool spread_rows(const team *t, product *p)
{
    const int64_t step = ceil_div(p->m, VL) * VL + 16;
    if (p->a_row != 1 || p->a_step * (int64_t)sizeof(float) % 4096 || p->k <= SPREAD_LEAST_TERMS ||
        p->n < 2 * TILE_COLS)
        return true;
    float *rows = rk__workspace(t->dev, t->worker, RK__WS_A, (size_t)(p->k * step) * sizeof(float));
    if (!rows)
        return false;
    RK_NAME(pack)(p->a, p->a_step, 1, p->k, p->m, step, false, rows);
    p->a = rows;
    p->a_step = step;
    return true;
}

static rk_status multiply(const team *t, const product *whole)
{
    product own = *whole, *p = &own;
    if (is_swept(p))
        return sweep_all(t, p);
    plan pl = { 0 };
    if (!plan_blocks(&pl, p, t))
        return RK_ENOMEM;
    plan_panels(&pl, p, t);
    if (pl.thin && !spread_rows(t, p))
        return RK_ENOMEM;
    pass s = { .p = p, .plan = &pl, .team = t };
    if (!pass_memory(&s))
        return RK_ENOMEM;
    for (s.col0 = 0; s.col0 < pl.col_panels; s.col0 = s.col1) {
        s.col1 = min64(s.col0 + pl.col_step, pl.col_panels);
        for (int i = 0; i < pl.count; i++) {
            s.block = &pl.blocks[i];
            s.last = i + 1 == pl.count;
            for (s.row0 = 0; s.row0 < pl.row_panels; s.row0 = s.row1) {
                s.row1 = min64(s.row0 + pl.row_step, pl.row_panels);
                run_pass(&s, s.row0 == 0);
            }
        }
    }
    return RK_OK;
}

/* ---- the entry ---- */

/* Both operands have k contiguous: turning the smaller one is cheaper, the other is broadcast in place. */
static void settle_roles(product *p)
{
    bool both = p->b_step == 1 && p->b_lane != 1 && p->a_step == 1;
    if (!both || p->chain || p->round || p->k < SWAP_MIN_TERMS || p->m < VL || p->m > 512 || p->m > p->n / 2)
        return;
    product q = *p;
    p->m = q.n;
    p->n = q.m;
    p->a = q.b;
    p->a_row = q.b_lane;
    p->b = q.a;
    p->b_lane = q.a_row;
    p->out.transposed = true;
}

static product product_of(const rk_gemm *g)
{
    rk_order o = g->order.segments > 0 ? g->order : (rk_order){ 1, 1, RK_ACC_SET };
    product p = {
        .m = g->m,
        .n = g->n,
        .k = g->k,
        .a = g->a,
        .a_row = g->a_row,
        .a_step = g->a_col,
        .b = g->b,
        .b_step = g->b_row,
        .b_lane = g->b_col,
        .segments = o.segments,
        .unit = o.unit > 0 ? o.unit : 1,
        .chain = o.acc == RK_ACC_CHAIN,
        .round = g->round,
        .out = { .c = g->c,
                 .ldc = g->ldc,
                 .add = o.acc == RK_ACC_ADD,
                 .act = g->act,
                 .bias = g->bias,
                 .pre = g->pre,
                 .relu_mask = g->relu_mask },
    };
    if (p.n <= 1)
        p.b_lane = 1;
    if (p.k <= 1)
        p.b_step = p.b_lane == 1 ? p.n : 1;
    settle_roles(&p);
    return p;
}

static product item(const rk_gemm *g, const product *p, int64_t i)
{
    product q = *p;
    bool swapped = p->out.transposed;
    q.a += i * (swapped ? g->b_batch : g->a_batch);
    q.b += i * (swapped ? g->a_batch : g->b_batch);
    q.out.c += i * g->c_batch;
    q.out.pre = p->out.pre ? p->out.pre + i * g->c_batch : NULL;
    q.out.relu_mask = p->out.relu_mask ? p->out.relu_mask + i * g->c_batch : NULL;
    return q;
}

typedef struct batch {
    const rk_gemm *g;
    const product *p;
    rk_dev *dev;
    rk_status *status; /* one a worker */
} batch;

static void batch_task(void *arg, int64_t task, int worker)
{
    const batch *b = arg;
    product q = item(b->g, b->p, task);
    rk_status st = multiply(&(team){ b->dev, 1, worker }, &q);
    if (st)
        b->status[worker] = st;
}

static rk_status multiply_batch(rk_dev *dev, const rk_gemm *g, const product *p, int threads)
{
    size_t bytes = (size_t)rk__threads(dev) * sizeof(rk_status);
    rk_status *status = rk__workspace(dev, 0, RK__WS_D, bytes);
    if (!status)
        return RK_ENOMEM;
    memset(status, 0, bytes);
    batch b = { g, p, dev, status };
    team_run(&(team){ dev, threads, 0 }, g->batch, batch_task, &b);
    for (int i = 0; i < rk__threads(dev); i++)
        if (status[i])
            return status[i];
    return RK_OK;
}

rk_status RK_NAME(gemm)(rk_dev *dev, const rk_gemm *g)
{
    if (g->m <= 0 || g->n <= 0)
        return RK_OK;
    product p = product_of(g);
    int64_t count = g->batch > 0 ? g->batch : 1;
    double terms = (double)g->m * (double)g->n * (double)g->k;
    int threads = (int)min64(rk__threads(dev), 1 + (int64_t)(terms * (double)count / MIN_TASK_TERMS));
    if (count >= 2 * threads && count > 1)
        return multiply_batch(dev, g, &p, threads);
    rk_status st = RK_OK;
    for (int64_t i = 0; i < count && !st; i++) {
        product q = item(g, &p, i);
        st = multiply(&(team){ dev, threads, 0 }, &q);
    }
    return st;
}
