#include "ckpt/manifest.h"

#include "ckpt/hash.h"
#include "core/ctx.h"
#include "io/doc.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char *const kinds[] = {
    [RK_STATE_PARAM] = "param", [RK_STATE_BUFFER] = "buffer", [RK_STATE_OPTIM] = "optim",
    [RK_STATE_EMA] = "ema",     [RK_STATE_CURSOR] = "cursor",
};

/* The line that closes a manifest: this, 32 hex digits, quote, brace, newline. */
#define SUM_LINE "\"xxh3_128\": \""
enum { SUM_LINE_BYTES = sizeof SUM_LINE - 1 + 32 + 3 };

const char *rk__kind_name(rk_state_kind k)
{
    return kinds[k];
}

int rk__dtype_of(const char *name)
{
    for (int t = 0; t < RK_DTYPES; t++)
        if (!strcmp(rk_dtype_name((rk_dtype)t), name))
            return t;
    return -1;
}

bool rk__file_name_ok(const char *name)
{
    if (!*name || *name == '.' || strlen(name) > 64)
        return false;
    for (const char *p = name; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || *p == '.' ||
              *p == '_' || *p == '-'))
            return false;
    return true;
}

size_t rk__m_tensor_bytes(const rk__m_tensor *t)
{
    size_t n = rk_dtype_size(t->dtype);
    for (int i = 0; i < t->shape.ndim; i++)
        n *= (size_t)t->shape.dim[i]; /* checked when it was parsed, or made from a live tensor */
    return n;
}

static int tensor_by_name(const void *name, const void *t)
{
    return strcmp(name, ((const rk__m_tensor *)t)->name);
}

rk__m_tensor *rk__m_find(const rk__manifest *m, const char *name)
{
    if (!m->n_tensors)
        return NULL;
    return bsearch(name, m->tensors, (size_t)m->n_tensors, sizeof *m->tensors, tensor_by_name);
}

void rk__manifest_free(rk__manifest *m)
{
    for (int i = 0; i < m->n_files; i++) {
        free(m->files[i].name);
        free(m->files[i].chunk_sum);
    }
    for (int i = 0; i < m->n_tensors; i++) {
        for (int k = 0; k < m->tensors[i].n_pieces; k++)
            free(m->tensors[i].pieces[k].data_set);
        free(m->tensors[i].pieces);
        free(m->tensors[i].name);
    }
    for (int i = 0; i < m->n_cursors; i++)
        free(m->cursors[i].name);
    free(m->files);
    free(m->tensors);
    free(m->cursors);
    free(m->version);
    free(m->config_json);
    free(m->extra_json);
    *m = (rk__manifest){ 0 };
}

void rk__manifest_sum(const uint8_t *p, size_t n, char *hex33)
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(p, n));
    rk__hex(c.digest, sizeof c.digest, hex33);
}

/* ---- writing ---- */

typedef struct text {
    char *p;
    size_t n, cap;
    bool failed;
} text;

static void put(text *t, const char *fmt, ...) RK_PRINTF(2, 3);

static bool room(text *t, size_t more)
{
    if (t->failed || t->cap - t->n > more)
        return !t->failed;
    size_t cap = 2 * t->cap + more + 4096;
    char *p = realloc(t->p, cap);
    t->failed = !p;
    if (p) {
        t->p = p;
        t->cap = cap;
    }
    return p != NULL;
}

static void put(text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !room(t, (size_t)n))
        return;
    va_start(ap, fmt);
    vsnprintf(t->p + t->n, (size_t)n + 1, fmt, ap);
    va_end(ap);
    t->n += (size_t)n;
}

static void put_string(text *t, const char *s)
{
    if (!s) {
        put(t, "null");
        return;
    }
    if (!room(t, 6 * strlen(s) + 2))
        return;
    t->p[t->n++] = '"';
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            t->p[t->n++] = '\\';
            t->p[t->n++] = (char)c;
        } else if (c < 0x20) {
            t->n += (size_t)snprintf(t->p + t->n, 7, "\\u%04x", c);
        } else {
            t->p[t->n++] = (char)c;
        }
    }
    t->p[t->n++] = '"';
}

static void put_dims(text *t, const char *key, int n, const int64_t *v)
{
    put(t, "\"%s\": [", key);
    for (int i = 0; i < n; i++)
        put(t, "%s%" PRId64, i ? ", " : "", v[i]);
    put(t, "]");
}

static void put_file(text *t, const rk__m_file *f)
{
    put(t, "{\"name\": \"%s\", \"size\": %" PRIu64 ", \"xxh3_128\": \"%s\",\n   \"xxh3_64\": [", f->name,
        f->size, f->sum);
    for (int64_t i = 0; i < f->n_chunks; i++)
        put(t, "%s\"%016" PRIx64 "\"", i ? i % 5 ? ", " : ",\n    " : "", f->chunk_sum[i]);
    put(t, "]}");
}

static void put_tensor(text *t, const rk__m_tensor *e)
{
    put(t, "{\"name\": \"%s\", \"kind\": \"%s\", \"dtype\": \"%s\", ", e->name, kinds[e->kind],
        rk_dtype_name(e->dtype));
    put_dims(t, "shape", e->shape.ndim, e->shape.dim);
    put(t, ", \"pieces\": [");
    for (int i = 0; i < e->n_pieces; i++) {
        const rk__m_piece *p = &e->pieces[i];
        put(t, "%s{\"file\": %d, \"data_set\": \"%s\", ", i ? ", " : "", p->file, p->data_set);
        put_dims(t, "offset", e->shape.ndim, p->lo);
        put(t, ", ");
        put_dims(t, "extent", e->shape.ndim, p->extent.dim);
        put(t, "}");
    }
    put(t, "]}");
}

char *rk__manifest_text(const rk__manifest *m, size_t *n)
{
    text t = { 0 };
    char sum[65] = "";
    if (m->config_json && !rk__sha256_text(m->config_json, sum))
        return NULL;
    put(&t, "{\"schema\": %d,\n\"rankine\": ", RK__SCHEMA);
    put_string(&t, m->version);
    put(&t, ",\n\"step\": %" PRId64 ",\n\"epoch\": %" PRIu64 ",\n\"best\": %s,\n", m->step, m->epoch,
        m->best ? "true" : "false");
    put(&t, "\"layout\": {\"ranks\": %d},\n\"grid\": {\"data\": %d, \"tensor\": %d},\n", m->ranks,
        m->grid_data, m->grid_tensor);
    put(&t, "\"sum_bytes\": %d,\n\"files\": [", RK__SUM_BYTES);
    for (int i = 0; i < m->n_files; i++) {
        put(&t, "%s\n  ", i ? "," : "");
        put_file(&t, &m->files[i]);
    }
    put(&t, "],\n\"tensors\": [");
    for (int i = 0; i < m->n_tensors; i++) {
        put(&t, "%s\n  ", i ? "," : "");
        put_tensor(&t, &m->tensors[i]);
    }
    put(&t, "],\n\"cursors\": {");
    for (int i = 0; i < m->n_cursors; i++)
        put(&t, "%s\"%s\": %" PRId64, i ? ", " : "", m->cursors[i].name, m->cursors[i].value);
    put(&t, "},\n\"config_sha256\": \"%s\",\n\"config\": ", sum);
    put_string(&t, m->config_json);
    put(&t, ",\n\"extra\": ");
    put_string(&t, m->extra_json);
    put(&t, ",\n");
    if (t.failed) {
        free(t.p);
        return NULL;
    }
    char hex[33];
    rk__manifest_sum((const uint8_t *)t.p, t.n, hex);
    put(&t, SUM_LINE "%s\"}\n", hex);
    if (t.failed) {
        free(t.p);
        return NULL;
    }
    *n = t.n;
    return t.p;
}

/* ---- reading ---- */

typedef struct reader {
    rk_ctx *ctx;
    const char *file;
    rk__manifest *m;
    rk__fault *f;
} reader;

static rk_status bad(const reader *r, const rk_doc *at, const char *what)
{
    return rk__fault_set(r->f, RK_EDATA, "%s:%d:%d: %s", r->file, at ? at->line : 1, at ? at->column : 1,
                         what);
}

static rk_status no_memory(const reader *r)
{
    return rk__fault_set(r->f, RK_ENOMEM, "%s: no memory for its tables", r->file);
}

static rk_status need(const reader *r, const rk_doc *map, const char *key, rk_doc_kind kind,
                      const rk_doc **out)
{
    const rk_doc *d = rk__doc_get(map, key);
    *out = d;
    if (d && d->kind == kind)
        return RK_OK;
    char what[96];
    snprintf(what, sizeof what, "\"%s\" is missing or of the wrong type", key);
    return bad(r, d ? d : map, what);
}

static rk_status need_int(const reader *r, const rk_doc *map, const char *key, int64_t lo, int64_t hi,
                          int64_t *out)
{
    const rk_doc *d;
    RK_TRY(need(r, map, key, RK_DOC_INT, &d));
    *out = d->i;
    return d->i < lo || d->i > hi ? bad(r, d, "number out of range") : RK_OK;
}

static rk_status copy(const reader *r, const rk_doc *d, char **out)
{
    *out = strdup(d->text);
    return *out ? RK_OK : no_memory(r);
}

/* A string or null. */
static rk_status optional_text(const reader *r, const rk_doc *root, const char *key, char **out)
{
    const rk_doc *d = rk__doc_get(root, key);
    if (!d || (d->kind != RK_DOC_NULL && d->kind != RK_DOC_STRING))
        return bad(r, d ? d : root, "a string or null is expected");
    return d->kind == RK_DOC_STRING ? copy(r, d, out) : RK_OK;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool is_hex(const char *s, size_t n)
{
    if (strlen(s) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (hex_digit(s[i]) < 0)
            return false;
    return true;
}

static rk_status read_sums(const reader *r, const rk_doc *list, rk__m_file *f)
{
    int64_t want = (int64_t)(f->size / RK__SUM_BYTES + (f->size % RK__SUM_BYTES != 0));
    if (list->n != want)
        return bad(r, list, "the number of sums does not fit the size");
    f->chunk_sum = calloc((size_t)want + 1, sizeof *f->chunk_sum);
    if (!f->chunk_sum)
        return no_memory(r);
    for (const rk_doc *d = list->child; d; d = d->next) {
        if (d->kind != RK_DOC_STRING || !is_hex(d->text, 16))
            return bad(r, d, "a sum of 16 hex digits is expected");
        uint64_t v = 0;
        for (int i = 0; i < 16; i++)
            v = v << 4 | (uint64_t)hex_digit(d->text[i]);
        f->chunk_sum[f->n_chunks++] = v;
    }
    return RK_OK;
}

static rk_status read_file(const reader *r, const rk_doc *d, rk__m_file *f)
{
    const rk_doc *name, *sum, *sums;
    int64_t size;
    RK_TRY(need(r, d, "name", RK_DOC_STRING, &name));
    RK_TRY(need(r, d, "xxh3_128", RK_DOC_STRING, &sum));
    RK_TRY(need(r, d, "xxh3_64", RK_DOC_LIST, &sums));
    RK_TRY(need_int(r, d, "size", 1, (int64_t)1 << 50, &size));
    if (!rk__file_name_ok(name->text))
        return bad(r, name, "not a name for a file");
    for (const rk__m_file *g = r->m->files; g < f; g++)
        if (!strcmp(g->name, name->text))
            return bad(r, name, "file listed twice");
    if (!is_hex(sum->text, 32))
        return bad(r, sum, "a sum of 32 hex digits is expected");
    f->size = (uint64_t)size;
    memcpy(f->sum, sum->text, 33);
    RK_TRY(copy(r, name, &f->name));
    return read_sums(r, sums, f);
}

static rk_status read_dims(const reader *r, const rk_doc *map, const char *key, int64_t lo, rk_shape *s)
{
    const rk_doc *list;
    RK_TRY(need(r, map, key, RK_DOC_LIST, &list));
    if (list->n > RK_MAX_DIMS)
        return bad(r, list, "too many axes");
    s->ndim = 0;
    for (const rk_doc *d = list->child; d; d = d->next) {
        if (d->kind != RK_DOC_INT || d->i < lo || d->i > (int64_t)1 << 50)
            return bad(r, d, "axis out of range");
        s->dim[s->ndim++] = d->i;
    }
    return RK_OK;
}

static bool product(const rk_shape *s, int64_t *out)
{
    int64_t n = 1;
    bool zero = false;
    for (int i = 0; i < s->ndim; i++) {
        zero |= s->dim[i] == 0;
        if (s->dim[i] && __builtin_mul_overflow(n, s->dim[i], &n))
            return false;
    }
    *out = zero ? 0 : n;
    return n <= (int64_t)1 << 50;
}

static rk_status read_piece(const reader *r, const rk_doc *d, const rk__m_tensor *t, rk__m_piece *p)
{
    const rk_doc *set;
    rk_shape lo;
    int64_t file;
    RK_TRY(need_int(r, d, "file", 0, r->m->n_files - 1, &file));
    RK_TRY(need(r, d, "data_set", RK_DOC_STRING, &set));
    RK_TRY(read_dims(r, d, "offset", 0, &lo));
    RK_TRY(read_dims(r, d, "extent", 0, &p->extent));
    if (!rk__state_name_ok(set->text))
        return bad(r, set, "not a name for a data set");
    if (lo.ndim != t->shape.ndim || p->extent.ndim != t->shape.ndim)
        return bad(r, d, "piece and tensor have different numbers of axes");
    for (int i = 0; i < lo.ndim; i++) {
        p->lo[i] = lo.dim[i];
        if (lo.dim[i] > t->shape.dim[i] || p->extent.dim[i] > t->shape.dim[i] - lo.dim[i])
            return bad(r, d, "piece reaches over the tensor's edge");
    }
    p->file = (int)file;
    return copy(r, set, &p->data_set);
}

static bool overlap(const rk__m_piece *a, const rk__m_piece *b)
{
    for (int i = 0; i < a->extent.ndim; i++)
        if (a->lo[i] >= b->lo[i] + b->extent.dim[i] || b->lo[i] >= a->lo[i] + a->extent.dim[i])
            return false;
    return true;
}

/* Disjoint and together as many elements as the tensor: all of it, each once. */
static rk_status check_cover(const reader *r, const rk_doc *at, const rk__m_tensor *t)
{
    int64_t whole, sum = 0, n;
    if (!product(&t->shape, &whole))
        return bad(r, at, "tensor too large");
    for (int i = 0; i < t->n_pieces; i++) {
        if (!product(&t->pieces[i].extent, &n) || n > whole - sum)
            return bad(r, at, "pieces overlap");
        sum += n;
        for (int k = 0; n && k < i; k++)
            if (overlap(&t->pieces[i], &t->pieces[k]))
                return bad(r, at, "pieces overlap");
    }
    return sum == whole ? RK_OK : bad(r, at, "pieces leave a part of the tensor out");
}

static rk_status read_tensor(const reader *r, const rk_doc *d, rk__m_tensor *t)
{
    const rk_doc *name, *kind, *dtype, *pieces;
    RK_TRY(need(r, d, "name", RK_DOC_STRING, &name));
    RK_TRY(need(r, d, "kind", RK_DOC_STRING, &kind));
    RK_TRY(need(r, d, "dtype", RK_DOC_STRING, &dtype));
    RK_TRY(need(r, d, "pieces", RK_DOC_LIST, &pieces));
    RK_TRY(read_dims(r, d, "shape", 0, &t->shape));
    if (!rk__state_name_ok(name->text))
        return bad(r, name, "not a name for a tensor");
    if (t > r->m->tensors && strcmp(t[-1].name, name->text) >= 0)
        return bad(r, name, "tensors must be sorted by name, each once");
    int k = 0, type = rk__dtype_of(dtype->text);
    while (k < RK_STATE_CURSOR && strcmp(kinds[k], kind->text))
        k++;
    if (k == RK_STATE_CURSOR || type < 0)
        return bad(r, type < 0 ? dtype : kind, "unknown kind or type");
    if (pieces->n < 1 || pieces->n > 4096)
        return bad(r, pieces, "between 1 and 4096 pieces are expected");
    t->kind = (rk_state_kind)k;
    t->dtype = (rk_dtype)type;
    RK_TRY(copy(r, name, &t->name));
    t->pieces = calloc((size_t)pieces->n, sizeof *t->pieces);
    if (!t->pieces)
        return no_memory(r);
    for (const rk_doc *p = pieces->child; p; p = p->next)
        RK_TRY(read_piece(r, p, t, &t->pieces[t->n_pieces++]));
    return check_cover(r, d, t);
}

static rk_status read_cursors(const reader *r, const rk_doc *map)
{
    r->m->cursors = calloc((size_t)map->n + 1, sizeof *r->m->cursors);
    if (!r->m->cursors)
        return no_memory(r);
    for (const rk_doc *d = map->child; d; d = d->next) {
        if (d->kind != RK_DOC_INT || !d->key || !rk__state_name_ok(d->key))
            return bad(r, d, "a cursor is a name and a number");
        rk__m_cursor *c = &r->m->cursors[r->m->n_cursors++];
        c->value = d->i;
        c->name = strdup(d->key);
        if (!c->name)
            return no_memory(r);
    }
    return RK_OK;
}

static rk_status read_tables(const reader *r, const rk_doc *root)
{
    const rk_doc *files, *tensors, *cursors;
    rk__manifest *m = r->m;
    RK_TRY(need(r, root, "files", RK_DOC_LIST, &files));
    RK_TRY(need(r, root, "tensors", RK_DOC_LIST, &tensors));
    RK_TRY(need(r, root, "cursors", RK_DOC_MAP, &cursors));
    m->files = calloc((size_t)files->n + 1, sizeof *m->files);
    m->tensors = calloc((size_t)tensors->n + 1, sizeof *m->tensors);
    if (!m->files || !m->tensors)
        return no_memory(r);
    for (const rk_doc *d = files->child; d; d = d->next)
        RK_TRY(read_file(r, d, &m->files[m->n_files++]));
    for (const rk_doc *d = tensors->child; d; d = d->next)
        RK_TRY(read_tensor(r, d, &m->tensors[m->n_tensors++]));
    return read_cursors(r, cursors);
}

static rk_status read_head(const reader *r, const rk_doc *root)
{
    const rk_doc *best, *version, *grid, *layout;
    int64_t epoch, ranks, data, tensor, sum_bytes;
    RK_TRY(need_int(r, root, "step", 0, RK__STEP_MAX, &r->m->step));
    RK_TRY(need_int(r, root, "epoch", 0, INT64_MAX, &epoch));
    RK_TRY(need_int(r, root, "sum_bytes", RK__SUM_BYTES, RK__SUM_BYTES, &sum_bytes));
    RK_TRY(need(r, root, "best", RK_DOC_BOOL, &best));
    RK_TRY(need(r, root, "rankine", RK_DOC_STRING, &version));
    RK_TRY(need(r, root, "layout", RK_DOC_MAP, &layout));
    RK_TRY(need(r, root, "grid", RK_DOC_MAP, &grid));
    RK_TRY(need_int(r, layout, "ranks", 1, 1 << 24, &ranks));
    RK_TRY(need_int(r, grid, "data", 1, 1 << 24, &data));
    RK_TRY(need_int(r, grid, "tensor", 1, 1 << 24, &tensor));
    r->m->epoch = (uint64_t)epoch;
    r->m->best = best->i != 0;
    r->m->ranks = (int)ranks;
    r->m->grid_data = (int)data;
    r->m->grid_tensor = (int)tensor;
    RK_TRY(copy(r, version, &r->m->version));
    RK_TRY(optional_text(r, root, "config", &r->m->config_json));
    return optional_text(r, root, "extra", &r->m->extra_json);
}

static rk_status check_config(const reader *r, const rk_doc *root)
{
    const rk_doc *sum;
    char hex[65] = "";
    RK_TRY(need(r, root, "config_sha256", RK_DOC_STRING, &sum));
    if (r->m->config_json && !rk__sha256_text(r->m->config_json, hex))
        return no_memory(r);
    return strcmp(sum->text, hex) ? bad(r, sum, "not the sum of \"config\"") : RK_OK;
}

static rk_status read_root(const reader *r, const rk_doc *root)
{
    const rk_doc *schema;
    if (root->kind != RK_DOC_MAP)
        return bad(r, root, "not an object");
    RK_TRY(need(r, root, "schema", RK_DOC_INT, &schema));
    if (schema->i > RK__SCHEMA) {
        r->f->newer = true;
        return rk__fault_set(
            r->f, RK_EDATA,
            "%s: format %lld, and this Rankine (%s) reads up to %d: continue with the newer Rankine "
            "that wrote it, or move the snapshot away",
            r->file, (long long)schema->i, RANKINE_VERSION, RK__SCHEMA);
    }
    if (schema->i < 1)
        return bad(r, schema, "unknown format");
    RK_TRY(read_head(r, root));
    RK_TRY(read_tables(r, root));
    return check_config(r, root);
}

/* The last line is the sum of all lines before it. */
static rk_status check_sum(const char *file, const uint8_t *p, size_t n, rk__fault *f)
{
    char hex[33];
    if (n < SUM_LINE_BYTES || n > RK__MANIFEST_MAX)
        return rk__fault_set(f, RK_EDATA, "%s: %zu bytes cannot be a manifest", file, n);
    const char *line = (const char *)p + n - SUM_LINE_BYTES;
    if (memcmp(line, SUM_LINE, sizeof SUM_LINE - 1) || memcmp(line + SUM_LINE_BYTES - 3, "\"}\n", 3))
        return rk__fault_set(f, RK_EDATA, "%s: does not end with its sum (cut short, or not a manifest)",
                             file);
    rk__manifest_sum(p, n - SUM_LINE_BYTES, hex);
    const char *stated = line + sizeof SUM_LINE - 1;
    if (!memcmp(stated, hex, 32))
        return RK_OK;
    return rk__fault_set(f, RK_EDATA, "%s: sum: expected %.32s, got %s", file, stated, hex);
}

rk_status rk__manifest_parse(rk_ctx *ctx, const char *file, const uint8_t *p, size_t n, rk__manifest *m,
                             rk__fault *f)
{
    *m = (rk__manifest){ 0 };
    rk_status st = check_sum(file, p, n, f);
    rk_doc *root = NULL;
    if (st)
        return st;
    if (rk__json_parse(ctx, file, p, n, RK_EDATA, &root)) {
        st = rk__fault_set(f, rk_failed(ctx), "%s", rk_error(ctx));
        rk_error_clear(ctx);
        return st;
    }
    reader r = { ctx, file, m, f };
    st = read_root(&r, root);
    rk__doc_free(root);
    if (st)
        rk__manifest_free(m);
    return st;
}
