/* The CUDA device's kernel tables and the entries of its device table that are kernels. */
#ifndef RK_CUDA_TABLE_H
#define RK_CUDA_TABLE_H

#include "core/kernels.h"

extern const rk_kernels rk__cuda_f32, rk__cuda_f64;
extern const rk_device rk__cuda_device;

#endif
