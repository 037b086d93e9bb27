/* HDF5: two named data sets. Contiguous ones are read in place; chunked and compressed ones once, as a stream
 * of hyperslabs, into a store. HDF5 itself is used only while a data set is opened. */
#include <hdf5.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/ds_array.h"
#include "io/file.h"

/* The filters in every HDF5: deflate expands 1032 to 1 at most; shuffle, fletcher32, szip and nbit not more.
 */
enum { EXPANSION = 1032, SLACK = 1 << 16, PIECE_BYTES = 1 << 20 };

typedef struct h5 {
    rk_ctx *ctx;
    const char *path;
    hid_t file;
    int64_t file_size;
} h5;

static rk_status bad(const h5 *h, const char *name, const char *why)
{
    return rk_fail(h->ctx, RK_EDATA, "%s: data set \"%s\": %s", h->path, name, why);
}

/* The element type as we know it; *read is what to ask HDF5 for. */
static rk_status element_type(const h5 *h, const char *name, hid_t set, rk__raw *raw)
{
    static const rk__raw_kind ints[2][9] = {
        { [1] = RK__RAW_U8, [2] = RK__RAW_U16, [4] = RK__RAW_U32, [8] = RK__RAW_U64 },
        { [1] = RK__RAW_I8, [2] = RK__RAW_I16, [4] = RK__RAW_I32, [8] = RK__RAW_I64 },
    };
    hid_t t = H5Dget_type(set);
    H5T_class_t class = H5Tget_class(t);
    size_t size = H5Tget_size(t);
    bool is_signed = class == H5T_INTEGER && H5Tget_sign(t) == H5T_SGN_2, known = false;
    if (class == H5T_INTEGER && (size == 1 || size == 2 || size == 4 || size == 8)) {
        raw->kind = ints[is_signed][size];
        known = H5Tget_precision(t) == size * 8;
    } else if (class == H5T_FLOAT && (size == 4 || size == 8)) {
        raw->kind = size == 4 ? RK__RAW_F32 : RK__RAW_F64;
        known = H5Tequal(t, size == 4 ? H5T_IEEE_F32LE : H5T_IEEE_F64LE) > 0 ||
                H5Tequal(t, size == 4 ? H5T_IEEE_F32BE : H5T_IEEE_F64BE) > 0;
    }
    bool big = H5Tget_order(t) == H5T_ORDER_BE;
    raw->swap = size > 1 && big == (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__);
    H5Tclose(t);
    return known ? RK_OK : bad(h, name, "elements are neither whole numbers of 8 to 64 bits nor f32 or f64");
}

static rk_status shape_of(const h5 *h, const char *name, hid_t set, rk_shape *s)
{
    hsize_t dims[H5S_MAX_RANK];
    hid_t space = H5Dget_space(set);
    int ndim = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    bool simple = ndim >= 1 && H5Sget_simple_extent_type(space) == H5S_SIMPLE &&
                  H5Sget_simple_extent_dims(space, dims, NULL) == ndim;
    if (space >= 0)
        H5Sclose(space);
    if (!simple || ndim > RK_MAX_DIMS)
        return bad(h, name, "must have 1 to 8 axes, samples first");
    s->ndim = ndim;
    for (int i = 0; i < ndim; i++) {
        if (dims[i] > INT64_MAX)
            return bad(h, name, "too large");
        s->dim[i] = (int64_t)dims[i];
    }
    return RK_OK;
}

/* Only what lies in this file itself, through filters that need no plugin. */
static rk_status check_layout(const h5 *h, const char *name, hid_t set, H5D_layout_t *layout)
{
    hid_t p = H5Dget_create_plist(set);
    if (p < 0)
        return bad(h, name, "damaged");
    *layout = H5Pget_layout(p);
    const char *why = NULL;
    if (*layout != H5D_CONTIGUOUS && *layout != H5D_CHUNKED && *layout != H5D_COMPACT)
        why = "is virtual or of an unknown layout";
    else if (H5Pget_external_count(p) != 0)
        why = "its data lies in other files";
    int n = H5Pget_nfilters(p);
    for (int i = 0; !why && i < n; i++) {
        unsigned flags, config;
        size_t nelem = 0;
        H5Z_filter_t f = H5Pget_filter2(p, (unsigned)i, &flags, &nelem, NULL, 0, NULL, &config);
        if (f < 0 || H5Zfilter_avail(f) <= 0)
            why = "is compressed by a filter this HDF5 does not have (gzip, szip and shuffle work)";
    }
    H5Pclose(p);
    return why ? bad(h, name, why) : RK_OK;
}

/* A piece of rows [at, at + k) into buf, in the file's byte order (what rk__raw says). */
static bool read_rows(hid_t set, hid_t type, const rk_shape *s, int64_t at, int64_t k, void *buf)
{
    hsize_t start[RK_MAX_DIMS] = { (hsize_t)at }, count[RK_MAX_DIMS] = { (hsize_t)k };
    for (int i = 1; i < s->ndim; i++)
        count[i] = (hsize_t)s->dim[i];
    hid_t file = H5Dget_space(set), mem = H5Screate_simple(s->ndim, count, NULL);
    bool ok = file >= 0 && mem >= 0 &&
              H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL) >= 0 &&
              H5Dread(set, type, mem, file, H5P_DEFAULT, buf) >= 0;
    if (mem >= 0)
        H5Sclose(mem);
    if (file >= 0)
        H5Sclose(file);
    return ok;
}

static rk_status stream_rows(const h5 *h, const char *name, hid_t set, rk__array *a, int64_t row_bytes,
                             int64_t step)
{
    hid_t type = H5Dget_type(set); /* the file's own: no conversion */
    uint8_t *buf = malloc((size_t)(row_bytes * step) + 1);
    rk_status st = buf && type >= 0 ? RK_OK : rk_fail(h->ctx, RK_ENOMEM, "%s: out of memory", h->path);
    rk__store_begin(&a->store, a->name);
    for (int64_t at = 0; st == RK_OK && at < a->shape.dim[0]; at += step) {
        int64_t k = a->shape.dim[0] - at < step ? a->shape.dim[0] - at : step;
        if (!read_rows(set, type, &a->shape, at, k, buf))
            st =
                rk_fail(h->ctx, RK_EDATA, "%s: data set \"%s\": samples %lld to %lld cannot be read: damaged",
                        h->path, name, (long long)at, (long long)(at + k - 1));
        else
            st = rk__store_put(h->ctx, &a->store, buf, k * row_bytes);
    }
    free(buf);
    if (type >= 0)
        H5Tclose(type);
    return st == RK_OK ? rk__store_end(h->ctx, &a->store) : st;
}

/* Rows of whole chunks at a time, so that each is decompressed once. */
static int64_t rows_at_once(hid_t set, const rk_shape *s, int64_t row_bytes)
{
    hsize_t chunk[H5S_MAX_RANK] = { 1 };
    hid_t p = H5Dget_create_plist(set);
    if (p >= 0) {
        if (H5Pget_layout(p) == H5D_CHUNKED)
            H5Pget_chunk(p, s->ndim, chunk);
        H5Pclose(p);
    }
    int64_t rows = chunk[0] < (hsize_t)s->dim[0] ? (int64_t)chunk[0] : s->dim[0];
    int64_t fit = PIECE_BYTES / (row_bytes + 1) + 1;
    return rows > 0 && rows < fit ? fit / rows * rows : rows > 0 ? rows : 1;
}

static rk_status fill(const h5 *h, const char *name, hid_t set, H5D_layout_t layout, rk__array *a)
{
    int64_t bytes, n = a->shape.dim[0];
    RK_TRY(rk__array_bytes(h->ctx, a, &bytes));
    haddr_t at = layout == H5D_CONTIGUOUS ? H5Dget_offset(set) : HADDR_UNDEF;
    if (bytes / EXPANSION > h->file_size + SLACK || (bytes && !H5Dget_storage_size(set)))
        return bad(h, name, "its sizes say more than the file can hold");
    if (at != HADDR_UNDEF) {
        int fd;
        int64_t size;
        if (at > (haddr_t)h->file_size || bytes > h->file_size - (int64_t)at)
            return bad(h, name, "its data runs past the end of the file");
        RK_TRY(rk__file_open(h->ctx, h->path, &fd, &size));
        return rk__store_file(h->ctx, &a->store, a->name, fd, (int64_t)at, bytes);
    }
    int64_t row = n ? bytes / n : 0, step = n ? rows_at_once(set, &a->shape, row) : 1;
    if (row * step / EXPANSION > h->file_size + SLACK)
        return bad(h, name, "its chunks are larger than the file can hold");
    return stream_rows(h, name, set, a, row, step);
}

static rk_status open_array(const h5 *h, const char *name, rk__array *a)
{
    H5D_layout_t layout = H5D_LAYOUT_ERROR;
    *a = (rk__array){ .store.fd = -1 };
    hid_t set = H5Dopen2(h->file, name, H5P_DEFAULT);
    if (set < 0)
        return bad(h, name, "there is none of this name, or it is damaged");
    if (asprintf(&a->name, "%s:%s", h->path, name) < 0)
        a->name = NULL;
    rk_status st = a->name ? RK_OK : rk_fail(h->ctx, RK_ENOMEM, "%s: out of memory", h->path);
    if (st == RK_OK)
        st = element_type(h, name, set, &a->type);
    if (st == RK_OK)
        st = shape_of(h, name, set, &a->shape);
    if (st == RK_OK)
        st = check_layout(h, name, set, &layout);
    if (st == RK_OK)
        st = fill(h, name, set, layout, a);
    H5Dclose(set);
    if (st != RK_OK)
        rk__array_free(a);
    return st;
}

static rk_status open_arrays(const h5 *h, const rk_data_cfg *cfg, rk__ds **out)
{
    rk__array x, y;
    rk__task task;
    RK_TRY(rk__task_of(h->ctx, cfg, &task));
    RK_TRY(open_array(h, cfg->x_name ? cfg->x_name : "x", &x));
    if (task == RK__RECONSTRUCTION || cfg->no_labels)
        return rk__ds_of_arrays(h->ctx, &rk__ds_hdf5, task, &x, NULL, out);
    rk_status st = open_array(h, cfg->y_name ? cfg->y_name : "y", &y);
    if (st != RK_OK) {
        rk__array_free(&x);
        return st;
    }
    return rk__ds_of_arrays(h->ctx, &rk__ds_hdf5, task, &x, &y, out);
}

static rk_status open_hdf5(rk_ctx *ctx, const rk_data_cfg *cfg, rk__ds **out)
{
    h5 h = { .ctx = ctx, .path = cfg->path };
    H5E_auto2_t report;
    void *report_arg;
    int fd;
    *out = NULL;
    RK_TRY(rk__file_open(ctx, cfg->path, &fd, &h.file_size)); /* missing: told apart from damaged */
    close(fd);
    H5Eget_auto2(H5E_DEFAULT, &report, &report_arg);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    H5PLset_loading_state(0); /* a file must not choose code to load */
    h.file = H5Fopen(cfg->path, H5F_ACC_RDONLY, H5P_DEFAULT);
    rk_status st = h.file < 0
                       ? rk_fail(ctx, RK_EDATA, "%s: not an HDF5 file, or damaged or cut off", cfg->path)
                       : open_arrays(&h, cfg, out);
    if (h.file >= 0)
        H5Fclose(h.file);
    H5Eset_auto2(H5E_DEFAULT, report, report_arg);
    return st;
}

const rk__ds_ops rk__ds_hdf5 = {
    .format = "hdf5",
    .open = open_hdf5,
    .info = rk__ds_array_info,
    .read = rk__ds_array_read,
    .close = rk__ds_array_close,
};
