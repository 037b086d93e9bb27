/* Products by cuBLASLt, for runs that may add in any order (parallel.exact: false). The library is opened
 * when such a run opens its device, and needed by nothing else. */
#ifndef RK_CUDA_BLAS_H
#define RK_CUDA_BLAS_H

#include "cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the device multiply by cuBLASLt. Where the library is missing dev->blas stays NULL, and the
 * description tells so; a library that does not start is a failure, with its reason in msg. */
rk_status rk__blas_open(rk_dev *dev, char *msg, size_t msg_size);
void rk__blas_close(rk_dev *dev);

/* Of rk_device. */
unsigned rk__blas_uses(const rk_dev *dev);
const char *rk__blas_lacks(const rk_dev *dev);
void rk__blas_do_without(rk_dev *dev, const char *why);

/* Runs g, unless cuBLASLt does not take it: *done stays false then, and nothing was written. `t` is RK_F32 or
 * RK_F64. g->order.segments is of no matter. */
rk_status rk__blas_gemm(rk_dev *dev, rk_dtype t, const rk_gemm *g, bool *done);

/* ---- kernels around products (around.cu) ---- */

/* A matrix as lines whose elements are neighbours, or a batch of them. */
typedef struct rk__lines {
    int64_t lines, length, step; /* step: elements from line to line */
    int64_t batch, batch_step;
} rk__lines;

/* dst = src, rounded to 16 bits; dst holds line after line, `step` elements apart, matrix after matrix. */
rk_status rk__cuda_pack16(rk_dev *dev, rk_round to, const rk__lines *l, const float *src, int64_t step,
                          uint16_t *dst);

/* Of rk_device. */
rk_status rk__cuda_round16(rk_dev *dev, rk_round to, int64_t lines, int64_t length, int64_t step,
                           const void *src, int64_t to_step, void *dst);

/* What g wants to become of its sums, which lie in `sums`: g->c or g->pre, as the bias was added already or
 * not. */
rk_status rk__cuda_finish(rk_dev *dev, rk_dtype t, const rk_gemm *g, void *sums, bool biased);

#ifdef __cplusplus
}
#endif

#endif
