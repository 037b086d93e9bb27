#include "files.h"

#include <errno.h>

#include "core/ctx.h"
#include "io/safetensors.h"

static size_t build(uint8_t *out, const char *header, size_t data)
{
    size_t n = strlen(header);
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(n >> (8 * i));
    memcpy(out + 8, header, n);
    for (size_t i = 0; i < data; i++)
        out[8 + n + i] = (uint8_t)i;
    return 8 + n + data;
}

TEST(good_headers)
{
    static const struct {
        const char *header;
        size_t data;
        int n;
    } rows[] = {
        { "{}", 0, 0 },
        { "{}      ", 0, 0 },
        { "{\"__metadata__\":{\"format\":\"pt\"}}", 0, 0 },
        { "{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, 1 },
        { "{\"s\":{\"data_offsets\":[0,8],\"dtype\":\"I64\",\"shape\":[]}}", 8, 1 },
        { "{\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]},\"a\":{\"dtype\":\"F32\",\"shape\":"
          "[1],\"data_offsets\":[0,4]}}",
          6, 2 },
        { "{\"z\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},\"a\":{\"dtype\":\"F32\","
          "\"shape\":[1],\"data_offsets\":[0,4]}}",
          4, 2 },
        { "{\"\\u00e9\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, 1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t buf[512];
        size_t n = build(buf, rows[i].header, rows[i].data);
        rk_ctx ctx = { 0 };
        rk__safetensors st;
        CHECK_OK(&ctx, rk__st_parse(&ctx, "f", buf, n, (int64_t)n, &st));
        CHECK_INT(st.n, rows[i].n);
        rk__st_close(&st);
    }
}

#define T(rest) "{\"w\":{" rest "}}"

TEST(hostile_headers)
{
    static const struct {
        const char *header;
        size_t data;
        const char *want;
    } rows[] = {
        { "[]", 0, "must begin with {" },
        { " {}", 0, "must begin with {" },
        { "{}\n", 0, "must end with }" },
        { "{} x", 0, "must end with }" },
        { "{\"a\":1", 0, "must end with }" },
        { "{}", 1, "belong to no tensor" },
        { "{\"w\":1}", 0, "needs exactly" },
        { "{\"w\":{}}", 0, "needs exactly" },
        { "{\"__metadata__\":{\"a\":1}}", 0, "must be a string" },
        { "{\"__metadata__\":[]}", 0, "must be an object" },
        { T("\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "unknown dtype F33" },
        { T("\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]"), 4, "unknown dtype" },
        { T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1"), 4, "needs exactly" },
        { T("\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]"), 4, "shape must be a list" },
        { T("\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]"), 4, "shape must be a list" },
        { T("\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]"), 4, "shape must be a list" },
        { T("\"dtype\":\"F32\",\"shape\":[-0],\"data_offsets\":[0,0]"), 0, "shape must be a list" },
        { T("\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]"), 4, "shape must be a list" },
        { T("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"), 4, "at most 8" },
        { T("\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,4]"), 4, "too large" },
        { T("\"dtype\":\"F32\",\"shape\":[9223372036854775808],\"data_offsets\":[0,4]"), 4,
          "shape must be a list" },
        { T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]"), 4, "two offsets" },
        { T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]"), 4, "two offsets" },
        { T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]"), 4, "outside the file" },
        { T("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]"), 4, "outside the file" },
        { T("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,3]"), 4, "do not fit" },
        { T("\"dtype\":\"F32\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,4]"), 4, "stands twice" },
        { "{\"w\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"w\":{\"dtype\":\"F32\",\"shape\":"
          "[1],\"data_offsets\":[0,4]}}",
          4, "stands twice" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":"
          "[1],\"data_offsets\":[0,4]}}",
          4, "overlap" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":["
          "1],\"data_offsets\":[3,4]}}",
          4, "gap" },
        { "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"z\":{\"dtype\":\"U8\",\"shape\":["
          "0],\"data_offsets\":[2,2]}}",
          4, "overlap" },
        { T("\"dtype\":\"U8\",\"shape\":[[1]],\"data_offsets\":[0,1]"), 1, "shape must be a list" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t buf[512];
        size_t n = build(buf, rows[i].header, rows[i].data);
        rk_ctx ctx = { 0 };
        rk__safetensors st;
        CHECK_INT(rk__st_parse(&ctx, "f", buf, n, (int64_t)n, &st), RK_EDATA);
        if (!strstr(rk_error(&ctx), rows[i].want))
            TEST_FAIL("%s: \"%s\", expected \"%s\"", rows[i].header, rk_error(&ctx), rows[i].want);
    }
}

TEST(lengths)
{
    uint8_t buf[64] = { 0 };
    rk_ctx ctx = { 0 };
    rk__safetensors st;
    for (size_t n = 0; n < 9; n++) {
        rk_error_clear(&ctx);
        CHECK_INT(rk__st_parse(&ctx, "f", buf, n, (int64_t)n, &st), RK_EDATA);
    }
    memset(buf, 0xff, 8);
    rk_error_clear(&ctx);
    CHECK_INT(rk__st_parse(&ctx, "f", buf, 64, 64, &st), RK_EDATA);
    size_t n = build(buf, "{}", 0);
    buf[0] = 3; /* one more than there is */
    rk_error_clear(&ctx);
    CHECK_INT(rk__st_parse(&ctx, "f", buf, n, (int64_t)n, &st), RK_EDATA);
    buf[0] = 0;
    buf[4] = 1; /* 4 GB */
    rk_error_clear(&ctx);
    CHECK_INT(rk__st_parse(&ctx, "f", buf, n, (int64_t)1 << 40, &st), RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "a header of 4294967296 bytes"));
}

static rk_status to_stdio(void *file, const void *p, size_t n)
{
    return fwrite(p, 1, n, file) == n ? RK_OK : RK_EIO;
}

static rk_status save(rk_ctx *ctx, const char *path, rk__st_entry *e, int n)
{
    FILE *f = fopen(path, "wb");
    rk_status st = rk__st_write(ctx, e, n, to_stdio, f);
    fclose(f);
    return st;
}

/* Takes so many bytes, then no more. */
static rk_status to_little(void *left, const void *p, size_t n)
{
    size_t *room = left;
    (void)p;
    if (n > *room)
        return RK_EIO;
    *room -= n;
    return RK_OK;
}

TEST(written_and_read_back)
{
    float w[6] = { 1, 2, 3, 4, 5, 6 };
    int64_t steps = 77;
    uint16_t half[3] = { 0x3f80, 0x4000, 0x4040 };
    rk__st_entry e[] = {
        { "layer.b", RK_BF16, RK_SHAPE(3), half },
        { "layer.w", RK_F32, RK_SHAPE(2, 3), w },
        { "empty", RK_F32, RK_SHAPE(0, 4), NULL },
        { "steps", RK_I64, RK_SCALAR, &steps },
    };
    const char *path = file_path("m.safetensors");
    rk_ctx ctx = { 0 };
    CHECK_OK(&ctx, save(&ctx, path, e, 4));
    rk__safetensors st;
    CHECK_OK(&ctx, rk__st_open(&ctx, path, &st));
    CHECK_INT(st.n, 4);
    CHECK_INT(st.data % 8, 0);
    CHECK_STR(rk__st_metadata(&st, "format"), "pt");
    CHECK_STR(st.t[0].name, "steps"); /* widest first */
    const rk__st_tensor *t = rk__st_find(&st, "layer.w");
    rk_dtype type;
    CHECK(t && rk__st_dtype(t, &type) && type == RK_F32);
    CHECK_INT(t->shape.ndim, 2);
    CHECK_INT(t->shape.dim[1], 3);
    float back[6];
    CHECK_OK(&ctx, rk__st_read(&ctx, &st, t, back, sizeof back));
    CHECK(!memcmp(back, w, sizeof w));
    CHECK_INT(rk__st_read(&ctx, &st, t, back, 20), RK_ESHAPE);
    CHECK(!rk__st_find(&st, "nothing"));
    rk__st_close(&st);
    rk_error_clear(&ctx);
    CHECK_INT(rk__st_open(&ctx, file_path("none"), &st), RK_ENOINPUT);
    rk_error_clear(&ctx);
    e[1].name = e[0].name;
    e[1].dtype = e[0].dtype;
    CHECK_INT(save(&ctx, path, e, 4), RK_ECONFIG);
}

/* Wherever the sink refuses, the writer stops and says what it said. */
TEST(a_sink_that_refuses)
{
    float w[6] = { 0 };
    rk__st_entry e[] = { { "a", RK_F32, RK_SHAPE(2, 3), w }, { "b", RK_F32, RK_SHAPE(3), w } };
    rk_ctx ctx = { 0 };
    size_t most = 4096, left = most;
    CHECK_OK(&ctx, rk__st_write(&ctx, e, 2, to_little, &left));
    size_t all = most - left;
    CHECK(all > 36);
    for (size_t room = 0; room < all; room++)
        CHECK_INT(rk__st_write(&ctx, e, 2, to_little, &(size_t){ room }), RK_EIO);
    CHECK_OK(&ctx, rk__st_write(&ctx, e, 2, to_little, &(size_t){ all }));
}

/* Every prefix of a file is refused, and so is every flipped bit of its header or a wrong answer never given.
 */
TEST(cut_and_flipped_files)
{
    uint8_t buf[512], bad[512];
    size_t n = build(buf,
                     "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":"
                     "\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}}",
                     11);
    for (size_t cut = 0; cut < n; cut++) {
        rk_ctx ctx = { 0 };
        rk__safetensors st;
        CHECK_INT(rk__st_parse(&ctx, "f", buf, cut, (int64_t)cut, &st), RK_EDATA);
    }
    for (size_t bit = 0; bit < 8 * (n - 11); bit++) {
        rk_ctx ctx = { 0 };
        rk__safetensors st;
        memcpy(bad, buf, n);
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (rk__st_parse(&ctx, "f", bad, n, (int64_t)n, &st) == RK_OK) {
            int64_t total = 0;
            for (int i = 0; i < st.n; i++)
                total += st.t[i].bytes;
            rk__st_close(&st);
            CHECK_INT(total, 11); /* another name or shape, never bytes outside */
        }
    }
}

TEST_MAIN
