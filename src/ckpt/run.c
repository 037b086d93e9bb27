#include "ckpt/snapshot.h"

#include "ckpt/run.h"
#include "core/ctx.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- what is in the folder ---- */

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Calls fn for every entry of a folder; fn false: out of memory. */
static rk_status each_entry(int dir, bool (*fn)(void *arg, const char *name), void *arg, rk__fault *f)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        rk__fault_errno(f, "list", "snap");
        if (fd >= 0)
            close(fd);
        return f->st;
    }
    bool ok = true;
    for (struct dirent *e; ok && (e = readdir(d));)
        ok = fn(arg, e->d_name);
    closedir(d);
    return ok ? RK_OK : rk__fault_set(f, RK_ENOMEM, "no memory for the list of snapshots");
}

typedef struct step_list {
    int64_t *v;
    int n;
} step_list;

static bool add_step(void *arg, const char *name)
{
    step_list *l = arg;
    int64_t step = rk__snap_step(name);
    if (step < 0)
        return true;
    int64_t *v = realloc(l->v, (size_t)(l->n + 1) * sizeof *v);
    if (!v)
        return false;
    l->v = v;
    l->v[l->n++] = step;
    return true;
}

rk_status rk__steps_in(int snap_dir, int64_t **steps, int *n, rk__fault *f)
{
    step_list l = { NULL, 0 };
    rk_status st = snap_dir < 0 ? RK_OK : each_entry(snap_dir, add_step, &l, f);
    if (l.n > 1)
        qsort(l.v, (size_t)l.n, sizeof *l.v, ascending);
    if (st) {
        free(l.v);
        l = (step_list){ NULL, 0 };
    }
    *steps = l.v;
    *n = l.n;
    return st;
}

rk_status rk__run_list(rk_run *run, int64_t **steps, int *n)
{
    RK_TRY(rk_failed(run->ctx));
    return rk__list_steps(run->ctx, run->comm, run->snap_dir, run->path, steps, n);
}

/* ---- leftovers and retention ---- */

static void remove_step(rk_run *run, int64_t step)
{
    char name[RK__SNAP_NAME], del[RK__SNAP_NAME + 8];
    rk__snap_name(step, name);
    snprintf(del, sizeof del, ".del-%s", name);
    /* first out of sight in one move: a folder half removed must not look like a damaged snapshot */
    if (!rk__io_rename_new(run->io, run->snap_dir, name, del))
        rk__io_remove_tree(run->io, run->snap_dir, del);
}

static bool is_bad(const rk_run *run, int64_t step)
{
    for (int i = 0; i < run->n_bad; i++)
        if (run->bad[i] == step)
            return true;
    return false;
}

void rk__prune(rk_run *run)
{
    int64_t *step;
    int n, newer = 0;
    rk__fault f = { 0 };
    if (rk__steps_in(run->snap_dir, &step, &n, &f))
        return; /* nothing is lost by keeping more */
    for (int i = n - 1; i >= 0; i--) {
        bool bad = is_bad(run, step[i]), multiple = run->keep_every > 0 && step[i] % run->keep_every == 0;
        if (bad || (newer >= run->keep && !multiple && step[i] != run->best_step))
            remove_step(run, step[i]);
        else
            newer++;
    }
    run->n_bad = 0;
    free(step);
}

static bool sweep_one(void *arg, const char *name)
{
    rk_run *run = arg;
    if (!strncmp(name, ".tmp-", 5) || !strncmp(name, ".del-", 5))
        rk__io_remove_tree(run->io, run->snap_dir, name);
    return true;
}

rk_status rk__run_clear(rk_run *run)
{
    int64_t *step;
    int n;
    RK_TRY(rk_failed(run->ctx));
    RK_ASSERT(!run->read_only);
    rk__run_wait(run, NULL, NULL, 0);
    RK_TRY(rk__run_list(run, &step, &n));
    for (int i = 0; i < n && (!run->comm || run->comm->rank == 0); i++)
        remove_step(run, step[i]);
    free(step);
    run->best_step = run->saved_step = -1;
    return RK_OK;
}

/* The newest snapshot that was marked best, so that a continued run keeps it. */
static void find_best(rk_run *run)
{
    int64_t *step;
    int n;
    rk__fault f = { 0 };
    if (rk__steps_in(run->snap_dir, &step, &n, &f))
        return;
    if (n)
        run->saved_step = step[n - 1];
    for (int i = n - 1; i >= 0 && run->best_step < 0; i--) {
        char name[RK__SNAP_NAME];
        rk__manifest m;
        rk__fault g = { 0 };
        rk__snap_name(step[i], name);
        if (rk__snap_manifest(run->ctx, run->snap_dir, name, &m, &g))
            continue;
        if (m.best)
            run->best_step = step[i];
        rk__manifest_free(&m);
    }
    free(step);
}

/* ---- opening ---- */

/* Makes every missing folder on the way and has its parent remember it: a snapshot is only as durable as its
 * path. */
static rk_status make_path(const rk__io_ops *io, const char *path, rk__fault *f)
{
    char part[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof part)
        return rk__fault_set(f, RK_ECONFIG, "run folder: a path of %zu bytes", n);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (rk__io_make_dir(io, AT_FDCWD, part, i == n ? 0700 : 0777)) {
            if (errno == EEXIST || errno == EISDIR)
                continue;
            return rk__fault_errno(f, "make folder", part);
        }
        char *slash = strrchr(part, '/');
        const char *parent = !slash ? "." : slash == part ? "/" : part;
        if (slash)
            *slash = '\0';
        RK_TRY(rk__io_sync_dir(io, AT_FDCWD, parent, f));
    }
    return RK_OK;
}

static rk_status check_owner(int dir, const char *path, rk__fault *f)
{
    struct stat s;
    if (fstat(dir, &s))
        return rk__fault_errno(f, "stat", path);
    if (s.st_mode & S_IWOTH)
        return rk__fault_set(f, RK_ECONFIG, "run folder %s: everybody may write there: chmod o-w %s", path,
                             path);
    if (s.st_uid != geteuid() && geteuid() != 0)
        return rk__fault_set(f, RK_ECONFIG, "run folder %s belongs to user %u, not to you", path,
                             (unsigned)s.st_uid);
    return RK_OK;
}

static rk_status open_snap_dir(rk_run *run, rk__fault *f)
{
    if (rk__io_make_dir(run->io, run->dir, "snap", 0700)) {
        if (errno != EEXIST)
            return rk__fault_errno(f, "make folder", "snap");
    } else {
        RK_TRY(rk__io_sync_dir(run->io, run->dir, ".", f));
    }
    run->snap_dir = rk__io_open(run->io, run->dir, "snap", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, f);
    return run->snap_dir < 0 ? f->st : RK_OK;
}

rk_status rk__open_read_only(const char *path, int *dir, int *snap_dir, rk__fault *f)
{
    *snap_dir = -1;
    *dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (*dir < 0)
        return rk__fault_set(f, RK_ENOINPUT, "run folder %s: %s", path, strerrordesc_np(errno));
    *snap_dir = openat(*dir, "snap", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (*snap_dir >= 0 || errno == ENOENT)
        return RK_OK;
    rk__fault_set(f, RK_ENOINPUT, "run folder %s: snap: %s", path, strerrordesc_np(errno));
    close(*dir);
    *dir = -1;
    return f->st;
}

static rk_status open_for_writing(rk_run *run, rk__fault *f)
{
    RK_TRY(make_path(run->io, run->path, f));
    run->dir = rk__io_open(run->io, AT_FDCWD, run->path, O_RDONLY | O_DIRECTORY, 0, f);
    if (run->dir < 0)
        return f->st;
    RK_TRY(check_owner(run->dir, run->path, f));
    RK_TRY(rk__lock_take(&run->lock, run->io, run->dir, run->path, f));
    RK_TRY(open_snap_dir(run, f));
    RK_TRY(each_entry(run->snap_dir, sweep_one, run, f));
    find_best(run);
    if (!run->sync_write && rk__writer_start(run))
        return rk__fault_set(f, RK_ENOMEM, "cannot start the thread that writes snapshots");
    return RK_OK;
}

static void init_run(rk_run *run, const rk_run_cfg *cfg)
{
    run->dir = run->snap_dir = -1;
    run->lock.fd = run->lock.lease_fd = -1;
    run->saved_step = run->best_step = -1;
    run->read_only = cfg->read_only;
    run->compress = cfg->compress;
    run->sync_write = cfg->sync_write;
    run->keep = cfg->keep < 2 ? 2 : cfg->keep;
    run->keep_every = cfg->keep_every;
    run->comm = cfg->comm && cfg->comm->size > 1 ? cfg->comm : NULL;
    run->writers = cfg->writers;
    run->io = cfg->io ? cfg->io : &rk__io_system;
    pthread_mutex_init(&run->mutex, NULL);
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    pthread_cond_init(&run->changed, &a);
    pthread_condattr_destroy(&a);
}

/* The first rank has made and locked the folder; the others learn under which number it owns it. */
static rk_status join(rk_run *run, rk__fault *f)
{
    int64_t known[2] = { (int64_t)run->lock.epoch, run->saved_step };
    RK_TRY(rk__comm_broadcast(run->comm, "the run folder", 0, known, sizeof known));
    if (run->comm->rank == 0)
        return RK_OK;
    run->lock.epoch = (uint64_t)known[0];
    run->saved_step = known[1];
    RK_TRY(rk__open_read_only(run->path, &run->dir, &run->snap_dir, f));
    if (run->snap_dir < 0)
        return rk__fault_set(f, RK_ENOINPUT,
                             "run folder %s: the folder snap is not there: do all hosts see it?", run->path);
    if (!run->sync_write && rk__writer_start(run))
        return rk__fault_set(f, RK_ENOMEM, "cannot start the thread that writes snapshots");
    return RK_OK;
}

static rk_status fail_open(rk_ctx *ctx, rk_status st, const rk__fault *f)
{
    return rk_fail(ctx, st, "%s%s", f->msg,
                   st == RK_EIO ? "; a run needs a folder that can be written to" : "");
}

/* Every rank stays to the end, whatever has failed: the others wait to hear of it. */
static rk_status open_together(rk_run *run)
{
    rk__fault f = { 0 };
    if (run->comm->rank == 0 && open_for_writing(run, &f))
        fail_open(run->ctx, f.st, &f);
    f = (rk__fault){ 0 };
    join(run, &f);
    rk_status st = rk__together_agree(run->comm, "the run folder is open", &f);
    return st && !rk_failed(run->ctx) ? fail_open(run->ctx, st, &f) : st;
}

rk_status rk__run_open(rk_ctx *ctx, const rk_run_cfg *cfg, rk_run **out)
{
    *out = NULL;
    RK_TRY(rk_failed(ctx));
    rk_run *run = rk__calloc(ctx, 1, sizeof *run);
    if (!run)
        return rk_failed(ctx);
    run->ctx = ctx;
    init_run(run, cfg);
    run->path = rk__strdup(ctx, cfg->dir);
    rk__fault f = { 0 };
    rk_status st = run->path ? RK_OK : rk_failed(ctx);
    if (!st && cfg->read_only)
        st = rk__open_read_only(cfg->dir, &run->dir, &run->snap_dir, &f);
    else if (!st && run->comm)
        st = open_together(run);
    else if (!st)
        st = open_for_writing(run, &f);
    if (st) {
        rk__run_close(run);
        return rk_failed(ctx) ? rk_failed(ctx) : fail_open(ctx, st, &f);
    }
    *out = run;
    return RK_OK;
}

void rk__run_close(rk_run *run)
{
    if (!run)
        return;
    if (run->comm && !rk_failed(run->ctx))
        rk__together_advance(run, true);
    rk__writer_stop(run);
    rk__lock_drop(&run->lock, run->io, run->dir);
    if (run->snap_dir >= 0)
        close(run->snap_dir);
    if (run->dir >= 0)
        close(run->dir);
    rk__free_shards(run);
    rk__plan_free(&run->plan);
    rk__manifest_free(&run->job);
    pthread_cond_destroy(&run->changed);
    pthread_mutex_destroy(&run->mutex);
    free(run->bad);
    free(run->path);
    free(run);
}
