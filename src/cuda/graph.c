/* Graphs of lists of operations: made when a list is seen a second time, kept, and given the values of today.
 * What only a library can launch is captured, one call at a time, and is a graph within the graph. */
#include "cuda/queue.h"

#include <stdlib.h>
#include <string.h>

enum { PATIENCE = 3 }; /* graphs that cannot be made before no more are tried */

typedef struct rk__cuda_graph {
    uint64_t look; /* of the list: kinds and kernels */
    rk__oplist list;
    cudaGraph_t graph; /* owns the nodes, whose names an executable graph goes by */
    cudaGraphExec_t run;
    cudaGraphNode_t *node;
    uint64_t used;
    struct rk__cuda_graph *next; /* that was launched after this one, the last time */
} graph;

/* ---- which one ---- */

/* Of all that a graph's node cannot change. */
static uint64_t look_of(const rk__oplist *l)
{
    uint64_t h = 1469598103934665603u ^ l->n;
    for (uint32_t i = 0; i < l->n; i++) {
        h = (h ^ (uintptr_t)l->op[i].kernel) * 1099511628211u;
        h = (h ^ (uintptr_t)l->op[i].call) * 1099511628211u;
        h = (h ^ (uint64_t)l->op[i].kind ^ (uint64_t)l->op[i].arg << 8) * 1099511628211u;
        h ^= h >> 29;
    }
    return h ? h : 1;
}

/* How many nodes would have to change. */
static uint32_t distance(const rk__oplist *a, const rk__oplist *b, uint32_t enough)
{
    uint32_t differ = 0;
    for (uint32_t i = 0; i < a->n && differ < enough; i++)
        differ += !rk__op_same(a, b, i);
    return differ;
}

static bool looks_like(const graph *g, const rk__oplist *l, uint64_t look)
{
    if (!g || g->look != look || g->list.n != l->n)
        return false;
    for (uint32_t i = 0; i < l->n; i++) {
        const rk__op *a = &g->list.op[i], *b = &l->op[i];
        if (a->kernel != b->kernel || a->call != b->call || a->kind != b->kind || a->arg != b->arg)
            return false;
    }
    return true;
}

/* The one that came here the last time, if it is near; else the nearest: batches of several sizes, and
 * micro-batches at several places, have graphs of their own as long as there is room. */
static graph *find(rk__cuda_queue *q, uint64_t look)
{
    const rk__oplist *l = &q->list;
    graph *best = q->last ? q->last->next : NULL;
    if (!looks_like(best, l, look))
        best = NULL;
    uint32_t least = best ? distance(&best->list, l, l->n) : l->n + 1;
    for (int i = 0; i < RK__QUEUE_GRAPHS && least > l->n / 4; i++) {
        graph *g = q->graph[i];
        if (!looks_like(g, l, look))
            continue;
        const uint32_t d = distance(&g->list, l, least);
        if (d < least) {
            least = d;
            best = g;
        }
    }
    return best;
}

/* A list that comes once is not worth a graph. */
static bool seen_before(rk__cuda_queue *q, uint64_t look)
{
    const size_t n = sizeof q->seen / sizeof *q->seen;
    for (size_t i = 0; i < n; i++)
        if (q->seen[i] == look)
            return true;
    q->seen[q->flushes % n] = look;
    return false;
}

/* ---- making ---- */

static struct cudaMemsetParams set_params(const rk__op *op)
{
    return (struct cudaMemsetParams){
        .dst = op->dst, .value = (unsigned)op->value, .elementSize = 1, .width = op->bytes, .height = 1
    };
}

static struct cudaKernelNodeParams kernel_params(const rk__oplist *l, const rk__op *op, void **args)
{
    rk__op_args(l, op, args);
    return (struct cudaKernelNodeParams){ .func = (void *)op->kernel,
                                          .gridDim = { op->grid[0], op->grid[1], op->grid[2] },
                                          .blockDim = { op->block[0], op->block[1], op->block[2] },
                                          .sharedMemBytes = (unsigned)op->shared,
                                          .kernelParams = args };
}

static void forget(rk__cuda_queue *q, graph *g)
{
    if (!g)
        return;
    for (int i = 0; i < RK__QUEUE_GRAPHS; i++) {
        if (q->graph[i] == g)
            q->graph[i] = NULL;
        else if (q->graph[i] && q->graph[i]->next == g)
            q->graph[i]->next = NULL;
    }
    if (q->last == g)
        q->last = NULL;
    if (g->run)
        rk__cuda_quiet(cudaGraphExecDestroy(g->run));
    if (g->graph)
        rk__cuda_quiet(cudaGraphDestroy(g->graph));
    rk__oplist_free(&g->list);
    free(g->node);
    free(g);
}

void rk__graph_free_all(rk__cuda_queue *q)
{
    for (int i = 0; i < RK__QUEUE_GRAPHS; i++)
        forget(q, q->graph[i]);
}

/* Captures of other threads, and what they do meanwhile, are no concern of this one: thread-local. */
static cudaError_t capture(rk__cuda_queue *q, const rk__oplist *l, const rk__op *op, cudaGraph_t *out)
{
    void *args[RK__CUDA_MOST_ARGS];
    cudaError_t e = cudaSuccess;
    *out = NULL;
    if (!q->aside && (e = cudaStreamCreateWithFlags(&q->aside, cudaStreamNonBlocking)))
        q->aside = NULL;
    if (!e)
        e = cudaStreamBeginCapture(q->aside, cudaStreamCaptureModeThreadLocal);
    if (e)
        return e;
    rk__op_args(l, op, args);
    e = op->call(q->dev, args[0], q->aside);
    const cudaError_t end = cudaStreamEndCapture(q->aside, out);
    if (!e && !end)
        return cudaSuccess;
    if (!end && *out)
        rk__cuda_quiet(cudaGraphDestroy(*out));
    *out = NULL;
    return e ? e : end;
}

/* Nodes that one comes after. */
typedef struct edges {
    cudaGraphNode_t from[2];
    size_t n;
} edges;

static void add_edge(edges *e, cudaGraphNode_t from)
{
    if (from && (e->n == 0 || e->from[0] != from))
        e->from[e->n++] = from;
}

/* The node has a copy of its own of what was captured. */
static cudaError_t add_call(rk__cuda_queue *q, graph *g, uint32_t i, const edges *after)
{
    cudaGraph_t captured;
    cudaError_t e = capture(q, &g->list, &g->list.op[i], &captured);
    if (e)
        return e;
    e = cudaGraphAddChildGraphNode(&g->node[i], g->graph, after->from, after->n, captured);
    const cudaError_t gone = cudaGraphDestroy(captured);
    return e ? e : gone;
}

/* After its mark, and after the one before it of its branch. */
static cudaError_t add_beside(graph *g, uint32_t i)
{
    const rk__op *op = &g->list.op[i];
    edges after = { 0 };
    uint32_t before = i;
    while (before > 0 && g->list.op[before - 1].beside != op->beside)
        before--;
    if (op->arg != RK__NO_OP)
        add_edge(&after, g->node[op->arg]);
    if (before > 0)
        add_edge(&after, g->node[before - 1]);
    return cudaGraphAddChildGraphNode(&g->node[i], g->graph, after.from, after.n, op->recorded->graph);
}

/* An operation of the compute stream; after: the one before it. */
static cudaError_t add_node(rk__cuda_queue *q, graph *g, uint32_t i, edges *after)
{
    const rk__op *op = &g->list.op[i];
    if (op->kind == RK__OP_CALL)
        return add_call(q, g, i, after);
    if (op->kind == RK__OP_COPY)
        return cudaGraphAddMemcpyNode1D(&g->node[i], g->graph, after->from, after->n, op->dst, op->src,
                                        op->bytes, cudaMemcpyDeviceToDevice);
    if (op->kind == RK__OP_SET) {
        const struct cudaMemsetParams p = set_params(op);
        return cudaGraphAddMemsetNode(&g->node[i], g->graph, after->from, after->n, &p);
    }
    if (op->kind == RK__OP_JOIN) {
        add_edge(after, g->node[op->arg]);
        return cudaGraphAddEmptyNode(&g->node[i], g->graph, after->from, after->n);
    }
    void *args[RK__CUDA_MOST_ARGS];
    const struct cudaKernelNodeParams p = kernel_params(&g->list, op, args);
    return cudaGraphAddKernelNode(&g->node[i], g->graph, after->from, after->n, &p);
}

/* tail: the last node of the compute stream, or NULL, which is what a mark stands for. */
static cudaError_t add_op(rk__cuda_queue *q, graph *g, uint32_t i, cudaGraphNode_t *tail)
{
    edges after = { 0 };
    cudaError_t e = cudaSuccess;
    if (g->list.op[i].kind == RK__OP_BESIDE)
        return add_beside(g, i);
    add_edge(&after, *tail);
    if (g->list.op[i].kind == RK__OP_MARK)
        g->node[i] = *tail;
    else
        e = add_node(q, g, i, &after);
    if (!e)
        *tail = g->node[i];
    return e;
}

/* What is told of it is the caller's choice: rk__cuda_queue.must. */
static void failed(rk__cuda_queue *q, graph *g, cudaError_t e)
{
    rk__cuda_quiet(e);
    *q->dev->library = '\0';
    q->why = e;
    q->failures++;
    forget(q, g);
}

static cudaError_t build(rk__cuda_queue *q, graph *g)
{
    cudaGraphNode_t tail = NULL;
    cudaError_t e = cudaGraphCreate(&g->graph, 0);
    if (e)
        g->graph = NULL;
    for (uint32_t i = 0; i < g->list.n && !e; i++)
        e = add_op(q, g, i, &tail);
    if (!e)
        e = cudaGraphInstantiateWithFlags(&g->run, g->graph, 0);
    if (e)
        g->run = NULL;
    return e;
}

static graph **place_for(rk__cuda_queue *q)
{
    graph **oldest = &q->graph[0];
    for (int i = 0; i < RK__QUEUE_GRAPHS; i++) {
        if (!q->graph[i])
            return &q->graph[i];
        if (q->graph[i]->used < (*oldest)->used)
            oldest = &q->graph[i];
    }
    forget(q, *oldest);
    return oldest;
}

static graph *make(rk__cuda_queue *q, uint64_t look)
{
    graph *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->look = look;
    g->node = calloc(q->list.n, sizeof *g->node);
    const bool room = g->node && rk__oplist_copy(&q->list, &g->list);
    const cudaError_t e = room ? build(q, g) : cudaErrorMemoryAllocation;
    if (e) {
        failed(q, g, e);
        return NULL;
    }
    *place_for(q) = g;
    return g;
}

/* ---- the values of today ---- */

/* It fails where the library now launches other kernels than before. */
static cudaError_t set_call(rk__cuda_queue *q, graph *g, const rk__oplist *l, uint32_t i)
{
    cudaGraph_t captured;
    cudaError_t e = capture(q, l, &l->op[i], &captured);
    if (e)
        return e;
    e = cudaGraphExecChildGraphNodeSetParams(g->run, g->node[i], captured);
    const cudaError_t gone = cudaGraphDestroy(captured);
    return e ? e : gone;
}

static cudaError_t set_node(rk__cuda_queue *q, graph *g, const rk__oplist *l, uint32_t i)
{
    const rk__op *op = &l->op[i];
    if (op->kind == RK__OP_CALL)
        return set_call(q, g, l, i);
    if (op->kind == RK__OP_BESIDE)
        return cudaGraphExecChildGraphNodeSetParams(g->run, g->node[i], op->recorded->graph);
    if (op->kind == RK__OP_COPY)
        return cudaGraphExecMemcpyNodeSetParams1D(g->run, g->node[i], op->dst, op->src, op->bytes,
                                                  cudaMemcpyDeviceToDevice);
    if (op->kind == RK__OP_SET) {
        const struct cudaMemsetParams p = set_params(op);
        return cudaGraphExecMemsetNodeSetParams(g->run, g->node[i], &p);
    }
    void *args[RK__CUDA_MOST_ARGS];
    const struct cudaKernelNodeParams p = kernel_params(l, op, args);
    return cudaGraphExecKernelNodeSetParams(g->run, g->node[i], &p);
}

/* A graph that is running is not touched by this: the values are of its next launch. True: it is to be made
 * anew. What an update refuses differs between versions of CUDA and kinds of nodes, and is taken by a new
 * graph; of what is a failure the new graph tells. */
static bool renew(rk__cuda_queue *q, graph *g)
{
    const rk__oplist *l = &q->list;
    cudaError_t e = cudaSuccess;
    bool changed = false;
    for (uint32_t i = 0; i < l->n && !e; i++) {
        if (rk__op_same(&g->list, l, i))
            continue;
        e = set_node(q, g, l, i);
        changed = true;
    }
    if (e)
        *q->dev->library = '\0';
    return rk__cuda_quiet(e) || (changed && !rk__oplist_copy(l, &g->list));
}

bool rk__graph_launch(rk__cuda_queue *q)
{
    if (!q->graphs || q->list.n < RK__QUEUE_LEAST || q->failures >= PATIENCE || rk__beside_ended(q))
        return false;
    const uint64_t look = look_of(&q->list);
    graph *g = find(q, look);
    if (!g && (q->cut || !seen_before(q, look)))
        return false;
    if (g && renew(q, g)) {
        forget(q, g);
        g = NULL;
    }
    if (!g)
        g = make(q, look);
    if (!g)
        return false;
    cudaError_t e = rk__beside_before_graph(q);
    if (!e)
        e = cudaGraphLaunch(g->run, q->stream);
    if (e) {
        failed(q, g, e);
        return false;
    }
    rk__beside_after_graph(q);
    g->used = ++q->launches;
    if (q->last)
        q->last->next = g;
    q->last = g;
    return true;
}
