/* The named state list: the only currency between nn, train, parallel, ckpt and io.
 *
 * With several ranks each has a list with the same entries in the same order, and holds the whole of a
 * logical tensor or a piece of it.
 *
 * An entry is a logical tensor under a unique name ("fc1.weight", "optim/fc1.weight/m", "loader/cursor").
 * Lists own their entry array and names, never the tensors. Names: [A-Za-z0-9._/-], no leading dot. */
#ifndef RK_CORE_STATE_H
#define RK_CORE_STATE_H

#include <rankine/tensor.h>

typedef enum rk_state_kind {
    RK_STATE_PARAM,  /* trained weights */
    RK_STATE_BUFFER, /* running statistics: saved, exported, hashed with the weights */
    RK_STATE_OPTIM,  /* optimiser slots */
    RK_STATE_EMA,    /* averaged weights */
    RK_STATE_CURSOR  /* loader cursor, step, counters: small i64 tensors, host side */
} rk_state_kind;

/* What a rank holds of a logical tensor: a box of it (tensor parallelism), and of the box's elements in
 * row-major order those from `from` up to `to` (ZeRO). All pieces of a tensor together are all of it; several
 * ranks may hold the same. */
typedef struct rk_piece {
    rk_shape whole;          /* of the logical tensor */
    int64_t lo[RK_MAX_DIMS]; /* where the box begins */
    rk_shape box;
    int64_t from, to;
} rk_piece;

typedef struct rk_state_entry {
    char *name;
    rk_state_kind kind;
    rk_tensor *tensor; /* has the piece from element `at` on. CURSOR: NULL, and `cursor` is used */
    int64_t at;
    rk_piece piece; /* the whole, unless rk__state_add_piece() said otherwise */
    int64_t
        *cursor;   /* kind CURSOR: one 64-bit number owned by whoever registered it, the same on all ranks */
    bool optional; /* CURSOR: keeps what it is where a snapshot lacks it */
} rk_state_entry;

typedef struct rk_state {
    rk_ctx *ctx;
    rk_state_entry *entries;
    int n, cap;
} rk_state;

void rk__state_init(rk_state *st, rk_ctx *ctx);
void rk__state_free(rk_state *st);
/* Copies the name. Fails with RK_ECONFIG on a duplicate or a bad name. */
rk_status rk__state_add(rk_state *st, rk_state_kind kind, const char *name, rk_tensor *t);
/* The tensor's shape does not matter, its size does. */
rk_status rk__state_add_piece(rk_state *st, rk_state_kind kind, const char *name, rk_tensor *t,
                              const rk_piece *piece);
/* Of the box that the entry's tensor has room for, this rank holds [from, to). */
void rk__state_hold(rk_state_entry *e, int64_t from, int64_t to);
/* Elements from .. from + n - 1 of the piece, from or to host memory. */
rk_status rk__state_read(const rk_state_entry *e, int64_t from, int64_t n, void *host);
rk_status rk__state_write(const rk_state_entry *e, int64_t from, int64_t n, const void *host);
/* All of a tensor of this shape. */
rk_piece rk__piece_whole(const rk_shape *s);
/* Is it all of the tensor? */
bool rk__piece_is_whole(const rk_piece *p);
rk_status rk__state_add_cursor(rk_state *st, const char *name, int64_t *cursor);
rk_state_entry *rk__state_find(const rk_state *st, const char *name); /* NULL if absent */
/* Whether a name may be used: see the head of this file; no part between slashes is empty or begins with a
 * dot. */
bool rk__state_name_ok(const char *name);
/* Sorts by name (bytewise): the order of hashes and files. */
void rk__state_sort(rk_state *st);

#endif
