/* What a failed call of CUDA's means for whoever runs the job, and what to do about it. */
#include "cuda/cuda.h"

#include "core/units.h"

#include <stdio.h>

typedef enum {
    OTHER,  /* the name of the error has to do */
    MEMORY, /* too little */
    GONE,   /* the GPU fell off the bus, is broken, or belongs to somebody else now */
    KERNEL, /* one of ours went wrong; CUDA tells of it at a later call */
    WITHIN, /* cuBLASLt tells no more than that something failed within it */
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

/* cudaErrorUnknown is also what stands for a library's status that is none of CUDA's errors. */
static kind kind_of_failure(const rk_dev *dev)
{
    return *dev->library && dev->error == cudaErrorUnknown ? WITHIN : kind_of(dev->error);
}

static const char *remedy(kind k)
{
    switch (k) {
    case GONE:
        return ". The GPU is broken, gone or taken: nvidia-smi and the kernel's log (Xid) tell more; take "
               "another GPU or node";
    case KERNEL:
        return ". A kernel went wrong; if it comes again, CUDA_LAUNCH_BLOCKING=1 tells which, and a report "
               "would help";
    case WITHIN:
        return ". Something failed within cuBLASLt: often a driver that does not suit this version of it, or "
               "a "
               "GPU in trouble, of which nvidia-smi tells more; parallel.exact: true does without cuBLASLt";
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
    const kind k = kind_of_failure(dev);
    const char *what = remedy(k);
    int n = *dev->library ? snprintf(msg, msg_size, "GPU %d: %s%s", dev->ordinal, dev->library, what)
                          : snprintf(msg, msg_size, "GPU %d: %s (%s)%s", dev->ordinal,
                                     cudaGetErrorString(dev->error), cudaGetErrorName(dev->error), what);
    if (k == MEMORY && n >= 0 && (size_t)n < msg_size) {
        rk__cuda_memory(dev, &room, &total);
        n += snprintf(msg + n, msg_size - (size_t)n, ", this process holds %s of its %s%s",
                      rk__size_text(dev->held, held), rk__size_text(total, all),
                      room < total - total / 8 ? ", and others hold more" : "");
    }
    if (dev->of_graph && (k == MEMORY || k == OTHER) && n >= 0 && (size_t)n < msg_size)
        snprintf(msg + n, msg_size - (size_t)n,
                 ". It came of a step's graph, which device.graph: on demands; device.graph: auto launches "
                 "kernel by kernel where none can be had");
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
