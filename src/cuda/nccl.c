/* GPUs that send to each other by NCCL, beside the compute stream. Communicators are non-blocking, so that a
 * rank that is missing keeps nobody in a call: whoever waits asks look().
 *
 * A call that comes again is recorded: captured, as a small graph of its own, which the queue makes part of
 * the step's. What NCCL's manual and sources say of it (Using NCCL with CUDA Graphs; src/init.cc,
 * src/enqueue.cc):
 * - Whether a call is captured is a matter of all ranks that take part in it, and so is the launch of what
 *   was captured then: they agree on it (comm_nccl.c), by numbers that are the same everywhere.
 * - A first call connects, allocates and talks to other ranks: it runs outside of any capture. A capture may
 *   still talk, where NCCL registers buffers (NCCL_GRAPH_REGISTER=1): all ranks capture at the same call.
 * - A call of a non-blocking communicator is in the stream only when ncclCommGetAsyncError() says
 *   ncclSuccess: the capture ends after that.
 * - The graphs of several communicators, launched by one thread, have been seen to deadlock: only the first
 *   communicator of a device that has something to record does.
 * - A communicator lives as long as graphs refer to it: ncclCommFinalize(), ncclCommDestroy() and
 *   ncclCommAbort() wait for that (commDestroySync, localPersistentRefs). Graphs go first; one that runs is
 *   given up by cudaGraphExecDestroy() without waiting, and what it is stuck in ends by the abort. */
#include "cuda/cuda.h"

#include "core/clock.h"
#include "core/cuda_module.h"
#include "cuda/nccl_calls.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLOSE_SECONDS 5.0 /* for the others to come to the end too */
enum { RECORDINGS = 128 };

/* A call that was asked for, and what it is as a graph. */
typedef struct recording {
    void *key;
    size_t bytes;
    rk__cuda_recorded is; /* number 1: not recorded yet */
    uint64_t used;
} recording;

struct rk_nccl_event {
    rk__cuda_place at;
};

struct rk_nccl {
    rk_nccl *next; /* of the device's */
    const rk__nccl_calls *call;
    rk_dev *dev;
    ncclComm_t comm;
    rk__cuda_beside beside;
    cudaStream_t capture; /* calls are recorded in it; NULL: never yet */
    bool recording;
    recording made[RECORDINGS];
    uint64_t asked; /* how often for recordings */
    rk__cuda_watch watch;
    bool watched;
    ncclResult_t error; /* the first failure: of NCCL, */
    cudaError_t cuda;   /* or of the GPU */
    bool aborted;
    bool ending, ends_beside; /* it is being aborted; by a thread */
    pthread_t end;
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

static void drop(recording *r)
{
    if (r->is.run)
        rk__cuda_quiet(cudaGraphExecDestroy(r->is.run));
    if (r->is.graph)
        rk__cuda_quiet(cudaGraphDestroy(r->is.graph));
    free(r->key);
    *r = (recording){ 0 };
}

/* NCCL is not referred to by any graph any more. */
static void forget_graphs(rk_nccl *n)
{
    n->beside.ended = true;
    rk__cuda_drop_graphs(n->dev);
    for (int i = 0; i < RECORDINGS; i++)
        drop(&n->made[i]);
}

/* A capture that nobody ends would make every call of this thread fail. */
static void end_capture(rk_nccl *n)
{
    cudaGraph_t graph = NULL;
    if (n->recording && !rk__cuda_quiet(cudaStreamEndCapture(n->capture, &graph)) && graph)
        rk__cuda_quiet(cudaGraphDestroy(graph));
    n->recording = false;
}

/* False: it has ended already. */
static bool begin_abort(rk_nccl *n)
{
    if (n->aborted)
        return false;
    error_nccl(n);
    n->aborted = true;
    end_capture(n);
    forget_graphs(n);
    return n->comm;
}

static void *end_comm(void *arg)
{
    rk_nccl *n = arg;
    rk__cuda_quiet(cudaSetDevice(n->dev->ordinal));
    n->call->ncclCommAbort(n->comm);
    n->comm = NULL;
    return NULL;
}

/* At last ncclCommAbort() waits for the GPU, in many versions, and so for kernels of other communicators,
 * which wait for other ranks until they are aborted, too: each has a thread. */
static void abort_nccl(rk_nccl *n, bool all)
{
    if (!n || n->aborted)
        return;
    const bool mine = begin_abort(n);
    for (rk_nccl *o = all ? n->dev->comms : NULL; o; o = o->next)
        o->ending = o != n && begin_abort(o);
    for (rk_nccl *o = all ? n->dev->comms : NULL; o; o = o->next)
        o->ends_beside = o->ending && !pthread_create(&o->end, NULL, end_comm, o);
    if (mine)
        end_comm(n);
    for (rk_nccl *o = all ? n->dev->comms : NULL; o; o = o->next) {
        if (o->ends_beside)
            pthread_join(o->end, NULL);
        else if (o->ending)
            end_comm(o);
        o->ending = o->ends_beside = false;
    }
}

/* All that was called has run everywhere; a rank that does not come is not waited for. */
static void finish(rk_nccl *n)
{
    const double until = rk__seconds() + CLOSE_SECONDS;
    ncclResult_t state = ncclInProgress;
    if (nccl_status(n, n->call->ncclCommFinalize(n->comm)))
        state = ncclInternalError;
    while (state == ncclInProgress && rk__seconds() < until) {
        if (n->call->ncclCommGetAsyncError(n->comm, &state) != ncclSuccess)
            state = ncclInternalError;
        nanosleep(&(struct timespec){ 0, 50000 }, NULL);
    }
    if (state != ncclSuccess)
        abort_nccl(n, false);
    else
        n->call->ncclCommDestroy(n->comm); /* which is gone then, whatever this says */
    n->comm = NULL;
}

static void leave_device(rk_nccl *n)
{
    rk_nccl **at = &n->dev->comms;
    while (*at && *at != n)
        at = &(*at)->next;
    if (*at)
        *at = n->next;
}

static void close_nccl(rk_nccl *n)
{
    if (!n)
        return;
    if (n->watched)
        rk__cuda_watch_end(n->dev, &n->watch);
    if (n->dev->recorder == n)
        n->dev->recorder = NULL;
    leave_device(n);
    if (n->comm && (n->error || n->cuda || rk__cuda_flush(n->dev)))
        abort_nccl(n, true);
    forget_graphs(n);
    if (n->comm)
        finish(n);
    if (n->beside.stream)
        rk__cuda_quiet(cudaStreamDestroy(n->beside.stream));
    if (n->capture)
        rk__cuda_quiet(cudaStreamDestroy(n->capture));
    if (n->beside.event)
        rk__cuda_quiet(cudaEventDestroy(n->beside.event));
    free(n);
}

/* A recording is known by addresses. Buffers that NCCL registers with what is captured, which its later
 * versions do unless told otherwise, are known by their memory: that of a tensor may go, and another come to
 * lie in its place, while the recording stays. Who sets the variable knows better. Read at the first capture.
 */
static void register_no_buffers(void)
{
    setenv("NCCL_GRAPH_REGISTER", "0", 0);
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
    n->next = dev->comms;
    dev->comms = n;
    config.blocking = 0;
    register_no_buffers();
    memcpy(&given, id, sizeof given);
    rk_status st = cuda_status(n, cudaSetDevice(dev->ordinal));
    if (!st)
        st = cuda_status(n, cudaStreamCreateWithFlags(&n->beside.stream, cudaStreamNonBlocking));
    if (!st)
        st = cuda_status(n, cudaEventCreateWithFlags(&n->beside.event, cudaEventDisableTiming));
    if (!st)
        st = nccl_status(n, n->call->ncclCommInitRankConfig(&n->comm, ranks, given, rank, &config));
    return st; /* the words are the caller's to ask for */
}

/* ---- events ---- */

static rk_nccl_event *event_open(void)
{
    rk_nccl_event *e = calloc(1, sizeof *e);
    if (e && rk__cuda_quiet(cudaEventCreateWithFlags(&e->at.event, cudaEventDisableTiming))) {
        free(e);
        e = NULL;
    }
    return e;
}

static void event_close(rk_nccl *n, rk_nccl_event *e)
{
    if (e)
        rk__cuda_place_close(n->dev, &e->at);
    free(e);
}

static bool event_held(const rk_nccl_event *e)
{
    return e->at.state == RK__PLACE_HELD;
}

/* A failure of the device's that the device knows of. */
static rk_status device_status(rk_nccl *n, rk_status st)
{
    if (st && !n->cuda)
        n->cuda = n->dev->error;
    return st;
}

static rk_status mark_device(rk_nccl *n, rk_nccl_event *e)
{
    return device_status(n, rk__cuda_mark(n->dev, &e->at));
}

static rk_status join_device(rk_nccl *n, rk_nccl_event *e)
{
    return device_status(n, rk__cuda_join(n->dev, &e->at));
}

static size_t held(const rk_nccl *n, uint64_t *given)
{
    return rk__cuda_held(n->dev, given);
}

static rk_status flush_device(rk_nccl *n, bool cut)
{
    return device_status(n, cut ? rk__cuda_flush_cut(n->dev) : rk__cuda_flush(n->dev));
}

static rk_status mark_nccl(rk_nccl *n, rk_nccl_event *e)
{
    return device_status(n, rk__cuda_beside_end(n->dev, &n->beside, &e->at));
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
    cudaError_t ran = e ? rk__cuda_ask(n->dev, &e->at) : cudaSuccess;
    if (ran == cudaErrorNotReady) {
        cudaGetLastError(); /* no error of the next launch */
        return RK_NCCL_BUSY;
    }
    return cuda_status(n, ran) ? RK_NCCL_FAILED : RK_NCCL_DONE;
}

/* ---- calls ---- */

/* What is recorded is put in order when it runs. */
static rk_status begin(rk_nccl *n, rk_nccl_event *after)
{
    if (n->error || n->cuda || n->aborted)
        return RK_EDEVICE;
    if (n->recording)
        return RK_OK;
    rk_status st = device_status(n, rk__cuda_beside_begin(n->dev, &n->beside, &after->at));
    return st || !n->aborted ? st : RK_EDEVICE; /* of another communicator's failure, in between */
}

static cudaStream_t stream_of(const rk_nccl *n)
{
    return n->recording ? n->capture : n->beside.stream;
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
            n, l->leaves ? n->call->ncclSend(l->data, l->bytes, ncclUint8, l->peer, n->comm, stream_of(n))
                         : n->call->ncclRecv(l->data, l->bytes, ncclUint8, l->peer, n->comm, stream_of(n)));
    }
    rk_status end = nccl_status(n, n->call->ncclGroupEnd());
    return st ? st : end;
}

static rk_status broadcast_nccl(rk_nccl *n, rk_nccl_event *after, int root, void *data, size_t bytes)
{
    rk_status st = begin(n, after);
    return st ? st
              : nccl_status(
                    n, n->call->ncclBroadcast(data, data, bytes, ncclUint8, root, n->comm, stream_of(n)));
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
                                                       ncclUint8, i, n->comm, stream_of(n)));
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
              : nccl_status(
                    n, n->call->ncclAllReduce(in, out, count, type_of(t), ncclSum, n->comm, stream_of(n)));
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
                n, n->call->ncclReduce(at, out, count[i], type_of(t), ncclSum, i, n->comm, stream_of(n)));
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
        n, n->call->ncclReduceScatter(in, out, count[0], type_of(t), ncclSum, n->comm, stream_of(n)));
}

/* ---- recordings ---- */

static bool graphs(const rk_nccl *n)
{
    return rk__cuda_has_graphs(n->dev);
}

static bool records(const rk_nccl *n)
{
    return graphs(n) && (!n->dev->recorder || n->dev->recorder == n) && !n->aborted;
}

static recording *find(rk_nccl *n, const void *key, size_t bytes)
{
    for (int i = 0; i < RECORDINGS; i++) {
        recording *r = &n->made[i];
        if (r->key && r->bytes == bytes && !memcmp(r->key, key, bytes)) {
            r->used = ++n->asked;
            return r;
        }
    }
    return NULL;
}

/* A place for a new one. What may still be held back is not given up: more calls than are under way at once
 * have been asked for since. */
static recording *oldest(rk_nccl *n)
{
    recording *best = &n->made[0];
    for (int i = 1; i < RECORDINGS; i++)
        if (n->made[i].used < best->used)
            best = &n->made[i];
    if (best->is.graph && rk__cuda_flush(n->dev))
        return NULL;
    drop(best);
    return best;
}

static uint64_t number_of(rk_nccl *n, const void *key, size_t bytes)
{
    recording *r = find(n, key, bytes);
    if (r)
        return r->is.number;
    r = oldest(n);
    if (r && (r->key = malloc(bytes))) {
        memcpy(r->key, key, bytes);
        r->bytes = bytes;
        r->is.number = 1;
        r->used = ++n->asked;
    }
    return 0;
}

static rk_status record(rk_nccl *n)
{
    cudaError_t e = cudaSuccess;
    if (n->error || n->cuda || n->aborted)
        return RK_EDEVICE;
    if (!n->capture && (e = cudaStreamCreateWithFlags(&n->capture, cudaStreamNonBlocking)))
        n->capture = NULL;
    if (!e)
        e = cudaStreamBeginCapture(n->capture, cudaStreamCaptureModeThreadLocal);
    n->recording = !e;
    n->dev->recorder = n;
    return cuda_status(n, e);
}

static rk_status keep(rk_nccl *n, const void *key, size_t bytes, uint64_t number)
{
    cudaGraph_t graph = NULL;
    n->recording = false;
    rk_status st = cuda_status(n, cudaStreamEndCapture(n->capture, &graph));
    recording *r = st ? NULL : find(n, key, bytes);
    if (!st && !r) { /* it was asked for: memory was short then */
        rk__cuda_quiet(cudaGraphDestroy(graph));
        return cuda_status(n, cudaErrorMemoryAllocation);
    }
    if (st)
        return st;
    if (r->is.run)
        st = cuda_status(n, cudaGraphExecDestroy(r->is.run));
    if (r->is.graph && !st)
        st = cuda_status(n, cudaGraphDestroy(r->is.graph));
    r->is = (rk__cuda_recorded){ .graph = graph, .number = number };
    return st;
}

static rk_status replay(rk_nccl *n, const void *key, size_t bytes, rk_nccl_event *after, rk_nccl_event *done)
{
    recording *r = n->error || n->cuda || n->aborted ? NULL : find(n, key, bytes);
    if (!r)
        return RK_EDEVICE;
    return device_status(n, rk__cuda_submit_beside(n->dev, &n->beside, &r->is, &after->at, &done->at));
}

static void watch(rk_nccl *n, void (*sets_out)(void *arg), void (*waiting)(void *arg), void *arg)
{
    n->watch =
        (rk__cuda_watch){ .stream = n->beside.stream, .sets_out = sets_out, .waiting = waiting, .arg = arg };
    n->watched = true;
    rk__cuda_watch_begin(n->dev, &n->watch);
}

const rk_nccl_table rk__cuda_nccl = {
#ifdef RK_EMU
    .host_run = true,
#endif
    .there = there_nccl,
    .gpu = gpu_nccl,
    .unique_id = unique_id_nccl,
    .open = open_nccl,
    .event_open = event_open,
    .event_close = event_close,
    .event_held = event_held,
    .mark_device = mark_device,
    .join_device = join_device,
    .held = held,
    .flush = flush_device,
    .mark = mark_nccl,
    .exchange = exchange_nccl,
    .broadcast = broadcast_nccl,
    .all_gather = all_gather_nccl,
    .all_reduce = all_reduce_nccl,
    .reduce_scatter = reduce_scatter_nccl,
    .graphs = graphs,
    .records = records,
    .number = number_of,
    .record = record,
    .keep = keep,
    .replay = replay,
    .watch = watch,
    .look = look_nccl,
    .error = error_nccl,
    .abort = abort_nccl,
    .close = close_nccl,
};
