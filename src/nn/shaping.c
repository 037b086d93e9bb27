/* Layers without weights: activations, pooling, flatten, reshape, dropout, upsample. */
#include "core/cut.h"
#include "nn/module.h"

#include <stdio.h>
#include <string.h>

/* ---- activations ---- */

#define PLAIN(fn)                                        \
    static rk_tensor *plain_##fn(rk_tensor *x, double p) \
    {                                                    \
        (void)p;                                         \
        return rk_##fn(x);                               \
    }
PLAIN(relu)
PLAIN(gelu)
PLAIN(gelu_tanh)
PLAIN(silu)
PLAIN(sigmoid)
PLAIN(tanh)
PLAIN(softplus)

static rk_tensor *activation_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    return m->a.act.kind->op(x, m->a.act.p);
}

static rk_status same_shape(rk_module *m, const rk_shape *in, rk_shape *out)
{
    (void)m;
    *out = *in;
    return RK_OK;
}

static rk_module *activation_make(rk_module *parent, const char *name, const rk__activation *a, double p)
{
    rk_module *m = rk__module_add(parent, name, &a->kind);
    if (m) {
        m->a.act.kind = a;
        m->a.act.p = p;
    }
    return m;
}

#define PLAIN_BUILD(i, fn)                                                                              \
    static rk_module *build_##fn(rk__build *b, rk_module *parent, const char *name, const rk_doc *args) \
    {                                                                                                   \
        (void)b;                                                                                        \
        (void)args;                                                                                     \
        return activation_make(parent, name, &rk__activations[i], 0);                                   \
    }
PLAIN_BUILD(0, relu)
PLAIN_BUILD(1, gelu)
PLAIN_BUILD(2, gelu_tanh)
PLAIN_BUILD(3, silu)
PLAIN_BUILD(4, sigmoid)
PLAIN_BUILD(5, tanh)
PLAIN_BUILD(6, softplus)

static rk_module *build_leaky_relu(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    double slope = rk__arg_num(b, args, "slope", 0.01, 0, 1);
    return rk_failed(b->ctx) ? NULL : activation_make(parent, name, &rk__activations[7], slope);
}

static void leaky_relu_describe(const rk_module *m, rk__text *t)
{
    rk__text_puts(t, ",\"slope\":");
    rk__text_double(t, m->a.act.p);
}

#define ROW(fn, act)                                                                                   \
    {                                                                                                  \
#fn, plain_##fn, act, 0,                                                                       \
        {                                                                                              \
            .name = #fn, .keys = "", .bare = true, .forward = activation_forward, .infer = same_shape, \
            .build = build_##fn                                                                        \
        }                                                                                              \
    }
const rk__activation rk__activations[] = {
    ROW(relu, RK_ACT_RELU),
    ROW(gelu, RK_ACT_GELU),
    ROW(gelu_tanh, RK_ACT_GELU_TANH),
    ROW(silu, RK_ACT_NONE),
    ROW(sigmoid, RK_ACT_NONE),
    ROW(tanh, RK_ACT_NONE),
    ROW(softplus, RK_ACT_NONE),
    { "leaky_relu",
      rk_leaky_relu,
      RK_ACT_NONE,
      0.01,
      { .name = "leaky_relu",
        .keys = "slope",
        .scalar = "slope",
        .bare = true,
        .forward = activation_forward,
        .infer = same_shape,
        .build = build_leaky_relu,
        .describe = leaky_relu_describe } },
};
const int rk__n_activations = sizeof rk__activations / sizeof *rk__activations;

const rk__activation *rk__activation_find(const char *name)
{
    for (int i = 0; i < rk__n_activations; i++)
        if (!strcmp(rk__activations[i].name, name))
            return &rk__activations[i];
    return NULL;
}

rk_module *rk_activation(rk_module *parent, const char *name, const char *kind)
{
    if (!parent || rk_failed(parent->ctx))
        return NULL;
    const rk__activation *a = rk__activation_find(kind);
    if (!a) {
        rk_fail(parent->ctx, RK_EUSAGE, "layer %s: there is no activation \"%s\"", name, kind);
        return NULL;
    }
    return activation_make(parent, name, a, a->p);
}

/* ---- pooling ---- */

static rk_module *pool_make(rk_module *parent, const char *name, const rk__layer_kind *kind,
                            rk_tensor *(*op)(rk_tensor *, const rk_pool_cfg *), const rk_pool_cfg *cfg)
{
    rk_module *m = rk__module_add(parent, name, kind);
    if (!m)
        return NULL;
    m->a.pool.op = op;
    m->a.pool.cfg = *cfg;
    for (int i = 0; i < 2; i++) {
        if (cfg->kernel[i] < 1 || cfg->pad[i] < 0 || cfg->stride[i] < 0 || 2 * cfg->pad[i] > cfg->kernel[i])
            rk_fail(m->ctx, RK_ECONFIG,
                    "layer %s (%s): kernel %d, stride %d, pad %d: pad may be half the kernel at most",
                    m->full, kind->name, cfg->kernel[i], cfg->stride[i], cfg->pad[i]);
        if (!m->a.pool.cfg.stride[i])
            m->a.pool.cfg.stride[i] = cfg->kernel[i];
    }
    return m;
}

rk_module *rk_max_pool(rk_module *parent, const char *name, const rk_pool_cfg *cfg)
{
    return pool_make(parent, name, &rk__kind_max_pool, rk_max_pool2d, cfg);
}

rk_module *rk_avg_pool(rk_module *parent, const char *name, const rk_pool_cfg *cfg)
{
    return pool_make(parent, name, &rk__kind_avg_pool, rk_avg_pool2d, cfg);
}

static rk_tensor *pool_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    return m->a.pool.op(x, &m->a.pool.cfg);
}

static rk_status pool_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim != 3)
        return rk__shape_misfit(m, in, "(channels, height, width)");
    const rk_pool_cfg *c = &m->a.pool.cfg;
    *out = *in;
    for (int i = 0; i < 2; i++) {
        int64_t room = in->dim[i + 1] + 2 * (int64_t)c->pad[i] - c->kernel[i];
        if (room < 0)
            return rk__shape_misfit(m, in, "an image at least as large as the kernel");
        out->dim[i + 1] = room / c->stride[i] + 1;
    }
    return RK_OK;
}

static void pool_args(rk__build *b, const rk_doc *args, rk_pool_cfg *c)
{
    *c = (rk_pool_cfg){ 0 };
    rk__arg_pair(b, args, "kernel", 2, 1, 1 << 12, c->kernel);
    rk__arg_pair(b, args, "stride", 0, 1, 1 << 12, c->stride);
    rk__arg_pair(b, args, "pad", 0, 0, 1 << 12, c->pad);
}

static void pool_describe(const rk_module *m, rk__text *t)
{
    rk__describe_pair(t, "kernel", m->a.pool.cfg.kernel);
    rk__describe_pair(t, "stride", m->a.pool.cfg.stride);
    rk__describe_pair(t, "pad", m->a.pool.cfg.pad);
}

static rk_module *max_pool_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    rk_pool_cfg c;
    pool_args(b, args, &c);
    return rk_failed(b->ctx) ? NULL : rk_max_pool(parent, name, &c);
}

static rk_module *avg_pool_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    rk_pool_cfg c;
    pool_args(b, args, &c);
    return rk_failed(b->ctx) ? NULL : rk_avg_pool(parent, name, &c);
}

const rk__layer_kind rk__kind_max_pool = { .name = "max_pool",
                                           .keys = "kernel|stride|pad",
                                           .scalar = "kernel",
                                           .bare = true,
                                           .forward = pool_forward,
                                           .infer = pool_infer,
                                           .build = max_pool_build,
                                           .describe = pool_describe };
const rk__layer_kind rk__kind_avg_pool = { .name = "avg_pool",
                                           .keys = "kernel|stride|pad",
                                           .scalar = "kernel",
                                           .bare = true,
                                           .forward = pool_forward,
                                           .infer = pool_infer,
                                           .build = avg_pool_build,
                                           .describe = pool_describe };

static rk_module *adaptive_make(rk_module *parent, const char *name, const rk__layer_kind *kind,
                                rk_tensor *(*op)(rk_tensor *, int, int), int oh, int ow)
{
    rk_module *m = rk__module_add(parent, name, kind);
    if (!m)
        return NULL;
    if (oh < 1 || ow < 1)
        rk_fail(m->ctx, RK_ECONFIG, "layer %s (%s): size (%d, %d), wanted at least 1", m->full, kind->name,
                oh, ow);
    m->a.adaptive.op = op;
    m->a.adaptive.size[0] = oh;
    m->a.adaptive.size[1] = ow;
    return m;
}

rk_module *rk_adaptive_avg_pool(rk_module *parent, const char *name, int oh, int ow)
{
    return adaptive_make(parent, name, &rk__kind_adaptive_avg_pool, rk_adaptive_avg_pool2d, oh, ow);
}

rk_module *rk_adaptive_max_pool(rk_module *parent, const char *name, int oh, int ow)
{
    return adaptive_make(parent, name, &rk__kind_adaptive_max_pool, rk_adaptive_max_pool2d, oh, ow);
}

static rk_tensor *adaptive_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    return m->a.adaptive.op(x, m->a.adaptive.size[0], m->a.adaptive.size[1]);
}

static rk_status adaptive_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim != 3)
        return rk__shape_misfit(m, in, "(channels, height, width)");
    *out = *in;
    out->dim[1] = m->a.adaptive.size[0];
    out->dim[2] = m->a.adaptive.size[1];
    return RK_OK;
}

static rk_module *adaptive_avg_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    int size[2];
    rk__arg_pair(b, args, "out", 1, 1, 1 << 12, size);
    return rk_failed(b->ctx) ? NULL : rk_adaptive_avg_pool(parent, name, size[0], size[1]);
}

static rk_module *adaptive_max_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    int size[2];
    rk__arg_pair(b, args, "out", 1, 1, 1 << 12, size);
    return rk_failed(b->ctx) ? NULL : rk_adaptive_max_pool(parent, name, size[0], size[1]);
}

static void adaptive_describe(const rk_module *m, rk__text *t)
{
    rk__describe_pair(t, "out", m->a.adaptive.size);
}

const rk__layer_kind rk__kind_adaptive_avg_pool = { .name = "adaptive_avg_pool",
                                                    .keys = "out",
                                                    .scalar = "out",
                                                    .bare = true,
                                                    .forward = adaptive_forward,
                                                    .infer = adaptive_infer,
                                                    .build = adaptive_avg_build,
                                                    .describe = adaptive_describe };
const rk__layer_kind rk__kind_adaptive_max_pool = { .name = "adaptive_max_pool",
                                                    .keys = "out",
                                                    .scalar = "out",
                                                    .bare = true,
                                                    .forward = adaptive_forward,
                                                    .infer = adaptive_infer,
                                                    .build = adaptive_max_build,
                                                    .describe = adaptive_describe };

/* ---- flatten, reshape ---- */

rk_module *rk_flatten(rk_module *parent, const char *name)
{
    return rk__module_add(parent, name, &rk__kind_flatten);
}

/* A rank may have no sample of a short batch: the width does not come from the size. */
static rk_tensor *flatten_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)m;
    (void)act;
    rk_shape s = rk_tensor_shape(x);
    int64_t width = 1;
    for (int i = 1; i < s.ndim; i++)
        width *= s.dim[i];
    return s.ndim <= 2 ? x : rk_reshape(x, RK_SHAPE(s.dim[0], width));
}

static int64_t elements(const rk_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        n *= s->dim[i];
    return n;
}

static rk_status flatten_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    (void)m;
    *out = RK_SHAPE(elements(in));
    return RK_OK;
}

static rk_module *flatten_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    (void)b;
    (void)args;
    return rk_flatten(parent, name);
}

const rk__layer_kind rk__kind_flatten = { .name = "flatten",
                                          .keys = "",
                                          .bare = true,
                                          .forward = flatten_forward,
                                          .infer = flatten_infer,
                                          .build = flatten_build };

rk_module *rk_reshape_to(rk_module *parent, const char *name, rk_shape sample)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_reshape);
    if (m)
        m->a.shape = sample;
    return m;
}

static rk_tensor *reshape_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    rk_shape s = m->a.shape;
    memmove(s.dim + 1, s.dim, sizeof *s.dim * (RK_MAX_DIMS - 1));
    s.dim[0] = rk_tensor_shape(x).dim[0];
    s.ndim++;
    return rk_reshape(x, s);
}

static rk_status reshape_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    *out = m->a.shape;
    if (elements(in) != elements(out)) {
        char want[160], s[96];
        snprintf(want, sizeof want, "as many elements as %s", rk__shape_str(out, s, sizeof s));
        return rk__shape_misfit(m, in, want);
    }
    return RK_OK;
}

static rk_module *reshape_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    const rk_doc *list = rk__doc_get(args, "shape");
    rk_shape s = { 0 };
    if (!list || list->kind != RK_DOC_LIST || list->n < 1 || list->n >= RK_MAX_DIMS) {
        rk__doc_fail(b->ctx, RK_ECONFIG, list ? list : args, "reshape needs shape: a list of 1 to %d numbers",
                     RK_MAX_DIMS - 1);
        return NULL;
    }
    for (const rk_doc *d = list->child; d; d = d->next) {
        if (d->kind != RK_DOC_INT || d->i < 1) {
            rk__doc_fail(b->ctx, RK_ECONFIG, d, "reshape: wanted a number of at least 1");
            return NULL;
        }
        s.dim[s.ndim++] = d->i;
    }
    return rk_reshape_to(parent, name, s);
}

static void reshape_describe(const rk_module *m, rk__text *t)
{
    rk__text_puts(t, ",\"shape\":");
    for (int i = 0; i < m->a.shape.ndim; i++)
        rk__text_printf(t, "%s%lld", i ? "," : "[", (long long)m->a.shape.dim[i]);
    rk__text_puts(t, "]");
}

const rk__layer_kind rk__kind_reshape = { .name = "reshape",
                                          .keys = "shape",
                                          .scalar = "shape",
                                          .forward = reshape_forward,
                                          .infer = reshape_infer,
                                          .build = reshape_build,
                                          .describe = reshape_describe };

/* ---- dropout ---- */

rk_module *rk_dropout(rk_module *parent, const char *name, double p)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_dropout);
    if (!m)
        return NULL;
    if (!(p >= 0 && p < 1))
        rk_fail(m->ctx, RK_ECONFIG, "layer %s (dropout): p is %g, wanted at least 0 and below 1", m->full, p);
    m->a.dropout.p = p;
    uint64_t h = 0xcbf29ce484222325u; /* the stream is the name's: FNV-1a */
    for (const char *s = m->full; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    m->a.dropout.stream = h;
    return m;
}

/* All of the axis that this layer sees its box of: the outputs of the column before it. */
static int64_t cut_width(const rk_module *m)
{
    int64_t width = 0;
    for (const rk_module *c = m->parent->first; c != m; c = c->next)
        if (c->place == RK__PLACE_COLUMN)
            width = c->a.linear.out;
    return width;
}

static rk_tensor *dropout_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    return m->cut_in ? rk__dropout_cut(x, m->a.dropout.p, m->a.dropout.stream, cut_width(m))
                     : rk_dropout_op(x, m->a.dropout.p, m->a.dropout.stream);
}

static rk_module *dropout_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    double p = rk__arg_num(b, args, "p", 0.5, 0, 0.999999);
    return rk_failed(b->ctx) ? NULL : rk_dropout(parent, name, p);
}

static void dropout_describe(const rk_module *m, rk__text *t)
{
    rk__text_puts(t, ",\"p\":");
    rk__text_double(t, m->a.dropout.p);
}

const rk__layer_kind rk__kind_dropout = { .name = "dropout",
                                          .keys = "p",
                                          .scalar = "p",
                                          .bare = true,
                                          .forward = dropout_forward,
                                          .infer = same_shape,
                                          .build = dropout_build,
                                          .describe = dropout_describe };

/* ---- upsample ---- */

rk_module *rk_upsample(rk_module *parent, const char *name, int scale)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_upsample);
    if (!m)
        return NULL;
    if (scale < 1)
        rk_fail(m->ctx, RK_ECONFIG, "layer %s (upsample): scale is %d, wanted at least 1", m->full, scale);
    m->a.scale = scale;
    return m;
}

/* Each pixel is broadcast over a (scale, scale) block. */
static rk_tensor *upsample_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    rk_shape s = rk_tensor_shape(x);
    if (s.ndim != 4) {
        rk__shape_misfit(m, &s, "(n, channels, height, width)");
        return rk__inert(m->ctx);
    }
    int64_t n = s.dim[0], c = s.dim[1], h = s.dim[2], w = s.dim[3], k = m->a.scale;
    rk_tensor *wide = rk_broadcast(rk_reshape(x, RK_SHAPE(n, c, h, 1, w, 1)), RK_SHAPE(n, c, h, k, w, k));
    return rk_reshape(wide, RK_SHAPE(n, c, h * k, w * k));
}

static rk_status upsample_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim != 3)
        return rk__shape_misfit(m, in, "(channels, height, width)");
    *out = *in;
    out->dim[1] *= m->a.scale;
    out->dim[2] *= m->a.scale;
    return RK_OK;
}

static rk_module *upsample_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    int scale = (int)rk__arg_int(b, args, "scale", 2, 1, 64);
    return rk_failed(b->ctx) ? NULL : rk_upsample(parent, name, scale);
}

static void upsample_describe(const rk_module *m, rk__text *t)
{
    rk__text_printf(t, ",\"scale\":%d", m->a.scale);
}

const rk__layer_kind rk__kind_upsample = { .name = "upsample",
                                           .keys = "scale",
                                           .scalar = "scale",
                                           .bare = true,
                                           .forward = upsample_forward,
                                           .infer = upsample_infer,
                                           .build = upsample_build,
                                           .describe = upsample_describe };
