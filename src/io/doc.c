#include "io/doc.h"

#include <rankine/io.h>

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/ctx.h"
#include "io/doc_tree.h"
#include "io/file.h"
#include "io/number.h"

/* Every document without a parent is one of these. */
typedef struct doc_root {
    rk_doc doc;
    char **names; /* file names that nodes share */
    int n_names;
} doc_root;

rk_doc *rk__doc_new_root(void)
{
    doc_root *r = calloc(1, sizeof *r);
    return r ? &r->doc : NULL;
}

const char *rk__doc_intern(rk_doc *root, const char *s)
{
    doc_root *r = (doc_root *)root;
    s = s ? s : "";
    for (int i = 0; i < r->n_names; i++)
        if (!strcmp(r->names[i], s))
            return r->names[i];
    char **names = realloc(r->names, (size_t)(r->n_names + 1) * sizeof *names);
    if (!names)
        return NULL;
    r->names = names;
    names[r->n_names] = strdup(s);
    return names[r->n_names] ? names[r->n_names++] : NULL;
}

void rk__doc_append(rk_doc *parent, rk_doc *tail, rk_doc *d)
{
    rk_doc **end = tail ? &tail->next : &parent->child;
    while (*end)
        end = &(*end)->next;
    *end = d;
    d->parent = parent;
    parent->n++;
}

/* Everything below d and in it, but not d itself: depth is bounded by the parsers. */
static void clear_node(rk_doc *d)
{
    for (rk_doc *c = d->child, *next; c; c = next) {
        next = c->next;
        clear_node(c);
        free(c);
    }
    free(d->key);
    free(d->text);
}

void rk__doc_free(rk_doc *root)
{
    if (!root)
        return;
    RK_ASSERT(!root->parent);
    doc_root *r = (doc_root *)root;
    clear_node(root);
    for (int i = 0; i < r->n_names; i++)
        free(r->names[i]);
    free(r->names);
    free(r);
}

/* ---- finding ---- */

static rk_doc *get_n(const rk_doc *d, const char *key, size_t n)
{
    int64_t index;
    if (!d || (d->kind != RK_DOC_MAP && d->kind != RK_DOC_LIST))
        return NULL;
    if (d->kind == RK_DOC_LIST && (!isdigit((unsigned char)key[0]) || !rk__parse_int(key, n, &index)))
        return NULL;
    for (rk_doc *c = d->child; c; c = c->next)
        if (d->kind == RK_DOC_LIST ? index-- == 0 : strlen(c->key) == n && !memcmp(c->key, key, n))
            return c;
    return NULL;
}

rk_doc *rk__doc_get(const rk_doc *map, const char *key)
{
    return map && map->kind == RK_DOC_MAP ? get_n(map, key, strlen(key)) : NULL;
}

rk_doc *rk__doc_path(const rk_doc *map, const char *path)
{
    const rk_doc *d = map;
    for (;;) {
        size_t n = strcspn(path, ".");
        d = get_n(d, path, n);
        if (!d || !path[n])
            return (rk_doc *)d;
        path += n + 1;
    }
}

/* ---- copying ---- */

static rk_status out_of_memory(rk_ctx *ctx)
{
    return rk_fail(ctx, RK_ENOMEM, "document: out of memory");
}

static bool copy_text(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

/* Fills d (whose key and place among its siblings stay) with the value of `from`. */
static rk_status copy_value(rk_ctx *ctx, rk_doc *root, rk_doc *d, const rk_doc *from)
{
    rk_doc *tail = NULL;
    d->kind = from->kind;
    d->i = from->i;
    d->f = from->f;
    d->line = from->line;
    d->column = from->column;
    d->file = rk__doc_intern(root, from->file);
    if (!d->file || !copy_text(&d->text, from->text))
        return out_of_memory(ctx);
    for (const rk_doc *c = from->child; c; c = c->next) {
        rk_doc *n = calloc(1, sizeof *n);
        if (!n)
            return out_of_memory(ctx);
        rk__doc_append(d, tail, n);
        tail = n;
        if (!copy_text(&n->key, c->key))
            return out_of_memory(ctx);
        RK_TRY(copy_value(ctx, root, n, c));
    }
    return RK_OK;
}

rk_doc *rk__doc_copy(rk_ctx *ctx, const rk_doc *d)
{
    rk_doc *root = rk__doc_new_root();
    if (!root) {
        out_of_memory(ctx);
        return NULL;
    }
    if (copy_value(ctx, root, root, d) != RK_OK) {
        rk__doc_free(root);
        return NULL;
    }
    return root;
}

/* ---- setting ---- */

/* The node of a dotted path, made if absent. Empty (null) nodes on the way become maps. */
static rk_status reach(rk_ctx *ctx, rk_doc *root, const char *path, const char *origin, rk_doc **out)
{
    rk_doc *d = root;
    for (const char *p = path;; p++) {
        size_t n = strcspn(p, ".");
        if (!n)
            return rk_fail(ctx, RK_ECONFIG, "%s: \"%s\" is no key: a name is empty", origin, path);
        if (d->kind == RK_DOC_NULL)
            d->kind = RK_DOC_MAP;
        if (d->kind != RK_DOC_MAP && d->kind != RK_DOC_LIST)
            return rk_fail(ctx, RK_ECONFIG, "%s: \"%s\": %.*s is a value, not a section", origin, path,
                           p > path ? (int)(p - path) - 1 : 8, p > path ? path : "the file");
        rk_doc *c = get_n(d, p, n);
        if (!c && d->kind == RK_DOC_LIST)
            return rk_fail(ctx, RK_ECONFIG, "%s: \"%s\": %.*s is a list of %d: use a number from 0 to %d",
                           origin, path, (int)(p - path) - 1, path, d->n, d->n - 1);
        if (!c) {
            c = calloc(1, sizeof *c);
            if (c && !(c->key = strndup(p, n))) {
                free(c);
                c = NULL;
            }
            if (!c)
                return out_of_memory(ctx);
            c->line = c->column = 1;
            c->file = root->file;
            rk__doc_append(d, NULL, c);
        }
        d = c;
        p += n;
        if (!*p)
            break;
    }
    *out = d;
    return RK_OK;
}

/* A value like "*.weight" is meant as text although YAML would read an alias. */
static rk_status parse_value(rk_ctx *ctx, const char *text, const char *origin, rk_doc **out)
{
    char *quoted = NULL;
    if (text[0] && strchr("*&!%@`#|>", text[0])) {
        size_t n = 0;
        quoted = malloc(2 * strlen(text) + 3);
        if (!quoted)
            return out_of_memory(ctx);
        quoted[n++] = '\'';
        for (const char *c = text; *c; c++) {
            if (*c == '\'')
                quoted[n++] = '\'';
            quoted[n++] = *c;
        }
        quoted[n++] = '\'';
        quoted[n] = '\0';
        text = quoted;
    }
    rk_status st = rk__yaml_parse(ctx, origin, (const uint8_t *)text, strlen(text), RK_ECONFIG, out);
    free(quoted);
    return st;
}

rk_status rk__doc_set(rk_ctx *ctx, rk_doc *root, const char *path, const char *yaml_text, const char *origin)
{
    rk_doc *value, *d = NULL;
    int dots = 0;
    for (const char *c = path; *c; c++)
        dots += *c == '.';
    if (dots >= 64)
        return rk_fail(ctx, RK_ECONFIG, "%s: a key of %d levels", origin, dots + 1);
    RK_TRY(parse_value(ctx, yaml_text, origin, &value));
    rk_status st = reach(ctx, root, path, origin, &d);
    if (st == RK_OK) {
        char *key = d->key;
        d->key = NULL;
        clear_node(d);
        *d = (rk_doc){ .key = key, .next = d->next, .parent = d->parent };
        st = copy_value(ctx, root, d, value);
    }
    rk__doc_free(value);
    return st;
}

rk_status rk__doc_nest(rk_ctx *ctx, rk_doc *d, const char *key)
{
    rk_doc *member = calloc(1, sizeof *member);
    if (!member || !copy_text(&member->key, key)) {
        free(member);
        return out_of_memory(ctx);
    }
    member->kind = d->kind;
    member->text = d->text;
    member->i = d->i;
    member->f = d->f;
    member->file = d->file;
    member->line = d->line;
    member->column = d->column;
    d->kind = RK_DOC_MAP;
    d->text = NULL;
    rk__doc_append(d, NULL, member);
    return RK_OK;
}

/* ---- messages ---- */

rk_status rk__doc_fail(rk_ctx *ctx, rk_status st, const rk_doc *at, const char *fmt, ...)
{
    char msg[768];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return rk_fail(ctx, st, "%s:%d:%d: %s", at->file ? at->file : "", at->line, at->column, msg);
}

rk_status rk__doc_load(rk_ctx *ctx, const char *path, size_t max_bytes, rk_status bad, rk_doc **out)
{
    uint8_t *p;
    size_t n, len = strlen(path);
    RK_TRY(rk__file_read(ctx, path, max_bytes, bad, &p, &n));
    bool json = len > 5 && !strcasecmp(path + len - 5, ".json");
    rk_status st = (json ? rk__json_parse : rk__yaml_parse)(ctx, path, p, n, bad, out);
    free(p);
    return st;
}

/* Edit distance with swaps of neighbours counted once; `max` or more is returned as max. */
static int distance(const char *a, const char *b, int max)
{
    enum { LONGEST = 64 };
    int row[3][LONGEST + 1], na = (int)strlen(a), nb = (int)strlen(b);
    if (na > LONGEST || nb > LONGEST)
        return max;
    for (int j = 0; j <= nb; j++)
        row[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *upup = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= nb; j++) {
            int d = up[j - 1] + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));
            d = up[j] + 1 < d ? up[j] + 1 : d;
            d = now[j - 1] + 1 < d ? now[j - 1] + 1 : d;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && upup[j - 2] + 1 < d)
                d = upup[j - 2] + 1;
            now[j] = d;
        }
    }
    int d = row[na % 3][nb];
    return d < max ? d : max;
}

const char *rk__nearest(const char *word, const char *const *names, int n)
{
    int best = 2 + (int)strlen(word) / 4;
    const char *found = NULL;
    for (int i = 0; i < n; i++) {
        int d = distance(word, names[i], best);
        if (d < best) {
            best = d;
            found = names[i];
        }
    }
    return found;
}

const char *rk_nearest(const char *word, const char *const *names, int n)
{
    return rk__nearest(word, names, n);
}
