/* Rows: how they are shared among threads (each is computed by one thread, alone, so that the cut changes no
 * bit), and how one is walked in the 16 lanes of core/order.h. */
#ifndef RK_CPU_ROWS_H
#define RK_CPU_ROWS_H

#include "cpu/isa/vec.h"

/* Work below this many nanoseconds is not worth a second thread. */
#define ROWS_MIN_TASK_NS 4000.0

/* Rows a task, of `rows` that take about `ns` each; at most one task a thread. */
RK_INLINE int64_t rows_split(const rk_dev *dev, int64_t rows, double ns, int64_t *tasks)
{
    int64_t most = (int64_t)((double)rows * ns / ROWS_MIN_TASK_NS), count = rk__threads(dev);
    count = most < count ? most : count;
    count = count < rows ? count : rows;
    if (count < 1)
        count = 1;
    int64_t each = (rows + count - 1) / count;
    *tasks = each > 0 ? (rows + each - 1) / each : 0;
    return each;
}

RK_INLINE int64_t rows_end(int64_t rows, int64_t each, int64_t task)
{
    int64_t end = (task + 1) * each;
    return end < rows ? end : rows;
}

/* The first m lanes (1 <= m <= VL; a constant VL costs nothing). Nothing beyond them is read or written. */
RK_INLINE vf v_get(const float *p, int m)
{
    return m == VL ? v_load(p) : v_loadn(p, m);
}

RK_INLINE void v_put(float *p, int m, vf a)
{
    if (m == VL)
        v_store(p, a);
    else
        v_storen(p, m, a);
}

/* The first m lanes of a, +0 in the others. */
RK_INLINE vf v_only(int m, vf a)
{
    return m == VL ? a : v_keep(vi_gt(vi_set1(m), vi_iota()), a);
}

/* Runs the statements for every vector of a row of n elements: `i` is the vector's first element, `v` which
 * NV-th of the 16 lanes it is, `m` how many of its elements exist. A sum into acc[v] therefore keeps the
 * canonical lanes: vf acc[NV] = { 0 };  EACH_VECTOR(n, acc[v] = v_add(acc[v], v_get(x + i, m)));  sum =
 * v_tree_sum(acc); */
#define EACH_VECTOR(n, ...)                                   \
    do {                                                      \
        int64_t row_ = 0;                                     \
        for (; row_ + RK_LANES <= (n); row_ += RK_LANES)      \
            for (int v = 0; v < NV; v++) {                    \
                const int64_t i = row_ + v * VL;              \
                const int m = VL;                             \
                __VA_ARGS__;                                  \
            }                                                 \
        for (int v = 0; v < NV && row_ + v * VL < (n); v++) { \
            const int64_t i = row_ + v * VL;                  \
            const int m = (n)-i < VL ? (int)((n)-i) : VL;     \
            __VA_ARGS__;                                      \
        }                                                     \
    } while (0)

RK_INLINE void lanes_zero(vf acc[NV])
{
    for (int v = 0; v < NV; v++)
        acc[v] = v_zero();
}

RK_INLINE float row_sum(const float *x, int64_t n)
{
    vf acc[NV];
    lanes_zero(acc);
    EACH_VECTOR(n, acc[v] = v_add(acc[v], v_get(x + i, m)));
    return v_tree_sum(acc);
}

/* Largest element (-inf of none); NaN are passed over. Of zeros it is +0: which of them a vector sees first
 * depends on its width. */
RK_INLINE float row_max(const float *x, int64_t n)
{
    vf acc[NV];
    for (int v = 0; v < NV; v++)
        acc[v] = v_set1(-INFINITY);
    EACH_VECTOR(n, {
        vf a = v_get(x + i, m);
        a = m == VL ? a : v_sel(vi_gt(vi_set1(m), vi_iota()), a, v_set1(-INFINITY));
        acc[v] = v_max(a, acc[v]);
    });
    for (int v = 1; v < NV; v++)
        acc[0] = v_max(acc[0], acc[v]);
    float lane[VL], best;
    v_store(lane, acc[0]);
    best = lane[0];
    for (int l = 1; l < VL; l++)
        best = lane[l] > best ? lane[l] : best;
    return best + 0.0f;
}

/* Partial sums of a tree over `segments` leaves, taken from left to right: a binary counter. Each level holds
 * a vector of at most W sums. core/order.h */
enum { TREE_LEVELS = 31 };

/* How many pending sums leaf s (0, 1, ...) is added to once it is complete. */
RK_INLINE int tree_joins(int s)
{
    return __builtin_ctz(~(unsigned)s);
}

#endif
