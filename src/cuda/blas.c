/* cuBLASLt's matrices lie by columns, ours by rows: c = a b is c' = b' a' to it. So its A is our b, its B our
 * a, and what follows a row of c, the bias, follows a column there, as its epilogues have it.
 *
 * Epilogues: bias, ReLU, GELU by tanh (cuBLASLt knows no other) with the values before it. The gradients'
 * ones are not used: our masks of ReLU are the outputs themselves, not cuBLASLt's bits, whose order in memory
 * is not documented; and the gradient of a bias comes before it is known that a product follows. finish() in
 * around.cu does the rest, in one pass over c. Doubles take no epilogue at all. */
#include "cuda/blas.h"

#include "cuda/blas_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEPT = 128,                /* products whose algorithm is known */
    MOST_EXTENT = INT32_MAX,   /* beyond it our own kernels multiply */
    MOST_WORKSPACE = 32 << 20, /* what cuBLASLt wants at most on an H100 */
    MOST_ALIGNMENT = 256,      /* that algorithms ask for */
    SLOT_WORK = 0,
    SLOT_A,
    SLOT_B /* of rk__cuda_work() */
};

/* One operand as cuBLASLt takes it: by columns. */
typedef struct operand {
    int64_t rows, cols, ld, batch_step;
    cublasOperation_t op;
    uint32_t aligned; /* bytes */
} operand;

/* What an algorithm is chosen for. Kept without holes: keys are compared as bytes. */
typedef struct key {
    operand a, b, c;
    int64_t batch;
    cudaDataType_t type;
    uint32_t epilogue, bias_aligned, aux_aligned;
} key;

typedef struct product {
    key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algo;
    size_t workspace;
    bool used, refused;
} product;

typedef struct rk__blas {
    const rk__blas_table *lib;
    cublasLtHandle_t handle;
    cublasLtMatmulPreference_t preference;
    product product[KEPT];
    int next; /* to be given up */
} rk__blas;

/* ---- opening and closing ---- */

static rk_status blas_status(rk_dev *dev, cublasStatus_t s, const char *call)
{
    if (s == CUBLAS_STATUS_SUCCESS)
        return RK_OK;
    cudaGetLastError(); /* what cuBLASLt found is no error of the next launch */
    dev->error = s == CUBLAS_STATUS_ALLOC_FAILED       ? cudaErrorMemoryAllocation
                 : s == CUBLAS_STATUS_EXECUTION_FAILED ? cudaErrorLaunchFailure
                                                       : cudaErrorUnknown;
    snprintf(dev->library, sizeof dev->library, "cublasLt%s: %s", call, dev->blas->lib->GetStatusName(s));
    return s == CUBLAS_STATUS_ALLOC_FAILED ? RK_ENOMEM : RK_EDEVICE;
}

#define BLAS(dev, call, ...) blas_status(dev, (dev)->blas->lib->call(__VA_ARGS__), #call)

static rk_status start(rk_dev *dev)
{
    rk__blas *b = dev->blas;
    const size_t most = MOST_WORKSPACE;
    rk_status st = BLAS(dev, Create, &b->handle);
    if (!st)
        st = BLAS(dev, MatmulPreferenceCreate, &b->preference);
    return st ? st
              : BLAS(dev, MatmulPreferenceSetAttribute, b->preference,
                     CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
}

rk_status rk__blas_open(rk_dev *dev, char *msg, size_t msg_size)
{
    char why[128] = "";
    size_t n = strlen(dev->description), room = sizeof dev->description - n;
    const rk__blas_table *lib = rk__blas_load(why, sizeof why);
    if (!lib) {
        snprintf(dev->description + n, room, ", products by its own kernels: %s", why);
        return RK_OK;
    }
    dev->blas = calloc(1, sizeof *dev->blas);
    if (!dev->blas)
        return RK_ENOMEM;
    dev->blas->lib = lib;
    rk_status st = start(dev);
    size_t version = lib->GetVersion();
    if (st)
        snprintf(msg, msg_size, "%s: cuBLASLt does not start: %s; parallel.exact: true does without it",
                 dev->description, dev->library);
    else
        snprintf(dev->description + n, room, ", cuBLASLt %zu.%zu", version / 10000, version / 100 % 100);
    return st;
}

static void drop(rk__blas *b, product *p)
{
    if (p->desc)
        b->lib->MatmulDescDestroy(p->desc);
    const cublasLtMatrixLayout_t layout[] = { p->a, p->b, p->c };
    for (int i = 0; i < 3; i++)
        if (layout[i])
            b->lib->MatrixLayoutDestroy(layout[i]);
    memset(p, 0, sizeof *p);
}

void rk__blas_close(rk_dev *dev)
{
    rk__blas *b = dev->blas;
    if (!b)
        return;
    for (int i = 0; i < KEPT; i++)
        drop(b, &b->product[i]);
    if (b->preference)
        b->lib->MatmulPreferenceDestroy(b->preference);
    if (b->handle)
        b->lib->Destroy(b->handle);
    free(b);
    dev->blas = NULL;
}

/* ---- what there is to multiply ---- */

static uint32_t alignment(const void *p)
{
    const uintptr_t at = (uintptr_t)p | MOST_ALIGNMENT;
    return (uint32_t)(at & -at);
}

/* A matrix (rows, cols) of ours, transposed as all of ours are: false if cuBLASLt has no such strides. */
static bool as_operand(int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t batch_step, operand *o)
{
    *o = (operand){ .batch_step = batch_step };
    if (col == 1 || cols <= 1) {
        o->op = CUBLAS_OP_N;
        o->rows = cols;
        o->cols = rows;
        o->ld = rows <= 1 ? cols : row;
    } else if (row == 1 || rows <= 1) {
        o->op = CUBLAS_OP_T;
        o->rows = rows;
        o->cols = cols;
        o->ld = cols <= 1 ? rows : col;
    } else {
        return false;
    }
    return o->ld >= o->rows && o->ld <= MOST_EXTENT;
}

/* What an operand's elements are rounded to lies in the workspace, its lines 16 bytes apart as tensor cores
 * want them; a matrix that is used for the whole batch once. */
static rk_status pack(rk_dev *dev, rk_round to, int slot, int64_t batch, operand *o, const void **data)
{
    rk__lines l = { o->cols, o->rows, o->ld, o->batch_step ? batch : 1, o->batch_step };
    const int64_t step = (o->rows + 7) / 8 * 8;
    uint16_t *p = rk__cuda_work(dev, slot, (size_t)(step * o->cols * l.batch) * sizeof *p);
    if (!p)
        return RK_ENOMEM;
    rk_status st = rk__cuda_pack16(dev, to, &l, *data, step, p);
    *data = p;
    o->ld = step;
    o->batch_step = o->batch_step ? step * o->cols : 0;
    return st;
}

/* ---- epilogues ---- */

/* What cuBLASLt leaves to be done, and where it writes. */
typedef struct ending {
    uint32_t epilogue;
    const void *bias;
    void *aux;  /* NULL, or where the values before GELU go */
    void *sums; /* what the product is written to */
    bool biased, finish;
} ending;

static bool adds(const rk_gemm *g)
{
    return g->order.segments > 0 && g->order.acc != RK_ACC_SET;
}

static bool aux_fits(const rk_gemm *g)
{
    return g->ldc % 8 == 0 && g->c_batch % 8 == 0 && alignment(g->pre) >= 16;
}

static ending ending_of(rk_dtype t, const rk_gemm *g)
{
    const bool tanh = g->act == RK_ACT_GELU_TANH && !g->relu_mask && (!g->pre || aux_fits(g)),
               relu = g->act == RK_ACT_RELU && !g->relu_mask && !g->pre;
    ending e = { .epilogue = CUBLASLT_EPILOGUE_DEFAULT, .sums = g->c };
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
    if (g->pre && !tanh && !adds(g)) /* what finish() reads is kept anyway */
        e.sums = g->pre;
    return e;
}

/* ---- algorithms ---- */

static rk_status make_layout(rk_dev *dev, const operand *o, cudaDataType_t type, int64_t batch,
                             cublasLtMatrixLayout_t *out)
{
    const int32_t count = (int32_t)batch;
    rk_status st = BLAS(dev, MatrixLayoutCreate, out, type, (uint64_t)o->rows, (uint64_t)o->cols, o->ld);
    if (st || batch == 1)
        return st;
    st = BLAS(dev, MatrixLayoutSetAttribute, *out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count);
    return st ? st
              : BLAS(dev, MatrixLayoutSetAttribute, *out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                     &o->batch_step, sizeof o->batch_step);
}

static rk_status set(rk_dev *dev, product *p, cublasLtMatmulDescAttributes_t what, const void *value,
                     size_t size)
{
    return BLAS(dev, MatmulDescSetAttribute, p->desc, what, value, size);
}

/* Where bias and aux lie now. */
static rk_status point(rk_dev *dev, product *p, const ending *e)
{
    rk_status st = RK_OK;
    if (e->bias)
        st = set(dev, p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &e->bias, sizeof e->bias);
    if (!st && e->aux)
        st = set(dev, p, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &e->aux, sizeof e->aux);
    return st;
}

static rk_status describe(rk_dev *dev, product *p, const ending *e)
{
    const key *k = &p->key;
    const bool wide = k->type == CUDA_R_64F;
    const cudaDataType_t out = wide ? CUDA_R_64F : CUDA_R_32F;
    rk_status st = BLAS(dev, MatmulDescCreate, &p->desc, wide ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
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
        { CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &k->c.ld, sizeof k->c.ld, e->aux != NULL },
        { CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, &k->c.batch_step, sizeof k->c.batch_step,
          e->aux && k->batch > 1 },
    };
    for (size_t i = 0; i < sizeof attribute / sizeof *attribute && !st; i++)
        if (attribute[i].wanted)
            st = set(dev, p, attribute[i].what, attribute[i].value, attribute[i].size);
    if (!st)
        st = point(dev, p, e);
    if (!st)
        st = make_layout(dev, &k->a, k->type, k->batch, &p->a);
    if (!st)
        st = make_layout(dev, &k->b, k->type, k->batch, &p->b);
    return st ? st : make_layout(dev, &k->c, out, k->batch, &p->c);
}

/* Are these words that cuBLASLt does not take such a product? Its versions differ in which they use. */
static bool refuses(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE ||
           s == CUBLAS_STATUS_ARCH_MISMATCH;
}

static rk_status choose(rk_dev *dev, product *p)
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
        rk_status st =
            BLAS(dev, MatmulPreferenceSetAttribute, b->preference, what[i], &aligned[i], sizeof aligned[i]);
        if (st)
            return st;
    }
    cublasStatus_t s = b->lib->MatmulAlgoGetHeuristic(b->handle, p->desc, p->a, p->b, p->c, p->c,
                                                      b->preference, 1, &best, &found);
    p->refused = refuses(s) || (!s && (found < 1 || best.state || best.workspaceSize > MOST_WORKSPACE));
    p->algo = best.algo;
    p->workspace = best.workspaceSize;
    return p->refused ? RK_OK : blas_status(dev, s, "MatmulAlgoGetHeuristic");
}

/* The product as it was prepared earlier, or is now; the oldest makes room. */
static rk_status find(rk_dev *dev, const key *k, const ending *e, product **out)
{
    rk__blas *b = dev->blas;
    for (int i = 0; i < KEPT; i++)
        if (b->product[i].used && !memcmp(&b->product[i].key, k, sizeof *k)) {
            *out = &b->product[i];
            return (*out)->refused ? RK_OK : point(dev, *out, e);
        }
    product *p = *out = &b->product[b->next];
    b->next = (b->next + 1) % KEPT;
    drop(b, p);
    memcpy(&p->key, k, sizeof *k);
    rk_status st = describe(dev, p, e);
    if (!st)
        st = choose(dev, p);
    if (st)
        drop(b, p);
    else
        p->used = true;
    return st;
}

/* ---- a product ---- */

static rk_status multiply(rk_dev *dev, product *p, const rk_gemm *g, const void *a, const void *b, void *sums)
{
    const double one = 1, zero = 0;
    const float one_f = 1, zero_f = 0;
    const bool wide = p->key.type == CUDA_R_64F;
    const void *alpha = wide ? (const void *)&one : &one_f;
    const void *beta = adds(g) ? alpha : wide ? (const void *)&zero : &zero_f;
    void *work = NULL;
    if (p->workspace && !(work = rk__cuda_work(dev, SLOT_WORK, p->workspace)))
        return RK_ENOMEM;
    cublasStatus_t s =
        dev->blas->lib->Matmul(dev->blas->handle, p->desc, alpha, a, p->a, b, p->b, beta, sums, p->c, sums,
                               p->c, &p->algo, work, p->workspace, rk__cuda_stream(dev));
    p->refused = refuses(s);
    return p->refused ? RK_OK : blas_status(dev, s, "Matmul");
}

static bool takes(rk_dtype t, const rk_gemm *g, int64_t batch)
{
    return g->m > 0 && g->n > 0 && g->k > 0 && g->m <= MOST_EXTENT && g->n <= MOST_EXTENT &&
           g->k <= MOST_EXTENT && g->ldc >= g->n && g->ldc <= MOST_EXTENT && batch <= MOST_EXTENT &&
           (batch == 1 || g->c_batch) && !(t == RK_F64 && g->round);
}

/* By one epilogue. refused: cuBLASLt does not take it. */
static rk_status run(rk_dev *dev, rk_dtype t, const rk_gemm *g, key *k, const void *a, const void *b,
                     const ending *e, bool *refused)
{
    product *p;
    k->c.aligned = alignment(e->sums);
    k->epilogue = e->epilogue;
    k->bias_aligned = alignment(e->bias);
    k->aux_aligned = alignment(e->aux);
    rk_status st = find(dev, k, e, &p);
    if (!st && !p->refused)
        st = multiply(dev, p, g, a, b, e->sums);
    *refused = !st && p->refused;
    return st || *refused || !e->finish ? st : rk__cuda_finish(dev, t, g, e->sums, e->biased);
}

/* The operands, transposed, as the device has them or rounded. */
static rk_status operands(rk_dev *dev, const rk_gemm *g, key *k, const void **a, const void **b)
{
    rk_status st = RK_OK;
    *a = g->b;
    *b = g->a;
    if (g->round)
        st = pack(dev, g->round, SLOT_A, k->batch, &k->a, a);
    if (!st && g->round)
        st = pack(dev, g->round, SLOT_B, k->batch, &k->b, b);
    k->a.aligned = alignment(*a);
    k->b.aligned = alignment(*b);
    return st;
}

rk_status rk__blas_gemm(rk_dev *dev, rk_dtype t, const rk_gemm *g, bool *done)
{
    static const cudaDataType_t type[] = { CUDA_R_32F, CUDA_R_16BF, CUDA_R_16F }; /* rk_round */
    const int64_t batch = g->batch > 0 ? g->batch : 1, many = batch > 1;
    const void *a, *b;
    bool refused;
    key k;
    memset(&k, 0, sizeof k);
    *done = false;
    if (!takes(t, g, batch) || !as_operand(g->k, g->n, g->b_row, g->b_col, many * g->b_batch, &k.a) ||
        !as_operand(g->m, g->k, g->a_row, g->a_col, many * g->a_batch, &k.b))
        return RK_OK;
    k.c = (operand){ .rows = g->n, .cols = g->m, .ld = g->ldc, .batch_step = many * g->c_batch };
    k.batch = batch;
    k.type = t == RK_F64 ? CUDA_R_64F : type[g->round];
    rk_status st = operands(dev, g, &k, &a, &b);
    if (st)
        return st;
    ending e = ending_of(t, g);
    st = run(dev, t, g, &k, a, b, &e, &refused);
    if (refused && e.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
        e = (ending){ .epilogue = CUBLASLT_EPILOGUE_DEFAULT, .sums = g->c, .finish = true };
        st = run(dev, t, g, &k, a, b, &e, &refused);
    }
    *done = !st && !refused;
    return st;
}
