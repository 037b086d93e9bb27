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
 * Errors (RK_ECONFIG): file:line:column, the reason, the nearest key; NULL. Owned by ctx. */
RK_API rk_config *rk_config_load(rk_ctx *ctx, const char *path, const char *const *overrides,
                                 int n_overrides);
/* Canonical JSON of the effective configuration; malloc'ed. */
RK_API char *rk_config_json(const rk_config *cfg, int indent);
/* The effective value of one key, as written in YAML ("0.001", "true", "adamw"); NULL if it is unset or no
 * key. Owned by cfg. */
RK_API const char *rk_config_get(const rk_config *cfg, const char *key);
/* The folder of the run: run.dir, or runs/NAME for NAME.yaml. Owned by cfg. */
RK_API const char *rk_config_run_dir(const rk_config *cfg);
/* How the context that trains this configuration is opened: threads, data shards, seed, exactness. A
 * configuration is read with any context first, and once more with the one opened so. */
RK_API void rk_config_open_cfg(const rk_config *cfg, rk_open_cfg *out);
/* Builds the data set and the network and checks that they fit, without training or touching the run folder.
 */
RK_API rk_status rk_config_check(rk_ctx *ctx, const rk_config *cfg);
/* How the tensor shards of grid.tensor cut the network's parameters, as a table; malloc'ed, NULL after a
 * failure. Builds what rk_config_check() builds. */
RK_API char *rk_config_layout(rk_ctx *ctx, const rk_config *cfg);
/* JSON schema of all keys; malloc'ed. */
RK_API char *rk_config_schema(void);
/* One row of the option table, for --help and the man page; false past the end. */
typedef struct rk_option_info {
    const char *key, *type, *def, *allowed,
        *help;          /* type: int, number, bool, string, document; def may be NULL */
    const char *change; /* "free", "allow" or "refuse" when a run is continued */
    double min, max;
    bool has_range;
} rk_option_info;
RK_API bool rk_config_option(int i, rk_option_info *info);

/* What the loop tells while it runs. Zero what does not apply. */
typedef struct rk_progress {
    int64_t step, steps;
    double epoch;
    /* accuracy: NAN if none. Of steps without a log line, on a GPU: loss and grad_norm of the last one read.
     */
    double loss, lr, grad_norm, accuracy;
    /* Of the steps since the last log line; between log lines on a GPU, as of when it was last waited for: 0
     * if it never was. */
    double samples_per_s, flops_per_s;
    double step_s, data_s; /* seconds a step; of them waiting for data */
    double eta_s;
    size_t memory_bytes; /* planned step memory + persistent */
    double since_ckpt_s; /* since the last durable snapshot; < 0: none yet */
    int ranks;           /* of the job */
    double exchange_s; /* of step_s: waiting for other ranks, what no computation hid; the host's waits alone,
                        * where tensors go by NCCL */
    double
        sent_bytes; /* a step, by all ranks, at the last log line: gradients, weights and what is agreed on */
    int slow_rank;  /* the slowest at the last log line, if it took more than 1.3 times the median; else -1 */
    double slow_by; /* its time over the median */
    const char *slow_host;
    double loss_scale; /* of the next step, where it moves; else 0 */
    double far_bytes;  /* of sent_bytes, to other nodes */
} rk_progress;

typedef enum rk_event_kind {
    RK_EVENT_BANNER, /* text: one line of the banner */
    RK_EVENT_START,  /* text: "resumed from step 120" or "new run" */
    RK_EVENT_STEP,   /* progress: every step (the terminal line decides how often it draws) */
    RK_EVENT_LOG,    /* progress: every log.every steps: a log line */
    RK_EVENT_EVAL,   /* metrics of an evaluation */
    RK_EVENT_SAVED,  /* step: durable */
    RK_EVENT_WARN,   /* text */
    RK_EVENT_END     /* text: why */
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

/* Trains as cfg says, resuming what its run folder holds. cfg may belong to another context.
 * RK_OK: finished, RUN/DONE is there. RK_EPREEMPTED: stopped on request, saved. RK_EDIVERGED: not finite; no
 * weight was touched by it. RK_ECONFIG: cfg does not fit the data, or the run that is continued. */
RK_API rk_status rk_train(rk_ctx *ctx, const rk_config *cfg, const rk_train_opts *opts);

/* ---- what a trained run is worth, and what it says about new data ---- */

typedef struct rk_eval_opts {
    const char *run; /* folder of the run */
    int64_t step;    /* which snapshot; -1: the best one if the run kept one, else the newest */
    const char
        *data; /* another data set, treated as the training data was; NULL: data.eval or the held-out part */
    const char *format; /* of that data set; NULL: as in the run's configuration */
    int64_t batch;      /* samples a pass; 0: as trained */
    int64_t limit;      /* only the first so many samples; 0: all */
} rk_eval_opts;

typedef struct rk_eval_result {
    int64_t step, samples;
    const rk_metric_value *metrics; /* loss, accuracy, top5, mae, ... as the task has them */
    int n_metrics;
    int64_t classes;          /* 0: no classification */
    const int64_t *confusion; /* (classes, classes): true class by row, predicted by column; NULL if none */
    const char *const *class_names; /* (classes) or NULL */
} rk_eval_result;

/* Evaluates a snapshot. Everything in *out lives as long as ctx. Opens the run read-only: a running job is
 * not disturbed. */
RK_API rk_status rk_evaluate(rk_ctx *ctx, const rk_eval_opts *opts, rk_eval_result *out);

typedef struct rk_prediction {
    int64_t sample;        /* number in the data set, from 0, ascending */
    int64_t n;             /* outputs of this sample */
    const float *value;    /* (n): probabilities of the classes, or the predicted targets */
    int64_t best;          /* classification: the most probable class; else -1 */
    const char *best_name; /* its name; NULL if unnamed */
} rk_prediction;

/* Called once a sample, in order; a status other than RK_OK stops. */
typedef rk_status rk_predict_fn(void *user, const rk_prediction *p);
RK_API rk_status rk_predict(rk_ctx *ctx, const rk_eval_opts *opts, rk_predict_fn *fn, void *user);

#ifdef __cplusplus
}
#endif
#endif
