/* CSV: read once as a stream into compact rows (a 4-byte number or category code a cell), which are then read
 * at random; so the text may be larger than memory, and so may the rows. */
#include "io/ds_csv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ctx.h"
#include "io/number.h"

static rk_status bad_cell(rk_ctx *ctx, const rk__ds_csv_set *d, const rk__csv *in, int i, const char *why)
{
    return rk_fail(ctx, RK_EDATA, "%s:%lld: column %d (%.100s): %s", d->path, (long long)rk__csv_line(in),
                   i + 1, d->col[i].name, why);
}

static char *name_of_number(int i)
{
    char buf[16];
    snprintf(buf, sizeof buf, "%d", i + 1);
    return strdup(buf);
}

static rk_status check_names(rk_ctx *ctx, const rk__ds_csv_set *d)
{
    rk__vocab seen = { 0 };
    rk_status st = RK_OK;
    for (int i = 0; i < d->n_cols && st == RK_OK; i++) {
        const char *name = d->col[i].name;
        if (!*name)
            st = rk_fail(ctx, RK_EDATA, "%s:1: column %d has no name: name it or remove it, or say no_header",
                         d->path, i + 1);
        else if (rk__vocab_find(&seen, name, strlen(name)) >= 0)
            st = rk_fail(ctx, RK_EDATA, "%s:1: column %d: the name \"%.100s\" stands twice", d->path, i + 1,
                         name);
        else if (rk__vocab_add(&seen, name, strlen(name)) < 0)
            st = rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->path);
    }
    rk__vocab_free(&seen);
    return st;
}

static rk_status name_columns(rk_ctx *ctx, rk__ds_csv_set *d, const rk__csv *in, bool header)
{
    d->col = calloc((size_t)rk__csv_count(in), sizeof *d->col);
    for (int i = 0; d->col && i < rk__csv_count(in); i++) {
        d->col[i].name = header ? strdup(rk__csv_field_at(in, i).text) : name_of_number(i);
        if (!d->col[i].name)
            return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->path);
        d->n_cols = i + 1;
    }
    if (!d->col)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->path);
    return check_names(ctx, d);
}

/* ---- rows in ---- */

static bool is_missing(const char *s)
{
    static const char *const words[] = { "nan", "NaN",  "NAN",      "inf",      "-inf",
                                         "Inf", "-Inf", "Infinity", "-Infinity" };
    if (!strchr("nNiI-", s[0]))
        return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(s, words[i]))
            return true;
    return false;
}

static rk_status number_cell(rk_ctx *ctx, const rk__ds_csv_set *d, const rk__csv *in, int i, uint32_t *out)
{
    rk__csv_field f = rk__csv_field_at(in, i);
    char why[200];
    double v;
    float x;
    if (!rk__parse_double(f.text, f.n, &v)) {
        snprintf(why, sizeof why,
                 "\"%.60s\" is no number; if it is a category, list the column in data.categorical", f.text);
        return bad_cell(ctx, d, in, i, why);
    }
    x = (float)v;
    if (!isfinite(x))
        return bad_cell(ctx, d, in, i, "the number is too large");
    memcpy(out, &x, 4);
    return RK_OK;
}

static rk_status category_cell(rk_ctx *ctx, const rk__ds_csv_set *d, const rk__csv *in, int i, uint32_t *out)
{
    rk__csv_field f = rk__csv_field_at(in, i);
    rk__column *c = &d->col[i];
    char why[200];
    if (f.n > RK__CSV_CATEGORY_BYTES)
        return bad_cell(ctx, d, in, i, "more than 1024 bytes: a text, not a category");
    int32_t code = rk__vocab_find(&c->vocab, f.text, f.n);
    if (code < 0 && c->fixed) {
        snprintf(why, sizeof why, "\"%.60s\" is none of the %d values the model was trained with", f.text,
                 c->vocab.n);
        return bad_cell(ctx, d, in, i, why);
    }
    if (code < 0 && c->vocab.n == RK__CSV_CATEGORIES) {
        snprintf(why, sizeof why, "more than %d different values: neither numbers nor categories",
                 RK__CSV_CATEGORIES);
        return bad_cell(ctx, d, in, i, why);
    }
    if (code < 0 && (code = rk__vocab_add(&c->vocab, f.text, f.n)) < 0)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->path);
    *out = (uint32_t)code;
    return RK_OK;
}

static rk_status take_row(rk_ctx *ctx, rk__ds_csv_set *d, const rk__csv *in, uint32_t *row)
{
    if (rk__csv_count(in) != d->n_cols)
        return rk_fail(ctx, RK_EDATA, "%s:%lld: %d fields, but there are %d columns", d->path,
                       (long long)rk__csv_line(in), rk__csv_count(in), d->n_cols);
    for (int i = 0; i < d->n_cols; i++) {
        const rk__column *c = &d->col[i];
        if (c->slot < 0)
            continue;
        rk__csv_field f = rk__csv_field_at(in, i);
        if (!f.n)
            return bad_cell(ctx, d, in, i, "an empty cell");
        if (is_missing(f.text))
            return bad_cell(ctx, d, in, i, "not a finite number: fill or remove such rows");
        RK_TRY((c->category ? category_cell : number_cell)(ctx, d, in, i, &row[c->slot]));
    }
    d->info.samples++;
    return rk__store_put(ctx, &d->store, row, 4 * (int64_t)d->words);
}

static rk_status take_rows(rk_ctx *ctx, rk__ds_csv_set *d, const rk_data_cfg *cfg, rk__csv *in)
{
    bool more;
    RK_TRY(rk__csv_next(in, &more));
    if (!more)
        return rk_fail(ctx, RK_EDATA, "%s: an empty file; wanted rows%s", d->path,
                       cfg->no_header ? "" : " below a line that names the columns");
    RK_TRY(name_columns(ctx, d, in, !cfg->no_header));
    if (!cfg->no_header)
        RK_TRY(rk__csv_next(in, &more));
    if (!more)
        return rk_fail(ctx, RK_EDATA,
                       "%s: a header, but no rows (data.header: false if the first line is a row)", d->path);
    if (rk__csv_count(in) != d->n_cols)
        return rk_fail(ctx, RK_EDATA, "%s:%lld: %d fields, but there are %d columns", d->path,
                       (long long)rk__csv_line(in), rk__csv_count(in), d->n_cols);
    RK_TRY(rk__csv_plan(ctx, d, cfg, in));
    uint32_t *row = calloc((size_t)d->words + 1, sizeof *row);
    rk_status st = row ? RK_OK : rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->path);
    while (st == RK_OK && more) {
        st = take_row(ctx, d, in, row);
        if (st == RK_OK)
            st = rk__csv_next(in, &more);
    }
    free(row);
    return st == RK_OK ? rk__store_end(ctx, &d->store) : st;
}

static void close_csv(rk__ds *ds)
{
    rk__ds_csv_set *d = (rk__ds_csv_set *)ds;
    for (int i = 0; i < d->n_cols; i++) {
        free(d->col[i].name);
        rk__vocab_free(&d->col[i].vocab);
    }
    rk__store_close(&d->store);
    free(d->col);
    free(d->as_is);
    free(d->class_names);
    free(d->path);
    free(d);
}

static char delimiter_of(const rk_data_cfg *cfg)
{
    size_t n = strlen(cfg->path);
    bool tabs =
        (n > 4 && !strcmp(cfg->path + n - 4, ".tsv")) || (n > 7 && !strcmp(cfg->path + n - 7, ".tsv.gz"));
    return cfg->delimiter ? cfg->delimiter : tabs ? '\t' : ',';
}

static rk_status open_csv(rk_ctx *ctx, const rk_data_cfg *cfg, rk__ds **out)
{
    rk__csv *in = NULL;
    rk__task task;
    *out = NULL;
    RK_TRY(rk__task_of(ctx, cfg, &task));
    if (cfg->delimiter && strchr("\"\r\n", cfg->delimiter))
        return rk_fail(ctx, RK_ECONFIG, "data.delimiter: a quote or a line break cannot be one");
    rk__ds_csv_set *d = calloc(1, sizeof *d);
    if (!d)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", cfg->path);
    d->ds.ops = &rk__ds_csv;
    d->task = task;
    d->path = strdup(cfg->path);
    rk__store_begin(&d->store, d->path);
    rk_status st = d->path ? rk__csv_open(ctx, cfg->path, delimiter_of(cfg), &in)
                           : rk_fail(ctx, RK_ENOMEM, "%s: out of memory", cfg->path);
    if (st == RK_OK)
        st = take_rows(ctx, d, cfg, in);
    rk__csv_close(in);
    if (st == RK_OK)
        st = rk__csv_lay_out(ctx, d);
    if (st != RK_OK) {
        close_csv(&d->ds);
        return st;
    }
    *out = &d->ds;
    return RK_OK;
}

/* ---- rows out ---- */

static void expand(const rk__ds_csv_set *d, const uint32_t *row, float *x, int64_t *label, float *target)
{
    if (x)
        memset(x, 0, (size_t)d->info.groups * sizeof *x);
    for (int i = 0; i < d->n_cols; i++) {
        const rk__column *c = &d->col[i];
        if (c->slot < 0)
            continue;
        uint32_t w = row[c->slot];
        if (c->role == RK__FEATURE && x && c->category)
            x[c->at + c->vocab.rank[w]] = 1;
        else if (c->role == RK__FEATURE && x)
            memcpy(&x[c->at], &w, 4);
        else if (c->role == RK__TARGET && label && c->category)
            *label = c->vocab.rank[w];
        else if (c->role == RK__TARGET && target && !c->category)
            memcpy(&target[c->at], &w, 4);
    }
}

static rk_status read_csv(const rk__ds *ds, rk_ctx *err, const int64_t *sample, int64_t n, void *x, void *y)
{
    const rk__ds_csv_set *d = (const rk__ds_csv_set *)ds;
    const rk__ds_info *in = &d->info;
    uint32_t row[RK__CSV_FIELDS];
    for (int64_t i = 0; i < n; i++) {
        RK_TRY(rk__store_read(err, &d->store, sample[i] * 4 * d->words, row, 4 * (int64_t)d->words));
        expand(d, row, x ? (float *)x + i * in->groups : NULL, y && in->classes ? (int64_t *)y + i : NULL,
               y && in->targets ? (float *)y + i * in->targets : NULL);
    }
    return RK_OK;
}

static const rk__ds_info *info_csv(const rk__ds *ds)
{
    return &((const rk__ds_csv_set *)ds)->info;
}

const rk__ds_ops rk__ds_csv = {
    .format = "csv",
    .open = open_csv,
    .info = info_csv,
    .read = read_csv,
    .close = close_csv,
    .schema = rk__csv_schema,
};
