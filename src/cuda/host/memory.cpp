/* Device and pinned memory, copies. Device memory is one region of addresses, closed to the host but while an
 * operation of a stream runs: a host access to it ends the process with a report. Fresh memory is NaN; a block has
 * red zones, whose bytes are looked at when it is freed. */
#include "cuda/host/check.h"
#include "cuda/host/runtime.h"

#include <execinfo.h>
#include <map>
#include <memory>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define __asan_poison_memory_region(p, n)   ((void)(p), (void)(n))
#define __asan_unpoison_memory_region(p, n) ((void)(p), (void)(n))
#endif

#define HERE __builtin_return_address(0)

namespace {

enum : size_t { RED = 256, ALIGN = 256, AHEAD = 64u << 20, GIB = (size_t)1 << 30 };
enum { FRESH = 0xff, ZONE = 0xfe };

typedef rk_emu_block block; /* room: with both red zones, from p - RED */

/* A copy to or from pinned memory that the host may not know to be over. */
struct pending {
    const char *p;
    size_t bytes;
    bool writes;
    uint32_t operation;
};

struct state {
    char *base, *end;                /* device memory */
    char *poisoned;                  /* up to here ASan knows which bytes are no block */
    size_t limit;                    /* bytes that may be allocated */
    uint64_t allocated;              /* blocks so far */
    std::map<char *, size_t> holes;  /* of the region, by address */
    std::map<char *, block> blocks;  /* by p */
    std::vector<pending> copies;     /* check build */
    bool guarded, open, shown; /* open: to what runs now; shown: to everybody, as pages have it */
    struct sigaction before;
};
state &mem = *new state(); /* outlives every destructor */

size_t up(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN;
}

/* ---- the host keeps out ---- */

/* A fault that is none of ours comes once more when this returns, with nobody here; one that was sent does not.
 */
void pass_on(int sig, siginfo_t *info, void *context)
{
    const struct sigaction &to = mem.before;
    if (info->si_code > 0) {
        sigaction(sig, &to, nullptr);
    } else if (to.sa_flags & SA_SIGINFO) {
        to.sa_sigaction(sig, info, context);
    } else if (to.sa_handler == SIG_DFL) {
        sigaction(sig, &to, nullptr);
        raise(sig); /* delivered when this returns */
    } else if (to.sa_handler != SIG_IGN) {
        to.sa_handler(sig);
    }
}

void host_access(int sig, siginfo_t *info, void *context)
{
    char *p = (char *)info->si_addr; /* of a fault; else it means something else */
    const bool fault = info->si_code == SEGV_ACCERR || info->si_code == SEGV_MAPERR;
    if (!fault || p < mem.base || p >= mem.end || mem.open) {
        pass_on(sig, info, context);
        return;
    }
#if defined(__x86_64__)
    bool writes = ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 2;
    const char *what = writes ? "writes" : "reads";
#else
    (void)context;
    const char *what = "touches";
#endif
    char text[1200], where[1024] = "an unknown place";
    const char *place = where;
#if defined(__x86_64__)
    mem.open = true; /* what follows may fault by itself */
    place = rk_emu_place_of((char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] + 1, where, sizeof where);
#endif
    int n = snprintf(text, sizeof text, "rk_emu: host: host code %s device memory at %p, at %s\n", what, (void *)p,
                     place);
    if (write(STDERR_FILENO, text, (size_t)n) < 0)
        _exit(86);
    void *frames[24];
    backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
    _exit(86);
}

void guard_region(void)
{
    const char *off = getenv("RK_EMU_GUARD");
    void *frames[1];
    mem.guarded = !off || strcmp(off, "off");
    if (!mem.guarded)
        return;
    backtrace(frames, 1); /* loads what it needs now, not in the handler */
    struct sigaction sa = {};
    sa.sa_sigaction = host_access;
    sa.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &sa, &mem.before);
    mprotect(mem.base, (size_t)(mem.end - mem.base), PROT_NONE);
}

void reserve(void)
{
    const char *text = getenv("RK_EMU_MEMORY");
    mem.limit = text && *text ? strtoull(text, nullptr, 10) : 8 * GIB;
    size_t room = up(2 * mem.limit + GIB / 16);
    void *p = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        rk_emu_report("emulation", "no addresses for %zu bytes of device memory; RK_EMU_MEMORY=BYTES asks for less",
                      room);
    mem.base = (char *)p;
    mem.end = mem.base + room;
    mem.holes[mem.base] = room;
    mem.poisoned = mem.base;
    guard_region();
}

/* Opens device memory for the life of the object. */
struct opened {
    bool before;
    opened() : before(mem.open) { rk_emu_open_memory(true); }
    ~opened() { rk_emu_open_memory(before); }
};

/* ---- blocks ---- */

/* What lies behind all blocks is poisoned as far as a wild access may go. */
void poison_ahead(char *end)
{
    char *to = end + AHEAD < mem.end ? end + AHEAD : mem.end;
    if (to <= mem.poisoned)
        return;
    __asan_poison_memory_region(mem.poisoned, (size_t)(to - mem.poisoned));
    mem.poisoned = to;
}

char *take_room(size_t room)
{
    if (!mem.base)
        reserve();
    for (auto h = mem.holes.begin(); h != mem.holes.end(); ++h) {
        if (h->second < room)
            continue;
        char *p = h->first;
        size_t left = h->second - room;
        mem.holes.erase(h);
        poison_ahead(p + room);
        if (left)
            mem.holes[p + room] = left;
        return p;
    }
    return nullptr;
}

void give_room(char *p, size_t room)
{
    auto h = mem.holes.emplace(p, room).first;
    auto next = std::next(h);
    if (next != mem.holes.end() && p + room == next->first) {
        h->second += next->second;
        mem.holes.erase(next);
    }
    if (h == mem.holes.begin())
        return;
    auto before = std::prev(h);
    if (before->first + before->second == h->first) {
        before->second += h->second;
        mem.holes.erase(h);
    }
}

void *allocate(size_t bytes, rk_emu_kind kind, void *pc)
{
    size_t room = up(bytes) + 2 * RED;
    if (kind == RK_EMU_DEVICE && !mem.base)
        reserve();
    if (bytes > mem.limit && kind == RK_EMU_DEVICE)
        return nullptr;
    if (kind == RK_EMU_DEVICE && rk_emu_counted.bytes_live + bytes > mem.limit)
        return nullptr;
    opened now;
    char *p = kind == RK_EMU_DEVICE ? take_room(room) : (char *)aligned_alloc(ALIGN, room);
    if (!p)
        return nullptr;
    __asan_unpoison_memory_region(p, room);
    memset(p, ZONE, RED);
    memset(p + RED, FRESH, bytes);
    memset(p + RED + bytes, ZONE, room - RED - bytes);
    __asan_poison_memory_region(p, RED);
    __asan_poison_memory_region(p + RED + bytes, room - RED - bytes);
    p += RED;
    mem.blocks[p] = block{ p, bytes, room, kind, pc, nullptr, nullptr, 4, ++mem.allocated };
    if (kind != RK_EMU_DEVICE) {
        rk_emu_counted.pinned++;
        return p;
    }
    rk_emu_counted.allocations++;
    rk_emu_counted.blocks_live++;
    rk_emu_counted.bytes_live += bytes;
    if (rk_emu_counted.bytes_live > rk_emu_counted.bytes_peak)
        rk_emu_counted.bytes_peak = rk_emu_counted.bytes_live;
    return p;
}

void check_zones(const block &b)
{
    const unsigned char *p = (const unsigned char *)b.p;
    char where[1024];
    __asan_unpoison_memory_region(b.p - RED, b.room);
    for (size_t i = 0; i < RED; i++)
        if (p[-1 - (ptrdiff_t)i] != ZONE)
            rk_emu_report("memory", "something was written %zu bytes before the block of %zu bytes of %s", i + 1,
                          b.bytes, rk_emu_place_of(b.pc, where, sizeof where));
    for (size_t i = b.bytes; i < b.room - RED; i++)
        if (p[i] != ZONE)
            rk_emu_report("memory", "something was written %zu bytes past the end of the block of %zu bytes of %s",
                          i - b.bytes, b.bytes, rk_emu_place_of(b.pc, where, sizeof where));
}

/* What is freed holds no memory. Whole pages only: the next block may begin on the last one. */
void give_pages(char *p, size_t bytes)
{
    const uintptr_t page = 4096, from = ((uintptr_t)p + page - 1) & ~(page - 1),
                    to = ((uintptr_t)p + bytes) & ~(page - 1);
    if (bytes >= 1u << 20)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

void drop(std::map<char *, block>::iterator at)
{
    block b = at->second;
    opened now;
    check_zones(b);
    memset(b.p, FRESH, b.bytes);
    free(b.shadow);
    mem.blocks.erase(at);
    if (b.kind != RK_EMU_DEVICE) {
        free(b.p - RED);
        return;
    }
    give_pages(b.p, b.bytes);
    __asan_poison_memory_region(b.p - RED, b.room);
    give_room(b.p - RED, b.room);
    rk_emu_counted.frees++;
    rk_emu_counted.blocks_live--;
    rk_emu_counted.bytes_live -= b.bytes;
}

block *find(const void *p, size_t past)
{
    auto at = mem.blocks.upper_bound((char *)p);
    if (at == mem.blocks.begin())
        return nullptr;
    block &b = std::prev(at)->second;
    return (const char *)p < b.p + b.bytes + past ? &b : nullptr;
}

cudaError_t release(void *p, rk_emu_kind kind, const char *call, void *pc)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails(call);
    char where[1024];
    if (cudaError_t e = p ? rk_emu_unsafe(false, call, pc) : cudaSuccess)
        return e;
    if (p) {
        rk_emu_finish_all();
        auto at = mem.blocks.find((char *)p);
        if (at == mem.blocks.end() || at->second.kind != kind)
            rk_emu_report("memory", "%s at %s of %p, which is no such block, or was freed", call,
                          rk_emu_place_of(pc, where, sizeof where), p);
        drop(at);
    }
    return fails ? rk_emu_error(cudaErrorUnknown) : cudaSuccess;
}

const char *name(int kind)
{
    return kind == RK_EMU_DEVICE ? "device" : kind == RK_EMU_PINNED ? "pinned" : "host";
}

/* At the call already, where it can be told who is to blame. */
void check_end(const void *p, size_t bytes, const char *call, void *pc)
{
    const block *b = find(p, 0);
    char where[1024];
    if (b && (const char *)p + bytes > b->p + b->bytes)
        rk_emu_report("memory", "%s at %s reaches %zu bytes past the end of a block of %zu bytes", call,
                      rk_emu_place_of(pc, where, sizeof where), (size_t)((const char *)p + bytes - (b->p + b->bytes)),
                      b->bytes);
}

/* Both ends of a copy lie where its kind says. */
void check_copy(const void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, void *pc)
{
    char where[1024];
    static const struct {
        bool to, from;
    } device[] = { { false, false }, { true, false }, { false, true }, { true, true } };
    int to = rk_emu_kind_of(dst), from = rk_emu_kind_of(src);
    const char *guard = getenv("RK_EMU_GUARD");
    bool shared = guard && !strcmp(guard, "off"); /* the host's memory is as good as the device's */
    if (kind > cudaMemcpyDeviceToDevice || (shared && kind == cudaMemcpyDeviceToDevice))
        return;
    if ((to == RK_EMU_DEVICE) != device[kind].to || (from == RK_EMU_DEVICE) != device[kind].from)
        rk_emu_report("copy", "a copy of kind %d at %s goes from %s to %s memory", (int)kind,
                      rk_emu_place_of(pc, where, sizeof where), name(from), name(to));
    check_end(src, bytes, "cudaMemcpyAsync", pc);
    check_end(dst, bytes, "cudaMemcpyAsync", pc);
}

void count_copy(size_t bytes, enum cudaMemcpyKind kind)
{
    if (kind == cudaMemcpyHostToDevice) {
        rk_emu_counted.copies_in++;
        rk_emu_counted.bytes_in += bytes;
    } else if (kind == cudaMemcpyDeviceToHost) {
        rk_emu_counted.copies_out++;
        rk_emu_counted.bytes_out += bytes;
    }
}

} // namespace

rk_emu_kind rk_emu_kind_of(const void *p)
{
    if (mem.base && (char *)p >= mem.base && (char *)p < mem.end)
        return RK_EMU_DEVICE;
    const block *b = find(p, 0);
    return b ? b->kind : RK_EMU_NOWHERE;
}

void rk_emu_range(const void *p, size_t bytes, bool write, const char *what)
{
    if (bytes == 0 || rk_emu_kind_of(p) == RK_EMU_NOWHERE)
        return;
    block *b = find(p, 0);
    if (!b)
        rk_emu_report("memory", "%s %s %p, where no block is", what, write ? "writes" : "reads", p);
    if ((const char *)p + bytes > b->p + b->bytes)
        rk_emu_report("memory", "%s %s %zu bytes, %zu past the end of a block of %zu bytes", what,
                      write ? "writes" : "reads", bytes, (size_t)((const char *)p + bytes - (b->p + b->bytes)),
                      b->bytes);
    if (b->kind == RK_EMU_DEVICE)
        rk_emu_check_range(b, p, bytes, write, what);
}

const rk_emu_block *rk_emu_find_leak(void)
{
    for (auto &at : mem.blocks)
        if (at.second.kind == RK_EMU_DEVICE)
            return &at.second;
    return nullptr;
}

rk_emu_block *rk_emu_find_block(const void *p, size_t past)
{
    return find(p, past);
}

/* In the check build: host code may not touch this pinned memory while the last operation works on it. */
static void note_pending(const void *p, size_t bytes, bool writes)
{
#ifdef RK_CHECK
    mem.copies.push_back(pending{ (const char *)p, bytes, writes, rk_emu_operation_last() });
#else
    (void)p, (void)bytes, (void)writes;
#endif
}

const char *rk_emu_host_pending(const char *p, size_t bytes, bool write)
{
    for (size_t i = 0; i < mem.copies.size();) {
        const pending &c = mem.copies[i];
        if (rk_emu_operation_known(c.operation)) {
            mem.copies[i] = mem.copies.back();
            mem.copies.pop_back();
            continue;
        }
        if ((write || c.writes) && p < c.p + c.bytes && p + bytes > c.p)
            return rk_emu_operation_name(c.operation);
        i++;
    }
    return nullptr;
}

void rk_emu_copy_work(rk_emu_work *w, void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, void *pc)
{
    check_copy(dst, src, bytes, kind, pc);
    w->type = cudaGraphNodeTypeMemcpy;
    w->name = "cudaMemcpyAsync";
    w->dst = dst;
    w->src = src;
    w->bytes = bytes;
    w->kind = kind;
}

void rk_emu_set_work(rk_emu_work *w, void *dst, int value, size_t bytes, void *pc)
{
    if (rk_emu_kind_of(dst) != RK_EMU_DEVICE)
        rk_emu_report("memory", "cudaMemsetAsync of %p, which is no device memory", dst);
    check_end(dst, bytes, "cudaMemsetAsync", pc);
    w->type = cudaGraphNodeTypeMemset;
    w->name = "cudaMemsetAsync";
    w->dst = dst;
    w->value = value;
    w->bytes = bytes;
}

static void run_copy(const rk_emu_work &w)
{
    rk_emu_range(w.src, w.bytes, false, "cudaMemcpyAsync");
    rk_emu_range(w.dst, w.bytes, true, "cudaMemcpyAsync");
    memmove(w.dst, w.src, w.bytes);
}

static void run_set(const rk_emu_work &w)
{
    rk_emu_range(w.dst, w.bytes, true, "cudaMemsetAsync");
    memset(w.dst, w.value, w.bytes);
}

void rk_emu_enqueue_work(cudaStream_t s, const rk_emu_work &w)
{
    if (w.library) {
        const rk_emu_part part = w.library();
        if (part.ready)
            rk_emu_enqueue_meeting(s, w.name.c_str(), part.ready, part.fn);
        else
            rk_emu_enqueue(s, w.name.c_str(), part.fn);
    } else if (w.type == cudaGraphNodeTypeKernel) {
        rk_emu_counted.launches++;
        rk_emu_enqueue(s, w.name.c_str(), [w] { rk_emu_run_work(w); });
    } else if (w.type == cudaGraphNodeTypeMemcpy) {
        count_copy(w.bytes, w.kind);
        rk_emu_enqueue(s, w.name.c_str(), [w] { run_copy(w); });
        if (rk_emu_kind_of(w.src) == RK_EMU_PINNED)
            note_pending(w.src, w.bytes, false);
        if (rk_emu_kind_of(w.dst) == RK_EMU_PINNED)
            note_pending(w.dst, w.bytes, true);
    } else if (w.type == cudaGraphNodeTypeMemset) {
        rk_emu_enqueue(s, w.name.c_str(), [w] { run_set(w); });
    }
}

void rk_emu_open_memory(bool open)
{
    mem.open = open;
    if (open && !mem.shown && mem.guarded)
        mprotect(mem.base, (size_t)(mem.end - mem.base), PROT_READ | PROT_WRITE);
    mem.shown |= open;
}

void rk_emu_settle_memory(void)
{
    if (mem.open || !mem.shown)
        return;
    mem.shown = false;
    if (mem.guarded)
        mprotect(mem.base, (size_t)(mem.end - mem.base), PROT_NONE);
}

extern "C" {

cudaError_t cudaMalloc(void **p, size_t bytes)
{
    RK_EMU_CALL("cudaMalloc", cudaErrorMemoryAllocation);
    if (cudaError_t e = rk_emu_unsafe(false, "cudaMalloc", HERE))
        return e;
    void *got = allocate(bytes ? bytes : 1, RK_EMU_DEVICE, HERE);
    if (!got)
        return rk_emu_error(cudaErrorMemoryAllocation);
    *p = got;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    return release(p, RK_EMU_DEVICE, "cudaFree", HERE);
}

cudaError_t cudaMallocHost(void **p, size_t bytes)
{
    RK_EMU_CALL("cudaMallocHost", cudaErrorMemoryAllocation);
    if (cudaError_t e = rk_emu_unsafe(false, "cudaMallocHost", HERE))
        return e;
    void *got = allocate(bytes ? bytes : 1, RK_EMU_PINNED, HERE);
    if (!got)
        return rk_emu_error(cudaErrorMemoryAllocation);
    *p = got;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    return release(p, RK_EMU_PINNED, "cudaFreeHost", HERE);
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    RK_EMU_CALL("cudaMemGetInfo", cudaErrorUnknown);
    if (!mem.base)
        reserve();
    *total = mem.limit;
    *available = mem.limit - rk_emu_counted.bytes_live;
    return cudaSuccess;
}

/* Pageable memory is written before the call returns. It may be read later: the call is documented to be one that
 * "might be synchronous", and is not where a GPU reads pageable memory by itself. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t s)
{
    RK_EMU_CALL("cudaMemcpyAsync", cudaErrorUnknown);
    rk_emu_work w = {};
    rk_emu_copy_work(&w, dst, src, bytes, kind, HERE);
    rk_emu_check_stream(s, "cudaMemcpyAsync", HERE);
    bool reads = rk_emu_kind_of(src) == RK_EMU_NOWHERE, waits = rk_emu_kind_of(dst) == RK_EMU_NOWHERE;
    if ((reads || waits) && rk_emu_capturing(s))
        return rk_emu_void_capture(s, cudaErrorStreamCaptureUnsupported, "cudaMemcpyAsync of pageable memory", HERE);
    cudaError_t e = rk_emu_submit(s, w);
    if (waits && !e) {
        rk_emu_counted.waits++;
        rk_emu_finish(s);
    }
    return rk_emu_error(e);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    RK_EMU_CALL("cudaMemsetAsync", cudaErrorUnknown);
    rk_emu_work w = {};
    rk_emu_set_work(&w, p, value, bytes, HERE);
    rk_emu_check_stream(s, "cudaMemsetAsync", HERE);
    return rk_emu_error(rk_emu_submit(s, w));
}
}
