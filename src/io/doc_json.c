/* The canonical JSON text of a document. */
#include "io/doc.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/number.h"
#include "io/text.h"

static int by_key(const void *a, const void *b)
{
    return strcmp((*(rk_doc *const *)a)->key, (*(rk_doc *const *)b)->key);
}

static void new_line(rk__text *t, int indent, int level)
{
    if (!indent)
        return;
    rk__text_put(t, "\n", 1);
    for (int i = 0; i < indent * level; i++)
        rk__text_put(t, " ", 1);
}

static void put(rk__text *t, const rk_doc *d, bool sort, int indent, int level);

static void put_member(rk__text *t, const rk_doc *c, bool first, bool sort, int indent, int level)
{
    if (!first)
        rk__text_put(t, ",", 1);
    new_line(t, indent, level);
    if (c->parent->kind == RK_DOC_MAP) {
        rk__text_quote(t, c->key);
        rk__text_put(t, ": ", indent ? 2 : 1);
    }
    put(t, c, sort, indent, level);
}

static void put_container(rk__text *t, const rk_doc *d, bool sort, int indent, int level)
{
    bool map = d->kind == RK_DOC_MAP;
    rk__text_put(t, map ? "{" : "[", 1);
    if (map && sort && d->n > 1) {
        const rk_doc **all = malloc((size_t)d->n * sizeof *all);
        int n = 0;
        if (!all) {
            t->failed = true;
            return;
        }
        for (const rk_doc *c = d->child; c; c = c->next)
            all[n++] = c;
        qsort(all, (size_t)n, sizeof *all, by_key);
        for (int i = 0; i < n; i++)
            put_member(t, all[i], i == 0, sort, indent, level + 1);
        free(all);
    } else {
        for (const rk_doc *c = d->child; c; c = c->next)
            put_member(t, c, c == d->child, sort, indent, level + 1);
    }
    if (d->n)
        new_line(t, indent, level);
    rk__text_put(t, map ? "}" : "]", 1);
}

static void put(rk__text *t, const rk_doc *d, bool sort, int indent, int level)
{
    char buf[40];
    switch (d->kind) {
    case RK_DOC_NULL:
        rk__text_puts(t, "null");
        break;
    case RK_DOC_BOOL:
        rk__text_puts(t, d->i ? "true" : "false");
        break;
    case RK_DOC_INT:
        snprintf(buf, sizeof buf, "%" PRId64, d->i);
        rk__text_puts(t, buf);
        break;
    case RK_DOC_FLOAT:
        rk__format_double(d->f, buf);
        rk__text_puts(t, buf);
        break;
    case RK_DOC_STRING:
        rk__text_quote(t, d->text);
        break;
    case RK_DOC_LIST:
    case RK_DOC_MAP:
        put_container(t, d, sort, indent, level);
        break;
    }
}

char *rk__doc_json(const rk_doc *d, bool sort, int indent)
{
    rk__text t = { 0 };
    put(&t, d, sort, indent, 0);
    return rk__text_take(&t);
}
