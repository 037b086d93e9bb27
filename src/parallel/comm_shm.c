/* Memory that the ranks of a node share. Each rank's memory is a memfd of its own, which the others open
 * through /proc: nothing to clean up after a kill, no size limit but the memory's own (as /dev/shm has in
 * containers). */
#include "parallel/comm_node.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 64, PAGE = 4096, PIECES = 4 * RK__CALLS };
#define STAGE_BYTES   ((size_t)8 << 20) /* copies under way; only what is used becomes memory */
#define SPIN_SECONDS  100e-6            /* about what sleeping and being woken costs several times over */
#define SPINS_A_CLOCK 64

/* ---- what is in the shared block: written by its rank, but for the bell ---- */

typedef struct entry {
    _Atomic uint64_t ready, moved;
    rk__call call;
    rk__offer offer[];
} entry;

typedef struct slot {
    _Alignas(LINE) _Atomic uint64_t called; /* calls published */
    _Atomic uint64_t freed;                 /* calls of which this rank reads nothing any more */
    _Atomic uint32_t failed, closed;
    rk__failure failure;
    _Alignas(LINE) _Atomic uint32_t asleep;
    _Alignas(LINE) _Atomic uint32_t bell; /* rung by the others while this rank sleeps */
} slot;

/* Memory of all ranks that one alloc() made. */
typedef struct region {
    char **base; /* (size); NULL: free */
    size_t *bytes;
    int fd;      /* of this rank's, until the others have opened it; -1: closed */
    bool sparse; /* parts of it come and go: in small pages */
} region;

typedef struct staged {
    uint64_t seq;
    size_t begin, end;
} staged;

struct rk__node {
    rk_ctx *ctx;
    int rank, size, offers;
    size_t entry_bytes;
    char *block; /* slots, then everyone's ring of entries */
    size_t block_bytes;
    region *regions; /* number 0: staging */
    int region_count;
    struct rk__node *parent;
    int *in_parent; /* (size) */
    staged stage[PIECES];
    uint64_t stage_first, stage_end; /* pieces [first, end) of stage, modulo PIECES */
    bool crowded;                    /* more threads than cores */
};

/* What a rank tells about a memfd. */
typedef struct handle {
    int32_t pid, fd;
    uint64_t bytes, nonce;
} handle;

static slot *slot_of(const rk__node *n, int r)
{
    return (slot *)(void *)n->block + r;
}

static entry *entry_of(const rk__node *n, int r, uint64_t seq)
{
    size_t at = (size_t)n->size * sizeof(slot);
    at += ((size_t)r * RK__CALLS + seq % RK__CALLS) * n->entry_bytes;
    return (entry *)(void *)(n->block + at);
}

/* ---- sleep ---- */

static long futex(_Atomic uint32_t *word, int what, uint32_t value, const struct timespec *t)
{
    return syscall(SYS_futex, word, what, value, t, NULL, 0);
}

/* Something that others may wait for has been written. */
static void ring(rk__node *n)
{
    atomic_thread_fence(memory_order_seq_cst); /* what was written is seen, or the sleeper is */
    for (int r = 0; r < n->size; r++) {
        slot *s = slot_of(n, r);
        if (r == n->rank || !atomic_load_explicit(&s->asleep, memory_order_relaxed))
            continue;
        atomic_fetch_add(&s->bell, 1);
        futex(&s->bell, FUTEX_WAKE, 1, NULL);
    }
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool spin(const rk__node *n, rk__idle *i)
{
    if (n->crowded)
        return false;
    pause_cpu();
    if (++i->spins % SPINS_A_CLOCK)
        return true;
    if (i->since <= 0)
        i->since = rk__seconds();
    return rk__seconds() - i->since < SPIN_SECONDS;
}

void rk__node_idle(rk__node *n, rk__idle *i, double nap)
{
    slot *me = slot_of(n, n->rank);
    if (!i->armed && spin(n, i))
        return;
    if (i->armed) {
        struct timespec t = { (time_t)nap, (long)(1e9 * (nap - (double)(time_t)nap)) };
        futex(&me->bell, FUTEX_WAIT, i->bell, &t);
    }
    /* The caller looks once more before it sleeps: whoever writes after that look sees that we sleep. */
    i->bell = atomic_load(&me->bell);
    atomic_store(&me->asleep, 1);
    atomic_thread_fence(memory_order_seq_cst);
    i->armed = true;
}

void rk__node_awake(rk__node *n, rk__idle *i)
{
    if (i->armed)
        atomic_store_explicit(&slot_of(n, n->rank)->asleep, 0, memory_order_relaxed);
    *i = (rk__idle){ 0 };
}

/* ---- memory ---- */

static int make_memory(size_t bytes, char **p)
{
    int fd = memfd_create("rankine", MFD_CLOEXEC);
    if (fd < 0)
        return -1;
    *p = MAP_FAILED;
    if (bytes <= PTRDIFF_MAX && ftruncate(fd, (off_t)bytes) == 0)
        *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*p == MAP_FAILED) {
        close(fd);
        return -1;
    }
    madvise(*p, bytes, MADV_HUGEPAGE); /* where the system allows it for shared memory */
    return fd;
}

static char *map_theirs(const handle *h)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)h->pid, (int)h->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    off_t size = lseek(fd, 0, SEEK_END);
    char *p = MAP_FAILED;
    if (size >= 0 && (uint64_t)size >= h->bytes)
        p = mmap(NULL, h->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return p == MAP_FAILED ? NULL : p;
}

/* Nothing is a page, too: it has an address. */
static size_t whole_pages(size_t bytes)
{
    return bytes ? (bytes / PAGE + (bytes % PAGE != 0)) * PAGE : PAGE;
}

static void unmap_region(rk__node *n, region *g)
{
    if (!g->base)
        return;
    for (int r = 0; r < n->size; r++)
        if (g->base[r])
            munmap(g->base[r], whole_pages(g->bytes[r]));
    if (g->fd >= 0)
        close(g->fd);
    free(g->base);
    free(g->bytes);
    *g = (region){ .fd = -1 };
}

/* A free region's number, the same on all ranks because all take and give alike. -1: out of memory. */
static int take_region(rk__node *n)
{
    int id = 0;
    while (id < n->region_count && n->regions[id].base)
        id++;
    if (id == n->region_count) {
        region *more = realloc(n->regions, (size_t)(id + 1) * sizeof *more);
        if (!more)
            return -1;
        n->regions = more;
        n->region_count++;
    }
    region *g = &n->regions[id];
    *g = (region){ .fd = -1 };
    g->base = calloc((size_t)n->size, sizeof *g->base);
    g->bytes = calloc((size_t)n->size, sizeof *g->bytes);
    if (g->base && g->bytes)
        return id;
    free(g->base);
    free(g->bytes);
    *g = (region){ .fd = -1 };
    return -1;
}

bool rk__node_lend(rk__node *n, const void *data, size_t bytes, rk__offer *out)
{
    uintptr_t at = (uintptr_t)data;
    uint32_t up = 0;
    for (; n; n = n->parent, up++)
        for (int id = 0; id < n->region_count; id++) {
            const region *g = &n->regions[id];
            uintptr_t base = g->base ? (uintptr_t)g->base[n->rank] : 0;
            if (!base || at < base || at - base > g->bytes[n->rank] ||
                bytes > g->bytes[n->rank] - (at - base))
                continue;
            *out = (rk__offer){ RK__LENT, up, (uint32_t)id, 0, at - base, bytes };
            return true;
        }
    return false;
}

void *rk__node_find(rk__node *n, int peer, const rk__offer *offer)
{
    for (uint32_t up = offer->up; up && n; up--) {
        peer = n->in_parent ? n->in_parent[peer] : -1;
        n = n->parent;
    }
    if (!n || peer < 0 || offer->region >= (uint32_t)n->region_count)
        return NULL;
    const region *g = &n->regions[offer->region];
    if (!g->base || offer->offset > g->bytes[peer] || offer->bytes > g->bytes[peer] - offer->offset)
        return NULL;
    return g->base[peer] + offer->offset;
}

/* ---- staging: a ring of pieces, freed in the order of their calls ---- */

static void stage_reclaim(rk__node *n)
{
    uint64_t freed = UINT64_MAX;
    for (int r = 0; r < n->size; r++) {
        uint64_t f = atomic_load_explicit(&slot_of(n, r)->freed, memory_order_acquire);
        freed = r != n->rank && f < freed ? f : freed;
    }
    while (n->stage_first < n->stage_end && n->stage[n->stage_first % PIECES].seq <= freed)
        n->stage_first++;
}

void *rk__node_stage(rk__node *n, uint64_t seq, size_t bytes)
{
    size_t size = n->regions[0].bytes[n->rank], begin = 0;
    bytes = (bytes + LINE - 1) / LINE * LINE;
    stage_reclaim(n);
    if (bytes > size || n->stage_end - n->stage_first == PIECES)
        return NULL;
    if (n->stage_first < n->stage_end) {
        size_t tail = n->stage[n->stage_first % PIECES].begin;
        begin = n->stage[(n->stage_end - 1) % PIECES].end;
        if (begin > tail || (begin == tail && begin == 0)) { /* used: [tail, begin) */
            if (bytes > size - begin) {
                if (bytes >= tail)
                    return NULL;
                begin = 0;
            }
        } else if (bytes >= tail - begin) { /* free: [begin, tail) */
            return NULL;
        }
    }
    n->stage[n->stage_end++ % PIECES] = (staged){ seq, begin, begin + bytes };
    return n->regions[0].base[n->rank] + begin;
}

/* ---- calls ---- */

bool rk__node_room(rk__node *n, uint64_t seq)
{
    for (int r = 0; r < n->size; r++)
        if (atomic_load_explicit(&slot_of(n, r)->freed, memory_order_acquire) + RK__CALLS < seq)
            return false;
    return true;
}

rk__offer *rk__node_offers(rk__node *n, uint64_t seq)
{
    return entry_of(n, n->rank, seq)->offer;
}

void rk__node_call(rk__node *n, const rk__call *call)
{
    entry_of(n, n->rank, call->seq)->call = *call;
    atomic_store_explicit(&slot_of(n, n->rank)->called, call->seq, memory_order_release);
    ring(n);
}

const rk__call *rk__node_called(rk__node *n, int peer, uint64_t seq)
{
    if (atomic_load_explicit(&slot_of(n, peer)->called, memory_order_acquire) < seq)
        return NULL;
    return &entry_of(n, peer, seq)->call;
}

const rk__offer *rk__node_offered(rk__node *n, int peer, uint64_t seq)
{
    return entry_of(n, peer, seq)->offer;
}

void rk__node_set_ready(rk__node *n, uint64_t seq)
{
    atomic_store_explicit(&entry_of(n, n->rank, seq)->ready, seq, memory_order_release);
    ring(n);
}

void rk__node_set_moved(rk__node *n, uint64_t seq)
{
    atomic_store_explicit(&entry_of(n, n->rank, seq)->moved, seq, memory_order_release);
    ring(n);
}

bool rk__node_ready(rk__node *n, int peer, uint64_t seq)
{
    return atomic_load_explicit(&entry_of(n, peer, seq)->ready, memory_order_acquire) >= seq;
}

bool rk__node_moved(rk__node *n, int peer, uint64_t seq)
{
    return atomic_load_explicit(&entry_of(n, peer, seq)->moved, memory_order_acquire) >= seq;
}

void rk__node_set_freed(rk__node *n, uint64_t seq)
{
    atomic_store_explicit(&slot_of(n, n->rank)->freed, seq, memory_order_release);
}

/* ---- failures ---- */

void rk__node_say_failed(rk__node *n, const rk__failure *f)
{
    slot *me = slot_of(n, n->rank);
    me->failure = *f;
    atomic_store_explicit(&me->failed, 1, memory_order_release);
    ring(n);
}

void rk__node_say_closed(rk__node *n)
{
    atomic_store_explicit(&slot_of(n, n->rank)->closed, 1, memory_order_release);
    ring(n);
}

bool rk__node_failed(rk__node *n, int peer, rk__failure *out)
{
    slot *s = slot_of(n, peer);
    if (!atomic_load_explicit(&s->failed, memory_order_acquire))
        return false;
    *out = s->failure;
    return true;
}

bool rk__node_closed(rk__node *n, int peer)
{
    return atomic_load_explicit(&slot_of(n, peer)->closed, memory_order_acquire) != 0;
}

/* ---- alloc ---- */

static region *region_at(rk__node *n, const void *mine)
{
    for (int id = 1; mine && id < n->region_count; id++)
        if (n->regions[id].base && n->regions[id].base[n->rank] == mine)
            return &n->regions[id];
    return NULL;
}

rk_status rk__node_alloc(rk__node *n, size_t bytes, rk__offer *out, void **p)
{
    int id = take_region(n);
    size_t size = whole_pages(bytes);
    region *g = id < 0 ? NULL : &n->regions[id];
    if (!g || size < bytes || (g->fd = make_memory(size, &g->base[n->rank])) < 0) {
        if (g)
            unmap_region(n, g);
        return rk_fail(n->ctx, RK_ENOMEM, "out of memory: %zu bytes to share between ranks", bytes);
    }
    g->bytes[n->rank] = bytes;
    *out = (rk__offer){ RK__LENT, (uint32_t)getpid(), (uint32_t)g->fd, 0, 0, bytes };
    *p = g->base[n->rank];
    return RK_OK;
}

rk_status rk__node_map(rk__node *n, const void *mine, int peer, const rk__offer *o)
{
    region *g = region_at(n, mine);
    handle h = { (int32_t)o->up, (int32_t)o->region, whole_pages(o->bytes), 0 };
    if (!(g->base[peer] = map_theirs(&h)))
        return rk_fail(n->ctx, RK_ENOMEM, "cannot map %llu bytes of another rank's memory: %s",
                       (unsigned long long)h.bytes, strerror(errno));
    g->bytes[peer] = o->bytes;
    return RK_OK;
}

void rk__node_mapped(rk__node *n, const void *mine)
{
    region *g = region_at(n, mine);
    close(g->fd);
    g->fd = -1;
}

void rk__node_release(rk__node *n, void *p)
{
    region *g = region_at(n, p);
    if (g)
        unmap_region(n, g);
}

void rk__node_discard(rk__node *n, void *p, size_t bytes)
{
    const uintptr_t at = (uintptr_t)p, first = (at + PAGE - 1) / PAGE * PAGE,
                    end = (at + bytes) / PAGE * PAGE;
    for (int id = 1; id < n->region_count; id++) {
        region *g = &n->regions[id];
        const uintptr_t base = g->base ? (uintptr_t)g->base[n->rank] : 0;
        if (!base || g->sparse || at < base || at - base >= g->bytes[n->rank])
            continue;
        madvise(g->base[n->rank], whole_pages(g->bytes[n->rank]), MADV_NOHUGEPAGE);
        g->sparse = true;
    }
    /* a hole in the file, for all that map it; where it cannot be made, the memory is kept */
    if (first < end)
        madvise((void *)first, end - first, MADV_REMOVE);
}

/* ---- open and close ---- */

/* One's own memory and, by gather, everyone else's; false if some rank cannot see another's. */
static bool share(rk__node *n, rk__gather_fn *gather, void *arg, size_t bytes, char **base)
{
    handle mine = { .pid = (int32_t)getpid(), .fd = -1, .bytes = bytes }, *all;
    int32_t good = 1, *goods;
    all = calloc((size_t)n->size, sizeof *all);
    goods = calloc((size_t)n->size, sizeof *goods);
    if (!all || !goods || (mine.fd = make_memory(bytes, &base[n->rank])) < 0) {
        base[n->rank] = NULL;
        good = 0;
    } else {
        mine.nonce = (uint64_t)(uintptr_t)base ^ (uint64_t)(rk__seconds() * 1e9) ^ (uint64_t)mine.pid << 40;
        memcpy(base[n->rank], &mine.nonce, sizeof mine.nonce);
    }
    if (gather(arg, &mine, sizeof mine, all))
        good = 0;
    for (int r = 0; good && r < n->size; r++) {
        if (r != n->rank)
            base[r] = map_theirs(&all[r]);
        /* a process of the same number elsewhere is not ours */
        good = base[r] && !memcmp(base[r], &all[r].nonce, sizeof all[r].nonce);
    }
    if (gather(arg, &good, sizeof good, goods))
        good = 0;
    for (int r = 0; r < n->size; r++)
        good = good && goods[r];
    if (mine.fd >= 0)
        close(mine.fd);
    free(all);
    free(goods);
    return good;
}

bool rk__node_crowded(rk_ctx *ctx, int size, rk__gather_fn *gather, void *arg)
{
    typedef struct need {
        cpu_set_t cores;
        int32_t threads;
    } need;
    need mine, *all = calloc((size_t)size, sizeof *all);
    cpu_set_t together;
    int threads = 0;
    memset(&mine, 0, sizeof mine);
    CPU_ZERO(&together);
    mine.threads = ctx->dev ? ctx->device->threads(ctx->dev) : 1;
    if (sched_getaffinity(0, sizeof mine.cores, &mine.cores))
        CPU_ZERO(&mine.cores);
    bool known = all && !gather(arg, &mine, sizeof mine, all);
    for (int r = 0; known && r < size; r++) {
        CPU_OR(&together, &together, &all[r].cores);
        threads += all[r].threads;
    }
    free(all);
    return !known || threads > CPU_COUNT(&together);
}

static rk_status share_memory(rk__node *n, rk__gather_fn *gather, void *arg, bool *seen)
{
    char **blocks = rk__calloc(n->ctx, (size_t)n->size, sizeof *blocks);
    int id = take_region(n);
    if (!blocks || id < 0)
        return rk_fail(n->ctx, RK_ENOMEM, "out of memory");
    *seen = share(n, gather, arg, n->block_bytes, blocks) &&
            share(n, gather, arg, STAGE_BYTES, n->regions[id].base);
    for (int r = 0; r < n->size; r++) { /* the block is that of the first */
        n->regions[id].bytes[r] = STAGE_BYTES;
        if (r == 0 && *seen)
            n->block = blocks[r];
        else if (blocks[r])
            munmap(blocks[r], n->block_bytes);
    }
    free(blocks);
    return RK_OK;
}

/* Nobody uses the block before everyone is here. */
static rk_status settle(rk__node *n, rk__gather_fn *gather, void *arg)
{
    char *all = rk__calloc(n->ctx, (size_t)n->size, 1);
    rk_status st = all ? gather(arg, "", 1, all) : RK_ENOMEM;
    free(all);
    return st;
}

rk_status rk__node_open(rk_ctx *ctx, int rank, int size, int offers, bool crowded, rk__node *parent,
                        const int *in_parent, rk__gather_fn *gather, void *arg, rk__node **out)
{
    bool seen = false;
    rk__node *n = rk__calloc(ctx, 1, sizeof *n);
    *out = NULL;
    if (!n)
        return RK_ENOMEM;
    n->ctx = ctx;
    n->rank = rank;
    n->size = size;
    n->offers = offers;
    n->entry_bytes = (sizeof(entry) + (size_t)offers * sizeof(rk__offer) + LINE - 1) / LINE * LINE;
    n->block_bytes = whole_pages((size_t)size * (sizeof(slot) + RK__CALLS * n->entry_bytes));
    n->parent = parent;
    rk_status st = RK_OK;
    if (in_parent) {
        n->in_parent = rk__calloc(ctx, (size_t)size, sizeof *n->in_parent);
        if (n->in_parent)
            memcpy(n->in_parent, in_parent, (size_t)size * sizeof *in_parent);
    }
    RK_TRY_GOTO(done, share_memory(n, gather, arg, &seen));
    if (!seen)
        goto done;
    n->crowded = parent ? parent->crowded : crowded;
    if (rank == 0)
        memset(n->block, 0, sizeof(handle)); /* the nonce was there */
    st = settle(n, gather, arg);
done:
    if (st || !seen)
        rk__node_close(n);
    else
        *out = n;
    return st;
}

void rk__node_close(rk__node *n)
{
    if (!n)
        return;
    for (int id = 0; id < n->region_count; id++)
        unmap_region(n, &n->regions[id]);
    if (n->block)
        munmap(n->block, n->block_bytes);
    free(n->regions);
    free(n->in_parent);
    free(n);
}
