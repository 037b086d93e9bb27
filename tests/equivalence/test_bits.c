/* The promise: real models trained for 50 steps end with the same SHA-256 over weights and optimiser state,
 * whatever the instruction set, the number of threads, the size of the passes, or where the run was
 * interrupted. */
#include "train/tiny.h"

typedef struct {
    const char *name, *text;
    bool pieces; /* batch norm over the whole batch cannot be cut */
} kind;

static const kind kinds[] = {
    { "mlp",
      "model: {layers: [flatten, {linear: 40}, gelu, {layer_norm: {}}, {dropout: 0.1}, {linear: 24}, silu, "
      "{rms_norm: {}}, "
      "linear]}\noptim: {lr: 0.003, weight_decay: 0.1, schedule: cosine, warmup: 5, clip_norm: 0.5, ema: "
      "0.9}\n"
      "batch: {global: 24}\n",
      true },
    { "cnn",
      "model: {layers: [{conv2d: {out: 8, pad: 1}}, relu, max_pool, {conv2d: {out: 12, pad: 1}}, relu, "
      "avg_pool, flatten, "
      "{linear: 16}, relu, linear]}\noptim: {lr: 0.003, schedule: wsd}\nbatch: {global: 20}\n",
      true },
    { "resnet",
      "model: {layers: [{conv2d: {out: 6, pad: 1, bias: false}}, batch_norm, relu, {residual: {main: "
      "[{conv2d: {out: 6, pad: "
      "1}}, batch_norm, relu, {conv2d: {out: 6, pad: 1}}, batch_norm]}}, {residual: {main: [{conv2d: {out: "
      "8, pad: 1, "
      "stride: 2}}, batch_norm, relu, {conv2d: {out: 8, pad: 1}}, batch_norm], shortcut: [{conv2d: {out: 8, "
      "kernel: 1, "
      "stride: 2}}, batch_norm]}}, adaptive_avg_pool, flatten, linear]}\n"
      "optim: {kind: sgd, lr: 0.05, nesterov: true, schedule: step}\nbatch: {global: 24}\n",
      false },
    { "shardnorm", /* batch norm over each data shard by itself */
      "model: {layers: [{conv2d: {out: 6, pad: 1, bias: false}}, {batch_norm: {scope: shard}}, relu, "
      "max_pool, "
      "{residual: {main: [{conv2d: {out: 6, pad: 1}}, {batch_norm: {scope: shard, momentum: 0.3}}]}}, "
      "flatten, "
      "{linear: 12}, {batch_norm: {scope: shard}}, tanh, linear]}\n"
      "optim: {kind: sgd, lr: 0.05}\nbatch: {global: 24}\n",
      false },
    { "autoencoder",
      "model: {layers: [{conv2d: {out: 6, stride: 2, pad: 1}}, relu, flatten, {linear: 10}, {linear: 96}, "
      "tanh, {reshape: "
      "[6, 4, 4]}, {upsample: 2}, {conv2d: {out: 1, pad: 1}}]}\noptim: {kind: adam, lr: 0.003, schedule: "
      "linear}\n"
      "batch: {global: 17}\n",
      true },
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static tiny_run once(const kind *k, const char *isa, int threads, int micro, int64_t stop)
{
    char t[40], m[40];
    snprintf(t, sizeof t, "parallel.threads=%d", threads);
    snprintf(m, sizeof m, "batch.micro=%d", micro);
    const char *over[] = { "run.steps=50",
                           t,
                           m,
                           "ckpt.every=1000",
                           strcmp(k->name, "autoencoder") ? "data.noise=0.05" : "data.task=reconstruction",
                           NULL };
    tiny_run r = { .stop_at = stop };
    tiny_train_with(&r, k->text, isa, NULL, over);
    return r;
}

static tiny_run fresh(const kind *k, const char *isa, int threads, int micro)
{
    tiny_fresh();
    return once(k, isa, threads, micro, 0);
}

static const kind *find_kind(const char *name)
{
    for (int i = 0; i < KINDS; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    return NULL;
}

/* A shorter run, with two more options. */
static tiny_run in_passes(const kind *k, const char *const more[2], int micro)
{
    char m[40];
    tiny_fresh();
    snprintf(m, sizeof m, "batch.micro=%d", micro);
    const char *over[] = { "run.steps=6", "ckpt.every=1000", m, more[0], more[1], NULL };
    tiny_run r = { 0 };
    tiny_train_with(&r, k->text, NULL, NULL, over);
    return r;
}

#define CHECK_SAME(run, ref, k, ...)                                                \
    do {                                                                            \
        if ((run).status || strcmp((run).hash, (ref).hash)) {                       \
            fprintf(stderr, "%s with ", (k)->name);                                 \
            fprintf(stderr, __VA_ARGS__);                                           \
            TEST_FAIL(": %s, wanted %s (%s)", (run).hash, (ref).hash, (run).error); \
        }                                                                           \
    } while (0)

TEST(instruction_sets_and_threads)
{
    static const char *const isas[] = { "portable", "avx2", "avx512" };
    for (int i = 0; i < KINDS; i++) {
        tiny_run ref = fresh(&kinds[i], "portable", 1, 0);
        CHECK_STR(ref.error, "");
        int compared = 0;
        for (int s = 0; s < 3; s++)
            for (int threads = 1; threads <= 3; threads++) {
                tiny_run r = fresh(&kinds[i], isas[s], threads, 0);
                if (r.status && s > 0 && !r.last)
                    continue; /* this machine lacks the instructions */
                CHECK_SAME(r, ref, &kinds[i], "%s, %d threads", isas[s], threads);
                compared++;
            }
        CHECK(compared >= 3);
    }
}

TEST(passes)
{
    static const int micro[] = { 12, 6, 3, 2, 1 };
    for (int i = 0; i < KINDS; i++) {
        if (!kinds[i].pieces)
            continue;
        tiny_run ref = fresh(&kinds[i], NULL, 2, 0);
        CHECK_STR(ref.error, "");
        for (int m = 0; m < 5; m++)
            CHECK_SAME(fresh(&kinds[i], NULL, 2, micro[m]), ref, &kinds[i], "passes of %d", micro[m]);
    }
}

/* Statistics of a data shard: passes of several shards, of one, of a number that divides nothing; shards of
 * unequal size, and fewer samples than shards in the short last batch of an epoch (100 samples). */
TEST(passes_with_statistics_of_shards)
{
    static const char *const grids[][2] = { { "batch.global=24", "grid.data=8" },
                                            { "batch.global=24", "grid.data=2" },
                                            { "batch.global=19", "grid.data=4" },
                                            { "batch.global=33", "grid.data=16" },
                                            { "batch.global=7", "grid.data=1" } };
    const kind *k = find_kind("shardnorm");
    for (int g = 0; g < 5; g++) {
        int global = atoi(grids[g][0] + 13), shards = atoi(grids[g][1] + 10),
            cut = (global + shards - 1) / shards;
        tiny_run ref = in_passes(k, grids[g], 0);
        CHECK_STR(ref.error, "");
        for (int micro = 1; micro <= global; micro += micro < 6 ? 1 : 3) {
            tiny_run r = in_passes(k, grids[g], micro);
            if (micro < cut) { /* a shard's statistics need all of it */
                CHECK_INT(r.status, RK_ECONFIG);
                CHECK(strstr(r.error, "(batch_norm) sums over: use at least"));
            } else {
                CHECK_SAME(r, ref, k, "%s, %s, passes of %d", grids[g][0], grids[g][1], micro);
            }
        }
    }
}

/* Another order of addition gives other bits, but computes the same thing. */
TEST(inexact)
{
    static const char *const over[] = { "parallel.exact=false", NULL };
    const kind *k = find_kind("shardnorm");
    tiny_run exact = in_passes(k, (const char *const[]){ NULL, NULL }, 0), not = in_passes(k, over, 0);
    CHECK_STR(exact.error, "");
    CHECK_STR(not .error, "");
    CHECK(strcmp(exact.hash, not .hash));
    for (int s = 1; s <= 6; s++)
        CHECK(fabs(exact.loss[s] - not .loss[s]) < 1e-4);
}

/* Where its weight is frozen, batch norm uses the running statistics: passes may cut shards then, unless its
 * bias is still trained. */
TEST(passes_with_a_frozen_batch_norm)
{
    static const char *const all[] = { "freeze=[\"bn*\", \"block1.main.bn*\"]", NULL };
    static const char *const weights[] = { "freeze=[\"*bn?.weight\"]", NULL };
    const kind *k = find_kind("shardnorm");
    tiny_run ref = in_passes(k, all, 0), trained = in_passes(k, weights, 0);
    CHECK_STR(ref.error, "");
    CHECK_STR(trained.error, "");
    for (int micro = 1; micro <= 12; micro += micro < 4 ? 1 : 3) {
        CHECK_SAME(in_passes(k, all, micro), ref, k, "bn frozen, passes of %d", micro);
        tiny_run r = in_passes(k, weights, micro);
        if (micro < 3)
            CHECK_INT(r.status, RK_ECONFIG);
        else
            CHECK_SAME(r, trained, k, "weights of bn frozen, passes of %d", micro);
    }
}

TEST(interruptions)
{
    for (int i = 0; i < KINDS; i++) {
        tiny_run ref = fresh(&kinds[i], NULL, 2, 0);
        CHECK_STR(ref.error, "");
        for (int64_t stop = 1; stop < 50; stop += 16) {
            tiny_fresh();
            tiny_run cut = once(&kinds[i], NULL, 1, 0, stop);
            CHECK_INT(cut.status, RK_EPREEMPTED);
            CHECK_SAME(once(&kinds[i], NULL, 2, 0, 0), ref, &kinds[i], "a stop at step %d", (int)stop);
        }
    }
}

/* What the comparisons above would look like if nothing were compared: another seed must give another hash.
 */
TEST(the_hash_sees_the_weights)
{
    tiny_run a = fresh(&kinds[1], NULL, 2, 0);
    tiny_fresh();
    tiny_run b = { 0 };
    tiny_train_with(&b, kinds[1].text, NULL, NULL,
                    (const char *[]){ "run.steps=50", "data.noise=0.05", "run.seed=2", NULL });
    CHECK(!a.status && !b.status && strlen(a.hash) == 64 && strcmp(a.hash, b.hash));
}

TEST_MAIN
