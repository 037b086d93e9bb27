/* The functions that are used of cuBLASLt. */
#ifndef RK_CUDA_BLAS_TABLE_H
#define RK_CUDA_BLAS_TABLE_H

#include <cublasLt.h>

#ifdef __cplusplus
extern "C" {
#endif

/* clang-format off */
#define RK__BLAS_FUNCTIONS(F)                                                             \
    F(Create) F(Destroy) F(GetVersion) F(GetStatusName)                                   \
    F(MatmulDescCreate) F(MatmulDescDestroy) F(MatmulDescSetAttribute)                    \
    F(MatrixLayoutCreate) F(MatrixLayoutDestroy) F(MatrixLayoutSetAttribute)              \
    F(MatmulPreferenceCreate) F(MatmulPreferenceDestroy) F(MatmulPreferenceSetAttribute)  \
    F(MatmulAlgoGetHeuristic) F(Matmul)
/* clang-format on */

typedef struct rk__blas_table {
#define RK__BLAS_MEMBER(f) __typeof__(cublasLt##f) *f;
    RK__BLAS_FUNCTIONS(RK__BLAS_MEMBER)
#undef RK__BLAS_MEMBER
} rk__blas_table;

/* NULL where the library is missing; the reason goes to msg. It stays loaded. */
const rk__blas_table *rk__blas_load(char *msg, size_t msg_size);

#ifdef __cplusplus
}
#endif

#endif
