#include "cpu/threads.h"

#include "cpu/cpu.h"

#include "core/clock.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Rounds of waiting before a worker sleeps: about 20 us, more than the gap between two kernels of a step. */
enum { SPIN_ROUNDS = 4000 };
enum { HUGE_PAGE = 2 << 20 };
/* Below this much work a second thread costs more than it brings. */
static const double MIN_TASK_NS = 4000;

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Between two tasks of the calling thread. */
static void tick(rk__pool *p)
{
    double now = rk__seconds();
    if (now - p->ticked < RK_TICK_US * 1e-6)
        return;
    p->ticked = now;
    p->tick(p->tick_arg);
}

/* Takes tasks until none is left. */
static void work(rk__pool *p, int worker)
{
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (i >= p->tasks)
            return;
        p->fn(p->arg, i, worker);
        if (worker == 0 && p->tick)
            tick(p);
    }
}

/* Waits for a generation other than `seen`; returns it. */
static unsigned wait_for_work(rk__pool *p, unsigned seen)
{
    for (int i = 0; i < p->spin; i++) {
        unsigned g = atomic_load_explicit(&p->generation, memory_order_acquire);
        if (g != seen)
            return g;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    unsigned g;
    while ((g = atomic_load_explicit(&p->generation, memory_order_acquire)) == seen)
        pthread_cond_wait(&p->wake, &p->lock);
    pthread_mutex_unlock(&p->lock);
    return g;
}

static void *worker_main(void *arg)
{
    rk__worker *w = arg;
    rk__pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        seen = wait_for_work(p, seen);
        if (p->quit)
            return NULL;
        work(p, w->index);
        if (atomic_fetch_sub_explicit(&p->busy, 1, memory_order_acq_rel) == 1 && p->caller_sleeps) {
            pthread_mutex_lock(&p->lock);
            pthread_cond_signal(&p->done);
            pthread_mutex_unlock(&p->lock);
        }
    }
}

static void start_generation(rk__pool *p)
{
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add_explicit(&p->generation, 1, memory_order_release);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void wait_for_workers(rk__pool *p)
{
    for (int i = 0; i < p->spin; i++) {
        if (atomic_load_explicit(&p->busy, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&p->lock);
    p->caller_sleeps = true;
    while (atomic_load_explicit(&p->busy, memory_order_acquire) != 0)
        pthread_cond_wait(&p->done, &p->lock);
    p->caller_sleeps = false;
    pthread_mutex_unlock(&p->lock);
}

void rk__parallel(rk_dev *dev, int64_t tasks, rk__task *fn, void *arg)
{
    rk__pool *p = &dev->pool;
    if (tasks <= 1 || p->started == 0) {
        for (int64_t i = 0; i < tasks; i++) {
            fn(arg, i, 0);
            if (p->tick)
                tick(p);
        }
        return;
    }
    p->fn = fn;
    p->arg = arg;
    p->tasks = tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    atomic_store_explicit(&p->busy, p->started, memory_order_relaxed);
    start_generation(p);
    work(p, 0);
    wait_for_workers(p);
}

int rk__threads(const rk_dev *dev)
{
    return dev->pool.threads;
}

int64_t rk__grain(const rk_dev *dev, int64_t n, double cost, int64_t *tasks)
{
    int64_t most = (int64_t)((double)n * cost / MIN_TASK_NS);
    int64_t count = dev->pool.threads < most ? dev->pool.threads : most;
    if (count < 1)
        count = 1;
    int64_t each = (n + count - 1) / count;
    each = (each + 63) / 64 * 64;
    *tasks = each > 0 ? (n + each - 1) / each : 0;
    return each;
}

void *rk__workspace(rk_dev *dev, int worker, int slot, size_t bytes)
{
    rk__block *b = &dev->pool.workers[worker].ws[slot];
    if (bytes == 0) /* NULL says out of memory, and nothing else */
        bytes = 1;
    if (b->bytes >= bytes)
        return b->p;
    free(b->p);
    b->bytes = 0;
    size_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    size_t rounded = (bytes + bytes / 8 + align - 1) / align * align;
    b->p = aligned_alloc(align, rounded);
    if (!b->p)
        return NULL;
    if (align == HUGE_PAGE)
        madvise(b->p, rounded, MADV_HUGEPAGE);
    b->bytes = rounded;
    return b->p;
}

int rk__cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

rk_status rk__pool_start(rk__pool *p, int threads)
{
    p->threads = threads;
    /* With fewer cores than threads a spinning worker would only keep the others from their work. */
    p->spin = threads <= rk__cores() ? SPIN_ROUNDS : 0;
    p->workers = calloc((size_t)threads, sizeof *p->workers);
    if (!p->workers)
        return RK_ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    for (int i = 1; i < threads; i++) {
        rk__worker *w = &p->workers[i];
        w->pool = p;
        w->index = i;
        if (pthread_create(&w->thread, NULL, worker_main, w))
            return RK_EDEVICE;
        p->started++;
    }
    return RK_OK;
}

void rk__pool_stop(rk__pool *p)
{
    if (!p->workers)
        return;
    p->quit = true;
    start_generation(p);
    for (int i = 1; i <= p->started; i++)
        pthread_join(p->workers[i].thread, NULL);
    for (int i = 0; i < p->threads; i++)
        for (int s = 0; s < RK__WS_SLOTS; s++)
            free(p->workers[i].ws[s].p);
    free(p->workers);
    p->workers = NULL;
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
}
