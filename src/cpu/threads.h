/* The CPU device's workers. A kernel cuts its output into tasks whose results do not depend on who runs them:
 * the number of threads never changes a bit. */
#ifndef RK_CPU_THREADS_H
#define RK_CPU_THREADS_H

#include "core/kernels.h"

/* task: 0 .. tasks-1, each exactly once; worker: 0 .. rk__threads()-1, one task at a time a worker. */
typedef void rk__task(void *arg, int64_t task, int worker);

/* Returns when all tasks are done. Runs in the calling thread alone when tasks <= 1 or there is one thread.
 * Does not nest. Workers spin briefly, then sleep. */
void rk__parallel(rk_dev *dev, int64_t tasks, rk__task *fn, void *arg);

int rk__threads(const rk_dev *dev);

/* Scratch memory that grows and is kept: one block for each (worker, slot); 64-byte aligned, huge pages where
 * they help, contents undefined. NULL when out of memory. `worker` as given to the task; worker 0 also
 * outside tasks. */
enum { RK__WS_A, RK__WS_B, RK__WS_C, RK__WS_D, RK__WS_E, RK__WS_SLOTS };
void *rk__workspace(rk_dev *dev, int worker, int slot, size_t bytes);

/* How elementwise work over n elements of about `cost` nanoseconds each is cut: tasks of equal, 64-byte
 * aligned size, one a thread at most, one in all when the work is too small to share. */
int64_t rk__grain(const rk_dev *dev, int64_t n, double cost, int64_t *tasks);

#endif
