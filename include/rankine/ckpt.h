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

/* [C] Writes a snapshot of everything into run folder `dir` and returns once it is durable. opt, data may be
 * NULL. With data, the loader of the training data, and a network that rk_forward(root) runs, the snapshot
 * also tells the layers and how the data is treated, so that rk_evaluate(), rk_predict() and `rankine eval`
 * can use it; the loss they tell is cross entropy for classes and the mean squared error otherwise. A
 * snapshot's number is that of the optimiser's steps. RK_ECONFIG: dir holds that step, or a later one, of
 * another training. */
RK_API rk_status rk_save(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data);
/* [C] Continues from the newest whole snapshot in `dir`; nothing there yet is fine (RK_OK, nothing changed).
 */
RK_API rk_status rk_resume(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data);

/* ---- looking at what is on disk; none of these takes the lock or changes anything ---- */

typedef struct rk_snapshot_entry {
    const char *name; /* "fc1.weight" */
    const char *kind; /* "param", "buffer", "optim", "ema", "cursor" */
    rk_dtype dtype;
    rk_shape shape;
    size_t bytes;
} rk_snapshot_entry;

typedef struct rk_snapshot_info {
    int64_t step;
    bool best;                        /* the best so far by the run's metric */
    size_t bytes;                     /* on disk */
    const char *config_json;          /* effective configuration, canonical; may be NULL */
    const char *extra_json;           /* the training loop's own notes; may be NULL */
    const char *version;              /* of the Rankine that wrote it */
    const rk_snapshot_entry *entries; /* sorted by name */
    int n_entries;
} rk_snapshot_info;

/* Steps of the committed snapshots of run folder `dir`, ascending. Owned by ctx. RK_ENOINPUT: no run there.
 */
RK_API rk_status rk_run_steps(rk_ctx *ctx, const char *dir, const int64_t **steps, int *n);
/* What snapshot `step` (-1: the newest good one) of run folder `dir` holds. Owned by ctx. Its files are
 * checked first. RK_ENOINPUT: there is none. RK_EDATA: none is good; the message says what is wrong with the
 * newest. */
RK_API rk_status rk_snapshot_describe(rk_ctx *ctx, const char *dir, int64_t step, rk_snapshot_info *out);
/* SHA-256 over the logical weights, buffers, averaged weights and optimiser state (sorted names, types,
 * shapes, bytes), independent of files and layout. hex: 65 bytes. */
RK_API rk_status rk_snapshot_hash(rk_ctx *ctx, const char *dir, int64_t step, char *hex);
/* The same two for a .safetensors file: step -1, every entry a "param". The hash is that of a run whose
 * weights and buffers these are, without optimiser state. RK_EDATA for any other kind of file. */
RK_API rk_status rk_file_describe(rk_ctx *ctx, const char *path, rk_snapshot_info *out);
RK_API rk_status rk_file_hash(rk_ctx *ctx, const char *path, char *hex);
/* [C] Checks every byte of every snapshot in `dir`, shared out between threads and ranks; `line` is told one
 * line about each, on the first rank. RK_EDATA if any is bad. */
typedef void rk_line_fn(void *user, const char *line);
RK_API rk_status rk_run_verify(rk_ctx *ctx, const char *dir, rk_line_fn *line, void *user);
/* Averages the weights and buffers of n runs: run folders, whose newest good snapshot counts, or folders of
 * one snapshot ("RUN/snap/step-..."). They are added in double precision in the order given, and whole
 * numbers are rounded. `out` becomes a run with one snapshot, of the highest step of theirs, without
 * optimiser state; what else it says is the first one's. RK_ECONFIG: they are not of one model, or `out`
 * holds a run already. */
RK_API rk_status rk_average(rk_ctx *ctx, const char *const *runs, int n, const char *out);
/* Writes the weights and buffers of snapshot `step` (-1: the newest good one) to one plain file. format: "h5"
 * or "safetensors". An existing file is replaced once the new one is whole and durable. */
RK_API rk_status rk_export(rk_ctx *ctx, const char *dir, int64_t step, const char *format, const char *out);
/* The same for one format; ema: the averaged weights instead of the trained ones (RK_ECONFIG if the run keeps
 * none). HDF5: a data set a tensor under its name ("fc1.weight"), which h5py and h5dump read; bf16 is kept as
 * u16 with the attribute rankine_dtype = "bf16". */
RK_API rk_status rk_export_h5(rk_ctx *ctx, const char *dir, int64_t step, bool ema, const char *path);
RK_API rk_status rk_export_safetensors(rk_ctx *ctx, const char *dir, int64_t step, bool ema,
                                       const char *path);

#ifdef __cplusplus
}
#endif
#endif
