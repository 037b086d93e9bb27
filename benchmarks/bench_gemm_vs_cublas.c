/* Products of a GPU: our own kernels in canonical order, and what a run with parallel.exact: false takes,
 * against cublasSgemm alone, in turn. GFLOP/s = 2 m n k / median time; `wrong` counts elements off by more
 * than rounding. */
#include "bench.h"

#include "core/cuda_module.h"

#include <dlfcn.h>

/* The part of cublas_v2.h that is used; enums by value. */
typedef struct cublasContext *cublasHandle_t;
enum { CUBLAS_OP_N = 0 };
typedef struct blas {
    int (*create)(cublasHandle_t *);
    int (*destroy)(cublasHandle_t);
    int (*sgemm)(cublasHandle_t, int, int, int, int, int, const float *, const float *, int, const float *,
                 int, const float *, float *, int);
    int (*get_vector)(int, int, const void *, int, void *, int);
    cublasHandle_t handle;
} blas;

static bool load(blas *b)
{
    static const char *const names[] = { "libcublas.so.13", "libcublas.so.12", "libcublas.so" };
    void *lib = NULL;
    for (int i = 0; i < 3 && !lib; i++)
        lib = dlopen(names[i], RTLD_NOW);
    if (!lib) {
        fprintf(stderr, "bench_gemm_vs_cublas: cuBLAS is not found: %s\n", dlerror());
        return false;
    }
    *(void **)&b->create = dlsym(lib, "cublasCreate_v2");
    *(void **)&b->destroy = dlsym(lib, "cublasDestroy_v2");
    *(void **)&b->sgemm = dlsym(lib, "cublasSgemm_v2");
    *(void **)&b->get_vector = dlsym(lib, "cublasGetVector");
    if (!b->create || !b->destroy || !b->sgemm || !b->get_vector || b->create(&b->handle)) {
        fprintf(stderr, "bench_gemm_vs_cublas: this cuBLAS cannot be used\n");
        return false;
    }
    return true;
}

enum { REPEAT = 20 };

typedef struct contender {
    const rk_device *device;
    rk_dev *dev;
    const blas *blas; /* NULL: ours */
    float *a, *b, *c;
    int64_t m, n, k;
} contender;

static void must(int failed, const char *what)
{
    if (!failed)
        return;
    fprintf(stderr, "bench_gemm_vs_cublas: %s failed\n", what);
    exit(70);
}

/* Ends with a small read, which waits for all that was launched. Row-major c = a b is column-major c' = b'
 * a'. */
static void run(void *arg)
{
    const contender *t = arg;
    const float one = 1, zero = 0;
    const rk_kernels *kernels = t->device->kernels(t->dev, RK_F32);
    float x;
    for (int i = 0; i < REPEAT; i++) {
        if (t->blas)
            must(t->blas->sgemm(t->blas->handle, CUBLAS_OP_N, CUBLAS_OP_N, (int)t->n, (int)t->m, (int)t->k,
                                &one, t->b, (int)t->n, t->a, (int)t->k, &zero, t->c, (int)t->n),
                 "cublasSgemm");
        else
            must(kernels->gemm(t->dev, &(rk_gemm){ .m = t->m,
                                                   .n = t->n,
                                                   .k = t->k,
                                                   .a = t->a,
                                                   .a_row = t->k,
                                                   .a_col = 1,
                                                   .b = t->b,
                                                   .b_row = t->n,
                                                   .b_col = 1,
                                                   .c = t->c,
                                                   .ldc = t->n }),
                 "the product");
    }
    const int failed = t->blas ? t->blas->get_vector(1, sizeof x, t->c, 1, &x, 1)
                               : (int)t->device->copy_out(t->dev, &x, t->c, sizeof x);
    must(failed, "reading the product");
}

static float *numbers(const contender *t, int64_t n, uint32_t seed)
{
    void *p = NULL;
    float *host = malloc((size_t)n * sizeof *host);
    must(!host || t->device->alloc(t->dev, (size_t)n * sizeof *host, &p), "memory");
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        host[i] = (float)(seed >> 8) * 0x1p-23f - 1;
    }
    must(t->device->copy_in(t->dev, p, host, (size_t)n * sizeof *host), "a copy");
    free(host);
    return p;
}

/* Against the first contender's; a term is at most 1, and the terms of a sum are rounded k times at most. */
static int64_t count_wrong(const contender *first, const contender *t)
{
    const int64_t n = t->m * t->n;
    const size_t bytes = (size_t)n * sizeof(float);
    float *want = malloc(bytes), *got = malloc(bytes);
    must(!want || !got || first->device->copy_out(first->dev, want, first->c, bytes) ||
             t->device->copy_out(t->dev, got, t->c, bytes),
         "reading the products");
    int64_t wrong = 0;
    for (int64_t i = 0; i < n; i++)
        wrong += !(fabsf(want[i] - got[i]) <= 1e-6f * (float)t->k);
    free(want);
    free(got);
    return wrong;
}

static void compare(const bench_options *o, contender c[3], int64_t m, int64_t n, int64_t k)
{
    static const char *const names[] = { "exact", "inexact", "cuBLAS" };
    bench_side sides[3];
    for (int i = 0; i < 3; i++) {
        c[i].m = m;
        c[i].n = n;
        c[i].k = k;
        c[i].a = numbers(&c[i], m * k, 1);
        c[i].b = numbers(&c[i], k * n, 2);
        c[i].c = numbers(&c[i], m * n, 3);
        sides[i] = (bench_side){ .name = names[i], .run = run, .arg = &c[i] };
    }
    bench_in_turn(o, 1, sides, 3);
    printf("| %lld x %lld x %lld |", (long long)m, (long long)n, (long long)k);
    for (int i = 0; i < 3; i++)
        printf(" %.0f |", 2e-9 * (double)m * (double)n * (double)k * REPEAT / sides[i].median);
    printf(" %.2f | %.2f | %lld |\n", sides[2].median / sides[0].median, sides[2].median / sides[1].median,
           (long long)(count_wrong(&c[0], &c[1]) + count_wrong(&c[0], &c[2])));
    for (int i = 0; i < 3; i++) {
        c[i].device->release(c[i].dev, c[i].a, (size_t)(m * k) * sizeof(float));
        c[i].device->release(c[i].dev, c[i].b, (size_t)(k * n) * sizeof(float));
        c[i].device->release(c[i].dev, c[i].c, (size_t)(m * n) * sizeof(float));
    }
}

int main(int argc, char **argv)
{
    static const int64_t sizes[][3] = { { 256, 512, 784 },    { 512, 784, 256 },    { 1024, 1024, 1024 },
                                        { 2048, 2048, 2048 }, { 4096, 4096, 4096 }, { 1, 4096, 4096 } };
    bench_options o = bench_options_read(argc, argv);
    char msg[512];
    blas b = { 0 };
    const rk_cuda_library *m = rk__cuda_load(msg, sizeof msg);
    if (!m || m->gpus(msg, sizeof msg) <= 0 || m->host_run) {
        fprintf(stderr, "bench_gemm_vs_cublas: a GPU is needed: %s\n",
                m && m->host_run ? "this library runs on the host" : msg);
        return 69;
    }
    if (!load(&b))
        return 69;
    contender c[3] = { { .device = m->device },
                       { .device = m->device },
                       { .device = m->device, .blas = &b } };
    for (int i = 0; i < 3; i++)
        if (m->device->open(&(rk_open_cfg){ .inexact = i == 1 }, &c[i].dev, msg, sizeof msg)) {
            fprintf(stderr, "bench_gemm_vs_cublas: %s\n", msg);
            return 70;
        }
    printf("%s; GFLOP/s of float32 products\n\n| m x n x k | exact | parallel.exact: false | cublasSgemm | "
           "exact / "
           "cuBLAS | inexact / cuBLAS | wrong |\n|---|---|---|---|---|---|---|\n",
           m->device->describe(c[0].dev));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        compare(&o, c, sizes[i][0], sizes[i][1], sizes[i][2]);
    for (int i = 0; i < 3; i++)
        m->device->close(c[i].dev);
    b.destroy(b.handle);
    return 0;
}
