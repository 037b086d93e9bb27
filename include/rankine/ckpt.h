/* Snapshots of a run, and the files that others read. */
#ifndef RANKINE_CKPT_H
#define RANKINE_CKPT_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rk_module rk_module; /* nn.h */
typedef struct rk_optim rk_optim;   /* optim.h */
typedef struct rk_loader rk_loader; /* io.h */

/* [C] Writes a snapshot of everything into run folder `dir` and returns once it is durable. opt, data may be NULL. */
RK_API rk_status rk_save(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data);
/* [C] Continues from the newest whole snapshot in `dir`; nothing there yet is fine (RK_OK, nothing changed). */
RK_API rk_status rk_resume(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data);

/* ---- looking into a run without a model ---- */

typedef struct rk_snapshot rk_snapshot; /* one opened, verified snapshot; owned by ctx */

typedef struct rk_snapshot_tensor {
    const char *name;
    const char *kind;     /* "param", "buffer", "optim", "ema" */
    rk_dtype dtype;
    rk_shape shape;
} rk_snapshot_tensor;

typedef void rk_line_fn(void *user, const char *line);

/* Steps of the committed snapshots of `run`, ascending. *steps is malloc'ed (NULL if n is 0).
 * Errors: RK_ENOINPUT if there is no such folder. */
RK_API rk_status rk_snapshot_list(rk_ctx *ctx, const char *run, int64_t **steps, int *n);
/* Opens snapshot `step` of folder `run` (step < 0: the newest good one) after checking every byte of it. `run` may also be
 * the folder of one snapshot. Bad ones that were passed over are told to `warn` (may be NULL).
 * NULL after a failure: RK_ENOINPUT (nothing there), RK_EDATA (none is good). */
RK_API rk_snapshot *rk_snapshot_open(rk_ctx *ctx, const char *run, int64_t step, rk_line_fn *warn, void *user);
RK_API int64_t rk_snapshot_step(const rk_snapshot *s);
RK_API const char *rk_snapshot_config(const rk_snapshot *s);  /* JSON as given to the save, "" if none */
RK_API const char *rk_snapshot_extra(const rk_snapshot *s);   /* JSON object of the training loop, "" if none */
RK_API const char *rk_snapshot_version(const rk_snapshot *s); /* the Rankine that wrote it */
RK_API bool rk_snapshot_best(const rk_snapshot *s);
RK_API int64_t rk_snapshot_bytes(const rk_snapshot *s);       /* of its files */
RK_API int rk_snapshot_tensors(const rk_snapshot *s);         /* sorted by name */
RK_API rk_snapshot_tensor rk_snapshot_tensor_at(const rk_snapshot *s, int i);
RK_API int rk_snapshot_cursors(const rk_snapshot *s);
RK_API int64_t rk_snapshot_cursor_at(const rk_snapshot *s, int i, const char **name);
/* Copies tensor i, row-major, to `bytes` bytes of host memory (must be exact). */
RK_API rk_status rk_snapshot_read(rk_snapshot *s, int i, void *host, size_t bytes);
/* SHA-256 over weights, buffers, averaged weights and optimiser state: sorted names, types, shapes, bytes; independent
 * of files and layout. hex: 65 bytes. */
RK_API rk_status rk_snapshot_sha256(rk_snapshot *s, char *hex);
RK_API void rk_snapshot_close(rk_snapshot *s); /* optional: rk_close() does it */

/* Checks every byte of every snapshot in `run`; one line each. RK_EDATA if any is bad, RK_ENOINPUT if there is none. */
RK_API rk_status rk_verify(rk_ctx *ctx, const char *run, rk_line_fn *line, void *user);

/* Writes the weights and buffers of snapshot `step` (< 0: the newest good one) to one file that h5py and h5dump read: a
 * data set a tensor under its name ("fc1.weight"). bf16 is kept as u16 with the attribute rankine_dtype = "bf16".
 * ema: the averaged weights instead of the trained ones (RK_ECONFIG if the run keeps none). An existing file is replaced
 * only by a whole new one. */
RK_API rk_status rk_export_h5(rk_ctx *ctx, const char *run, int64_t step, bool ema, const char *path);
/* The same as safetensors. */
RK_API rk_status rk_export_safetensors(rk_ctx *ctx, const char *run, int64_t step, bool ema, const char *path);

/* ---- looking at what is on disk; none of these takes the lock or changes anything ---- */

typedef struct rk_snapshot_entry {
    const char *name;  /* "fc1.weight" */
    const char *kind;  /* "param", "buffer", "optim", "ema", "cursor" */
    rk_dtype dtype;
    rk_shape shape;
    size_t bytes;
} rk_snapshot_entry;

typedef struct rk_snapshot_info {
    int64_t step;
    bool best;                        /* the best so far by the run's metric */
    size_t bytes;                     /* on disk */
    const char *config_json;          /* effective configuration, canonical; may be NULL */
    const char *version;              /* of the Rankine that wrote it */
    const rk_snapshot_entry *entries; /* sorted by name */
    int n_entries;
} rk_snapshot_info;

/* Steps of the committed snapshots of run folder `dir`, ascending. Owned by ctx. RK_ENOINPUT: no run there. */
RK_API rk_status rk_run_steps(rk_ctx *ctx, const char *dir, const int64_t **steps, int *n);
/* What snapshot `step` (-1: the newest) of run folder `dir` holds. Owned by ctx. */
RK_API rk_status rk_snapshot_describe(rk_ctx *ctx, const char *dir, int64_t step, rk_snapshot_info *out);
/* SHA-256 over the logical weights and optimiser state (sorted names, types, shapes, bytes), independent of files and
 * layout. hex: 65 bytes. */
RK_API rk_status rk_snapshot_hash(rk_ctx *ctx, const char *dir, int64_t step, char *hex);
/* Checks every byte of every snapshot in `dir`; `line` is told one line about each. RK_EDATA if any is bad. */
typedef void rk_line_fn(void *user, const char *line);
RK_API rk_status rk_run_verify(rk_ctx *ctx, const char *dir, rk_line_fn *line, void *user);
/* Writes the weights of snapshot `step` (-1: the newest) to one plain file. format: "h5" or "safetensors". An existing
 * file is replaced once the new one is whole and durable. */
RK_API rk_status rk_export(rk_ctx *ctx, const char *dir, int64_t step, const char *format, const char *out);

#ifdef __cplusplus
}
#endif
#endif
