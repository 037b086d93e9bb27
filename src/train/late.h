/* Steps that a device takes by itself: it judges loss and gradients; the host reads of several at once. Ranks
 * whose gradients meet find the same verdicts, and look at them at the same steps. */
#ifndef RK_TRAIN_LATE_H
#define RK_TRAIN_LATE_H

#include "train/trainer.h"

/* After everything is made: may this run's steps go on without the host? */
rk_status rk__late_begin(rk__trainer *t);
/* One step, which will be looked at later: [C] the passes over its batch, then [C] the update. */
rk_status rk__late_pass(rk__trainer *t, const rk_batch *b);
rk_status rk__late_update(rk__trainer *t, double lr_scale);
/* The same of workers: before and after all of this rank's. */
void rk__late_note(rk__trainer *t, const rk_batch *b);
/* Reads of the steps since the last look, before anything is told or saved of them: t->loss and t->grad_norm
 * are those of the last step then. Where one was bad the run is back at it, as if it had been looked at then:
 * RK_EDIVERGED, [C] where ranks train together. Between steps. */
rk_status rk__late_look(rk__trainer *t);
/* Has to be done now, for want of room? */
bool rk__late_full(const rk__trainer *t);
/* Back to step i of the last n, with its batch once more. */
rk_status rk__late_back(rk__trainer *t, int n, int i, rk_batch *b);
/* Why that step was bad, in words. */
void rk__late_why(rk__trainer *t, rk_optim *o, const rk_verdict *v, char what[512]);

#endif
