/* Status, context and the vocabulary every other header uses. */
#ifndef RANKINE_BASE_H
#define RANKINE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RK_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define RK_API               __attribute__((visibility("default")))
#else
#define RK_PRINTF(fmt, args)
#define RK_API
#endif

/* Each failure has an exit code that Slurm and Kubernetes scripts can act on: rk_exit_code(). */
typedef enum rk_status {
    RK_OK = 0,
    RK_EUSAGE,     /* 64: the command line or a call's arguments are wrong */
    RK_EDATA,      /* 65: bad or hostile input data, model or snapshot */
    RK_ENOINPUT,   /* 66: an input is missing or unreadable */
    RK_EPEER,      /* 69: another rank or the network was lost */
    RK_EINTERNAL,  /* 70: our own bug */
    RK_ENOMEM,     /* 71: out of memory */
    RK_ELOCKED,    /* 73: the run folder belongs to another running job */
    RK_EIO,        /* 74: cannot write: disk full, I/O error */
    RK_EPREEMPTED, /* 75: stopped on request, state saved: start the same command again */
    RK_EHANG,      /* 76: a rank or a collective hangs */
    RK_ECONFIG,    /* 78: the configuration is invalid or does not fit the run */
    RK_EDIVERGED,  /* 79: the loss or a gradient is not finite */
    RK_ECORRUPT,   /* 80: silent data corruption suspected */
    RK_ESHAPE,     /* 78: shapes of tensors do not fit together */
    RK_EDTYPE,     /* 78: the operation does not take this element type */
    RK_EDEVICE     /* 70: the device failed */
} rk_status;

/* The process exit code for a status (sysexits-like numbers above). */
RK_API int rk_exit_code(rk_status st);

/* What an exit code of the program means, e.g. "out of memory"; NULL for a number that is none. */
RK_API const char *rk_exit_meaning(int code);

/* A short fixed name, e.g. "RK_ESHAPE". */
RK_API const char *rk_status_name(rk_status st);

typedef struct rk_ctx rk_ctx;

/* How to open a context. Zero-initialise for defaults. */
typedef struct rk_open_cfg {
    const char *device; /* "cpu", "cuda", or "auto" or NULL: a GPU if there is one */
    const char *isa;    /* "avx512", "avx2", "portable" or NULL: RANKINE_ISA, then the best there is */
    int threads;        /* compute threads of this rank; 0: every core this process may use */
    int data_shards;    /* V of the grid: power of two, 1 to 1024; 0: 8 */
    uint64_t seed;      /* root of every random number */
    bool inexact;       /* parallel.exact: false; allows faster orders of addition */
    bool alone;         /* one rank by itself, whatever the launcher started: nothing is collective */
    int local_rank; /* 1 + this process's number among those of its node, for the choice of a GPU; 0: as the
                     * launcher's environment, else the ranks of the node tell */
    int graph;      /* device.graph of CUDA: -1 off, 1 on, 0 auto: on, unless it cannot be had */
    int nccl;       /* device.nccl of CUDA, the same; RANKINE_NCCL=0|1 in the environment comes before it */
    /* Not RK_OK: this process cannot take part, for `why`. It joins the ranks to tell them, and all fail. */
    rk_status failed;
    const char *why;
} rk_open_cfg;

/* [C] Opens a context. cfg may be NULL. A program that mpirun or srun started as several ranks joins them:
 * loaders then serve this rank's part of each batch, losses are those of the whole batch, and rk_optim_step()
 * sums the gradients of all ranks, with the bits of one rank. On failure *out still is a context that knows
 * the reason (unless memory ran out entirely: *out NULL), so rk_error(*out) and rk_close(*out) are always in
 * order. */
RK_API rk_status rk_open(const rk_open_cfg *cfg, rk_ctx **out);

/* [C] Frees everything that hangs from ctx and returns the exit code of its first failure (0 if none).
 * Prints nothing; read rk_error() before. NULL is allowed. */
RK_API int rk_close(rk_ctx *ctx);

/* The first failure, RK_OK if none. Every call after a failure does nothing and returns it again. */
RK_API rk_status rk_failed(const rk_ctx *ctx);

/* The message of the first failure ("" if none). Lives as long as ctx. */
RK_API const char *rk_error(const rk_ctx *ctx);

/* Forgets the failure, so that a program can go on (an interactive one, or a test). */
RK_API void rk_error_clear(rk_ctx *ctx);

/* Records a failure unless one is recorded already; returns the recorded status. */
RK_API rk_status rk_fail(rk_ctx *ctx, rk_status st, const char *fmt, ...) RK_PRINTF(3, 4);

/* The rank that the launcher gave this process, 0 if there was none: what its environment says, before any
 * context is opened. */
RK_API int rk_launch_rank(void);

/* [C] Returns when all ranks have called it. If one of them has failed, all fail with its reason: "rank 3:
 * ...".
 */
RK_API rk_status rk_barrier(rk_ctx *ctx);

RK_API int rk_rank(const rk_ctx *ctx);  /* this process's rank, from 0 */
RK_API int rk_ranks(const rk_ctx *ctx); /* number of ranks (world size) */
RK_API const char *rk_version(void);    /* "0.1.0" */
/* "cpu avx2, 2 threads". Lives as long as ctx. */
RK_API const char *rk_device_describe(const rk_ctx *ctx);
/* Where it was left to us ("auto") and CUDA is there: why it is the processor all the same; else NULL. Of all
 * ranks. Lives as long as ctx. *faulty, which may be NULL: this rank has a GPU, or a driver, that cannot be
 * used. */
RK_API const char *rk_device_why_cpu(const rk_ctx *ctx, bool *faulty);

/* Returns when the device has done all that it was asked for. A GPU's calls return before: who takes the time
 * of work waits before and after it. */
RK_API rk_status rk_device_wait(rk_ctx *ctx);

/* What there is of CUDA, as a sentence: a library built for GPUs, one that runs kernels on the host, or none,
 * and which GPU it sees or what is missing. Opens the device, to know. */
typedef enum rk_cuda_state {
    RK_CUDA_ABSENT, /* no library, no driver or no GPU: as on a machine that is none for it */
    RK_CUDA_READY,  /* device "cuda" can be opened */
    RK_CUDA_FAULTY  /* there is a GPU, or a driver, that cannot be used */
} rk_cuda_state;
RK_API rk_cuda_state rk_cuda_describe(char *text, size_t size);

/* f32 operations a second that the device's threads reach at best, a multiply-add counting two. Measured on
 * the first call (some 10 ms), remembered; 0: unknown. */
RK_API double rk_peak_flops(rk_ctx *ctx);

/* Largest number of bytes of step memory (activations and gradients of activations) planned so far;
 * exact from the second step on. */
RK_API size_t rk_memory_peak(const rk_ctx *ctx);

/* Calls of the system allocator made for step memory since the last rk_step_end(); 0 once the plan holds. */
RK_API int64_t rk_memory_step_allocs(const rk_ctx *ctx);

#ifdef __cplusplus
}
#endif
#endif
