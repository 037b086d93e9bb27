/* The check build: kernels and host code are compiled by clang with -fsanitize=thread, and every access of
 * theirs to memory comes here instead of to a sanitizer's run time. Found are races between threads and
 * blocks and between operations of streams, reads of what was never written, accesses outside blocks, and
 * host accesses to pinned memory that an operation still uses. In the other builds all of this is empty. */
#ifndef RK_CUDA_HOST_CHECK_H
#define RK_CUDA_HOST_CHECK_H

#include "cuda/host/rk_emu.h"

/* Where the running thread stands in the order of its launch. */
struct rk_emu_turn {
    int thread;               /* in its block; -1: no kernel runs */
    uint32_t block;           /* of the grid */
    uint16_t barriers, syncs; /* passed by the block, and by the warp since */
    char *stack, *stack_end;
};
extern rk_emu_turn rk_emu_now;

#ifdef RK_CHECK
void rk_emu_check_kernel(const rk_emu_kernel *k, unsigned blocks); /* NULL: it has ended */
void rk_emu_check_block(void);
void rk_emu_check_atomic(void *p, size_t size, void *pc);
void rk_emu_check_fence(void);
/* An access by an operation of the stand-ins. */
void rk_emu_check_range(rk_emu_block *b, const void *p, size_t bytes, bool write, const char *what);
#else
static inline void rk_emu_check_kernel(const rk_emu_kernel *, unsigned)
{
}
static inline void rk_emu_check_block(void)
{
}
static inline void rk_emu_check_atomic(void *, size_t, void *)
{
}
static inline void rk_emu_check_fence(void)
{
}
static inline void rk_emu_check_range(rk_emu_block *, const void *, size_t, bool, const char *)
{
}
#endif

#endif
