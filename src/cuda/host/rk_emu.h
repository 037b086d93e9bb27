/* Between the parts of the emulation (docs/cuda.md). One lock is held during every call of the stand-ins, so that
 * threads of the host take turns; operations of streams run inside such calls. */
#ifndef RK_CUDA_HOST_RK_EMU_H
#define RK_CUDA_HOST_RK_EMU_H

#include <cuda_runtime_api.h>

#include <stddef.h>
#include <stdint.h>
#include <functional>
#include <string>

/* Held while a stand-in works; recursive. */
struct rk_emu_guard {
    rk_emu_guard();
    ~rk_emu_guard();
};

/* True if this call, counted over all stand-ins, is the one that RK_EMU_FAIL names. */
bool rk_emu_fails(const char *call);

/* Reports a mistake of the code under test, and ends the process with status 86. */
void rk_emu_report(const char *kind, const char *format, ...)
    __attribute__((format(printf, 2, 3), noreturn));

uint64_t rk_emu_random(void);
void rk_emu_seed(uint64_t seed);
void rk_emu_shuffle(unsigned *x, unsigned n);

/* Counted since the start. */
struct rk_emu_counts {
    uint64_t calls, launches, threads, bytes_live, bytes_peak, blocks_live;
};
extern rk_emu_counts rk_emu_counted;

/* ---- grid.cpp: kernels ---- */

struct rk_emu_kernel {
    std::string name;
    dim3 grid, block;
    size_t smem;
    void (*run)(void *args);
    void *args;
};
void rk_emu_run(const rk_emu_kernel &k);
/* "kernel add block (0,0,0) thread 3", or "" outside kernels. */
const char *rk_emu_where(void);

/* ---- streams.cpp: operations wait in queues until somebody waits for them ---- */

/* Appends fn to the stream. */
void rk_emu_enqueue(cudaStream_t s, const char *what, std::function<void()> fn);
/* As rk_emu_enqueue(), for what meets other processes: such operations run in the order of the calls. */
void rk_emu_enqueue_meeting(cudaStream_t s, const char *what, std::function<void()> fn);
void rk_emu_finish(cudaStream_t s);
void rk_emu_finish_all(void);

/* ---- memory.cpp ---- */

enum rk_emu_kind { RK_EMU_NOWHERE = -1, RK_EMU_DEVICE, RK_EMU_PINNED };
rk_emu_kind rk_emu_kind_of(const void *p);
/* An operation of the stand-ins is about to read or write device memory: out of bounds is reported. */
void rk_emu_range(const void *p, size_t bytes, bool write, const char *what);
/* Device memory is open to the thread while an operation runs, closed otherwise. */
void rk_emu_open_memory(bool open);

#endif
