/* Graphs: captures of streams, and what runs them. A capture follows events from stream to stream as CUDA
 * does, and what CUDA forbids meanwhile makes it void; why is told on stderr, with the place. A launch puts
 * the nodes into streams of the graph's own where they are not in one line, so that what nothing orders may
 * run in any order, and the check build sees it. */
#include "cuda/host/runtime.h"
#include "cuda/host/streams.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <thread>

#define HERE __builtin_return_address(0)

struct CUgraphNode_st {
    rk_emu_work work;
    std::vector<cudaGraphNode_t> after;
    size_t index;                            /* in its graph */
    std::shared_ptr<const CUgraph_st> child; /* of a node that is a graph: its own copy */
};

struct CUgraph_st {
    std::vector<std::unique_ptr<CUgraphNode_st>> nodes; /* each behind those that it comes after */
};

struct rk_emu_capture {
    std::unique_ptr<CUgraph_st> graph;
    CUstream_st *origin;
    std::set<CUstream_st *> streams;
    enum cudaStreamCaptureMode mode;
    std::thread::id thread;
    bool invalid, ended;
    unsigned long long id;
};

namespace
{

typedef std::shared_ptr<rk_emu_capture> capture;

struct exec_node {
    rk_emu_work work;
    std::vector<size_t> after;
    size_t lane; /* 0: the stream that the graph is launched in */
};

/* Where the nodes are that a node of a graph became. */
struct part_of {
    size_t first, n;
    std::vector<size_t> before; /* what all of it comes after */
    enum cudaGraphNodeType type;
};

struct {
    std::vector<capture> captures; /* under way */
    std::set<const CUgraph_st *> graphs;
    unsigned long long captured;
} g;

cudaError_t make_void(const capture &c, cudaError_t e, const char *call, void *pc)
{
    char where[1024];
    fprintf(stderr, "rk_emu: capture: %s at %s: %s\n", call, rk_emu_place_of(pc, where, sizeof where),
            cudaGetErrorString(e));
    c->invalid = true;
    return rk_emu_error(e);
}

void release_streams(const capture &c)
{
    for (CUstream_st *s : c->streams)
        s->captured = rk_emu_captured();
    c->ended = true;
    g.captures.erase(std::find(g.captures.begin(), g.captures.end(), c));
}

cudaGraphNode_t add_node(CUgraph_st *graph, const rk_emu_work &w, const std::vector<cudaGraphNode_t> &after)
{
    graph->nodes.emplace_back(new CUgraphNode_st{ w, after, graph->nodes.size(), nullptr });
    return graph->nodes.back().get();
}

void join(std::vector<cudaGraphNode_t> &a, const std::vector<cudaGraphNode_t> &b)
{
    for (cudaGraphNode_t n : b)
        if (std::find(a.begin(), a.end(), n) == a.end())
            a.push_back(n);
}

/* All that was forked off has come back: every node comes before where the origin stands. */
bool joined(const rk_emu_capture &c)
{
    std::set<cudaGraphNode_t> seen;
    std::vector<cudaGraphNode_t> next = c.origin->captured.after;
    while (!next.empty()) {
        cudaGraphNode_t n = next.back();
        next.pop_back();
        if (seen.insert(n).second)
            next.insert(next.end(), n->after.begin(), n->after.end());
    }
    return seen.size() == c.graph->nodes.size();
}

/* Does memory of this kind stay what it was? A node's copy may not move between host and device. */
bool same_kinds(const rk_emu_work &a, const rk_emu_work &b)
{
    return rk_emu_kind_of(a.dst) == rk_emu_kind_of(b.dst) &&
           (a.type != cudaGraphNodeTypeMemcpy || rk_emu_kind_of(a.src) == rk_emu_kind_of(b.src));
}

const CUgraph_st *checked(const CUgraph_st *graph, const char *call)
{
    if (!g.graphs.count(graph))
        rk_emu_report("graph", "%s of %p, which is no graph, or one that was destroyed", call,
                      (const void *)graph);
    return graph;
}

} // namespace

struct CUgraphExec_st {
    const CUgraph_st *made_of; /* whose nodes name these */
    std::vector<exec_node> nodes;
    std::map<const CUgraphNode_st *, part_of> parts;
    std::vector<CUstream_st *> lanes; /* from 1 */
    rk_emu_operation_p last;
};

namespace
{

/* A node follows the last of the lane of one that it comes after, or begins a lane. */
void lay_lanes(CUgraphExec_st *x)
{
    std::vector<size_t> end; /* of each lane: its last node */
    for (size_t i = 0; i < x->nodes.size(); i++) {
        exec_node &n = x->nodes[i];
        n.lane = end.size();
        for (size_t d : n.after)
            if (n.lane == end.size() && end[x->nodes[d].lane] == d)
                n.lane = x->nodes[d].lane;
        if (n.lane == end.size())
            end.push_back(i);
        end[n.lane] = i;
    }
    for (size_t lane = 1; lane < end.size(); lane++)
        x->lanes.push_back(rk_emu_stream_open());
}

void add_all(std::vector<size_t> &a, const std::vector<size_t> &b)
{
    for (size_t i : b)
        if (std::find(a.begin(), a.end(), i) == a.end())
            a.push_back(i);
    std::sort(a.begin(), a.end());
}

/* Appends the nodes of a graph, those of graphs within it too, which all come after `before`. Returns the
 * last ones: what comes after the graph comes after them. parts: of its own nodes; may be null. */
std::vector<size_t> append_nodes(std::vector<exec_node> &all, const CUgraph_st *graph,
                                 const std::vector<size_t> &before,
                                 std::map<const CUgraphNode_st *, part_of> *parts)
{
    std::vector<std::vector<size_t>> ends(graph->nodes.size());
    std::set<size_t> inner;
    for (auto &n : graph->nodes) {
        part_of part = { all.size(), 0, {}, n->work.type };
        for (cudaGraphNode_t d : n->after) {
            add_all(part.before, ends[d->index]);
            inner.insert(d->index);
        }
        if (n->after.empty())
            part.before = before;
        if (n->child) {
            ends[n->index] = append_nodes(all, n->child.get(), part.before, nullptr);
        } else {
            ends[n->index] = { all.size() };
            all.push_back(exec_node{ n->work, part.before, 0 });
        }
        part.n = all.size() - part.first;
        if (parts)
            (*parts)[n.get()] = part;
    }
    std::vector<size_t> last;
    for (size_t i = 0; i < ends.size(); i++)
        if (!inner.count(i))
            add_all(last, ends[i]);
    return last.empty() ? before : last;
}

std::vector<exec_node> nodes_of(const CUgraph_st *graph, std::map<const CUgraphNode_st *, part_of> *parts)
{
    std::vector<exec_node> all;
    append_nodes(all, graph, {}, parts);
    return all;
}

std::shared_ptr<const CUgraph_st> copy_of(const CUgraph_st *graph)
{
    std::shared_ptr<CUgraph_st> copy = std::make_shared<CUgraph_st>();
    for (auto &n : graph->nodes) {
        std::vector<cudaGraphNode_t> after;
        for (cudaGraphNode_t d : n->after)
            after.push_back(copy->nodes[d->index].get());
        add_node(copy.get(), n->work, after)->child = n->child;
    }
    return copy;
}

/* A node of an executable graph takes the other's values. */
bool fits(const exec_node &a, const exec_node &b)
{
    return a.after == b.after && a.work.type == b.work.type &&
           (a.work.type == cudaGraphNodeTypeKernel || same_kinds(a.work, b.work));
}

exec_node *node_of(CUgraphExec_st *x, cudaGraphNode_t node, enum cudaGraphNodeType type, const char *call)
{
    const CUgraph_st *graph = checked(x->made_of, call);
    for (auto &n : graph->nodes)
        if (n.get() == node && x->parts[node].type == type)
            return &x->nodes[x->parts[node].first];
    rk_emu_report("graph", "%s: no node of this kind is in the graph that the executable one was made of",
                  call);
}

/* RK_EMU_GRAPH=rigid: copies and sets of a graph that was made take no new values, as CUDA leaves open what an
 * update takes. */
bool is_rigid(const rk_emu_work &w)
{
    const char *setting = getenv("RK_EMU_GRAPH");
    return w.type != cudaGraphNodeTypeKernel && setting && !strcmp(setting, "rigid");
}

cudaError_t set_node(exec_node *n, const rk_emu_work &w)
{
    if (is_rigid(w) || (w.type != cudaGraphNodeTypeKernel && !same_kinds(n->work, w)))
        return rk_emu_error(cudaErrorInvalidValue);
    n->work = w;
    rk_emu_counted.graph_updates++;
    return cudaSuccess;
}

} // namespace

/* ---- what other calls ask of captures ---- */

bool rk_emu_capturing(cudaStream_t s)
{
    return s->captured.in != nullptr;
}

cudaError_t rk_emu_void_capture(cudaStream_t s, cudaError_t e, const char *call, void *pc)
{
    return make_void(s->captured.in, e, call, pc);
}

cudaError_t rk_emu_void_event(CUevent_st *e, const char *call, void *pc)
{
    return make_void(e->captured.in, cudaErrorCapturedEvent, call, pc);
}

cudaError_t rk_emu_unsafe(bool everything, const char *call, void *pc)
{
    cudaError_t e = cudaSuccess;
    for (const capture &c : g.captures) {
        bool own = c->mode == cudaStreamCaptureModeThreadLocal && c->thread == std::this_thread::get_id();
        if (everything || own || c->mode == cudaStreamCaptureModeGlobal)
            e = make_void(c, cudaErrorStreamCaptureUnsupported, call, pc);
    }
    return e;
}

cudaError_t rk_emu_join_capture(CUstream_st *s, CUevent_st *e, void *pc)
{
    capture mine = s->captured.in, its = e->captured.in;
    if (!its)
        return make_void(mine, cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent", pc);
    if (its->ended)
        return cudaErrorInvalidValue;
    if (mine && mine != its) {
        make_void(mine, cudaErrorStreamCaptureMerge, "cudaStreamWaitEvent", pc);
        return make_void(its, cudaErrorStreamCaptureMerge, "cudaStreamWaitEvent", pc);
    }
    s->captured.in = its;
    its->streams.insert(s);
    join(s->captured.after, e->captured.after);
    return cudaSuccess;
}

cudaError_t rk_emu_submit(cudaStream_t s, const rk_emu_work &w)
{
    capture c = s->captured.in;
    if (!c) {
        rk_emu_counted.plain_launches += w.type == cudaGraphNodeTypeKernel;
        rk_emu_enqueue_work(s, w);
        return cudaSuccess;
    }
    if (c->invalid)
        return cudaErrorStreamCaptureInvalidated;
    s->captured.after = { add_node(c->graph.get(), w, s->captured.after) };
    return cudaSuccess;
}

cudaError_t rk_emu_submit_library(cudaStream_t s, const char *what, std::function<rk_emu_part()> library)
{
    rk_emu_work w = {};
    w.type = cudaGraphNodeTypeKernel;
    w.name = what;
    w.library = std::move(library);
    return rk_emu_submit(s, w);
}

extern "C" {

/* ---- captures ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    RK_EMU_CALL("cudaStreamBeginCapture", cudaErrorUnknown);
    rk_emu_check_stream(s, "cudaStreamBeginCapture", HERE);
    if (rk_emu_capturing(s))
        return rk_emu_error(cudaErrorInvalidValue);
    capture c = std::make_shared<rk_emu_capture>();
    c->graph.reset(new CUgraph_st());
    c->origin = s;
    c->streams.insert(s);
    c->mode = mode;
    c->thread = std::this_thread::get_id();
    c->id = ++g.captured;
    s->captured.in = c;
    g.captures.push_back(c);
    return cudaSuccess;
}

/* Ends the capture even where it is made to fail, as a failure of CUDA's does. */
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *graph)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails("cudaStreamEndCapture");
    rk_emu_check_stream(s, "cudaStreamEndCapture", HERE);
    capture c = s->captured.in;
    *graph = nullptr;
    if (!c)
        return rk_emu_error(cudaErrorInvalidValue);
    if (c->origin != s)
        return make_void(c, cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture", HERE);
    if (c->mode != cudaStreamCaptureModeRelaxed && c->thread != std::this_thread::get_id())
        return make_void(c, cudaErrorStreamCaptureWrongThread, "cudaStreamEndCapture", HERE);
    cudaError_t e = fails ? cudaErrorUnknown : c->invalid ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
    if (!e && !joined(*c))
        e = make_void(c, cudaErrorStreamCaptureUnjoined, "cudaStreamEndCapture", HERE);
    release_streams(c);
    if (e)
        return rk_emu_error(e);
    *graph = c->graph.release();
    g.graphs.insert(*graph);
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *status)
{
    RK_EMU_CALL("cudaStreamIsCapturing", cudaErrorUnknown);
    rk_emu_check_stream(s, "cudaStreamIsCapturing", HERE);
    *status = !rk_emu_capturing(s)      ? cudaStreamCaptureStatusNone
              : s->captured.in->invalid ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *status,
                                     unsigned long long *id, cudaGraph_t *graph,
                                     const cudaGraphNode_t **after, const cudaGraphEdgeData **, size_t *n)
#else
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t s, enum cudaStreamCaptureStatus *status,
                                        unsigned long long *id, cudaGraph_t *graph,
                                        const cudaGraphNode_t **after, size_t *n)
#endif
{
    cudaError_t e = cudaStreamIsCapturing(s, status);
    if (e || *status != cudaStreamCaptureStatusActive)
        return e;
    if (id)
        *id = s->captured.in->id;
    if (graph)
        *graph = s->captured.in->graph.get();
    if (after)
        *after = s->captured.after.data();
    if (n)
        *n = s->captured.after.size();
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaGraphCreate(cudaGraph_t *graph, unsigned)
{
    RK_EMU_CALL("cudaGraphCreate", cudaErrorMemoryAllocation);
    *graph = new CUgraph_st();
    g.graphs.insert(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                                   size_t n, const struct cudaKernelNodeParams *p)
{
    RK_EMU_CALL("cudaGraphAddKernelNode", cudaErrorMemoryAllocation);
    checked(graph, "cudaGraphAddKernelNode");
    rk_emu_work w = {};
    cudaError_t e =
        rk_emu_kernel_work(&w, p->func, p->gridDim, p->blockDim, p->sharedMemBytes, p->kernelParams);
    if (!e)
        *node = add_node(graph, w, std::vector<cudaGraphNode_t>(after, after + n));
    return rk_emu_error(e);
}

cudaError_t cudaGraphAddMemcpyNode1D(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                                     size_t n, void *dst, const void *src, size_t bytes,
                                     enum cudaMemcpyKind kind)
{
    RK_EMU_CALL("cudaGraphAddMemcpyNode1D", cudaErrorMemoryAllocation);
    checked(graph, "cudaGraphAddMemcpyNode1D");
    rk_emu_work w = {};
    rk_emu_copy_work(&w, dst, src, bytes, kind, HERE);
    if (!bytes)
        return rk_emu_error(cudaErrorInvalidValue);
    *node = add_node(graph, w, std::vector<cudaGraphNode_t>(after, after + n));
    return cudaSuccess;
}

cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                                   size_t n, const struct cudaMemsetParams *p)
{
    RK_EMU_CALL("cudaGraphAddMemsetNode", cudaErrorMemoryAllocation);
    checked(graph, "cudaGraphAddMemsetNode");
    rk_emu_work w = {};
    if (p->elementSize != 1 || p->height != 1 || !p->width)
        return rk_emu_error(cudaErrorInvalidValue);
    rk_emu_set_work(&w, p->dst, (int)p->value, p->width, HERE);
    *node = add_node(graph, w, std::vector<cudaGraphNode_t>(after, after + n));
    return cudaSuccess;
}

cudaError_t cudaGraphAddEmptyNode(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                                  size_t n)
{
    RK_EMU_CALL("cudaGraphAddEmptyNode", cudaErrorMemoryAllocation);
    checked(graph, "cudaGraphAddEmptyNode");
    rk_emu_work w = {};
    w.type = cudaGraphNodeTypeEmpty;
    w.name = "join";
    *node = add_node(graph, w, std::vector<cudaGraphNode_t>(after, after + n));
    return cudaSuccess;
}

cudaError_t cudaGraphAddChildGraphNode(cudaGraphNode_t *node, cudaGraph_t graph, const cudaGraphNode_t *after,
                                       size_t n, cudaGraph_t child)
{
    RK_EMU_CALL("cudaGraphAddChildGraphNode", cudaErrorMemoryAllocation);
    checked(graph, "cudaGraphAddChildGraphNode");
    checked(child, "cudaGraphAddChildGraphNode");
    rk_emu_work w = {};
    w.type = cudaGraphNodeTypeGraph;
    *node = add_node(graph, w, std::vector<cudaGraphNode_t>(after, after + n));
    (*node)->child = copy_of(child);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *n)
{
    RK_EMU_CALL("cudaGraphGetNodes", cudaErrorUnknown);
    checked(graph, "cudaGraphGetNodes");
    for (size_t i = 0; nodes && i < *n && i < graph->nodes.size(); i++)
        nodes[i] = graph->nodes[i].get();
    *n = graph->nodes.size();
    return cudaSuccess;
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, enum cudaGraphNodeType *type)
{
    RK_EMU_CALL("cudaGraphNodeGetType", cudaErrorUnknown);
    *type = node->work.type;
    return cudaSuccess;
}

/* Frees even where it is made to fail. */
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails("cudaGraphDestroy");
    checked(graph, "cudaGraphDestroy");
    g.graphs.erase(graph);
    delete graph;
    return fails ? rk_emu_error(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *x, cudaGraph_t graph, unsigned long long)
{
    RK_EMU_CALL("cudaGraphInstantiateWithFlags", cudaErrorMemoryAllocation);
    checked(graph, "cudaGraphInstantiateWithFlags");
    *x = new CUgraphExec_st();
    (*x)->made_of = graph;
    (*x)->nodes = nodes_of(graph, &(*x)->parts);
    lay_lanes(*x);
    rk_emu_counted.graphs_made++;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t x)
{
    rk_emu_guard guard;
    bool fails = rk_emu_fails("cudaGraphExecDestroy");
    for (CUstream_st *s : x->lanes) /* one that runs is not waited for */
        rk_emu_stream_abandon(s);
    delete x;
    return fails ? rk_emu_error(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t x, cudaGraphNode_t node,
                                             const struct cudaKernelNodeParams *p)
{
    RK_EMU_CALL("cudaGraphExecKernelNodeSetParams", cudaErrorUnknown);
    exec_node *n = node_of(x, node, cudaGraphNodeTypeKernel, "cudaGraphExecKernelNodeSetParams");
    rk_emu_work w = {};
    cudaError_t e =
        rk_emu_kernel_work(&w, p->func, p->gridDim, p->blockDim, p->sharedMemBytes, p->kernelParams);
    return e ? rk_emu_error(e) : set_node(n, w);
}

cudaError_t cudaGraphExecMemcpyNodeSetParams1D(cudaGraphExec_t x, cudaGraphNode_t node, void *dst,
                                               const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    RK_EMU_CALL("cudaGraphExecMemcpyNodeSetParams1D", cudaErrorUnknown);
    exec_node *n = node_of(x, node, cudaGraphNodeTypeMemcpy, "cudaGraphExecMemcpyNodeSetParams1D");
    rk_emu_work w = {};
    rk_emu_copy_work(&w, dst, src, bytes, kind, HERE);
    return bytes ? set_node(n, w) : rk_emu_error(cudaErrorInvalidValue);
}

cudaError_t cudaGraphExecMemsetNodeSetParams(cudaGraphExec_t x, cudaGraphNode_t node,
                                             const struct cudaMemsetParams *p)
{
    RK_EMU_CALL("cudaGraphExecMemsetNodeSetParams", cudaErrorUnknown);
    exec_node *n = node_of(x, node, cudaGraphNodeTypeMemset, "cudaGraphExecMemsetNodeSetParams");
    rk_emu_work w = {};
    if (p->elementSize != 1 || p->height != 1 || !p->width)
        return rk_emu_error(cudaErrorInvalidValue);
    rk_emu_set_work(&w, p->dst, (int)p->value, p->width, HERE);
    return set_node(n, w);
}

/* Of a failure the node is what it was. */
cudaError_t cudaGraphExecChildGraphNodeSetParams(cudaGraphExec_t x, cudaGraphNode_t node, cudaGraph_t child)
{
    const char *me = "cudaGraphExecChildGraphNodeSetParams";
    RK_EMU_CALL(me, cudaErrorUnknown);
    checked(child, me);
    const part_of &part = x->parts[node];
    node_of(x, node, cudaGraphNodeTypeGraph, me);
    std::vector<exec_node> now(x->nodes.begin(), x->nodes.begin() + (ptrdiff_t)part.first);
    append_nodes(now, child, part.before, nullptr);
    bool alike = now.size() == part.first + part.n;
    for (size_t i = part.first; i < now.size() && alike; i++)
        alike = fits(x->nodes[i], now[i]);
    if (!alike)
        return rk_emu_error(cudaErrorGraphExecUpdateFailure);
    for (size_t i = part.first; i < now.size(); i++)
        x->nodes[i].work = now[i].work;
    rk_emu_counted.graph_updates++;
    return cudaSuccess;
}

/* Launches of one graph follow each other, whatever their streams. */
cudaError_t cudaGraphLaunch(cudaGraphExec_t x, cudaStream_t s)
{
    RK_EMU_CALL("cudaGraphLaunch", cudaErrorLaunchFailure);
    rk_emu_check_stream(s, "cudaGraphLaunch", HERE);
    if (rk_emu_capturing(s))
        return rk_emu_void_capture(s, cudaErrorStreamCaptureUnsupported, "cudaGraphLaunch", HERE);
    std::vector<rk_emu_operation_p> ran(x->nodes.size());
    rk_emu_operation_p begin = rk_emu_push(s, "graph", nullptr, x->last);
    rk_emu_counted.graph_launches++;
    rk_emu_counted.graph_nodes += x->nodes.size();
    for (size_t i = 0; i < x->nodes.size(); i++) {
        const exec_node &n = x->nodes[i];
        CUstream_st *lane = n.lane ? x->lanes[n.lane - 1] : s;
        if (n.after.empty() && n.lane)
            rk_emu_push(lane, "graph", nullptr, begin);
        for (size_t d : n.after)
            if (x->nodes[d].lane != n.lane)
                rk_emu_push(lane, "edge", nullptr, ran[d]);
        rk_emu_enqueue_work(lane, n.work);
        ran[i] = lane->last;
    }
    for (CUstream_st *lane : x->lanes)
        rk_emu_push(s, "graph", nullptr, lane->last);
    x->last = rk_emu_push(s, "graph", nullptr, nullptr);
    return cudaSuccess;
}
}
