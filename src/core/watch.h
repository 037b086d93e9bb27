/* What every device makes of the sums of squares of the gradients (rk_watch). */
#ifndef RK_CORE_WATCH_H
#define RK_CORE_WATCH_H

#include "core/hd.h"
#include "core/kernels.h"
#include "core/order.h"

#include <math.h>

/* A loss scale that moves is 2^power (Micikevicius et al. 2018). */
enum {
    RK_SCALING_START = 16, /* 65536 */
    RK_SCALING_MOST =
        24, /* beyond it nothing is gained: half precision ends 2^24 above its smallest number */
    RK_SCALING_LEAST = 0,   /* gradients that are not finite without a scale are not the scale's fault */
    RK_SCALING_GROWS = 2000 /* good steps */
};

/* The power may come from a snapshot. */
RK_HD static inline double rk_scaling_value(int64_t power)
{
    double scale = 1;
    for (int64_t i = RK_SCALING_LEAST; i < power && i < RK_SCALING_MOST; i++)
        scale *= 2;
    return scale;
}

/* A step was taken. */
RK_HD static inline void rk_scaling_good(int64_t *power, int64_t *good)
{
    if (++*good < RK_SCALING_GROWS || *power >= RK_SCALING_MOST)
        return;
    ++*power;
    *good = 0;
}

/* A gradient was not finite: true if the step may be left out, and another tried with half the scale. */
RK_HD static inline bool rk_scaling_bad(int64_t *power, int64_t *good, int64_t *skipped)
{
    if (*power <= RK_SCALING_LEAST)
        return false;
    --*power;
    *good = 0;
    ++*skipped;
    return true;
}

/* x^n by squaring: libm's pow differs between machines in the last bit. */
RK_HD static inline double rk_power(double x, int64_t n)
{
    double y = 1;
    for (; n > 0; n >>= 1, x *= x)
        if (n & 1)
            y *= x;
    return y;
}

/* rk_order_tree() of sums in an order; +0 of none. */
RK_HD static inline double rk_judged_tree(const double *sums, const int64_t *order, int64_t lo, int64_t hi)
{
    if (hi - lo < 2)
        return hi > lo ? sums[order ? order[lo] : lo] : 0;
    const int64_t mid = rk_order_mid(lo, hi);
    const double left = rk_judged_tree(sums, order, lo, mid);
    return left + rk_judged_tree(sums, order, mid, hi);
}

/* The sum over the pieces so far. */
typedef struct rk_judged {
    double sum;
    int64_t bad; /* as in rk_verdict; nothing is added from that piece on */
} rk_judged;

/* Adds the sums of squares of pieces first .. first + n - 1. */
RK_HD static inline void rk_judged_add(rk_judged *j, int first, int n, const double *part)
{
    for (int i = 0; i < n && j->bad == RK_VERDICT_GOOD; i++) {
        if (part[i] < (double)INFINITY)
            j->sum += part[i];
        else
            j->bad = first + i + 1;
    }
}

/* What the update at hand does, and the loss scale of the next step. */
RK_HD static inline void rk_judged_move(const rk_judge_args *a, bool good, rk_watch *w)
{
    if (good) {
        w->steps++;
        w->bias1 = 1 - rk_power(a->beta1, w->steps);
        w->bias2 = 1 - rk_power(a->beta2, w->steps);
    }
    if (good && a->moves)
        rk_scaling_good(&w->power, &w->good);
    w->seed64 = a->moves ? rk_scaling_value(w->power) : a->loss_scale;
    w->seed32 = (float)w->seed64;
}

RK_HD static inline void rk_judged_end(const rk_judged *j, double loss, const rk_judge_args *a, rk_watch *w)
{
    const double by = a->moves ? rk_scaling_value(w->power) : a->loss_scale;
    const double norm = sqrt(j->sum), most = a->clip_norm * by;
    rk_verdict *v = &w->verdict[a->slot];
    v->loss = loss;
    v->norm = norm / by;
    v->loss_scale = by;
    v->bad = fabs(loss) < (double)INFINITY ? j->bad : (int64_t)RK_VERDICT_LOSS;
    v->left_out = a->moves && !w->halted && v->bad > RK_VERDICT_GOOD &&
                  rk_scaling_bad(&w->power, &w->good, &w->skipped);
    w->scale = (most > 0 && norm > most ? most / norm : 1) / by;
    w->halted = w->halted || (v->bad != RK_VERDICT_GOOD && !v->left_out);
    w->still = w->halted || v->left_out;
    if (!w->halted)
        rk_judged_move(a, !w->still, w);
}

#endif
