#include "cuda/stage.h"

#include "cuda/queue.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS = 64, EVENTS = 16, ALIGN = 256 };
#define PIECE      ((size_t)4 << 20) /* keeps a bus busy; more would only be held longer */
#define FIRST_RING ((size_t)64 << 10)
#define RING_SHARE 2 /* a piece is at most this part of the ring: two are under way */

/* A part of both rings, from the copy into the pinned one until the queue's operation on it has run. */
typedef struct part {
    size_t from, to;
    uint64_t turn; /* the launch that has the operation: launches with parts are counted */
} part;

/* The end of such a launch. */
typedef struct mark {
    cudaEvent_t event;
    uint64_t turn;
    bool set;
} mark;

typedef struct rk__cuda_stage {
    cudaStream_t stream;
    cudaEvent_t arrived;
    unsigned char *pinned, *ring; /* the host's, the device's */
    size_t bytes;
    part part[PARTS]; /* a queue: `first` is the oldest of `n` */
    int first, n;
    mark mark[EVENTS];
    uint64_t turn;      /* the next launch's */
    bool staged;        /* which has parts, whose copies are under way */
    unsigned char *out; /* pinned: two pieces that results come back in */
    size_t out_bytes;
    cudaEvent_t piece[2];
    bool broken; /* no ring can be had: everything goes the plain way */
} stage;

/* ---- opening, growing, closing ---- */

static void drop_rings(stage *s)
{
    if (s->pinned)
        rk__cuda_quiet(cudaFreeHost(s->pinned));
    if (s->ring)
        rk__cuda_quiet(cudaFree(s->ring));
    s->pinned = s->ring = NULL;
    s->bytes = 0;
}

void rk__stage_close(rk_dev *dev)
{
    stage *s = dev->stage;
    if (!s)
        return;
    if (s->stream)
        rk__cuda_quiet(cudaStreamSynchronize(s->stream));
    drop_rings(s);
    if (s->out)
        rk__cuda_quiet(cudaFreeHost(s->out));
    for (int i = 0; i < EVENTS; i++)
        if (s->mark[i].event)
            rk__cuda_quiet(cudaEventDestroy(s->mark[i].event));
    for (int i = 0; i < 2; i++)
        if (s->piece[i])
            rk__cuda_quiet(cudaEventDestroy(s->piece[i]));
    if (s->arrived)
        rk__cuda_quiet(cudaEventDestroy(s->arrived));
    if (s->stream)
        rk__cuda_quiet(cudaStreamDestroy(s->stream));
    free(s);
    dev->stage = NULL;
}

static bool make_event(cudaEvent_t *e)
{
    if (!rk__cuda_quiet(cudaEventCreateWithFlags(e, cudaEventDisableTiming)))
        return true;
    *e = NULL;
    return false;
}

static stage *open_stage(rk_dev *dev)
{
    if (dev->stage)
        return dev->stage;
    stage *s = dev->stage = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->broken = rk__cuda_quiet(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    if (s->broken)
        s->stream = NULL;
    s->broken = s->broken || !make_event(&s->arrived);
    for (int i = 0; i < EVENTS && !s->broken; i++)
        s->broken = !make_event(&s->mark[i].event);
    for (int i = 0; i < 2 && !s->broken; i++)
        s->broken = !make_event(&s->piece[i]);
    return s;
}

/* ---- parts ---- */

/* The oldest part is free once what reads it has run. A GPU that is asked and not done is waited for. */
static rk_status retire(rk_dev *dev, stage *s)
{
    const part *p = &s->part[s->first];
    rk_status st = s->staged && p->turn == s->turn ? rk__cuda_flush(dev) : RK_OK;
    const mark *m = &s->mark[p->turn % EVENTS];
    if (!st && m->set && m->turn == p->turn) {
        cudaError_t e = cudaEventQuery(m->event);
        if (e == cudaErrorNotReady && rk__cuda_quiet(e))
            e = rk__cuda_await(dev, m->event);
        st = rk__cuda_status(dev, e);
    }
    s->first = (s->first + 1) % PARTS;
    s->n--;
    return st;
}

static rk_status retire_all(rk_dev *dev, stage *s)
{
    rk_status st = RK_OK;
    while (s->n && !st)
        st = retire(dev, s);
    return st;
}

/* Is [from, from + bytes) clear of all parts? They lie in a row from the oldest on, once round at most. */
static bool is_clear(const stage *s, size_t from, size_t bytes)
{
    if (from + bytes > s->bytes)
        return false;
    for (int i = 0; i < s->n; i++) {
        const part *p = &s->part[(s->first + i) % PARTS];
        if (from < p->to && p->from < from + bytes)
            return false;
    }
    return true;
}

/* Rings that take `bytes` as a piece; what is in the old ones has arrived first. */
static rk_status grow(rk_dev *dev, stage *s, size_t bytes)
{
    size_t want = FIRST_RING;
    while (want < RING_SHARE * bytes)
        want *= 2;
    if (want <= s->bytes)
        return RK_OK;
    rk_status st = retire_all(dev, s);
    if (st)
        return st;
    drop_rings(s);
    void *host = NULL, *ring = NULL;
    if (rk__cuda_quiet(cudaMallocHost(&host, want)) || rk__cuda_quiet(cudaMalloc(&ring, want))) {
        if (host && !ring)
            rk__cuda_quiet(cudaFreeHost(host));
        s->broken = true;
        return RK_OK;
    }
    s->pinned = host;
    s->ring = ring;
    s->bytes = want;
    return RK_OK;
}

/* A place in the rings behind the newest part, or at their beginning. */
static rk_status take(rk_dev *dev, stage *s, size_t bytes, size_t *at)
{
    const size_t room = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    rk_status st = grow(dev, s, room);
    if (st || s->broken)
        return st;
    *at = s->n ? s->part[(s->first + s->n - 1) % PARTS].to : 0;
    if (*at + room > s->bytes)
        *at = 0;
    while (!st && (s->n == PARTS || !is_clear(s, *at, room)))
        st = retire(dev, s);
    if (!st)
        s->part[(s->first + s->n++) % PARTS] = (part){ *at, *at + room, s->turn };
    return st;
}

bool rk__stage_give_up(rk_dev *dev)
{
    stage *s = dev->stage;
    if (!s || !s->ring || retire_all(dev, s))
        return false;
    drop_rings(s);
    s->broken = true;
    return true;
}

/* ---- in ---- */

/* Pinned memory could not be had: the queue stands still. CUDA stages by itself, mostly; a GPU that reads
 * pageable memory (HMM, ATS) may still be at it when the call returns. */
static rk_status plain_in(rk_dev *dev, void *dst, const void *host, size_t bytes)
{
    cudaStream_t s = rk__cuda_stream(dev);
    rk_status st = rk__cuda_status(dev, cudaMemcpyAsync(dst, host, bytes, cudaMemcpyHostToDevice, s));
    return st ? st : rk__cuda_wait(dev);
}

static rk_status piece_in(rk_dev *dev, stage *s, void *dst, const void *host, size_t bytes)
{
    size_t at = 0;
    rk_status st = take(dev, s, bytes, &at);
    if (st || s->broken)
        return st ? st : plain_in(dev, dst, host, bytes);
    memcpy(s->pinned + at, host, bytes);
    st = rk__cuda_status(
        dev, cudaMemcpyAsync(s->ring + at, s->pinned + at, bytes, cudaMemcpyHostToDevice, s->stream));
    if (st)
        return st;
    s->staged = true;
    return rk__cuda_copy(dev, dst, s->ring + at, bytes);
}

rk_status rk__stage_in(rk_dev *dev, void *dst, const void *host, size_t bytes)
{
    stage *s = bytes ? open_stage(dev) : NULL;
    rk_status st = !bytes || s ? RK_OK : RK_ENOMEM;
    for (size_t at = 0, n; at < bytes && !st; at += n) {
        n = bytes - at < PIECE ? bytes - at : PIECE;
        unsigned char *to = (unsigned char *)dst + at;
        const unsigned char *from = (const unsigned char *)host + at;
        st = s->broken ? plain_in(dev, to, from, n) : piece_in(dev, s, to, from, n);
    }
    return st;
}

cudaError_t rk__stage_arrive(rk_dev *dev)
{
    stage *s = dev->stage;
    if (!s || !s->staged)
        return cudaSuccess;
    cudaError_t e = cudaEventRecord(s->arrived, s->stream);
    return e ? e : cudaStreamWaitEvent(dev->stream->stream, s->arrived, 0);
}

/* An event that cannot be recorded leaves its parts without a mark: they are waited for at once. */
void rk__stage_used(rk_dev *dev)
{
    stage *s = dev->stage;
    if (!s || !s->staged)
        return;
    mark *m = &s->mark[s->turn % EVENTS];
    s->staged = false;
    while (s->n && s->part[s->first].turn + EVENTS <= s->turn)
        retire(dev, s); /* whose mark this was */
    m->set = !rk__cuda_quiet(cudaEventRecord(m->event, dev->stream->stream));
    m->turn = s->turn++;
    if (!m->set)
        rk__cuda_settle(dev);
}

/* ---- out ---- */

static bool open_out(stage *s, size_t bytes)
{
    size_t want = 64 << 10;
    while (want < bytes && want < PIECE)
        want *= 2;
    if (want <= s->out_bytes)
        return true;
    if (s->out)
        rk__cuda_quiet(cudaFreeHost(s->out));
    s->out = NULL;
    s->out_bytes = 0;
    void *p = NULL;
    if (s->broken || rk__cuda_quiet(cudaMallocHost(&p, 2 * want)))
        return false;
    s->out = p;
    s->out_bytes = want;
    return true;
}

/* Piece i arrives while the host takes piece i - 1 out of the other half. */
static rk_status pieces_out(rk_dev *dev, stage *s, unsigned char *host, const unsigned char *src,
                            size_t bytes)
{
    const size_t size = s->out_bytes, pieces = (bytes + size - 1) / size;
    cudaStream_t stream = rk__cuda_stream(dev);
    cudaError_t e = cudaSuccess;
    for (size_t i = 0; i <= pieces && !e; i++) {
        const size_t at = i * size, n = at < bytes && bytes - at < size ? bytes - at : size;
        if (i < pieces)
            e = cudaMemcpyAsync(s->out + (i & 1) * size, src + at, n, cudaMemcpyDeviceToHost, stream);
        if (i < pieces && !e)
            e = cudaEventRecord(s->piece[i & 1], stream);
        if (i == 0 || e)
            continue;
        const size_t before = at - size, m = bytes - before < size ? bytes - before : size;
        e = rk__cuda_await(dev, s->piece[(i - 1) & 1]);
        if (!e)
            memcpy(host + before, s->out + ((i - 1) & 1) * size, m);
    }
    return rk__cuda_status(dev, e);
}

rk_status rk__stage_out(rk_dev *dev, void *host, const void *src, size_t bytes)
{
    if (!bytes)
        return RK_OK;
    stage *s = open_stage(dev);
    if (!s || s->broken || !open_out(s, bytes))
        return s ? rk__cuda_read(dev, host, src, bytes) : RK_ENOMEM;
    rk_status st = rk__cuda_flush(dev);
    if (!st)
        st = pieces_out(dev, s, host, src, bytes);
    rk__cuda_free_parked(dev);
    return st;
}
