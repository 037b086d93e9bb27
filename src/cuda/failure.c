/* What a failed call of CUDA's means for whoever runs the job, and what to do about it. */
#include "cuda/cuda.h"

#include "core/units.h"

#include <stdio.h>

typedef enum {
    OTHER,  /* the name of the error has to do */
    MEMORY, /* too little */
    GONE,   /* the GPU fell off the bus, is broken, or belongs to somebody else now */
    KERNEL, /* one of ours went wrong; CUDA tells of it at a later call */
    SLOW    /* the watchdog of a display ended a kernel */
} kind;

static kind kind_of(cudaError_t e)
{
    switch (e) {
    case cudaErrorMemoryAllocation:
        return MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorSystemNotReady:
    case cudaErrorUnknown: /* what a driver says whose GPU does not answer */
        return GONE;
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorAssert:
        return KERNEL;
    case cudaErrorLaunchTimeout:
        return SLOW;
    default:
        return OTHER;
    }
}

static const char *remedy(kind k)
{
    switch (k) {
    case GONE:
        return ". The GPU is broken, gone or taken: nvidia-smi and the kernel's log (Xid) tell more. The "
               "same "
               "command goes on from the last snapshot, on another node or GPU";
    case KERNEL:
        return ". A kernel went wrong. The same command goes on from the last snapshot; if it comes again, "
               "CUDA_LAUNCH_BLOCKING=1 tells which kernel, and a report would help";
    case SLOW:
        return ". A GPU that serves a display ends kernels that take long: take another one";
    default:
        return "";
    }
}

void rk__cuda_failure(rk_dev *dev, char *msg, size_t msg_size)
{
    char held[RK__SIZE_TEXT], all[RK__SIZE_TEXT];
    size_t room, total;
    *msg = '\0';
    if (!dev->error)
        return;
    const char *what = remedy(kind_of(dev->error));
    int n = *dev->library ? snprintf(msg, msg_size, "GPU %d: %s%s", dev->ordinal, dev->library, what)
                          : snprintf(msg, msg_size, "GPU %d: %s (%s)%s", dev->ordinal,
                                     cudaGetErrorString(dev->error), cudaGetErrorName(dev->error), what);
    if (kind_of(dev->error) != MEMORY || n < 0 || (size_t)n >= msg_size)
        return;
    rk__cuda_memory(dev, &room, &total);
    snprintf(msg + n, msg_size - (size_t)n, ", this process holds %s of its %s%s",
             rk__size_text(dev->held, held), rk__size_text(total, all),
             room < total - total / 8 ? ", and others hold more" : "");
}

/* The GPU may be shared: what others hold is not to be had. */
void rk__cuda_memory(rk_dev *dev, size_t *room, size_t *total)
{
    size_t unused = 0;
    *total = dev->memory_bytes;
    if (rk__cuda_quiet(cudaMemGetInfo(&unused, total)))
        unused = dev->memory_bytes > dev->held ? dev->memory_bytes - dev->held : 0;
    *room = unused + dev->held;
}
