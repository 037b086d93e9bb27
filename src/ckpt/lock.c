/* Who may write into a run folder.
 *
 * LOCK is held by flock and counts its owners (the epoch). flock does not reach other hosts on every network
 * file system, so the owner also keeps lease.json, whose count of beats moves every RK__BEAT_S seconds: a
 * lease of another host that still moves belongs to somebody alive. No clocks are compared. */
#include "ckpt/run.h"

#include "core/ctx.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define LEASE "lease.json"
enum { LEASE_BYTES = 512, LOCK_BYTES = 32, HOST_BYTES = 128 };

typedef struct lease {
    char host[HOST_BYTES];
    long pid;
    uint64_t epoch, beats;
} lease;

static void host_name(char *host)
{
    if (gethostname(host, HOST_BYTES))
        snprintf(host, HOST_BYTES, "unknown");
    host[HOST_BYTES - 1] = '\0';
    for (char *p = host; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ')
            *p = '_';
}

static bool number_after(const char *text, const char *key, uint64_t *v)
{
    const char *p = strstr(text, key);
    char *end;
    if (!p)
        return false;
    *v = strtoull(p + strlen(key), &end, 10);
    return end != p + strlen(key);
}

/* False if there is none, or no whole one. */
static bool read_lease(int run_dir, lease *l)
{
    unsigned char *p;
    size_t n;
    rk__fault f = { 0 };
    if (rk__read_small(run_dir, LEASE, LEASE_BYTES, &p, &n, &f))
        return false;
    const char *text = (const char *)p, *host = strstr(text, "\"host\": \""), *end = NULL;
    uint64_t pid = 0;
    bool ok = host && (end = strchr(host + 9, '"')) && end - host - 9 < HOST_BYTES &&
              number_after(text, "\"pid\": ", &pid) && number_after(text, "\"epoch\": ", &l->epoch) &&
              number_after(text, "\"heartbeat\": ", &l->beats);
    if (ok) {
        snprintf(l->host, sizeof l->host, "%.*s", (int)(end - host - 9), host + 9);
        l->pid = (long)pid;
    }
    free(p);
    return ok;
}

/* Always the same length, so that a beat is one write in place. */
static int lease_text(const rk__lock *l, char *buf)
{
    char host[HOST_BYTES];
    host_name(host);
    int n =
        snprintf(buf, LEASE_BYTES,
                 "{\"host\": \"%s\", \"pid\": %ld, \"epoch\": %" PRIu64 ", \"heartbeat\": %012" PRIu64 "}\n",
                 host, (long)getpid(), l->epoch, l->beats);
    return n < LEASE_BYTES ? n : LEASE_BYTES - 1;
}

void rk__lock_beat(rk__lock *l)
{
    char buf[LEASE_BYTES];
    if (l->lease_fd < 0)
        return;
    l->beats++;
    int n = lease_text(l, buf);
    if (pwrite(l->lease_fd, buf, (size_t)n, 0) != n) {
        /* a full disk must not end the training that it keeps from saving; the next beat tries again */
    }
}

static rk_status held(const lease *l, bool known, const char *path, rk__fault *f)
{
    if (!known)
        return rk__fault_set(f, RK_ELOCKED, "run folder %s is locked by another process", path);
    return rk__fault_set(f, RK_ELOCKED,
                         "run folder %s belongs to host %s, process %ld (owner number %" PRIu64 ")", path,
                         l->host, l->pid, l->epoch);
}

/* Watches a lease of another host for longer than a beat. */
static bool still_moves(int run_dir, const lease *seen)
{
    for (int i = 0; i < 10 * RK__BEAT_S + 15; i++) {
        lease now = { .epoch = 0 };
        nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
        if (!read_lease(run_dir, &now))
            return false; /* given back in the meantime */
        if (now.beats != seen->beats || now.epoch != seen->epoch)
            return true;
    }
    return false;
}

static bool holder_lives(int run_dir, const lease *l, bool flocked)
{
    char host[HOST_BYTES];
    host_name(host);
    if (!strcmp(host, l->host))
        return !flocked && l->pid != getpid() && (!kill((pid_t)l->pid, 0) || errno == EPERM);
    return still_moves(run_dir, l);
}

static rk_status write_epoch(rk__lock *l, const rk__io_ops *io, rk__fault *f)
{
    char buf[LOCK_BYTES];
    int n = snprintf(buf, sizeof buf, "epoch %020" PRIu64 "\n", l->epoch);
    if (lseek(l->fd, 0, SEEK_SET) < 0)
        return rk__fault_errno(f, "seek", "LOCK");
    RK_TRY(rk__io_write_all(io, l->fd, buf, (size_t)n, "LOCK", f));
    return rk__io_sync(io, l->fd, "LOCK", f);
}

static bool read_epoch(int fd, uint64_t *epoch)
{
    char buf[LOCK_BYTES + 1] = "";
    ssize_t n = pread(fd, buf, LOCK_BYTES, 0);
    return n > 0 && number_after(buf, "epoch ", epoch);
}

static rk_status write_lease(rk__lock *l, const rk__io_ops *io, int run_dir, rk__fault *f)
{
    char buf[LEASE_BYTES];
    l->lease_fd = rk__io_open(io, run_dir, LEASE, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW, 0600, f);
    if (l->lease_fd < 0)
        return f->st;
    return rk__io_write_all(io, l->lease_fd, buf, (size_t)lease_text(l, buf), LEASE, f);
}

static rk_status take(rk__lock *l, const rk__io_ops *io, int run_dir, const char *path, rk__fault *f)
{
    lease seen = { .epoch = 0 };
    int r;
    do
        r = flock(l->fd, LOCK_EX | LOCK_NB);
    while (r && errno == EINTR);
    bool flocked = r == 0, refused = r && errno == EWOULDBLOCK;
    bool known = read_lease(run_dir, &seen);
    if (refused || (known && holder_lives(run_dir, &seen, flocked)))
        return held(&seen, known, path, f);
    uint64_t epoch = 0;
    read_epoch(l->fd, &epoch); /* an empty or torn LOCK: the lease has it too */
    l->epoch = (epoch > seen.epoch ? epoch : seen.epoch) + 1;
    rk__fault first = { 0 };
    if (write_epoch(l, io, &first)) /* once more, written anew: a signal may have cut the fsync short */
        RK_TRY(write_epoch(l, io, f));
    return write_lease(l, io, run_dir, f);
}

rk_status rk__lock_take(rk__lock *l, const rk__io_ops *io, int run_dir, const char *path, rk__fault *f)
{
    *l = (rk__lock){ .fd = -1, .lease_fd = -1 };
    l->fd = rk__io_open(io, run_dir, "LOCK", O_RDWR | O_CREAT | O_NOFOLLOW, 0600, f);
    if (l->fd < 0)
        return f->st;
    rk_status st = take(l, io, run_dir, path, f);
    if (st) {
        if (l->lease_fd >= 0)
            close(l->lease_fd);
        close(l->fd);
        l->fd = l->lease_fd = -1;
    }
    return st;
}

/* By name: whoever took over a folder whose flock does not reach us has counted the epoch up. */
rk_status rk__lock_check(const rk__lock *l, int run_dir, rk__fault *f)
{
    uint64_t epoch = 0;
    int fd = openat(run_dir, "LOCK", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool ok = fd >= 0 && read_epoch(fd, &epoch);
    if (fd >= 0)
        close(fd);
    if (ok && epoch == l->epoch)
        return RK_OK;
    lease now = { .epoch = 0 };
    bool known = read_lease(run_dir, &now);
    return rk__fault_set(f, RK_ELOCKED,
                         "the run folder was taken over by host %s, process %ld: nothing is written",
                         known ? now.host : "?", now.pid);
}

void rk__lock_drop(rk__lock *l, const rk__io_ops *io, int run_dir)
{
    rk__fault f = { 0 };
    if (l->fd < 0)
        return;
    if (!rk__lock_check(l, run_dir, &f))
        io->unlink(io->user, run_dir, LEASE, 0);
    close(l->lease_fd);
    close(l->fd);
    l->fd = l->lease_fd = -1;
}
