/* Passing evaluation data through a network. */
#ifndef RK_TRAIN_EVAL_H
#define RK_TRAIN_EVAL_H

#include "train/metrics.h"
#include "train/setup.h"

/* One pass over `data` from its beginning. Weights as they are; the training mode is restored. */
rk_status rk__evaluate_pass(rk__setup *s, rk_loader *data, int64_t limit, rk__metrics *m);

#endif
