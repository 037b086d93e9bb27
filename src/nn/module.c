#include "nn/module.h"

#include "parallel/park.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the tree ---- */

static void free_tree(rk_module *m)
{
    for (rk_module *c = m->first, *next; c; c = next) {
        next = c->next;
        free_tree(c);
    }
    for (int i = 0; i < m->nparams; i++)
        free(m->params[i].name);
    free(m->params);
    free(m->full);
    free(m);
}

static void close_root(void *arg)
{
    free_tree(arg);
}

static bool good_name(const char *name)
{
    return *name &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == strlen(name);
}

rk_module *rk_root(rk_ctx *ctx, const char *name)
{
    if (!ctx || rk_failed(ctx))
        return NULL;
    if (!good_name(name)) {
        rk_fail(ctx, RK_EUSAGE, "\"%s\" cannot name a module: use letters, digits, _ and -", name);
        return NULL;
    }
    rk_module *m = rk__calloc(ctx, 1, sizeof *m);
    if (!m)
        return NULL;
    m->ctx = ctx;
    m->root = m;
    m->kind = &rk__kind_sequence;
    m->full = rk__strdup(ctx, "");
    if (!m->full || rk__at_close(ctx, close_root, m)) {
        free_tree(m);
        return NULL;
    }
    return m;
}

static char *join(rk_ctx *ctx, const char *prefix, const char *name)
{
    size_t n = strlen(prefix) + strlen(name) + 2;
    char *s = rk__calloc(ctx, n, 1);
    if (s)
        snprintf(s, n, "%s%s%s", prefix, *prefix ? "." : "", name);
    return s;
}

rk_module *rk__module_add(rk_module *parent, const char *name, const rk__layer_kind *kind)
{
    if (!parent || rk_failed(parent->ctx))
        return NULL;
    rk_ctx *ctx = parent->ctx;
    if (!name || !good_name(name)) {
        rk_fail(ctx, RK_EUSAGE, "\"%s\" cannot name a layer: use letters, digits, _ and -", name ? name : "");
        return NULL;
    }
    char *full = join(ctx, parent->full, name);
    for (rk_module *c = parent->first; full && c; c = c->next)
        if (!strcmp(c->full, full)) {
            rk_fail(ctx, RK_ECONFIG, "two layers are named %s: give one another name", full);
            free(full);
            return NULL;
        }
    rk_module *m = full ? rk__calloc(ctx, 1, sizeof *m) : NULL;
    if (!m) {
        free(full);
        return NULL;
    }
    *m = (rk_module){ .ctx = ctx, .root = parent->root, .parent = parent, .kind = kind, .full = full };
    if (parent->last)
        parent->last->next = m;
    else
        parent->first = m;
    parent->last = m;
    return m;
}

/* ---- parameters ---- */

static rk__param_slot *slot_add(rk_module *m, const char *name, rk_shape shape)
{
    rk_module *root = m->root;
    if (rk_failed(m->ctx))
        return NULL;
    if (root->nparams == root->cap) {
        int cap = root->cap ? 2 * root->cap : 16;
        rk__param_slot *p = realloc(root->params, (size_t)cap * sizeof *p);
        if (!p) {
            rk_fail(m->ctx, RK_ENOMEM, "out of memory");
            return NULL;
        }
        root->params = p;
        root->cap = cap;
    }
    char *full = join(m->ctx, m->full, name);
    rk_tensor *t = full ? rk_tensor_make(m->ctx, RK_F32, shape) : NULL;
    if (!t || rk_failed(m->ctx)) {
        free(full);
        return NULL;
    }
    rk__param_slot *slot = &root->params[root->nparams++];
    *slot = (rk__param_slot){ .pub = { .name = full, .tensor = t }, .name = full };
    return slot;
}

/* Elements that one output sees, and that one input reaches. */
static void fans(const rk_shape *s, int64_t *in, int64_t *out)
{
    int64_t window = 1;
    for (int i = 2; i < s->ndim; i++)
        window *= s->dim[i];
    *in = (s->ndim > 1 ? s->dim[1] : s->dim[0]) * window;
    *out = s->dim[0] * window;
}

rk_tensor *rk__param_add(rk_module *m, const char *name, rk_shape shape, bool no_decay, const rk__init *init,
                         int64_t fan_in, int64_t fan_out)
{
    rk__param_slot *slot = slot_add(m, name, shape);
    if (!slot)
        return NULL;
    slot->pub.no_decay = no_decay;
    fans(&shape, &slot->fan_in, &slot->fan_out);
    if (fan_in)
        slot->fan_in = fan_in;
    if (fan_out)
        slot->fan_out = fan_out;
    rk_require_grad(slot->pub.tensor, true);
    rk__init_values(m->ctx, slot, init);
    if (m->root->parked)
        rk__park(slot->pub.tensor);
    return slot->pub.tensor;
}

rk_tensor *rk__buffer_add(rk_module *m, const char *name, rk_shape shape, double value)
{
    rk__param_slot *slot = slot_add(m, name, shape);
    if (!slot)
        return NULL;
    slot->pub.buffer = true;
    const rk_kernels *k = rk__kernels(m->ctx, RK_F32);
    rk_status st = k->fill(m->ctx->dev, rk__size(slot->pub.tensor), value, rk__data(slot->pub.tensor));
    if (st)
        rk_fail(m->ctx, st, "%s: cannot be filled", slot->name);
    return slot->pub.tensor;
}

int rk_param_count(const rk_module *root)
{
    return root ? root->root->nparams : 0;
}

rk_param rk_param_at(const rk_module *root, int i)
{
    if (!root || i < 0 || i >= root->root->nparams)
        return (rk_param){ 0 };
    return root->root->params[i].pub;
}

rk_tensor *rk_param_find(const rk_module *root, const char *name)
{
    for (int i = 0; root && i < root->root->nparams; i++)
        if (!strcmp(root->root->params[i].name, name))
            return root->root->params[i].pub.tensor;
    return NULL;
}

int rk_init(rk_module *root, const char *glob, const char *kind, double scale)
{
    int n = 0;
    if (!root || rk_failed(root->ctx))
        return 0;
    if (!rk__init_known(kind)) {
        rk_fail(root->ctx, RK_EUSAGE, "\"%s\" is no way to initialise", kind);
        return 0;
    }
    for (int i = 0; i < root->root->nparams; i++) {
        const rk__param_slot *slot = &root->root->params[i];
        if (slot->pub.buffer || !rk__glob_match(glob, slot->name))
            continue;
        rk__init_values(root->ctx, slot, &(rk__init){ kind, scale });
        n++;
    }
    return n;
}

/* ---- freezing ---- */

/* [a-z], [!x]: *p stands behind the bracket afterwards. */
static bool match_set(const char **p, char c)
{
    const char *s = *p;
    bool negate = *s == '!' || *s == '^', found = false;
    if (negate)
        s++;
    for (bool first = true; *s && (*s != ']' || first); first = false) {
        if (s[1] == '-' && s[2] && s[2] != ']') {
            found |= c >= s[0] && c <= s[2];
            s += 3;
        } else {
            found |= c == *s++;
        }
    }
    *p = *s ? s + 1 : s;
    return found != negate;
}

/* Backtracks to the last star only: linear in practice, quadratic at worst. */
bool rk__glob_match(const char *glob, const char *name)
{
    const char *star = NULL, *resume = NULL;
    while (*name) {
        const char *g = glob;
        if (*g == '*') {
            star = ++glob;
            resume = name;
            continue;
        }
        bool hit = false;
        if (*g == '?') {
            hit = true;
            g++;
        } else if (*g == '[') {
            g++;
            hit = match_set(&g, *name);
        } else if (*g == *name) {
            hit = true;
            g++;
        }
        if (hit) {
            glob = g;
            name++;
        } else if (star) {
            glob = star;
            name = ++resume;
        } else {
            return false;
        }
    }
    while (*glob == '*')
        glob++;
    return !*glob;
}

static int set_frozen(rk_module *root, const char *glob, bool on)
{
    int n = 0;
    if (!root || rk_failed(root->ctx))
        return 0;
    for (int i = 0; i < root->root->nparams; i++) {
        rk__param_slot *slot = &root->root->params[i];
        if (slot->pub.buffer || !rk__glob_match(glob, slot->name))
            continue;
        slot->pub.frozen = on;
        rk_require_grad(slot->pub.tensor, !on);
        n++;
    }
    return n;
}

int rk_freeze(rk_module *root, const char *glob)
{
    return set_frozen(root, glob, true);
}

int rk_unfreeze(rk_module *root, const char *glob)
{
    return set_frozen(root, glob, false);
}

/* ---- running ---- */

/* A failure inside a layer is told with the layer's name. That of a device that computes by itself may be of
 * anything that it was given before. */
static void name_failure(const rk_module *m)
{
    rk_ctx *ctx = m->ctx;
    static const char found[] = "found at ";
    const bool late = ctx->status == RK_EDEVICE, at = !strncmp(ctx->message, found, sizeof found - 1);
    char old[sizeof ctx->message];
    memcpy(old, ctx->message + (at ? sizeof found - 1 : 0), sizeof old - (at ? sizeof found - 1 : 0));
    if (!*m->full || !strncmp(old, "layer ", 6))
        return;
    snprintf(ctx->message, sizeof ctx->message, "%slayer %s: %.900s", late ? found : "", m->full, old);
}

rk_tensor *rk__module_forward(rk_module *m, rk_tensor *x, rk_act act)
{
    rk_tensor *y = m->kind->forward(m, x, act);
    if (rk_failed(m->ctx))
        name_failure(m);
    else if (m->root->probe && !m->first)
        m->root->probe(m->root->probe_user, m, y);
    return y;
}

rk_tensor *rk_forward(rk_module *m, rk_tensor *x)
{
    if (!m || rk_failed(m->ctx))
        return rk__inert(rk_tensor_ctx(x));
    m->root->run_whole |= m == m->root;
    m->root->run_in_parts |= m != m->root;
    return rk__module_forward(m, x, RK_ACT_NONE);
}

/* ---- shapes ---- */

rk_status rk__shape_misfit(const rk_module *m, const rk_shape *in, const char *wanted)
{
    char s[128];
    return rk_fail(m->ctx, RK_ESHAPE, "layer %s (%s): gets a sample of shape %s, wanted %s", m->full,
                   m->kind->name, rk__shape_str(in, s, sizeof s), wanted);
}

rk_status rk__infer(rk_module *m, const rk_shape *in, rk_shape *out)
{
    m->flops = 0;
    return m->kind->infer(m, in, out);
}

static double forward_flops(const rk_module *m)
{
    double sum = m->flops;
    for (const rk_module *c = m->first; c; c = c->next)
        sum += forward_flops(c);
    return sum;
}

rk_status rk_output_shape(rk_module *m, rk_shape in, rk_shape *out, double *flops, int64_t *params)
{
    if (!m)
        return RK_EUSAGE;
    RK_TRY(rk_failed(m->ctx));
    RK_TRY(rk__infer(m, &in, out));
    if (flops)
        *flops = forward_flops(m);
    if (params) {
        *params = 0;
        for (int i = 0; i < m->root->nparams; i++)
            if (!m->root->params[i].pub.buffer)
                *params += rk__size(m->root->params[i].pub.tensor);
    }
    return RK_OK;
}

/* Forward once; the gradient of a trained weight once more; that of the input once more if something before
 * trains. */
static double train_flops(const rk_module *m, bool *trains)
{
    double sum = m->flops;
    if (*trains)
        sum += m->flops;
    if (m->weight && rk_requires_grad(m->weight)) {
        sum += m->flops;
        *trains = true;
    }
    for (const rk_module *c = m->first; c; c = c->next)
        sum += train_flops(c, trains);
    return sum;
}

double rk_train_flops(const rk_module *root)
{
    bool trains = false;
    return root ? train_flops(root, &trains) : 0;
}

static const char *find_module(const rk_module *m, bool (*is)(const rk_module *m))
{
    if (is(m))
        return m->full;
    for (const rk_module *c = m->first; c; c = c->next) {
        const char *name = find_module(c, is);
        if (name)
            return name;
    }
    return NULL;
}

static bool needs_batch(const rk_module *m)
{
    return rk__moves_running(m) && !m->a.batch_norm.cfg.shard_scope;
}

static bool needs_shards(const rk_module *m)
{
    return rk__moves_running(m) || (m->kind == &rk__kind_batch_norm && rk_requires_grad(m->bias));
}

const char *rk__global_batch_norm(const rk_module *m)
{
    return find_module(m, needs_batch);
}

const char *rk__shard_batch_norm(const rk_module *m)
{
    return find_module(m, needs_shards);
}
