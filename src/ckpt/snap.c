#include "ckpt/snap.h"

#include "ckpt/hash.h"
#include "ckpt/plan.h"
#include "core/ctx.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

void rk__snap_name(int64_t step, char name[RK__SNAP_NAME])
{
    snprintf(name, RK__SNAP_NAME, "step-%012" PRId64, step);
}

int64_t rk__snap_step(const char *name)
{
    int64_t step = 0;
    if (strncmp(name, "step-", 5) || strlen(name) != 17)
        return -1;
    for (const char *p = name + 5; *p; p++) {
        if (*p < '0' || *p > '9')
            return -1;
        step = step * 10 + (*p - '0');
    }
    return step;
}

/* ---- writing ---- */

static void put_sum(XXH128_hash_t h, char *hex33)
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, h);
    rk__hex(c.digest, sizeof c.digest, hex33);
}

/* The disk is given work while the next bytes are hashed and copied, or fsync would have it all to do. */
enum { PUSH_BYTES = 8 << 20 };

static rk_status write_image(const rk__io_ops *io, int fd, const rk__image *image, rk__m_file *out,
                             XXH3_state_t *all, rk__fault *f)
{
    size_t pushed = 0;
    for (size_t at = 0; at < image->bytes; at += RK__SUM_BYTES) {
        size_t n = image->bytes - at < RK__SUM_BYTES ? image->bytes - at : RK__SUM_BYTES;
        const unsigned char *p = image->p + at;
        out->chunk_sum[out->n_chunks++] =
            XXH3_64bits(p, n); /* and then the kernel copies it from the cache */
        XXH3_128bits_update(all, p, n);
        RK_TRY(rk__io_write_all(io, fd, p, n, out->name, f));
        if (io->push && (at + n - pushed >= PUSH_BYTES || at + n == image->bytes)) {
            io->push(io->user, fd, (off_t)pushed, (off_t)(at + n - pushed));
            pushed = at + n;
        }
    }
    return RK_OK;
}

/* Writes `image` as a new file under dir, hashing as it goes; fills size and sums of out. *fd stays open: not
 * yet durable. */
static rk_status write_file(const rk__io_ops *io, int dir, const rk__image *image, rk__m_file *out, int *fd,
                            rk__fault *f)
{
    free(out->chunk_sum);
    out->n_chunks = 0;
    out->size = image->bytes;
    out->chunk_sum = calloc(image->bytes / RK__SUM_BYTES + 1, sizeof *out->chunk_sum);
    XXH3_state_t *all = XXH3_createState();
    rk_status st = RK_OK;
    if (!all || !out->chunk_sum) {
        st = rk__fault_set(f, RK_ENOMEM, "save %s: no memory for its sums", out->name);
    } else {
        XXH3_128bits_reset(all);
        *fd = rk__io_open(io, dir, out->name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, f);
        st = *fd < 0 ? f->st : write_image(io, *fd, image, out, all, f);
    }
    if (!st)
        put_sum(XXH3_128bits_digest(all), out->sum);
    XXH3_freeState(all);
    return st;
}

/* All files are written before the first is synced, so that the disk has them all to work on. */
static rk_status write_files(const rk__commit *c, int dir, rk__fault *f)
{
    int n = c->n, *fd = malloc(((size_t)n + 1) * sizeof *fd);
    rk__m_file *file = c->m->files + c->first;
    if (!fd)
        return rk__fault_set(f, RK_ENOMEM, "save: no memory");
    for (int i = 0; i < n; i++)
        fd[i] = -1;
    rk_status st = RK_OK;
    for (int i = 0; i < n && !st; i++)
        st = write_file(c->io, dir, &c->images[i], &file[i], &fd[i], f);
    for (int i = 0; i < n && !st; i++)
        st = rk__io_sync(c->io, fd[i], file[i].name, f);
    for (int i = 0; i < n; i++)
        if (fd[i] >= 0 && rk__io_close(c->io, fd[i], file[i].name, f) && !st)
            st = f->st;
    free(fd);
    return st;
}

static rk_status write_manifest(const rk__commit *c, int dir, rk__fault *f)
{
    size_t n;
    char *text = rk__manifest_text(c->m, &n);
    if (!text)
        return rk__fault_set(f, RK_ENOMEM, "save: no memory for the manifest");
    int fd = rk__io_open(c->io, dir, RK__MANIFEST, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600, f);
    rk_status st = fd < 0 ? f->st : RK_OK;
    if (fd >= 0) {
        st = rk__io_write_all(c->io, fd, text, n, RK__MANIFEST, f);
        if (!st)
            st = rk__io_sync(c->io, fd, RK__MANIFEST, f);
        if (rk__io_close(c->io, fd, RK__MANIFEST, f) && !st)
            st = f->st;
    }
    free(text);
    return st;
}

static void tmp_name(const rk__commit *c, char tmp[RK__SNAP_NAME])
{
    snprintf(tmp, RK__SNAP_NAME, ".tmp-%012" PRId64 "-%" PRIu64, c->m->step, c->m->epoch);
}

/* What is asked for under the temporary name, durable. */
static rk_status write_into(const rk__commit *c, bool files, bool manifest, rk__fault *f)
{
    char tmp[RK__SNAP_NAME];
    tmp_name(c, tmp);
    int dir = rk__io_open(c->io, c->snap_dir, tmp, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, f);
    if (dir < 0)
        return f->st;
    rk_status st = files ? write_files(c, dir, f) : RK_OK;
    if (!st && manifest)
        st = write_manifest(c, dir, f);
    if (!st)
        st = rk__io_sync(c->io, dir, tmp, f);
    if (rk__io_close(c->io, dir, tmp, f) && !st)
        st = f->st;
    return st;
}

rk_status rk__snap_begin(const rk__commit *c, rk__fault *f)
{
    char tmp[RK__SNAP_NAME];
    tmp_name(c, tmp);
    for (int tries = 0; tries < 2; tries++) {
        if (!rk__io_make_dir(c->io, c->snap_dir, tmp, 0700))
            return RK_OK;
        if (errno != EEXIST)
            break;
        /* left by an attempt of ours that could not even clean up: the lock is ours */
        rk__io_remove_tree(c->io, c->snap_dir, tmp);
    }
    return rk__fault_errno(f, "mkdir", tmp);
}

/* Gives tmp its name. A snapshot of this step that is there already (a bad one that was passed over, or the
 * same step saved twice) is swapped out in one move, so that there is no moment without either. */
static rk_status publish(const rk__commit *c, const char *tmp, const char *name, bool *swapped, rk__fault *f)
{
    int r;
    *swapped = false;
    do
        r = rk__io_rename_new(c->io, c->snap_dir, tmp, name);
    while (r && errno == EINTR);
    if (r && errno == EEXIST) {
        *swapped = true;
        r = c->io->rename(c->io->user, c->snap_dir, tmp, c->snap_dir, name, RENAME_EXCHANGE);
    }
    return r ? rk__fault_errno(f, "rename", tmp) : RK_OK;
}

/* Takes back what publish did when the folder's fsync failed: the save will be reported as failed, and must
 * not turn up half durable. */
static void withdraw(const rk__commit *c, const char *tmp, const char *name, bool swapped)
{
    c->io->rename(c->io->user, c->snap_dir, name, c->snap_dir, tmp,
                  swapped ? RENAME_EXCHANGE : RENAME_NOREPLACE);
}

void rk__snap_drop(const rk__commit *c)
{
    char tmp[RK__SNAP_NAME];
    tmp_name(c, tmp);
    rk__io_remove_tree(c->io, c->snap_dir, tmp);
}

static rk_status write_and_publish(const rk__commit *c, bool files, rk__fault *f)
{
    char name[RK__SNAP_NAME], tmp[RK__SNAP_NAME];
    bool swapped = false;
    rk__snap_name(c->m->step, name);
    tmp_name(c, tmp);
    rk_status st = write_into(c, files, true, f);
    if (!st && c->still_ours)
        st = c->still_ours(c->user, f);
    if (!st)
        st = publish(c, tmp, name, &swapped, f);
    if (!st && (st = rk__io_sync_dir(c->io, c->snap_dir, ".", f)))
        withdraw(c, tmp, name, swapped);
    if (st || swapped)
        rk__snap_drop(c);
    return st;
}

rk_status rk__snap_commit(const rk__commit *c, rk__fault *f)
{
    RK_TRY(rk__snap_begin(c, f));
    return write_and_publish(c, true, f);
}

rk_status rk__snap_write(const rk__commit *c, rk__fault *f)
{
    return write_into(c, true, false, f);
}

rk_status rk__snap_finish(const rk__commit *c, rk__fault *f)
{
    return write_and_publish(c, false, f);
}

/* ---- reading ---- */

enum { MAX_CHECKERS = 16, MIN_CHUNKS = 16 };

static rk_status check_chunk(const rk__m_file *m, int64_t i, const unsigned char *p, size_t n,
                             const char *snap, rk__fault *f)
{
    uint64_t got = XXH3_64bits(p, n);
    if (got == m->chunk_sum[i])
        return RK_OK;
    return rk__fault_set(f, RK_EDATA,
                         "%s/%s: chunk %" PRId64 " (bytes %" PRId64 " to %" PRId64 "): expected %016" PRIx64
                         ", got %016" PRIx64,
                         snap, m->name, i, i * RK__SUM_BYTES, i * RK__SUM_BYTES + (int64_t)n - 1,
                         m->chunk_sum[i], got);
}

static rk_status read_chunk(int fd, unsigned char *p, size_t n, int64_t at, const char *name, rk__fault *f)
{
    for (size_t have = 0; have < n;) {
        ssize_t k = pread(fd, p + have, n - have, at + (int64_t)have);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return rk__fault_errno(f, "read", name);
        if (k == 0)
            return rk__fault_set(f, RK_EDATA, "%s: ends at byte %" PRId64, name, at + (int64_t)have);
        have += (size_t)k;
    }
    return RK_OK;
}

/* Chunks begin .. end - 1; all of them: the sum of the whole file too. */
static rk_status check_sums(const rk__m_file *m, int64_t begin, int64_t end, int fd, const char *snap,
                            rk__fault *f)
{
    const bool whole = begin == 0 && end == m->n_chunks;
    unsigned char *buf = malloc(RK__SUM_BYTES);
    XXH3_state_t *all = XXH3_createState();
    rk_status st =
        buf && all ? RK_OK : rk__fault_set(f, RK_ENOMEM, "%s/%s: no memory to check it", snap, m->name);
    if (!st)
        XXH3_128bits_reset(all);
    for (int64_t i = begin; i < end && !st; i++) {
        int64_t at = i * RK__SUM_BYTES, left = (int64_t)m->size - at;
        size_t n = (size_t)(left < RK__SUM_BYTES ? left : RK__SUM_BYTES);
        st = read_chunk(fd, buf, n, at, m->name, f);
        if (!st)
            st = check_chunk(m, i, buf, n, snap, f);
        if (!st && whole)
            XXH3_128bits_update(all, buf, n);
    }
    char hex[33];
    if (!st && whole) {
        put_sum(XXH3_128bits_digest(all), hex);
        if (strcmp(hex, m->sum))
            st = rk__fault_set(f, RK_EDATA, "%s/%s: expected %s, got %s", snap, m->name, m->sum, hex);
    }
    XXH3_freeState(all);
    free(buf);
    return st;
}

static rk_status open_file(int dir, const rk__m_file *m, const char *snap, int *fd, rk__fault *f)
{
    char path[2 * RK__SNAP_NAME + 2];
    struct stat s;
    snprintf(path, sizeof path, "%s/%s", snap, m->name);
    *fd = openat(dir, m->name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return rk__fault_set(f, RK_EDATA, "%s: cannot be opened: %s", path, strerrordesc_np(errno));
    if (fstat(*fd, &s) || !S_ISREG(s.st_mode))
        return rk__fault_set(f, RK_EDATA, "%s: not a plain file", path);
    if ((uint64_t)s.st_size != m->size)
        return rk__fault_set(f, RK_EDATA, "%s: expected %" PRIu64 " bytes, got %lld", path, m->size,
                             (long long)s.st_size);
    return RK_OK;
}

static int open_dir(int snap_dir, const char *name, rk__fault *f)
{
    int dir = openat(snap_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        rk__fault_set(f, errno == ENOENT ? RK_ENOINPUT : RK_EDATA, "%s: cannot be opened: %s", name,
                      strerrordesc_np(errno));
    return dir;
}

static rk_status manifest_in(rk_ctx *ctx, int dir, const char *name, rk__manifest *m, rk__fault *f)
{
    unsigned char *p;
    size_t n;
    char path[2 * RK__SNAP_NAME];
    snprintf(path, sizeof path, "%s/%s", name, RK__MANIFEST);
    rk__fault g = { 0 };
    if (rk__read_small(dir, RK__MANIFEST, RK__MANIFEST_MAX, &p, &n, &g))
        return rk__fault_set(f, g.st == RK_ENOMEM ? RK_ENOMEM : RK_EDATA, "%s: %s", name, g.msg);
    rk_status st = rk__manifest_parse(ctx, path, p, n, m, f);
    free(p);
    if (!st && m->step != rk__snap_step(name)) {
        st = rk__fault_set(f, RK_EDATA, "%s: says that it is of step %" PRId64, path, m->step);
        rk__manifest_free(m);
    }
    return st;
}

rk_status rk__snap_manifest(rk_ctx *ctx, int snap_dir, const char *name, rk__manifest *m, rk__fault *f)
{
    *m = (rk__manifest){ 0 };
    int dir = open_dir(snap_dir, name, f);
    if (dir < 0)
        return f->st;
    rk_status st = manifest_in(ctx, dir, name, m, f);
    close(dir);
    return st;
}

/* Descriptor of file i; < 0 with f set. */
static int need_fd(rk__snap *s, int i, rk__fault *f)
{
    if (s->fd[i] < 0 && open_file(s->dir, &s->m.files[i], s->name, &s->fd[i], f)) {
        if (s->fd[i] >= 0)
            close(s->fd[i]);
        s->fd[i] = -1;
    }
    return s->fd[i];
}

/* Only of a file that has been checked. */
static rk_status need_h5(rk__snap *s, int i, rk__fault *f)
{
    if (s->h5[i])
        return RK_OK;
    if (need_fd(s, i, f) < 0)
        return f->st;
    return rk__h5_open(s->fd[i], s->m.files[i].size, s->m.files[i].name, &s->h5[i], f);
}

static int64_t count_chunks(const rk__manifest *m)
{
    int64_t n = 0;
    for (int i = 0; i < m->n_files; i++)
        n += m->files[i].n_chunks;
    return n;
}

/* All chunks of all files stand in one row, which is cut evenly; alone, file after file. The files are open.
 */
static rk_status check_bytes(const rk__snap *s, int share, int shares, rk__fault *f)
{
    int64_t at = 0, all = count_chunks(&s->m);
    const int64_t begin = all * share / shares, end = all * (share + 1) / shares;
    for (int i = 0; i < s->m.n_files; i++) {
        const rk__m_file *m = &s->m.files[i];
        int64_t lo = begin > at ? begin - at : 0, hi = end - at < m->n_chunks ? end - at : m->n_chunks;
        at += m->n_chunks;
        if (lo < hi)
            RK_TRY(check_sums(m, lo, hi, s->fd[i], s->name, f));
    }
    return RK_OK;
}

typedef struct checker {
    pthread_t thread;
    const rk__snap *s;
    int share, shares;
    rk__fault f;
} checker;

static void *check_part(void *arg)
{
    checker *c = arg;
    check_bytes(c->s, c->share, c->shares, &c->f);
    return NULL;
}

/* A thread is worth its while for some megabytes; what cannot have one is checked here. */
static rk_status check_in_threads(rk__snap *s, int share, int shares, int threads, rk__fault *f)
{
    checker part[MAX_CHECKERS];
    int64_t most = count_chunks(&s->m) / shares / MIN_CHUNKS + 1;
    int n = threads < most ? threads : (int)most, started = 1;
    n = n < 1 ? 1 : n > MAX_CHECKERS ? MAX_CHECKERS : n;
    for (int i = 0; i < s->m.n_files; i++)
        if (need_fd(s, i, f) < 0)
            return f->st;
    for (int i = 0; i < n; i++)
        part[i] = (checker){ .s = s, .share = share * n + i, .shares = shares * n };
    while (started < n && !pthread_create(&part[started].thread, NULL, check_part, &part[started]))
        started++;
    for (int i = started; i < n; i++)
        check_part(&part[i]);
    check_part(&part[0]);
    for (int i = 1; i < started; i++)
        pthread_join(part[i].thread, NULL);
    for (int i = n - 1; i >= 0; i--)
        if (part[i].f.st)
            *f = part[i].f;
    return f->st;
}

/* Is every piece of every share-th file where the manifest says? */
static rk_status check_pieces(rk__snap *s, int share, int shares, rk__fault *f)
{
    for (int i = share; i < s->m.n_files; i += shares)
        RK_TRY(need_h5(s, i, f));
    for (int i = 0; i < s->m.n_tensors; i++)
        for (int k = 0; k < s->m.tensors[i].n_pieces; k++) {
            const rk__m_piece *p = &s->m.tensors[i].pieces[k];
            if (p->file % shares == share)
                RK_TRY(rk__h5_check(s->h5[p->file], p->data_set, s->m.tensors[i].dtype, &p->extent, f));
        }
    return RK_OK;
}

static rk_status open_snap(rk_ctx *ctx, int snap_dir, const char *name, rk__snap *out, rk__fault *f)
{
    *out = (rk__snap){ .dir = open_dir(snap_dir, name, f) };
    snprintf(out->name, sizeof out->name, "%s", name);
    if (out->dir < 0)
        return f->st;
    RK_TRY(manifest_in(ctx, out->dir, name, &out->m, f));
    size_t n = (size_t)out->m.n_files;
    out->fd = malloc((n + 1) * sizeof *out->fd);
    out->h5 = calloc(n + 1, sizeof *out->h5);
    if (!out->fd || !out->h5)
        return rk__fault_set(f, RK_ENOMEM, "%s: no memory for its files", name);
    for (size_t i = 0; i < n; i++)
        out->fd[i] = -1;
    return RK_OK;
}

rk_status rk__snap_open_share(rk_ctx *ctx, int snap_dir, const char *name, int share, int shares, int threads,
                              rk__snap *out, rk__fault *f)
{
    rk_status st = open_snap(ctx, snap_dir, name, out, f);
    if (!st)
        st = check_in_threads(out, share, shares, threads, f);
    if (!st)
        st = check_pieces(out, share, shares, f);
    if (st)
        rk__snap_close(out);
    return st;
}

rk_status rk__snap_open(rk_ctx *ctx, int snap_dir, const char *name, rk__snap *out, rk__fault *f)
{
    return rk__snap_open_share(ctx, snap_dir, name, 0, 1, 1, out, f);
}

void rk__snap_close(rk__snap *s)
{
    for (int i = 0; i < s->m.n_files; i++) {
        if (s->h5)
            rk__h5_close(s->h5[i]);
        if (s->fd && s->fd[i] >= 0)
            close(s->fd[i]);
    }
    if (s->dir >= 0)
        close(s->dir);
    free(s->h5);
    free(s->fd);
    rk__manifest_free(&s->m);
    *s = (rk__snap){ .dir = -1 };
}

/* What box `b` of a tensor, at `lo` there, has in common with a piece of a file, into the dense array `host`
 * of b's shape. */
static rk_status read_common(rk__snap *s, const rk__m_tensor *t, const rk__m_piece *p, const int64_t *lo,
                             const rk_shape *b, void *host, rk__fault *f)
{
    rk_shape extent = { .ndim = b->ndim };
    int64_t from[RK_MAX_DIMS], to[RK_MAX_DIMS];
    for (int i = 0; i < b->ndim; i++) {
        int64_t begin = lo[i] > p->lo[i] ? lo[i] : p->lo[i];
        int64_t end_b = lo[i] + b->dim[i], end_p = p->lo[i] + p->extent.dim[i];
        extent.dim[i] = (end_b < end_p ? end_b : end_p) - begin;
        if (extent.dim[i] <= 0)
            return RK_OK;
        from[i] = begin - p->lo[i];
        to[i] = begin - lo[i];
    }
    RK_TRY(need_h5(s, p->file, f));
    return rk__h5_read(s->h5[p->file], p->data_set, t->dtype, &p->extent, from, &extent, to, b, host, f);
}

rk_status rk__snap_read_piece(rk__snap *s, const rk__m_tensor *t, const rk_piece *piece, int64_t at,
                              int64_t n, void *host, rk__fault *f)
{
    rk__flat_box flat[RK__FLAT_BOXES];
    const int64_t from = piece->from + at;
    int boxes = rk__flat_boxes(&piece->box, from, from + n, flat);
    for (int i = 0; i < boxes; i++) {
        int64_t lo[RK_MAX_DIMS];
        char *to = (char *)host + (size_t)(flat[i].at - from) * rk_dtype_size(t->dtype);
        for (int k = 0; k < piece->box.ndim; k++)
            lo[k] = piece->lo[k] + flat[i].lo[k];
        for (int k = 0; k < t->n_pieces; k++)
            RK_TRY(read_common(s, t, &t->pieces[k], lo, &flat[i].extent, to, f));
    }
    return RK_OK;
}

rk_status rk__snap_read(rk__snap *s, const rk__m_tensor *t, void *host, rk__fault *f)
{
    rk_piece whole = rk__piece_whole(&t->shape);
    return rk__snap_read_piece(s, t, &whole, 0, whole.to, host, f);
}
