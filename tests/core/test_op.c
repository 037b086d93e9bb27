/* What every op does with wrong arguments: the status, a message that carries the values, and inert results.
 */
#include "test.h"

#include <rankine/tensor.h>

static rk_ctx *open_ctx(void)
{
    rk_ctx *ctx;
    return rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx) == RK_OK ? ctx : NULL;
}

static rk_tensor *zeros2(rk_ctx *ctx, int64_t a, int64_t b)
{
    return rk_zeros(ctx, RK_F32, RK_SHAPE(a, b));
}

/* The call made y, failed with `st`, and its message holds every one of the words (separated by |). */
static bool refused(rk_ctx *ctx, rk_tensor *y, rk_status st, const char *words)
{
    char copy[256], *rest = copy;
    bool ok = rk_failed(ctx) == st && y && rk_tensor_size(y) == 0;
    snprintf(copy, sizeof copy, "%s", words);
    for (char *word; (word = strsep(&rest, "|"));)
        ok &= strstr(rk_error(ctx), word) != NULL;
    if (!ok)
        fprintf(stderr, "%s: %s\nexpected %s with %s\n", rk_status_name(rk_failed(ctx)), rk_error(ctx),
                rk_status_name(st), words);
    rk_error_clear(ctx);
    return ok;
}

TEST(shapes_that_do_not_fit)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *a = zeros2(ctx, 2, 3), *b = zeros2(ctx, 4, 5), *v = rk_zeros(ctx, RK_F32, RK_SHAPE(3));
    rk_tensor *image = rk_zeros(ctx, RK_F32, RK_SHAPE(1, 3, 4, 4)),
              *w = rk_zeros(ctx, RK_F32, RK_SHAPE(2, 2, 3, 3));
    rk_tensor *big = rk_zeros(ctx, RK_F32, RK_SHAPE(2, 3, 5, 5));
    CHECK(refused(ctx, rk_add(a, b), RK_ESHAPE, "add|(2, 3)|(4, 5)"));
    CHECK(refused(ctx, rk_matmul(a, b, false, false), RK_ESHAPE, "matmul|(2, 3)|(4, 5)|3|4"));
    CHECK(refused(ctx, rk_matmul(a, v, false, false), RK_ESHAPE, "matmul|(3)|rk_reshape"));
    CHECK(refused(ctx, rk_linear_op(a, b, NULL, RK_ACT_NONE), RK_ESHAPE, "linear|(2, 3)|(4, 5)"));
    CHECK(refused(ctx, rk_linear_op(a, zeros2(ctx, 4, 3), v, RK_ACT_NONE), RK_ESHAPE, "bias (3)"));
    CHECK(refused(ctx, rk_conv2d_op(a, w, NULL, NULL), RK_ESHAPE, "conv2d|(2, 3)"));
    CHECK(refused(ctx, rk_conv2d_op(image, w, NULL, NULL), RK_ESHAPE, "(1, 3, 4, 4)|(2, 2, 3, 3)|groups 1"));
    CHECK(refused(ctx, rk_conv2d_op(image, big, NULL, NULL), RK_ESHAPE, "5 x 5|4 x 4"));
    CHECK(refused(ctx, rk_max_pool2d(image, &(rk_pool_cfg){ .kernel = { 5, 5 } }), RK_ESHAPE,
                  "max_pool2d|5 x 5"));
    CHECK(refused(ctx, rk_adaptive_avg_pool2d(image, 0, 2), RK_ESHAPE, "0 x 2"));
    CHECK(refused(ctx, rk_layer_norm_op(a, rk_zeros(ctx, RK_F32, RK_SHAPE(4)), NULL, 1e-5), RK_ESHAPE,
                  "gamma|(4)|(3)"));
    CHECK(refused(ctx, rk_sum(a, 1u << 5, false), RK_ESHAPE, "sum|0x20|2 axes"));
    CHECK(refused(ctx, rk_max(rk_zeros(ctx, RK_F32, RK_SHAPE(3, 0)), 2u, false), RK_ESHAPE, "max|(3, 0)"));
    CHECK(refused(ctx, rk_softmax(a, 2), RK_ESHAPE, "softmax|axis 2"));
    CHECK(refused(ctx, rk_concat((rk_tensor *[]){ a, b }, 2, 0), RK_ESHAPE, "concat|(2, 3)|(4, 5)"));
    CHECK(refused(ctx, rk_stack((rk_tensor *[]){ a, v }, 2, 0), RK_ESHAPE, "stack"));
    CHECK(refused(ctx, rk_pad(a, (int64_t[]){ -1, 0 }, (int64_t[]){ 0, 0 }, 0), RK_ESHAPE, "pad|-1|axis 0"));
    CHECK(refused(ctx, rk_mse_loss(a, b), RK_ESHAPE, "mse_loss|(2, 3)|(4, 5)"));
    CHECK(refused(ctx, rk_cross_entropy(v, rk_zeros(ctx, RK_I64, RK_SHAPE(3))), RK_ESHAPE,
                  "cross_entropy|(3)"));
    CHECK(refused(ctx, rk_gather(a, 0, rk_zeros(ctx, RK_I64, RK_SHAPE(1, 4))), RK_ESHAPE,
                  "gather|(2, 3)|(1, 4)"));
    CHECK(refused(ctx, rk_embedding_op(v, rk_zeros(ctx, RK_I64, RK_SHAPE(1))), RK_ESHAPE, "embedding|(3)"));
    rk_tensor *parts[2];
    rk_split(a, 1, (int64_t[]){ 1, 1 }, 2, parts);
    CHECK(refused(ctx, parts[1], RK_ESHAPE, "split|add up to 2|has 3"));
    CHECK_INT(rk_close(ctx), 0);
}

TEST(types_that_do_not_fit)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *f = zeros2(ctx, 2, 3), *d = rk_zeros(ctx, RK_F64, RK_SHAPE(2, 3));
    rk_tensor *i = rk_zeros(ctx, RK_I64, RK_SHAPE(2, 3)), *h = rk_zeros(ctx, RK_F16, RK_SHAPE(2, 3));
    CHECK(refused(ctx, rk_add(f, d), RK_EDTYPE, "add|f32|f64|rk_cast"));
    CHECK(refused(ctx, rk_exp(i), RK_EDTYPE, "exp|i64"));
    CHECK(refused(ctx, rk_relu(h), RK_EDTYPE, "relu|f16"));
    CHECK(refused(ctx, rk_concat((rk_tensor *[]){ f, i }, 2, 0), RK_EDTYPE, "concat|i64|f32"));
    CHECK(refused(ctx, rk_cross_entropy(f, rk_zeros(ctx, RK_F32, RK_SHAPE(2))), RK_EDTYPE,
                  "cross_entropy|f32"));
    /* Integers and f16 move, though nothing is computed with them. */
    CHECK_INT(rk_tensor_size(rk_concat((rk_tensor *[]){ i, i }, 2, 0)), 12);
    CHECK_INT(rk_tensor_size(rk_concat((rk_tensor *[]){ h, h }, 2, 1)), 12);
    /* bf16 beside f32 gives f32. */
    rk_tensor *b = rk_zeros(ctx, RK_BF16, RK_SHAPE(2, 3));
    CHECK_INT(rk_tensor_dtype(rk_add(b, f)), RK_F32);
    CHECK_INT(rk_tensor_dtype(rk_add(b, b)), RK_BF16);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(values_out_of_range)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *x = zeros2(ctx, 3, 4);
    rk_tensor *bad = rk_from_host(ctx, RK_I64, RK_SHAPE(3), (int64_t[]){ 1, 4, 0 });
    rk_tensor *low = rk_from_host(ctx, RK_I64, RK_SHAPE(3), (int64_t[]){ 1, 3, -1 });
    CHECK(refused(ctx, rk_cross_entropy(x, bad), RK_EDATA, "class 4|position 1|[0, 4)"));
    CHECK(refused(ctx, rk_cross_entropy(x, low), RK_EDATA, "class -1|position 2"));
    CHECK(refused(ctx, rk_embedding_op(x, low), RK_EDATA, "row 3|position 1|[0, 3)"));
    CHECK(refused(ctx, rk_gather(x, 1, rk_full(ctx, RK_I64, RK_SHAPE(3, 1), 9)), RK_EDATA,
                  "index 9|position 0"));
    CHECK(refused(ctx, rk_dropout_op(x, 1, 0), RK_EUSAGE, "dropout|1"));
    CHECK(refused(ctx, rk_cross_entropy_cfgd(x, bad, &(rk_cross_entropy_cfg){ 1.5, false, 0 }), RK_EUSAGE,
                  "1.5"));
    /* The target that is ignored may be any number. */
    rk_cross_entropy_cfg ignore = { 0, true, -1 };
    CHECK_CLOSE(rk_item(rk_cross_entropy_cfgd(x, low, &ignore)), log(4), 1e-6, 0);
    CHECK(refused(ctx,
                  rk_max_pool2d(rk_zeros(ctx, RK_F32, RK_SHAPE(1, 1, 4, 4)),
                                &(rk_pool_cfg){ .kernel = { 2, 2 }, .pad = { 2, 2 } }),
                  RK_EUSAGE, "max_pool2d|padding (2, 2)"));
    CHECK_INT(rk_close(ctx), 0);
}

TEST(all_targets_ignored_is_a_loss_of_zero)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *x = rk_randn(ctx, RK_F32, RK_SHAPE(2, 4), 1);
    rk_require_grad(x, true);
    rk_tensor *t = rk_full(ctx, RK_I64, RK_SHAPE(2), -1);
    rk_tensor *loss = rk_cross_entropy_cfgd(x, t, &(rk_cross_entropy_cfg){ 0, true, -1 });
    CHECK_OK(ctx, rk_backward(loss));
    CHECK(rk_item(loss) == 0);
    CHECK(rk_item(rk_sum(rk_abs(rk_grad(x)), 0, false)) == 0);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(inert_tensors_pass_through)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *a = zeros2(ctx, 2, 3), *inert = rk_add(a, zeros2(ctx, 4, 5));
    char first[256];
    snprintf(first, sizeof first, "%s", rk_error(ctx));
    rk_tensor *y = rk_softmax(rk_linear_op(rk_relu(inert), a, NULL, RK_ACT_RELU), -1);
    y = rk_mse_loss(rk_concat((rk_tensor *[]){ y, a }, 2, 0), rk_dropout_op(rk_mean(y, 0, false), 0.5, 1));
    y = rk_cross_entropy(rk_layer_norm_op(y, a, a, 1e-5), rk_argmax(y, 0));
    CHECK(y);
    CHECK_INT(rk_backward(y), RK_ESHAPE);
    CHECK_STR(rk_error(ctx), first);
    CHECK_INT(rk_close(ctx), 78);
}

/* A tensor of a failed call is refused by name after the failure was cleared. */
TEST(inert_tensors_are_named_after_a_clear)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *a = zeros2(ctx, 2, 3), *inert = rk_add(a, zeros2(ctx, 4, 5));
    rk_error_clear(ctx);
    CHECK(refused(ctx, rk_mul(a, inert), RK_EUSAGE, "inert"));
    CHECK_INT(rk_close(ctx), 0);
}

TEST(dropout_is_the_identity_outside_training)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *x = rk_randn(ctx, RK_F32, RK_SHAPE(4, 5), 1);
    rk_set_training(ctx, false);
    CHECK(rk_dropout_op(x, 0.5, 1) == x);
    rk_set_training(ctx, true);
    float before[20], after[20];
    int kept = 0, wrong = 0;
    CHECK_OK(ctx, rk_tensor_read(x, before, sizeof before));
    CHECK_OK(ctx, rk_tensor_read(rk_dropout_op(x, 0.5, 1), after, sizeof after));
    for (int i = 0; i < 20; i++) {
        kept += after[i] != 0;
        wrong += after[i] != 0 && after[i] != 2 * before[i];
    }
    CHECK(kept > 0 && kept < 20);
    CHECK_INT(wrong, 0);
    CHECK_INT(rk_close(ctx), 0);
}

static rk_tensor *rounded(rk_tensor *x)
{
    return rk_cast(rk_cast(x, RK_BF16), RK_F32);
}

static int different(rk_tensor *a, rk_tensor *b)
{
    size_t bytes = (size_t)rk_tensor_size(a) * sizeof(float);
    float *va = malloc(bytes), *vb = malloc(bytes);
    bool same =
        va && vb && !rk_tensor_read(a, va, bytes) && !rk_tensor_read(b, vb, bytes) && !memcmp(va, vb, bytes);
    free(va);
    free(vb);
    return !same;
}

/* compute: bf16 rounds the operands of each product, nothing else. */
TEST(bf16_compute_rounds_operands)
{
    rk_ctx *ctx = open_ctx();
    CHECK(ctx);
    rk_tensor *x = rk_randn(ctx, RK_F32, RK_SHAPE(6, 9), 1), *w = rk_randn(ctx, RK_F32, RK_SHAPE(5, 9), 2);
    rk_tensor *b = rk_randn(ctx, RK_F32, RK_SHAPE(5), 3), *dy = rk_randn(ctx, RK_F32, RK_SHAPE(6, 5), 4);
    rk_tensor *image = rk_randn(ctx, RK_F32, RK_SHAPE(2, 3, 6, 5), 5);
    rk_tensor *filter = rk_randn(ctx, RK_F32, RK_SHAPE(4, 3, 3, 2), 6);
    rk_tensor *linear = rk_linear_op(rounded(x), rounded(w), b, RK_ACT_NONE),
              *plain = rk_linear_op(x, w, b, RK_ACT_NONE);
    rk_tensor *conv = rk_conv2d_op(rounded(image), rounded(filter), NULL, NULL);
    rk_tensor *dx = rk_matmul(rounded(dy), rounded(w), false, false);
    rk_tensor *dw = rk_matmul(rounded(dy), rounded(x), true, false);
    CHECK_OK(ctx, rk_set_compute(ctx, RK_BF16));
    rk_require_grad(x, true);
    rk_require_grad(w, true);
    rk_tensor *y = rk_linear_op(x, w, b, RK_ACT_NONE);
    CHECK_INT(different(y, linear), 0);
    CHECK(different(y, plain));
    CHECK_INT(different(rk_conv2d_op(image, filter, NULL, NULL), conv), 0);
    CHECK_OK(ctx, rk_backward_from(y, dy));
    CHECK_INT(different(rk_grad(x), dx), 0);
    float g[45], expected[45]; /* another tree of sums: near, not equal */
    CHECK_OK(ctx, rk_tensor_read(rk_grad(w), g, sizeof g));
    CHECK_OK(ctx, rk_tensor_read(dw, expected, sizeof expected));
    for (int i = 0; i < 45; i++)
        CHECK_CLOSE(g[i], expected[i], 1e-5, 1e-5);
    CHECK_INT(rk_close(ctx), 0);
}

TEST_MAIN
