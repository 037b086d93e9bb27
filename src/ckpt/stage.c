/* Staging: the state's values into the images of the files, which is all that training waits for. */
#include "ckpt/run.h"

#include "core/ctx.h"
#include "core/tape.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum {
    FILES_DEFAULT = 16,
    SEND_BYTES = 8 << 20, /* of a message between ranks: all that a sender holds beside its own */
    SEND_TAG = 900
};

static const struct {
    const char *name;
    unsigned kinds;
} alone[RK__SHARDS] = {
    { "r0000.h5", 1u << RK_STATE_PARAM | 1u << RK_STATE_BUFFER | 1u << RK_STATE_EMA },
    { "opt-r0000.h5", 1u << RK_STATE_OPTIM },
};

rk_status rk__sorted(const rk_state *st, rk_state *out)
{
    *out = *st;
    out->entries = rk__calloc(st->ctx, (size_t)st->n + 1, sizeof *out->entries);
    if (!out->entries)
        return rk_failed(st->ctx);
    if (st->n)
        memcpy(out->entries, st->entries, (size_t)st->n * sizeof *out->entries);
    rk__state_sort(out);
    return RK_OK;
}

static uint64_t add_shape(uint64_t key, const rk_shape *s)
{
    key = XXH3_64bits_withSeed(&s->ndim, sizeof s->ndim, key);
    return XXH3_64bits_withSeed(s->dim, (size_t)s->ndim * sizeof s->dim[0], key);
}

uint64_t rk__state_key(const rk_state *sorted, bool pieces)
{
    uint64_t key = (uint64_t)sorted->n + 1;
    for (int i = 0; i < sorted->n; i++) {
        const rk_state_entry *e = &sorted->entries[i];
        key = XXH3_64bits_withSeed(e->name, strlen(e->name) + 1, key) + (uint64_t)e->kind;
        if (e->kind == RK_STATE_CURSOR)
            continue;
        key = add_shape(key, &e->piece.whole) + (uint64_t)rk_tensor_dtype(e->tensor);
        if (pieces) {
            key = add_shape(key, &e->piece.box) + (uint64_t)e->piece.from;
            key = XXH3_64bits_withSeed(e->piece.lo, (size_t)e->piece.whole.ndim * sizeof e->piece.lo[0],
                                       key + (uint64_t)e->piece.to);
        }
    }
    return key;
}

/* ---- the files' layout: made anew only when a tensor has come, gone or changed ---- */

void rk__free_shards(rk_run *run)
{
    for (int i = 0; i < RK__SHARDS; i++) {
        rk__shard *s = &run->shard[i];
        for (int k = 0; k < s->n; k++)
            free((char *)s->slabs[k].name);
        free(s->slabs);
        free(s->part);
        rk__image_free(&s->image);
        *s = (rk__shard){ 0 };
    }
    run->key = 0;
}

static int this_rank(const rk_run *run)
{
    return run->comm ? run->comm->rank : 0;
}

/* Number of the shard of this rank that part i is written to; -1: another rank's. */
static int shard_of(const rk_run *run, const rk_state *st, int i)
{
    const rk__share *p = &run->plan.part[i];
    if (!run->comm)
        return alone[0].kinds >> st->entries[p->entry].kind & 1 ? 0 : 1;
    return rk__plan_leader(&run->plan, p->file) == run->comm->rank ? 0 : -1;
}

static rk_status add_slab(rk_run *run, rk__shard *s, const rk_state *st, int i)
{
    const rk__share *p = &run->plan.part[i];
    const rk_state_entry *e = &st->entries[p->entry];
    rk__slab *slab = &s->slabs[s->n];
    char name[600];
    *slab = (rk__slab){ .dtype = rk_tensor_dtype(e->tensor), .shape = p->extent };
    RK_TRY(rk__mul_size(run->ctx, (size_t)p->n, rk_dtype_size(slab->dtype), &slab->bytes));
    if (!rk__plan_data_set(&run->plan, i, e->name, name, sizeof name))
        return rk_fail(run->ctx, RK_ECONFIG, "save: the name %s is too long for a tensor in pieces", e->name);
    slab->name = rk__strdup(run->ctx, name);
    if (!slab->name)
        return rk_failed(run->ctx);
    s->part[s->n++] = i;
    return RK_OK;
}

static rk_status make_shards(rk_run *run, const rk_state *st)
{
    const size_t n = (size_t)run->plan.n + 1;
    for (int i = 0; i < RK__SHARDS; i++) {
        rk__shard *s = &run->shard[i];
        if (run->comm)
            snprintf(s->name, sizeof s->name, "r%04d.h5", run->comm->rank);
        else
            snprintf(s->name, sizeof s->name, "%s", alone[i].name);
        s->slabs = rk__calloc(run->ctx, n, sizeof *s->slabs);
        s->part = rk__calloc(run->ctx, n, sizeof *s->part);
        if (!s->slabs || !s->part)
            return rk_failed(run->ctx);
    }
    for (int i = 0; i < run->plan.n; i++) {
        int which = shard_of(run, st, i);
        if (which >= 0)
            RK_TRY(add_slab(run, &run->shard[which], st, i));
    }
    return RK_OK;
}

/* (ranks, n) of what every rank holds. */
static rk_status gather_held(rk_run *run, const rk_state *st, rk__held *all)
{
    rk__held *mine = all + (size_t)this_rank(run) * (size_t)st->n;
    rk__plan_held(st, mine);
    if (!run->comm)
        return RK_OK;
    return rk__comm_all_values(run->comm, "pieces of a snapshot", mine, (size_t)st->n * sizeof *mine, all);
}

rk_status rk__lay_out(rk_run *run, const rk_state *sorted, rk__fault *f)
{
    const int ranks = run->comm ? run->comm->size : 1;
    rk__free_shards(run);
    rk__held *held = rk__calloc(run->ctx, (size_t)ranks * (size_t)sorted->n + 1, sizeof *held);
    if (!held)
        return rk_failed(run->ctx);
    rk_status st = gather_held(run, sorted, held);
    if (!st)
        st = rk__plan_make(sorted, held, ranks, run->writers > 0 ? run->writers : FILES_DEFAULT, &run->plan);
    free(held);
    if (!st)
        st = make_shards(run, sorted);
    for (int i = 0; i < RK__SHARDS && !st; i++)
        if (run->shard[i].n)
            st = rk__h5_layout(&run->shard[i].image, run->shard[i].slabs, run->shard[i].n, f);
    if (!st)
        run->key = rk__state_key(sorted, true);
    return st;
}

/* ---- what the manifest says beside sizes and sums ---- */

static char *copy_text(rk_ctx *ctx, const char *s)
{
    return s ? rk__strdup(ctx, s) : NULL;
}

static rk_status add_file(rk_run *run, const char *name)
{
    rk__m_file *f = &run->job.files[run->job.n_files++];
    f->name = rk__strdup(run->ctx, name);
    return f->name ? RK_OK : rk_failed(run->ctx);
}

/* file_of (writers, or shards): the manifest's number of each file, -1 where there is none. */
static rk_status describe_files(rk_run *run, int *file_of)
{
    char name[32];
    for (int i = 0; i < RK__SHARDS; i++)
        run->first_file[i] = -1;
    if (!run->comm) {
        for (int i = 0; i < RK__SHARDS; i++) {
            if (!run->shard[i].n)
                continue;
            file_of[i] = run->first_file[i] = run->job.n_files;
            RK_TRY(add_file(run, run->shard[i].name));
        }
        return RK_OK;
    }
    for (int w = 0; w < run->plan.writers; w++)
        file_of[w] = -1;
    for (int i = 0; i < run->plan.n; i++)
        file_of[run->plan.part[i].file] = 0;
    for (int w = 0; w < run->plan.writers; w++) {
        if (file_of[w] < 0)
            continue;
        file_of[w] = run->job.n_files;
        snprintf(name, sizeof name, "r%04d.h5", rk__plan_leader(&run->plan, w));
        RK_TRY(add_file(run, name));
        if (rk__plan_leader(&run->plan, w) == run->comm->rank)
            run->first_file[0] = file_of[w];
    }
    return RK_OK;
}

static rk_status describe_piece(rk_run *run, rk__m_tensor *t, int i, int file)
{
    const rk__share *p = &run->plan.part[i];
    rk__m_piece *m = &t->pieces[t->n_pieces++];
    char name[600] = "";
    *m = (rk__m_piece){ .file = file, .extent = p->extent };
    memcpy(m->lo, p->lo, sizeof m->lo);
    rk__plan_data_set(&run->plan, i, t->name, name, sizeof name);
    m->data_set = rk__strdup(run->ctx, name);
    return m->data_set ? RK_OK : rk_failed(run->ctx);
}

/* The parts of entry e begin at number *next of the plan. */
static rk_status describe_tensor(rk_run *run, const rk_state *st, int e, int *next, const int *file_of)
{
    const rk_state_entry *entry = &st->entries[e];
    rk__m_tensor *t = &run->job.tensors[run->job.n_tensors++];
    int n = 0;
    t->kind = entry->kind;
    t->dtype = rk_tensor_dtype(entry->tensor);
    t->shape = entry->piece.whole;
    t->name = rk__strdup(run->ctx, entry->name);
    while (*next + n < run->plan.n && run->plan.part[*next + n].entry == e)
        n++;
    t->pieces = rk__calloc(run->ctx, (size_t)n + 1, sizeof *t->pieces);
    if (!t->name || !t->pieces)
        return rk_failed(run->ctx);
    for (int i = 0; i < n; i++, (*next)++) {
        int which = run->comm ? run->plan.part[*next].file : shard_of(run, st, *next);
        RK_TRY(describe_piece(run, t, *next, file_of[which]));
    }
    return RK_OK;
}

static rk_status describe_entries(rk_run *run, const rk_state *st, const int *file_of)
{
    rk__manifest *m = &run->job;
    int next = 0;
    for (int i = 0; i < st->n; i++) {
        const rk_state_entry *e = &st->entries[i];
        if (e->kind != RK_STATE_CURSOR) {
            RK_TRY(describe_tensor(run, st, i, &next, file_of));
            continue;
        }
        rk__m_cursor *c = &m->cursors[m->n_cursors++];
        c->value = *e->cursor;
        c->name = rk__strdup(run->ctx, e->name);
        if (!c->name)
            return rk_failed(run->ctx);
    }
    return RK_OK;
}

rk_status rk__stage_manifest(rk_run *run, const rk_state *sorted, const rk_snap_info *info)
{
    rk__manifest *m = &run->job;
    rk_ctx *ctx = run->ctx;
    const size_t files = (size_t)run->plan.writers + RK__SHARDS;
    rk__manifest_free(m);
    m->step = info->step;
    m->best = info->best;
    m->epoch = run->lock.epoch;
    m->ranks = run->comm ? run->comm->size : 1;
    m->grid_data = ctx->data_shards > 0 ? ctx->data_shards : 1;
    m->grid_tensor = ctx->shards.count > 0 ? ctx->shards.count : 1;
    m->version = rk__strdup(ctx, RANKINE_VERSION);
    m->config_json = copy_text(ctx, info->config_json);
    m->extra_json = copy_text(ctx, info->extra_json);
    m->files = rk__calloc(ctx, files, sizeof *m->files);
    m->tensors = rk__calloc(ctx, (size_t)sorted->n + 1, sizeof *m->tensors);
    m->cursors = rk__calloc(ctx, (size_t)sorted->n + 1, sizeof *m->cursors);
    int *file_of = rk__calloc(ctx, files, sizeof *file_of);
    rk_status st = rk_failed(ctx);
    if (!st)
        st = describe_files(run, file_of);
    if (!st)
        st = describe_entries(run, sorted, file_of);
    free(file_of);
    return st;
}

/* ---- the values ---- */

/* In slices that a message holds. */
static rk_status send_part(rk_run *run, const rk_state *st, const rk__share *p, int to, void *buf)
{
    const rk_state_entry *e = &st->entries[p->entry];
    const int64_t size = (int64_t)rk_dtype_size(rk_tensor_dtype(e->tensor)), most = SEND_BYTES / size;
    for (int64_t at = 0; at < p->n; at += most) {
        int64_t n = p->n - at < most ? p->n - at : most;
        RK_TRY(rk__state_read(e, p->at + at, n, buf));
        RK_TRY(run->comm->table->send(run->comm, to, SEND_TAG, buf, (size_t)(n * size)));
    }
    return RK_OK;
}

static rk_status receive_slab(rk_run *run, const rk__shard *s, const rk__slab *slab, int from)
{
    for (size_t at = 0; at < slab->bytes; at += SEND_BYTES) {
        size_t n = slab->bytes - at < SEND_BYTES ? slab->bytes - at : SEND_BYTES;
        RK_TRY(run->comm->table->recv(run->comm, from, SEND_TAG, s->image.p + slab->offset + at, n));
    }
    return RK_OK;
}

static rk_status send_values(rk_run *run, const rk_state *st)
{
    const int me = this_rank(run), to = rk__plan_leader(&run->plan, rk__plan_file_of(&run->plan, me));
    if (!run->comm || to == me)
        return RK_OK;
    void *buf = rk__calloc(run->ctx, SEND_BYTES, 1);
    rk_status status = buf ? RK_OK : rk_failed(run->ctx);
    for (int i = 0; i < run->plan.n && !status; i++)
        if (run->plan.part[i].holder == me)
            status = send_part(run, st, &run->plan.part[i], to, buf);
    free(buf);
    return status;
}

rk_status rk__copy_values(rk_run *run, const rk_state *sorted)
{
    RK_TRY(send_values(run, sorted));
    for (int i = 0; i < RK__SHARDS; i++) {
        rk__shard *s = &run->shard[i];
        for (int k = 0; k < s->n; k++) {
            const rk__share *p = &run->plan.part[s->part[k]];
            if (p->holder != this_rank(run))
                RK_TRY(receive_slab(run, s, &s->slabs[k], p->holder));
            else if (s->slabs[k].bytes)
                RK_TRY(
                    rk__state_read(&sorted->entries[p->entry], p->at, p->n, s->image.p + s->slabs[k].offset));
        }
    }
    return RK_OK;
}
