/* Optimiser steps in double. */
#include "cpu/f64/f64.h"

#include <math.h>

/* Kingma & Ba 2015, algorithm 1; decoupled decay: Loshchilov & Hutter 2019, algorithm 2. */
rk_status rk__adam_f64(rk_dev *dev, const rk_optim_args *o, void *weights, const void *gradient, void *first,
                       void *second)
{
    (void)dev;
    double *w = weights, *m = first, *v = second;
    for (int64_t i = 0; i < o->n; i++) {
        double g = ((const double *)gradient)[i] * o->grad_scale;
        if (o->decoupled)
            w[i] -= o->lr * o->weight_decay * w[i];
        else
            g += o->weight_decay * w[i];
        m[i] = o->beta1 * m[i] + (1 - o->beta1) * g;
        v[i] = o->beta2 * v[i] + (1 - o->beta2) * g * g;
        w[i] -= o->lr * (m[i] / o->bias1) / (sqrt(v[i] / o->bias2) + o->eps);
    }
    return RK_OK;
}

/* Momentum as Sutskever et al. 2013 write it, in the form that common frameworks share. */
rk_status rk__sgd_f64(rk_dev *dev, const rk_optim_args *o, void *weights, const void *gradient,
                      void *momentum)
{
    (void)dev;
    double *w = weights, *m = momentum;
    for (int64_t i = 0; i < o->n; i++) {
        double g = ((const double *)gradient)[i] * o->grad_scale;
        if (o->decoupled)
            w[i] -= o->lr * o->weight_decay * w[i];
        else
            g += o->weight_decay * w[i];
        if (m) {
            m[i] = o->first ? g : o->momentum * m[i] + (1 - o->dampening) * g;
            g = o->nesterov ? g + o->momentum * m[i] : m[i];
        }
        w[i] -= o->lr * g;
    }
    return RK_OK;
}

rk_status rk__ema_f64(rk_dev *dev, int64_t n, double decay, const void *w, void *avg)
{
    (void)dev;
    double *a = avg;
    for (int64_t i = 0; i < n; i++)
        a[i] += (1 - decay) * (((const double *)w)[i] - a[i]);
    return RK_OK;
}
