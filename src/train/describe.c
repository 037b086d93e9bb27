/* What a program has made with the functions of nn.h and io.h, as the configuration that would make it. */
#include "train/setup.h"

#include "io/loader.h"
#include "nn/module.h"
#include "train/optim.h"

#include <stdlib.h>
#include <string.h>

/* ---- the configuration ---- */

static void put_str(rk__text *t, const char *key, const char *value)
{
    rk__text_printf(t, ",\"%s\":", key);
    if (value)
        rk__text_quote(t, value);
    else
        rk__text_puts(t, "null");
}

static void put_bool(rk__text *t, const char *key, bool value)
{
    rk__text_printf(t, ",\"%s\":%s", key, value ? "true" : "false");
}

static void put_num(rk__text *t, const char *key, double value)
{
    rk__text_printf(t, ",\"%s\":", key);
    rk__text_double(t, value);
}

static void put_int(rk__text *t, const char *key, int64_t value)
{
    rk__text_printf(t, ",\"%s\":%lld", key, (long long)value);
}

static void put_data(rk__text *t, const rk_data_cfg *c)
{
    char delimiter[2] = { c->delimiter, 0 };
    rk__text_puts(t, ",\"data\":{\"path\":");
    rk__text_quote(t, c->path ? c->path : "");
    put_str(t, "format", c->format);
    put_str(t, "labels", c->labels);
    put_str(t, "label_column", c->label_column);
    put_str(t, "task", c->task);
    put_str(t, "x", c->x_name);
    put_str(t, "y", c->y_name);
    put_str(t, "categorical", c->categorical);
    put_bool(t, "header", !c->no_header);
    put_str(t, "delimiter", c->delimiter ? delimiter : NULL);
    put_bool(t, "shuffle", c->shuffle);
    put_bool(t, "drop_last", c->drop_last);
    put_num(t, "split", c->split);
    put_str(t, "normalize", c->normalize ? c->normalize : "standard");
    put_int(t, "shift", c->shift);
    put_int(t, "crop", c->crop_pad);
    put_bool(t, "flip", c->flip);
    put_num(t, "noise", c->noise);
    put_int(t, "limit", c->limit);
    rk__text_puts(t, "}");
}

static void put_optim(rk__text *t, const rk_optim_cfg *o)
{
    static const char *const kinds[] = { [RK_SGD] = "sgd", [RK_ADAM] = "adam", [RK_ADAMW] = "adamw" };
    rk__text_puts(t, ",\"optim\":{\"kind\":");
    rk__text_quote(t, kinds[o->kind]);
    put_num(t, "lr", o->lr);
    put_num(t, "weight_decay", o->weight_decay);
    put_bool(t, "decay_all", o->decay_all);
    put_num(t, "momentum", o->momentum);
    put_bool(t, "nesterov", o->nesterov);
    put_num(t, "beta1", o->beta1);
    put_num(t, "beta2", o->beta2);
    put_num(t, "eps", o->eps);
    put_num(t, "clip_norm", o->clip_norm);
    put_num(t, "ema", o->ema_decay);
    if (o->loss_scale > 0 && !o->loss_scale_moves)
        put_num(t, "loss_scale", o->loss_scale);
    rk__text_puts(t, "}");
}

/* run.seed is the loader's: evaluation draws the held-out part with it, and nothing else. */
static char *config_text(rk_ctx *ctx, const rk_data_cfg *data, const rk_optim *opt, const char *model)
{
    static const char *const compute[] = { "f32", "bf16", "f16" };
    rk__text t = { 0 };
    rk__text_printf(&t, "{\"run\":{\"seed\":%lld},\"model\":", (long long)(data->seed & INT64_MAX));
    rk__text_puts(&t, model);
    put_data(&t, data);
    if (opt)
        put_optim(&t, &opt->cfg);
    rk__text_printf(&t, ",\"batch\":{\"global\":%lld},\"grid\":{\"data\":%d},\"parallel\":{\"exact\":%s}",
                    (long long)data->batch, ctx->data_shards, ctx->exact ? "true" : "false");
    rk__text_printf(&t, ",\"compute\":\"%s\"}", compute[ctx->round]);
    return rk__text_take(&t);
}

/* ---- the network ---- */

static char *model_text(rk_module *net, const char **why)
{
    rk__text t = { 0 };
    rk__text_puts(&t, "{\"layers\":");
    *why = rk__model_describe(net->root, &t);
    rk__text_puts(&t, ",\"replace\":{}}");
    if (!*why)
        return rk__text_take(&t);
    rk__text_free(&t);
    return NULL;
}

/* Does the network, as it is told, make of a sample what the data wants? */
static bool shapes_fit(rk__setup *s, const rk_loader *data)
{
    rk_shape out, want;
    if (rk_output_shape(s->net, s->input, &out, NULL, NULL))
        return false;
    want = data->reconstruction ? s->input : RK_SHAPE(s->outputs);
    return rk__shape_eq(&out, &want);
}

static void shapes_of(rk__setup *s, const rk_loader *data)
{
    s->input = rk_loader_sample_shape(data);
    s->classes = data->reconstruction ? 0 : rk_loader_classes(data);
    s->outputs = s->classes ? s->classes : rk_loader_targets(data);
}

/* The reason why there is nothing to tell, or NULL with all of it in *s and *config. */
static const char *describe(rk__setup *s, const rk_optim *opt, const rk_loader *data, char **config)
{
    const char *why = NULL;
    if (!data)
        return "rk_save() was called without the loader of the training data";
    if (data->dead || !(s->schema = rk_loader_schema(data)))
        return "the loader that rk_save() was given had been closed";
    s->model_json = model_text(s->net, &why);
    if (why)
        return why;
    shapes_of(s, data);
    if (!shapes_fit(s, data))
        return "run from the first layer to the last, its layers do not make the outputs that the data wants";
    char *text = config_text(s->ctx, &data->cfg, opt, s->model_json ? s->model_json : "null");
    const rk_config *cfg = text ? rk__config_from_json(s->ctx, "rk_save", text, NULL, 0) : NULL;
    free(text);
    if (cfg && !rk_failed(s->ctx))
        *config = rk_config_json(cfg, 0);
    return *config ? NULL : "no configuration file can say the same";
}

static char *reason_text(const char *why)
{
    rk__text t = { 0 };
    rk__text_puts(&t, "{\"not_described\":");
    rk__text_quote(&t, why);
    rk__text_puts(&t, "}");
    return rk__text_take(&t);
}

rk_status rk__describe(rk_ctx *ctx, rk_module *net, const rk_optim *opt, const rk_loader *data, char **config,
                       char **record)
{
    rk__setup s = { .ctx = ctx, .net = net->root };
    *config = NULL;
    const char *why = describe(&s, opt, data, config);
    if (rk_failed(ctx) != RK_ENOMEM)
        rk_error_clear(ctx); /* what cannot be told is no reason not to save */
    *record = why ? reason_text(why) : rk__setup_record(&s);
    rk__setup_free(&s);
    return rk_failed(ctx);
}

char *rk__record_reason(rk_ctx *ctx, const char *recorded)
{
    rk_doc *doc = NULL;
    if (!recorded ||
        rk__json_parse(ctx, "snapshot", (const uint8_t *)recorded, strlen(recorded), RK_EDATA, &doc))
        return NULL;
    const rk_doc *d = rk__doc_get(doc, "not_described");
    char *why = d && d->kind == RK_DOC_STRING ? rk__strdup(ctx, d->text) : NULL;
    rk__doc_free(doc);
    return why;
}
