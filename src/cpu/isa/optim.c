/* Optimiser steps, each one pass over memory. Numeric contract: an element's new value depends on that
 * element alone; the formulas are those of PyTorch, in its order, with multiply-adds fused; parameters are
 * computed in double and rounded to float once. */
#include "cpu/isa/isa.h"

#include "cpu/isa/rows.h"

typedef struct job {
    int pieces;
    const rk_optim_piece *piece;
    int64_t n, each; /* elements of all pieces; of a task */
    double lr;
    bool decoupled;
    /* of the piece at hand */
    float *w, *m1, *m2;
    const float *g;
    float decay, shrink; /* g * scale + decay * w; w * shrink - step * .. */
    /* of all */
    float scale, step;
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
    vf avg = v_get(j->w + i, m);
    v_put(j->w + i, m, v_fma(v_set1(j->take1), v_sub(v_get(j->g + i, m), avg), avg));
}

RK_INLINE void take_vector(const job *j, int64_t i, int m)
{
    v_put(j->w + i, m, v_get(j->g + i, m));
}

RK_INLINE void add_vector(const job *j, int64_t i, int m)
{
    v_put(j->w + i, m, v_add(v_get(j->g + i, m), v_get(j->w + i, m)));
}

RK_INLINE job piece_of(const job *all, const rk_optim_piece *p)
{
    job j = *all;
    j.w = p->w;
    j.g = p->g;
    j.m1 = p->m;
    j.m2 = p->v;
    j.decay = j.decoupled ? 0 : (float)p->weight_decay;
    j.shrink = j.decoupled ? (float)(1 - j.lr * p->weight_decay) : 1;
    return j;
}

/* Where a piece of n elements is cut between two tasks: at a cache line, so that vectors stay aligned. */
RK_INLINE int64_t cut_at(int64_t i, int64_t n)
{
    i = i <= 0 ? 0 : (i + RK_LANES - 1) / RK_LANES * RK_LANES;
    return i < n ? i : n;
}

#define TASK(name)                                                               \
    static void name##_task(void *arg, int64_t task, int worker)                 \
    {                                                                            \
        (void)worker;                                                            \
        const job *all = arg;                                                    \
        int64_t from = task * all->each, to = rows_end(all->n, all->each, task); \
        for (int p = 0; p < all->pieces && to > 0; p++) {                        \
            const int64_t n = all->piece[p].n, end = cut_at(to, n);              \
            const job j = piece_of(all, &all->piece[p]);                         \
            int64_t i = cut_at(from, n);                                         \
            for (; i + VL <= end; i += VL)                                       \
                name##_vector(&j, i, VL);                                        \
            if (i < end)                                                         \
                name##_vector(&j, i, (int)(end - i));                            \
            from -= n;                                                           \
            to -= n;                                                             \
        }                                                                        \
    }
TASK(adam)
TASK(sgd)
TASK(ema)
TASK(take)
TASK(add)

static rk_status run(rk_dev *dev, job *j, int pieces, const rk_optim_piece *piece, double ns, rk__task *task)
{
    int64_t tasks;
    j->pieces = pieces;
    j->piece = piece;
    for (int p = 0; p < pieces; p++)
        j->n += piece[p].n;
    j->each = rk__grain(dev, j->n, ns, &tasks);
    rk__parallel(dev, tasks, task, j);
    return RK_OK;
}

static job job_of(const rk_optim_args *o)
{
    return (job){ .lr = o->lr,
                  .decoupled = o->decoupled,
                  .scale = (float)(o->watch ? o->watch->scale : o->grad_scale) };
}

rk_status RK_NAME(adam)(rk_dev *dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece)
{
    const double bias1 = o->watch ? o->watch->bias1 : o->bias1, bias2 = o->watch ? o->watch->bias2 : o->bias2;
    job j = job_of(o);
    if (o->watch && o->watch->still)
        return RK_OK;
    j.take1 = (float)(1 - o->beta1);
    j.keep2 = (float)o->beta2;
    j.take2 = (float)(1 - o->beta2);
    j.step = (float)(o->lr / bias1);
    j.inverse_root = (float)(1 / sqrt(bias2));
    j.eps = (float)o->eps;
    return run(dev, &j, pieces, piece, 0.6, adam_task);
}

rk_status RK_NAME(sgd)(rk_dev *dev, const rk_optim_args *o, int pieces, const rk_optim_piece *piece)
{
    job j = job_of(o);
    if (o->watch && o->watch->still)
        return RK_OK;
    j.first = o->watch ? o->watch->steps == 1 : o->first;
    j.keep1 = j.keep2 = (float)o->momentum;
    j.take1 = (float)(1 - o->dampening);
    j.nesterov = o->nesterov;
    j.step = (float)o->lr;
    return run(dev, &j, pieces, piece, 0.2, sgd_task);
}

rk_status RK_NAME(ema)(rk_dev *dev, double decay, const int64_t *still, int pieces,
                       const rk_optim_piece *piece)
{
    job j = { .take1 = (float)(1 - decay) };
    return still && *still ? RK_OK : run(dev, &j, pieces, piece, 0.12, ema_task);
}

rk_status RK_NAME(collect)(rk_dev *dev, bool add, int pieces, const rk_optim_piece *piece)
{
    job j = { 0 };
    return run(dev, &j, pieces, piece, 0.1, add ? add_task : take_task);
}
