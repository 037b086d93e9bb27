/* Products as cuBLASLt is told of them, with the algorithm that its heuristic chose: made once for each key,
 * and kept. */
#include "cuda/blas_plan.h"

#include <stdlib.h>
#include <string.h>

enum { LEAST_ROOM = 64 };

void rk__blas_drop(rk__blas *b, rk__blas_plan *p)
{
    if (p->desc)
        b->lib->MatmulDescDestroy(p->desc);
    const cublasLtMatrixLayout_t layout[] = { p->a, p->b, p->c };
    for (int i = 0; i < 3; i++)
        if (layout[i])
            b->lib->MatrixLayoutDestroy(layout[i]);
    memset(p, 0, sizeof *p);
}

static rk_status make_layout(rk_dev *dev, const rk__blas_operand *o, cudaDataType_t type, int64_t batch,
                             cublasLtMatrixLayout_t *out)
{
    const int32_t count = (int32_t)batch;
    rk_status st = RK__BLAS(dev, MatrixLayoutCreate, out, type, (uint64_t)o->rows, (uint64_t)o->cols, o->ld);
    if (st || batch == 1)
        return st;
    st = RK__BLAS(dev, MatrixLayoutSetAttribute, *out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                  sizeof count);
    return st ? st
              : RK__BLAS(dev, MatrixLayoutSetAttribute, *out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                         &o->batch_step, sizeof o->batch_step);
}

static rk_status set(rk_dev *dev, rk__blas_plan *p, cublasLtMatmulDescAttributes_t what, const void *value,
                     size_t size)
{
    return RK__BLAS(dev, MatmulDescSetAttribute, p->desc, what, value, size);
}

rk_status rk__blas_point(rk_dev *dev, rk__blas_plan *p, const void *bias, const void *aux)
{
    rk_status st = RK_OK;
    if (bias)
        st = set(dev, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (!st && aux)
        st = set(dev, p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &aux, sizeof aux);
    return st;
}

/* An address like p that is aligned as the key says and no more: the heuristic goes by what it sees. */
static const void *no_better_than(const void *p, uint32_t aligned)
{
    const uintptr_t block = (uintptr_t)p / (2 * RK__BLAS_ALIGNMENT) * (2 * RK__BLAS_ALIGNMENT);
    return p ? (const void *)(block + aligned) : NULL; /* NOLINT: nobody follows it */
}

rk_status rk__blas_describe(rk_dev *dev, rk__blas_plan *p, const rk__blas_ending *e)
{
    const rk__blas_key *k = &p->key;
    const bool wide = k->type == CUDA_R_64F;
    const cudaDataType_t out = wide ? CUDA_R_64F : CUDA_R_32F;
    rk_status st = RK__BLAS(dev, MatmulDescCreate, &p->desc, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                            out); /* never TF32 */
    const struct {
        cublasLtMatmulDescAttributes_t what;
        const void *value;
        size_t size;
        bool wanted;
    } attribute[] = {
        { CUBLASLT_MATMUL_DESC_TRANSA, &k->a.op, sizeof(int32_t), true },
        { CUBLASLT_MATMUL_DESC_TRANSB, &k->b.op, sizeof(int32_t), true },
        { CUBLASLT_MATMUL_DESC_EPILOGUE, &k->epilogue, sizeof k->epilogue, true },
        { CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &e->aux_ld, sizeof e->aux_ld, e->aux != NULL },
        { CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, &e->aux_step, sizeof e->aux_step,
          e->aux && k->batch > 1 },
    };
    for (size_t i = 0; i < sizeof attribute / sizeof *attribute && !st; i++)
        if (attribute[i].wanted)
            st = set(dev, p, attribute[i].what, attribute[i].value, attribute[i].size);
    if (!st)
        st = rk__blas_point(dev, p, no_better_than(e->bias, k->bias_aligned),
                            no_better_than(e->aux, k->aux_aligned));
    if (!st)
        st = make_layout(dev, &k->a, k->type, k->batch, &p->a);
    if (!st)
        st = make_layout(dev, &k->b, k->type, k->batch, &p->b);
    return st ? st : make_layout(dev, &k->c, out, k->batch, &p->c);
}

static rk_status choose(rk_dev *dev, rk__blas_plan *p)
{
    static const cublasLtMatmulPreferenceAttributes_t what[] = { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                                 CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                                 CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                                 CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES };
    rk__blas *b = dev->blas;
    const uint32_t aligned[] = { p->key.a.aligned, p->key.b.aligned, p->key.c.aligned, p->key.c.aligned };
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    memset(&best, 0, sizeof best);
    for (int i = 0; i < 4; i++) {
        rk_status st = RK__BLAS(dev, MatmulPreferenceSetAttribute, b->preference, what[i], &aligned[i],
                                sizeof aligned[i]);
        if (st)
            return st;
    }
    cublasStatus_t s = b->lib->MatmulAlgoGetHeuristic(b->handle, p->desc, p->a, p->b, p->c, p->c,
                                                      b->preference, 1, &best, &found);
    p->refused =
        rk__blas_refuses(s) || (!s && (found < 1 || best.state || best.workspaceSize > RK__BLAS_WORKSPACE));
    p->algo = best.algo;
    p->workspace = best.workspaceSize;
    return p->refused ? RK_OK : rk__blas_status(dev, s, "MatmulAlgoGetHeuristic");
}

/* ---- plans by key ---- */

static uint64_t hash_of(const rk__blas_key *k)
{
    const unsigned char *p = (const unsigned char *)k;
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h ^ h >> 32;
}

/* Where the plan of that key is, or would be: there is room for one more. */
static rk__blas_plan **place_of(rk__blas_plan **plan, size_t room, const rk__blas_key *k)
{
    size_t i = hash_of(k) & (room - 1);
    while (plan[i] && memcmp(&plan[i]->key, k, sizeof *k))
        i = (i + 1) & (room - 1);
    return &plan[i];
}

static bool grow(rk__blas *b)
{
    const size_t room = b->room ? 2 * b->room : LEAST_ROOM;
    if (b->plans + 1 <= b->room / 2)
        return true;
    rk__blas_plan **plan = calloc(room, sizeof(rk__blas_plan *));
    if (!plan)
        return false;
    for (size_t i = 0; i < b->room; i++)
        if (b->plan[i])
            *place_of(plan, room, &b->plan[i]->key) = b->plan[i];
    free(b->plan);
    b->plan = plan;
    b->room = room;
    return true;
}

void rk__blas_free_plans(rk__blas *b)
{
    for (size_t i = 0; i < b->room; i++)
        if (b->plan[i]) {
            rk__blas_drop(b, b->plan[i]);
            free(b->plan[i]);
        }
    free(b->plan);
}

static rk_status prepare(rk_dev *dev, const rk__blas_key *k, const rk__blas_ending *e, rk__blas_plan *p)
{
    memcpy(&p->key, k, sizeof *k);
    rk_status st = rk__blas_describe(dev, p, e);
    if (!st)
        st = choose(dev, p);
    if (st)
        rk__blas_drop(dev->blas, p);
    return st;
}

rk_status rk__blas_find(rk_dev *dev, const rk__blas_key *k, const rk__blas_ending *e, rk__blas_plan **out)
{
    rk__blas *b = dev->blas;
    if (!grow(b))
        return RK_ENOMEM;
    rk__blas_plan **place = place_of(b->plan, b->room, k);
    if ((*out = *place))
        return RK_OK;
    rk__blas_plan *p = calloc(1, sizeof *p);
    rk_status st = p ? prepare(dev, k, e, p) : RK_ENOMEM;
    if (st) {
        free(p);
        return st;
    }
    b->plans++;
    *place = *out = p;
    return RK_OK;
}
