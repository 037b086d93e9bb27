/* A device that computes nothing and holds nothing, but counts: a step on it tells the memory that the same
 * step would take on another device, and what its kernels have to move and compute at least, in the time that
 * the host code needs. Values read from it are zeros. */
#ifndef RK_CORE_DRY_H
#define RK_CORE_DRY_H

#include "core/kernels.h"

extern const rk_device rk__device_dry;

/* What entries of the table have cost: bytes, each array read once and written once; operations, a
 * multiply-add two. */
typedef struct rk__dry_cost {
    double bytes, flops;
    int64_t calls;
} rk__dry_cost;

rk__dry_cost rk__dry_spent(const rk_dev *dev);

/* Bytes that are held, and the most that were held at one time. */
size_t rk__dry_held(const rk_dev *dev);
size_t rk__dry_peak(const rk_dev *dev);

#endif
