/* GPUs that send to each other: NCCL on a stream of the communicator's own. Communicators are non-blocking,
 * so that a rank that is missing keeps nobody in a call: whoever waits asks look(). */
#include "cuda/cuda.h"

#include "core/cuda_module.h"
#include "cuda/nccl_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLOSE_SECONDS 5.0 /* for the others to come to the end too */

struct rk_nccl {
    const rk__nccl_calls *call;
    rk_dev *dev;
    ncclComm_t comm;
    cudaStream_t stream;
    ncclResult_t error; /* the first failure: of NCCL, */
    cudaError_t cuda;   /* or of the GPU */
    bool aborted;
    char text[256];
};

extern const rk_nccl_table rk__cuda_nccl;

/* ---- failures ---- */

static rk_status nccl_status(rk_nccl *n, ncclResult_t e)
{
    if (e == ncclSuccess || e == ncclInProgress)
        return RK_OK;
    if (!n->error)
        n->error = e;
    return RK_EDEVICE;
}

static rk_status cuda_status(rk_nccl *n, cudaError_t e)
{
    if (e && !n->cuda)
        n->cuda = e;
    return rk__cuda_status(n->dev, e);
}

/* NCCL keeps the last words for a communicator that still lives. */
static const char *error_nccl(rk_nccl *n)
{
    const char *more = n->error && n->comm && !n->aborted ? n->call->ncclGetLastError(n->comm) : NULL;
    if (n->cuda)
        snprintf(n->text, sizeof n->text, "%s (%s)", cudaGetErrorString(n->cuda), cudaGetErrorName(n->cuda));
    else if (n->error && !*n->text)
        snprintf(n->text, sizeof n->text, "%s%s%.160s", n->call->ncclGetErrorString(n->error),
                 more && *more ? ": " : "", more ? more : "");
    return n->text;
}

/* ---- joining and leaving ---- */

static bool there_nccl(char *text, size_t size)
{
    const rk__nccl_calls *call = rk__nccl_find(text, size);
    int v = 0;
    if (!call)
        return false;
    if (call->ncclGetVersion(&v))
        snprintf(text, size, "NCCL");
    else
        snprintf(text, size, "NCCL %d.%d.%d", v / 10000, v / 100 % 100, v % 100);
    return true;
}

/* "GPU-2a6e1c04-...", as nvidia-smi has it; slices (MIG) of one GPU have ids of their own in one place. */
static rk_status gpu_nccl(rk_dev *dev, rk_nccl_gpu *gpu)
{
    struct cudaDeviceProp p;
    rk_status st = rk__cuda_status(dev, cudaGetDeviceProperties(&p, dev->ordinal));
    if (st)
        return st;
    int n = snprintf(gpu->id, sizeof gpu->id, "GPU");
    for (size_t i = 0; i < sizeof p.uuid.bytes; i++)
        n += snprintf(gpu->id + n, sizeof gpu->id - (size_t)n, "%s%02x",
                      i == 0 || i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", p.uuid.bytes[i] & 0xffu);
    return rk__cuda_status(dev, cudaDeviceGetPCIBusId(gpu->place, sizeof gpu->place, dev->ordinal));
}

static rk_status unique_id_nccl(uint8_t id[RK_NCCL_ID_BYTES])
{
    char why[256];
    const rk__nccl_calls *call = rk__nccl_find(why, sizeof why);
    ncclUniqueId made;
    _Static_assert(sizeof made == RK_NCCL_ID_BYTES, "an id has room");
    if (!call || call->ncclGetUniqueId(&made) != ncclSuccess)
        return RK_EDEVICE;
    memcpy(id, &made, sizeof made);
    return RK_OK;
}

static void abort_nccl(rk_nccl *n)
{
    if (!n || n->aborted)
        return;
    error_nccl(n);
    n->aborted = true;
    if (n->comm)
        n->call->ncclCommAbort(n->comm);
    n->comm = NULL;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All that was called has run everywhere; a rank that does not come is not waited for. */
static void finish(rk_nccl *n)
{
    const double until = seconds() + CLOSE_SECONDS;
    ncclResult_t state = ncclInProgress;
    if (nccl_status(n, n->call->ncclCommFinalize(n->comm)))
        state = ncclInternalError;
    while (state == ncclInProgress && seconds() < until) {
        if (n->call->ncclCommGetAsyncError(n->comm, &state) != ncclSuccess)
            state = ncclInternalError;
        nanosleep(&(struct timespec){ 0, 50000 }, NULL);
    }
    if (state != ncclSuccess)
        abort_nccl(n);
    else
        n->call->ncclCommDestroy(n->comm); /* which is gone then, whatever this says */
    n->comm = NULL;
}

static void close_nccl(rk_nccl *n)
{
    if (!n)
        return;
    if (n->comm && (n->error || n->cuda))
        abort_nccl(n);
    if (n->comm)
        finish(n);
    if (n->stream)
        cudaStreamDestroy(n->stream);
    cudaGetLastError();
    free(n);
}

static rk_status open_nccl(rk_dev *dev, int ranks, int rank, const uint8_t id[RK_NCCL_ID_BYTES],
                           rk_nccl **out)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId given;
    char why[256];
    const rk__nccl_calls *call = rk__nccl_find(why, sizeof why);
    rk_nccl *n = *out = call ? calloc(1, sizeof *n) : NULL;
    if (!n)
        return call ? RK_ENOMEM : RK_EDEVICE;
    n->call = call;
    n->dev = dev;
    config.blocking = 0;
    memcpy(&given, id, sizeof given);
    rk_status st = cuda_status(n, cudaSetDevice(dev->ordinal));
    if (!st)
        st = cuda_status(n, cudaStreamCreateWithFlags(&n->stream, cudaStreamNonBlocking));
    if (!st)
        st = nccl_status(n, n->call->ncclCommInitRankConfig(&n->comm, ranks, given, rank, &config));
    return st; /* the words are the caller's to ask for */
}

/* ---- events ---- */

static rk_nccl_event *event_open(void)
{
    cudaEvent_t e;
    if (!cudaEventCreateWithFlags(&e, cudaEventDisableTiming))
        return (rk_nccl_event *)e;
    cudaGetLastError();
    return NULL;
}

static void event_close(rk_nccl_event *e)
{
    if (e && cudaEventDestroy((cudaEvent_t)e))
        cudaGetLastError();
}

static rk_status mark_device(rk_nccl *n, rk_nccl_event *e)
{
    return cuda_status(n, cudaEventRecord((cudaEvent_t)e, rk__cuda_stream(n->dev)));
}

static rk_status mark_nccl(rk_nccl *n, rk_nccl_event *e)
{
    return cuda_status(n, cudaEventRecord((cudaEvent_t)e, n->stream));
}

static rk_nccl_state look_nccl(rk_nccl *n, rk_nccl_event *e)
{
    ncclResult_t state = ncclSuccess;
    if (n->error || n->cuda || n->aborted)
        return RK_NCCL_FAILED;
    if (nccl_status(n, n->call->ncclCommGetAsyncError(n->comm, &state)) || nccl_status(n, state))
        return RK_NCCL_FAILED;
    if (state == ncclInProgress)
        return RK_NCCL_BUSY;
    cudaError_t ran = e ? cudaEventQuery((cudaEvent_t)e) : cudaSuccess;
    if (ran == cudaErrorNotReady) {
        cudaGetLastError(); /* no error of the next launch */
        return RK_NCCL_BUSY;
    }
    return cuda_status(n, ran) ? RK_NCCL_FAILED : RK_NCCL_DONE;
}

/* ---- calls ---- */

static rk_status begin(rk_nccl *n, rk_nccl_event *after)
{
    if (n->error || n->cuda || n->aborted)
        return RK_EDEVICE;
    return cuda_status(n, cudaStreamWaitEvent(n->stream, (cudaEvent_t)after, 0));
}

static rk_status exchange_nccl(rk_nccl *n, rk_nccl_event *after, const rk_nccl_leg *leg, int legs)
{
    rk_status st = begin(n, after);
    if (st)
        return st;
    st = nccl_status(n, n->call->ncclGroupStart());
    if (st)
        return st;
    for (int i = 0; i < legs && !st; i++) {
        const rk_nccl_leg *l = &leg[i];
        st = nccl_status(
            n, l->leaves ? n->call->ncclSend(l->data, l->bytes, ncclUint8, l->peer, n->comm, n->stream)
                         : n->call->ncclRecv(l->data, l->bytes, ncclUint8, l->peer, n->comm, n->stream));
    }
    rk_status end = nccl_status(n, n->call->ncclGroupEnd());
    return st ? st : end;
}

static rk_status broadcast_nccl(rk_nccl *n, rk_nccl_event *after, int root, void *data, size_t bytes)
{
    rk_status st = begin(n, after);
    return st ? st
              : nccl_status(n,
                            n->call->ncclBroadcast(data, data, bytes, ncclUint8, root, n->comm, n->stream));
}

/* A broadcast from each rank, all at once: pieces need not be of one size. */
static rk_status all_gather_nccl(rk_nccl *n, rk_nccl_event *after, const rk_nccl_leg *piece, int ranks)
{
    rk_status st = begin(n, after);
    if (!st)
        st = nccl_status(n, n->call->ncclGroupStart());
    if (st)
        return st;
    for (int i = 0; i < ranks && !st; i++)
        if (piece[i].bytes)
            st = nccl_status(n, n->call->ncclBroadcast(piece[i].data, piece[i].data, piece[i].bytes,
                                                       ncclUint8, i, n->comm, n->stream));
    rk_status end = nccl_status(n, n->call->ncclGroupEnd());
    return st ? st : end;
}

static ncclDataType_t type_of(rk_dtype t)
{
    return t == RK_F64 ? ncclFloat64 : ncclFloat32;
}

static rk_status all_reduce_nccl(rk_nccl *n, rk_nccl_event *after, rk_dtype t, const void *in, void *out,
                                 size_t count)
{
    rk_status st = begin(n, after);
    return st ? st
              : nccl_status(n,
                            n->call->ncclAllReduce(in, out, count, type_of(t), ncclSum, n->comm, n->stream));
}

/* Pieces of several sizes are sums of their own, each with its rank as root, all at once. */
static rk_status reduce_each(rk_nccl *n, rk_dtype t, const void *in, const size_t *count, int ranks,
                             void *out)
{
    const size_t size = t == RK_F64 ? sizeof(double) : sizeof(float);
    const char *at = in;
    rk_status st = nccl_status(n, n->call->ncclGroupStart());
    if (st)
        return st;
    for (int i = 0; i < ranks && !st; at += count[i++] * size)
        if (count[i])
            st = nccl_status(
                n, n->call->ncclReduce(at, out, count[i], type_of(t), ncclSum, i, n->comm, n->stream));
    rk_status end = nccl_status(n, n->call->ncclGroupEnd());
    return st ? st : end;
}

static rk_status reduce_scatter_nccl(rk_nccl *n, rk_nccl_event *after, rk_dtype t, const void *in,
                                     const size_t *count, int ranks, void *out)
{
    rk_status st = begin(n, after);
    int alike = 1;
    while (alike < ranks && count[alike] == count[0])
        alike++;
    if (st)
        return st;
    if (alike < ranks)
        return reduce_each(n, t, in, count, ranks, out);
    return nccl_status(
        n, n->call->ncclReduceScatter(in, out, count[0], type_of(t), ncclSum, n->comm, n->stream));
}

const rk_nccl_table rk__cuda_nccl = {
    .there = there_nccl,
    .gpu = gpu_nccl,
    .unique_id = unique_id_nccl,
    .open = open_nccl,
    .event_open = event_open,
    .event_close = event_close,
    .mark_device = mark_device,
    .mark = mark_nccl,
    .exchange = exchange_nccl,
    .broadcast = broadcast_nccl,
    .all_gather = all_gather_nccl,
    .all_reduce = all_reduce_nccl,
    .reduce_scatter = reduce_scatter_nccl,
    .look = look_nccl,
    .error = error_nccl,
    .abort = abort_nccl,
    .close = close_nccl,
};
