/* How much memory a run needs of its device, and what would need less. */
#ifndef RK_TRAIN_FIT_H
#define RK_TRAIN_FIT_H

#include "train/trainer.h"

/* Bytes, of one rank. */
typedef struct rk__fit {
    size_t weights, gradients, optim; /* of what is trained; optim: the optimiser's slots and averages */
    size_t rounded;                   /* weights in 16 bits (core/rounded.h) */
    size_t step;                      /* all else: a step's tensors, the batch, frozen weights and buffers */
    size_t exchange;                  /* what ranks send and get at a time; not measured: 0 */
} rk__fit;

/* What a rank needs that has `samples` of the batch and takes at most `micro` at once (0: all), where every
 * rank holds everything. Found by steps on a device that only counts: no memory of that size is needed.
 * RK_ENOMEM, RK_EINTERNAL: it cannot be told. */
rk_status rk__fit_measure(const rk__setup *s, int64_t samples, int64_t micro, rk__fit *fit);
/* The same in all, where `ranks` ranks share what stage `zero` says. */
size_t rk__fit_bytes(const rk__fit *fit, int ranks, rk__zero zero);

/* Memory has run out on the device: adds to the recorded failure what the run needs, and the largest
 * batch.micro or the least parallel.zero with which it would fit. Nothing where the device is the host. */
void rk__fit_advise(rk__trainer *t);

#endif
