/* A data set: samples with numbers from 0, read in any order. One file a format, each with one table.
 *
 * read() is thread-safe and reports through a context of the caller's (a worker's own: rk_fail needs no more
 * than one that is zeroed). Everything else belongs to one thread. */
#ifndef RK_IO_DS_H
#define RK_IO_DS_H

#include <rankine/io.h>

#include "io/text.h"

typedef struct rk__ds rk__ds;

typedef struct rk__ds_info {
    int64_t samples;
    rk_shape shape;        /* of one x */
    bool bytes;            /* x is delivered as u8, else as f32 */
    int64_t groups, inner; /* one x as (groups, inner): channels of an image, columns of a table */
    const bool *as_is;     /* (groups) not to be normalised (one-hot columns); NULL: none */
    int64_t classes;       /* y is (classes > 0) one i64, or (targets > 0) targets f32, or absent */
    int64_t targets;
    char *const *class_names; /* (classes) or NULL */
    const uint8_t *direct;    /* all x, sample after sample, if bytes and in memory; else NULL */
} rk__ds_info;

typedef struct rk__ds_ops {
    const char *format;
    /* On failure *out is NULL. The strings of cfg need not outlive the call. */
    rk_status (*open)(rk_ctx *ctx, const rk_data_cfg *cfg, rk__ds **out);
    const rk__ds_info *(*info)(const rk__ds *ds);
    /* x (n, shape) u8 or f32; y (n) i64 or (n, targets) f32; either may be NULL. */
    rk_status (*read)(const rk__ds *ds, rk_ctx *err, const int64_t *sample, int64_t n, void *x, void *y);
    void (*close)(rk__ds *ds);
    /* The members "columns", "target" .. of a schema, as JSON, for formats that need one. NULL: none. */
    void (*schema)(const rk__ds *ds, rk__text *json);
} rk__ds_ops;

struct rk__ds {
    const rk__ds_ops *ops;
    int users; /* loaders that have it open */
};

typedef enum rk__task { RK__CLASSIFICATION, RK__REGRESSION, RK__RECONSTRUCTION } rk__task;
rk_status rk__task_of(rk_ctx *ctx, const rk_data_cfg *cfg, rk__task *task);

/* Opens whatever cfg->path is, for one user; the last one to leave closes it. */
rk_status rk__ds_open(rk_ctx *ctx, const rk_data_cfg *cfg, rk__ds **out);
void rk__ds_leave(rk__ds *ds);

extern const rk__ds_ops rk__ds_idx, rk__ds_csv, rk__ds_hdf5;

#endif
