/* The scale of losses: gradients that pass through half precision (compute: f16) are multiplied by a power of
 * two on their way, so that small ones do not vanish, and divided by it when they are used, which is exact.
 */
#ifndef RK_TRAIN_SCALE_H
#define RK_TRAIN_SCALE_H

#include "core/ctx.h"
#include "core/state.h"

typedef struct rk__scale {
    bool moves;
    double fixed; /* unless it moves */
    /* kept in snapshots where it moves */
    int64_t power;   /* the scale is 2^power; core/watch.h has the rules */
    int64_t good;    /* steps since it moved */
    int64_t skipped; /* steps that were left out */
} rk__scale;

/* Is it a power of two from 2^-24 to 2^40? */
bool rk__scale_fits(double scale);
/* fixed: a scale that fits, or 0: as 1; moves: from 65536 on, whatever fixed is. RK_EUSAGE. */
rk_status rk__scale_init(rk__scale *s, rk_ctx *ctx, double fixed, bool moves);
double rk__scale_value(const rk__scale *s);
/* Adds "optim/loss_scale", its power of two, and its counters, if it moves. */
rk_status rk__scale_state(rk__scale *s, rk_state *st);

#endif
