/* What several ranks do together, as far as programs see it. Ranks come from the launcher (mpirun, srun);
 * rk_open() finds them. */
#ifndef RANKINE_PARALLEL_H
#define RANKINE_PARALLEL_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A sum over all ranks that every rank gets, as training does it, from device memory to device memory, and as
 * MPI_Allreduce does, of the host's. Seconds are medians of the slowest rank, until the sum is there; 0 where
 * there is nothing to measure. */
typedef struct rk_comm_timing {
    int64_t bytes, runs;
    double seconds;     /* exchange, addition in canonical order, all-gather */
    double mpi_seconds; /* MPI_Allreduce; 0: one rank alone, without MPI, or sums of a device's memory */
    int64_t wrong, mpi_wrong; /* values that are not the sum, over all ranks and runs */
    const char *way; /* how tensors go: "through shared memory", "from GPU to GPU by NCCL", ...; lives
                      * as long as ctx */
} rk_comm_timing;

/* [C] Times sums of `bytes` (whole floats) for about `seconds`, both ways in turn, on fresh data in every
 * run. Ends the step at hand, as rk_step_end() does.
 *
 * Errors: RK_EUSAGE for a size that is no multiple of 4; RK_ENOMEM. */
RK_API rk_status rk_bench_comm(rk_ctx *ctx, int64_t bytes, double seconds, rk_comm_timing *out);

/* [C] x (n) becomes the sum over all ranks: counts, which have no rounding. */
RK_API rk_status rk_sum_counts(rk_ctx *ctx, int64_t n, int64_t *x);

#ifdef __cplusplus
}
#endif
#endif
