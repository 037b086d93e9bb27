/* The compute stream as the engine sees it: a queue that holds back what it is given and launches it as one
 * graph.
 *
 * Why not capture the stream: a capture that is open all the time forbids much of what a step does meanwhile
 * (copies of pageable memory, cudaFree, events for NCCL), cannot be run if it turns out void, and costs as
 * much at every kernel as a launch does, after which cudaGraphExecUpdate() walks over all nodes again. Here
 * an operation is a record of some hundred bytes: arguments as of the call. When somebody needs the results,
 * when the step ends, or when there are RK__QUEUE_MOST, the list is compared with that of a graph made
 * earlier; what differs (learning rates, addresses) is set node by node, and one launch runs everything. A
 * list that was never seen runs as plain launches, in the same order, and so does everything where a graph
 * cannot be had: results do not depend on it. */
#ifndef RK_CUDA_QUEUE_H
#define RK_CUDA_QUEUE_H

#include "cuda/cuda.h"

enum {
    RK__QUEUE_MOST =
        256, /* operations: a GPU has work for longer than the host needs to hold back as many again */
    RK__QUEUE_LEAST = 4,  /* fewer are not worth a graph */
    RK__QUEUE_GRAPHS = 32 /* kept */
};

typedef enum rk__op_kind {
    RK__OP_KERNEL,
    RK__OP_COPY,
    RK__OP_SET,
    RK__OP_CALL,   /* a library's: only that can launch it; a graph has what it captured of it */
    RK__OP_MARK,   /* does nothing: a place that something beside comes after */
    RK__OP_BESIDE, /* a graph that was recorded, in the branch beside */
    RK__OP_JOIN    /* does nothing: what follows comes after something beside, too */
} rk__op_kind;

enum { RK__NO_OP = UINT32_MAX }; /* rk__op.arg: it is not of this list */

/* Compared byte by byte: cleared before it is filled. */
typedef struct rk__op {
    const void *kernel;                /* kernel: its address on the host */
    rk__cuda_call *call;               /* call; its key is its one argument */
    const rk__cuda_recorded *recorded; /* beside; its number is in bytes */
    rk__cuda_beside *beside;
    void *dst; /* copy, set */
    const void *src;
    size_t bytes;
    size_t shared;
    unsigned grid[3], block[3];
    /* kernel: its arguments are numbers arg to arg + args - 1 of the list. Beside: arg is the mark that it
     * comes after; join: arg is what is joined. */
    uint32_t arg, args;
    rk__op_kind kind;
    int value; /* set */
} rk__op;

typedef struct rk__oplist {
    rk__op *op;
    uint32_t *at; /* of each argument: where it lies in data; one more: the end */
    unsigned char *data;
    uint32_t n, args;
    size_t used; /* of data */
    uint32_t room, args_room;
    size_t data_room;
} rk__oplist;

/* A place that an operation of the list makes; after: what it comes after, of something beside. */
typedef struct rk__held_place {
    rk__cuda_place *place, *after;
} rk__held_place;

struct rk__cuda_graph; /* graph.c */

struct rk__cuda_queue {
    rk_dev *dev;
    cudaStream_t stream;
    cudaStream_t aside; /* what calls are captured in; NULL: none yet */
    rk__oplist list;
    rk__held_place *held; /* by number of the operation */
    uint32_t held_room;
    rk__cuda_watch *watch;
    bool watching; /* they are being called */
    bool cut;      /* the list ends where chance has it */
    bool graphs;   /* list is held back; false: everything is launched at once */
    bool must;     /* a graph that cannot be had is a failure */
    int failures;  /* graphs that could not be made or launched; why: the last one */
    cudaError_t why;
    cudaError_t e;                       /* a failure that nobody was told of yet */
    bool of_graph;                       /* it is `why` */
    uint64_t flushes, given;             /* lists, operations launched */
    uint64_t seen[RK__QUEUE_GRAPHS * 2]; /* of lists without a graph: what they look like */
    struct rk__cuda_graph *graph[RK__QUEUE_GRAPHS];
    struct rk__cuda_graph *last; /* that was launched */
    uint64_t launches;
};

/* Waits for an event, or for the compute stream if e is NULL, with an eye on who watches. */
cudaError_t rk__cuda_await(rk_dev *dev, cudaEvent_t e);

/* Until what runs beside the stream has ended too: cudaFree() would wait for it with an eye on nobody. */
void rk__cuda_await_branches(rk_dev *dev);

/* rk__cuda_wait() for those who have nobody to tell: a failure waits for the next who has. */
void rk__cuda_settle(rk_dev *dev);

/* Of a kernel: where its arguments are, to RK__CUDA_MOST_ARGS. Of a call: where its key is. */
void rk__op_args(const rk__oplist *l, const rk__op *op, void **args);

/* false: out of memory; b is then of no use but to rk__oplist_free(). */
bool rk__oplist_copy(const rk__oplist *a, rk__oplist *b);
void rk__oplist_free(rk__oplist *l);
bool rk__op_same(const rk__oplist *a, const rk__oplist *b, uint32_t i);

/* Appends a copy of op, without launching anything. RK__NO_OP: out of memory. */
uint32_t rk__queue_append(rk__cuda_queue *q, const rk__op *op);
/* Launches the list if it is long enough, or nothing is held back. */
rk_status rk__queue_submitted(rk__cuda_queue *q);

/* ---- beside.c ---- */

/* A list is launched operation by operation: its part of it. */
cudaError_t rk__beside_launch(rk__cuda_queue *q, uint32_t i);
/* A list is launched as a graph, beforehand and afterwards. */
cudaError_t rk__beside_before_graph(rk__cuda_queue *q);
void rk__beside_after_graph(rk__cuda_queue *q);
/* Is something in the list that cannot be launched any more? */
bool rk__beside_ended(const rk__cuda_queue *q);

/* ---- graph.c ---- */

/* Runs the list as a graph. false: there is none for it; nothing was launched. */
bool rk__graph_launch(rk__cuda_queue *q);
void rk__graph_free_all(rk__cuda_queue *q);

#endif
