#include "cuda/queue.h"

#include "cuda/stage.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ALIGN = 16 };
enum { SPINS = 1000, NAP_NS = 20000 }; /* looks at a GPU before one sleeps between them */

/* ---- lists ---- */

/* room for n more of `size` bytes each */
static bool grow(void *array, uint32_t have, uint32_t more, uint32_t *room, size_t size)
{
    void **p = array;
    uint32_t want = *room ? *room : 64;
    if (have + more <= *room)
        return true;
    while (want < have + more)
        want *= 2;
    void *bigger = realloc(*p, want * size);
    if (!bigger)
        return false;
    *p = bigger;
    *room = want;
    return true;
}

static bool grow_data(rk__oplist *l, size_t more)
{
    size_t want = l->data_room ? l->data_room : 4096;
    if (l->used + more <= l->data_room)
        return true;
    while (want < l->used + more)
        want *= 2;
    unsigned char *bigger = realloc(l->data, want);
    if (!bigger)
        return false;
    l->data = bigger;
    l->data_room = want;
    return true;
}

static rk__op *append(rk__oplist *l, rk__op_kind kind)
{
    if (!grow(&l->op, l->n, 1, &l->room, sizeof *l->op))
        return NULL;
    rk__op *op = memset(&l->op[l->n++], 0, sizeof *op);
    op->kind = kind;
    return op;
}

void rk__oplist_free(rk__oplist *l)
{
    free(l->op);
    free(l->at);
    free(l->data);
    *l = (rk__oplist){ 0 };
}

bool rk__oplist_copy(const rk__oplist *a, rk__oplist *b)
{
    b->n = b->args = 0;
    b->used = 0;
    if (!grow(&b->op, 0, a->n, &b->room, sizeof *b->op) ||
        !grow(&b->at, 0, a->args + 1, &b->args_room, sizeof *b->at) || !grow_data(b, a->used))
        return false;
    memcpy(b->op, a->op, a->n * sizeof *a->op);
    if (a->args)
        memcpy(b->at, a->at, (a->args + 1) * sizeof *a->at);
    if (a->used)
        memcpy(b->data, a->data, a->used);
    b->n = a->n;
    b->args = a->args;
    b->used = a->used;
    return true;
}

static size_t data_of(const rk__oplist *l, const rk__op *op, const unsigned char **data)
{
    const uint32_t from = op->args ? l->at[op->arg] : 0, to = op->args ? l->at[op->arg + op->args] : 0;
    *data = l->data + from;
    return to - from;
}

/* Kernels with the same address have arguments of the same sizes; keys of calls need not. */
bool rk__op_same(const rk__oplist *a, const rk__oplist *b, uint32_t i)
{
    const rk__op *x = &a->op[i], *y = &b->op[i];
    const unsigned char *p, *q;
    if (memcmp(x, y, sizeof *x))
        return false;
    const size_t n = data_of(a, x, &p), m = data_of(b, y, &q);
    return n == m && (n == 0 || !memcmp(p, q, n));
}

static void fill_args(rk__oplist *l, rk__op *op, void **args, const size_t *sizes, int n)
{
    op->arg = l->args;
    op->args = (uint32_t)n;
    for (int i = 0; i < n; i++) {
        const size_t padded = (sizes[i] + ALIGN - 1) / ALIGN * ALIGN;
        l->at[l->args++] = (uint32_t)l->used;
        memcpy(l->data + l->used, args[i], sizes[i]);
        memset(l->data + l->used + sizes[i], 0, padded - sizes[i]);
        l->used += padded;
    }
    l->at[l->args] = (uint32_t)l->used;
}

/* ---- plain launches ---- */

static dim3 dims(const unsigned *x)
{
    return (dim3){ x[0], x[1], x[2] };
}

void rk__op_args(const rk__oplist *l, const rk__op *op, void **args)
{
    for (uint32_t i = 0; i < op->args; i++)
        args[i] = l->data + l->at[op->arg + i];
}

static cudaError_t launch_op(rk__cuda_queue *q, uint32_t i)
{
    const rk__op *op = &q->list.op[i];
    void *args[RK__CUDA_MOST_ARGS];
    switch (op->kind) {
    case RK__OP_MARK:
    case RK__OP_BESIDE:
    case RK__OP_JOIN:
        return rk__beside_launch(q, i);
    case RK__OP_KERNEL:
        rk__op_args(&q->list, op, args);
        return cudaLaunchKernel(op->kernel, dims(op->grid), dims(op->block), args, op->shared, q->stream);
    case RK__OP_CALL:
        rk__op_args(&q->list, op, args);
        return op->call(q->dev, args[0], q->stream);
    case RK__OP_COPY:
        return cudaMemcpyAsync(op->dst, op->src, op->bytes, cudaMemcpyDeviceToDevice, q->stream);
    default:
        return cudaMemsetAsync(op->dst, op->value, op->bytes, q->stream);
    }
}

static cudaError_t launch_plain(rk__cuda_queue *q)
{
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; i < q->list.n && !e; i++)
        e = launch_op(q, i);
    return e;
}

/* ---- the queue ---- */

rk_status rk__cuda_queue_open(rk_dev *dev, int graph)
{
    rk__cuda_queue *q = dev->stream = calloc(1, sizeof *q);
    if (!q)
        return RK_ENOMEM;
    q->dev = dev;
    q->graphs = graph >= 0;
    q->must = graph > 0;
    return rk__cuda_status(dev, cudaStreamCreateWithFlags(&q->stream, cudaStreamNonBlocking));
}

/* What is held back is dropped: it may name memory that is gone. */
void rk__cuda_queue_close(rk_dev *dev)
{
    rk__cuda_queue *q = dev->stream;
    if (!q)
        return;
    if (q->stream)
        rk__cuda_quiet(cudaStreamSynchronize(q->stream));
    rk__graph_free_all(q);
    if (q->aside)
        rk__cuda_quiet(cudaStreamDestroy(q->aside));
    if (q->stream)
        rk__cuda_quiet(cudaStreamDestroy(q->stream));
    rk__oplist_free(&q->list);
    free(q->held);
    free(q);
    dev->stream = NULL;
}

static void note(rk__cuda_queue *q, cudaError_t e)
{
    if (e && !q->e)
        q->e = e;
}

/* What a library said of its own failure stays. */
static rk_status tell(rk__cuda_queue *q)
{
    const cudaError_t e = q->e;
    q->e = cudaSuccess;
    if (e && e == q->dev->error && *q->dev->library)
        return e == cudaErrorMemoryAllocation ? RK_ENOMEM : RK_EDEVICE;
    const rk_status st = rk__cuda_status(q->dev, e);
    if (st)
        q->dev->of_graph = q->of_graph;
    q->of_graph = false;
    return st;
}

static void call_watchers(rk__cuda_queue *q, bool setting_out)
{
    if (q->watching)
        return;
    q->watching = true;
    for (rk__cuda_watch *w = q->watch; w; w = w->next)
        (setting_out ? w->sets_out : w->waiting)(w->arg);
    q->watching = false;
}

/* Copies that were begun beside the stream have arrived before what reads them. */
static void launch_held(rk__cuda_queue *q)
{
    if (q->graphs && q->list.n)
        call_watchers(q, true);
    cudaError_t e = q->list.n ? rk__stage_arrive(q->dev) : cudaSuccess;
    if (!e && q->list.n && !rk__graph_launch(q)) {
        q->of_graph = q->must && q->failures && !q->e;
        e = q->must && q->failures ? q->why : launch_plain(q);
    }
    q->flushes += q->list.n > 0;
    q->given += q->list.n;
    q->list.n = q->list.args = 0;
    q->list.used = 0;
    rk__stage_used(q->dev);
    note(q, e);
}

rk_status rk__cuda_flush(rk_dev *dev)
{
    launch_held(dev->stream);
    return tell(dev->stream);
}

rk_status rk__cuda_flush_cut(rk_dev *dev)
{
    dev->stream->cut = true;
    launch_held(dev->stream);
    dev->stream->cut = false;
    return tell(dev->stream);
}

size_t rk__cuda_held(const rk_dev *dev, uint64_t *given)
{
    *given = dev->stream->given + dev->stream->list.n;
    return dev->stream->list.n;
}

cudaStream_t rk__cuda_stream(rk_dev *dev)
{
    launch_held(dev->stream);
    return dev->stream->stream;
}

rk_status rk__cuda_launched(rk_dev *dev)
{
    note(dev->stream, cudaGetLastError());
    return tell(dev->stream);
}

/* A list of its full length goes; one that is not held back at all, too. */
static void submitted(rk__cuda_queue *q)
{
    if (!q->graphs || q->list.n >= RK__QUEUE_MOST)
        launch_held(q);
}

uint32_t rk__queue_append(rk__cuda_queue *q, const rk__op *op)
{
    rk__op *made = append(&q->list, op->kind);
    if (!made)
        return RK__NO_OP;
    const rk__op_kind kind = op->kind;
    memcpy(made, op, sizeof *made);
    made->kind = kind;
    return q->list.n - 1;
}

rk_status rk__queue_submitted(rk__cuda_queue *q)
{
    submitted(q);
    return tell(q);
}

/* NULL: out of memory, which is noted. */
static rk__op *append_with(rk__cuda_queue *q, rk__op_kind kind, void **args, const size_t *sizes, int n)
{
    rk__oplist *l = &q->list;
    size_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += sizes[i] + ALIGN;
    rk__op *op = NULL;
    if (n <= RK__CUDA_MOST_ARGS && grow(&l->at, l->args, (uint32_t)n + 1, &l->args_room, sizeof *l->at) &&
        grow_data(l, bytes))
        op = append(l, kind);
    if (op)
        fill_args(l, op, args, sizes, n);
    else
        note(q, cudaErrorMemoryAllocation);
    return op;
}

void rk__cuda_submit(rk__cuda_queue *q, const void *kernel, const unsigned grid[3], const unsigned block[3],
                     size_t shared, void **args, const size_t *sizes, int n)
{
    rk__op *op = append_with(q, RK__OP_KERNEL, args, sizes, n);
    if (!op)
        return;
    op->kernel = kernel;
    op->shared = shared;
    memcpy(op->grid, grid, sizeof op->grid);
    memcpy(op->block, block, sizeof op->block);
    submitted(q);
}

rk_status rk__cuda_submit_call(rk_dev *dev, rk__cuda_call *call, const void *key, size_t bytes)
{
    void *args[1] = { (void *)(uintptr_t)key };
    rk__op *op = append_with(dev->stream, RK__OP_CALL, args, &bytes, 1);
    if (op) {
        op->call = call;
        submitted(dev->stream);
    }
    return tell(dev->stream);
}

/* A copy or a set, where there is anything to do. */
static rk_status submit_bytes(rk_dev *dev, rk__op_kind kind, void *dst, const void *src, int value,
                              size_t bytes)
{
    rk__op *op = bytes ? append(&dev->stream->list, kind) : NULL;
    if (!op)
        return bytes ? rk__cuda_status(dev, cudaErrorMemoryAllocation) : RK_OK;
    op->dst = dst;
    op->src = src;
    op->value = value;
    op->bytes = bytes;
    submitted(dev->stream);
    return tell(dev->stream);
}

rk_status rk__cuda_copy(rk_dev *dev, void *dst, const void *src, size_t bytes)
{
    return submit_bytes(dev, RK__OP_COPY, dst, src, 0, bytes);
}

rk_status rk__cuda_set(rk_dev *dev, void *dst, int value, size_t bytes)
{
    return submit_bytes(dev, RK__OP_SET, dst, NULL, value, bytes);
}

/* Where nobody watches, what was launched ends by itself. */
static cudaError_t await(rk__cuda_queue *q, cudaEvent_t event, cudaStream_t stream)
{
    cudaError_t e = cudaErrorNotReady;
    for (int looks = 0; q->watch && e == cudaErrorNotReady; looks++) {
        e = event ? cudaEventQuery(event) : cudaStreamQuery(stream);
        if (e != cudaErrorNotReady)
            break;
        cudaGetLastError(); /* no error of the next launch */
        call_watchers(q, false);
        if (looks > SPINS)
            nanosleep(&(struct timespec){ 0, NAP_NS }, NULL);
    }
    if (e && e != cudaErrorNotReady)
        return e;
    return event ? cudaEventSynchronize(event) : cudaStreamSynchronize(stream);
}

cudaError_t rk__cuda_await(rk_dev *dev, cudaEvent_t event)
{
    return await(dev->stream, event, dev->stream->stream);
}

void rk__cuda_await_branches(rk_dev *dev)
{
    rk__cuda_queue *q = dev->stream;
    for (rk__cuda_watch *w = q ? q->watch : NULL; w; w = w->next)
        note(q, await(q, NULL, w->stream));
}

void rk__cuda_settle(rk_dev *dev)
{
    launch_held(dev->stream);
    note(dev->stream, rk__cuda_await(dev, NULL));
    rk__cuda_free_parked(dev);
}

rk_status rk__cuda_wait(rk_dev *dev)
{
    rk__cuda_settle(dev);
    return tell(dev->stream);
}
