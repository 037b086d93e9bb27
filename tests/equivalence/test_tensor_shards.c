/* Tensor shards: within one S a run has the same bits on every instruction set, with any number of threads
 * and any size of passes; S changes bits only where a cut sum is. */
#include "train/tiny.h"

static const char mlp[] =
    "model: {layers: [flatten, {linear: 40}, gelu, {dropout: 0.1}, {linear: 24}, {layer_norm: {}}, {linear: "
    "32}, "
    "relu, linear]}\n"
    "parallel: {place: {linear1: column, linear2: row, linear3: column, linear4: none}}\n"
    "optim: {lr: 0.003, weight_decay: 0.1, clip_norm: 0.5, ema: 0.9}\nbatch: {global: 24}\n"
    "loss: {label_smoothing: 0.1}\n";
static const char cnn[] = "model: {layers: [{conv2d: {out: 8, pad: 1}}, relu, max_pool, {conv2d: {out: 12, "
                          "pad: 1}}, relu, flatten, "
                          "{linear: 16}, tanh, linear]}\n"
                          "parallel: {place: {conv?: channels, linear1: column, linear2: row}}\n"
                          "optim: {kind: sgd, lr: 0.05, clip_norm: 1}\nbatch: {global: 20}\n";
static const char classes[] = "model: {layers: [flatten, {linear: 24}, relu, linear]}\n"
                              "parallel: {place: {linear1: none, linear2: column}}\nbatch: {global: 24}\n"
                              "loss: {label_smoothing: 0.1}\n";

static tiny_run run(const char *text, int shards, const char *isa, int threads, int micro)
{
    char s[40], t[40], m[40];
    tiny_fresh();
    snprintf(s, sizeof s, "grid.tensor=%d", shards);
    snprintf(t, sizeof t, "parallel.threads=%d", threads);
    snprintf(m, sizeof m, "batch.micro=%d", micro);
    const char *over[] = { "run.steps=12", "ckpt.every=1000", s, t, m, NULL };
    tiny_run r = { 0 };
    tiny_train_with(&r, text, isa, NULL, over);
    return r;
}

static void check_shards(const char *text, int most)
{
    static const char *const isas[] = { "portable", "avx2", "avx512" };
    static const int micro[] = { 12, 5, 1 };
    char hash[4][65];
    int n = 0;
    for (int s = 1; s <= most; s *= 2) {
        tiny_run ref = run(text, s, "portable", 1, 0);
        CHECK_STR(ref.error, "");
        for (int i = 0; i < 3; i++)
            for (int threads = 1; threads <= 3; threads++) {
                tiny_run r = run(text, s, isas[i], threads, 0);
                if (r.status && i > 0 && !r.last)
                    continue; /* this machine lacks the instructions */
                CHECK_STR(r.hash, ref.hash);
            }
        for (int i = 0; i < 3; i++)
            CHECK_STR(run(text, s, NULL, 2, micro[i]).hash, ref.hash);
        for (int i = 0; i < n; i++)
            CHECK(strcmp(ref.hash, hash[i]));
        snprintf(hash[n++], 65, "%s", ref.hash);
    }
}

TEST(linear_pairs)
{
    check_shards(mlp, 8);
}

TEST(channels)
{
    check_shards(cnn, 8);
}

TEST(classes_of_the_loss)
{
    check_shards(classes, 4);
}

/* Outputs in columns are whole sums, and the first layer gives no input gradient: without a norm, no sum is
 * cut. */
TEST(shards_without_a_cut_sum_change_nothing)
{
    static const char text[] = "model: {layers: [flatten, {linear: 32}, {layer_norm: {}}, linear]}\n"
                               "parallel: {place: {linear1: column, linear2: none}}\nbatch: {global: 24}\n";
    tiny_run one = run(text, 1, NULL, 2, 0);
    CHECK_STR(one.error, "");
    for (int s = 2; s <= 8; s *= 2)
        CHECK_STR(run(text, s, NULL, 2, 0).hash, one.hash);
}

TEST(a_run_keeps_its_shards)
{
    tiny_run first = run(cnn, 2, NULL, 1, 0);
    CHECK_STR(first.error, "");
    tiny_run again = tiny_train(cnn, "run.steps=25 grid.tensor=4");
    CHECK_INT(again.status, RK_ECONFIG);
    CHECK(strstr(again.error, "grid.tensor"));
    again = tiny_train(cnn, "run.steps=25 grid.tensor=3");
    CHECK(strstr(again.error, "grid.tensor: 3, wanted a power of two"));
    again = tiny_train(cnn, "run.steps=25 grid.tensor=2");
    CHECK_STR(again.error, "");
}

TEST_MAIN
