/* What an evaluation counts. Counts are integers; sums are in double, sample after sample. */
#ifndef RK_TRAIN_METRICS_H
#define RK_TRAIN_METRICS_H

#include <rankine/train.h>

enum { RK__MAX_METRICS = 8 };

typedef struct rk__metrics {
    int64_t classes; /* 0: values are compared */
    int64_t topk;
    int64_t samples, correct, in_topk, elements;
    double loss, abs_error, square_error;
    int64_t *confusion; /* (classes, classes), or NULL when there are too many classes */
    float *out;         /* host copies of a batch */
    float *want;
    int64_t *label;
    int64_t cap;
} rk__metrics;

rk_status rk__metrics_init(rk__metrics *m, rk_ctx *ctx, int64_t classes, int64_t topk);
void rk__metrics_free(rk__metrics *m);
/* out (n, classes) with target (n) i64, or out and target of one shape; loss: their mean. */
rk_status rk__metrics_add(rk__metrics *m, rk_tensor *out, rk_tensor *target, double loss);
/* The named values, filtered by `wanted` ("loss,accuracy"; NULL: all that fit). Returns how many. Names are
 * static. */
int rk__metrics_values(const rk__metrics *m, const char *wanted, rk_metric_value v[RK__MAX_METRICS]);
/* Is a smaller value of this metric better? */
bool rk__metric_smaller(const char *name);

#endif
