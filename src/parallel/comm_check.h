/* What ranks called, and what to say when they do not agree. */
#ifndef RK_PARALLEL_COMM_CHECK_H
#define RK_PARALLEL_COMM_CHECK_H

#include "core/ctx.h"

typedef enum rk__op {
    RK__EXCHANGE,
    RK__ALL_GATHER,
    RK__BROADCAST,
    RK__BARRIER,
    RK__ALLOC,
    RK__RELEASE,
    RK__SPLIT
} rk__op;

/* One collective as one rank called it. Of fixed size: it is written to shared memory and sent as it is. */
typedef struct rk__call {
    uint64_t seq;    /* counts from 1; 0: none */
    uint64_t chain;  /* hash of the calls up to this one */
    uint64_t bytes;  /* all that it sends in an exchange; the same for everyone otherwise */
    uint64_t waited; /* exchanges waited for before */
    int32_t op, root;
    char name[48];
} rk__call;

/* Why a rank gives up. */
typedef struct rk__failure {
    int32_t status;
    int32_t theirs; /* the message says all: it is not this rank's own */
    uint64_t seq;   /* the rank's last call: up to here it did its part */
    char message[496];
} rk__failure;

/* Writes a call down. */
void rk__call_set(rk__call *call, uint64_t seq, rk__op op, const char *name, int root, uint64_t bytes);
/* The hash of `call` on top of those before it. */
uint64_t rk__call_chain(uint64_t before, const rk__call *call);
/* Do two ranks call the same? */
bool rk__calls_agree(const rk__call *a, const rk__call *b);
/* "rank 3 called all-gather fc2.weight (1,024 bytes), ranks 0-2 exchange gradients 1 (65,536 bytes)". call[i]
 * is rank i's, seq 0 where it is not known. */
void rk__calls_describe(const rk__call *call, int ranks, char *buf, size_t size);
/* "all-gather fc2.weight (1,024 bytes)" */
void rk__call_describe(const rk__call *call, char *buf, size_t size);

#endif
