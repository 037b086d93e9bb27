/* Convolutions against oneDNN, which may choose its own layouts for every operand (format any); its reorders
 * are not timed. Forward with bias, the gradient of the input, the gradient of the weights (8 segments, as in
 * training).
 *
 * Columns: GF/s = 2 * n * oc * oh * ow * c/groups * kh * kw / median time, and ours / oneDNN's. `wrong`
 * counts results further from oneDNN's than the rounding of a sum of that length explains. */
#include "bench.h"

#include "core/kernels.h"

#include <dlfcn.h>
#include <oneapi/dnnl/dnnl.h>

#define DNNL(call)                                                      \
    do {                                                                \
        dnnl_status_t status_ = (call);                                 \
        if (status_ != dnnl_success) {                                  \
            fprintf(stderr, "oneDNN: %s: status %d\n", #call, status_); \
            exit(1);                                                    \
        }                                                               \
    } while (0)

typedef struct layer {
    const char *name;
    bool first; /* of its network: its input needs no gradient */
    rk_conv2d_args g;
} layer;

#define LAYER(name, first, batch, in, size, out, kernel, step, border)                                    \
    {                                                                                                     \
        name, first,                                                                                      \
        {                                                                                                 \
            .n = batch, .c = in, .h = size, .w = size, .oc = out, .kh = kernel, .kw = kernel,             \
            .oh = (size + 2 * border - kernel) / step + 1, .ow = (size + 2 * border - kernel) / step + 1, \
            .stride_h = step, .stride_w = step, .pad_h = border, .pad_w = border, .dil_h = 1, .dil_w = 1, \
            .groups = 1                                                                                   \
        }                                                                                                 \
    }

static const layer layers[] = {
    LAYER("bar 64-64 32x32 b32", false, 32, 64, 32, 64, 3, 1, 1),
    LAYER("cnn 1-32 28x28", true, 64, 1, 28, 32, 3, 1, 1),
    LAYER("cnn 32-64 28x28", false, 64, 32, 28, 64, 3, 1, 1),
    LAYER("cnn 32-64 14x14", false, 64, 32, 14, 64, 3, 1, 1),
    LAYER("resnet 3-16 32x32", true, 64, 3, 32, 16, 3, 1, 1),
    LAYER("resnet 16-16 32x32", false, 64, 16, 32, 16, 3, 1, 1),
    LAYER("resnet 16-32 s2", false, 64, 16, 32, 32, 3, 2, 1),
    LAYER("resnet 16-32 1x1 s2", false, 64, 16, 32, 32, 1, 2, 0),
    LAYER("resnet 32-32 16x16", false, 64, 32, 16, 32, 3, 1, 1),
    LAYER("resnet 32-64 s2", false, 64, 32, 16, 64, 3, 2, 1),
    LAYER("resnet 32-64 1x1 s2", false, 64, 32, 16, 64, 1, 2, 0),
    LAYER("resnet 64-64 8x8", false, 64, 64, 8, 64, 3, 1, 1),
};

enum what { FORWARD, INPUT, WEIGHTS };
static const char *const what_name[] = { "forward", "dx", "dw" };

typedef struct bench {
    enum what what;
    const layer *l;
    rk_dev *dev;
    const rk_kernels *k;
    float *x, *w, *bias, *y; /* y: output or its gradient */
    float *ours, *theirs;    /* results, plain layout */
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    dnnl_primitive_t conv;
    dnnl_exec_arg_t args[4];
    int arg_count;
    dnnl_memory_t result;
} bench;

static void run_ours(void *arg)
{
    bench *b = arg;
    const rk_conv2d_args *g = &b->l->g;
    if (b->what == FORWARD)
        b->k->conv2d(b->dev, g, b->x, b->w, b->bias, RK_ACT_NONE, b->ours);
    else if (b->what == INPUT)
        b->k->conv2d_dx(b->dev, g, b->y, b->w, b->ours);
    else
        b->k->conv2d_dw(b->dev, g, (rk_order){ 8, g->oh * g->ow, RK_ACC_SET }, b->x, b->y, b->ours);
}

static void run_theirs(void *arg)
{
    bench *b = arg;
    dnnl_primitive_execute(b->conv, b->stream, b->arg_count, b->args);
    dnnl_stream_wait(b->stream);
}

static float *numbers(int64_t n)
{
    static uint32_t seed = 1;
    float *p = aligned_alloc(64, ((size_t)n * sizeof *p + 127) / 64 * 64);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        p[i] = (float)(int32_t)seed / 2147483648.0f;
    }
    return p;
}

static dnnl_memory_desc_t plain(int ndim, const dnnl_dims_t dims)
{
    static const dnnl_format_tag_t tags[] = { dnnl_format_tag_undef, dnnl_a, dnnl_ab, dnnl_abc, dnnl_abcd };
    dnnl_memory_desc_t d;
    DNNL(dnnl_memory_desc_init_by_tag(&d, ndim, dims, dnnl_f32, tags[ndim]));
    return d;
}

static void reorder(bench *b, dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_memory_desc_t *f, *t;
    dnnl_primitive_desc_t pd;
    dnnl_primitive_t p;
    DNNL(dnnl_memory_get_memory_desc(from, &f));
    DNNL(dnnl_memory_get_memory_desc(to, &t));
    DNNL(dnnl_reorder_primitive_desc_create(&pd, f, b->engine, t, b->engine, NULL));
    DNNL(dnnl_primitive_create(&p, pd));
    dnnl_exec_arg_t args[] = { { DNNL_ARG_FROM, from }, { DNNL_ARG_TO, to } };
    DNNL(dnnl_primitive_execute(p, b->stream, 2, args));
    DNNL(dnnl_stream_wait(b->stream));
    dnnl_primitive_destroy(p);
    dnnl_primitive_desc_destroy(pd);
}

/* An operand in the layout that the primitive asks for, with our numbers in it. */
static void operand(bench *b, dnnl_primitive_desc_t pd, int arg, int ndim, const dnnl_dims_t dims,
                    float *data)
{
    const dnnl_memory_desc_t *want = dnnl_primitive_desc_query_md(pd, dnnl_query_exec_arg_md, arg);
    dnnl_memory_desc_t ours = plain(ndim, dims);
    dnnl_memory_t m, p;
    DNNL(dnnl_memory_create(&m, want, b->engine, DNNL_MEMORY_ALLOCATE));
    DNNL(dnnl_memory_create(&p, &ours, b->engine, data));
    reorder(b, p, m);
    dnnl_memory_destroy(p);
    b->args[b->arg_count++] = (dnnl_exec_arg_t){ arg, m };
    b->result = m; /* the last one given */
}

static void make_theirs(bench *b)
{
    const rk_conv2d_args *g = &b->l->g;
    dnnl_dims_t x = { g->n, g->c, g->h, g->w }, w = { g->oc, g->c, g->kh, g->kw },
                y = { g->n, g->oc, g->oh, g->ow };
    dnnl_dims_t bias = { g->oc }, stride = { g->stride_h, g->stride_w }, dil = { 0, 0 },
                pad = { g->pad_h, g->pad_w };
    dnnl_dims_t right = { (g->oh - 1) * g->stride_h + g->kh - g->h - g->pad_h,
                          (g->ow - 1) * g->stride_w + g->kw - g->w - g->pad_w };
    dnnl_memory_desc_t xd, wd, yd, bd = plain(1, bias);
    DNNL(dnnl_memory_desc_init_by_tag(&xd, 4, x, dnnl_f32, dnnl_format_tag_any));
    DNNL(dnnl_memory_desc_init_by_tag(&wd, 4, w, dnnl_f32, dnnl_format_tag_any));
    DNNL(dnnl_memory_desc_init_by_tag(&yd, 4, y, dnnl_f32, dnnl_format_tag_any));
    dnnl_convolution_desc_t fd, d;
    dnnl_primitive_desc_t hint, pd;
    DNNL(dnnl_dilated_convolution_forward_desc_init(&fd, dnnl_forward_training, dnnl_convolution_direct, &xd,
                                                    &wd, &bd, &yd, stride, dil, pad, right));
    DNNL(dnnl_primitive_desc_create(&hint, &fd, NULL, b->engine, NULL));
    b->arg_count = 0;
    if (b->what == FORWARD) {
        pd = hint;
        operand(b, pd, DNNL_ARG_SRC, 4, x, b->x);
        operand(b, pd, DNNL_ARG_WEIGHTS, 4, w, b->w);
        operand(b, pd, DNNL_ARG_BIAS, 1, bias, b->bias);
        operand(b, pd, DNNL_ARG_DST, 4, y, b->y);
    } else if (b->what == INPUT) {
        DNNL(dnnl_dilated_convolution_backward_data_desc_init(&d, dnnl_convolution_direct, &xd, &wd, &yd,
                                                              stride, dil, pad, right));
        DNNL(dnnl_primitive_desc_create(&pd, &d, NULL, b->engine, hint));
        operand(b, pd, DNNL_ARG_DIFF_DST, 4, y, b->y);
        operand(b, pd, DNNL_ARG_WEIGHTS, 4, w, b->w);
        operand(b, pd, DNNL_ARG_DIFF_SRC, 4, x, b->x);
    } else {
        DNNL(dnnl_dilated_convolution_backward_weights_desc_init(&d, dnnl_convolution_direct, &xd, &wd, NULL,
                                                                 &yd, stride, dil, pad, right));
        DNNL(dnnl_primitive_desc_create(&pd, &d, NULL, b->engine, hint));
        operand(b, pd, DNNL_ARG_SRC, 4, x, b->x);
        operand(b, pd, DNNL_ARG_DIFF_DST, 4, y, b->y);
        operand(b, pd, DNNL_ARG_DIFF_WEIGHTS, 4, w, b->w);
    }
    DNNL(dnnl_primitive_create(&b->conv, pd));
    if (pd != hint)
        dnnl_primitive_desc_destroy(pd);
    dnnl_primitive_desc_destroy(hint);
}

/* Brings oneDNN's result to the plain layout and counts the differences. */
static int64_t count_wrong(bench *b, int64_t terms, int64_t size)
{
    const rk_conv2d_args *g = &b->l->g;
    dnnl_dims_t dims[] = { { g->n, g->oc, g->oh, g->ow },
                           { g->n, g->c, g->h, g->w },
                           { g->oc, g->c, g->kh, g->kw } };
    dnnl_memory_desc_t d = plain(4, dims[b->what]);
    dnnl_memory_t p;
    DNNL(dnnl_memory_create(&p, &d, b->engine, b->theirs));
    reorder(b, b->result, p);
    dnnl_memory_destroy(p);
    int64_t wrong = 0;
    double bound = 8e-6 * sqrt((double)terms) + 4e-8 * (double)terms; /* operands are in (-1, 1) */
    for (int64_t i = 0; i < size; i++)
        wrong += !(fabs((double)b->ours[i] - b->theirs[i]) <= bound);
    return wrong;
}

static void bench_one(const bench_options *o, bench *b, const layer *l, enum what what, bench_summary *sum)
{
    char name[64];
    snprintf(name, sizeof name, "%s %s", l->name, what_name[what]);
    if ((what == INPUT && l->first) || (o->only && !strstr(name, o->only)))
        return;
    const rk_conv2d_args *g = &l->g;
    int64_t nx = g->n * g->c * g->h * g->w, nw = g->oc * g->c * g->kh * g->kw,
            ny = g->n * g->oc * g->oh * g->ow;
    int64_t size[] = { ny, nx, nw },
            terms[] = { g->c * g->kh * g->kw, g->oc * g->kh * g->kw, g->n * g->oh * g->ow };
    b->what = what;
    b->l = l;
    b->x = numbers(nx);
    b->w = numbers(nw);
    b->bias = numbers(g->oc);
    b->y = numbers(ny);
    b->ours = numbers(size[what]);
    b->theirs = numbers(size[what]);
    make_theirs(b);
    bench_side sides[] = { { "ours", run_ours, b, 0, 0, 0 }, { "oneDNN", run_theirs, b, 0, 0, 0 } };
    bench_in_turn(o, 1, sides, 2);
    int64_t wrong = count_wrong(b, terms[what], size[what]);
    double flops = 2.0 * (double)ny * (double)(g->c * g->kh * g->kw) * 1e-9,
           ratio = sides[1].median / sides[0].median;
    printf("%-30s %8.1f %8.1f %8.3f %10lld\n", name, flops / sides[0].median, flops / sides[1].median, ratio,
           (long long)wrong);
    fflush(stdout);
    bench_add(sum, ratio, wrong);
    dnnl_primitive_destroy(b->conv);
    for (int i = 0; i < b->arg_count; i++)
        dnnl_memory_destroy(b->args[i].memory);
    float *all[] = { b->x, b->w, b->bias, b->y, b->ours, b->theirs };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

int main(int argc, char **argv)
{
    bench_options o = bench_options_read(argc, argv);
    void (*their_threads)(int) = (void (*)(int))dlsym(RTLD_DEFAULT, "omp_set_num_threads");
    if (their_threads)
        their_threads(o.threads);
    bench b = { 0 };
    char msg[200] = "";
    if (rk_device_cpu.open(&(rk_open_cfg){ .threads = o.threads }, &b.dev, msg, sizeof msg)) {
        fprintf(stderr, "%s\n", msg);
        return 1;
    }
    b.k = rk_device_cpu.kernels(b.dev, RK_F32);
    DNNL(dnnl_engine_create(&b.engine, dnnl_cpu, 0));
    DNNL(dnnl_stream_create(&b.stream, b.engine, dnnl_stream_default_flags));
    const dnnl_version_t *v = dnnl_version();
    printf("%s; oneDNN %d.%d.%d, %d thread%s\n", rk_device_cpu.describe(b.dev), v->major, v->minor, v->patch,
           o.threads, o.threads == 1 ? "" : "s");
    printf("%-30s %8s %8s %8s %10s\n", "layer", "GF/s", "oneDNN", "ratio", "wrong");
    bench_summary sum = { 0 };
    for (size_t i = 0; i < sizeof layers / sizeof *layers; i++)
        for (int what = FORWARD; what <= WEIGHTS; what++)
            bench_one(&o, &b, &layers[i], (enum what)what, &sum);
    bench_print_summary(&sum, "convolutions");
    dnnl_stream_destroy(b.stream);
    dnnl_engine_destroy(b.engine);
    rk_device_cpu.close(b.dev);
    return sum.wrong != 0;
}
