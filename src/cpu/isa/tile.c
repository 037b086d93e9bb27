#include "cpu/isa/tile.h"

#include "cpu/isa/vmath.h"

#include <string.h>

enum { ROW_GROUP = 3 };     /* rows that share a pointer: three are reached by scaled addressing */
enum { LINE = 16 };         /* floats of a cache line */
enum { COPY_AHEAD = 16 };   /* rows of b fetched ahead where it lies at a stride no prefetcher follows */
enum { TURNED_AHEAD = 64 }; /* floats fetched ahead in each of many columns */
enum {
    FETCH = 2
}; /* into the second-level cache: rows at a stride of a power of two share a set of the first */
enum { FETCH_C_TERMS = 16 }; /* a shorter chain ends before lines asked for at its start arrive */
enum { ROW_GROUPS = (TILE_TALL + ROW_GROUP - 1) / ROW_GROUP, MOST_VECS = 8 };

typedef vf sums[TILE_TALL][MOST_VECS];

/* ---- the tile's accumulators, in memory as rows of vecs * VL floats ---- */

RK_INLINE void acc_zero(const int rows, const int vecs, sums acc)
{
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] = v_zero();
}

RK_INLINE void acc_load(const int rows, const int vecs, sums acc, const float *p)
{
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] =
        v_load(p + (i * vecs + j) * VL);
}

RK_INLINE void acc_store(const int rows, const int vecs, sums acc, float *p)
{
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++)
        v_store(p + (i * vecs + j) * VL, acc[i][j]);
}

/* acc = p + acc: p is the left half of the pair */
RK_INLINE void acc_add(const int rows, const int vecs, sums acc, const float *p)
{
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] =
        v_add(v_load(p + (i * vecs + j) * VL), acc[i][j]);
}

/* ---- a finished tile on its way to c ---- */

/* mask > 0 ? x : 0 */
RK_INLINE vf keep_positive(vf mask, vf x)
{
    return v_keep(v_gt(mask, v_zero()), x);
}

RK_INLINE vf finish_vec(const rk__epilogue *e, vf v, int64_t at, int64_t row, int64_t col, int64_t n)
{
    if (e->add)
        v = v_add(v_load_some(e->c + at, n), v);
    if (e->bias)
        v = v_add(v, v_load_some(e->bias + col, n));
    if (e->bias_row)
        v = v_add(v, v_set1(e->bias_row[row]));
    if (e->pre)
        v_store_upto(e->pre + at, n, v);
    if (e->act == RK_ACT_RELU)
        v = v_relu(v);
    else if (e->act == RK_ACT_GELU)
        v = v_gelu(v);
    else if (e->act == RK_ACT_GELU_TANH)
        v = v_gelu_tanh(v);
    if (e->relu_mask)
        v = keep_positive(v_load_some(e->relu_mask + at, n), v);
    return v;
}

/* `rows` rows of c by `cols` columns, from sums in rows of `step` floats (whole vectors readable). */
static void finish_rows(const rk__epilogue *e, const float *sum, int64_t step, int64_t row, int64_t col,
                        int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += VL) {
            int64_t at = (row + i) * e->ldc + col + j;
            vf v = finish_vec(e, v_load(sum + i * step + j), at, row + i, col + j, cols - j);
            v_store_upto(e->c + at, cols - j, v);
        }
}

/* Any tile that lies as c does: one that has an edge, or asks for more than the kernel does in registers. */
static __attribute__((noinline)) void finish(const rk__tile *t, const float *sum)
{
    finish_rows(t->out, sum, (int64_t)t->vecs * VL, t->row, t->col, t->rows, t->cols);
}

/* Up to VL rows of sums, of the product's rows from `row` on, become columns of c. */
static void finish_across(const rk__tile *t, const float *sum, int64_t row, int64_t rows)
{
    const int64_t step = (int64_t)t->vecs * VL;
    for (int64_t j = 0; j < t->cols; j += VL) {
        float turned[VL * VL] __attribute__((aligned(64)));
        vf r[VL];
        RK_UNROLL for (int x = 0; x < VL; x++) r[x] = x < rows ? v_load(sum + x * step + j) : v_zero();
        v_transpose(r);
        RK_UNROLL for (int x = 0; x < VL; x++) v_store(turned + x * VL, r[x]);
        finish_rows(t->out, turned, VL, t->col + j, row, t->cols - j < VL ? t->cols - j : VL, rows);
    }
}

/* A tile's rows have joined those that wait. */
static __attribute__((noinline)) void turn(const rk__tile *t)
{
    const int64_t step = (int64_t)t->vecs * VL, first = t->row - t->turn->rows;
    const int waiting = t->turn->rows + t->rows;
    int done = 0;
    for (; done + VL <= waiting; done += VL)
        finish_across(t, t->turn->sum + done * step, first + done, VL);
    t->turn->rows = waiting - done;
    if (done > 0)
        memmove(t->turn->sum, t->turn->sum + done * step, (size_t)((waiting - done) * step) * sizeof(float));
}

void RK_NAME(tile_flush)(const rk__tile *t)
{
    finish_across(t, t->turn->sum, t->row - t->turn->rows, t->turn->rows);
    t->turn->rows = 0;
}

void RK_NAME(finish_sums)(const rk__epilogue *e, const float *sum, int64_t step, int64_t col, int64_t rows,
                          int64_t cols)
{
    finish_rows(e, sum, step, 0, col, rows, cols);
}

static bool plain(const rk__tile *t)
{
    const rk__epilogue *e = t->out;
    return t->cols == t->vecs * VL && !e->transposed && !e->pre && !e->bias_row && e->act <= RK_ACT_RELU;
}

/* A whole tile of c straight from the registers. Without `masked` there is no mask, which spares the loop of
 * column_body registers. */
RK_INLINE void finish_plain(const int rows, const int vecs, sums acc, const rk__tile *t, const bool masked)
{
    const rk__epilogue *e = t->out;
    int64_t ldc = e->ldc, at = t->row * ldc + t->col;
    float *c = e->c + at;
    if (e->add)
        RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] =
            v_add(v_load(c + i * ldc + j * VL), acc[i][j]);
    if (e->bias)
        RK_UNROLL for (int j = 0; j < vecs; j++)
        {
            vf bias = v_load(e->bias + t->col + j * VL);
            RK_UNROLL for (int i = 0; i < rows; i++) acc[i][j] = v_add(acc[i][j], bias);
        }
    if (e->act == RK_ACT_RELU)
        RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] =
            v_relu(acc[i][j]);
    if (masked && e->relu_mask)
        RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] =
            keep_positive(v_load(e->relu_mask + at + i * ldc + j * VL), acc[i][j]);
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++)
        v_store(c + i * ldc + j * VL, acc[i][j]);
}

/* ---- the chain ---- */

/* One k: every row's element times the row of b. */
RK_INLINE void step(const int rows, const int vecs, const rk__tile_mode mode, sums acc,
                    const float *a[ROW_GROUPS], int64_t a_row, const float *b, float *b_copy, int64_t ahead)
{
    vf v[MOST_VECS];
    if (vecs <= rows) {
        RK_UNROLL for (int j = 0; j < vecs; j++)
        {
            v[j] = v_load(b + j * VL);
            if (mode == RK__TILE_COPY)
                v_store(b_copy + j * VL, v[j]);
            if (mode != RK__TILE_PANEL && j * VL % LINE == 0)
                __builtin_prefetch(b + j * VL + ahead, 0, FETCH);
        }
        RK_UNROLL for (int i = 0; i < rows; i++)
        {
            vf x = v_set1(a[i / ROW_GROUP][i % ROW_GROUP * a_row]);
            RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] = v_fma(x, v[j], acc[i][j]);
        }
    } else {
        RK_UNROLL for (int i = 0; i < rows; i++) v[i] = v_set1(a[i / ROW_GROUP][i % ROW_GROUP * a_row]);
        RK_UNROLL for (int j = 0; j < vecs; j++)
        {
            vf y = v_load(b + j * VL);
            if (mode == RK__TILE_COPY)
                v_store(b_copy + j * VL, y);
            if (mode != RK__TILE_PANEL && j * VL % LINE == 0)
                __builtin_prefetch(b + j * VL + ahead, 0, FETCH);
            RK_UNROLL for (int i = 0; i < rows; i++) acc[i][j] = v_fma(v[i], y, acc[i][j]);
        }
    }
}

/* A few terms at once: squares of b are turned, then each of their rows is a step. Elements of a are read
 * again for each vector: several rows of them would fill the registers. */
RK_INLINE void steps_turned(const int rows, const int vecs, sums acc, const float *a, int64_t a_row,
                            int64_t a_step, const float *b, int64_t b_lane)
{
    RK_UNROLL for (int j = 0; j < vecs; j++)
    {
        vf r[V_TURN_TERMS];
        if (VL == 16) /* elsewhere the prefetchers follow the columns of a narrower tile */
            RK_UNROLL for (int i = 0; i < VL; i++)
                __builtin_prefetch(b + (j * VL + i) * b_lane + TURNED_AHEAD);
        v_load_turned(b + j * VL * b_lane, b_lane, r);
        RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int x = 0; x < V_TURN_TERMS; x++) acc[i][j] =
            v_fma(v_set1(a[i * a_row + x * a_step]), r[x], acc[i][j]);
        if (rows > 1)
            __asm__ volatile("" ::: "memory");
    }
}

RK_INLINE void step_gathered(const int rows, const int vecs, sums acc, const float *a, int64_t a_row,
                             const float *b, int64_t b_lane)
{
    RK_UNROLL for (int j = 0; j < vecs; j++)
    {
        float lanes[VL];
        for (int i = 0; i < VL; i++)
            lanes[i] = b[(j * VL + i) * b_lane];
        RK_UNROLL for (int i = 0; i < rows; i++) acc[i][j] =
            v_fma(v_set1(a[i * a_row]), v_load(lanes), acc[i][j]);
    }
}

/* Where level d of the stack of partial sums lies. */
RK_INLINE float *level(const rk__tile *t, float *here, int d)
{
    return (d < t->held_levels ? t->held : here) + (int64_t)d * TILE_FLOATS;
}

RK_INLINE void acc_from_c(const int rows, const int vecs, sums acc, const rk__tile *t)
{
    const float *c = t->out->c + t->row * t->out->ldc + t->col;
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j++) acc[i][j] =
        v_load_some(c + i * t->out->ldc + j * VL, t->cols - j * VL);
}

/* Asks for the lines of c now, so that they are there when the chain ends. */
RK_INLINE void fetch_c(const int rows, const int vecs, const rk__tile *t)
{
    const float *c = t->out->c + t->row * t->out->ldc + t->col;
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int j = 0; j < vecs; j += LINE / VL)
        __builtin_prefetch(c + i * t->out->ldc + j * VL, 1);
}

/* What a call's last run leaves behind: a partial sum at `depth` of the stack, or rows of c. */
RK_INLINE void leave(const int rows, const int vecs, sums acc, const rk__tile *t, float *here, int depth)
{
    if (!t->last) {
        acc_store(rows, vecs, acc, level(t, here, depth));
    } else if (plain(t)) {
        finish_plain(rows, vecs, acc, t, true);
    } else if (t->out->transposed) {
        acc_store(rows, vecs, acc, t->turn->sum + t->turn->rows * vecs * VL);
        turn(t);
    } else {
        acc_store(rows, vecs, acc, here);
        finish(t, here);
    }
}

RK_INLINE void tile_body(const int rows, const int vecs, const rk__tile_mode mode, const rk__tile *t)
{
    float here[(TILE_SEGMENTS_LOG2 + 1) * TILE_FLOATS] __attribute__((aligned(64)));
    sums acc;
    int leaf = t->leaf, depth = __builtin_popcount((unsigned)leaf);
    if (t->resume)
        acc_load(rows, vecs, acc, level(t, here, depth));
    else if (t->chain)
        acc_from_c(rows, vecs, acc, t);
    else
        acc_zero(rows, vecs, acc);

    if (t->last && !t->out->transposed && t->run[0] * t->runs >= FETCH_C_TERMS)
        fetch_c(rows, vecs, t);
    const int64_t a_row = t->a_row, a_step = t->a_step, b_step = t->b_step;
    const float *a[ROW_GROUPS], *b = t->b;
    float *b_copy = t->b_copy;
    const int64_t ahead = COPY_AHEAD * b_step;
    RK_UNROLL for (int g = 0; g * ROW_GROUP < rows; g++) a[g] = t->a + g * ROW_GROUP * a_row;

#define STEP                                                                 \
    do {                                                                     \
        step(rows, vecs, mode, acc, a, a_row, b, b_copy, ahead);             \
        b += b_step;                                                         \
        if (mode == RK__TILE_COPY)                                           \
            b_copy += vecs * VL;                                             \
        RK_UNROLL for (int g = 0; g * ROW_GROUP < rows; g++) a[g] += a_step; \
    } while (0)
    for (int r = 0;; r++) {
        int64_t k = t->run[r];
        if (mode == RK__TILE_TURNED) {
            const float *x = a[0];
            for (; k >= V_TURN_TERMS; k -= V_TURN_TERMS, x += V_TURN_TERMS * a_step, b += V_TURN_TERMS)
                steps_turned(rows, vecs, acc, x, a_row, a_step, b, t->b_lane);
            for (; k > 0; k--, x += a_step, b++)
                step_gathered(rows, vecs, acc, x, a_row, b, t->b_lane);
            a[0] = x;
        }
        if (mode == RK__TILE_PANEL && VL == 8) /* elsewhere one step is long enough */
            for (; k >= 4; k -= 4) {
                STEP;
                STEP;
                STEP;
                STEP;
            }
        for (; k > 0; k--)
            STEP;
        bool stop = r + 1 == t->runs;
        if (stop && t->partial) {
            acc_store(rows, vecs, acc, level(t, here, depth));
            return;
        }
        for (int d = leaf++; d & 1; d >>= 1)
            acc_add(rows, vecs, acc, level(t, here, --depth));
        if (stop)
            break;
        acc_store(rows, vecs, acc, level(t, here, depth++));
        acc_zero(rows, vecs, acc);
    }
#undef STEP
    leave(rows, vecs, acc, t, here, depth);
}

/* ---- short leaves ---- */

enum { GROUP_VECS = TILE_VECS }; /* of leaves whose part of the tree is straight code */

/* The compiler shall keep no partial sum in registers, of which there are none to spare. */
#define SPILLED() __asm__ volatile("" ::: "memory")

/* One leaf of rows whose elements of one k are neighbours. */
RK_INLINE void leaf_chain(const int rows, const int vecs, sums acc, const float *a, int64_t a_step,
                          const float *b, int64_t b_step, int64_t k)
{
    acc_zero(rows, vecs, acc);
    for (; k > 0; k--, a += a_step, b += b_step) {
        vf v[MOST_VECS];
        if (vecs <= rows) {
            RK_UNROLL for (int j = 0; j < vecs; j++) v[j] = v_load(b + j * VL);
            RK_UNROLL for (int i = 0; i < rows; i++)
            {
                vf x = v_set1(a[i]);
                RK_UNROLL for (int j = 0; j < vecs; j++) v_accumulate(&acc[i][j], x, v[j]);
            }
        } else {
            RK_UNROLL for (int i = 0; i < rows; i++) v[i] = v_set1(a[i]);
            RK_UNROLL for (int j = 0; j < vecs; j++)
            {
                vf y = v_load(b + j * VL);
                RK_UNROLL for (int i = 0; i < rows; i++) v_accumulate(&acc[i][j], v[i], y);
            }
        }
    }
}

/* The sum of so many leaves. */
RK_INLINE void group(const int rows, const int vecs, const int leaves, sums acc, const int64_t *run,
                     const float **a, int64_t a_step, const float **b, int64_t b_step)
{
    float stack[4 * TILE_FLOATS] __attribute__((aligned(64)));
    int depth = 0;
    RK_UNROLL for (int s = 0; s < leaves; s++)
    {
        int64_t k = run[s];
        leaf_chain(rows, vecs, acc, *a, a_step, *b, b_step, k);
        *a += k * a_step;
        *b += k * b_step;
        RK_UNROLL for (int d = s; d & 1; d >>= 1) acc_add(rows, vecs, acc, stack + --depth * TILE_FLOATS);
        if (s + 1 < leaves)
            acc_store(rows, vecs, acc, stack + depth++ * TILE_FLOATS);
        SPILLED();
    }
}

RK_INLINE void groups_body(const int rows, const int vecs, const int leaves, const rk__tile *t)
{
    float here[(TILE_SEGMENTS_LOG2 + 1) * TILE_FLOATS] __attribute__((aligned(64)));
    sums acc;
    int depth = __builtin_popcount((unsigned)t->leaf);
    const float *a = t->a, *b = t->b;
    if (t->last && !t->out->transposed)
        fetch_c(rows, vecs, t);
    for (int r = 0, number = t->leaf / leaves;; number++) {
        group(rows, vecs, leaves, acc, t->run + r, &a, t->a_step, &b, t->b_step);
        for (int d = number; d & 1; d >>= 1)
            acc_add(rows, vecs, acc, level(t, here, --depth));
        r += leaves;
        if (r == t->runs)
            break;
        acc_store(rows, vecs, acc, level(t, here, depth++));
    }
    leave(rows, vecs, acc, t, here, depth);
}

/* ---- few terms ---- */

/* The sums of tiles one below the other, each of one chain or of a few short leaves: what a call costs is
 * shared. */
RK_INLINE void column_body(const int rows, const int vecs, const int leaves, const bool masked,
                           const rk__tile *t, int64_t tiles)
{
    float here[TILE_FLOATS] __attribute__((aligned(64)));
    const int64_t a_row = t->a_row, a_step = t->a_step, b_step = t->b_step;
    const bool registers = plain(t);
    rk__tile at = *t;
    for (int64_t n = 0; n < tiles; n++, at.row += rows, at.a += rows * a_row) {
        sums acc;
        const float *a[ROW_GROUPS], *b = t->b;
        RK_UNROLL for (int g = 0; g * ROW_GROUP < rows; g++) a[g] = at.a + g * ROW_GROUP * a_row;
        if (leaves > 1)
            group(rows, vecs, leaves, acc, t->run, a, a_step, &b, b_step);
        else
            acc_zero(rows, vecs, acc);
        for (int64_t k = leaves > 1 ? 0 : t->run[0]; k > 0; k--, b += b_step) {
            step(rows, vecs, RK__TILE_PANEL, acc, a, a_row, b, NULL, 0);
            RK_UNROLL for (int g = 0; g * ROW_GROUP < rows; g++) a[g] += a_step;
        }
        if (registers) {
            finish_plain(rows, vecs, acc, &at, masked);
        } else {
            acc_store(rows, vecs, acc, here);
            finish(&at, here);
        }
    }
}

#define COLUMN_SHAPE(rows, vecs)                                                \
    static void column_##rows##x##vecs(const rk__tile *t, int64_t tiles)        \
    {                                                                           \
        column_body(rows, vecs, 1, false, t, tiles);                            \
    }                                                                           \
    static void column_masked_##rows##x##vecs(const rk__tile *t, int64_t tiles) \
    {                                                                           \
        column_body(rows, vecs, 1, true, t, tiles);                             \
    }
#define COLUMN_ROW(rows, vecs) [vecs] = { column_##rows##x##vecs, column_masked_##rows##x##vecs },
#if defined(RK_ISA_AVX512)
#define COLUMNS(X) X(14, 1) X(14, 2)
#elif defined(RK_ISA_AVX2)
#define COLUMNS(X) X(12, 1) X(6, 2) X(4, 3) X(3, 4) X(1, 8)
#else
#define COLUMNS(X) X(4, 1) X(2, 2)
#endif
COLUMNS(COLUMN_SHAPE)

typedef void column_kernel(const rk__tile *t, int64_t tiles);
static column_kernel *const column_kernels[MOST_VECS + 1][2] = { COLUMNS(COLUMN_ROW) };

/* Columns of sums of 2, 4, ... leaves, of whole tiles without a mask. */
#if defined(RK_ISA_AVX2)
#define GROUP_COLUMNS(X) X(1, 2) X(2, 4) X(3, 8)
#else
#define GROUP_COLUMNS(X) X(1, 2) X(2, 4)
#endif
#define GROUP_COLUMN_SHAPE(log2, leaves)                                          \
    static void column_of_##leaves(const rk__tile *t, int64_t tiles)              \
    {                                                                             \
        column_body(TILE_SUMS / GROUP_VECS, GROUP_VECS, leaves, false, t, tiles); \
    }
#define GROUP_COLUMN_ROW(log2, leaves) [log2] = column_of_##leaves,

GROUP_COLUMNS(GROUP_COLUMN_SHAPE)

enum { MOST_LEAVES_LOG2 = VL == 8 ? 3 : 2 };
static column_kernel *const group_columns[MOST_LEAVES_LOG2 + 1] = { GROUP_COLUMNS(GROUP_COLUMN_ROW) };

bool RK_NAME(tile_has_groups)(int leaves)
{
    return leaves > 1 && leaves <= 1 << MOST_LEAVES_LOG2;
}

bool RK_NAME(tile_has_column)(const rk__tile *t)
{
    if (t->runs == 1)
        return column_kernels[t->vecs][0] != NULL;
    return RK_NAME(tile_has_groups)(t->runs) && t->vecs == GROUP_VECS && t->a_row == 1 && !t->out->relu_mask;
}

void RK_NAME(tile_column)(const rk__tile *t, int64_t tiles)
{
    if (t->runs > 1)
        group_columns[__builtin_ctz((unsigned)t->runs)](t, tiles);
    else
        column_kernels[t->vecs][t->out->relu_mask != NULL](t, tiles);
}

/* ---- one function a shape ---- */

#define SHAPE(rows, vecs, mode)                                  \
    static void tile_##mode##_##rows##x##vecs(const rk__tile *t) \
    {                                                            \
        tile_body(rows, vecs, RK__TILE_##mode, t);               \
    }
#define ROW(rows, vecs, mode) [RK__TILE_##mode][vecs][rows] = tile_##mode##_##rows##x##vecs,
#define ROWS_3(X, v, m)       X(1, v, m) X(2, v, m) X(3, v, m)
#define ROWS_4(X, v, m)       ROWS_3(X, v, m) X(4, v, m)
#define ROWS_6(X, v, m)       ROWS_4(X, v, m) X(5, v, m) X(6, v, m)
#define ROWS_7(X, v, m)       ROWS_6(X, v, m) X(7, v, m)
#define ROWS_12(X, v, m)      ROWS_7(X, v, m) X(8, v, m) X(9, v, m) X(10, v, m) X(11, v, m) X(12, v, m)
#define ROWS_14(X, v, m)      ROWS_12(X, v, m) X(13, v, m) X(14, v, m)
#if defined(RK_ISA_AVX512)
#define SHAPES(X)        \
    ROWS_14(X, 1, PANEL) \
    ROWS_14(X, 2, PANEL) \
    ROWS_7(X, 4, PANEL)  \
    ROWS_3(X, 8, PANEL) ROWS_14(X, 2, COPY) ROWS_7(X, 4, DIRECT) ROWS_3(X, 8, DIRECT) ROWS_3(X, 4, TURNED)
#elif defined(RK_ISA_AVX2)
#define SHAPES(X)        \
    ROWS_12(X, 1, PANEL) \
    ROWS_6(X, 2, PANEL)  \
    ROWS_4(X, 3, PANEL)  \
    ROWS_3(X, 4, PANEL)  \
    X(1, 8, PANEL)       \
    ROWS_3(X, 4, COPY)   \
    ROWS_3(X, 4, DIRECT) ROWS_4(X, 3, COPY) X(4, 3, DIRECT) X(1, 8, DIRECT) ROWS_4(X, 2, TURNED)
#else
#define SHAPES(X) ROWS_4(X, 1, PANEL) X(1, 2, PANEL) X(2, 2, PANEL) X(1, 4, PANEL) X(1, 2, COPY) X(2, 2, COPY)
#endif

SHAPES(SHAPE)

#if defined(RK_ISA_AVX512)
#define GROUPS(X) X(12, 4) X(13, 4) X(14, 4)
#elif defined(RK_ISA_AVX2)
#define GROUPS(X) X(2, 8) X(3, 8) X(2, 4) X(3, 4) X(2, 2) X(3, 2)
#else
#define GROUPS(X) X(2, 4)
#endif
#define GROUP_SHAPE(rows, leaves)                              \
    static void groups_##rows##_of_##leaves(const rk__tile *t) \
    {                                                          \
        groups_body(rows, GROUP_VECS, leaves, t);              \
    }
#define GROUP_ROW(rows, leaves) [leaves][rows] = groups_##rows##_of_##leaves,

GROUPS(GROUP_SHAPE)

enum { MODES = RK__TILE_TURNED + 1 };
typedef void kernel(const rk__tile *t);
static kernel *const kernels[MODES][MOST_VECS + 1][TILE_TALL + 1] = { SHAPES(ROW) };
static kernel *const group_kernels[(1 << MOST_LEAVES_LOG2) + 1][TILE_TALL + 1] = { GROUPS(GROUP_ROW) };

bool RK_NAME(tile_has)(rk__tile_mode mode, int vecs, int64_t rows)
{
    return rows > 0 && rows <= TILE_TALL && kernels[mode][vecs][rows];
}

/* The kernel for sums of short leaves; NULL: there is none, or they are others. */
static kernel *grouped(const rk__tile *t)
{
    if (t->mode != RK__TILE_PANEL || t->a_row != 1 || t->vecs != GROUP_VECS || t->run[0] >= TILE_SHORT_LEAF ||
        t->resume || t->partial || t->chain)
        return NULL;
    for (int leaves = 1 << MOST_LEAVES_LOG2; leaves > 1; leaves /= 2)
        if (t->leaf % leaves == 0 && t->runs % leaves == 0 && group_kernels[leaves][t->rows])
            return group_kernels[leaves][t->rows];
    return NULL;
}

void RK_NAME(tile)(const rk__tile *t)
{
    kernel *run = grouped(t);
    (run ? run : kernels[t->mode][t->vecs][t->rows])(t);
}

/* ---- packing ---- */

/* A panel narrower than a vector: whole stores, each cut short by the next row's; the last rows may not
 * overrun. */
static void pack_narrow(const float *src, int64_t step, int64_t k, int64_t width, rk_round to, float *panel)
{
    for (int64_t x = 0; x < k; x++, src += step, panel += width) {
        vf v = v_load_some(src, width);
        v = v_narrow(to, v);
        if ((k - x) * width >= VL)
            v_store(panel, v);
        else
            v_store_upto(panel, width, v);
    }
}

static void pack_contiguous(const float *src, int64_t step, int64_t k, int64_t lanes, int64_t width,
                            rk_round to, float *panel)
{
    for (int64_t x = 0; x < k; x++, src += step, panel += width)
        for (int64_t j = 0; j < width; j += VL) {
            vf v = v_load_some(src + j, lanes - j);
            v_store_upto(panel + j, width - j, v_narrow(to, v));
        }
}

/* Whole vectors, the usual panel. */
static void pack_full(const float *src, int64_t step, int64_t k, int64_t width, rk_round to, float *panel)
{
    for (int64_t x = 0; x < k; x++, src += step, panel += width)
        for (int64_t j = 0; j < width; j += VL) {
            vf v = v_load(src + j);
            v_store(panel + j, v_narrow(to, v));
        }
}

/* VL lanes whose k is contiguous, turned as VL x VL squares: nearly every packed element of such an operand.
 */
static void pack_turned(const float *src, int64_t lane, int64_t k, int64_t width, rk_round to, float *panel)
{
    for (int64_t x = 0; x + VL <= k; x += VL) {
        vf r[VL];
        RK_UNROLL for (int i = 0; i < VL; i++) r[i] = v_load(src + i * lane + x);
        v_transpose(r);
        RK_UNROLL for (int i = 0; i < VL; i++) v_store(panel + (x + i) * width, v_narrow(to, r[i]));
    }
}

/* The same for fewer lanes, `room` of a row are written. In a panel narrower than a vector whole stores run
 * into the next rows, which are written later; not into what follows the panel. */
static void pack_turned_some(const float *src, int64_t lane, int64_t k, int64_t lanes, int64_t room,
                             int64_t width, rk_round to, float *panel)
{
    for (int64_t x = 0; x + VL <= k; x += VL) {
        vf r[VL];
        RK_UNROLL for (int i = 0; i < VL; i++) r[i] = i < lanes ? v_load(src + i * lane + x) : v_zero();
        v_transpose(r);
        bool whole = room >= VL || (width < VL && (k - x - VL + 1) * width >= VL);
        RK_UNROLL for (int i = 0; i < VL; i++)
        {
            vf v = v_narrow(to, r[i]);
            if (whole)
                v_store(panel + (x + i) * width, v);
            else
                v_store_upto(panel + (x + i) * width, room, v);
        }
    }
}

/* The last terms, fewer than VL, of VL lanes. */
static void pack_turned_rest(const float *src, int64_t lane, int64_t terms, int64_t width, rk_round to,
                             float *panel)
{
    vf r[VL];
    for (; terms >= V_TURN_TERMS; terms -= V_TURN_TERMS, src += V_TURN_TERMS) {
        v_load_turned(src, lane, r);
        RK_UNROLL for (int i = 0; i < V_TURN_TERMS; i++, panel += width) v_store(panel, v_narrow(to, r[i]));
    }
    if (terms <= 0)
        return;
    RK_UNROLL for (int i = 0; i < VL; i++) r[i] = v_load_upto(src + i * lane, terms);
    v_transpose(r);
    RK_UNROLL for (int i = 0; i < VL; i++) if (i < terms) v_store(panel + i * width, v_narrow(to, r[i]));
}

/* The same element by element: `lanes` of at most VL exist, `room` are written, k from `from`. */
static void pack_edge(const float *src, int64_t step, int64_t lane, int64_t from, int64_t k, int64_t lanes,
                      int64_t room, int64_t width, rk_round to, float *panel)
{
    for (int64_t x = from; x < k; x++) {
        float v[VL] = { 0 };
        for (int i = 0; i < VL && i < lanes; i++)
            v[i] = src[x * step + i * lane];
        vf r = v_load(v);
        v_store_upto(panel + x * width, room, v_narrow(to, r));
    }
}

void RK_NAME(pack)(const float *src, int64_t step, int64_t lane, int64_t k, int64_t lanes, int64_t width,
                   rk_round to, float *panel)
{
    if (lane == 1 && lanes == width && width % VL == 0)
        pack_full(src, step, k, width, to, panel);
    else if (lane == 1 && lanes == width && width < VL)
        pack_narrow(src, step, k, width, to, panel);
    else if (lane == 1)
        pack_contiguous(src, step, k, lanes, width, to, panel);
    else
        for (int64_t j = 0; j < width; j += VL) {
            int64_t done = 0;
            if (step == 1 && lanes > j)
                done = k / VL * VL;
            if (done > 0 && lanes - j < VL) {
                pack_turned_some(src + j * lane, lane, k, lanes - j, width - j, width, to, panel + j);
            } else if (done > 0) {
                (to ? pack_turned(src + j * lane, lane, k, width, to, panel + j)
                    : pack_turned(src + j * lane, lane, k, width, RK_ROUND_NONE, panel + j));
            }
            if (step == 1 && lanes - j >= VL) {
                pack_turned_rest(src + j * lane + done, lane, k - done, width, to, panel + done * width + j);
                continue;
            }
            pack_edge(j < lanes ? src + j * lane : src, step, lane, done, k, lanes - j, width - j, width, to,
                      panel + j);
        }
}
