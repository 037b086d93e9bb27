/* The CUDA device's own state, and what its kernel files share. Everything runs on one compute stream of its
 * own, in order; an entry that gives host values waits for it. */
#ifndef RK_CUDA_CUDA_H
#define RK_CUDA_CUDA_H

#include "core/kernels.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Workspaces that a kernel's entry may use at the same time. */
enum { RK__CUDA_SLOTS = 4 };

typedef struct rk__cuda_block {
    void *p;
    size_t bytes;
} rk__cuda_block;

enum { RK__CUDA_TABLES = 16 };

typedef struct rk__cuda_kept {
    void *device, *host; /* the same; host: pinned */
    size_t bytes;
    uint64_t used; /* when last */
} rk__cuda_kept;

struct rk_dev {
    int ordinal; /* among the GPUs that this process sees */
    cudaStream_t stream;
    int sms;             /* multiprocessors */
    size_t shared_bytes; /* most dynamic shared memory of a block, when asked for */
    size_t memory_bytes; /* of the whole device */
    rk__cuda_block work[RK__CUDA_SLOTS];
    rk__cuda_block host; /* pinned */
    rk__cuda_kept tables[RK__CUDA_TABLES];
    uint64_t tables_used;  /* how often one was */
    cudaError_t error;     /* the last failure */
    size_t held;           /* bytes that alloc gave out */
    char library[96];      /* a library's own words of that failure; "": it was the runtime's */
    struct rk__blas *blas; /* cuda/blas.h; NULL: our own kernels multiply */
    char description[256];
};

/* RK_OK, RK_ENOMEM or RK_EDEVICE for what a call of the runtime said, which is remembered. */
rk_status rk__cuda_status(rk_dev *dev, cudaError_t e);

/* The same, of a call whose failure is no news: nothing is remembered. */
bool rk__cuda_quiet(cudaError_t e);

/* Of rk_device. */
void rk__cuda_failure(rk_dev *dev, char *msg, size_t msg_size);
void rk__cuda_memory(rk_dev *dev, size_t *room, size_t *total);

/* What the launches since the last call of this said: the end of every entry. */
rk_status rk__cuda_launched(rk_dev *dev);

/* Waits for the compute stream. */
rk_status rk__cuda_wait(rk_dev *dev);

/* Blocks of `block` threads for a grid-stride loop over n > 0 elements: enough to fill the device. */
unsigned rk__cuda_grid(const rk_dev *dev, int64_t n, int block);

/* Device memory for one entry's intermediate values, in slot 0 to RK__CUDA_SLOTS - 1: holds until the next call
 * with that slot; what earlier launches do with the slot is over before later ones begin. 256-byte aligned, not
 * cleared. NULL: out of memory (rk__cuda_status() was told: return RK_ENOMEM). */
void *rk__cuda_work(rk_dev *dev, int slot, size_t bytes);

/* Pinned host memory to read results into, until the next call. NULL: out of memory. */
void *rk__cuda_host(rk_dev *dev, size_t bytes);

/* Device memory with the same bytes as `rows`, which is the caller's again; 0 < bytes. It is uploaded unless it
 * was among the last RK__CUDA_TABLES, and holds until as many others were asked for. NULL: out of memory, or the
 * device has failed (rk__cuda_status() was told). */
const void *rk__cuda_table(rk_dev *dev, const void *rows, size_t bytes);
void rk__cuda_tables_free(rk_dev *dev);

/* Copies device memory to the host and waits: for entries that give host values. */
rk_status rk__cuda_read(rk_dev *dev, void *host, const void *src, size_t bytes);

/* An entry's type by its name in rk_kernels: RK_CUDA_ENTRY(gemm) rk__cuda_f32_gemm; declares it. */
#define RK_CUDA_ENTRY(e) extern __typeof__(*((rk_kernels *)0)->e)

#ifdef __cplusplus
}
#endif

#endif
