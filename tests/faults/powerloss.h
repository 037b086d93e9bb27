/* Crash states of a save, without a crash: the save's operations are recorded through its table of
 * operations, and every state that a power loss could leave is built in a folder of its own and given to the
 * loader.
 *
 * What is durable: a file's bytes after fsync of that file; a name after fsync of its folder ("strict"), or
 * after any later fsync ("ext4": a journal commit carries all earlier names). What is not durable is dropped,
 * kept, or kept by chance: names one by one, bytes by pages of 4 KiB, zeros where the size grew without them.
 */
#ifndef POWERLOSS_H
#define POWERLOSS_H

#include "../ckpt/ckpt_fixture.h"

#include <errno.h>

enum { OPS_MAX = 256, FILES_MAX = 32, PAGE = 4096 };

typedef enum op_kind { OP_CREATE, OP_MKDIR, OP_WRITE, OP_SYNC, OP_RENAME, OP_EXCHANGE, OP_UNLINK } op_kind;

/* Paths are relative to snap/; "." is snap/ itself. */
typedef struct op {
    op_kind kind;
    char path[128], to[128];
    unsigned char *data; /* OP_WRITE */
    size_t at, n;
} op;

/* Bugs that are planted to see whether they are found. */
typedef enum planted {
    PLANTED_NONE,
    PLANTED_NO_FILE_SYNC,
    PLANTED_NO_DIR_SYNC,
    PLANTED_EARLY_RENAME
} planted;

typedef struct recorder {
    op op[OPS_MAX];
    int n;
    int snap_fd; /* for paths */
    char snap[400];
    size_t pos[1024]; /* of descriptors */
} recorder;

/* "step-.../r0000.h5" of a descriptor or of a name under one; false: outside of snap/. */
static inline bool relative(const recorder *r, int dir, const char *name, char *out, size_t size)
{
    char link[64], path[600];
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t k = readlink(link, path, sizeof path - 1);
    if (k < 0)
        return false;
    path[k] = '\0';
    size_t n = strlen(r->snap);
    if (strncmp(path, r->snap, n) || (path[n] && path[n] != '/'))
        return false;
    const char *below = path[n] ? path + n + 1 : "";
    if (!name || !strcmp(name, "."))
        snprintf(out, size, "%s", *below ? below : ".");
    else
        snprintf(out, size, "%s%s%s", below, *below ? "/" : "", name);
    return true;
}

static inline op *record(recorder *r, op_kind kind, int dir, const char *name)
{
    char path[128];
    if (!relative(r, dir, name, path, sizeof path))
        return NULL;
    if (r->n == OPS_MAX)
        abort();
    op *o = &r->op[r->n++];
    *o = (op){ .kind = kind };
    snprintf(o->path, sizeof o->path, "%s", path);
    return o;
}

static inline int rec_open(void *user, int dir, const char *name, int flags, mode_t mode)
{
    recorder *r = user;
    int fd = openat(dir, name, flags, mode);
    if (fd >= 0 && fd < 1024)
        r->pos[fd] = 0;
    if (fd >= 0 && (flags & O_CREAT))
        record(r, OP_CREATE, dir, name);
    return fd;
}

static inline ssize_t rec_write(void *user, int fd, const void *p, size_t n)
{
    recorder *r = user;
    ssize_t k = write(fd, p, n);
    op *o = k > 0 ? record(r, OP_WRITE, fd, NULL) : NULL;
    if (o) {
        o->data = malloc((size_t)k);
        memcpy(o->data, p, (size_t)k);
        o->at = r->pos[fd];
        o->n = (size_t)k;
        r->pos[fd] += (size_t)k;
    }
    return k;
}

static inline int rec_sync(void *user, int fd)
{
    record(user, OP_SYNC, fd, NULL);
    return fsync(fd);
}

static inline int rec_make_dir(void *user, int dir, const char *name, mode_t mode)
{
    int e = mkdirat(dir, name, mode);
    if (!e)
        record(user, OP_MKDIR, dir, name);
    return e;
}

static inline int rec_rename(void *user, int from_dir, const char *from, int to_dir, const char *to,
                             unsigned flags)
{
    int e = renameat2(from_dir, from, to_dir, to, flags);
    op *o = e ? NULL : record(user, flags & RENAME_EXCHANGE ? OP_EXCHANGE : OP_RENAME, from_dir, from);
    if (o && !relative(user, to_dir, to, o->to, sizeof o->to))
        abort();
    return e;
}

static inline int rec_unlink(void *user, int dir, const char *name, int flags)
{
    int e = unlinkat(dir, name, flags);
    if (!e)
        record(user, OP_UNLINK, dir, name);
    return e;
}

static inline rk__io_ops recording(recorder *r)
{
    rk__io_ops io = rk__io_system;
    io.user = r;
    io.open_at = rec_open;
    io.write = rec_write;
    io.sync = rec_sync;
    io.make_dir = rec_make_dir;
    io.rename = rec_rename;
    io.unlink = rec_unlink;
    io.push = NULL;
    return io;
}

/* The same log as a program with this bug would have made. */
static inline void plant(recorder *r, planted bug)
{
    int n = 0, rename_at = -1, first_sync = -1;
    for (int i = 0; i < r->n; i++) {
        bool file = strstr(r->op[i].path, ".h5") || strstr(r->op[i].path, RK__MANIFEST);
        if (r->op[i].kind == OP_SYNC &&
            ((bug == PLANTED_NO_FILE_SYNC && file) || (bug == PLANTED_NO_DIR_SYNC && !file)))
            continue;
        r->op[n++] = r->op[i];
    }
    r->n = n;
    for (int i = 0; i < n; i++) {
        if (r->op[i].kind == OP_RENAME && rename_at < 0)
            rename_at = i;
        if (r->op[i].kind == OP_SYNC && first_sync < 0)
            first_sync = i;
    }
    if (bug != PLANTED_EARLY_RENAME)
        return;
    op moved = r->op[rename_at]; /* before the files are synced; what follows uses the new name */
    memmove(&r->op[first_sync + 1], &r->op[first_sync], (size_t)(rename_at - first_sync) * sizeof moved);
    r->op[first_sync] = moved;
    size_t old = strlen(moved.path);
    for (int i = first_sync + 1; i <= rename_at; i++)
        if (!strncmp(r->op[i].path, moved.path, old)) {
            char rest[128];
            snprintf(rest, sizeof rest, "%.60s%.60s", moved.to, r->op[i].path + old);
            memcpy(r->op[i].path, rest, sizeof rest);
        }
}

/* ---- building states ---- */

typedef enum policy { DROP, KEEP, CHANCE } policy;

typedef struct crash {
    const recorder *r;
    int prefix; /* operations that were made */
    policy policy;
    bool ext4;
    uint64_t seed;
    char dir[400];
} crash;

static inline bool chance(crash *c)
{
    if (c->policy != CHANCE)
        return c->policy == KEEP;
    c->seed ^= c->seed << 13, c->seed ^= c->seed >> 7, c->seed ^= c->seed << 17;
    return c->seed >> 40 & 1;
}

static inline void parent_of(const char *path, char *out, size_t n)
{
    snprintf(out, n, "%s", path);
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = '\0';
    else
        snprintf(out, n, ".");
}

/* Under which path an object known as `path` at operation i is known at operation k. */
static inline void follow(const recorder *r, int i, int k, const char *path, char *out)
{
    snprintf(out, 128, "%s", path);
    for (; i < k; i++) {
        size_t n = strlen(r->op[i].path);
        if (r->op[i].kind == OP_RENAME && !strncmp(out, r->op[i].path, n) && (out[n] == '/' || !out[n])) {
            char moved[128];
            snprintf(moved, sizeof moved, "%.60s%.60s", r->op[i].to, out + n);
            memcpy(out, moved, sizeof moved);
        }
    }
}

static inline bool synced(const crash *c, int i)
{
    const op *o = &c->r->op[i];
    char want[128], parent[128];
    for (int k = i + 1; k < c->prefix; k++) {
        if (c->r->op[k].kind != OP_SYNC)
            continue;
        if (c->ext4 && o->kind != OP_WRITE)
            return true;
        follow(c->r, i + 1, k, o->kind == OP_RENAME ? o->to : o->path, want);
        parent_of(want, parent, sizeof parent);
        if (!strcmp(c->r->op[k].path, o->kind == OP_WRITE ? want : parent))
            return true;
    }
    return false;
}

static inline void put_bytes(crash *c, const char *path, const op *o, bool durable)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0)
        return; /* its name is lost, and so are they */
    for (size_t at = 0; at < o->n; at += PAGE) {
        size_t n = o->n - at < PAGE ? o->n - at : PAGE;
        if ((durable || chance(c)) && pwrite(fd, o->data + at, n, (off_t)(o->at + at)) != (ssize_t)n)
            abort();
    }
    close(fd);
}

/* Applies what survived, in order; an operation whose folder did not survive does not happen. */
static inline void build_state(crash *c)
{
    for (int i = 0; i < c->prefix; i++) {
        const op *o = &c->r->op[i];
        char a[600], b[600];
        bool durable = synced(c, i);
        snprintf(a, sizeof a, "%s/%s", c->dir, o->path);
        snprintf(b, sizeof b, "%s/%s", c->dir, o->to);
        if (o->kind == OP_WRITE)
            put_bytes(c, a, o, durable);
        else if (o->kind == OP_SYNC || !(durable || chance(c)))
            continue;
        else if (o->kind == OP_CREATE)
            close(open(a, O_WRONLY | O_CREAT, 0600));
        else if (o->kind == OP_MKDIR)
            mkdir(a, 0700);
        else if (o->kind == OP_UNLINK)
            remove(a);
        else
            renameat2(AT_FDCWD, a, AT_FDCWD, b, o->kind == OP_EXCHANGE ? RENAME_EXCHANGE : RENAME_NOREPLACE);
    }
}

/* ---- judging ---- */

typedef struct verdict {
    int states, lost, bad, forgotten;
} verdict;

/* saved: how many operations were made when "saved" was said. */
static inline void judge_state(fixture *x, crash *c, int saved, verdict *v)
{
    lines l = { .n = 0 };
    v->states++;
    set_version(x, 99);
    int64_t step = load_step(x, -1, add_line, &l);
    v->lost += step < 1 || !is_version(x, (int)step);
    v->bad += l.n > 0;
    v->forgotten += c->prefix >= saved && step != 2;
    rk_error_clear(x->ctx);
}

#endif
