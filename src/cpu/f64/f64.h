/* What the f64 kernels share: canonical sums over a term function, written for clarity, not speed. */
#ifndef RK_CPU_F64_F64_H
#define RK_CPU_F64_F64_H

#include "core/kernels.h"
#include "core/order.h"

/* Term i of a sum. */
typedef double rk__term(const void *arg, int64_t i);

/* The sum of terms [lo, hi) in one chain that starts from `from`. */
static inline double rk__chain_f64(rk__term *term, const void *arg, int64_t lo, int64_t hi, double from)
{
    double sum = from;
    for (int64_t i = lo; i < hi; i++)
        sum += term(arg, i);
    return sum;
}

/* The halving tree over the units [lo, hi). */
static inline double rk__tree_f64(rk__term *term, const void *arg, int64_t lo, int64_t hi, int segments,
                                  int64_t unit)
{
    if (segments <= 1)
        return rk__chain_f64(term, arg, lo * unit, hi * unit, 0);
    int64_t mid = rk_order_mid(lo, hi);
    double left = rk__tree_f64(term, arg, lo, mid, segments / 2, unit);
    return left + rk__tree_f64(term, arg, mid, hi, segments / 2, unit);
}

/* *out (op)= the sum of n terms as `order` says. */
static inline void rk__ordered_f64(rk__term *term, const void *arg, int64_t n, rk_order order, double *out)
{
    if (order.acc == RK_ACC_CHAIN) {
        *out = rk__chain_f64(term, arg, 0, n, *out);
        return;
    }
    int64_t unit = order.unit > 0 ? order.unit : 1;
    double sum = rk__tree_f64(term, arg, 0, n / unit, order.segments, unit);
    *out = order.acc == RK_ACC_ADD ? *out + sum : sum;
}

/* The sum of n terms by lanes: the order of a row's own sums. */
static inline double rk__lanes_f64(rk__term *term, const void *arg, int64_t n)
{
    double lane[RK_LANES] = { 0 };
    for (int64_t i = 0; i < n; i++)
        lane[i % RK_LANES] += term(arg, i);
    for (int h = RK_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            lane[l] += lane[l + h];
    return lane[0];
}

#endif
