#include "files.h"

#include "core/ctx.h"
#include "io/ds.h"

static rk__ds *open_text(rk_ctx *ctx, const char *text, rk_data_cfg cfg)
{
    rk__ds *ds;
    *ctx = (rk_ctx){ 0 };
    cfg.path = file_text("t.csv", text);
    rk__ds_open(ctx, &cfg, &ds);
    return ds;
}

/* All of x, row after row, as text: easy to compare. */
static void dump(rk__ds *ds, char *out, size_t size)
{
    const rk__ds_info *in = ds->ops->info(ds);
    rk_ctx ctx = { 0 };
    size_t n = 0;
    out[0] = '\0';
    for (int64_t s = 0; s < in->samples; s++) {
        float x[64], t[8] = { 0 };
        int64_t label = -1;
        if (ds->ops->read(ds, &ctx, &s, 1, x, in->classes ? (void *)&label : (void *)t))
            abort();
        for (int64_t i = 0; i < in->groups; i++)
            n += (size_t)snprintf(out + n, size - n, "%g ", x[i]);
        for (int64_t i = 0; i < in->targets; i++)
            n += (size_t)snprintf(out + n, size - n, "-> %g ", t[i]);
        if (in->classes)
            n += (size_t)snprintf(out + n, size - n, "-> %lld ", (long long)label);
        n += (size_t)snprintf(out + n, size - n, "| ");
    }
}

static void expect(const char *text, rk_data_cfg cfg, const char *want)
{
    rk_ctx ctx;
    char have[2048];
    rk__ds *ds = open_text(&ctx, text, cfg);
    if (!ds)
        TEST_FAIL("%s: %s", text, rk_error(&ctx));
    dump(ds, have, sizeof have);
    ds->ops->close(ds);
    if (strcmp(have, want) != 0)
        TEST_FAIL("%s\n gave     %s\n expected %s", text, have, want);
}

TEST(columns)
{
    expect("a,b,class\n1,2,x\n3,4.5,y\n-1e2,.5,x\n", (rk_data_cfg){ 0 },
           "1 2 -> 0 | 3 4.5 -> 1 | -100 0.5 -> 0 | ");
    expect("a,colour,y\n1,red,0\n2,blue,1\n3,green,2\n", (rk_data_cfg){ 0 },
           "1 0 0 1 -> 0 | 2 1 0 0 -> 1 | 3 0 1 0 -> 2 | ");
    expect("y,a\r\n10,1\r\n9,2\r\n", (rk_data_cfg){ .label_column = "y" },
           "1 -> 1 | 2 -> 0 | "); /* 9 < 10: by value */
    expect("1,2,3\n4,5,6\n", (rk_data_cfg){ .no_header = true, .label_column = "2", .task = "regression" },
           "1 3 -> 2 | 4 6 -> 5 | ");
    expect("a,b,c\n1,2,3\n4,5,6\n", (rk_data_cfg){ .label_column = "c,a", .task = "regression" },
           "2 -> 1 -> 3 | 5 -> 4 -> 6 | ");
    expect("a,b\n1,2\n3,4\n", (rk_data_cfg){ .task = "reconstruction" }, "1 2 | 3 4 | ");
    expect("a,b\n1,2\n3,4\n", (rk_data_cfg){ .no_labels = true }, "1 2 | 3 4 | ");
    expect("a,b\n1,2\n3,4\n", (rk_data_cfg){ .no_labels = true, .label_column = "b" }, "1 | 3 | ");
    expect("zip,v,y\n10,1,0\n20,2,1\n10,3,1\n", (rk_data_cfg){ .categorical = "zip" },
           "1 0 1 -> 0 | 0 1 2 -> 1 | 1 0 3 -> 1 | ");
    expect("a;b;y\n1;2;0\n", (rk_data_cfg){ .delimiter = ';' }, "1 2 -> 0 | ");
}

TEST(quotes_and_line_ends)
{
    expect("\"a\",\"b \"\"q\"\"\",y\n\"1\",\"x,\r\ny\",0\n2,\"x,\r\ny\",1", (rk_data_cfg){ 0 },
           "1 1 -> 0 | 2 1 -> 1 | ");
    expect("\xef\xbb\xbf"
           "a,y\n 1 ,\tu\n2,u\n\n\n",
           (rk_data_cfg){ 0 }, "1 -> 0 | 2 -> 0 | ");
    expect("a,y\n1,\" u\"\n2,u\n", (rk_data_cfg){ 0 }, "1 -> 0 | 2 -> 1 | "); /* quoted blanks count */
}

TEST(class_names_are_kept)
{
    rk_ctx ctx;
    rk__ds *ds = open_text(&ctx, "a,y\n1,Z\xc3\xbcrich\n2,Bern\n", (rk_data_cfg){ 0 });
    CHECK(ds);
    CHECK_INT(ds->ops->info(ds)->classes, 2);
    CHECK_STR(ds->ops->info(ds)->class_names[0], "Bern");
    CHECK_STR(ds->ops->info(ds)->class_names[1], "Z\xc3\xbcrich");
    ds->ops->close(ds);
}

TEST(refused)
{
    static const struct {
        const char *text, *want;
        rk_data_cfg cfg;
        rk_status st;
    } rows[] = {
        { "", "an empty file", { 0 }, RK_EDATA },
        { "a,b\n", "a header, but no rows", { 0 }, RK_EDATA },
        { "a,b\n1\n", ":2: 1 fields, but there are 2 columns", { 0 }, RK_EDATA },
        { "a,b\n1,2\n3,4\n5,6,7\n", ":4: 3 fields, but there are 2 columns", { 0 }, RK_EDATA },
        { "a,b,a\n1,2,3\n", "column 3: the name \"a\" stands twice", { 0 }, RK_EDATA },
        { ",b\n1,2\n", "column 1 has no name", { 0 }, RK_EDATA },
        { "a,b\n1,x\nfoo,y\n", ":3: column 1 (a): \"foo\" is no number", { 0 }, RK_EDATA },
        { "a,b\n1,x\nnan,y\n", ":3: column 1 (a): not a finite number", { 0 }, RK_EDATA },
        { "a,b\nNaN,x\n", ":2: column 1 (a): not a finite number", { 0 }, RK_EDATA },
        { "a,b\n1,x\n1e39,y\n", ":3: column 1 (a): the number is too large", { 0 }, RK_EDATA },
        { "a,b\n1,x\n1e999,y\n", ":3: column 1 (a):", { 0 }, RK_EDATA },
        { "a,b\n1,x\n,y\n", ":3: column 1 (a): an empty cell", { 0 }, RK_EDATA },
        { "a,b\n1,x\n2,\"\"\n", ":3: column 2 (b): an empty cell", { 0 }, RK_EDATA },
        { "a,b\n1,x\n\n2,y\n", ":3: an empty line", { 0 }, RK_EDATA },
        { "a,b\n1,\"x\n2,y\n", ":2: column 2: a quote that is never closed", { 0 }, RK_EDATA },
        { "a,b\n1,x\"y\n", ":2: column 2: a quote inside", { 0 }, RK_EDATA },
        { "a,b\n1,\"x\"y\n", ":2: column 2", { 0 }, RK_EDATA },
        { "a,b\n1,x\rz\n", "carriage return", { 0 }, RK_EDATA },
        { "a,b\n1,\xff\n", ":2: column 2: not UTF-8", { 0 }, RK_EDATA },
        { "a,b\n1,2\n", "\"q\" is no column", { .label_column = "q" }, RK_ECONFIG },
        { "alpha,b\n1,2\n", "did you mean \"alpha\"?", { .label_column = "alpah" }, RK_ECONFIG },
        { "a,b\n1,2\n", "\"q\" is no column", { .categorical = "a,q" }, RK_ECONFIG },
        { "a,b\n1,2\n", "no column is left for x", { .label_column = "a,b" }, RK_EDATA },
        { "a,b,c\n1,2,3\n", "takes one column, not 2", { .label_column = "a,b" }, RK_ECONFIG },
        { "a\n1\n", "no column is left for x", { 0 }, RK_EDATA },
        { "a,b\n1,x\n", "column 2 (b): \"x\" is no number", { .task = "regression" }, RK_EDATA },
        { "a,b\n1,2\n", "none of classification", { .task = "sorting" }, RK_ECONFIG },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rk_ctx ctx;
        rk__ds *ds = open_text(&ctx, rows[i].text, rows[i].cfg);
        if (ds) {
            ds->ops->close(ds);
            TEST_FAIL("accepted: %s", rows[i].text);
        }
        if (rk_failed(&ctx) != rows[i].st || !strstr(rk_error(&ctx), rows[i].want))
            TEST_FAIL("%s: %s \"%s\", expected \"%s\"", rows[i].text, rk_status_name(rk_failed(&ctx)),
                      rk_error(&ctx), rows[i].want);
    }
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    CHECK_INT(rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_write("nul.csv", "a,b\n1,x\0y\n", 10) }, &ds),
              RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "NUL"));
    rk_error_clear(&ctx);
    CHECK_INT(rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_path("none.csv") }, &ds), RK_ENOINPUT);
}

TEST(limits)
{
    size_t n = 2 << 20;
    char *text = malloc(n + 64);
    memcpy(text, "a,y\n\"", 5);
    memset(text + 5, 'x', n);
    memcpy(text + 5 + n, "\",1\n", 5);
    rk_ctx ctx;
    rk__ds *ds = open_text(&ctx, text, (rk_data_cfg){ 0 });
    free(text);
    CHECK(!ds && strstr(rk_error(&ctx), "more than 1 MiB"));
    text = malloc(4096);
    memcpy(text, "a,y\n", 4);
    memset(text + 4, 'x', 1025);
    memcpy(text + 1029, ",1\n", 4);
    ds = open_text(&ctx, text, (rk_data_cfg){ 0 });
    free(text);
    CHECK(!ds && strstr(rk_error(&ctx), ":2: column 1 (a): more than 1024 bytes"));
    text = malloc(40000);
    for (int i = 0; i < 20000; i++)
        memcpy(text + 2 * i, "1,", 2);
    text[39999] = '\0';
    ds = open_text(&ctx, text, (rk_data_cfg){ .no_header = true });
    free(text);
    CHECK(!ds && strstr(rk_error(&ctx), "more than 16384 columns"));
    text = malloc(70000 * 12);
    size_t at = (size_t)sprintf(text, "a,y\n");
    for (int i = 0; i < 65537; i++)
        at += (size_t)sprintf(text + at, "k%d,1\n", i);
    ds = open_text(&ctx, text, (rk_data_cfg){ 0 });
    free(text);
    CHECK(!ds && strstr(rk_error(&ctx), ":65538: column 1 (a): more than 65536 different values"));
}

TEST(compressed)
{
    const char *text = "a,y\n1,u\n2,v\n";
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    char have[256];
    CHECK_OK(&ctx, rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_gz("t.csv.gz", text, strlen(text)) }, &ds));
    dump(ds, have, sizeof have);
    ds->ops->close(ds);
    CHECK_STR(have, "1 -> 0 | 2 -> 1 | ");
}

/* A file with other categories, in another order of columns, is read as the training data was. */
TEST(schema_carries_over)
{
    rk_ctx ctx;
    rk__text t = { 0 };
    char have[256];
    rk__ds *ds = open_text(&ctx, "a,colour,y\n1,red,no\n2,blue,yes\n3,green,no\n", (rk_data_cfg){ 0 });
    CHECK(ds);
    rk__text_puts(&t, "{");
    ds->ops->schema(ds, &t);
    rk__text_puts(&t, "}");
    ds->ops->close(ds);
    char *schema = rk__text_take(&t);
    CHECK_STR(schema,
              "{\"columns\":[{\"name\":\"a\"},{\"name\":\"colour\",\"values\":[\"blue\",\"green\",\"red\"]}],"
              "\"targets\":[{\"name\":\"y\",\"values\":[\"no\",\"yes\"]}]}");
    ds = open_text(&ctx, "id,y,colour,a\n7,yes,red,5\n8,yes,green,6\n", (rk_data_cfg){ .schema = schema });
    if (!ds)
        TEST_FAIL("%s", rk_error(&ctx));
    dump(ds, have, sizeof have);
    CHECK_INT(ds->ops->info(ds)->classes, 2);
    ds->ops->close(ds);
    CHECK_STR(have, "5 0 0 1 -> 1 | 6 0 1 0 -> 1 | ");
    ds = open_text(&ctx, "colour,a\nred,5\n", (rk_data_cfg){ .schema = schema, .no_labels = true });
    if (!ds)
        TEST_FAIL("%s", rk_error(&ctx));
    dump(ds, have, sizeof have);
    ds->ops->close(ds);
    CHECK_STR(have, "5 0 0 1 | ");
    ds = open_text(&ctx, "a,colour,y\n1,pink,no\n", (rk_data_cfg){ .schema = schema });
    CHECK(!ds && strstr(rk_error(&ctx), ":2: column 2 (colour): \"pink\" is none of the 3 values"));
    ds = open_text(&ctx, "a,y\n1,no\n", (rk_data_cfg){ .schema = schema });
    CHECK(!ds && strstr(rk_error(&ctx), "has no column \"colour\""));
    ds = open_text(&ctx, "a,colour\n1,red\n", (rk_data_cfg){ .schema = schema });
    CHECK(!ds && strstr(rk_error(&ctx), "has no column \"y\", the target"));
    free(schema);
}

TEST_MAIN
