/* Snapshots of several ranks: who writes what, saving in one layout and loading in another, and what happens
 * when a rank's disk fails. Alone this program tests the plan; test_together.sh starts it as eight ranks. */
#include "ckpt_fixture.h"

#include "ckpt/plan.h"
#include "core/tape.h"
#include "parallel/comm.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <time.h>

/* ---- boxes ---- */

TEST(flat_ranges_become_boxes)
{
    const rk_shape shape = RK_SHAPE(3, 1, 4, 5);
    for (int64_t from = 0; from <= 60; from++)
        for (int64_t to = from; to <= 60; to++) {
            rk__flat_box box[RK__FLAT_BOXES];
            int n = rk__flat_boxes(&shape, from, to, box);
            int64_t at = from;
            CHECK(n <= 2 * shape.ndim - 1);
            for (int b = 0; b < n; b++) {
                int64_t first = 0, last = 0, elements = 1;
                for (int i = 0; i < 4; i++) {
                    first = first * shape.dim[i] + box[b].lo[i];
                    last = last * shape.dim[i] + box[b].lo[i] + box[b].extent.dim[i] - 1;
                    elements *= box[b].extent.dim[i];
                    CHECK(box[b].extent.dim[i] > 0 && box[b].lo[i] + box[b].extent.dim[i] <= shape.dim[i]);
                }
                CHECK_INT(box[b].at, at);
                CHECK_INT(first, at);
                CHECK_INT(box[b].n, elements);
                CHECK_INT(last - first + 1, elements); /* they stand in a row */
                at += box[b].n;
            }
            CHECK_INT(at, to);
        }
    rk__flat_box one[RK__FLAT_BOXES];
    CHECK_INT(rk__flat_boxes(&RK_SCALAR, 0, 1, one), 1);
    CHECK_INT(one[0].n, 1);
    CHECK_INT(rk__flat_boxes(&RK_SHAPE(0, 4), 0, 0, one), 0);
}

/* ---- a state in any layout ---- */

typedef enum layout {
    WHOLE,   /* every rank holds everything */
    RANGES,  /* the optimiser's state in flat ranges, cut at multiples of 4096 */
    ALL_CUT, /* everything in flat ranges; some ranks have nothing of small tensors */
    BOXES,   /* rows or columns over the odd and the even ranks */
    BOTH,    /* of each box a flat range */
    LAYOUTS
} layout;

static const struct {
    const char *name;
    rk_state_kind kind;
    rk_dtype type;
    rk_shape shape;
    int axis; /* that BOXES cuts */
} tensors[] = {
    { "bn.count", RK_STATE_BUFFER, RK_I64, { 1, { 1 } }, 0 },
    { "conv.weight", RK_STATE_PARAM, RK_F16, { 4, { 32, 6, 3, 3 } }, 0 },
    { "ema/fc.weight", RK_STATE_EMA, RK_F32, { 2, { 96, 334 } }, 1 },
    { "empty", RK_STATE_PARAM, RK_F32, { 2, { 0, 4 } }, 0 },
    { "fc.bias", RK_STATE_PARAM, RK_F32, { 1, { 96 } }, 0 },
    { "fc.weight", RK_STATE_PARAM, RK_F32, { 2, { 96, 334 } }, 1 },
    { "half", RK_STATE_PARAM, RK_BF16, { 3, { 2, 3, 4 } }, 2 },
    { "optim/fc.weight/m", RK_STATE_OPTIM, RK_F32, { 2, { 96, 334 } }, 1 },
    { "optim/fc.weight/v", RK_STATE_OPTIM, RK_F64, { 2, { 96, 334 } }, 1 },
    { "row", RK_STATE_PARAM, RK_F32, { 2, { 1, 300000 } }, 1 },
    { "scalar", RK_STATE_PARAM, RK_F64, { 0, { 0 } }, -1 },
};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static rk_piece piece_of(int k, layout how, int rank, int ranks)
{
    rk_piece p = rk__piece_whole(&tensors[k].shape);
    int parts = ranks, part = rank, axis = tensors[k].axis;
    if ((how == BOXES || how == BOTH) && axis >= 0 && ranks % 2 == 0 && p.whole.dim[axis] % 2 == 0) {
        p.box.dim[axis] /= 2;
        p.lo[axis] = rank % 2 * p.box.dim[axis];
        p.to /= 2;
        parts = ranks / 2;
        part = rank / 2;
    }
    if (how == ALL_CUT || how == BOTH || (how == RANGES && tensors[k].kind == RK_STATE_OPTIM)) {
        int64_t n = p.to, cuts = 4096;
        p.from = (n * part / parts + cuts - 1) / cuts * cuts;
        p.to = part + 1 < parts ? (n * (part + 1) / parts + cuts - 1) / cuts * cuts : n;
        p.from = p.from < n ? p.from : n;
        p.to = p.to < n ? p.to : n;
    }
    return p;
}

static unsigned char byte_of(int k, int64_t i, int version)
{
    uint64_t x =
        (uint64_t)i * 0x9e3779b97f4a7c15ull + (uint64_t)k * 0xd1b54a32d192ed03ull + (uint64_t)version;
    x ^= x >> 31;
    return (unsigned char)(x * 0xbf58476d1ce4e5b9ull >> 56);
}

/* Where element number `i` of the piece (in its own order) stands in the tensor. */
static int64_t place(const rk_piece *p, int64_t i)
{
    int64_t at = 0, stride = 1;
    i += p->from;
    for (int a = p->whole.ndim - 1; a >= 0; a--) {
        at += (p->lo[a] + i % p->box.dim[a]) * stride;
        i /= p->box.dim[a];
        stride *= p->whole.dim[a];
    }
    return at;
}

/* The bytes of this rank's piece; malloc'ed. */
static unsigned char *values(int k, const rk_piece *p, int version)
{
    const size_t size = rk_dtype_size(tensors[k].type);
    int64_t n = p->to - p->from;
    unsigned char *v = malloc((size_t)n * size + 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = place(p, i) * (int64_t)size;
        for (size_t b = 0; b < size; b++)
            v[(size_t)i * size + b] = byte_of(k, at + (int64_t)b, version);
    }
    return v;
}

typedef struct job {
    rk_ctx *ctx;
    rk_comm *world, *comm; /* comm: the ranks of a sub-job; NULL on the others */
    rk_state st;
    int64_t step;
    char dir[200], run[256];
} job;

static job j;

static void set_values(int version)
{
    for (int k = 0; k < TENSORS; k++) {
        rk_state_entry *e = rk__state_find(&j.st, tensors[k].name);
        unsigned char *v = values(k, &e->piece, version);
        size_t bytes = (size_t)(e->piece.to - e->piece.from) * rk_dtype_size(tensors[k].type);
        if (bytes)
            rk_tensor_write(e->tensor, v, bytes);
        free(v);
    }
    j.step = version;
}

static bool has_values(int version)
{
    bool same = j.step == version;
    for (int k = 0; k < TENSORS; k++) {
        rk_state_entry *e = rk__state_find(&j.st, tensors[k].name);
        size_t bytes = (size_t)(e->piece.to - e->piece.from) * rk_dtype_size(tensors[k].type);
        unsigned char *want = values(k, &e->piece, version), *got = malloc(bytes + 1);
        if (bytes)
            same &= !rk_tensor_read(e->tensor, got, bytes) && !memcmp(want, got, bytes);
        free(want);
        free(got);
    }
    return same;
}

static void list(layout how)
{
    const int rank = j.comm ? j.comm->rank : 0, ranks = j.comm ? j.comm->size : 1;
    rk__state_init(&j.st, j.ctx);
    for (int k = TENSORS - 1; k >= 0; k--) { /* the order of registration does not matter */
        rk_piece p = piece_of(k, how, rank, ranks);
        rk_tensor *t = rk_tensor_make(j.ctx, tensors[k].type, RK_SHAPE(p.to - p.from));
        rk__state_add_piece(&j.st, tensors[k].kind, tensors[k].name, t, &p);
    }
    rk__state_add_cursor(&j.st, "train/step", &j.step);
}

/* Sub-jobs of the first n ranks; the others wait at the barrier that ends every round. */
static bool join(int n)
{
    j.comm = NULL;
    j.world->table->split(j.world, j.world->rank < n ? 0 : -1, j.world->rank, &j.comm);
    return j.comm != NULL;
}

static void leave(void)
{
    rk__state_free(&j.st);
    if (j.comm)
        j.comm->table->close(j.comm);
    j.comm = NULL;
    j.world->table->barrier(j.world, "the end of a round");
}

/* ---- the plan ---- */

TEST(what_all_hold_is_shared_out_evenly)
{
    rk_open(&(rk_open_cfg){ .threads = 1, .alone = true }, &j.ctx);
    j.comm = NULL;
    list(WHOLE);
    rk__state_sort(&j.st);
    for (int ranks = 1; ranks <= 9; ranks++)
        for (int writers = 1; writers <= ranks; writers++) {
            rk__held *held = calloc((size_t)(ranks * j.st.n), sizeof *held);
            rk__plan plan = { 0 };
            int64_t bytes[9] = { 0 }, all = 0;
            for (int r = 0; r < ranks; r++)
                rk__plan_held(&j.st, held + r * j.st.n);
            CHECK_OK(j.ctx, rk__plan_make(&j.st, held, ranks, writers, &plan));
            for (int i = 0; i < plan.n; i++) {
                const rk__share *p = &plan.part[i];
                int64_t b = p->n * (int64_t)rk_dtype_size(rk_tensor_dtype(j.st.entries[p->entry].tensor));
                CHECK(p->file >= 0 && p->file < writers);
                CHECK_INT(p->n ? rk__plan_leader(&plan, p->file) : p->holder,
                          p->holder); /* nothing is sent */
                bytes[p->file] += b;
                all += b;
            }
            for (int w = 0; w < writers; w++)
                CHECK(llabs(bytes[w] - all / writers) <= 128 << 10);
            rk__plan_free(&plan);
            free(held);
        }
    rk__state_free(&j.st);
    rk_close(j.ctx);
}

TEST(pieces_that_leave_something_out_are_refused)
{
    rk_open(&(rk_open_cfg){ .threads = 1, .alone = true }, &j.ctx);
    rk__held held[2] = { { .box = { 10 }, .to = 4 }, { .box = { 10 }, .from = 5, .to = 10 } };
    rk__plan plan = { 0 };
    rk__state_init(&j.st, j.ctx);
    rk__state_add(&j.st, RK_STATE_PARAM, "w", rk_tensor_make(j.ctx, RK_F32, RK_SHAPE(10)));
    CHECK_INT(rk__plan_make(&j.st, held, 2, 2, &plan), RK_EINTERNAL);
    CHECK(strstr(rk_error(j.ctx), "9 elements of its 10"));
    rk__state_free(&j.st);
    rk_close(j.ctx);
}

/* ---- ranks ---- */

static bool start(void)
{
    int64_t made = 0;
    memset(&j, 0, sizeof j);
    if (!rk__comm_launched() || rk_open(&(rk_open_cfg){ .threads = 1 }, &j.ctx))
        return false;
    j.world = j.ctx->comm;
    if (j.world->rank == 0)
        make_folder(j.dir, sizeof j.dir);
    rk__comm_broadcast(j.world, "folder", 0, j.dir, sizeof j.dir);
    snprintf(j.run, sizeof j.run, "%s/run", j.dir);
    rk__comm_broadcast(j.world, "made", 0, &made, sizeof made);
    return true;
}

static void stop(void)
{
    j.world->table->barrier(j.world, "the end of a test");
    if (j.world->rank == 0)
        remove_folder(j.dir);
    rk_close(j.ctx);
}

static rk_status save(int version, int writers, bool compress, const rk__io_ops *io, char *why, size_t size)
{
    rk_run *run;
    rk_status st = rk__run_open(
        j.ctx,
        &(rk_run_cfg){ .dir = j.run, .comm = j.comm, .writers = writers, .compress = compress, .io = io },
        &run);
    if (st)
        return st;
    set_values(version);
    st = rk__run_save(run, &j.st, &(rk_snap_info){ .step = version });
    if (!st) {
        set_values(version + 1000); /* training goes on while it is written */
        st = rk__run_wait(run, NULL, why, size);
    }
    rk__run_close(run);
    return st;
}

/* The step of what was loaded, or minus the status. */
static int64_t load_saying(lines *said)
{
    rk_run *run;
    rk_snap_info info = { 0 };
    rk_status st =
        rk__run_open(j.ctx, &(rk_run_cfg){ .dir = j.run, .comm = j.comm, .read_only = true }, &run);
    if (st)
        return -(int64_t)st;
    st = rk__run_load(run, -1, &j.st, 0, false, &info, said ? add_line : NULL, said);
    rk__run_close(run);
    int64_t step = info.step;
    rk__snap_info_free(&info);
    return st ? -(int64_t)st : step;
}

/* The long tier tries everything; under a sanitizer, where ranks are slow, some of it. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static bool thorough(void)
{
    return getenv("RK_TEST_ALL") != NULL;
}

static int64_t load_into(void)
{
    return load_saying(NULL);
}

static int64_t load(lines *said)
{
    set_values(999);
    return load_saying(said);
}

TEST(any_layout_reads_any_snapshot)
{
    static const int sizes[] = { 1, 2, 3, 4, 8 };
    char hash[65], first[65] = "";
    if (!start())
        return;
    for (int s = 0; s < 5; s++)
        for (int how = 0; how < LAYOUTS; how++) {
            int writers = (s + how) % 3, files = 0;
            snprintf(j.run, sizeof j.run, "%s/run-%d-%d", j.dir, sizes[s], how);
            if (sizes[s] > j.world->size || (!thorough() && (how + 2 * s) % LAYOUTS > !SANITIZED))
                continue;
            if (join(sizes[s])) {
                list((layout)how);
                CHECK_OK(j.ctx, save(7, writers, how == RANGES, NULL, NULL, 0));
            }
            leave();
            if (j.world->rank == 0) { /* the files know nothing of ranks */
                rk_ctx *own;
                rk_snapshot_info info;
                rk_open(&(rk_open_cfg){ .threads = 1, .alone = true }, &own);
                CHECK_OK(own, rk_snapshot_hash(own, j.run, 7, hash));
                CHECK_OK(own, rk_snapshot_describe(own, j.run, 7, &info));
                CHECK_STR(hash, first[0] ? first : hash);
                memcpy(first, hash, sizeof first);
                rk_close(own);
                for (int r = 0; r < 8; r++) {
                    char path[400], name[32];
                    snprintf(name, sizeof name, "r%04d.h5", r);
                    snprintf(path, sizeof path, "%s/snap/step-000000000007/%s", j.run, name);
                    files += !access(path, F_OK);
                }
                CHECK(sizes[s] == 1 || files == (writers && writers < sizes[s] ? writers : sizes[s]));
            }
            for (int l = 0; l < 5; l++) {
                if (join(sizes[l])) {
                    list((layout)((how + l) % LAYOUTS));
                    CHECK_INT(load(NULL), 7);
                    CHECK(has_values(7));
                }
                leave();
            }
        }
    stop();
}

/* ---- a disk that fails on one rank ---- */

typedef enum trouble { FINE, FULL, ONCE, SLOW, DEATH } trouble;

static struct {
    trouble what;
    int at, calls; /* which call goes wrong first */
} disk;

static bool goes_wrong(void)
{
    int n = ++disk.calls;
    if (disk.what == SLOW && n >= disk.at)
        nanosleep(&(struct timespec){ .tv_nsec = 60000000 }, NULL);
    if (disk.what == DEATH && n == disk.at)
        raise(SIGKILL);
    errno = disk.what == FULL ? ENOSPC : EIO;
    return disk.what == FULL ? n >= disk.at : disk.what == ONCE && n == disk.at;
}

static int bad_open(void *u, int dir, const char *name, int flags, mode_t mode)
{
    return (flags & O_CREAT) && goes_wrong() ? -1 : rk__io_system.open_at(u, dir, name, flags, mode);
}

static ssize_t bad_write(void *u, int fd, const void *p, size_t n)
{
    return goes_wrong() ? -1 : rk__io_system.write(u, fd, p, n);
}

static int bad_sync(void *u, int fd)
{
    return goes_wrong() ? -1 : rk__io_system.sync(u, fd);
}

static int bad_close(void *u, int fd)
{
    bool wrong = goes_wrong();
    int r = rk__io_system.close(u, fd);
    return wrong ? -1 : r;
}

static int bad_rename(void *u, int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    return goes_wrong() ? -1 : rk__io_system.rename(u, from_dir, from, to_dir, to, flags);
}

static rk__io_ops failing(void)
{
    rk__io_ops io = rk__io_system;
    io.open_at = bad_open;
    io.write = bad_write;
    io.sync = bad_sync;
    io.close = bad_close;
    io.rename = bad_rename;
    return io;
}

/* Saves step 2 while the disk of one rank of four is in trouble. The same outcome on all, the message names
 * the rank, and what stands afterwards is whole: step 2 if it was saved, step 1 otherwise. */
static void one_rank_in_trouble(int victim, trouble what, int at, bool *saved, int *calls)
{
    const rk__io_ops io = failing();
    char why[600] = "", prefix[32];
    rk_run *run;
    int64_t told[4], mine;
    snprintf(j.run, sizeof j.run, "%s/run-%d-%d-%d", j.dir, victim, what, at);
    list(RANGES);
    CHECK_OK(j.ctx, save(1, 0, false, NULL, NULL, 0));
    disk.what = FINE;
    CHECK_OK(j.ctx, rk__run_open(j.ctx, &(rk_run_cfg){ .dir = j.run, .comm = j.comm, .io = &io }, &run));
    set_values(2);
    disk.what = j.comm->rank == victim ? what : FINE;
    disk.at = at;
    disk.calls = 0;
    rk_status st = rk__run_save(run, &j.st, &(rk_snap_info){ .step = 2 });
    set_values(1002);
    if (!st)
        st = rk__run_wait(run, NULL, why, sizeof why);
    else
        rk__run_wait(run, NULL, why, sizeof why);
    *calls = disk.calls;
    disk.what = FINE;
    mine = st;
    CHECK_OK(j.ctx, rk__comm_all_values(j.comm, "outcome", &mine, sizeof mine, told));
    for (int r = 0; r < 4; r++)
        CHECK_INT(told[r], told[0]);
    *saved = st == RK_OK;
    snprintf(prefix, sizeof prefix, "rank %d: ", victim);
    if (st) {
        CHECK_INT(st, RK_EIO);
        CHECK(!strncmp(why, prefix, strlen(prefix)));
        int64_t left = load(NULL); /* 2: named already, but the name could neither be synced nor taken back */
        CHECK(left == 1 || (left == 2 && victim == 0 && what == FULL));
        CHECK(has_values((int)left));
        set_values(3); /* a mended disk takes the next one */
        CHECK_INT(rk__run_save(run, &j.st, &(rk_snap_info){ .step = 3 }), RK_OK);
        CHECK_INT(rk__run_wait(run, NULL, why, sizeof why), RK_OK);
        CHECK_INT(load(NULL), 3);
        CHECK(has_values(3));
    } else {
        CHECK_INT(load(NULL), 2);
        CHECK(has_values(2));
    }
    rk__run_close(run);
    j.comm->table->barrier(j.comm, "read");
    if (j.comm->rank == 0)
        remove_folder(j.run);
}

/* Every call of a save of each rank, until there are none left. */
static void sweep(trouble what)
{
    for (int victim = SANITIZED ? 2 : 0; victim < 4; victim += thorough() ? 1 : 2) {
        int n = 0, failures = 0;
        for (int at = 1;; at++) {
            bool saved = false, in = join(4);
            int64_t calls = 0;
            int seen = 0;
            if (in) {
                one_rank_in_trouble(victim, what, at, &saved, &seen);
                calls = seen;
            }
            leave();
            if (rk_test_failures)
                return;
            rk__comm_broadcast(j.world, "calls", victim, &calls, sizeof calls);
            failures += in && !saved;
            n++;
            if (calls < at)
                break;
        }
        CHECK(n > 6);
        CHECK(j.world->rank >= 4 || (what == ONCE ? !failures : failures >= n - 3));
    }
}

TEST(a_disk_that_fails_on_one_rank)
{
    if (!start())
        return;
    sweep(FULL);
    sweep(ONCE);
    stop();
}

TEST(a_slow_disk_on_one_rank)
{
    bool saved = false;
    int calls;
    if (!start())
        return;
    for (int victim = 0; victim < 4; victim += thorough() ? 1 : 3) {
        if (join(4)) {
            one_rank_in_trouble(victim, SLOW, 1, &saved, &calls);
            CHECK(saved);
        }
        leave();
    }
    stop();
}

/* Polling never waits for the disk, and all ranks hear of the end at the same poll. */
TEST(training_goes_on_beside_a_slow_disk)
{
    const rk__io_ops io = failing();
    rk_run *run;
    rk_status st = RK_OK;
    int64_t step = 0, polls = 0, all[4];
    if (!start())
        return;
    if (join(4)) {
        list(WHOLE);
        CHECK_OK(j.ctx, rk__run_open(j.ctx, &(rk_run_cfg){ .dir = j.run, .comm = j.comm, .io = &io }, &run));
        set_values(1);
        disk.what = j.comm->rank == 2 ? SLOW : FINE;
        disk.at = 1;
        disk.calls = 0;
        CHECK_OK(j.ctx, rk__run_save(run, &j.st, &(rk_snap_info){ .step = 1 }));
        while (!rk__run_poll(run, &st, &step, NULL, 0) && !rk_failed(j.ctx)) {
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
            polls++;
        }
        CHECK_INT(st, RK_OK);
        CHECK_INT(step, 1);
        CHECK(polls > 3);
        CHECK_OK(j.ctx, rk__comm_all_values(j.comm, "polls", &polls, sizeof polls, all));
        for (int r = 0; r < 4; r++)
            CHECK_INT(all[r], all[0]);
        rk__run_close(run);
    }
    leave();
    stop();
}

TEST(a_limit_on_the_size_of_files_on_one_rank)
{
    char why[600] = "";
    if (!start())
        return;
    if (join(4)) {
        struct rlimit was, less = { 65536, RLIM_INFINITY };
        list(WHOLE);
        CHECK_OK(j.ctx, save(1, 0, false, NULL, NULL, 0));
        getrlimit(RLIMIT_FSIZE, &was);
        less.rlim_max = was.rlim_max;
        signal(SIGXFSZ, SIG_IGN);
        if (j.comm->rank == 3)
            setrlimit(RLIMIT_FSIZE, &less);
        CHECK_INT(save(2, 0, false, NULL, why, sizeof why), RK_EIO);
        setrlimit(RLIMIT_FSIZE, &was);
        CHECK_STR(why, "rank 3: write r0003.h5: File too large");
        CHECK_INT(load(NULL), 1);
        CHECK(has_values(1));
    }
    leave();
    stop();
}

/* ---- memory ---- */

/* Bytes that this process has held at most since the last call of it. */
static int64_t peak(void)
{
    char line[128];
    long long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    f = fopen("/proc/self/clear_refs", "w");
    if (f) {
        fputs("5", f);
        fclose(f);
    }
    return (int64_t)kib * 1024;
}

/* One tensor (256, n / 256), f32, of which this rank holds a flat range or a block of columns. */
static rk_piece big_piece(int64_t n, bool columns)
{
    rk_piece p = rk__piece_whole(&RK_SHAPE(256, n / 256));
    const int ranks = j.comm->size, rank = j.comm->rank;
    if (!columns) {
        p.from = n * rank / ranks;
        p.to = n * (rank + 1) / ranks;
        return p;
    }
    p.box.dim[1] = p.whole.dim[1] / ranks;
    p.lo[1] = rank * p.box.dim[1];
    p.to = 256 * p.box.dim[1];
    return p;
}

enum { SLICE = 1 << 16 };

static float big_value(const rk_piece *p, int64_t i)
{
    return (float)(uint32_t)(place(p, i) * 2654435761u >> 9);
}

static void big_fill(rk_tensor *t, const rk_piece *p, float *slice)
{
    for (int64_t at = 0; at < p->to - p->from; at += SLICE) {
        int64_t n = p->to - p->from - at < SLICE ? p->to - p->from - at : SLICE;
        for (int64_t i = 0; i < n; i++)
            slice[i] = big_value(p, at + i);
        rk__tensor_write_range(t, at, n, slice);
    }
}

static bool big_right(const rk_tensor *t, const rk_piece *p, float *slice)
{
    for (int64_t at = 0; at < p->to - p->from; at += SLICE) {
        int64_t n = p->to - p->from - at < SLICE ? p->to - p->from - at : SLICE;
        rk__tensor_read_range(t, at, n, slice);
        for (int64_t i = 0; i < n; i++)
            if (slice[i] != big_value(p, at + i))
                return false;
    }
    return true;
}

static bool big_state(int64_t n, bool columns, rk_piece *p, rk_tensor **t)
{
    *p = big_piece(n, columns);
    rk__state_init(&j.st, j.ctx);
    *t = rk_tensor_make(j.ctx, RK_F32, RK_SHAPE(p->to - p->from));
    rk__state_add_piece(&j.st, RK_STATE_PARAM, "w", *t, p);
    rk__state_add_cursor(&j.st, "train/step", &j.step);
    return !rk_failed(j.ctx);
}

/* Saving takes one copy of the rank's share, loading a slice, whatever all of it is. */
TEST(memory_is_bounded_by_the_share)
{
    const int64_t bytes = getenv("RK_TEST_MB") ? strtoll(getenv("RK_TEST_MB"), NULL, 10) << 20 : 128 << 20;
    const int64_t n = bytes / 4, share = bytes / 4, slack = 24 << 20;
    static float slice[SLICE];
    rk_run *run;
    rk_piece p;
    rk_tensor *t;
    if (!start())
        return;
    if (join(4)) {
        CHECK(big_state(n, false, &p, &t));
        big_fill(t, &p, slice);
        peak();
        int64_t before = peak();
        double begin = rk__seconds();
        CHECK_OK(j.ctx, rk__run_open(j.ctx, &(rk_run_cfg){ .dir = j.run, .comm = j.comm }, &run));
        CHECK_OK(j.ctx, rk__run_save(run, &j.st, &(rk_snap_info){ .step = 5 }));
        CHECK_OK(j.ctx, rk__run_wait(run, NULL, NULL, 0));
        int64_t saving = peak() - before;
        double saved = rk__seconds();
        rk__run_close(run);
        rk__state_free(&j.st);
        CHECK(big_state(n, true, &p, &t));
        big_fill(t, &(rk_piece){ .whole = p.whole, .box = p.box, .to = p.to }, slice);
        peak();
        before = peak();
        double loading_from = rk__seconds();
        CHECK_INT(load_into(), 5);
        int64_t loading = peak() - before;
        double loaded = rk__seconds();
        CHECK(big_right(t, &p, slice));
        if (j.comm->rank == 0 && getenv("RK_TEST_MB"))
            printf("%lld MiB on 4 ranks: saved in %.1f s with %lld MiB more a rank, loaded in %.1f s with "
                   "%lld MiB\n",
                   (long long)bytes >> 20, saved - begin, (long long)saving >> 20, loaded - loading_from,
                   (long long)loading >> 20);
        CHECK(saving <= share + slack);
        CHECK(loading <= slack);
    }
    leave();
    stop();
}

/* ---- damage ---- */

TEST(a_damaged_file_is_found_by_whoever_checks_it)
{
    if (!start())
        return;
    for (int file = thorough() ? 0 : 2; file < 4; file++) {
        lines said = { .n = 0 };
        snprintf(j.run, sizeof j.run, "%s/run-%d", j.dir, file);
        if (join(4)) {
            list(ALL_CUT);
            CHECK_OK(j.ctx, save(1, 0, false, NULL, NULL, 0));
            CHECK_OK(j.ctx, save(2, 0, false, NULL, NULL, 0));
            if (j.comm->rank == 0) {
                char path[400];
                snprintf(path, sizeof path, "%s/snap/step-000000000002/r%04d.h5", j.run, file);
                size_t n;
                unsigned char *p = read_all(path, &n);
                CHECK(p);
                p[n / 2] ^= 4;
                write_all(path, p, n);
                free(p);
            }
            j.comm->table->barrier(j.comm, "damaged");
            CHECK_INT(load(&said), 1);
            CHECK(has_values(1));
            CHECK_INT(said.n, 1);
            char want[64];
            snprintf(want, sizeof want, "snapshot step-000000000002/r%04d.h5: chunk ", file);
            CHECK(!strncmp(said.text, want, strlen(want)));
        }
        leave();
    }
    stop();
}

/* ---- killed ---- */

/* RK_RUN: a folder that outlives the ranks. RK_KILL="RANK CALL": saves step 1, then one rank dies at that
 * call of the next save, and the others with it. */
TEST(kill)
{
    const rk__io_ops io = failing();
    int victim = 0, at = 0;
    if (!getenv("RK_KILL") || !getenv("RK_RUN") || !start())
        return;
    CHECK(sscanf(getenv("RK_KILL"), "%d %d", &victim, &at) == 2);
    snprintf(j.run, sizeof j.run, "%s", getenv("RK_RUN"));
    join(j.world->size);
    list(RANGES);
    CHECK_OK(j.ctx, save(1, 0, false, NULL, NULL, 0));
    disk.what = j.world->rank == victim ? DEATH : FINE;
    disk.at = at;
    CHECK_OK(j.ctx, save(2, 0, false, &io, NULL, 0));
    leave();
    stop();
}

/* What stands there is whole, in any layout; and saving goes on. */
TEST(look)
{
    if (!getenv("RK_RUN") || getenv("RK_KILL") || !start())
        return;
    snprintf(j.run, sizeof j.run, "%s", getenv("RK_RUN"));
    join(j.world->size);
    list(ALL_CUT);
    int64_t step = load(NULL);
    CHECK(step == 1 || step == 2);
    CHECK(has_values((int)step));
    CHECK_OK(j.ctx, save(3, 0, false, NULL, NULL, 0));
    CHECK_INT(load(NULL), 3);
    CHECK(has_values(3));
    if (j.world->rank == 0)
        printf("found step %lld\n", (long long)step);
    leave();
    stop();
}

TEST_MAIN
