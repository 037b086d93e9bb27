/* The context: what everything hangs from. Private to the library. */
#ifndef RK_CORE_CTX_H
#define RK_CORE_CTX_H

#include <rankine/tensor.h>

#include "core/kernels.h"
#include "core/order.h"

#define RK_TRY(call)                \
    do {                            \
        rk_status rk_try_ = (call); \
        if (rk_try_ != RK_OK)       \
            return rk_try_;         \
    } while (0)

#define RK_TRY_GOTO(label, call) \
    do {                         \
        st = (call);             \
        if (st != RK_OK)         \
            goto label;          \
    } while (0)

/* Our own bug, never the caller's: reports and aborts, in release builds too. */
#define RK_ASSERT(cond) ((cond) ? (void)0 : rk__assert_failed(#cond, __FILE__, __LINE__))
void rk__assert_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

typedef struct rk__tape rk__tape;
typedef struct rk__memory rk__memory;

/* Something to do when the context closes; run in reverse order of registration. */
typedef void rk__close_fn(void *arg);

/* How sums over samples are cut in the pass at hand (docs/architecture.md, "Canonical order"). The training
 * loop narrows it when it works in micro-batches. */
typedef struct rk__grid {
    int segments;          /* leaves of the tree over the samples of this pass */
    bool chain;            /* this pass continues the chains of a shard (segments is 1) */
    int64_t batch_samples; /* of the whole batch: what means are over; 0: the samples of this pass */
    int shards;            /* data shards in this pass: what statistics of one shard are taken over */
    bool part;             /* a micro-batch: running statistics wait for the others (rk__running_finish) */
    /* A rank whose share of the shards is no power of two holds several subtrees, side by side in one pass:
     * part i ends at sample end[i] of the pass and has leaves[i] leaves. 0: one part, all of the pass. */
    int parts;
    int first_part; /* number of the first part of this pass among the rank's */
    int64_t end[RK_ORDER_PARTS];
    int leaves[RK_ORDER_PARTS];
} rk__grid;

/* How ranks meet within an operation; all NULL where one rank has the whole batch. */
typedef struct rk__meet {
    void *arg;
    /* [C] out (n) = the sum over the shards of all ranks in canonical order, of parts (rk__parts(), n): the
     * sums over this rank's subtrees. f32, device memory. */
    rk_status (*sum)(void *arg, const char *name, int64_t n, const void *parts, void *out);
} rk__meet;

/* Told when a walk has made the last contribution to the gradient of a parameter. */
typedef struct rk__on_ready {
    void *arg;
    void (*fn)(void *arg, rk_tensor *leaf); /* NULL: nobody wants to know */
} rk__on_ready;

/* Tensor shards of the grid, and the ranks that hold cut parameters side by side (core/cut.h). */
typedef struct rk__shards {
    int count;       /* S; 0: as 1 */
    int rank, ranks; /* ranks 0: as 1, and nobody meets */
    void *arg;
    /* [C] out (n, f32) = the sum of every rank's subtree `part` in the tree over the shards; out may be part.
     */
    rk_status (*sum)(void *arg, const char *name, int64_t n, const void *part, void *out);
    /* [C] all = the ranks' arrays one after another, count[r] f32 of rank r. Device memory, as above. */
    rk_status (*gather)(void *arg, const char *name, const int64_t *count, const void *mine, void *all);
} rk__shards;

/* Told when a loader hands out a batch of `global` samples, of which this rank has its part. */
typedef struct rk__on_batch {
    void *arg;
    void (*fn)(void *arg, int64_t global); /* NULL: one rank */
} rk__on_batch;

/* What rk_backward() multiplies losses by. */
typedef struct rk__loss_scale {
    void *arg;
    double (*fn)(void *arg); /* NULL: 1 */
    const rk_watch *watch;   /* NULL, or device memory, whose seeds count once fn() was called */
} rk__loss_scale;

/* How the device was chosen. */
typedef struct rk__choice {
    bool free;        /* it was left to us: auto */
    bool looked;      /* a library for GPUs is there and was asked */
    bool faulty;      /* and there is a GPU, or a driver, that cannot be used */
    char no_gpu[512]; /* auto: why it is the CPU; "" if it is a GPU */
} rk__choice;

struct rk_ctx {
    rk_status status;
    char message[1024];
    const rk_device *device;
    rk_dev *dev;
    rk__choice choice;
    int rank, ranks;
    int data_shards;
    bool exact;
    int nccl; /* rk_open_cfg.nccl */
    uint64_t seed;
    rk__grid grid;
    rk__meet meet;
    rk__on_ready on_ready;
    rk__on_batch on_batch;
    rk__shards shards;
    struct rk_comm *comm;    /* parallel/comm.h; NULL: one rank */
    struct rk_comm *tensors; /* the same ranks, for the device's memory; NULL: see job, or nobody asked */
    struct rk__job *job;     /* parallel/job.h; NULL: none yet */
    uint64_t step;
    int64_t first_sample;
    bool training;
    rk_round round; /* rk_set_compute */
    struct {
        int depth;
        uint64_t epoch;
    } still; /* core/rounded.h */
    rk__loss_scale loss_scale;
    /* Device memory, or NULL: what outlives a step and is no weight (running statistics) stands still, too,
     * when it is 1. */
    const int64_t *halted;
    int no_grad;
    rk__tape *tape;
    rk__memory *memory;
    struct rk__closer *leavers, *closers; /* newest first */
    rk_tensor *inert;
    rk_tensor *step_tensors; /* newest first */
};

/* rk_open() for one rank by itself. */
rk_status rk__open(const rk_open_cfg *cfg, rk_ctx **out);
/* The same on this device, whatever cfg says of one. */
rk_status rk__open_on(const rk_open_cfg *cfg, const rk_device *device, rk_ctx **out);

/* Is the device's memory the host's, which may read and write it? */
static inline bool rk__on_host(const rk_ctx *ctx)
{
    return ctx->device == &rk_device_cpu;
}

const rk_kernels *rk__kernels(rk_ctx *ctx, rk_dtype t); /* f32 or f64 table */

/* Runs fn(arg) in rk_close(). RK_ENOMEM is recorded. */
rk_status rk__at_close(rk_ctx *ctx, rk__close_fn *fn, void *arg);
/* The same before all of those: for who uses memory of others. */
rk_status rk__before_close(rk_ctx *ctx, rk__close_fn *fn, void *arg);

/* Adds to the message of the failure that is recorded. */
void rk__fail_more(rk_ctx *ctx, const char *fmt, ...) RK_PRINTF(2, 3);

/* Checked products and sums of sizes. RK_ENOMEM ("too large") on overflow, recorded. */
rk_status rk__mul_size(rk_ctx *ctx, size_t a, size_t b, size_t *out);
rk_status rk__shape_size(rk_ctx *ctx, const rk_shape *s, int64_t *out);

/* Small records that die in rk_step_end(): handles, nodes. Zeroed, 16-byte aligned; no system allocation once
 * the first steps have grown it. NULL records RK_ENOMEM. */
void *rk__step_record(rk_ctx *ctx, size_t bytes);

/* Memory that fails cleanly; zeroed. NULL records RK_ENOMEM. */
void *rk__calloc(rk_ctx *ctx, size_t n, size_t size);
char *rk__strdup(rk_ctx *ctx, const char *s);

/* Memory of the device, not cleared; what: "a tensor". A failure is recorded as what the device says it is:
 * RK_ENOMEM is too little memory, RK_EDEVICE a device that fails whatever it is asked for. *p is then NULL.
 */
rk_status rk__device_alloc(rk_ctx *ctx, size_t bytes, const char *what, void **p);

#endif
