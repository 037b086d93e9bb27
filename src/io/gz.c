#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libdeflate.h>
#include <zlib.h>

#include "core/ctx.h"
#include "io/file.h"

enum { GZ_BUFFER = 1 << 16, GZIP_FORMAT = 15 + 16 };

struct rk__gz {
    rk_ctx *ctx;
    int fd;
    int64_t size, taken; /* of the file; read so far */
    char *path;
    z_stream z;
    bool started, member_ended, done;
    uint8_t in[GZ_BUFFER];
};

rk_status rk__gz_open(rk_ctx *ctx, const char *path, rk__gz **out)
{
    rk__gz *z = calloc(1, sizeof *z);
    *out = NULL;
    if (!z || !(z->path = strdup(path))) {
        free(z);
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory", path);
    }
    z->ctx = ctx;
    rk_status st = rk__file_open(ctx, path, &z->fd, &z->size);
    if (st == RK_OK && inflateInit2(&z->z, GZIP_FORMAT) != Z_OK)
        st = rk_fail(ctx, RK_ENOMEM, "%s: out of memory", path);
    else
        z->started = st == RK_OK;
    if (st != RK_OK) {
        rk__gz_close(z);
        return st;
    }
    *out = z;
    return RK_OK;
}

static rk_status bad(rk__gz *z, const char *why)
{
    return rk_fail(z->ctx, RK_EDATA, "%s: offset %lld: %s", z->path, (long long)(z->taken - z->z.avail_in),
                   why);
}

static rk_status refill(rk__gz *z)
{
    ssize_t got;
    do
        got = read(z->fd, z->in, sizeof z->in);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return rk_fail(z->ctx, RK_ENOINPUT, "%s: %s", z->path, strerror(errno));
    z->z.next_in = z->in;
    z->z.avail_in = (uInt)got;
    z->taken += got;
    return RK_OK;
}

rk_status rk__gz_read(rk__gz *z, void *p, size_t n, size_t *got)
{
    *got = 0;
    while (*got < n && !z->done) {
        if (!z->z.avail_in)
            RK_TRY(refill(z));
        if (!z->z.avail_in) {
            if (!z->member_ended)
                return bad(z, "the compressed data ends too early");
            z->done = true;
            break;
        }
        if (z->member_ended) {
            inflateReset(&z->z);
            z->member_ended = false;
        }
        size_t want = n - *got < (1u << 30) ? n - *got : 1u << 30;
        z->z.next_out = (uint8_t *)p + *got;
        z->z.avail_out = (uInt)want;
        int rc = inflate(&z->z, Z_NO_FLUSH);
        *got += want - z->z.avail_out;
        if (rc == Z_STREAM_END)
            z->member_ended = true;
        else if (rc != Z_OK)
            return rc == Z_MEM_ERROR ? rk_fail(z->ctx, RK_ENOMEM, "%s: out of memory", z->path)
                                     : bad(z, z->z.msg ? z->z.msg : "not gzip data");
    }
    return RK_OK;
}

int64_t rk__gz_file_size(const rk__gz *z)
{
    return z->size;
}

void rk__gz_close(rk__gz *z)
{
    if (!z)
        return;
    if (z->started)
        inflateEnd(&z->z);
    if (z->fd >= 0)
        close(z->fd);
    free(z->path);
    free(z);
}

bool rk__gz_whole(const uint8_t *in, size_t n, uint8_t *out, size_t size)
{
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    bool good = d && n;
    while (good && n) {
        size_t taken = 0, got = 0;
        good = libdeflate_gzip_decompress_ex(d, in, n, out, size, &taken, &got) == LIBDEFLATE_SUCCESS;
        in += taken;
        n -= taken;
        out += got;
        size -= got;
    }
    libdeflate_free_decompressor(d);
    return good && !size;
}
