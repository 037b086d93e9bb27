/* Graphs of the stand-ins: what CUDA promises of captures, updates and launches holds, and what it refuses is
 * refused with its error. Run by test_graphs.sh in every build and under every order. */
#include "cuda/rk_cuda.h"

#include <stdio.h>
#include <stdlib.h>

enum { N = 256 };

#define CHECK(c)                                                    \
    do {                                                            \
        if (!(c)) {                                                 \
            printf("%s:%d: %s is false\n", __FILE__, __LINE__, #c); \
            exit(1);                                                \
        }                                                           \
    } while (0)
#define GOOD(call) CHECK((call) == cudaSuccess)

static __global__ void add(float *x, const float *y, float a)
{
    x[threadIdx.x] += a * y[threadIdx.x];
}

static __global__ void twice(float *x)
{
    x[threadIdx.x] *= 2;
}

static struct {
    cudaStream_t s, other;
    cudaEvent_t e, f;
    float *x, *y, *z, *pinned, *back;
    float host[N];
} w;

static void open_world(void)
{
    GOOD(cudaStreamCreateWithFlags(&w.s, cudaStreamNonBlocking));
    GOOD(cudaStreamCreateWithFlags(&w.other, cudaStreamNonBlocking));
    GOOD(cudaEventCreateWithFlags(&w.e, cudaEventDisableTiming));
    GOOD(cudaEventCreateWithFlags(&w.f, cudaEventDisableTiming));
    GOOD(cudaMalloc((void **)&w.x, sizeof w.host));
    GOOD(cudaMalloc((void **)&w.y, sizeof w.host));
    GOOD(cudaMalloc((void **)&w.z, sizeof w.host));
    GOOD(cudaMallocHost((void **)&w.pinned, sizeof w.host));
    GOOD(cudaMallocHost((void **)&w.back, sizeof w.host));
}

static void close_world(void)
{
    cudaFree(w.x);
    cudaFree(w.y);
    cudaFree(w.z);
    cudaFreeHost(w.pinned);
    cudaFreeHost(w.back);
    cudaEventDestroy(w.e);
    cudaEventDestroy(w.f);
    cudaStreamDestroy(w.s);
    cudaStreamDestroy(w.other);
}

/* x = y = value, z = 0 */
static void set(float value)
{
    for (int i = 0; i < N; i++)
        w.pinned[i] = value;
    GOOD(cudaMemcpyAsync(w.x, w.pinned, sizeof w.host, cudaMemcpyHostToDevice, w.s));
    GOOD(cudaMemcpyAsync(w.y, w.pinned, sizeof w.host, cudaMemcpyHostToDevice, w.s));
    GOOD(cudaMemsetAsync(w.z, 0, sizeof w.host, w.s));
    GOOD(cudaStreamSynchronize(w.s));
}

static float value_of(const float *x)
{
    GOOD(cudaMemcpyAsync(w.back, x, sizeof w.host, cudaMemcpyDeviceToHost, w.s));
    GOOD(cudaStreamSynchronize(w.s));
    for (int i = 1; i < N; i++)
        CHECK(w.back[i] == w.back[0]);
    return w.back[0];
}

static void begin(void)
{
    GOOD(cudaStreamBeginCapture(w.s, cudaStreamCaptureModeRelaxed));
}

static cudaGraph_t end(void)
{
    cudaGraph_t g;
    GOOD(cudaStreamEndCapture(w.s, &g));
    return g;
}

static cudaGraphExec_t make(cudaGraph_t g)
{
    cudaGraphExec_t x;
    GOOD(cudaGraphInstantiateWithFlags(&x, g, 0));
    return x;
}

static void launch_add(cudaStream_t s, float *x, const float *y, float a)
{
    RK_LAUNCH(add, 1, N, 0, s, x, y, a);
    GOOD(cudaGetLastError());
}

/* What is captured does not run; arguments are of the capture, pinned memory is read at the launch. */
static void a_line(void)
{
    float a = 2;
    enum cudaStreamCaptureStatus status;
    set(1);
    begin();
    GOOD(cudaStreamIsCapturing(w.s, &status));
    CHECK(status == cudaStreamCaptureStatusActive);
    GOOD(cudaMemcpyAsync(w.y, w.pinned, sizeof w.host, cudaMemcpyHostToDevice, w.s));
    launch_add(w.s, w.x, w.y, a);
    a = 1000;
    cudaGraph_t g = end();
    GOOD(cudaStreamIsCapturing(w.s, &status));
    CHECK(status == cudaStreamCaptureStatusNone);
    CHECK(value_of(w.x) == 1);
    cudaGraphExec_t x = make(g);
    for (int i = 0; i < N; i++)
        w.pinned[i] = 10;
    GOOD(cudaGraphLaunch(x, w.s));
    GOOD(cudaGraphLaunch(x, w.s));
    CHECK(value_of(w.x) == 41);
    size_t n = 0;
    GOOD(cudaGraphGetNodes(g, NULL, &n));
    CHECK(n == 2);
    cudaGraphNode_t nodes[2];
    enum cudaGraphNodeType type;
    GOOD(cudaGraphGetNodes(g, nodes, &n));
    GOOD(cudaGraphNodeGetType(nodes[0], &type));
    CHECK(type == cudaGraphNodeTypeMemcpy);
    GOOD(cudaGraphExecDestroy(x));
    GOOD(cudaGraphDestroy(g));
}

/* Two branches that meet again, by events. */
static cudaGraph_t capture_diamond(void)
{
    begin();
    RK_LAUNCH(twice, 1, N, 0, w.s, w.y);
    GOOD(cudaEventRecord(w.e, w.s));
    GOOD(cudaStreamWaitEvent(w.other, w.e, 0));
    launch_add(w.s, w.x, w.y, 1);
    launch_add(w.other, w.z, w.y, 1);
    GOOD(cudaEventRecord(w.f, w.other));
    GOOD(cudaStreamWaitEvent(w.s, w.f, 0));
    launch_add(w.s, w.x, w.z, 1);
    return end();
}

static void a_fork_and_a_join(void)
{
    set(1);
    cudaGraph_t g = capture_diamond();
    cudaGraphExec_t x = make(g);
    GOOD(cudaGraphLaunch(x, w.s));
    CHECK(value_of(w.x) == 5);
    GOOD(cudaGraphLaunch(x, w.s));
    CHECK(value_of(w.x) == 15);
    launch_add(w.other, w.x, w.x, 0); /* and the other stream is one as before */
    GOOD(cudaStreamSynchronize(w.other));
    GOOD(cudaGraphExecDestroy(x));
    GOOD(cudaGraphDestroy(g));
}

/* One executable graph in two streams: one launch after the other. */
static void two_streams(void)
{
    set(1);
    begin();
    RK_LAUNCH(twice, 1, N, 0, w.s, w.x);
    cudaGraph_t g = end();
    cudaGraphExec_t x = make(g);
    GOOD(cudaGraphLaunch(x, w.other));
    GOOD(cudaGraphLaunch(x, w.s));
    CHECK(value_of(w.x) == 4);
    GOOD(cudaGraphExecDestroy(x));
    GOOD(cudaGraphDestroy(g));
}

static void new_values_of_nodes(void)
{
    set(1);
    begin();
    GOOD(cudaMemsetAsync(w.z, 0, sizeof w.host, w.s));
    GOOD(cudaMemcpyAsync(w.y, w.pinned, sizeof w.host, cudaMemcpyHostToDevice, w.s));
    launch_add(w.s, w.x, w.y, 1);
    cudaGraph_t g = end();
    cudaGraphExec_t x = make(g);
    cudaGraphNode_t node[3];
    size_t n = 3;
    float a = 7;
    void *args[] = { &w.x, &w.z, &a };
    struct cudaKernelNodeParams k = { (void *)add, 1, N, 0, args, NULL };
    struct cudaMemsetParams m = { w.z, 0, 0, 1, sizeof w.host, 1 };
    GOOD(cudaGraphGetNodes(g, node, &n));
    GOOD(cudaGraphExecMemsetNodeSetParams(x, node[0], &m));
    GOOD(
        cudaGraphExecMemcpyNodeSetParams1D(x, node[1], w.z, w.pinned, sizeof w.host, cudaMemcpyHostToDevice));
    GOOD(cudaGraphExecKernelNodeSetParams(x, node[2], &k));
    CHECK(cudaGraphExecMemcpyNodeSetParams1D(x, node[1], w.z, w.y, sizeof w.host, cudaMemcpyDeviceToDevice) ==
          cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue);
    a = 1000;
    GOOD(cudaGraphLaunch(x, w.s));
    CHECK(value_of(w.x) == 8);
    GOOD(cudaGraphExecDestroy(x));
    GOOD(cudaGraphDestroy(g));
}

/* The capture is void: what follows is refused, and it ends without a graph. */
static void ends_void(void)
{
    cudaGraph_t g;
    enum cudaStreamCaptureStatus status;
    GOOD(cudaStreamIsCapturing(w.s, &status));
    CHECK(status == cudaStreamCaptureStatusInvalidated);
    CHECK(cudaMemsetAsync(w.z, 0, 4, w.s) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamEndCapture(w.s, &g) == cudaErrorStreamCaptureInvalidated && !g);
    GOOD(cudaStreamSynchronize(w.s));
    cudaGetLastError();
}

static void refusals(void)
{
    void *p;
    cudaGraph_t g;
    set(1);
    begin();
    CHECK(cudaStreamSynchronize(w.s) == cudaErrorStreamCaptureUnsupported);
    ends_void();
    begin();
    CHECK(cudaStreamQuery(w.s) == cudaErrorStreamCaptureUnsupported);
    ends_void();
    begin();
    CHECK(cudaDeviceSynchronize() == cudaErrorStreamCaptureUnsupported);
    ends_void();
    begin();
    CHECK(cudaMemcpyAsync(w.x, w.host, 4, cudaMemcpyHostToDevice, w.s) == cudaErrorStreamCaptureUnsupported);
    ends_void();
    begin();
    CHECK(cudaMemcpyAsync(w.host, w.x, 4, cudaMemcpyDeviceToHost, w.s) == cudaErrorStreamCaptureUnsupported);
    ends_void();
    begin();
    GOOD(cudaEventRecord(w.e, w.s));
    CHECK(cudaEventQuery(w.e) == cudaErrorCapturedEvent);
    ends_void();
    begin();
    GOOD(cudaEventRecord(w.e, w.s));
    CHECK(cudaEventSynchronize(w.e) == cudaErrorCapturedEvent);
    ends_void();
    GOOD(cudaEventRecord(w.e, w.other));
    begin();
    CHECK(cudaStreamWaitEvent(w.s, w.e, 0) == cudaErrorStreamCaptureIsolation);
    ends_void();
    begin();
    CHECK(cudaStreamBeginCapture(w.s, cudaStreamCaptureModeRelaxed) == cudaErrorInvalidValue);
    GOOD(cudaMalloc(&p, 4)); /* relaxed: the thread knows what it does */
    GOOD(cudaFree(p));
    GOOD(cudaGraphDestroy(end()));
    GOOD(cudaStreamBeginCapture(w.s, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaMalloc(&p, 4) == cudaErrorStreamCaptureUnsupported);
    ends_void();
    cudaGetLastError();
    CHECK(cudaStreamEndCapture(w.s, &g) == cudaErrorInvalidValue); /* there is none */
    cudaGetLastError();
}

static void forks_that_do_not_join(void)
{
    cudaGraph_t g;
    begin();
    GOOD(cudaEventRecord(w.e, w.s));
    GOOD(cudaStreamWaitEvent(w.other, w.e, 0));
    GOOD(cudaGraphDestroy(end())); /* nothing was done there */
    begin();
    GOOD(cudaEventRecord(w.e, w.s));
    GOOD(cudaStreamWaitEvent(w.other, w.e, 0));
    launch_add(w.other, w.z, w.y, 1);
    CHECK(cudaStreamEndCapture(w.s, &g) == cudaErrorStreamCaptureUnjoined);
    begin();
    GOOD(cudaEventRecord(w.e, w.s));
    GOOD(cudaStreamWaitEvent(w.other, w.e, 0));
    CHECK(cudaStreamEndCapture(w.other, &g) == cudaErrorStreamCaptureUnmatched);
    ends_void();
    begin();
    GOOD(cudaEventRecord(w.e, w.s));
    GOOD(cudaStreamBeginCapture(w.other, cudaStreamCaptureModeRelaxed));
    CHECK(cudaStreamWaitEvent(w.other, w.e, 0) == cudaErrorStreamCaptureMerge);
    CHECK(cudaStreamEndCapture(w.other, &g) == cudaErrorStreamCaptureInvalidated);
    ends_void();
}

static cudaGraph_t capture_one(float *x, const float *y, float a, bool copy)
{
    cudaGraph_t g;
    GOOD(cudaStreamBeginCapture(w.other, cudaStreamCaptureModeThreadLocal));
    if (copy)
        GOOD(cudaMemcpyAsync(x, y, sizeof w.host, cudaMemcpyDeviceToDevice, w.other));
    launch_add(w.other, x, y, a);
    GOOD(cudaStreamEndCapture(w.other, &g));
    return g;
}

/* A graph within a graph: a copy of what it was then, which other values may take the place of, but no other
 * kinds. */
static void graphs_within(void)
{
    cudaGraph_t g, child = capture_one(w.x, w.y, 1, false), other = capture_one(w.z, w.y, 3, false),
                   larger = capture_one(w.x, w.y, 1, true);
    cudaGraphNode_t node[3];
    set(1);
    GOOD(cudaGraphCreate(&g, 0));
    GOOD(cudaGraphAddChildGraphNode(&node[0], g, NULL, 0, child));
    GOOD(cudaGraphAddChildGraphNode(&node[1], g, node, 1, child));
    GOOD(cudaGraphAddEmptyNode(&node[2], g, node, 2));
    GOOD(cudaGraphDestroy(child));
    cudaGraphExec_t x = make(g);
    GOOD(cudaGraphLaunch(x, w.s));
    CHECK(value_of(w.x) == 3);
    GOOD(cudaGraphExecChildGraphNodeSetParams(x, node[1], other));
    CHECK(cudaGraphExecChildGraphNodeSetParams(x, node[0], larger) == cudaErrorGraphExecUpdateFailure);
    cudaGetLastError();
    GOOD(cudaGraphLaunch(x, w.s));
    GOOD(cudaGraphExecDestroy(x)); /* it may still run */
    CHECK(value_of(w.x) == 4);
    CHECK(value_of(w.z) == 3);
    GOOD(cudaGraphDestroy(other));
    GOOD(cudaGraphDestroy(larger));
    GOOD(cudaGraphDestroy(g));
}

int main(void)
{
    open_world();
    a_line();
    a_fork_and_a_join();
    two_streams();
    new_values_of_nodes();
    refusals();
    forks_that_do_not_join();
    graphs_within();
    close_world();
    puts("good");
    return 0;
}
