/* Placement: the rules, names, and what does not fit. */
#include "test.h"

#include "nn/module.h"

static rk_ctx *ctx;
static rk_module *net;

static void begin(int shards)
{
    rk_open(&(rk_open_cfg){ .threads = 1 }, &ctx);
    ctx->shards.count = shards;
    net = rk_root(ctx, "net");
}

static rk_status place(bool classes, const char *names)
{
    rk_doc *doc = NULL;
    if (names)
        rk__json_parse(ctx, "test", (const uint8_t *)names, strlen(names), RK_ECONFIG, &doc);
    rk_status st = rk__place_layers(net, classes, doc);
    rk__doc_free(doc);
    return st;
}

static const rk_module *child(const char *name)
{
    const rk_module *m = net->first;
    while (m && strcmp(m->full, name))
        m = m->next;
    return m;
}

static void check_layer(const char *name, rk__place place, bool cut_in, bool cut_out)
{
    const rk_module *m = child(name);
    if (m->place != place || m->cut_in != cut_in || m->cut_out != cut_out)
        TEST_FAIL("%s: placed %d, in %d, out %d", name, (int)m->place, m->cut_in, m->cut_out);
    int axis = place == RK__PLACE_ROW;
    bool is_cut = place != RK__PLACE_NONE;
    if (m->weight) {
        CHECK((m->weight->cut != NULL) == is_cut);
        CHECK(!is_cut ||
              (m->weight->cut->axis == axis && m->weight->cut->whole == m->weight->shape.dim[axis]));
    }
    if (m->bias)
        CHECK((m->bias->cut != NULL) == (is_cut && place != RK__PLACE_ROW));
}

TEST(rules)
{
    begin(8);
    rk_embedding(net, "table", 5000, 64);
    rk_conv2d(net, "conv", 32, 64, 3, NULL);
    rk_conv2d(net, "grouped", 64, 512, 3, &(rk_conv_cfg){ .groups = 2 });
    rk_linear(net, "a", 200, 512);
    rk_activation(net, "act1", "gelu");
    rk_dropout(net, "drop", 0.1);
    rk_linear(net, "b", 512, 40);
    rk_linear(net, "c", 40, 512);
    rk_layer_norm(net, "norm", 512);
    rk_linear(net, "narrow", 512, 60);
    rk_linear(net, "small", 60, 64);
    rk_linear(net, "head", 64, 1000);
    CHECK_INT(place(true, NULL), RK_OK);
    check_layer("table", RK__PLACE_ROWS, false, false);
    check_layer("conv", RK__PLACE_CHANNELS, false, false);
    check_layer("grouped", RK__PLACE_NONE, false, false);
    check_layer("a", RK__PLACE_COLUMN, false, true);
    check_layer("act1", RK__PLACE_NONE, true, true);
    check_layer("drop", RK__PLACE_NONE, true, true);
    check_layer("b", RK__PLACE_ROW, true, false);
    check_layer("c", RK__PLACE_COLUMN, false, false); /* a norm lies behind it */
    check_layer("norm", RK__PLACE_NONE, false, false);
    check_layer("narrow", RK__PLACE_NONE, false, false);
    check_layer("small", RK__PLACE_NONE, false, false);
    check_layer("head", RK__PLACE_COLUMN, false, true); /* classes */
    CHECK(rk__place_classes(net) && rk__place_classes(net)->whole == 1000);
    rk__text t = { 0 };
    rk__place_print(net, &t);
    char *text = rk__text_take(&t);
    CHECK(strstr(text, "head.weight") && strstr(text, "outputs in 8 of 125") &&
          strstr(text, "inputs in 8 of 64"));
    CHECK(strstr(text, "classes of the cross entropy") && strstr(text, "too small") &&
          strstr(text, "never cut"));
    free(text);
    CHECK_INT(rk_close(ctx), 0);
}

TEST(without_a_cross_entropy_the_last_layer_pairs)
{
    begin(4);
    rk_linear(net, "a", 64, 512);
    rk_activation(net, "act", "tanh");
    rk_linear(net, "b", 512, 512);
    CHECK_INT(place(false, NULL), RK_OK);
    check_layer("a", RK__PLACE_COLUMN, false, true);
    check_layer("b", RK__PLACE_ROW, true, false);
    CHECK(!rk__place_classes(net));
    CHECK_INT(rk_close(ctx), 0);
}

TEST(one_shard_cuts_nothing)
{
    begin(1);
    rk_linear(net, "a", 512, 512);
    CHECK_INT(place(true, "{\"a\": \"row\"}"), RK_OK);
    CHECK(!child("a")->weight->cut && !rk__place_classes(net));
    CHECK_INT(rk_close(ctx), 0);
}

TEST(names_come_first)
{
    begin(2);
    rk_linear(net, "fc1", 8, 6);
    rk_activation(net, "act", "relu");
    rk_linear(net, "fc2", 6, 5);
    rk_linear(net, "fc3", 512, 512);
    rk_linear(net, "fc4", 512, 512);
    CHECK_INT(place(true, "{\"fc?\": \"none\", \"fc1\": \"column\", \"fc2\": \"row\"}"), RK_OK);
    check_layer("fc1", RK__PLACE_COLUMN, false, true);
    check_layer("fc2", RK__PLACE_ROW, true, false);
    check_layer("fc3", RK__PLACE_NONE, false, false);
    check_layer("fc4", RK__PLACE_NONE, false, false);
    CHECK_INT(rk_close(ctx), 0);
}

static void refused(int shards, const char *names, const char *why)
{
    begin(shards);
    rk_linear(net, "fc1", 8, 6);
    rk_conv2d(net, "conv", 4, 8, 3, &(rk_conv_cfg){ .groups = 2 });
    CHECK_INT(place(false, names), RK_ECONFIG);
    if (!strstr(rk_error(ctx), why))
        TEST_FAIL("\"%s\" does not say \"%s\"", rk_error(ctx), why);
    rk_close(ctx);
}

TEST(what_does_not_fit)
{
    refused(2, NULL, "grid.tensor 2: no layer can be cut by it");
    refused(2, "{\"fc9\": \"row\"}", "no layer with weights is named fc9");
    refused(2, "{\"fc1\": \"rows\"}", "layer fc1 (linear) cannot be placed by rows");
    refused(2, "{\"fc1\": \"diagonal\"}", "fc1: wanted column, row, rows, channels or none");
    refused(8, "{\"fc1\": \"column\"}", "layer fc1 has 6 to share out by column, fewer than grid.tensor 8");
    refused(2, "{\"conv\": \"channels\"}", "layer conv has 2 groups");
    refused(2, "[\"fc1\"]", "wanted a map of layers");
}

TEST_MAIN
