/* Numbers that a program tells while it trains: metrics.jsonl always, TensorBoard's event files by option. */
#ifndef RANKINE_METRICS_H
#define RANKINE_METRICS_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rk_metrics rk_metrics;

typedef struct rk_metrics_cfg {
    bool tensorboard;   /* also DIR/tb/events.out.tfevents.* */
    int64_t start_step; /* > 0: of this session; TensorBoard drops it and later ones of earlier files */
} rk_metrics_cfg;

/* Opens DIR/metrics.jsonl for appending; DIR is made if absent. cfg may be NULL. Owned by ctx. After a
 * failure: inert. Errors: RK_EIO. */
RK_API rk_metrics *rk_metrics_open(rk_ctx *ctx, const char *dir, const rk_metrics_cfg *cfg);
/* One number of a step. Names: [A-Za-z0-9_-], so that tuners can read them. The values of one step become one
 * line
 * {"step": 3, "time": seconds, "loss": 0.5}; numbers that are not finite are written as null. */
RK_API rk_status rk_metric(rk_metrics *m, const char *name, int64_t step, double value);
/* Writes what is pending; rk_metric() does so when a new step begins, rk_close() in the end. */
RK_API rk_status rk_metrics_flush(rk_metrics *m);

#ifdef __cplusplus
}
#endif
#endif
