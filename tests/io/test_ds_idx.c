#include "files.h"

#include "core/ctx.h"
#include "io/ds.h"

/* An IDX file: 0 0 type ndim dims.. data. */
static size_t idx(uint8_t *out, int type, int ndim, const uint32_t *dims, const void *data, size_t n)
{
    out[0] = out[1] = 0;
    out[2] = (uint8_t)type;
    out[3] = (uint8_t)ndim;
    for (int i = 0; i < ndim; i++)
        for (int k = 0; k < 4; k++)
            out[4 + 4 * i + k] = (uint8_t)(dims[i] >> (24 - 8 * k));
    memcpy(out + 4 + 4 * ndim, data, n);
    return 4 + 4 * (size_t)ndim + n;
}

static void write_pair(const char *prefix, bool gz)
{
    uint8_t x[5 * 6], y[5] = { 3, 0, 1, 1, 2 }, buf[256];
    char name[64];
    for (int i = 0; i < 30; i++)
        x[i] = (uint8_t)(7 * i);
    size_t n = idx(buf, 8, 3, (uint32_t[]){ 5, 2, 3 }, x, sizeof x);
    snprintf(name, sizeof name, "%s-images-idx3-ubyte%s", prefix, gz ? ".gz" : "");
    gz ? file_gz(name, buf, n) : file_write(name, buf, n);
    n = idx(buf, 8, 1, (uint32_t[]){ 5 }, y, sizeof y);
    snprintf(name, sizeof name, "%s-labels-idx1-ubyte%s", prefix, gz ? ".gz" : "");
    gz ? file_gz(name, buf, n) : file_write(name, buf, n);
}

static void check_pair(const char *path)
{
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    CHECK_OK(&ctx, rk__ds_open(&ctx, &(rk_data_cfg){ .path = path }, &ds));
    const rk__ds_info *in = ds->ops->info(ds);
    CHECK_INT(in->samples, 5);
    CHECK_INT(in->classes, 4);
    CHECK_INT(in->shape.ndim, 3);
    CHECK_INT(in->shape.dim[0], 1);
    CHECK_INT(in->shape.dim[1], 2);
    CHECK_INT(in->shape.dim[2], 3);
    CHECK(in->bytes && in->direct && in->groups == 1 && in->inner == 6);
    uint8_t x[12];
    int64_t y[2];
    CHECK_OK(&ctx, ds->ops->read(ds, &ctx, (int64_t[]){ 4, 1 }, 2, x, y));
    for (int i = 0; i < 6; i++) {
        CHECK_INT(x[i], (uint8_t)(7 * (24 + i)));
        CHECK_INT(x[6 + i], (uint8_t)(7 * (6 + i)));
    }
    CHECK_INT(y[0], 2);
    CHECK_INT(y[1], 0);
    ds->ops->close(ds);
}

TEST(pairs_are_found)
{
    write_pair("a", false);
    write_pair("train", true);
    write_pair("t10k", true);
    check_pair(file_path("a"));
    check_pair(file_path("a-images-idx3-ubyte"));
    check_pair(file_path("train"));
    check_pair(file_path("train-images-idx3-ubyte.gz"));
    check_pair(file_path("t10k"));
    check_pair(file_path("test")); /* the classic name of the test part */
    check_pair(files_dir);         /* the folder: its training part */
}

TEST(other_element_types)
{
    static const struct {
        int type;
        size_t size;
        uint8_t bytes[16]; /* big-endian */
        float want[2];
    } rows[] = {
        { 0x09, 1, { 0xff, 0x05 }, { -1, 5 } },
        { 0x0b, 2, { 0xff, 0xfe, 0x01, 0x00 }, { -2, 256 } },
        { 0x0c, 4, { 0xff, 0xff, 0xff, 0xfd, 0x00, 0x01, 0x00, 0x00 }, { -3, 65536 } },
        { 0x0d, 4, { 0x3f, 0x80, 0x00, 0x00, 0xc0, 0x00, 0x00, 0x00 }, { 1, -2 } },
        { 0x0e, 8, { 0x3f, 0xe0, 0, 0, 0, 0, 0, 0, 0xbf, 0xd0, 0, 0, 0, 0, 0, 0 }, { 0.5f, -0.25f } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t buf[64];
        size_t n = idx(buf, rows[i].type, 2, (uint32_t[]){ 1, 2 }, rows[i].bytes, 2 * rows[i].size);
        rk_ctx ctx = { 0 };
        rk__ds *ds;
        float x[2];
        CHECK_OK(
            &ctx,
            rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_write("v.idx", buf, n), .no_labels = true }, &ds));
        CHECK_OK(&ctx, ds->ops->read(ds, &ctx, (int64_t[]){ 0 }, 1, x, NULL));
        ds->ops->close(ds);
        CHECK(x[0] == rows[i].want[0] && x[1] == rows[i].want[1]);
    }
}

static void refused(const char *path, rk_status st, const char *want)
{
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    rk_status got =
        rk__ds_open(&ctx, &(rk_data_cfg){ .path = path, .format = "idx", .no_labels = true }, &ds);
    if (got == RK_OK) {
        ds->ops->close(ds);
        TEST_FAIL("accepted, expected \"%s\"", want);
    }
    CHECK_INT(got, st);
    if (!strstr(rk_error(&ctx), want))
        TEST_FAIL("message is \"%s\", expected \"%s\"", rk_error(&ctx), want);
}

TEST(hostile_headers)
{
    static const struct {
        const char *bytes;
        size_t n;
        const char *want;
    } rows[] = {
        { "", 0, "too few" },
        { "\0\0\x08", 3, "too few" },
        { "\0\1\x08\1\0\0\0\1x", 9, "offset 0: not an IDX file" },
        { "\0\0\x0a\1\0\0\0\1x", 9, "offset 2: unknown IDX element type 0x0a" },
        { "\0\0\x08\0", 4, "offset 3: 0 axes" },
        { "\0\0\x08\xff\0\0\0\1", 8, "offset 3: 255 axes" },
        { "\0\0\x08\3\0\0\0\1\0\0", 10, "offset 10: the file ends in its header" },
        { "\0\0\x08\1\0\0\0\5abcd", 12, "5 bytes after offset 8, but it has 4" },
        { "\0\0\x08\1\0\0\0\3abcd", 12, "3 bytes after offset 8, but it has 4" },
        { "\0\0\x08\1\xff\xff\xff\xff"
          "abcd",
          12, "but it has 4" },
        { "\0\0\x0e\2\xff\xff\xff\xff\xff\xff\xff\xff", 12, "too large" },
        { "\0\0\x08\4\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 20, "too large" },
        { "\0\0\x08\2\0\0\0\0\0\0\0\5", 12, "holds no samples" },
        { "\0\0\x0e\4\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 20, "too large" },
        { "\0\0\x08\2\0\0\0\5\0\0\0\0", 12, "holds no samples" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        refused(file_write("h", rows[i].bytes, rows[i].n), RK_EDATA, rows[i].want);
        if (rows[i].n < 4)
            continue;
        const char *want = !strncmp(rows[i].want, "offset", 6) || strstr(rows[i].want, "too large") ||
                                   strstr(rows[i].want, "no samples")
                               ? rows[i].want
                               : "but it has";
        refused(file_gz("h.gz", rows[i].bytes, rows[i].n), RK_EDATA, want);
    }
}

TEST(hostile_gzip)
{
    uint8_t data[5000], buf[6000], raw[16000];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 13);
    size_t n = idx(buf, 8, 1, (uint32_t[]){ 5000 }, data, sizeof data);
    const char *path = file_gz("z.gz", buf, n);
    FILE *f = fopen(path, "rb");
    size_t size = fread(raw, 1, sizeof raw, f);
    fclose(f);
    refused(file_write("cut.gz", raw, size / 2), RK_EDATA, "ends too early");
    refused(file_write("cut.gz", raw, size - 3), RK_EDATA, "ends too early");
    raw[size / 2] ^= 0x55;
    refused(file_write("bad.gz", raw, size), RK_EDATA, "bad.gz: offset ");
    raw[size / 2] ^= 0x55;
    raw[size - 6] ^= 1; /* the checksum */
    refused(file_write("bad.gz", raw, size), RK_EDATA, "incorrect data check");
    raw[size - 6] ^= 1;
    memcpy(raw + size, "more", 4);
    refused(file_write("tail.gz", raw, size + 4), RK_EDATA, "tail.gz: offset ");
    CHECK(2 * size <= sizeof raw);
    memcpy(raw + size, raw, size);
    refused(file_write("twice.gz", raw, 2 * size), RK_EDATA, "but it has more");
    /* 4 GB claimed by a file of 60 bytes: refused before anything is allocated */
    n = idx(buf, 8, 2, (uint32_t[]){ 65536, 65536 }, data, 20);
    refused(file_gz("claim.gz", buf, n), RK_EDATA, "too few for that even compressed");
}

TEST(missing_and_mismatched)
{
    refused(file_path("nothing"), RK_ENOINPUT, "no such file");
    uint8_t buf[64];
    size_t n = idx(buf, 8, 1, (uint32_t[]){ 4 }, "\1\2\3\4", 4);
    file_write("m-labels-idx1-ubyte", buf, n);
    n = idx(buf, 8, 3, (uint32_t[]){ 3, 1, 1 }, "abc", 3);
    file_write("m-images-idx3-ubyte", buf, n);
    file_write("alone-images-idx3-ubyte", buf, n);
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    CHECK_INT(rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_path("m") }, &ds), RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "4 samples, but ") && strstr(rk_error(&ctx), "has 3"));
    rk_error_clear(&ctx);
    CHECK_INT(rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_path("alone") }, &ds), RK_ENOINPUT);
    CHECK(strstr(rk_error(&ctx), "data.labels"));
}

TEST(numbers_that_are_none)
{
    uint8_t buf[64];
    size_t n = idx(buf, 0x0d, 2, (uint32_t[]){ 2, 1 }, "\x3f\x80\0\0\x7f\xc0\0\0", 8);
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    float x[2];
    CHECK_OK(&ctx,
             rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_write("nan", buf, n), .no_labels = true }, &ds));
    CHECK_INT(ds->ops->read(ds, &ctx, (int64_t[]){ 0, 1 }, 2, x, NULL), RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "sample 1, element 0: not a finite number"));
    ds->ops->close(ds);
    n = idx(buf, 0x0d, 2, (uint32_t[]){ 2, 1 }, "\x3f\x80\0\0\x3f\xc0\0\0", 8); /* a label of 1.5 */
    rk_error_clear(&ctx);
    const char *labels = file_write("half", buf, n), *x_file = file_write("nan", buf, n);
    CHECK_INT(rk__ds_open(&ctx, &(rk_data_cfg){ .path = x_file, .labels = labels }, &ds), RK_EDATA);
    CHECK(strstr(rk_error(&ctx), "label of sample 1: not a whole number"));
    rk_error_clear(&ctx);
    CHECK_OK(&ctx, rk__ds_open(&ctx, &(rk_data_cfg){ .path = x_file, .labels = labels, .task = "regression" },
                               &ds));
    CHECK_INT(ds->ops->info(ds)->targets, 1);
    ds->ops->close(ds);
}

TEST_MAIN
