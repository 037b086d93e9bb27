/* What comm_nccl.c has under way. Nobody waits for a GPU here: what a rank gives to its device after a wait
 * comes after what has been waited for. Calls that come again are recorded by all ranks at once, and from
 * then on are part of the graphs that the device makes of what it holds back.
 *
 * What a device holds back is nothing that another rank may wait for in vain. Before a device launches, what
 * was called joins it (rk__nccl_set_out_all); a rank that waits on the host launches after its patience what
 * it has (rk__nccl_push_on), for the one that it waits for may be waiting for that on its GPU; one that waits
 * for its GPU has launched everything, and goes on with what others need of it to call NCCL
 * (rk__nccl_watch_wait). */
#ifndef RK_PARALLEL_NCCL_STATE_H
#define RK_PARALLEL_NCCL_STATE_H

#include "core/cuda_module.h"
#include "parallel/comm_over.h"

/* What ranks tell each other, with each call, that they have of it. UNKNOWN: no record of it can be had, or
 * it is called for the first time: it runs by itself, everywhere; SEEN: it ran before: where all have seen
 * it, all record it, under the next number; a number: the recording that is there: where all have the same,
 * it runs once more; NO_PART: this rank has nothing to do with it. */
enum { RK__NCCL_UNKNOWN, RK__NCCL_SEEN, RK__NCCL_FIRST_NUMBER };
#define RK__NCCL_NO_PART UINT64_MAX

typedef enum rk__nccl_op { RK__NCCL_EXCHANGE, RK__NCCL_GATHER, RK__NCCL_BROADCAST, RK__NCCL_SUM } rk__nccl_op;

extern const char *const rk__nccl_op_names[];

/* What one rank tells another of a call. */
typedef struct rk__nccl_word {
    uint64_t bytes; /* that it sends to it, in an exchange */
    uint64_t have;  /* RK__NCCL_UNKNOWN, .. */
} rk__nccl_word;

/* Places in the device's order. */
typedef struct rk__nccl_pair {
    struct rk__nccl_pair *next;
    rk_nccl_event *made, *done; /* what is sent has been computed; all has arrived */
    bool taken;
} rk__nccl_pair;

struct rk_request {
    rk__over_request base;
    rk_request *next; /* in flight */
    rk__nccl_op op;
    char name[48];
    int root;
    bool launched, empty;         /* NCCL has it; there is nothing for NCCL to do */
    rk_request *under, *words;    /* of the host; words NULL: those of `under` carry them */
    rk_leg *recv;                 /* the caller's, of an exchange */
    rk__nccl_word *hears, *tells; /* (size) */
    rk_leg *said, *told;          /* (size) legs of them */
    uint64_t *key;                /* all that the call depends on */
    size_t keys;
    rk_nccl_leg *leg; /* (2 size) */
    int legs;
    rk_leg data; /* of a broadcast */
    struct {     /* of a sum */
        const float *in;
        const size_t *count;
        float *out;
        size_t n;
        bool all;
    } sum;
    rk__nccl_pair *at;
};

typedef struct rk__nccl {
    rk__over over;
    struct rk__nccl *parent; /* what this was split from: its bytes count there too */
    const rk_nccl_table *call;
    rk_nccl *comm;
    int *node_of;     /* (size) */
    bool pushed;      /* by waits of the host */
    bool agrees;      /* all ranks have graphs: words are told */
    bool busy;        /* a call is being made, or looked after */
    uint64_t numbers; /* given so far */
    uint64_t given;   /* to the device, when the host was seen waiting; since when */
    double since, patience;
    rk__nccl_pair *pairs;
    rk_request *flight, **flight_end; /* not waited for, oldest first */
} rk__nccl;

/* ---- failures: nccl_requests.c ---- */

/* A rank that has failed leaves nothing under way: nobody else would end it. */
rk_status rk__nccl_given_up(rk__nccl *n);
rk_status rk__nccl_failed(rk__nccl *n, const char *what, const char *name);
rk_status rk__nccl_checked(rk__nccl *n, const rk_request *r, rk_status st);
/* Until NCCL has taken in the last call, with an eye on the others. */
rk_status rk__nccl_settle(rk__nccl *n, const char *what, const char *name);

/* ---- requests: nccl_requests.c ---- */

/* For a call of this rank; NULL: recorded, or the rank has failed. What was waited for is read no more. */
rk_request *rk__nccl_take(rk__nccl *n, rk__nccl_op op, const char *name);
/* That was waited for, or never set out. */
void rk__nccl_give_up(rk__nccl *n, rk_request *r);
/* All of them. */
void rk__nccl_free_requests(rk__nccl *n);
void rk__nccl_free_pairs(rk__nccl *n);
/* What this rank has of a call. */
uint64_t rk__nccl_have(rk__nccl *n, rk_request *r);
/* What all ranks do about it: UNKNOWN: it runs by itself; SEEN: it is recorded; or the number that runs once
 * more. */
uint64_t rk__nccl_agreed(const rk__nccl *n, const rk_request *r);

/* ---- on the way: nccl_flight.c ---- */

/* The request is under way from here on. root: as of meet() of a communicator's table. */
rk_status rk__nccl_set_out(rk__nccl *n, rk_request *r, int root, size_t bytes);
/* What all ranks have called goes to NCCL, in the order of the calls; without `everything` what becomes part
 * of the device's list waits for a place that is the same in every step. */
rk_status rk__nccl_advance(rk__nccl *n, bool everything);
/* Has everything of it arrived? */
rk_status rk__nccl_look_at(rk__nccl *n, const rk_request *r, bool *done);
/* What the device is given from here on comes after it. */
rk_status rk__nccl_wait_for(rk__nccl *n, rk_request *r);
void rk__nccl_leave_flight(rk__nccl *n, rk_request *r);

/* Called, with the communicator: before the device launches what it holds back; while this rank waits on the
 * host; while it waits for its device. */
void rk__nccl_set_out_all(void *arg);
void rk__nccl_push_on(void *arg);
void rk__nccl_watch_wait(void *arg);

#endif
