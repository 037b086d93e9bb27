/* What the ranks of a training run know of each other: who they are, that they are about to do the same work,
 * how long they wait for each other. */
#ifndef RK_TRAIN_CREW_H
#define RK_TRAIN_CREW_H

#include "train/setup.h"

/* A rank, as it tells the others at the start. */
typedef struct rk__mate {
    char host[64];
    int32_t node, threads, pid, pad;
    uint64_t cpu[16]; /* the processors that it may use, as a mask */
} rk__mate;

/* Bytes that left this rank; far: for other nodes. */
typedef struct rk__sent {
    uint64_t all, far;
} rk__sent;

typedef struct rk__crew {
    rk_ctx *ctx;
    rk__mate *mate;  /* (ranks) */
    int log;         /* RUN/rank-N.log of a rank that does not speak; -1 */
    double waited;   /* of the communicator when the window began */
    rk__sent sent;   /* the same */
    int slow_rank;   /* the slowest at the last log line, where it took long enough to be told; else -1 */
    double slow_by;  /* its time over the median */
    double all_sent; /* bytes that all ranks sent in the window before the last log line */
    double all_far;  /* of them to other nodes */
} rk__crew;

/* Slower than the median by so much is told. */
#define RK__SLOW 1.3

/* [C] Everyone gets to know everyone, and all fail with RK_ECONFIG unless they run one version of the program
 * with one configuration: the message names ranks and the first key that differs. One rank alone: nothing. */
rk_status rk__crew_meet(rk__crew *r, rk_ctx *ctx, const rk_config *cfg);
void rk__crew_close(rk__crew *r);
/* [C] All see data of one size and content (s->schema has statistics of it), or all fail with RK_EDATA. */
rk_status rk__crew_same_data(const rk__crew *r, const rk__setup *s);
/* The node whose ranks have more threads than processors; -1: none. */
int rk__crew_crowded(const rk__crew *r, int *ranks, int *threads, int *cores);
const char *rk__crew_host(const rk__crew *r, int rank);
int rk__crew_nodes(const rk__crew *r);

/* Opens RUN/rank-N.log on ranks other than the first; what cannot be written is lost. */
void rk__crew_open_log(rk__crew *r, const char *dir);
void rk__crew_log(rk__crew *r, const char *fmt, ...) RK_PRINTF(2, 3);

/* A window of steps begins. */
void rk__crew_begin(rk__crew *r);
/* Seconds of the window in which this rank waited for others, and bytes that it sent. */
double rk__crew_waited(const rk__crew *r);
rk__sent rk__crew_sent(const rk__crew *r);
/* Those that left since then do not count. */
void rk__crew_forget(rk__crew *r, rk__sent then);
/* [C] Who was slowest in the window, and what all sent: busy is what this rank spent, without its waits. */
rk_status rk__crew_compare(rk__crew *r, double busy);

#endif
