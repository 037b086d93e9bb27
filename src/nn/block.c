/* Modules made of modules: sequence, residual; and repetition in a configuration. */
#include "nn/module.h"

#include <stdio.h>
#include <string.h>

/* ---- sequence ---- */

rk_module *rk_sequence(rk_module *parent, const char *name)
{
    return rk__module_add(parent, name, &rk__kind_sequence);
}

/* The activation that the layer before it can compute in the same pass. */
static rk_act fusable(const rk_module *m)
{
    const rk_module *next = m->next;
    if (!m->kind->takes_act || !next || next->kind->forward != rk__activations[0].kind.forward)
        return RK_ACT_NONE;
    rk_act act = next->a.act.kind->fused;
    /* the convolution's epilogue knows relu alone */
    return m->kind == &rk__kind_conv2d && act != RK_ACT_RELU ? RK_ACT_NONE : act;
}

static rk_tensor *sequence_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    const rk_tensor *input = x;
    for (rk_module *c = m->first; c && !rk_failed(m->ctx); c = c->next) {
        rk_act a = fusable(c);
        rk_tensor *y = rk__module_forward(c, x, a);
        /* Without a gradient nothing will ask for x again. */
        if (x != input && x != y && !rk_failed(m->ctx) && !rk__wants_grad(y))
            rk__drop(x);
        x = y;
        if (a != RK_ACT_NONE)
            c = c->next;
    }
    return x;
}

static rk_status sequence_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    rk_shape cur = *in;
    for (rk_module *c = m->first; c; c = c->next) {
        RK_TRY(rk__infer(c, &cur, out));
        cur = *out;
    }
    *out = cur;
    return RK_OK;
}

static rk_module *sequence_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    const rk_doc *layers = rk__doc_get(args, "layers");
    if (!layers) {
        rk__doc_fail(b->ctx, RK_ECONFIG, args, "sequence needs layers: a list");
        return NULL;
    }
    rk_module *m = rk_sequence(parent, name);
    rk_shape in = b->shape;
    if (m)
        rk__build_list(b, m, layers);
    b->shape = in; /* the caller goes on from what rk__infer says */
    return m;
}

static void sequence_describe(const rk_module *m, rk__text *t)
{
    rk__text_puts(t, ",\"layers\":");
    rk__describe_layers(m, t);
}

const rk__layer_kind rk__kind_sequence = { .name = "sequence",
                                           .prefix = "seq",
                                           .keys = "layers",
                                           .scalar = "layers",
                                           .forward = sequence_forward,
                                           .infer = sequence_infer,
                                           .build = sequence_build,
                                           .describe = sequence_describe };

/* ---- repeat: only in a configuration; its layers are added to the parent ---- */

static rk_module *repeat_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    (void)name;
    int64_t times = rk__arg_int(b, args, "times", 0, 1, 10000);
    const rk_doc *layers = rk__doc_get(args, "layers");
    if (!rk_failed(b->ctx) && (times < 1 || !layers))
        rk__doc_fail(b->ctx, RK_ECONFIG, args, "repeat needs times and layers");
    for (int64_t i = 0; i < times && !rk_failed(b->ctx); i++)
        rk__build_list(b, parent, layers);
    return NULL;
}

const rk__layer_kind rk__kind_repeat = { .name = "repeat", .keys = "times|layers", .build = repeat_build };

/* ---- residual ---- */

rk_module *rk_residual(rk_module *parent, const char *name, const char *act)
{
    rk_module *m = rk__module_add(parent, name, &rk__kind_residual);
    if (!m)
        return NULL;
    if (act && strcmp(act, "none")) {
        m->a.residual.act = rk__activation_find(act);
        if (!m->a.residual.act)
            rk_fail(m->ctx, RK_EUSAGE, "layer %s (residual): there is no activation \"%s\"", m->full, act);
    }
    rk_sequence(m, "main");
    rk_sequence(m, "shortcut");
    return m;
}

rk_module *rk_residual_main(rk_module *residual)
{
    return residual && residual->kind == &rk__kind_residual ? residual->first : NULL;
}

rk_module *rk_residual_shortcut(rk_module *residual)
{
    return residual && residual->kind == &rk__kind_residual ? residual->last : NULL;
}

static rk_tensor *residual_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    (void)act;
    rk_tensor *main = rk__module_forward(m->first, x, RK_ACT_NONE);
    rk_tensor *side = rk__module_forward(m->last, x, RK_ACT_NONE);
    rk_tensor *y = rk_add(main, side);
    return m->a.residual.act ? m->a.residual.act->op(y, m->a.residual.act->p) : y;
}

static rk_status residual_infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    rk_shape side;
    RK_TRY(rk__infer(m->first, in, out));
    RK_TRY(rk__infer(m->last, in, &side));
    if (rk__shape_eq(out, &side))
        return RK_OK;
    char a[96], b[96];
    return rk_fail(m->ctx, RK_ESHAPE,
                   "layer %s (residual): main gives %s, shortcut gives %s; a conv2d of kernel 1 in shortcut, "
                   "with main's "
                   "out and stride, makes them equal",
                   m->full, rk__shape_str(out, a, sizeof a), rk__shape_str(&side, b, sizeof b));
}

static rk_module *residual_build(rk__build *b, rk_module *parent, const char *name, const rk_doc *args)
{
    const rk_doc *main = rk__doc_get(args, "main"), *side = rk__doc_get(args, "shortcut");
    const char *act = rk__arg_str(b, args, "act", "relu", NULL);
    if (!rk_failed(b->ctx) && !main)
        rk__doc_fail(b->ctx, RK_ECONFIG, args, "residual needs main: a list of layers");
    rk_module *m = rk_failed(b->ctx) ? NULL : rk_residual(parent, name, act);
    rk_shape in = b->shape;
    if (m && !rk_failed(b->ctx)) {
        rk__build_list(b, m->first, main);
        b->shape = in;
        if (side)
            rk__build_list(b, m->last, side);
        b->shape = in;
    }
    return m;
}

static void residual_describe(const rk_module *m, rk__text *t)
{
    rk__text_puts(t, ",\"main\":");
    rk__describe_layers(m->first, t);
    rk__text_puts(t, ",\"shortcut\":");
    rk__describe_layers(m->last, t);
    rk__text_puts(t, ",\"act\":");
    rk__text_quote(t, m->a.residual.act ? m->a.residual.act->name : "none");
}

const rk__layer_kind rk__kind_residual = { .name = "residual",
                                           .prefix = "block",
                                           .keys = "main|shortcut|act",
                                           .forward = residual_forward,
                                           .infer = residual_infer,
                                           .build = residual_build,
                                           .describe = residual_describe };

/* ---- all of them ---- */

const rk__layer_kind *const rk__layer_kinds[] = {
    &rk__kind_linear,
    &rk__kind_conv2d,
    &rk__kind_batch_norm,
    &rk__kind_layer_norm,
    &rk__kind_rms_norm,
    &rk__kind_max_pool,
    &rk__kind_avg_pool,
    &rk__kind_adaptive_avg_pool,
    &rk__kind_flatten,
    &rk__kind_reshape,
    &rk__kind_adaptive_max_pool,
    &rk__kind_dropout,
    &rk__kind_embedding,
    &rk__kind_upsample,
    &rk__kind_residual,
    &rk__kind_sequence,
    &rk__kind_repeat,
    NULL,
};
