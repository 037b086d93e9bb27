/* Steps that a device takes by itself: it judges loss and gradients; the host reads of several at once. */
#ifndef RK_TRAIN_LATE_H
#define RK_TRAIN_LATE_H

#include "train/trainer.h"

/* After everything is made: may this run's steps go on without the host? */
rk_status rk__late_begin(rk__trainer *t);
/* One step, which will be looked at later. */
rk_status rk__late_step(rk__trainer *t, const rk_batch *b, double lr_scale);
/* Reads of the steps since the last look, before anything is told or saved of them: t->loss and t->grad_norm
 * are those of the last step then. Where one was bad the run is back at it, as if it had been looked at then:
 * RK_EDIVERGED. Between steps. */
rk_status rk__late_look(rk__trainer *t);
/* Has to be done now, for want of room? */
bool rk__late_full(const rk__trainer *t);

#endif
