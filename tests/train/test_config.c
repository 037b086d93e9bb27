/* The configuration: every error names its place and the remedy; what is written out reads back the same. */
#include "test.h"

#include "train/config.h"

#include <unistd.h>

static rk_ctx *ctx;

static const char *write_file(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "test_config_%d.yaml", (int)getpid());
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    return path;
}

static rk_config *load_with(const char *text, const char *const *over, int n)
{
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    const char *path = write_file(text);
    rk_config *c = rk_config_load(ctx, path, over, n);
    unlink(path);
    return c;
}

static rk_config *load(const char *text)
{
    return load_with(text, NULL, 0);
}

/* The message must contain both texts. */
#define CHECK_REFUSED(text, status, a, b)                                            \
    do {                                                                             \
        CHECK(!load(text));                                                          \
        CHECK_INT(rk_failed(ctx), status);                                           \
        if (!strstr(rk_error(ctx), a) || !strstr(rk_error(ctx), b))                  \
            TEST_FAIL("message \"%s\" lacks \"%s\" or \"%s\"", rk_error(ctx), a, b); \
        rk_close(ctx);                                                               \
    } while (0)

TEST(reads_values_and_defaults)
{
    rk_config *c = load("run: {seed: 7, steps: 1e3}\noptim:\n  lr: 0.25\n  nesterov: true\ncompute: bf16\n");
    CHECK_OK(ctx, rk_failed(ctx));
    CHECK_INT(c->run_seed, 7);
    CHECK_INT(c->run_steps, 1000);
    CHECK(c->optim_lr == 0.25 && c->optim_nesterov);
    CHECK_STR(c->compute, "bf16");
    CHECK_STR(c->optim_kind, "adamw");
    CHECK_INT(c->grid_data, 8);
    CHECK(strstr(rk_config_run_dir(c), "runs/test_config_") == rk_config_run_dir(c));
    CHECK_STR(rk_config_get(c, "optim.lr"), "0.25");
    CHECK_STR(rk_config_get(c, "optim.nesterov"), "true");
    CHECK(!rk_config_get(c, "data.path"));
    CHECK(!rk_config_get(c, "no.such"));
    rk_open_cfg open;
    rk_config_open_cfg(c, &open);
    CHECK(open.seed == 7 && open.data_shards == 8 && !open.inexact);
    rk_close(ctx);
}

TEST(without_one_nothing_is_trained)
{
    CHECK(!load("optim:\n  lrr: 1\n"));
    rk_ctx *other;
    rk_open(&(rk_open_cfg){ .threads = 1 }, &other);
    CHECK_INT(rk_train(other, NULL, NULL), RK_EUSAGE);
    CHECK(strstr(rk_error(other), "rk_config_load()"));
    rk_close(other);
    rk_close(ctx);
}

TEST(overrides_in_order)
{
    const char *over[] = { "optim.lr=0.5", "--optim.lr=0.125", "run.dir=/tmp/x=y" };
    rk_config *c = load_with("optim: {lr: 1}\n", over, 3);
    CHECK_OK(ctx, rk_failed(ctx));
    CHECK(c->optim_lr == 0.125);
    CHECK_STR(c->run_dir, "/tmp/x=y");
    rk_close(ctx);
    load_with("optim: {lr: 1}\n", (const char *[]){ "optim.lrr=3" }, 1);
    CHECK(strstr(rk_error(ctx), "command line") && strstr(rk_error(ctx), "did you mean optim.lr?"));
    rk_close(ctx);
    load_with("run: {seed: 1}", (const char *[]){ "optim.lr" }, 1);
    CHECK_INT(rk_failed(ctx), RK_EUSAGE);
    rk_close(ctx);
}

TEST(errors_name_place_and_remedy)
{
    CHECK_REFUSED("optim:\n  lrr: 1\n", RK_ECONFIG, ".yaml:2:", "did you mean optim.lr?");
    CHECK_REFUSED("optimm:\n  lr: 1\n", RK_ECONFIG, ".yaml:2:", "did you mean optim?");
    CHECK_REFUSED("optim: 3\n", RK_ECONFIG, ".yaml:1:", "keys of its own");
    CHECK_REFUSED("run:\n  seed: x\n", RK_ECONFIG, ".yaml:2:", "a whole number");
    CHECK_REFUSED("run:\n  seed: 1.5\n", RK_ECONFIG, ".yaml:2:", "a whole number");
    CHECK_REFUSED("run:\n  seed: -1\n", RK_ECONFIG, ".yaml:2:", "at least 0");
    CHECK_REFUSED("batch: {global: 0}\n", RK_ECONFIG, ".yaml:1:", "out of range");
    CHECK_REFUSED("optim: {lr: .nan}\n", RK_ECONFIG, ".yaml:1:", "finite");
    CHECK_REFUSED("optim: {lr: fast}\n", RK_ECONFIG, ".yaml:1:", "a number");
    CHECK_REFUSED("optim: {nesterov: 1}\n", RK_ECONFIG, ".yaml:1:", "true or false");
    CHECK_REFUSED("optim: {kind: adamx}\n", RK_ECONFIG, ".yaml:1:", "sgd|adam|adamw");
    CHECK_REFUSED("optim: {kind: ada}\n", RK_ECONFIG, ".yaml:1:", "sgd|adam|adamw");
    CHECK_REFUSED("data: {path: [a, b]}\n", RK_ECONFIG, ".yaml:1:", "a list");
    CHECK_REFUSED("grid: {data: 6}\n", RK_ECONFIG, ".yaml:1:", "power of two");
    CHECK_REFUSED("data: {delimiter: ab}\n", RK_ECONFIG, ".yaml:1:", "one character");
    CHECK_REFUSED("data: {eval: x, split: 0.1}\n", RK_ECONFIG, ".yaml:1:", "keep one");
    CHECK_REFUSED("[1, 2]\n", RK_ECONFIG, ".yaml:1:", "keys and values");
}

TEST(written_reads_back)
{
    rk_config *c =
        load("run: {seed: 3}\nmodel: {layers: [{linear: {out: 4}}, relu]}\noptim: {lr: 0.1, eps: 1e-7}\n");
    char *json = rk_config_json(c, 0), *wide = rk_config_json(c, 2);
    rk_config *again = rk__config_from_json(ctx, "record", json, NULL, 0);
    CHECK_OK(ctx, rk_failed(ctx));
    char *json2 = rk_config_json(again, 0);
    CHECK_STR(json2, json);
    CHECK(strchr(wide, '\n') && !strchr(json, '\n'));
    CHECK(strstr(json, "\"lr\":0.1") && strstr(json, "\"eps\":1e-07"));
    free(json);
    free(json2);
    free(wide);
    rk_close(ctx);
}

static void count(void *user, const char *line)
{
    (void)line;
    ++*(int *)user;
}

TEST(continuing_with_changes)
{
    rk_config *c = load("run: {seed: 3}\noptim: {lr: 0.1, clip_norm: 100, min_lr: 1e-2}\n");
    char *json = rk_config_json(c, 0);
    int notes = 0;
    const char *free_change[] = { "log.every=3", "run.steps=9" }, *allow[] = { "optim.lr=0.2" },
               *refuse[] = { "run.seed=4", "optim.lr=0.2" };
    rk_config *f = rk__config_from_json(ctx, "record", json, free_change, 2);
    CHECK_OK(ctx, rk__config_continue(ctx, f, json, false, count, &notes));
    CHECK_INT(notes, 0);
    rk_config *a = rk__config_from_json(ctx, "record", json, allow, 1);
    CHECK_INT(rk__config_continue(ctx, a, json, false, count, &notes), RK_ECONFIG);
    CHECK(strstr(rk_error(ctx), "optim.lr: 0.1 in the run, 0.2 now") &&
          strstr(rk_error(ctx), "--allow-change"));
    rk_error_clear(ctx);
    CHECK_OK(ctx, rk__config_continue(ctx, a, json, true, count, &notes));
    CHECK_INT(notes, 1);
    rk_config *r = rk__config_from_json(ctx, "record", json, refuse, 2);
    CHECK_INT(rk__config_continue(ctx, r, json, true, count, &notes), RK_ECONFIG);
    CHECK(strstr(rk_error(ctx), "run.seed") && strstr(rk_error(ctx), "--fresh"));
    free(json);
    rk_close(ctx);
}

TEST(schema_and_table_agree)
{
    char *schema = rk_config_schema();
    CHECK(schema);
    rk_option_info o;
    int n = 0;
    for (; rk_config_option(n, &o); n++) {
        const char *last = strchr(o.key, '.');
        char quoted[80];
        snprintf(quoted, sizeof quoted, "\"%s\"", last ? last + 1 : o.key);
        if (!strstr(schema, quoted) || !strstr(schema, o.help))
            TEST_FAIL("the schema lacks %s", o.key);
    }
    CHECK(n > 60 && !rk_config_option(-1, &o));
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    rk_doc *d = NULL;
    CHECK_OK(ctx, rk__json_parse(ctx, "schema", (const uint8_t *)schema, strlen(schema), RK_EDATA, &d));
    CHECK(rk__doc_path(d, "properties.optim.properties.kind.enum")->n == 3);
    rk__doc_free(d);
    free(schema);
    rk_close(ctx);
}

TEST_MAIN
