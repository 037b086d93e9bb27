/* What runs beside the compute stream: exchanges between ranks. Each comes after a place in the stream and
 * after the one before it, and what joins it comes after it: in a graph these are edges between its nodes,
 * outside of one they are events. Which it is may change from list to list. */
#include "cuda/queue.h"

#include <stdlib.h>

/* ---- places ---- */

static bool hold(rk__cuda_queue *q, uint32_t i, rk__cuda_place *p, rk__cuda_place *after)
{
    if (i >= q->held_room) {
        const uint32_t room = 2 * i + 64;
        rk__held_place *bigger = realloc(q->held, room * sizeof *bigger);
        if (!bigger)
            return false;
        q->held = bigger;
        q->held_room = room;
    }
    q->held[i] = (rk__held_place){ p, after };
    p->state = RK__PLACE_HELD;
    p->op = i;
    return true;
}

void rk__cuda_place_close(rk_dev *dev, rk__cuda_place *p)
{
    rk__cuda_queue *q = dev->stream;
    for (uint32_t i = 0; p->state != RK__PLACE_NONE && i < q->list.n; i++) {
        if (q->list.op[i].kind != RK__OP_MARK && q->list.op[i].kind != RK__OP_BESIDE)
            continue;
        if (q->held[i].place == p)
            q->held[i].place = NULL;
        if (q->held[i].after == p)
            q->held[i].after = NULL;
    }
    if (p->event)
        rk__cuda_quiet(cudaEventDestroy(p->event));
    *p = (rk__cuda_place){ 0 };
}

/* The compute stream has come further than a place in a graph: it will do. */
static cudaError_t pin(rk__cuda_queue *q, rk__cuda_place *p)
{
    if (p->state != RK__PLACE_PASSED)
        return cudaSuccess;
    p->state = RK__PLACE_RECORDED;
    return cudaEventRecord(p->event, q->stream);
}

static cudaError_t come_after(rk__cuda_queue *q, cudaStream_t s, rk__cuda_place *p)
{
    cudaError_t e = p ? pin(q, p) : cudaSuccess;
    return e || !p || p->state != RK__PLACE_RECORDED ? e : cudaStreamWaitEvent(s, p->event, 0);
}

cudaError_t rk__cuda_ask(rk_dev *dev, rk__cuda_place *p)
{
    if (p->state == RK__PLACE_HELD)
        return cudaErrorNotReady;
    const cudaError_t e = pin(dev->stream, p);
    return e || p->state == RK__PLACE_NONE ? e : cudaEventQuery(p->event);
}

/* ---- submitting ---- */

rk_status rk__cuda_mark(rk_dev *dev, rk__cuda_place *p)
{
    rk__cuda_queue *q = dev->stream;
    p->state = RK__PLACE_NONE;
    if (!q->graphs || !q->list.n) { /* nothing is held back */
        p->state = RK__PLACE_PASSED;
        return rk__cuda_status(dev, pin(q, p));
    }
    const uint32_t i = rk__queue_append(q, &(rk__op){ .kind = RK__OP_MARK });
    return i != RK__NO_OP && hold(q, i, p, NULL) ? RK_OK : rk__cuda_status(dev, cudaErrorMemoryAllocation);
}

rk_status rk__cuda_submit_beside(rk_dev *dev, rk__cuda_beside *b, rk__cuda_recorded *r, rk__cuda_place *after,
                                 rk__cuda_place *done)
{
    rk__cuda_queue *q = dev->stream;
    const uint32_t i =
        rk__queue_append(q, &(rk__op){ .kind = RK__OP_BESIDE,
                                       .recorded = r,
                                       .beside = b,
                                       .bytes = r->number,
                                       .arg = after->state == RK__PLACE_HELD ? after->op : RK__NO_OP });
    if (i == RK__NO_OP || !hold(q, i, done, after))
        return rk__cuda_status(dev, cudaErrorMemoryAllocation);
    return rk__queue_submitted(q);
}

rk_status rk__cuda_join(rk_dev *dev, rk__cuda_place *p)
{
    rk__cuda_queue *q = dev->stream;
    if (p->state == RK__PLACE_RECORDED) /* for what is held back it is no loss: it was called later */
        return rk__cuda_status(dev, cudaStreamWaitEvent(q->stream, p->event, 0));
    if (p->state != RK__PLACE_HELD) /* it was part of the compute stream */
        return RK_OK;
    const uint32_t i = rk__queue_append(q, &(rk__op){ .kind = RK__OP_JOIN, .arg = p->op });
    return i != RK__NO_OP ? RK_OK : rk__cuda_status(dev, cudaErrorMemoryAllocation);
}

/* ---- by itself ---- */

/* What goes into the stream of the branch comes after what a graph had of it. */
static cudaError_t leave_graph(rk__cuda_queue *q, rk__cuda_beside *b)
{
    cudaError_t e = b->in_graph ? cudaEventRecord(b->event, q->stream) : cudaSuccess;
    if (!e && b->in_graph)
        e = cudaStreamWaitEvent(b->stream, b->event, 0);
    b->in_graph = false;
    b->in_stream = true;
    return e;
}

rk_status rk__cuda_beside_begin(rk_dev *dev, rk__cuda_beside *b, rk__cuda_place *after)
{
    rk__cuda_queue *q = dev->stream;
    rk_status st = rk__cuda_flush(dev);
    cudaError_t e = st ? cudaSuccess : leave_graph(q, b);
    if (!st && !e)
        e = come_after(q, b->stream, after);
    return st ? st : rk__cuda_status(dev, e);
}

rk_status rk__cuda_beside_end(rk_dev *dev, rk__cuda_beside *b, rk__cuda_place *p)
{
    p->state = RK__PLACE_RECORDED;
    return rk__cuda_status(dev, cudaEventRecord(p->event, b->stream));
}

/* ---- lists ---- */

static cudaError_t run_beside(rk__cuda_queue *q, const rk__op *op, const rk__held_place *h)
{
    rk__cuda_recorded *r = (rk__cuda_recorded *)(uintptr_t)op->recorded;
    rk__cuda_beside *b = op->beside;
    cudaError_t e = r->run ? cudaSuccess : cudaGraphInstantiateWithFlags(&r->run, r->graph, 0);
    if (e)
        r->run = NULL;
    if (!e)
        e = leave_graph(q, b);
    if (!e)
        e = come_after(q, b->stream, h->after);
    if (!e)
        e = cudaGraphLaunch(r->run, b->stream);
    if (!e && h->place)
        e = cudaEventRecord(h->place->event, b->stream);
    return e;
}

cudaError_t rk__beside_launch(rk__cuda_queue *q, uint32_t i)
{
    const rk__op *op = &q->list.op[i];
    rk__cuda_place *p = op->kind == RK__OP_JOIN ? q->held[op->arg].place : q->held[i].place;
    cudaError_t e = cudaSuccess;
    if (op->kind == RK__OP_JOIN)
        return come_after(q, q->stream, p);
    if (op->kind == RK__OP_MARK && p)
        e = cudaEventRecord(p->event, q->stream);
    else if (op->kind == RK__OP_BESIDE && !op->beside->ended)
        e = run_beside(q, op, &q->held[i]);
    if (p)
        p->state = op->kind == RK__OP_BESIDE && op->beside->ended ? RK__PLACE_NONE : RK__PLACE_RECORDED;
    return e;
}

/* Branches that have something under way in their own streams: the graph comes after that. */
cudaError_t rk__beside_before_graph(rk__cuda_queue *q)
{
    cudaError_t e = cudaSuccess;
    for (uint32_t i = 0; i < q->list.n && !e; i++) {
        rk__cuda_beside *b = q->list.op[i].beside;
        if (!b || !b->in_stream)
            continue;
        e = cudaEventRecord(b->event, b->stream);
        if (!e)
            e = cudaStreamWaitEvent(q->stream, b->event, 0);
        b->in_stream = false;
    }
    return e;
}

void rk__beside_after_graph(rk__cuda_queue *q)
{
    for (uint32_t i = 0; i < q->list.n; i++) {
        const rk__op *op = &q->list.op[i];
        if (op->kind == RK__OP_BESIDE)
            op->beside->in_graph = true;
        if ((op->kind == RK__OP_BESIDE || op->kind == RK__OP_MARK) && q->held[i].place)
            q->held[i].place->state = RK__PLACE_PASSED;
    }
}

bool rk__beside_ended(const rk__cuda_queue *q)
{
    for (uint32_t i = 0; i < q->list.n; i++)
        if (q->list.op[i].beside && q->list.op[i].beside->ended)
            return true;
    return false;
}

/* ---- who watches ---- */

void rk__cuda_watch_begin(rk_dev *dev, rk__cuda_watch *w)
{
    w->next = dev->stream->watch;
    dev->stream->watch = w;
}

void rk__cuda_watch_end(rk_dev *dev, rk__cuda_watch *w)
{
    rk__cuda_watch **at = &dev->stream->watch;
    while (*at && *at != w)
        at = &(*at)->next;
    if (*at)
        *at = w->next;
}

bool rk__cuda_has_graphs(const rk_dev *dev)
{
    return dev->stream->graphs;
}

void rk__cuda_drop_graphs(rk_dev *dev)
{
    rk__graph_free_all(dev->stream);
}
