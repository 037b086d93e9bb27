/* Epilogues: bias, ReLU, GELU by tanh (cuBLASLt knows no other) with the values before it. The gradients'
 * ones are not used: our masks of ReLU are the outputs themselves, not cuBLASLt's bits, whose order in memory
 * is not documented; and the gradient of a bias comes before it is known that a product follows. finish() in
 * around.cu does the rest, in one pass over c. Doubles take no epilogue at all. */
#include "cuda/blas_plan.h"

static bool aux_fits(const rk_gemm *g)
{
    return g->ldc % 8 == 0 && g->c_batch % 8 == 0 && rk__blas_alignment(g->pre) >= 16;
}

rk__blas_ending rk__blas_ending_of(rk_dtype t, const rk_gemm *g)
{
    const bool tanh = g->act == RK_ACT_GELU_TANH && !g->relu_mask && (!g->pre || aux_fits(g)),
               relu = g->act == RK_ACT_RELU && !g->relu_mask && !g->pre;
    rk__blas_ending e = { .epilogue = CUBLASLT_EPILOGUE_DEFAULT, .sums = g->c };
    if (t == RK_F64) {
        e.finish = g->bias || g->pre || g->act || g->relu_mask;
        return e;
    }
    e.biased = g->bias != NULL;
    e.bias = g->bias;
    if (tanh)
        e.epilogue = g->pre ? (g->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX)
                            : (g->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU);
    else if (relu)
        e.epilogue = g->bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
    else if (g->bias)
        e.epilogue = CUBLASLT_EPILOGUE_BIAS;
    e.aux = tanh ? g->pre : NULL;
    e.finish = g->relu_mask || (g->act && !tanh && !relu) || (g->pre && !tanh);
    if (g->pre && !tanh && !rk__blas_adds(g)) /* what finish() reads is kept anyway */
        e.sums = g->pre;
    return e;
}
