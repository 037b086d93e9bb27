#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/ctx.h"

rk_status rk__file_open(rk_ctx *ctx, const char *path, int *fd, int64_t *size)
{
    struct stat s;
    /* a FIFO must not block us before we see what it is */
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return rk_fail(ctx, RK_ENOINPUT, "%s: %s", path, strerror(errno));
    if (fstat(*fd, &s) != 0 || !S_ISREG(s.st_mode)) {
        const char *what = S_ISDIR(s.st_mode) ? "a folder" : "a device, pipe or socket";
        close(*fd);
        *fd = -1;
        return rk_fail(ctx, RK_ENOINPUT, "%s: %s, wanted a file", path, what);
    }
    *size = s.st_size;
    return RK_OK;
}

bool rk__file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static ssize_t read_some(int fd, void *p, size_t n)
{
    ssize_t got;
    do
        got = read(fd, p, n);
    while (got < 0 && errno == EINTR);
    return got;
}

rk_status rk__file_read(rk_ctx *ctx, const char *path, size_t max_bytes, rk_status bad, uint8_t **out,
                        size_t *n)
{
    int fd;
    int64_t size;
    *out = NULL;
    *n = 0;
    RK_TRY(rk__file_open(ctx, path, &fd, &size));
    if ((uint64_t)size > max_bytes) {
        close(fd);
        return rk_fail(ctx, bad, "%s: %lld bytes, at most %zu are allowed", path, (long long)size, max_bytes);
    }
    uint8_t *p = malloc((size_t)size + 1);
    ssize_t got = 1;
    while (p && *n < (size_t)size && (got = read_some(fd, p + *n, (size_t)size - *n)) > 0)
        *n += (size_t)got;
    int err = errno;
    close(fd);
    if (!p)
        return rk_fail(ctx, RK_ENOMEM, "%s: out of memory for %lld bytes", path, (long long)size);
    if (got < 0) {
        free(p);
        return rk_fail(ctx, RK_ENOINPUT, "%s: %s", path, strerror(err));
    }
    p[*n] = '\0';
    *out = p;
    return RK_OK;
}

int rk__temp_file(rk_ctx *ctx)
{
    const char *dir = getenv("TMPDIR");
    char path[4096];
    dir = dir && *dir ? dir : "/tmp";
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    snprintf(path, sizeof path, "%s/rankine-XXXXXX", dir);
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    else
        rk_fail(ctx, RK_EIO, "%s: no temporary file can be made: %s (TMPDIR names another folder)", dir,
                strerror(errno));
    return fd;
}

rk_status rk__write_all(rk_ctx *ctx, int fd, const void *p, size_t n, const char *what)
{
    const uint8_t *b = p;
    while (n) {
        ssize_t got = write(fd, b, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return rk_fail(ctx, RK_EIO, "%s: cannot write: %s", what,
                           got < 0 ? strerror(errno) : "nothing written");
        b += got;
        n -= (size_t)got;
    }
    return RK_OK;
}
