#include "cuda/host/check.h"
#include "cuda/host/rk_emu_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <vector>

rk_emu_turn rk_emu_now = { -1, 0, 0, 0, nullptr, nullptr };

#ifdef RK_CHECK

/* What is known of one word (or byte) of memory: its last write and its last read. */
struct rk_emu_cell {
    uint32_t w_op, w_block, r_op, r_block;
    uint16_t w_thread, w_barriers, w_syncs, r_thread, r_barriers, r_syncs;
    uint8_t w_atomic, r_atomic;
    uint8_t r_lanes;  /* others of the block have read it since the last barrier: 1 of the same warp, 2 of others */
    uint8_t r_blocks; /* other blocks have read it in this launch */
};

namespace {

enum : uint32_t { NO_BLOCK = 0xffffffffu };

struct {
    const rk_emu_kernel *kernel;
    std::vector<char> released; /* by block: it went through an atomic after a fence */
    bool fenced, acquired;      /* the running block */
    rk_emu_block *last;         /* block of device memory that was hit last */
} c;

/* ---- reports ---- */

struct access {
    rk_emu_block *b;
    char *p;
    size_t size;
    bool write, atomic;
    void *pc;         /* of the access; NULL: an operation of the stand-ins */
    const char *what; /* which one */
};

void complain(const access &a, const char *kind, const char *what, const char *more) __attribute__((noreturn));
void complain(const access &a, const char *kind, const char *what, const char *more)
{
    char where[1024], block[160] = "";
    if (a.b)
        snprintf(block, sizeof block, ", byte %td of %s (%zu bytes)", a.p - a.b->p,
                 a.b->kind == RK_EMU_SHARED   ? a.b->name
                 : a.b->kind == RK_EMU_PINNED ? "pinned memory"
                                              : "a block of device memory",
                 a.b->bytes);
    rk_emu_report(kind, "%s at %s%s%s", what, a.pc ? rk_emu_place_of(a.pc, where, sizeof where) : a.what, block, more);
}

const char *by_thread(char text[120], const char *did, uint32_t block, unsigned thread)
{
    snprintf(text, 120, ": %s by block %u, thread %u, and nothing orders the two", did, block, thread);
    return text;
}

const char *by_operation(char text[400], const char *did, uint32_t op)
{
    snprintf(text, 400, ": %s by the operation %s, which no event or stream orders before this one", did,
             rk_emu_operation_name(op));
    return text;
}

/* ---- order ---- */

/* An earlier access of this launch comes before the running thread's on a GPU too. */
bool ordered(unsigned thread, uint32_t block, uint16_t barriers, uint16_t syncs)
{
    if (block != rk_emu_now.block)
        return c.acquired && c.released[block];
    if ((int)thread == rk_emu_now.thread || barriers != rk_emu_now.barriers)
        return true;
    return (int)thread / 32 == rk_emu_now.thread / 32 && syncs != rk_emu_now.syncs;
}

bool readers_ordered(const rk_emu_cell *x)
{
    if (!ordered(x->r_thread, x->r_block, x->r_barriers, x->r_syncs) || (x->r_blocks && !c.acquired))
        return false;
    bool same_phase = x->r_block == rk_emu_now.block && x->r_barriers == rk_emu_now.barriers;
    return !same_phase || x->r_lanes == 0 || (x->r_lanes == 1 && x->r_syncs != rk_emu_now.syncs);
}

/* Shared memory begins anew in every block. */
bool of_another_block(const access &a, uint32_t block)
{
    return a.b->kind == RK_EMU_SHARED && block != rk_emu_now.block;
}

void check_written(const access &a, const rk_emu_cell *x, uint32_t op)
{
    bool shared = a.b->kind == RK_EMU_SHARED;
    if (!a.write && (shared ? x->w_op != op || x->w_block != rk_emu_now.block : x->w_op == 0))
        complain(a, "memory", "read of memory that nothing has written", "");
}

void check_after_write(const access &a, const rk_emu_cell *x, uint32_t op)
{
    char text[400];
    const char *what = a.write ? "write after write" : "read after write";
    if (!x->w_op || (a.atomic && x->w_atomic) || of_another_block(a, x->w_block))
        return;
    if (x->w_op != op) {
        if (a.b->kind == RK_EMU_DEVICE && !rk_emu_operation_before(x->w_op, op))
            complain(a, "stream race", what, by_operation(text, "written", x->w_op));
    } else if (a.pc && !ordered(x->w_thread, x->w_block, x->w_barriers, x->w_syncs))
        complain(a, "race", what, by_thread(text, "written", x->w_block, x->w_thread));
}

void check_after_read(const access &a, const rk_emu_cell *x, uint32_t op)
{
    char text[400];
    if (!a.write || !x->r_op || (a.atomic && x->r_atomic) || of_another_block(a, x->r_block))
        return;
    if (x->r_op != op) {
        if (a.b->kind == RK_EMU_DEVICE && !rk_emu_operation_before(x->r_op, op))
            complain(a, "stream race", "write after read", by_operation(text, "read", x->r_op));
    } else if (a.pc && !readers_ordered(x))
        complain(a, "race", "write after read", by_thread(text, "read", x->r_block, x->r_thread));
}

void note_write(const access &a, rk_emu_cell *x, uint32_t op)
{
    x->w_op = op;
    x->w_block = rk_emu_now.block;
    x->w_thread = (uint16_t)rk_emu_now.thread;
    x->w_barriers = rk_emu_now.barriers;
    x->w_syncs = rk_emu_now.syncs;
    x->w_atomic = a.atomic;
}

void note_read(const access &a, rk_emu_cell *x, uint32_t op)
{
    if (x->r_op != op || of_another_block(a, x->r_block)) {
        x->r_blocks = x->r_lanes = 0;
    } else if (x->r_block != rk_emu_now.block) {
        x->r_blocks = 1;
        x->r_lanes = 0;
    } else if (x->r_barriers != rk_emu_now.barriers) {
        x->r_lanes = 0;
    } else if (x->r_thread != rk_emu_now.thread) {
        uint8_t lanes = x->r_thread / 32 == rk_emu_now.thread / 32 ? 1 : 2;
        x->r_lanes = lanes > x->r_lanes ? lanes : x->r_lanes;
    }
    x->r_op = op;
    x->r_block = rk_emu_now.block;
    x->r_thread = (uint16_t)rk_emu_now.thread;
    x->r_barriers = rk_emu_now.barriers;
    x->r_syncs = rk_emu_now.syncs;
    x->r_atomic = a.atomic;
}

/* ---- shadows: a cell a word, or a byte once parts of words are accessed ---- */

void refine(rk_emu_block *b)
{
    rk_emu_cell *words = b->shadow, *bytes = (rk_emu_cell *)calloc(b->bytes + 1, sizeof *bytes);
    for (size_t i = 0; words && i < b->bytes; i++)
        bytes[i] = words[i / 4];
    free(words);
    b->shadow = bytes;
    b->grain = 1;
}

void count(const access &a, const rk_emu_cell *x, uint32_t op)
{
    uint32_t last = a.write ? x->w_op : x->r_op;
    if (a.b->kind == RK_EMU_DEVICE && c.kernel)
        rk_emu_count_bytes(c.kernel, a.b->grain, a.write, last != op);
}

void check_cells(access a)
{
    rk_emu_block *b = a.b;
    uint32_t op = rk_emu_operation_now();
    char *first = a.p;
    if (b->grain != 1 && (a.size % 4 || (a.p - b->p) % 4))
        refine(b);
    if (!b->shadow)
        b->shadow = (rk_emu_cell *)calloc(b->bytes / b->grain + 1, sizeof *b->shadow);
    size_t begin = (size_t)(first - b->p) / b->grain, end = (size_t)(first - b->p + a.size - 1) / b->grain;
    for (size_t i = begin; i <= end; i++) {
        rk_emu_cell *x = &b->shadow[i];
        a.p = b->p + i * b->grain;
        check_written(a, x, op);
        check_after_write(a, x, op);
        check_after_read(a, x, op);
        count(a, x, op);
        if (a.write)
            note_write(a, x, op);
        else
            note_read(a, x, op);
    }
}

/* ---- accesses ---- */

void check_host(access a)
{
    a.b = rk_emu_find_block(a.p, 0);
    if (!a.b || a.b->kind != RK_EMU_PINNED)
        return;
    const char *op = rk_emu_host_pending(a.p, a.size, a.write);
    if (!op)
        return;
    char more[300];
    snprintf(more, sizeof more, ": the operation %s on it has not been waited for", op);
    complain(a, "host race", a.write ? "host write" : "host read", more);
}

bool inside(const void *p, const void *begin, const void *end)
{
    return p >= begin && p < end;
}

extern "C" char __ehdr_start __attribute__((visibility("hidden")));
extern "C" char _end __attribute__((visibility("hidden")));

void check_access(access a)
{
    if (rk_emu_now.thread < 0) {
        check_host(a);
        return;
    }
    if (inside(a.p, rk_emu_now.stack, rk_emu_now.stack_end) || inside(a.p, &rk_emu_here, &rk_emu_here + 1) ||
        inside(a.p, c.kernel->args, (char *)c.kernel->args + c.kernel->args_bytes))
        return;
    rk_emu_block *b = rk_emu_find_shared(a.p);
    if (!b && c.last && inside(a.p, c.last->p, c.last->p + c.last->bytes))
        b = c.last;
    if (!b)
        b = rk_emu_find_block(a.p, 256);
    if (!b) {
        if (!a.write && inside(a.p, &__ehdr_start, &_end)) /* constants of the library */
            return;
        complain(a, "memory", a.write ? "write outside all blocks" : "read outside all blocks", "");
    }
    a.b = b;
    if (a.p < b->p || a.p + a.size > b->p + b->bytes)
        complain(a, "memory", a.write ? "write out of bounds" : "read out of bounds", "");
    if (b->kind != RK_EMU_SHARED)
        c.last = b;
    check_cells(a);
}

} // namespace

void rk_emu_check_kernel(const rk_emu_kernel *k, unsigned blocks)
{
    c.kernel = k;
    c.last = nullptr;
    c.released.assign(blocks, 0);
}

void rk_emu_check_block(void)
{
    c.fenced = c.acquired = false;
}

void rk_emu_check_atomic(void *p, size_t size, void *pc)
{
    if (c.fenced) {
        c.released[rk_emu_now.block] = 1;
        c.acquired = true;
    }
    check_access(access{ nullptr, (char *)p, size, true, true, pc, nullptr });
}

void rk_emu_check_fence(void)
{
    c.fenced = true;
}

void rk_emu_check_range(rk_emu_block *b, const void *p, size_t bytes, bool write, const char *what)
{
    rk_emu_turn before = rk_emu_now;
    rk_emu_now.block = NO_BLOCK;
    rk_emu_now.thread = 0;
    rk_emu_now.barriers = rk_emu_now.syncs = 0;
    check_cells(access{ b, (char *)p, bytes, write, false, nullptr, what });
    rk_emu_now = before;
}

/* ---- what the compiler calls ---- */

#define HERE __builtin_return_address(0)

static void touch(void *p, size_t size, bool write, void *pc)
{
    check_access(access{ nullptr, (char *)p, size, write, false, pc, nullptr });
}

static void touch_all(const void *p, size_t size, bool write, void *pc)
{
    for (size_t i = 0, n; i < size; i += n) {
        n = size - i >= 4 ? 4 : 1;
        touch((char *)p + i, n, write, pc);
    }
}

#define SIZE(n)                                                                              \
    void __tsan_read##n(void *p) { touch(p, n, false, HERE); }                               \
    void __tsan_write##n(void *p) { touch(p, n, true, HERE); }                               \
    void __tsan_unaligned_read##n(void *p) { touch(p, n, false, HERE); }                     \
    void __tsan_unaligned_write##n(void *p) { touch(p, n, true, HERE); }

/* clang-format off */
extern "C" {
void __tsan_init(void) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
SIZE(1) SIZE(2) SIZE(4) SIZE(8) SIZE(16)
void __tsan_read_range(void *p, size_t n) { touch_all(p, n, false, HERE); }
void __tsan_write_range(void *p, size_t n) { touch_all(p, n, true, HERE); }

/* Struct copies and zeroed arrays: the build sends the calls of instrumented objects here. */
static void *copy(void *to, const void *from, size_t n, void *pc)
{
    touch_all(from, n, false, pc);
    touch_all(to, n, true, pc);
    return memmove(to, from, n);
}

static void *set(void *p, int value, size_t n, void *pc)
{
    touch_all(p, n, true, pc);
    return memset(p, value, n);
}

void *rk_emu_memcpy(void *to, const void *from, size_t n) { return copy(to, from, n, HERE); }
void *rk_emu_memmove(void *to, const void *from, size_t n) { return copy(to, from, n, HERE); }
void *rk_emu_memset(void *p, int value, size_t n) { return set(p, value, n, HERE); }
void *__tsan_memcpy(void *to, const void *from, size_t n) { return copy(to, from, n, HERE); }
void *__tsan_memmove(void *to, const void *from, size_t n) { return copy(to, from, n, HERE); }
void *__tsan_memset(void *p, int value, size_t n) { return set(p, value, n, HERE); }
}
/* clang-format on */

#endif
