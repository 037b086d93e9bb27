/* What every device makes of the sums of squares of the gradients (rk_watch). */
#ifndef RK_CORE_WATCH_H
#define RK_CORE_WATCH_H

#include "core/hd.h"
#include "core/kernels.h"

#include <math.h>

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

RK_HD static inline void rk_judged_end(const rk_judged *j, double loss, double clip_norm, int slot,
                                       rk_watch *watch)
{
    const double norm = sqrt(j->sum);
    rk_verdict *v = &watch->verdict[slot];
    v->loss = loss;
    v->norm = norm;
    v->bad = fabs(loss) < (double)INFINITY ? j->bad : (int64_t)RK_VERDICT_LOSS;
    watch->scale = clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1;
    if (v->bad != RK_VERDICT_GOOD)
        watch->halted = 1;
}

#endif
