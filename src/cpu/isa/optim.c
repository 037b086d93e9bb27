/* Optimiser steps, each one pass over memory. Numeric contract: an element's new value depends on that
 * element alone; the formulas are those of PyTorch, in its order, with multiply-adds fused; parameters are
 * computed in double and rounded to float once. */
#include "cpu/isa/isa.h"

#include "cpu/isa/rows.h"

typedef struct job {
    int64_t n, each;
    float *w, *m1, *m2;
    const float *g;
    float scale, decay, shrink, step; /* g * scale + decay * w; w * shrink - step * .. */
    float keep1, take1, keep2, take2; /* moving averages: keep * old + take * new */
    float inverse_root, eps;          /* of 1 - beta2^t */
    bool nesterov, first;
} job;

static vf gradient(const job *j, const float *g, vf w, int m)
{
    vf scaled = v_mul(v_get(g, m), v_set1(j->scale));
    return j->decay != 0 ? v_fma(v_set1(j->decay), w, scaled) : scaled;
}

/* Kingma & Ba 2015, algorithm 1, with the bias corrections taken into the step and the root; decoupled decay:
 * Loshchilov & Hutter 2019, algorithm 2. */
RK_INLINE void adam_vector(const job *j, int64_t i, int m)
{
    vf w = v_get(j->w + i, m), m1 = v_get(j->m1 + i, m), m2 = v_get(j->m2 + i, m);
    vf g = gradient(j, j->g + i, w, m);
    m1 = v_fma(v_sub(g, m1), v_set1(j->take1), m1);
    m2 = v_fma(v_mul(v_set1(j->take2), g), g, v_mul(v_set1(j->keep2), m2));
    vf root = v_fma(v_sqrt(m2), v_set1(j->inverse_root), v_set1(j->eps));
    w = v_fnma(v_set1(j->step), v_div(m1, root), v_mul(w, v_set1(j->shrink)));
    v_put(j->w + i, m, w);
    v_put(j->m1 + i, m, m1);
    v_put(j->m2 + i, m, m2);
}

RK_INLINE void sgd_vector(const job *j, int64_t i, int m)
{
    vf w = v_get(j->w + i, m), g = gradient(j, j->g + i, w, m);
    if (j->m1) {
        vf buf = g;
        if (!j->first)
            buf = v_fma(v_set1(j->keep1), v_get(j->m1 + i, m), v_mul(v_set1(j->take1), g));
        v_put(j->m1 + i, m, buf);
        g = j->nesterov ? v_fma(v_set1(j->keep2), buf, g) : buf;
    }
    v_put(j->w + i, m, v_fnma(v_set1(j->step), g, v_mul(w, v_set1(j->shrink))));
}

RK_INLINE void ema_vector(const job *j, int64_t i, int m)
{
    vf avg = v_get(j->m1 + i, m);
    v_put(j->m1 + i, m, v_fma(v_set1(j->take1), v_sub(v_get(j->w + i, m), avg), avg));
}

#define TASK(name)                                                    \
    static void name##_task(void *arg, int64_t task, int worker)      \
    {                                                                 \
        (void)worker;                                                 \
        const job j = *(const job *)arg;                              \
        int64_t i = task * j.each, end = rows_end(j.n, j.each, task); \
        for (; i + VL <= end; i += VL)                                \
            name##_vector(&j, i, VL);                                 \
        if (i < end)                                                  \
            name##_vector(&j, i, (int)(end - i));                     \
    }
TASK(adam)
TASK(sgd)
TASK(ema)

static rk_status run(rk_dev *dev, job *j, double ns, rk__task *task)
{
    int64_t tasks;
    j->each = rk__grain(dev, j->n, ns, &tasks);
    rk__parallel(dev, tasks, task, j);
    return RK_OK;
}

static job decayed(const rk_optim_args *o, void *w, const void *g)
{
    return (job){ .n = o->n,
                  .w = w,
                  .g = g,
                  .scale = (float)o->grad_scale,
                  .decay = o->decoupled ? 0 : (float)o->weight_decay,
                  .shrink = o->decoupled ? (float)(1 - o->lr * o->weight_decay) : 1 };
}

rk_status RK_NAME(adam)(rk_dev *dev, const rk_optim_args *o, void *w, const void *g, void *m, void *v)
{
    job j = decayed(o, w, g);
    j.m1 = m;
    j.m2 = v;
    j.take1 = (float)(1 - o->beta1);
    j.keep2 = (float)o->beta2;
    j.take2 = (float)(1 - o->beta2);
    j.step = (float)(o->lr / o->bias1);
    j.inverse_root = (float)(1 / sqrt(o->bias2));
    j.eps = (float)o->eps;
    return run(dev, &j, 0.6, adam_task);
}

rk_status RK_NAME(sgd)(rk_dev *dev, const rk_optim_args *o, void *w, const void *g, void *m)
{
    job j = decayed(o, w, g);
    j.m1 = m;
    j.first = o->first;
    j.keep1 = j.keep2 = (float)o->momentum;
    j.take1 = (float)(1 - o->dampening);
    j.nesterov = o->nesterov;
    j.step = (float)o->lr;
    return run(dev, &j, 0.2, sgd_task);
}

rk_status RK_NAME(ema)(rk_dev *dev, int64_t n, double decay, const void *w, void *avg)
{
    /* w is only read here */
    job j = { .n = n, .w = (float *)(uintptr_t)w, .m1 = avg, .take1 = (float)(1 - decay) };
    return run(dev, &j, 0.12, ema_task);
}
