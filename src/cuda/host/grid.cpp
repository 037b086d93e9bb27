/* Kernels on the host. The threads of a block take turns on fibers: a thread runs until it waits for others
 * or ends, and then goes to the next one's stack; one that never waits costs no switch. Blocks run one after
 * another. The order of threads and blocks is RK_EMU_SCHED: fwd (the default), rev, or a seed. */
#include "cuda/host/check.h"
#include "cuda/host/rk_emu_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

/* ASan watches the kernels; this file, which runs between every two of their waits, may be built without it.
 */
#if defined(__SANITIZE_ADDRESS__) || defined(RK_EMU_ASAN)
#define KERNELS_WATCHED
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

rk_emu_place rk_emu_here;

namespace
{

enum { MOST_THREADS = 1024, LANES = 32, WARPS = MOST_THREADS / LANES, AROUND = 64, SHARED_MOST = 163 << 10 };
#ifdef KERNELS_WATCHED
enum : size_t { STACK = 512u << 10, PAGE = 4096 };
#else
enum : size_t { STACK = 128u << 10, PAGE = 4096 };
#endif
enum order { FORWARD, REVERSE, SEEDED };

struct fiber {
    fiber *next; /* in the list of idle ones */
    char *stack;
    void *sp;
    void *fake; /* ASan's */
};

enum state { NEW, READY, AT_BARRIER, IN_WARP, DONE };
struct thread {
    state st;
    fiber *f;
    const char *file; /* where it waits */
    int line;
    int op;
    unsigned mask;
    rk_emu_value v;
    int from;
    uint16_t barriers, syncs; /* that it has passed: the block's, and its warp's since */
    uint3 index;
};

struct shared {
    const void *key;
    rk_emu_block b;
};

/* The one grid that runs. */
struct {
    const rk_emu_kernel *kernel;
    order by;
    thread t[MOST_THREADS];
    int threads, current, alive, waiting;
    int ready[MOST_THREADS]; /* a ring */
    int first, nready;
    unsigned live[WARPS], arrived[WARPS];
    std::vector<shared> vars;
    size_t nvars; /* in use by this block; those behind wait to be used again */
    size_t shared_bytes;
    fiber caller; /* the stack on which kernels are launched */
    const void *caller_stack;
    size_t caller_size;
    bool from_caller; /* a fiber is entered from there */
    fiber *idle;
    uint16_t barriers; /* of the block */
} g;

/* ---- fibers ---- */

#if defined(__x86_64__)
extern "C" void rk_emu_switch(void **save, void *to);
asm(".text\n.hidden rk_emu_switch\n.globl rk_emu_switch\n.type rk_emu_switch,@function\n"
    "rk_emu_switch:\n"
    "push %rbp\npush %rbx\npush %r12\npush %r13\npush %r14\npush %r15\n"
    "mov %rsp,(%rdi)\nmov %rsi,%rsp\n"
    "pop %r15\npop %r14\npop %r13\npop %r12\npop %rbx\npop %rbp\nret\n"
    ".size rk_emu_switch,.-rk_emu_switch\n");
#elif defined(__aarch64__)
extern "C" void rk_emu_switch(void **save, void *to);
asm(".text\n.hidden rk_emu_switch\n.globl rk_emu_switch\n.type rk_emu_switch,%function\n"
    "rk_emu_switch:\n"
    "stp x19,x20,[sp,#-160]!\nstp x21,x22,[sp,#16]\nstp x23,x24,[sp,#32]\nstp x25,x26,[sp,#48]\n"
    "stp x27,x28,[sp,#64]\nstp x29,x30,[sp,#80]\nstp d8,d9,[sp,#96]\nstp d10,d11,[sp,#112]\n"
    "stp d12,d13,[sp,#128]\nstp d14,d15,[sp,#144]\n"
    "mov x9,sp\nstr x9,[x0]\nmov sp,x1\n"
    "ldp x21,x22,[sp,#16]\nldp x23,x24,[sp,#32]\nldp x25,x26,[sp,#48]\nldp x27,x28,[sp,#64]\n"
    "ldp x29,x30,[sp,#80]\nldp d8,d9,[sp,#96]\nldp d10,d11,[sp,#112]\nldp d12,d13,[sp,#128]\n"
    "ldp d14,d15,[sp,#144]\nldp x19,x20,[sp],#160\nret\n"
    ".size rk_emu_switch,.-rk_emu_switch\n");
#else
#error "fibers are switched by hand on x86-64 and aarch64 only: build with -DRANKINE_CUDA_HOST=OFF"
#endif

/* Told to ASan where a fiber is entered; `fake` is what it kept for that fiber, null at its start. */
void arrived([[maybe_unused]] void *fake)
{
#ifdef KERNELS_WATCHED
    bool first = g.from_caller;
    __sanitizer_finish_switch_fiber(fake, first ? &g.caller_stack : nullptr,
                                    first ? &g.caller_size : nullptr);
#endif
    g.from_caller = false;
}

void go(fiber *from, fiber *to)
{
#ifdef KERNELS_WATCHED
    bool caller = to == &g.caller;
    __sanitizer_start_switch_fiber(&from->fake, caller ? g.caller_stack : to->stack,
                                   caller ? g.caller_size : STACK);
#endif
    rk_emu_switch(&from->sp, to->sp);
    arrived(from->fake);
}

void fiber_main(void);

/* The frame that the first switch takes the fiber's registers and its start from. */
void prepare(fiber *f)
{
    void **top = (void **)(f->stack + STACK);
#if defined(__x86_64__)
    *--top = nullptr; /* keeps the stack aligned as after a call */
    *--top = (void *)fiber_main;
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
#else
    top -= 20;
    for (int i = 0; i < 20; i++)
        top[i] = nullptr;
    top[11] = (void *)fiber_main;
#endif
    f->sp = top;
}

fiber *take_fiber(void)
{
    if (g.idle) {
        fiber *f = g.idle;
        g.idle = f->next;
        return f;
    }
    void *m = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (m == MAP_FAILED)
        rk_emu_report("emulation", "no memory for the stack of a thread");
    mprotect(m, PAGE, PROT_NONE); /* a stack that overflows is seen */
    fiber *f = new fiber();
    f->stack = (char *)m + PAGE;
    prepare(f);
    return f;
}

/* ---- whose turn it is ---- */

void make_ready(int t)
{
    g.t[t].st = READY;
    g.ready[(g.first + g.nready++) % MOST_THREADS] = t;
}

int next_ready(void)
{
    if (g.nready == 0)
        return -1;
    if (g.by == FORWARD) {
        int t = g.ready[g.first];
        g.first = (g.first + 1) % MOST_THREADS;
        g.nready--;
        return t;
    }
    int at = g.by == REVERSE ? g.nready - 1 : (int)(rk_emu_random() % (uint64_t)g.nready);
    int i = (g.first + at) % MOST_THREADS, t = g.ready[i];
    g.ready[i] = g.ready[(g.first + --g.nready) % MOST_THREADS];
    return t;
}

void release_barrier(void)
{
    const thread *one = nullptr;
    if (g.waiting == 0 || g.waiting < g.alive)
        return;
    g.waiting = 0;
    g.barriers++;
    for (int i = 0; i < g.threads; i++) {
        thread *t = &g.t[i];
        if (t->st != AT_BARRIER)
            continue;
        if (!one)
            one = t;
        else if (t->line != one->line || (t->file != one->file && strcmp(t->file, one->file)))
            rk_emu_report("barrier divergence",
                          "threads of a block meet at different __syncthreads: %s:%d and %s:%d", one->file,
                          one->line, t->file, t->line);
        t->barriers = g.barriers;
        t->syncs = 0;
        make_ready(i);
    }
}

/* ---- warps ---- */

/* The lanes that `lane` waits for, if all of them have arrived; else 0. */
unsigned complete_group(int warp, int lane)
{
    const thread *a = &g.t[warp * LANES + lane];
    unsigned want = a->mask & g.live[warp];
    if ((want & g.arrived[warp]) != want)
        return 0;
    for (unsigned m = want; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        const thread *b = &g.t[warp * LANES + l];
        if (b->mask != a->mask || b->op != a->op)
            rk_emu_report(
                "warp divergence",
                "lanes %d and %d are in different warp operations: %s:%d mask %08x, %s:%d mask %08x", lane, l,
                a->file, a->line, a->mask, b->file, b->line, b->mask);
    }
    return want;
}

uint64_t combine(int op, uint64_t a, uint64_t b)
{
    switch (op) {
    case RK_EMU_ADD:
        return (uint32_t)(a + b);
    case RK_EMU_MIN:
        return (uint32_t)((int32_t)b < (int32_t)a ? b : a);
    case RK_EMU_MAX:
        return (uint32_t)((int32_t)b > (int32_t)a ? b : a);
    case RK_EMU_AND:
        return a & b;
    case RK_EMU_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

rk_emu_value reduced(const thread *lanes, unsigned group)
{
    int op = lanes[__builtin_ctz(group)].op;
    rk_emu_value r = {};
    for (unsigned m = group; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        uint64_t v = lanes[l].v.word[0];
        if (op == RK_EMU_BALLOT)
            r.word[0] |= (v & 1) << l;
        else
            r.word[0] = m == group ? v : combine(op, r.word[0], v);
    }
    return r;
}

void exchange(thread *lanes, unsigned group)
{
    rk_emu_value result[LANES];
    int op = lanes[__builtin_ctz(group)].op;
    if (op == RK_EMU_SYNC) { /* of all that a warp does, this alone orders memory */
        for (unsigned m = group; m; m &= m - 1)
            lanes[__builtin_ctz(m)].syncs++;
        return;
    }
    for (unsigned m = group; m; m &= m - 1) {
        int l = __builtin_ctz(m);
        const thread *t = &lanes[l];
        if (op == RK_EMU_SHFL && !(group >> (t->from & 31) & 1))
            rk_emu_report("shuffle", "lane %d reads lane %d, which takes no part, at %s:%d", l, t->from & 31,
                          t->file, t->line);
        result[l] = op == RK_EMU_SHFL ? lanes[t->from & 31].v : reduced(lanes, group);
    }
    for (unsigned m = group; m; m &= m - 1)
        lanes[__builtin_ctz(m)].v = result[__builtin_ctz(m)];
}

/* Lets go every group of the warp whose lanes have all arrived. */
void release_warp(int warp)
{
    thread *lanes = &g.t[warp * LANES];
    for (unsigned m = g.arrived[warp]; m;) {
        unsigned group = complete_group(warp, __builtin_ctz(m));
        if (!group) {
            m &= m - 1;
            continue;
        }
        exchange(lanes, group);
        g.arrived[warp] &= ~group;
        for (unsigned k = group; k; k &= k - 1)
            make_ready(warp * LANES + __builtin_ctz(k));
        m &= ~group;
    }
}

/* ---- threads ---- */

void enter(int t, fiber *f)
{
    thread *now = &g.t[t];
    g.current = t;
    now->st = READY;
    now->f = f;
    rk_emu_now.thread = t;
    rk_emu_now.barriers = now->barriers;
    rk_emu_now.syncs = now->syncs;
    rk_emu_now.stack = f->stack;
    rk_emu_now.stack_end = f->stack + STACK;
    rk_emu_here.thread = now->index;
}

/* From a thread that waits or has ended to the one whose turn it is; back to the caller if there is none. */
void go_on(fiber *from)
{
    int t = next_ready();
    if (t < 0) {
        g.current = rk_emu_now.thread = -1;
        go(from, &g.caller);
        return;
    }
    fiber *to = g.t[t].f ? g.t[t].f : take_fiber();
    enter(t, to);
    if (to != from)
        go(from, to);
}

void end_thread(void)
{
    int t = g.current, warp = t / LANES;
    g.t[t].st = DONE;
    g.t[t].f = nullptr;
    g.alive--;
    g.live[warp] &= ~(1u << t % LANES);
    release_barrier();
    release_warp(warp);
}

/* Runs new threads one after another: this stack, idle once its thread has ended, is the first that is taken.
 */
void fiber_main(void)
{
    arrived(nullptr);
    for (;;) {
        fiber *f = g.t[g.current].f;
        g.kernel->run(g.kernel->args);
        end_thread();
        f->next = g.idle;
        g.idle = f;
        go_on(f);
    }
}

void wait_here(state st, const char *file, int line)
{
    thread *t = &g.t[g.current];
    int warp = g.current / LANES;
    fiber *f = t->f;
    t->st = st;
    t->file = file;
    t->line = line;
    if (st == AT_BARRIER) {
        g.waiting++;
        release_barrier();
    } else {
        g.arrived[warp] |= 1u << g.current % LANES;
        release_warp(warp);
    }
    go_on(f);
}

/* ---- blocks ---- */

/* What lies behind a variable shows overruns: to ASan, and to the check build. */
rk_emu_block new_shared(size_t size, const char *name)
{
    size_t room = (size + AROUND + 15) / 16 * 16;
    char *p = (char *)aligned_alloc(16, room);
    if (!p)
        rk_emu_report("emulation", "no memory for %s, %zu bytes", name, size);
#ifdef KERNELS_WATCHED
    __asan_poison_memory_region(p + size, room - size);
#endif
    return rk_emu_block{ p, size, room, RK_EMU_SHARED, nullptr, name, nullptr, 4 };
}

/* The variables from the n-th on. */
void drop_shared(size_t n)
{
    for (size_t i = n; i < g.vars.size(); i++) {
        rk_emu_block *b = &g.vars[i].b;
#ifdef KERNELS_WATCHED
        __asan_unpoison_memory_region(b->p, b->room);
#endif
        free(b->p);
        free(b->shadow);
    }
    g.vars.resize(n);
}

void report_deadlock(void)
{
    bool warps = false; /* a warp that waits for a lane tells more than those at the barrier behind it */
    for (int i = 0; i < g.threads; i++)
        warps |= g.t[i].st == IN_WARP;
    for (int i = 0; i < g.threads; i++) {
        const thread *a = &g.t[i];
        int same = 0;
        if (a->st != (warps ? IN_WARP : AT_BARRIER))
            continue;
        for (int j = 0; j < g.threads; j++)
            same += g.t[j].st == a->st && g.t[j].line == a->line;
        rk_emu_report("deadlock",
                      "%d of %d live threads wait in %s at %s:%d (the first is thread %d); kernel %s", same,
                      g.alive, a->st == AT_BARRIER ? "__syncthreads" : "a warp operation", a->file, a->line,
                      i, g.kernel->name.c_str());
    }
}

void run_block(unsigned number, dim3 grid)
{
    rk_emu_here.block.x = number % grid.x;
    rk_emu_here.block.y = number / grid.x % grid.y;
    rk_emu_here.block.z = number / (grid.x * grid.y);
    g.alive = g.threads;
    g.waiting = g.first = g.nready = 0;
    g.nvars = g.shared_bytes = 0;
    g.barriers = 0;
    rk_emu_now.block = number;
    rk_emu_check_block();
    for (int t = 0; t < g.threads; t++) {
        g.t[t].f = nullptr;
        g.t[t].barriers = g.t[t].syncs = 0;
        make_ready(t);
        g.t[t].st = NEW;
    }
    for (int w = 0; w * LANES < g.threads; w++) {
        int n = g.threads - w * LANES;
        g.arrived[w] = 0;
        g.live[w] = n >= LANES ? ~0u : (1u << n) - 1;
    }
    g.from_caller = true;
    go_on(&g.caller);
    if (g.alive)
        report_deadlock();
}

order read_order(void)
{
    static int by = -1;
    const char *text = getenv("RK_EMU_SCHED");
    if (by >= 0)
        return (order)by;
    by = !text || !*text || !strcmp(text, "fwd") ? FORWARD : !strcmp(text, "rev") ? REVERSE : SEEDED;
    if (by == SEEDED)
        rk_emu_seed(strtoull(text, nullptr, 10));
    return (order)by;
}

} // namespace

void rk_emu_run(const rk_emu_kernel &k)
{
    unsigned blocks = k.grid.x * k.grid.y * k.grid.z;
    std::vector<unsigned> numbers(blocks);
    g.by = read_order();
    g.kernel = &k;
    g.threads = (int)(k.block.x * k.block.y * k.block.z);
    rk_emu_here.block_dim = k.block;
    rk_emu_here.grid_dim = k.grid;
    for (unsigned t = 0, x = k.block.x, y = k.block.y; t < (unsigned)g.threads; t++)
        g.t[t].index = uint3{ t % x, t / x % y, t / (x * y) };
    for (unsigned i = 0; i < blocks; i++)
        numbers[i] = g.by == REVERSE ? blocks - 1 - i : i;
    if (g.by == SEEDED)
        rk_emu_shuffle(numbers.data(), blocks);
    rk_emu_check_kernel(&k, blocks);
    for (unsigned i : numbers)
        run_block(i, k.grid);
    rk_emu_check_kernel(nullptr, 0);
    k.tally->threads += (uint64_t)blocks * (uint64_t)g.threads;
    drop_shared(0);
    g.kernel = nullptr;
    g.current = -1;
}

const char *rk_emu_where(void)
{
    static char text[300];
    text[0] = '\0';
    if (g.kernel)
        snprintf(text, sizeof text, " [kernel %s, block (%u,%u,%u), thread (%u,%u,%u)]",
                 g.kernel->name.c_str(), rk_emu_here.block.x, rk_emu_here.block.y, rk_emu_here.block.z,
                 rk_emu_here.thread.x, rk_emu_here.thread.y, rk_emu_here.thread.z);
    return text;
}

/* Shared memory is NaN at the start of every block. */
static void *find_shared(const void *key, size_t size, const char *name)
{
    for (size_t i = 0; i < g.nvars; i++)
        if (g.vars[i].key == key)
            return g.vars[i].b.p;
    if (g.nvars < g.vars.size() && (g.vars[g.nvars].key != key || g.vars[g.nvars].b.bytes != size))
        drop_shared(g.nvars);
    g.shared_bytes += size;
    if (g.shared_bytes > SHARED_MOST)
        rk_emu_report("shared memory", "%s brings a block to %zu bytes; there are %d", name, g.shared_bytes,
                      SHARED_MOST);
    if (g.nvars == g.vars.size())
        g.vars.push_back(shared{ key, new_shared(size, name) });
    rk_emu_block *b = &g.vars[g.nvars++].b;
    memset(b->p, 0xff, size);
    return b->p;
}

rk_emu_block *rk_emu_find_shared(const void *p)
{
    for (size_t i = 0; i < g.nvars; i++) {
        rk_emu_block *b = &g.vars[i].b;
        if ((const char *)p >= b->p && (const char *)p < b->p + b->room)
            return b;
    }
    return nullptr;
}

extern "C" {

void *rk_emu_shared(const void *key, size_t size, const char *name)
{
    return find_shared(key, size, name);
}

void *rk_emu_dynamic_shared(void)
{
    static char key;
    return find_shared(&key, g.kernel->smem, "dynamic shared memory");
}

void rk_emu_syncthreads(const char *file, int line)
{
    wait_here(AT_BARRIER, file, line);
}

void rk_emu_warp(int op, unsigned mask, rk_emu_value *v, int from, const char *file, int line)
{
    thread *t = &g.t[g.current];
    if (!(mask >> (g.current % LANES) & 1))
        rk_emu_report("warp", "a lane is not in its own mask %08x at %s:%d", mask, file, line);
    t->op = op;
    t->mask = mask;
    t->from = from;
    if (v)
        t->v = *v;
    wait_here(IN_WARP, file, line);
    if (v)
        *v = t->v;
}

unsigned rk_emu_lane(void)
{
    return (unsigned)g.current % LANES;
}

void rk_emu_atomic(void *p, size_t size)
{
    rk_emu_check_atomic(p, size, __builtin_return_address(0));
}

void rk_emu_unordered(const char *what, const char *file, int line)
{
    rk_emu_report("order", "%s of numbers with a fraction at %s:%d: the bits of the sum depend on the order of threads",
                  what, file, line);
}

void rk_emu_load(const void *p, void *value, size_t size)
{
    memcpy(value, p, size);
}

void rk_emu_store(void *p, const void *value, size_t size)
{
    memcpy(p, value, size);
}

void rk_emu_fence(int device_wide)
{
    if (device_wide)
        rk_emu_check_fence();
}
}
