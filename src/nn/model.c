/* A network from a document: model: {layers: [{linear: {out: 256}}, relu, ...], replace: {fc: {linear: 10}}};
 * and the document of a network that a program has made. */
#include "nn/module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KINDS = 64 };

/* ---- arguments ---- */

static const rk_doc *scalar_arg(const rk_doc *args, const char *key)
{
    const rk_doc *d = rk__doc_get(args, key);
    return d && d->kind != RK_DOC_NULL ? d : NULL;
}

static bool in_range(rk__build *b, const rk_doc *d, const char *key, double v, double min, double max)
{
    if (v >= min && v <= max)
        return true;
    rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s: %s is out of range, wanted %g to %g", key, d->text, min, max);
    return false;
}

int64_t rk__arg_int(rk__build *b, const rk_doc *args, const char *key, int64_t def, int64_t min, int64_t max)
{
    const rk_doc *d = scalar_arg(args, key);
    if (!d || rk_failed(b->ctx))
        return def;
    if (d->kind != RK_DOC_INT) {
        rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s: wanted a whole number", key);
        return def;
    }
    return in_range(b, d, key, (double)d->i, (double)min, (double)max) ? d->i : def;
}

double rk__arg_num(rk__build *b, const rk_doc *args, const char *key, double def, double min, double max)
{
    const rk_doc *d = scalar_arg(args, key);
    if (!d || rk_failed(b->ctx))
        return def;
    if (d->kind != RK_DOC_INT && d->kind != RK_DOC_FLOAT) {
        rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s: wanted a number", key);
        return def;
    }
    return in_range(b, d, key, d->f, min, max) ? d->f : def;
}

bool rk__arg_bool(rk__build *b, const rk_doc *args, const char *key, bool def)
{
    const rk_doc *d = scalar_arg(args, key);
    if (!d || rk_failed(b->ctx))
        return def;
    if (d->kind != RK_DOC_BOOL) {
        rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s: wanted true or false", key);
        return def;
    }
    return d->i != 0;
}

static bool one_of(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = words; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (!strncmp(p, word, n) && (p[n] == '|' || !p[n]))
            return true;
    return false;
}

const char *rk__arg_str(rk__build *b, const rk_doc *args, const char *key, const char *def,
                        const char *allowed)
{
    const rk_doc *d = scalar_arg(args, key);
    if (!d || rk_failed(b->ctx))
        return def;
    if (d->kind == RK_DOC_LIST || d->kind == RK_DOC_MAP || (allowed && !one_of(allowed, d->text))) {
        rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s: wanted %s", key, allowed ? allowed : "a word");
        return def;
    }
    return d->text;
}

void rk__arg_pair(rk__build *b, const rk_doc *args, const char *key, int def, int min, int max, int out[2])
{
    const rk_doc *d = scalar_arg(args, key);
    out[0] = out[1] = def;
    if (!d || rk_failed(b->ctx))
        return;
    const rk_doc *h = d, *w = d;
    if (d->kind == RK_DOC_LIST && d->n == 2) {
        h = d->child;
        w = h->next;
    }
    if (h->kind != RK_DOC_INT || w->kind != RK_DOC_INT) {
        rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s: wanted a whole number or [height, width]", key);
        return;
    }
    if (in_range(b, h, key, (double)h->i, min, max) && in_range(b, w, key, (double)w->i, min, max)) {
        out[0] = (int)h->i;
        out[1] = (int)w->i;
    }
}

/* init: orthogonal, or init: {kind: normal, scale: 0.02} */
rk__init rk__arg_init(rk__build *b, const rk_doc *args)
{
    const rk_doc *d = scalar_arg(args, "init");
    rk__init init = { 0 };
    if (!d || rk_failed(b->ctx))
        return init;
    if (d->kind == RK_DOC_MAP) {
        init.kind = rk__arg_str(b, d, "kind", NULL, NULL);
        init.scale = rk__arg_num(b, d, "scale", 0, 0, 1e6);
        for (const rk_doc *c = d->child; c; c = c->next)
            if (strcmp(c->key, "kind") && strcmp(c->key, "scale"))
                rk__doc_fail(b->ctx, RK_ECONFIG, c, "unknown key %s in init, wanted kind or scale", c->key);
    } else {
        init.kind = rk__arg_str(b, args, "init", NULL, NULL);
    }
    if (!rk_failed(b->ctx) && init.kind && !rk__init_known(init.kind))
        rk__doc_fail(b->ctx, RK_ECONFIG, d,
                     "init: %s, wanted default, kaiming_uniform, kaiming_normal, xavier_uniform, "
                     "xavier_normal, normal, "
                     "truncated_normal, orthogonal, zeros or ones",
                     init.kind);
    return init;
}

/* ---- layers ---- */

static const rk__layer_kind *find_kind(const char *name)
{
    for (int i = 0; rk__layer_kinds[i]; i++)
        if (!strcmp(rk__layer_kinds[i]->name, name))
            return rk__layer_kinds[i];
    const rk__activation *a = rk__activation_find(name);
    return a ? &a->kind : NULL;
}

static rk_status unknown_kind(rk__build *b, const rk_doc *at, const char *name)
{
    const char *names[MAX_KINDS];
    int n = 0;
    for (int i = 0; rk__layer_kinds[i]; i++)
        names[n++] = rk__layer_kinds[i]->name;
    for (int i = 0; i < rk__n_activations; i++)
        names[n++] = rk__activations[i].name;
    const char *near = rk__nearest(name, names, n);
    return rk__doc_fail(b->ctx, RK_ECONFIG, at, "unknown layer %s%s%s%s", name, near ? "; did you mean " : "",
                        near ? near : "", near ? "?" : "");
}

/* Every key of a layer must be one of its kind, or name. */
static rk_status check_args(rk__build *b, const rk__layer_kind *kind, const rk_doc *args)
{
    for (const rk_doc *d = args->child; d; d = d->next) {
        if (!strcmp(d->key, "name") || one_of(kind->keys, d->key))
            continue;
        char words[256];
        const char *names[32] = { "name" };
        int n = 1;
        snprintf(words, sizeof words, "%s", kind->keys);
        for (char *p = words, *save; n < 32 && (p = strtok_r(p, "|", &save)); p = NULL)
            names[n++] = p;
        const char *near = rk__nearest(d->key, names, n);
        if (near)
            return rk__doc_fail(b->ctx, RK_ECONFIG, d, "unknown key %s in %s; did you mean %s?", d->key,
                                kind->name, near);
        return rk__doc_fail(b->ctx, RK_ECONFIG, d, "unknown key %s in %s, wanted name%s%s", d->key,
                            kind->name, *kind->keys ? "|" : "", kind->keys);
    }
    return RK_OK;
}

/* prefix1, prefix2, ... by how many of the kind the parent has. */
static void auto_name(const rk_module *parent, const rk__layer_kind *kind, char *out, size_t size)
{
    int n = 1;
    for (const rk_module *c = parent->first; c; c = c->next)
        n += c->kind == kind;
    snprintf(out, size, "%s%d", kind->prefix ? kind->prefix : kind->name, n);
}

/* A layer as written: its kind, and its arguments as a map, which may be our own around a single value. */
typedef struct {
    const rk__layer_kind *kind;
    const rk_doc *args;
    rk_doc map, member;
} layer_parts;

/* "linear", {linear: 10} and {linear: {out: 10}} are the same thing said in three ways. */
static rk_status take_apart(rk__build *b, const rk_doc *d, layer_parts *l)
{
    const rk_doc *value = NULL;
    const char *name = d->text;
    if (d->kind == RK_DOC_MAP && d->n == 1) {
        value = d->child;
        name = value->key;
    } else if (d->kind != RK_DOC_STRING) {
        return rk__doc_fail(b->ctx, RK_ECONFIG, d,
                            "a layer is a word (relu) or one key with its arguments ({linear: {out: 256}})");
    }
    l->kind = find_kind(name);
    if (!l->kind)
        return unknown_kind(b, d, name);
    l->map = (rk_doc){ .kind = RK_DOC_MAP, .file = d->file, .line = d->line, .column = d->column };
    l->args = &l->map;
    if (!value || value->kind == RK_DOC_NULL) {
        if (l->kind->bare)
            return RK_OK;
        return rk__doc_fail(b->ctx, RK_ECONFIG, d, "%s needs arguments: %s", name, l->kind->keys);
    }
    if (value->kind == RK_DOC_MAP) {
        l->args = value;
        return check_args(b, l->kind, value);
    }
    if (!l->kind->scalar)
        return rk__doc_fail(b->ctx, RK_ECONFIG, value, "%s takes keys: name|%s", name, l->kind->keys);
    l->member = *value;
    l->member.key = (char *)l->kind->scalar;
    l->member.next = NULL;
    l->map.child = &l->member;
    l->map.n = 1;
    return RK_OK;
}

/* A shape that does not fit is told with the place of the layer in the file. */
static rk_status place_failure(rk__build *b, const rk_doc *at)
{
    rk_ctx *ctx = b->ctx;
    if (!at->file || strncmp(ctx->message, "layer ", 6))
        return rk_failed(ctx);
    char old[sizeof ctx->message];
    rk_status st = rk_failed(ctx);
    memcpy(old, ctx->message, sizeof old);
    rk_error_clear(ctx);
    return rk__doc_fail(ctx, st, at, "%.900s", old);
}

static const rk_doc *replacement(const rk__build *b, const rk_module *parent, const char *name)
{
    char full[1024];
    snprintf(full, sizeof full, "%s%s%s", parent->full, *parent->full ? "." : "", name);
    return b->replace ? rk__doc_get(b->replace, full) : NULL;
}

static rk_status build_layer(rk__build *b, rk_module *parent, const rk_doc *d)
{
    layer_parts l, other;
    const layer_parts *use = &l;
    char name[128];
    RK_TRY(take_apart(b, d, &l));
    auto_name(parent, l.kind, name, sizeof name);
    const rk_doc *given = rk__doc_get(l.args, "name");
    if (given)
        snprintf(name, sizeof name, "%s", rk__arg_str(b, l.args, "name", name, NULL));
    const rk_doc *instead = l.kind == &rk__kind_repeat ? NULL : replacement(b, parent, name);
    if (instead) {
        RK_TRY(take_apart(b, instead, &other));
        use = &other;
    }
    RK_TRY(rk_failed(b->ctx));
    rk_module *m = use->kind->build(b, parent, name, use->args);
    if (m && !rk_failed(b->ctx)) {
        rk_shape out;
        if (!rk__infer(m, &b->shape, &out))
            b->shape = out;
    }
    return rk_failed(b->ctx) ? place_failure(b, instead ? instead : d) : RK_OK;
}

rk_status rk__build_list(rk__build *b, rk_module *parent, const rk_doc *layers)
{
    if (layers->kind != RK_DOC_LIST)
        return rk__doc_fail(b->ctx, RK_ECONFIG, layers, "wanted a list of layers");
    for (const rk_doc *d = layers->child; d; d = d->next)
        RK_TRY(build_layer(b, parent, d));
    return RK_OK;
}

static rk_module *find_module(rk_module *m, const char *full)
{
    if (!strcmp(m->full, full))
        return m;
    for (rk_module *c = m->first; c; c = c->next) {
        rk_module *hit = find_module(c, full);
        if (hit)
            return hit;
    }
    return NULL;
}

rk_module *rk__model_build(rk_ctx *ctx, const rk__model_spec *spec, rk_shape *out)
{
    rk__build b = { .ctx = ctx, .shape = spec->input, .outputs = spec->outputs, .replace = spec->replace };
    rk_module *root = rk_root(ctx, "model");
    if (root)
        root->parked = spec->parked;
    if (!root || rk__build_list(&b, root, spec->layers))
        return NULL;
    if (!root->first) {
        rk__doc_fail(ctx, RK_ECONFIG, spec->layers, "the model has no layers");
        return NULL;
    }
    for (const rk_doc *d = spec->replace ? spec->replace->child : NULL; d; d = d->next)
        if (!find_module(root, d->key)) {
            rk__doc_fail(ctx, RK_ECONFIG, d, "model.replace: there is no layer %s", d->key);
            return NULL;
        }
    *out = b.shape;
    return root;
}

/* ---- the way back ---- */

void rk__describe_pair(rk__text *t, const char *key, const int v[2])
{
    rk__text_printf(t, ",\"%s\":[%d,%d]", key, v[0], v[1]);
}

static const char *own_name(const rk_module *m)
{
    const char *dot = strrchr(m->full, '.');
    return dot ? dot + 1 : m->full;
}

void rk__describe_layers(const rk_module *m, rk__text *t)
{
    rk__text_puts(t, "[");
    for (const rk_module *c = m->first; c; c = c->next) {
        rk__text_puts(t, c == m->first ? "{" : ",{");
        rk__text_quote(t, c->kind->name);
        rk__text_puts(t, ":{\"name\":");
        rk__text_quote(t, own_name(c));
        if (c->kind->describe)
            c->kind->describe(c, t);
        rk__text_puts(t, "}}");
    }
    rk__text_puts(t, "]");
}

/* Modules may hang where no forward pass looks: a document cannot say that. */
static bool well_formed(const rk_module *m)
{
    bool residual = m->kind == &rk__kind_residual;
    if (m->first && !residual && m->kind != &rk__kind_sequence)
        return false;
    if (residual && m->first->next != m->last)
        return false;
    for (const rk_module *c = m->first; c; c = c->next)
        if (!well_formed(c))
            return false;
    return true;
}

const char *rk__model_describe(const rk_module *root, rk__text *t)
{
    if (root->run_in_parts && !root->run_whole)
        return "the program runs its layers one by one instead of the network as a whole";
    if (!well_formed(root))
        return "it has layers inside of layers that hold none";
    rk__describe_layers(root, t);
    return NULL;
}
