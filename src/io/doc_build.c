#include "io/doc_build.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "core/ctx.h"
#include "io/doc_tree.h"

static rk_status no_memory(rk__doc_builder *b)
{
    return rk_fail(b->ctx, RK_ENOMEM, "%s: out of memory", b->file ? b->file : "document");
}

rk_status rk__build_begin(rk__doc_builder *b, rk_ctx *ctx, const char *file, rk_status bad)
{
    *b = (rk__doc_builder){ .ctx = ctx, .bad = bad };
    b->root = rk__doc_new_root();
    b->file = b->root ? rk__doc_intern(b->root, file) : NULL;
    if (!b->file)
        return no_memory(b);
    b->root->file = b->file;
    b->root->line = b->root->column = 1;
    return RK_OK;
}

rk_status rk__build_fail(rk__doc_builder *b, int line, int column, const char *fmt, ...)
{
    char msg[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    return rk_fail(b->ctx, b->bad, "%s:%d:%d: %s", b->file, line, column, msg);
}

bool rk__build_wants_key(const rk__doc_builder *b)
{
    return b->depth > 0 && b->open[b->depth - 1].node->kind == RK_DOC_MAP && !b->key;
}

/* ---- duplicate keys ---- */

static size_t slot_of(const rk__doc_builder *b, const rk_doc *map, const char *key)
{
    /* the map's address takes part, so colliding keys cannot be prepared */
    return (size_t)XXH3_64bits_withSeed(key, strlen(key), (XXH64_hash_t)(uintptr_t)map) & (b->cap_seen - 1);
}

static rk_doc **find_seen(const rk__doc_builder *b, const rk_doc *map, const char *key)
{
    size_t i = slot_of(b, map, key);
    while (b->seen[i] && (b->seen[i]->parent != map || strcmp(b->seen[i]->key, key) != 0))
        i = (i + 1) & (b->cap_seen - 1);
    return &b->seen[i];
}

static rk_status grow_seen(rk__doc_builder *b)
{
    rk_doc **old = b->seen;
    size_t old_cap = b->cap_seen, cap = old_cap ? old_cap * 2 : 64;
    rk_doc **seen = calloc(cap, sizeof *seen);
    if (!seen)
        return no_memory(b);
    b->seen = seen;
    b->cap_seen = cap;
    for (size_t i = 0; i < old_cap; i++)
        if (old[i])
            *find_seen(b, old[i]->parent, old[i]->key) = old[i];
    free(old);
    return RK_OK;
}

/* ---- events ---- */

rk_status rk__build_key(rk__doc_builder *b, const char *text, size_t n, int line, int column)
{
    const rk_doc *map = b->open[b->depth - 1].node;
    if (memchr(text, 0, n))
        return rk__build_fail(b, line, column, "a key contains a NUL character");
    b->key = strndup(text, n);
    if (!b->key)
        return no_memory(b);
    b->key_line = line;
    b->key_column = column;
    if (b->n_seen * 2 >= b->cap_seen)
        RK_TRY(grow_seen(b));
    const rk_doc *first = *find_seen(b, map, b->key);
    if (first)
        return rk__build_fail(b, line, column, "key \"%s\" stands twice in one map (first at line %d)",
                              b->key, first->line);
    return RK_OK;
}

/* The node for the next value: the root, or appended to the innermost container. */
static rk_status next_node(rk__doc_builder *b, int line, int column, rk_doc **out)
{
    if (++b->nodes > RK__DOC_NODES)
        return rk__build_fail(b, line, column, "more than %d values", RK__DOC_NODES);
    if (!b->begun) {
        b->begun = true;
        *out = b->root;
    } else {
        rk_doc *parent = b->open[b->depth - 1].node, *d = calloc(1, sizeof *d);
        if (!d)
            return no_memory(b);
        d->file = b->file;
        rk__doc_append(parent, b->open[b->depth - 1].tail, d);
        b->open[b->depth - 1].tail = d;
        if (parent->kind == RK_DOC_MAP) {
            d->key = b->key;
            b->key = NULL;
            *find_seen(b, parent, d->key) = d;
            b->n_seen++;
        }
        *out = d;
    }
    (*out)->line = line;
    (*out)->column = column;
    return RK_OK;
}

rk_status rk__build_open(rk__doc_builder *b, rk_doc_kind kind, int line, int column)
{
    rk_doc *d = NULL;
    if (b->depth == RK__DOC_DEPTH)
        return rk__build_fail(b, line, column, "nested deeper than %d levels", RK__DOC_DEPTH);
    RK_TRY(next_node(b, line, column, &d));
    d->kind = kind;
    b->open[b->depth].node = d;
    b->open[b->depth++].tail = NULL;
    return RK_OK;
}

void rk__build_close(rk__doc_builder *b)
{
    b->depth--;
}

rk_status rk__build_scalar(rk__doc_builder *b, rk_doc_kind kind, const char *text, size_t n, int64_t i,
                           double f, int line, int column)
{
    rk_doc *d = NULL;
    if (memchr(text, 0, n))
        return rk__build_fail(b, line, column, "a text contains a NUL character");
    RK_TRY(next_node(b, line, column, &d));
    d->text = strndup(text, n);
    if (!d->text)
        return no_memory(b);
    d->kind = kind;
    d->i = i;
    d->f = f;
    return RK_OK;
}

rk_status rk__build_end(rk__doc_builder *b, rk_status st, rk_doc **out)
{
    free(b->key);
    free(b->seen);
    if (st != RK_OK) {
        rk__doc_free(b->root);
        b->root = NULL;
    }
    *out = b->root;
    return st;
}
