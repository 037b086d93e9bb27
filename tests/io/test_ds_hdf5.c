#include "files.h"

#include <hdf5.h>

#include "core/ctx.h"
#include "io/ds.h"

typedef struct how {
    hid_t type;    /* in the file */
    hsize_t chunk; /* rows; 0: contiguous */
    int deflate;
    bool shuffle;
} how;

static void put(hid_t file, const char *name, int ndim, const hsize_t *dims, hid_t mem, const void *data,
                how h)
{
    hid_t space = H5Screate_simple(ndim, dims, NULL), p = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[8];
    memcpy(chunk, dims, sizeof(hsize_t) * (size_t)ndim);
    if (h.chunk) {
        chunk[0] = h.chunk;
        H5Pset_chunk(p, ndim, chunk);
        if (h.shuffle)
            H5Pset_shuffle(p);
        if (h.deflate)
            H5Pset_deflate(p, (unsigned)h.deflate);
    }
    hid_t set = H5Dcreate2(file, name, h.type, space, H5P_DEFAULT, p, H5P_DEFAULT);
    if (set < 0 || (data && H5Dwrite(set, mem, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0))
        abort();
    H5Dclose(set);
    H5Pclose(p);
    H5Sclose(space);
}

static void compare(const char *path, const float *x, const int64_t *y, int n, int width)
{
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    CHECK_OK(&ctx, rk__ds_open(&ctx, &(rk_data_cfg){ .path = path }, &ds));
    const rk__ds_info *in = ds->ops->info(ds);
    CHECK_INT(in->samples, n);
    CHECK_INT(in->groups * in->inner, width);
    for (int64_t i = n - 1; i >= 0; i--) {
        float fx[64];
        uint8_t bx[64];
        int64_t label;
        CHECK_OK(&ctx, ds->ops->read(ds, &ctx, &i, 1, in->bytes ? (void *)bx : (void *)fx, &label));
        CHECK_INT(label, y[i]);
        for (int k = 0; k < width; k++)
            CHECK((in->bytes ? (float)bx[k] : fx[k]) == x[i * width + k]);
    }
    ds->ops->close(ds);
}

TEST(types_and_layouts)
{
    enum { N = 37, W = 6 };
    hid_t types[] = { H5T_STD_U8LE,  H5T_STD_I8BE,   H5T_STD_I16LE,  H5T_STD_I16BE,
                      H5T_STD_U32LE, H5T_STD_I64BE,  H5T_STD_I32LE,  H5T_STD_U16BE,
                      H5T_STD_U64LE, H5T_IEEE_F32LE, H5T_IEEE_F64BE, H5T_IEEE_F64LE };
    float x[N * W];
    int64_t y[N];
    for (int i = 0; i < N * W; i++)
        x[i] = (float)(i % 101);
    for (int i = 0; i < N; i++)
        y[i] = i % 5;
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        for (int layout = 0; layout < 3; layout++) {
            const char *path = file_path("d.h5");
            hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
            how h = { types[t], layout ? 5 : 0, layout == 2 ? 4 : 0, layout == 2 };
            put(f, "x", 3, (hsize_t[]){ N, 2, 3 }, H5T_NATIVE_FLOAT, x, h);
            h.type = H5T_STD_I32LE;
            put(f, "y", layout ? 2 : 1, (hsize_t[]){ N, 1 }, H5T_NATIVE_INT64, y, h);
            H5Fclose(f);
            compare(path, x, y, N, W);
        }
    }
}

static void refused(const char *path, rk_data_cfg cfg, rk_status st, const char *want)
{
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    cfg.path = path;
    if (rk__ds_open(&ctx, &cfg, &ds) == RK_OK) {
        ds->ops->close(ds);
        TEST_FAIL("accepted, expected \"%s\"", want);
    }
    if (rk_failed(&ctx) != st || !strstr(rk_error(&ctx), want))
        TEST_FAIL("%s \"%s\", expected \"%s\"", rk_status_name(rk_failed(&ctx)), rk_error(&ctx), want);
}

TEST(refusals)
{
    const char *path = file_path("r.h5");
    float x[12] = { 0 };
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    how plain = { H5T_IEEE_F32LE, 0, 0, false }, huge = { H5T_STD_U8LE, 1 << 20, 1, false };
    put(f, "x", 2, (hsize_t[]){ 4, 3 }, H5T_NATIVE_FLOAT, x, plain);
    put(f, "y3", 1, (hsize_t[]){ 3 }, H5T_NATIVE_FLOAT, x, plain);
    put(f, "y2", 2, (hsize_t[]){ 4, 3 }, H5T_NATIVE_FLOAT, x, plain);
    put(f, "huge", 1, (hsize_t[]){ (hsize_t)1 << 50 }, H5T_NATIVE_FLOAT, NULL, huge);
    put(f, "never", 1, (hsize_t[]){ 1 << 20 }, H5T_NATIVE_FLOAT, NULL, plain);
    hid_t s = H5Tcopy(H5T_C_S1);
    H5Tset_size(s, 8);
    put(f, "text", 1, (hsize_t[]){ 4 }, s, "aaaaaaaabbbbbbbbccccccccdddddddd", (how){ .type = s });
    H5Tclose(s);
    H5Gclose(H5Gcreate2(f, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    H5Fclose(f);
    refused(path, (rk_data_cfg){ 0 }, RK_EDATA, "data set \"y\": there is none");
    refused(path, (rk_data_cfg){ .y_name = "y3" }, RK_EDATA, "3 samples, but ");
    refused(path, (rk_data_cfg){ .y_name = "y2" }, RK_EDATA, "one class number a sample");
    refused(path, (rk_data_cfg){ .x_name = "text", .no_labels = true }, RK_EDATA, "elements are neither");
    refused(path, (rk_data_cfg){ .x_name = "group", .no_labels = true }, RK_EDATA, "there is none");
    refused(path, (rk_data_cfg){ .x_name = "huge", .no_labels = true }, RK_EDATA,
            "more than the file can hold");
    refused(path, (rk_data_cfg){ .x_name = "never", .no_labels = true }, RK_EDATA,
            "more than the file can hold");
    refused(file_path("none.h5"), (rk_data_cfg){ 0 }, RK_ENOINPUT, "No such file");
    refused(file_text("text.h5", "hello"), (rk_data_cfg){ 0 }, RK_EDATA, "not an HDF5 file");
}

TEST(cut_off_and_flipped)
{
    enum { N = 64, W = 8 };
    static float x[N * W];
    float y[N] = { 0 };
    const char *path = file_path("c.h5");
    hid_t f = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    put(f, "x", 2, (hsize_t[]){ N, W }, H5T_NATIVE_FLOAT, x, (how){ H5T_IEEE_F32LE, 16, 6, true });
    put(f, "y", 1, (hsize_t[]){ N }, H5T_NATIVE_FLOAT, y, (how){ H5T_STD_U8LE, 0, 0, false });
    H5Fclose(f);
    static uint8_t raw[65536];
    FILE *in = fopen(path, "rb");
    size_t n = fread(raw, 1, sizeof raw, in);
    fclose(in);
    CHECK(n > 1000 && n < sizeof raw);
    for (size_t cut = 0; cut < n; cut += 97) {
        rk_ctx ctx = { 0 };
        rk__ds *ds;
        rk_status st = rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_write("cut.h5", raw, cut) }, &ds);
        if (st == RK_OK)
            ds->ops->close(ds);
        CHECK_INT(st, RK_EDATA);
    }
}

TEST(errors_of_hdf5_stay_silent)
{
    fflush(stderr);
    int saved = dup(2), fd = open(file_path("stderr"), O_CREAT | O_TRUNC | O_RDWR, 0600);
    dup2(fd, 2);
    rk_ctx ctx = { 0 };
    rk__ds *ds;
    rk__ds_open(&ctx, &(rk_data_cfg){ .path = file_text("text.h5", "hello") }, &ds);
    fflush(stderr);
    dup2(saved, 2);
    CHECK_INT(lseek(fd, 0, SEEK_END), 0);
    close(fd);
    close(saved);
}

TEST_MAIN
