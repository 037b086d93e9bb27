/* cuBLASLt where it lies on this machine: the version that the headers are of, or an older one from 12 on. */
#include "cuda/blas_table.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>

static void *open_library(char *msg, size_t msg_size)
{
    char name[64];
    const int built = CUDART_VERSION / 1000, oldest = built < 12 ? built : 12;
    for (int version = built; version >= oldest; version--) {
        snprintf(name, sizeof name, "libcublasLt.so.%d", version);
        void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
    }
    snprintf(msg, msg_size, "libcublasLt.so.%d was not found", built);
    return NULL;
}

const rk__blas_table *rk__blas_load(char *msg, size_t msg_size)
{
    static rk__blas_table table;
    void *library = open_library(msg, msg_size);
    if (!library)
        return NULL;
#define LOOK_UP(f)                                                                            \
    *(void **)(void *)&table.f = dlsym(library, "cublasLt" #f);                               \
    if (!table.f) {                                                                           \
        snprintf(msg, msg_size, "libcublasLt has no function cublasLt" #f "; it is too old"); \
        return NULL;                                                                          \
    }
    RK__BLAS_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    return &table;
}
