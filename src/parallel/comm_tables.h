/* The communicators there are. Made here, they belong to whoever asks; rk__comm_open() hangs them from the
 * context. */
#ifndef RK_PARALLEL_COMM_TABLES_H
#define RK_PARALLEL_COMM_TABLES_H

#include "parallel/comm.h"

rk_status rk__comm_make_self(rk_ctx *ctx, rk_comm **out);
rk_status rk__comm_make_mpi(rk_ctx *ctx, rk_comm **out); /* [C] *out NULL: no launcher started this process */

#endif
