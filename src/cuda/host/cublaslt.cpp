/* cuBLASLt's calls on the host. A product is an operation of its stream; every element that it touches is checked, and
 * so is what the real library only trusts: alignment that was promised, the workspace, which product an algorithm was
 * chosen for. Sums are made in another order than our kernels', so that nobody relies on their bits. RK_EMU_BLAS=off: as
 * where the library is missing; refuse: it takes no product; plain: it takes no epilogue; forward: none of gradients;
 * fickle: whoever asks for an algorithm again gets another one. */
#include "cuda/host/rk_emu.h"
#include "cuda/host/runtime.h"

#include "cuda/blas_table.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <map>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <vector>

namespace {

enum { VERSION = 130000, WORK_ALIGNMENT = 16, AUX_ALIGNMENT = 16, MOST_ALIGNMENT = 256 };

struct layout {
    cudaDataType_t type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch;
    int64_t step;
};

struct description {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t op_a, op_b;
    uint32_t epilogue;
    const void *bias;
    int64_t bias_step;
    void *aux;
    int64_t aux_ld, aux_step;
};

struct preference {
    uint64_t workspace;
    uint32_t reductions;
    uint32_t aligned[4]; /* A, B, C, D */
};

/* What lives in a cublasLtMatmulAlgo_t. */
struct algorithm {
    uint64_t product; /* hash of what it was chosen for */
    uint64_t workspace;
    uint32_t aligned[4], bias, aux;
    uint32_t sums; /* that its terms are dealt out to: algorithms differ in their bits; 0: as it happens to be */
};
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm has room");

void *caller; /* of the call at hand */

/* A mistake, and who made it. */
__attribute__((format(printf, 1, 2), noreturn)) void report(const char *format, ...)
{
    char text[400], where[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    rk_emu_report("blas", "%s; called at %s", text, rk_emu_place_of(caller, where, sizeof where));
}

/* All that was made and not destroyed; a handle's end tells what was forgotten. */
enum kind { HANDLE, DESCRIPTION, LAYOUT, PREFERENCE };
const char *const names[] = { "handle", "matmul description", "matrix layout", "matmul preference" };
std::map<const void *, kind> *living;

template <class T> T *make(kind k, T value)
{
    if (!living)
        living = new std::map<const void *, kind>;
    T *p = new T(value);
    (*living)[p] = k;
    return p;
}

template <class T> T *get(const void *p, kind k, const char *call)
{
    auto at = living ? living->find(p) : std::map<const void *, kind>::iterator();
    if (!living || at == living->end() || at->second != k)
        report("%s of %p, which is no %s, or was destroyed", call, p, names[k]);
    return (T *)const_cast<void *>(p);
}

template <class T> void destroy(const void *p, kind k, const char *call)
{
    T *t = get<T>(p, k, call);
    living->erase(p);
    delete t;
}

bool mode(const char *name)
{
    const char *text = getenv("RK_EMU_BLAS");
    return text && !strcmp(text, name);
}

/* ---- attributes ---- */

template <class T> void take(T *to, const void *value, size_t size, const char *call, int what)
{
    if (!value || size != sizeof *to)
        report("%s: attribute %d has %zu bytes, not %zu", call, what, sizeof *to, size);
    memcpy(to, value, size);
}

uint32_t alignment(const void *p)
{
    uintptr_t at = (uintptr_t)p | MOST_ALIGNMENT;
    return (uint32_t)(at & -at);
}

size_t size_of(cudaDataType_t t)
{
    return t == CUDA_R_64F ? 8 : t == CUDA_R_32F ? 4 : 2;
}

/* ---- what fits together ---- */

uint64_t mix(uint64_t h, uint64_t x)
{
    return (h ^ x) * 0x9E3779B97F4A7C15ull + (h >> 29);
}

uint64_t hash_of(const layout &l)
{
    uint64_t h = (uint64_t)l.type + 1;
    for (uint64_t x : { l.rows, l.cols, (uint64_t)l.ld, (uint64_t)l.batch, (uint64_t)l.step })
        h = mix(h, x);
    return h;
}

uint64_t hash_of(const description &d, const layout &a, const layout &b, const layout &c, const layout &to)
{
    uint64_t h = mix((uint64_t)d.compute, (uint64_t)d.scale);
    for (uint64_t x : { (uint64_t)d.op_a, (uint64_t)d.op_b, (uint64_t)d.epilogue, (uint64_t)d.aux_ld, hash_of(a),
                        hash_of(b), hash_of(c), hash_of(to) })
        h = mix(h, x);
    return h;
}

struct extents {
    uint64_t m, n, k;
    int32_t batch;
};

extents check_shapes(const description &d, const layout &a, const layout &b, const layout &c, const layout &to)
{
    const bool ta = d.op_a == CUBLAS_OP_T, tb = d.op_b == CUBLAS_OP_T;
    extents e = { ta ? a.cols : a.rows, tb ? b.rows : b.cols, ta ? a.rows : a.cols, to.batch };
    const uint64_t k = tb ? b.cols : b.rows;
    if (k != e.k || to.rows != e.m || to.cols != e.n || c.rows != e.m || c.cols != e.n)
        report("%llu x %llu times %llu x %llu gives no %llu x %llu", (unsigned long long)e.m,
                      (unsigned long long)e.k, (unsigned long long)k, (unsigned long long)e.n,
                      (unsigned long long)to.rows, (unsigned long long)to.cols);
    if (!e.m || !e.n || !e.k)
        report("an empty product");
    for (const layout *l : { &a, &b, &c, &to })
        if (l->ld < (int64_t)l->rows)
            report("a leading dimension of %lld for columns of %llu", (long long)l->ld,
                          (unsigned long long)l->rows);
    if (a.batch != e.batch || b.batch != e.batch || c.batch != e.batch || e.batch < 1)
        report("batches of %d, %d, %d and %d", a.batch, b.batch, c.batch, to.batch);
    if (e.batch > 1 && to.step < (int64_t)(to.cols - 1) * to.ld + (int64_t)to.rows)
        report("the results of a batch overlap");
    return e;
}

/* The rows of the library's table of types that products of ours may use. */
bool supported(const description &d, const layout &a, const layout &b, const layout &c, const layout &to)
{
    const bool half = a.type == CUDA_R_16F || a.type == CUDA_R_16BF;
    if (a.type != b.type || c.type != to.type)
        return false;
    if (d.compute == CUBLAS_COMPUTE_64F)
        return a.type == CUDA_R_64F && to.type == CUDA_R_64F && d.scale == CUDA_R_64F;
    return d.compute == CUBLAS_COMPUTE_32F && d.scale == CUDA_R_32F && (a.type == CUDA_R_32F || half) &&
           to.type == CUDA_R_32F;
}

/* Has the epilogue all bits of this part? The values of the enum are put together of bits, but for the first. */
bool has(const description &d, uint32_t part)
{
    return d.epilogue != CUBLASLT_EPILOGUE_DEFAULT && (d.epilogue & part) == part;
}

/* Gradients' epilogues are for more than one term; a sum of B goes with B as it lies transposed (NVIDIA's nvmath-python
 * asks for the same). */
bool epilogue_known(const description &d, uint64_t k)
{
    switch (d.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
        return true;
    case CUBLASLT_EPILOGUE_BGRADB:
        return d.compute == CUBLAS_COMPUTE_32F && !mode("plain") && !mode("forward") && k > 1 && d.op_b == CUBLAS_OP_T;
    case CUBLASLT_EPILOGUE_DRELU:
    case CUBLASLT_EPILOGUE_DGELU:
        return d.compute == CUBLAS_COMPUTE_32F && !mode("plain") && !mode("forward") && k > 1;
    case CUBLASLT_EPILOGUE_RELU_AUX:
    case CUBLASLT_EPILOGUE_RELU_AUX_BIAS:
        return d.compute == CUBLAS_COMPUTE_32F && !mode("plain") && !mode("forward");
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
        return d.compute == CUBLAS_COMPUTE_32F && !mode("plain");
    default:
        return false;
    }
}

bool has_bias(const description &d)
{
    return has(d, CUBLASLT_EPILOGUE_BIAS);
}

bool sums_b(const description &d)
{
    return d.epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

bool has_aux(const description &d)
{
    return has(d, 128);
}

/* Is what lies there ReLU's bits? */
bool has_bits(const description &d)
{
    return has(d, CUBLASLT_EPILOGUE_RELU_AUX) || d.epilogue == CUBLASLT_EPILOGUE_DRELU;
}

bool reads_aux(const description &d)
{
    return d.epilogue == CUBLASLT_EPILOGUE_DRELU || d.epilogue == CUBLASLT_EPILOGUE_DGELU;
}

void check_epilogue(const description &d, const layout &to)
{
    const bool bits = has_bits(d);
    if ((has_bias(d) || sums_b(d)) && !d.bias)
        report("an epilogue with bias, and no bias");
    if (sums_b(d) && to.batch > 1)
        report("a sum of B's rows in a batch of %d", to.batch);
    if (!has_aux(d))
        return;
    if (!d.aux || d.aux_ld < (int64_t)to.rows || d.aux_ld % (bits ? 128 : 8) || alignment(d.aux) < AUX_ALIGNMENT)
        report("an epilogue with %s: %p with a leading dimension of %lld for columns of %llu",
               bits ? "ReLU's bits" : "values before it", d.aux, (long long)d.aux_ld, (unsigned long long)to.rows);
    if (to.batch > 1 && d.aux_step < (int64_t)(to.cols - 1) * d.aux_ld + (int64_t)to.rows)
        report("the values before the epilogue of a batch overlap");
    if (to.batch > 1 && bits && d.aux_step % 128)
        report("a batch of ReLU's bits, %lld bits apart", (long long)d.aux_step);
}

/* ---- the product ---- */

struct call {
    description d;
    layout a, b, c, to;
    extents e;
    const char *pa, *pb, *pc;
    char *pd, *work;
    void *from; /* who called */
    double alpha, beta;
    uint64_t workspace;
    uint32_t sums;
};

double element(const char *p, cudaDataType_t t, int64_t i)
{
    switch (t) {
    case CUDA_R_64F:
        return ((const double *)(const void *)p)[i];
    case CUDA_R_32F:
        return (double)((const float *)(const void *)p)[i];
    case CUDA_R_16F:
        return (double)__half2float(((const __half *)(const void *)p)[i]);
    default:
        return (double)__bfloat162float(((const __nv_bfloat16 *)(const void *)p)[i]);
    }
}

/* Column by column: what lies between them belongs to others. */
void touch(const layout &l, const void *p, bool write, const char *what)
{
    for (int32_t item = 0; item < (l.batch > 1 && l.step ? l.batch : 1); item++)
        for (uint64_t col = 0; col < l.cols; col++)
            rk_emu_range((const char *)p + (size_t)(item * l.step + (int64_t)col * l.ld) * size_of(l.type),
                         l.rows * size_of(l.type), write, what);
}

enum { MOST_SUMS = 7 };

/* Backwards, terms dealt out to some sums. */
template <class S> S dot(const call &q, int32_t item, uint64_t i, uint64_t j)
{
    const bool ta = q.d.op_a == CUBLAS_OP_T, tb = q.d.op_b == CUBLAS_OP_T;
    const int64_t a0 = item * q.a.step + (int64_t)i * (ta ? q.a.ld : 1), a1 = ta ? 1 : q.a.ld,
                  b0 = item * q.b.step + (int64_t)j * (tb ? 1 : q.b.ld), b1 = tb ? q.b.ld : 1;
    S sum[MOST_SUMS] = { 0 }, all = 0;
    for (int64_t k = (int64_t)q.e.k - 1; k >= 0; k--)
        sum[k % q.sums] +=
            (S)element(q.pa, q.a.type, a0 + k * a1) * (S)element(q.pb, q.b.type, b0 + k * b1);
    for (uint32_t i = 0; i < q.sums; i++)
        all += sum[i];
    return all;
}

double gelu_of(double x)
{
    return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

double gelu_slope(double x)
{
    const double t = tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

/* The bits of the real library have this order too, as NVIDIA's tests of nvmath-python show, and are set for 0. */
template <class S> S with_bits(const call &q, uint64_t i, uint64_t j, S x)
{
    unsigned char *byte = (unsigned char *)q.d.aux + (j * (uint64_t)q.d.aux_ld + i) / 8;
    const unsigned char bit = (unsigned char)(1u << i % 8);
    if (reads_aux(q.d))
        return *byte & bit ? x : (S)0;
    *byte = (unsigned char)(x >= 0 ? *byte | bit : *byte & ~bit);
    return x;
}

template <class S> S ended(const call &q, int32_t item, uint64_t i, uint64_t j, S x)
{
    const int64_t at = item * q.d.aux_step + (int64_t)j * q.d.aux_ld + (int64_t)i;
    S *aux = has_aux(q.d) && !has_bits(q.d) ? (S *)q.d.aux + at : nullptr;
    if (has_bits(q.d))
        x = with_bits(q, i, j, x);
    else if (aux && !reads_aux(q.d))
        *aux = x;
    if (has(q.d, CUBLASLT_EPILOGUE_RELU))
        return x > 0 ? x : x != x ? x : 0;
    if (has(q.d, CUBLASLT_EPILOGUE_GELU))
        return (S)gelu_of((double)x);
    return q.d.epilogue == CUBLASLT_EPILOGUE_DGELU ? (S)((double)x * gelu_slope((double)*aux)) : x;
}

/* Of B's rows, over the terms: backwards, too. */
template <class S> void sum_b(const call &q)
{
    for (uint64_t j = 0; j < q.e.n; j++) {
        S sum = 0;
        for (int64_t k = (int64_t)q.e.k - 1; k >= 0; k--)
            sum += (S)element(q.pb, q.b.type, (int64_t)j + k * q.b.ld);
        ((S *)const_cast<void *>(q.d.bias))[j] = sum;
    }
}

template <class S> void compute(const call &q)
{
    for (int32_t item = 0; item < q.e.batch; item++)
        for (uint64_t j = 0; j < q.e.n; j++)
            for (uint64_t i = 0; i < q.e.m; i++) {
                S v = (S)q.alpha * dot<S>(q, item, i, j);
                if (q.beta != 0)
                    v += (S)q.beta * ((const S *)(const void *)q.pc)[item * q.c.step + (int64_t)j * q.c.ld + (int64_t)i];
                if (has_bias(q.d))
                    v += ((const S *)q.d.bias)[item * q.d.bias_step + (int64_t)i];
                ((S *)(void *)q.pd)[item * q.to.step + (int64_t)j * q.to.ld + (int64_t)i] = ended<S>(q, item, i, j, v);
            }
    if (sums_b(q.d))
        sum_b<S>(q);
}

/* Where ReLU's bits lie that a product has written, and of what shape: nobody else can write them. */
struct shape {
    uint64_t rows, cols;
    int64_t ld;
};
std::map<const void *, shape> *bits_of;

void touch_bits(const call &q)
{
    const bool write = !reads_aux(q.d);
    const shape mine = { q.to.rows, q.to.cols, q.d.aux_ld };
    if (!bits_of)
        bits_of = new std::map<const void *, shape>;
    auto at = bits_of->find(q.d.aux);
    if (!write && (at == bits_of->end() || memcmp(&at->second, &mine, sizeof mine)))
        report("bits at %p are read as those of ReLU in %llu x %llu, which no product has written there", q.d.aux,
               (unsigned long long)mine.rows, (unsigned long long)mine.cols);
    if (write)
        (*bits_of)[q.d.aux] = mine;
    rk_emu_range(q.d.aux, (size_t)q.d.aux_ld / 8 * q.to.cols, write, "cublasLtMatmul's bits of ReLU");
}

/* Beside A, B, C and D. */
void touch_epilogue(const call &q)
{
    layout aux = q.to;
    aux.ld = q.d.aux_ld;
    aux.step = q.d.aux_step;
    if (sums_b(q.d))
        rk_emu_range(q.d.bias, q.e.n * size_of(q.to.type), true, "cublasLtMatmul's sums of B");
    if (has_bits(q.d))
        touch_bits(q);
    else if (has_aux(q.d))
        touch(aux, q.d.aux, !reads_aux(q.d), "cublasLtMatmul's values before the epilogue");
}

void run(const call &q)
{
    const char *what = "cublasLtMatmul";
    caller = q.from;
    touch(q.a, q.pa, false, what);
    touch(q.b, q.pb, false, what);
    if (q.beta != 0)
        touch(q.c, q.pc, false, what);
    if (has_bias(q.d))
        rk_emu_range(q.d.bias, q.e.m * size_of(q.to.type), false, "cublasLtMatmul's bias");
    rk_emu_range(q.work, q.workspace, true, "cublasLtMatmul's workspace");
    if (q.workspace)
        memset(q.work, 0xff, q.workspace);
    if (reads_aux(q.d))
        touch_epilogue(q);
    if (q.to.type == CUDA_R_64F)
        compute<double>(q);
    else
        compute<float>(q);
    touch(q.to, q.pd, true, what);
    if (!reads_aux(q.d))
        touch_epilogue(q);
}

/* Which it is: how many sums it makes. */
uint32_t check_algorithm(const call &q, const cublasLtMatmulAlgo_t *given)
{
    algorithm g;
    if (!given)
        report("a product without an algorithm");
    memcpy(&g, given, sizeof g);
    if (g.product != hash_of(q.d, q.a, q.b, q.c, q.to))
        report("the algorithm was chosen for another product");
    const struct {
        const char *name;
        const void *p;
        uint32_t least;
    } aligned[] = { { "A", q.pa, g.aligned[0] },     { "B", q.pb, g.aligned[1] },
                    { "C", q.pc, g.aligned[2] },     { "D", q.pd, g.aligned[3] },
                    { "the bias", q.d.bias, has_bias(q.d) || sums_b(q.d) ? g.bias : 1 },
                    { "the values before the epilogue", q.d.aux, has_aux(q.d) ? g.aux : 1 } };
    for (const auto &x : aligned)
        if (alignment(x.p) < x.least)
            report("%s lies at a multiple of %u bytes; the algorithm was chosen for %u", x.name,
                          alignment(x.p), x.least);
    if (q.workspace < g.workspace)
        report("a workspace of %llu bytes; the algorithm needs %llu", (unsigned long long)q.workspace,
                      (unsigned long long)g.workspace);
    if (q.workspace && alignment(q.work) < WORK_ALIGNMENT)
        report("the workspace lies at a multiple of %u bytes", alignment(q.work));
    static uint32_t launched;
    return g.sums ? g.sums : 2 + launched++ % (MOST_SUMS - 1);
}

/* From its first element to its last a matrix, or a batch of them, lies in one block of device memory. */
void check_block(const char *name, const void *p, size_t bytes)
{
    const char *guard = getenv("RK_EMU_GUARD");
    const rk_emu_block *b = rk_emu_find_block(p, 0);
    if (rk_emu_kind_of(p) != RK_EMU_DEVICE && !(guard && !strcmp(guard, "off")))
        report("%s lies at %p, which is no device memory", name, p);
    if (b && (const char *)p + bytes > b->p + b->bytes)
        report("%s reaches %zu bytes past the end of a block of %zu bytes", name,
               (size_t)((const char *)p + bytes - (b->p + b->bytes)), b->bytes);
}

size_t extent(const layout &l)
{
    const int64_t last = (l.batch - 1) * l.step + ((int64_t)l.cols - 1) * l.ld;
    return ((size_t)last + l.rows) * size_of(l.type);
}

void check_memory(const call &q)
{
    check_block("A", q.pa, extent(q.a));
    check_block("B", q.pb, extent(q.b));
    check_block("C", q.pc, extent(q.c));
    check_block("D", q.pd, extent(q.to));
    if (q.workspace)
        check_block("the workspace", q.work, q.workspace);
    if (has_bias(q.d) || sums_b(q.d))
        check_block("the bias", q.d.bias, (sums_b(q.d) ? q.e.n : q.e.m) * size_of(q.to.type));
    if (has_bits(q.d))
        check_block("ReLU's bits", q.d.aux, (size_t)q.d.aux_ld / 8 * q.to.cols);
    if (q.pc == q.pd && hash_of(q.c) != hash_of(q.to))
        report("C and D are one memory, and their layouts differ");
}

/* What a call says of its product. */
call described(const char *me, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
               cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t to)
{
    call q = {};
    q.d = *get<description>(desc, DESCRIPTION, me);
    q.a = *get<layout>(a, LAYOUT, me);
    q.b = *get<layout>(b, LAYOUT, me);
    q.c = *get<layout>(c, LAYOUT, me);
    q.to = *get<layout>(to, LAYOUT, me);
    return q;
}

/* Destroys, even where the call is made to fail. */
template <class T> cublasStatus_t end(void *p, kind k, const char *name, void *pc)
{
    rk_emu_guard guard;
    caller = pc;
    bool fails = rk_emu_fails(name);
    destroy<T>(p, k, name);
    return fails ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}

bool takes(const call &q)
{
    return supported(q.d, q.a, q.b, q.c, q.to) && epilogue_known(q.d, q.e.k) && !mode("refuse");
}

} // namespace

#define BLAS_CALL(name)                  \
    rk_emu_guard rk_emu_guard_here;      \
    caller = __builtin_return_address(0); \
    if (rk_emu_fails(name))          \
        return CUBLAS_STATUS_INTERNAL_ERROR

extern "C" {

size_t cublasLtGetVersion(void)
{
    return VERSION;
}

const char *cublasLtGetStatusName(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_SUCCESS           ? "CUBLAS_STATUS_SUCCESS"
           : s == CUBLAS_STATUS_ALLOC_FAILED    ? "CUBLAS_STATUS_ALLOC_FAILED"
           : s == CUBLAS_STATUS_INVALID_VALUE   ? "CUBLAS_STATUS_INVALID_VALUE"
           : s == CUBLAS_STATUS_NOT_SUPPORTED   ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                                : "CUBLAS_STATUS_INTERNAL_ERROR";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    BLAS_CALL("cublasLtCreate");
    *out = (cublasLtHandle_t)(void *)make(HANDLE, 0);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t h)
{
    rk_emu_guard guard;
    caller = __builtin_return_address(0);
    bool fails = rk_emu_fails("cublasLtDestroy"); /* destroys even where it is made to fail */
    destroy<int>(h, HANDLE, "cublasLtDestroy");
    size_t handles = 0;
    for (auto &at : *living)
        handles += at.second == HANDLE;
    if (!handles && !living->empty())
        report("leak: %zu objects are left when the last handle is destroyed, one of them a %s",
                      living->size(), names[living->begin()->second]);
    return fails ? CUBLAS_STATUS_INTERNAL_ERROR : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale)
{
    BLAS_CALL("cublasLtMatmulDescCreate");
    description d = {};
    d.compute = compute;
    d.scale = scale;
    d.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    *out = (cublasLtMatmulDesc_t)(void *)make(DESCRIPTION, d);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t p)
{
    return end<description>(p, DESCRIPTION, "cublasLtMatmulDescDestroy", __builtin_return_address(0));
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t p, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size)
{
    const char *me = "cublasLtMatmulDescSetAttribute";
    BLAS_CALL(me);
    description *d = get<description>(p, DESCRIPTION, me);
    switch (what) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        take(&d->op_a, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_TRANSB:
        take(&d->op_b, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        take(&d->epilogue, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        take(&d->bias, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        take(&d->bias_step, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        take(&d->aux, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        take(&d->aux_ld, value, size, me, what);
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
        take(&d->aux_step, value, size, me, what);
        break;
    default:
        report("%s: attribute %d is not known to the stand-in", me, (int)what);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld)
{
    BLAS_CALL("cublasLtMatrixLayoutCreate");
    *out = (cublasLtMatrixLayout_t)(void *)make(LAYOUT, layout{ type, rows, cols, ld, 1, 0 });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t p)
{
    return end<layout>(p, LAYOUT, "cublasLtMatrixLayoutDestroy", __builtin_return_address(0));
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t p, cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t size)
{
    const char *me = "cublasLtMatrixLayoutSetAttribute";
    BLAS_CALL(me);
    layout *l = get<layout>(p, LAYOUT, me);
    if (what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
        take(&l->batch, value, size, me, what);
    else if (what == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
        take(&l->step, value, size, me, what);
    else
        report("%s: attribute %d is not known to the stand-in", me, (int)what);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    BLAS_CALL("cublasLtMatmulPreferenceCreate");
    *out = (cublasLtMatmulPreference_t)(void *)make(
        PREFERENCE, preference{ 0, CUBLASLT_REDUCTION_SCHEME_MASK, { MOST_ALIGNMENT, MOST_ALIGNMENT, MOST_ALIGNMENT, MOST_ALIGNMENT } });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    return end<preference>(p, PREFERENCE, "cublasLtMatmulPreferenceDestroy", __builtin_return_address(0));
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *value,
                                                    size_t size)
{
    const char *me = "cublasLtMatmulPreferenceSetAttribute";
    BLAS_CALL(me);
    preference *f = get<preference>(p, PREFERENCE, me);
    if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        take(&f->workspace, value, size, me, what);
    else if (what == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK)
        take(&f->reductions, value, size, me, what);
    else if (what >= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES && what <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES)
        take(&f->aligned[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, size, me, what);
    else
        report("%s: attribute %d is not known to the stand-in", me, (int)what);
    return CUBLAS_STATUS_SUCCESS;
}

/* By all that it was asked for, the alignment too; and by how often one was, if it is fickle. */
static uint32_t sums_of(const algorithm &g)
{
    static uint32_t asked;
    uint64_t h = g.product;
    for (uint32_t x : { g.aligned[0], g.aligned[1], g.aligned[2], g.bias, g.aux })
        h = mix(h, x);
    return 2 + (uint32_t)((h >> 32) + (mode("fickle") ? asked++ : 0)) % (MOST_SUMS - 1);
}

/* The algorithm wants all the alignment that it was promised, and some workspace, by the shape. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t to, cublasLtMatmulPreference_t pref, int wanted,
                                              cublasLtMatmulHeuristicResult_t *result, int *found)
{
    const char *me = "cublasLtMatmulAlgoGetHeuristic";
    BLAS_CALL(me);
    get<int>(h, HANDLE, me);
    call q = described(me, desc, a, b, c, to);
    const preference f = *get<preference>(pref, PREFERENCE, me);
    *found = 0;
    if (wanted < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    q.e = check_shapes(q.d, q.a, q.b, q.c, q.to);
    if (!takes(q))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    check_epilogue(q.d, q.to);
    algorithm g = {};
    g.product = hash_of(q.d, q.a, q.b, q.c, q.to);
    g.workspace = 16 * (q.e.m * 7 + q.e.n * 3 + q.e.k) % 4096;
    g.workspace = g.workspace < f.workspace ? g.workspace : f.workspace;
    memcpy(g.aligned, f.aligned, sizeof g.aligned);
    g.bias = alignment(q.d.bias);
    g.aux = alignment(q.d.aux);
    g.sums = f.reductions & CUBLASLT_REDUCTION_SCHEME_INPLACE ? 0 : sums_of(g);
    memset(result, 0, sizeof *result);
    memcpy(&result->algo, &g, sizeof g);
    result->workspaceSize = g.workspace;
    result->state = CUBLAS_STATUS_SUCCESS;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t h, cublasLtMatmulDesc_t desc, const void *alpha, const void *A,
                              cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b, const void *beta,
                              const void *C, cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t to,
                              const cublasLtMatmulAlgo_t *algo, void *work, size_t workspace, cudaStream_t stream)
{
    const char *me = "cublasLtMatmul";
    BLAS_CALL(me);
    get<int>(h, HANDLE, me);
    call q = described(me, desc, a, b, c, to);
    q.from = caller;
    q.pa = (const char *)A;
    q.pb = (const char *)B;
    q.pc = (const char *)C;
    q.pd = (char *)D;
    q.work = (char *)work;
    q.workspace = workspace;
    q.alpha = element((const char *)alpha, q.d.scale, 0);
    q.beta = element((const char *)beta, q.d.scale, 0);
    q.e = check_shapes(q.d, q.a, q.b, q.c, q.to);
    if (!takes(q))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    check_epilogue(q.d, q.to);
    q.sums = check_algorithm(q, algo);
    check_memory(q);
    rk_emu_check_stream(stream, me, caller);
    auto launched = [q] {
        rk_emu_counted.launches++;
        return rk_emu_part{ nullptr, [q] { run(q); } };
    };
    return rk_emu_submit_library(stream, me, launched) ? CUBLAS_STATUS_EXECUTION_FAILED : CUBLAS_STATUS_SUCCESS;
}

const rk__blas_table *rk__blas_load(char *msg, size_t msg_size)
{
    static const rk__blas_table table = {
#define MEMBER(f) cublasLt##f,
        RK__BLAS_FUNCTIONS(MEMBER)
#undef MEMBER
    };
    if (!mode("off"))
        return &table;
    snprintf(msg, msg_size, "libcublasLt.so.%d was not found", VERSION / 10000);
    return nullptr;
}
}
