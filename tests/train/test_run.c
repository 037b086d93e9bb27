/* Runs from configuration to snapshot: resumed = straight, pieces = whole, stopping, diverging, fine-tuning.
 */
#include "tiny.h"

#define MLP                                                                                                \
    "model: {layers: [flatten, {linear: 24}, {layer_norm: {}}, gelu, {dropout: 0.2}, {linear: 16}, relu, " \
    "linear]}\n"                                                                                           \
    "optim: {lr: 0.01, weight_decay: 0.1, schedule: cosine, warmup: 3, clip_norm: 1}\n"                    \
    "batch: {global: 12}\nlog: {every: 4}\n"
#define CNN                                                                                              \
    "model: {layers: [{conv2d: {out: 4, pad: 1}}, relu, max_pool, {conv2d: {out: 6, pad: same}}, relu, " \
    "flatten, "                                                                                          \
    "{linear: 12}, relu, linear]}\n"                                                                     \
    "optim: {kind: sgd, lr: 0.05, schedule: linear}\nbatch: {global: 20}\ndata: {shift: 1, flip: true, " \
    "noise: 0.1}\n"                                                                                      \
    "log: {every: 4}\n"

#define CHECK_DONE(t)                                    \
    do {                                                 \
        if ((t).status)                                  \
            TEST_FAIL("training failed: %s", (t).error); \
    } while (0)

/* YAML maps do not repeat: the data key of CNN is joined here. */
static const char *with_data(const char *text)
{
    static char buf[1024];
    const char *data = strstr(text, "data: {");
    if (!data)
        return text;
    snprintf(buf, sizeof buf, "%.*s%s", (int)(data - text), text, strchr(data, '\n') + 1);
    return buf;
}

static const char *cnn_over = "data.shift=1 data.flip=true data.noise=0.1 ";

static tiny_run train_model(const char *model, const char *over)
{
    char all[512];
    snprintf(all, sizeof all, "%s%s", model[0] == 'c' ? cnn_over : "", over);
    return tiny_train(with_data(model[0] == 'c' ? CNN : MLP), all);
}

TEST(resumed_is_straight)
{
    static const char *const models[] = { "mlp", "cnn" };
    for (int m = 0; m < 2; m++) {
        tiny_fresh();
        tiny_run straight = train_model(models[m], "run.steps=14 ckpt.every=5 optim.ema=0.9");
        CHECK_DONE(straight);
        CHECK_STR(straight.start, "new run");
        CHECK_INT(straight.first, 1);
        for (int64_t stop = 1; stop < 14; stop += 3) {
            tiny_fresh();
            char over[128];
            snprintf(over, sizeof over, "%srun.steps=14 ckpt.every=5 optim.ema=0.9", m ? cnn_over : "");
            const char *list[16] = { NULL };
            int n = 0;
            for (char *save, *p = strtok_r(over, " ", &save); p; p = strtok_r(NULL, " ", &save))
                list[n++] = p;
            tiny_run cut = { .stop_at = stop }, rest = { 0 };
            tiny_train_with(&cut, with_data(m ? CNN : MLP), NULL, NULL, list);
            CHECK_INT(cut.status, RK_EPREEMPTED);
            CHECK_INT(cut.last, stop);
            tiny_train_with(&rest, with_data(m ? CNN : MLP), NULL, NULL, list);
            CHECK_DONE(rest);
            CHECK_INT(rest.first, stop + 1);
            CHECK_STR(rest.hash, straight.hash);
            for (int64_t s = stop + 1; s <= 14; s++)
                CHECK(rest.loss[s] == straight.loss[s]);
        }
    }
}

/* Asked to stop before the first step, of a new run and of one that is continued: nothing is lost, nothing is
 * wrong. */
TEST(stopped_before_a_step)
{
    static const char *const over[] = { "run.steps=6", NULL };
    tiny_fresh();
    tiny_run straight = { 0 };
    tiny_train_with(&straight, MLP, NULL, NULL, over);
    CHECK_DONE(straight);
    tiny_fresh();
    for (int i = 0; i < 3; i++) {
        tiny_run none = { .stop = 1 };
        tiny_train_with(&none, MLP, NULL, NULL, over);
        CHECK_INT(none.status, RK_EPREEMPTED);
        CHECK_INT(none.last, 0);
        CHECK_INT(none.saves, i == 0);
        if (i == 1) {
            tiny_run some = { .stop_at = 3 };
            tiny_train_with(&some, MLP, NULL, NULL, over);
            CHECK_INT(some.last, 3);
        }
    }
    tiny_run rest = { 0 };
    tiny_train_with(&rest, MLP, NULL, NULL, over);
    CHECK_DONE(rest);
    CHECK_INT(rest.first, 4);
    CHECK_STR(rest.hash, straight.hash);
}

TEST(pieces_are_the_whole)
{
    static const char *const models[] = { "mlp", "cnn" };
    for (int m = 0; m < 2; m++) {
        tiny_fresh();
        tiny_run whole = train_model(models[m], "run.steps=12"); /* with a short last batch of an epoch */
        CHECK_DONE(whole);
        static const int micro[] = { 19, 7, 6, 5, 3, 2, 1 };
        for (int i = 0; i < 7; i++) {
            char over[64];
            tiny_fresh();
            snprintf(over, sizeof over, "run.steps=12 batch.micro=%d", micro[i]);
            tiny_run pieces = train_model(models[m], over);
            CHECK_DONE(pieces);
            for (int s = 1; s <= 12; s++)
                if (pieces.loss[s] != whole.loss[s])
                    TEST_FAIL("%s: loss of step %d is %.9g in pieces of %d, %.9g whole", models[m], s,
                              pieces.loss[s], micro[i], whole.loss[s]);
            CHECK_STR(pieces.hash, whole.hash);
        }
    }
}

TEST(other_grid_other_bits)
{
    tiny_fresh();
    tiny_run a = train_model("mlp", "run.steps=12 grid.data=8");
    tiny_fresh();
    tiny_run b = train_model("mlp", "run.steps=12 grid.data=1");
    CHECK_DONE(a);
    CHECK_DONE(b);
    CHECK(strcmp(a.hash, b.hash)); /* or the comparison of hashes above says nothing */
}

TEST(learns_and_evaluates)
{
    tiny_fresh();
    char over[300];
    snprintf(over, sizeof over, "run.epochs=12 data.eval=%s/eval optim.ema=0.5", tiny_dir);
    tiny_run t = train_model("mlp", over);
    CHECK_DONE(t);
    CHECK_INT(t.last, 12 * 9);
    CHECK_INT(t.evals, 12);
    CHECK(t.eval_accuracy > 0.95);
    CHECK_INT(t.allocs, 0);
    CHECK(!access(tiny_path("run/DONE"), F_OK) && !access(tiny_path("run/result.json"), F_OK));

    rk_ctx *ctx;
    rk_open(NULL, &ctx);
    rk_eval_result r;
    CHECK_OK(ctx, rk_evaluate(ctx, &(rk_eval_opts){ .run = tiny_path("run"), .step = 12 * 9 }, &r));
    CHECK_INT(r.samples, 60);
    CHECK_INT(r.classes, 4);
    CHECK(r.n_metrics >= 2 && r.metrics[0].value == t.eval_loss); /* the averaged weights, the same bits */
    int64_t right = 0, all = 0;
    for (int i = 0; i < 16; i++) {
        all += r.confusion[i];
        right += i % 5 == 0 ? r.confusion[i] : 0;
    }
    CHECK_INT(all, 60);
    CHECK_CLOSE((double)right / 60, t.eval_accuracy, 1e-12, 0);
    rk_close(ctx);

    tiny_run again = train_model("mlp", over);
    CHECK_DONE(again);
    CHECK_INT(again.last, 0);
    CHECK(strstr(again.end, "already finished"));
}

static rk_status count_row(void *user, const rk_prediction *p)
{
    int *n = user;
    double sum = 0;
    for (int64_t i = 0; i < p->n; i++)
        sum += (double)p->value[i];
    if (p->sample == n[0] && p->n == 4 && fabs(sum - 1) < 1e-5)
        n[0]++;
    n[1] += p->best == p->sample % 4;
    return p->sample == n[2] ? RK_EIO : RK_OK;
}

TEST(predicts)
{
    tiny_fresh();
    tiny_run t = train_model("mlp", "run.epochs=12 data.split=0.2");
    CHECK_DONE(t);
    rk_ctx *ctx;
    rk_open(NULL, &ctx);
    int n[3] = { 0, 0, -1 };
    rk_eval_opts o = { .run = tiny_path("run"), .step = -1, .data = tiny_path("eval"), .batch = 7 };
    CHECK_OK(ctx, rk_predict(ctx, &o, count_row, n));
    CHECK_INT(n[0], 60);
    CHECK(n[1] >= 57);
    n[0] = 0;
    n[2] = 10;
    CHECK_INT(rk_predict(ctx, &o, count_row, n), RK_EIO);
    CHECK_INT(n[0], 11);
    rk_error_clear(ctx);
    o.run = tiny_path("nothing");
    CHECK(rk_predict(ctx, &o, count_row, n));
    rk_close(ctx);
}

TEST(early_stopping)
{
    tiny_fresh();
    char over[300];
    snprintf(over, sizeof over,
             "run.epochs=40 data.eval=%s/eval optim.lr=0 optim.schedule=constant eval.patience=3 "
             "optim.warmup=0",
             tiny_dir);
    tiny_run t = train_model("mlp", over); /* nothing is learned: the first evaluation stays the best */
    CHECK_DONE(t);
    CHECK_INT(t.evals, 4);
    CHECK_INT(t.last, 36);
    CHECK(strstr(t.end, "stopped early"));
}

TEST(divergence_names_layer_and_samples)
{
    tiny_fresh();
    /* a product of weights, each thrown far by the other's gradient */
    tiny_run t =
        tiny_train("model: {layers: [flatten, {linear: 8}, {linear: 8}, linear]}\nbatch: {global: 20}\n",
                   "optim.kind=sgd run.steps=40 optim.lr=1000 ckpt.every=1");
    CHECK_INT(t.status, RK_EDIVERGED);
    CHECK_INT(rk_exit_code(t.status), 79);
    CHECK(strstr(t.error, "first not finite: linear") && strstr(t.error, "samples ") &&
          strstr(t.error, "step "));
    tiny_fresh();
    tiny_run ok = train_model("cnn", "run.steps=40 optim.lr=0.01 optim.schedule=constant");
    CHECK_DONE(ok);
}

TEST(batch_norm_refuses_pieces)
{
    tiny_fresh();
    tiny_run t = tiny_train("model: {layers: [{conv2d: {out: 4}}, batch_norm, relu, flatten, linear]}\n",
                            "batch.global=8 batch.micro=4 run.steps=2");
    CHECK_INT(t.status, RK_ECONFIG);
    CHECK(strstr(t.error, "layer bn1") && strstr(t.error, "batch.micro"));
    tiny_fresh();
    t = tiny_train("model: {layers: [{conv2d: {out: 4}}, batch_norm, relu, flatten, linear]}\n",
                   "batch.global=8 run.steps=2");
    CHECK_DONE(t);
}

TEST(changed_configuration)
{
    tiny_fresh();
    tiny_run a = train_model("mlp", "run.steps=4");
    CHECK_DONE(a);
    tiny_run b = train_model("mlp", "run.steps=8 run.seed=5");
    CHECK_INT(b.status, RK_ECONFIG);
    CHECK(strstr(b.error, "run.seed: 1 in the run, 5 now"));
    tiny_run c = train_model("mlp", "run.steps=8 optim.lr=0.002");
    CHECK_INT(c.status, RK_ECONFIG);
    CHECK(strstr(c.error, "--allow-change"));
    tiny_run d = { 0 };
    tiny_train_with(&d, MLP, NULL, &(rk_train_opts){ .allow_change = true },
                    (const char *[]){ "run.steps=8", "optim.lr=0.002", NULL });
    CHECK_DONE(d);
    CHECK_INT(d.first, 5);
    CHECK(strstr(d.warn, "optim.lr"));
    tiny_run e = { 0 };
    tiny_train_with(&e, MLP, NULL, &(rk_train_opts){ .fresh = true },
                    (const char *[]){ "run.steps=3", "run.seed=5", NULL });
    CHECK_DONE(e);
    CHECK_INT(e.first, 1);
}

TEST(fine_tuning_a_run)
{
    tiny_fresh();
    tiny_remove(tiny_path("base"));
    tiny_run base = tiny_train(with_data(CNN), "run.epochs=12 data.split=0.2");
    CHECK_DONE(base);
    CHECK(base.eval_accuracy > 0.9);
    rename(tiny_path("run"), tiny_path("base"));
    char text[512];
    snprintf(text, sizeof text,
             "model: {from: %s/base, replace: {linear2: {linear: {out: 4}}}}\n"
             "freeze: ['*']\nunfreeze: ['linear2.*']\n",
             tiny_dir);
    tiny_run fine = tiny_train(text, "run.epochs=6 run.seed=9 data.split=0.2 optim.lr=0.02 batch.global=20");
    CHECK_DONE(fine);
    CHECK(fine.eval_accuracy > 0.9);
    rk_ctx *ctx;
    rk_open(NULL, &ctx);
    rk_snapshot_info info;
    CHECK_OK(ctx, rk_snapshot_describe(ctx, tiny_path("run"), -1, &info));
    int optim = 0, params = 0;
    for (int i = 0; i < info.n_entries; i++) {
        optim += !strcmp(info.entries[i].kind, "optim");
        params += !strcmp(info.entries[i].kind, "param");
        if (!strcmp(info.entries[i].kind, "optim"))
            CHECK(strstr(info.entries[i].name, "linear2"));
    }
    CHECK_INT(optim, 4);  /* m and v of the new weight and bias */
    CHECK_INT(params, 8); /* all weights of the network are in its snapshot */
    rk_close(ctx);
    /* the source may go: the run knows its layers */
    tiny_remove(tiny_path("base"));
    tiny_run more = tiny_train(text, "run.epochs=8 run.seed=9 data.split=0.2 optim.lr=0.02 batch.global=20");
    CHECK_DONE(more);
    CHECK_INT(more.first, fine.last + 1);
    tiny_fresh();
    tiny_run gone = tiny_train(text, "run.epochs=1");
    CHECK(gone.status);
}

TEST(wrong_models_are_refused_before_training)
{
    static const struct {
        const char *text, *a, *b;
    } cases[] = {
        { "model: {layers: [flatten, {linear: 3}]}\n", "(3)", "(4)" },
        { "model: {layers: [{lineer: 3}]}\n", "config.yaml:3:", "did you mean linear?" },
        { "model: {layers: [flatten, {linear: {outt: 3}}]}\n", "outt", "did you mean out?" },
        { "model: {layers: [flatten, {conv2d: {out: 3}}]}\n", "(channels, height, width)", "config.yaml:3:" },
        { "model: {layers: [{conv2d: {out: 3, kernel: 9}}, flatten, linear]}\n", "layer conv1", "(1, 8, 8)" },
        { "model: {layers: [{residual: {main: [{conv2d: {out: 3, pad: 1}}]}}, flatten, linear]}\n", "block1",
          "shortcut" },
        { "model: {layers: []}\n", "no layers", "config.yaml:3:" },
        { "model: {layer: [relu]}\n", "layer", "did you mean layers?" },
        { "model: {layers: [flatten, {linear: {name: a}}, {linear: {name: a}}]}\n", "two layers are named a",
          "" },
        { "model: {layers: [flatten, linear], replace: {linear9: relu}}\n", "linear9", "no layer" },
        { "model: {layers: [flatten, linear]}\nfreeze: [linear1.wight]\n", "linear1.wight",
          "linear1.weight" },
        { "model: {layers: [flatten, linear]}\nfreeze: ['*']\n", "nothing to train", "frozen" },
        { "model: {layers: [flatten, linear]}\nloss: {kind: mse}\n", "loss.kind mse", "cross_entropy" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_fresh();
        tiny_run t = tiny_train(cases[i].text, "run.steps=1");
        if (rk_exit_code(t.status) != 78 || !strstr(t.error, cases[i].a) || !strstr(t.error, cases[i].b))
            TEST_FAIL("%s gives %d \"%s\"", cases[i].text, t.status, t.error);
        CHECK_INT(t.last, 0);
    }
}

TEST_MAIN
