/* How much memory a run needs of its device, and what would need less. */
#ifndef RK_TRAIN_FIT_H
#define RK_TRAIN_FIT_H

#include "train/trainer.h"

/* How a run would be made. Samples are those of all ranks. */
typedef struct rk__fit_plan {
    int ranks, tensor;     /* tensor: of them hold cut parameters side by side; 1: nobody does */
    int workers;           /* of strategy average; 0: sync */
    bool trains;           /* false: it only evaluates */
    int64_t micro, bucket; /* batch.micro; bytes of a bucket, 0: not known */
    rk__zero zero;
    int64_t batch;         /* samples of a step */
    int64_t rest;          /* and of the last one of an epoch where they are fewer, else 0 */
    int64_t eval;          /* samples of a batch of evaluation; 0: nothing is evaluated */
    int64_t eval_all;      /* and of a pass */
    bool eval_before_rest; /* the first pass comes before the first such batch */
} rk__fit_plan;

/* Bytes, of one rank. */
typedef struct rk__fit {
    size_t all;      /* the sum of: */
    size_t kept;     /* what outlives a step: weights (in 16 bits too), gradients, the optimiser's slots */
    size_t step;     /* a step's tensors, or those of a batch of evaluation */
    size_t exchange; /* what other ranks' parts need until they are added */
} rk__fit;

/* What the rank with the most samples needs. Found by setting the run up and making steps on a device that
 * only counts, among ranks that are not there: no memory of that size is needed. RK_ENOMEM, RK_EINTERNAL: it
 * cannot be told. */
rk_status rk__fit_measure(const rk__setup *s, const rk__fit_plan *plan, rk__fit *fit);

/* Memory has run out on the device: adds to the recorded failure what the run needs, and the largest
 * batch.micro, eval.batch, the least parallel.zero or the fewest ranks with which it would fit, where what
 * the configuration says goes with that. Nothing where the device is the host. */
void rk__fit_advise(rk__trainer *t);

/* The same of a pass over `samples` of a trained network, in batches of `batch`, as `option` names them. */
void rk__fit_advise_pass(const rk__setup *s, int64_t samples, int64_t batch, const char *option);

#endif
