/* What a run leaves behind for people and programs: metrics.jsonl, events.jsonl, config.json, result.json,
 * DONE, and event files for TensorBoard. */
#ifndef RK_TRAIN_JOURNAL_H
#define RK_TRAIN_JOURNAL_H

#include <rankine/train.h>

#include "io/text.h"
#include "io/tfevents.h"

typedef struct rk__journal {
    char *dir;
    int metrics, events; /* descriptors; -1: not open */
    bool failed;         /* something could not be written; told once */
    bool tensorboard;    /* wanted */
    int64_t next;        /* the first step of this session */
    rk__tfevents *board; /* NULL: nothing written yet */
    rk_ctx *quiet;       /* takes what goes wrong there: the run's own context must not fail by it */
} rk__journal;

/* Opens for appending. Lines of metrics.jsonl beyond step `resume` are of an attempt that was lost: they are
 * cut off. */
rk_status rk__journal_open(rk__journal *j, rk_ctx *ctx, const char *dir, int64_t resume, bool tensorboard);
void rk__journal_close(rk__journal *j);
/* One object a line: {"time": ..., and then the members in `body` ("\"step\":3"). Failures never stop a run.
 */
void rk__journal_metrics(rk__journal *j, const char *body);
void rk__journal_event(rk__journal *j, const char *body);
/* One number for TensorBoard, where that is wanted; the first opens a file of its own for this session, which
 * tells TensorBoard to drop what a lost attempt has left of its steps. */
void rk__journal_scalar(rk__journal *j, const char *name, int64_t step, double value);
/* Writes DIR/name whole or not at all: temporary file, fsync, rename. */
rk_status rk__journal_file(rk_ctx *ctx, const char *dir, const char *name, const char *text);
bool rk__journal_has(const char *dir, const char *name);
/* Removes all that belongs to a run from its folder, but for the lock that the caller holds. */
rk_status rk__journal_clear(rk_ctx *ctx, const char *dir);
/* "2026-11-22T01:02:03Z" */
void rk__time_text(char out[32]);

#endif
