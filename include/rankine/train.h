/* How a network is trained from a configuration: what the command line, or another program, calls. */
#ifndef RANKINE_TRAIN_H
#define RANKINE_TRAIN_H

#include "ckpt.h"
#include "io.h"
#include "nn.h"
#include "optim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The fields come from options.def. Strings are owned by the config. */
typedef struct rk_config rk_config;

/* Reads a YAML or JSON file and then overrides "a.b=value" in order; checks every key, type and range.
 * Errors (RK_ECONFIG): file:line:column, the reason, the nearest key. Owned by ctx. */
RK_API rk_config *rk_config_load(rk_ctx *ctx, const char *path, const char *const *overrides, int n_overrides);
/* Canonical JSON of the effective configuration; malloc'ed. */
RK_API char *rk_config_json(const rk_config *cfg, int indent);
/* JSON schema of all keys; malloc'ed. */
RK_API char *rk_config_schema(void);
/* One row of the option table, for --help and the man page; false past the end. */
typedef struct rk_option_info {
    const char *key, *type, *def, *allowed, *help;
    double min, max;
    bool has_range;
} rk_option_info;
RK_API bool rk_config_option(int i, rk_option_info *info);

/* What the loop tells while it runs. Zero what does not apply. */
typedef struct rk_progress {
    int64_t step, steps;
    double epoch;
    double loss, lr, grad_norm, accuracy; /* accuracy: NAN if none */
    double samples_per_s, flops_per_s;    /* of the window since the last call */
    double step_s, data_s;                /* seconds a step; of them waiting for data */
    double eta_s;
    size_t memory_bytes;                  /* planned step memory + persistent */
    double since_ckpt_s;                  /* since the last durable snapshot; < 0: none yet */
} rk_progress;

typedef enum rk_event_kind {
    RK_EVENT_BANNER,   /* text: one line of the banner */
    RK_EVENT_START,    /* text: "resumed from step 120" or "new run" */
    RK_EVENT_STEP,     /* progress: every step (the terminal line decides how often it draws) */
    RK_EVENT_LOG,      /* progress: every log.every steps: a log line */
    RK_EVENT_EVAL,     /* metrics of an evaluation */
    RK_EVENT_SAVED,    /* step: durable */
    RK_EVENT_WARN,     /* text */
    RK_EVENT_END       /* text: why */
} rk_event_kind;

typedef struct rk_metric_value {
    const char *name; /* [A-Za-z0-9_-] */
    double value;
} rk_metric_value;

typedef struct rk_event {
    rk_event_kind kind;
    const char *text;
    const rk_progress *progress;
    int64_t step;
    const rk_metric_value *metrics;
    int n_metrics;
} rk_event;

typedef void rk_event_fn(void *user, const rk_event *e);

typedef struct rk_train_opts {
    rk_event_fn *on_event;
    void *user;
    /* Polled between steps: 0 go on; 1 save and stop (RK_EPREEMPTED). Async-signal-safe writers set it. */
    const volatile int *stop;
    bool fresh;        /* start anew: an existing run is removed (the caller asked the user) */
    bool allow_change; /* accept changed options of class ALLOW */
} rk_train_opts;

/* Trains as cfg says, resuming what its run folder holds. */
RK_API rk_status rk_train(rk_ctx *ctx, const rk_config *cfg, const rk_train_opts *opts);

#ifdef __cplusplus
}
#endif
#endif
