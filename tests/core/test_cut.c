/* Cut parameters: a cut sum is S chains, added in a balanced tree; nothing else changes a bit; gradients
 * agree with central differences in f64. */
#include "core/cut.h"
#include "test.h"

static rk_ctx *open_ctx(int shards)
{
    rk_ctx *ctx = NULL;
    rk_open(&(rk_open_cfg){ .threads = 2, .seed = 5, .data_shards = 4 }, &ctx);
    ctx->shards.count = shards;
    return ctx;
}

/* A leaf of the same values at any type. */
static rk_tensor *leaf(rk_ctx *ctx, rk_dtype t, rk_shape shape, uint64_t stream)
{
    rk_tensor *x = rk_cast(rk_add_scalar(rk_rand(ctx, RK_F32, shape, stream), -0.5), t);
    rk_require_grad(x, true);
    return x;
}

static rk_tensor *cut(rk_tensor *t, int axis)
{
    static rk__cut pool[64];
    static int used;
    rk__cut *c = &pool[used++ % 64];
    *c = (rk__cut){ axis, 0, t->shape.dim[axis] };
    t->cut = c;
    return t;
}

static bool same(rk_tensor *a, rk_tensor *b)
{
    size_t bytes = (size_t)rk_tensor_size(a) * sizeof(float);
    bool equal = rk_tensor_size(a) == rk_tensor_size(b);
    float *x = malloc(bytes), *y = malloc(bytes);
    equal = equal && !rk_tensor_read(a, x, bytes) && !rk_tensor_read(b, y, bytes) && !memcmp(x, y, bytes);
    free(x);
    free(y);
    return equal;
}

/* ((0 + 1) + (2 + 3)) */
static rk_tensor *tree(rk_tensor **leaves, int n)
{
    return n == 1 ? leaves[0] : rk_add(tree(leaves, n / 2), tree(leaves + n / 2, n / 2));
}

enum { IN = 37, OUT = 29, ROWS = 5 };

TEST(a_row_cut_adds_the_inputs_shards)
{
    for (int s = 1; s <= 8; s *= 2) {
        rk_ctx *ctx = open_ctx(s);
        rk_tensor *x = leaf(ctx, RK_F32, RK_SHAPE(ROWS, IN), 1), *w = leaf(ctx, RK_F32, RK_SHAPE(OUT, IN), 2);
        rk_tensor *b = leaf(ctx, RK_F32, RK_SHAPE(OUT), 3), *parts[8];
        for (int i = 0; i < s; i++) {
            int64_t lo, hi;
            rk_order_leaf(IN, s, i, &lo, &hi);
            parts[i] = rk_linear_op(rk_slice(x, 1, lo, hi), rk_slice(w, 1, lo, hi), NULL, RK_ACT_NONE);
        }
        rk_tensor *want = rk_relu(rk_add(tree(parts, s), b));
        rk_tensor *plain = rk_linear_op(x, w, b, RK_ACT_RELU);
        CHECK(same(rk_linear_op(x, cut(w, 1), b, RK_ACT_RELU), want));
        CHECK_INT(same(plain, want), s == 1);
        CHECK_INT(rk_close(ctx), 0);
    }
}

/* Gradients of x, w and b of sum(linear(x) * y). */
static void gradients(rk_ctx *ctx, int axis, rk_tensor *g[3])
{
    rk_tensor *x = leaf(ctx, RK_F32, RK_SHAPE(ROWS, IN), 1), *w = leaf(ctx, RK_F32, RK_SHAPE(OUT, IN), 2);
    rk_tensor *b = leaf(ctx, RK_F32, RK_SHAPE(OUT), 3), *dy = leaf(ctx, RK_F32, RK_SHAPE(ROWS, OUT), 4);
    if (axis >= 0)
        cut(w, axis);
    CHECK_INT(rk_backward_from(rk_linear_op(x, w, b, RK_ACT_NONE), rk_detach(dy)), RK_OK);
    g[0] = rk_grad(x);
    g[1] = rk_grad(w);
    g[2] = rk_grad(b);
}

TEST(a_column_cut_adds_the_outputs_shards_of_the_input_gradient)
{
    for (int s = 1; s <= 8; s *= 2) {
        rk_ctx *ctx = open_ctx(s);
        rk_tensor *plain[3], *column[3], *row[3], *parts[8];
        gradients(ctx, -1, plain);
        gradients(ctx, 0, column);
        gradients(ctx, 1, row);
        rk_tensor *w = leaf(ctx, RK_F32, RK_SHAPE(OUT, IN), 2),
                  *dy = leaf(ctx, RK_F32, RK_SHAPE(ROWS, OUT), 4);
        for (int i = 0; i < s; i++) {
            int64_t lo, hi;
            rk_order_leaf(OUT, s, i, &lo, &hi);
            parts[i] = rk_matmul(rk_slice(dy, 1, lo, hi), rk_slice(w, 0, lo, hi), false, false);
        }
        CHECK(same(column[0], tree(parts, s)));
        CHECK_INT(same(column[0], plain[0]), s == 1);
        CHECK(same(row[0], plain[0])); /* a sum over the outputs, which are whole */
        for (int i = 1; i < 3; i++) {  /* sums over samples */
            CHECK(same(column[i], plain[i]));
            CHECK(same(row[i], plain[i]));
        }
        CHECK_INT(rk_close(ctx), 0);
    }
}

static rk_tensor *conv_input_gradient(rk_ctx *ctx, bool is_cut, int64_t lo, int64_t hi)
{
    rk_tensor *x = leaf(ctx, RK_F32, RK_SHAPE(3, 4, 6, 7), 1),
              *w = leaf(ctx, RK_F32, RK_SHAPE(11, 4, 3, 3), 2);
    rk_tensor *dy = rk_slice(leaf(ctx, RK_F32, RK_SHAPE(3, 11, 4, 5), 3), 1, lo, hi);
    w = rk_detach(rk_contiguous(rk_slice(w, 0, lo, hi)));
    if (is_cut)
        cut(w, 0);
    rk_backward_from(rk_conv2d_op(x, w, NULL, NULL), rk_detach(rk_contiguous(dy)));
    return rk_grad(x);
}

TEST(a_channel_cut_adds_the_channels_shards)
{
    for (int s = 1; s <= 8; s *= 2) {
        rk_ctx *ctx = open_ctx(s);
        rk_tensor *parts[8];
        for (int i = 0; i < s; i++) {
            int64_t lo, hi;
            rk_order_leaf(11, s, i, &lo, &hi);
            parts[i] = conv_input_gradient(ctx, false, lo, hi);
        }
        rk_tensor *got = conv_input_gradient(ctx, true, 0, 11);
        CHECK(same(got, tree(parts, s)));
        CHECK_INT(same(got, conv_input_gradient(ctx, false, 0, 11)), s == 1);
        CHECK_INT(rk_close(ctx), 0);
    }
}

/* ---- cross entropy ---- */

enum { CLASSES = 45 };

static rk_tensor *classes_of(rk_ctx *ctx)
{
    int64_t t[ROWS] = { 3, 44, -7, 0, 22 };
    return rk_from_host(ctx, RK_I64, RK_SHAPE(ROWS), t);
}

static const rk_cross_entropy_cfg smooth = { 0.1, true, -7 };

TEST(cut_classes_give_the_loss_of_whole_ones)
{
    for (int s = 1; s <= 32; s *= 2) {
        rk_ctx *ctx = open_ctx(s);
        rk__cut all = { 0, 0, CLASSES };
        for (int t = 0; t < 2; t++) {
            rk_dtype type = t ? RK_F64 : RK_F32;
            rk_tensor *x = leaf(ctx, type, RK_SHAPE(ROWS, CLASSES), 1),
                      *y = leaf(ctx, type, RK_SHAPE(ROWS, CLASSES), 1);
            rk_tensor *whole = rk_cross_entropy_cfgd(x, classes_of(ctx), &smooth);
            rk_tensor *shards = rk__cross_entropy_cut(y, classes_of(ctx), &smooth, &all);
            CHECK_CLOSE(rk_item(shards), rk_item(whole), t ? 1e-14 : 1e-6, 0);
            rk_backward(whole);
            rk_backward(shards);
            rk_tensor *d = rk_abs(rk_sub(rk_grad(x), rk_grad(y)));
            CHECK(rk_item(rk_max(rk_reshape(d, RK_SHAPE(-1)), 0, false)) < (t ? 1e-14 : 1e-7));
        }
        CHECK_INT(rk_close(ctx), 0);
    }
}

/* A row's sum of exponentials by hand, with the same kernels: softmax's denominators of shards. */
TEST(sums_of_exponentials_are_a_tree_over_shards)
{
    rk_ctx *ctx = open_ctx(4);
    const rk_kernels *k = rk__kernels(ctx, RK_F32);
    rk_tensor *x = leaf(ctx, RK_F32, RK_SHAPE(1, CLASSES), 1);
    float top, sum, hit, part[4];
    int64_t target = 30;
    k->row_max(ctx->dev, 1, CLASSES, rk__data(x), &top);
    k->cross_entropy_part(ctx->dev, 1, CLASSES, 4, 0, rk__data(x), &target, &top, &sum, NULL, &hit);
    for (int s = 0; s < 4; s++) {
        int64_t lo, hi;
        float here;
        rk_order_leaf(CLASSES, 4, s, &lo, &hi);
        k->cross_entropy_part(ctx->dev, 1, hi - lo, 1, lo, (float *)rk__data(x) + lo, &target, &top, &part[s],
                              NULL, &here);
        CHECK(here == (target >= lo && target < hi ? hit : 0));
    }
    CHECK(sum == (part[0] + part[1]) + (part[2] + part[3]));
    CHECK_INT(rk_close(ctx), 0);
}

/* ---- central differences ---- */

enum { PARAMS = 8 };

static const rk_shape shapes[PARAMS] = {
    { 4, { 6, 2, 3, 3 } }, { 1, { 6 } }, { 2, { 10, 24 } }, { 1, { 10 } },
    { 2, { 9, 10 } },      { 1, { 9 } }, { 2, { 13, 9 } },  { 2, { 7, 9 } },
};

/* Every kind of cut: conv2d, a pair of linear layers, an embedding, and classes. */
static rk_tensor *network(rk_ctx *ctx, rk_tensor *const *p)
{
    int64_t words[4] = { 1, 5, 0, 5 }, classes[4] = { 12, 3, 7, -7 };
    rk_tensor *x = rk_cast(rk_randn(ctx, RK_F32, RK_SHAPE(4, 2, 4, 4), 9), RK_F64);
    rk_tensor *h = rk_reshape(rk_tanh(rk_conv2d_op(x, p[0], p[1], NULL)), RK_SHAPE(4, 24));
    h = rk_linear_op(rk_linear_op(h, p[2], p[3], RK_ACT_GELU), p[4], p[5], RK_ACT_GELU_TANH);
    h = rk_add(h, rk_embedding_op(p[7], rk_from_host(ctx, RK_I64, RK_SHAPE(4), words)));
    h = rk_linear_op(h, p[6], NULL, RK_ACT_NONE);
    return rk__cross_entropy_cut(h, rk_from_host(ctx, RK_I64, RK_SHAPE(4), classes), &smooth,
                                 &(rk__cut){ 0, 0, 13 });
}

static void make_params(rk_ctx *ctx, rk_tensor **p, int which, int64_t element, double change)
{
    static const int axis[PARAMS] = { 0, 0, 0, 0, 1, -1, 0, 0 };
    for (int i = 0; i < PARAMS; i++) {
        int64_t n = 1;
        for (int d = 0; d < shapes[i].ndim; d++)
            n *= shapes[i].dim[d];
        double v[512];
        rk_tensor_read(leaf(ctx, RK_F64, shapes[i], 20 + (uint64_t)i), v, (size_t)n * sizeof *v);
        if (i == which)
            v[element] += change;
        p[i] = rk_from_host(ctx, RK_F64, shapes[i], v);
        rk_require_grad(p[i], true);
        if (axis[i] >= 0)
            cut(p[i], axis[i]);
    }
}

TEST(gradients_agree_with_central_differences)
{
    const double step = 1e-5;
    for (int s = 2; s <= 4; s *= 2) {
        rk_ctx *ctx = open_ctx(s);
        for (int i = 0; i < PARAMS; i++)
            for (int64_t e = 0; e < 18 && e < shapes[i].dim[0] * (shapes[i].ndim > 1 ? shapes[i].dim[1] : 1);
                 e += 3) {
                rk_tensor *p[PARAMS];
                double loss[2], got[512];
                for (int side = 0; side < 2; side++) {
                    make_params(ctx, p, i, e, side ? step : -step);
                    loss[side] = rk_item(network(ctx, p));
                }
                make_params(ctx, p, -1, 0, 0);
                CHECK_INT(rk_backward(network(ctx, p)), RK_OK);
                rk_tensor *g = rk_grad(p[i]);
                rk_tensor_read(g, got, (size_t)rk_tensor_size(g) * sizeof *got);
                CHECK_CLOSE(got[e], (loss[1] - loss[0]) / (2 * step), 1e-6, 1e-9);
                CHECK_INT(rk_step_end(ctx), RK_OK);
            }
        CHECK_INT(rk_close(ctx), 0);
    }
}

TEST_MAIN
