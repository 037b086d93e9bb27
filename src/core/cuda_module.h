/* The CUDA device as a library of its own: what it exports, and how it is found. The program starts where no
 * CUDA is; the library uses no symbol of ours, so that it may be loaded by any program. */
#ifndef RK_CORE_CUDA_MODULE_H
#define RK_CORE_CUDA_MODULE_H

#include "core/kernels.h"

enum { RK_CUDA_MODULE_VERSION = 7 };

/* ---- NCCL: GPUs that send to each other. Nothing here waits for other ranks: calls start what look() tells
 * the end of. Calls run beside the device's own stream: in one of the communicator's, or in the graphs that
 * the device makes of what it holds back. ---- */

enum { RK_NCCL_ID_BYTES = 128 };

typedef struct rk_nccl rk_nccl;             /* a communicator */
typedef struct rk_nccl_event rk_nccl_event; /* a place in a stream */

typedef enum rk_nccl_state { RK_NCCL_DONE, RK_NCCL_BUSY, RK_NCCL_FAILED } rk_nccl_state;

/* What goes to, or comes from, another rank: device memory. */
typedef struct rk_nccl_leg {
    void *data;
    size_t bytes;
    int peer;
    bool leaves;
} rk_nccl_leg;

/* Which GPU it is: its id, alike for nobody else; and where it is plugged in, alike for its slices (MIG). */
typedef struct rk_nccl_gpu {
    char id[48], place[32];
} rk_nccl_gpu;

/* Nothing but there() may be called where there() is false. */
typedef struct rk_nccl_table {
    bool host_run; /* as of rk_cuda_library */
    /* Looks for the library, which is no part of ours: true and "NCCL 2.27.3" in text, or why it cannot be
     * used. */
    bool (*there)(char *text, size_t size);
    rk_status (*gpu)(rk_dev *dev, rk_nccl_gpu *gpu);
    rk_status (*unique_id)(uint8_t id[RK_NCCL_ID_BYTES]);
    /* Begins to join `ranks` ranks, which all have the one id; look() tells when it is done. After a
     * failure *out has its words, for close() too; NULL if memory was short. */
    rk_status (*open)(rk_dev *dev, int ranks, int rank, const uint8_t id[RK_NCCL_ID_BYTES], rk_nccl **out);
    /* NULL: out of memory, or the GPU has failed. */
    rk_nccl_event *(*event_open)(void);
    void (*event_close)(rk_nccl *n, rk_nccl_event *e);
    /* Is it that of something the device holds back? It may not stand for anything else then. */
    bool (*event_held)(const rk_nccl_event *e);
    /* Stands for what the device's own stream has been given so far. */
    rk_status (*mark_device)(rk_nccl *n, rk_nccl_event *e);
    /* What the device's own stream is given from here on comes after e; nobody waits. */
    rk_status (*join_device)(rk_nccl *n, rk_nccl_event *e);
    /* How many operations the device holds back, of how many that it was ever given; launches them. cut: they
     * are not likely to come again as they are. */
    size_t (*held)(const rk_nccl *n, uint64_t *given);
    rk_status (*flush)(rk_nccl *n, bool cut);
    /* Records what the communicator's stream has been given so far: only after look() has said that the last
     * call is done. */
    rk_status (*mark)(rk_nccl *n, rk_nccl_event *e);
    /* [C] All legs at once, after what `after` records; bytes > 0. One's own leg is none of them. */
    rk_status (*exchange)(rk_nccl *n, rk_nccl_event *after, const rk_nccl_leg *leg, int legs);
    rk_status (*broadcast)(rk_nccl *n, rk_nccl_event *after, int root, void *data, size_t bytes); /* [C] */
    /* [C] Everyone's piece to everyone, over few links between nodes: piece[i], of rank i, is here where leg
     * i says; one's own too. Pieces of 0 bytes are none. */
    rk_status (*all_gather)(rk_nccl *n, rk_nccl_event *after, const rk_nccl_leg *piece, int ranks);
    /* [C] Sums over ranks, in an order that is NCCL's: RK_F32 or RK_F64. out (count) becomes that of all in
     * (count); may be in. */
    rk_status (*all_reduce)(rk_nccl *n, rk_nccl_event *after, rk_dtype t, const void *in, void *out,
                            size_t count);
    /* [C] in has a piece for each rank, one after another, of count[i] elements; out, that of this one's. */
    rk_status (*reduce_scatter)(rk_nccl *n, rk_nccl_event *after, rk_dtype t, const void *in,
                                const size_t *count, int ranks, void *out);
    /* ---- calls as parts of the device's graphs ---- */
    /* Does the device make graphs? May calls of this communicator be recorded now? */
    bool (*graphs)(const rk_nccl *n);
    bool (*records)(const rk_nccl *n);
    /* The number under which the call that `key` (bytes) stands for was recorded; 1: it was asked for before;
     * 0: never. */
    uint64_t (*number)(rk_nccl *n, const void *key, size_t bytes);
    /* [C] From here on the next call is recorded and does not run; when look() says that it has been taken
     * in, keep() ends that and keeps it. number: the same on all ranks, above 1, and of no other call. */
    rk_status (*record)(rk_nccl *n);
    rk_status (*keep)(rk_nccl *n, const void *key, size_t bytes, uint64_t number);
    /* [C] What was kept under the key runs once more, after what `after` stands for and the calls before it:
     * with the device's operations, in one graph where there is one. done: its end. */
    rk_status (*replay)(rk_nccl *n, const void *key, size_t bytes, rk_nccl_event *after, rk_nccl_event *done);
    /* sets_out(arg) is called before the device launches what it holds back, waiting(arg) again and again
     * while somebody waits for it; until close(). */
    void (*watch)(rk_nccl *n, void (*sets_out)(void *arg), void (*waiting)(void *arg), void *arg);
    /* Has the last call been taken in, and all that comes before e (may be NULL) run? Failures of any kind,
     * those of other ranks that NCCL has noticed included, are RK_NCCL_FAILED; error() has the words. */
    rk_nccl_state (*look)(rk_nccl *n, rk_nccl_event *e);
    const char *(*error)(rk_nccl *n);
    /* Ends what is under way, here and, when they notice, at the others; close() is still to come. all: that
     * of all communicators of the device, which this one would wait for. */
    void (*abort)(rk_nccl *n, bool all);
    /* Waits for the others to come to this, for some seconds at most, unless aborted. n may be NULL. */
    void (*close)(rk_nccl *n);
} rk_nccl_table;

/* The library's one symbol is `const rk_cuda_library rk_cuda_module`. */
typedef struct rk_cuda_library {
    int version;                        /* RK_CUDA_MODULE_VERSION of the sources it was built from */
    size_t kernels_bytes, device_bytes; /* sizes of the tables: sources of another day do not fit */
    bool host_run;                      /* kernels run on the host; nothing is a GPU */
    const char *built;                  /* "CUDA 13.0 for sm_80, sm_90, sm_100" */
    const rk_device *device;
    /* GPUs that CUDA sees, 0 if none, -1 if it cannot tell; the reason of those goes to msg. */
    int (*gpus)(char *msg, size_t msg_size);
    const rk_nccl_table *nccl; /* NULL: nccl.h was not there when the library was built */
} rk_cuda_library;

/* Loads the library: RANKINE_CUDA names it; else librankine_cuda.so lies beside the program, beside our
 * library, or where the system looks. NULL and the reason in msg if there is none or it does not fit. It
 * stays loaded. */
const rk_cuda_library *rk__cuda_load(char *msg, size_t msg_size);

#endif
