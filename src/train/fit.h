/* How much memory a run needs of its device, and what would need less. */
#ifndef RK_TRAIN_FIT_H
#define RK_TRAIN_FIT_H

#include "train/trainer.h"

/* How a run would be made. */
typedef struct rk__fit_plan {
    int ranks;
    int64_t micro, bucket; /* batch.micro; bytes of a bucket, 0: not known */
    rk__zero zero;
} rk__fit_plan;

/* Bytes, of one rank. */
typedef struct rk__fit {
    size_t all;      /* the sum of: */
    size_t kept;     /* weights (in 16 bits too), gradients, the optimiser's slots and averages */
    size_t step;     /* all else: a step's tensors, the batch, frozen weights and buffers */
    size_t exchange; /* what other ranks' parts need until they are added */
} rk__fit;

/* What the rank with the most samples needs. Found by setting the run up and making steps on a device that
 * only counts, among ranks that are not there: no memory of that size is needed. RK_ENOMEM, RK_EINTERNAL: it
 * cannot be told. */
rk_status rk__fit_measure(const rk__setup *s, const rk__fit_plan *plan, rk__fit *fit);

/* Memory has run out on the device: adds to the recorded failure what the run needs, and the largest
 * batch.micro or the least parallel.zero with which it would fit. Nothing where the device is the host. */
void rk__fit_advise(rk__trainer *t);

#endif
