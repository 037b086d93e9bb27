/* The configuration of a run, as a struct: one field a row of options.def. */
#ifndef RK_TRAIN_CONFIG_H
#define RK_TRAIN_CONFIG_H

#include <rankine/optim.h>
#include <rankine/train.h>

#include "core/ctx.h"
#include "io/doc.h"
#include "io/text.h"

struct rk_config {
    rk_ctx *ctx;
    char *source; /* where it was read from, for messages */
    rk_doc *doc;  /* what was written there and on the command line */
    char **got;   /* answers of rk_config_get, one an option */
#define OPT_INT(field, key, def, min, max, change, help) int64_t field;
#define OPT_NUM(field, key, def, min, max, change, help) double field;
#define OPT_BOOL(field, key, def, change, help)          bool field;
#define OPT_STR(field, key, def, allowed, change, help)  char *field;
#define OPT_DOC(field, key, change, help)                rk_doc *field;
#include <rankine/options.def>
#undef OPT_INT
#undef OPT_NUM
#undef OPT_BOOL
#undef OPT_STR
#undef OPT_DOC
};

/* Workers of parallel.strategy average; 0: sync. */
int rk__config_workers(const rk_config *cfg);
/* Samples of a whole batch that is trained on together: a worker's, at most. */
int64_t rk__config_batch(const rk_config *cfg);
/* The most samples of it that one data shard has. */
int64_t rk__config_shard(const rk_config *cfg);

/* The optimiser that it names. */
rk_optim_cfg rk__config_optim(const rk_config *cfg);

/* From text that we wrote ourselves (a snapshot's record), with overrides. */
rk_config *rk__config_from_json(rk_ctx *ctx, const char *source, const char *json,
                                const char *const *overrides, int n_overrides);

/* May a run that was recorded as `recorded` (JSON) be continued as cfg? Lists what differs:
 * RK_ECONFIG if a REFUSE option differs, or an ALLOW one without allow. `note` gets one line for each
 * accepted change that is not FREE. */
rk_status rk__config_continue(rk_ctx *ctx, const rk_config *cfg, const char *recorded, bool allow,
                              void (*note)(void *user, const char *line), void *user);

#endif
