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
    uint64_t tables_used;     /* how often one was */
    cudaError_t error;        /* the last failure */
    size_t held;              /* bytes that alloc gave out */
    char library[128];        /* a library's own words of that failure; "": it was the runtime's */
    bool of_graph;            /* it came of making or launching a graph, which device.graph: on demands */
    struct rk__blas *blas;    /* cuda/blas.h; NULL: our own kernels multiply */
    struct rk_nccl *recorder; /* the communicator whose calls are in graphs; NULL: none yet */
    struct rk_nccl *comms;    /* all that are open: a list */
    char label[128];          /* "GPU 0 (NVIDIA H100 PCIe, compute capability 9.0)": for sentences */
    char no_blas[128];        /* why blas is NULL though it was wanted; else "" */
    char description[384];
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

/* ---- beside the compute stream (cuda/beside.c): what ranks exchange ---- */

/* A place in the order of operations, as an event has one. Cleared, with an event of its own. */
typedef struct rk__cuda_place {
    cudaEvent_t event;
    /* held back; in a graph that was launched, without the event; where the event is */
    enum { RK__PLACE_NONE, RK__PLACE_HELD, RK__PLACE_PASSED, RK__PLACE_RECORDED } state;
    uint32_t op; /* held back: number in the list */
} rk__cuda_place;

/* A branch: operations that come after one another, and otherwise only after what each of them names. */
typedef struct rk__cuda_beside {
    cudaStream_t stream; /* where they run that are in no graph */
    cudaEvent_t event;
    bool in_graph, in_stream; /* the last one, where the other does not know of it yet */
    bool ended;               /* what is held back of it is not launched any more */
} rk__cuda_beside;

/* An operation that was captured, by itself. */
typedef struct rk__cuda_recorded {
    cudaGraph_t graph;
    cudaGraphExec_t run; /* NULL: it was only run as part of others */
    uint64_t number;     /* no other has it */
} rk__cuda_recorded;

/* p is here, after all that was submitted. */
rk_status rk__cuda_mark(rk_dev *dev, rk__cuda_place *p);
/* Held back as all else, and part of the same graph: r, which lives until b has ended or the next flush, runs
 * after `after` and what was put into b before; its end is `done`. */
rk_status rk__cuda_submit_beside(rk_dev *dev, rk__cuda_beside *b, rk__cuda_recorded *r, rk__cuda_place *after,
                                 rk__cuda_place *done);
/* What is submitted from here on comes after p; nobody waits. */
rk_status rk__cuda_join(rk_dev *dev, rk__cuda_place *p);
/* For what goes into b->stream by itself: before it, and after it, which is then p. Launches what is held
 * back. */
rk_status rk__cuda_beside_begin(rk_dev *dev, rk__cuda_beside *b, rk__cuda_place *after);
rk_status rk__cuda_beside_end(rk_dev *dev, rk__cuda_beside *b, rk__cuda_place *p);
/* Has the GPU come to p? cudaErrorNotReady: no. */
cudaError_t rk__cuda_ask(rk_dev *dev, rk__cuda_place *p);
/* Nobody uses p any more. */
void rk__cuda_place_close(rk_dev *dev, rk__cuda_place *p);
/* Destroys all graphs: whoever was captured for them wants to end. They are made anew when they are needed.
 */
void rk__cuda_drop_graphs(rk_dev *dev);

/* Who has to know of waits: a list. `sets_out` is called before what is held back is launched, to add to it;
 * `waiting` again and again while somebody waits for the stream, which may never come to its end by itself.
 */
typedef struct rk__cuda_watch {
    struct rk__cuda_watch *next;
    cudaStream_t stream; /* of the branch that is watched */
    void (*sets_out)(void *arg);
    void (*waiting)(void *arg);
    void *arg;
} rk__cuda_watch;
void rk__cuda_watch_begin(rk_dev *dev, rk__cuda_watch *w);
void rk__cuda_watch_end(rk_dev *dev, rk__cuda_watch *w);
bool rk__cuda_has_graphs(const rk_dev *dev);

/* Launches what is held back; does not wait. */
rk_status rk__cuda_flush(rk_dev *dev);
/* The same at a place that chance has chosen: no graph is made for it. */
rk_status rk__cuda_flush_cut(rk_dev *dev);
/* How many operations are held back, of how many that were ever submitted. */
size_t rk__cuda_held(const rk_dev *dev, uint64_t *given);

/* The stream itself, for calls that the queue does not know, which come after all that it was given: what is
 * held back is launched. A failure is told by the next rk__cuda_launched(). */
cudaStream_t rk__cuda_stream(rk_dev *dev);

/* Launches and waits for the compute stream. */
rk_status rk__cuda_wait(rk_dev *dev);

/* ---- memory ---- */

/* Device memory, 256-byte aligned. NULL: out of memory, or the device has failed (rk__cuda_status() was
 * told). */
void *rk__cuda_alloc(rk_dev *dev, size_t bytes);
/* What an entry returns that got NULL from one of these: RK_ENOMEM, or RK_EDEVICE where the device has
 * failed. */
rk_status rk__cuda_denied(const rk_dev *dev);
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
 * aligned, not cleared. NULL: as rk__cuda_alloc(). */
void *rk__cuda_work(rk_dev *dev, int slot, size_t bytes);

/* Pinned host memory to read results into, until the next call. NULL: as rk__cuda_alloc(). */
void *rk__cuda_host(rk_dev *dev, size_t bytes);

/* Device memory with the same bytes as `rows`, which is the caller's again; 0 < bytes. It is uploaded unless
 * it was among the last RK__CUDA_TABLES, and holds until as many others were asked for. NULL: as
 * rk__cuda_alloc(). */
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
