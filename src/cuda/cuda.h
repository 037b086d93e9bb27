/* The CUDA device's own state, and what its kernel files share. Everything runs on one compute stream of its
 * own, in order; an entry that gives host values waits for it. What goes there goes through a queue
 * (cuda/queue.h): RK_LAUNCH(.., dev->stream, ..), rk__cuda_copy(), rk__cuda_set(); calls of others use
 * rk__cuda_stream(). */
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
    void *device, *host; /* the same */
    size_t bytes;
    uint64_t used; /* when last */
} rk__cuda_kept;

/* Released, and not freed yet. */
typedef struct rk__cuda_parked {
    void **p;
    int n, room;
    size_t bytes;
} rk__cuda_parked;

typedef struct rk__cuda_queue rk__cuda_queue;

struct rk_dev {
    int ordinal;                  /* among the GPUs that this process sees */
    rk__cuda_queue *stream;       /* of computing */
    struct rk__cuda_stage *stage; /* cuda/stage.h; NULL: nothing was copied yet */
    rk__cuda_parked parked;
    int sms;             /* multiprocessors */
    size_t shared_bytes; /* most dynamic shared memory of a block, when asked for */
    size_t memory_bytes; /* of the whole device */
    size_t cache_bytes;  /* of the second level */
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

/* ---- the queue ---- */

enum { RK__CUDA_MOST_ARGS = 32 };

/* graph: as in rk_open_cfg. */
rk_status rk__cuda_queue_open(rk_dev *dev, int graph);
void rk__cuda_queue_close(rk_dev *dev);

/* A launch, with the arguments as they are now: of RK_LAUNCH. */
void rk__cuda_submit(rk__cuda_queue *q, const void *kernel, const unsigned grid[3], const unsigned block[3],
                     size_t shared, void **args, const size_t *sizes, int n);

/* Copies within the device; sets bytes. */
rk_status rk__cuda_copy(rk_dev *dev, void *dst, const void *src, size_t bytes);
rk_status rk__cuda_set(rk_dev *dev, void *dst, int value, size_t bytes);

/* Puts into the stream what only a library can launch, as `key` says. The stream may be one that is captured:
 * nothing but launches, copies and sets of device memory, and nobody waits. Called when what was submitted
 * before has been launched, and where a graph is made that holds it, as often as that is. */
typedef cudaError_t rk__cuda_call(rk_dev *dev, const void *key, cudaStream_t s);

/* A launch that only a library can do. key (bytes), which is copied: all that determines what it does - calls
 * with the same function and the same bytes are taken for the same launch, so its padding is cleared, and
 * everything is in it that changes from call to call: addresses, sizes, factors. What else the call uses
 * lives until the stream was waited for, and is the same when it is launched as it was here. What it has not
 * done before on this device, as where the library would load a kernel, is better launched by
 * rk__cuda_stream(). */
rk_status rk__cuda_submit_call(rk_dev *dev, rk__cuda_call *call, const void *key, size_t bytes);

/* Launches what is held back; does not wait. */
rk_status rk__cuda_flush(rk_dev *dev);

/* The stream itself, for calls that the queue does not know, which come after all that it was given: what is
 * held back is launched. A failure is told by the next rk__cuda_launched(). */
cudaStream_t rk__cuda_stream(rk_dev *dev);

/* Launches and waits for the compute stream. */
rk_status rk__cuda_wait(rk_dev *dev);

/* ---- memory ---- */

/* Device memory, 256-byte aligned. NULL: out of memory, or the device has failed (rk__cuda_status() was
 * told). */
void *rk__cuda_alloc(rk_dev *dev, size_t bytes);
/* Frees it once what was submitted before has run; does not wait. p may be NULL. */
void rk__cuda_release(rk_dev *dev, void *p, size_t bytes);
/* Only where the compute stream has been waited for. */
void rk__cuda_free_parked(rk_dev *dev);
void rk__cuda_memory_close(rk_dev *dev);
rk_status rk__cuda_device_alloc(rk_dev *dev, size_t bytes, void **p);
void rk__cuda_device_release(rk_dev *dev, void *p, size_t bytes);

/* Blocks of `block` threads for a grid-stride loop over n > 0 elements: enough to fill the device. */
unsigned rk__cuda_grid(const rk_dev *dev, int64_t n, int block);

/* Device memory for one entry's intermediate values, in slot 0 to RK__CUDA_SLOTS - 1: holds until the next
 * call with that slot; what earlier launches do with the slot is over before later ones begin. 256-byte
 * aligned, not cleared. NULL: out of memory (rk__cuda_status() was told: return RK_ENOMEM). */
void *rk__cuda_work(rk_dev *dev, int slot, size_t bytes);

/* Pinned host memory to read results into, until the next call. NULL: out of memory. */
void *rk__cuda_host(rk_dev *dev, size_t bytes);

/* Device memory with the same bytes as `rows`, which is the caller's again; 0 < bytes. It is uploaded unless
 * it was among the last RK__CUDA_TABLES, and holds until as many others were asked for. NULL: out of memory,
 * or the device has failed (rk__cuda_status() was told). */
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
