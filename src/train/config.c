#include "train/config.h"

#include "io/number.h"
#include "io/text.h"
#include "train/scale.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_MAX_BYTES = 4 << 20 };

typedef enum { KIND_INT, KIND_NUM, KIND_BOOL, KIND_STR, KIND_DOC } option_kind;
typedef enum { FREE, ALLOW, REFUSE } option_change;

typedef struct {
    const char *key;
    option_kind kind;
    option_change change;
    size_t offset; /* of the field in rk_config */
    int64_t imin, imax, idef;
    double fmin, fmax, fdef;
    const char *sdef, *allowed, *help, *def_text;
} option;

#define FIELD(f) offsetof(struct rk_config, f)
#define OPT_INT(field, k, def, lo, hi, c, h) \
    { .key = k,                              \
      .kind = KIND_INT,                      \
      .change = c,                           \
      .offset = FIELD(field),                \
      .idef = def,                           \
      .imin = lo,                            \
      .imax = hi,                            \
      .help = h,                             \
      .def_text = #def },
#define OPT_NUM(field, k, def, lo, hi, c, h) \
    { .key = k,                              \
      .kind = KIND_NUM,                      \
      .change = c,                           \
      .offset = FIELD(field),                \
      .fdef = def,                           \
      .fmin = lo,                            \
      .fmax = hi,                            \
      .help = h,                             \
      .def_text = #def },
#define OPT_BOOL(field, k, def, c, h) \
    { .key = k,                       \
      .kind = KIND_BOOL,              \
      .change = c,                    \
      .offset = FIELD(field),         \
      .idef = def,                    \
      .help = h,                      \
      .def_text = #def },
#define OPT_STR(field, k, def, a, c, h) \
    { .key = k,                         \
      .kind = KIND_STR,                 \
      .change = c,                      \
      .offset = FIELD(field),           \
      .sdef = def,                      \
      .allowed = a,                     \
      .help = h,                        \
      .def_text = def },
#define OPT_DOC(field, k, c, h) \
    { .key = k, .kind = KIND_DOC, .change = c, .offset = FIELD(field), .help = h },

static const option options[] = {
#include <rankine/options.def>
};
enum { OPTIONS = sizeof options / sizeof *options };

static const char *const kind_names[] = { "int", "number", "bool", "string", "document" };
static const char *const change_names[] = { "free", "allow", "refuse" };

/* ---- what is written, checked ---- */

static const option *find_option(const char *key)
{
    for (int i = 0; i < OPTIONS; i++)
        if (!strcmp(options[i].key, key))
            return &options[i];
    return NULL;
}

/* "optim" is a group: some key begins with "optim." */
static bool is_group(const char *name)
{
    size_t n = strlen(name);
    for (int i = 0; i < OPTIONS; i++)
        if (!strncmp(options[i].key, name, n) && options[i].key[n] == '.')
            return true;
    return false;
}

static rk_status unknown_key(rk_ctx *ctx, const rk_doc *at, const char *key)
{
    const char *names[2 * OPTIONS];
    char groups[OPTIONS][24];
    int n = 0;
    for (int i = 0; i < OPTIONS; i++) {
        names[n++] = options[i].key;
        snprintf(groups[i], sizeof groups[i], "%.*s", (int)strcspn(options[i].key, "."), options[i].key);
        if (!i || strcmp(groups[i], groups[i - 1]))
            names[n++] = groups[i];
    }
    const char *near = rk__nearest(key, names, n);
    if (near)
        return rk__doc_fail(ctx, RK_ECONFIG, at, "unknown key %s; did you mean %s?", key, near);
    return rk__doc_fail(ctx, RK_ECONFIG, at, "unknown key %s (rankine config schema lists all)", key);
}

static rk_status check_keys(rk_ctx *ctx, const rk_doc *map, const char *prefix)
{
    for (const rk_doc *d = map->child; d; d = d->next) {
        char key[256];
        if (snprintf(key, sizeof key, "%s%s", prefix, d->key) >= (int)sizeof key)
            return rk__doc_fail(ctx, RK_ECONFIG, d, "key too long");
        if (find_option(key))
            continue;
        if (!is_group(key))
            return unknown_key(ctx, d, key);
        if (d->kind == RK_DOC_NULL)
            continue;
        if (d->kind != RK_DOC_MAP)
            return rk__doc_fail(ctx, RK_ECONFIG, d, "%s holds keys of its own and takes no value", key);
        char inner[260];
        snprintf(inner, sizeof inner, "%s.", key);
        RK_TRY(check_keys(ctx, d, inner));
    }
    return RK_OK;
}

static rk_status wrong_type(rk_ctx *ctx, const rk_doc *d, const option *o)
{
    const char *what = d->text                  ? d->text
                       : d->kind == RK_DOC_MAP  ? "a map"
                       : d->kind == RK_DOC_LIST ? "a list"
                                                : "nothing";
    if (o->kind == KIND_INT && d->kind == RK_DOC_FLOAT && d->text && !strpbrk(d->text, ".eEnN"))
        return rk__doc_fail(ctx, RK_ECONFIG, d, "%s: %s is out of range, wanted %lld to %lld", o->key, what,
                            (long long)o->imin, (long long)o->imax);
    const char *want = o->kind == KIND_INT    ? "a whole number"
                       : o->kind == KIND_NUM  ? "a number"
                       : o->kind == KIND_BOOL ? "true or false"
                                              : "one value";
    return rk__doc_fail(ctx, RK_ECONFIG, d, "%s: %s, wanted %s", o->key, what, want);
}

static rk_status set_int(rk_ctx *ctx, const rk_doc *d, const option *o, int64_t *out)
{
    if (d->kind == RK_DOC_INT)
        *out = d->i;
    else if (d->kind == RK_DOC_FLOAT && fabs(d->f) < 9e15 && d->f == (double)(int64_t)d->f)
        *out = (int64_t)d->f; /* 1e6 */
    else
        return wrong_type(ctx, d, o);
    if (*out < o->imin || *out > o->imax) {
        if (o->imax == INT64_MAX)
            return rk__doc_fail(ctx, RK_ECONFIG, d, "%s: %lld, wanted at least %lld", o->key, (long long)*out,
                                (long long)o->imin);
        return rk__doc_fail(ctx, RK_ECONFIG, d, "%s: %lld is out of range, wanted %lld to %lld", o->key,
                            (long long)*out, (long long)o->imin, (long long)o->imax);
    }
    return RK_OK;
}

static rk_status set_num(rk_ctx *ctx, const rk_doc *d, const option *o, double *out)
{
    if (d->kind != RK_DOC_INT && d->kind != RK_DOC_FLOAT)
        return wrong_type(ctx, d, o);
    *out = d->f;
    if (!(*out >= o->fmin && *out <= o->fmax))
        return rk__doc_fail(ctx, RK_ECONFIG, d, "%s: %s is out of range, wanted %g to %g", o->key, d->text,
                            o->fmin, o->fmax);
    return RK_OK;
}

/* Is word one of "a|b|c"? */
static bool allowed_word(const char *allowed, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = allowed; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (!strncmp(p, word, n) && (p[n] == '|' || !p[n]))
            return true;
    return false;
}

static rk_status set_str(rk_ctx *ctx, const rk_doc *d, const option *o, char **out)
{
    if (!d->text || d->kind == RK_DOC_LIST || d->kind == RK_DOC_MAP)
        return wrong_type(ctx, d, o);
    if (o->allowed && !allowed_word(o->allowed, d->text))
        return rk__doc_fail(ctx, RK_ECONFIG, d, "%s: %s, wanted one of %s", o->key, d->text, o->allowed);
    *out = rk__strdup(ctx, d->text);
    return *out ? RK_OK : RK_ENOMEM;
}

static rk_status set_option(rk_config *c, const option *o)
{
    void *field = (char *)c + o->offset;
    rk_doc *d = rk__doc_path(c->doc, o->key);
    if (d && d->kind == RK_DOC_NULL)
        d = NULL; /* "key:" with nothing behind it is the default */
    switch (o->kind) {
    case KIND_INT:
        *(int64_t *)field = o->idef;
        return d ? set_int(c->ctx, d, o, field) : RK_OK;
    case KIND_NUM:
        *(double *)field = o->fdef;
        return d ? set_num(c->ctx, d, o, field) : RK_OK;
    case KIND_BOOL:
        *(bool *)field = o->idef != 0;
        if (d && d->kind != RK_DOC_BOOL)
            return wrong_type(c->ctx, d, o);
        if (d)
            *(bool *)field = d->i != 0;
        return RK_OK;
    case KIND_STR:
        if (d)
            return set_str(c->ctx, d, o, field);
        if (o->sdef && !(*(char **)field = rk__strdup(c->ctx, o->sdef)))
            return RK_ENOMEM;
        return RK_OK;
    case KIND_DOC:
        *(rk_doc **)field = d;
        return RK_OK;
    }
    return RK_OK;
}

int rk__config_workers(const rk_config *c)
{
    return strcmp(c->parallel_strategy, "average") ? 0 : (int)c->average_workers;
}

int64_t rk__config_batch(const rk_config *c)
{
    const int64_t workers = rk__config_workers(c) ? rk__config_workers(c) : 1;
    return (c->batch_global + workers - 1) / workers;
}

int64_t rk__config_shard(const rk_config *c)
{
    return (rk__config_batch(c) + c->grid_data - 1) / c->grid_data;
}

rk_optim_cfg rk__config_optim(const rk_config *c)
{
    static const struct {
        const char *name;
        rk_optim_kind kind;
    } kinds[] = { { "sgd", RK_SGD }, { "adam", RK_ADAM }, { "adamw", RK_ADAMW } };
    rk_optim_cfg o = { .lr = c->optim_lr,
                       .weight_decay = c->optim_weight_decay,
                       .decay_all = c->optim_decay_all,
                       .momentum = c->optim_momentum,
                       .nesterov = c->optim_nesterov,
                       .beta1 = c->optim_beta1,
                       .beta2 = c->optim_beta2,
                       .eps = c->optim_eps,
                       .clip_norm = c->optim_clip_norm,
                       .ema_decay = c->optim_ema };
    o.loss_scale_moves = !strcmp(c->optim_loss_scale, "auto") && !strcmp(c->compute, "f16");
    if (strcmp(c->optim_loss_scale, "auto"))
        o.loss_scale = strtod(c->optim_loss_scale, NULL);
    for (int i = 0; i < 3; i++)
        if (!strcmp(c->optim_kind, kinds[i].name))
            o.kind = kinds[i].kind;
    return o;
}

/* Strategy average: what it needs, and what does not go with it. */
static rk_status check_average(rk_config *c)
{
    if (c->average_workers & (c->average_workers - 1))
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "average.workers"),
                            "average.workers: %lld, wanted a power of two", (long long)c->average_workers);
    if (c->parallel_tensor > 1)
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "parallel.tensor"),
                            "parallel.tensor: %lld does not go with parallel.strategy average, whose workers "
                            "have whole networks: leave it out, or use strategy sync",
                            (long long)c->parallel_tensor);
    if (c->parallel_zero > 1)
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "parallel.zero"),
                            "parallel.zero: %lld does not go with parallel.strategy average, whose workers "
                            "have whole gradients and weights: leave it out, or use strategy sync",
                            (long long)c->parallel_zero);
    if (c->batch_global < c->average_workers)
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "batch.global"),
                            "batch.global: %lld samples for the %lld workers of average.workers: each needs "
                            "one at least",
                            (long long)c->batch_global, (long long)c->average_workers);
    return RK_OK;
}

static rk_status check_loss_scale(rk_config *c)
{
    const char *text = c->optim_loss_scale;
    const rk_doc *at = rk__doc_path(c->doc, "optim.loss_scale");
    double scale;
    if (!strcmp(text, "auto"))
        return strcmp(c->compute, "f16") || !rk__config_workers(c)
                   ? RK_OK
                   : rk__doc_fail(
                         c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "compute"),
                         "optim.loss_scale: auto does not go with compute f16 and parallel.strategy average, "
                         "where a worker alone would leave steps out: give a number, such as 1024");
    if (!rk__parse_double(text, strlen(text), &scale) || !rk__scale_fits(scale))
        return rk__doc_fail(
            c->ctx, RK_ECONFIG, at,
            "optim.loss_scale: \"%s\", wanted auto or a power of two from 2^-24 to 2^40, such as 1024", text);
    return RK_OK;
}

/* Whatever does not fit into one row. */
static rk_status check_together(rk_config *c)
{
    RK_TRY(check_loss_scale(c));
    if (rk__config_workers(c))
        RK_TRY(check_average(c));
    if (c->grid_data & (c->grid_data - 1))
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "grid.data"),
                            "grid.data: %lld, wanted a power of two", (long long)c->grid_data);
    if (c->grid_tensor & (c->grid_tensor - 1))
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "grid.tensor"),
                            "grid.tensor: %lld, wanted a power of two", (long long)c->grid_tensor);
    if (c->parallel_tensor & (c->parallel_tensor - 1))
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "parallel.tensor"),
                            "parallel.tensor: %lld, wanted a power of two", (long long)c->parallel_tensor);
    if (c->parallel_tensor > c->grid_tensor)
        return rk__doc_fail(
            c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "parallel.tensor"),
            "parallel.tensor: %lld ranks cannot share the %lld tensor shards of grid.tensor; use "
            "at most as many, or start a new run with a larger grid.tensor",
            (long long)c->parallel_tensor, (long long)c->grid_tensor);
    if (c->data_delimiter && strlen(c->data_delimiter) != 1)
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "data.delimiter"),
                            "data.delimiter: \"%s\", wanted one character", c->data_delimiter);
    if (c->data_eval && c->data_split > 0)
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "data.split"),
                            "data.split and data.eval both name evaluation data: keep one");
    if (c->optim_nesterov && c->optim_momentum == 0)
        return rk__doc_fail(c->ctx, RK_ECONFIG, rk__doc_path(c->doc, "optim.nesterov"),
                            "optim.nesterov needs optim.momentum above 0");
    if (c->optim_beta1 >= 1 || c->optim_beta2 >= 1 || c->optim_ema >= 1)
        return rk_fail(c->ctx, RK_ECONFIG, "%s: optim.beta1, optim.beta2 and optim.ema must be below 1",
                       c->source);
    return RK_OK;
}

/* runs/NAME for examples/NAME.yaml */
static rk_status default_run_dir(rk_config *c)
{
    if (c->run_dir)
        return RK_OK;
    const char *slash = strrchr(c->source, '/');
    const char *base = slash ? slash + 1 : c->source;
    const char *dot = strrchr(base, '.');
    int n = dot && dot != base ? (int)(dot - base) : (int)strlen(base);
    char dir[512];
    snprintf(dir, sizeof dir, "runs/%.*s", n, base);
    c->run_dir = rk__strdup(c->ctx, dir);
    return c->run_dir ? RK_OK : RK_ENOMEM;
}

static void config_free(void *arg)
{
    rk_config *c = arg;
    for (int i = 0; i < OPTIONS; i++)
        if (options[i].kind == KIND_STR)
            free(*(char **)((char *)c + options[i].offset));
    rk__doc_free(c->doc);
    free(c->source);
    for (int i = 0; c->got && i < OPTIONS; i++)
        free(c->got[i]);
    free(c->got);
    free(c);
}

/* `device: cuda` is short for `device: {kind: cuda}`. */
static rk_status write_out(rk_config *c)
{
    rk_doc *d = rk__doc_get(c->doc, "device");
    if (!d || d->kind == RK_DOC_MAP || d->kind == RK_DOC_NULL)
        return RK_OK;
    if (!d->text || d->kind == RK_DOC_LIST)
        return rk__doc_fail(c->ctx, RK_ECONFIG, d,
                            "device: a list, wanted auto, cpu or cuda, or a map: {kind: cuda, nccl: auto, "
                            "graph: auto}");
    return rk__doc_nest(c->ctx, d, "kind");
}

static rk_status apply_override(rk_config *c, const char *text)
{
    const char *p = text;
    while (*p == '-')
        p++;
    const char *eq = strchr(p, '=');
    if (!eq || eq == p)
        return rk_fail(c->ctx, RK_EUSAGE, "%s: wanted KEY=VALUE", text);
    char key[256];
    if (eq - p >= (ptrdiff_t)sizeof key)
        return rk_fail(c->ctx, RK_EUSAGE, "%.40s...: key too long", text);
    memcpy(key, p, (size_t)(eq - p));
    key[eq - p] = '\0';
    const bool brief = !strcmp(key, "device") && eq[1] != '{';
    return rk__doc_set(c->ctx, c->doc, brief ? "device.kind" : key, eq + 1, "command line");
}

static rk_status config_fill(rk_config *c, const char *const *overrides, int n)
{
    RK_TRY(write_out(c));
    for (int i = 0; i < n; i++)
        RK_TRY(apply_override(c, overrides[i]));
    if (c->doc->kind != RK_DOC_MAP)
        return rk__doc_fail(c->ctx, RK_ECONFIG, c->doc,
                            "wanted keys and values (run: ..., data: ..., model: ...)");
    RK_TRY(check_keys(c->ctx, c->doc, ""));
    for (int i = 0; i < OPTIONS; i++)
        RK_TRY(set_option(c, &options[i]));
    RK_TRY(check_together(c));
    return default_run_dir(c);
}

static rk_config *config_new(rk_ctx *ctx, const char *source)
{
    rk_config *c = rk__calloc(ctx, 1, sizeof *c);
    if (!c)
        return NULL;
    c->ctx = ctx;
    c->source = rk__strdup(ctx, source);
    c->got = rk__calloc(ctx, OPTIONS, sizeof *c->got);
    if (!c->source || !c->got || rk__at_close(ctx, config_free, c)) {
        config_free(c);
        return NULL;
    }
    return c;
}

rk_config *rk_config_load(rk_ctx *ctx, const char *path, const char *const *overrides, int n_overrides)
{
    if (!ctx || rk_failed(ctx))
        return NULL;
    rk_config *c = config_new(ctx, path);
    if (c && !rk__doc_load(ctx, path, CONFIG_MAX_BYTES, RK_ECONFIG, &c->doc))
        config_fill(c, overrides, n_overrides);
    return rk_failed(ctx) ? NULL : c;
}

rk_config *rk__config_from_json(rk_ctx *ctx, const char *source, const char *json,
                                const char *const *overrides, int n_overrides)
{
    rk_config *c = config_new(ctx, source);
    if (c && !rk__json_parse(ctx, source, (const uint8_t *)json, strlen(json), RK_EDATA, &c->doc))
        config_fill(c, overrides, n_overrides);
    return rk_failed(ctx) ? NULL : c;
}

static int on_or_off(const char *text)
{
    return !strcmp(text, "on") ? 1 : !strcmp(text, "off") ? -1 : 0;
}

void rk_config_open_cfg(const rk_config *cfg, rk_open_cfg *out)
{
    static const char *const devices[] = { "cpu", "cuda" }; /* outlive cfg */
    *out = (rk_open_cfg){ 0 };
    if (!cfg)
        return;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (!strcmp(cfg->device, devices[i]))
            out->device = devices[i];
    out->graph = on_or_off(cfg->device_graph);
    out->nccl = on_or_off(cfg->device_nccl);
    out->threads = (int)cfg->parallel_threads;
    out->data_shards = (int)cfg->grid_data;
    out->seed = (uint64_t)cfg->run_seed;
    out->inexact = !cfg->parallel_exact;
}

const char *rk_config_run_dir(const rk_config *cfg)
{
    return cfg ? cfg->run_dir : NULL;
}

/* ---- what is written out ---- */

static void text_string(rk__text *t, const char *s)
{
    if (s)
        rk__text_quote(t, s);
    else
        rk__text_puts(t, "null");
}

static void option_json(rk__text *t, const rk_config *c, const option *o)
{
    const void *field = (const char *)c + o->offset;
    switch (o->kind) {
    case KIND_INT:
        rk__text_printf(t, "%lld", (long long)*(const int64_t *)field);
        break;
    case KIND_NUM:
        rk__text_double(t, *(const double *)field);
        break;
    case KIND_BOOL:
        rk__text_printf(t, *(const bool *)field ? "true" : "false");
        break;
    case KIND_STR:
        text_string(t, *(char *const *)field);
        break;
    case KIND_DOC: {
        const rk_doc *d = *(rk_doc *const *)field;
        char *json = d ? rk__doc_json(d, true, 0) : NULL;
        if (d && !json)
            t->failed = true;
        rk__text_puts(t, json ? json : "null");
        free(json);
        break;
    }
    }
}

/* The length of "optim" in "optim.lr"; 0 for a key without a group. */
static size_t group_length(const char *key)
{
    const char *dot = strchr(key, '.');
    return dot ? (size_t)(dot - key) : 0;
}

static bool same_group(const char *a, const char *b)
{
    size_t n = group_length(a);
    return n && n == group_length(b) && !memcmp(a, b, n);
}

/* Calls out(t, arg, o) for each option inside {"group": OPEN ... CLOSE}, groups as nested objects. */
static void nested(rk__text *t, const char *open, const char *close,
                   void (*out)(rk__text *, const void *, const option *), const void *arg)
{
    rk__text_printf(t, "{");
    for (int i = 0; i < OPTIONS; i++) {
        const char *key = options[i].key;
        size_t g = group_length(key);
        bool first = !i || !same_group(options[i - 1].key, key);
        rk__text_printf(t, "%s", i && (first || !g) ? "," : "");
        if (g && first)
            rk__text_printf(t, "\"%.*s\":%s{", (int)g, key, open);
        rk__text_printf(t, "%s\"%s\":", g && !first ? "," : "", g ? key + g + 1 : key);
        out(t, arg, &options[i]);
        if (g && (i + 1 == OPTIONS || !same_group(options[i + 1].key, key)))
            rk__text_printf(t, "}%s", close);
    }
    rk__text_printf(t, "}");
}

static void value_out(rk__text *t, const void *cfg, const option *o)
{
    option_json(t, cfg, o);
}

/* Compact text, sorted and indented by the document's own writer. */
static char *pretty(char *compact, bool sort, int indent)
{
    if (!compact)
        return NULL;
    rk_ctx *none = NULL;
    rk_doc *d = NULL;
    char *out = NULL;
    if (!rk__json_parse(none, "config", (const uint8_t *)compact, strlen(compact), RK_EINTERNAL, &d))
        out = rk__doc_json(d, sort, indent);
    rk__doc_free(d);
    free(compact);
    return out;
}

char *rk_config_json(const rk_config *cfg, int indent)
{
    rk__text t = { 0 };
    nested(&t, "", "", value_out, cfg);
    return pretty(rk__text_take(&t), true, indent);
}

static void schema_words(rk__text *t, const char *allowed)
{
    rk__text_printf(t, ",\"enum\":[");
    for (const char *p = allowed; p;) {
        const char *bar = strchr(p, '|');
        rk__text_printf(t, "\"%.*s\"%s", (int)(bar ? bar - p : (ptrdiff_t)strlen(p)), p, bar ? "," : "");
        p = bar ? bar + 1 : NULL;
    }
    rk__text_printf(t, "]");
}

static void schema_out(rk__text *t, const void *arg, const option *o)
{
    (void)arg;
    static const char *const types[] = { "\"integer\"", "\"number\"", "\"boolean\"", "\"string\"",
                                         "[\"object\",\"array\"]" };
    rk__text_printf(t, "{\"type\":%s,\"description\":", types[o->kind]);
    text_string(t, o->help);
    if (o->kind == KIND_INT)
        rk__text_printf(t, ",\"minimum\":%lld,\"maximum\":%lld", (long long)o->imin, (long long)o->imax);
    if (o->kind == KIND_NUM)
        rk__text_printf(t, ",\"minimum\":%.17g,\"maximum\":%.17g", o->fmin, o->fmax);
    if (o->kind == KIND_STR && o->allowed)
        schema_words(t, o->allowed);
    if (o->def_text) {
        rk__text_printf(t, ",\"default\":");
        if (o->kind == KIND_STR)
            text_string(t, o->def_text);
        else
            rk__text_printf(t, "%s", o->def_text);
    }
    rk__text_printf(t, "}");
}

char *rk_config_schema(void)
{
    rk__text t = { 0 };
    rk__text_printf(&t,
                    "{\"$schema\":\"https://json-schema.org/draft/2020-12/schema\",\"title\":\"Rankine run\","
                    "\"type\":\"object\",\"additionalProperties\":false,\"properties\":");
    nested(&t, "{\"type\":\"object\",\"additionalProperties\":false,\"properties\":", "}", schema_out, NULL);
    rk__text_printf(&t, "}");
    return pretty(rk__text_take(&t), false, 2);
}

const char *rk_config_get(const rk_config *cfg, const char *key)
{
    const option *o = cfg ? find_option(key) : NULL;
    if (!o)
        return NULL;
    if (o->kind == KIND_STR)
        return *(char *const *)((const char *)cfg + o->offset);
    char **got = &cfg->got[o - options];
    if (!*got) {
        rk__text t = { 0 };
        option_json(&t, cfg, o);
        *got = rk__text_take(&t);
    }
    return *got && strcmp(*got, "null") ? *got : NULL;
}

bool rk_config_option(int i, rk_option_info *info)
{
    if (i < 0 || i >= OPTIONS)
        return false;
    const option *o = &options[i];
    *info = (rk_option_info){ .key = o->key,
                              .type = kind_names[o->kind],
                              .def = o->def_text,
                              .allowed = o->allowed,
                              .help = o->help,
                              .change = change_names[o->change],
                              .min = o->kind == KIND_INT ? (double)o->imin : o->fmin,
                              .max = o->kind == KIND_INT ? (double)o->imax : o->fmax,
                              .has_range = o->kind == KIND_INT || o->kind == KIND_NUM };
    return true;
}

/* ---- continuing a run ---- */

static char *recorded_value(const rk_doc *doc, const option *o)
{
    const rk_doc *d = rk__doc_path(doc, o->key);
    if (!d || o->kind != KIND_NUM || (d->kind != RK_DOC_FLOAT && d->kind != RK_DOC_INT))
        return d ? rk__doc_json(d, true, 0) : NULL;
    rk__text t = { 0 };
    rk__text_double(&t, d->f); /* 100 has more than one spelling */
    return rk__text_take(&t);
}

static char *present_value(const rk_config *cfg, const option *o)
{
    rk__text t = { 0 };
    option_json(&t, cfg, o);
    return rk__text_take(&t);
}

rk_status rk__config_continue(rk_ctx *ctx, const rk_config *cfg, const char *recorded, bool allow,
                              void (*note)(void *user, const char *line), void *user)
{
    rk_doc *doc = NULL;
    RK_TRY(rk__json_parse(ctx, "recorded configuration", (const uint8_t *)recorded, strlen(recorded),
                          RK_EDATA, &doc));
    rk__text refused = { 0 };
    bool hard = false;
    for (int i = 0; i < OPTIONS; i++) {
        const option *o = &options[i];
        char *was = recorded_value(doc, o), *is = present_value(cfg, o);
        /* A recorded configuration knows every option of its time; one that is new since then does not
         * differ. */
        if (was && is && strcmp(was, is) && o->change != FREE) {
            char line[512];
            snprintf(line, sizeof line, "%s: %.200s in the run, %.200s now", o->key, was, is);
            if (o->change == ALLOW && allow)
                note(user, line);
            else
                rk__text_printf(&refused, "%s%s", refused.n ? "; " : "", line);
            hard |= o->change == REFUSE;
        }
        free(was);
        free(is);
    }
    rk__doc_free(doc);
    bool differs = refused.n > 0;
    char *list = differs ? rk__text_take(&refused) : NULL;
    if (differs)
        rk_fail(ctx, RK_ECONFIG, "the run was started with another configuration: %.700s. %s",
                list ? list : "",
                hard ? "Choose another run.dir, or --fresh to start anew" : "--allow-change accepts this");
    free(list);
    rk__text_free(&refused);
    return rk_failed(ctx);
}
