/* Planted bugs, one a number: the stand-ins must find each of them (test_planted.sh tells which build does). The line
 * that a report has to name carries "bug N". A build that stops seeing accesses turns the test red. */
#include "cuda/rk_cuda.h"

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>
#define HAS_BLAS 1
#endif
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { N = 256, NOT_BUILT = 77 };

struct row {
    float v[16]; /* too big for registers: copied by memcpy */
};

template <int BUG>
static __global__ void kernel(float *x, const float *y, unsigned *ticket)
{
    RK_SHARED(float, s, [N]);
    int t = (int)threadIdx.x;
    if (BUG == 0)
        x[t] = y[t]; /* bug 19, bug 22, bug 30, bug 32, bug 35, bug 36: what the host has set up is wrong */
    if (BUG == 1) { /* no __syncthreads between */
        s[t] = 0;
        __syncthreads();
        s[t] = y[t]; /* bug 1 */
        x[t] = s[(t + 1) % N]; /* bug 1 */
    }
    if (BUG == 2) {
        s[t + (t == N - 1)] = y[t]; /* bug 2: the last thread writes behind the array */
        __syncthreads();
        x[t] = s[t];
    }
    if (BUG == 3)
        x[t + 1] = y[t]; /* bug 3: one element behind the block */
    if (BUG == 4) {
        if (t < N / 2)
            __syncthreads(); /* bug 4: two barriers that threads of one block take for one */
        else
            __syncthreads(); /* bug 4 */
        x[t] = y[t];
    }
    if (BUG == 5) {
        if (t & 1)
            x[t] = __shfl_xor_sync(0xffffffffu, y[t], 1); /* bug 5: half of the warp never comes */
        __syncthreads();
    }
    if (BUG == 6)
        x[0] += y[t]; /* bug 6: wants atomicAdd */
    if (BUG == 7) {
        if (t < N / 2)
            s[t] = y[t];
        __syncthreads();
        x[t] = s[t]; /* bug 7: half of it was never written */
    }
    if (BUG == 8) { /* no __syncwarp between */
        s[t] = 0;
        __syncwarp();
        s[t] = y[t]; /* bug 8 */
        x[t] = s[(t & ~31) + (t + 1) % 32]; /* bug 8 */
    }
    if (BUG == 9)
        for (int round = 0; round < 2; round++) { /* the barrier at the end of the loop is missing */
            if (t < 32)
                s[t] = y[t] + (float)round; /* bug 9 */
            __syncthreads();
            x[t] = s[t % 32]; /* bug 9 */
        }
    if (BUG == 10)
        x[t] = y[t + 1000000]; /* bug 10: far outside */
    if (BUG == 11) {
        float4 v = *reinterpret_cast<const float4 *>(y + 1 + t / 8 * 4); /* bug 11: not at a multiple of 16 bytes */
        x[t] = v.x + v.w;
    }
    if (BUG == 12) {
        if (t == 0)
            x[0] = 0;
        __syncthreads();
        atomicAdd(&x[0], y[t] * 0.1f + (t % 3 ? 1e6f : -1e6f)); /* bug 12: bits depend on the order */
    }
    if (BUG == 38) /* the last one wins: no mistake to any checker */
        atomicExch(reinterpret_cast<unsigned *>(x), __float_as_uint(y[t]));
    if (BUG == 13) {
        float l[8];
        for (int i = 0; i < 8; i++)
            l[i] = y[t];
        x[t] = l[t / 32 + 1]; /* bug 13: the last warp reads behind it */
    }
    if (BUG == 14 && t < 16)
        reinterpret_cast<row *>(x)[t] = reinterpret_cast<const row *>(y + 4)[t]; /* bug 14: the last row overruns */
    if (BUG == 15 && t < 32)
        reinterpret_cast<row *>(x)[t % 16] = reinterpret_cast<const row *>(y)[t % 16]; /* bug 15: two write one */
    if (BUG == 16) { /* no __threadfence before the ticket */
        if (t == 0) {
            x[blockIdx.x] = y[blockIdx.x];
            if (atomicInc(ticket, gridDim.x - 1) == gridDim.x - 1)
                x[8] = x[0] + x[1]; /* bug 16: reads what another block wrote */
        }
    }
    if (BUG == 17)
        x[t] = y[t]; /* bug 17: nothing has written it */
    if (BUG == 47)
        x[t] += y[t]; /* bug 47: nothing has written the sum */
    if (BUG == 18)
        x[t] = __shfl_sync(0xfffffffeu, y[t], 1); /* bug 18: lane 0 is not in its own mask */
}

struct world {
    cudaStream_t s, other;
    float *x, *y, *fresh, *pinned;
    unsigned *ticket;
    float host[2 * N];
};

template <int BUG>
static void run(world *w, unsigned blocks = 1)
{
    RK_LAUNCH((kernel<BUG>), blocks, N, 0, w->s, w->x, w->y, w->ticket);
}

static void unwritten(world *w)
{
    RK_LAUNCH((kernel<17>), 1, N, 0, w->s, w->x, w->fresh, w->ticket);
}

static void added_to_unwritten(world *w)
{
    RK_LAUNCH((kernel<47>), 1, N, 0, w->s, w->fresh, w->y, w->ticket);
    cudaMemcpyAsync(w->x, w->fresh, N * sizeof(float), cudaMemcpyDeviceToDevice, w->s);
}

static void without_event(world *w)
{
    cudaEvent_t e;
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    RK_LAUNCH((kernel<0>), 1, N, 0, w->s, w->x, w->y, w->ticket);
    cudaEventRecord(e, w->s); /* and no cudaStreamWaitEvent(w->other, e, 0) */
    RK_LAUNCH((kernel<0>), 1, N, 0, w->other, w->y, w->x, w->ticket);
    cudaStreamSynchronize(w->other);
    cudaStreamSynchronize(w->s);
    cudaEventDestroy(e);
}

static void reused_early(world *w)
{
    for (int i = 0; i < N; i++)
        w->pinned[i] = 1;
    cudaMemcpyAsync(w->x, w->pinned, N * sizeof(float), cudaMemcpyHostToDevice, w->s);
    w->pinned[0] = 2; /* bug 20: the copy may not have read it */
}

static float read_early(world *w)
{
    run<0>(w);
    cudaMemcpyAsync(w->pinned, w->x, N * sizeof(float), cudaMemcpyDeviceToHost, w->s);
    return w->pinned[0]; /* bug 21: nobody has waited */
}

static void used_after_free(world *w)
{
    float *gone;
    cudaMalloc((void **)&gone, N * sizeof(float));
    cudaFree(gone);
    RK_LAUNCH((kernel<0>), 1, N, 0, w->s, w->x, (const float *)gone, w->ticket);
}

static void leak(void)
{
    void *lost;
    cudaMalloc(&lost, 1000); /* bug 23: never freed */
}

static void freed_twice(void)
{
    void *p;
    cudaMalloc(&p, 1000);
    cudaFree(p);
    cudaFree(p); /* bug 24 */
}

static void copied_too_much(world *w)
{
    cudaMemcpyAsync(w->x, w->host, 2 * N * sizeof(float), cudaMemcpyHostToDevice, w->s); /* bug 25 */
}

static void wrong_way(world *w)
{
    cudaMemcpyAsync(w->host, w->x, 4, cudaMemcpyHostToDevice, w->s); /* bug 26: it goes the other way */
}

static void default_stream(world *w)
{
    cudaMemsetAsync(w->x, 0, 4, 0); /* bug 27: meets all other streams */
}

static void other_gpu(world *w)
{
    setenv("RK_EMU_DEVICES", "2", 1);
    cudaSetDevice(1);
    cudaMemsetAsync(w->x, 0, 4, w->s); /* bug 49: a stream of GPU 0 */
}

/* A graph of what is captured from w->s in between. */
static void begin(world *w)
{
    cudaStreamBeginCapture(w->s, cudaStreamCaptureModeRelaxed);
}

static void launch_captured(world *w)
{
    cudaGraph_t graph;
    cudaGraphExec_t x;
    if (cudaStreamEndCapture(w->s, &graph)) /* bug 31 or 33 or 34: what was captured cannot be ended */
        exit(3);
    cudaGraphInstantiateWithFlags(&x, graph, 0);
    cudaGraphLaunch(x, w->s);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(graph);
}

static void captured_reused_early(world *w)
{
    cudaGraph_t graph;
    cudaGraphExec_t x;
    for (int i = 0; i < N; i++)
        w->pinned[i] = 1;
    begin(w);
    cudaMemcpyAsync(w->x, w->pinned, N * sizeof(float), cudaMemcpyHostToDevice, w->s);
    cudaStreamEndCapture(w->s, &graph);
    cudaGraphInstantiateWithFlags(&x, graph, 0);
    w->pinned[0] = 2; /* as it should be: the copy reads when the graph runs */
    cudaGraphLaunch(x, w->s);
    w->pinned[0] = 3; /* bug 29: it may not have */
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(graph);
}

static void captured_and_freed(world *w)
{
    float *gone;
    cudaGraph_t graph;
    cudaGraphExec_t x;
    cudaMalloc((void **)&gone, N * sizeof(float));
    begin(w);
    RK_LAUNCH((kernel<0>), 1, N, 0, w->s, w->x, (const float *)gone, w->ticket);
    cudaStreamEndCapture(w->s, &graph);
    cudaGraphInstantiateWithFlags(&x, graph, 0);
    cudaFree(gone); /* bug 30: the graph still reads it */
    cudaGraphLaunch(x, w->s);
    cudaStreamSynchronize(w->s);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(graph);
}

/* Work of the other stream is captured too; joined: and comes back. */
static void forked(world *w, bool joined)
{
    cudaEvent_t e;
    cudaEventCreateWithFlags(&e, cudaEventDisableTiming);
    begin(w);
    cudaEventRecord(e, w->s);
    cudaStreamWaitEvent(w->other, e, 0);
    RK_LAUNCH((kernel<0>), 1, N, 0, w->other, w->x, w->y, w->ticket);
    if (joined) {
        RK_LAUNCH((kernel<0>), 1, N, 0, w->s, w->x, w->y, w->ticket); /* bug 32: both write x */
        cudaEventRecord(e, w->other);
        cudaStreamWaitEvent(w->s, e, 0);
    }
    launch_captured(w);
    cudaEventDestroy(e);
}

static void waited_in_capture(world *w)
{
    begin(w);
    run<0>(w);
    cudaStreamSynchronize(w->s); /* bug 33: nothing of it runs */
    launch_captured(w);
}

static void pageable_in_capture(world *w)
{
    float gone[N] = { 1 };
    begin(w);
    cudaMemcpyAsync(w->x, gone, sizeof gone, cudaMemcpyHostToDevice, w->s); /* bug 34: read when it is gone */
    launch_captured(w);
}

/* More dynamic shared memory than a block has without asking. */
static void launch_large(world *w)
{
    RK_LAUNCH((kernel<0>), 1, N, 100 << 10, w->s, w->x, w->y, w->ticket); /* bug 39: no cudaFuncSetAttribute() */
    cudaStreamSynchronize(w->s);
}

#ifdef HAS_BLAS
/* The mask of a ReLU by bits that no product has written there; bits in columns of 64. */
static void plant_bits(cublasLtMatmulDesc_t desc, const world *w, int bug)
{
    const uint32_t epilogue = bug == 45 ? CUBLASLT_EPILOGUE_DRELU : CUBLASLT_EPILOGUE_RELU_AUX;
    const int64_t ld = bug == 45 ? 128 : 64;
    void *bits = w->fresh;
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &bits, sizeof bits);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &ld, sizeof ld);
}
#endif

/* One kernel, to = y, as a graph of its own, as what a library launches becomes part of the queue's graphs. */
static cudaGraph_t recorded(world *w, float *to)
{
    cudaGraph_t graph;
    cudaStreamBeginCapture(w->other, cudaStreamCaptureModeThreadLocal);
    RK_LAUNCH((kernel<0>), 1, N, 0, w->other, to, w->y, w->ticket);
    cudaStreamEndCapture(w->other, &graph);
    return graph;
}

/* An exchange that fills `fresh` beside the clearing of x, and a kernel that reads it. Its place is told again where
 * that has changed. */
static void exchange_in_graph(world *w, bool joined, bool told)
{
    cudaGraph_t graph, first = recorded(w, w->x), then = recorded(w, w->fresh);
    cudaGraphExec_t x;
    cudaGraphNode_t node[2], reader;
    const struct cudaMemsetParams set = { w->x, 0, 0, 1, N * sizeof(float), 1 };
    void *args[] = { &w->x, &w->fresh, &w->ticket };
    const struct cudaKernelNodeParams reads = { (void *)kernel<0>, dim3(1), dim3(N), 0, args, NULL };
    cudaGraphCreate(&graph, 0);
    cudaGraphAddMemsetNode(&node[0], graph, NULL, 0, &set);
    cudaGraphAddChildGraphNode(&node[1], graph, node, told ? 0 : 1, told ? then : first);
    /* bug 35: nothing says that the kernel comes after what it reads */
    cudaGraphAddKernelNode(&reader, graph, node, joined ? 2 : 1, &reads);
    cudaGraphInstantiateWithFlags(&x, graph, 0);
    cudaGraphLaunch(x, w->s); /* bug 36: the exchange still fills x, as when it was captured */
    cudaStreamSynchronize(w->s);
    cudaGraphExecDestroy(x);
    cudaGraphDestroy(graph);
    cudaGraphDestroy(first);
    cudaGraphDestroy(then);
}

/* 8 x 8 times 8 x 8 by cuBLASLt: x = y y. */
static void multiply(world *w, int bug)
{
#ifdef HAS_BLAS
    enum { SIDE = 8 };
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, c;
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t best;
    const float one = 1, zero = 0;
    const uint64_t most = 1 << 20;
    void *work = NULL;
    int found;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&a, CUDA_R_32F, SIDE, SIDE, bug == 40 ? 3 * SIDE * SIDE : (int)SIDE);
    cublasLtMatrixLayoutCreate(&c, CUDA_R_32F, SIDE, SIDE, SIDE);
    cublasLtMatmulPreferenceCreate(&pref);
    cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
    if (bug > 44)
        plant_bits(desc, w, bug);
    cublasLtMatmulAlgoGetHeuristic(handle, desc, a, a, c, c, pref, 1, &best, &found); /* bug 46 */
    cudaMalloc(&work, best.workspaceSize);
    if (bug == 43)
        cublasLtMatrixLayoutDestroy(a);
    /* 40: columns reach past the end; 41: 256 bytes were promised; 42: too little to work in; 43: destroyed */
    cublasLtMatmul(handle, desc, /* bug 40, bug 41, bug 42, bug 43, bug 45 */
                   &one, w->y + (bug == 41), a, w->y, a, &zero, w->x, c, w->x, c, &best.algo, work,
                   best.workspaceSize / (bug == 42 ? 2 : 1), w->s);
    cudaStreamSynchronize(w->s);
    cublasLtMatmulPreferenceDestroy(pref);
    cublasLtMatmulDescDestroy(desc);
    cublasLtMatrixLayoutDestroy(c);
    cublasLtDestroy(handle); /* bug 44: a layout is left */
    cudaFree(work);
#else
    (void)w, (void)bug;
    exit(NOT_BUILT);
#endif
}

static void plant(world *w, int bug)
{
    switch (bug) {
#define KERNEL(n)  \
    case n:        \
        run<n>(w); \
        break
        KERNEL(0);
        KERNEL(1);
        KERNEL(2);
        KERNEL(3);
        KERNEL(4);
        KERNEL(5);
        KERNEL(6);
        KERNEL(7);
        KERNEL(8);
        KERNEL(9);
        KERNEL(10);
        KERNEL(11);
        KERNEL(12);
        KERNEL(13);
        KERNEL(14);
        KERNEL(15);
        KERNEL(18);
        KERNEL(38);
    case 16:
        run<16>(w, 2);
        break;
    case 17:
        unwritten(w);
        break;
    case 47:
        added_to_unwritten(w);
        break;
    case 19:
        without_event(w);
        break;
    case 20:
        reused_early(w);
        break;
    case 21:
        printf("%g\n", (double)read_early(w));
        break;
    case 22:
        used_after_free(w);
        break;
    case 23:
        leak();
        break;
    case 24:
        freed_twice();
        break;
    case 25:
        copied_too_much(w);
        break;
    case 26:
        wrong_way(w);
        break;
    case 27:
        default_stream(w);
        break;
    case 49:
        other_gpu(w);
        break;
    case 28:
        w->host[0] = w->x[0]; /* bug 28: the host reads device memory */
        break;
    case 29:
        captured_reused_early(w);
        break;
    case 30:
        captured_and_freed(w);
        break;
    case 31:
        forked(w, false);
        break;
    case 32:
        forked(w, true);
        break;
    case 33:
        waited_in_capture(w);
        break;
    case 34:
        pageable_in_capture(w);
        break;
    case 35:
        exchange_in_graph(w, false, true);
        break;
    case 36:
        exchange_in_graph(w, true, false);
        break;
    case 37:
        exchange_in_graph(w, true, true); /* as it should be */
        break;
    case 39:
        launch_large(w);
        break;
    case 40:
    case 41:
    case 42:
    case 43:
    case 44:
    case 45:
    case 46:
        multiply(w, bug);
        break;
    case 48:
        kill(getpid(), SIGSEGV); /* not a bug of the program's: somebody sent it */
        break;
    default:
        exit(2);
    }
}

/* Prints the sum of what the kernel wrote; status 1 if an element is not a number. */
int main(int argc, char **argv)
{
    static world w;
    double sum = 0;
    cudaStreamCreateWithFlags(&w.s, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&w.other, cudaStreamNonBlocking);
    cudaMalloc((void **)&w.x, N * sizeof(float)); /* bug 3: the block that is written past */
    cudaMalloc((void **)&w.y, N * sizeof(float));
    cudaMalloc((void **)&w.ticket, sizeof *w.ticket);
    cudaMalloc((void **)&w.fresh, N * sizeof(float));
    cudaMallocHost((void **)&w.pinned, N * sizeof(float));
    for (int i = 0; i < N; i++)
        w.host[i] = (float)(i + 1);
    cudaMemcpyAsync(w.y, w.host, N * sizeof(float), cudaMemcpyHostToDevice, w.s);
    cudaMemsetAsync(w.ticket, 0, sizeof *w.ticket, w.s);
    cudaMemsetAsync(w.x, 0, N * sizeof(float), w.s);
    cudaStreamSynchronize(w.s);
    plant(&w, argc > 1 ? atoi(argv[1]) : 0);
    cudaMemcpyAsync(w.host, w.x, N * sizeof(float), cudaMemcpyDeviceToHost, w.s);
    cudaStreamSynchronize(w.s);
    cudaStreamSynchronize(w.other);
    for (int i = 0; i < N; i++)
        sum += (double)w.host[i];
    cudaFree(w.x);
    cudaFree(w.y);
    cudaFree(w.ticket);
    cudaFree(w.fresh);
    cudaFreeHost(w.pinned);
    cudaStreamDestroy(w.s);
    cudaStreamDestroy(w.other);
    printf("sum %.9g, first %.9g\n", sum, (double)w.host[0]);
    return sum != sum;
}
