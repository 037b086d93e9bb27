/* rk_save() of a network that a program has made: evaluation and prediction make it again from the snapshot.
 */
#include "tiny.h"

#include <rankine/rankine.h>

/* Every layer of nn.h that takes images of 8 x 8 or what is made of them: all but embedding. */
static void many_layers(rk_module *net)
{
    rk_conv2d(net, "conv", 1, 4, 3, &(rk_conv_cfg){ .pad = { 1, 1 } });
    rk_activation(net, "act1", "relu");
    rk_batch_norm(net, "bn", 4);
    rk_module *block = rk_residual(net, "block", "gelu");
    rk_module *main = rk_residual_main(block), *shortcut = rk_residual_shortcut(block);
    rk_conv2d_no_bias(
        main, "conv", 4, 6, 3,
        &(rk_conv_cfg){ .stride = { 2, 1 }, .pad = { 2, 1 }, .dilation = { 2, 1 }, .groups = 2 });
    rk_activation(main, "act", "leaky_relu");
    rk_conv2d(shortcut, "conv", 4, 6, 1, &(rk_conv_cfg){ .stride = { 2, 1 } });
    rk_max_pool(net, "max", &(rk_pool_cfg){ .kernel = { 3, 2 }, .stride = { 1, 2 }, .pad = { 1, 0 } });
    rk_upsample(net, "up", 2);
    rk_avg_pool(net, "avg", &(rk_pool_cfg){ .kernel = { 2, 2 }, .stride = { 1, 1 } });
    rk_adaptive_max_pool(net, "amax", 6, 5);
    rk_adaptive_avg_pool(net, "aavg", 3, 4);
    rk_reshape_to(net, "shape", RK_SHAPE(6, 12));
    rk_module *rows = rk_sequence(net, "rows");
    rk_layer_norm(rows, "ln", 12);
    rk_linear_no_bias(rows, "fc", 12, 10);
    rk_activation(rows, "act", "silu");
    rk_rms_norm(rows, "rms", 10);
    rk_sequence(rows, "nothing");
    rk_flatten(net, "flat");
    rk_dropout(net, "drop", 0.25);
    rk_linear(net, "fc1", 60, 12);
    rk_activation(net, "act2", "gelu_tanh");
    rk_linear(net, "fc2", 12, 4);
}

static void mlp_layers(rk_module *net)
{
    rk_flatten(net, "flat");
    rk_linear(net, "fc1", 64, 16);
    rk_activation(net, "act", "tanh");
    rk_linear(net, "fc2", 16, 4);
}

typedef struct program { /* of a user */
    rk_ctx *ctx;
    rk_module *net;
    rk_optim *opt;
    rk_loader *data;
} program;

static const char *run_dir(void)
{
    return tiny_path("saved");
}

static void begin(program *p, void (*layers)(rk_module *), double ema)
{
    static char train[300];
    tiny_begin();
    tiny_remove(run_dir());
    snprintf(train, sizeof train, "%s/train", tiny_dir);
    rk_open(&(rk_open_cfg){ .threads = 1, .seed = 7 }, &p->ctx);
    p->net = rk_root(p->ctx, "net");
    layers(p->net);
    rk_optim_cfg cfg = RK_ADAMW_DEFAULTS;
    cfg.lr = 0.01;
    cfg.ema_decay = ema;
    p->opt = rk_optim_make(p->net, &cfg);
    p->data = rk_loader_make(p->ctx, &(rk_data_cfg){ .path = train,
                                                     .batch = 10,
                                                     .shuffle = true,
                                                     .seed = 3,
                                                     .split = 0.2,
                                                     .normalize = "standard",
                                                     .epochs = 3 });
}

static void train_it(program *p)
{
    for (rk_batch b; rk_loader_next(p->data, &b); rk_step_end(p->ctx)) {
        rk_backward(rk_cross_entropy(rk_forward(p->net, b.x), b.y));
        rk_optim_step(p->opt, 1);
    }
}

/* Probabilities of the program's own network for the evaluation file, treated as the training data. */
static int own_outputs(program *p, float out[][4])
{
    char eval[300];
    int n = 0;
    const double *mean, *std;
    snprintf(eval, sizeof eval, "%s/eval", tiny_dir);
    rk_loader *l = rk_loader_make(p->ctx, &(rk_data_cfg){ .path = eval, .batch = 16, .epochs = 1 });
    int pairs = rk_loader_stats(p->data, &mean, &std);
    rk_loader_set_stats(l, pairs, mean, std);
    rk_set_training(p->ctx, false);
    rk_no_grad_begin(p->ctx);
    for (rk_batch b; rk_loader_next(l, &b); rk_step_end(p->ctx)) {
        rk_tensor_read(rk_softmax(rk_forward(p->net, b.x), 1), out[n], (size_t)b.n * sizeof *out);
        n += (int)b.n;
    }
    rk_no_grad_end(p->ctx);
    rk_set_training(p->ctx, true);
    return n;
}

typedef struct compared {
    const float (*want)[4];
    int n, differ;
} compared;

static rk_status compare(void *user, const rk_prediction *p)
{
    compared *c = user;
    c->differ += p->n != 4 || memcmp(p->value, c->want[c->n], sizeof c->want[0]);
    c->n++;
    return RK_OK;
}

static void saved_and_used(void (*layers)(rk_module *))
{
    program p;
    float want[64][4];
    begin(&p, layers, 0);
    train_it(&p);
    int n = own_outputs(&p, want);
    CHECK_INT(rk_save(run_dir(), p.net, p.opt, p.data), RK_OK);
    CHECK_INT(rk_close(p.ctx), 0);

    rk_ctx *ctx;
    rk_eval_result r;
    compared c = { .want = (const float(*)[4])want };
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    rk_eval_opts o = { .run = run_dir(), .step = -1, .data = tiny_path("eval") };
    if (rk_predict(ctx, &o, compare, &c))
        TEST_FAIL("%s", rk_error(ctx));
    CHECK_INT(n, 60);
    CHECK_INT(c.n, n);
    CHECK_INT(c.differ, 0);
    CHECK_INT(rk_evaluate(ctx, &o, &r), RK_OK);
    int right = 0;
    for (int i = 0; i < n; i++) {
        int best = 0;
        for (int k = 1; k < 4; k++)
            best = want[i][k] > want[i][best] ? k : best;
        right += best == i % 4;
    }
    CHECK_STR(r.metrics[1].name, "accuracy");
    CHECK(fabs(r.metrics[1].value - right / 60.0) < 1e-12);
    o.data = NULL; /* the part that the program held out */
    CHECK_INT(rk_evaluate(ctx, &o, &r), RK_OK);
    CHECK_INT(r.samples, 20);
    rk_close(ctx);
}

TEST(an_mlp)
{
    saved_and_used(mlp_layers);
}

TEST(every_layer)
{
    saved_and_used(many_layers);
}

TEST(averaged_weights)
{
    program p;
    rk_ctx *ctx;
    rk_eval_result plain, averaged;
    double loss[2];
    for (int ema = 0; ema < 2; ema++) {
        begin(&p, mlp_layers, ema * 0.95);
        train_it(&p);
        CHECK_INT(rk_save(run_dir(), p.net, p.opt, p.data), RK_OK);
        rk_close(p.ctx);
        rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
        CHECK_INT(rk_evaluate(ctx, &(rk_eval_opts){ .run = run_dir(), .step = -1 }, ema ? &averaged : &plain),
                  RK_OK);
        loss[ema] = (ema ? averaged : plain).metrics[0].value;
        rk_close(ctx);
    }
    CHECK(loss[0] != loss[1]);
}

/* A run of the command line starts from it: model.from. */
TEST(fine_tuned_from)
{
    program p;
    begin(&p, many_layers, 0);
    train_it(&p);
    CHECK_INT(rk_save(run_dir(), p.net, p.opt, p.data), RK_OK);
    rk_close(p.ctx);
    char text[512];
    tiny_fresh();
    snprintf(text, sizeof text,
             "model: {from: %s, replace: {fc2: {linear: {init: zeros}}}}\nfreeze: [\"*\"]\nunfreeze: "
             "[\"fc2.*\"]\nbatch: {global: 10}\n",
             run_dir());
    tiny_run t = tiny_train(text, "run.steps=3");
    if (t.status)
        TEST_FAIL("%s", t.error);
}

/* What is there is never replaced by something else, and nothing is written beside it in silence. */
TEST(a_folder_of_another_training)
{
    program p;
    rk_ctx *ctx;
    for (int other = 0; other < 3; other++) {
        const char *kept = tiny_path("kept");
        begin(&p, mlp_layers, 0);
        if (other == 2) /* fewer steps than there are */
            p.opt = rk_optim_make(p.net, &(rk_optim_cfg){ .kind = RK_SGD, .lr = 0.1 });
        else
            train_it(&p);
        if (other == 1)
            rk_init(p.net, "fc1.bias", "zeros", 1);
        rk_status st = rk_save(kept, p.net, p.opt, p.data);
        if (other) {
            CHECK_INT(st, RK_ECONFIG);
            CHECK(strstr(rk_error(p.ctx), "/kept: not saved: step 24 is there already"));
            CHECK(strstr(rk_error(p.ctx), "save to another folder"));
        } else {
            CHECK_INT(st, RK_OK);
            CHECK_INT(rk_save(kept, p.net, p.opt, p.data), RK_OK); /* the same once more is fine */
        }
        rk_close(p.ctx);
    }
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    const int64_t *steps;
    int n;
    CHECK_INT(rk_run_steps(ctx, tiny_path("kept"), &steps, &n), RK_OK);
    CHECK_INT(n, 1);
    rk_close(ctx);
}

/* ---- what cannot be told ---- */

static void told(const char *dir, const char *why)
{
    rk_ctx *ctx;
    rk_eval_result r;
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    CHECK_INT(rk_evaluate(ctx, &(rk_eval_opts){ .run = dir, .step = -1, .data = tiny_path("eval") }, &r),
              RK_EDATA);
    if (!strstr(rk_error(ctx), why))
        TEST_FAIL("\"%s\" does not say \"%s\"", rk_error(ctx), why);
    CHECK(strstr(rk_error(ctx), "inspect, verify and export work"));
    rk_close(ctx);
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    CHECK_INT(rk_export_safetensors(ctx, dir, -1, false, tiny_path("out.safetensors")), RK_OK);
    rk_close(ctx);
}

TEST(without_a_loader)
{
    program p;
    begin(&p, mlp_layers, 0);
    train_it(&p);
    CHECK_INT(rk_save(run_dir(), p.net, p.opt, NULL), RK_OK);
    CHECK_INT(rk_close(p.ctx), 0);
    told(run_dir(), "without the loader of the training data");
}

TEST(layers_run_one_by_one)
{
    program p;
    begin(&p, mlp_layers, 0);
    rk_module *side = rk_sequence(p.net, "side");
    rk_batch b;
    CHECK(rk_loader_next(p.data, &b));
    rk_forward(side, b.x);
    CHECK_INT(rk_save(run_dir(), p.net, p.opt, p.data), RK_OK);
    CHECK_INT(rk_close(p.ctx), 0);
    told(run_dir(), "one by one");
}

static void other_outputs(rk_module *net)
{
    mlp_layers(net);
    rk_linear(net, "more", 4, 9); /* the loss takes a part of them */
}

TEST(other_outputs_than_the_data_wants)
{
    program p;
    begin(&p, other_outputs, 0);
    CHECK_INT(rk_save(run_dir(), p.net, p.opt, p.data), RK_OK);
    CHECK_INT(rk_close(p.ctx), 0);
    told(run_dir(), "do not make the outputs that the data wants");
}

static void hidden_layer(rk_module *net)
{
    mlp_layers(net);
    rk_linear(rk_activation(net, "last", "relu"), "hidden", 4, 4);
}

TEST(layers_where_none_can_be)
{
    program p;
    begin(&p, hidden_layer, 0);
    CHECK_INT(rk_save(run_dir(), p.net, p.opt, p.data), RK_OK);
    CHECK_INT(rk_close(p.ctx), 0);
    told(run_dir(), "layers inside of layers");
}

TEST_MAIN
