/* Streams: queues of operations that run when somebody waits for them. RK_EMU_STREAMS: lazy (the default) runs
 * only what is waited for, eager runs all at once, a seed runs some now and then. */
#include "cuda/host/rk_emu.h"
#include "cuda/host/runtime.h"

#include <deque>
#include <memory>
#include <stdlib.h>
#include <string.h>
#include <vector>

namespace {

enum policy { LAZY, EAGER, SEEDED };

struct operation {
    std::string name;
    std::function<void()> fn;
    uint64_t number;     /* of all operations */
    bool meets, done;
    std::shared_ptr<operation> needs; /* runs first: an event that this waits for */
    struct CUstream_st *stream;
};
typedef std::shared_ptr<operation> op;

} // namespace

struct CUstream_st {
    std::deque<op> queue;
    bool legacy;
};

struct CUevent_st {
    op last;
};

namespace {

struct {
    std::vector<CUstream_st *> streams;
    std::deque<op> meetings; /* in the order of the calls */
    uint64_t operations;
    bool running;
} q;

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

void run_front(CUstream_st *s);

void run_until(const op &o)
{
    while (!o->done)
        run_front(o->stream);
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
    if (o->meets)
        q.meetings.pop_front();
    if (o->fn) {
        rk_emu_open_memory(true);
        o->fn();
        rk_emu_open_memory(false);
    }
    o->fn = nullptr;
    o->needs = nullptr;
    o->done = true;
    s->queue.pop_front();
}

void finish(CUstream_st *s)
{
    while (!s->queue.empty())
        run_front(s);
}

void run_some(void)
{
    for (uint64_t k = rk_emu_random() % 3; k > 0; k--) {
        CUstream_st *t = q.streams[rk_emu_random() % q.streams.size()];
        if (!t->queue.empty() && !t->queue.front()->meets)
            run_front(t);
    }
}

CUstream_st *checked(cudaStream_t s)
{
    for (CUstream_st *t : q.streams)
        if (t == s)
            return t;
    if (!s || s == cudaStreamLegacy || s == cudaStreamPerThread)
        rk_emu_report("stream", "the default stream is used; every operation names a non-blocking stream of its own");
    rk_emu_report("stream", "%p is no stream, or one that was destroyed", (void *)s);
}

op push(CUstream_st *s, const char *what, std::function<void()> fn, bool meets, const op &needs)
{
    op o = std::make_shared<operation>();
    o->name = what;
    o->fn = std::move(fn);
    o->number = ++q.operations;
    o->meets = meets;
    o->needs = needs;
    o->stream = s;
    s->queue.push_back(o);
    if (meets)
        q.meetings.push_back(o);
    if (read_policy() == EAGER)
        finish(s);
    else if (read_policy() == SEEDED)
        run_some();
    return o;
}

} // namespace

void rk_emu_enqueue(cudaStream_t s, const char *what, std::function<void()> fn)
{
    push(checked(s), what, std::move(fn), false, nullptr);
}

void rk_emu_enqueue_meeting(cudaStream_t s, const char *what, std::function<void()> fn)
{
    push(checked(s), what, std::move(fn), true, nullptr);
}

void rk_emu_finish(cudaStream_t s)
{
    finish(checked(s));
}

void rk_emu_finish_all(void)
{
    for (CUstream_st *s : q.streams)
        finish(s);
}

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    RK_EMU_CALL("cudaStreamCreateWithFlags", cudaErrorMemoryAllocation);
    if (!(flags & cudaStreamNonBlocking))
        rk_emu_report("stream", "a stream is created without cudaStreamNonBlocking");
    *s = new CUstream_st();
    q.streams.push_back(*s);
    return cudaSuccess;
}

/* Frees even where it is made to fail: an earlier error is what it then tells. */
cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails("cudaStreamDestroy");
    CUstream_st *t = checked(s);
    finish(t);
    for (size_t i = 0; i < q.streams.size(); i++)
        if (q.streams[i] == t)
            q.streams.erase(q.streams.begin() + (ptrdiff_t)i);
    delete t;
    return fails ? rk_emu_error(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    RK_EMU_CALL("cudaStreamSynchronize", cudaErrorLaunchFailure);
    finish(checked(s));
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t s)
{
    RK_EMU_CALL("cudaStreamQuery", cudaErrorLaunchFailure);
    return checked(s)->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize(void)
{
    RK_EMU_CALL("cudaDeviceSynchronize", cudaErrorLaunchFailure);
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
    e->last = push(checked(s), "event", nullptr, false, nullptr);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned)
{
    RK_EMU_CALL("cudaStreamWaitEvent", cudaErrorUnknown);
    if (e->last && !e->last->done)
        push(checked(s), "wait for an event", nullptr, false, e->last);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    RK_EMU_CALL("cudaEventSynchronize", cudaErrorLaunchFailure);
    if (e->last)
        run_until(op(e->last));
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    RK_EMU_CALL("cudaEventQuery", cudaErrorLaunchFailure);
    return !e->last || e->last->done ? cudaSuccess : cudaErrorNotReady;
}
}
