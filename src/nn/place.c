/* Placement: how the S tensor shards of the grid cut the layers of a network. The rules, in order:
 *
 *  1. What parallel.place names is placed as it says.
 *  2. The last layer, if it is linear, large enough and the loss is a cross entropy: over its outputs, the
 *     classes. The logits are never gathered.
 *  3. A linear layer that is large enough, and a linear layer after it with nothing but activations and
 *     dropout between: the first over its outputs (column), the second over its inputs (row). What lies
 *     between stays cut; one sum of the second layer's outputs is all that ranks exchange.
 *  4. Any other linear layer that is large enough: over its outputs, which are gathered.
 *  5. An embedding that is large enough: over its rows.
 *  6. A conv2d without groups that is large enough: over its output channels, which are gathered.
 *
 * All else is replicated. Large enough: each shard gets MIN_CHUNK elements of the axis that is cut, and the
 * weight has MIN_WEIGHT elements. The second layer of a pair needs the former only. */
#include "core/cut.h"
#include "nn/module.h"

#include <stdio.h>
#include <string.h>

enum {
    MIN_CHUNK = 8,     /* half of the 16 lanes: below it a shard is mostly overhead */
    MIN_WEIGHT = 16384 /* 64 KiB: the exchange costs more than a smaller product */
};

static const char *const place_names[] = { [RK__PLACE_NONE] = "none",
                                           [RK__PLACE_COLUMN] = "column",
                                           [RK__PLACE_ROW] = "row",
                                           [RK__PLACE_ROWS] = "rows",
                                           [RK__PLACE_CHANNELS] = "channels" };
enum { PLACES = sizeof place_names / sizeof *place_names };

/* The axis of the weight that a placement cuts. */
static int axis_of(rk__place p)
{
    return p == RK__PLACE_ROW ? 1 : 0;
}

static bool fits(const rk_module *m, rk__place p)
{
    if (m->kind == &rk__kind_linear)
        return p == RK__PLACE_COLUMN || p == RK__PLACE_ROW;
    if (m->kind == &rk__kind_embedding)
        return p == RK__PLACE_ROWS;
    return m->kind == &rk__kind_conv2d && p == RK__PLACE_CHANNELS;
}

static int64_t extent(const rk_module *m, rk__place p)
{
    return m->weight->shape.dim[axis_of(p)];
}

static bool wide_enough(const rk_module *m, rk__place p)
{
    return extent(m, p) / MIN_CHUNK >= m->ctx->shards.count;
}

static bool large_enough(const rk_module *m, rk__place p)
{
    return wide_enough(m, p) && rk__size(m->weight) >= MIN_WEIGHT;
}

static void put(rk_module *m, rk__place p, const char *why)
{
    m->place = p;
    m->why = why;
}

/* ---- by name ---- */

static rk__place find_place(const char *name)
{
    int p = 0;
    while (p < PLACES && strcmp(place_names[p], name))
        p++;
    return (rk__place)p;
}

static rk_status name_layer(rk_module *m, const rk_doc *d, rk__place p)
{
    rk_ctx *ctx = m->ctx;
    if (p != RK__PLACE_NONE && !fits(m, p))
        return rk__doc_fail(ctx, RK_ECONFIG, d,
                            "parallel.place: layer %s (%s) cannot be placed by %s; linear layers take column "
                            "or row, embeddings rows, conv2d channels, and all of them none",
                            m->full, m->kind->name, place_names[p]);
    if (p == RK__PLACE_CHANNELS && m->a.conv.cfg.groups > 1)
        return rk__doc_fail(ctx, RK_ECONFIG, d, "parallel.place: layer %s has %d groups and cannot be cut",
                            m->full, m->a.conv.cfg.groups);
    if (p != RK__PLACE_NONE && extent(m, p) < ctx->shards.count)
        return rk__doc_fail(ctx, RK_ECONFIG, d,
                            "parallel.place: layer %s has %lld to share out by %s, fewer than grid.tensor %d",
                            m->full, (long long)extent(m, p), place_names[p], ctx->shards.count);
    put(m, p, "by name");
    m->named = true;
    return RK_OK;
}

static rk_status name_layers(rk_module *m, const rk_doc *d, rk__place p, int *hits)
{
    if (m->weight && rk__glob_match(d->key, m->full)) {
        RK_TRY(name_layer(m, d, p));
        ++*hits;
    }
    for (rk_module *c = m->first; c; c = c->next)
        RK_TRY(name_layers(c, d, p, hits));
    return RK_OK;
}

static rk_status by_name(rk_module *root, const rk_doc *names)
{
    if (names && names->kind != RK_DOC_MAP)
        return rk__doc_fail(
            root->ctx, RK_ECONFIG, names,
            "parallel.place: wanted a map of layers, such as {linear1: column, linear2: row}");
    for (const rk_doc *d = names ? names->child : NULL; d; d = d->next) {
        rk__place p = find_place(d->kind == RK_DOC_STRING ? d->text : "");
        int hits = 0;
        if ((int)p == PLACES)
            return rk__doc_fail(root->ctx, RK_ECONFIG, d,
                                "parallel.place: %s: wanted column, row, rows, channels or none", d->key);
        RK_TRY(name_layers(root, d, p, &hits));
        if (!hits)
            return rk__doc_fail(root->ctx, RK_ECONFIG, d, "parallel.place: no layer with weights is named %s",
                                d->key);
    }
    return RK_OK;
}

/* ---- by rule ---- */

/* The linear layer after m, if nothing but functions of single elements lies between. */
static rk_module *partner(const rk_module *m)
{
    rk_module *n = m->next;
    while (n && (n->kind == &rk__kind_dropout || n->kind->forward == rk__activations[0].kind.forward))
        n = n->next;
    return n && n->kind == &rk__kind_linear ? n : NULL;
}

static rk_module *last_linear(rk_module *m)
{
    while (m->last && m->kind == &rk__kind_sequence)
        m = m->last;
    return m->kind == &rk__kind_linear ? m : NULL;
}

static bool may_pair(const rk_module *m, const rk_module *n)
{
    return n && !n->why && large_enough(m, RK__PLACE_COLUMN) && wide_enough(n, RK__PLACE_ROW);
}

static void place_linear(rk_module *m)
{
    rk_module *n = partner(m);
    if (may_pair(m, n)) {
        put(m, RK__PLACE_COLUMN, "first of a pair");
        put(n, RK__PLACE_ROW, "second of a pair");
    } else if (large_enough(m, RK__PLACE_COLUMN)) {
        put(m, RK__PLACE_COLUMN, "outputs are gathered");
    } else {
        put(m, RK__PLACE_NONE, "too small");
    }
}

static void place_one(rk_module *m)
{
    if (m->kind == &rk__kind_linear)
        place_linear(m);
    else if (m->kind == &rk__kind_embedding && large_enough(m, RK__PLACE_ROWS))
        put(m, RK__PLACE_ROWS, "rows by owner");
    else if (m->kind == &rk__kind_conv2d && m->a.conv.cfg.groups > 1)
        put(m, RK__PLACE_NONE, "has groups");
    else if (m->kind == &rk__kind_conv2d && large_enough(m, RK__PLACE_CHANNELS))
        put(m, RK__PLACE_CHANNELS, "channels are gathered");
    else if (m->kind == &rk__kind_conv2d || m->kind == &rk__kind_embedding)
        put(m, RK__PLACE_NONE, "too small");
    else
        put(m, RK__PLACE_NONE, "never cut");
}

static void by_rule(rk_module *m)
{
    if (m->weight && !m->why)
        place_one(m);
    for (rk_module *c = m->first; c; c = c->next)
        by_rule(c);
}

/* ---- what follows ---- */

static void cut_tensor(rk_tensor *t, rk__cut *cut, int axis)
{
    *cut = (rk__cut){ axis, 0, t->shape.dim[axis] };
    t->cut = cut;
}

/* Marks the parameters, and between which layers activations stay cut. Returns how many layers are cut. */
static int apply(rk_module *m)
{
    int n = m->place != RK__PLACE_NONE;
    if (n) {
        cut_tensor(m->weight, &m->cut, axis_of(m->place));
        if (m->bias && m->place != RK__PLACE_ROW)
            cut_tensor(m->bias, &m->bias_cut, 0);
    }
    rk_module *next = m->place == RK__PLACE_COLUMN ? partner(m) : NULL;
    if (next && next->place == RK__PLACE_ROW)
        for (m->cut_out = true; m != next; m = m->next)
            m->next->cut_in = true, m->next->cut_out = m->next != next;
    return n;
}

static int apply_all(rk_module *m)
{
    int n = apply(m);
    for (rk_module *c = m->first; c; c = c->next)
        n += apply_all(c);
    return n;
}

rk_status rk__place_layers(rk_module *root, bool classes, const rk_doc *names)
{
    RK_TRY(rk_failed(root->ctx));
    const int shards = root->ctx->shards.count;
    rk_module *last = last_linear(root);
    RK_TRY(by_name(root, names));
    if (classes && last && !last->why && large_enough(last, RK__PLACE_COLUMN))
        put(last, RK__PLACE_COLUMN, "classes of the cross entropy");
    by_rule(root);
    if (shards <= 1)
        return RK_OK;
    if (!apply_all(root))
        return rk_fail(root->ctx, RK_ECONFIG,
                       "grid.tensor %d: no layer can be cut by it (a shard needs %d outputs, and a weight %d "
                       "elements); use a smaller one, or name layers in parallel.place",
                       shards, MIN_CHUNK, MIN_WEIGHT);
    if (classes && last && last->place == RK__PLACE_COLUMN)
        last->cut_out = true;
    return RK_OK;
}

const rk__cut *rk__place_classes(const rk_module *root)
{
    const rk_module *last = last_linear((rk_module *)root);
    return last && last->cut.whole && last->cut_out ? &last->cut : NULL;
}

rk_status rk__place_share(rk_module *m)
{
    if (m->place != RK__PLACE_NONE && m->weight->cut)
        RK_TRY(rk__cut_share(m->weight, &m->cut));
    if (m->bias && m->bias->cut)
        RK_TRY(rk__cut_share(m->bias, &m->bias_cut));
    for (rk_module *c = m->first; c; c = c->next)
        RK_TRY(rk__place_share(c));
    return RK_OK;
}

/* ---- the table ---- */

static const rk_module *owner_of(const rk_module *m, const rk_tensor *t)
{
    if (m->weight == t || m->bias == t || m->mean == t || m->var == t)
        return m;
    for (const rk_module *c = m->first; c; c = c->next) {
        const rk_module *hit = owner_of(c, t);
        if (hit)
            return hit;
    }
    return NULL;
}

/* "outputs in 4 of 128" */
static void cut_text(const rk_module *m, const rk_tensor *t, char *buf, size_t size)
{
    static const char *const axis[] = { [RK__PLACE_COLUMN] = "outputs",
                                        [RK__PLACE_ROW] = "inputs",
                                        [RK__PLACE_ROWS] = "rows",
                                        [RK__PLACE_CHANNELS] = "channels" };
    if (!t->cut) {
        snprintf(buf, size, "whole");
        return;
    }
    int64_t lo, hi;
    rk_order_leaf(t->cut->whole, m->ctx->shards.count, m->ctx->shards.count - 1, &lo, &hi);
    snprintf(buf, size, "%s in %d of %lld", axis[m->place], m->ctx->shards.count, (long long)(hi - lo));
}

void rk__place_print(const rk_module *root, rk__text *t)
{
    char shape[128], how[96];
    int width = 9;
    for (int i = 0; i < root->nparams; i++)
        if ((int)strlen(root->params[i].name) > width)
            width = (int)strlen(root->params[i].name);
    rk__text_printf(t, "%-*.200s  %-18s  %-24s  %s\n", width, "parameter", "shape", "cut", "why");
    for (int i = 0; i < root->nparams; i++) {
        const rk__param_slot *s = &root->params[i];
        const rk_module *m = owner_of(root, s->pub.tensor);
        if (s->pub.buffer || !m)
            continue;
        bool other = m->place == RK__PLACE_ROW && s->pub.tensor == m->bias;
        cut_text(m, s->pub.tensor, how, sizeof how);
        rk__text_printf(t, "%-*.200s  %-18s  %-24s  %s\n", width, s->name,
                        rk__shape_str(&s->pub.tensor->shape, shape, sizeof shape), how,
                        m->ctx->shards.count <= 1 ? "grid.tensor is 1"
                        : other                   ? "added to the sum"
                                                  : m->why);
    }
}
