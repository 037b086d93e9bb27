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

/* ---- the files' layout: made anew only when a tensor has come, gone or changed ---- */

static const struct {
    const char *name;
    unsigned kinds;
} shards[RK__SHARDS] = {
    { "r0000.h5", 1u << RK_STATE_PARAM | 1u << RK_STATE_BUFFER | 1u << RK_STATE_EMA },
    { "opt-r0000.h5", 1u << RK_STATE_OPTIM },
};

static bool same_shape(const rk_shape *a, const rk_shape *b)
{
    return a->ndim == b->ndim && !memcmp(a->dim, b->dim, (size_t)a->ndim * sizeof a->dim[0]);
}

static void free_shard(rk__shard *s)
{
    for (int i = 0; i < s->n; i++)
        free((char *)s->slabs[i].name);
    free(s->slabs);
    free(s->entry);
    rk__image_free(&s->image);
    *s = (rk__shard){ 0 };
}

/* Whether the shard is laid out for exactly these entries; notes where each stands in the sorted state. */
static bool fits(rk__shard *s, const rk_state *st, unsigned wanted)
{
    int k = 0;
    for (int i = 0; i < st->n; i++) {
        const rk_state_entry *e = &st->entries[i];
        if (!(wanted >> e->kind & 1))
            continue;
        rk_shape shape = rk_tensor_shape(e->tensor);
        if (k == s->n || strcmp(s->slabs[k].name, e->name) ||
            s->slabs[k].dtype != rk_tensor_dtype(e->tensor) || !same_shape(&s->slabs[k].shape, &shape))
            return false;
        s->entry[k++] = i;
    }
    return k == s->n && s->kinds == wanted;
}

static rk_status add_slab(rk_ctx *ctx, rk__shard *s, const rk_state *st, int i)
{
    const rk_state_entry *e = &st->entries[i];
    rk__slab *p = &s->slabs[s->n];
    *p = (rk__slab){ .dtype = rk_tensor_dtype(e->tensor), .shape = rk_tensor_shape(e->tensor) };
    RK_TRY(rk__mul_size(ctx, (size_t)rk_tensor_size(e->tensor), rk_dtype_size(p->dtype), &p->bytes));
    p->name = rk__strdup(ctx, e->name);
    if (!p->name)
        return rk_failed(ctx);
    s->entry[s->n++] = i;
    return RK_OK;
}

static rk_status lay_out(rk_ctx *ctx, rk__shard *s, const rk_state *st, int which, rk__fault *f)
{
    free_shard(s);
    s->kinds = shards[which].kinds;
    snprintf(s->name, sizeof s->name, "%s", shards[which].name);
    s->slabs = rk__calloc(ctx, (size_t)st->n + 1, sizeof *s->slabs);
    s->entry = rk__calloc(ctx, (size_t)st->n + 1, sizeof *s->entry);
    if (!s->slabs || !s->entry)
        return rk_failed(ctx);
    for (int i = 0; i < st->n; i++)
        if (s->kinds >> st->entries[i].kind & 1)
            RK_TRY(add_slab(ctx, s, st, i));
    return s->n ? rk__h5_layout(&s->image, s->slabs, s->n, f) : RK_OK;
}

/* ---- what the manifest says beside sizes and sums ---- */

static char *copy_text(rk_ctx *ctx, const char *s)
{
    return s ? rk__strdup(ctx, s) : NULL;
}

static rk_status describe_tensor(rk_ctx *ctx, rk__m_tensor *t, const rk_state_entry *e, int file)
{
    t->kind = e->kind;
    t->dtype = rk_tensor_dtype(e->tensor);
    t->shape = rk_tensor_shape(e->tensor);
    t->name = rk__strdup(ctx, e->name);
    t->pieces = rk__calloc(ctx, 1, sizeof *t->pieces);
    if (!t->name || !t->pieces)
        return rk_failed(ctx);
    t->n_pieces = 1;
    t->pieces[0].file = file;
    t->pieces[0].extent = t->shape;
    t->pieces[0].data_set = rk__strdup(ctx, e->name);
    return t->pieces[0].data_set ? RK_OK : rk_failed(ctx);
}

static rk_status describe_entries(rk_run *run, rk__manifest *m, const rk_state *st, const int *file_of)
{
    for (int i = 0; i < st->n; i++) {
        const rk_state_entry *e = &st->entries[i];
        if (e->kind == RK_STATE_CURSOR) {
            rk__m_cursor *c = &m->cursors[m->n_cursors++];
            c->value = *e->cursor;
            c->name = rk__strdup(run->ctx, e->name);
            if (!c->name)
                return rk_failed(run->ctx);
        } else {
            int file = file_of[shards[0].kinds >> e->kind & 1 ? 0 : 1];
            RK_TRY(describe_tensor(run->ctx, &m->tensors[m->n_tensors++], e, file));
        }
    }
    return RK_OK;
}

static rk_status describe(rk_run *run, const rk_state *st, const rk_snap_info *info)
{
    rk__manifest *m = &run->job;
    rk_ctx *ctx = run->ctx;
    int file_of[RK__SHARDS] = { 0 };
    rk__manifest_free(m);
    m->step = info->step;
    m->best = info->best;
    m->epoch = run->lock.epoch;
    m->ranks = ctx->ranks > 0 ? ctx->ranks : 1;
    m->grid_data = ctx->data_shards > 0 ? ctx->data_shards : 1;
    m->grid_tensor = 1;
    m->version = rk__strdup(ctx, RANKINE_VERSION);
    m->config_json = copy_text(ctx, info->config_json);
    m->extra_json = copy_text(ctx, info->extra_json);
    m->files = rk__calloc(ctx, RK__SHARDS, sizeof *m->files);
    m->tensors = rk__calloc(ctx, (size_t)st->n + 1, sizeof *m->tensors);
    m->cursors = rk__calloc(ctx, (size_t)st->n + 1, sizeof *m->cursors);
    RK_TRY(rk_failed(ctx));
    for (int i = 0; i < RK__SHARDS; i++) {
        if (!run->shard[i].n)
            continue;
        file_of[i] = m->n_files;
        m->files[m->n_files].name = rk__strdup(ctx, run->shard[i].name);
        if (!m->files[m->n_files++].name)
            return rk_failed(ctx);
    }
    return describe_entries(run, m, st, file_of);
}

/* ---- staging ---- */

static rk_status copy_values(rk_run *run, const rk_state *st)
{
    for (int i = 0; i < RK__SHARDS; i++) {
        rk__shard *s = &run->shard[i];
        for (int k = 0; k < s->n; k++)
            if (s->slabs[k].bytes)
                RK_TRY(rk_tensor_read(st->entries[s->entry[k]].tensor, s->image.p + s->slabs[k].offset,
                                      s->slabs[k].bytes));
    }
    return RK_OK;
}

static rk_status stage(rk_run *run, const rk_state *st, const rk_snap_info *info, rk__fault *f)
{
    if (info->step < 0 || info->step > RK__STEP_MAX)
        return rk__fault_set(f, RK_EUSAGE, "save: step %" PRId64 " is not in [0, %" PRId64 "]", info->step,
                             RK__STEP_MAX);
    rk_state sorted = *st; /* a copy of the table, the names shared */
    sorted.entries = rk__calloc(run->ctx, (size_t)st->n + 1, sizeof *sorted.entries);
    if (!sorted.entries)
        return rk_failed(run->ctx);
    if (st->n)
        memcpy(sorted.entries, st->entries, (size_t)st->n * sizeof *sorted.entries);
    rk__state_sort(&sorted);
    rk_status status = RK_OK;
    for (int i = 0; i < RK__SHARDS && !status; i++)
        if (!run->shard[i].slabs || !fits(&run->shard[i], &sorted, shards[i].kinds))
            status = lay_out(run->ctx, &run->shard[i], &sorted, i, f);
    if (!status)
        status = describe(run, &sorted, info);
    if (!status)
        status = copy_values(run, &sorted);
    free(sorted.entries);
    return status;
}

/* ---- writing behind ---- */

static rk_status still_ours(void *user, rk__fault *f)
{
    rk_run *run = user;
    return rk__lock_check(&run->lock, run->dir, f);
}

static rk_status check_room(rk_run *run, const rk__image *image, int n, rk__fault *f)
{
    uint64_t need = 64 << 10, have;
    for (int i = 0; i < n; i++)
        need += image[i].bytes;
    need += need / 5;
    if (run->io->free_bytes(run->io->user, run->snap_dir, &have) || have >= need)
        return RK_OK; /* a file system that cannot say: the writes will */
    return rk__fault_set(f, RK_EIO, "save %s: the disk has %.1f MB free and %.1f MB are needed", run->path,
                         (double)have / 1e6, (double)need / 1e6);
}

static rk_status commit(rk_run *run, const rk__image *image, rk__fault *f)
{
    rk__commit c = { .io = run->io,
                     .snap_dir = run->snap_dir,
                     .m = &run->job,
                     .images = image,
                     .still_ours = still_ours,
                     .user = run };
    RK_TRY(check_room(run, image, run->job.n_files, f));
    return rk__snap_commit(&c, f);
}

/* The images as they go to disk, in the order of the manifest's files. */
static rk_status write_job(rk_run *run, size_t *bytes, rk__fault *f)
{
    rk__image image[RK__SHARDS] = { { 0 } };
    rk_status st = RK_OK;
    int n = 0;
    for (int i = 0; i < RK__SHARDS && !st; i++) {
        const rk__shard *s = &run->shard[i];
        if (!s->n)
            continue;
        if (run->compress)
            st = rk__h5_compress(&s->image, s->slabs, s->n, &image[n++], f);
        else
            image[n++] = s->image;
    }
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
    *bytes = 0;
    for (int i = 0; i < n; i++) {
        *bytes += image[i].bytes;
        if (run->compress)
            rk__image_free(&image[i]);
    }
    return st;
}

static void perform(rk_run *run, rk__outcome *out, size_t *bytes, double *seconds)
{
    rk__fault f = { 0 };
    double t = rk__now();
    out->st = write_job(run, bytes, &f);
    out->step = run->job.step;
    memcpy(out->msg, f.msg, sizeof out->msg);
    *seconds = rk__now() - t;
    if (out->st)
        return;
    out->msg[0] = '\0';
    if (run->job.best)
        run->best_step = run->job.step;
    rk__prune(run);
}

static void note(rk_run *run, const rk__outcome *out, size_t bytes, double seconds)
{
    run->outcome = *out;
    run->ended = true;
    run->cost_bytes = bytes;
    run->cost_seconds = seconds;
    if (out->st == RK_OK)
        run->saved_step = out->step;
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
        rk__outcome out;
        size_t bytes;
        double seconds;
        pthread_mutex_unlock(&run->mutex);
        rk__lock_beat(&run->lock);
        perform(run, &out, &bytes, &seconds);
        pthread_mutex_lock(&run->mutex);
        note(run, &out, bytes, seconds);
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
    note(run, &out, bytes, seconds);
    run->cost_stall = stall + seconds;
    return out.st;
}

rk_status rk__run_save(rk_run *run, const rk_state *st, const rk_snap_info *info)
{
    RK_TRY(rk_failed(run->ctx));
    RK_ASSERT(!run->read_only);
    pthread_mutex_lock(&run->mutex);
    wait_idle(run);
    rk_status earlier = run->ended ? run->outcome.st : RK_OK;
    if (!earlier)
        run->ended = false;
    pthread_mutex_unlock(&run->mutex);

    rk__fault f = { 0 };
    double t = rk__now();
    rk_status status = stage(run, st, info, &f);
    if (status) { /* nothing is in flight: an outcome that wait or poll can tell */
        pthread_mutex_lock(&run->mutex);
        note(run, &(rk__outcome){ .st = status, .step = info->step }, 0, 0);
        snprintf(run->outcome.msg, sizeof run->outcome.msg, "%s", f.st ? f.msg : rk_error(run->ctx));
        pthread_mutex_unlock(&run->mutex);
        return status;
    }
    double stall = rk__now() - t;
    if (run->sync_write)
        return save_here(run, stall);
    pthread_mutex_lock(&run->mutex);
    run->cost_stall = stall;
    run->ended = false;
    run->busy = true;
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->mutex);
    return earlier;
}

rk_status rk__run_wait(rk_run *run, int64_t *saved_step, char *msg, size_t msg_size)
{
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
