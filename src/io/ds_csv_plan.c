/* Which column is what: names, roles, kinds, categories; from the configuration, a schema, or the first row.
 */
#include "io/ds_csv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ctx.h"
#include "io/doc.h"
#include "io/number.h"

static rk_status no_memory(rk_ctx *ctx, const rk__ds_csv_set *d)
{
    return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->path);
}

/* A column by name, or by its number from 1. -1: none. */
static int find_column(const rk__ds_csv_set *d, const char *name, size_t n)
{
    int64_t number;
    for (int i = 0; i < d->n_cols; i++)
        if (strlen(d->col[i].name) == n && !memcmp(d->col[i].name, name, n))
            return i;
    if (rk__parse_int(name, n, &number) && number >= 1 && number <= d->n_cols)
        return (int)number - 1;
    return -1;
}

static rk_status unknown_column(rk_ctx *ctx, const rk__ds_csv_set *d, const char *key, const char *name,
                                size_t n)
{
    char word[128];
    const char **names = calloc((size_t)d->n_cols, sizeof *names);
    if (!names)
        return no_memory(ctx, d);
    for (int i = 0; i < d->n_cols; i++)
        names[i] = d->col[i].name;
    snprintf(word, sizeof word, "%.*s", (int)(n < 127 ? n : 127), name);
    const char *near = rk__nearest(word, names, d->n_cols);
    rk_status st =
        rk_fail(ctx, RK_ECONFIG, "%s: \"%s\" is no column of %s (%d columns%s%s%s)", key, word, d->path,
                d->n_cols, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    free(names);
    return st;
}

/* Calls for each column of a comma-separated list. */
static rk_status each_column(rk_ctx *ctx, rk__ds_csv_set *d, const char *key, const char *list,
                             void (*mark)(rk__column *))
{
    for (const char *p = list; p && *p;) {
        size_t n = strcspn(p, ",");
        int i = find_column(d, p, n);
        if (i < 0)
            return unknown_column(ctx, d, key, p, n);
        mark(&d->col[i]);
        p += n + (p[n] == ',');
    }
    return RK_OK;
}

static void mark_target(rk__column *c)
{
    c->role = RK__TARGET;
}

static void mark_category(rk__column *c)
{
    c->category = c->decided = true;
}

/* ---- from a schema ---- */

static rk_status bad_schema(rk_ctx *ctx, const char *why)
{
    return rk_fail(ctx, RK_EDATA, "data.schema: %s", why);
}

static rk_status fix_vocab(rk_ctx *ctx, const rk__ds_csv_set *d, rk__column *c, const rk_doc *values)
{
    if (!values || values->kind != RK_DOC_LIST)
        return bad_schema(ctx, "a category without its values");
    for (const rk_doc *v = values->child; v; v = v->next) {
        if (v->kind != RK_DOC_STRING)
            return bad_schema(ctx, "a value that is no text");
        if (rk__vocab_add(&c->vocab, v->text, strlen(v->text)) < 0)
            return no_memory(ctx, d);
    }
    c->category = c->decided = c->fixed = true;
    return RK_OK;
}

static rk_status column_from(rk_ctx *ctx, rk__ds_csv_set *d, const rk_doc *s, rk__column_role role)
{
    const rk_doc *name = rk__doc_get(s, "name"), *values = rk__doc_get(s, "values");
    if (!name || name->kind != RK_DOC_STRING)
        return bad_schema(ctx, "a column without a name");
    int i = find_column(d, name->text, strlen(name->text));
    if (i < 0)
        return role == RK__TARGET
                   ? RK_OK
                   : rk_fail(ctx, RK_EDATA, "%s: has no column \"%s\", which the model was trained with",
                             d->path, name->text);
    rk__column *c = &d->col[i];
    if (c->role != RK__SKIPPED)
        return bad_schema(ctx, "a column stands twice");
    c->role = role;
    c->decided = true;
    return values ? fix_vocab(ctx, d, c, values) : RK_OK;
}

/* Columns are matched by name, so their order may differ and further ones are left out. */
static rk_status plan_from_schema(rk_ctx *ctx, rk__ds_csv_set *d, const rk_data_cfg *cfg, const rk_doc *root)
{
    const rk_doc *columns = rk__doc_get(root, "columns"), *targets = rk__doc_get(root, "targets");
    if (!columns || columns->kind != RK_DOC_LIST || !targets || targets->kind != RK_DOC_LIST)
        return bad_schema(ctx, "columns or targets are missing");
    for (int i = 0; i < d->n_cols; i++)
        d->col[i].role = RK__SKIPPED;
    for (const rk_doc *s = columns->child; s; s = s->next)
        RK_TRY(column_from(ctx, d, s, RK__FEATURE));
    bool wants_y = !cfg->no_labels && d->task != RK__RECONSTRUCTION;
    for (const rk_doc *s = targets->child; wants_y && s; s = s->next) {
        const rk_doc *name = rk__doc_get(s, "name");
        RK_TRY(column_from(ctx, d, s, RK__TARGET));
        if (find_column(d, name->text, strlen(name->text)) < 0)
            return rk_fail(ctx, RK_EDATA, "%s: has no column \"%s\", the target", d->path, name->text);
    }
    return RK_OK;
}

/* x of a row is in the order of the schema, whatever the file's: the order of the columns' places follows it.
 */
static void order_by_schema(rk__ds_csv_set *d, const rk_doc *root)
{
    int64_t at = 0;
    for (const rk_doc *s = rk__doc_get(root, "columns")->child; s; s = s->next) {
        const char *name = rk__doc_get(s, "name")->text;
        rk__column *c = &d->col[find_column(d, name, strlen(name))];
        c->at = at;
        at += c->category ? c->vocab.n : 1;
    }
    at = 0;
    for (const rk_doc *s = rk__doc_get(root, "targets")->child; s; s = s->next, at++) {
        const char *name = rk__doc_get(s, "name")->text;
        int i = find_column(d, name, strlen(name));
        if (i >= 0)
            d->col[i].at = at;
    }
}

/* ---- from the configuration and the first row ---- */

static rk_status plan_from_cfg(rk_ctx *ctx, rk__ds_csv_set *d, const rk_data_cfg *cfg)
{
    bool wants_y = !cfg->no_labels && d->task != RK__RECONSTRUCTION;
    if (cfg->label_column)
        RK_TRY(each_column(ctx, d, "data.label_column", cfg->label_column, mark_target));
    else if (wants_y)
        d->col[d->n_cols - 1].role = RK__TARGET;
    RK_TRY(each_column(ctx, d, "data.categorical", cfg->categorical, mark_category));
    int features = 0, targets = 0;
    for (int i = 0; i < d->n_cols; i++) {
        rk__column *c = &d->col[i];
        features += c->role == RK__FEATURE;
        targets += c->role == RK__TARGET;
        if (c->role != RK__TARGET)
            continue;
        c->decided = true;
        c->category = d->task == RK__CLASSIFICATION;
        if (!wants_y)
            c->role = RK__SKIPPED;
    }
    if (!features)
        return rk_fail(ctx, RK_EDATA, "%s: no column is left for x", d->path);
    if (wants_y && d->task == RK__CLASSIFICATION && targets != 1)
        return rk_fail(ctx, RK_ECONFIG, "data.label_column: classification takes one column, not %d",
                       targets);
    return RK_OK;
}

/* A column is numbers if its first cell is one. */
static void decide_kinds(rk__ds_csv_set *d, const rk__csv *first)
{
    for (int i = 0; i < d->n_cols; i++) {
        rk__column *c = &d->col[i];
        rk__csv_field f = rk__csv_field_at(first, i);
        double v;
        if (!c->decided)
            c->category = !rk__parse_double(f.text, f.n, &v);
        c->decided = true;
    }
}

rk_status rk__csv_plan(rk_ctx *ctx, rk__ds_csv_set *d, const rk_data_cfg *cfg, const rk__csv *first)
{
    rk_doc *schema = NULL;
    int words = 0;
    rk_status st = RK_OK;
    if (cfg->schema)
        st = rk__json_parse(ctx, "data.schema", (const uint8_t *)cfg->schema, strlen(cfg->schema), RK_EDATA,
                            &schema);
    if (st == RK_OK)
        st = schema ? plan_from_schema(ctx, d, cfg, schema) : plan_from_cfg(ctx, d, cfg);
    if (st == RK_OK) {
        decide_kinds(d, first);
        for (int i = 0; i < d->n_cols; i++) {
            d->col[i].slot = d->col[i].role == RK__SKIPPED ? -1 : words++;
            d->col[i].at = -1;
        }
        d->words = words;
        if (schema)
            order_by_schema(d, schema);
    }
    rk__doc_free(schema);
    return st;
}

/* ---- after the last row ---- */

static rk_status lay_out_features(rk_ctx *ctx, rk__ds_csv_set *d)
{
    int64_t width = 0, at = 0;
    for (int i = 0; i < d->n_cols; i++) {
        rk__column *c = &d->col[i];
        if (c->role == RK__FEATURE)
            width += c->category ? c->vocab.n : 1;
    }
    d->as_is = calloc((size_t)width + 1, sizeof *d->as_is);
    if (!d->as_is)
        return no_memory(ctx, d);
    for (int i = 0; i < d->n_cols; i++) {
        rk__column *c = &d->col[i];
        if (c->role != RK__FEATURE)
            continue;
        if (c->at < 0)
            c->at = at;
        int64_t n = c->category ? c->vocab.n : 1;
        at += n;
        for (int64_t k = 0; c->category && k < n; k++)
            d->as_is[c->at + k] = true;
    }
    d->info.shape = RK_SHAPE(width);
    d->info.groups = width;
    d->info.inner = 1;
    d->info.as_is = d->as_is;
    return RK_OK;
}

static rk_status lay_out_targets(rk_ctx *ctx, rk__ds_csv_set *d)
{
    for (int i = 0; i < d->n_cols; i++) {
        rk__column *c = &d->col[i];
        if (c->role != RK__TARGET)
            continue;
        if (!c->category) {
            c->at = c->at < 0 ? d->info.targets : c->at;
            d->info.targets++;
            continue;
        }
        c->at = 0;
        d->class_names = calloc((size_t)c->vocab.n + 1, sizeof *d->class_names);
        if (!d->class_names)
            return no_memory(ctx, d);
        for (int32_t k = 0; k < c->vocab.n; k++)
            d->class_names[c->vocab.rank[k]] = c->vocab.text[k];
        d->info.classes = c->vocab.n;
        d->info.class_names = d->class_names;
    }
    return RK_OK;
}

rk_status rk__csv_lay_out(rk_ctx *ctx, rk__ds_csv_set *d)
{
    for (int i = 0; i < d->n_cols; i++)
        if (d->col[i].category && !rk__vocab_sort(&d->col[i].vocab))
            return no_memory(ctx, d);
    RK_TRY(lay_out_features(ctx, d));
    return lay_out_targets(ctx, d);
}

/* ---- the schema ---- */

static void put_column(rk__text *t, const rk__column *c)
{
    rk__text_puts(t, "{\"name\":");
    rk__text_quote(t, c->name);
    if (c->category) {
        const char **sorted = calloc((size_t)c->vocab.n + 1, sizeof *sorted);
        if (!sorted) {
            t->failed = true;
            return;
        }
        for (int32_t k = 0; k < c->vocab.n; k++)
            sorted[c->vocab.rank[k]] = c->vocab.text[k];
        rk__text_puts(t, ",\"values\":[");
        for (int32_t k = 0; k < c->vocab.n; k++) {
            rk__text_puts(t, k ? "," : "");
            rk__text_quote(t, sorted[k]);
        }
        rk__text_puts(t, "]");
        free(sorted);
    }
    rk__text_puts(t, "}");
}

static void put_columns(const rk__ds_csv_set *d, rk__text *t, rk__column_role role)
{
    bool first = true;
    int64_t done = -1; /* features go by their place in x */
    for (;;) {
        const rk__column *next = NULL;
        for (int i = 0; i < d->n_cols; i++)
            if (d->col[i].role == role && d->col[i].at > done && (!next || d->col[i].at < next->at))
                next = &d->col[i];
        if (!next)
            break;
        rk__text_puts(t, first ? "" : ",");
        first = false;
        put_column(t, next);
        done = next->at;
    }
}

void rk__csv_schema(const rk__ds *ds, rk__text *t)
{
    const rk__ds_csv_set *d = (const rk__ds_csv_set *)ds;
    rk__text_puts(t, "\"columns\":[");
    put_columns(d, t, RK__FEATURE);
    rk__text_puts(t, "],\"targets\":[");
    put_columns(d, t, RK__TARGET);
    rk__text_puts(t, "]");
}
