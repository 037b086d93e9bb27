/* Layers with weights: linear, conv2d, the norms, embedding. */
#include "core/cut.h"
#include "nn/module.h"

#include <stdio.h>
#include <string.h>

/* ---- linear ---- */

static rk_module *linear_make(rk_module *parent, const char *name, int64_t in, int64_t out, bool no_bias,
                              const rk__init *init)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_linear);
    if (!m)
        return NULL;
    if (in < 1 || out < 1) {
        rk_fail(m->ctx, RK_ESHAPE, "layer %s (linear): %lld to %lld features, wanted at least 1", m->full,
                (long long)in, (long long)out);
        return NULL;
    }
    m->a.linear.in = in;
    m->a.linear.out = out;
    m->a.linear.no_bias = no_bias;
    m->weight = rk__param_add(m, "weight", RK_SHAPE(out, in), false, init, 0, 0);
    if (!no_bias)
        m->bias = rk__param_add(m, "bias", RK_SHAPE(out), true, NULL, in, out);
    return m;
}

rk_module *rk_linear(rk_module *parent, const char *name, int64_t in, int64_t out)
{
    return linear_make(parent, name, in, out, false, NULL);
}

rk_module *rk_linear_no_bias(rk_module *parent, const char *name, int64_t in, int64_t out)
{
    return linear_make(parent, name, in, out, true, NULL);
}

static rk_tensor *linear_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    int last = rk_tensor_shape(x).ndim - 1;
    if (m->place == RK__PLACE_ROW && m->weight->cut && !m->cut_in)
        x = rk__cut_slice(x, last);
    rk_tensor *y = rk_linear_op(x, m->weight, m->bias, act);
    return m->place == RK__PLACE_COLUMN && m->weight->cut && !m->cut_out
               ? rk__cut_gather(y, last, m->a.linear.out)
               : y;
}

static rk_status linear_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim < 1 || in->dim[in->ndim - 1] != m->a.linear.in) {
        char want[96];
        snprintf(want, sizeof want, "%lld in the last axis (a flatten before it?)",
                 (long long)m->a.linear.in);
        return rk__shape_misfit(m, in, want);
    }
    *out = *in;
    out->dim[in->ndim - 1] = m->a.linear.out;
    m->flops = 2.0 * (double)m->a.linear.in * (double)m->a.linear.out;
    for (int i = 0; i < in->ndim - 1; i++)
        m->flops *= (double)in->dim[i];
    return RK_OK;
}

static rk_module *linear_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    int64_t out = rk__arg_int(b, args, "out", b->outputs, 1, (int64_t)1 << 40);
    bool bias = rk__arg_bool(b, args, "bias", true);
    rk__init init = rk__arg_init(b, args);
    if (!rk_failed(b->ctx) && out < 1)
        rk__doc_fail(b->ctx, RK_ECONFIG, args, "linear needs out: the number of features it gives");
    if (!rk_failed(b->ctx) && (b->shape.ndim < 1 || b->shape.dim[b->shape.ndim - 1] < 1))
        rk__doc_fail(b->ctx, RK_ESHAPE, args, "linear needs features in the last axis");
    if (rk_failed(b->ctx))
        return NULL;
    return linear_make(parent, name, b->shape.dim[b->shape.ndim - 1], out, !bias, &init);
}

static void linear_describe(const rk_module *m, rk__text *t)
{
    rk__text_printf(t, ",\"out\":%lld,\"bias\":%s", (long long)m->a.linear.out, m->bias ? "true" : "false");
}

const rk__layer_kind rk__kind_linear = { .name = "linear",
                                         .keys = "out|bias|init",
                                         .scalar = "out",
                                         .bare = true,
                                         .takes_act = true,
                                         .forward = linear_forward,
                                         .infer = linear_infer,
                                         .build = linear_build,
                                         .describe = linear_describe };

/* ---- conv2d ---- */

static int at_least_1(int v)
{
    return v > 0 ? v : 1;
}

static rk_module *conv_make(rk_module *parent, const char *name, int64_t in, int64_t out, const int kernel[2],
                            const rk_conv_cfg *cfg, bool no_bias, const rk__init *init)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_conv2d);
    if (!m)
        return NULL;
    rk_conv_cfg c = cfg ? *cfg : (rk_conv_cfg){ 0 };
    for (int i = 0; i < 2; i++) {
        c.stride[i] = at_least_1(c.stride[i]);
        c.dilation[i] = at_least_1(c.dilation[i]);
    }
    c.groups = at_least_1(c.groups);
    c.act = RK_ACT_NONE;
    if (in < 1 || out < 1 || kernel[0] < 1 || kernel[1] < 1 || in % c.groups || out % c.groups) {
        rk_fail(m->ctx, RK_ESHAPE,
                "layer %s (conv2d): %lld to %lld channels, kernel (%d, %d), %d groups: channels must be "
                "multiples of "
                "the groups, and all at least 1",
                m->full, (long long)in, (long long)out, kernel[0], kernel[1], c.groups);
        return NULL;
    }
    m->a.conv.in = in;
    m->a.conv.out = out;
    memcpy(m->a.conv.kernel, kernel, sizeof m->a.conv.kernel);
    m->a.conv.cfg = c;
    int64_t fan_in = in / c.groups * kernel[0] * kernel[1];
    m->weight =
        rk__param_add(m, "weight", RK_SHAPE(out, in / c.groups, kernel[0], kernel[1]), false, init, 0, 0);
    if (!no_bias)
        m->bias = rk__param_add(m, "bias", RK_SHAPE(out), true, NULL, fan_in, out);
    return m;
}

rk_module *rk_conv2d(rk_module *parent, const char *name, int64_t in, int64_t out, int kernel,
                     const rk_conv_cfg *cfg)
{
    return conv_make(parent, name, in, out, (int[]){ kernel, kernel }, cfg, false, NULL);
}

rk_module *rk_conv2d_no_bias(rk_module *parent, const char *name, int64_t in, int64_t out, int kernel,
                             const rk_conv_cfg *cfg)
{
    return conv_make(parent, name, in, out, (int[]){ kernel, kernel }, cfg, true, NULL);
}

static rk_tensor *conv_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    rk_conv_cfg cfg = m->a.conv.cfg;
    cfg.act = act;
    rk_tensor *y = rk_conv2d_op(x, m->weight, m->bias, &cfg);
    return m->weight->cut ? rk__cut_gather(y, 1, m->a.conv.out) : y;
}

static rk_status conv_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    const rk_conv_cfg *c = &m->a.conv.cfg;
    if (in->ndim != 3 || in->dim[0] != m->a.conv.in) {
        char want[96];
        snprintf(want, sizeof want, "(%lld, height, width)", (long long)m->a.conv.in);
        return rk__shape_misfit(m, in, want);
    }
    *out = *in;
    out->dim[0] = m->a.conv.out;
    for (int i = 0; i < 2; i++) {
        int64_t span = (int64_t)c->dilation[i] * (m->a.conv.kernel[i] - 1) + 1;
        int64_t room = in->dim[i + 1] + 2 * (int64_t)c->pad[i] - span;
        if (room < 0)
            return rk__shape_misfit(m, in, "an image at least as large as the kernel (or more pad)");
        out->dim[i + 1] = room / c->stride[i] + 1;
    }
    m->flops = 2.0 * (double)out->dim[0] * (double)out->dim[1] * (double)out->dim[2] *
               (double)(m->a.conv.in / c->groups) * m->a.conv.kernel[0] * m->a.conv.kernel[1];
    return RK_OK;
}

static rk_module *conv_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    int64_t out = rk__arg_int(b, args, "out", 0, 1, 1 << 20);
    int kernel[2];
    rk_conv_cfg c = { 0 };
    rk__arg_pair(b, args, "kernel", 3, 1, 1 << 12, kernel);
    rk__arg_pair(b, args, "stride", 1, 1, 1 << 12, c.stride);
    rk__arg_pair(b, args, "dilation", 1, 1, 1 << 12, c.dilation);
    const rk_doc *pad = rk__doc_get(args, "pad");
    if (pad && pad->kind == RK_DOC_STRING && !strcmp(pad->text, "same")) {
        for (int i = 0; i < 2; i++)
            c.pad[i] = c.dilation[i] * (kernel[i] - 1) / 2;
    } else {
        rk__arg_pair(b, args, "pad", 0, 0, 1 << 12, c.pad);
    }
    c.groups = (int)rk__arg_int(b, args, "groups", 1, 1, 1 << 20);
    bool bias = rk__arg_bool(b, args, "bias", true);
    rk__init init = rk__arg_init(b, args);
    if (!rk_failed(b->ctx) && out < 1)
        rk__doc_fail(b->ctx, RK_ECONFIG, args, "conv2d needs out: the number of channels it gives");
    if (!rk_failed(b->ctx) && b->shape.ndim != 3) {
        char s[128];
        rk__doc_fail(b->ctx, RK_ESHAPE, args,
                     "conv2d gets a sample of shape %s, wanted (channels, height, width); reshape: [1, 28, "
                     "28] before it "
                     "makes one",
                     rk__shape_str(&b->shape, s, sizeof s));
    }
    if (rk_failed(b->ctx))
        return NULL;
    return conv_make(parent, name, b->shape.dim[0], out, kernel, &c, !bias, &init);
}

static void conv_describe(const rk_module *m, rk__text *t)
{
    const rk_conv_cfg *c = &m->a.conv.cfg;
    rk__text_printf(t, ",\"out\":%lld", (long long)m->a.conv.out);
    rk__describe_pair(t, "kernel", m->a.conv.kernel);
    rk__describe_pair(t, "stride", c->stride);
    rk__describe_pair(t, "pad", c->pad);
    rk__describe_pair(t, "dilation", c->dilation);
    rk__text_printf(t, ",\"groups\":%d,\"bias\":%s", c->groups, m->bias ? "true" : "false");
}

const rk__layer_kind rk__kind_conv2d = { .name = "conv2d",
                                         .prefix = "conv",
                                         .scalar = "out",
                                         .keys = "out|kernel|stride|pad|dilation|groups|bias|init",
                                         .takes_act = true,
                                         .forward = conv_forward,
                                         .infer = conv_infer,
                                         .build = conv_build,
                                         .describe = conv_describe };

/* ---- batch norm ---- */

static rk_module *batch_norm_make(rk_module *parent, const char *name, int64_t channels,
                                  const rk_batch_norm_cfg *cfg)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_batch_norm);
    if (!m)
        return NULL;
    m->a.batch_norm.channels = channels;
    m->a.batch_norm.cfg = *cfg;
    rk_shape s = RK_SHAPE(channels);
    m->weight = rk__param_add(m, "weight", s, true, &(rk__init){ "ones", 0 }, 0, 0);
    m->bias = rk__param_add(m, "bias", s, true, &(rk__init){ "zeros", 0 }, 0, 0);
    m->mean = rk__buffer_add(m, "running_mean", s, 0);
    m->var = rk__buffer_add(m, "running_var", s, 1);
    return m;
}

rk_module *rk_batch_norm(rk_module *parent, const char *name, int64_t channels)
{
    return batch_norm_make(parent, name, channels, &(rk_batch_norm_cfg){ .eps = 1e-5, .momentum = 0.1 });
}

static rk_tensor *batch_norm_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    rk_batch_norm_cfg cfg = m->a.batch_norm.cfg;
    cfg.training = m->ctx->training && rk_requires_grad(m->weight);
    return rk_batch_norm_op(x, m->weight, m->bias, m->mean, m->var, &cfg);
}

static rk_status batch_norm_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim < 1 || in->dim[0] != m->a.batch_norm.channels) {
        char want[64];
        snprintf(want, sizeof want, "%lld channels", (long long)m->a.batch_norm.channels);
        return rk__shape_misfit(m, in, want);
    }
    *out = *in;
    m->flops = 0;
    return RK_OK;
}

static rk_module *batch_norm_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    rk_batch_norm_cfg c = { .eps = rk__arg_num(b, args, "eps", 1e-5, 0, 1),
                            .momentum = rk__arg_num(b, args, "momentum", 0.1, 0, 1) };
    c.shard_scope = !strcmp(rk__arg_str(b, args, "scope", "global", "global|shard"), "shard");
    if (!rk_failed(b->ctx) && b->shape.ndim < 1)
        rk__doc_fail(b->ctx, RK_ESHAPE, args, "batch_norm needs channels");
    return rk_failed(b->ctx) ? NULL : batch_norm_make(parent, name, b->shape.dim[0], &c);
}

static void put_number(rk__text *t, const char *key, double v)
{
    rk__text_printf(t, ",\"%s\":", key);
    rk__text_double(t, v);
}

static void batch_norm_describe(const rk_module *m, rk__text *t)
{
    const rk_batch_norm_cfg *c = &m->a.batch_norm.cfg;
    put_number(t, "eps", c->eps);
    put_number(t, "momentum", c->momentum);
    rk__text_printf(t, ",\"scope\":\"%s\"", c->shard_scope ? "shard" : "global");
}

const rk__layer_kind rk__kind_batch_norm = { .name = "batch_norm",
                                             .prefix = "bn",
                                             .keys = "eps|momentum|scope",
                                             .bare = true,
                                             .forward = batch_norm_forward,
                                             .infer = batch_norm_infer,
                                             .build = batch_norm_build,
                                             .describe = batch_norm_describe };

/* ---- layer norm, RMS norm ---- */

static rk_module *row_norm_make(rk_module *parent, const char *name, const rk__layer_kind *kind, int64_t cols,
                                double eps, bool bias)
{
    rk_module *m = rk__module_add(parent, name, kind);
    if (!m)
        return NULL;
    m->a.norm.cols = cols;
    m->a.norm.eps = eps;
    m->weight = rk__param_add(m, "weight", RK_SHAPE(cols), true, &(rk__init){ "ones", 0 }, 0, 0);
    if (bias)
        m->bias = rk__param_add(m, "bias", RK_SHAPE(cols), true, &(rk__init){ "zeros", 0 }, 0, 0);
    return m;
}

rk_module *rk_layer_norm(rk_module *parent, const char *name, int64_t cols)
{
    return row_norm_make(parent, name, &rk__kind_layer_norm, cols, 1e-5, true);
}

rk_module *rk_rms_norm(rk_module *parent, const char *name, int64_t cols)
{
    return row_norm_make(parent, name, &rk__kind_rms_norm, cols, 1e-5, false);
}

static rk_tensor *layer_norm_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    return rk_layer_norm_op(x, m->weight, m->bias, m->a.norm.eps);
}

static rk_tensor *rms_norm_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    return rk_rms_norm_op(x, m->weight, m->a.norm.eps);
}

static rk_status row_norm_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim < 1 || in->dim[in->ndim - 1] != m->a.norm.cols) {
        char want[64];
        snprintf(want, sizeof want, "%lld in the last axis", (long long)m->a.norm.cols);
        return rk__shape_misfit(m, in, want);
    }
    *out = *in;
    return RK_OK;
}

static rk_module *row_norm_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args,
                                 const rk__layer_kind *kind, bool bias)
{
    double eps = rk__arg_num(b, args, "eps", 1e-5, 0, 1);
    if (!rk_failed(b->ctx) && b->shape.ndim < 1)
        rk__doc_fail(b->ctx, RK_ESHAPE, args, "%s needs features in the last axis", kind->name);
    if (rk_failed(b->ctx))
        return NULL;
    return row_norm_make(parent, name, kind, b->shape.dim[b->shape.ndim - 1], eps, bias);
}

static rk_module *layer_norm_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    return row_norm_build(b, parent, name, args, &rk__kind_layer_norm, true);
}

static rk_module *rms_norm_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    return row_norm_build(b, parent, name, args, &rk__kind_rms_norm, false);
}

static void row_norm_describe(const rk_module *m, rk__text *t)
{
    put_number(t, "eps", m->a.norm.eps);
}

const rk__layer_kind rk__kind_layer_norm = { .name = "layer_norm",
                                             .prefix = "ln",
                                             .keys = "eps",
                                             .bare = true,
                                             .forward = layer_norm_forward,
                                             .infer = row_norm_infer,
                                             .build = layer_norm_build,
                                             .describe = row_norm_describe };
const rk__layer_kind rk__kind_rms_norm = { .name = "rms_norm",
                                           .prefix = "rms",
                                           .keys = "eps",
                                           .bare = true,
                                           .forward = rms_norm_forward,
                                           .infer = row_norm_infer,
                                           .build = rms_norm_build,
                                           .describe = row_norm_describe };

/* ---- embedding ---- */

static rk_module *embedding_make(rk_module *parent, const char *name, int64_t rows, int64_t dim,
                                 const rk__init *init)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_embedding);
    if (!m)
        return NULL;
    m->a.embedding.rows = rows;
    m->a.embedding.dim = dim;
    m->weight = rk__param_add(m, "weight", RK_SHAPE(rows, dim), false, init, 0, 0);
    return m;
}

rk_module *rk_embedding(rk_module *parent, const char *name, int64_t rows, int64_t dim)
{
    return embedding_make(parent, name, rows, dim, &(rk__init){ "normal", 0 });
}

static rk_tensor *embedding_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    if (rk__is_float(rk_tensor_dtype(x)))
        x = rk_cast(x, RK_I64); /* loaders serve numbers as floats */
    return rk_embedding_op(m->weight, x);
}

static rk_status embedding_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    if (in->ndim + 2 > RK_MAX_DIMS)
        return rk__shape_misfit(m, in, "fewer axes");
    *out = *in;
    out->dim[out->ndim++] = m->a.embedding.dim;
    return RK_OK;
}

static rk_module *embedding_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    int64_t rows = rk__arg_int(b, args, "rows", 0, 1, (int64_t)1 << 40);
    int64_t dim = rk__arg_int(b, args, "dim", 0, 1, 1 << 24);
    rk__init init = rk__arg_init(b, args);
    if (!init.kind)
        init.kind = "normal";
    if (!rk_failed(b->ctx) && (rows < 1 || dim < 1))
        rk__doc_fail(b->ctx, RK_ECONFIG, args, "embedding needs rows and dim");
    return rk_failed(b->ctx) ? NULL : embedding_make(parent, name, rows, dim, &init);
}

static void embedding_describe(const rk_module *m, rk__text *t)
{
    rk__text_printf(t, ",\"rows\":%lld,\"dim\":%lld", (long long)m->a.embedding.rows,
                    (long long)m->a.embedding.dim);
}

const rk__layer_kind rk__kind_embedding = { .name = "embedding",
                                            .keys = "rows|dim|init",
                                            .forward = embedding_forward,
                                            .infer = embedding_infer,
                                            .build = embedding_build,
                                            .describe = embedding_describe };
