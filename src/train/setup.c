#include "train/setup.h"

#include "core/cut.h"
#include "nn/module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- data ---- */

static rk_data_cfg data_of(const rk__setup *s)
{
    const rk_config *c = s->cfg;
    return (rk_data_cfg){
        .path = c->data_path,
        .format = c->data_format,
        .labels = c->data_labels,
        .label_column = c->data_label_column,
        .task = c->data_task,
        .x_name = c->data_x,
        .y_name = c->data_y,
        .categorical = c->data_categorical,
        .no_header = !c->data_header,
        .delimiter = c->data_delimiter ? c->data_delimiter[0] : 0,
        .batch = c->batch_global,
        .shuffle = c->data_shuffle,
        .drop_last = c->data_drop_last,
        .seed = (uint64_t)c->run_seed,
        .split = c->data_split,
        .normalize = c->data_normalize,
        .shift = (int)c->data_shift,
        .crop_pad = (int)c->data_crop,
        .flip = c->data_flip,
        .noise = c->data_noise,
        .threads = (int)c->data_threads,
        .prefetch = (int)c->data_prefetch,
        .limit = c->data_limit,
        .rank = s->job->rank,
        .ranks = s->job->ranks,
        .shards = rk__config_workers(c) ? rk__config_workers(c) : s->ctx->data_shards,
    };
}

/* The evaluation data: data.eval, or the part that data.split holds out; treated as the training data is. */
static rk_loader *open_eval(rk__setup *s)
{
    const rk_config *c = s->cfg;
    rk_data_cfg d = data_of(s);
    if (!c->data_eval && !(c->data_split > 0))
        return NULL;
    d.shards = s->ctx->data_shards; /* all ranks evaluate one network */
    d.validation = !c->data_eval;
    d.share = c->data_eval ? NULL : s->train; /* the held-out part: open already */
    if (c->data_eval) {
        d.path = c->data_eval;
        d.labels = c->data_eval_labels;
        d.split = 0;
        d.limit = c->data_eval_limit;
    }
    d.batch = c->eval_batch;
    d.shuffle = d.drop_last = d.flip = false;
    d.shift = d.crop_pad = 0;
    d.noise = 0;
    d.epochs = 1;
    d.schema = s->schema;
    return rk_loader_make(s->ctx, &d);
}

static rk__target target_of(const rk_config *c)
{
    if (c->data_task && !strcmp(c->data_task, "regression"))
        return RK__VALUES;
    return c->data_task && !strcmp(c->data_task, "reconstruction") ? RK__INPUT : RK__CLASSES;
}

static rk_status choose_loss(rk__setup *s)
{
    const char *kind = s->cfg->loss_kind;
    s->loss = kind ? kind : s->target == RK__CLASSES ? "cross_entropy" : "mse";
    bool classes = !strcmp(s->loss, "cross_entropy");
    if (classes != (s->target == RK__CLASSES))
        return rk_fail(s->ctx, RK_ECONFIG,
                       "loss.kind %s does not go with data.task %s: classification takes "
                       "cross_entropy; regression and reconstruction take mse, l1 or bce",
                       s->loss, s->cfg->data_task ? s->cfg->data_task : "classification");
    s->ce.label_smoothing = s->cfg->loss_label_smoothing;
    return RK_OK;
}

static void apply_grid(rk_ctx *ctx, const rk_config *cfg)
{
    ctx->seed = (uint64_t)cfg->run_seed;
    ctx->data_shards = (int)cfg->grid_data;
    ctx->grid = (rk__grid){ .segments = cfg->parallel_exact ? (int)cfg->grid_data : 1,
                            .shards = (int)cfg->grid_data };
    ctx->exact = cfg->parallel_exact;
    ctx->shards.count = (int)cfg->grid_tensor;
    rk_set_compute(ctx, !strcmp(cfg->compute, "bf16")  ? RK_BF16
                        : !strcmp(cfg->compute, "f16") ? RK_F16
                                                       : RK_F32);
}

static rk_status check_ranks(rk_ctx *ctx, const rk_config *cfg)
{
    const int workers = rk__config_workers(cfg);
    if (workers && ctx->ranks > workers)
        return rk_fail(
            ctx, RK_ECONFIG,
            "%d ranks, but average.workers is %d: a rank needs a worker. Start at most %d ranks, or "
            "a new run with more workers",
            ctx->ranks, workers, workers);
    return RK_OK;
}

rk_status rk__setup_data(rk__setup *s, rk_ctx *ctx, const rk_config *cfg, const char *recorded)
{
    *s = (rk__setup){ .ctx = ctx, .cfg = cfg, .target = target_of(cfg), .smooth = true };
    RK_TRY(rk_failed(ctx));
    if (!cfg->data_path)
        return rk_fail(ctx, RK_ECONFIG,
                       "%s: data.path is missing: the file to train on, or the prefix of an IDX pair",
                       cfg->source);
    apply_grid(ctx, cfg);
    RK_TRY(check_ranks(ctx, cfg));
    RK_TRY(rk__job_open(ctx, ctx->ranks > 1 ? (int)cfg->parallel_tensor : 1, &s->job));
    RK_TRY(choose_loss(s));
    if (recorded)
        s->schema = rk__recorded(ctx, recorded, "data");
    rk_data_cfg d = data_of(s);
    d.schema = s->schema;
    s->train = rk_loader_make(ctx, &d);
    RK_TRY(rk_failed(ctx));
    if (!s->schema)
        s->schema = rk_loader_schema(s->train);
    s->eval = open_eval(s);
    return rk_failed(ctx);
}

/* ---- where a model comes from ---- */

char *rk__recorded(rk_ctx *ctx, const char *recorded, const char *key)
{
    rk_doc *doc = NULL;
    if (!recorded ||
        rk__json_parse(ctx, "snapshot", (const uint8_t *)recorded, strlen(recorded), RK_EDATA, &doc))
        return NULL;
    rk_doc *d = rk__doc_get(doc, key);
    char *json = d && d->kind != RK_DOC_NULL ? rk__doc_json(d, true, 0) : NULL;
    rk__doc_free(doc);
    return json;
}

int64_t rk__best_step(rk_ctx *ctx, const char *dir)
{
    const int64_t *steps;
    int n;
    if (rk_run_steps(ctx, dir, &steps, &n))
        return -1;
    for (int i = n - 1; i >= 0; i--) {
        rk_snapshot_info info;
        if (!rk_snapshot_describe(ctx, dir, steps[i], &info) && info.best)
            return steps[i];
        rk_error_clear(ctx); /* a bad snapshot is no reason not to look at the others */
    }
    return -1;
}

static rk_status check_model_keys(rk_ctx *ctx, const rk_doc *model)
{
    static const char *const names[] = { "layers", "from", "snapshot", "replace" };
    for (const rk_doc *d = model->child; d; d = d->next) {
        bool known = false;
        for (int i = 0; i < 4; i++)
            known |= !strcmp(d->key, names[i]);
        if (!known) {
            const char *near = rk__nearest(d->key, names, 4);
            return rk__doc_fail(ctx, RK_ECONFIG, d,
                                "unknown key %s in model, wanted layers, from, snapshot or replace%s%s%s",
                                d->key, near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
        }
    }
    return RK_OK;
}

/* Reads what a snapshot says about itself. */
static rk_status read_info(rk_ctx *ctx, const char *dir, int64_t step, rk_snap_info *info)
{
    rk_run *run = NULL;
    rk_state none;
    rk__state_init(&none, ctx);
    RK_TRY(rk__run_open(ctx, &(rk_run_cfg){ .dir = dir, .read_only = true }, &run));
    rk_status st = rk__run_read(run, step, 0, &none, info);
    rk__run_close(run);
    rk__state_free(&none);
    return st;
}

/* {"layers": L, "replace": ours over theirs} */
static char *merge_model(rk_ctx *ctx, const rk_doc *layers, const rk_doc *theirs, const rk_doc *ours)
{
    rk__text t = { 0 };
    rk__text_puts(&t, "{\"layers\":");
    char *json = rk__doc_json(layers, false, 0);
    rk__text_puts(&t, json ? json : "[]");
    free(json);
    rk__text_puts(&t, ",\"replace\":{");
    bool first = true;
    const rk_doc *const maps[] = { theirs, ours };
    for (int i = 0; i < 2; i++)
        for (const rk_doc *d = maps[i] ? maps[i]->child : NULL; d; d = d->next) {
            if (!i && ours && rk__doc_get(ours, d->key))
                continue;
            json = rk__doc_json(d, false, 0);
            rk__text_puts(&t, first ? "" : ",");
            rk__text_quote(&t, d->key);
            rk__text_puts(&t, ":");
            rk__text_puts(&t, json ? json : "null");
            free(json);
            first = false;
        }
    rk__text_puts(&t, "}}");
    char *s = rk__text_take(&t);
    if (!s)
        rk_fail(ctx, RK_ENOMEM, "out of memory");
    return s;
}

/* What model.from names: its architecture into *doc; its step into *step. */
static rk_status source_model(rk__setup *s, const rk_doc *from, const rk_doc *snapshot, rk_doc **doc,
                              int64_t *step)
{
    rk_ctx *ctx = s->ctx;
    if (from->kind != RK_DOC_STRING)
        return rk__doc_fail(ctx, RK_ECONFIG, from, "model.from: wanted the folder of a run");
    if (snapshot && strcmp(snapshot->text ? snapshot->text : "", "best") &&
        strcmp(snapshot->text ? snapshot->text : "", "newest"))
        return rk__doc_fail(ctx, RK_ECONFIG, snapshot, "model.snapshot: wanted best or newest");
    *step = snapshot && !strcmp(snapshot->text, "newest") ? -1 : rk__best_step(ctx, from->text);
    RK_TRY(rk_failed(ctx));
    rk_snap_info info = { 0 };
    RK_TRY(read_info(ctx, from->text, *step, &info));
    char *json = rk__recorded(ctx, info.extra_json, "model");
    rk__snap_info_free(&info);
    if (!json)
        return rk__doc_fail(ctx, RK_ECONFIG, from, "model.from: the run %s records no layers", from->text);
    rk_status st = rk__json_parse(ctx, from->text, (const uint8_t *)json, strlen(json), RK_EDATA, doc);
    free(json);
    return st;
}

static bool replaced(const rk_doc *replace, const char *param)
{
    for (const rk_doc *d = replace ? replace->child : NULL; d; d = d->next) {
        size_t n = strlen(d->key);
        if (!strncmp(param, d->key, n) && param[n] == '.')
            return true;
    }
    return false;
}

/* Weights of the source run, but for the layers that `replace` names. */
static rk_status load_weights(rk__setup *s, const char *dir, int64_t step, const rk_doc *replace)
{
    rk_state st;
    rk_run *run = NULL;
    rk_snap_info info = { 0 };
    rk__state_init(&st, s->ctx);
    rk_status e = rk__run_open(s->ctx, &(rk_run_cfg){ .dir = dir, .read_only = true }, &run);
    for (int i = 0; i < rk_param_count(s->net) && !e; i++) {
        rk_param p = rk_param_at(s->net, i);
        if (!replaced(replace, p.name))
            e = rk__state_add(&st, p.buffer ? RK_STATE_BUFFER : RK_STATE_PARAM, p.name, p.tensor);
    }
    if (!e)
        e = rk__run_load(run, step, &st, ~0u, false, &info, NULL, NULL);
    rk__snap_info_free(&info);
    if (run)
        rk__run_close(run);
    rk__state_free(&st);
    return e;
}

/* ---- the network ---- */

static rk_status apply_globs(rk__setup *s, const rk_doc *list, const char *key,
                             int (*apply)(rk_module *, const char *))
{
    if (!list)
        return RK_OK;
    const rk_doc *first = list->kind == RK_DOC_LIST ? list->child : list;
    for (const rk_doc *d = first; d; d = list->kind == RK_DOC_LIST ? d->next : NULL) {
        if (d->kind != RK_DOC_STRING)
            return rk__doc_fail(s->ctx, RK_ECONFIG, d, "%s: wanted names of parameters, such as \"conv*\"",
                                key);
        if (!apply(s->net, d->text)) {
            const char *names[256];
            int n = 0;
            for (; n < 256 && n < rk_param_count(s->net); n++)
                names[n] = rk_param_at(s->net, n).name;
            const char *near = rk__nearest(d->text, names, n);
            return rk__doc_fail(s->ctx, RK_ECONFIG, d, "%s: no parameter matches \"%s\"%s%s%s", key, d->text,
                                near ? "; there is " : "", near ? near : "",
                                near ? "" : " (inspect RUN lists them)");
        }
    }
    return RK_OK;
}

static rk_status check_output(rk__setup *s, const rk_doc *at)
{
    char is[128], want[128];
    rk_shape w = s->target == RK__INPUT ? s->input : RK_SHAPE(s->outputs);
    if (rk__shape_eq(&s->output, &w))
        return RK_OK;
    const char *why = s->target == RK__CLASSES  ? "one output a class"
                      : s->target == RK__VALUES ? "one output a target"
                                                : "the shape of the input, which is to be reconstructed";
    return rk__doc_fail(s->ctx, RK_ESHAPE, at, "the model gives %s, wanted %s: %s",
                        rk__shape_str(&s->output, is, sizeof is), rk__shape_str(&w, want, sizeof want), why);
}

static int64_t elements(const rk_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        n *= s->dim[i];
    return n;
}

/* What goes in and comes out, as the training data has it. */
static void shapes_of_data(rk__setup *s)
{
    s->input = rk_loader_sample_shape(s->train);
    s->classes = s->target == RK__CLASSES ? rk_loader_classes(s->train) : 0;
    s->outputs = s->target == RK__CLASSES  ? s->classes
                 : s->target == RK__VALUES ? rk_loader_targets(s->train)
                                           : elements(&s->input);
}

static rk_status build(rk__setup *s, const rk_doc *model, const rk_doc *layers, const rk_doc *replace)
{
    rk__model_spec spec = { .layers = layers, .replace = replace, .input = s->input, .outputs = s->outputs };
    spec.parked = (s->job->ranks > 1 && s->cfg->parallel_zero >= RK__ZERO_WEIGHTS) || rk__cut_meets(s->ctx);
    s->net = rk__model_build(s->ctx, &spec, &s->output);
    RK_TRY(rk_failed(s->ctx));
    RK_TRY(check_output(s, model));
    RK_TRY(rk_output_shape(s->net, s->input, &s->output, &s->flops, &s->params));
    RK_TRY(rk__place_layers(s->net, !strcmp(s->loss, "cross_entropy"), s->cfg->parallel_place));
    RK_TRY(apply_globs(s, s->cfg->freeze, "freeze", rk_freeze));
    return apply_globs(s, s->cfg->unfreeze, "unfreeze", rk_unfreeze);
}

rk_status rk__setup_model(rk__setup *s, const char *recorded)
{
    rk_ctx *ctx = s->ctx;
    const rk_doc *model = s->cfg->model, *layers = model, *replace = NULL, *from = NULL;
    rk_doc *source = NULL, *merged = NULL;
    int64_t step = -1;
    RK_TRY(rk_failed(ctx));
    shapes_of_data(s);
    if (!model)
        return rk_fail(ctx, RK_ECONFIG, "%s: model is missing: model: {layers: [...]}", s->cfg->source);
    if (model->kind == RK_DOC_MAP) {
        RK_TRY(check_model_keys(ctx, model));
        layers = rk__doc_get(model, "layers");
        replace = rk__doc_get(model, "replace");
        from = rk__doc_get(model, "from");
    }
    if (!layers == !from)
        return rk__doc_fail(ctx, RK_ECONFIG, model, "model: wanted layers, or from (a run), and not both");
    char *known = from && recorded ? rk__recorded(ctx, recorded, "model") : NULL;
    rk_status st = RK_OK;
    if (known) {
        s->model_json = known; /* the run that is continued knows its layers: the source is not asked again */
        RK_TRY_GOTO(
            done, rk__json_parse(ctx, "snapshot", (const uint8_t *)known, strlen(known), RK_EDATA, &merged));
    } else if (from) {
        RK_TRY_GOTO(done, source_model(s, from, rk__doc_get(model, "snapshot"), &source, &step));
        s->model_json =
            merge_model(ctx, rk__doc_get(source, "layers"), rk__doc_get(source, "replace"), replace);
        RK_TRY_GOTO(done, rk_failed(ctx));
        RK_TRY_GOTO(done, rk__json_parse(ctx, s->cfg->source, (const uint8_t *)s->model_json,
                                         strlen(s->model_json), RK_ECONFIG, &merged));
    }
    if (merged)
        st = build(s, model, rk__doc_get(merged, "layers"), rk__doc_get(merged, "replace"));
    else {
        s->model_json = merge_model(ctx, layers, NULL, replace);
        st = build(s, model, layers, replace);
    }
    if (!st && from && !known)
        st = load_weights(s, from->text, step, replace);
    if (!st)
        st = rk__place_share(s->net);
done:
    rk__doc_free(source);
    rk__doc_free(merged);
    return st;
}

char *rk__setup_record(const rk__setup *s)
{
    rk__text t = { 0 };
    rk__text_puts(&t, "{\"model\":");
    rk__text_puts(&t, s->model_json ? s->model_json : "null");
    rk__text_puts(&t, ",\"data\":");
    rk__text_puts(&t, s->schema ? s->schema : "null");
    rk__text_printf(&t, ",\"classes\":%lld,\"outputs\":%lld,\"input\":[", (long long)s->classes,
                    (long long)s->outputs);
    for (int i = 0; i < s->input.ndim; i++)
        rk__text_printf(&t, "%s%lld", i ? "," : "", (long long)s->input.dim[i]);
    rk__text_puts(&t, "]}");
    return rk__text_take(&t);
}

/* A number from a snapshot: never trusted. */
static int64_t recorded_number(const rk_doc *d)
{
    return d && d->kind == RK_DOC_INT && d->i >= 0 && d->i <= (int64_t)1 << 40 ? d->i : -1;
}

static rk_status read_record(rk__setup *s, const rk_doc *doc)
{
    const rk_doc *input = rk__doc_get(doc, "input"), *model = rk__doc_get(doc, "model"),
                 *schema = rk__doc_get(doc, "data");
    s->classes = recorded_number(rk__doc_get(doc, "classes"));
    s->outputs = recorded_number(rk__doc_get(doc, "outputs"));
    bool ok = s->classes >= 0 && s->outputs > 0 && input && input->kind == RK_DOC_LIST &&
              input->n < RK_MAX_DIMS && model;
    for (const rk_doc *d = ok ? input->child : NULL; d && ok; d = d->next) {
        s->input.dim[s->input.ndim++] = recorded_number(d);
        ok = recorded_number(d) > 0;
    }
    if (!ok)
        return rk_fail(s->ctx, RK_EDATA, "run %s: its snapshot does not tell the network it holds",
                       s->cfg->source);
    s->schema = schema && schema->kind == RK_DOC_MAP ? rk__doc_json(schema, true, 0) : NULL;
    s->model_json = rk__doc_json(model, false, 0);
    const rk_doc *layers = rk__doc_get(model, "layers");
    if (!layers)
        return rk_fail(s->ctx, RK_EDATA, "run %s: its snapshot tells no layers", s->cfg->source);
    return build(s, model, layers, rk__doc_get(model, "replace"));
}

rk_status rk__setup_recorded(rk__setup *s, rk_ctx *ctx, const rk_config *cfg, int tensor,
                             const char *recorded)
{
    *s = (rk__setup){ .ctx = ctx, .cfg = cfg, .target = target_of(cfg), .smooth = true };
    RK_TRY(rk_failed(ctx));
    apply_grid(ctx, cfg);
    RK_TRY(rk__job_open(ctx, tensor, &s->job));
    RK_TRY(choose_loss(s));
    rk_doc *doc = NULL;
    RK_TRY(rk__json_parse(ctx, cfg->source, (const uint8_t *)recorded, strlen(recorded), RK_EDATA, &doc));
    rk_status st = read_record(s, doc);
    rk__doc_free(doc);
    return st ? st : rk__place_share(s->net);
}

void rk__setup_free(rk__setup *s)
{
    free(s->model_json);
    free(s->schema);
    s->model_json = s->schema = NULL;
}

rk_tensor *rk__setup_loss(void *arg, rk_tensor *out, rk_tensor *target)
{
    const rk__setup *s = arg;
    if (s->target == RK__CLASSES)
        return rk__cross_entropy_cut(out, target, s->smooth && s->ce.label_smoothing > 0 ? &s->ce : NULL,
                                     rk__place_classes(s->net));
    if (!strcmp(s->loss, "l1"))
        return rk_l1_loss(out, target);
    return !strcmp(s->loss, "bce") ? rk_bce_with_logits(out, target) : rk_mse_loss(out, target);
}

rk_status rk__module_state(rk_module *net, rk_state *st)
{
    for (int i = 0; i < rk_param_count(net); i++) {
        rk_param p = rk_param_at(net, i);
        rk_piece piece = rk__cut_piece(p.tensor);
        RK_TRY(
            rk__state_add_piece(st, p.buffer ? RK_STATE_BUFFER : RK_STATE_PARAM, p.name, p.tensor, &piece));
    }
    return RK_OK;
}

char *rk_config_layout(rk_ctx *ctx, const rk_config *cfg)
{
    rk__setup s;
    rk__text t = { 0 };
    if (rk_failed(ctx))
        return NULL;
    if (!rk__setup_data(&s, ctx, cfg, NULL) && !rk__setup_model(&s, NULL))
        rk__place_print(s.net, &t);
    rk__setup_free(&s);
    if (rk_failed(ctx)) {
        rk__text_free(&t);
        return NULL;
    }
    char *text = rk__text_take(&t);
    if (!text)
        rk_fail(ctx, RK_ENOMEM, "out of memory");
    return text;
}

rk_status rk_config_check(rk_ctx *ctx, const rk_config *cfg)
{
    rk__setup s;
    RK_TRY(rk_failed(ctx));
    rk_status st = rk__setup_data(&s, ctx, cfg, NULL);
    if (!st)
        st = rk__setup_model(&s, NULL);
    rk__setup_free(&s);
    return st;
}
