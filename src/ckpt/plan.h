/* Who writes what of a snapshot: the same answer on every rank, from what each of them holds.
 *
 * A piece that one rank holds is written by that rank. What several ranks hold alike is shared out between
 * them evenly by bytes, in the order of the names. A flat range becomes boxes of the logical tensor, each of
 * which is one data set of one file. */
#ifndef RK_CKPT_PLAN_H
#define RK_CKPT_PLAN_H

#include "core/state.h"

enum { RK__MAX_PIECES = 4096, RK__FLAT_BOXES = 2 * RK_MAX_DIMS };

/* A box of a row-major array whose elements stand in a row there. */
typedef struct rk__flat_box {
    int64_t lo[RK_MAX_DIMS];
    rk_shape extent;
    int64_t at, n; /* the first of its elements, and how many */
} rk__flat_box;

/* Elements from `from` up to `to` of an array of this shape as at most RK__FLAT_BOXES boxes; how many. */
int rk__flat_boxes(const rk_shape *shape, int64_t from, int64_t to, rk__flat_box *out);

/* What one rank holds of one tensor, as it travels. */
typedef struct rk__held {
    int64_t lo[RK_MAX_DIMS], box[RK_MAX_DIMS], from, to;
} rk__held;

typedef struct rk__share {
    int entry;               /* of the sorted state */
    int holder;              /* rank from whose memory it comes */
    int file;                /* number of the writer */
    int64_t lo[RK_MAX_DIMS]; /* of the logical tensor */
    rk_shape extent;
    int64_t at, n; /* the elements of the holder's tensor */
} rk__share;

typedef struct rk__plan {
    int ranks, writers;
    rk__share *part; /* sorted by entry */
    int n, cap;
} rk__plan;

/* The rank that writes file `file`, and the file that the parts of `rank` go to. */
int rk__plan_leader(const rk__plan *p, int file);
int rk__plan_file_of(const rk__plan *p, int rank);

/* st: sorted; its pieces are not looked at. held: (ranks, st->n), cursors' are not looked at. */
rk_status rk__plan_make(const rk_state *st, const rk__held *held, int ranks, int writers, rk__plan *out);
void rk__plan_free(rk__plan *p);
/* What this state says of itself. */
void rk__plan_held(const rk_state *st, rk__held *out);
/* Name of the data set of part i of a tensor called `name`: the same unless the file holds several boxes of
 * it, which then lie in a group of that name. false: too long. */
bool rk__plan_data_set(const rk__plan *p, int i, const char *name, char *out, size_t size);

#endif
