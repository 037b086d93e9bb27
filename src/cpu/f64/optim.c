/* Optimiser steps in double. */
#include "cpu/f64/f64.h"

#include <math.h>

/* As the device has decided, where it does. */
static rk_optim_args decided(const rk_optim_args *o)
{
    rk_optim_args a = *o;
    if (o->watch) {
        a.grad_scale = o->watch->scale;
        a.bias1 = o->watch->bias1;
        a.bias2 = o->watch->bias2;
        a.first = o->watch->steps == 1;
    }
    return a;
}

static bool stands_still(const rk_optim_args *o)
{
    return o->watch && o->watch->still;
}

/* Kingma & Ba 2015, algorithm 1; decoupled decay: Loshchilov & Hutter 2019, algorithm 2. */
static void adam_piece(const rk_optim_args *o, const rk_optim_piece *p)
{
    double *w = p->w, *m = p->m, *v = p->v;
    for (int64_t i = 0; i < p->n; i++) {
        double g = ((const double *)p->g)[i] * o->grad_scale;
        if (o->decoupled)
            w[i] -= o->lr * p->weight_decay * w[i];
        else
            g += p->weight_decay * w[i];
        m[i] = o->beta1 * m[i] + (1 - o->beta1) * g;
        v[i] = o->beta2 * v[i] + (1 - o->beta2) * g * g;
        w[i] -= o->lr * (m[i] / o->bias1) / (sqrt(v[i] / o->bias2) + o->eps);
    }
}

/* Momentum as Sutskever et al. 2013 write it, in the form that common frameworks share. */
static void sgd_piece(const rk_optim_args *o, const rk_optim_piece *p)
{
    double *w = p->w, *m = p->m;
    for (int64_t i = 0; i < p->n; i++) {
        double g = ((const double *)p->g)[i] * o->grad_scale;
        if (o->decoupled)
            w[i] -= o->lr * p->weight_decay * w[i];
        else
            g += p->weight_decay * w[i];
        if (m) {
            m[i] = o->first ? g : o->momentum * m[i] + (1 - o->dampening) * g;
            g = o->nesterov ? g + o->momentum * m[i] : m[i];
        }
        w[i] -= o->lr * g;
    }
}

rk_status rk__adam_f64(rk_dev *dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece)
{
    (void)dev;
    const rk_optim_args a = decided(o);
    for (int p = 0; p < pieces && !stands_still(o); p++)
        adam_piece(&a, &piece[p]);
    return RK_OK;
}

rk_status rk__sgd_f64(rk_dev *dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece)
{
    (void)dev;
    const rk_optim_args a = decided(o);
    for (int p = 0; p < pieces && !stands_still(o); p++)
        sgd_piece(&a, &piece[p]);
    return RK_OK;
}

rk_status rk__ema_f64(rk_dev *dev, double decay, const int64_t *still, int pieces,
                      const rk_optim_piece *piece)
{
    (void)dev;
    for (int p = 0; p < pieces && !(still && *still); p++)
        for (int64_t i = 0; i < piece[p].n; i++)
            ((double *)piece[p].w)[i] +=
                (1 - decay) * (((const double *)piece[p].g)[i] - ((double *)piece[p].w)[i]);
    return RK_OK;
}

rk_status rk__collect_f64(rk_dev *dev, bool add, int pieces, const rk_optim_piece *piece)
{
    (void)dev;
    for (int p = 0; p < pieces; p++)
        for (int64_t i = 0; i < piece[p].n; i++) {
            double *w = (double *)piece[p].w + i, g = ((const double *)piece[p].g)[i];
            *w = add ? g + *w : g;
        }
    return RK_OK;
}
