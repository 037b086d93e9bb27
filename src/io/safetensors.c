#include "io/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ctx.h"
#include "io/file.h"

typedef struct dtype {
    const char *name;
    int size;
    int ours; /* rk_dtype, -1: none */
} dtype;

static const dtype dtypes[] = {
    { "F64", 8, RK_F64 }, { "F32", 4, RK_F32 }, { "F16", 2, RK_F16 }, { "BF16", 2, RK_BF16 },
    { "I64", 8, RK_I64 }, { "I32", 4, RK_I32 }, { "I16", 2, -1 },     { "I8", 1, -1 },
    { "U64", 8, -1 },     { "U32", 4, -1 },     { "U16", 2, -1 },     { "U8", 1, RK_U8 },
    { "BOOL", 1, -1 },    { "F8_E4M3", 1, -1 }, { "F8_E5M2", 1, -1 },
};

static const dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name))
            return &dtypes[i];
    return NULL;
}

static uint64_t load_u64le(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

/* ---- one tensor of the header ---- */

static rk_status bad(rk_ctx *ctx, const rk_doc *at, const char *why)
{
    return rk__doc_fail(ctx, RK_EDATA, at, "tensor \"%.100s\": %s", at->key ? at->key : "", why);
}

/* A list of `most` whole numbers of at least 0. -1: it is none. */
static int numbers(const rk_doc *list, int64_t *out, int most)
{
    int n = 0;
    if (!list || list->kind != RK_DOC_LIST || list->n > most)
        return -1;
    for (const rk_doc *d = list->child; d; d = d->next) {
        if (d->kind != RK_DOC_INT || d->i < 0 || d->text[0] == '-')
            return -1;
        out[n++] = d->i;
    }
    return n;
}

static rk_status read_tensor(rk_ctx *ctx, const rk_doc *d, int64_t data_size, rk__st_tensor *t)
{
    const rk_doc *type = rk__doc_get(d, "dtype");
    int64_t offsets[2], bytes;
    if (d->kind != RK_DOC_MAP || d->n != 3 || !type)
        return bad(ctx, d, "needs exactly dtype, shape and data_offsets");
    const dtype *known = type->kind == RK_DOC_STRING ? find_dtype(type->text) : NULL;
    if (!known)
        return rk__doc_fail(ctx, RK_EDATA, type, "tensor \"%.100s\": unknown dtype %.40s", d->key,
                            type->text ? type->text : "");
    t->dtype = known->name;
    t->shape.ndim = numbers(rk__doc_get(d, "shape"), t->shape.dim, RK_MAX_DIMS);
    if (t->shape.ndim < 0)
        return bad(ctx, d, "shape must be a list of at most 8 sizes");
    if (numbers(rk__doc_get(d, "data_offsets"), offsets, 2) != 2)
        return bad(ctx, d, "data_offsets must be two offsets");
    bytes = known->size;
    for (int i = 0; i < t->shape.ndim; i++)
        if (__builtin_mul_overflow(bytes, t->shape.dim[i], &bytes))
            return bad(ctx, d, "shape is too large");
    if (offsets[0] > offsets[1] || offsets[1] > data_size)
        return bad(ctx, d, "data_offsets lie outside the file");
    if (offsets[1] - offsets[0] != bytes)
        return bad(ctx, d, "data_offsets do not fit its shape and dtype");
    t->begin = offsets[0];
    t->bytes = bytes;
    t->name = strdup(d->key);
    return t->name ? RK_OK : rk_fail(ctx, RK_ENOMEM, "%s: out of memory", d->file);
}

static rk_status check_metadata(rk_ctx *ctx, const rk_doc *d)
{
    if (d->kind != RK_DOC_MAP)
        return rk__doc_fail(ctx, RK_EDATA, d, "__metadata__ must be an object");
    for (const rk_doc *c = d->child; c; c = c->next)
        if (c->kind != RK_DOC_STRING)
            return rk__doc_fail(ctx, RK_EDATA, c, "__metadata__: \"%.100s\" must be a string", c->key);
    return RK_OK;
}

static int by_place(const void *a, const void *b)
{
    const rk__st_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->bytes != y->bytes ? (x->bytes < y->bytes ? -1 : 1) : strcmp(x->name, y->name);
}

static rk_status check_cover(rk_ctx *ctx, const rk__safetensors *st, int64_t data_size)
{
    int64_t at = 0;
    for (int i = 0; i < st->n; at += st->t[i++].bytes)
        if (st->t[i].begin != at)
            return rk_fail(ctx, RK_EDATA,
                           "%s: offset %lld: tensor \"%.100s\" begins at %lld of the data: a gap or an "
                           "overlap",
                           st->path, (long long)(st->data + at), st->t[i].name, (long long)st->t[i].begin);
    if (at != data_size)
        return rk_fail(ctx, RK_EDATA, "%s: offset %lld: %lld bytes belong to no tensor", st->path,
                       (long long)(st->data + at), (long long)(data_size - at));
    return RK_OK;
}

static rk_status read_header(rk_ctx *ctx, rk__safetensors *st, int64_t data_size)
{
    const rk_doc *root = st->header;
    if (root->kind != RK_DOC_MAP)
        return rk__doc_fail(ctx, RK_EDATA, root, "the header must be an object");
    st->t = calloc((size_t)root->n + 1, sizeof *st->t);
    if (!st->t)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", st->path);
    for (const rk_doc *d = root->child; d; d = d->next) {
        if (!strcmp(d->key, "__metadata__")) {
            RK_TRY(check_metadata(ctx, d));
            continue;
        }
        rk__st_tensor *t = &st->t[st->n++];
        RK_TRY(read_tensor(ctx, d, data_size, t));
    }
    qsort(st->t, (size_t)st->n, sizeof *st->t, by_place);
    return check_cover(ctx, st, data_size);
}

/* The length of the header, checked against the file. */
static rk_status header_length(rk_ctx *ctx, const char *path, const uint8_t *p, size_t n, int64_t file_size,
                               int64_t *length)
{
    if (n < 9 || file_size < 9)
        return rk_fail(ctx, RK_EDATA, "%s: %lld bytes are too few for a safetensors file", path,
                       (long long)file_size);
    uint64_t len = load_u64le(p);
    if (len > RK__ST_HEADER_MAX || len > (uint64_t)file_size - 8)
        return rk_fail(ctx, RK_EDATA,
                       "%s: offset 0: a header of %llu bytes does not fit the file of %lld bytes", path,
                       (unsigned long long)len, (long long)file_size);
    if (p[8] != '{')
        return rk_fail(ctx, RK_EDATA, "%s: offset 8: the header must begin with {", path);
    *length = (int64_t)len;
    return RK_OK;
}

rk_status rk__st_parse(rk_ctx *ctx, const char *path, const uint8_t *p, size_t n, int64_t file_size,
                       rk__safetensors *out)
{
    int64_t length = 0;
    *out = (rk__safetensors){ .fd = -1 };
    RK_TRY(header_length(ctx, path, p, n, file_size, &length));
    if (n < (size_t)length + 8)
        return rk_fail(ctx, RK_EDATA, "%s: the file ends in its header", path);
    size_t end = 8 + (size_t)length;
    while (end > 8 && p[end - 1] == ' ') /* padding; no other bytes may follow the object */
        end--;
    if (p[end - 1] != '}')
        return rk_fail(ctx, RK_EDATA, "%s: offset %zu: the header must end with } and spaces", path, end - 1);
    out->path = strdup(path);
    out->data = 8 + length;
    rk_status st = out->path ? rk__json_parse(ctx, path, p + 8, end - 8, RK_EDATA, &out->header)
                             : rk_fail(ctx, RK_ENOMEM, "%s: out of memory", path);
    if (st == RK_OK)
        st = read_header(ctx, out, file_size - out->data);
    if (st != RK_OK)
        rk__st_close(out);
    return st;
}

static rk_status read_at(rk_ctx *ctx, const char *path, int fd, int64_t at, void *p, size_t n)
{
    uint8_t *b = p;
    while (n) {
        ssize_t got = pread(fd, b, n, at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return rk_fail(ctx, RK_ENOINPUT, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0)
            return rk_fail(ctx, RK_EDATA, "%s: offset %lld: the file became shorter while in use", path,
                           (long long)at);
        b += got;
        at += got;
        n -= (size_t)got;
    }
    return RK_OK;
}

rk_status rk__st_open(rk_ctx *ctx, const char *path, rk__safetensors *out)
{
    uint8_t head[9], *p = NULL;
    int64_t size, length = 0;
    int fd;
    *out = (rk__safetensors){ .fd = -1 };
    RK_TRY(rk__file_open(ctx, path, &fd, &size));
    size_t have = size < 9 ? (size_t)size : 9;
    rk_status st = read_at(ctx, path, fd, 0, head, have);
    if (st == RK_OK)
        st = header_length(ctx, path, head, have, size, &length);
    if (st == RK_OK && !(p = malloc((size_t)length + 8)))
        st = rk_fail(ctx, RK_ENOMEM, "%s: out of memory", path);
    if (st == RK_OK)
        st = read_at(ctx, path, fd, 0, p, (size_t)length + 8);
    if (st == RK_OK)
        st = rk__st_parse(ctx, path, p, (size_t)length + 8, size, out);
    free(p);
    if (st != RK_OK) {
        close(fd);
        return st;
    }
    out->fd = fd;
    return RK_OK;
}

const rk__st_tensor *rk__st_find(const rk__safetensors *st, const char *name)
{
    for (int i = 0; i < st->n; i++)
        if (!strcmp(st->t[i].name, name))
            return &st->t[i];
    return NULL;
}

const char *rk__st_metadata(const rk__safetensors *st, const char *key)
{
    const rk_doc *d = rk__doc_get(rk__doc_get(st->header, "__metadata__"), key);
    return d ? d->text : NULL;
}

bool rk__st_dtype(const rk__st_tensor *t, rk_dtype *out)
{
    int ours = find_dtype(t->dtype)->ours;
    if (ours >= 0)
        *out = (rk_dtype)ours;
    return ours >= 0;
}

rk_status rk__st_read(rk_ctx *ctx, const rk__safetensors *st, const rk__st_tensor *t, void *host,
                      size_t bytes)
{
    if (bytes != (size_t)t->bytes)
        return rk_fail(ctx, RK_ESHAPE, "%s: tensor \"%.100s\" has %lld bytes, not %zu", st->path, t->name,
                       (long long)t->bytes, bytes);
    return read_at(ctx, st->path, st->fd, st->data + t->begin, host, bytes);
}

void rk__st_close(rk__safetensors *st)
{
    for (int i = 0; i < st->n; i++)
        free(st->t[i].name);
    free(st->t);
    free(st->path);
    rk__doc_free(st->header);
    if (st->fd >= 0)
        close(st->fd);
    *st = (rk__safetensors){ .fd = -1 };
}
