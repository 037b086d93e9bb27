#include "test.h"

#include <locale.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/doc.h"
#include "io/number.h"

typedef rk_status parse_fn(rk_ctx *, const char *, const uint8_t *, size_t, rk_status, rk_doc **);

static rk_doc *parse(rk_ctx *ctx, parse_fn *fn, const char *text)
{
    rk_doc *d;
    *ctx = (rk_ctx){ 0 };
    fn(ctx, "f", (const uint8_t *)text, strlen(text), RK_ECONFIG, &d);
    return d;
}

typedef struct row {
    const char *text, *want; /* canonical JSON, or what the message must contain */
} row;

static void good(parse_fn *fn, const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rk_ctx ctx;
        rk_doc *d = parse(&ctx, fn, rows[i].text);
        if (!d)
            TEST_FAIL("%s: %s", rows[i].text, rk_error(&ctx));
        char *json = rk__doc_json(d, true, 0);
        rk__doc_free(d);
        bool same = json && !strcmp(json, rows[i].want);
        if (!same)
            fprintf(stderr, "%s became %s\n", rows[i].text, json);
        free(json);
        CHECK(same);
    }
}

static void refused(parse_fn *fn, const row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rk_ctx ctx;
        rk_doc *d = parse(&ctx, fn, rows[i].text);
        bool accepted = d != NULL;
        rk__doc_free(d);
        if (accepted)
            TEST_FAIL("accepted: %s", rows[i].text);
        CHECK_INT(rk_failed(&ctx), RK_ECONFIG);
        if (!strstr(rk_error(&ctx), rows[i].want))
            TEST_FAIL("%s: message is \"%s\", expected \"%s\"", rows[i].text, rk_error(&ctx), rows[i].want);
    }
}

#define ROWS(r) r, sizeof r / sizeof *r

TEST(json_values)
{
    static const row rows[] = {
        { "null", "null" },
        { " [1, 2,3] ", "[1,2,3]" },
        { "{\"b\":1,\"a\":{\"y\":[],\"x\":{}}}", "{\"a\":{\"x\":{},\"y\":[]},\"b\":1}" },
        { "[true,false,-0,1e-3,0.5,1E+2,-12.25]", "[true,false,0,0.001,0.5,100.0,-12.25]" },
        { "9223372036854775807", "9223372036854775807" },
        { "-9223372036854775808", "-9223372036854775808" },
        { "9223372036854775808", "9.223372036854776e+18" },
        { "0.1", "0.1" },
        { "5e-324", "5e-324" },
        { "1.7976931348623157e308", "1.7976931348623157e+308" },
        { "\"a\\n\\u00e9\\ud83d\\ude00\\/\"", "\"a\\n\xc3\xa9\xf0\x9f\x98\x80/\"" },
        { "\"\xe2\x82\xac\\\"\\\\\\u001f\"", "\"\xe2\x82\xac\\\"\\\\\\u001f\"" },
        { "\xef\xbb\xbf{}", "{}" },
    };
    good(rk__json_parse, ROWS(rows));
}

TEST(json_refused)
{
    static const row rows[] = {
        { "", "f:1:1: the text ends too early" },
        { "{", "ends too early" },
        { "[1,]", "f:1:4: not a JSON value" },
        { "[1 2]", "f:1:4: ',' or ']'" },
        { "{\"a\":1,\"a\":2}", "f:1:8: key \"a\" stands twice" },
        { "{\"x\":{\"a\":1,\n \"\\u0061\":2}}", "f:2:2: key \"a\" stands twice" },
        { "{\"a\" 1}", "':' is missing" },
        { "{a:1}", "a key in quotes" },
        { "{\"a\":1,}", "a key in quotes" },
        { "[1] x", "f:1:5: more text" },
        { "01", "leading zeros" },
        { "1.", "ends too early" },
        { "[1.]", "digits missing after the point" },
        { "[1e]", "digits missing in the exponent" },
        { "[.5]", "not a JSON value" },
        { "[+1]", "not a JSON value" },
        { "[NaN]", "not a JSON value" },
        { "1e999", "too large" },
        { "\"a", "ends too early" },
        { "[\"a\tb\"]", "control character" },
        { "[\"\\x\"]", "unknown escape" },
        { "[\"\\u12g4\"]", "four hexadecimal" },
        { "[\"\\ud800\"]", "surrogate" },
        { "[\"\\ud800\\u0041\"]", "surrogate" },
        { "[\"\\udc00\"]", "surrogate" },
        { "[\"\\u0000\"]", "\\u0000" },
        { "[\"\xc0\xaf\"]", "f:1:3: not UTF-8" },
        { "[\"\xed\xa0\x80\"]", "not UTF-8" },
        { "[\"\xf4\x90\x80\x80\"]", "not UTF-8" },
        { "[\"\xc3\xa9\xff\"]", "f:1:4: not UTF-8" },
        { "[tru]", "not a JSON value" },
    };
    refused(rk__json_parse, ROWS(rows));
}

TEST(yaml_values)
{
    static const row rows[] = {
        { "", "null" },
        { "a: 1\nb: [x, 'y', \"z\"]\n", "{\"a\":1,\"b\":[\"x\",\"y\",\"z\"]}" },
        { "[~, null, '', true, False, yes, no, on]", "[null,null,\"\",true,false,\"yes\",\"no\",\"on\"]" },
        { "[1e-3, 1.5, .5, 5., 1E5, +3, -7, 0x1F, 0o17, 012]", "[0.001,1.5,0.5,5.0,100000.0,3,-7,31,15,12]" },
        { "['1', \"true\", 1.2.3, 2026-11-22, 1_000, e5, 3 px, -, a.b]",
          "[\"1\",\"true\",\"1.2.3\",\"2026-11-22\",\"1_000\",\"e5\",\"3 px\",\"-\",\"a.b\"]" },
        { "- a: 1\n  b: 2\n- - 3\n  - 4\n", "[{\"a\":1,\"b\":2},[3,4]]" },
        { "t: |\n  one\n  two\n", "{\"t\":\"one\\ntwo\\n\"}" },
        { "# only a comment\n", "null" },
        { "! 12", "\"12\"" },
        { "{\"json\": [1, 2.0]}", "{\"json\":[1,2.0]}" },
    };
    good(rk__yaml_parse, ROWS(rows));
}

TEST(yaml_refused)
{
    static const row rows[] = {
        { "a: 1\nb: 2\na: 3\n", "f:3:1: key \"a\" stands twice in one map (first at line 1)" },
        { "a: &x 1\n", "f:1:4: anchors (&x)" },
        { "a: *x\n", "f:1:4: aliases (*x)" },
        { "a: &x [1]\nb: *x\n", "anchors" },
        { "<<: {a: 1}\n", "merge keys" },
        { "a: !!str 1\n", "tags" },
        { "a: !x {}\n", "tags" },
        { "? [a]\n: 1\n", "a key must be a plain text" },
        { "a: .nan\n", "finite" },
        { "a: 1e999\n", "too large" },
        { "a: 1\n--- \nb: 2\n", "second document" },
        { "a: [1\nb: 2\n", "f:2:" },
        { "a:\n\tb: 1\n", "f:2:1:" },
        { "a: \"\\0\"\n", "NUL" },
        { "a: \xff\n", "f: byte 3" },
    };
    refused(rk__yaml_parse, ROWS(rows));
}

static void nested(parse_fn *fn, int depth, bool ok)
{
    char text[512];
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    text[2 * depth] = '\0';
    rk_ctx ctx;
    rk_doc *d = parse(&ctx, fn, text);
    bool accepted = d != NULL;
    rk__doc_free(d);
    CHECK_INT(accepted, ok);
    CHECK(ok || strstr(rk_error(&ctx), "nested deeper"));
}

TEST(depth_is_limited)
{
    nested(rk__json_parse, 64, true);
    nested(rk__json_parse, 65, false);
    nested(rk__yaml_parse, 64, true);
    nested(rk__yaml_parse, 65, false);
}

TEST(node_count_is_limited)
{
    size_t n = 2 * 1000001 + 1;
    char *text = malloc(n + 1);
    text[0] = '[';
    for (size_t i = 1; i < n - 1; i += 2)
        memcpy(text + i, "1,", 2);
    memcpy(text + n - 2, "1]", 3);
    rk_ctx ctx;
    rk_doc *d = parse(&ctx, rk__json_parse, text);
    free(text);
    bool accepted = d != NULL;
    rk__doc_free(d);
    CHECK(!accepted);
    CHECK(strstr(rk_error(&ctx), "more than 1000000 values"));
}

TEST(positions_and_paths)
{
    rk_ctx ctx;
    rk_doc *d = parse(&ctx, rk__yaml_parse, "run: {dir: x}\noptim:\n  lr: 1e-3\n  betas: [0.9, 0.99]\n");
    CHECK(d);
    rk_doc *lr = rk__doc_path(d, "optim.lr"), *b1 = rk__doc_path(d, "optim.betas.1");
    CHECK(lr && b1);
    CHECK_INT(lr->line, 3);
    CHECK_INT(lr->column, 7);
    CHECK_STR(lr->text, "1e-3");
    CHECK_CLOSE(lr->f, 1e-3, 0, 0);
    CHECK_CLOSE(b1->f, 0.99, 0, 0);
    CHECK(!rk__doc_path(d, "optim.betas.2") && !rk__doc_path(d, "optim.lr.x") && !rk__doc_get(lr, "x"));
    rk__doc_fail(&ctx, RK_ECONFIG, lr, "must be at least %d", 1);
    CHECK_STR(rk_error(&ctx), "f:3:7: must be at least 1");
    rk__doc_free(d);
}

TEST(json_columns_count_characters)
{
    rk_ctx ctx;
    rk_doc *d = parse(&ctx, rk__json_parse, "{\"\xc3\xa9\": 1,\n \"b\": [2]}");
    CHECK(d);
    CHECK_INT(d->child->column, 7);
    CHECK_INT(rk__doc_path(d, "b.0")->line, 2);
    CHECK_INT(rk__doc_path(d, "b.0")->column, 8);
    rk__doc_free(d);
}

TEST(set_makes_maps_and_replaces)
{
    static const struct {
        const char *path, *value;
    } sets[] = { { "a.b.c", "0.5" },  { "a.b.d", "[1, x]" }, { "a.b.c", "true" }, { "l.1", "{k: v}" },
                 { "g", "*.weight" }, { "q", "it's" },       { "e", "" },         { "h", "#1" } };
    rk_ctx ctx;
    rk_doc *d = parse(&ctx, rk__yaml_parse, "l: [1, 2]\n");
    CHECK(d);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++)
        CHECK_OK(&ctx, rk__doc_set(&ctx, d, sets[i].path, sets[i].value, "command line"));
    rk_doc *copy = rk__doc_copy(&ctx, d);
    rk__doc_free(d);
    CHECK(copy);
    CHECK_STR(rk__doc_path(copy, "a.b.c")->file, "command line");
    CHECK_STR(rk__doc_path(copy, "l.0")->file, "f");
    char *json = rk__doc_json(copy, true, 0);
    rk__doc_free(copy);
    CHECK_STR(json, "{\"a\":{\"b\":{\"c\":true,\"d\":[1,\"x\"]}},\"e\":null,\"g\":\"*.weight\",\"h\":\"#1\","
                    "\"l\":[1,{\"k\":\"v\"}],\"q\":\"it's\"}");
    free(json);
}

TEST(set_refuses)
{
    static const row rows[] = {
        { "a.x", "a is a value, not a section" },
        { "l.7", "l is a list of 2: use a number from 0 to 1" },
        { "a..b", "a name is empty" },
        { "", "a name is empty" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rk_ctx ctx;
        rk_doc *d = parse(&ctx, rk__yaml_parse, "a: 1\nl: [1, 2]\n");
        CHECK(d);
        CHECK_INT(rk__doc_set(&ctx, d, rows[i].text, "1", "argument 2"), RK_ECONFIG);
        rk__doc_free(d);
        if (!strstr(rk_error(&ctx), rows[i].want) || strncmp(rk_error(&ctx), "argument 2: ", 12))
            TEST_FAIL("message is %s", rk_error(&ctx));
    }
}

TEST(indented_json)
{
    rk_ctx ctx;
    rk_doc *d = parse(&ctx, rk__json_parse, "{\"b\":[1],\"a\":{}}");
    CHECK(d);
    char *json = rk__doc_json(d, false, 2);
    rk__doc_free(d);
    CHECK_STR(json, "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}");
    free(json);
}

TEST(load_by_name)
{
    char path[] = "/tmp/rk-doc-XXXXXX.json";
    int fd = mkstemps(path, 5);
    CHECK(fd >= 0 && write(fd, "{a: 1}", 6) == 6);
    close(fd);
    rk_ctx ctx = { 0 };
    rk_doc *d;
    CHECK_INT(rk__doc_load(&ctx, path, 1000, RK_EDATA, &d), RK_EDATA); /* .json is strict JSON */
    rk_error_clear(&ctx);
    CHECK_INT(rk__doc_load(&ctx, path, 5, RK_EDATA, &d), RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "at most 5"));
    rk_error_clear(&ctx);
    unlink(path);
    CHECK_INT(rk__doc_load(&ctx, path, 1000, RK_EDATA, &d), RK_ENOINPUT);
    rk_error_clear(&ctx);
    CHECK_INT(rk__doc_load(&ctx, "/dev", 1000, RK_EDATA, &d), RK_ENOINPUT);
}

TEST(nearest_name)
{
    static const char *const names[] = { "optim.lr", "optim.kind", "data.path", "batch.global", "run.seed" };
    CHECK_STR(rk__nearest("optim.rl", names, 5), "optim.lr");
    CHECK_STR(rk__nearest("data.paht", names, 5), "data.path");
    CHECK_STR(rk__nearest("Batch.globl", names, 5), "batch.global");
    CHECK(!rk__nearest("zzzzzz", names, 5));
}

TEST(numbers_in_any_locale)
{
    static const char *const texts[] = { "3.14159",
                                         "1e-300",
                                         "123456789012345678901234567890",
                                         "2.2250738585072014e-308",
                                         "0.1",
                                         "-7.25e22",
                                         "9007199254740993",
                                         "1e23" };
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            double v = 0;
            CHECK(rk__parse_double(texts[i], strlen(texts[i]), &v));
            char buf[32];
            rk__format_double(v, buf);
            double back = 0;
            CHECK(rk__parse_double(buf, strlen(buf), &back));
            CHECK(back == v);
            if (k == 0)
                CHECK(v == strtod(texts[i], NULL));
        }
        setlocale(LC_ALL, "de_DE.UTF-8"); /* if there is one */
    }
    setlocale(LC_ALL, "C");
    double v;
    CHECK(!rk__parse_double("", 0, &v) && !rk__parse_double(".", 1, &v) && !rk__parse_double("1e", 2, &v));
    CHECK(!rk__parse_double("1,5", 3, &v) && !rk__parse_double("inf", 3, &v) &&
          !rk__parse_double("0x1", 3, &v));
    CHECK(!rk__parse_double("1 ", 2, &v) && !rk__parse_double("-", 1, &v) &&
          !rk__parse_double("1e400", 5, &v));
}

TEST_MAIN
