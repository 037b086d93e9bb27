#include "ckpt/io_ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static int sys_open(void *user, int dir, const char *name, int flags, mode_t mode)
{
    (void)user;
    return openat(dir, name, flags, mode);
}

static ssize_t sys_write(void *user, int fd, const void *p, size_t n)
{
    (void)user;
    return write(fd, p, n);
}

static int sys_sync(void *user, int fd)
{
    (void)user;
    return fsync(fd);
}

static int sys_close(void *user, int fd)
{
    (void)user;
    return close(fd);
}

static int sys_make_dir(void *user, int dir, const char *name, mode_t mode)
{
    (void)user;
    return mkdirat(dir, name, mode);
}

static int sys_rename(void *user, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    (void)user;
    return renameat2(from_dir, from, to_dir, to, flags);
}

static int sys_unlink(void *user, int dir, const char *name, int flags)
{
    (void)user;
    return unlinkat(dir, name, flags);
}

static int sys_free_bytes(void *user, int fd, uint64_t *bytes)
{
    (void)user;
    struct statvfs v;
    if (fstatvfs(fd, &v))
        return -1;
    *bytes = (uint64_t)v.f_bavail * v.f_frsize;
    return 0;
}

static void sys_push(void *user, int fd, off_t at, off_t n)
{
    (void)user;
    sync_file_range(fd, at, n, SYNC_FILE_RANGE_WRITE); /* promises nothing: fsync does */
}

const rk__io_ops rk__io_system = {
    .open_at = sys_open,
    .write = sys_write,
    .sync = sys_sync,
    .close = sys_close,
    .make_dir = sys_make_dir,
    .rename = sys_rename,
    .unlink = sys_unlink,
    .free_bytes = sys_free_bytes,
    .push = sys_push,
};

rk_status rk__fault_set(rk__fault *f, rk_status st, const char *fmt, ...)
{
    if (f->st != RK_OK)
        return f->st;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->msg, sizeof f->msg, fmt, ap);
    va_end(ap);
    return f->st = st;
}

rk_status rk__fault_errno(rk__fault *f, const char *what, const char *name)
{
    char buf[128];
    int e = errno;
    return rk__fault_set(f, RK_EIO, "%s %s: %s", what, name, strerror_r(e, buf, sizeof buf));
}

int rk__io_open(const rk__io_ops *io, int dir, const char *name, int flags, mode_t mode, rk__fault *f)
{
    int fd;
    do
        fd = io->open_at(io->user, dir, name, flags | O_CLOEXEC, mode);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        rk__fault_errno(f, "open", name);
    return fd;
}

int rk__io_make_dir(const rk__io_ops *io, int dir, const char *name, mode_t mode)
{
    int r;
    do
        r = io->make_dir(io->user, dir, name, mode);
    while (r && errno == EINTR);
    return r;
}

rk_status rk__io_write_all(const rk__io_ops *io, int fd, const void *p, size_t n, const char *name,
                           rk__fault *f)
{
    const char *at = p;
    while (n) {
        ssize_t k = io->write(io->user, fd, at, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k == 0)
            errno = EIO; /* nothing written and no reason given: would loop for ever */
        if (k <= 0)
            return rk__fault_errno(f, "write", name);
        at += k;
        n -= (size_t)k;
    }
    return RK_OK;
}

rk_status rk__io_sync(const rk__io_ops *io, int fd, const char *name, rk__fault *f)
{
    return io->sync(io->user, fd) ? rk__fault_errno(f, "fsync", name) : RK_OK;
}

rk_status rk__io_close(const rk__io_ops *io, int fd, const char *name, rk__fault *f)
{
    return io->close(io->user, fd) ? rk__fault_errno(f, "close", name) : RK_OK;
}

rk_status rk__io_sync_dir(const rk__io_ops *io, int dir, const char *name, rk__fault *f)
{
    int fd = rk__io_open(io, dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, f);
    if (fd < 0)
        return f->st;
    rk_status st = rk__io_sync(io, fd, name, f);
    rk_status closed = rk__io_close(io, fd, name, f);
    return st ? st : closed;
}

int rk__io_rename_new(const rk__io_ops *io, int dir, const char *from, const char *to)
{
    int r = io->rename(io->user, dir, from, dir, to, RENAME_NOREPLACE);
    if (r && (errno == EINVAL || errno == ENOSYS)) { /* NFS and others */
        struct stat s;
        if (!fstatat(dir, to, &s, AT_SYMLINK_NOFOLLOW)) {
            errno = EEXIST;
            return -1;
        }
        r = io->rename(io->user, dir, from, dir, to, 0);
    }
    return r;
}

void rk__io_remove_tree(const rk__io_ops *io, int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        struct stat s;
        if (!fstatat(fd, e->d_name, &s, AT_SYMLINK_NOFOLLOW) && S_ISDIR(s.st_mode))
            rk__io_remove_tree(io, fd, e->d_name);
        else
            io->unlink(io->user, fd, e->d_name, 0);
    }
    closedir(d);
    io->unlink(io->user, dir, name, AT_REMOVEDIR);
}

static rk_status read_fd(int fd, const char *name, unsigned char *p, size_t n, rk__fault *f)
{
    for (size_t at = 0; at < n;) {
        ssize_t k = pread(fd, p + at, n - at, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return rk__fault_errno(f, "read", name);
        if (k == 0)
            return rk__fault_set(f, RK_EDATA, "%s: ends at byte %zu of %zu", name, at, n);
        at += (size_t)k;
    }
    return RK_OK;
}

rk_status rk__read_small(int dir, const char *name, size_t max, unsigned char **p, size_t *n, rk__fault *f)
{
    *p = NULL;
    *n = 0;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return rk__fault_errno(f, "open", name);
    struct stat s;
    rk_status st = RK_OK;
    if (fstat(fd, &s))
        st = rk__fault_errno(f, "stat", name);
    else if (!S_ISREG(s.st_mode))
        st = rk__fault_set(f, RK_EDATA, "%s: not a plain file", name);
    else if (s.st_size < 0 || (uint64_t)s.st_size > max)
        st = rk__fault_set(f, RK_EDATA, "%s: %lld bytes, at most %zu are read", name, (long long)s.st_size,
                           max);
    else if (!(*p = malloc((size_t)s.st_size + 1)))
        st = rk__fault_set(f, RK_ENOMEM, "%s: no memory for %lld bytes", name, (long long)s.st_size);
    else
        st = read_fd(fd, name, *p, (size_t)s.st_size, f);
    close(fd);
    if (st) {
        free(*p);
        *p = NULL;
        return st;
    }
    (*p)[s.st_size] = '\0';
    *n = (size_t)s.st_size;
    return RK_OK;
}
