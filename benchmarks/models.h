/* The models that benchmarks/pytorch/models.py builds too: the same shapes, batches and optimiser. */
#ifndef RK_BENCH_MODELS_H
#define RK_BENCH_MODELS_H

#include <rankine/rankine.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct model {
    const char *name;
    void (*build)(rk_module *net);
    rk_shape sample;
} model;

static void build_mlp(rk_module *net)
{
    rk_linear(net, "fc1", 784, 512);
    rk_activation(net, "act1", "relu");
    rk_linear(net, "fc2", 512, 512);
    rk_activation(net, "act2", "relu");
    rk_linear(net, "fc3", 512, 10);
}

static void build_cnn(rk_module *net)
{
    rk_conv2d(net, "conv1", 1, 32, 3, NULL);
    rk_activation(net, "act1", "relu");
    rk_conv2d(net, "conv2", 32, 64, 3, NULL);
    rk_activation(net, "act2", "relu");
    rk_max_pool(net, "pool", &(rk_pool_cfg){ .kernel = { 2, 2 } });
    rk_flatten(net, "flat");
    rk_linear(net, "fc1", 64 * 12 * 12, 128);
    rk_activation(net, "act3", "relu");
    rk_linear(net, "fc2", 128, 10);
}

static void build_finetune(rk_module *net)
{
    build_cnn(net);
    rk_freeze(net, "*");
    rk_unfreeze(net, "fc2.*");
}

static void conv_norm(rk_module *to, const char *conv, const char *norm, int in, int out, int kernel,
                      int stride)
{
    int pad = kernel / 2;
    rk_conv2d_no_bias(to, conv, in, out, kernel,
                      &(rk_conv_cfg){ .stride = { stride, stride }, .pad = { pad, pad } });
    rk_batch_norm(to, norm, out);
}

static void add_block(rk_module *net, const char *name, int in, int out, int stride)
{
    rk_module *block = rk_residual(net, name, "relu");
    rk_module *main = rk_residual_main(block);
    conv_norm(main, "conv1", "bn1", in, out, 3, stride);
    rk_activation(main, "act", "relu");
    conv_norm(main, "conv2", "bn2", out, out, 3, 1);
    if (stride != 1 || in != out)
        conv_norm(rk_residual_shortcut(block), "conv", "bn", in, out, 1, stride);
}

/* 20 layers: 3 stages of 3 blocks with 16, 32 and 64 channels (He et al. 2016). */
static void build_resnet(rk_module *net)
{
    conv_norm(net, "conv1", "bn1", 3, 16, 3, 1);
    rk_activation(net, "act1", "relu");
    int in = 16;
    for (int stage = 0; stage < 3; stage++)
        for (int i = 0; i < 3; i++) {
            char name[32];
            snprintf(name, sizeof name, "block%d_%d", stage + 1, i + 1);
            int out = 16 << stage;
            add_block(net, name, in, out, stage > 0 && i == 0 ? 2 : 1);
            in = out;
        }
    rk_adaptive_avg_pool(net, "pool", 1, 1);
    rk_flatten(net, "flat");
    rk_linear(net, "fc", 64, 10);
}

static const model models[] = {
    { "mlp", build_mlp, { 1, { 784 } } },
    { "cnn", build_cnn, { 3, { 1, 28, 28 } } },
    { "resnet", build_resnet, { 3, { 3, 32, 32 } } },
    { "finetune", build_finetune, { 3, { 1, 28, 28 } } },
};

typedef struct bench {
    rk_ctx *ctx;
    rk_module *net;
    rk_optim *opt;
    rk_tensor *x, *y; /* one batch, as in the PyTorch side */
    int64_t batch;
} bench;

static const model *find(const char *name)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        if (!strcmp(models[i].name, name))
            return &models[i];
    fprintf(stderr, "no model \"%s\"; there are mlp, cnn, resnet and finetune\n", name);
    exit(64);
}

/* Random inputs and classes that stay for the whole run. */
static void make_batch(bench *b, const model *m)
{
    rk_shape shape = { .ndim = m->sample.ndim + 1, .dim = { b->batch } };
    memcpy(shape.dim + 1, m->sample.dim, sizeof(int64_t) * (size_t)m->sample.ndim);
    b->x = rk_tensor_make(b->ctx, RK_F32, shape);
    b->y = rk_tensor_make(b->ctx, RK_I64, RK_SHAPE(b->batch));
    rk_tensor *random = rk_randn(b->ctx, RK_F32, shape, 1);
    size_t bytes = (size_t)rk_tensor_size(random) * sizeof(float);
    void *host = malloc(bytes);
    int64_t *classes = calloc((size_t)b->batch, sizeof *classes);
    if (!host || !classes)
        exit(71);
    for (int64_t i = 0; i < b->batch; i++)
        classes[i] = i * 7 % 10;
    rk_tensor_read(random, host, bytes);
    rk_tensor_write(b->x, host, bytes);
    rk_tensor_write(b->y, classes, (size_t)b->batch * sizeof *classes);
    free(host);
    free(classes);
    rk_step_end(b->ctx);
}

static double step(bench *b)
{
    rk_tensor *loss = rk_cross_entropy(rk_forward(b->net, b->x), b->y);
    rk_backward(loss);
    rk_optim_step(b->opt, 1);
    double value = rk_item(loss);
    rk_step_end(b->ctx);
    return value;
}

static void make(bench *b, const model *m)
{
    b->net = rk_root(b->ctx, m->name);
    m->build(b->net);
    rk_optim_cfg oc = RK_ADAMW_DEFAULTS;
    b->opt = rk_optim_make(b->net, &oc);
    make_batch(b, m);
}

#endif
