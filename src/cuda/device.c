/* A GPU as a device: its choice, and the device table. */
#include "cuda/blas.h"
#include "cuda/stage.h"
#include "cuda/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST = 80 }; /* compute capability that the kernels are written for, times ten */

/* ---- finding one ---- */

/* 0: there is none, as on a machine without a GPU; -1: it is older than this library. */
static int old_driver(char *msg, size_t msg_size)
{
    int version = 0;
    if (cudaDriverGetVersion(&version) || version == 0) {
        cudaGetLastError();
        snprintf(msg, msg_size, "there is no NVIDIA driver (libcuda.so.1)");
        return 0;
    }
    snprintf(msg, msg_size,
             "the NVIDIA driver is too old: it goes up to CUDA %d.%d, and this build is of %d.%d",
             version / 1000, version % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    return -1;
}

int rk__cuda_gpus(char *msg, size_t msg_size)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    *msg = '\0';
    if (!e && n > 0)
        return n;
    cudaGetLastError();
    if (e == cudaErrorInsufficientDriver)
        return old_driver(msg, msg_size);
    if (e && e != cudaErrorNoDevice) {
        snprintf(msg, msg_size, "the GPUs cannot be counted: %s (%s)", cudaGetErrorString(e),
                 cudaGetErrorName(e));
        return -1;
    }
    if (visible)
        snprintf(msg, msg_size, "no GPU is visible; CUDA_VISIBLE_DEVICES is %s",
                 *visible ? visible : "empty");
    else
        snprintf(msg, msg_size, "no GPU is visible");
    return 0;
}

/* This process's number among those of its node, as the launcher or whoever opens the device tells. */
static int local_rank(const rk_open_cfg *cfg)
{
    static const char *const names[] = { "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "PMIX_LOCAL_RANK",
                                         "SLURM_LOCALID" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *text = getenv(names[i]);
        if (text && *text >= '0' && *text <= '9')
            return (int)(strtoul(text, NULL, 10) & 0xffff);
    }
    return cfg->local_rank > 0 ? cfg->local_rank - 1 : 0;
}

static rk_status fill_in(rk_dev *dev, char *msg, size_t msg_size)
{
    struct cudaDeviceProp p;
    rk_status st = rk__cuda_status(dev, cudaGetDeviceProperties(&p, dev->ordinal));
    if (st) {
        snprintf(msg, msg_size, "GPU %d does not say what it is: %s (%s)", dev->ordinal,
                 cudaGetErrorString(dev->error), cudaGetErrorName(dev->error));
        return st;
    }
    dev->sms = p.multiProcessorCount;
    dev->cache_bytes = (size_t)p.l2CacheSize;
    dev->shared_bytes = p.sharedMemPerBlockOptin;
    dev->memory_bytes = p.totalGlobalMem;
    snprintf(dev->label, sizeof dev->label, "GPU %d (%.64s, compute capability %d.%d)", dev->ordinal, p.name,
             p.major, p.minor);
    snprintf(dev->description, sizeof dev->description,
             "cuda %.64s, GPU %d, compute capability %d.%d, %.0f GiB", p.name, dev->ordinal, p.major, p.minor,
             (double)p.totalGlobalMem / (1 << 30));
    if (10 * p.major + p.minor >= OLDEST)
        return RK_OK;
    snprintf(msg, msg_size, "GPU %d (%.64s) has compute capability %d.%d; the kernels need %d.%d or newer",
             dev->ordinal, p.name, p.major, p.minor, OLDEST / 10, OLDEST % 10);
    return RK_EDEVICE;
}

extern cudaError_t rk__cuda_probe(cudaStream_t stream);

/* A first launch: tells whether there is code for this GPU before anything depends on it. */
static rk_status probe(rk_dev *dev, char *msg, size_t msg_size)
{
    cudaStream_t s = rk__cuda_stream(dev);
    cudaError_t e = rk__cuda_probe(s);
    if (!e)
        e = cudaStreamSynchronize(s);
    rk_status st = rk__cuda_status(dev, e);
    if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorUnsupportedPtxVersion)
        snprintf(msg, msg_size,
                 "%s: this build (%s) has no code for it; build with its number in "
                 "RANKINE_CUDA_ARCHITECTURES",
                 dev->label, RK_CUDA_BUILT);
    else if (st)
        snprintf(msg, msg_size, "%s runs no kernel: %s (%s)", dev->label, cudaGetErrorString(e),
                 cudaGetErrorName(e));
    return st;
}

static void close_cuda(rk_dev *dev)
{
    if (!dev)
        return;
    rk__cuda_queue_close(dev); /* waits: from here on memory is freed at once */
    rk__blas_close(dev);
    rk__cuda_tables_free(dev);
    rk__stage_close(dev);
    rk__cuda_memory_close(dev);
    cudaGetLastError();
    free(dev);
}

static rk_status open_gpu(rk_dev *dev, const rk_open_cfg *cfg, char *msg, size_t msg_size)
{
    int n = rk__cuda_gpus(msg, msg_size);
    if (n <= 0)
        return RK_EDEVICE;
    dev->ordinal = local_rank(cfg) % n;
    rk_status st = fill_in(dev, msg, msg_size);
    if (st)
        return st;
    st = rk__cuda_status(dev, cudaSetDevice(dev->ordinal));
    if (!st)
        st = rk__cuda_queue_open(dev, cfg->graph);
    if (st) {
        snprintf(msg, msg_size, "%s cannot be used: %s (%s)", dev->label, cudaGetErrorString(dev->error),
                 cudaGetErrorName(dev->error));
        return st;
    }
    if (cfg->graph >= 0) {
        const size_t end = strlen(dev->description);
        snprintf(dev->description + end, sizeof dev->description - end, ", graphs");
    }
    st = probe(dev, msg, msg_size);
    return st || !cfg->inexact ? st : rk__blas_open(dev, msg, msg_size);
}

static rk_status open_cuda(const rk_open_cfg *cfg, rk_dev **out, char *msg, size_t msg_size)
{
    rk_dev *dev = calloc(1, sizeof *dev);
    if (!dev)
        return RK_ENOMEM;
    rk_status st = open_gpu(dev, cfg, msg, msg_size);
    if (st) {
        close_cuda(dev);
        return st;
    }
    *out = dev;
    return RK_OK;
}

/* ---- what entries share ---- */

rk_status rk__cuda_status(rk_dev *dev, cudaError_t e)
{
    if (!e)
        return RK_OK;
    dev->error = e;
    *dev->library = '\0';
    dev->of_graph = false;
    cudaGetLastError(); /* what could be repaired is no error of the next launch */
    return e == cudaErrorMemoryAllocation ? RK_ENOMEM : RK_EDEVICE;
}

bool rk__cuda_quiet(cudaError_t e)
{
    if (e)
        cudaGetLastError();
    return e != cudaSuccess;
}

unsigned rk__cuda_grid(const rk_dev *dev, int64_t n, int block)
{
    int64_t need = n / block + (n % block != 0), most = (int64_t)dev->sms * 16;
    return (unsigned)(need < most ? need : most);
}

/* ---- the table ---- */

static const rk_kernels *kernels_cuda(rk_dev *dev, rk_dtype t)
{
    (void)dev;
    return t == RK_F32 ? &rk__cuda_f32 : t == RK_F64 ? &rk__cuda_f64 : NULL;
}

static rk_status zero_cuda(rk_dev *dev, void *p, size_t bytes)
{
    return rk__cuda_set(dev, p, 0, bytes);
}

static const char *describe_cuda(rk_dev *dev)
{
    return dev->description;
}

static int threads_cuda(rk_dev *dev)
{
    (void)dev;
    return 1;
}

extern __typeof__(*rk__cuda_device.copy_strided) rk__cuda_copy_strided;
extern __typeof__(*rk__cuda_device.cast) rk__cuda_cast;

const rk_device rk__cuda_device = {
    .name = "cuda",
    .open = open_cuda,
    .close = close_cuda,
    .kernels = kernels_cuda,
    .alloc = rk__cuda_device_alloc,
    .release = rk__cuda_device_release,
    .zero = zero_cuda,
    .copy_in = rk__stage_in,
    .copy_out = rk__stage_out,
    .copy_strided = rk__cuda_copy_strided,
    .cast = rk__cuda_cast,
    .describe = describe_cuda,
    .threads = threads_cuda,
    .failure = rk__cuda_failure,
    .memory = rk__cuda_memory,
    .flush = rk__cuda_flush,
    .wait = rk__cuda_wait,
    .uses = rk__blas_uses,
    .round16 = rk__cuda_round16,
    .lacks = rk__blas_lacks,
    .do_without = rk__blas_do_without,
};
