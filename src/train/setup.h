/* What a configuration describes, made: data, network, loss. The common start of training, evaluation and
 * prediction. */
#ifndef RK_TRAIN_SETUP_H
#define RK_TRAIN_SETUP_H

#include "train/config.h"

#include "ckpt/snapshot.h"
#include "train/accumulate.h"

typedef enum rk__target {
    RK__CLASSES,
    RK__VALUES,
    RK__INPUT
} rk__target; /* classification, regression, reconstruction */

typedef struct rk__setup {
    rk_ctx *ctx;
    const rk_config *cfg;
    rk__job *job;
    rk__target target;
    rk_loader *train, *eval; /* either may be NULL */
    rk_module *net;
    rk_shape input, output; /* of a sample */
    int64_t classes, outputs;
    double flops; /* of a sample, forward */
    int64_t params;
    const char *loss;        /* cross_entropy, mse, l1, bce */
    rk_cross_entropy_cfg ce; /* of training; evaluation does not smooth */
    bool smooth;
    char *model_json; /* {"layers": .., "replace": ..}: complete in itself */
    char *schema;     /* of the data the network is trained on */
} rk__setup;

/* recorded: the extra_json of the run that is continued or looked at, or NULL: then model.from is resolved,
 * and its weights are loaded. What is made lives as long as ctx; rk__setup_free() frees the strings. */
rk_status rk__setup_data(rk__setup *s, rk_ctx *ctx, const rk_config *cfg, const char *recorded);
rk_status rk__setup_model(rk__setup *s, const char *recorded);
void rk__setup_free(rk__setup *s);
/* All that rk__setup_recorded() needs, as JSON for a snapshot's extra_json; malloc'ed. */
char *rk__setup_record(const rk__setup *s);
/* What rk_save() records of a network and its data that a program has made, so that evaluation and prediction
 * can make them again: a configuration and a record, malloc'ed. What cannot be told is no failure: then
 * *config is NULL and the record holds the reason, which rk__record_reason() finds. */
rk_status rk__describe(rk_ctx *ctx, rk_module *net, const rk_optim *opt, const rk_loader *data, char **config,
                       char **record);
char *rk__record_reason(rk_ctx *ctx, const char *recorded); /* malloc'ed; NULL: there is none */
/* The network of a snapshot, without its data; neighbours in groups of `tensor` ranks hold cut parameters
 * side by side. */
rk_status rk__setup_recorded(rk__setup *s, rk_ctx *ctx, const rk_config *cfg, int tensor,
                             const char *recorded);

/* For rk__accumulator: arg is the setup. */
rk_tensor *rk__setup_loss(void *arg, rk_tensor *out, rk_tensor *target);

/* The JSON text of member `key` of a recorded extra_json; malloc'ed, NULL if absent. */
char *rk__recorded(rk_ctx *ctx, const char *recorded, const char *key);

/* Which snapshot of a run is meant: the newest one marked best, else -1 (the newest good one). */
int64_t rk__best_step(rk_ctx *ctx, const char *dir);

/* Weights and buffers of a network into a state list. */
rk_status rk__module_state(rk_module *net, rk_state *st);

#endif
