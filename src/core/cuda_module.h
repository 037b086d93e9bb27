/* The CUDA device as a library of its own: what it exports, and how it is found. The program starts where no
 * CUDA is; the library uses no symbol of ours, so that it may be loaded by any program. */
#ifndef RK_CORE_CUDA_MODULE_H
#define RK_CORE_CUDA_MODULE_H

#include "core/kernels.h"

enum { RK_CUDA_MODULE_VERSION = 1 };

/* The library's one symbol is `const rk_cuda_library rk_cuda_module`. */
typedef struct rk_cuda_library {
    int version; /* RK_CUDA_MODULE_VERSION of the sources it was built from */
    size_t kernels_bytes, device_bytes; /* sizes of the tables: sources of another day do not fit */
    bool host_run;                      /* kernels run on the host; nothing is a GPU */
    const char *built;                  /* "CUDA 13.0 for sm_80, sm_90, sm_100" */
    const rk_device *device;
    /* GPUs that can be used, 0 if none; the reason of a 0 goes to msg. */
    int (*gpus)(char *msg, size_t msg_size);
} rk_cuda_library;

/* Loads the library: RANKINE_CUDA names it; else librankine_cuda.so lies beside the program, beside our library,
 * or where the system looks. NULL and the reason in msg if there is none or it does not fit. It stays loaded. */
const rk_cuda_library *rk__cuda_load(char *msg, size_t msg_size);

#endif
