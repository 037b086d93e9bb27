/* Products: matmul over the last two axes, and the fused linear layer. */
#include "core/cut.h"
#include "core/rounded.h"

#include <string.h>

/* A matrix, or a batch of them, as gemm takes it: no copy where one stride is 1. */
typedef struct matrices {
    rk_tensor *t; /* what the strides belong to */
    int64_t rows, cols, row, col;
    rk_rounded as16; /* of one matrix, where that is at hand */
} matrices;

/* Strides that gemm takes; an extent of 1 has none of its own. */
static bool matrix_strides(const rk_tensor *t, matrices *m)
{
    int n = t->shape.ndim;
    m->as16 = (rk_rounded){ 0 };
    m->rows = t->shape.dim[n - 2];
    m->cols = t->shape.dim[n - 1];
    m->row = t->stride[n - 2];
    m->col = m->cols <= 1 ? 1 : t->stride[n - 1];
    if (m->rows <= 1)
        m->row = m->col == 1 ? (m->cols > 1 ? m->cols : 1) : 0;
    bool by_row = m->col == 1 && m->row >= m->cols, by_col = m->row == 1 && m->col >= m->rows;
    return m->rows * m->cols == 0 || by_row || by_col;
}

static bool matrices_of(rk_tensor *t, matrices *m)
{
    m->t = t;
    if (matrix_strides(t, m))
        return true;
    m->t = rk__dense(t);
    return !rk__is_inert(m->t) && matrix_strides(m->t, m);
}

/* The same of one matrix that may be a weight. */
static bool weight_of(rk_tensor *t, matrices *m)
{
    if (!matrices_of(t, m))
        return false;
    if (m->t == t)
        m->as16 = rk__rounded_weight(t);
    return !rk_failed(t->ctx);
}

static matrices transposed(matrices m, bool swap)
{
    return swap ? (matrices){ m.t, m.cols, m.rows, m.col, m.row, m.as16 } : m;
}

/* Runs gemm; without terms to add the sum is 0. */
static rk_status multiply(const rk_kernels *k, rk_ctx *ctx, rk_gemm *g)
{
    g->round = ctx->round;
    if (!g->a || !g->b || !g->c)
        return rk_failed(ctx);
    int64_t batch = g->batch ? g->batch : 1;
    if (g->k > 0 || g->m * g->n * batch == 0)
        return k->gemm(ctx->dev, g);
    return g->order.segments && g->order.acc != RK_ACC_SET ? RK_OK
                                                           : k->fill(ctx->dev, g->m * g->n * batch, 0, g->c);
}

/* c = a @ b for two matrices; c is dense. */
static rk_gemm product(const matrices *a, const matrices *b, rk_tensor *c)
{
    return (rk_gemm){ .m = a->rows,
                      .n = b->cols,
                      .k = a->cols,
                      .a = rk__data(a->t),
                      .a_row = a->row,
                      .a_col = a->col,
                      .b = rk__data(b->t),
                      .b_row = b->row,
                      .b_col = b->col,
                      .c = rk__data(c),
                      .ldc = b->cols,
                      .a16 = a->as16,
                      .b16 = b->as16 };
}

/* Rows [lo, lo + n) of m. */
static const void *row_of(const matrices *m, int64_t lo)
{
    return rk__at(m->t, lo * m->row);
}

/* The same in 16 bits, where lines are rows. */
static rk_rounded row16_of(const matrices *m, int64_t lo)
{
    const uint16_t *p = m->as16.data;
    return p ? (rk_rounded){ p + lo * m->as16.step, m->as16.step } : m->as16;
}

/* Part p of the gradient of w, a' b, where the rows of a and b are those of `samples` samples: a sum over the
 * samples, written where it belongs. beside may be NULL. */
static rk_status part_of_products(const rk_kernels *k, rk_tensor *w, int p, int64_t samples,
                                  const matrices *a, const matrices *b, rk_gemm_beside *beside)
{
    const int64_t unit = samples ? a->rows / samples : 1;
    rk__part part;
    RK_TRY(rk__grad_part(w, p, samples, unit, &part));
    matrices turned = transposed(*a, true);
    rk_gemm g = product(&turned, b, part.sum);
    g.k = part.n * unit;
    g.a = row_of(a, part.lo * unit);
    g.b = row_of(b, part.lo * unit);
    g.a16 = row16_of(a, part.lo * unit);
    g.b16 = row16_of(b, part.lo * unit);
    g.order = part.order;
    g.beside = beside;
    return multiply(k, w->ctx, &g);
}

static rk_status sum_of_products(const rk_kernels *k, rk_tensor *w, int64_t samples, const matrices *a,
                                 const matrices *b)
{
    rk_ctx *ctx = w->ctx;
    if (!rk__data(a->t) || !rk__data(b->t))
        return rk_failed(ctx);
    for (int p = 0; p < rk__parts(ctx); p++)
        RK_TRY(part_of_products(k, w, p, samples, a, b, NULL));
    return RK_OK;
}

/* ---- matmul ---- */

typedef struct matmul_attr {
    bool trans_a, trans_b;
} matmul_attr;

/* The leading axes of a batch of shape `lead` as one axis: its stride in t, or false if there is none. */
static bool batch_stride(const rk_tensor *t, const rk_shape *lead, int64_t *stride)
{
    int own = t->shape.ndim - 2, skip = lead->ndim - own;
    int64_t expected = -1, step = 0;
    for (int i = lead->ndim - 1; i >= 0; i--) {
        if (lead->dim[i] == 1)
            continue;
        int64_t s = i < skip || t->shape.dim[i - skip] == 1 ? 0 : t->stride[i - skip];
        if (expected < 0)
            step = s;
        else if (s != expected)
            return false;
        expected = s * lead->dim[i];
    }
    *stride = step;
    return true;
}

/* t's matrices with leading axes `lead`, as one batch; copies only where no single stride leads through them.
 */
static bool batch_of(rk_tensor *t, const rk_shape *lead, matrices *m, int64_t *stride)
{
    if (!matrices_of(t, m))
        return false;
    if (batch_stride(m->t, lead, stride))
        return true;
    rk_shape full = *lead;
    full.dim[full.ndim++] = m->rows;
    full.dim[full.ndim++] = m->cols;
    m->t = rk__spread(m->t, &full);
    return !rk__is_inert(m->t) && matrix_strides(m->t, m) && batch_stride(m->t, lead, stride);
}

static rk_shape leading(const rk_shape *s)
{
    rk_shape lead = *s;
    lead.ndim -= 2;
    return lead;
}

static int64_t count(const rk_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i < s->ndim; i++)
        n *= s->dim[i];
    return n;
}

/* c (lead.., m, n) = op(a) @ op(b). */
static rk_status multiply_batch(const rk_kernels *k, rk_tensor *a, bool trans_a, rk_tensor *b, bool trans_b,
                                rk_tensor *c)
{
    rk_ctx *ctx = c->ctx;
    rk_shape lead = leading(&c->shape);
    matrices ma, mb;
    int64_t stride_a, stride_b, batch = count(&lead);
    if (!batch_of(a, &lead, &ma, &stride_a) || !batch_of(b, &lead, &mb, &stride_b))
        return rk_failed(ctx);
    rk_tensor *temp_a = ma.t, *temp_b = mb.t;
    ma = transposed(ma, trans_a);
    mb = transposed(mb, trans_b);
    rk_gemm g = product(&ma, &mb, c);
    g.batch = batch;
    g.a_batch = stride_a;
    g.b_batch = stride_b;
    g.c_batch = g.m * g.n;
    rk_status st = batch == 0 ? RK_OK : multiply(k, ctx, &g);
    rk__drop_temp(temp_a, a);
    rk__drop_temp(temp_b, b);
    return st;
}

/* One matrix b for a dense batch of rows a: (.., m, k) is one tall matrix. */
static bool is_tall(const rk_tensor *a, const rk_tensor *b, bool trans_a)
{
    rk_shape lead = leading(&b->shape);
    return !trans_a && count(&lead) == 1 && (a->shape.ndim == 2 || rk__is_contiguous(a)) &&
           a->shape.ndim >= b->shape.ndim;
}

static bool tall(rk_tensor *t, matrices *m)
{
    *m = (matrices){ .t = t };
    if (t->shape.ndim == 2)
        return matrices_of(t, m);
    m->rows = rk__rows(t);
    m->cols = m->row = t->shape.dim[t->shape.ndim - 1];
    m->col = 1;
    return true;
}

static rk_status matmul_forward(const rk__call *c, rk_tensor *a, rk_tensor *b, matmul_attr t, rk_tensor *y)
{
    if (!is_tall(a, b, t.trans_a))
        return multiply_batch(c->k, a, t.trans_a, b, t.trans_b, y);
    matrices ma, mb;
    if (!tall(a, &ma) || !weight_of(b, &mb))
        return rk_failed(c->ctx);
    rk_tensor *temp_a = ma.t, *temp_b = mb.t;
    mb = transposed(mb, t.trans_b);
    rk_gemm g = product(&ma, &mb, y);
    rk_status st = multiply(c->k, c->ctx, &g);
    rk__drop_temp(temp_a, a);
    rk__drop_temp(temp_b, b);
    return st;
}

/* The gradient of b where a is tall: a sum over the samples, written where it belongs. */
static rk_status tall_weight_gradient(const rk_kernels *k, rk_tensor *a, rk_tensor *b, bool trans_b,
                                      rk_tensor *dy)
{
    rk_ctx *ctx = b->ctx;
    matrices ma, md;
    if (!tall(a, &ma) || !tall(dy, &md))
        return rk_failed(ctx);
    return trans_b ? sum_of_products(k, b, a->shape.dim[0], &md, &ma)
                   : sum_of_products(k, b, a->shape.dim[0], &ma, &md);
}

static rk_status tall_input_gradient(const rk_kernels *k, rk_tensor *a, rk_tensor *b, bool trans_b,
                                     rk_tensor *dy)
{
    rk_ctx *ctx = b->ctx;
    matrices md, mb;
    if (!tall(dy, &md) || !weight_of(b, &mb))
        return rk_failed(ctx);
    mb = transposed(mb, !trans_b);
    rk_tensor *da = rk__out(ctx, dy->dtype, a->shape);
    rk_gemm g = product(&md, &mb, da);
    rk_gemm_beside beside;
    rk__ask_before(a, &g, &beside);
    RK_TRY(multiply(k, ctx, &g));
    rk__asked_before(a, &beside);
    return rk__grad_give(a, da);
}

/* The shape of an operand with the leading axes of the result. */
static rk_shape batched_shape(const rk_tensor *t, const rk_tensor *y)
{
    rk_shape s = leading(&y->shape);
    for (int i = 2; i > 0; i--)
        s.dim[s.ndim++] = t->shape.dim[t->shape.ndim - i];
    return s;
}

static rk_status batch_gradients(const rk_kernels *k, rk_tensor *a, rk_tensor *b, matmul_attr t,
                                 rk_tensor *dy)
{
    rk_ctx *ctx = dy->ctx;
    if (rk_requires_grad(a)) {
        rk_tensor *da = rk__out(ctx, dy->dtype, batched_shape(a, dy));
        RK_TRY(t.trans_a ? multiply_batch(k, b, t.trans_b, dy, true, da)
                         : multiply_batch(k, dy, false, b, !t.trans_b, da));
        RK_TRY(rk__grad_give_sum(a, da));
    }
    if (rk_requires_grad(b)) {
        rk_tensor *db = rk__out(ctx, dy->dtype, batched_shape(b, dy));
        RK_TRY(t.trans_b ? multiply_batch(k, dy, true, a, t.trans_a, db)
                         : multiply_batch(k, a, !t.trans_a, dy, false, db));
        RK_TRY(rk__grad_give_sum(b, db));
    }
    return RK_OK;
}

static rk_status matmul_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    matmul_attr t;
    memcpy(&t, node->attr, sizeof t);
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *a = node->in[0], *b = node->in[1];
    rk_status st = RK_OK;
    if (!is_tall(a, b, t.trans_a)) {
        st = batch_gradients(k, a, b, t, dy);
    } else {
        if (rk_requires_grad(b))
            st = tall_weight_gradient(k, a, b, t.trans_b, dy);
        if (!st && rk_requires_grad(a))
            st = tall_input_gradient(k, a, b, t.trans_b, dy);
    }
    return st ? rk__grad_failed(ctx, "matmul", st) : RK_OK;
}

static const rk__op op_matmul = { "matmul", matmul_backward };

static bool matmul_shape(const rk__call *c, const rk_tensor *a, const rk_tensor *b, matmul_attr t,
                         rk_shape *out)
{
    char ta[160], tb[160];
    const rk_shape *sa = &a->shape, *sb = &b->shape;
    rk__shape_str(sa, ta, sizeof ta);
    rk__shape_str(sb, tb, sizeof tb);
    if (sa->ndim < 2 || sb->ndim < 2) {
        rk_fail(c->ctx, RK_ESHAPE,
                "matmul: both tensors need two axes or more, not %s and %s; rk_reshape() a vector", ta, tb);
        return false;
    }
    int64_t m = sa->dim[sa->ndim - (t.trans_a ? 1 : 2)], ka = sa->dim[sa->ndim - (t.trans_a ? 2 : 1)];
    int64_t kb = sb->dim[sb->ndim - (t.trans_b ? 1 : 2)], n = sb->dim[sb->ndim - (t.trans_b ? 2 : 1)];
    if (ka != kb) {
        rk_fail(c->ctx, RK_ESHAPE, "matmul: %s%s times %s%s: %lld columns meet %lld rows", ta,
                t.trans_a ? " transposed" : "", tb, t.trans_b ? " transposed" : "", (long long)ka,
                (long long)kb);
        return false;
    }
    rk_shape lead_a = leading(sa), lead_b = leading(sb);
    if (!rk__broadcast_shape(c->ctx, "matmul (leading axes)", &lead_a, &lead_b, out))
        return false;
    out->dim[out->ndim++] = m;
    out->dim[out->ndim++] = n;
    return true;
}

rk_tensor *rk_matmul(rk_tensor *a, rk_tensor *b, bool trans_a, bool trans_b)
{
    rk__call c;
    rk_tensor *in[] = { a, b };
    matmul_attr t = { trans_a, trans_b };
    rk_shape shape;
    if (!rk__call_begin(&c, "matmul", in, 2))
        return rk__inert(c.ctx);
    if (!in[1]) {
        rk_fail(c.ctx, RK_EUSAGE, "matmul: a tensor is NULL");
        return rk__inert(c.ctx);
    }
    if (!matmul_shape(&c, in[0], in[1], t, &shape))
        return rk__inert(c.ctx);
    rk_tensor *y = rk__out(c.ctx, c.type, shape);
    if (rk__call_check(&c, matmul_forward(&c, in[0], in[1], t, y)) || rk_failed(c.ctx))
        return rk__inert(c.ctx);
    return rk__call_end(&c, rk__record(y, &op_matmul, in, 2, NULL, 0, &t, sizeof t));
}

/* ---- linear ---- */

typedef struct linear_attr {
    rk_act act;
} linear_attr;

static bool is_cut(const rk_tensor *w, int axis)
{
    return w->cut && w->cut->axis == axis;
}

/* Of a product over axis `axis` of w. */
static rk_order order_of_cut(const rk_ctx *ctx, const rk_tensor *w, int axis)
{
    return (rk_order){ is_cut(w, axis) ? rk__cut_chains(ctx) : 1, 1, RK_ACC_SET };
}

/* dy before the activation. */
static rk_tensor *before_activation(rk__node *node, rk_act act, rk_tensor *dy)
{
    if (act == RK_ACT_NONE)
        return dy;
    if (act == RK_ACT_RELU)
        return rk__relu_undo(node, dy);
    if (node->sloped) {
        node->sloped = false;
        return dy;
    }
    rk_ctx *ctx = dy->ctx;
    const rk_kernels *k = rk__kernels(ctx, dy->dtype);
    rk_tensor *g = rk__grad_room(node, dy);
    const void *pre = rk__data(node->save[0]), *from = rk__data(dy);
    void *to = rk__data(g);
    if (!pre || !from || !to)
        return rk__inert(ctx);
    rk_status st =
        (act == RK_ACT_GELU ? k->gelu_grad : k->gelu_tanh_grad)(ctx->dev, rk__size(dy), pre, from, 0, to);
    return st ? rk__op_failed(ctx, "linear", st) : g;
}

/* Part `part` of a bias's gradient: a sum over rows of g. */
static rk_status sum_rows(const rk_kernels *k, const rk__part *part, int64_t unit, rk_tensor *g)
{
    const int64_t width = part->sum->shape.dim[0];
    rk_shape s = unit == 1 ? RK_SHAPE(part->n, width) : RK_SHAPE(part->n, unit, width);
    rk_tensor *view = rk__view(g, s, NULL, g->offset + part->lo * unit * width);
    if (rk__is_inert(view))
        return rk_failed(g->ctx);
    return rk__sum_axes(k, view, unit == 1 ? 1u : 3u, part->order, rk__data(part->sum));
}

/* The gradients of w and b, part by part; that of b beside that of w where the device has it there. */
static rk_status linear_sums(rk__node *node, const rk_kernels *k, int64_t samples, const matrices *mg,
                             const matrices *mx)
{
    rk_tensor *w = node->in[1], *b = node->in[2];
    rk_ctx *ctx = w->ctx;
    const int64_t unit = samples ? mg->rows / samples : 1;
    if (!rk__data(mg->t) || !rk__data(mx->t))
        return rk_failed(ctx);
    for (int p = 0; p < rk__parts(ctx); p++) {
        rk_gemm_beside beside = { 0 };
        rk__part part;
        if (rk_requires_grad(b)) {
            RK_TRY(rk__grad_part(b, p, samples, unit, &part));
            beside.a_sums = rk__data(part.sum);
            beside.sums_acc = part.order.acc;
        }
        if (rk_requires_grad(w))
            RK_TRY(part_of_products(k, w, p, samples, mg, mx,
                                    rk__device_uses(ctx) & RK_BESIDE_SUMS ? &beside : NULL));
        if (rk_requires_grad(b) && !(beside.done & RK_BESIDE_SUMS))
            RK_TRY(sum_rows(k, &part, unit, mg->t));
    }
    return RK_OK;
}

static rk_status linear_gradients(rk__node *node, const rk_kernels *k, rk_tensor *g)
{
    rk_ctx *ctx = g->ctx;
    rk_tensor *x = node->in[0], *w = node->in[1], *g16 = NULL;
    matrices mx, mw, mg;
    if (!tall(rk__is_contiguous(x) || x->shape.ndim == 2 ? x : rk__dense(x), &mx) || !weight_of(w, &mw) ||
        !tall(g, &mg))
        return rk_failed(ctx);
    if (rk_requires_grad(x) && rk_requires_grad(w) && g->dtype == RK_F32) /* two products read it */
        mg.as16 = rk__rounded_rows(ctx, mg.rows, mg.cols, mg.row, rk__data(mg.t), &g16);
    RK_TRY(linear_sums(node, k, x->shape.ndim > 1 ? x->shape.dim[0] : 1, &mg, &mx));
    if (rk_requires_grad(x)) {
        rk_tensor *dx = rk__out(ctx, g->dtype, x->shape);
        rk_gemm_beside beside;
        rk_gemm p = product(&mg, &mw, dx);
        p.order = order_of_cut(ctx, w, 0);
        rk__ask_before(x, &p, &beside); /* what it does to each subtree's sum it does to their sum */
        RK_TRY(multiply(k, ctx, &p));
        rk__drop(g16);
        rk__asked_before(x, &beside);
        if (is_cut(w, 0))
            RK_TRY(rk__cut_sum("linear, gradient", dx));
        return rk__grad_give(x, dx);
    }
    return RK_OK;
}

static rk_status linear_backward(rk_ctx *ctx, rk__node *node, rk_tensor *dy)
{
    linear_attr a;
    memcpy(&a, node->attr, sizeof a);
    rk_tensor *g = before_activation(node, a.act, dy);
    if (rk__is_inert(g))
        return rk_failed(ctx);
    rk_status st = linear_gradients(node, rk__kernels(ctx, dy->dtype), g);
    return st ? rk__grad_failed(ctx, "linear", st) : RK_OK;
}

static const rk__op op_linear = { "linear", linear_backward };

static bool linear_shape(const rk__call *c, const rk_tensor *x, const rk_tensor *w, const rk_tensor *b,
                         rk_shape *out)
{
    char tx[160], tw[160], tb[160] = "none";
    rk__shape_str(&x->shape, tx, sizeof tx);
    rk__shape_str(&w->shape, tw, sizeof tw);
    if (b)
        rk__shape_str(&b->shape, tb, sizeof tb);
    bool fits = x->shape.ndim >= 1 && w->shape.ndim == 2 && w->shape.dim[1] > 0 &&
                x->shape.dim[x->shape.ndim - 1] == w->shape.dim[1] &&
                (!b || (b->shape.ndim == 1 && b->shape.dim[0] == w->shape.dim[0]));
    if (!fits) {
        rk_fail(c->ctx, RK_ESHAPE,
                "linear: input %s, weight %s, bias %s; (.., in), (out, in) and (out) are wanted", tx, tw, tb);
        return false;
    }
    *out = x->shape;
    out->dim[out->ndim - 1] = w->shape.dim[0];
    return true;
}

/* What the product's epilogue does where it sees whole sums, for sums that ranks have made together. */
static rk_status finish_sum(const rk_kernels *k, const rk_gemm *g, rk_tensor *bias, rk_tensor *y)
{
    rk_ctx *ctx = y->ctx;
    const int64_t n = rk__size(y);
    void *to = rk__data(y);
    RK_TRY(rk__cut_sum("linear", y));
    if (bias) {
        rk_tensor *rows = rk__spread(bias, &y->shape);
        const void *b = rk__data(rows);
        RK_TRY(b ? k->add(ctx->dev, n, to, b, 0, to) : rk_failed(ctx));
        rk__drop_temp(rows, bias);
    }
    if (g->pre)
        RK_TRY(k->mul_scalar(ctx->dev, n, to, 1, g->pre));
    rk_map1 *const act[] = {
        [RK_ACT_RELU] = k->relu, [RK_ACT_GELU] = k->gelu, [RK_ACT_GELU_TANH] = k->gelu_tanh
    };
    return g->act == RK_ACT_NONE ? RK_OK : act[g->act](ctx->dev, n, to, 0, to);
}

/* *aside: NULL, or what is kept for the gradient of act: the values before gelu, or the bits of relu, which
 * are dropped where the device has not written them. */
static rk_status linear_forward(const rk__call *c, rk_tensor *x, rk_tensor *w, rk_tensor *b, rk_act act,
                                rk_tensor *y, rk_tensor **aside)
{
    rk_tensor *flat = rk__is_contiguous(x) || x->shape.ndim == 2 ? x : rk__dense(x);
    rk_tensor *bias = b ? rk__dense(b) : NULL;
    matrices mx, mw;
    if (!tall(flat, &mx) || !weight_of(w, &mw))
        return rk_failed(c->ctx);
    rk_tensor *temp_x = mx.t, *temp_w = mw.t;
    mw = transposed(mw, true);
    rk_gemm g = product(&mx, &mw, y);
    g.bias = bias ? rk__data(bias) : NULL;
    g.act = act;
    rk_gemm_beside beside = { 0 };
    if (*aside && act == RK_ACT_RELU)
        beside.relu_bits = rk__data(*aside);
    else if (*aside)
        g.pre = rk__data(*aside);
    g.order = order_of_cut(c->ctx, w, 1);
    g.beside = beside.relu_bits ? &beside : NULL;
    rk_gemm whole = g;
    bool meets = is_cut(w, 1) && rk__cut_meets(c->ctx);
    if (meets) {
        g.bias = g.pre = NULL;
        g.act = RK_ACT_NONE;
        g.beside = NULL;
    }
    rk_status st = multiply(c->k, c->ctx, &g);
    if (!st && meets)
        st = finish_sum(c->k, &whole, bias, y);
    if (beside.relu_bits && !(beside.done & RK_BESIDE_BITS)) {
        rk__drop(*aside);
        *aside = NULL;
    }
    rk__drop_temp(temp_x, x);
    rk__drop_temp(temp_w, w);
    if (bias)
        rk__drop_temp(bias, b);
    return st;
}

/* Room for what linear_forward() keeps aside, where a gradient will want it. */
static rk_tensor *kept_aside(const rk__call *c, rk_tensor *const *in, rk_act act, const rk_shape *shape)
{
    const int64_t n = shape->dim[shape->ndim - 1];
    int64_t rows = 1;
    for (int i = 0; i + 1 < shape->ndim; i++)
        rows *= shape->dim[i];
    if (!rk__wants_grad(in[0]) && !rk__wants_grad(in[1]) && !rk__wants_grad(in[2]))
        return NULL;
    if (act == RK_ACT_GELU || act == RK_ACT_GELU_TANH)
        return rk__out(c->ctx, c->type, *shape);
    if (act != RK_ACT_RELU || c->type != RK_F32 || !(rk__device_uses(c->ctx) & RK_BESIDE_BITS))
        return NULL;
    return rk__out(c->ctx, RK_U8, RK_SHAPE((int64_t)rk_relu_bits(rows, n)));
}

rk_tensor *rk_linear_op(rk_tensor *x, rk_tensor *w, rk_tensor *b, rk_act act)
{
    rk__call c;
    rk_tensor *in[] = { x, w, b };
    rk_shape shape;
    if (!rk__call_begin(&c, "linear", in, 3))
        return rk__inert(c.ctx);
    if (!in[1]) {
        rk_fail(c.ctx, RK_EUSAGE, "linear: the weight is NULL");
        return rk__inert(c.ctx);
    }
    if (!linear_shape(&c, in[0], in[1], in[2], &shape))
        return rk__inert(c.ctx);
    rk_tensor *y = rk__out(c.ctx, c.type, shape), *aside = kept_aside(&c, in, act, &shape);
    if (rk__call_check(&c, linear_forward(&c, in[0], in[1], in[2], act, y, &aside)) || rk_failed(c.ctx))
        return rk__inert(c.ctx);
    linear_attr a = { act };
    y = rk__record(y, &op_linear, in, 3, &aside, aside != NULL, &a, sizeof a);
    if (y->node) {
        y->node->relu = act == RK_ACT_RELU;
        y->node->bits = act == RK_ACT_RELU ? aside : NULL;
        y->node->before = act == RK_ACT_GELU_TANH ? aside : NULL;
    }
    return rk__call_end(&c, y);
}
