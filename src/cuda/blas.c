/* cuBLASLt's matrices lie by columns, ours by rows: c = a b is c' = b' a' to it. So its A is our b, its B our
 * a, and what follows a row of c, the bias, follows a column there, as its epilogues have it. */
#include "cuda/blas.h"

#include "cuda/blas_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SLOT_WORK, SLOT_A, SLOT_B, SLOT_SUMS /* of rk__cuda_work() */ };

RK_CUDA_ENTRY(add) rk__cuda_f32_add;

/* ---- opening and closing ---- */

rk_status rk__blas_status(rk_dev *dev, cublasStatus_t s, const char *call)
{
    if (s == CUBLAS_STATUS_SUCCESS)
        return RK_OK;
    const cudaError_t below = cudaGetLastError(); /* what cuBLASLt found is no error of the next launch */
    dev->error = s == CUBLAS_STATUS_ALLOC_FAILED       ? cudaErrorMemoryAllocation
                 : below                               ? below
                 : s == CUBLAS_STATUS_EXECUTION_FAILED ? cudaErrorLaunchFailure
                                                       : cudaErrorUnknown;
    dev->of_graph = false;
    snprintf(dev->library, sizeof dev->library, "cublasLt%s: %s%s%s", call, dev->blas->lib->GetStatusName(s),
             below ? ", CUDA: " : "", below ? cudaGetErrorString(below) : "");
    return dev->error == cudaErrorMemoryAllocation ? RK_ENOMEM : RK_EDEVICE;
}

bool rk__blas_refuses(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE ||
           s == CUBLAS_STATUS_ARCH_MISMATCH;
}

bool rk__blas_adds(const rk_gemm *g)
{
    return g->order.segments > 0 && g->order.acc != RK_ACC_SET;
}

/* Parts of a sum are added in a step of their own, so that their order is not that in which they are done. */
static const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

static rk_status start(rk_dev *dev)
{
    rk__blas *b = dev->blas;
    const size_t most = RK__BLAS_WORKSPACE;
    rk_status st = RK__BLAS(dev, Create, &b->handle);
    if (!st)
        st = RK__BLAS(dev, MatmulPreferenceCreate, &b->preference);
    if (!st)
        st = RK__BLAS(dev, MatmulPreferenceSetAttribute, b->preference,
                      CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
    return st ? st
              : RK__BLAS(dev, MatmulPreferenceSetAttribute, b->preference,
                         CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
}

#define CUBLASLT    ", cuBLASLt "
#define OWN_KERNELS ", products by its own kernels: "

rk_status rk__blas_open(rk_dev *dev, char *msg, size_t msg_size)
{
    size_t n = strlen(dev->description), room = sizeof dev->description - n;
    const rk__blas_table *lib = rk__blas_load(dev->no_blas, sizeof dev->no_blas);
    if (!lib) {
        snprintf(dev->description + n, room, OWN_KERNELS "%s", dev->no_blas);
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
                 dev->label, dev->library);
    else
        snprintf(dev->description + n, room, CUBLASLT "%zu.%zu", version / 10000, version / 100 % 100);
    return st;
}

unsigned rk__blas_uses(const rk_dev *dev)
{
    return dev->blas ? RK_BESIDE_SUMS | RK_BESIDE_BITS | RK_BESIDE_SLOPE | RK_USES_ROUNDED : 0;
}

const char *rk__blas_lacks(const rk_dev *dev)
{
    return dev->no_blas;
}

/* Its own reason stands in the description, or that it has the library. */
void rk__blas_do_without(rk_dev *dev, const char *why)
{
    char *at = strstr(dev->description, dev->blas ? CUBLASLT : OWN_KERNELS);
    rk__blas_close(dev);
    if (at)
        snprintf(at, sizeof dev->description - (size_t)(at - dev->description), OWN_KERNELS "%s", why);
}

void rk__blas_close(rk_dev *dev)
{
    rk__blas *b = dev->blas;
    if (!b)
        return;
    rk__blas_free_plans(b);
    if (b->preference)
        b->lib->MatmulPreferenceDestroy(b->preference);
    if (b->handle)
        b->lib->Destroy(b->handle);
    free(b);
    dev->blas = NULL;
}

/* ---- what there is to multiply ---- */

uint32_t rk__blas_alignment(const void *p)
{
    const uintptr_t at = (uintptr_t)p | RK__BLAS_ALIGNMENT;
    return (uint32_t)(at & -at);
}

/* A matrix (rows, cols) of ours, transposed as all of ours are: false if cuBLASLt has no such strides. */
static bool as_operand(int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t batch_step,
                       rk__blas_operand *o)
{
    *o = (rk__blas_operand){ .batch_step = batch_step };
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
    return o->ld >= o->rows && o->ld <= RK__BLAS_MOST_EXTENT;
}

/* What an operand's elements are rounded to lies in the workspace; a matrix that is used for the whole batch
 * once. */
static rk_status pack(rk_dev *dev, rk_round to, int slot, int64_t batch, rk__blas_operand *o,
                      const void **data)
{
    rk__lines l = { o->cols, o->rows, o->ld, o->batch_step ? batch : 1, o->batch_step };
    const int64_t step = rk__rounded_step(o->rows);
    uint16_t *p = rk__cuda_work(dev, slot, (size_t)(step * o->cols * l.batch) * sizeof *p);
    if (!p)
        return rk__cuda_denied(dev);
    rk_status st = rk__cuda_pack16(dev, to, &l, *data, step, p);
    *data = p;
    o->ld = step;
    o->batch_step = o->batch_step ? step * o->cols : 0;
    return st;
}

/* ---- a product ---- */

/* All that a launch depends on: compared as bytes. */
typedef struct launch {
    rk__blas_plan *plan;
    const void *a, *b, *bias, *aux;
    void *sums, *work;
    uint64_t adds;
} launch;

static cublasStatus_t launch_in(rk_dev *dev, const launch *l, cudaStream_t s)
{
    static const double one = 1, zero = 0;
    static const float one_f = 1, zero_f = 0;
    rk__blas_plan *p = l->plan;
    const bool wide = p->key.type == CUDA_R_64F;
    const void *alpha = wide ? (const void *)&one : &one_f;
    const void *beta = l->adds ? alpha : wide ? (const void *)&zero : &zero_f;
    return dev->blas->lib->Matmul(dev->blas->handle, p->desc, alpha, l->a, p->a, l->b, p->b, beta, l->sums,
                                  p->c, l->sums, p->c, &p->algo, l->work, p->workspace, s);
}

/* Of the queue, which may have it captured. */
static cudaError_t launch_held(rk_dev *dev, const void *key, cudaStream_t s)
{
    const launch *l = key;
    rk_status st = rk__blas_point(dev, l->plan, l->bias, l->aux);
    if (!st)
        st = rk__blas_status(dev, launch_in(dev, l, s), "Matmul");
    return st ? dev->error : cudaSuccess;
}

/* The first launch of a plan is made at once: cuBLASLt may refuse it after all, and loads its kernels. */
static rk_status multiply(rk_dev *dev, rk__blas_plan *p, const rk_gemm *g, const void *a, const void *b,
                          const rk__blas_ending *e)
{
    launch l;
    memset(&l, 0, sizeof l);
    l = (launch){
        .plan = p, .a = a, .b = b, .bias = e->bias, .sums = e->sums, .aux = e->aux, .adds = rk__blas_adds(g)
    };
    if (p->workspace && !(l.work = rk__cuda_work(dev, SLOT_WORK, p->workspace)))
        return rk__cuda_denied(dev);
    if (p->taken)
        return rk__cuda_submit_call(dev, launch_held, &l, sizeof l);
    rk_status st = rk__blas_point(dev, p, l.bias, l.aux);
    if (st)
        return st;
    const cublasStatus_t s = launch_in(dev, &l, rk__cuda_stream(dev));
    p->refused = rk__blas_refuses(s);
    p->taken = s == CUBLAS_STATUS_SUCCESS;
    return p->refused ? RK_OK : rk__blas_status(dev, s, "Matmul");
}

static bool takes(rk_dtype t, const rk_gemm *g, int64_t batch)
{
    return g->m > 0 && g->n > 0 && g->k > 0 && g->m <= RK__BLAS_MOST_EXTENT && g->n <= RK__BLAS_MOST_EXTENT &&
           g->k <= RK__BLAS_MOST_EXTENT && g->ldc >= g->n && g->ldc <= RK__BLAS_MOST_EXTENT &&
           batch <= RK__BLAS_MOST_EXTENT && (batch == 1 || g->c_batch) && !(t == RK_F64 && g->round);
}

/* By one epilogue. refused: cuBLASLt does not take it. */
static rk_status run(rk_dev *dev, rk_dtype t, const rk_gemm *g, rk__blas_key *k, const void *a, const void *b,
                     const rk__blas_ending *e, bool *refused)
{
    rk__blas_plan *p;
    k->c.aligned = rk__blas_alignment(e->sums);
    k->epilogue = e->epilogue;
    k->bias_aligned = rk__blas_alignment(e->bias);
    k->aux_aligned = rk__blas_alignment(e->aux);
    rk_status st = rk__blas_find(dev, k, e, &p);
    if (!st && !p->refused)
        st = multiply(dev, p, g, a, b, e);
    *refused = !st && p->refused;
    return st || *refused || !e->finish ? st : rk__cuda_finish(dev, t, g, e->sums, e->biased);
}

/* The same where sums beside the product are to be added to what there is: cuBLASLt only sets them. */
static rk_status run_all(rk_dev *dev, rk_dtype t, const rk_gemm *g, rk__blas_key *k, const void *a,
                         const void *b, rk__blas_ending *e, bool *refused)
{
    const bool adds = (e->done & RK_BESIDE_SUMS) && g->beside->sums_acc != RK_ACC_SET;
    if (adds && !(e->bias = rk__cuda_work(dev, SLOT_SUMS, (size_t)g->m * sizeof(float))))
        return rk__cuda_denied(dev);
    rk_status st = run(dev, t, g, k, a, b, e, refused);
    if (!st && !*refused && adds)
        st = rk__cuda_f32_add(dev, g->m, g->beside->a_sums, e->bias, 0, g->beside->a_sums);
    if (!st && !*refused && e->done)
        g->beside->done = e->done;
    return st;
}

/* One operand in 16 bits: as it came, or packed. One line is not told from many of one element. */
static rk_status rounded(rk_dev *dev, const rk_gemm *g, const rk_rounded *given, int slot, int64_t batch,
                         rk__blas_operand *o, const void **data)
{
    if (!given->data || batch > 1 || o->rows < 2 || o->cols < 2)
        return pack(dev, g->round, slot, batch, o, data);
    *data = given->data;
    o->ld = given->step;
    return RK_OK;
}

/* The operands, transposed, as the device has them or rounded. */
static rk_status operands(rk_dev *dev, const rk_gemm *g, rk__blas_key *k, const void **a, const void **b)
{
    rk_status st = RK_OK;
    *a = g->b;
    *b = g->a;
    if (g->round)
        st = rounded(dev, g, &g->b16, SLOT_A, k->batch, &k->a, a);
    if (!st && g->round)
        st = rounded(dev, g, &g->a16, SLOT_B, k->batch, &k->b, b);
    k->a.aligned = rk__blas_alignment(*a);
    k->b.aligned = rk__blas_alignment(*b);
    return st;
}

rk_status rk__blas_gemm(rk_dev *dev, rk_dtype t, const rk_gemm *g, bool *done)
{
    static const cudaDataType_t type[] = { CUDA_R_32F, CUDA_R_16BF, CUDA_R_16F }; /* rk_round */
    const int64_t batch = g->batch > 0 ? g->batch : 1, many = batch > 1;
    const void *a, *b;
    rk__blas_key k;
    memset(&k, 0, sizeof k);
    *done = false;
    if (!takes(t, g, batch) || !as_operand(g->k, g->n, g->b_row, g->b_col, many * g->b_batch, &k.a) ||
        !as_operand(g->m, g->k, g->a_row, g->a_col, many * g->a_batch, &k.b))
        return RK_OK;
    k.c = (rk__blas_operand){ .rows = g->n, .cols = g->m, .ld = g->ldc, .batch_step = many * g->c_batch };
    k.batch = batch;
    k.type = t == RK_F64 ? CUDA_R_64F : type[g->round];
    rk_status st = operands(dev, g, &k, &a, &b);
    if (st)
        return st;
    uint32_t last = 0;
    bool refused = true;
    for (int effort = RK__BLAS_ALL; !st && refused && effort <= RK__BLAS_PLAIN; effort++) {
        rk__blas_ending e = rk__blas_ending_of(dev, t, g, &k, (rk__blas_effort)effort);
        if (e.epilogue != last)
            st = run_all(dev, t, g, &k, a, b, &e, &refused);
        last = e.epilogue;
    }
    *done = !st && !refused;
    return st;
}
