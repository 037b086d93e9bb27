/* Saving: the caller's thread copies the state into the files' images (the stall), the writer's thread does
 * the rest. */
#include "ckpt/run.h"

#include "core/ctx.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- staging ---- */

static rk_status stage(rk_run *run, const rk_state *st, const rk_snap_info *info, rk__fault *f)
{
    if (info->step < 0 || info->step > RK__STEP_MAX)
        return rk__fault_set(f, RK_EUSAGE, "save: step %" PRId64 " is not in [0, %" PRId64 "]", info->step,
                             RK__STEP_MAX);
    rk_state sorted;
    rk_status status = rk__sorted(st, &sorted);
    if (!status && (!run->key || run->key != rk__state_key(&sorted, true)))
        status = rk__lay_out(run, &sorted, f);
    if (!status)
        status = rk__stage_manifest(run, &sorted, info);
    if (!status)
        status = rk__copy_values(run, &sorted);
    free(sorted.entries);
    return status;
}

/* ---- writing behind ---- */

static rk_status still_ours(void *user, rk__fault *f)
{
    rk_run *run = user;
    return rk__lock_check(&run->lock, run->dir, f);
}

rk__commit rk__commit_of(rk_run *run)
{
    return (rk__commit){ .io = run->io,
                         .snap_dir = run->snap_dir,
                         .m = &run->job,
                         .n = run->comm ? run->first_file[0] >= 0 : run->job.n_files,
                         .first = run->comm && run->first_file[0] > 0 ? run->first_file[0] : 0,
                         .still_ours = still_ours,
                         .user = run };
}

/* Other ranks are taken to need as much as this one. */
static rk_status check_room(rk_run *run, const rk__image *image, int n, rk__fault *f)
{
    uint64_t need = 64 << 10, have;
    for (int i = 0; i < n; i++)
        need += image[i].bytes * (uint64_t)(run->comm ? run->job.n_files : 1);
    need += need / 5;
    if (run->io->free_bytes(run->io->user, run->snap_dir, &have) || have >= need)
        return RK_OK; /* a file system that cannot say: the writes will */
    return rk__fault_set(f, RK_EIO, "save %s: the disk has %.1f MB free and %.1f MB are needed", run->path,
                         (double)have / 1e6, (double)need / 1e6);
}

/* The images as they go to disk, in the order of the manifest's files; image has room for RK__SHARDS. */
static rk_status make_images(rk_run *run, rk__image *image, int *n, rk__fault *f)
{
    rk_status st = RK_OK;
    *n = 0;
    for (int i = 0; i < RK__SHARDS && !st; i++) {
        const rk__shard *s = &run->shard[i];
        if (!s->n)
            continue;
        if (run->compress)
            st = rk__h5_compress(&s->image, s->slabs, s->n, &image[(*n)++], f);
        else
            image[(*n)++] = s->image;
    }
    return st;
}

static void free_images(rk_run *run, rk__image *image, int n, size_t *bytes)
{
    *bytes = 0;
    for (int i = 0; i < n; i++) {
        *bytes += image[i].bytes;
        if (run->compress)
            rk__image_free(&image[i]);
    }
}

static rk_status commit(rk_run *run, const rk__image *image, rk__fault *f)
{
    rk__commit c = rk__commit_of(run);
    c.images = image;
    RK_TRY(check_room(run, image, c.n, f));
    return rk__snap_commit(&c, f);
}

static rk_status write_job(rk_run *run, size_t *bytes, rk__fault *f)
{
    rk__image image[RK__SHARDS] = { { 0 } };
    int n;
    rk_status st = make_images(run, image, &n, f);
    if (!st) {
        rk__fault first = { 0 };
        st = commit(run, image, &first);
        /* whatever a failed write left in the page cache is not trusted: everything once more, in new files
         */
        if (st && st != RK_ELOCKED && commit(run, image, f) == RK_OK)
            st = RK_OK;
        else if (st)
            *f = first;
    }
    free_images(run, image, n, bytes);
    return st;
}

/* This rank's file of a snapshot of several. */
static rk_status write_own(rk_run *run, rk__fault *f)
{
    rk__image image[RK__SHARDS] = { { 0 } };
    rk__commit c = rk__commit_of(run);
    size_t bytes;
    int n;
    if (!c.n)
        return RK_OK;
    c.images = image;
    rk_status st = make_images(run, image, &n, f);
    if (!st)
        st = check_room(run, image, n, f);
    if (!st)
        st = rk__snap_write(&c, f);
    free_images(run, image, n, &bytes);
    return st;
}

/* The older snapshots may go now. */
static void tidy(rk_run *run)
{
    if (run->job.best)
        run->best_step = run->job.step;
    rk__prune(run);
}

static void perform(rk_run *run, rk__outcome *out, size_t *bytes, double *seconds)
{
    rk__fault f = { 0 };
    double t = rk__seconds();
    out->st = write_job(run, bytes, &f);
    out->step = run->job.step;
    memcpy(out->msg, f.msg, sizeof out->msg);
    *seconds = rk__seconds() - t;
    if (out->st)
        return;
    out->msg[0] = '\0';
    tidy(run);
}

void rk__note(rk_run *run, const rk__outcome *out, size_t bytes, double seconds)
{
    run->outcome = *out;
    run->ended = true;
    run->cost_bytes = bytes;
    run->cost_seconds = seconds;
    if (out->st == RK_OK)
        run->saved_step = out->step;
}

/* One's part of a save of several ranks. */
static void perform_part(rk_run *run, rk__work work, rk__fault *f)
{
    rk__commit c = rk__commit_of(run);
    if (work == RK__WRITE_FILES)
        write_own(run, f);
    else if (!rk__snap_finish(&c, f))
        tidy(run);
}

static void *writer(void *arg)
{
    rk_run *run = arg;
    pthread_mutex_lock(&run->mutex);
    while (!run->quit || run->busy) {
        if (!run->busy) {
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            t.tv_sec += RK__BEAT_S;
            pthread_cond_timedwait(&run->changed, &run->mutex, &t);
            if (!run->busy)
                rk__lock_beat(&run->lock);
            continue;
        }
        rk__work work = run->work;
        rk__outcome out;
        rk__fault f = { 0 };
        size_t bytes;
        double seconds;
        pthread_mutex_unlock(&run->mutex);
        rk__lock_beat(&run->lock);
        if (work == RK__WRITE_ALL)
            perform(run, &out, &bytes, &seconds);
        else
            perform_part(run, work, &f);
        pthread_mutex_lock(&run->mutex);
        if (work == RK__WRITE_ALL)
            rk__note(run, &out, bytes, seconds);
        else
            run->work_fault = f;
        run->busy = false;
        pthread_cond_broadcast(&run->changed);
    }
    pthread_mutex_unlock(&run->mutex);
    return NULL;
}

/* Signals belong to the thread that trains. */
rk_status rk__writer_start(rk_run *run)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    run->has_writer = !pthread_create(&run->writer, NULL, writer, run);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return run->has_writer ? RK_OK : RK_ENOMEM;
}

void rk__writer_stop(rk_run *run)
{
    if (!run->has_writer)
        return;
    pthread_mutex_lock(&run->mutex);
    run->quit = true;
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->mutex);
    pthread_join(run->writer, NULL);
    run->has_writer = false;
}

static void wait_idle(rk_run *run)
{
    while (run->busy)
        pthread_cond_wait(&run->changed, &run->mutex);
}

/* ---- the caller's side ---- */

void rk__work_begin(rk_run *run, rk__work work)
{
    run->work_fault = (rk__fault){ 0 };
    if (!run->has_writer) {
        perform_part(run, work, &run->work_fault);
        return;
    }
    pthread_mutex_lock(&run->mutex);
    run->work = work;
    run->busy = true;
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->mutex);
}

bool rk__work_ended(rk_run *run, bool wait, rk__fault *f)
{
    pthread_mutex_lock(&run->mutex);
    if (wait)
        wait_idle(run);
    bool ended = !run->busy;
    if (ended)
        *f = run->work_fault;
    pthread_mutex_unlock(&run->mutex);
    return ended;
}

static rk_status take_outcome(rk_run *run, int64_t *step, char *msg, size_t msg_size)
{
    rk_status st = run->ended ? run->outcome.st : RK_OK;
    if (step)
        *step = run->outcome.step;
    if (msg && msg_size)
        snprintf(msg, msg_size, "%s", run->ended ? run->outcome.msg : "");
    run->ended = false;
    return st;
}

/* Runs the save in this thread; its outcome stays to be polled. */
static rk_status save_here(rk_run *run, double stall)
{
    rk__outcome out;
    size_t bytes;
    double seconds;
    perform(run, &out, &bytes, &seconds);
    rk__note(run, &out, bytes, seconds);
    run->cost_stall = stall + seconds;
    return out.st;
}

rk_status rk__run_save(rk_run *run, const rk_state *st, const rk_snap_info *info)
{
    RK_TRY(rk_failed(run->ctx));
    RK_ASSERT(!run->read_only);
    if (run->comm)
        return rk__together_save(run, st, info);
    pthread_mutex_lock(&run->mutex);
    wait_idle(run);
    rk_status earlier = run->ended ? run->outcome.st : RK_OK;
    if (!earlier)
        run->ended = false;
    pthread_mutex_unlock(&run->mutex);

    rk__fault f = { 0 };
    double t = rk__seconds();
    rk_status status = stage(run, st, info, &f);
    if (status) { /* nothing is in flight: an outcome that wait or poll can tell */
        pthread_mutex_lock(&run->mutex);
        rk__note(run, &(rk__outcome){ .st = status, .step = info->step }, 0, 0);
        snprintf(run->outcome.msg, sizeof run->outcome.msg, "%s", f.st ? f.msg : rk_error(run->ctx));
        pthread_mutex_unlock(&run->mutex);
        return status;
    }
    double stall = rk__seconds() - t;
    if (run->sync_write)
        return save_here(run, stall);
    pthread_mutex_lock(&run->mutex);
    run->cost_stall = stall;
    run->ended = false;
    pthread_mutex_unlock(&run->mutex);
    rk__work_begin(run, RK__WRITE_ALL);
    return earlier;
}

rk_status rk__run_wait(rk_run *run, int64_t *saved_step, char *msg, size_t msg_size)
{
    if (run->comm)
        RK_TRY(rk__together_advance(run, true));
    pthread_mutex_lock(&run->mutex);
    wait_idle(run);
    rk_status st = take_outcome(run, NULL, msg, msg_size);
    if (saved_step)
        *saved_step = run->saved_step;
    pthread_mutex_unlock(&run->mutex);
    return st;
}

bool rk__run_poll(rk_run *run, rk_status *st, int64_t *step, char *msg, size_t msg_size)
{
    if (run->comm && rk__together_advance(run, false))
        return false; /* the context has failed */
    pthread_mutex_lock(&run->mutex);
    bool told = run->ended;
    if (told)
        *st = take_outcome(run, step, msg, msg_size);
    pthread_mutex_unlock(&run->mutex);
    return told;
}

void rk__run_save_cost(const rk_run *run, size_t *bytes, double *seconds, double *stall)
{
    pthread_mutex_lock((pthread_mutex_t *)&run->mutex);
    *bytes = run->cost_bytes;
    *seconds = run->cost_seconds;
    *stall = run->cost_stall;
    pthread_mutex_unlock((pthread_mutex_t *)&run->mutex);
}
