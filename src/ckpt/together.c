/* Saves of several ranks. Each writer's thread writes its rank's file; what all must know travels in the
 * context's thread, in calls that every rank makes in one order: when all files are durable, and only then,
 * the first rank writes the manifest and gives the snapshot its name. What fails anywhere, fails everywhere.
 */
#include "ckpt/run.h"

#include "core/ctx.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- agreeing ---- */

enum { MESSAGE_BYTES = 700 };

/* Number of ranks with a fault; *first is one of them. status (ranks). */
static int count_faults(const int64_t *status, int ranks, int *first)
{
    int n = 0;
    for (int r = ranks - 1; r >= 0; r--)
        if (status[r]) {
            n++;
            *first = r;
        }
    return n;
}

/* Every rank's f becomes that of rank `from`, whose number its message then begins with: not if the data are
 * bad, whoever has found it. */
static rk_status share_fault(rk_comm *c, const char *name, int from, int others, rk__fault *f)
{
    struct {
        int64_t st, newer;
        char msg[MESSAGE_BYTES];
    } wire = { f->st, f->newer, "" };
    snprintf(wire.msg, sizeof wire.msg, "%.*s", MESSAGE_BYTES - 1, f->msg);
    RK_TRY(rk__comm_broadcast(c, name, from, &wire, sizeof wire));
    wire.msg[MESSAGE_BYTES - 1] = '\0';
    *f = (rk__fault){ 0 };
    f->newer = wire.newer != 0;
    if (wire.st == RK_EDATA || wire.st == RK_ENOINPUT)
        return rk__fault_set(f, (rk_status)wire.st, "%s", wire.msg);
    if (others)
        return rk__fault_set(f, (rk_status)wire.st, "rank %d (and %d more): %s", from, others, wire.msg);
    return rk__fault_set(f, (rk_status)wire.st, "rank %d: %s", from, wire.msg);
}

rk_status rk__together_agree(rk_comm *c, const char *name, rk__fault *f)
{
    int64_t mine = f->st, *all = calloc((size_t)c->size, sizeof *all);
    int first = 0;
    if (!all)
        rk_fail(c->ctx, RK_ENOMEM, "%s: no memory", name); /* the next call tells the others */
    rk_status st = all ? rk__comm_all_values(c, name, &mine, sizeof mine, all) : c->table->barrier(c, name);
    int n = st ? 0 : count_faults(all, c->size, &first);
    free(all);
    return st || !n ? st : share_fault(c, name, first, n - 1, f);
}

/* ---- beginning ---- */

typedef struct opening {
    int64_t step, anew;
    uint64_t key;
} opening;

/* Do all ranks save the same thing? *anew: some rank's state has changed its shape. */
static rk_status compare(rk_run *run, const opening *mine, bool *anew)
{
    rk_comm *c = run->comm;
    opening *all = rk__calloc(run->ctx, (size_t)c->size, sizeof *all);
    rk_status st = all ? rk__comm_all_values(c, "a snapshot begins", mine, sizeof *mine, all)
                       : c->table->barrier(c, "a snapshot begins");
    for (int r = 0; r < c->size && !st; r++) {
        *anew |= all[r].anew != 0;
        if (all[r].step != all[0].step || all[r].key != all[0].key)
            st = rk_fail(run->ctx, RK_EINTERNAL,
                         "save: rank %d has another state than rank 0 (steps %" PRId64 " and %" PRId64 ")", r,
                         all[r].step, all[0].step);
    }
    free(all);
    return st;
}

static rk_status stage(rk_run *run, const rk_state *sorted, const rk_snap_info *info, rk__fault *f)
{
    opening mine = { .step = info->step,
                     .anew = !run->key || run->key != rk__state_key(sorted, true),
                     .key = rk__state_key(sorted, false) };
    bool anew = false;
    RK_TRY(compare(run, &mine, &anew));
    if (anew) {
        rk__lay_out(run, sorted, f);
        RK_TRY(rk__together_agree(run->comm, "files of a snapshot", f));
    }
    rk__stage_manifest(run, sorted, info);
    RK_TRY(rk_failed(run->ctx));
    RK_TRY(rk__copy_values(run, sorted));
    if (run->comm->rank == 0) {
        rk__commit c = rk__commit_of(run);
        rk__snap_begin(&c, f);
    }
    rk_status st = rk__together_agree(run->comm, "a snapshot's folder", f);
    return st;
}

static void end(rk_run *run, rk_status st, const char *msg)
{
    rk__outcome out = { .st = st, .step = run->job.step };
    size_t bytes = 0;
    snprintf(out.msg, sizeof out.msg, "%s", msg);
    for (int i = 0; i < run->job.n_files; i++)
        bytes += (size_t)run->job.files[i].size;
    pthread_mutex_lock(&run->mutex);
    rk__note(run, &out, bytes, rk__seconds() - run->begun);
    pthread_mutex_unlock(&run->mutex);
    run->phase = RK__IDLE;
}

rk_status rk__together_save(rk_run *run, const rk_state *st, const rk_snap_info *info)
{
    RK_TRY(rk__together_advance(run, true));
    rk_status earlier = run->ended ? run->outcome.st : RK_OK;
    rk__fault f = { 0 };
    rk_state sorted;
    double begin = rk__seconds();
    if (info->step < 0 || info->step > RK__STEP_MAX)
        return rk__fault_set(&f, RK_EUSAGE, "save: no such step");
    rk_status status = rk__sorted(st, &sorted);
    status =
        status ? run->comm->table->barrier(run->comm, "a snapshot begins") : stage(run, &sorted, info, &f);
    free(sorted.entries);
    run->job.step = info->step;
    run->begun = begin;
    if (status) {
        end(run, status, f.st ? f.msg : rk_error(run->ctx));
        return status;
    }
    run->ended = false;
    run->attempt = 1;
    run->first = (rk__fault){ 0 };
    run->phase = RK__FILES;
    run->cost_stall = rk__seconds() - begin;
    rk__work_begin(run, RK__WRITE_FILES);
    if (!run->has_writer)
        RK_TRY(rk__together_advance(run, true));
    return earlier;
}

/* ---- going on ---- */

typedef struct news {
    int64_t done, st, bytes; /* of what the first rank needs to know of this rank's file */
} news;

/* What travels of a file: this, and the sums of its chunks. */
typedef struct file_head {
    uint64_t size;
    int64_t n_chunks;
    char sum[40];
} file_head;

static rk__m_file *own_file(rk_run *run)
{
    return run->first_file[0] < 0 ? NULL : &run->job.files[run->first_file[0]];
}

static size_t head_bytes(rk_run *run)
{
    const rk__m_file *f = own_file(run);
    return f ? sizeof(file_head) + (size_t)f->n_chunks * sizeof *f->chunk_sum : 0;
}

static void pack(const rk__m_file *f, unsigned char *p)
{
    file_head h = { .size = f->size, .n_chunks = f->n_chunks };
    memcpy(h.sum, f->sum, sizeof f->sum);
    memcpy(p, &h, sizeof h);
    memcpy(p + sizeof h, f->chunk_sum, (size_t)f->n_chunks * sizeof *f->chunk_sum);
}

static rk_status unpack(rk_ctx *ctx, rk__m_file *f, const unsigned char *p, size_t bytes)
{
    file_head h;
    memcpy(&h, p, sizeof h);
    RK_ASSERT(bytes == sizeof h + (size_t)h.n_chunks * sizeof *f->chunk_sum);
    free(f->chunk_sum);
    f->chunk_sum = rk__calloc(ctx, (size_t)h.n_chunks + 1, sizeof *f->chunk_sum);
    if (!f->chunk_sum)
        return rk_failed(ctx);
    f->size = h.size;
    f->n_chunks = h.n_chunks;
    memcpy(f->sum, h.sum, sizeof f->sum);
    memcpy(f->chunk_sum, p + sizeof h, bytes - sizeof h);
    return RK_OK;
}

/* The first rank gets every file's size and sums; files stand in the manifest in the order of their ranks. */
static rk_status collect(rk_run *run, const news *all)
{
    rk_comm *c = run->comm;
    size_t total = 0;
    int file = 0;
    for (int r = 0; r < c->size; r++)
        total += (size_t)all[r].bytes;
    rk_leg *legs = rk__calloc(run->ctx, 2 * (size_t)c->size, sizeof *legs), *recv = legs + c->size;
    unsigned char *mine = rk__calloc(run->ctx, head_bytes(run) + 1, 1);
    unsigned char *in = c->rank == 0 ? rk__calloc(run->ctx, total + 1, 1) : NULL, *at = in;
    rk_status st = rk_failed(run->ctx);
    if (!st) {
        if (own_file(run))
            pack(own_file(run), mine);
        legs[0] = (rk_leg){ mine, head_bytes(run) };
        for (int r = 0; c->rank == 0 && r < c->size; r++) {
            recv[r] = (rk_leg){ at, (size_t)all[r].bytes };
            at += all[r].bytes;
        }
        st = rk__comm_exchange(c, "files of a snapshot", legs, recv);
    } else {
        c->table->barrier(c, "files of a snapshot"); /* tells the others */
    }
    for (int r = 0; c->rank == 0 && r < c->size && !st; r++)
        if (all[r].bytes)
            st = unpack(run->ctx, &run->job.files[file++], recv[r].data, recv[r].bytes);
    free(in);
    free(mine);
    free(legs);
    return st;
}

/* Everything once more in new files, or the end of it. The first failure is the one that is told. */
static rk_status failed(rk_run *run, const news *all, rk__fault *f)
{
    rk_comm *c = run->comm;
    rk__commit commit = rk__commit_of(run);
    int first = 0, n = 0;
    for (int r = c->size - 1; r >= 0; r--)
        if (all[r].st) {
            n++;
            first = r;
        }
    share_fault(c, "why a snapshot failed", first, n - 1, f);
    RK_TRY(rk_failed(run->ctx));
    if (run->attempt == 1 || f->st == RK_ELOCKED)
        run->first = *f;
    if (c->rank == 0)
        rk__snap_drop(&commit);
    if (run->attempt == 2 || f->st == RK_ELOCKED) {
        end(run, run->first.st, run->first.msg);
        return RK_OK;
    }
    run->attempt = 2;
    rk__fault again = { 0 };
    if (c->rank == 0)
        rk__snap_begin(&commit, &again);
    rk_status st = rk__together_agree(c, "a snapshot's folder, again", &again);
    RK_TRY(rk_failed(run->ctx));
    if (st) {
        end(run, run->first.st, run->first.msg);
        return RK_OK;
    }
    run->phase = RK__FILES;
    rk__work_begin(run, RK__WRITE_FILES);
    return RK_OK;
}

static rk_status go_on(rk_run *run, const news *all, rk__fault *f)
{
    for (int r = 0; r < run->comm->size; r++)
        if (all[r].st)
            return failed(run, all, f);
    if (run->phase == RK__NAMING) {
        end(run, RK_OK, "");
        return RK_OK;
    }
    RK_TRY(collect(run, all));
    run->phase = RK__NAMING;
    if (run->comm->rank == 0)
        rk__work_begin(run, RK__WRITE_NAME);
    return RK_OK;
}

rk_status rk__together_advance(rk_run *run, bool wait)
{
    rk_comm *c = run->comm;
    RK_TRY(rk_failed(run->ctx));
    if (run->phase == RK__IDLE)
        return RK_OK;
    news *all = rk__calloc(run->ctx, (size_t)c->size, sizeof *all);
    rk_status st = RK_OK;
    bool done = true;
    while (run->phase != RK__IDLE && done && !st) {
        rk__fault f = { 0 };
        news mine = { .done = rk__work_ended(run, wait, &f), .st = f.st };
        if (mine.done && !mine.st)
            mine.bytes = (int64_t)head_bytes(run);
        st = all ? rk__comm_all_values(c, "a snapshot in flight", &mine, sizeof mine, all)
                 : c->table->barrier(c, "a snapshot in flight");
        for (int r = 0; r < c->size && !st; r++)
            done &= all[r].done != 0;
        if (!st && done)
            st = go_on(run, all, &f);
        done &= wait;
    }
    free(all);
    return st;
}
