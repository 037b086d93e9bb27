/* Run folders and snapshots. See docs/snapshots.md for the layout and the commit protocol.
 *
 * With a communicator of several ranks the folder is all of theirs: calls marked [C] are made by every rank
 * in one order, each brings its pieces of the state, and all get the same outcome.
 *
 * One save is in flight at a time. rk__run_save copies the state (the only stall) and lets a thread write
 * behind; rk__run_wait returns once it is durable. */
#ifndef RK_CKPT_SNAPSHOT_H
#define RK_CKPT_SNAPSHOT_H

#include <rankine/ckpt.h>

#include "core/state.h"

typedef struct rk_run rk_run; /* an opened, locked run folder */

typedef struct rk_run_cfg {
    const char *dir;
    bool read_only;              /* no lock, nothing created (inspect, eval, verify) */
    int keep;                    /* newest snapshots kept; 0: 2 (the minimum) */
    int64_t keep_every;          /* also keep steps that are multiples; 0: none */
    bool compress;               /* byte shuffle + zstd */
    bool sync_write;             /* write in the caller's thread (rk_save, tests) */
    struct rk_comm *comm;        /* the ranks that share the folder; NULL: one alone */
    int writers;                 /* files of several ranks, at most; 0: one a rank up to 16 */
    const struct rk__io_ops *io; /* NULL: the system's; tests put faults here (ckpt/io_ops.h) */
} rk_run_cfg;

/* What stands in the manifest beside the tensors. Strings are copied by save; by load they are owned by the
 * info. */
typedef struct rk_snap_info {
    int64_t step;
    char *config_json; /* canonical effective configuration, may be NULL */
    char *extra_json;  /* one JSON object for train's own notes (best metric, epoch, normalisation), may be
                          NULL */
    bool best;         /* mark as the best so far: kept by retention */
} rk_snap_info;

/* [C] Opens DIR (made if absent, 0700), takes LOCK, sweeps .tmp-* and .del-*. RK_ELOCKED names the holder. */
rk_status rk__run_open(rk_ctx *ctx, const rk_run_cfg *cfg, rk_run **out);
/* Deletes every snapshot (a run started afresh). */
rk_status rk__run_clear(rk_run *run);
void rk__run_close(rk_run *run); /* [C] waits for a save in flight; releases the lock */

/* [C] Number of committed snapshots; their steps in ascending order. */
rk_status rk__run_list(rk_run *run, int64_t **steps, int *n); /* *steps malloc'ed */

/* [C] Copies the state and starts writing snapshot info->step behind. Waits first for a save in flight.
 * A failure of an EARLIER save is returned here or by rk__run_wait / rk__run_poll, once, without poisoning
 * ctx. */
rk_status rk__run_save(rk_run *run, const rk_state *st, const rk_snap_info *info);
/* [C] Waits. RK_OK: *saved_step (may be NULL) is the newest durable step. msg: reason of a failure. */
rk_status rk__run_wait(rk_run *run, int64_t *saved_step, char *msg, size_t msg_size);
/* [C] Does not wait (ranks exchange a few bytes while a save is in flight): true when a save ended since the
 * last poll; its outcome in *st, *step, msg. */
bool rk__run_poll(rk_run *run, rk_status *st, int64_t *step, char *msg, size_t msg_size);
/* Bytes and seconds of the last finished save; seconds the caller was stalled. */
void rk__run_save_cost(const rk_run *run, size_t *bytes, double *seconds, double *stall);

/* [C] Loads entries of st by name from the newest good snapshot (step < 0) or a given one, and fills *info.
 * Every file is verified before it is opened; several ranks share that out, and each reads its pieces only.
 * Bad snapshots are skipped; each gets a line via `warn`. Entries of the snapshot that st lacks are ignored
 * if their kind is in ignore_kinds (1u << kind). Entries of st that the snapshot lacks are an error
 * (RK_ECONFIG, names the entry) unless partial. RK_ENOINPUT: there is no snapshot. RK_EDATA: none is good. */
typedef rk_line_fn rk_warn_fn;
rk_status rk__run_load(rk_run *run, int64_t step, rk_state *st, unsigned ignore_kinds, bool partial,
                       rk_snap_info *info, rk_warn_fn *warn, void *user);
void rk__snap_info_free(rk_snap_info *info);

/* [C] Reads a snapshot without a model: makes persistent host tensors in ctx for every entry of the given
 * kinds.
 */
rk_status rk__run_read(rk_run *run, int64_t step, unsigned kinds, rk_state *st, rk_snap_info *info);

/* [C] Whether snapshot `step` holds exactly these tensors with these bytes; cursors do not count. */
rk_status rk__run_same(rk_run *run, int64_t step, const rk_state *st, bool *same);

/* [C] Checks every byte of every snapshot. One line each through `line`; RK_EDATA if any is bad. */
rk_status rk__run_verify(rk_run *run, rk_warn_fn *line, void *user);

/* sha256 over the logical state: for each entry sorted by name: name, NUL, dtype name, NUL, ndim and dims as
 * i64le, bytes row-major little endian. CURSOR entries do not count. hex: 65 bytes. RK_STATE_HASHED is what
 * `inspect --hash` counts. */
#define RK_STATE_HASHED \
    (1u << RK_STATE_PARAM | 1u << RK_STATE_BUFFER | 1u << RK_STATE_OPTIM | 1u << RK_STATE_EMA)
rk_status rk__state_sha256(const rk_state *st, unsigned kinds, char *hex);

#endif
