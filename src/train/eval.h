/* Passing evaluation data through a network. */
#ifndef RK_TRAIN_EVAL_H
#define RK_TRAIN_EVAL_H

#include "train/metrics.h"
#include "train/setup.h"

/* The next batch, whose values live until the step ends; false: there is none, or a failure is recorded. */
typedef bool rk__next_batch(void *arg, rk_batch *b);

/* Batches through the network until there is none, or m has `limit` samples (0: no limit). Weights as they
 * are; the training mode is restored. */
rk_status rk__evaluate_batches(rk__setup *s, rk__next_batch *next, void *arg, int64_t limit, rk__metrics *m);

/* One pass over `data` from its beginning. Weights as they are; the training mode is restored. */
rk_status rk__evaluate_pass(rk__setup *s, rk_loader *data, int64_t limit, rk__metrics *m);

#endif
