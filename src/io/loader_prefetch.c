/* Threads that fill batches ahead. Batches are planned under the lock in the order of the cursor and filled
 * outside it; the consumer takes them in order. A worker never touches the context. */
#include <signal.h>
#include <stdlib.h>

#include "core/tape.h"
#include "io/loader.h"

#define AHEAD_BYTES ((int64_t)512 << 20) /* at most, over all slots; at least two slots */

static rk__slot *find_slot(rk_loader *l, rk__slot_state state)
{
    for (int i = 0; i < l->n_slots; i++)
        if (l->slot[i].state == state)
            return &l->slot[i];
    return NULL;
}

static void *worker(void *arg)
{
    rk_loader *l = arg;
    void *scratch = malloc((size_t)l->r.elems * 8 + 8);
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        rk__slot *s = l->at_end ? NULL : find_slot(l, RK__SLOT_EMPTY);
        if (s && !rk__loader_plan(l, l->fill_cursor, &s->plan)) {
            l->at_end = true;
            s = NULL;
            pthread_cond_broadcast(&l->ready);
        }
        if (!s) {
            pthread_cond_wait(&l->work, &l->lock);
            continue;
        }
        s->state = RK__SLOT_FILLING;
        l->fill_cursor = s->plan.next;
        pthread_mutex_unlock(&l->lock);
        s->err = (rk_ctx){ 0 };
        if (scratch)
            rk__loader_fill(&l->r, &s->plan, scratch, s->x, s->y, s->id, &s->err);
        else
            rk_fail(&s->err, RK_ENOMEM, "loader: out of memory");
        pthread_mutex_lock(&l->lock);
        s->state = RK__SLOT_READY;
        pthread_cond_broadcast(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    free(scratch);
    return NULL;
}

/* ---- slots ---- */

static rk_status no_memory(rk_loader *l)
{
    return rk_fail(l->ctx, RK_ENOMEM, "loader: out of memory for a batch of %lld samples",
                   (long long)l->batch);
}

static rk_status make_slot(rk_loader *l, rk__slot *s, int64_t n)
{
    const rk__ds_info *in = &l->r.in;
    bool shared = l->ctx->device == &rk_device_cpu, labels = in->classes || in->targets;
    rk_shape x = { in->shape.ndim + 1, { n } }, y = in->classes ? RK_SHAPE(n) : RK_SHAPE(n, in->targets);
    for (int i = 0; i < in->shape.ndim; i++)
        x.dim[i + 1] = in->shape.dim[i];
    s->id = rk__calloc(l->ctx, (size_t)n, sizeof *s->id);
    if (shared) {
        s->tx = rk_tensor_make(l->ctx, RK_F32, x);
        s->ty = labels ? rk_tensor_make(l->ctx, in->classes ? RK_I64 : RK_F32, y) : NULL;
        s->x = rk__data(s->tx);
        s->y = labels ? rk__data(s->ty) : NULL;
    } else {
        s->x = rk__calloc(l->ctx, (size_t)(n * l->r.elems), sizeof(float));
        s->y = labels ? rk__calloc(l->ctx, (size_t)(n * (in->classes ? 1 : in->targets)), in->classes ? 8 : 4)
                      : NULL;
    }
    return rk_failed(l->ctx) || !s->x ? no_memory(l) : RK_OK;
}

static void stop_before_slots_die(void *arg)
{
    rk__prefetch_stop(arg);
}

static rk_status start_threads(rk_loader *l)
{
    sigset_t all, old;
    sigfillset(&all); /* signals are the program's business, in its own thread */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (l->running < l->n_threads && pthread_create(&l->thread[l->running], NULL, worker, l) == 0)
        l->running++;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return l->running ? RK_OK : rk_fail(l->ctx, RK_ENOMEM, "loader: no thread can be started");
}

rk_status rk__prefetch_start(rk_loader *l)
{
    int64_t n = (l->batch / l->shards + 1) * l->own_shards; /* halving gives no shard more */
    n = n < l->usable ? n : l->usable;
    int64_t fit = AHEAD_BYTES / (n * l->r.elems * 4 + 1);
    l->n_slots = l->prefetch + 1 < fit ? l->prefetch + 1 : fit > 2 ? (int)fit : 2;
    l->slot = rk__calloc(l->ctx, (size_t)l->n_slots, sizeof *l->slot);
    l->ids = rk__calloc(l->ctx, (size_t)n, sizeof *l->ids);
    l->thread = rk__calloc(l->ctx, (size_t)l->n_threads, sizeof *l->thread);
    if (!l->slot || !l->ids || !l->thread)
        return no_memory(l);
    for (int i = 0; i < l->n_slots; i++)
        RK_TRY(make_slot(l, &l->slot[i], n));
    /* registered after the slots' tensors, so run before they are freed */
    RK_TRY(rk__at_close(l->ctx, stop_before_slots_die, l));
    l->fill_cursor = l->cursor;
    l->at_end = false;
    l->started = true;
    return start_threads(l);
}

void rk__prefetch_stop(rk_loader *l)
{
    if (!l->started)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->running; i++)
        pthread_join(l->thread[i], NULL);
    l->running = 0;
}

rk_status rk__prefetch_restart(rk_loader *l)
{
    l->stop = false;
    rk__prefetch_reset(l);
    return start_threads(l);
}

void rk__prefetch_reset(rk_loader *l)
{
    if (!l->started)
        return;
    pthread_mutex_lock(&l->lock);
    l->at_end = true; /* nothing new is begun */
    while (find_slot(l, RK__SLOT_FILLING))
        pthread_cond_wait(&l->ready, &l->lock);
    for (int i = 0; i < l->n_slots; i++)
        if (l->slot[i].state == RK__SLOT_READY)
            l->slot[i].state = RK__SLOT_EMPTY;
    l->fill_cursor = l->cursor;
    l->at_end = false;
    pthread_cond_broadcast(&l->work);
    pthread_mutex_unlock(&l->lock);
}

static rk__slot *at_cursor(rk_loader *l)
{
    for (int i = 0; i < l->n_slots; i++) {
        rk__slot *s = &l->slot[i];
        if ((s->state == RK__SLOT_FILLING || s->state == RK__SLOT_READY) && s->plan.cursor == l->cursor)
            return s;
    }
    return NULL;
}

rk__slot *rk__prefetch_take(rk_loader *l)
{
    rk__slot *s;
    pthread_mutex_lock(&l->lock);
    while (!(s = at_cursor(l)) || s->state != RK__SLOT_READY) {
        if (!s && l->at_end && l->fill_cursor <= l->cursor)
            break;
        pthread_cond_wait(&l->ready, &l->lock);
    }
    if (s)
        s->state = RK__SLOT_HELD;
    pthread_mutex_unlock(&l->lock);
    return s;
}

void rk__prefetch_release(rk_loader *l, rk__slot *s)
{
    pthread_mutex_lock(&l->lock);
    s->state = RK__SLOT_EMPTY;
    pthread_cond_signal(&l->work);
    pthread_mutex_unlock(&l->lock);
}

int rk__prefetch_reclaim(rk_loader *l)
{
    int held = 0;
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < l->n_slots; i++) {
        rk__slot *s = &l->slot[i];
        if (s->state != RK__SLOT_HELD)
            continue;
        if (s->tx->storage->refs > 1 || (s->ty && s->ty->storage->refs > 1)) {
            held++;
        } else {
            s->state = RK__SLOT_EMPTY;
            pthread_cond_signal(&l->work);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return held;
}
