/* Communicators of several ranks: comm_ranks.c (the table, requests, waiting), comm_move.c (what each
 * collective moves), comm_talk.c (failures and ranks that disagree), comm_places.c (who is where, opening and
 * splitting). */
#ifndef RK_PARALLEL_COMM_RANKS_H
#define RK_PARALLEL_COMM_RANKS_H

#include "parallel/comm.h"
#include "parallel/comm_net.h"
#include "parallel/comm_node.h"

typedef struct rk__ranks rk__ranks;

struct rk_request {
    rk_request *next; /* in flight, in limbo or in the pool */
    rk__call call;
    rk__posts *relay; /* what others of the node wait for */
    rk__posts *posts; /* all other messages */
    rk_leg *leg;      /* (size): sizes sent in an exchange; pieces of an all-gather */
    rk_leg *recv;     /* the caller's, of an exchange */
    void *data;       /* of a broadcast */
    char *scratch;    /* legs from afar whose receiver named no place */
    size_t scratch_bytes;
    void **place;   /* (node_size) places for messages of the node, NULL: none */
    uint8_t *taken; /* (node_size) */
    int left;       /* ranks of the node that have not been taken */
    int round;      /* of a barrier between nodes */
    bool ready, moved, done, lends;
    bool meets;  /* moves nothing, whatever it is called */
    bool posted; /* messages are under way: there is no bell for them */
};

struct rk__ranks {
    rk_comm base;
    rk__ranks *root, *parent, *next; /* next: list of all that hang from root, root first */
    rk__net *net;
    rk__node *shm; /* the ranks of this node, be it this one alone */
    /* Places: ranks of node k are at[first[k]] .. at[first[k + 1] - 1], the n-th of them has home n. */
    int *first, *at, *node_of, *home;
    uint64_t seq, chain, waited, freed;
    bool done_with[RK__CALLS]; /* call seq % RK__CALLS: nothing of it is read any more */
    rk__call history[RK__CALLS];
    uint64_t *legs; /* (RK__CALLS, size, 2): bytes sent and expected in the exchanges of history */
    rk_request *flight, **flight_end; /* started, not moved to their end, oldest first */
    rk_request *limbo, *pool;
    int in_flight;
    rk__call *heard;     /* (size): what a rank of another node said it waits in; seq 0: nothing */
    uint64_t *closed_at; /* (size): the last call of a rank that has closed; 0: it has not */
    int far_failed;      /* a rank of another node that said far_failure; -1: none */
    rk__failure far_failure;
    struct rk__waiter { /* of a root: on_wait */
        struct rk__waiter *next;
        void (*fn)(void *arg);
        void *arg;
    } * waiters;
    bool waiting;    /* of a root: they are being called */
    uint64_t called; /* the last call that was made, not only counted */
    bool announced;  /* the others know of this rank's failure */
    bool theirs;     /* of a root: the failure was another rank's, or everyone's */
};

static inline rk__ranks *rk__ranks_of(rk_comm *c)
{
    return (rk__ranks *)(void *)c;
}

/* The ranks of this rank's node: number n, and how a rank stands there (-1: on another node). */
static inline int rk__near(const rk__ranks *c, int n)
{
    return c->at[c->first[c->base.node] + n];
}

static inline bool rk__is_near(const rk__ranks *c, int rank)
{
    return c->node_of[rank] == c->base.node;
}

/* Of node k: who passes on to its node what rank `from` of another node sends. */
static inline int rk__relay_of(const rk__ranks *c, int from, int k)
{
    int size = c->first[k + 1] - c->first[k];
    return c->at[c->first[k] + c->home[from] % size];
}

/* Counts bytes that leave for, or come from, another rank. */
static inline void rk__count_sent(rk__ranks *c, int to, size_t bytes)
{
    const bool far = !rk__is_near(c, to);
    for (; c; c = c->parent) {
        c->base.sent += bytes;
        c->base.sent_far += far ? bytes : 0;
    }
}

static inline void rk__count_received(rk__ranks *c, size_t bytes)
{
    for (; c; c = c->parent)
        c->base.received += bytes;
}

/* ---- comm_ranks.c ---- */
/* Nothing is under way any more: see rk__posts_give_up(). */
void rk__ranks_give_up(rk__ranks *c, double until);
void rk__ranks_free_requests(rk__ranks *c);

/* Bytes that call seq, an exchange, sent to `rank` [0] and expected from it [1]. */
static inline uint64_t *rk__legs_of(const rk__ranks *c, uint64_t seq, int rank)
{
    return c->legs + ((seq % RK__CALLS) * (uint64_t)c->base.size + (uint64_t)rank) * 2;
}

/* ---- comm_places.c ---- */
rk_status rk__ranks_split(rk_comm *base, int color, int key, rk_comm **out);
void rk__ranks_leave(rk_comm *base);
void rk__ranks_close(rk_comm *base);
int rk__ranks_relayed(const rk__ranks *c, int n); /* how many ranks' pieces near rank n passes on */

/* ---- comm_move.c: a request's messages and copies ---- */
rk_status rk__move_start(rk__ranks *c, rk_request *r); /* fills the offers; posts */
rk_status rk__move(rk__ranks *c, rk_request *r);       /* pushes on; sets r->moved and r->done */

/* ---- comm_talk.c ---- */
typedef struct rk__watch { /* of one wait */
    rk__idle idle;
    double begun, looked;
    double since; /* when a failure was seen that may not concern this wait; 0: none */
    bool told;
} rk__watch;

/* Records that this rank waits, looks for failures and disagreement, and idles. r: NULL outside collectives.
 */
rk_status rk__watch_idle(rk__ranks *c, rk_request *r, rk__watch *w);
void rk__watch_end(rk__ranks *c, rk__watch *w);
/* Ranks differ in call seq: finds out who called what and fails with it. */
rk_status rk__disagree(rk__ranks *c, uint64_t seq);
/* Fails with words that all ranks should repeat. */
rk_status rk__fail_for_all(rk__ranks *c, const char *fmt, ...) RK_PRINTF(2, 3);
/* Tells all communicators of the root that this context has failed, once. */
void rk__announce(rk__ranks *c);
void rk__say_closed(rk__ranks *c);

#endif
