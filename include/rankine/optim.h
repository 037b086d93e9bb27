/* Optimisers: one fused pass over each parameter. */
#ifndef RANKINE_OPTIM_H
#define RANKINE_OPTIM_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum rk_optim_kind { RK_SGD, RK_ADAM, RK_ADAMW } rk_optim_kind;

typedef struct rk_optim_cfg {
    rk_optim_kind kind;
    double lr;
    double weight_decay; /* not on norms and biases, unless decay_all */
    bool decay_all;
    double momentum; /* sgd */
    bool nesterov;
    double beta1, beta2, eps;
    double clip_norm; /* 0: none */
    double ema_decay; /* 0: no averaged weights */
    /* For rk_set_compute(RK_F16), whose range small gradients would fall out of: rk_backward() multiplies the
     * loss by this power of two, and rk_optim_step() divides by it, exactly. 0: as 1. */
    double loss_scale;
    bool loss_scale_moves; /* from 65536 on: halved where a gradient is not finite, doubled after 2000 good
                              steps */
} rk_optim_cfg;

#define RK_ADAMW_DEFAULTS                                                       \
    {                                                                           \
        RK_ADAMW, 1e-3, 0.01, false, 0, false, 0.9, 0.999, 1e-8, 0, 0, 0, false \
    }
#define RK_SGD_DEFAULTS                                            \
    {                                                              \
        RK_SGD, 0.1, 0, false, 0.9, false, 0, 0, 0, 0, 0, 0, false \
    }

typedef struct rk_optim rk_optim;

/* [C] State only for parameters that are not frozen. Owned by ctx. Of several ranks each keeps a part of it.
 */
RK_API rk_optim *rk_optim_make(rk_module *root, const rk_optim_cfg *cfg);
/* [C] One update with learning rate cfg.lr * lr_scale, from the sum of the gradients of all ranks; gradients
 * are zeroed afterwards. Fails with RK_EDIVERGED, before any weight changes, if a gradient is not finite;
 * where the scale of the loss moves, the step is left out instead, unless the scale is 1 already. */
RK_API rk_status rk_optim_step(rk_optim *o, double lr_scale);
RK_API double rk_optim_grad_norm(const rk_optim *o); /* of the last step, before clipping */
RK_API int64_t rk_optim_steps(const rk_optim *o);
RK_API double rk_optim_loss_scale(const rk_optim *o); /* of the next rk_backward() */
RK_API int64_t rk_optim_skipped(const rk_optim *o);   /* steps that were left out */

#ifdef __cplusplus
}
#endif
#endif
