/* The calls of NCCL that are used, in a table: the library is looked for when it is needed, so that nothing
 * of it has to be there to start. nccl_load.c finds it; the host-run device has a stand-in instead
 * (host/nccl.cpp). */
#ifndef RK_CUDA_NCCL_CALLS_H
#define RK_CUDA_NCCL_CALLS_H

#include <nccl.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RK__NCCL_CALLS(X)     \
    X(ncclGetVersion)         \
    X(ncclGetErrorString)     \
    X(ncclGetLastError)       \
    X(ncclGetUniqueId)        \
    X(ncclCommInitRankConfig) \
    X(ncclCommGetAsyncError)  \
    X(ncclCommFinalize)       \
    X(ncclCommDestroy)        \
    X(ncclCommAbort)          \
    X(ncclGroupStart)         \
    X(ncclGroupEnd)           \
    X(ncclSend)               \
    X(ncclRecv)               \
    X(ncclBroadcast)          \
    X(ncclAllReduce)          \
    X(ncclReduce)             \
    X(ncclReduceScatter)

typedef struct rk__nccl_calls {
#define RK__NCCL_CALL(name) __typeof__(name) *name;
    RK__NCCL_CALLS(RK__NCCL_CALL)
#undef RK__NCCL_CALL
} rk__nccl_calls;

/* NULL and the reason in `why` where the library is missing or too old. Found once; it stays loaded. */
const rk__nccl_calls *rk__nccl_find(char *why, size_t size);

#ifdef __cplusplus
}
#endif

#endif
