/* The record of operations, and the walk that turns it into gradients. */
#include "core/tape.h"

#include <stdlib.h>
#include <string.h>

bool rk__wants_grad(const rk_tensor *t)
{
    return t && t->ctx->no_grad == 0 && (t->requires_grad || t->node);
}

bool rk_requires_grad(const rk_tensor *t)
{
    return t && (t->requires_grad || t->node);
}

void rk_require_grad(rk_tensor *t, bool on)
{
    if (rk__is_inert(t) || rk_failed(t->ctx))
        return;
    if (t->node)
        rk_fail(t->ctx, RK_EUSAGE, "rk_require_grad() takes leaves, not results of operations");
    else if (!rk__is_float(t->dtype))
        rk_fail(t->ctx, RK_EDTYPE, "a tensor of %s has no gradient", rk_dtype_name(t->dtype));
    else
        t->requires_grad = on;
}

rk_tensor *rk_grad(const rk_tensor *t)
{
    return t && t->grad_set ? t->grad : NULL;
}

void rk_grad_zero(rk_tensor *t)
{
    for (; t; t = t->next_part)
        t->grad_set = false;
}

/* ---- recording ---- */

/* A device that computes by itself tells of a failure at whatever call comes later. */
static rk_status op_failed(rk_ctx *ctx, const char *part, const char *op, rk_status st)
{
    if (st == RK_EDEVICE)
        return rk_fail(ctx, st, "found at %s%s: the device has failed", part, op);
    return rk_fail(ctx, st, "%s%s: %s", part, op,
                   st == RK_ENOMEM ? "out of memory in the device's kernel" : "the device's kernel failed");
}

rk_tensor *rk__op_failed(rk_ctx *ctx, const char *op, rk_status st)
{
    op_failed(ctx, "", op, st);
    return rk__inert(ctx);
}

rk_status rk__grad_failed(rk_ctx *ctx, const char *op, rk_status st)
{
    return op_failed(ctx, "the gradient of ", op, st);
}

static bool listed(const rk_tensor *t, rk_tensor *const *list, int n)
{
    for (int i = 0; i < n; i++)
        if (list[i] == t)
            return true;
    return false;
}

/* Saved values that no user holds: neither an input of the op nor the result of one. */
static bool is_internal(const rk_tensor *t, rk_tensor *const *in, int nin, const rk_tensor *out)
{
    return t && !t->node && t != out && !listed(t, in, nin);
}

rk_tensor *rk__record(rk_tensor *y, const rk__op *op, rk_tensor *const *in, int nin, rk_tensor *const *save,
                      int nsave, const void *attr, size_t attr_bytes)
{
    RK_ASSERT(nsave <= RK__MAX_SAVE && attr_bytes <= RK__ATTR_BYTES);
    if (rk__is_inert(y))
        return y;
    rk_ctx *ctx = y->ctx;
    bool wanted = false;
    for (int i = 0; i < nin; i++)
        wanted |= rk__wants_grad(in[i]);
    if (!wanted) {
        for (int i = 0; i < nsave; i++)
            if (is_internal(save[i], in, nin, y))
                rk__drop(save[i]);
        return y;
    }
    rk__node *node = rk__step_record(ctx, sizeof *node);
    rk_tensor **ins = rk__step_record(ctx, (size_t)nin * sizeof *ins);
    if (!node || !ins)
        return rk__inert(ctx);
    memcpy(ins, in, (size_t)nin * sizeof *ins);
    for (int i = 0; i < nin; i++) {
        if (in[i] && in[i]->node)
            in[i]->node->uses++;
        else if (in[i] && in[i]->requires_grad)
            in[i]->pending++;
    }
    *node =
        (rk__node){ .op = op, .out = y, .in = ins, .nin = nin, .nsave = nsave, .prev = ctx->tape->newest };
    if (nsave)
        memcpy(node->save, save, (size_t)nsave * sizeof *save);
    if (attr_bytes)
        memcpy(node->attr, attr, attr_bytes);
    y->node = node;
    ctx->tape->newest = node;
    return y;
}

/* ---- gradients ---- */

rk_order rk__order(const rk_ctx *ctx, int64_t unit)
{
    return (rk_order){ .segments = ctx->grid.segments, .unit = unit > 0 ? unit : 1, .acc = RK_ACC_SET };
}

/* The buffer of a leaf's gradient is made once and kept. */
static rk_tensor *leaf_buffer(rk_tensor *t)
{
    if (!t->grad) {
        t->grad =
            t->persistent ? rk_tensor_make(t->ctx, t->dtype, t->shape) : rk__out(t->ctx, t->dtype, t->shape);
        if (rk__is_inert(t->grad)) {
            t->grad = NULL;
            return NULL;
        }
        t->grad->holds_grad = true;
    }
    return t->grad;
}

static void forget_gradient(rk_tensor *t)
{
    t->grad->holds_grad = false;
    rk__drop(t->grad);
    t->grad = NULL;
    t->grad_set = false;
}

/* The first gradient that t gets in this walk. A kept result forgets the one of an earlier walk: only leaves
 * add up over walks. Within the chain of a shard a leaf's sum can be continued once a walk: a second use
 * would interleave. */
static rk_status enter_pass(rk_tensor *t)
{
    rk_ctx *ctx = t->ctx;
    bool again = t->grad_set && t->grad_pass == ctx->tape->pass;
    if (t->node && t->grad_set && !again)
        forget_gradient(t);
    if (!t->node && again && ctx->grid.chain)
        return rk_fail(
            ctx, RK_ECONFIG,
            "a parameter that is used twice needs batch.micro of at least one data shard; raise batch.micro");
    t->grad_pass = ctx->tape->pass;
    return RK_OK;
}

rk_tensor *rk__grad_begin(rk_tensor *t, int64_t unit, rk_order *order)
{
    rk_ctx *ctx = t->ctx;
    *order = rk__order(ctx, unit);
    if (rk_failed(ctx) || enter_pass(t))
        return NULL;
    if (t->grad_set) {
        order->acc = ctx->grid.chain && !t->node ? RK_ACC_CHAIN : RK_ACC_ADD;
        if (t->grad->storage->refs > 1 &&
            t->node) { /* shared with another tensor's gradient: take a copy to add to */
            rk_tensor *own = rk__out(ctx, t->dtype, t->shape);
            if (rk__is_inert(own) ||
                rk_tensor_write(own, rk__data(t->grad), (size_t)rk__size(t) * rk_dtype_size(t->dtype)))
                return NULL;
            own->holds_grad = true;
            rk__drop(t->grad);
            t->grad = own;
        }
    } else if (!t->node) {
        if (!leaf_buffer(t))
            return NULL;
    } else {
        t->grad = rk__out(ctx, t->dtype, t->shape);
        if (rk__is_inert(t->grad))
            return NULL;
        t->grad->holds_grad = true;
    }
    t->grad_set = true;
    return t->grad;
}

/* ---- parts ---- */

int rk__parts(const rk_ctx *ctx)
{
    return ctx->grid.parts > 1 ? ctx->grid.parts : 1;
}

rk_status rk__part_of(rk_ctx *ctx, int p, int64_t samples, int64_t unit, rk__part *out)
{
    const rk__grid *g = &ctx->grid;
    *out = (rk__part){ .n = samples, .order = rk__order(ctx, unit) };
    if (g->parts <= 1)
        return RK_OK;
    if (g->end[g->parts - 1] != samples)
        return rk_fail(
            ctx, RK_ESHAPE,
            "a sum over %lld rows, but this rank's part of the batch has %lld samples: the first axis has to "
            "be the samples",
            (long long)samples, (long long)g->end[g->parts - 1]);
    out->lo = p ? g->end[p - 1] : 0;
    out->n = g->end[p] - out->lo;
    out->order.segments = g->leaves[p];
    return RK_OK;
}

static void free_part(void *arg)
{
    free(arg);
}

rk_tensor *rk__part_leaf(rk_tensor *t, int p)
{
    for (; p > 0; p--, t = t->next_part) {
        if (t->next_part)
            continue;
        rk_tensor *next = rk__calloc(t->ctx, 1, sizeof *next);
        if (!next || rk__at_close(t->ctx, free_part, next)) {
            free(next);
            return NULL;
        }
        *next = (rk_tensor){ .ctx = t->ctx, .dtype = t->dtype, .shape = t->shape, .persistent = true };
        t->next_part = next;
    }
    return t;
}

rk_status rk__grad_part(rk_tensor *t, int p, int64_t samples, int64_t unit, rk__part *out)
{
    rk_ctx *ctx = t->ctx;
    RK_TRY(rk__part_of(ctx, p, samples, unit, out));
    if (t->node && (ctx->ranks > 1 || ctx->grid.parts > 1))
        return rk_fail(ctx, RK_EUSAGE,
                       "a weight that is the result of an operation cannot be trained by several ranks: the "
                       "sum over the "
                       "batch has to end in a parameter");
    int segments = out->order.segments;
    rk_tensor *leaf = t->node ? t : rk__part_leaf(t, ctx->grid.first_part + p);
    out->sum = leaf ? rk__grad_begin(leaf, unit, &out->order) : NULL;
    out->order.segments = segments;
    return out->sum ? RK_OK : rk_failed(ctx);
}

static rk_status copy_into(rk_tensor *to, const rk_tensor *from)
{
    rk_ctx *ctx = to->ctx;
    rk_status st =
        ctx->device->copy_strided(ctx->dev, rk_dtype_size(to->dtype), to->shape.ndim, to->shape.dim,
                                  from->stride, rk__data(from), to->stride, rk__data(to));
    return st ? rk_fail(ctx, st, "cannot copy a gradient") : RK_OK;
}

/* bf16 is a storage type: the sum is made in f32 and rounded once. */
static rk_status add_stored(rk_tensor *t, rk_tensor *g)
{
    rk_ctx *ctx = t->ctx;
    rk_tensor *a = rk_cast(t->grad, RK_F32), *b = rk_cast(g, RK_F32);
    void *pa = rk__data(a), *pb = rk__data(b);
    if (!pa || !pb)
        return rk_failed(ctx);
    rk_status st = rk__kernels(ctx, RK_F32)->add(ctx->dev, rk__size(t), pa, pb, 0, pa);
    if (st)
        return rk_fail(ctx, st, "cannot add gradients");
    rk_tensor *sum = rk_cast(a, t->dtype);
    RK_TRY(rk_failed(ctx));
    rk__drop(a);
    rk__drop(b);
    if (!t->node)
        return copy_into(t->grad, sum);
    sum->holds_grad = true;
    rk__drop(t->grad);
    t->grad = sum;
    return RK_OK;
}

/* t->grad += g, in place if nobody shares the memory. */
static rk_status add_gradient(rk_tensor *t, rk_tensor *g)
{
    rk_ctx *ctx = t->ctx;
    if (t->dtype != RK_F32 && t->dtype != RK_F64)
        return add_stored(t, g);
    rk_tensor *sum = t->grad;
    if (sum->storage->refs > 1 && !sum->persistent) {
        sum = rk__out(ctx, t->dtype, t->shape);
        sum->holds_grad = true;
    }
    const rk_kernels *k = rk__kernels(ctx, t->dtype);
    void *a = rk__data(t->grad), *b = rk__data(g), *out = rk__data(sum);
    if (!a || !b || !out)
        return rk_failed(ctx);
    if (!k)
        return rk_fail(ctx, RK_EDTYPE, "gradients of %s cannot be added", rk_dtype_name(t->dtype));
    rk_status st = k->add(ctx->dev, rk__size(t), a, b, 0, out);
    if (sum != t->grad) {
        rk__drop(t->grad);
        t->grad = sum;
    }
    return st ? rk_fail(ctx, st, "cannot add gradients") : RK_OK;
}

rk_status rk__grad_give(rk_tensor *t, rk_tensor *g)
{
    if (rk__is_inert(g))
        return rk_failed(t->ctx);
    RK_ASSERT(g->dtype == t->dtype && rk__shape_eq(&g->shape, &t->shape));
    RK_TRY(enter_pass(t));
    if (t->grad_set)
        return add_gradient(t, rk__dense(g));
    if (t->node) {
        t->grad = rk__is_contiguous(g) ? rk__view(g, g->shape, g->stride, g->offset) : rk__dense(g);
        if (rk__is_inert(t->grad)) {
            t->grad = NULL;
            return rk_failed(t->ctx);
        }
        t->grad->holds_grad = true;
    } else {
        if (!leaf_buffer(t))
            return rk_failed(t->ctx);
        RK_TRY(copy_into(t->grad, g));
    }
    t->grad_set = true;
    return RK_OK;
}

/* ---- the walk ---- */

/* Drops what a rule made and nobody took: handles newer than `mark` that are no gradient. */
static void drop_temporaries(rk_ctx *ctx, const rk_tensor *mark)
{
    for (rk_tensor *t = ctx->step_tensors; t && t != mark; t = t->next_step)
        if (!t->holds_grad)
            rk__drop(t);
}

static void drop_passed(rk__node *node)
{
    for (int i = 0; i < node->nsave; i++)
        if (is_internal(node->save[i], node->in, node->nin, node->out))
            rk__drop(node->save[i]);
    rk__drop(node->out);
}

static rk_status walk_node(rk_ctx *ctx, rk__node *node, bool retain)
{
    rk_tensor *y = node->out;
    if (!y->grad_set || y->grad_pass != ctx->tape->pass)
        return RK_OK;
    if (node->walked)
        return rk_fail(ctx, RK_EUSAGE,
                       "%s was walked by an earlier rk_backward(), which released its values; use "
                       "rk_backward_retain() there",
                       node->op->name);
    const rk_tensor *mark = ctx->step_tensors;
    RK_TRY(node->op->backward(ctx, node, y->grad));
    RK_TRY(rk_failed(ctx));
    drop_temporaries(ctx, mark);
    if (!y->kept)
        forget_gradient(y);
    if (!retain) {
        node->walked = true;
        drop_passed(node);
    }
    return RK_OK;
}

/* The walk has passed the node: leaves that no other reads have their gradient. */
static void leaves_passed(rk_ctx *ctx, const rk__node *node)
{
    for (int i = 0; i < node->nin; i++) {
        rk_tensor *t = node->in[i];
        if (t && !t->node && t->requires_grad && --t->pending == 0 && ctx->on_ready.fn)
            ctx->on_ready.fn(ctx->on_ready.arg, t);
    }
}

static rk_status walk(rk_tensor *y, bool retain)
{
    rk_ctx *ctx = y->ctx;
    rk__node *node = ctx->tape->newest;
    while (node && node != y->node)
        node = node->prev;
    if (!node)
        return rk_fail(ctx, RK_EUSAGE, "rk_backward(): no operation of this step leads to this tensor");
    for (; node; node = node->prev) {
        RK_TRY(walk_node(ctx, node, retain));
        leaves_passed(ctx, node);
    }
    return RK_OK;
}

static rk_status backward(rk_tensor *y, rk_tensor *dy, bool retain)
{
    if (rk__is_inert(y) || rk_failed(y->ctx))
        return y ? rk_failed(y->ctx) : RK_EUSAGE;
    rk_ctx *ctx = y->ctx;
    char a[160], b[160];
    if (!y->node)
        return rk_fail(ctx, RK_EUSAGE,
                       "rk_backward(): nothing that requires a gradient leads to this tensor");
    if (rk__is_inert(dy))
        return rk_fail(ctx, RK_EUSAGE, "rk_backward_from(): the seed gradient is inert");
    if (!rk__shape_eq(&y->shape, &dy->shape) || y->dtype != dy->dtype)
        return rk_fail(ctx, RK_ESHAPE,
                       "rk_backward_from(): the seed gradient is %s of %s, the tensor %s of %s",
                       rk__shape_str(&dy->shape, a, sizeof a), rk_dtype_name(dy->dtype),
                       rk__shape_str(&y->shape, b, sizeof b), rk_dtype_name(y->dtype));
    ctx->tape->pass++;
    rk_no_grad_begin(ctx);
    rk_status st = rk__grad_give(y, dy);
    if (!st)
        st = walk(y, retain);
    rk_no_grad_end(ctx);
    return st;
}

/* What the loss is multiplied by: the device may know it alone. */
static rk_tensor *seed_of(const rk_tensor *loss)
{
    rk_ctx *ctx = loss->ctx;
    const rk__loss_scale *by = &ctx->loss_scale;
    const double scale = by->fn ? by->fn(by->arg) : 1;
    if (!by->watch || !rk__is_float(loss->dtype) || rk_failed(ctx))
        return rk__constant(ctx, loss->dtype, loss->shape, scale);
    rk_tensor *seed = rk__out(ctx, loss->dtype, loss->shape);
    const void *from = loss->dtype == RK_F64 ? (const void *)&by->watch->seed64 : &by->watch->seed32;
    void *to = rk__data(seed);
    if (!to || rk__device_copy(ctx, rk_dtype_size(loss->dtype), from, to))
        return rk__inert(ctx);
    return seed;
}

static rk_status backward_of_loss(rk_tensor *loss, bool retain)
{
    if (rk__is_inert(loss) || rk_failed(loss->ctx))
        return loss ? rk_failed(loss->ctx) : RK_EUSAGE;
    char text[160];
    if (rk__size(loss) != 1)
        return rk_fail(loss->ctx, RK_ESHAPE,
                       "rk_backward() takes a loss of one element, not %s; see rk_backward_from()",
                       rk__shape_str(&loss->shape, text, sizeof text));
    rk_keep(loss);
    rk_tensor *seed = seed_of(loss);
    rk_status st = backward(loss, seed, retain);
    rk__drop(seed);
    return st;
}

rk_status rk_backward(rk_tensor *loss)
{
    return backward_of_loss(loss, false);
}

rk_status rk_backward_retain(rk_tensor *loss)
{
    return backward_of_loss(loss, true);
}

rk_status rk_backward_from(rk_tensor *y, rk_tensor *dy)
{
    return backward(y, dy, false);
}
