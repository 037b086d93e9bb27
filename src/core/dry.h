/* A device that computes nothing and holds nothing, but counts: a step on it tells the memory that the same
 * step would take on another device, in the time that the host code needs. Values read from it are zeros. */
#ifndef RK_CORE_DRY_H
#define RK_CORE_DRY_H

#include "core/kernels.h"

extern const rk_device rk__device_dry;

/* The most bytes that were held at one time. */
size_t rk__dry_peak(const rk_dev *dev);

#endif
