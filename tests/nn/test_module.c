/* Modules: names, initial values, freezing, shapes, fusing. */
#include "test.h"

#include "nn/module.h"

static rk_ctx *ctx;

static float *values(rk_tensor *t, int64_t *n)
{
    *n = rk_tensor_size(t);
    float *v = malloc((size_t)*n * sizeof *v);
    rk_tensor_read(t, v, (size_t)*n * sizeof *v);
    return v;
}

static void moments(rk_tensor *t, double *mean, double *std, double *largest)
{
    int64_t n;
    float *v = values(t, &n);
    double s = 0, q = 0, m = 0;
    for (int64_t i = 0; i < n; i++) {
        s += (double)v[i];
        q += (double)v[i] * (double)v[i];
        m = fmax(m, fabs((double)v[i]));
    }
    *mean = s / (double)n;
    *std = sqrt(q / (double)n - *mean * *mean);
    *largest = m;
    free(v);
}

TEST(names_and_order)
{
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_linear(net, "fc1", 3, 4);
    rk_module *r = rk_residual(net, "block", "relu");
    rk_conv2d_no_bias(rk_residual_main(r), "c", 1, 1, 3, NULL);
    rk_batch_norm(rk_residual_shortcut(r), "b", 1);
    static const char *const want[] = { "fc1.weight",
                                        "fc1.bias",
                                        "block.main.c.weight",
                                        "block.shortcut.b.weight",
                                        "block.shortcut.b.bias",
                                        "block.shortcut.b.running_mean",
                                        "block.shortcut.b.running_var" };
    CHECK_INT(rk_param_count(net), 7);
    for (int i = 0; i < 7; i++) {
        rk_param p = rk_param_at(net, i);
        CHECK_STR(p.name, want[i]);
        CHECK_INT(p.buffer, i >= 5);
        CHECK_INT(p.no_decay, i == 1 || i == 3 || i == 4);
        CHECK(rk_param_find(net, want[i]) == p.tensor);
    }
    CHECK(!rk_param_find(net, "fc2.weight"));
    CHECK(!rk_linear(net, "fc1", 3, 4) && strstr(rk_error(ctx), "two layers are named fc1"));
    CHECK(!rk_linear(NULL, "x", 1, 1) && !rk_param_count(NULL)); /* what a failed maker gives is accepted */
    CHECK_INT(rk_close(ctx), 78);
}

TEST(values_depend_on_names_not_on_order)
{
    float first[12], second[12], other[12];
    rk_ctx *c2;
    rk_open(&(rk_open_cfg){ .seed = 5, .threads = 1 }, &ctx);
    rk_module *a = rk_root(ctx, "a");
    rk_linear(a, "x", 3, 4);
    rk_linear(a, "y", 3, 4);
    rk_open(&(rk_open_cfg){ .seed = 5, .threads = 2, .data_shards = 2 }, &c2);
    rk_module *b = rk_root(c2, "b");
    rk_linear(b, "y", 3, 4);
    rk_linear(b, "x", 3, 4);
    rk_tensor_read(rk_param_find(a, "x.weight"), first, sizeof first);
    rk_tensor_read(rk_param_find(a, "y.weight"), other, sizeof other);
    rk_tensor_read(rk_param_find(b, "x.weight"), second, sizeof second);
    CHECK(!memcmp(first, second, sizeof first));
    CHECK(memcmp(first, other, sizeof first));
    rk_close(ctx);
    rk_close(c2);
}

TEST(initial_values_have_their_moments)
{
    static const struct {
        const char *kind;
        double scale, std, largest; /* of a (64, 400) weight */
    } cases[] = {
        { "default", 0, 0.05 / 1.7320508, 0.05 },
        { "kaiming_uniform", 0, 0.122474 / 1.7320508, 0.122475 },
        { "kaiming_normal", 0, 0.0707107, 1 },
        { "xavier_uniform", 0, 0.113715 / 1.7320508, 0.113716 },
        { "xavier_normal", 0, 0.0656532, 1 },
        { "normal", 0.02, 0.02, 1 },
        { "truncated_normal", 0.02, 0.0175926, 0.0400001 },
        { "orthogonal", 1, 0.05, 1 },
        { "zeros", 0, 0, 0 },
    };
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_linear(net, "fc", 400, 64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double mean, std, largest;
        CHECK_INT(rk_init(net, "*.weight", cases[i].kind, cases[i].scale), 1);
        moments(rk_param_find(net, "fc.weight"), &mean, &std, &largest);
        CHECK_CLOSE(std, cases[i].std, 0.02, 1e-12);
        CHECK_CLOSE(mean, 0, 0, 4 * cases[i].std / 160 + 1e-12); /* four standard errors */
        CHECK(largest <= cases[i].largest);
    }
    CHECK_INT(rk_init(net, "nothing*", "zeros", 0), 0);
    CHECK_INT(rk_init(net, "*", "zero", 0), 0);
    CHECK_INT(rk_close(ctx), 64);
}

TEST(orthogonal_is_orthogonal)
{
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_linear(net, "wide", 30, 12);
    rk_linear(net, "tall", 12, 30);
    rk_init(net, "*.weight", "orthogonal", 2);
    for (int k = 0; k < 2; k++) {
        int64_t n;
        float *w = values(rk_param_find(net, k ? "tall.weight" : "wide.weight"), &n);
        for (int i = 0; i < 12; i++)
            for (int j = 0; j < 12; j++) {
                double dot = 0;
                for (int e = 0; e < 30; e++)
                    dot += k ? (double)w[e * 12 + i] * (double)w[e * 12 + j]
                             : (double)w[i * 30 + e] * (double)w[j * 30 + e];
                CHECK_CLOSE(dot, i == j ? 4 : 0, 0, 1e-5);
            }
        free(w);
    }
    CHECK_INT(rk_close(ctx), 0);
}

TEST(globs)
{
    static const struct {
        const char *glob, *name;
        bool match;
    } cases[] = {
        { "*", "a.b.c", true },
        { "a.*", "a.b.c", true },
        { "*.c", "a.b.c", true },
        { "a.?.c", "a.b.c", true },
        { "a", "a.b", false },
        { "", "", true },
        { "", "a", false },
        { "*b*", "a.b.c", true },
        { "*x*", "a.b.c", false },
        { "a[0-9]", "a7", true },
        { "a[0-9]", "ab", false },
        { "a[!0-9]", "ab", true },
        { "a[!0-9]", "a7", false },
        { "a[]]", "a]", true },
        { "a[", "a[", false },
        { "**c", "abc", true },
        { "*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", false },
        { "conv*.weight", "conv1.main.weight", true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (rk__glob_match(cases[i].glob, cases[i].name) != cases[i].match)
            TEST_FAIL("\"%s\" on \"%s\"", cases[i].glob, cases[i].name);
}

/* A frozen prefix records nothing: the tape holds the operations of the trained part alone. */
TEST(frozen_layers_are_not_walked)
{
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_linear(net, "a", 6, 6);
    rk_batch_norm(net, "bn", 6);
    rk_linear(net, "b", 6, 6);
    rk_linear(net, "c", 6, 2);
    CHECK_INT(rk_freeze(net, "*"), 8);
    CHECK_INT(rk_unfreeze(net, "c.*"), 2);
    rk_tensor *x = rk_randn(ctx, RK_F32, RK_SHAPE(9, 6), 1), *y = rk_forward(net, x);
    CHECK(y->node && y->node->nin >= 2 && !y->node->prev); /* one record: that of c */
    CHECK_OK(ctx, rk_backward(rk_mean(y, 0, false)));
    CHECK(rk_grad(rk_param_find(net, "c.weight")) && !rk_grad(rk_param_find(net, "a.weight")));
    CHECK(!rk_grad(rk_param_find(net, "b.weight")) && !rk_grad(rk_param_find(net, "bn.weight")));
    float mean[6];
    rk_tensor_read(rk_param_find(net, "bn.running_mean"), mean, sizeof mean);
    for (int i = 0; i < 6; i++)
        CHECK(mean[i] == 0); /* frozen: the running statistics are used, not moved */
    rk_step_end(ctx);
    rk_unfreeze(net, "bn.*");
    rk_forward(net, rk_randn(ctx, RK_F32, RK_SHAPE(9, 6), 1));
    rk_tensor_read(rk_param_find(net, "bn.running_mean"), mean, sizeof mean);
    CHECK(mean[0] != 0 && mean[5] != 0);
    CHECK_INT(rk_close(ctx), 0);
}

/* A following activation is computed with its layer: the values are those of two passes. */
TEST(fusing_changes_nothing)
{
    static const char *const acts[] = { "relu", "gelu", "gelu_tanh", "silu" };
    for (int a = 0; a < 4; a++) {
        rk_open(NULL, &ctx);
        rk_module *net = rk_root(ctx, "net"), *plain = rk_root(ctx, "plain");
        rk_linear(net, "fc", 10, 13);
        rk_activation(net, "act", acts[a]);
        rk_module *fc = rk_linear(plain, "fc", 10, 13);
        rk_tensor *x = rk_randn(ctx, RK_F32, RK_SHAPE(7, 10), 3);
        float one[91], two[91];
        rk_tensor *y = rk_forward(net, x), *h = rk_forward(fc, x);
        rk_tensor *z = rk__activation_find(acts[a])->op(h, 0);
        CHECK_OK(ctx, rk_tensor_read(y, one, sizeof one));
        CHECK_OK(ctx, rk_tensor_read(z, two, sizeof two));
        for (int i = 0; i < 91; i++)
            CHECK_CLOSE(one[i], two[i], 1e-6, 1e-7);
        CHECK_INT(rk_close(ctx), 0);
    }
}

TEST(shapes_and_work)
{
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_conv2d(net, "c1", 1, 8, 3, &(rk_conv_cfg){ .pad = { 1, 1 } });
    rk_activation(net, "a1", "relu");
    rk_max_pool(net, "p", &(rk_pool_cfg){ .kernel = { 2, 2 } });
    rk_upsample(net, "u", 3);
    rk_adaptive_avg_pool(net, "q", 5, 4);
    rk_flatten(net, "f");
    rk_linear(net, "fc", 160, 10);
    rk_shape out;
    double flops;
    int64_t params;
    CHECK_OK(ctx, rk_output_shape(net, RK_SHAPE(1, 28, 28), &out, &flops, &params));
    CHECK(out.ndim == 1 && out.dim[0] == 10);
    CHECK_CLOSE(flops, 2.0 * 8 * 28 * 28 * 9 + 2.0 * 160 * 10, 0, 0);
    CHECK_INT(params, 8 * 9 + 8 + 1600 + 10);
    CHECK_CLOSE(rk_train_flops(net), 2 * 2.0 * 8 * 28 * 28 * 9 + 3 * 2.0 * 160 * 10, 0,
                0); /* no input gradient */
    rk_freeze(net, "c1.*");
    CHECK_CLOSE(rk_train_flops(net), 2.0 * 8 * 28 * 28 * 9 + 2 * 2.0 * 160 * 10, 0, 0);
    rk_shape real = rk_tensor_shape(rk_forward(net, rk_randn(ctx, RK_F32, RK_SHAPE(3, 1, 28, 28), 1)));
    CHECK(real.ndim == 2 && real.dim[0] == 3 && real.dim[1] == 10);
    CHECK_INT(rk_output_shape(net, RK_SHAPE(3, 28, 28), &out, NULL, NULL), RK_ESHAPE);
    CHECK(strstr(rk_error(ctx), "layer c1 (conv2d)") && strstr(rk_error(ctx), "(3, 28, 28)"));
    rk_close(ctx);
}

TEST(failures_name_the_layer)
{
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_linear(net, "fc", 5, 2);
    rk_forward(net, rk_randn(ctx, RK_F32, RK_SHAPE(2, 6), 1));
    CHECK(rk_failed(ctx) && strstr(rk_error(ctx), "layer fc"));
    rk_error_clear(ctx);
    CHECK(!rk_activation(net, "a", "rellu") && strstr(rk_error(ctx), "rellu"));
    rk_error_clear(ctx);
    rk_dropout(net, "d", 1.5);
    CHECK(strstr(rk_error(ctx), "layer d"));
    rk_close(ctx);
}

/* What a network says of itself makes it again, and says the same. */
TEST(described_and_built_again)
{
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, "net");
    rk_embedding(net, "words", 17, 6);
    rk_layer_norm(net, "ln", 6);
    rk_flatten(net, "flat");
    rk_linear_no_bias(net, "fc1", 18, 7);
    rk_activation(net, "act", "leaky_relu");
    rk_dropout(net, "drop", 0.1);
    rk_module *r = rk_residual(net, "block", NULL);
    rk_linear(rk_residual_main(r), "fc", 7, 5);
    rk_linear(rk_residual_shortcut(r), "fc", 7, 5);
    rk__text t = { 0 }, again = { 0 };
    CHECK(!rk__model_describe(net, &t));
    char *text = rk__text_take(&t);
    CHECK_STR(
        text,
        "[{\"embedding\":{\"name\":\"words\",\"rows\":17,\"dim\":6}},"
        "{\"layer_norm\":{\"name\":\"ln\",\"eps\":1e-05}},{\"flatten\":{\"name\":\"flat\"}},"
        "{\"linear\":{\"name\":\"fc1\",\"out\":7,\"bias\":false}},"
        "{\"leaky_relu\":{\"name\":\"act\",\"slope\":0.01}},{\"dropout\":{\"name\":\"drop\",\"p\":0.1}},"
        "{\"residual\":{\"name\":\"block\",\"main\":[{\"linear\":{\"name\":\"fc\",\"out\":5,"
        "\"bias\":true}}],\"shortcut\":[{\"linear\":{\"name\":\"fc\",\"out\":5,\"bias\":true}}],"
        "\"act\":\"none\"}}]");
    rk_doc *doc = NULL;
    rk_shape out;
    CHECK_INT(rk__json_parse(ctx, "text", (const uint8_t *)text, strlen(text), RK_EDATA, &doc), RK_OK);
    rk_module *copy = rk__model_build(ctx, &(rk__model_spec){ .layers = doc, .input = RK_SHAPE(3) }, &out);
    CHECK(copy && rk_param_count(copy) == rk_param_count(net));
    for (int i = 0; i < rk_param_count(net); i++) {
        rk_shape a = rk_tensor_shape(rk_param_at(net, i).tensor),
                 b = rk_tensor_shape(rk_param_at(copy, i).tensor);
        CHECK_STR(rk_param_at(copy, i).name, rk_param_at(net, i).name);
        CHECK(rk__shape_eq(&a, &b));
    }
    CHECK(!rk__model_describe(copy, &again));
    char *second = rk__text_take(&again);
    CHECK_STR(second, text);
    free(text);
    free(second);
    rk__doc_free(doc);
    CHECK_INT(rk_close(ctx), 0);
}

TEST_MAIN
