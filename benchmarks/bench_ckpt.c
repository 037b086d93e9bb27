/* Snapshots: what training waits for, against one memory copy of the state; and the time until a snapshot is
 * durable, against a plain write and fsync of as many bytes on the same disk. In turn, wall clock, medians.
 *
 * bench_ckpt [--section 64MB|1GB] [--seconds S]; the folder is BENCH_DIR or the one it runs in. wrong: 0, or
 * the saves that failed and the final state that did not load back. */
#include "bench.h"

#include "ckpt/snapshot.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { TENSORS = 24, LEAST = 5, MOST = 200 };

typedef struct job {
    rk_ctx *ctx;
    rk_state st;
    rk_run *run;
    unsigned char *copy; /* a warm buffer of the state's size */
    size_t bytes;
    char dir[512], plain[600];
    int64_t step, wrong;
    double copied[MOST], stall[MOST], saved[MOST], wrote[MOST];
} job;

static void make_state(job *j, size_t bytes)
{
    rk__state_init(&j->st, j->ctx);
    int64_t n = (int64_t)(bytes / TENSORS / 4);
    j->bytes = (size_t)n * 4 * TENSORS;
    j->copy = malloc(j->bytes);
    for (size_t i = 0; i < j->bytes; i++)
        j->copy[i] = (unsigned char)(i * 2654435761u >> 13);
    for (int i = 0; i < TENSORS; i++) {
        char name[64];
        static const char *const kind[] = { "layer%d.weight", "optim/layer%d.weight/m",
                                            "optim/layer%d.weight/v" };
        snprintf(name, sizeof name, kind[i % 3], i / 3);
        rk_tensor *t = rk_tensor_make(j->ctx, RK_F32, RK_SHAPE(n));
        if (t && !rk_failed(j->ctx)) {
            rk_tensor_write(t, j->copy + (size_t)n * 4 * (size_t)i, (size_t)n * 4);
            rk__state_add(&j->st, i % 3 ? RK_STATE_OPTIM : RK_STATE_PARAM, name, t);
        }
    }
}

static void copy_state(job *j, int i)
{
    double t = bench_now(true);
    for (int k = 0, at = 0; k < j->st.n; k++, at++) {
        size_t n = j->bytes / TENSORS;
        rk_tensor_read(j->st.entries[k].tensor, j->copy + n * (size_t)at, n);
    }
    j->copied[i] = bench_now(true) - t;
}

static void save_state(job *j, int i)
{
    size_t bytes;
    double seconds, stall;
    j->wrong += rk__run_save(j->run, &j->st, &(rk_snap_info){ .step = j->step++ }) != RK_OK;
    j->wrong += rk__run_wait(j->run, NULL, NULL, 0) != RK_OK;
    rk__run_save_cost(j->run, &bytes, &seconds, &stall);
    j->stall[i] = stall;
    j->saved[i] = seconds;
}

static void write_plain(job *j, int i)
{
    double t = bench_now(true);
    int fd = open(j->plain, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (size_t at = 0; at < j->bytes;) {
        size_t n = j->bytes - at < 1u << 20 ? j->bytes - at : 1u << 20;
        ssize_t k = write(fd, j->copy + at, n);
        if (k <= 0) {
            j->wrong++;
            break;
        }
        at += (size_t)k;
    }
    j->wrong += fsync(fd) != 0;
    j->wrong += close(fd) != 0;
    j->wrote[i] = bench_now(true) - t;
    unlink(j->plain);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, bench_compare);
    return v[n / 2];
}

/* The last snapshot is the state that is still in memory. */
static int64_t check_loads(job *j)
{
    char before[65], after[65];
    rk__state_sha256(&j->st, RK_STATE_HASHED, before);
    for (int i = 0; i < j->st.n; i++)
        rk_tensor_write(j->st.entries[i].tensor, j->copy + i, j->bytes / TENSORS);
    if (rk__run_load(j->run, -1, &j->st, 0, false, NULL, NULL, NULL))
        return 1;
    rk__state_sha256(&j->st, RK_STATE_HASHED, after);
    return strcmp(before, after) != 0;
}

static void measure(const bench_options *o, const char *name, size_t bytes, bool compress)
{
    job *j = calloc(1, sizeof *j);
    const char *base = getenv("BENCH_DIR");
    snprintf(j->dir, sizeof j->dir, "%s/bench-ckpt-%ld", base ? base : ".", (long)getpid());
    snprintf(j->plain, sizeof j->plain, "%s/plain", j->dir);
    j->step = 1;
    rk_open(&(rk_open_cfg){ .threads = 1 }, &j->ctx);
    make_state(j, bytes);
    if (rk__run_open(j->ctx, &(rk_run_cfg){ .dir = j->dir, .compress = compress }, &j->run)) {
        printf("%s\n", rk_error(j->ctx));
        exit(1);
    }
    save_state(j, 0);
    double first = j->stall[0];
    int n = 0;
    for (double end = bench_now(true) + o->seconds; n < MOST && (n < LEAST || bench_now(true) < end); n++) {
        copy_state(j, n);
        if (n % 2)
            write_plain(j, n);
        save_state(j, n);
        if (n % 2 == 0)
            write_plain(j, n);
    }
    j->wrong += check_loads(j);
    double copied = median(j->copied, n), stall = median(j->stall, n), saved = median(j->saved, n);
    double wrote = median(j->wrote, n);
    printf("%-16s stall %7.1f ms (first %7.1f), one copy %7.1f ms, ratio %.2f | durable in %7.1f ms [%.1f to "
           "%.1f], "
           "plain write+fsync %7.1f ms [%.1f to %.1f], speed ratio %.2f | runs %d wrong %lld\n",
           name, 1e3 * stall, 1e3 * first, 1e3 * copied, stall / copied, 1e3 * saved, 1e3 * j->saved[0],
           1e3 * j->saved[n - 1], 1e3 * wrote, 1e3 * j->wrote[0], 1e3 * j->wrote[n - 1], wrote / saved, n,
           (long long)j->wrong);
    rk__run_clear(j->run);
    rk__run_close(j->run);
    rk__state_free(&j->st);
    rk_close(j->ctx);
    char path[600];
    static const char *const left[] = { "LOCK", "snap", "" };
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", j->dir, left[i]);
        remove(path);
    }
    free(j->copy);
    free(j);
}

int main(int argc, char **argv)
{
    bench_options o = bench_options_read(argc, argv);
    if (bench_wants(&o, "64MB")) {
        measure(&o, "64 MB", (size_t)64 << 20, false);
        measure(&o, "64 MB, zstd", (size_t)64 << 20, true);
    }
    if (bench_wants(&o, "1GB"))
        measure(&o, "1 GB", (size_t)1 << 30, false);
    return 0;
}
