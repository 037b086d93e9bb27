/* Ten training steps of each kind of model against PyTorch in double precision (tests/golden/make_models.py).
 */
#include "test.h"

#include "golden/golden.h"

#include <rankine/optim.h>

enum { STEPS = 10, BATCH = 24 };

/* The same numbers as in make_models.py. */
static uint32_t word(uint64_t stream, uint64_t i)
{
    uint64_t x = ((i + 1000003 * (stream + 1)) * 2654435761u) & 0xFFFFFFFFu;
    x ^= x >> 15;
    x = (x * 2246822519u) & 0xFFFFFFFFu;
    return (uint32_t)(x ^ x >> 13);
}

static float *fill(uint64_t stream, int64_t n, double scale)
{
    float *v = malloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = ((float)(word(stream, (uint64_t)i) >> 8) * 0x1p-24f - 0.5f) * (float)scale;
    return v;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcmp(s + n - k, end);
}

static void set_weights(rk_module *net)
{
    int number = 0;
    for (int i = 0; i < rk_param_count(net); i++) {
        rk_param p = rk_param_at(net, i);
        rk_shape s = rk_tensor_shape(p.tensor);
        int64_t n = rk_tensor_size(p.tensor);
        if (p.buffer)
            continue;
        float *v = NULL;
        if (s.ndim > 1)
            v = fill((uint64_t)number, n, 2 / sqrt((double)(n / s.dim[0])));
        else if (ends_with(p.name, "bias"))
            v = fill((uint64_t)number, n, 0.25);
        if (v)
            rk_tensor_write(p.tensor, v, (size_t)n * sizeof *v);
        free(v);
        number++;
    }
}

typedef struct {
    const char *name;
    void (*build)(rk_module *net);
    rk_shape sample;
    rk_optim_cfg optim;
    bool reconstruct;
} model;

static rk_tensor *loss_of(const model *m, rk_module *net, rk_ctx *ctx, int t)
{
    rk_shape s = m->sample;
    memmove(s.dim + 1, s.dim, sizeof *s.dim * 4);
    s.dim[0] = BATCH;
    s.ndim++;
    int64_t n = 1, label[BATCH];
    for (int i = 0; i < s.ndim; i++)
        n *= s.dim[i];
    for (int i = 0; i < BATCH; i++)
        label[i] = word(2000 + (uint64_t)t, (uint64_t)i) % 5;
    float *v = fill(1000 + (uint64_t)t, n, 4);
    rk_tensor *x = rk_from_host(ctx, RK_F32, s, v), *y = rk_forward(net, x);
    free(v);
    if (m->reconstruct)
        return rk_mse_loss(y, x);
    return rk_cross_entropy_cfgd(y, rk_from_host(ctx, RK_I64, RK_SHAPE(BATCH), label),
                                 &(rk_cross_entropy_cfg){ .label_smoothing = 0.1 });
}

static double want(const golden *g, const char *name, const char *what, int i)
{
    char key[64];
    snprintf(key, sizeof key, "%s/%s", name, what);
    const golden_array *a = golden_find(g, key);
    return a && i < a->n ? golden_value(a, i) : NAN;
}

static double sum_of(rk_tensor *t)
{
    int64_t n = rk_tensor_size(t);
    float *v = malloc((size_t)n * sizeof *v);
    double sum = 0;
    rk_tensor_read(t, v, (size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        sum += (double)v[i];
    free(v);
    return sum;
}

static void compare(const model *m)
{
    rk_ctx *ctx;
    golden *g = golden_open(RK_SOURCE_DIR "/tests/golden/models.golden");
    CHECK(g);
    rk_open(NULL, &ctx);
    rk_module *net = rk_root(ctx, m->name);
    m->build(net);
    set_weights(net);
    rk_optim *opt = rk_optim_make(net, &m->optim);
    for (int t = 0; t < STEPS; t++) {
        rk_tensor *loss = loss_of(m, net, ctx, t);
        CHECK_CLOSE(rk_item(loss), want(g, m->name, "loss", t), 5e-5, 0);
        CHECK_OK(ctx, rk_backward(loss));
        CHECK_OK(ctx, rk_optim_step(opt, 1 - 0.05 * t));
        CHECK_CLOSE(rk_optim_grad_norm(opt), want(g, m->name, "norm", t), 5e-4, 0);
        CHECK_OK(ctx, rk_step_end(ctx));
    }
    int number = 0;
    for (int i = 0; i < rk_param_count(net); i++) {
        rk_param p = rk_param_at(net, i);
        if (!p.buffer)
            CHECK_CLOSE(sum_of(p.tensor), want(g, m->name, "sum", number++), 1e-4, 2e-4);
    }
    rk_set_training(ctx, false);
    CHECK_CLOSE(rk_item(loss_of(m, net, ctx, 0)), want(g, m->name, "eval", 0), 1e-4, 0);
    CHECK_INT(rk_close(ctx), 0);
    golden_close(g);
}

static void build_mlp(rk_module *net)
{
    rk_linear(net, "fc1", 20, 32);
    rk_activation(net, "a1", "relu");
    rk_layer_norm(net, "ln", 32);
    rk_linear(net, "fc2", 32, 32);
    rk_activation(net, "a2", "gelu");
    rk_rms_norm(net, "rms", 32);
    rk_linear(net, "fc3", 32, 5);
}

TEST(mlp_adamw_clipped)
{
    compare(&(model){ "mlp",
                      build_mlp,
                      RK_SHAPE(20),
                      { .kind = RK_ADAMW,
                        .lr = 0.01,
                        .weight_decay = 0.1,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .eps = 1e-8,
                        .clip_norm = 1 },
                      false });
}

static void build_cnn(rk_module *net)
{
    rk_conv_cfg same = { .pad = { 1, 1 } };
    rk_pool_cfg half = { .kernel = { 2, 2 } };
    rk_conv2d(net, "c1", 1, 4, 3, &same);
    rk_activation(net, "a1", "relu");
    rk_max_pool(net, "p1", &half);
    rk_conv2d(net, "c2", 4, 8, 3, &same);
    rk_activation(net, "a2", "relu");
    rk_avg_pool(net, "p2", &half);
    rk_flatten(net, "flat");
    rk_linear(net, "fc1", 72, 16);
    rk_activation(net, "a3", "relu");
    rk_linear(net, "fc2", 16, 5);
}

TEST(cnn_sgd_nesterov)
{
    compare(&(model){ "cnn",
                      build_cnn,
                      RK_SHAPE(1, 12, 12),
                      { .kind = RK_SGD, .lr = 0.05, .weight_decay = 0.01, .momentum = 0.9, .nesterov = true },
                      false });
}

static void conv_bn(rk_module *m, const char *conv, const char *norm, int in, int out, int kernel, int stride)
{
    rk_conv2d_no_bias(m, conv, in, out, kernel,
                      &(rk_conv_cfg){ .pad = { kernel / 2, kernel / 2 }, .stride = { stride, stride } });
    rk_batch_norm(m, norm, out);
}

static void build_resnet(rk_module *net)
{
    conv_bn(net, "c0", "b0", 1, 4, 3, 1);
    rk_activation(net, "a0", "relu");
    for (int i = 0; i < 2; i++) {
        int in = 4, out = i ? 8 : 4, stride = i ? 2 : 1;
        rk_module *r = rk_residual(net, i ? "block2" : "block1", "relu"), *m = rk_residual_main(r);
        conv_bn(m, "c1", "b1", in, out, 3, stride);
        rk_activation(m, "a", "relu");
        conv_bn(m, "c2", "b2", out, out, 3, 1);
        if (i)
            conv_bn(rk_residual_shortcut(r), "c", "b", in, out, 1, stride);
    }
    rk_adaptive_avg_pool(net, "pool", 1, 1);
    rk_flatten(net, "flat");
    rk_linear(net, "fc", 8, 5);
}

TEST(resnet_sgd_momentum)
{
    compare(&(model){ "resnet",
                      build_resnet,
                      RK_SHAPE(1, 12, 12),
                      { .kind = RK_SGD, .lr = 0.1, .weight_decay = 0.001, .momentum = 0.9 },
                      false });
}

static void build_autoencoder(rk_module *net)
{
    rk_conv2d(net, "c1", 1, 4, 3, &(rk_conv_cfg){ .pad = { 1, 1 }, .stride = { 2, 2 } });
    rk_activation(net, "a1", "relu");
    rk_flatten(net, "flat");
    rk_linear(net, "code", 144, 8);
    rk_linear(net, "out", 8, 144);
    rk_activation(net, "a2", "silu");
    rk_reshape_to(net, "image", RK_SHAPE(4, 6, 6));
    rk_upsample(net, "up", 2);
    rk_conv2d(net, "c2", 4, 1, 3, &(rk_conv_cfg){ .pad = { 1, 1 } });
}

TEST(autoencoder_adam)
{
    compare(&(model){
        "autoencoder",
        build_autoencoder,
        RK_SHAPE(1, 12, 12),
        { .kind = RK_ADAM, .lr = 0.01, .weight_decay = 0.01, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8 },
        true });
}

TEST_MAIN
