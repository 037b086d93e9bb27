#include "train/eval.h"

#include "core/cut.h"
#include "core/rounded.h"
#include "io/doc.h"
#include "nn/module.h"
#include "train/fit.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

rk_status rk__evaluate_batches(rk__setup *s, rk__next_batch *next, void *arg, int64_t limit, rk__metrics *m)
{
    rk_ctx *ctx = s->ctx;
    bool training = ctx->training;
    rk_set_training(ctx, false);
    rk_no_grad_begin(ctx);
    rk__weights_stand(ctx);
    s->smooth = false;
    for (rk_batch b; (limit <= 0 || m->samples < limit) && next(arg, &b); rk_step_end(ctx)) {
        rk__job_grid(s->job, b.global);
        rk_tensor *out = rk_forward(s->net, b.x);
        double loss = rk_item(rk__setup_loss(s, out, b.y));
        const rk__cut *classes = rk__place_classes(s->net);
        if (classes)
            out = rk__cut_gather(out, 1, classes->whole);
        if (rk_failed(ctx) || rk__metrics_add(m, s->job, out, b.y, b.global, loss))
            break;
    }
    s->smooth = true;
    rk__weights_move(ctx);
    rk_no_grad_end(ctx);
    rk_set_training(ctx, training);
    return rk_failed(ctx) ? rk_failed(ctx) : rk__metrics_meet(m, s->job);
}

static bool next_loaded(void *data, rk_batch *b)
{
    return rk_loader_next(data, b);
}

rk_status rk__evaluate_pass(rk__setup *s, rk_loader *data, int64_t limit, rk__metrics *m)
{
    RK_TRY(rk_loader_seek(data, 0));
    return rk__evaluate_batches(s, next_loaded, data, limit, m);
}

/* ---- a trained run ---- */

typedef struct {
    rk_ctx *ctx;
    rk_config *cfg;
    rk_snap_info info;
    rk__setup setup;
    rk_loader *data;
} trained;

/* Too little memory has advice. */
static void trained_close(trained *t, const rk_eval_opts *o)
{
    if (rk_failed(t->ctx) == RK_ENOMEM && t->data) {
        const int64_t all = rk_loader_samples(t->data), batch = o->batch > 0 ? o->batch : t->cfg->eval_batch;
        rk__fit_advise_pass(&t->setup, o->limit > 0 && o->limit < all ? o->limit : all, batch, "--batch");
    }
    rk__setup_free(&t->setup);
    rk__snap_info_free(&t->info);
}

/* The weights; the averaged ones take the place of those that have any. */
static rk_status load_weights(trained *t, rk_run *run, int64_t step)
{
    rk_state st, ema;
    rk__state_init(&st, t->ctx);
    rk__state_init(&ema, t->ctx);
    rk_status e = rk__module_state(t->setup.net, &st);
    if (!e)
        e = rk__run_load(run, step, &st, ~0u, false, NULL, NULL, NULL);
    for (int i = 0; i < st.n && !e; i++) {
        char name[1200];
        snprintf(name, sizeof name, "ema/%s", st.entries[i].name);
        if (st.entries[i].kind == RK_STATE_PARAM && t->cfg->optim_ema > 0)
            e = rk__state_add(&ema, RK_STATE_EMA, name, st.entries[i].tensor);
    }
    if (!e && ema.n)
        e = rk__run_load(run, step, &ema, ~0u, true, NULL, NULL, NULL);
    rk__state_free(&st);
    rk__state_free(&ema);
    return e;
}

static rk_status open_data(trained *t, const rk_eval_opts *o, bool predict)
{
    const rk_config *c = t->cfg;
    const char *path = o->data ? o->data : c->data_eval ? c->data_eval : c->data_path;
    bool held_out = !o->data && !c->data_eval;
    if (held_out && !(c->data_split > 0))
        return rk_fail(t->ctx, RK_ECONFIG, "run %s has no evaluation data of its own: name a data set",
                       o->run);
    rk_data_cfg d = {
        .path = path,
        .format = o->format ? o->format : c->data_format,
        .label_column = c->data_label_column,
        .labels = held_out  ? c->data_labels
                  : o->data ? NULL
                            : c->data_eval_labels,
        .task = c->data_task,
        .x_name = c->data_x,
        .y_name = c->data_y,
        .categorical = c->data_categorical,
        .no_header = !c->data_header,
        .delimiter = c->data_delimiter ? c->data_delimiter[0] : 0,
        .batch = o->batch > 0 ? o->batch : c->eval_batch,
        .seed = (uint64_t)c->run_seed,
        .split = held_out ? c->data_split : 0,
        .validation = held_out,
        .normalize = c->data_normalize,
        .limit = held_out ? c->data_limit : o->limit,
        .epochs = 1,
        .no_labels = predict,
        .schema = t->setup.schema,
    };
    t->data = rk_loader_make(t->ctx, &d);
    return rk_failed(t->ctx);
}

static rk_status not_described(rk_ctx *ctx, const char *run, const char *record)
{
    char *why = rk__record_reason(ctx, record);
    rk_status st = rk_fail(ctx, RK_EDATA,
                           "run %s: its snapshot holds weights, but does not tell the network: %s; inspect, "
                           "verify and export work, and rk_resume() in the program that saved it",
                           run, why ? why : "rk_save() of an older version wrote it");
    free(why);
    return st;
}

static rk_status trained_open(trained *t, rk_ctx *ctx, const rk_eval_opts *o, bool predict)
{
    *t = (trained){ .ctx = ctx };
    RK_TRY(rk_failed(ctx));
    if (!o->run)
        return rk_fail(ctx, RK_EUSAGE, "evaluation needs the folder of a run");
    int64_t step = o->step >= 0 ? o->step : rk__best_step(ctx, o->run);
    RK_TRY(rk_failed(ctx));
    rk_run *run = NULL;
    rk_state none;
    rk__state_init(&none, ctx);
    RK_TRY(rk__run_open(ctx, &(rk_run_cfg){ .dir = o->run, .read_only = true }, &run));
    rk_status st;
    RK_TRY_GOTO(done, rk__run_read(run, step, 0, &none, &t->info));
    if (!t->info.config_json || !t->info.extra_json) {
        st = not_described(ctx, o->run, t->info.extra_json);
        goto done;
    }
    t->cfg = rk__config_from_json(ctx, o->run, t->info.config_json, NULL, 0);
    RK_TRY_GOTO(done, rk_failed(ctx));
    RK_TRY_GOTO(done, rk__setup_recorded(&t->setup, ctx, t->cfg, 1, t->info.extra_json));
    RK_TRY_GOTO(done, load_weights(t, run, t->info.step));
    st = open_data(t, o, predict);
done:
    rk__run_close(run);
    rk__state_free(&none);
    return st;
}

static void free_result(void *arg)
{
    free(arg);
}

static void *keep(rk_ctx *ctx, size_t n, size_t size)
{
    void *p = rk__calloc(ctx, n ? n : 1, size);
    if (p && rk__at_close(ctx, free_result, p)) {
        free(p);
        return NULL;
    }
    return p;
}

static const char *const *names_of(rk_ctx *ctx, const rk_loader *l, int64_t classes)
{
    if (classes < 1 || !rk_loader_class_name(l, 0))
        return NULL;
    const char **names = keep(ctx, (size_t)classes, sizeof *names);
    for (int64_t c = 0; names && c < classes; c++)
        names[c] = rk_loader_class_name(l, c);
    return names;
}

rk_status rk_evaluate(rk_ctx *ctx, const rk_eval_opts *opts, rk_eval_result *out)
{
    trained t;
    rk__metrics m = { 0 };
    *out = (rk_eval_result){ 0 };
    rk_status st = trained_open(&t, ctx, opts, false);
    if (!st)
        st = rk__metrics_init(&m, ctx, t.setup.classes, t.cfg->eval_topk);
    if (!st)
        st = rk__evaluate_pass(&t.setup, t.data, opts->limit, &m);
    if (!st) {
        rk_metric_value *v = keep(ctx, RK__MAX_METRICS, sizeof *v);
        *out = (rk_eval_result){
            .step = t.info.step, .samples = m.samples, .metrics = v, .classes = t.setup.classes
        };
        if (v)
            out->n_metrics = rk__metrics_values(&m, t.cfg->eval_metrics, v);
        out->class_names = names_of(ctx, t.data, t.setup.classes);
        if (m.confusion) {
            size_t n = (size_t)(m.classes * m.classes);
            int64_t *copy = keep(ctx, n, sizeof *copy);
            if (copy)
                memcpy(copy, m.confusion, n * sizeof *copy);
            out->confusion = copy;
        }
        st = rk_failed(ctx);
    }
    rk__metrics_free(&m);
    trained_close(&t, opts);
    return st;
}

/* ---- prediction ---- */

/* The values of a categorical target, in order of their class; data opened without labels does not know them.
 * NULL if classes have no names. Child of *doc, which the caller frees. */
static const rk_doc *class_values(trained *t, rk_doc **doc)
{
    const char *schema = t->setup.schema;
    *doc = NULL;
    if (!schema ||
        rk__json_parse(t->ctx, "data.schema", (const uint8_t *)schema, strlen(schema), RK_EDATA, doc))
        return NULL;
    const rk_doc *targets = rk__doc_get(*doc, "targets");
    const rk_doc *values = targets && targets->child ? rk__doc_get(targets->child, "values") : NULL;
    return values && values->kind == RK_DOC_LIST && values->n == t->setup.classes ? values : NULL;
}

static const char *class_name(const rk_doc *values, int64_t c)
{
    const rk_doc *d = values ? values->child : NULL;
    while (d && c-- > 0)
        d = d->next;
    return d ? d->text : NULL;
}

typedef struct predicting {
    trained *t;
    const rk_doc *values; /* names of the classes, or NULL */
    float *host;
    int64_t sample, limit; /* the next one; where to stop, 0: nowhere */
    rk_predict_fn *fn;
    void *user;
} predicting;

static rk_status predict_batch(predicting *w, const rk_batch *b)
{
    trained *t = w->t;
    float *host = w->host;
    bool classes = t->setup.classes > 0;
    rk_tensor *y = rk_forward(t->setup.net, b->x);
    y = rk_reshape(y, RK_SHAPE(b->n, t->setup.outputs));
    if (classes)
        y = rk_softmax(y, 1);
    else if (!strcmp(t->setup.loss, "bce"))
        y = rk_sigmoid(y);
    RK_TRY(rk_tensor_read(y, host, (size_t)(b->n * t->setup.outputs) * sizeof *host));
    for (int64_t i = 0; i < b->n && (w->limit <= 0 || w->sample < w->limit); i++) {
        rk_prediction p = {
            .sample = w->sample++, .n = t->setup.outputs, .value = host + i * t->setup.outputs, .best = -1
        };
        if (classes) {
            p.best = 0;
            for (int64_t c = 1; c < p.n; c++)
                if (p.value[c] > p.value[p.best])
                    p.best = c;
            p.best_name = class_name(w->values, p.best);
        }
        rk_status st = w->fn(w->user, &p);
        if (st)
            return rk_fail(t->ctx, st, "prediction was stopped at sample %lld", (long long)p.sample);
    }
    return RK_OK;
}

rk_status rk_predict(rk_ctx *ctx, const rk_eval_opts *opts, rk_predict_fn *fn, void *user)
{
    trained t;
    rk_status st = trained_open(&t, ctx, opts, true);
    if (!st) {
        int64_t batch = opts->batch > 0 ? opts->batch : t.cfg->eval_batch;
        predicting w = { .t = &t, .limit = opts->limit, .fn = fn, .user = user };
        rk_doc *schema;
        w.values = class_values(&t, &schema);
        w.host = rk__calloc(ctx, (size_t)(batch * t.setup.outputs), sizeof *w.host);
        st = w.host ? rk_loader_seek(t.data, 0) : RK_ENOMEM;
        rk_set_training(ctx, false);
        rk_no_grad_begin(ctx);
        rk__weights_stand(ctx);
        for (rk_batch b; !st && (w.limit <= 0 || w.sample < w.limit) && rk_loader_next(t.data, &b);
             rk_step_end(ctx))
            st = predict_batch(&w, &b);
        rk__weights_move(ctx);
        rk_no_grad_end(ctx);
        rk_set_training(ctx, true);
        free(w.host);
        rk__doc_free(schema);
        if (!st)
            st = rk_failed(ctx);
    }
    trained_close(&t, opts);
    return st;
}
