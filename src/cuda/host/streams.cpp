/* Streams: queues of operations that run when somebody waits for them. RK_EMU_STREAMS: lazy (the default) runs
 * only what is waited for, eager runs at once what need not wait for other processes, a seed runs some now and then. */
#include "cuda/host/runtime.h"
#include "cuda/host/streams.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

enum policy { LAZY, EAGER, SEEDED };

typedef rk_emu_clock clock_of;
typedef rk_emu_operation_p op;

/* What stays of an operation that has run. */
struct record {
    std::string name;
    uint32_t stream, place;
    clock_of before;
};

} // namespace

struct rk_emu_operation {
    std::string name;
    std::function<bool()> ready; /* of one that meets others */
    std::function<void()> fn;
    uint32_t number; /* of all operations, from 1 */
    bool meets, done;
    op needs; /* runs first: an event that this waits for */
    struct CUstream_st *stream;
    clock_of before; /* this one included */
};
typedef rk_emu_operation operation;

#define HERE __builtin_return_address(0)

namespace {

struct {
    std::vector<CUstream_st *> streams, abandoned;
    std::deque<op> meetings; /* in the order of the calls */
    uint32_t operations, streams_made;
    uint32_t running; /* number of the operation; 0: none */
    clock_of host;    /* what the host has waited for */
    std::vector<record> records; /* check build: by number - 1 */
} q;

void join(clock_of &a, const clock_of &b)
{
    if (a.size() < b.size())
        a.resize(b.size());
    for (size_t i = 0; i < b.size(); i++)
        a[i] = b[i] > a[i] ? b[i] : a[i];
}

bool comes_before(uint32_t a, const clock_of &clock)
{
    const record &r = q.records[a - 1];
    return r.stream < clock.size() && clock[r.stream] >= r.place;
}

policy read_policy(void)
{
    static int p = -1;
    const char *text = getenv("RK_EMU_STREAMS");
    if (p >= 0)
        return (policy)p;
    p = !text || !*text || !strcmp(text, "lazy") ? LAZY : !strcmp(text, "eager") ? EAGER : SEEDED;
    if (p == SEEDED)
        rk_emu_seed(strtoull(text, nullptr, 10));
    return (policy)p;
}

enum { PATIENCE = 100000 }; /* looks at what others have to do, half a millisecond apart */

void run_front(CUstream_st *s);

void run_until(const op &o)
{
    while (!o->done)
        run_front(o->stream);
}

bool is_ready(operation &o)
{
    if (!o.ready)
        return true;
    const uint32_t outer = q.running;
    q.running = o.number; /* what leaves is read now */
    rk_emu_open_memory(true);
    bool ready = o.ready();
    rk_emu_open_memory(false);
    q.running = outer;
    return ready;
}

/* Others take their time, but not for ever. */
void await_others(operation &o)
{
    for (int k = 0; !is_ready(o); k++) {
        if (k == PATIENCE)
            rk_emu_report("stream", "%s waits for other processes that never come", o.name.c_str());
        usleep(500);
    }
}

void run_front(CUstream_st *s)
{
    op o = s->queue.front();
    if (o->needs)
        run_until(o->needs);
    while (o->meets && q.meetings.front() != o)
        run_until(op(q.meetings.front()));
    if (o->done)
        return;
    if (o->meets) {
        await_others(*o);
        q.meetings.pop_front();
    }
    if (o->fn) {
        uint32_t outer = q.running;
        q.running = o->number;
        rk_emu_open_memory(true);
        o->fn();
        rk_emu_open_memory(outer != 0);
        q.running = outer;
    }
    o->fn = nullptr;
    o->ready = nullptr;
    o->needs = nullptr;
    o->done = true;
    s->queue.pop_front();
}

bool try_until(const op &o);

/* Runs the front of a stream unless it would have to wait for other processes. */
bool try_front(CUstream_st *s)
{
    op o = s->queue.front();
    if (o->needs && !try_until(o->needs))
        return false;
    while (o->meets && q.meetings.front() != o)
        if (!try_until(op(q.meetings.front())))
            return false;
    if (!o->done && !is_ready(*o))
        return false;
    if (!o->done)
        run_front(s);
    return true;
}

bool try_until(const op &o)
{
    while (!o->done)
        if (!try_front(o->stream))
            return false;
    return true;
}

void finish(CUstream_st *s)
{
    while (!s->queue.empty())
        run_front(s);
}

/* The host knows of all that came before. */
void finish_for_host(CUstream_st *s)
{
    finish(s);
    join(q.host, s->clock);
}

void run_some(void)
{
    for (uint64_t k = rk_emu_random() % 3; k > 0; k--) {
        CUstream_st *t = q.streams[rk_emu_random() % q.streams.size()];
        if (!t->queue.empty() && !t->queue.front()->meets)
            try_front(t);
    }
}

CUstream_st *find(cudaStream_t s)
{
    for (CUstream_st *t : q.streams)
        if (t == s)
            return t;
    return nullptr;
}

CUstream_st *checked(cudaStream_t s)
{
    rk_emu_check_stream(s, "a call", nullptr);
    return s;
}

op push(CUstream_st *s, const char *what, std::function<void()> fn, std::function<bool()> ready, const op &needs)
{
    op o = std::make_shared<operation>();
    o->name = what;
    o->fn = std::move(fn);
    o->number = ++q.operations;
    s->operations++;
    join(s->clock, q.host);
    if (needs)
        join(s->clock, needs->before);
    if (s->clock.size() <= s->number)
        s->clock.resize(s->number + 1);
    s->clock[s->number] = s->operations;
    o->before = s->clock;
#ifdef RK_CHECK
    q.records.push_back(record{ what, s->number, s->operations, s->clock });
#endif
    o->meets = ready != nullptr;
    o->ready = std::move(ready);
    o->needs = needs;
    o->stream = s;
    s->queue.push_back(o);
    s->last = o;
    if (o->meets)
        q.meetings.push_back(o);
    if (read_policy() == EAGER)
        while (!s->queue.empty() && try_front(s)) {
        }
    else if (read_policy() == SEEDED)
        run_some();
    return o;
}

} // namespace

void rk_emu_check_stream(cudaStream_t s, const char *call, void *pc)
{
    char where[1024] = "an unknown place";
    const CUstream_st *known = find(s);
    if (known && known->device == rk_emu_device_now())
        return;
    if (pc)
        rk_emu_place_of(pc, where, sizeof where);
    const char *slash = strrchr(where, '/');
    if (known)
        rk_emu_report("stream", "%s at %s is given a stream of GPU %d by a thread whose GPU, by cudaSetDevice(), is %d", call,
                      slash ? slash + 1 : where, known->device, rk_emu_device_now());
    if (!s || s == cudaStreamLegacy || s == cudaStreamPerThread)
        rk_emu_report("stream", "the default stream is used by %s at %s; every operation names a stream of its own", call,
                      slash ? slash + 1 : where);
    rk_emu_report("stream", "%p, given to %s at %s, is no stream, or one that was destroyed", (void *)s, call,
                  slash ? slash + 1 : where);
}

static void forget(CUstream_st *s)
{
    for (size_t i = 0; i < q.streams.size(); i++)
        if (q.streams[i] == s)
            q.streams.erase(q.streams.begin() + (ptrdiff_t)i);
    delete s;
}

static void sweep(void)
{
    std::vector<CUstream_st *> busy;
    for (CUstream_st *s : q.abandoned)
        if (s->queue.empty())
            forget(s);
        else
            busy.push_back(s);
    q.abandoned.swap(busy);
}

CUstream_st *rk_emu_stream_open(void)
{
    sweep();
    CUstream_st *s = new CUstream_st();
    s->number = q.streams_made++;
    s->device = rk_emu_device_now();
    q.streams.push_back(s);
    return s;
}

void rk_emu_stream_close(CUstream_st *s)
{
    finish_for_host(s);
    forget(s);
}

void rk_emu_stream_abandon(CUstream_st *s)
{
    q.abandoned.push_back(s);
    sweep();
}

op rk_emu_push(CUstream_st *s, const char *what, std::function<void()> fn, const op &needs)
{
    return push(s, what, std::move(fn), nullptr, needs);
}

void rk_emu_enqueue(cudaStream_t s, const char *what, std::function<void()> fn)
{
    push(checked(s), what, std::move(fn), nullptr, nullptr);
}

void rk_emu_enqueue_meeting(cudaStream_t s, const char *what, std::function<bool()> ready, std::function<void()> fn)
{
    push(checked(s), what, std::move(fn), std::move(ready), nullptr);
}

void rk_emu_meet(void)
{
    while (!q.meetings.empty() && try_until(op(q.meetings.front()))) {
    }
}

void rk_emu_finish(cudaStream_t s)
{
    finish_for_host(checked(s));
}

void rk_emu_finish_all(void)
{
    for (CUstream_st *s : q.streams)
        finish_for_host(s);
}

uint32_t rk_emu_operation_now(void)
{
    return q.running;
}

uint32_t rk_emu_operation_last(void)
{
    return q.operations;
}

bool rk_emu_operation_before(uint32_t a, uint32_t b)
{
    return comes_before(a, q.records[b - 1].before);
}

bool rk_emu_operation_known(uint32_t a)
{
    return comes_before(a, q.host);
}

const char *rk_emu_operation_name(uint32_t a)
{
    return q.records[a - 1].name.c_str();
}

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    RK_EMU_CALL("cudaStreamCreateWithFlags", cudaErrorMemoryAllocation);
    if (!(flags & cudaStreamNonBlocking))
        rk_emu_report("stream", "a stream is created without cudaStreamNonBlocking");
    *s = rk_emu_stream_open();
    return cudaSuccess;
}

/* Frees even where it is made to fail: an earlier error is what it then tells. */
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails("cudaStreamDestroy");
    if (rk_emu_capturing(checked(s)))
        rk_emu_report("stream", "a stream is destroyed that is being captured");
    rk_emu_stream_close(s);
    return fails ? rk_emu_error(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    RK_EMU_CALL("cudaStreamSynchronize", cudaErrorLaunchFailure);
    if (rk_emu_capturing(checked(s)))
        return rk_emu_void_capture(s, cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize", HERE);
    rk_emu_counted.waits++;
    finish_for_host(s);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    rk_emu_guard guard;
    CUstream_st *t = checked(s);
    if (rk_emu_capturing(s))
        return rk_emu_void_capture(s, cudaErrorStreamCaptureUnsupported, "cudaStreamQuery", HERE);
    bool later = read_policy() == SEEDED && rk_emu_random() % 2;
    while (!later && !t->queue.empty() && try_front(t)) { /* a GPU goes on while somebody asks */
    }
    if (!t->queue.empty())
        return cudaErrorNotReady;
    RK_EMU_CALL("cudaStreamQuery", cudaErrorLaunchFailure);
    join(q.host, t->clock);
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    RK_EMU_CALL("cudaDeviceSynchronize", cudaErrorLaunchFailure);
    if (cudaError_t e = rk_emu_unsafe(true, "cudaDeviceSynchronize", HERE))
        return e;
    rk_emu_counted.waits++;
    rk_emu_finish_all();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned)
{
    RK_EMU_CALL("cudaEventCreateWithFlags", cudaErrorMemoryAllocation);
    *e = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails("cudaEventDestroy");
    delete e;
    return fails ? rk_emu_error(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    RK_EMU_CALL("cudaEventRecord", cudaErrorUnknown);
    e->captured = checked(s)->captured;
    e->last = e->captured.in ? nullptr : push(s, "event", nullptr, nullptr, nullptr);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    RK_EMU_CALL("cudaStreamWaitEvent", cudaErrorUnknown);
    if (checked(s)->captured.in || e->captured.in)
        return rk_emu_error(rk_emu_join_capture(s, e, HERE));
    if (e->last)
        push(s, "wait for an event", nullptr, nullptr, e->last);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    RK_EMU_CALL("cudaEventSynchronize", cudaErrorLaunchFailure);
    if (e->captured.in)
        return rk_emu_void_event(e, "cudaEventSynchronize", HERE);
    rk_emu_counted.waits++;
    if (!e->last)
        return cudaSuccess;
    run_until(op(e->last));
    join(q.host, e->last->before);
    return cudaSuccess;
}

/* A GPU goes on while somebody asks. Only answers that it is there are counted: how often one asks is chance. */
cudaError_t cudaEventQuery(cudaEvent_t e)
{
    rk_emu_guard guard;
    if (e->captured.in)
        return rk_emu_void_event(e, "cudaEventQuery", HERE);
    if (cudaError_t unsafe = rk_emu_unsafe(false, "cudaEventQuery", HERE))
        return unsafe;
    bool later = read_policy() == SEEDED && rk_emu_random() % 2;
    if (e->last && !e->last->done && (later || !try_until(op(e->last))))
        return cudaErrorNotReady;
    RK_EMU_CALL("cudaEventQuery", cudaErrorLaunchFailure);
    if (e->last)
        join(q.host, e->last->before);
    return cudaSuccess;
}
}
