/* Epilogues. Forward: bias, ReLU with the bits of what it let pass, GELU by tanh (cuBLASLt knows no other)
 * with the values before it. Backward: DRELU and DGELU in the product whose result is the gradient of such a
 * layer's output, BGRADB in the one whose second operand is the gradient before a bias. Doubles take none at
 * all.
 *
 * The bits are cuBLASLt's own: only it writes them and only it reads them, so their order is of no matter. A
 * bit is set where a sum is 0, too, where our masks are not.
 *
 * DRELU_BGRAD and DGELU_BGRAD would give the same sums as BGRADB in a product where they have to be summed
 * over rows of the result, after its last term; BGRADB has them from an operand. */
#include "cuda/blas_plan.h"

/* A leading dimension of bits, in bits. */
static int64_t bits_ld(int64_t n)
{
    return (n + 127) / 128 * 128;
}

static bool one_matrix(const rk_gemm *g)
{
    return g->batch <= 1;
}

static bool values_fit(const rk_gemm *g, const void *aux)
{
    return g->ldc % 8 == 0 && g->c_batch % 8 == 0 && rk__blas_alignment(aux) >= 16;
}

static bool bits_fit(const rk_gemm *g, const void *bits)
{
    return one_matrix(g) && rk__blas_alignment(bits) >= 16;
}

/* Of a batch: as c's. */
static void aux_values(rk__blas_ending *e, const rk_gemm *g, const void *aux)
{
    e->aux = aux;
    e->aux_ld = g->ldc;
    e->aux_step = g->c_batch;
}

static void aux_bits(rk__blas_ending *e, const rk_gemm *g, const void *bits)
{
    e->aux = bits;
    e->aux_ld = bits_ld(g->n);
}

/* ---- gradients ---- */

/* The sum of an operand that no cache holds is ours to make, in one pass at the memory's speed: cuBLASLt may
 * read the operand again for it, and slowly. So is that of an operand that the product has rounded: the sum
 * is of what it was before. With one term there is nothing to sum, which cuBLASLt does not take. */
static bool sums_fit(const rk_dev *dev, const rk_gemm *g, const rk__blas_key *k)
{
    const size_t bytes = (size_t)g->m * (size_t)g->k * sizeof(float);
    return k->type == CUDA_R_32F && one_matrix(g) && g->k > 1 && k->b.op == CUBLAS_OP_T &&
           bytes <= dev->cache_bytes;
}

/* false: none of the gradients' epilogues is wanted, or fits. */
static bool gradient_of(const rk_dev *dev, const rk_gemm *g, const rk__blas_key *k, rk__blas_ending *e)
{
    const rk_gemm_beside *s = g->beside;
    if (!s || g->bias || g->act || g->pre)
        return false;
    if (s->a_sums && !g->relu_mask && sums_fit(dev, g, k)) {
        e->epilogue = CUBLASLT_EPILOGUE_BGRADB;
        e->bias = s->a_sums;
        e->done = RK_BESIDE_SUMS;
    } else if (g->relu_mask && s->mask_bits && g->k > 1 && !rk__blas_adds(g) && bits_fit(g, s->mask_bits)) {
        e->epilogue = CUBLASLT_EPILOGUE_DRELU;
        aux_bits(e, g, s->mask_bits);
    } else if (!g->relu_mask && s->slope_of && s->slope == RK_ACT_GELU_TANH && g->k > 1 &&
               !rk__blas_adds(g) && values_fit(g, s->slope_of)) {
        e->epilogue = CUBLASLT_EPILOGUE_DGELU;
        aux_values(e, g, s->slope_of);
        e->done = RK_BESIDE_SLOPE;
    } else {
        return false;
    }
    return true;
}

/* ---- forward ---- */

static uint32_t with_bias(uint32_t epilogue, const rk_gemm *g)
{
    return g->bias ? epilogue | CUBLASLT_EPILOGUE_BIAS : epilogue;
}

/* bits: those of ReLU may be asked for. */
static void forward_of(const rk_gemm *g, bool bits, rk__blas_ending *e)
{
    const bool tanh = g->act == RK_ACT_GELU_TANH && !g->relu_mask && (!g->pre || values_fit(g, g->pre)),
               relu = g->act == RK_ACT_RELU && !g->relu_mask && !g->pre;
    e->biased = g->bias != NULL;
    e->bias = g->bias;
    if (tanh && g->pre) {
        e->epilogue = with_bias(CUBLASLT_EPILOGUE_GELU_AUX, g);
        aux_values(e, g, g->pre);
    } else if (tanh) {
        e->epilogue = with_bias(CUBLASLT_EPILOGUE_GELU, g);
    } else if (relu && bits && g->beside && g->beside->relu_bits && bits_fit(g, g->beside->relu_bits)) {
        e->epilogue = with_bias(CUBLASLT_EPILOGUE_RELU_AUX, g);
        aux_bits(e, g, g->beside->relu_bits);
        e->done = RK_BESIDE_BITS;
    } else if (relu) {
        e->epilogue = with_bias(CUBLASLT_EPILOGUE_RELU, g);
    } else if (g->bias) {
        e->epilogue = CUBLASLT_EPILOGUE_BIAS;
    }
    e->finish = g->relu_mask || (g->act && !tanh && !relu) || (g->pre && !tanh);
    if (g->pre && !tanh && !rk__blas_adds(g)) /* what finish() reads is kept anyway */
        e->sums = g->pre;
}

rk__blas_ending rk__blas_ending_of(const rk_dev *dev, rk_dtype t, const rk_gemm *g, const rk__blas_key *k,
                                   rk__blas_effort effort)
{
    rk__blas_ending e = { .epilogue = CUBLASLT_EPILOGUE_DEFAULT, .sums = g->c };
    if (t == RK_F64 || effort == RK__BLAS_PLAIN)
        e.finish = g->bias || g->pre || g->act || g->relu_mask;
    else if (effort != RK__BLAS_ALL || !gradient_of(dev, g, k, &e))
        forward_of(g, effort == RK__BLAS_ALL, &e);
    return e;
}
