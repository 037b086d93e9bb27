#include "io/idx.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/file.h"

/* Deflate cannot do better (zlib's technical notes: 1032 to 1): a header that claims more than that is a lie.
 */
enum { INFLATE_RATIO = 1032, INFLATE_SLACK = 4096 };

rk_status rk__idx_header(rk_ctx *ctx, const uint8_t *p, size_t n, rk__array *a, int64_t *header)
{
    static const struct {
        uint8_t code;
        rk__raw_kind kind;
    } types[] = { { 0x08, RK__RAW_U8 },  { 0x09, RK__RAW_I8 },  { 0x0b, RK__RAW_I16 },
                  { 0x0c, RK__RAW_I32 }, { 0x0d, RK__RAW_F32 }, { 0x0e, RK__RAW_F64 } };
    size_t t = 0;
    if (n < 4)
        return rk_fail(ctx, RK_EDATA, "%s: %zu bytes are too few for an IDX file", a->name, n);
    if (p[0] || p[1])
        return rk_fail(ctx, RK_EDATA, "%s: offset 0: not an IDX file: it begins with %02x %02x, not 00 00",
                       a->name, p[0], p[1]);
    while (t < sizeof types / sizeof *types && types[t].code != p[2])
        t++;
    if (t == sizeof types / sizeof *types)
        return rk_fail(ctx, RK_EDATA, "%s: offset 2: unknown IDX element type 0x%02x", a->name, p[2]);
    if (p[3] < 1 || p[3] > RK_MAX_DIMS)
        return rk_fail(ctx, RK_EDATA, "%s: offset 3: %d axes, 1 to %d are possible", a->name, p[3],
                       RK_MAX_DIMS);
    if (n < 4 + 4 * (size_t)p[3])
        return rk_fail(ctx, RK_EDATA, "%s: offset %zu: the file ends in its header", a->name, n);
    a->type = (rk__raw){ types[t].kind, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ };
    a->shape.ndim = p[3];
    for (int i = 0; i < p[3]; i++) {
        const uint8_t *d = p + 4 + 4 * i;
        a->shape.dim[i] = (int64_t)d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
    }
    *header = 4 + 4 * p[3];
    return RK_OK;
}

static rk_status wrong_size(rk_ctx *ctx, const rk__array *a, int64_t header, int64_t want, const char *have)
{
    char shape[128] = "";
    for (int i = 0, n = 0; i < a->shape.ndim; i++)
        n += snprintf(shape + n, sizeof shape - (size_t)n, "%s%lld", i ? " x " : "",
                      (long long)a->shape.dim[i]);
    return rk_fail(ctx, RK_EDATA,
                   "%s: its header says %s elements, %lld bytes after offset %lld, but it has %s", a->name,
                   shape, (long long)want, (long long)header, have);
}

static rk_status open_plain(rk_ctx *ctx, const char *path, rk__array *a)
{
    uint8_t head[4 + 4 * RK_MAX_DIMS];
    int64_t size, header = 0, bytes = 0;
    int fd;
    RK_TRY(rk__file_open(ctx, path, &fd, &size));
    ssize_t got = pread(fd, head, sizeof head, 0);
    rk_status st = got < 0 ? rk_fail(ctx, RK_ENOINPUT, "%s: cannot be read", path)
                           : rk__idx_header(ctx, head, (size_t)got, a, &header);
    if (st == RK_OK)
        st = rk__array_bytes(ctx, a, &bytes);
    if (st == RK_OK && bytes != size - header) {
        char have[48];
        snprintf(have, sizeof have, "%lld", (long long)(size - header));
        st = wrong_size(ctx, a, header, bytes, have);
    }
    if (st != RK_OK) {
        close(fd);
        return st;
    }
    return rk__store_file(ctx, &a->store, a->name, fd, header, bytes);
}

static rk_status inflate_data(rk_ctx *ctx, rk__gz *z, rk__array *a, int64_t header, int64_t bytes)
{
    enum { PIECE = (1 << 18) };
    uint8_t *buf = malloc(PIECE);
    rk_status st = buf ? RK_OK : rk_fail(ctx, RK_ENOMEM, "%s: out of memory", a->name);
    rk__store_begin(&a->store, a->name);
    size_t want = 1, got = 1;
    for (int64_t left = bytes; st == RK_OK && got == want; left -= (int64_t)got) {
        want = left < PIECE ? (size_t)left + 1 : PIECE; /* one more than is due, to see the end */
        st = rk__gz_read(z, buf, want, &got);
        if (st == RK_OK && (int64_t)got > left)
            st = wrong_size(ctx, a, header, bytes, "more");
        if (st == RK_OK && got < want && (int64_t)got < left)
            st = wrong_size(ctx, a, header, bytes, "less");
        if (st == RK_OK)
            st = rk__store_put(ctx, &a->store, buf, (int64_t)got);
    }
    free(buf);
    return st == RK_OK ? rk__store_end(ctx, &a->store) : st;
}

/* Memory for a large buffer that is about to be written whole: in huge pages if there are any, as thousands
 * of page faults take a good part of the time. */
static uint8_t *large_alloc(size_t n)
{
    const size_t huge = (size_t)2 << 20;
    if (n < 4 * huge)
        return malloc(n);
    uint8_t *p = aligned_alloc(huge, (n + huge - 1) / huge * huge);
    if (p)
        madvise(p, n, MADV_HUGEPAGE);
    return p;
}

/* The whole file at once, if it is small and as gzip writes it. False: the stream has to do it. */
static bool inflate_at_once(const char *path, rk__array *a, int64_t header, int64_t bytes, int64_t file_size)
{
    enum { ALIGN = 64 };
    rk_ctx quiet = { 0 }; /* a failure here is no failure: the stream will find it again */
    int64_t total = header + bytes, size;
    int fd;
    if (total > RK__STORE_MEMORY || file_size > RK__STORE_MEMORY ||
        rk__file_open(&quiet, path, &fd, &size) != RK_OK)
        return false;
    uint8_t *in = large_alloc((size_t)file_size);
    uint8_t *out = large_alloc((size_t)total + ALIGN);
    bool done = in && out && size == file_size;
    for (int64_t at = 0; done && at < size;) {
        ssize_t got = pread(fd, in + at, (size_t)(size - at), at);
        done = got > 0;
        at += got;
    }
    close(fd);
    if (done) {
        uint8_t *begin = out + ALIGN - header; /* so that the data itself is aligned */
        done = rk__gz_whole(in, (size_t)size, begin, (size_t)total);
    }
    free(in);
    if (done)
        rk__store_adopt(&a->store, a->name, out, out + ALIGN, bytes);
    else
        free(out);
    return done;
}

static rk_status open_gz(rk_ctx *ctx, const char *path, rk__array *a)
{
    uint8_t head[4 + 4 * RK_MAX_DIMS];
    int64_t header, bytes = 0;
    size_t got, more;
    rk__gz *z;
    RK_TRY(rk__gz_open(ctx, path, &z));
    rk_status st = rk__gz_read(z, head, 4, &got);
    size_t rest = got == 4 && head[3] <= RK_MAX_DIMS ? 4 * (size_t)head[3] : 0;
    if (st == RK_OK)
        st = rk__gz_read(z, head + 4, rest, &more);
    if (st == RK_OK)
        st = rk__idx_header(ctx, head, got + more, a, &header);
    if (st == RK_OK)
        st = rk__array_bytes(ctx, a, &bytes);
    if (st == RK_OK && bytes / INFLATE_RATIO > rk__gz_file_size(z) + INFLATE_SLACK)
        st = wrong_size(ctx, a, header, bytes, "too few for that even compressed");
    if (st == RK_OK && !inflate_at_once(path, a, header, bytes, rk__gz_file_size(z)))
        st = inflate_data(ctx, z, a, header, bytes);
    rk__gz_close(z);
    return st;
}

rk_status rk__idx_open(rk_ctx *ctx, const char *path, rk__array *a)
{
    uint8_t magic[2] = { 0 };
    int64_t size;
    int fd;
    *a = (rk__array){ .store.fd = -1 };
    a->name = strdup(path);
    if (!a->name)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", path);
    rk_status st = rk__file_open(ctx, path, &fd, &size);
    if (st == RK_OK) {
        bool gz = pread(fd, magic, 2, 0) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
        close(fd);
        st = (gz ? open_gz : open_plain)(ctx, path, a);
    }
    if (st != RK_OK)
        rk__array_free(a);
    return st;
}

/* ---- finding the pair ---- */

static const char *const endings[] = { "", ".gz" };

/* prefix + one of the usual names; false if there is none. */
static bool find(char *out, size_t size, const char *prefix, const char *const *names)
{
    for (; *names; names++) {
        for (int e = 0; e < 2; e++) {
            int n = snprintf(out, size, "%s%s%s", prefix, *names, endings[e]);
            if (n > 0 && (size_t)n < size && rk__file_exists(out))
                return true;
        }
    }
    return false;
}

static bool is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static bool find_images(char *out, size_t size, const char *path)
{
    static const char *const names[] = { "-images-idx3-ubyte",
                                         "-images.idx3-ubyte",
                                         "-images-idx4-ubyte",
                                         "-images-idx2-ubyte",
                                         "-images.idx",
                                         "-images",
                                         NULL };
    static const char *const in_folder[] = { "/train-images-idx3-ubyte", "/train-images.idx3-ubyte", NULL };
    char other[PATH_MAX];
    size_t n = strlen(path);
    if (rk__file_exists(path) && !is_folder(path))
        return snprintf(out, size, "%s", path) < (int)size;
    if (find(out, size, path, names))
        return true;
    if (is_folder(path) && find(out, size, path, in_folder))
        return true;
    if (n < 4 || strcmp(path + n - 4, "test") != 0 || n >= sizeof other - 8)
        return false;
    snprintf(other, sizeof other, "%.*st10k", (int)(n - 4), path); /* the classic name of the test part */
    return find(out, size, other, names);
}

/* The labels beside "X-images-idx3-ubyte": "X-labels-idx1-ubyte", with or without .gz. */
static bool find_labels(char *out, size_t size, const char *images)
{
    static const char *const names[] = {
        "-labels-idx1-ubyte", "-labels.idx1-ubyte", "-labels-idx2-ubyte", "-labels.idx", "-labels", NULL
    };
    char prefix[PATH_MAX];
    const char *at = NULL, *base = strrchr(images, '/');
    for (const char *s = base ? base : images; (s = strstr(s, "-images")); s++)
        at = s;
    if (!at || (size_t)(at - images) >= sizeof prefix)
        return false;
    snprintf(prefix, sizeof prefix, "%.*s", (int)(at - images), images);
    return find(out, size, prefix, names);
}

static rk_status open_idx(rk_ctx *ctx, const rk_data_cfg *cfg, rk__ds **out)
{
    char images[PATH_MAX], labels[PATH_MAX];
    rk__array x, y;
    rk__task task;
    *out = NULL;
    RK_TRY(rk__task_of(ctx, cfg, &task));
    bool wants_y = task != RK__RECONSTRUCTION && !cfg->no_labels;
    if (!find_images(images, sizeof images, cfg->path))
        return rk_fail(ctx, RK_ENOINPUT, "%s: no such file, nor an IDX pair %s-images-idx3-ubyte[.gz]",
                       cfg->path, cfg->path);
    if (wants_y && cfg->labels)
        snprintf(labels, sizeof labels, "%s", cfg->labels);
    else if (wants_y && !find_labels(labels, sizeof labels, images))
        return rk_fail(ctx, RK_ENOINPUT, "%s: no label file beside it: say data.labels", images);
    RK_TRY(rk__idx_open(ctx, images, &x));
    if (!wants_y)
        return rk__ds_of_arrays(ctx, &rk__ds_idx, task, &x, NULL, out);
    rk_status st = rk__idx_open(ctx, labels, &y);
    if (st != RK_OK) {
        rk__array_free(&x);
        return st;
    }
    return rk__ds_of_arrays(ctx, &rk__ds_idx, task, &x, &y, out);
}

const rk__ds_ops rk__ds_idx = {
    .format = "idx",
    .open = open_idx,
    .info = rk__ds_array_info,
    .read = rk__ds_array_read,
    .close = rk__ds_array_close,
};
