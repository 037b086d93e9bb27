/* A rank among others that are not there: for runs on the device that only counts (core/dry.h), which take
 * the memory that they would take beside them. */
#ifndef RK_PARALLEL_COMM_DRY_H
#define RK_PARALLEL_COMM_DRY_H

#include "parallel/comm.h"

/* Rank `rank` of `size`, all on one node. Collectives are done at once; what other ranks would send is
 * whatever its place holds. tensor: what is split from it is the mesh of rk__job_open(), neighbours in groups
 * of so many first, and then one of each group. *out lives as long as ctx, as what is split from it does. */
rk_status rk__comm_dry(rk_ctx *ctx, int rank, int size, int tensor, rk_comm **out);
/* Device memory at hand for what others send. */
size_t rk__comm_dry_held(const rk_comm *c);

#endif
