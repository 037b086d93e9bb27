/* What communicators for a device's memory share (comm_staged.c, comm_nccl.c): each stands over one of the
 * host, which has their messages, and takes its memory from the device. */
#ifndef RK_PARALLEL_COMM_OVER_H
#define RK_PARALLEL_COMM_OVER_H

#include "parallel/comm.h"

/* Device memory that grows and is kept. */
typedef struct rk__over_place {
    void *p;
    size_t bytes;
} rk__over_place;

/* What requests of rk__over_take() begin with. */
typedef struct rk__over_request {
    struct rk__over_request *next; /* in limbo, or in the pool */
    struct rk__over_request *made; /* the one that was made before */
    rk__over_place place;          /* legs of an exchange that named no place */
} rk__over_request;

typedef struct rk__over {
    rk_comm base;
    rk_comm *under;
    struct rk__over_block *blocks; /* what rk__over_alloc() gave */
    char *way;                     /* base.way */
    rk__over_request *limbo, *pool;
    rk__over_request *made; /* all, also those that were never waited for */
} rk__over;

/* As `under` is, with a table of its own. */
void rk__over_init(rk__over *o, const rk_comm_table *table, rk_comm *under);
/* Sets base.way. */
rk_status rk__over_say_way(rk_comm *c, const char *way);
/* Memory that was not released. */
void rk__over_free(rk__over *o);
/* One that was split ends before its context: gives the rest back by itself, then calls this. */
void rk__over_close(rk_comm *c);

/* Where the legs of an exchange arrive: recv[i].data that is NULL becomes memory of `place`; one's own leg
 * stays where it is, or is copied. */
rk_status rk__over_legs(rk__over *o, rk__over_place *place, const rk_leg *send, rk_leg *recv);
void rk__over_place_free(rk__over *o, rk__over_place *place);

/* A request of `bytes`: cleared, or as it was used before. What was waited for is read no more when another
 * collective starts, and comes back by this. NULL: recorded. */
void *rk__over_take(rk__over *o, size_t bytes);
/* It was waited for: legs may still be read. */
void rk__over_done(rk__over *o, rk__over_request *r);
/* All of them; parts, which may be NULL, frees what else one has. */
void rk__over_free_requests(rk__over *o, void (*parts)(rk__over_request *r));

/* For the table. */
void *rk__over_alloc(rk_comm *c, size_t bytes);
void rk__over_release(rk_comm *c, void *p);
void rk__over_discard(rk_comm *c, void *p, size_t bytes);
rk_status rk__over_barrier(rk_comm *c, const char *name);
rk_status rk__over_send(rk_comm *c, int to, int tag, const void *data, size_t bytes);
rk_status rk__over_recv(rk_comm *c, int from, int tag, void *data, size_t bytes);
void rk__over_abort(rk_comm *c, int code) __attribute__((noreturn));

#endif
