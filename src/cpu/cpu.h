/* The CPU device's own state. */
#ifndef RK_CPU_CPU_H
#define RK_CPU_CPU_H

#include "cpu/threads.h"

#include <pthread.h>
#include <stdatomic.h>

typedef struct rk__block {
    void *p;
    size_t bytes;
} rk__block;

typedef struct rk__worker {
    struct rk__pool *pool;
    int index;
    pthread_t thread;
    rk__block ws[RK__WS_SLOTS];
} rk__worker;

typedef struct rk__pool {
    int threads, started; /* workers beside the caller */
    int spin;
    rk__worker *workers; /* `threads` entries; 0 is the caller */
    pthread_mutex_t lock;
    pthread_cond_t wake, done;
    atomic_uint generation;
    atomic_int busy;
    _Atomic int64_t next;
    rk__task *fn;
    void *arg;
    int64_t tasks;
    _Atomic bool caller_sleeps;
    bool quit;
    void (*tick)(void *arg); /* rk_device.on_work */
    void *tick_arg;
    double ticked; /* when it was called last */
} rk__pool;

struct rk_dev {
    rk__pool pool;
    const char *isa;
    const rk_kernels *f32, *f64;
    double peak_flops; /* 0: not measured yet */
    char description[64];
};

int rk__cores(void); /* cores this process may use */
rk_status rk__pool_start(rk__pool *p, int threads);
void rk__pool_stop(rk__pool *p); /* frees workspaces too; safe after a failed start */

#endif
