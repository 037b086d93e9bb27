/* Device memory that comes and goes by bucket. On the host pages take room when they are written and are
 * given back by rk_comm_table.discard(); a device's memory is there or is not, so what a rank needs for a
 * while only stands in slots, which are used again by buckets of about that size. */
#ifndef RK_PARALLEL_SLOTS_H
#define RK_PARALLEL_SLOTS_H

#include "parallel/comm.h"

typedef struct rk__slots {
    rk_comm *comm;
    struct rk__slot {
        float *p;
        int64_t n; /* floats */
        bool taken;
    } * slot;
    int count, cap;
} rk__slots;

/* Is the memory of c of that kind, so that slots save some? */
static inline bool rk__slots_save(const rk_comm *c)
{
    return !rk__on_host(c->ctx);
}

void rk__slots_init(rk__slots *s, rk_comm *c);
void rk__slots_free(
    rk__slots *s); /* the list; its memory goes with the communicator, when nothing is under way */

/* n floats, not cleared. What the device was given to do with a slot before is over before what it is given
 * later. NULL: recorded. */
float *rk__slots_take(rk__slots *s, int64_t n);
void rk__slots_give(rk__slots *s, const float *p);

#endif
