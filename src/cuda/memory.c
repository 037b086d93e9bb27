/* Device memory, and pinned memory that entries read results into. What is released is parked first:
 * operations of the queue may still use it, and cudaFree() stops the whole device. It goes when somebody
 * waits anyway. */
#include "cuda/queue.h"
#include "cuda/stage.h"

#include <stdlib.h>

/* Parked is at most this part of what is in use: the plan's first step, which allocates and frees as it goes,
 * should not need more than the plan. */
enum { PARKED_SHARE = 16 };

/* ---- parked blocks ---- */

void rk__cuda_free_parked(rk_dev *dev)
{
    rk__cuda_parked *k = &dev->parked;
    if (k->n)
        rk__cuda_await_branches(dev);
    for (int i = 0; i < k->n; i++)
        rk__cuda_status(dev, cudaFree(k->p[i]));
    k->n = 0;
    k->bytes = 0;
}

static bool park(rk__cuda_parked *k, void *p, size_t bytes)
{
    if (k->n == k->room) {
        const int room = k->room ? 2 * k->room : 64;
        void **bigger = realloc(k->p, (size_t)room * sizeof *bigger);
        if (!bigger)
            return false;
        k->p = bigger;
        k->room = room;
    }
    k->p[k->n++] = p;
    k->bytes += bytes;
    return true;
}

void rk__cuda_release(rk_dev *dev, void *p, size_t bytes)
{
    if (!p)
        return;
    const bool parked = dev->stream && park(&dev->parked, p, bytes);
    if (parked && dev->parked.bytes <= dev->held / PARKED_SHARE)
        return;
    if (dev->stream)
        rk__cuda_settle(dev);
    if (parked)
        return;
    rk__cuda_await_branches(dev);
    rk__cuda_status(dev, cudaFree(p));
}

/* Is there something that this device could do without? Once each. */
static bool make_room(rk_dev *dev)
{
    const bool parked = dev->parked.n > 0;
    rk__cuda_settle(dev);
    rk__cuda_await_branches(dev);
    return parked || rk__stage_give_up(dev);
}

void *rk__cuda_alloc(rk_dev *dev, size_t bytes)
{
    void *p = NULL;
    cudaError_t e = cudaMalloc(&p, bytes ? bytes : 1);
    while (e == cudaErrorMemoryAllocation) {
        rk__cuda_quiet(e);
        if (!make_room(dev))
            break;
        e = cudaMalloc(&p, bytes ? bytes : 1);
    }
    return rk__cuda_status(dev, e) ? NULL : p;
}

rk_status rk__cuda_denied(const rk_dev *dev)
{
    return dev->error && dev->error != cudaErrorMemoryAllocation ? RK_EDEVICE : RK_ENOMEM;
}

/* ---- blocks of entries ---- */

void *rk__cuda_work(rk_dev *dev, int slot, size_t bytes)
{
    rk__cuda_block *b = &dev->work[slot];
    if (bytes <= b->bytes && b->p)
        return b->p;
    rk__cuda_release(dev, b->p, b->bytes);
    *b = (rk__cuda_block){ rk__cuda_alloc(dev, bytes), 0 };
    b->bytes = b->p ? bytes : 0;
    return b->p;
}

/* Nothing is on its way to the old one: whoever reads into it waits. */
void *rk__cuda_host(rk_dev *dev, size_t bytes)
{
    rk__cuda_block *b = &dev->host;
    if (bytes <= b->bytes && b->p)
        return b->p;
    cudaError_t e = b->p ? cudaFreeHost(b->p) : cudaSuccess;
    *b = (rk__cuda_block){ 0 };
    if (!e)
        e = cudaMallocHost(&b->p, bytes ? bytes : 1);
    if (rk__cuda_status(dev, e)) {
        b->p = NULL;
        return NULL;
    }
    b->bytes = bytes;
    return b->p;
}

rk_status rk__cuda_read(rk_dev *dev, void *host, const void *src, size_t bytes)
{
    if (bytes == 0)
        return RK_OK;
    rk_status st = rk__cuda_flush(dev); /* what has failed has not written src */
    if (!st)
        st = rk__cuda_status(dev,
                             cudaMemcpyAsync(host, src, bytes, cudaMemcpyDeviceToHost, rk__cuda_stream(dev)));
    return st ? st : rk__cuda_wait(dev);
}

void rk__cuda_memory_close(rk_dev *dev)
{
    for (int i = 0; i < RK__CUDA_SLOTS; i++)
        if (dev->work[i].p)
            rk__cuda_quiet(cudaFree(dev->work[i].p));
    if (dev->host.p)
        rk__cuda_quiet(cudaFreeHost(dev->host.p));
    rk__cuda_free_parked(dev);
    free(dev->parked.p);
}

/* ---- the device table's ---- */

rk_status rk__cuda_device_alloc(rk_dev *dev, size_t bytes, void **p)
{
    *p = rk__cuda_alloc(dev, bytes);
    if (!*p)
        return rk__cuda_denied(dev);
    dev->held += bytes;
    return RK_OK;
}

void rk__cuda_device_release(rk_dev *dev, void *p, size_t bytes)
{
    dev->held -= p ? bytes : 0;
    rk__cuda_release(dev, p, bytes);
}
