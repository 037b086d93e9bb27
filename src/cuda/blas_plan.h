/* What the files of cuBLASLt's products share: blas.c (the library, operands, one product), blas_epilogue.c
 * (what its epilogues do and what is left to be done), blas_plan.c (descriptions and algorithms, which are
 * kept). */
#ifndef RK_CUDA_BLAS_PLAN_H
#define RK_CUDA_BLAS_PLAN_H

#include "cuda/blas.h"
#include "cuda/blas_table.h"

enum {
    RK__BLAS_WORKSPACE = 32 << 20,    /* what cuBLASLt wants at most on an H100 */
    RK__BLAS_ALIGNMENT = 16,          /* most that is promised, see below */
    RK__BLAS_MOST_EXTENT = INT32_MAX, /* beyond it our own kernels multiply */
};

/* One operand as cuBLASLt takes it: by columns. */
typedef struct rk__blas_operand {
    int64_t rows, cols, ld, batch_step;
    cublasOperation_t op;
    uint32_t aligned; /* bytes */
} rk__blas_operand;

/* What an algorithm is chosen for: nothing that changes from run to run. Alignment is promised up to the 16
 * bytes of the widest load, which all that is allocated has: with more, a tensor's place in memory would
 * choose, and a step that follows the memory plan would get other bits than the first, and a run other ones
 * than its continuation. Kept without holes: keys are compared as bytes. */
typedef struct rk__blas_key {
    rk__blas_operand a, b, c;
    int64_t batch;
    cudaDataType_t type;
    uint32_t epilogue, bias_aligned, aux_aligned;
} rk__blas_key;

/* A product as it was prepared. */
typedef struct rk__blas_plan {
    rk__blas_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    bool refused;
    bool taken; /* cuBLASLt has launched it once: it refuses none of its kind */
} rk__blas_plan;

typedef struct rk__blas {
    const rk__blas_table *lib;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    rk__blas_plan **plan; /* by key; a plan is never given up, so that its algorithm is the run's */
    size_t plans, room;   /* room: a power of two, or 0 */
} rk__blas;

/* What a product ends with: the epilogue, where it reads and writes, and what it leaves to be done. */
typedef struct rk__blas_ending {
    uint32_t epilogue;
    const void *bias; /* NULL, or what is added; BGRADB writes it */
    const void *aux;  /* NULL, or the values before GELU, or ReLU's bits; the forward ones are written */
    int64_t aux_ld, aux_step;
    void *sums; /* what the product is written to */
    bool biased, finish;
    unsigned done; /* RK_BESIDE_.. */
} rk__blas_ending;

/* How much of a product is left to cuBLASLt: what it refuses is asked for again with less. */
typedef enum rk__blas_effort {
    RK__BLAS_ALL,
    RK__BLAS_FORWARD, /* nothing of rk_gemm_beside, nor of gradients */
    RK__BLAS_PLAIN    /* the sum alone */
} rk__blas_effort;

/* ---- blas.c ---- */

rk_status rk__blas_status(rk_dev *dev, cublasStatus_t s, const char *call);
#define RK__BLAS(dev, call, ...) rk__blas_status(dev, (dev)->blas->lib->call(__VA_ARGS__), #call)

/* Are these words that cuBLASLt does not take such a product? Its versions differ in which they use. */
bool rk__blas_refuses(cublasStatus_t s);
uint32_t rk__blas_alignment(const void *p);
/* Is c added to? */
bool rk__blas_adds(const rk_gemm *g);

/* ---- blas_epilogue.c ---- */

/* Of k the operands and the type are looked at. */
rk__blas_ending rk__blas_ending_of(const rk_dev *dev, rk_dtype t, const rk_gemm *g, const rk__blas_key *k,
                                   rk__blas_effort effort);

/* ---- blas_plan.c ---- */

/* The product as it was prepared earlier, or is now. refused: cuBLASLt takes no such product. */
rk_status rk__blas_find(rk_dev *dev, const rk__blas_key *k, const rk__blas_ending *e, rk__blas_plan **out);
/* Where bias and aux lie from now on; either may be NULL. */
rk_status rk__blas_point(rk_dev *dev, rk__blas_plan *p, const void *bias, const void *aux);
void rk__blas_free_plans(rk__blas *b);
/* Everything of a plan whose key is set, but its algorithm. */
rk_status rk__blas_describe(rk_dev *dev, rk__blas_plan *p, const rk__blas_ending *e);
void rk__blas_drop(rk__blas *b, rk__blas_plan *p);

#endif
