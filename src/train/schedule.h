/* The learning rate over time. */
#ifndef RK_TRAIN_SCHEDULE_H
#define RK_TRAIN_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum rk__schedule_kind {
    RK__CONSTANT, /* lr */
    RK__STEP,     /* lr * gamma^floor(t / decay_steps) */
    RK__LINEAR,   /* a line from lr to min_lr */
    RK__COSINE,   /* half a cosine from lr to min_lr (Loshchilov & Hutter 2017, without restarts) */
    RK__WSD /* lr, then a line to min_lr over the last decay_steps (warm-up, stable, decay; Hu et al. 2024) */
} rk__schedule_kind;

typedef struct rk__schedule {
    rk__schedule_kind kind;
    double min_scale; /* min_lr / lr */
    double gamma;
    int64_t warmup;      /* steps */
    int64_t decay_steps; /* 0: a third (step), a fifth (wsd) of what follows the warm-up */
    int64_t total;       /* steps of the run */
} rk__schedule;

/* false: there is no such schedule. */
bool rk__schedule_find(const char *name, rk__schedule_kind *kind);
/* Factor of the peak learning rate in step `step` (from 0). Step s of the warm-up has (s + 1) / warmup. The
 * same bits on every machine. */
double rk__schedule_scale(const rk__schedule *s, int64_t step);

#endif
