/* What we tell cuBLASLt is what the library itself takes, where it is installed: every description, layout
 * and attribute of products of all kinds. None of that needs a GPU; choosing and running algorithms does. */
#if __has_include(<cublasLt.h>)
#include "test.h"

#include "cuda/blas.c"
#include "cuda/blas_epilogue.c"
#include "cuda/blas_load.c"
#include "cuda/blas_plan.c"

/* What the device would do, of which nothing is reached. */
cudaError_t cudaGetLastError(void)
{
    return cudaSuccess;
}

rk_status rk__cuda_denied(const rk_dev *dev)
{
    (void)dev;
    return RK_ENOMEM;
}

cudaStream_t rk__cuda_stream(rk_dev *dev)
{
    (void)dev;
    return NULL;
}

rk_status rk__cuda_submit_call(rk_dev *dev, rk__cuda_call *call, const void *key, size_t bytes)
{
    (void)dev, (void)call, (void)key, (void)bytes;
    return RK_EINTERNAL;
}

void *rk__cuda_work(rk_dev *dev, int slot, size_t bytes)
{
    (void)dev, (void)slot, (void)bytes;
    return NULL;
}

rk_status rk__cuda_pack16(rk_dev *dev, rk_round to, const rk__lines *l, const float *src, int64_t step,
                          uint16_t *dst)
{
    (void)dev, (void)to, (void)l, (void)src, (void)step, (void)dst;
    return RK_EINTERNAL;
}

rk_status rk__cuda_f32_add(rk_dev *dev, int64_t n, const void *a, const void *b, double p, void *y)
{
    (void)dev, (void)n, (void)a, (void)b, (void)p, (void)y;
    return RK_EINTERNAL;
}

rk_status rk__cuda_finish(rk_dev *dev, rk_dtype t, const rk_gemm *g, void *sums, bool biased)
{
    (void)dev, (void)t, (void)g, (void)sums, (void)biased;
    return RK_EINTERNAL;
}

static rk__blas blas;
static struct rk_dev device = { .blas = &blas, .cache_bytes = 1 << 20 };

__attribute__((constructor(101))) static void load(void)
{
    char why[128];
    blas.lib = rk__blas_load(why, sizeof why);
    if (blas.lib)
        return;
    printf("skipped: %s\n", why);
    exit(77);
}

static uint32_t seen; /* parts of epilogues that were described */

/* All that `what` has bits for. */
static void describe_one(int what)
{
    static const cudaDataType_t types[] = { CUDA_R_32F, CUDA_R_16BF, CUDA_R_16F, CUDA_R_64F };
    const rk_dtype t = (what & 3) == 3 ? RK_F64 : RK_F32;
    const int64_t batch = what & 4 ? 5 : 1;
    const bool ta = what & 128, tb = what & 256;
    rk_gemm_beside beside = { .a_sums = what & 512 ? (void *)0x40000 : NULL,
                              .relu_bits = what & 1024 ? (void *)0x50000 : NULL,
                              .mask_bits = what & 1024 ? (void *)0x60000 : NULL,
                              .slope_of = what & 2048 ? (void *)0x70000 : NULL,
                              .slope = RK_ACT_GELU_TANH };
    rk_gemm g = { .m = 48,
                  .n = 40,
                  .k = 24,
                  .ldc = 40,
                  .c = (void *)0x10000,
                  .batch = batch,
                  .c_batch = batch > 1 ? 48 * 40 : 0,
                  .act = (rk_act)(what >> 3 & 3),
                  .bias = what & 32 ? (void *)0x20000 : NULL,
                  .pre = what & 64 ? (void *)0x30000 : NULL,
                  .relu_mask = what & 1024 && !(what >> 3 & 3) ? (void *)0x80000 : NULL,
                  .beside = &beside };
    rk__blas_plan p;
    memset(&p, 0, sizeof p);
    CHECK(as_operand(24, 40, tb ? 1 : 40, tb ? 24 : 1, batch > 1 ? 24 * 40 : 0, &p.key.a));
    CHECK(as_operand(48, 24, ta ? 1 : 24, ta ? 48 : 1, batch > 1 ? 48 * 24 : 0, &p.key.b));
    p.key.c = (rk__blas_operand){ .rows = 40, .cols = 48, .ld = 40, .batch_step = g.c_batch };
    p.key.batch = batch;
    p.key.type = types[what & 3];
    rk__blas_ending e = rk__blas_ending_of(&device, t, &g, &p.key, RK__BLAS_ALL);
    p.key.epilogue = e.epilogue;
    seen |= e.epilogue;
    if (rk__blas_describe(&device, &p, &e))
        TEST_FAIL("case %d: %s", what, device.library);
    rk__blas_drop(&blas, &p);
}

TEST(it_takes_all_that_we_say)
{
    for (int what = 0; what < 4096 && !rk_test_failures; what++)
        describe_one(what);
    const uint32_t all = CUBLASLT_EPILOGUE_RELU_AUX_BIAS | CUBLASLT_EPILOGUE_GELU_AUX_BIAS |
                         CUBLASLT_EPILOGUE_DRELU | CUBLASLT_EPILOGUE_DGELU | CUBLASLT_EPILOGUE_BGRADB |
                         CUBLASLT_EPILOGUE_DEFAULT;
    CHECK(seen == all);
}

TEST(it_takes_our_preferences)
{
    rk_status st = start(&device); /* without a GPU there is no handle, and preferences need none */
    if (st && strcmp(device.library, "cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED"))
        TEST_FAIL("%s", device.library);
    const size_t most = RK__BLAS_WORKSPACE;
    const uint32_t aligned = 16;
    cublasLtMatmulPreference_t f;
    CHECK(blas.lib->MatmulPreferenceCreate(&f) == CUBLAS_STATUS_SUCCESS);
    CHECK(blas.lib->MatmulPreferenceSetAttribute(f, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most,
                                                 sizeof most) == CUBLAS_STATUS_SUCCESS);
    CHECK(blas.lib->MatmulPreferenceSetAttribute(f, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                                 sizeof reductions) == CUBLAS_STATUS_SUCCESS);
    for (int i = 0; i < 4; i++)
        CHECK(blas.lib->MatmulPreferenceSetAttribute(f, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i,
                                                     &aligned, sizeof aligned) == CUBLAS_STATUS_SUCCESS);
    CHECK(blas.lib->MatmulPreferenceDestroy(f) == CUBLAS_STATUS_SUCCESS);
}

/* It looks at sizes at all. */
TEST(it_refuses_what_it_should)
{
    cublasLtMatmulDesc_t d;
    const int32_t narrow = 8;
    CHECK(blas.lib->MatmulDescCreate(&d, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS);
    CHECK(blas.lib->MatmulDescSetAttribute(d, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &narrow, sizeof narrow) ==
          CUBLAS_STATUS_INVALID_VALUE);
    CHECK(blas.lib->MatmulDescDestroy(d) == CUBLAS_STATUS_SUCCESS);
}

TEST_MAIN

#else
#include <stdio.h>

int main(void)
{
    puts("skipped: cublasLt.h is not installed");
    return 77;
}
#endif
