/* A run in progress. loop.c moves it, report.c tells about it, diverge.c finds what went wrong. */
#ifndef RK_TRAIN_TRAINER_H
#define RK_TRAIN_TRAINER_H

#include "core/clock.h"
#include "train/crew.h"
#include "train/eval.h"
#include "train/journal.h"
#include "train/optim.h"
#include "train/schedule.h"

typedef struct rk__window { /* what is measured between two log lines */
    double begin, data;
    int64_t steps, samples;
    double rate, step_s; /* when somebody last waited for the device: samples a second, seconds a step */
} rk__window;

/* Steps that nobody has looked at (train/late.h). */
typedef struct rk__late {
    bool on; /* the device goes on by itself */
    int steps;
    int64_t cursor[RK_WATCH_STEPS];  /* where the loader stood before each */
    int64_t samples[RK_WATCH_STEPS]; /* of its batch */
} rk__late;

typedef struct rk__trainer {
    rk_ctx *ctx;
    const rk_config *cfg;
    const rk_train_opts *opts;
    rk_run *run; /* ranks other than the first: to read only */
    bool speaks; /* the first rank: writes the run's folder and tells the caller */
    rk__crew crew;
    rk__setup setup;
    rk_optim *optim;
    rk__schedule schedule;
    rk__accumulator acc;
    struct rk__workers *workers; /* train/workers.h; NULL: strategy sync */
    rk__journal journal;
    rk_state state;
    char *config_json, *record;
    /* kept in snapshots */
    int64_t step, cursor; /* steps done; samples served */
    int64_t bad_evals;    /* evaluations since the best one */
    int64_t best_bits;    /* the best metric's double, as bits */
    int64_t best_step;    /* 0: none yet */
    /* of this process */
    int64_t total, per_epoch, eval_every, ckpt_every, saved_step, asked_step;
    int64_t next_ask, asked_before; /* the step before which ranks agree whether to stop; the last such one */
    bool stop, snapshot;            /* what they have agreed on */
    double asked_at;
    int64_t failed_saves; /* in a row */
    double save_begun;    /* for a trace; 0: none */
    double loss, grad_norm, lr, started, last_saved, data_s;
    rk__window window;
    rk__late late;
    size_t persistent_bytes;
    int64_t eval_step; /* of `evaluated` */
    rk_metric_value evaluated[RK__MAX_METRICS];
    int n_evaluated;
    const char *best_metric; /* NULL: none */
    bool journal_told;
} rk__trainer;

/* ---- report.c ---- */
void rk__report_text(rk__trainer *t, rk_event_kind kind, const char *fmt, ...) RK_PRINTF(3, 4);
void rk__report_banner(rk__trainer *t);
void rk__report_step(rk__trainer *t, bool log);
void rk__report_eval(rk__trainer *t);
void rk__report_saved(rk__trainer *t, int64_t step);
rk_status rk__report_result(rk__trainer *t, const char *why);

/* ---- diverge.c ---- */
/* Records RK_EDIVERGED with the step, the first layer whose output is not finite, and the batch's samples.
 * worker < 0: all ranks are here [C]; else worker `worker` of this rank has diverged, in a batch of its own.
 */
rk_status rk__diverged(rk__trainer *t, const rk_batch *b, int worker, const char *what);
/* Tells that step `step`, whose loss was scaled by `scale`, was left out. */
void rk__left_out(rk__trainer *t, int64_t step, double scale);
/* rk_optim_step(); a gradient that is not finite is told so. */
rk_status rk__step_optim(rk__trainer *t, rk_optim *o, const rk_batch *b, int worker, double lr_scale);

#endif
