#include "ckpt/h5image.h"

#include "ckpt/h5filter.h"

#include <errno.h>
#include <hdf5.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if H5_VERSION_GE(1, 14, 0)
#include <H5FDdevelop.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "snapshots hold the host's bytes as they are: a little-endian host is needed"
#endif

enum {
    PAGE = 4096,    /* tensors of a page and more begin on one */
    ZSTD_LEVEL = 1, /* float weights hardly shrink further */
    CHUNK_BYTES = 1 << 20
};

/* ---- growable memory ---- */

static bool image_reserve(rk__image *img, size_t bytes)
{
    if (bytes <= img->cap)
        return true;
    size_t cap = img->cap ? img->cap : (size_t)1 << 20;
    while (cap < bytes) {
        if (cap > SIZE_MAX / 2)
            return false;
        cap *= 2; /* address space only: pages that nobody touches do not exist */
    }
    void *p =
        img->p ? mremap(img->p, img->cap, cap, MREMAP_MAYMOVE)
               : mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return false;
    madvise(p, cap, MADV_HUGEPAGE); /* a first save otherwise waits for a fault a page */
    img->p = p;
    img->cap = cap;
    return true;
}

void rk__image_free(rk__image *img)
{
    if (img->p)
        munmap(img->p, img->cap);
    *img = (rk__image){ 0 };
}

/* ---- an HDF5 driver over an image (writing) or a descriptor (reading) ---- */

typedef struct driver_info {
    rk__image *img; /* NULL: read from fd */
    int fd;
    uint64_t size;
} driver_info;

typedef struct driver_file {
    H5FD_t pub;
    driver_info info;
    haddr_t eoa, eof;
} driver_file;

static H5FD_t *drv_open(const char *name, unsigned flags, hid_t fapl, haddr_t maxaddr)
{
    (void)name, (void)flags, (void)maxaddr;
    const driver_info *info = H5Pget_driver_info(fapl);
    driver_file *d = info ? calloc(1, sizeof *d) : NULL;
    if (!d)
        return NULL;
    d->info = *info;
    d->eof = info->img ? info->img->bytes : info->size;
    return &d->pub;
}

static herr_t drv_close(H5FD_t *file)
{
    driver_file *d = (driver_file *)file;
    if (d->info.img)
        d->info.img->bytes = d->eof;
    free(d);
    return 0;
}

static int drv_cmp(const H5FD_t *a, const H5FD_t *b)
{
    return a < b ? -1 : a > b;
}

static herr_t drv_query(const H5FD_t *file, unsigned long *flags)
{
    (void)file;
    *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE;
    return 0;
}

static haddr_t drv_get_eoa(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const driver_file *)file)->eoa;
}

static herr_t drv_set_eoa(H5FD_t *file, H5FD_mem_t type, haddr_t addr)
{
    (void)type;
    ((driver_file *)file)->eoa = addr;
    return 0;
}

static haddr_t drv_get_eof(const H5FD_t *file, H5FD_mem_t type)
{
    (void)type;
    return ((const driver_file *)file)->eof;
}

static bool read_at(int fd, void *buf, size_t n, uint64_t at)
{
    char *p = buf;
    while (n) {
        ssize_t k = pread(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return true;
}

/* Bytes past the end read as zeros, as HDF5's own drivers have it. */
static herr_t drv_read(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size, void *buf)
{
    (void)type, (void)dxpl;
    const driver_file *d = (const driver_file *)file;
    size_t have = addr >= d->eof ? 0 : d->eof - addr < size ? (size_t)(d->eof - addr) : size;
    memset((char *)buf + have, 0, size - have);
    if (d->info.img) {
        if (have)
            memcpy(buf, d->info.img->p + addr, have);
        return 0;
    }
    return read_at(d->info.fd, buf, have, addr) ? 0 : -1;
}

static herr_t drv_write(H5FD_t *file, H5FD_mem_t type, hid_t dxpl, haddr_t addr, size_t size, const void *buf)
{
    (void)type, (void)dxpl;
    driver_file *d = (driver_file *)file;
    if (!d->info.img || addr > SIZE_MAX - size || !image_reserve(d->info.img, addr + size))
        return -1;
    memcpy(d->info.img->p + addr, buf, size);
    if (addr + size > d->eof)
        d->eof = addr + size;
    return 0;
}

static herr_t drv_truncate(H5FD_t *file, hid_t dxpl, hbool_t closing)
{
    (void)dxpl, (void)closing;
    driver_file *d = (driver_file *)file;
    if (!d->info.img)
        return 0;
    if (!image_reserve(d->info.img, d->eoa))
        return -1;
    d->eof = d->eoa;
    return 0;
}

static const H5FD_class_t driver = {
#if H5_VERSION_GE(1, 14, 0)
    .version = H5FD_CLASS_VERSION,
    .value = (H5FD_class_value_t)600, /* above what HDF5 keeps for itself and for tests */
#endif
    .name = "rankine",
    .maxaddr = ((haddr_t)1 << 62) - 1,
    .fc_degree = H5F_CLOSE_STRONG,
    .fapl_size = sizeof(driver_info),
    .open = drv_open,
    .close = drv_close,
    .cmp = drv_cmp,
    .query = drv_query,
    .get_eoa = drv_get_eoa,
    .set_eoa = drv_set_eoa,
    .get_eof = drv_get_eof,
    .read = drv_read,
    .write = drv_write,
    .truncate = drv_truncate,
    .fl_map = H5FD_FLMAP_DICHOTOMY,
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static hid_t driver_id = -1;

static void register_once(void)
{
    if (H5open() >= 0 && H5Zregister(&rk__h5_zstd) >= 0)
        driver_id = H5FDregister(&driver);
}

/* The file access list for info; < 0 on failure. HDF5 keeps one error printer a thread: ours is silent. */
static hid_t access_list(const driver_info *info)
{
    pthread_once(&once, register_once);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    hid_t fapl = driver_id < 0 ? -1 : H5Pcreate(H5P_FILE_ACCESS);
    if (fapl >= 0 && (H5Pset_driver(fapl, driver_id, info) < 0 || H5Pset_alignment(fapl, PAGE, PAGE) < 0)) {
        H5Pclose(fapl);
        fapl = -1;
    }
    return fapl;
}

/* ---- types and shapes ---- */

/* IEEE half: the fields of a float32 moved, then the size cut. */
static hid_t type_f16(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    if (t >= 0 && (H5Tset_fields(t, 15, 10, 5, 0, 10) < 0 || H5Tset_precision(t, 16) < 0 ||
                   H5Tset_ebias(t, 15) < 0 || H5Tset_size(t, 2) < 0)) {
        H5Tclose(t);
        return -1;
    }
    return t;
}

static hid_t type_of(rk_dtype t)
{
    switch (t) {
    case RK_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case RK_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case RK_BF16: /* HDF5 readers know no bfloat16: its bits, with an attribute that says so */
        return H5Tcopy(H5T_STD_U16LE);
    case RK_F16:
        return type_f16();
    case RK_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case RK_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case RK_U8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return -1;
    }
}

static hid_t space_of(const rk_shape *s)
{
    hsize_t dim[RK_MAX_DIMS];
    for (int i = 0; i < s->ndim; i++)
        dim[i] = (hsize_t)s->dim[i];
    return s->ndim ? H5Screate_simple(s->ndim, dim, NULL) : H5Screate(H5S_SCALAR);
}

static bool mark_bf16(hid_t set)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    hid_t space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, 4);
    hid_t a = H5Acreate2(set, "rankine_dtype", type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Awrite(a, type, "bf16") >= 0;
    if (a >= 0)
        H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
    return ok;
}

/* ---- writing ---- */

/* Chunks of about 1 MiB: the leading axes are cut first, so a chunk is a run of rows. */
static void chunk_of(const rk__slab *s, hsize_t *chunk)
{
    size_t bytes = s->bytes;
    for (int i = 0; i < s->shape.ndim; i++) {
        hsize_t n = (hsize_t)s->shape.dim[i], row = bytes / n, want = row ? CHUNK_BYTES / row : n;
        chunk[i] = bytes <= CHUNK_BYTES ? n : want < 1 ? 1 : want > n ? n : want;
        bytes = row * chunk[i];
        if (chunk[i] > 1)
            for (i++; i < s->shape.ndim; i++)
                chunk[i] = (hsize_t)s->shape.dim[i];
    }
}

static bool can_chunk(const rk__slab *s)
{
    return s->shape.ndim > 0 && s->bytes >= 64;
}

static hid_t creation_list(const rk__slab *s, bool compress)
{
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    bool ok = p >= 0 && H5Pset_fill_time(p, H5D_FILL_TIME_NEVER) >= 0 && H5Pset_obj_track_times(p, 0) >= 0;
    if (compress && can_chunk(s)) {
        hsize_t chunk[RK_MAX_DIMS];
        unsigned level = ZSTD_LEVEL;
        chunk_of(s, chunk);
        ok = ok && H5Pset_chunk(p, s->shape.ndim, chunk) >= 0 && H5Pset_shuffle(p) >= 0 &&
             H5Pset_filter(p, RK__H5_ZSTD, H5Z_FLAG_MANDATORY, 1, &level) >= 0;
    } else {
        ok = ok && H5Pset_alloc_time(p, H5D_ALLOC_TIME_EARLY) >= 0;
    }
    if (!ok && p >= 0)
        H5Pclose(p);
    return ok ? p : -1;
}

static hid_t make_set(hid_t file, const rk__slab *s, bool compress)
{
    hid_t type = type_of(s->dtype), space = space_of(&s->shape), dcpl = creation_list(s, compress);
    hid_t lcpl = H5Pcreate(H5P_LINK_CREATE), set = -1;
    if (type >= 0 && space >= 0 && dcpl >= 0 && lcpl >= 0 && H5Pset_create_intermediate_group(lcpl, 1) >= 0)
        set = H5Dcreate2(file, s->name, type, space, lcpl, dcpl, H5P_DEFAULT);
    if (set >= 0 && s->dtype == RK_BF16 && !mark_bf16(set)) {
        H5Dclose(set);
        set = -1;
    }
    H5Pclose(lcpl);
    H5Pclose(dcpl);
    H5Sclose(space);
    H5Tclose(type);
    return set;
}

/* plain NULL: lay out and note the offsets; else write the values from it. */
static rk_status fill_file(hid_t file, rk__slab *slabs, int n, const rk__image *plain, rk__fault *f)
{
    for (int i = 0; i < n; i++) {
        rk__slab *s = &slabs[i];
        hid_t set = make_set(file, s, plain != NULL), type = type_of(s->dtype);
        bool ok = set >= 0 && type >= 0;
        if (ok && !plain) {
            haddr_t at = s->bytes ? H5Dget_offset(set) : 0;
            ok = at != HADDR_UNDEF;
            s->offset = (size_t)at;
        } else if (ok && s->bytes) {
            ok = H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, plain->p + s->offset) >= 0;
        }
        H5Tclose(type);
        if (set >= 0)
            H5Dclose(set);
        if (!ok)
            return rk__fault_set(f, RK_EINTERNAL,
                                 "tensor %s: HDF5 cannot hold it (is one name the folder of another?)",
                                 s->name);
    }
    return RK_OK;
}

static rk_status build(rk__image *img, rk__slab *slabs, int n, const rk__image *plain, rk__fault *f)
{
    img->bytes = 0;
    driver_info info = { .img = img, .fd = -1 };
    hid_t fapl = access_list(&info);
    hid_t file = fapl < 0 ? -1 : H5Fcreate("image", H5F_ACC_TRUNC, H5P_DEFAULT, fapl);
    if (fapl >= 0)
        H5Pclose(fapl);
    if (file < 0)
        return rk__fault_set(f, RK_EINTERNAL, "HDF5 cannot make a file in memory");
    rk_status st = fill_file(file, slabs, n, plain, f);
    if (H5Fclose(file) < 0 && st == RK_OK)
        st = rk__fault_set(f, RK_ENOMEM, "HDF5 cannot close a file in memory: out of memory?");
    return st;
}

rk_status rk__h5_layout(rk__image *img, rk__slab *slabs, int n, rk__fault *f)
{
    rk__image_free(img); /* fresh pages are zero, which the gaps between data sets must be */
    rk_status st = build(img, slabs, n, NULL, f);
    if (st)
        return st;
    for (int i = 0; i < n; i++)
        if (slabs[i].bytes > img->bytes || slabs[i].offset > img->bytes - slabs[i].bytes)
            return rk__fault_set(f, RK_EINTERNAL, "tensor %s: HDF5 placed it outside of the file",
                                 slabs[i].name);
    return RK_OK;
}

rk_status rk__h5_compress(const rk__image *plain, const rk__slab *slabs, int n, rk__image *out, rk__fault *f)
{
    rk__image_free(out);
    return build(out, (rk__slab *)slabs, n, plain, f);
}

/* ---- reading ---- */

struct rk__h5_file {
    hid_t id;
    char name[128];
};

rk_status rk__h5_open(int fd, uint64_t size, const char *name, rk__h5_file **out, rk__fault *f)
{
    *out = NULL;
    driver_info info = { .fd = fd, .size = size };
    hid_t fapl = access_list(&info);
    hid_t id = fapl < 0 ? -1 : H5Fopen(name, H5F_ACC_RDONLY, fapl);
    if (fapl >= 0)
        H5Pclose(fapl);
    if (id < 0)
        return rk__fault_set(f, RK_EDATA, "%s: HDF5 cannot open it", name);
    rk__h5_file *h = calloc(1, sizeof *h);
    if (!h) {
        H5Fclose(id);
        return rk__fault_set(f, RK_ENOMEM, "%s: no memory", name);
    }
    h->id = id;
    strncpy(h->name, name, sizeof h->name - 1);
    *out = h;
    return RK_OK;
}

void rk__h5_close(rk__h5_file *h)
{
    if (!h)
        return;
    H5Fclose(h->id);
    free(h);
}

static bool same_shape(hid_t space, const rk_shape *s)
{
    hsize_t dim[H5S_MAX_RANK];
    int n = H5Sget_simple_extent_ndims(space);
    if (n != s->ndim || (n > 0 && H5Sget_simple_extent_dims(space, dim, NULL) != n))
        return false;
    for (int i = 0; i < n; i++)
        if (dim[i] != (hsize_t)s->dim[i])
            return false;
    return true;
}

/* < 0 with f set unless the data set is what the manifest says. */
static hid_t open_set(rk__h5_file *h, const char *name, rk_dtype t, const rk_shape *shape, rk__fault *f)
{
    hid_t set = H5Dopen2(h->id, name, H5P_DEFAULT);
    if (set < 0) {
        rk__fault_set(f, RK_EDATA, "%s: no data set %s", h->name, name);
        return -1;
    }
    hid_t want = type_of(t), type = H5Dget_type(set), space = H5Dget_space(set);
    bool type_ok = H5Tequal(type, want) > 0, shape_ok = same_shape(space, shape);
    H5Sclose(space);
    H5Tclose(type);
    H5Tclose(want);
    if (type_ok && shape_ok)
        return set;
    H5Dclose(set);
    rk__fault_set(f, RK_EDATA, "%s: data set %s has another %s than its manifest says", h->name, name,
                  type_ok ? "shape" : "type");
    return -1;
}

rk_status rk__h5_check(rk__h5_file *h, const char *data_set, rk_dtype t, const rk_shape *shape, rk__fault *f)
{
    hid_t set = open_set(h, data_set, t, shape, f);
    if (set < 0)
        return f->st;
    H5Dclose(set);
    return RK_OK;
}

static hid_t box(const rk_shape *whole, const int64_t *lo, const rk_shape *extent)
{
    hid_t space = space_of(whole);
    hsize_t start[RK_MAX_DIMS], count[RK_MAX_DIMS];
    for (int i = 0; i < whole->ndim; i++) {
        start[i] = (hsize_t)lo[i];
        count[i] = (hsize_t)extent->dim[i];
    }
    if (space >= 0 && whole->ndim &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, count, NULL) < 0) {
        H5Sclose(space);
        return -1;
    }
    return space;
}

rk_status rk__h5_read(rk__h5_file *h, const char *data_set, rk_dtype t, const rk_shape *set,
                      const int64_t *from, const rk_shape *extent, const int64_t *to, const rk_shape *whole,
                      void *host, rk__fault *f)
{
    hid_t id = open_set(h, data_set, t, set, f);
    if (id < 0)
        return f->st;
    hid_t type = type_of(t), mem = box(whole, to, extent), file = box(set, from, extent);
    bool ok = mem >= 0 && file >= 0 && H5Dread(id, type, mem, file, H5P_DEFAULT, host) >= 0;
    if (mem >= 0)
        H5Sclose(mem);
    if (file >= 0)
        H5Sclose(file);
    H5Tclose(type);
    H5Dclose(id);
    return ok ? RK_OK : rk__fault_set(f, RK_EDATA, "%s: data set %s cannot be read", h->name, data_set);
}
