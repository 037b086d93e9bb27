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
    RK__OP_CALL /* a library's: only that can launch it; a graph has what it captured of it */
} rk__op_kind;

/* Compared byte by byte: cleared before it is filled. */
typedef struct rk__op {
    const void *kernel;  /* kernel: its address on the host */
    rk__cuda_call *call; /* call; its key is its one argument */
    void *dst;           /* copy, set */
    const void *src;
    size_t bytes;
    size_t shared;
    unsigned grid[3], block[3];
    uint32_t arg, args; /* kernel: its arguments are numbers arg to arg + args - 1 of the list */
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

struct rk__cuda_graph; /* graph.c */

struct rk__cuda_queue {
    rk_dev *dev;
    cudaStream_t stream;
    cudaStream_t aside; /* what calls are captured in; NULL: none yet */
    rk__oplist list;
    bool graphs;  /* list is held back; false: everything is launched at once */
    bool must;    /* a graph that cannot be had is a failure */
    int failures; /* graphs that could not be made or launched; why: the last one */
    cudaError_t why;
    cudaError_t e; /* a failure that nobody was told of yet */
    uint64_t flushes;
    uint64_t seen[RK__QUEUE_GRAPHS * 2]; /* of lists without a graph: what they look like */
    struct rk__cuda_graph *graph[RK__QUEUE_GRAPHS];
    struct rk__cuda_graph *last; /* that was launched */
    uint64_t launches;
};

/* rk__cuda_wait() for those who have nobody to tell: a failure waits for the next who has. */
void rk__cuda_settle(rk_dev *dev);

/* Of a kernel: where its arguments are, to RK__CUDA_MOST_ARGS. Of a call: where its key is. */
void rk__op_args(const rk__oplist *l, const rk__op *op, void **args);

/* false: out of memory; b is then of no use but to rk__oplist_free(). */
bool rk__oplist_copy(const rk__oplist *a, rk__oplist *b);
void rk__oplist_free(rk__oplist *l);
bool rk__op_same(const rk__oplist *a, const rk__oplist *b, uint32_t i);

/* Runs the list as a graph. false: there is none for it; nothing was launched. */
bool rk__graph_launch(rk__cuda_queue *q);
void rk__graph_free_all(rk__cuda_queue *q);

#endif
