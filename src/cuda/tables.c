/* Tables of the host's that kernels read: kept in device memory, so that a step that repeats uploads none. */
#include "cuda/stage.h"

#include <stdlib.h>
#include <string.h>

static void drop(rk_dev *dev, rk__cuda_kept *t)
{
    rk__cuda_release(dev, t->device, t->bytes);
    free(t->host);
    *t = (rk__cuda_kept){ 0 };
}

static rk_status put(rk_dev *dev, rk__cuda_kept *t, const void *rows, size_t bytes)
{
    t->host = malloc(bytes);
    if (!t->host)
        return rk__cuda_status(dev, cudaErrorMemoryAllocation);
    t->device = rk__cuda_alloc(dev, bytes);
    if (!t->device)
        return rk__cuda_denied(dev);
    memcpy(t->host, rows, bytes);
    return rk__stage_in(dev, t->device, rows, bytes);
}

const void *rk__cuda_table(rk_dev *dev, const void *rows, size_t bytes)
{
    rk__cuda_kept *oldest = dev->tables;
    for (int i = 0; i < RK__CUDA_TABLES; i++) {
        rk__cuda_kept *t = &dev->tables[i];
        if (t->bytes == bytes && !memcmp(t->host, rows, bytes)) {
            t->used = ++dev->tables_used;
            return t->device;
        }
        if (t->used < oldest->used)
            oldest = t;
    }
    drop(dev, oldest);
    if (put(dev, oldest, rows, bytes)) {
        drop(dev, oldest);
        return NULL;
    }
    oldest->bytes = bytes;
    oldest->used = ++dev->tables_used;
    return oldest->device;
}

void rk__cuda_tables_free(rk_dev *dev)
{
    for (int i = 0; i < RK__CUDA_TABLES; i++)
        drop(dev, &dev->tables[i]);
}
