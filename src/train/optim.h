/* Optimisers from the inside: what persist and the loop need to see. */
#ifndef RK_TRAIN_OPTIM_H
#define RK_TRAIN_OPTIM_H

#include <rankine/optim.h>

#include "core/state.h"
#include "core/tape.h"
#include "parallel/norms.h"
#include "train/scale.h"

typedef struct rk__optim_slot {
    rk_param param;
    int64_t from, to; /* elements that this rank updates: all, or those of its piece */
    rk_tensor *m, *v; /* (to - from) sgd: m only, if there is momentum */
    rk_tensor *ema;   /* (to - from); NULL: none */
} rk__optim_slot;

struct rk_optim {
    rk_ctx *ctx;
    rk_module *root;
    rk_optim_cfg cfg;
    rk__optim_slot *slots; /* sorted by name: the order of the norm's sum */
    int n;
    int64_t steps;
    double norm;
    rk__scale scale;          /* of losses */
    rk_optim_piece *pieces;   /* (n) of slots, as the step at hand has them; empty without a gradient */
    rk_optim_piece *averages; /* (n) for ema */
    rk_tensor *watch;         /* holds a rk_watch */
    rk_watch seen;            /* what the device has of it, as far as the host knows; without verdicts */
    bool told;                /* the device has it */
    rk__norms *norms;
    rk__grads *grads; /* NULL: one rank */
    bool sums;        /* its step sums the gradients of all ranks first: nobody else does */
};

/* rk_optim_make() for the ranks whose gradients meet in grads (NULL: one rank). */
rk_optim *rk__optim_make(rk_module *root, const rk_optim_cfg *cfg, rk__grads *grads);

/* Can the device take steps by itself, without the host in between? */
bool rk__optim_alone(const rk_optim *o);
/* [C] rk_optim_step() on such a device, which goes on at once: it notes the verdict on the step, with the
 * loss (f32, a scalar), in `slot` (0 .. RK_WATCH_STEPS - 1). From a bad verdict on nothing changes any more.
 * Until rk__optim_look() the host takes it that no step is left out. */
rk_status rk__optim_step_alone(rk_optim *o, double lr_scale, const rk_tensor *loss, int slot);
/* Waits for what was noted in the first n slots; steps and the loss scale are the device's then. */
rk_status rk__optim_look(rk_optim *o, int n, rk_verdict *verdicts);
/* What stops running statistics when the device halts: for rk_ctx.halted. */
const int64_t *rk__optim_halted(rk_optim *o);
/* Says which gradient is not finite, as rk_optim_step() does. */
rk_status rk__optim_bad(rk_optim *o, const rk_verdict *v);

/* Adds "optim/NAME/m", "optim/NAME/v", "ema/NAME" and the counter "optim/steps". */
rk_status rk__optim_state(rk_optim *o, rk_state *st);
/* [C] Swaps the weights with their averages; calling it twice restores. */
rk_status rk__optim_swap_ema(rk_optim *o);

#endif
