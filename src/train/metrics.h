/* What an evaluation counts. Counts are integers; sums are in double: over the samples of a data shard in
 * order, then in the tree over the shards, so that they do not depend on who holds them. */
#ifndef RK_TRAIN_METRICS_H
#define RK_TRAIN_METRICS_H

#include <rankine/train.h>

#include "parallel/job.h"

enum { RK__MAX_METRICS = 8 };

typedef struct rk__metrics {
    int64_t classes; /* 0: values are compared */
    int64_t topk;
    int64_t samples, correct, in_topk, elements;
    double loss, abs_error, square_error;
    int64_t *confusion; /* (classes, classes), or NULL when there are too many classes */
    double *errors;     /* (2, shards): of the batch at hand, absolute and square */
    float *out;         /* host copies of a batch */
    float *want;
    int64_t *label;
    int64_t cap;
} rk__metrics;

rk_status rk__metrics_init(rk__metrics *m, rk_ctx *ctx, int64_t classes, int64_t topk);
void rk__metrics_free(rk__metrics *m);
/* [C] out (n, classes) with target (n) i64, or out and target of one shape: this rank's part of a batch of
 * `global` samples, for which ctx->grid is set; loss: the mean over the batch. */
rk_status rk__metrics_add(rk__metrics *m, rk__job *job, rk_tensor *out, rk_tensor *target, int64_t global,
                          double loss);
/* [C] Counts become those of all ranks: once, at the end. */
rk_status rk__metrics_meet(rk__metrics *m, rk__job *job);
/* The named values, filtered by `wanted` ("loss,accuracy"; NULL: all that fit). Returns how many. Names are
 * static. */
int rk__metrics_values(const rk__metrics *m, const char *wanted, rk_metric_value v[RK__MAX_METRICS]);
/* Is a smaller value of this metric better? */
bool rk__metric_smaller(const char *name);

#endif
