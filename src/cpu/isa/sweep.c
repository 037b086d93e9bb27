#include "cpu/isa/sweep.h"

/* `vecs` vectors of every row, further by `terms` terms. cols: columns that exist, if not all of them do. */
RK_INLINE void advance(const int rows, const int vecs, const int terms, const rk__sweep *s, const vf *a,
                       const float *b, int64_t j, bool resume, int64_t cols)
{
    vf acc[SWEEP_ROWS][4];
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int v = 0; v < vecs; v++) acc[i][v] =
        resume ? v_load(s->sum + i * s->sum_row + j + v * VL) : v_zero();
    RK_UNROLL for (int x = 0; x < terms; x++) RK_UNROLL for (int v = 0; v < vecs; v++)
    {
        vf y = v_load_upto(b + x * s->b_step + j + v * VL, cols);
        RK_UNROLL for (int i = 0; i < rows; i++) acc[i][v] = v_fma(a[i * terms + x], y, acc[i][v]);
    }
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int v = 0; v < vecs; v++)
        v_store(s->sum + i * s->sum_row + j + v * VL, acc[i][v]);
}

/* Rows k .. k + terms of b from end to end. */
RK_INLINE void strip(const int rows, const int vecs, const int terms, const rk__sweep *s, int64_t k)
{
    vf a[SWEEP_ROWS * SWEEP_TERMS];
    const float *b = s->b + k * s->b_step;
    const bool resume = s->resume || k > 0;
    RK_UNROLL for (int i = 0; i < rows; i++) RK_UNROLL for (int x = 0; x < terms; x++) a[i * terms + x] =
        v_set1(s->a[i * s->a_row + (k + x) * s->a_step]);
    int64_t j = 0;
    for (; j + vecs * VL <= s->cols; j += vecs * VL)
        advance(rows, vecs, terms, s, a, b, j, resume, VL);
    for (; j < s->cols; j += VL)
        advance(rows, 1, terms, s, a, b, j, resume, s->cols - j);
}

RK_INLINE void sweep_body(const int rows, const int vecs, const rk__sweep *s)
{
    int64_t k = 0;
    for (; k + SWEEP_TERMS <= s->k; k += SWEEP_TERMS)
        strip(rows, vecs, SWEEP_TERMS, s, k);
    for (; k < s->k; k++)
        strip(rows, vecs, 1, s, k);
}

/* Two to four vectors a row: enough chains side by side, and no more than the registers hold. */
#if defined(RK_ISA_PORTABLE)
enum { WIDE = 1, NARROW = 1 };
#else
enum { WIDE = 4, NARROW = 2 };
#endif

static void sweep_1(const rk__sweep *s)
{
    sweep_body(1, WIDE, s);
}

static void sweep_2(const rk__sweep *s)
{
    sweep_body(2, WIDE, s);
}

static void sweep_3(const rk__sweep *s)
{
    sweep_body(3, NARROW, s);
}

static void sweep_4(const rk__sweep *s)
{
    sweep_body(4, NARROW, s);
}

void RK_NAME(sweep)(const rk__sweep *s)
{
    static void (*const of_rows[])(const rk__sweep *) = { sweep_1, sweep_2, sweep_3, sweep_4 };
    of_rows[s->rows - 1](s);
}
