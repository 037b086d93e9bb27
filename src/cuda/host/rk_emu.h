/* Between the parts of the emulation (docs/cuda.md). One lock is held during every call of the stand-ins, so
 * that threads of the host take turns; operations of streams run inside such calls. */
#ifndef RK_CUDA_HOST_RK_EMU_H
#define RK_CUDA_HOST_RK_EMU_H

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <stddef.h>
#include <stdint.h>
#include <string>
#include <vector>

/* Held while a stand-in works; recursive. */
struct rk_emu_guard {
    rk_emu_guard();
    ~rk_emu_guard();
};

/* True if this call, counted over all stand-ins, is the one that RK_EMU_FAIL names. */
bool rk_emu_fails(const char *call);

/* Reports a mistake of the code under test, and ends the process with status 86. */
void rk_emu_report(const char *kind, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

/* "gemm.cu:123" for the address that a call returns to. */
const char *rk_emu_place_of(void *pc, char *text, size_t size);

uint64_t rk_emu_random(void);
void rk_emu_seed(uint64_t seed);
void rk_emu_shuffle(unsigned *x, unsigned n);

/* What is counted since the start, a line each of RK_EMU_STATS=FILE: name, and what it means. */
#define RK_EMU_COUNTS(COUNT)                                                     \
    COUNT(calls, "calls of the stand-ins")                                       \
    COUNT(launches, "kernels launched, those in graphs too")                     \
    COUNT(plain_launches, "kernels launched outside graphs")                     \
    COUNT(graph_launches, "graphs launched")                                     \
    COUNT(graph_nodes, "nodes of the graphs launched")                           \
    COUNT(graphs_made, "graphs instantiated")                                    \
    COUNT(graph_updates, "graphs or nodes of theirs that were given new values") \
    COUNT(waits, "times the host waited for a stream, an event or the device")   \
    COUNT(allocations, "blocks of device memory allocated")                      \
    COUNT(frees, "blocks of device memory freed")                                \
    COUNT(pinned, "blocks of pinned memory allocated")                           \
    COUNT(copies_in, "copies from the host")                                     \
    COUNT(copies_out, "copies to the host")                                      \
    COUNT(bytes_in, "bytes copied from the host")                                \
    COUNT(bytes_out, "bytes copied to the host")                                 \
    COUNT(bytes_live, "bytes of device memory allocated at the end")             \
    COUNT(bytes_peak, "most bytes of device memory at once")                     \
    COUNT(blocks_live, "blocks of device memory allocated at the end")

struct rk_emu_counts {
#define RK_EMU_COUNT(name, text) uint64_t name;
    RK_EMU_COUNTS(RK_EMU_COUNT)
#undef RK_EMU_COUNT
};
extern rk_emu_counts rk_emu_counted;

/* The same by kernel; bytes of device memory in the check build alone: `moved` counts a byte once a launch,
 * `accessed` at every access. A table of them follows the counts. */
struct rk_emu_tally {
    uint64_t launches, threads;
    uint64_t moved[2], accessed[2]; /* read, written */
};
static inline void rk_emu_count_bytes(const struct rk_emu_kernel *k, uint64_t bytes, bool write, bool first);

/* ---- grid.cpp: kernels ---- */

struct rk_emu_kernel {
    std::string name;
    dim3 grid, block;
    size_t smem;
    void (*run)(void *args);
    void *args; /* which kernel it is, then its arguments */
    size_t args_bytes;
    struct rk_emu_tally *tally; /* of all launches of this name */
};
void rk_emu_run(const rk_emu_kernel &k);
static inline void rk_emu_count_bytes(const rk_emu_kernel *k, uint64_t bytes, bool write, bool first)
{
    k->tally->accessed[write] += bytes;
    k->tally->moved[write] += first ? bytes : 0;
}
/* "kernel add block (0,0,0) thread 3", or "" outside kernels. */
const char *rk_emu_where(void);

/* ---- streams.cpp: operations wait in queues until somebody waits for them ---- */

/* Appends fn to the stream. */
void rk_emu_enqueue(cudaStream_t s, const char *what, std::function<void()> fn);
/* As rk_emu_enqueue(), for what meets other processes: such operations run in the order of the calls, when
 * ready() says that the others have done their part. */
void rk_emu_enqueue_meeting(cudaStream_t s, const char *what, std::function<bool()> ready,
                            std::function<void()> fn);
/* An operation of a library's. ready: of one that meets other processes, as of rk_emu_enqueue_meeting(). */
struct rk_emu_part {
    std::function<bool()> ready;
    std::function<void()> fn;
};
/* Runs what meets other processes, and what it comes after, as far as those have come: a GPU goes on while
 * the host waits for something else. */
void rk_emu_meet(void);
/* What streams do and graphs hold: an operation whose values are known. */
struct rk_emu_work {
    enum cudaGraphNodeType type; /* kernel, copy, set; empty: nothing but its place */
    std::string name;
    const void *func; /* kernel: as registered */
    dim3 grid, block;
    size_t smem;
    std::vector<char> args;
    void *dst; /* copy, set */
    const void *src;
    size_t bytes;
    int value;
    enum cudaMemcpyKind kind;
    std::function<rk_emu_part()> library; /* a library's: what it does, anew at every launch */
};
/* Into the stream, or into the graph that is captured from it. */
cudaError_t rk_emu_submit(cudaStream_t s, const rk_emu_work &w);
/* The same for a library's, which makes one for each launch. */
cudaError_t rk_emu_submit_library(cudaStream_t s, const char *what, std::function<rk_emu_part()> library);
/* Into the stream: what rk_emu_submit() does outside captures. */
void rk_emu_enqueue_work(cudaStream_t s, const rk_emu_work &w);

/* A launch as work: what the arguments are now. */
cudaError_t rk_emu_kernel_work(rk_emu_work *w, const void *kernel, dim3 grid, dim3 block, size_t smem,
                               void **args);
void rk_emu_run_work(const rk_emu_work &kernel);
/* A copy as work: reports ends that do not lie where `kind` says. pc: who asks for it. */
void rk_emu_copy_work(rk_emu_work *w, void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                      void *pc);
void rk_emu_set_work(rk_emu_work *w, void *dst, int value, size_t bytes, void *pc);

/* ---- graph.cpp ---- */

bool rk_emu_capturing(cudaStream_t s);
/* A call that no capture goes together with (pc: of whom): the capture is told of on stderr, and is void. */
cudaError_t rk_emu_void_capture(cudaStream_t s, cudaError_t e, const char *call, void *pc);
/* The same for a call that is unsafe, as CUDA says, while any capture of this thread's is under way that is
 * not relaxed; cudaSuccess if there is none. everything: relaxed ones too, as the call waits for all streams.
 */
cudaError_t rk_emu_unsafe(bool everything, const char *call, void *pc);

/* Reports the default stream, and what is no stream. pc: who uses it. */
void rk_emu_check_stream(cudaStream_t s, const char *call, void *pc);
/* The GPU of the calling thread. */
int rk_emu_device_now(void);
void rk_emu_finish(cudaStream_t s);
void rk_emu_finish_all(void);

/* Of the operation that runs, for the check build: its number, from 1; whether a comes before b in the order
 * of streams and events; whether the host has waited for it. */
uint32_t rk_emu_operation_now(void);
uint32_t rk_emu_operation_last(void); /* that was enqueued */
bool rk_emu_operation_before(uint32_t a, uint32_t b);
bool rk_emu_operation_known(uint32_t a);
const char *rk_emu_operation_name(uint32_t a);

/* ---- memory.cpp ---- */

enum rk_emu_kind { RK_EMU_NOWHERE = -1, RK_EMU_DEVICE, RK_EMU_PINNED, RK_EMU_SHARED };
struct rk_emu_block {
    char *p;
    size_t bytes, room; /* room: with what lies around it */
    rk_emu_kind kind;
    void *pc;         /* who allocated it */
    const char *name; /* shared memory: the variable */
    struct rk_emu_cell *shadow;
    size_t grain;    /* bytes a cell: 4, or 1 */
    uint64_t number; /* no other block has it, nor one that comes to lie in the same place */
};
/* The block of device or pinned memory that holds p, or that ends less than `past` bytes before it. */
rk_emu_block *rk_emu_find_block(const void *p, size_t past);
const rk_emu_block *rk_emu_find_leak(void); /* the first that is allocated */
/* The running block's shared variable that p is in, or just behind. */
rk_emu_block *rk_emu_find_shared(const void *p);
/* The operation on this pinned memory that the host has not waited for, or NULL. */
const char *rk_emu_host_pending(const char *p, size_t bytes, bool write);
rk_emu_kind rk_emu_kind_of(const void *p);
/* An operation of the stand-ins is about to read or write device memory: out of bounds is reported. */
void rk_emu_range(const void *p, size_t bytes, bool write, const char *what);
/* Device memory is open to the thread while an operation runs, closed otherwise. */
void rk_emu_open_memory(bool open);
/* At the end of a call of the stand-ins: what was opened is closed only now, once for all operations that
 * have run. */
void rk_emu_settle_memory(void);

#endif
