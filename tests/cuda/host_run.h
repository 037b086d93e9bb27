/* The CUDA device, run on the host, for tests; RANKINE_CUDA names another library, such as that for GPUs. */
#ifndef TESTS_CUDA_HOST_RUN_H
#define TESTS_CUDA_HOST_RUN_H

#include "core/cuda_module.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HOST_RUN RK_BUILD_DIR "/librankine_cuda_host.so"

/* Names the library to whatever is loaded from now on; ends the test as skipped where it was not built. */
__attribute__((constructor(101))) static void use_host_run(void)
{
    if (!getenv("RANKINE_CUDA") && access(HOST_RUN, R_OK)) {
        puts("skipped: the CUDA device that runs on the host was not built (no CUDA headers)");
        exit(77);
    }
    setenv("RANKINE_CUDA", HOST_RUN, 0);
}

#endif
