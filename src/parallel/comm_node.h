/* The ranks of one node, through memory that they share: what each of them has called, what it offers to the
 * others, and how they wait. Knows nothing of messages.
 *
 * Every rank has a ring of its latest calls. A call is published whole; a reader finds there what to check
 * and where the bytes lie. Nothing here takes a lock: every word has one writer. */
#ifndef RK_PARALLEL_COMM_NODE_H
#define RK_PARALLEL_COMM_NODE_H

#include "core/clock.h"
#include "parallel/comm_check.h"

typedef struct rk__node rk__node;

enum { RK__CALLS = 128 }; /* calls that a rank may have under way; comm_nccl.c makes two for one */

typedef enum rk__way { RK__NOTHING, RK__LENT, RK__POSTED } rk__way;

/* Bytes for another rank of the node: in memory that it sees (a region and an offset), or coming as a
 * message.
 */
typedef struct rk__offer {
    uint32_t way, up; /* up: generations of communicators to the one whose region it is */
    uint32_t region, pad;
    uint64_t offset, bytes;
} rk__offer;

/* How ranks tell each other where their memory is, before there is any: all (size, bytes). */
typedef rk_status rk__gather_fn(void *arg, const void *mine, size_t bytes, void *all);

/* [C] offers: room for that many with each call. crowded: waits do not spin (a split does as its parent).
 * parent: the node of the communicator this one was split from, with this node's ranks there, or NULL. *out
 * NULL: these ranks cannot see each other's memory. */
rk_status rk__node_open(rk_ctx *ctx, int rank, int size, int offers, bool crowded, rk__node *parent,
                        const int *in_parent, rk__gather_fn *gather, void *arg, rk__node **out);
/* [C] of all ranks of a machine: are there more computing threads than cores that they may use? */
bool rk__node_crowded(rk_ctx *ctx, int size, rk__gather_fn *gather, void *arg);
void rk__node_close(rk__node *n); /* NULL is allowed; others keep what they see */

/* ---- calls; seq counts from 1 ---- */

/* Is there room for call seq: has everyone done with the one whose place it takes? */
bool rk__node_room(rk__node *n, uint64_t seq);
rk__offer *rk__node_offers(rk__node *n, uint64_t seq); /* this rank's, to be filled before the call */
void rk__node_call(rk__node *n, const rk__call *call); /* publishes */
const rk__call *rk__node_called(rk__node *n, int peer, uint64_t seq);   /* NULL: not yet */
const rk__offer *rk__node_offered(rk__node *n, int peer, uint64_t seq); /* after rk__node_called() */
/* Marks of this rank's call: what was to come from elsewhere can be read; everything has been taken. */
void rk__node_set_ready(rk__node *n, uint64_t seq);
void rk__node_set_moved(rk__node *n, uint64_t seq);
bool rk__node_ready(rk__node *n, int peer, uint64_t seq);
bool rk__node_moved(rk__node *n, int peer, uint64_t seq);
/* This rank reads nothing of calls up to seq any more. Wakes nobody: who waits for room looks again. */
void rk__node_set_freed(rk__node *n, uint64_t seq);

/* ---- memory ---- */

/* [C] Memory that all see, in three steps: each makes its own and offers it; maps what the others offer; and
 * when all have done so nobody needs to find it any more. Zeroed, whole pages. */
rk_status rk__node_alloc(rk__node *n, size_t bytes, rk__offer *out, void **p);
rk_status rk__node_map(rk__node *n, const void *mine, int peer, const rk__offer *offer);
void rk__node_mapped(rk__node *n, const void *mine);
void rk__node_release(rk__node *n, void *p);               /* [C] */
void rk__node_discard(rk__node *n, void *p, size_t bytes); /* see rk_comm_table.discard */
/* Describes memory that others see; false if it is none. */
bool rk__node_lend(rk__node *n, const void *data, size_t bytes, rk__offer *out);
/* Memory for copies that others take; they are done with it when they have freed call seq. NULL: none now. */
void *rk__node_stage(rk__node *n, uint64_t seq, size_t bytes);
/* Where another rank's lent bytes lie in this process; NULL if the offer makes no sense. */
void *rk__node_find(rk__node *n, int peer, const rk__offer *offer);

/* ---- failures and sleep ---- */

void rk__node_say_failed(rk__node *n, const rk__failure *f);
void rk__node_say_closed(rk__node *n);
bool rk__node_failed(rk__node *n, int peer, rk__failure *out);
bool rk__node_closed(rk__node *n, int peer);

/* One wait: a loop of "look, else rk__node_idle()", ended with rk__node_awake(). Spins for a little while
 * where every rank has a core, then sleeps until another rank does something, at most for `nap` seconds. */
typedef struct rk__idle {
    uint32_t spins, bell;
    bool armed;   /* the next call sleeps */
    double since; /* when spinning began */
} rk__idle;
void rk__node_idle(rk__node *n, rk__idle *i, double nap);
void rk__node_awake(rk__node *n, rk__idle *i);

#endif
