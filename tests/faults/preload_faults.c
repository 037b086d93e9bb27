/* LD_PRELOAD: hits the n-th state-changing call of a process under one folder.
 *
 * rk_fault_arm(folder, at, kind) arms it and sets the count to 0; rk_fault_also(at, kind) adds a second
 * fault; rk_fault_count() tells how many calls it has seen. Paths are found through /proc/self/fd, so the
 * calls are seen as the kernel sees them, whoever makes them. Raw system calls and static programs are not
 * seen. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "faults.h"

static _Atomic int seen, target, kind, target2, kind2;
static char folder[PATH_MAX];

/* Found when the library is loaded: dlsym inside a signal or a fork is trouble. */
#define REAL(type, name, ...) static type (*real_##name)(__VA_ARGS__)
REAL(ssize_t, write, int, const void *, size_t);
REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
REAL(ssize_t, pwritev, int, const struct iovec *, int, off_t);
REAL(ssize_t, writev, int, const struct iovec *, int);
REAL(int, fsync, int);
REAL(int, fdatasync, int);
REAL(int, close, int);
REAL(int, openat, int, const char *, int, ...);
REAL(int, open, const char *, int, ...);
REAL(int, mkdirat, int, const char *, mode_t);
REAL(int, renameat2, int, const char *, int, const char *, unsigned);
REAL(int, renameat, int, const char *, int, const char *);
REAL(int, unlinkat, int, const char *, int);
REAL(int, ftruncate, int, off_t);

__attribute__((constructor)) static void find_real(void)
{
#define FIND(name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)
    FIND(write);
    FIND(pwrite);
    FIND(pwritev);
    FIND(writev);
    FIND(fsync);
    FIND(fdatasync);
    FIND(close);
    FIND(openat);
    FIND(open);
    FIND(mkdirat);
    FIND(renameat2);
    FIND(renameat);
    FIND(unlinkat);
    FIND(ftruncate);
    const char *dir = getenv("RK_FAULT_DIR"), *at = getenv("RK_FAULT_AT"), *what = getenv("RK_FAULT_KIND");
    if (dir && at && what)
        rk_fault_arm(dir, (int)strtol(at, NULL, 10), (int)strtol(what, NULL, 10));
}

__attribute__((visibility("default"))) void rk_fault_arm(const char *dir, int at, int what)
{
    snprintf(folder, sizeof folder, "%s", dir ? dir : "");
    atomic_store(&kind, what);
    atomic_store(&target, at);
    atomic_store(&target2, 0);
    atomic_store(&seen, 0);
}

__attribute__((visibility("default"))) void rk_fault_also(int at, int what)
{
    atomic_store(&kind2, what);
    atomic_store(&target2, at);
}

__attribute__((visibility("default"))) int rk_fault_count(void)
{
    return atomic_load(&seen);
}

static int under(const char *path)
{
    size_t n = strlen(folder);
    return n && !strncmp(path, folder, n) && (path[n] == '/' || path[n] == '\0');
}

static int mine(int fd)
{
    char link[64], path[PATH_MAX];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0)
        return 0;
    path[n] = '\0';
    return under(path);
}

static int mine_at(int dir, const char *name)
{
    if (!folder[0])
        return 0;
    if (name[0] == '/')
        return under(name);
    return dir != AT_FDCWD && mine(dir);
}

/* The kind of fault for this call, or FAULT_NONE. Sticky: it and every later one. */
static int hit(void)
{
    int n = atomic_fetch_add(&seen, 1) + 1, at = atomic_load(&target), k = atomic_load(&kind);
    if (n == atomic_load(&target2))
        return atomic_load(&kind2);
    if (at <= 0)
        return FAULT_NONE;
    if (k == FAULT_ENOSPC_STICKY || k == FAULT_EIO_STICKY)
        return n >= at ? k : FAULT_NONE;
    return n == at ? k : FAULT_NONE;
}

/* 1: the call fails with errno set. Kills right here, before anything is done. */
static int fails(int k)
{
    switch (k) {
    case FAULT_KILL:
        kill(getpid(), SIGKILL);
        pause();
        return 1;
    case FAULT_ENOSPC:
    case FAULT_ENOSPC_STICKY:
        errno = ENOSPC;
        return 1;
    case FAULT_EIO:
    case FAULT_EIO_STICKY:
        errno = EIO;
        return 1;
    case FAULT_EINTR:
        errno = EINTR;
        return 1;
    default:
        return 0;
    }
}

static void die_after(int k)
{
    if (k == FAULT_TORN || k == FAULT_KILL_AFTER) {
        kill(getpid(), SIGKILL);
        pause();
    }
}

/* Bytes that are really written: half of them when the write is short or torn. */
static size_t part(int k, size_t n)
{
    return (k == FAULT_SHORT || k == FAULT_TORN) && n > 1 ? n / 2 : n;
}

ssize_t write(int fd, const void *p, size_t n)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    ssize_t r = real_write(fd, p, part(k, n));
    die_after(k);
    return r;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    ssize_t r = real_pwrite(fd, p, part(k, n), at);
    die_after(k);
    return r;
}

ssize_t pwrite64(int fd, const void *p, size_t n, off_t at)
{
    return pwrite(fd, p, n, at);
}

ssize_t writev(int fd, const struct iovec *v, int n)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    ssize_t r = real_writev(fd, v, (k == FAULT_SHORT || k == FAULT_TORN) && n > 1 ? n / 2 : n);
    die_after(k);
    return r;
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    ssize_t r = real_pwritev(fd, v, (k == FAULT_SHORT || k == FAULT_TORN) && n > 1 ? n / 2 : n, at);
    die_after(k);
    return r;
}

/* A failed fsync did not reach the disk, whatever the page cache says. */
int fsync(int fd)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_fsync(fd);
    die_after(k);
    return r;
}

int fdatasync(int fd)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_fdatasync(fd);
    die_after(k);
    return r;
}

/* The descriptor is gone even when close fails. */
int close(int fd)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (k == FAULT_KILL)
        fails(k);
    int r = real_close(fd);
    die_after(k);
    return fails(k) ? -1 : r;
}

static int changes(int flags)
{
    return (flags & O_ACCMODE) != O_RDONLY || (flags & O_CREAT);
}

int openat(int dir, const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    int k = changes(flags) && mine_at(dir, name) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_openat(dir, name, flags, mode);
    die_after(k);
    return r;
}

int openat64(int dir, const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    return openat(dir, name, flags, mode);
}

int open(const char *name, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    mode_t mode = flags & O_CREAT ? va_arg(ap, mode_t) : 0;
    va_end(ap);
    int k = changes(flags) && mine_at(AT_FDCWD, name) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_open(name, flags, mode);
    die_after(k);
    return r;
}

int mkdirat(int dir, const char *name, mode_t mode)
{
    int k = mine_at(dir, name) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_mkdirat(dir, name, mode);
    die_after(k);
    return r;
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    int k = mine_at(from_dir, from) || mine_at(to_dir, to) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_renameat2(from_dir, from, to_dir, to, flags);
    die_after(k);
    return r;
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    int k = mine_at(from_dir, from) || mine_at(to_dir, to) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_renameat(from_dir, from, to_dir, to);
    die_after(k);
    return r;
}

int unlinkat(int dir, const char *name, int flags)
{
    int k = mine_at(dir, name) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_unlinkat(dir, name, flags);
    die_after(k);
    return r;
}

int ftruncate(int fd, off_t n)
{
    int k = mine(fd) ? hit() : FAULT_NONE;
    if (fails(k))
        return -1;
    int r = real_ftruncate(fd, n);
    die_after(k);
    return r;
}
